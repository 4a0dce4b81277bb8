//! The plain packet, which nearly every packet is: IPv4 without options, whole, TCP or UDP, with
//! more than one hop to live. It is read and rewritten in a few words, without a branch for what it
//! is not.
//!
//! What [`Plain::read`] does not take is not wrong: [`super::parse`] judges it. What it takes, it
//! reads as `parse` does, and rewrites as `Rewrite` does (property-tested beside the latter).

mod sums;

use std::net::Ipv4Addr;

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::{Endpoint, LinkWords, Protocol};
use crate::wire::header::{TcpHeader, VlanTag, ether_type, view, view_mut};
use crate::wire::parse::{Fragment, Kind, LINK_LENGTH, LINK_LENGTH_TAGGED, Parsed, VLAN_MASK};
use crate::wire::segment::flags;
use crate::wire::transport::are_possible;
use sums::{Change, is_all_ones, plus, plus_half, update, update_udp};

/// What a plain packet says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plain {
    /// Source and destination address, as the first word of a flow key.
    pub addresses: u64,
    /// Source port (high 16 bits), destination port (16), realm (16), protocol (8), nothing (8): the
    /// second word of a flow key.
    rest: u64,
    /// Where the IPv4 header begins, in bytes from the start of the frame.
    pub network: u16,
    /// The length of the IPv4 packet, in bytes.
    pub length: u16,
}

/// An IPv4 header without options and the first eight bytes behind it.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Headers {
    /// The version (4 bits) and how many words the header has.
    version: u8,
    service: u8,
    length: U16,
    identification: U16,
    /// Flags, and which part of a datagram it is.
    fragment: U16,
    time_to_live: u8,
    protocol: u8,
    checksum: U16,
    /// Source and destination.
    addresses: U64,
    /// Source and destination.
    ports: U32,
    udp_length: U16,
    udp_checksum: U16,
}

/// The same as it is summed: a sum of numbers of sixteen bits says the same whichever of its bytes is
/// taken for the higher one (RFC 1071, section 2).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Summed {
    start: [u8; 8],
    middle: [u8; 4],
    end: [u8; 8],
    ports: [u8; 4],
    /// UDP's length and checksum.
    udp: [u8; 4],
}

impl Headers {
    /// The sum of the IPv4 header, which a right checksum makes all ones.
    #[inline(always)]
    fn sum(&self) -> u64 {
        let Summed { start, middle, .. } = zerocopy::transmute_ref!(self);
        let sum = plus(u64::from_ne_bytes(*start), self.sum_of_addresses());
        plus(sum, u32::from_ne_bytes(*middle).into())
    }

    /// The sum of the addresses alone.
    #[inline(always)]
    fn sum_of_addresses(&self) -> u64 {
        let Summed { end, .. } = zerocopy::transmute_ref!(self);
        u64::from_ne_bytes(*end)
    }

    /// The sum of the ports.
    #[inline(always)]
    fn sum_of_ports(&self) -> u32 {
        let Summed { ports, .. } = zerocopy::transmute_ref!(self);
        u32::from_ne_bytes(*ports)
    }

    /// The sum of UDP's length and its checksum's complement.
    #[inline(always)]
    fn sum_of_udp(&self) -> u64 {
        let Summed { udp, .. } = zerocopy::transmute_ref!(self);
        u64::from(u32::from_ne_bytes(*udp) ^ SECOND_OF_TWO)
    }
}

/// An untagged frame with such a packet.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Untagged {
    _stations: [u8; 12],
    ether_type: U16,
    packet: Headers,
}

/// An untagged frame with a TCP segment.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct UntaggedTcp {
    /// Up to the sequence number.
    start: Untagged,
    _acknowledgement: U32,
    _offset_and_flags: [u8; 2],
    _window: U16,
    checksum: U16,
    _urgent: U16,
}

const _: () = assert!(
    size_of::<UntaggedTcp>() == (LINK_LENGTH + HEADER_LENGTH) as usize + size_of::<TcpHeader>()
);

impl Plain {
    /// No packet: nothing has no length.
    pub const NONE: Self = Self { addresses: 0, rest: 0, network: 0, length: 0 };

