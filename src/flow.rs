//! The vocabulary of flows as plain values: realms, endpoints, keys, directions.
//!
//! Everything here is in host byte order; network order lives in `wire` and nowhere else.

mod family;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

pub use family::{Bits, Family};

/// An interface of the engine: its place in the configuration's list of interfaces.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortId(pub u8);

impl PortId {
    /// The index into per-port tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The side of this interface that networks under two tags are on.
    #[must_use]
    pub const fn double_tagged(self) -> Self {
        Self(self.0 | DOUBLE_TAGGED)
    }

    /// The side of this interface that VXLAN networks are on.
    #[must_use]
    pub const fn vxlan(self) -> Self {
        Self(self.0 | VXLAN)
    }

    /// Whether it is such a side, not an interface itself.
    #[must_use]
    pub const fn is_encapsulated(self) -> bool {
        self.0 >= Self::INTERFACES_MAX
    }

    /// Whether it is the side of VXLAN networks.
    #[must_use]
    pub const fn is_vxlan(self) -> bool {
        self.0 & VXLAN != 0
    }

    /// The interface itself, of whichever side.
    #[must_use]
    pub const fn interface(self) -> Self {
        Self(self.0 & (Self::INTERFACES_MAX - 1))
    }

    /// How many interfaces there can be; sides have numbers above.
    pub const INTERFACES_MAX: u8 = 32;
}

const DOUBLE_TAGGED: u8 = PortId::INTERFACES_MAX;
const VXLAN: u8 = PortId::INTERFACES_MAX << 1;

/// Two VLAN tags in front of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DoubleTag {
    /// The EtherType of the outer one: 0x88a8 (IEEE 802.1ad) or 0x8100.
    pub outer_type: u16,
    /// The outer VLAN identifier.
    pub outer: u16,
    /// The inner one, whose EtherType is 0x8100.
    pub inner: u16,
}

/// An internal address realm: one `domain` of the rule file. Never zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RealmId(pub std::num::NonZeroU16);

/// The network domain in which an address is unique (RFC 2663, section 2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Realm {
    /// The public side.
    External,
    /// A domain of guest networks.
    Internal(RealmId),
}

impl Realm {
    /// The realm as sixteen bits: zero is the external one.
    #[must_use]
    pub const fn as_raw(self) -> u16 {
        match self {
            Self::External => 0,
            Self::Internal(RealmId(id)) => id.get(),
        }
    }

    /// The realm that [`Self::as_raw`] made.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        match std::num::NonZeroU16::new(raw) {
            None => Self::External,
            Some(id) => Self::Internal(RealmId(id)),
        }
    }
}

/// An IP protocol number (IANA "Protocol Numbers").
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792). The query identifier stands in for both ports.
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// DCCP (RFC 4340).
    pub const DCCP: Self = Self(33);
    /// GRE (RFC 2784).
    pub const GRE: Self = Self(47);
    /// ESP (RFC 4303).
    pub const ESP: Self = Self(50);
    /// AH (RFC 4302).
    pub const AH: Self = Self(51);
    /// ICMPv6 (RFC 4443). In IPv6 flows the query identifier stands in for both ports.
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: Self = Self(136);

    /// Whether it is the ICMP of either family, whose "ports" are query identifiers.
    #[must_use]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }

    /// Whether an IPv4 endpoint of this protocol has a port (or a query identifier) of its own, which
    /// source NAT translates.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(
            self,
            Self::ICMP | Self::TCP | Self::UDP | Self::DCCP | Self::SCTP | Self::UDP_LITE
        )
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.pad("icmp"),
            Self::TCP => f.pad("tcp"),
            Self::UDP => f.pad("udp"),
            Self::DCCP => f.pad("dccp"),
            Self::GRE => f.pad("gre"),
            Self::ESP => f.pad("esp"),
            Self::AH => f.pad("ah"),
            Self::ICMPV6 => f.pad("icmpv6"),
            Self::SCTP => f.pad("sctp"),
            Self::UDP_LITE => f.pad("udplite"),
            Self(number) => f.pad(&number.to_string()),
        }
    }
}

/// Address and port, `X:x` (RFC 4787, section 4.1). The port of an ICMP query is its identifier;
/// of a protocol without ports it is zero.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint<A: Family = Ipv4Addr> {
    /// The address.
    pub address: A,
    /// The port, in host byte order.
    pub port: u16,
}

impl<A: Family> Endpoint<A> {
    /// The endpoint `address:port`.
    #[must_use]
    pub const fn new(address: A, port: u16) -> Self {
        Self { address, port }
    }
}

impl<A: Family> fmt::Display for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.into() {
            IpAddr::V4(address) => f.pad(&format!("{address}:{}", self.port)),
            IpAddr::V6(address) => f.pad(&format!("[{address}]:{}", self.port)),
        }
    }
}

