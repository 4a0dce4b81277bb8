//! One frame to one [`Parsed`]: offsets and endpoints, or why not.

use crate::flow::{Endpoint, FlowKey, Mac, Protocol, Realm};
use crate::verdict::DropReason;

/// What a whole, sound IPv4 frame says of itself. All offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// The 802.1Q VLAN identifier; zero for an untagged or priority-tagged frame.
    pub vlan: u16,
    /// Where the IPv4 header begins.
    pub network: u16,
    /// Where the transport header (or the later fragment's data) begins.
    pub transport: u16,
    /// One past the last byte of the IPv4 packet: Ethernet padding lies behind it.
    pub end: u16,
    /// The IP protocol.
    pub protocol: Protocol,
    /// What the packet is, as far as translation cares.
    pub kind: Kind,
    /// Whole, first fragment or later fragment.
    pub fragment: Fragment,
    /// The source; port is the query identifier for ICMP queries, zero where there is none to see.
    pub source: Endpoint,
    /// The destination, likewise.
    pub destination: Endpoint,
    /// The TCP flags octet; zero for other protocols.
    pub tcp_flags: u8,
    /// The time to live as received.
    pub ttl: u8,
    /// Whether the packet must not be fragmented.
    pub dont_fragment: bool,
}

/// What a packet is, as far as translation cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An ICMP error that quotes a packet (types 3, 4, 5, 11, 12).
    IcmpError,
    /// An ICMP query or its reply, translated by identifier: echo, timestamp, address mask.
    IcmpQuery { icmp_type: u8 },
    /// Any other ICMP message; never forwarded.
    IcmpOther { icmp_type: u8 },
    /// Everything else, with ports where the protocol has them.
    Transport,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fragment {
    /// The first fragment of several: it has the transport header.
    First,
    /// A later fragment: no ports.
    Later,
    /// A whole datagram.
    Whole,
}

impl Parsed {
    /// The packet's key in `realm`.
    #[must_use]
    pub const fn key(&self, realm: Realm) -> FlowKey {
        FlowKey {
            realm,
            protocol: self.protocol,
            source: self.source,
            destination: self.destination,
        }
    }

    /// The length of the IPv4 packet in bytes.
    #[must_use]
    pub const fn packet_length(&self) -> u16 {
        self.end - self.network
    }
}

/// Parses an Ethernet frame that carries IPv4, with at most one 802.1Q tag, and judges every header
/// that translation relies on (RFC 1812, section 5.2.2).
///
/// # Errors
/// The reason to drop it. [`DropReason::NotForwardable`] for another EtherType, ARP included.
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    todo!()
}

/// The destination and source of the Ethernet header, if the frame is long enough.
#[must_use]
pub fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    todo!()
}
