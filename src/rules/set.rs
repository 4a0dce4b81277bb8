//! The rules of a router, checked: addresses are addresses, ranges are in order, names resolve.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::flow::Protocol;
use crate::rules::diagnostic::Place;

/// Everything the rule files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSet {
    /// Public addresses.
    pub public_ips: Vec<PublicIp>,
    /// Guest networks.
    pub networks: Vec<Network>,
    /// Egress rules, in order.
    pub egress_rules: Vec<EgressRule>,
    /// Ingress firewall rules.
    pub firewall_rules: Vec<FirewallRule>,
    /// Port forwards.
    pub port_forwards: Vec<PortForward>,
    /// Static NATs.
    pub static_nats: Vec<StaticNat>,
    /// Load balancers.
    pub load_balancers: Vec<LoadBalancer>,
    /// Network ACLs: one per network and direction.
    pub network_acls: Vec<NetworkAcl>,
    /// Static routes inside realms.
    pub routes: Vec<Route>,
    /// Services of the router's own kernel on public addresses.
    pub local_services: Vec<LocalService>,
}

/// An IPv4 prefix with no bits set behind its length.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cidr {
    address: Ipv4Addr,
    length: u8,
}

/// Why a prefix is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CidrError {
    /// Bits are set behind the prefix length.
    #[error("bits are set behind the prefix length")]
    HostBits,
    /// Not `address/length` at all.
    #[error("not an IPv4 prefix such as 10.1.1.0/24")]
    Malformed,
}

impl Cidr {
    /// Everything: `0.0.0.0/0`.
    pub const ANY: Self = Self { address: Ipv4Addr::UNSPECIFIED, length: 0 };

    /// The prefix `address/length`.
    ///
    /// # Errors
    /// When the length is over 32 or bits are set behind it.
    pub fn new(address: Ipv4Addr, length: u8) -> Result<Self, CidrError> {
        if length > 32 {
            return Err(CidrError::Malformed);
        }
        let cidr = Self { address, length };
        if address.to_bits() & !cidr.mask() != 0 {
            return Err(CidrError::HostBits);
        }
        Ok(cidr)
    }

    /// The prefix of `length` bits that `address` is in.
    #[must_use]
    pub fn containing(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        let mask = Self { address, length }.mask();
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), length }
    }

    /// The lowest address.
    #[must_use]
    pub const fn first(&self) -> Ipv4Addr {
        self.address
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// The prefix length.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The netmask as bits.
    #[must_use]
    pub const fn mask(&self) -> u32 {
        match self.length {
            0 => 0,
            length => u32::MAX << (32 - length),
        }
    }

    /// Whether `address` is inside.
    #[must_use]
    pub const fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.address.to_bits()
    }

    /// Whether any address is in both.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address = address.parse().map_err(|_| CidrError::Malformed)?;
        let length = length.parse().map_err(|_| CidrError::Malformed)?;
        Self::new(address, length)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.length))
    }
}

/// One or more consecutive ports: not empty, in order, free of port 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// Why a port range is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortRangeError {
    /// The last port is below the first.
    #[error("the last port is below the first")]
    Descending,
    /// Not a number from 1 to 65535.
    #[error("a port is a number from 1 to 65535")]
    NotAPort,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: NonZeroU16::MIN, last: NonZeroU16::MAX };

    /// The ports from `first` to `last`.
    ///
    /// # Errors
    /// When either is zero or they are out of order.
    pub fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        let first = NonZeroU16::new(first).ok_or(PortRangeError::NotAPort)?;
        let last = NonZeroU16::new(last).ok_or(PortRangeError::NotAPort)?;
        if first > last {
            return Err(PortRangeError::Descending);
        }
        Ok(Self { first, last })
    }

    /// The first port.
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first.get()
    }

    /// The last port.
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last.get()
    }

    /// How many ports.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.last.get() as u32 - self.first.get() as u32 + 1
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.first.get() <= port && port <= self.last.get()
    }

    /// Whether any port is in both.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

impl std::str::FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse().map_err(|_| PortRangeError::NotAPort);
        Self::new(port(first)?, port(last)?)
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            f.pad(&self.first.to_string())
        } else {
            f.pad(&format!("{}-{}", self.first, self.last))
        }
    }
}

/// What a filter does with what it matches.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Stops it.
    #[default]
    Deny,
}

/// The transport part of a filter rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Match {
    /// The protocol; none matches all.
    pub protocol: Option<Protocol>,
    /// Destination ports, for protocols with ports; none matches all.
    pub ports: Option<PortRange>,
    /// ICMP type; none matches all.
    pub icmp_type: Option<u8>,
    /// ICMP code; none matches all.
    pub icmp_code: Option<u8>,
}

/// A public address.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicIp {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of the segment's prefix.
    pub prefix_len: u8,
    /// The interface it is on.
    pub interface: String,
    /// The VLAN it is on; zero for untagged.
    pub vlan: u16,
    /// The upstream router; none if nothing lies beyond the segment.
    pub gateway: Option<Ipv4Addr>,
    /// What happens to what no firewall rule matches.
    pub ingress_default: Action,
    /// Whether the router answers echo requests to it: `None` follows the firewall.
    pub echo_reply: Option<bool>,
    /// Where it was written.
    pub place: Place,
}

