//! What forwarding changes in an IPv6 packet: the hop limit, and a checksum that its sender left
//! unfinished. IPv6 has no header checksum, so nothing else needs mending.

use std::net::Ipv6Addr;

use crate::flow::Protocol;
use crate::wire::checksum;
use crate::wire::header::{TcpHeader, UdpHeader, view, view_mut};
use crate::wire::ipv6::{Ipv6Header, Parsed};
use crate::wire::parse::Fragment;

/// Takes one from the hop limit, which `parse` found above zero.
pub fn lower_hop_limit(frame: &mut [u8], parsed: &Parsed) {
    if let Some(header) = view_mut::<Ipv6Header>(frame, parsed.network) {
        header.hop_limit = header.hop_limit.saturating_sub(1);
    }
}

/// The one's complement sum of the pseudo-header (RFC 8200, section 8.1).
pub(super) fn pseudo_header_sum(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    length: u32,
    protocol: Protocol,
) -> u16 {
    let mut bytes = [0; 40];
    let (addresses, rest) = bytes.split_at_mut(32);
    let (from, to) = addresses.split_at_mut(16);
    from.copy_from_slice(&source.octets());
    to.copy_from_slice(&destination.octets());
    let (first, last) = rest.split_at_mut(4);
    first.copy_from_slice(&length.to_be_bytes());
    last.copy_from_slice(&[0, 0, 0, protocol.0]);
    checksum::sum(&bytes)
}

/// Finishes the TCP or UDP checksum of a whole packet where the field holds only the
/// pseudo-header's sum: the sending kernel left the rest to its device (`CHECKSUM_PARTIAL`).
pub fn complete_partial(frame: &mut [u8], parsed: &Parsed) {
    if parsed.fragment != Fragment::Whole {
        return;
    }
    let length = u32::from(parsed.end - parsed.transport);
    let (source, destination) = (parsed.source.address, parsed.destination.address);
    let pseudo = pseudo_header_sum(source, destination, length, parsed.protocol);
    let present = match parsed.protocol {
        Protocol::TCP => view::<TcpHeader>(frame, parsed.transport).map(|tcp| tcp.checksum.get()),
        Protocol::UDP => view::<UdpHeader>(frame, parsed.transport).map(|udp| udp.checksum.get()),
        _ => None,
    };
    if present != Some(pseudo) {
        return;
    }
    // The field holds the pseudo-header's sum, so the sum over the segment is over both.
    let Some(segment) = frame.get(usize::from(parsed.transport)..usize::from(parsed.end)) else {
        return;
    };
    let finished = match checksum::checksum(segment) {
        // Zero would say that there is none (RFC 8200, section 8.1).
        0 => 0xffff,
        finished => finished,
    };
    match parsed.protocol {
        Protocol::TCP => {
            if let Some(tcp) = view_mut::<TcpHeader>(frame, parsed.transport) {
                tcp.checksum.set(finished);
            }
        }
        Protocol::UDP => {
            if let Some(udp) = view_mut::<UdpHeader>(frame, parsed.transport) {
                udp.checksum.set(finished);
            }
        }
        _ => {}
    }
}
