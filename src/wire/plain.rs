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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Plain {
    /// Source and destination address, as the first word of a flow key.
    pub addresses: u64,
    /// Source port (high 16 bits), destination port (16), realm (16), protocol (8), nothing (8): the
    /// second word of a flow key.
    rest: u64,
    /// The 802.1Q VLAN identifier; zero for an untagged or priority-tagged frame.
    pub vlan: u16,
    /// Where the IPv4 header begins, in bytes from the start of the frame.
    pub network: u16,
    /// The length of the IPv4 packet, in bytes.
    pub length: u16,
}

/// An IPv4 header without options and the first eight bytes behind it.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct PlainHeader {
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

impl Plain {
    /// Reads `frame` if it is a plain packet whose checksum its sender has finished. TCP segments
    /// that open or end a connection are none.
    #[inline(always)]
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (network, vlan) = link(frame)?;
        let header: &PlainHeader = view(frame, network)?;
        let (start, life) = (header.start.get(), header.life.get());
        let (addresses, ports) = (header.addresses.get(), header.ports.get());
        let length = (start >> 32) as u16;
        let address_sum = halves(addresses);
        let header_sum = halves(start).wrapping_add(address_sum).wrapping_add(u64::from(life));
        let is_plain = start & SHAPE_MASK == SHAPE
            && life >= TTL_MIN
            && usize::from(network) + usize::from(length) <= frame.len()
            && fold_halves(header_sum) == 0xffff
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
                if udp >> 16 != u32::from(transport_length) {
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
        let pseudo_header =
            address_sum.wrapping_add(u64::from(protocol)).wrapping_add(transport_length.into());
        if checksum == fold_halves(pseudo_header) {
            return None;
        }
        let rest = u64::from(ports) << 32 | u64::from(protocol) << 8;
        Some(Self { addresses, rest, vlan, network, length })
    }

    /// The packet that was read from `frame` as [`super::parse`] reads it.
    #[must_use]
    pub fn parsed(&self, frame: &[u8]) -> Option<Parsed> {
        let header: &PlainHeader = view(frame, self.network)?;
        let protocol = self.protocol();
        let tcp_flags = match protocol {
            Protocol::TCP => view::<TcpHeader>(frame, self.transport())?.flags,
            _ => 0,
        };
        let address = |half: u64| Ipv4Addr::from_bits(half as u32);
        Some(Parsed {
            vlan: self.vlan,
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
        let Some(header) = view_mut::<PlainHeader>(frame, self.network) else { return };
        let change = halves(!self.addresses).wrapping_add(halves(addresses));
        let life = header.life.get();
        let checksum = updated(life as u16, change.wrapping_add(TTL_CHANGE));
        let life = life.wrapping_sub(TTL_ONE) & 0xffff_0000 | u32::from(checksum);
        header.life.set(life);
        let old_ports = (self.rest >> 32) as u32;
        let change = change.wrapping_add((!old_ports).into()).wrapping_add(ports.into());
        header.addresses.set(addresses);
        header.ports.set(ports);
        if self.protocol() == Protocol::UDP {
            let udp = header.udp.get();
            // Zero, for none, stays zero, and a computed zero is sent as all ones (RFC 768).
            if udp as u16 != 0 {
                let checksum = updated(udp as u16, change);
                let checksum = if checksum == 0 { u16::MAX } else { checksum };
                header.udp.set(udp & 0xffff_0000 | u32::from(checksum));
            }
            return;
        }
        if let Some(tcp) = view_mut::<TcpHeader>(frame, self.transport()) {
            tcp.checksum.set(updated(tcp.checksum.get(), change));
        }
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

/// Where the IPv4 header of a frame begins, and its VLAN.
#[inline]
fn link(frame: &[u8]) -> Option<(u16, u16)> {
    let outer: &U16 = view(frame, LINK_LENGTH - 2)?;
    if outer.get() == ether_type::IPV4 {
        return Some((LINK_LENGTH, 0));
    }
    let tag: &VlanTag = view(frame, LINK_LENGTH)?;
    (outer.get() == ether_type::VLAN && tag.ether_type.get() == ether_type::IPV4)
        .then(|| (LINK_LENGTH_TAGGED, tag.control.get() & VLAN_MASK))
}

/// The sum of both halves of a word.
#[inline]
const fn halves(word: u64) -> u64 {
    (word >> 32).wrapping_add(word & 0xffff_ffff)
}

/// Sixteen bits of a sum of fewer than 65,536 halves.
#[inline]
const fn fold_halves(sum: u64) -> u16 {
    // Both halves added with the carry, thirty-two bits and then sixteen: turned by half its length,
    // a sum has each half above the other's carry.
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(carry as u32);
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// `checksum` after a change that adds `change` to its complement.
#[inline]
const fn updated(checksum: u16, change: u64) -> u16 {
    !fold_halves(change.wrapping_add(!checksum as u64))
}

/// Version 4, five words of header; neither more fragments nor a fragment's offset.
const SHAPE: u64 = 0x45 << 56;
const SHAPE_MASK: u64 = 0xff << 56 | 0x3fff;
const DONT_FRAGMENT: u64 = 0x4000;
/// Two hops to live.
const TTL_MIN: u32 = 2 * TTL_ONE;
const TTL_ONE: u32 = 1 << 24;
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
            assert!(Plain::read(&packet.frame()).is_some());
        }
    }
}
