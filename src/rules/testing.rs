//! What the tests of this module share.

mod steering;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::diagnostic::Place;
use super::native::{self, Draft};
use super::reader::Format;
use super::set::{
    AclDirection, AclEntry, Action, AddressLimit, Algorithm, Cidr, EgressRule, FilterAction,
    FilteringBehavior, FirewallRule, HealthCheck, InterfaceDirection, InterfaceFilter,
    InterfaceFilterEntry, Ipv6FirewallRule, Ipv6Route, Limits, LoadBalancer, LocalService,
    MappingType, Match, Member, MssClamp, NatOptions, Network, NetworkAcl, NetworkIpv6, OuterTag,
    PolicyHop, PolicyRoute, PortForward, PortRange, Prefixes, PublicIp, PublicIpv6, Route, RuleSet,
    StaticNat, TagKind, Vxlan,
};
use super::source::Source;
use crate::flow::Protocol;

/// The rule file that the documentation shows.
pub fn example() -> &'static str {
    include_str!("../../tests/rules/example.json")
}

/// The rules in a JSON text, which must be well formed.
pub fn parse_json(file: &str, text: &str) -> RuleSet {
    parse(file, text, Format::Json)
}

/// The rules in a text, which must be well formed.
pub fn parse(file: &str, text: &str, format: Format) -> RuleSet {
    let mut draft = Draft::default();
    let faults = native::read(&Source::new(file, text.to_owned()), format, 0, &mut draft);
    assert_eq!(faults, [], "{text}");
    draft.set
}

/// The same rules as if all were written at one place.
pub fn without_places(rules: &RuleSet) -> RuleSet {
    let place = &Place { file: "nowhere".into(), line: 1, column: 1 };
    let mut rules = rules.clone();
    rules.public_ips.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.address_limits.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.networks.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.egress_rules.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.firewall_rules.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.public_ipv6.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.ipv6_firewall_rules.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.ipv6_routes.iter_mut().for_each(|rule| rule.place.clone_from(place));
    for filter in &mut rules.interface_filters {
        filter.place.clone_from(place);
        filter.entries.iter_mut().for_each(|entry| entry.place.clone_from(place));
    }
    rules.port_forwards.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.static_nats.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.load_balancers.iter_mut().for_each(|rule| rule.place.clone_from(place));
    for acl in &mut rules.network_acls {
        acl.place.clone_from(place);
        acl.entries.iter_mut().for_each(|entry| entry.place.clone_from(place));
    }
    rules.routes.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.policy_routes.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules.local_services.iter_mut().for_each(|rule| rule.place.clone_from(place));
    rules
}

/// Any rules that a file can say, whether or not they make sense together.
pub fn any_rules() -> impl Strategy<Value = RuleSet> {
    (
        (vec(public_ip(), 0..3), vec(network(), 0..3), vec(egress_rule(), 0..3)),
        (vec(firewall_rule(), 0..3), vec(port_forward(), 0..3), vec(static_nat(), 0..3)),
        (vec(load_balancer(), 0..3), vec(network_acl(), 0..3)),
        (vec(route(), 0..3), vec(local_service(), 0..3)),
        (
            vec(ipv6_route(), 0..3),
            vec(steering::policy_route(), 0..3),
            vec(steering::address_limit(), 0..3),
        ),
        (vec(public_ipv6(), 0..3), vec(ipv6_firewall_rule(), 0..3), vec(interface_filter(), 0..3)),
    )
        .prop_map(|(first, second, third, fourth, fifth, sixth)| RuleSet {
            public_ips: first.0,
            networks: first.1,
            egress_rules: first.2,
            firewall_rules: second.0,
            port_forwards: second.1,
            static_nats: second.2,
            load_balancers: third.0,
            network_acls: third.1,
            routes: fourth.0,
            local_services: fourth.1,
            ipv6_routes: fifth.0,
            policy_routes: fifth.1,
            address_limits: fifth.2,
            public_ipv6: sixth.0,
            ipv6_firewall_rules: sixth.1,
            interface_filters: sixth.2,
        })
}

