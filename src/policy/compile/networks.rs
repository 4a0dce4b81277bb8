//! Networks: their sides and pools.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::flow::{Protocol, RealmId, RuleId};
use crate::nat::guests::GuestLimits;
use crate::nat::limits::{GuestCount, NetworkLimits, Rate, Rates};
use crate::nat::mappings::{MappingBehavior, MappingLimits, Pool, PoolAddress};
use crate::policy::Network;
use crate::policy::compile::index::{AddressRules, NetworkRules};
use crate::policy::compile::{BYTES_PER_KBIT, Compiler, text};
use crate::policy::ipv6::NetworkIpv6;
use crate::policy::registry::RuleKind;
use crate::rules::diagnostic::Place;
use crate::rules::set::{self, AclDirection, MappingType, PortRange};

impl<'a> Compiler<'a> {
    pub(super) fn network(&mut self, rules: &NetworkRules<'a>, realm: RealmId) -> Network {
        let network = rules.network;
        let owner: Arc<str> = network.name.as_str().into();
        let source_nat_rule = self.number_default(
            RuleKind::SourceNat,
            &owner,
            text::source_nat(network),
            &network.place,
        );
        let (egress, ingress_acl) = match &rules.acl {
            None => (self.egress(&owner, rules), None),
            Some(acl) => (
                self.acl(&owner, network, AclDirection::Egress, &acl.egress),
                Some(self.acl(&owner, network, AclDirection::Ingress, &acl.ingress)),
            ),
        };
        let ipv6 = network.ipv6.map(|ipv6| NetworkIpv6 {
            cidr: ipv6.cidr,
            gateway: ipv6.gateway,
            egress: egress.ipv6(),
            ingress: match &ingress_acl {
                None => self.ipv6_firewall(&owner, rules),
                Some(acl) => acl.ipv6(),
            },
        });
        Network {
            name: network.name.clone(),
            realm,
            domain: network.domain.as_ref().unwrap_or(&network.name).clone(),
            port: rules.port,
            vlan: network.vlan,
            cidr: network.cidr,
            gateway: network.gateway,
            ipv6,
            mtu: network.mtu,
            pool: self.pool(network),
            gateway_pool: self.gateway_pool(network),
            source_nat_rule,
            filtering: network.nat.filtering,
            hairpinning: network.nat.hairpinning,
            pptp: network.nat.pptp,
            exempt: network.nat.exempt.clone(),
            kernel: network.nat.kernel.clone(),
            anti_spoofing: network.anti_spoofing,
            has_siblings: false,
            transit: Vec::new(),
            mss_clamp: network.mss_clamp,
            limits: GuestLimits {
                sessions: network
                    .limits
                    .sessions_per_guest
                    .unwrap_or(self.config.sessions.per_guest),
                new_sessions_per_second: network.limits.new_sessions_per_second,
            },
            mapping_limits: MappingLimits {
                mappings: network.limits.mappings_per_guest,
                ports: network
                    .limits
                    .ports_per_guest
                    .unwrap_or(self.config.sessions.ports_per_guest),
            },
            egress: egress.ipv4(),
            egress_reject: network.egress_reject,
            ingress_acl: ingress_acl.map(|acl| acl.ipv4()),
            rate_limits: self.rate_limits(network),
        }
    }

    /// What a network and its guests may use, with what they used under former rules.
    fn rate_limits(&mut self, network: &set::Network) -> Option<Arc<NetworkLimits>> {
        let limits = &network.limits;
        let rate = |kbit_per_second: u64, packets| Rate {
            bytes: kbit_per_second.saturating_mul(BYTES_PER_KBIT),
            packets,
        };
        let rates = Rates {
            network: rate(limits.bandwidth_kbit_per_second, limits.packets_per_second),
            guest: rate(limits.guest_bandwidth_kbit_per_second, limits.guest_packets_per_second),
        };
        let guests = GuestCount {
            ipv4: 1 << (32 - u32::from(network.cidr.length())),
            ipv6: network.ipv6.is_some(),
        };
        (!rates.is_unlimited()).then(|| self.registry.rate_limits(&network.name, rates, guests))
    }

    /// The pool of a network, none if it asks for none. An address that is missing, or that a
    /// static NAT has for itself, gives nothing; if no other is left, the pool has it all the same
    /// with every port reserved: the network is never taken for a routed one.
    pub(super) fn pool(&self, network: &set::Network) -> Option<Pool> {
        let usable = |address: &&Ipv4Addr| {
            self.index.address(**address).is_some_and(|rules| rules.static_nats.is_empty())
        };
        let mut addresses: Vec<PoolAddress> = network
            .source_nat
            .iter()
            .filter(usable)
            .filter_map(|address| self.index.address(*address))
            .map(|rules| PoolAddress {
                address: rules.address.address,
                reserved: self.reserved(rules),
            })
            .collect();
        if addresses.is_empty() {
            addresses.push(PoolAddress {
                address: *network.source_nat.first()?,
                reserved: PORTED.map(|protocol| (protocol, 0..=u16::MAX)).to_vec(),
            });
        }
        Some(self.pool_of(network, addresses))
    }

