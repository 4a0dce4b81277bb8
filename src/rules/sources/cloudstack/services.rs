//! What public addresses lead to: guests by port forward and static NAT, members by load balancing, and the router's
//! own kernel.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::balancer::{Block, HAPROXY_CHECK, Listener};
use super::command_line::RouterKind;
use super::forwarding::{ForwardedPorts, Forwarding};
use super::translate::{Translator, without_any};
use super::{LoadBalancing, vpn};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::{Cidr, LoadBalancer, LocalService, PortForward, PortRange, StaticNat};

impl Translator<'_> {
    /// Port forwards and static NAT.
    pub fn forwarding(&mut self) {
        let bags = self.bags;
        for entry in bags.forwarding.values().flatten() {
            let public = entry.public_ip;
            let what = || match &entry.ports {
                None => format!("static NAT of {public}"),
                Some(ports) => format!("port forward of {public}:{}", ports.public),
            };
            let Some(network) = self.target(what, &entry.place, public, entry.guest) else {
                continue;
            };
            match &entry.ports {
                None => self.set.static_nats.push(StaticNat {
                    id: public.to_string(),
                    public_ip: public,
                    network,
                    guest_ip: Some(entry.guest),
                    place: entry.place.clone(),
                }),
                Some(ports) => self.port_forward(entry, ports, &network),
            }
        }
        number_namesakes(&mut self.set.port_forwards);
    }

    fn port_forward(&mut self, entry: &Forwarding, ports: &ForwardedPorts, network: &str) {
        if !ports.sources.has_v4 {
            return;
        }
        for protocol in &ports.protocols {
            self.set.port_forwards.push(PortForward {
                id: format!("{} {protocol} {}", entry.public_ip, ports.public),
                public_ip: entry.public_ip,
                protocol: *protocol,
                public_ports: ports.public,
                network: network.to_owned(),
                guest_ip: Some(entry.guest),
                guest_ports: ports.private,
                sources: ports.sources.v4.clone(),
                place: entry.place.clone(),
            });
        }
    }

    /// Load balancing, and haproxy's statistics.
    pub fn listeners(&mut self) {
        let bags = self.bags;
        for listener in &bags.listeners {
            let (address, port) = (listener.address, listener.port);
            let what = match listener.block {
                Some(_) => format!("load balancer of {address}:{port}"),
                None => format!("haproxy's statistics on {address}:{port}"),
            };
            if !self.has_public_ip(address) {
                let waits_for = format!("public address {address}");
                self.wait(what, &listener.place, &waits_for);
                continue;
            }
            match &listener.block {
                Some(block) => self.balancer(listener, block, &what),
                None => self.haproxy(listener),
            }
        }
    }

    fn balancer(&mut self, listener: &Listener, block: &Block, what: &str) {
        if self.options.load_balancing == LoadBalancing::Haproxy {
            self.haproxy(listener);
            return;
        }
        if let Some(why) = &block.needs_haproxy {
            let what = format!("{what} stays with haproxy, which alone knows: {why}");
            let hint = "keep haproxy on the router; its packets go to the kernel";
            self.notes.warn(listener.place.clone(), what, hint);
            self.haproxy(listener);
            return;
        }
        let first = block.members.first().map(|member| member.guest_ip);
        let network = match first {
            Some(guest) => self.network_of(guest).map(str::to_owned),
            None => self.set.networks.first().map(|network| network.name.clone()),
        };
        let Some(network) = network else {
            let waits_for = first
                .map_or_else(|| "a network".to_owned(), |guest| format!("a network with {guest}"));
            self.wait(what.to_owned(), &listener.place, &waits_for);
            return;
        };
        self.set.load_balancers.push(LoadBalancer {
            health_check: block.is_checked.then_some(HAPROXY_CHECK),
            id: format!("{} tcp {}", listener.address, listener.port),
            public_ip: listener.address,
            protocol: Protocol::TCP,
            public_port: listener.port,
            network,
            algorithm: block.algorithm,
            members: block.members.clone(),
            sources: without_any(block.sources.clone()),
            place: listener.place.clone(),
        });
    }

    /// Leaves a port to haproxy, for those whom the firewall of the address lets in.
    fn haproxy(&mut self, listener: &Listener) {
        let port = listener.port.get();
        let Ok(ports) = PortRange::new(port, port) else { return };
        let Some(sources) = self.welcome(listener.address, Protocol::TCP, ports) else {
            return;
        };
        self.local_service(listener.address, Protocol::TCP, Some(ports), sources, &listener.place);
    }

    /// Who may reach a port of a public address itself; none if nobody may.
    fn welcome(
        &self,
        address: Ipv4Addr,
        protocol: Protocol,
        ports: PortRange,
    ) -> Option<Vec<Cidr>> {
        let public = self.set.public_ips.iter().find(|public| public.address == address);
        let is_guarded = public.is_some_and(|public| public.firewall_before_acl);
        if (self.kind == RouterKind::Vpc && !is_guarded) || self.is_routed() {
            return Some(Vec::new());
        }
        let mut sources = Vec::new();
        let rules = self.set.firewall_rules.iter().filter(|rule| {
            let range = rule.matches.ports.unwrap_or(PortRange::ALL);
            rule.public_ip == address
                && rule.matches.protocol.is_none_or(|it| it == protocol)
                && range.first() <= ports.first()
                && ports.last() <= range.last()
        });
        for rule in rules {
            if rule.sources.is_empty() {
                return Some(Vec::new());
            }
            sources.extend(rule.sources.iter().copied());
        }
        (!sources.is_empty()).then_some(sources)
    }

    fn local_service(
        &mut self,
        address: Ipv4Addr,
        protocol: Protocol,
        ports: Option<PortRange>,
        sources: Vec<Cidr>,
        place: &Place,
    ) {
        let place = place.clone();
        let service = LocalService { address, protocol, ports, sources, place };
        let known = self.set.local_services.iter().any(|known| {
            (known.address, known.protocol, known.ports) == (address, protocol, ports)
        });
        if !known {
            self.set.local_services.push(service);
        }
    }

    /// VPNs: their ends are the kernel's, and so is what goes through them.
    pub fn vpns(&mut self) {
        let bags = self.bags;
        for tunnel in bags.site_to_site.values() {
            self.vpn_ends(tunnel.local, &vpn::SITE_TO_SITE_ENDS, &tunnel.place);
            self.through_kernel(&tunnel.local_networks, &tunnel.peer_networks);
        }
        for way_in in bags.remote_access.values() {
            self.vpn_ends(way_in.server, &vpn::REMOTE_ACCESS_ENDS, &way_in.place);
            self.through_kernel(&[], &way_in.users);
        }
    }

    fn vpn_ends(&mut self, address: Ipv4Addr, ends: &[(Protocol, Option<u16>)], place: &Place) {
        if !self.has_public_ip(address) {
            self.wait(format!("VPN on {address}"), place, &format!("public address {address}"));
            return;
        }
        for (protocol, port) in ends {
            let ports = port.and_then(|port| PortRange::new(port, port).ok());
            self.local_service(address, *protocol, ports, Vec::new(), place);
        }
    }

    /// Has what networks inside `local` send to `peers` go to the kernel untranslated.
    fn through_kernel(&mut self, local: &[Cidr], peers: &[Cidr]) {
        for network in &mut self.set.networks {
            let concerned = local.is_empty() || local.iter().any(|it| it.overlaps(&network.cidr));
            for peer in peers.iter().filter(|_| concerned) {
                if !network.nat.exempt.iter().any(|known| known == peer || *known == Cidr::ANY) {
                    network.nat.exempt.push(*peer);
                }
                if !network.nat.kernel.contains(peer) {
                    network.nat.kernel.push(*peer);
                }
            }
        }
    }
}

/// Gives port forwards that differ by source alone an id each.
fn number_namesakes(forwards: &mut [PortForward]) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for forward in forwards {
        let count = seen.entry(forward.id.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count > 1 {
            forward.id = format!("{} #{count}", forward.id);
        }
    }
}