fn place() -> Place {
    Place { file: "nowhere".into(), line: 1, column: 1 }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 \"\\\\ü€._-]{1,12}"
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from_bits)
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (address(), 0_u8..=32).prop_map(|(address, length)| Cidr::containing(address, length))
}

fn address_ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from_bits)
}

fn cidr_ipv6() -> impl Strategy<Value = Cidr<Ipv6Addr>> {
    (address_ipv6(), 0_u8..=128).prop_map(|(address, length)| Cidr::containing(address, length))
}

fn prefixes() -> impl Strategy<Value = Prefixes> {
    (vec(cidr(), 0..3), vec(cidr_ipv6(), 0..3)).prop_map(|(ipv4, ipv6)| Prefixes { ipv4, ipv6 })
}

fn ports() -> impl Strategy<Value = PortRange> {
    (1_u16.., 0_u16..100).prop_map(|(first, more)| {
        PortRange::new(first, first.saturating_add(more)).expect("in order")
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Deny)]
}

fn transport() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP)]
}

fn matches() -> impl Strategy<Value = Match> {
    (of(any::<u8>().prop_map(Protocol)), of(ports()), of(any::<u8>()), of(any::<u8>())).prop_map(
        |(protocol, ports, icmp_type, icmp_code)| {
            let icmp = protocol.is_some_and(Protocol::is_icmp);
            let ports = ports.filter(|_| !icmp && protocol.is_some_and(Protocol::has_ports));
            let icmp_type = icmp_type.filter(|_| icmp);
            Match {
                protocol,
                ports,
                icmp_type,
                icmp_code: icmp_code.filter(|_| icmp_type.is_some()),
            }
        },
    )
}

fn public_ip() -> impl Strategy<Value = PublicIp> {
    let switches = (action(), any::<bool>(), of(any::<bool>()));
    (address(), 0_u8..=32, name(), 0_u16..4095, of(address()), switches).prop_map(
        |(address, prefix_len, interface, vlan, gateway, switches)| {
            let (ingress_default, firewall_before_acl, echo_reply) = switches;
            PublicIp {
                address,
                prefix_len,
                interface,
                vlan,
                gateway,
                ingress_default,
                firewall_before_acl,
                echo_reply,
                place: place(),
            }
        },
    )
}

fn network() -> impl Strategy<Value = Network> {
    let clamp = prop_oneof![Just(MssClamp::PathMtu), (64_u16..65495).prop_map(MssClamp::To)];
    (
        (name(), name(), 0_u16..4095, cidr(), address(), of(576_u16..9217), of(name())),
        (vec(address(), 0..3), action(), any::<bool>(), nat(), limits(), of(clamp), any::<bool>()),
        of((cidr_ipv6(), address_ipv6())),
        (of(outer_tag()), of(vxlan())),
    )
        .prop_map(|(first, second, ipv6, (outer_tag, vxlan))| Network {
            name: first.0,
            interface: first.1,
            vlan: first.2,
            outer_tag,
            vxlan,
            cidr: first.3,
            gateway: first.4,
            ipv6: ipv6.map(|(cidr, gateway)| NetworkIpv6 { cidr, gateway }),
            mtu: first.5,
            domain: first.6,
            source_nat: second.0,
            egress_default: second.1,
            egress_reject: second.2,
            nat: second.3,
            limits: second.4,
            mss_clamp: second.5,
            anti_spoofing: second.6,
            place: place(),
        })
}

fn outer_tag() -> impl Strategy<Value = OuterTag> {
    let kind = prop_oneof![Just(TagKind::Customer), Just(TagKind::Provider)];
    (1_u16..4095, kind).prop_map(|(vlan, kind)| OuterTag { vlan, kind })
}

fn vxlan() -> impl Strategy<Value = Vxlan> {
    (1_u32..1 << 24, address(), 1_u8..=32, of(address()), vec(address(), 0..3), any::<bool>())
        .prop_map(|(vni, local, prefix_len, gateway, remotes, learning)| Vxlan {
            vni,
            local,
            prefix_len,
            gateway,
            remotes,
            learning,
        })
}