    /// The router's own address in a network, as a pool for those who come in from others of its domain.
    /// Its low ports and the kernel's range stay the router's.
    fn gateway_pool(&self, network: &set::Network) -> Option<Pool> {
        if !network.nat.gateway_source_nat {
            return None;
        }
        let kernels = self.options.kernel_ports.iter().cloned();
        let ranges = kernels.chain([0..=LOW_PORTS]);
        let reserved = ranges.flat_map(|range| {
            [Protocol::TCP, Protocol::UDP].map(|protocol| (protocol, range.clone()))
        });
        let reserved = join(reserved.collect());
        Some(self.pool_of(network, vec![PoolAddress { address: network.gateway, reserved }]))
    }

    fn pool_of(&self, network: &set::Network, addresses: Vec<PoolAddress>) -> Pool {
        Pool {
            addresses,
            ports: network.nat.ports.first()..=network.nat.ports.last(),
            mapping: match network.nat.mapping {
                MappingType::AddressAndPortDependent => MappingBehavior::AddressAndPortDependent,
                MappingType::EndpointIndependent => MappingBehavior::EndpointIndependent,
            },
            overload: network.nat.overload,
            hold: network.nat.hold.unwrap_or(self.config.timeouts.port_hold),
        }
    }

    /// The ports of an address that no mapping may take: a guest that got one could stand in for
    /// the service there (CVE-2021-3773).
    fn reserved(&self, rules: &AddressRules<'a>) -> Vec<(Protocol, RangeInclusive<u16>)> {
        let every_port = 0..=u16::MAX;
        let range = |ports: PortRange| ports.first()..=ports.last();
        let mut reserved = Vec::new();
        for (_, rule) in &rules.forwards {
            reserved.push((rule.protocol, range(rule.public_ports)));
        }
        for (_, rule) in &rules.balancers {
            reserved.push((rule.protocol, rule.public_port.get()..=rule.public_port.get()));
        }
        for service in &rules.local {
            // An ICMP service is echo itself; identifiers stay free for the guests' queries.
            if service.protocol.has_ports() && service.protocol != Protocol::ICMP {
                reserved.push((service.protocol, service.ports.map_or(every_port.clone(), range)));
            }
        }
        let address = rules.address.address;
        let kernel = self.options.kernel_addresses.as_ref();
        if let Some(ports) = &self.options.kernel_ports
            && kernel.is_none_or(|addresses| addresses.contains(&address))
        {
            reserved
                .extend([Protocol::TCP, Protocol::UDP].map(|protocol| (protocol, ports.clone())));
        }
        join(reserved)
    }

    /// A number for what decides where no written rule does.
    pub(super) fn number_default(
        &mut self,
        kind: RuleKind,
        owner: &Arc<str>,
        text: String,
        place: &Place,
    ) -> RuleId {
        let id = format!("{}:{owner}", kind.as_str());
        self.number(kind, &id, owner, text, place)
    }
}

/// Ranges in ascending order, those that overlap or touch made one.
fn join(mut ranges: Vec<(Protocol, RangeInclusive<u16>)>) -> Vec<(Protocol, RangeInclusive<u16>)> {
    ranges.sort_by_key(|(protocol, ports)| (*protocol, *ports.start()));
    let mut joined: Vec<(Protocol, RangeInclusive<u16>)> = Vec::with_capacity(ranges.len());
    for (protocol, ports) in ranges {
        match joined.last_mut() {
            Some((last, before))
                if *last == protocol && *ports.start() <= before.end().saturating_add(1) =>
            {
                *before = *before.start()..=*before.end().max(ports.end());
            }
            Some(_) | None => joined.push((protocol, ports)),
        }
    }
    joined
}

/// Protocols that source NAT translates by port or identifier.
const PORTED: [Protocol; 6] = [
    Protocol::ICMP,
    Protocol::TCP,
    Protocol::UDP,
    Protocol::DCCP,
    Protocol::SCTP,
    Protocol::UDP_LITE,
];

/// Where the router's own services are (RFC 6335, section 6).
const LOW_PORTS: u16 = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        let ranges = vec![
            (udp, 5..=9),
            (tcp, 80..=80),
            (tcp, 81..=90),
            (tcp, 10..=20),
            (tcp, 15..=17),
            (tcp, 92..=u16::MAX),
            (tcp, 95..=96),
        ];
        assert_eq!(
            join(ranges),
            [(tcp, 10..=20), (tcp, 80..=90), (tcp, 92..=u16::MAX), (udp, 5..=9)]
        );
    }
}
