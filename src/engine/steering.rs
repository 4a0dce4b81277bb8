//! What of each interface's traffic is the kernel's: from the rules, and from what the kernel has.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Config, Interface};
use crate::flow::Protocol;
use crate::host::view::View;
use crate::io::xdp::kernel_ports::KernelPorts;
use crate::io::xdp::steering::Steering;
use crate::policy::encapsulation::double_tag;
use crate::rules::set::{Network, PortRange, RuleSet};

/// The steering of every interface, in the configuration's order.
///
/// `local_ports` are the ports that the kernel gives to its own connections; on public addresses
/// that the kernel has too, replies to them go to the kernel.
#[must_use]
pub fn steering(
    config: &Config,
    rules: &RuleSet,
    view: &View,
    local_ports: Option<PortRange>,
) -> Vec<Steering> {
    let kernel_ports = kernel_ports(rules, view, local_ports);
    let realms = Realms::of(rules);
    let interfaces = config.interfaces.iter();
    interfaces
        .map(|interface| Steering {
            tags: tags(&interface.name, rules),
            kernel_tags: kernel_tags(interface, view),
            arp_tags: arp_tags(&interface.name, rules, view),
            double_tags: plain_or_not(&interface.name, rules, false)
                .filter_map(double_tag)
                .collect(),
            vteps: plain_or_not(&interface.name, rules, false)
                .filter_map(|network| Some(network.vxlan.as_ref()?.local))
                .collect(),
            local_addresses: local_addresses(&interface.name, rules, &realms, view),
            local_addresses_ipv6: local_addresses_ipv6(&interface.name, rules, &realms, view),
            kernel_ports: {
                let mut ports = kernel_ports.clone();
                shared_gateways(&interface.name, rules, local_ports, &mut ports);
                ports
            },
        })
        .collect()
}

/// The tags under which rules place something on an interface.
fn tags(interface: &str, rules: &RuleSet) -> BTreeSet<u16> {
    let networks = plain_or_not(interface, rules, true);
    let networks = networks.map(|network| (&network.interface, network.vlan));
    let public = rules.public_ips.iter().map(|public| (&public.interface, public.vlan));
    let ipv6 = rules.public_ipv6.iter().map(|public| (&public.interface, public.vlan));
    networks
        .chain(public)
        .chain(ipv6)
        .filter(|(on, _)| *on == interface)
        .map(|(_, vlan)| vlan)
        .collect()
}

/// The networks of an interface that are untagged or under one tag, or the others.
fn plain_or_not<'r>(
    interface: &str,
    rules: &'r RuleSet,
    is_plain: bool,
) -> impl Iterator<Item = &'r Network> {
    let of_interface = move |network: &&Network| {
        let plain = network.outer_tag.is_none() && network.vxlan.is_none();
        network.interface == interface && plain == is_plain
    };
    rules.networks.iter().filter(of_interface)
}

/// The tags under which the kernel has VLAN interfaces, or something that the operator knows of.
fn kernel_tags(interface: &Interface, view: &View) -> BTreeSet<u16> {
    let mut tags: BTreeSet<u16> = interface.kernel_vlans.iter().copied().collect();
    if let Some(index) = view.index_of(&interface.name) {
        let on_it = view.links.values().filter_map(|link| link.tag);
        tags.extend(on_it.filter(|(lower, _)| *lower == index).map(|(_, vlan)| vlan));
    }
    tags
}

/// The tags of an interface under which the kernel has no IPv4 address. Untagged frames are always
/// its own as well.
fn arp_tags(interface: &str, rules: &RuleSet, view: &View) -> BTreeSet<u16> {
    let ipv4 = view.addresses.iter().filter(|own| own.address.is_ipv4());
    let with_address: HashSet<u32> = ipv4.map(|own| own.interface_index).collect();
    let index = view.index_of(interface);
    let mut tags = tags(interface, rules);
    tags.retain(|&vlan| {
        let device = index.and_then(|index| view.tagged(index, vlan));
        vlan != 0 && device.is_none_or(|device| !with_address.contains(&device))
    });
    tags
}