fn nat() -> impl Strategy<Value = NatOptions> {
    let mapping = prop_oneof![
        Just(MappingType::EndpointIndependent),
        Just(MappingType::AddressAndPortDependent)
    ];
    let filtering = prop_oneof![
        Just(FilteringBehavior::EndpointIndependent),
        Just(FilteringBehavior::AddressDependent),
        Just(FilteringBehavior::AddressAndPortDependent)
    ];
    let hold = of((0_u64..86_401).prop_map(Duration::from_secs));
    (
        mapping,
        filtering,
        ports(),
        any::<bool>(),
        hold,
        any::<[bool; 3]>(),
        [vec(cidr(), 0..3), vec(cidr(), 0..3)],
    )
        .prop_map(|(mapping, filtering, ports, overload, hold, switches, [exempt, kernel])| {
            NatOptions {
                mapping,
                filtering,
                ports,
                overload,
                hold,
                hairpinning: switches[0],
                gateway_source_nat: switches[1],
                pptp: switches[2],
                exempt,
                kernel,
            }
        })
}

fn limits() -> impl Strategy<Value = Limits> {
    let kbit = || 0_u64..=1_000_000_000_000;
    let packets = || 0_u64..=1_000_000_000;
    let guest = (of(any::<u32>()), of(any::<u32>()), any::<u32>());
    (guest, any::<u32>(), kbit(), packets(), kbit(), packets()).prop_map(
        |(guest, new_sessions, bandwidth, packets, guest_bandwidth, guest_packets)| Limits {
            sessions_per_guest: guest.0,
            ports_per_guest: guest.1,
            mappings_per_guest: guest.2,
            new_sessions_per_second: new_sessions,
            bandwidth_kbit_per_second: bandwidth,
            packets_per_second: packets,
            guest_bandwidth_kbit_per_second: guest_bandwidth,
            guest_packets_per_second: guest_packets,
        },
    )
}

fn egress_rule() -> impl Strategy<Value = EgressRule> {
    (name(), name(), action(), matches(), prefixes(), prefixes()).prop_map(
        |(id, network, action, matches, sources, destinations)| EgressRule {
            id,
            network,
            action,
            matches,
            sources,
            destinations,
            place: place(),
        },
    )
}

fn firewall_rule() -> impl Strategy<Value = FirewallRule> {
    (name(), address(), action(), matches(), vec(cidr(), 0..3)).prop_map(
        |(id, public_ip, action, matches, sources)| FirewallRule {
            id,
            public_ip,
            action,
            matches,
            sources,
            place: place(),
        },
    )
}

fn public_ipv6() -> impl Strategy<Value = PublicIpv6> {
    (address_ipv6(), 1_u8..=128, name(), 0_u16..4095, of(address_ipv6())).prop_map(
        |(address, prefix_len, interface, vlan, gateway)| PublicIpv6 {
            address,
            prefix_len,
            interface,
            vlan,
            gateway,
            place: place(),
        },
    )
}

fn ipv6_firewall_rule() -> impl Strategy<Value = Ipv6FirewallRule> {
    (name(), name(), action(), matches(), vec(cidr_ipv6(), 0..3), vec(cidr_ipv6(), 0..3)).prop_map(
        |(id, network, action, matches, sources, destinations)| Ipv6FirewallRule {
            id,
            network,
            action,
            matches,
            sources,
            destinations,
            place: place(),
        },
    )
}

fn interface_filter() -> impl Strategy<Value = InterfaceFilter> {
    let direction = prop_oneof![Just(InterfaceDirection::In), Just(InterfaceDirection::Out)];
    (name(), 0_u16..4095, direction, filter_action(), vec(interface_entry(), 0..3)).prop_map(
        |(interface, vlan, direction, default, entries)| InterfaceFilter {
            interface,
            vlan,
            direction,
            default,
            entries,
            place: place(),
        },
    )
}

