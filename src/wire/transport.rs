//! Transport headers, read and judged alike in both families: ports, lengths, TCP flags.

use crate::flow::Protocol;
use crate::verdict::DropReason;
use crate::wire::header::{TcpHeader, UdpHeader, view};
use crate::wire::parse::Fragment;
use crate::wire::segment::flags;

/// What a transport header with ports shows.
pub(super) struct Shown {
    /// Source and destination.
    pub ports: [u16; 2],
    /// The TCP flags octet; zero for other protocols.
    pub tcp_flags: u8,
}

/// Reads the header at `transport` of a packet of `length` bytes from there on; `packet` ends with
/// it. None for protocols without ports, ICMP among them.
///
/// # Errors
/// The reason to drop the packet.
#[inline]
pub(super) fn read(
    packet: &[u8],
    transport: u16,
    length: u16,
    protocol: Protocol,
    fragment: Fragment,
) -> Result<Option<Shown>, DropReason> {
    let too_short = too_short(fragment);
    let mut tcp_flags = 0;
    let ports = match protocol {
        Protocol::TCP => {
            let tcp: &TcpHeader = view(packet, transport).ok_or(too_short)?;
            judge_tcp(tcp, length, fragment)?;
            tcp_flags = tcp.flags;
            [tcp.source_port.get(), tcp.destination_port.get()]
        }
        Protocol::UDP => {
            let udp: &UdpHeader = view(packet, transport).ok_or(too_short)?;
            let told = udp.length.get();
            // Of a datagram in fragments, the rest is still to come.
            let possible = match fragment {
                Fragment::Whole => told == length,
                Fragment::First | Fragment::Later => told > length,
            };
            if !possible {
                return Err(DropReason::BadHeader);
            }
            [udp.source_port.get(), udp.destination_port.get()]
        }
        // Ports come first in all of these; SCTP's common header and DCCP's shortest one have
        // twelve bytes, UDP-Lite's has eight.
        Protocol::DCCP | Protocol::SCTP | Protocol::UDP_LITE => {
            let shortest = if protocol == Protocol::UDP_LITE { 8 } else { 12 };
            if length < shortest {
                return Err(too_short);
            }
            let header: &UdpHeader = view(packet, transport).ok_or(too_short)?;
            [header.source_port.get(), header.destination_port.get()]
        }
        _ => return Ok(None),
    };
    // Nobody can answer to port 0, and no mapping could be made for it (RFC 6335, section 6).
    if ports.contains(&0) {
        return Err(DropReason::BadHeader);
    }
    Ok(Some(Shown { ports, tcp_flags }))
}

/// What a packet is dropped for that ends before its transport header does: one that the first
/// fragment does not hold hides from every filter (RFC 1858, section 3).
pub(super) const fn too_short(fragment: Fragment) -> DropReason {
    match fragment {
        Fragment::Whole => DropReason::Truncated,
        Fragment::First | Fragment::Later => DropReason::FragmentBad,
    }
}

/// Judges the TCP header's length and flags.
fn judge_tcp(tcp: &TcpHeader, length: u16, fragment: Fragment) -> Result<(), DropReason> {
    let header_length = tcp.header_length();
    if header_length < TCP_LENGTH {
        return Err(DropReason::BadHeader);
    }
    if header_length > length {
        return Err(match fragment {
            Fragment::Whole => DropReason::BadHeader,
            Fragment::First | Fragment::Later => DropReason::FragmentBad,
        });
    }
    if !are_possible(tcp.flags) {
        return Err(DropReason::BadTcpFlags);
    }
    Ok(())
}

/// Whether a stack sends a segment with these flags.
#[inline(always)]
pub(super) const fn are_possible(tcp_flags: u8) -> bool {
    TCP_FLAGS_POSSIBLE >> (tcp_flags & 0x3f) & 1 != 0
}

/// The TCP header without options, in bytes.
const TCP_LENGTH: u16 = 20;

/// The combinations of the six classic TCP flags that a stack sends, one bit each; PSH is allowed
/// with all of them. The same as Linux's conntrack believes.
const TCP_FLAGS_POSSIBLE: u64 = {
    use flags::{ACK, FIN, PSH, RST, SYN, URG};
    let possible =
        [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];
    let mut bits = 0;
    let mut index = 0;
    while index < possible.len() {
        bits |= 1 << possible[index] | 1 << (possible[index] | PSH);
        index += 1;
    }
    bits
};
