//! Public addresses: who uses them, and how full they are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::control::rows::PoolRow;
use crate::flow::Protocol;
use crate::nat::mappings::{Mappings, PoolAddress};
use crate::policy::Policy;

/// The protocols that have a port space of their own.
pub const PROTOCOLS: [Protocol; 6] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::ICMP,
    Protocol::SCTP,
    Protocol::DCCP,
    Protocol::UDP_LITE,
];

/// Every source-NAT address with every protocol, those of policy routes too. Networks that share an
/// address may have other ranges on it: its capacity is that of the widest.
#[must_use]
pub fn rows(policy: &Policy, mappings: &Mappings) -> Vec<PoolRow> {
    let mut addresses: BTreeMap<Ipv4Addr, (Vec<String>, [u32; PROTOCOLS.len()])> = BTreeMap::new();
    let of_networks = policy.networks().iter().flat_map(|network| {
        let pools = network.pool.iter().chain(&network.gateway_pool);
        pools.map(move |pool| (network, pool))
    });
    for (network, pool) in of_networks.chain(policy.way_pools()) {
        for address in &pool.addresses {
            let (networks, capacities) = addresses.entry(address.address).or_default();
            if !networks.contains(&network.name) {
                networks.push(network.name.clone());
            }
            for (capacity, protocol) in capacities.iter_mut().zip(PROTOCOLS) {
                *capacity = (*capacity).max(free_ports(&pool.ports, address, protocol));
            }
        }
    }
    let mut rows = Vec::new();
    for (address, (networks, capacities)) in addresses {
        for (capacity, protocol) in capacities.into_iter().zip(PROTOCOLS) {
            let usage = mappings.usage(address, protocol);
            rows.push(PoolRow {
                public_ip: address.to_string(),
                protocol: protocol.to_string(),
                networks: networks.clone(),
                live: usage.live,
                resting: usage.resting,
                overloaded: usage.overloaded,
                capacity,
                used_percent: percent(usage.live, capacity),
            });
        }
    }
    rows
}

/// The ports of `ports` that are not reserved on `address`.
fn free_ports(ports: &RangeInclusive<u16>, address: &PoolAddress, protocol: Protocol) -> u32 {
    let count = |range: RangeInclusive<u16>| u32::try_from(range.count()).unwrap_or_default();
    let taken: u32 = address
        .reserved
        .iter()
        .filter(|(of, _)| *of == protocol)
        .map(|(_, range)| count(*range.start().max(ports.start())..=*range.end().min(ports.end())))
        .sum();
    count(ports.clone()).saturating_sub(taken)
}

fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { f64::from(part) * 100.0 / f64::from(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_inside_the_range_are_not_free() {
        let address = PoolAddress {
            address: Ipv4Addr::new(203, 0, 113, 10),
            reserved: vec![
                (Protocol::TCP, 1..=99),
                (Protocol::TCP, 195..=300),
                (Protocol::UDP, 150..=159),
            ],
        };
        assert_eq!(free_ports(&(100..=199), &address, Protocol::TCP), 95);
        assert_eq!(free_ports(&(100..=199), &address, Protocol::UDP), 90);
        assert_eq!(free_ports(&(100..=199), &address, Protocol::ICMP), 100);
        assert_eq!(free_ports(&(1..=u16::MAX), &address, Protocol::ICMP), 65_535);
    }

    #[test]
    fn nothing_of_nothing_is_nothing() {
        assert!(percent(0, 0).abs() < f64::EPSILON);
        assert!((percent(1, 4) - 25.0).abs() < f64::EPSILON);
    }
}