fn interface_entry() -> impl Strategy<Value = InterfaceFilterEntry> {
    (name(), filter_action(), matches(), vec(cidr(), 0..3), vec(cidr(), 0..3)).prop_map(
        |(id, action, matches, sources, destinations)| InterfaceFilterEntry {
            id,
            action,
            matches,
            sources,
            destinations,
            place: place(),
        },
    )
}

fn filter_action() -> impl Strategy<Value = FilterAction> {
    prop_oneof![Just(FilterAction::Allow), Just(FilterAction::Deny), Just(FilterAction::Reject)]
}

fn port_forward() -> impl Strategy<Value = PortForward> {
    (name(), address(), transport(), ports(), name(), of(address()), vec(cidr(), 0..3)).prop_map(
        |(id, public_ip, protocol, public_ports, network, guest_ip, sources)| PortForward {
            id,
            public_ip,
            protocol,
            public_ports,
            network,
            guest_ip,
            guest_ports: public_ports,
            sources,
            place: place(),
        },
    )
}

fn static_nat() -> impl Strategy<Value = StaticNat> {
    (name(), address(), name(), of(address())).prop_map(|(id, public_ip, network, guest_ip)| {
        StaticNat { id, public_ip, network, guest_ip, place: place() }
    })
}

fn load_balancer() -> impl Strategy<Value = LoadBalancer> {
    let algorithm = prop_oneof![
        Just(Algorithm::LeastConnections),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::Source)
    ];
    let member = (address(), any::<NonZeroU16>(), 0_u16..=256)
        .prop_map(|(guest_ip, guest_port, weight)| Member { guest_ip, guest_port, weight });
    (
        (name(), address(), transport(), any::<NonZeroU16>(), name()),
        (algorithm, vec(member, 0..3), vec(cidr(), 0..3), of(health_check())),
    )
        .prop_map(|(first, second)| LoadBalancer {
            health_check: second.3,
            id: first.0,
            public_ip: first.1,
            protocol: first.2,
            public_port: first.3,
            network: first.4,
            algorithm: second.0,
            members: second.1,
            sources: second.2,
            place: place(),
        })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let number = |most| (1_u16..=most).prop_map(|number| NonZeroU16::new(number).unwrap());
    (number(3600), number(3600), number(100), number(100), of(any::<NonZeroU16>())).prop_map(
        |(interval_seconds, timeout_seconds, healthy_after, unhealthy_after, port)| HealthCheck {
            interval_seconds,
            timeout_seconds,
            healthy_after,
            unhealthy_after,
            port,
        },
    )
}

fn network_acl() -> impl Strategy<Value = NetworkAcl> {
    let direction = prop_oneof![Just(AclDirection::Egress), Just(AclDirection::Ingress)];
    let entry = (any::<u32>(), action(), matches(), prefixes(), prefixes()).prop_map(
        |(number, action, matches, cidrs, guests)| AclEntry {
            number,
            action,
            matches,
            guests,
            cidrs,
            place: place(),
        },
    );
    (name(), direction, vec(entry, 0..4)).prop_map(|(network, direction, mut entries)| {
        entries.sort_by_key(|entry| entry.number);
        NetworkAcl { network, direction, entries, place: place() }
    })
}

fn route() -> impl Strategy<Value = Route> {
    (name(), cidr(), address()).prop_map(|(domain, destination, via)| Route {
        domain,
        destination,
        via,
        place: place(),
    })
}

fn ipv6_route() -> impl Strategy<Value = Ipv6Route> {
    (cidr_ipv6(), address_ipv6()).prop_map(|(destination, via)| Ipv6Route {
        destination,
        via,
        place: place(),
    })
}

fn local_service() -> impl Strategy<Value = LocalService> {
    (address(), any::<u8>().prop_map(Protocol), ports(), vec(cidr(), 0..3)).prop_map(
        |(address, protocol, ports, sources)| {
            let with_ports = protocol.has_ports() && !protocol.is_icmp();
            LocalService {
                address,
                protocol,
                ports: with_ports.then_some(ports),
                sources,
                place: place(),
            }
        },
    )
}
