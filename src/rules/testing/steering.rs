//! Any policy routes and limits of addresses.

use super::*;

pub(super) fn address_limit() -> impl Strategy<Value = AddressLimit> {
    let rate = 0_u64..1_000_000;
    (name(), address(), of(ports()), [rate.clone(), rate], of(name())).prop_map(
        |(id, public_ip, ports, [inbound, outbound], shared)| AddressLimit {
            id,
            public_ip,
            ports,
            inbound_kbit_per_second: inbound,
            outbound_kbit_per_second: outbound,
            shared,
            place: place(),
        },
    )
}

pub(super) fn policy_route() -> impl Strategy<Value = PolicyRoute> {
    let about = (matches(), of(ports()), vec(cidr(), 0..2), vec(cidr(), 0..2));
    (name(), name(), about, vec(policy_hop(), 0..3)).prop_map(|(id, network, about, routes)| {
        let (matches, source_ports, sources, destinations) = about;
        let has_ports = matches.protocol.is_some_and(|it| it.has_ports() && !it.is_icmp());
        let source_ports = source_ports.filter(|_| has_ports);
        let place = place();
        PolicyRoute { id, network, matches, source_ports, sources, destinations, routes, place }
    })
}

fn policy_hop() -> impl Strategy<Value = PolicyHop> {
    (cidr(), of(address()), vec(address(), 0..2))
        .prop_map(|(destination, via, source_nat)| PolicyHop { destination, via, source_nat })
}