    /// Reads `frame` if it is an untagged plain packet whose checksum its sender has finished.
    #[inline(always)]
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let untagged: &Untagged = view(frame, 0)?;
        if untagged.ether_type.get() != ether_type::IPV4 {
            return None;
        }
        Self::read_headers(&untagged.packet, frame, LINK_LENGTH)
    }

    /// The same of a frame under one tag, with its VLAN identifier; zero for a priority tag.
    #[must_use]
    pub fn read_tagged(frame: &[u8]) -> Option<(Self, u16)> {
        let outer: &U16 = view(frame, LINK_LENGTH - 2)?;
        let tag: &VlanTag = view(frame, LINK_LENGTH)?;
        if outer.get() != ether_type::VLAN || tag.ether_type.get() != ether_type::IPV4 {
            return None;
        }
        let headers = view(frame, LINK_LENGTH_TAGGED)?;
        let packet = Self::read_headers(headers, frame, LINK_LENGTH_TAGGED)?;
        Some((packet, tag.control.get() & VLAN_MASK))
    }

    /// Reads the packet that begins with `header`, at `network` of `frame`.
    #[inline(always)]
    fn read_headers(header: &Headers, frame: &[u8], network: u16) -> Option<Self> {
        let (length, addresses, ports) =
            (header.length.get(), header.addresses.get(), header.ports.get());
        let is_plain = header.version == VERSION
            && header.fragment.get() & FRAGMENT_MASK == 0
            && header.time_to_live >= TTL_MIN
            && usize::from(network) + usize::from(length) <= frame.len()
            && is_all_ones(header.sum())
            && ports >> 16 != 0
            && ports & 0xffff != 0;
        if !is_plain {
            return None;
        }
        let transport_length = length.wrapping_sub(HEADER_LENGTH);
        let protocol = header.protocol;
        let of_transport = if protocol == Protocol::UDP.0 {
            if length < UDP_LENGTH_MIN || header.udp_length.get() != transport_length {
                return None;
            }
            header.sum_of_udp().wrapping_add(SUM_OF_UDP)
        } else if protocol == Protocol::TCP.0 && length >= TCP_LENGTH_MIN {
            let tcp: &TcpHeader = view(frame, network.wrapping_add(HEADER_LENGTH))?;
            let header_length = tcp.header_length();
            let is_sound = (TCP_HEADER_MIN..=transport_length).contains(&header_length);
            if !is_sound || !are_possible(tcp.flags) {
                return None;
            }
            let checksum = u16::from_ne_bytes(tcp.checksum.to_bytes());
            let length = u64::from(transport_length.to_be());
            length.wrapping_add((!checksum).into()).wrapping_add(SUM_OF_TCP)
        } else {
            return None;
        };
        // What the field holds while the sending kernel leaves the rest to its device, the sum of these
        // (`CHECKSUM_PARTIAL`; RFC 9293, section 3.1). A sum of all ones is as good as none, so that UDP
        // without a checksum may look so too.
        if is_all_ones(plus(header.sum_of_addresses(), of_transport)) {
            return None;
        }
        let rest = u64::from(ports) << 32 | u64::from(protocol) << 8;
        Some(Self { addresses, rest, network, length })
    }

    /// The packet that was read from `frame` as [`super::parse`] reads it.
    #[must_use]
    pub fn parsed(&self, frame: &[u8]) -> Option<Parsed> {
        let header: &Headers = view(frame, self.network)?;
        let (vlan, protocol, tcp_flags) =
            (self.vlan(frame)?, self.protocol(), self.tcp_flags(frame)?);
        let address = |half: u64| Ipv4Addr::from_bits(half as u32);
        Some(Parsed {
            vlan,
            network: self.network,
            transport: self.transport(),
            end: self.end(),
            protocol,
            kind: Kind::Transport,
            fragment: Fragment::Whole,
            source: Endpoint::new(address(self.addresses >> 32), (self.rest >> 48) as u16),
            destination: Endpoint::new(address(self.addresses), (self.rest >> 32) as u16),
            tcp_flags,
            ttl: header.time_to_live,
            dont_fragment: header.fragment.get() & DONT_FRAGMENT != 0,
        })
    }

    /// The VLAN identifier of the packet that was read from `frame`; zero without a tag.
    #[inline]
    #[must_use]
    pub fn vlan(&self, frame: &[u8]) -> Option<u16> {
        match self.network {
            LINK_LENGTH => Some(0),
            _ => Some(view::<VlanTag>(frame, LINK_LENGTH)?.control.get() & VLAN_MASK),
        }
    }

    /// The flags of the TCP segment that was read from `frame`; none set of another protocol's packet.
    #[inline]
    #[must_use]
    pub fn tcp_flags(&self, frame: &[u8]) -> Option<u8> {
        match self.protocol() {
            Protocol::TCP => Some(view::<TcpHeader>(frame, self.transport())?.flags),
            _ => Some(0),
        }
    }

    /// Gives the packet that was read from `frame` new addresses and ports, and takes one off its
    /// time to live, with all checksums.
    ///
    /// Each checksum is `~(~HC + ~m + m')` over all that changes (RFC 1624, eqn. 3): whether that is folded
    /// once or after each change, it comes to the same.
    #[inline(always)]
    pub fn rewrite(&self, frame: &mut [u8], addresses: u64, ports: u32) {
        let Some(headers) = view_mut::<Headers>(frame, self.network) else { return };
        let changes = rewrite_headers(headers, addresses, ports);
        if self.protocol() != Protocol::TCP {
            update_udp(&mut headers.udp_checksum, changes);
        } else if let Some(tcp) = view_mut::<TcpHeader>(frame, self.transport()) {
            update(&mut tcp.checksum, changes);
        }
    }

    /// The same with new link addresses, if the frame is untagged. Returns whether it is.
    #[inline(always)]
    #[must_use]
    pub fn rewrite_untagged(
        &self,
        frame: &mut [u8],
        LinkWords([destination, source]): LinkWords,
        addresses: u64,
        ports: u32,
    ) -> bool {
        if !self.is_untagged() {
            return false;
        }
        if self.protocol() == Protocol::TCP {
            let Some(untagged) = view_mut::<UntaggedTcp>(frame, 0) else { return false };
            let changes = rewrite_headers(&mut untagged.start.packet, addresses, ports);
            update(&mut untagged.checksum, changes);
        } else {
            let Some(untagged) = view_mut::<Untagged>(frame, 0) else { return false };
            let changes = rewrite_headers(&mut untagged.packet, addresses, ports);
            update_udp(&mut untagged.packet.udp_checksum, changes);
        }
        // Behind the destination come the source's first bytes, which are written next, and behind the source
        // the frame's type, which is what it was.
        if let Some(word) = view_mut::<[u8; 8]>(frame, 0) {
            *word = destination.to_le_bytes();
        }
        if let Some(word) = view_mut::<[u8; 8]>(frame, SOURCE_STATION) {
            *word = source.to_le_bytes();
        }
        true
    }

    /// The same packet in a frame in which it begins at `network`.
    #[must_use]
    pub const fn moved_to(self, network: u16) -> Self {
        Self { network, ..self }
    }

    /// Becomes `other`, word by word: what lies between them need not be kept.
    #[inline(always)]
    pub const fn become_other(&mut self, other: Self) {
        self.addresses = other.addresses;
        self.rest = other.rest;
        self.network = other.network;
        self.length = other.length;
    }

    /// One past the last sequence number of a TCP segment that was read from `frame`; none of one that says
    /// more than that its connection goes on.
    #[inline(always)]
    #[must_use]
    pub fn sequence_end(&self, frame: &[u8]) -> Option<u32> {
        let start = if self.is_untagged() { LINK_LENGTH + HEADER_LENGTH } else { self.transport() };
        let tcp: &TcpHeader = view(frame, start)?;
        if tcp.flags & FLAGS_JUDGED & !flags::PSH != flags::ACK {
            return None;
        }
        let headers = HEADER_LENGTH.wrapping_add(tcp.header_length());
        Some(tcp.sequence.get().wrapping_add(self.length.wrapping_sub(headers).into()))
    }

    /// TCP or UDP.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        Protocol((self.rest >> 8) as u8)
    }

    /// Whether no tag stands before it.
    #[inline]
    #[must_use]
    pub const fn is_untagged(&self) -> bool {
        self.network == LINK_LENGTH
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addresses >> 32) as u32)
    }

    /// Makes a realm, which no packet says of itself, a part of its key: as
    /// [`crate::flow::Realm::as_raw`] gives it.
    #[inline]
    pub const fn set_realm(&mut self, realm: u16) {
        self.rest |= (realm as u64) << 16;
    }

    /// The packet's key, as [`crate::flow::FlowKey::words`] gives it.
    #[inline]
    #[must_use]
    pub const fn key_words(&self) -> [u64; 2] {
        [self.addresses, self.rest]
    }

    /// One past the packet's last byte, from the start of the frame.
    #[inline]
    #[must_use]
    pub const fn end(&self) -> u16 {
        // `read` saw that the frame reaches so far.
        self.network.wrapping_add(self.length)
    }

    /// Where the transport header begins.
    #[inline]
    #[must_use]
    pub const fn transport(&self) -> u16 {
        self.network.wrapping_add(HEADER_LENGTH)
    }
}

