//! What people see of a policy: `natwerk show policy`, `networks`, `pools` and `rules`.

use serde::Serialize;

use crate::nat::mappings::{MappingBehavior, Pool};
use crate::policy::registry::RuleInfo;
use crate::policy::{Network, Policy, PublicAddress};
use crate::rules::set::{Action, FilteringBehavior};

/// A policy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PolicySummary {
    /// Its number.
    pub generation: u16,
    /// The guest networks.
    pub networks: Vec<NetworkSummary>,
    /// The public addresses.
    pub public_addresses: Vec<AddressSummary>,
    /// The rules in display order.
    pub rules: Vec<RuleSummary>,
    /// Bytes that the filters take.
    pub filter_bytes: usize,
}

/// A guest network.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NetworkSummary {
    /// Its name.
    pub name: String,
    /// Its realm's name.
    pub domain: String,
    /// Its realm's number.
    pub realm: u16,
    /// Its interface, by place in the configuration.
    pub port: u8,
    /// Its tag; zero for untagged.
    pub vlan: u16,
    /// Its prefix.
    pub cidr: String,
    /// The router's address in it.
    pub gateway: String,
    /// Its IPv6 prefix, if it has one.
    pub ipv6_cidr: Option<String>,
    /// The router's IPv6 address in it.
    pub ipv6_gateway: Option<String>,
    /// Its MTU, if smaller than the interface's.
    pub mtu: Option<u16>,
    /// Its source NAT; none for a routed network.
    pub pool: Option<PoolSummary>,
    /// Who may send inbound through a mapping.
    pub filtering: &'static str,
    /// Whether guests reach each other through public addresses.
    pub hairpinning: bool,
    /// Whether sources outside it are dropped.
    pub anti_spoofing: bool,
    /// Sessions one guest may have; zero for no limit.
    pub sessions_per_guest: u32,
    /// External ports of each protocol that one guest may have; zero for no limit.
    pub ports_per_guest: u32,
    /// Mappings one guest may have; zero for no limit.
    pub mappings_per_guest: u32,
    /// Sessions one guest may start per second; zero for no limit.
    pub new_sessions_per_second: u32,
    /// Whether it is a VPC tier, governed by network ACLs.
    pub tier: bool,
    /// What happens to egress that no rule matches.
    pub egress_default: &'static str,
    /// How many egress rules or egress ACL entries it has.
    pub egress_rules: usize,
    /// How many ingress ACL entries it has.
    pub ingress_rules: usize,
}

/// A pool of source-NAT addresses.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PoolSummary {
    /// The addresses, with what is reserved on each.
    pub addresses: Vec<PoolAddressSummary>,
    /// The first port that may be given out.
    pub first_port: u16,
    /// The last.
    pub last_port: u16,
    /// RFC 4787's name of the mapping behaviour.
    pub mapping: &'static str,
    /// Whether ports are shared once none is free.
    pub overload: bool,
    /// How long a freed port rests, in seconds.
    pub hold_seconds: u64,
}

/// An address of a pool.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PoolAddressSummary {
    /// The address.
    pub address: String,
    /// Its reserved ports, such as `tcp 80-90`.
    pub reserved: Vec<String>,
}

/// A public address.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AddressSummary {
    /// The address.
    pub address: String,
    /// Its segment.
    pub segment: String,
    /// Its interface, by place in the configuration.
    pub port: u8,
    /// Its tag; zero for untagged.
    pub vlan: u16,
    /// The upstream router.
    pub gateway: Option<String>,
    /// What happens to what no firewall rule matches; none where ACLs of VPC tiers govern.
    pub ingress_default: Option<&'static str>,
    /// How many firewall rules it has.
    pub firewall_rules: usize,
}

/// A rule.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RuleSummary {
    /// Its number.
    pub number: u32,
    /// Its kind.
    pub kind: &'static str,
    /// Its id in the rule file.
    pub id: String,
    /// The network or public address it belongs to.
    pub owner: String,
    /// What it says.
    pub text: String,
    /// Where it was written.
    pub place: String,
}

impl Policy {
    /// The policy, for people to look at.
    #[must_use]
    pub fn summary(&self) -> PolicySummary {
        PolicySummary {
            generation: self.generation.0,
            networks: self.networks.iter().map(NetworkSummary::from).collect(),
            public_addresses: self.public_addresses.iter().map(AddressSummary::from).collect(),
            rules: self.rules.iter().map(RuleSummary::from).collect(),
            filter_bytes: self.filter_bytes(),
        }
    }

