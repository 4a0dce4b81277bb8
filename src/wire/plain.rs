//! The plain packet, which nearly every packet is: IPv4 without options, whole, TCP or UDP, with
//! more than one hop to live. It is read and rewritten in a few words, without a branch for what it
//! is not.
//!
//! What [`Plain::read`] does not take is not wrong: [`super::parse`] judges it. What it takes, it
//! reads as `parse` does, and rewrites as `Rewrite` does (property-tested beside the latter).

use std::net::Ipv4Addr;

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::{Endpoint, Protocol, Realm};
use crate::wire::header::{TcpHeader, VlanTag, ether_type, view, view_mut};
use crate::wire::parse::{Fragment, Kind, LINK_LENGTH, LINK_LENGTH_TAGGED, Parsed, VLAN_MASK};
use crate::wire::segment::flags;

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

/// An IPv4 header without options and the first eight bytes behind it, in words as they are read.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Words {
    /// Version and header length (8 bits), type of service (8), total length (16), identification
    /// (16), flags and fragment offset (16).
    start: U64,
    /// Time to live (8 bits), protocol (8), checksum (16).
    life: U32,
    /// Source and destination.
    addresses: U64,
    /// Source and destination.
    ports: U32,
    /// UDP's length and checksum.
    udp: U32,
}

/// The same in parts as they are written.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Parts {
    start: U64,
    time_to_live: u8,
    protocol: u8,
    checksum: U16,
    addresses: U64,
    ports: U32,
    udp_length: U16,
    udp_checksum: U16,
}

/// An untagged frame with such a packet.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Untagged<P> {
    /// The destination (48 bits), and the source's first 16 bits.
    stations: U64,
    /// The source's other 32 bits.
    source_end: U32,
    ether_type: U16,
    packet: P,
}

impl Plain {
    /// No packet: nothing has no length.
    pub const NONE: Self = Self { addresses: 0, rest: 0, network: 0, length: 0 };