/// A guest network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name, unique.
    pub name: String,
    /// The interface it is on.
    pub interface: String,
    /// Its VLAN; zero for untagged.
    pub vlan: u16,
    /// Its prefix.
    pub cidr: Cidr,
    /// The router's address in it.
    pub gateway: Ipv4Addr,
    /// Its MTU in bytes; none means the interface's.
    pub mtu: Option<u16>,
    /// Its realm; networks of one domain route to each other. None: a realm of its own.
    pub domain: Option<String>,
    /// Its pool of source-NAT addresses; empty for none.
    pub source_nat: Vec<Ipv4Addr>,
    /// What happens to what no egress rule matches.
    pub egress_default: Action,
    /// Whether refused egress is told with ICMP 3/13 rather than silence.
    pub egress_reject: bool,
    /// NAT behaviour.
    pub nat: NatOptions,
    /// Limits.
    pub limits: Limits,
    /// The largest TCP MSS let through; none leaves it alone.
    pub mss_clamp: Option<MssClamp>,
    /// Whether sources outside the network are dropped.
    pub anti_spoofing: bool,
    /// Where it was written.
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

/// NAT behaviour of a network; names follow RFC 8512 where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct NatOptions {
    /// `mapping-type`.
    pub mapping: MappingType,
    /// `filtering-type`.
    pub filtering: FilteringBehavior,
    /// External ports that may be given out.
    pub ports: PortRange,
    /// Whether ports are shared between remotes once none is free.
    pub overload: bool,
    /// `hold-down-timeout`; none means the configuration's.
    pub hold: Option<Duration>,
    /// Whether guests reach each other through public addresses.
    pub hairpinning: bool,
    /// Destinations that are not translated.
    pub exempt: Vec<Cidr>,
}

impl Default for NatOptions {
    fn default() -> Self {
        Self {
            mapping: MappingType::EndpointIndependent,
            filtering: FilteringBehavior::AddressAndPortDependent,
            ports: PortRange::ALL,
            overload: true,
            hold: None,
            hairpinning: true,
            exempt: Vec::new(),
        }
    }
}

/// RFC 4787, section 4.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MappingType {
    /// `edm`.
    AddressAndPortDependent,
    /// `eim`.
    EndpointIndependent,
}

/// Who may send inbound through a mapping (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FilteringBehavior {
    /// Only endpoints the guest has sent to.
    AddressAndPortDependent,
    /// Any port of addresses the guest has sent to.
    AddressDependent,
    /// Anybody.
    EndpointIndependent,
}

/// Limits of a network; zero means none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Concurrent sessions of one guest; none means the configuration's.
    pub sessions_per_guest: Option<u32>,
    /// New sessions per second of one guest.
    pub new_sessions_per_second: u32,
    /// Bandwidth of the network, each way, in kilobits per second.
    pub bandwidth_kbit_per_second: u64,
}

/// An egress rule.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressRule {
    /// Its id, unique among egress rules.
    pub id: String,
    /// The network it belongs to.
    pub network: String,
    /// What it does.
    pub action: Action,
    /// The transport part.
    pub matches: Match,
    /// Guests it is about; empty means all.
    pub sources: Vec<Cidr>,
    /// Destinations; empty means all.
    pub destinations: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// An ingress firewall rule: matches before translation.
#[derive(Clone, Debug, PartialEq)]
pub struct FirewallRule {
    /// Its id, unique among firewall rules.
    pub id: String,
    /// The public address it belongs to.
    pub public_ip: Ipv4Addr,
    /// What it does; `allow` unless written otherwise.
    pub action: Action,
    /// The transport part; ports are public ports.
    pub matches: Match,
    /// Sources; empty means all.
    pub sources: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// A port forward.
#[derive(Clone, Debug, PartialEq)]
pub struct PortForward {
    /// Its id, unique among port forwards.
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// TCP or UDP.
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
    pub sources: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// A static NAT.
#[derive(Clone, Debug, PartialEq)]
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
    pub place: Place,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// Its id, unique among load balancers.
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The public port.
    pub public_port: NonZeroU16,
    /// The members' network.
    pub network: String,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// The members; may be empty.
    pub members: Vec<Member>,
    /// Who may use it; empty means everybody the firewall lets in.
    pub sources: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// How a load balancer chooses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// The member with the fewest sessions for its weight.
    LeastConnections,
    /// In turn, by weight.
    RoundRobin,
    /// By the client's address, so that a client stays.
    Source,
}

/// A member of a load balancer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// The guest.
    pub guest_ip: Ipv4Addr,
    /// Its port.
    pub guest_port: NonZeroU16,
    /// Its share; zero drains it.
    pub weight: u16,
}

/// Which way a network ACL looks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AclDirection {
    /// Out of the network.
    Egress,
    /// Into the network.
    Ingress,
}

/// A network ACL.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkAcl {
    /// The network it governs.
    pub network: String,
    /// Which way.
    pub direction: AclDirection,
    /// Its entries, by ascending number; the default behind them is deny.
    pub entries: Vec<AclEntry>,
    /// Where it was written.
    pub place: Place,
}

/// An entry of a network ACL.
#[derive(Clone, Debug, PartialEq)]
pub struct AclEntry {
    /// Its number, unique in its ACL.
    pub number: u32,
    /// What it does.
    pub action: Action,
    /// The transport part.
    pub matches: Match,
    /// The other end: the source of an ingress entry, the destination of an egress entry.
    pub cidrs: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// A static route inside a realm.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The realm: a `domain`, or the name of a network that has none.
    pub domain: String,
    /// What it leads to.
    pub destination: Cidr,
    /// The next hop, in one of the realm's networks.
    pub via: Ipv4Addr,
    /// Where it was written.
    pub place: Place,
}

/// A service of the router's own kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalService {
    /// The public address.
    pub address: Ipv4Addr,
    /// TCP, UDP, or another protocol without ports.
    pub protocol: Protocol,
    /// Its ports; none for a protocol without ports.
    pub ports: Option<PortRange>,
    /// Where it was written.
    pub place: Place,
}
