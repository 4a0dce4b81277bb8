//! What a router has been told, as native rules.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::balancers::{Access, Listener};
use super::nics::{Category, Nic};
use super::state::{Origin, State};
use super::{eips, filters, steering, vip_limits};
use crate::flow::Mac;
use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::set::{
    AclDirection, AclEntry, Action, Cidr, FirewallRule, Limits, LoadBalancer, Match, NatOptions,
    Network, NetworkAcl, PortForward, PortRange, Prefixes, PublicIp, Route, RuleSet, StaticNat,
};
use crate::rules::sources::Pending;

/// The realm of all private networks: they route to each other.
pub const DOMAIN: &str = "router";

/// What a state came to.
#[derive(Debug, Default)]
pub struct Translated {
    /// The rules.
    pub set: RuleSet,
    /// Rules that wait for something.
    pub pending: Vec<Pending>,
    /// What is odd about it.
    pub faults: Vec<Diagnostic>,
}

/// The native rules that `state` says.
#[must_use]
pub fn translate(state: &State) -> Translated {
    let mut translated = Translated::default();
    let mut builder = Builder { state, out: &mut translated, addresses: BTreeMap::new() };
    builder.addresses();
    builder.networks();
    builder.static_nats();
    builder.forwards();
    builder.balancers();
    builder.routes();
    builder.policy_routes();
    builder.flat_eips();
    filters::add(state, &mut translated);
    translated
}

struct Builder<'a> {
    state: &'a State,
    out: &'a mut Translated,
    /// Public addresses that there are.
    addresses: BTreeMap<Ipv4Addr, PublicIp>,
}

