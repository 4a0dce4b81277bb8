//! The rules of a router, checked: addresses are addresses, ranges are in order, names resolve.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize, Serializer};

use crate::flow::Protocol;
pub use crate::rules::address_limits::AddressLimit;
use crate::rules::as_text;
use crate::rules::diagnostic::Place;
pub use crate::rules::encapsulation::{OuterTag, TagKind, Vxlan};
pub use crate::rules::health_check::HealthCheck;
pub use crate::rules::interface_filters::*;
pub use crate::rules::ipv6::{
    AnyCidr, FamilyPrefixes, Ipv6FirewallRule, Ipv6Route, NetworkIpv6, Prefixes, PublicIpv6,
};
pub use crate::rules::nat::{FilteringBehavior, MappingType, NatOptions};
pub use crate::rules::policy_routes::{PolicyHop, PolicyRoute};
pub use crate::rules::values::{Cidr, CidrError, PortRange, PortRangeError};

/// Everything the rule files say.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuleSet {
    /// Public addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub public_ips: Vec<PublicIp>,
    /// The router's IPv6 addresses on the public side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub public_ipv6: Vec<PublicIpv6>,
    /// Limits of public addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address_limits: Vec<AddressLimit>,
    /// Guest networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Egress rules, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_rules: Vec<EgressRule>,
    /// Ingress firewall rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firewall_rules: Vec<FirewallRule>,
    /// Who may open IPv6 sessions to guests, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv6_firewall_rules: Vec<Ipv6FirewallRule>,
    /// Static routes to prefixes behind guests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv6_routes: Vec<Ipv6Route>,
    /// Filters of interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interface_filters: Vec<InterfaceFilter>,
    /// Port forwards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
    /// Static NATs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub static_nats: Vec<StaticNat>,
    /// Load balancers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load_balancers: Vec<LoadBalancer>,
    /// Network ACLs: one per network and direction.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_acls: Vec<NetworkAcl>,
    /// Static routes inside realms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Policy routes, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_routes: Vec<PolicyRoute>,
    /// Services of the router's own kernel on public addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local_services: Vec<LocalService>,
}

/// What a filter does with what it matches.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Stops it.
    #[default]
    Deny,
}

/// The transport part of a filter rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The protocol; none matches all.
    #[serde(serialize_with = "protocol_or_all", deserialize_with = "as_text::protocol_or_all")]
    pub protocol: Option<Protocol>,
    /// Destination ports, for protocols with ports; none matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// ICMP type; none matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code; none matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
}

/// A public address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublicIp {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of the segment's prefix.
    pub prefix_len: u8,
    /// The interface it is on.
    pub interface: String,
    /// The VLAN it is on; zero for untagged.
    #[serde(skip_serializing_if = "is_default")]
    pub vlan: u16,
    /// The upstream router; none if nothing lies beyond the segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// What happens to what no firewall rule matches.
    pub ingress_default: Action,
    /// Whether its firewall is asked before the ACL of a tier behind it, too; else the ACL decides alone.
    #[serde(skip_serializing_if = "is_default")]
    pub firewall_before_acl: bool,
    /// Whether the router answers echo requests to it: `None` follows the firewall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_reply: Option<bool>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A guest network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Network {
    /// Its name, unique.
    pub name: String,
    /// The interface it is on.
    pub interface: String,
    /// Its VLAN; zero for untagged.
    #[serde(skip_serializing_if = "is_default")]
    pub vlan: u16,
    /// The tag in front of that of its VLAN, if it has two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_tag: Option<OuterTag>,
    /// Of a VXLAN network: where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// Its prefix.
    pub cidr: Cidr,
    /// The router's address in it.
    pub gateway: Ipv4Addr,
    /// Its IPv6 side, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NetworkIpv6>,
    /// Its MTU in bytes; none means the interface's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Its realm; networks of one domain route to each other. None: a realm of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Its pool of source-NAT addresses; empty for none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_nat: Vec<Ipv4Addr>,
    /// What happens to what no egress rule matches.
    pub egress_default: Action,
    /// Whether refused egress is told with ICMP 3/13 rather than silence.
    #[serde(skip_serializing_if = "is_default")]
    pub egress_reject: bool,
    /// NAT behaviour.
    #[serde(skip_serializing_if = "is_default")]
    pub nat: NatOptions,
    /// Limits.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// The largest TCP MSS let through; none leaves it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mss_clamp: Option<MssClamp>,
    /// Whether sources outside the network are dropped.
    #[serde(skip_serializing_if = "is_true")]
    pub anti_spoofing: bool,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// How the MSS option of SYNs is lowered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MssClamp {
    /// To what fits the smaller of the two links' MTUs.
    PathMtu,
    /// To this many bytes.
    To(u16),
}

/// Limits of a network; zero means none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Limits {
    /// Concurrent sessions of one guest; none means the configuration's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_per_guest: Option<u32>,
    /// External ports of each protocol that one guest may have; none means the configuration's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports_per_guest: Option<u32>,
    /// Mappings of one guest, over all protocols.
    #[serde(skip_serializing_if = "is_default")]
    pub mappings_per_guest: u32,
    /// New sessions per second of one guest.
    #[serde(skip_serializing_if = "is_default")]
    pub new_sessions_per_second: u32,
    /// Bandwidth of the network, each way, in kilobits per second.
    #[serde(skip_serializing_if = "is_default")]
    pub bandwidth_kbit_per_second: u64,
    /// Packets of the network per second, each way.
    #[serde(skip_serializing_if = "is_default")]
    pub packets_per_second: u64,
    /// Bandwidth of one guest, each way, in kilobits per second.
    #[serde(skip_serializing_if = "is_default")]
    pub guest_bandwidth_kbit_per_second: u64,
    /// Packets of one guest per second, each way.
    #[serde(skip_serializing_if = "is_default")]
    pub guest_packets_per_second: u64,
}