impl<A: Family> fmt::Debug for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a packet says of its flow: the 5-tuple as seen in one realm (RFC 6146, section 2).
///
/// For an ICMP query both ports are the identifier. A reply's key is [`FlowKey::reversed`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowKey<A: Family = Ipv4Addr> {
    /// The realm the packet is seen in.
    pub realm: Realm,
    /// The IP protocol.
    pub protocol: Protocol,
    /// Where the packet comes from.
    pub source: Endpoint<A>,
    /// Where the packet goes to.
    pub destination: Endpoint<A>,
}

impl FlowKey {
    /// The key as two words, as entries store and compare it:
    /// `source address << 32 | destination address` and
    /// `source port << 48 | destination port << 32 | realm << 16 | protocol << 8`.
    /// The lowest byte of the second word is zero and free for its keeper.
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        [
            (self.source.address.to_bits() as u64) << 32
                | self.destination.address.to_bits() as u64,
            self.rest(),
        ]
    }

    /// The key that [`Self::words`] made; the lowest byte of the second word is ignored.
    #[must_use]
    pub const fn from_words([addresses, rest]: [u64; 2]) -> Self {
        let source = Ipv4Addr::from_bits((addresses >> 32) as u32);
        Self::from_rest(source, Ipv4Addr::from_bits(addresses as u32), rest)
    }
}

impl<A: Family> FlowKey<A> {
    /// All but the addresses as a word: see [`FlowKey::words`].
    #[must_use]
    pub const fn rest(&self) -> u64 {
        (self.source.port as u64) << 48
            | (self.destination.port as u64) << 32
            | (self.realm.as_raw() as u64) << 16
            | (self.protocol.0 as u64) << 8
    }

    /// The key with these addresses and what [`Self::rest`] made of the others; the lowest byte is
    /// ignored.
    #[must_use]
    pub const fn from_rest(source: A, destination: A, rest: u64) -> Self {
        Self {
            realm: Realm::from_raw((rest >> 16) as u16),
            protocol: Protocol((rest >> 8) as u8),
            source: Endpoint::new(source, (rest >> 48) as u16),
            destination: Endpoint::new(destination, (rest >> 32) as u16),
        }
    }

    /// The same flow seen from the other end, in the same realm.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

impl<A: Family> fmt::Display for FlowKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)
    }
}

/// Which way a packet flow of a session goes: out of, or into, an internal realm.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Towards an internal realm.
    Inbound,
    /// Out of an internal realm.
    Outbound,
}

/// An Ethernet address.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: broadcast or multicast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address as the low 48 bits of a word, first octet highest.
    #[must_use]
    pub const fn as_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address in the low 48 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

/// The link addresses that a frame with an IPv4 packet begins with, ready to be written: its first eight bytes and
/// the eight from the seventh on, each read as a little-endian word. What stands above the 48 bits of the first
/// is of no interest; above those of the second stands IPv4's type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkWords(pub [u64; 2]);

impl LinkWords {
    /// Those of a frame from `source` to `destination`.
    #[must_use]
    pub const fn new([destination, source]: [Mac; 2]) -> Self {
        Self([Self::word(destination), Self::word_of_source(source)])
    }

    /// An address as a frame has it.
    #[must_use]
    pub const fn word(Mac([a, b, c, d, e, f]): Mac) -> u64 {
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The second word of a frame from `source`.
    #[must_use]
    pub const fn word_of_source(source: Mac) -> u64 {
        Self::word(source) | u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0x08, 0x00])
    }

    /// Destination and source.
    #[must_use]
    pub fn addresses(self) -> [Mac; 2] {
        self.0.map(Self::address)
    }

    /// The address of a word, whatever stands above it.
    #[must_use]
    pub const fn address(word: u64) -> Mac {
        let [a, b, c, d, e, f, ..] = word.to_le_bytes();
        Mac([a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A guest network: its place in the policy's list of networks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NetworkId(pub u16);

/// A rule, by a number that stays the same for the same rule across reloads (24 bits).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule of the rule file: a default decided.
    pub const DEFAULT: Self = Self(0);
}

/// The number of a policy. A session carries the one it was last decided under.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Generation(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_words() {
        let key = FlowKey {
            realm: Realm::from_raw(7),
            protocol: Protocol::TCP,
            source: Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), 40000),
            destination: Endpoint::new(Ipv4Addr::new(198, 51, 100, 9), 443),
        };
        assert_eq!(FlowKey::from_words(key.words()), key);
        assert_eq!(key.words()[1] & 0xff, 0);
        assert_eq!(key.reversed().reversed(), key);
    }

    #[test]
    fn a_mac_survives_its_bits() {
        let mac = Mac([2, 0, 0, 0, 1, 0xfe]);
        assert_eq!(Mac::from_bits(mac.as_bits()), mac);
        assert_eq!(mac.to_string(), "02:00:00:00:01:fe");
    }
}