impl Builder<'_> {
    /// The public NICs' own addresses and the VIPs on them. The management NIC's are there only if VIPs or source
    /// NAT use it: else it is none of ours.
    fn addresses(&mut self) {
        let mut default = self.state.nics.values().filter(|nic| nic.is_default_route);
        let ours_by_default = default.next().map(|nic| nic.interface.clone());
        let used = |mac: &Mac| {
            self.state.vips.values().any(|vip| vip.mac == *mac)
                || self.state.snats.keys().any(|(_, public)| public == mac)
        };
        let nics = self.state.nics.iter();
        let ours = nics.filter(|(mac, nic)| match nic.category {
            Category::Management => used(mac),
            Category::Private => false,
            Category::Public => true,
        });
        for (_, nic) in ours {
            if let Some((address, length)) = nic.address {
                let gateway = nic.gateway;
                let ip = public_ip(nic, address, length, gateway, nic.origin.place.clone());
                self.addresses.insert(address, ip);
            }
        }
        for (&address, vip) in &self.state.vips {
            let Some(nic) = self.state.nics.get(&vip.mac) else {
                self.wait(format!("VIP {address}"), &vip.origin.place, nic_of(vip.mac));
                continue;
            };
            let gateway = vip.gateway.or(nic.gateway);
            let ip = public_ip(nic, address, vip.length, gateway, vip.origin.place.clone());
            self.addresses.insert(address, ip);
        }
        // The default route's first: where nothing else decides, the first address of a guest and the first gateway count.
        let is_default = |ip: &PublicIp| ours_by_default.as_deref() == Some(ip.interface.as_str());
        let (first, others): (Vec<_>, Vec<_>) =
            self.addresses.values().cloned().partition(is_default);
        self.out.set.public_ips = [first, others].concat();
    }

    fn networks(&mut self) {
        let private = self.state.nics.iter().filter(|(_, nic)| nic.category == Category::Private);
        for (&mac, nic) in by_arrival(private, |nic| &nic.origin) {
            let (Some(cidr), Some((gateway, _))) = (nic.segment(), nic.address) else { continue };
            let place = &nic.origin.place;
            let source_nat = self.pool(mac, nic);
            let is_routed = source_nat.is_empty() && self.is_switched_off(mac);
            let exempt = if is_routed { vec![Cidr::ANY] } else { Vec::new() };
            self.out.set.networks.push(Network {
                name: nic.interface.clone(),
                interface: nic.interface.clone(),
                vlan: 0,
                outer_tag: None,
                vxlan: None,
                cidr,
                gateway,
                mtu: nic.mtu.map(|mtu| mtu.min(MTU_MAX)),
                domain: Some(DOMAIN.to_owned()),
                source_nat,
                egress_default: Action::Allow,
                egress_reject: false,
                nat: NatOptions { exempt, ..NatOptions::default() },
                limits: Limits::default(),
                ipv6: None,
                mss_clamp: None,
                anti_spoofing: true,
                place: place.clone(),
            });
            if is_routed {
                let acls = [AclDirection::Egress, AclDirection::Ingress];
                let open = acls.map(|direction| open_acl(&nic.interface, direction, place));
                self.out.set.network_acls.extend(open);
            }
        }
    }

    /// Whether source NAT of a network was switched off, rather than never asked for: it is routed then.
    fn is_switched_off(&self, private: Mac) -> bool {
        let mut snats = self.state.snats.iter().filter(|((mac, _), _)| *mac == private);
        snats.any(|(_, snat)| !snat.is_on)
    }

    /// The address that the guests behind a NIC leave with: towards the default route's NIC, if there is one.
    fn pool(&mut self, private: Mac, nic: &Nic) -> Vec<Ipv4Addr> {
        let state = self.state;
        let is_default = |mac: &Mac| state.nics.get(mac).is_some_and(|nic| nic.is_default_route);
        let mut snats: Vec<_> = state
            .snats
            .iter()
            .filter(|((mac, _), snat)| *mac == private && snat.is_on)
            .map(|((_, public), snat)| (!is_default(public), snat))
            .collect();
        snats.sort_by_key(|(is_other, _)| *is_other);
        let mut pool = Vec::new();
        for (_, snat) in snats {
            let place = &snat.origin.place;
            if !self.addresses.contains_key(&snat.public) {
                let what = format!("source NAT of {}", nic.interface);
                self.wait(what, place, address_of(snat.public));
            } else if pool.is_empty() {
                pool.push(snat.public);
            } else {
                self.out.faults.push(Diagnostic {
                    severity: Severity::Warning,
                    place: place.clone(),
                    what: format!(
                        "guests of {} leave with {} only, not with {} as well",
                        nic.interface,
                        pool.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED),
                        snat.public
                    ),
                    hint: "by other public NICs than the default route's go routes and policy routes only"
                        .to_owned(),
                });
            }
        }
        pool
    }

    fn static_nats(&mut self) {
        for (&vip, eip) in by_arrival(self.state.eips.iter(), |eip| &eip.origin) {
            let what = || format!("elastic address {vip}");
            if let Some(network) = self.needs(vip, eip.private_mac, &eip.origin.place, what) {
                self.out.set.static_nats.push(StaticNat {
                    id: format!("eip-{vip}"),
                    public_ip: vip,
                    network,
                    guest_ip: Some(eip.guest),
                    place: eip.origin.place.clone(),
                });
            }
        }
    }

    fn forwards(&mut self) {
        for (uuid, forward) in self.state.forwards.iter() {
            let place = &forward.origin.place;
            let what = || {
                format!(
                    "port forward of {} {} {}",
                    forward.vip, forward.protocol, forward.public_ports
                )
            };
            if let Some(network) = self.needs(forward.vip, forward.private_mac, place, what) {
                self.out.set.port_forwards.push(PortForward {
                    id: uuid.clone(),
                    public_ip: forward.vip,
                    protocol: forward.protocol,
                    public_ports: forward.public_ports,
                    network,
                    guest_ip: Some(forward.guest),
                    guest_ports: forward.guest_ports,
                    sources: forward.allowed.into_iter().collect(),
                    place: place.clone(),
                });
            }
        }
    }

    fn balancers(&mut self) {
        for (uuid, listener) in &self.state.listeners {
            let place = &listener.origin.place;
            // Without members nothing is balanced, and there is no network to name.
            let Some(private_mac) = listener.private_mac else { continue };
            let what =
                || format!("listener on {} {} {}", listener.vip, listener.protocol, listener.port);
            let Some(network) = self.needs(listener.vip, private_mac, place, what) else {
                continue;
            };
            if self.is_governed(&network, listener) {
                continue;
            }
            let mut members = listener.members.clone();
            let sources = match &listener.access {
                Access::AllBut(prefixes) => {
                    self.deny(
                        uuid,
                        listener.vip,
                        (listener.protocol, listener.port),
                        prefixes,
                        place,
                    );
                    Vec::new()
                }
                Access::Only(prefixes) => {
                    // A list that lets nobody in is not one that lets everybody in.
                    if prefixes.is_empty() {
                        members.clear();
                    }
                    prefixes.clone()
                }
            };
            self.out.set.load_balancers.push(LoadBalancer {
                id: uuid.clone(),
                public_ip: listener.vip,
                protocol: listener.protocol,
                public_port: listener.port,
                network,
                algorithm: listener.algorithm,
                members,
                health_check: listener.health_check,
                sources,
                place: place.clone(),
            });
        }
    }

    /// Whether a listener keeps out sources in a way that its network does not ask for: a routed network asks its ACL.
    fn is_governed(&mut self, network: &str, listener: &Listener) -> bool {
        let mut acls = self.out.set.network_acls.iter();
        let is_governed = acls.any(|acl| acl.network == network)
            && matches!(&listener.access, Access::AllBut(prefixes) if !prefixes.is_empty());
        if is_governed {
            self.out.faults.push(Diagnostic {
                severity: Severity::Error,
                place: listener.origin.place.clone(),
                what: format!(
                    "a listener into {network}, which has no source NAT, cannot keep out sources"
                ),
                hint: "send who may come instead (aclType white)".to_owned(),
            });
        }
        is_governed
    }

    /// Keeps `sources` from a port of a VIP.
    fn deny(
        &mut self,
        uuid: &str,
        vip: Ipv4Addr,
        (protocol, port): (crate::flow::Protocol, std::num::NonZeroU16),
        sources: &[Cidr],
        place: &Place,
    ) {
        let ports = PortRange::new(port.get(), port.get()).ok();
        if !sources.is_empty() {
            self.out.set.firewall_rules.push(FirewallRule {
                id: format!("not-{uuid}"),
                public_ip: vip,
                action: Action::Deny,
                matches: Match {
                    protocol: Some(protocol),
                    ports,
                    icmp_type: None,
                    icmp_code: None,
                },
                sources: sources.to_vec(),
                place: place.clone(),
            });
        }
    }

    fn routes(&mut self) {
        let inside = self.state.routes.iter().filter(|(_, route)| route.is_inside(self.state));
        for (&destination, route) in inside {
            let Some(via) = route.via else { continue };
            let place = route.origin.place.clone();
            let domain = DOMAIN.to_owned();
            self.out.set.routes.push(Route { domain, destination, via, place });
        }
    }

    /// What goes by more than its destination, or beyond the public side.
    fn policy_routes(&mut self) {
        self.out.set.address_limits =
            vip_limits::limits(self.state, &self.addresses, &mut self.out.pending);
        let steered = steering::steer(self.state, &self.addresses);
        self.out.set.policy_routes = steered.routes;
        self.out.pending.extend(steered.pending);
        self.out.faults.extend(steered.faults);
    }

    /// Flat networks: what the host's namespaces do today, one realm for each bridge.
    fn flat_eips(&mut self) {
        let mut bridges: BTreeMap<(&str, Cidr), String> = BTreeMap::new();
        for (&vip, eip) in by_arrival(self.state.flat_eips.iter(), |eip| &eip.origin) {
            let place = &eip.origin.place;
            let (segment, gateway) = eip.segment;
            self.out.set.public_ips.push(PublicIp {
                address: vip,
                prefix_len: segment.length(),
                interface: eip.public_bridge.clone(),
                vlan: 0,
                gateway: gateway.filter(|gateway| *gateway != vip),
                ingress_default: Action::Allow,
                firewall_before_acl: false,
                echo_reply: None,
                place: place.clone(),
            });
            let (cidr, gateway) = eip.network;
            let name = bridges.entry((&eip.bridge, cidr)).or_insert_with(|| {
                let name = eip.bridge.clone();
                self.out.set.networks.push(eips::flat_network(&name, cidr, gateway, place));
                name
            });
            self.out.set.static_nats.push(StaticNat {
                id: format!("eip-{vip}"),
                public_ip: vip,
                network: name.clone(),
                guest_ip: Some(eip.guest),
                place: place.clone(),
            });
        }
    }

    /// The network behind a private NIC, if that and the VIP are there; else the rule waits.
    fn needs(
        &mut self,
        vip: Ipv4Addr,
        private: Mac,
        place: &Place,
        what: impl Fn() -> String,
    ) -> Option<String> {
        if !self.addresses.contains_key(&vip) {
            self.wait(what(), place, address_of(vip));
            return None;
        }
        let nic = self.state.nics.get(&private).filter(|nic| nic.address.is_some());
        if nic.is_none() {
            self.wait(what(), place, nic_of(private));
        }
        Some(nic?.interface.clone())
    }

    fn wait(&mut self, what: String, place: &Place, waits_for: String) {
        self.out.pending.push(Pending { what, place: place.clone(), waits_for });
    }
}

