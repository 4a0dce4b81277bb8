//! What rules are called: their kinds, and names that stay the same from one reading to the next.

use std::fmt;

use serde::Serialize;

/// A kind of rule: a list of the rule file.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// `address_limits`.
    AddressLimit,
    /// `egress_rules`.
    EgressRule,
    /// `firewall_rules`.
    FirewallRule,
    /// `interface_filters`.
    InterfaceFilter,
    /// `ipv6_firewall_rules`.
    Ipv6FirewallRule,
    /// `ipv6_routes`.
    Ipv6Route,
    /// `load_balancers`.
    LoadBalancer,
    /// `local_services`.
    LocalService,
    /// `networks`.
    Network,
    /// `network_acls`.
    NetworkAcl,
    /// `policy_routes`.
    PolicyRoute,
    /// `port_forwards`.
    PortForward,
    /// `public_ips`.
    PublicIp,
    /// `public_ipv6`.
    PublicIpv6,
    /// `routes`.
    Route,
    /// `static_nats`.
    StaticNat,
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AddressLimit => "address limit",
            Self::EgressRule => "egress rule",
            Self::FirewallRule => "firewall rule",
            Self::InterfaceFilter => "interface filter",
            Self::Ipv6FirewallRule => "IPv6 firewall rule",
            Self::Ipv6Route => "IPv6 route",
            Self::LoadBalancer => "load balancer",
            Self::LocalService => "local service",
            Self::Network => "network",
            Self::NetworkAcl => "network ACL",
            Self::PolicyRoute => "policy route",
            Self::PortForward => "port forward",
            Self::PublicIp => "public address",
            Self::PublicIpv6 => "public IPv6 address",
            Self::Route => "route",
            Self::StaticNat => "static NAT",
        })
    }
}

/// The name of a rule: unique in a rule set.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RuleName {
    /// Its kind.
    pub kind: RuleKind,
    /// Its id, or what tells it from the others of its kind.
    pub id: String,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind, self.id)
    }
}