    /// Bytes that the filters take.
    #[must_use]
    pub fn filter_bytes(&self) -> usize {
        let of_networks = self.networks.iter().map(|network| {
            network.egress.bytes() + network.ingress_acl.as_ref().map_or(0, |acl| acl.bytes())
        });
        let of_ipv6 = self.networks.iter().filter_map(|network| network.ipv6.as_ref());
        let of_ipv6: usize = of_ipv6.map(|ipv6| ipv6.egress.bytes() + ipv6.ingress.bytes()).sum();
        let of_addresses =
            self.public_addresses.iter().filter_map(|public| public.ingress.as_ref());
        of_networks.sum::<usize>()
            + of_ipv6
            + of_addresses.map(|filter| filter.bytes()).sum::<usize>()
    }
}

impl From<&Network> for NetworkSummary {
    fn from(network: &Network) -> Self {
        Self {
            name: network.name.clone(),
            domain: network.domain.clone(),
            realm: network.realm.0.get(),
            port: network.port.0,
            vlan: network.vlan,
            cidr: network.cidr.to_string(),
            gateway: network.gateway.to_string(),
            ipv6_cidr: network.ipv6.as_ref().map(|ipv6| ipv6.cidr.to_string()),
            ipv6_gateway: network.ipv6.as_ref().map(|ipv6| ipv6.gateway.to_string()),
            mtu: network.mtu,
            pool: network.pool.as_ref().map(PoolSummary::from),
            filtering: match network.filtering {
                FilteringBehavior::AddressAndPortDependent => "address-and-port-dependent",
                FilteringBehavior::AddressDependent => "address-dependent",
                FilteringBehavior::EndpointIndependent => "endpoint-independent",
            },
            hairpinning: network.hairpinning,
            anti_spoofing: network.anti_spoofing,
            sessions_per_guest: network.limits.sessions,
            ports_per_guest: network.mapping_limits.ports,
            mappings_per_guest: network.mapping_limits.mappings,
            new_sessions_per_second: network.limits.new_sessions_per_second,
            tier: network.ingress_acl.is_some(),
            egress_default: name(network.egress.default_decision().action),
            egress_rules: network.egress.rule_count(),
            ingress_rules: network.ingress_acl.as_ref().map_or(0, |acl| acl.rule_count()),
        }
    }
}

impl From<&Pool> for PoolSummary {
    fn from(pool: &Pool) -> Self {
        let addresses = pool.addresses.iter().map(|address| PoolAddressSummary {
            address: address.address.to_string(),
            reserved: address
                .reserved
                .iter()
                .map(|(protocol, ports)| match (ports.start(), ports.end()) {
                    (first, last) if first == last => format!("{protocol} {first}"),
                    (first, last) => format!("{protocol} {first}-{last}"),
                })
                .collect(),
        });
        Self {
            addresses: addresses.collect(),
            first_port: *pool.ports.start(),
            last_port: *pool.ports.end(),
            mapping: match pool.mapping {
                MappingBehavior::AddressAndPortDependent => "address-and-port-dependent",
                MappingBehavior::EndpointIndependent => "endpoint-independent",
            },
            overload: pool.overload,
            hold_seconds: pool.hold.as_secs(),
        }
    }
}

impl From<&PublicAddress> for AddressSummary {
    fn from(public: &PublicAddress) -> Self {
        let filter = public.ingress.as_ref();
        Self {
            address: public.address.to_string(),
            segment: public.segment.to_string(),
            port: public.port.0,
            vlan: public.vlan,
            gateway: public.gateway.map(|gateway| gateway.to_string()),
            ingress_default: filter.map(|filter| name(filter.default_decision().action)),
            firewall_rules: filter.map_or(0, |filter| filter.rule_count()),
        }
    }
}

impl From<&RuleInfo> for RuleSummary {
    fn from(info: &RuleInfo) -> Self {
        Self {
            number: info.rule.0,
            kind: info.kind.as_str(),
            id: info.id.clone(),
            owner: info.owner.to_string(),
            text: info.text.clone(),
            place: info.place.to_string(),
        }
    }
}

const fn name(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    }
}