/// Entries in the order in which they came: what was first keeps what two claim.
fn by_arrival<'a, K, V>(
    entries: impl Iterator<Item = (K, &'a V)>,
    origin: fn(&V) -> &Origin,
) -> Vec<(K, &'a V)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(_, entry)| origin(entry).arrival);
    entries
}

fn public_ip(
    nic: &Nic,
    address: Ipv4Addr,
    prefix_len: u8,
    gateway: Option<Ipv4Addr>,
    place: Place,
) -> PublicIp {
    let segment = Cidr::containing(address, prefix_len);
    PublicIp {
        address,
        prefix_len,
        interface: nic.interface.clone(),
        vlan: 0,
        gateway: gateway.filter(|gateway| *gateway != address && segment.contains(*gateway)),
        // New forwarded traffic is accepted; what nothing serves is refused all the same.
        ingress_default: Action::Allow,
        firewall_before_acl: false,
        echo_reply: Some(true),
        place,
    }
}

/// The ACL of a routed network: everything passes, as ZStack's router lets new forwarded traffic.
fn open_acl(network: &str, direction: AclDirection, place: &Place) -> NetworkAcl {
    let matches = Match { protocol: None, ports: None, icmp_type: None, icmp_code: None };
    let entry = AclEntry {
        number: 9999,
        action: Action::Allow,
        matches,
        guests: Prefixes::default(),
        cidrs: Prefixes::default(),
        place: place.clone(),
    };
    NetworkAcl {
        network: network.to_owned(),
        direction,
        entries: vec![entry],
        place: place.clone(),
    }
}

/// The largest MTU of a native network: a larger one is used as far as that.
const MTU_MAX: u16 = 9216;

fn address_of(address: Ipv4Addr) -> String {
    format!("VIP {address}")
}

/// A NIC, as something is said to wait for it.
pub fn nic_of(mac: Mac) -> String {
    format!("the NIC {mac}")
}