/// The gateways that guests of an interface's networks reach, where the kernel can serve them, and the kernel's addresses on it that
/// are not the dataplane's. A gateway that stands in for other networks is shared with it by port.
fn local_addresses(
    interface: &str,
    rules: &RuleSet,
    realms: &Realms<'_>,
    view: &View,
) -> BTreeSet<(u16, Ipv4Addr)> {
    let mut local = BTreeSet::new();
    let ours_alone = arp_tags(interface, rules, view);
    let own_networks = plain_or_not(interface, rules, true);
    for network in own_networks.filter(|own| !ours_alone.contains(&own.vlan)) {
        local.extend(realms.with(network).map(|other| (network.vlan, other.gateway)));
    }
    let public: BTreeSet<_> = rules.public_ips.iter().map(|public| public.address).collect();
    let standing_in = rules.networks.iter().filter(|network| network.nat.gateway_source_nat);
    let shared: HashSet<(u16, Ipv4Addr)> = standing_in
        .filter(|network| network.interface == interface)
        .map(|network| (network.vlan, network.gateway))
        .collect();
    let shared = |vlan, address| shared.contains(&(vlan, address));
    local.retain(|&(vlan, address)| !shared(vlan, address));
    let Some(index) = view.index_of(interface) else { return local };
    local.extend(view.addresses.iter().filter_map(|own| {
        let IpAddr::V4(address) = own.address else { return None };
        let vlan = match own.interface_index == index {
            true => 0,
            false => {
                let (lower, vlan) = view.links.get(&own.interface_index)?.tag?;
                (lower == index).then_some(vlan)?
            }
        };
        (!public.contains(&address) && !shared(vlan, address)).then_some((vlan, address))
    }));
    local
}

/// The same of IPv6. Tagged addresses are on VLAN interfaces of the kernel.
fn local_addresses_ipv6(
    interface: &str,
    rules: &RuleSet,
    realms: &Realms<'_>,
    view: &View,
) -> BTreeSet<(u16, Ipv6Addr)> {
    let mut local = BTreeSet::new();
    for network in rules.networks.iter().filter(|network| network.interface == interface) {
        let realm = realms.with(network);
        let gateways = realm.filter_map(|other| other.ipv6).map(|ipv6| ipv6.gateway);
        local.extend(gateways.map(|gateway| (network.vlan, gateway)));
    }
    let public = rules.public_ipv6.iter().filter(|public| public.interface == interface);
    local.extend(public.map(|public| (public.vlan, public.address)));
    let Some(index) = view.index_of(interface) else { return local };
    let vlan_of = |device: u32| match view.links.get(&device).and_then(|link| link.tag) {
        _ if device == index => Some(0),
        Some((lower, vlan)) if lower == index => Some(vlan),
        Some(_) | None => None,
    };
    local.extend(view.addresses.iter().filter_map(|own| match own.address {
        IpAddr::V6(address) => Some((vlan_of(own.interface_index)?, address)),
        IpAddr::V4(_) => None,
    }));
    local
}

/// Networks by the domain that joins them. One without a domain is alone.
struct Realms<'r>(HashMap<&'r str, Vec<&'r Network>>);

impl<'r> Realms<'r> {
    fn of(rules: &'r RuleSet) -> Self {
        let mut realms: HashMap<_, Vec<_>> = HashMap::new();
        for network in &rules.networks {
            if let Some(domain) = &network.domain {
                realms.entry(domain.as_str()).or_default().push(network);
            }
        }
        Self(realms)
    }