/// Gives a packet new addresses and ports and one hop less to live, all but the transport's checksum. Returns
/// what the changes of addresses and ports add to that.
#[inline(always)]
fn rewrite_headers(header: &mut Headers, addresses: u64, ports: u32) -> [Change; 2] {
    let of_addresses = Change::of(plus(!header.sum_of_addresses(), addresses.to_be()));
    let of_ports = Change::of_half(plus_half(!header.sum_of_ports(), ports.to_be()));
    header.time_to_live = header.time_to_live.wrapping_sub(1);
    update(&mut header.checksum, [of_addresses, Change::ONE_HOP_ON]);
    header.addresses.set(addresses);
    header.ports.set(ports);
    [of_addresses, of_ports]
}

/// What a protocol's number adds to the sum of its pseudo-header.
const SUM_OF_TCP: u64 = (Protocol::TCP.0 as u16).to_be() as u64;
const SUM_OF_UDP: u64 = (Protocol::UDP.0 as u16).to_be() as u64;
/// The second of two numbers that are read as one.
const SECOND_OF_TWO: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
/// Version 4, five words of header.
const VERSION: u8 = 0x45;
/// Neither more fragments nor a fragment's offset.
const FRAGMENT_MASK: u16 = 0x3fff;
const DONT_FRAGMENT: u16 = 0x4000;
/// Two hops to live.
const TTL_MIN: u8 = 2;
/// Where the source's link address is.
const SOURCE_STATION: u16 = 6;
/// Without options, in bytes.
const HEADER_LENGTH: u16 = 20;
/// The shortest frame that carries a plain packet, in bytes.
pub const LENGTH_MIN: usize = size_of::<Untagged>();
const TCP_HEADER_MIN: u16 = 20;
const TCP_LENGTH_MIN: u16 = HEADER_LENGTH + TCP_HEADER_MIN;
const UDP_LENGTH_MIN: u16 = HEADER_LENGTH + 8;
/// The six classic flags.
const FLAGS_JUDGED: u8 = 0x3f;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packets::Packet;

    #[test]
    fn ordinary_packets_are_plain() {
        let (one, two) = (
            Endpoint::new([10, 1, 1, 5].into(), 40_000),
            Endpoint::new([198, 51, 100, 9].into(), 443),
        );
        for packet in [
            Packet::udp(one, two, b""),
            Packet::tcp(one, two, flags::SYN, &[], b""),
            Packet::tcp(one, two, flags::FIN | flags::ACK, &[], b"end"),
            Packet::tcp(one, two, flags::ACK, &[], b"data"),
            Packet::tcp(one, two, flags::ACK | flags::PSH, &[1, 1, 1, 1], b""),
            Packet { tag: Some(100), ..Packet::udp(one, two, b"x") },
        ] {
            let frame = packet.frame();
            let tagged = Plain::read_tagged(&frame);
            assert_eq!(tagged.map(|(_, vlan)| vlan), packet.tag);
            assert!(tagged.is_some() != Plain::read(&frame).is_some());
        }
    }
}