/// An egress rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EgressRule {
    /// Its id, unique among egress rules.
    pub id: String,
    /// The network it belongs to.
    pub network: String,
    /// What it does.
    pub action: Action,
    /// The transport part.
    #[serde(flatten)]
    pub matches: Match,
    /// Guests it is about; empty means all.
    #[serde(skip_serializing_if = "Prefixes::is_empty")]
    pub sources: Prefixes,
    /// Destinations; empty means all.
    #[serde(skip_serializing_if = "Prefixes::is_empty")]
    pub destinations: Prefixes,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// An ingress firewall rule: matches before translation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirewallRule {
    /// Its id, unique among firewall rules.
    pub id: String,
    /// The public address it belongs to.
    pub public_ip: Ipv4Addr,
    /// What it does; `allow` unless written otherwise.
    pub action: Action,
    /// The transport part; ports are public ports.
    #[serde(flatten)]
    pub matches: Match,
    /// Sources; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A port forward.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortForward {
    /// Its id, unique among port forwards.
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// TCP or UDP.
    #[serde(serialize_with = "protocol")]
    pub protocol: Protocol,
    /// The public ports.
    pub public_ports: PortRange,
    /// The guest's network.
    pub network: String,
    /// The guest; none while detached.
    pub guest_ip: Option<Ipv4Addr>,
    /// The guest's ports: as many, or one for all.
    pub guest_ports: PortRange,
    /// Who may use it; empty means everybody the firewall lets in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A static NAT.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StaticNat {
    /// Its id, unique among static NATs.
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// The guest's network.
    pub network: String,
    /// The guest; none while detached.
    pub guest_ip: Option<Ipv4Addr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadBalancer {
    /// Its id, unique among load balancers.
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// TCP or UDP.
    #[serde(serialize_with = "protocol")]
    pub protocol: Protocol,
    /// The public port.
    pub public_port: NonZeroU16,
    /// The members' network.
    pub network: String,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// The members; may be empty.
    pub members: Vec<Member>,
    /// How members are checked; none: they are taken to be well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Who may use it; empty means everybody the firewall lets in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// How a load balancer chooses.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// The member with the fewest sessions for its weight.
    LeastConnections,
    /// In turn, by weight.
    RoundRobin,
    /// By the client's address, so that a client stays.
    Source,
}

/// A member of a load balancer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The guest.
    pub guest_ip: Ipv4Addr,
    /// Its port.
    pub guest_port: NonZeroU16,
    /// Its share; zero drains it.
    pub weight: u16,
}

/// Which way a network ACL looks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AclDirection {
    /// Out of the network.
    Egress,
    /// Into the network.
    Ingress,
}

/// A network ACL.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkAcl {
    /// The network it governs.
    pub network: String,
    /// Which way.
    pub direction: AclDirection,
    /// Its entries, by ascending number; the default behind them is deny.
    pub entries: Vec<AclEntry>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// An entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AclEntry {
    /// Its number, unique in its ACL.
    pub number: u32,
    /// What it does.
    pub action: Action,
    /// The transport part.
    #[serde(flatten)]
    pub matches: Match,
    /// The guests it is about; empty means all.
    #[serde(skip_serializing_if = "Prefixes::is_empty")]
    pub guests: Prefixes,
    /// The other end: the source of an ingress entry, the destination of an egress entry.
    #[serde(
        rename = "cidr",
        serialize_with = "one_or_list",
        skip_serializing_if = "Prefixes::is_empty"
    )]
    pub cidrs: Prefixes,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A static route inside a realm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// The realm: a `domain`, or the name of a network that has none.
    pub domain: String,
    /// What it leads to.
    pub destination: Cidr,
    /// The next hop, in one of the realm's networks.
    pub via: Ipv4Addr,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A service of the router's own kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalService {
    /// The public address.
    pub address: Ipv4Addr,
    /// TCP, UDP, or another protocol without ports.
    #[serde(serialize_with = "protocol")]
    pub protocol: Protocol,
    /// Its ports; none for a protocol without ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// Who may use it; empty means everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::PathMtu => serializer.serialize_str("path-mtu"),
            Self::To(bytes) => serializer.serialize_u16(*bytes),
        }
    }
}

fn protocol<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(protocol)
}

fn protocol_or_all<S: Serializer>(
    protocol: &Option<Protocol>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match protocol {
        None => serializer.serialize_str("all"),
        Some(protocol) => serializer.collect_str(protocol),
    }
}

fn one_or_list<S: Serializer>(cidrs: &Prefixes, serializer: S) -> Result<S::Ok, S::Error> {
    match cidrs.iter().next() {
        Some(cidr) if cidrs.len() == 1 => cidr.serialize(serializer),
        Some(_) | None => cidrs.serialize(serializer),
    }
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_true(value: &bool) -> bool {
    *value
}