    /// The networks that guests of `network` route to, and so to whose gateways; itself as well.
    fn with(&self, network: &'r Network) -> impl Iterator<Item = &'r Network> {
        let joined = network.domain.as_deref().and_then(|domain| self.0.get(domain));
        let others = joined.map_or(&[][..], Vec::as_slice);
        std::iter::once(network).chain(others.iter().copied())
    }
}

/// The ports of public addresses that the kernel serves or sends from.
fn kernel_ports(rules: &RuleSet, view: &View, local_ports: Option<PortRange>) -> KernelPorts {
    let mut ports = KernelPorts::new(local_ports.map(|local| local.first()..=local.last()));
    let kernels: HashSet<_> = view.addresses.iter().map(|own| own.address).collect();
    // All of a static NAT's address is the guest's.
    let guests: HashSet<_> = rules.static_nats.iter().map(|nat| nat.public_ip).collect();
    let public = rules.public_ips.iter().map(|public| public.address);
    for address in public.filter(|own| kernels.contains(&IpAddr::V4(*own))) {
        if !guests.contains(&address) {
            ports.have_own(address);
        }
    }
    for forward in &rules.port_forwards {
        let public = forward.public_ports.first()..=forward.public_ports.last();
        ports.remove(forward.public_ip, forward.protocol, public);
    }
    for balancer in &rules.load_balancers {
        let public = balancer.public_port.get()..=balancer.public_port.get();
        ports.remove(balancer.public_ip, balancer.protocol, public);
    }
    // Last: local services beat everything. Of those for some only, user space asks who it is.
    for service in &rules.local_services {
        let range = service.ports.map_or(0..=0, |range| range.first()..=range.last());
        match service.sources.is_empty() {
            true => ports.insert(service.address, service.protocol, range),
            false => ports.remove(service.address, service.protocol, range),
        }
    }
    ports
}

/// Adds the kernel's share of an interface's gateways that stand in for other networks: services, and its own
/// connections.
fn shared_gateways(
    interface: &str,
    rules: &RuleSet,
    local_ports: Option<PortRange>,
    ports: &mut KernelPorts,
) {
    let shared = rules.networks.iter().filter(|network| network.nat.gateway_source_nat);
    for network in shared.filter(|network| network.interface == interface) {
        ports.have_own(network.gateway);
        for protocol in [Protocol::TCP, Protocol::UDP] {
            ports.insert(network.gateway, protocol, 1..=LOW_PORTS);
            if let Some(local) = local_ports {
                // Where there were pages before.
                ports.insert(network.gateway, protocol, local.first()..=local.last());
            }
        }
    }
}

/// The last of the ports that services have (RFC 6335, section 6).
const LOW_PORTS: u16 = 1023;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChecksumMode, Role};
    use crate::host::view::{KernelAddress, KernelLink};

    const RULES: &str = r#"{
        "version": 1,
        "public_ips": [
            {"address": "203.0.113.10", "prefix_len": 24, "interface": "public"},
            {"address": "203.0.113.11", "prefix_len": 24, "interface": "public"},
            {"address": "203.0.113.12", "prefix_len": 24, "interface": "public", "vlan": 7}
        ],
        "networks": [
            {"name": "web", "interface": "guest", "vlan": 100, "cidr": "10.1.1.0/24",
             "gateway": "10.1.1.1", "domain": "vpc"},
            {"name": "db", "interface": "guest", "vlan": 101, "cidr": "10.1.2.0/24",
             "gateway": "10.1.2.1", "domain": "vpc"},
            {"name": "other", "interface": "guest", "cidr": "10.1.1.0/24", "gateway": "10.1.1.254"}
        ],
        "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "tcp",
            "public_ports": "40000-40009", "network": "web", "guest_ip": "10.1.1.5",
            "guest_ports": "22-31"}],
        "static_nats": [{"id": "s", "public_ip": "203.0.113.11", "network": "web",
            "guest_ip": "10.1.1.6"}],
        "load_balancers": [{"id": "l", "public_ip": "203.0.113.10", "protocol": "udp",
            "public_port": 50000, "network": "web", "algorithm": "source",
            "members": [{"guest_ip": "10.1.1.5", "guest_port": 1, "weight": 1}]}],
        "local_services": [
            {"address": "203.0.113.10", "protocol": "tcp", "ports": "8443"},
            {"address": "203.0.113.12", "protocol": "esp"}
        ]
    }"#;

    fn steered() -> [Steering; 2] {
        steered_by(RULES)
    }

    fn steered_by(rules: &str) -> [Steering; 2] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rules.json");
        std::fs::write(&path, rules).expect("written");
        let paths = [path.to_str().expect("a name").to_owned()];
        let loaded = crate::rules::load(&paths, None).expect("sound rules");
        let interface = |name: &str, role| Interface {
            name: name.into(),
            role,
            checksum: ChecksumMode::default(),
            kernel_vlans: vec![300],
        };
        let config = Config {
            interfaces: vec![interface("guest", Role::Guest), interface("public", Role::Public)],
            ..Config::default()
        };
        let mut view = View::default();
        let link = |name: &str| KernelLink {
            name: name.into(),
            mac: crate::flow::Mac::default(),
            mtu: 1500,
            is_up: true,
            tag: None,
        };
        view.links.insert(2, link("guest"));
        view.links.insert(3, link("public"));
        view.links.insert(4, KernelLink { tag: Some((2, 100)), ..link("guest.100") });
        for (interface_index, address) in [
            (4, [10, 1, 1, 1]),
            (2, [10, 1, 1, 254]),
            (2, [192, 168, 0, 1]),
            (3, [203, 0, 113, 10]),
            (3, [203, 0, 113, 11]),
            (3, [203, 0, 113, 99]),
        ] {
            view.addresses.insert(KernelAddress {
                interface_index,
                address: Ipv4Addr::from(address).into(),
                prefix_length: 24,
                is_managed: false,
            });
        }
        let local_ports = PortRange::new(32_768, 60_999).ok();
        let steered = steering(&config, &loaded.rules, &view, local_ports);
        steered.try_into().expect("one for each interface")
    }

    #[test]
    fn tags_are_those_that_rules_use() {
        let [guest, public] = steered();
        assert_eq!(guest.tags, [0, 100, 101].into());
        assert_eq!(public.tags, [0, 7].into());
    }

    #[test]
    fn the_kernels_tags_are_those_of_its_vlan_interfaces_and_of_the_configuration() {
        let [guest, public] = steered();
        // The rules have a network under 100, which beats this.
        assert_eq!(guest.kernel_tags, [100, 300].into());
        assert_eq!(public.kernel_tags, [300].into());
    }

    #[test]
    fn where_the_kernel_has_no_address_arp_and_gateways_are_ours() {
        let [guest, public] = steered();
        assert_eq!(guest.arp_tags, [101].into());
        assert_eq!(public.arp_tags, [7].into());
        assert!(guest.local_addresses.iter().all(|(tag, _)| *tag != 101));
    }

    #[test]
    fn guests_reach_the_gateways_of_their_realm_and_no_others() {
        let [guest, public] = steered();
        let expected = [
            (0, [10, 1, 1, 254]),
            (0, [192, 168, 0, 1]),
            (100, [10, 1, 1, 1]),
            (100, [10, 1, 2, 1]),
        ];
        let expected = expected.map(|(tag, address)| (tag, Ipv4Addr::from(address)));
        assert_eq!(guest.local_addresses, expected.into());
        assert_eq!(public.local_addresses, [(0, Ipv4Addr::new(203, 0, 113, 99))].into());
    }

    #[test]
    fn a_gateway_that_stands_in_for_other_networks_is_shared_by_port() {
        let nat = r#""domain": "vpc", "nat": {"gateway_source_nat": true}"#;
        let [guest, public] = steered_by(&RULES.replacen(r#""domain": "vpc""#, nat, 1));
        let gateway = Ipv4Addr::new(10, 1, 1, 1);
        assert!(!guest.local_addresses.contains(&(100, gateway)));
        assert!(guest.local_addresses.contains(&(100, Ipv4Addr::new(10, 1, 2, 1))));
        let is_kernels = |port| guest.kernel_ports.contains(gateway, Protocol::TCP, port);
        let kernels = [53, 1023, 1024, 32_767, 40_000, 61_000].map(is_kernels);
        assert_eq!(kernels, [true, true, false, false, true, false]);
        assert!(!public.kernel_ports.addresses().contains_key(&gateway));
    }

    #[test]
    fn the_kernels_ports_are_its_services_and_its_own_connections_without_forwards() {
        let [guest, public] = steered();
        assert_eq!(guest.kernel_ports, public.kernel_ports);
        let has = |last: u8, protocol, port| {
            let address = Ipv4Addr::new(203, 0, 113, last);
            public.kernel_ports.contains(address, protocol, port)
        };
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        for (last, protocol, port, expected) in [
            (10, tcp, 8443, true),
            (10, udp, 8443, false),
            (10, tcp, 32_768, true),
            (10, udp, 60_999, true),
            (10, tcp, 61_000, false),
            (10, tcp, 40_005, false),
            (10, udp, 40_005, true),
            (10, udp, 50_000, false),
            (10, tcp, 50_000, true),
            // Static NAT; not the kernel's address.
            (11, tcp, 32_768, false),
            (12, tcp, 32_768, false),
            (12, Protocol::ESP, 0, true),
        ] {
            assert_eq!(has(last, protocol, port), expected, "{last} {protocol} {port}");
        }
    }
}