    /// Reads `frame` if it is an untagged plain packet whose checksum its sender has finished. TCP
    /// segments that open or end a connection are none.
    #[inline(always)]
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let untagged: &Untagged<Words> = view(frame, 0)?;
        if untagged.ether_type.get() != ether_type::IPV4 {
            return None;
        }
        Self::read_words(&untagged.packet, frame, LINK_LENGTH)
    }

    /// The same of a frame under one tag, with its VLAN identifier; zero for a priority tag.
    #[must_use]
    pub fn read_tagged(frame: &[u8]) -> Option<(Self, u16)> {
        let outer: &U16 = view(frame, LINK_LENGTH - 2)?;
        let tag: &VlanTag = view(frame, LINK_LENGTH)?;
        if outer.get() != ether_type::VLAN || tag.ether_type.get() != ether_type::IPV4 {
            return None;
        }
        let words = view(frame, LINK_LENGTH_TAGGED)?;
        let packet = Self::read_words(words, frame, LINK_LENGTH_TAGGED)?;
        Some((packet, tag.control.get() & VLAN_MASK))
    }

    /// Reads the packet that begins with `header`, at `network` of `frame`.
    #[inline(always)]
    fn read_words(header: &Words, frame: &[u8], network: u16) -> Option<Self> {
        let (start, life) = (header.start.get(), header.life.get());
        let (addresses, ports) = (header.addresses.get(), header.ports.get());
        let length = (start >> 32) as u16;
        let is_plain = start & SHAPE_MASK == SHAPE
            && life >= TTL_MIN
            && usize::from(network) + usize::from(length) <= frame.len()
            && fold(plus(plus(start, addresses), life.into())) == 0xffff
            && ports >> 16 != 0
            && ports & 0xffff != 0;
        if !is_plain {
            return None;
        }
        let transport_length = length.wrapping_sub(HEADER_LENGTH);
        let protocol = (life >> 16) as u8;
        let checksum = match Protocol(protocol) {
            Protocol::UDP if length >= UDP_LENGTH_MIN => {
                let udp = header.udp.get();
                if (udp >> 16) as u16 != transport_length {
                    return None;
                }
                udp as u16
            }
            Protocol::TCP if length >= TCP_LENGTH_MIN => {
                let tcp: &TcpHeader = view(frame, network.wrapping_add(HEADER_LENGTH))?;
                let header_length = tcp.header_length();
                let is_sound = (TCP_HEADER_MIN..=transport_length).contains(&header_length);
                if !is_sound || tcp.flags & FLAGS_JUDGED & !flags::PSH != flags::ACK {
                    return None;
                }
                tcp.checksum.get()
            }
            _ => return None,
        };
        // What the field holds while the sending kernel leaves the rest to its device
        // (`CHECKSUM_PARTIAL`; RFC 9293, section 3.1).
        let rest = u64::from(protocol).wrapping_add(transport_length.into());
        if checksum == fold(plus(addresses, rest)) {
            return None;
        }
        let rest = u64::from(ports) << 32 | u64::from(protocol) << 8;
        Some(Self { addresses, rest, network, length })
    }

    /// The packet that was read from `frame` as [`super::parse`] reads it.
    #[must_use]
    pub fn parsed(&self, frame: &[u8]) -> Option<Parsed> {
        let header: &Words = view(frame, self.network)?;
        let vlan = match self.network {
            LINK_LENGTH => 0,
            _ => view::<VlanTag>(frame, LINK_LENGTH)?.control.get() & VLAN_MASK,
        };
        let protocol = self.protocol();
        let tcp_flags = match protocol {
            Protocol::TCP => view::<TcpHeader>(frame, self.transport())?.flags,
            _ => 0,
        };
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
            ttl: (header.life.get() >> 24) as u8,
            dont_fragment: header.start.get() & DONT_FRAGMENT != 0,
        })
    }

    /// Gives the packet that was read from `frame` new addresses and ports, and takes one off its
    /// time to live, with all checksums.
    ///
    /// Each checksum is `~(~HC + ~m + m')` over all that changes (RFC 1624, eqn. 3), folded once: that
    /// is what folding after each change comes to.
    #[inline(always)]
    pub fn rewrite(&self, frame: &mut [u8], addresses: u64, ports: u32) {
        let Some(parts) = view_mut::<Parts>(frame, self.network) else { return };
        let changes = self.rewrite_parts(parts, addresses, ports);
        self.rewrite_tcp(frame, changes);
    }

    /// The same with new link addresses, destination first, as [`crate::flow::Mac::as_bits`] gives them, if
    /// the frame is untagged. Returns whether it is.
    #[inline(always)]
    #[must_use]
    pub fn rewrite_untagged(
        &self,
        frame: &mut [u8],
        [destination, source]: [u64; 2],
        addresses: u64,
        ports: u32,
    ) -> bool {
        if self.network != LINK_LENGTH {
            return false;
        }
        let Some(untagged) = view_mut::<Untagged<Parts>>(frame, 0) else { return false };
        untagged.stations.set(destination << 16 | source >> 32);
        untagged.source_end.set(source as u32);
        let changes = self.rewrite_parts(&mut untagged.packet, addresses, ports);
        self.rewrite_tcp(frame, changes);
        true
    }

    /// All but TCP's checksum. Returns what the changes of addresses and ports add to a checksum.
    #[inline(always)]
    fn rewrite_parts(&self, header: &mut Parts, addresses: u64, ports: u32) -> [u64; 2] {
        let change = plus(!self.addresses, addresses);
        header.time_to_live = header.time_to_live.wrapping_sub(1);
        header.checksum.set(updated(header.checksum.get(), change, TTL_CHANGE));
        let old_ports = (self.rest >> 32) as u32;
        let port_change = u64::from(!old_ports).wrapping_add(ports.into());
        header.addresses.set(addresses);
        header.ports.set(ports);
        let checksum = header.udp_checksum.get();
        // Zero, for none, stays zero, and a computed zero is sent as all ones (RFC 768).
        if self.protocol() == Protocol::UDP && checksum != 0 {
            let checksum = updated(checksum, change, port_change);
            header.udp_checksum.set(if checksum == 0 { u16::MAX } else { checksum });
        }
        [change, port_change]
    }

    #[inline(always)]
    fn rewrite_tcp(&self, frame: &mut [u8], [change, port_change]: [u64; 2]) {
        if self.protocol() == Protocol::TCP
            && let Some(tcp) = view_mut::<TcpHeader>(frame, self.transport())
        {
            tcp.checksum.set(updated(tcp.checksum.get(), change, port_change));
        }
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

    /// One past the last sequence number of a TCP segment that was read from `frame`.
    #[inline(always)]
    #[must_use]
    pub fn sequence_end(&self, frame: &[u8]) -> Option<u32> {
        let tcp: &TcpHeader = view(frame, self.transport())?;
        let headers = HEADER_LENGTH.wrapping_add(tcp.header_length());
        Some(tcp.sequence.get().wrapping_add(self.length.wrapping_sub(headers).into()))
    }

    /// TCP or UDP.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        Protocol((self.rest >> 8) as u8)
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addresses >> 32) as u32)
    }

    /// Makes `realm`, which no packet says of itself, a part of its key.
    #[inline]
    pub const fn set_realm(&mut self, realm: Realm) {
        self.rest |= (realm.as_raw() as u64) << 16;
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

/// The one's complement sum of both, each taken as four numbers of sixteen bits (RFC 1071, section 2).
#[inline(always)]
const fn plus(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u64)
}

/// Such a sum as one number of sixteen bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // Both halves added with the carry, thirty-two bits and then sixteen: turned by half its length,
    // a sum has each half above the other's carry.
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(carry as u32);
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// `checksum` after changes that add `change` and `more`, of fewer than 63 bits, to its complement.
#[inline(always)]
const fn updated(checksum: u16, change: u64, more: u64) -> u16 {
    !fold(plus(change, more.wrapping_add(!checksum as u64)))
}

/// Version 4, five words of header; neither more fragments nor a fragment's offset.
const SHAPE: u64 = 0x45 << 56;
const SHAPE_MASK: u64 = 0xff << 56 | 0x3fff;
const DONT_FRAGMENT: u64 = 0x4000;
/// Two hops to live.
const TTL_MIN: u32 = 2 << 24;
/// Without options, in bytes.
const HEADER_LENGTH: u16 = 20;
const TCP_HEADER_MIN: u16 = 20;
const TCP_LENGTH_MIN: u16 = HEADER_LENGTH + TCP_HEADER_MIN;
const UDP_LENGTH_MIN: u16 = HEADER_LENGTH + 8;
/// The six classic flags.
const FLAGS_JUDGED: u8 = 0x3f;
/// What one hop less to live adds to a checksum: `~m + m'`, with `m' = m - 0x100` (RFC 1624).
const TTL_CHANGE: u64 = 0xfeff;

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
