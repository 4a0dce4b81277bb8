//! The plain packet, which nearly every packet is: IPv4 without options, whole, TCP or UDP, with
//! more than one hop to live. It is read and rewritten in a few words, without a branch for what it
//! is not.
//!
//! What [`Plain::read`] does not take is not wrong: [`super::parse`] judges it. What it takes, it
//! reads as `parse` does, and rewrites as `Rewrite` does (property-tested beside the latter).

use std::net::Ipv4Addr;

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::{Protocol, Realm};
use crate::wire::checksum::{ChecksumDelta, fold};
use crate::wire::header::{TcpHeader, VlanTag, ether_type, view, view_mut};
use crate::wire::parse::{LINK_LENGTH, LINK_LENGTH_TAGGED, VLAN_MASK};
use crate::wire::segment::flags;

/// What a plain packet says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plain {
    /// Source and destination address, as the first word of a flow key.
    pub addresses: u64,
    /// Source port (high 16 bits), destination port (16), nothing (16), protocol (8), nothing (8): the
    /// second word of a flow key without its realm.
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
    ttl: u8,
    protocol: u8,
    checksum: U16,
    /// Source and destination.
    addresses: U64,
    /// Source and destination.
    ports: U32,
    /// UDP's length.
    udp_length: U16,
    /// UDP's checksum.
    udp_checksum: U16,
}

impl Plain {
    /// Reads `frame` if it is a plain packet whose checksum its sender has finished. TCP segments
    /// that open or end a connection are none.
    #[inline(always)]
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (network, vlan) = link(frame)?;
        let header: &PlainHeader = view(frame, network)?;
        let start = header.start.get();
        let length = (start >> 32) as u16;
        let is_plain = start >> 56 == VERSION_AND_LENGTH && start & FRAGMENT_MASK == 0;
        let end = usize::from(network) + usize::from(length);
        if !is_plain || header.ttl <= 1 || end > frame.len() || !header.is_right() {
            return None;
        }
        let ports = header.ports.get();
        if ports >> 16 == 0 || ports & 0xffff == 0 {
            return None;
        }
        let transport_length = length.wrapping_sub(HEADER_LENGTH);
        let checksum = match Protocol(header.protocol) {
            Protocol::UDP if length >= UDP_LENGTH_MIN => {
                if header.udp_length.get() != transport_length {
                    return None;
                }
                header.udp_checksum.get()
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
        let addresses = header.addresses.get();
        if checksum == pseudo_header_sum(addresses, header.protocol, transport_length) {
            return None;
        }
        let rest = u64::from(ports) << 32 | u64::from(header.protocol) << 8;
        Some(Self { addresses, rest, vlan, network, length })
    }

    /// Gives the packet that was read from `frame` new addresses and ports, and takes one off its
    /// time to live, with all checksums. `address_delta` is what the change of addresses adds to a
    /// checksum.
    #[inline(always)]
    pub fn rewrite(
        &self,
        frame: &mut [u8],
        addresses: u64,
        ports: u32,
        address_delta: ChecksumDelta,
    ) {
        let Some(header) = view_mut::<PlainHeader>(frame, self.network) else { return };
        header.ttl = header.ttl.wrapping_sub(1);
        header.checksum.set(address_delta.plus(TTL_DELTA).apply(header.checksum.get()));
        let delta = address_delta.plus_words(header.ports.get(), ports);
        header.addresses.set(addresses);
        header.ports.set(ports);
        if self.protocol() == Protocol::UDP {
            header.udp_checksum.set(delta.apply_to_udp(header.udp_checksum.get()));
            return;
        }
        let transport = self.network.wrapping_add(HEADER_LENGTH);
        if let Some(tcp) = view_mut::<TcpHeader>(frame, transport) {
            tcp.checksum.set(delta.apply(tcp.checksum.get()));
        }
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

    /// The packet's key in `realm`, as [`crate::flow::FlowKey::words`] gives it.
    #[inline]
    #[must_use]
    pub const fn key_words(&self, realm: Realm) -> [u64; 2] {
        [self.addresses, self.rest | (realm.as_raw() as u64) << 16]
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

impl PlainHeader {
    /// Whether the IPv4 header's checksum is right.
    #[inline]
    fn is_right(&self) -> bool {
        let rest = u32::from_be_bytes([self.ttl, self.protocol, 0, 0]);
        let sum = halves(self.start.get())
            .wrapping_add(halves(self.addresses.get()))
            .wrapping_add(u64::from(rest))
            .wrapping_add(u64::from(self.checksum.get()));
        fold_halves(sum) == 0xffff
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

/// What the checksum field holds while the sending kernel leaves the rest to its device
/// (`CHECKSUM_PARTIAL`; RFC 9293, section 3.1).
#[inline(always)]
fn pseudo_header_sum(addresses: u64, protocol: u8, length: u16) -> u16 {
    fold_halves(halves(addresses).wrapping_add(u64::from(protocol)).wrapping_add(u64::from(length)))
}

/// The sum of both halves of a word.
#[inline]
const fn halves(word: u64) -> u64 {
    (word >> 32).wrapping_add(word & 0xffff_ffff)
}

/// Sixteen bits of a sum of fewer than 65,536 halves.
#[inline]
const fn fold_halves(sum: u64) -> u16 {
    // At most 2^32 + 2^16 after this, which the first step of `fold` would not hold.
    let sum = (sum >> 32).wrapping_add(sum & 0xffff_ffff);
    fold((sum >> 16).wrapping_add(sum & 0xffff) as u32)
}

/// Version 4, five words of header.
const VERSION_AND_LENGTH: u64 = 0x45;
/// More fragments, and the fragment's offset.
const FRAGMENT_MASK: u64 = 0x3fff;
/// Without options, in bytes.
const HEADER_LENGTH: u16 = 20;
const TCP_HEADER_MIN: u16 = 20;
const TCP_LENGTH_MIN: u16 = HEADER_LENGTH + TCP_HEADER_MIN;
const UDP_LENGTH_MIN: u16 = HEADER_LENGTH + 8;
/// The six classic flags.
const FLAGS_JUDGED: u8 = 0x3f;
/// What one hop less to live adds to a checksum: `~m + m'`, with `m' = m - 0x100` (RFC 1624).
const TTL_DELTA: ChecksumDelta = ChecksumDelta::from_raw(0xfeff);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Endpoint;
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
