//! ICMP that natwerk reads inside out (errors) or writes itself (errors, echo replies).

use std::net::Ipv4Addr;

use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::{Endpoint, Protocol};
use crate::verdict::DropReason;
use crate::wire::checksum::{self, ChecksumDelta};
use crate::wire::header::{EthernetHeader, IcmpHeader, Ipv4Header, UdpHeader, view, view_mut};
use crate::wire::parse::{Fragment, IPV4_LENGTH, Kind, LINK_LENGTH, Parsed, icmp_kind, macs};

/// The packet that an ICMP error quotes, as far as translation cares. Offsets from the frame's start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quote {
    /// Where the quoted IPv4 header begins.
    pub network: u16,
    /// Where the quoted transport header begins.
    pub transport: u16,
    /// One past the last quoted byte that is there.
    pub end: u16,
    /// The quoted protocol.
    pub protocol: Protocol,
    /// The quoted source; port is the identifier for ICMP queries.
    pub source: Endpoint,
    /// The quoted destination.
    pub destination: Endpoint,
    /// The quoted TCP sequence number, where the protocol is TCP and it is there.
    pub tcp_sequence: Option<u32>,
}

/// Reads the packet quoted in an ICMP error; checks the error's own checksum and the quoted IPv4
/// header's (RFC 5508, REQ-3), but never the quoted transport checksum (REQ-3c).
///
/// # Errors
/// Why the error must be dropped.
pub fn quote(frame: &[u8], parsed: &Parsed) -> Result<Quote, DropReason> {
    if parsed.kind != Kind::IcmpError || parsed.fragment != Fragment::Whole {
        return Err(DropReason::BadIcmpQuote);
    }
    let message = frame
        .get(usize::from(parsed.transport)..usize::from(parsed.end))
        .ok_or(DropReason::BadIcmpQuote)?;
    if !checksum::is_right(message) {
        return Err(DropReason::BadChecksum);
    }
    read_quote(frame, parsed).ok_or(DropReason::BadIcmpQuote)
}

/// Reads the quote of a whole ICMP error; none if it is malformed, or no packet that a session could
/// have sent.
fn read_quote(frame: &[u8], parsed: &Parsed) -> Option<Quote> {
    let frame = frame.get(..usize::from(parsed.end))?;
    let network = parsed.transport.checked_add(ICMP_LENGTH)?;
    let header: &Ipv4Header = view(frame, network)?;
    let header_length = header.header_length();
    let transport = network.checked_add(header_length)?;
    if header.version() != 4
        || header_length < IPV4_LENGTH
        || header.total_length.get() < header_length
        || header.fragment_offset() != 0
        || !checksum::is_right(frame.get(usize::from(network)..usize::from(transport))?)
    {
        return None;
    }
    // Behind the quote may be padding and extensions (RFC 4884), which nobody translates.
    let quote_end = network.saturating_add(header.total_length.get());
    let end = parsed.end.min(quote_end).min(extensions(frame, parsed)?);
    if end < transport {
        // Extensions that begin inside the quoted header (found by fuzzing).
        return None;
    }
    let quoted = frame.get(..usize::from(end))?;
    let protocol = Protocol(header.protocol);
    let [source_port, destination_port] = quoted_ports(quoted, transport, protocol)?;
    let tcp_sequence = match protocol {
        Protocol::TCP => Some(view::<TcpStart>(quoted, transport)?.sequence.get()),
        _ => None,
    };
    Some(Quote {
        network,
        transport,
        end,
        protocol,
        source: Endpoint::new(Ipv4Addr::from_bits(header.source.get()), source_port),
        destination: Endpoint::new(Ipv4Addr::from_bits(header.destination.get()), destination_port),
        tcp_sequence,
    })
}

/// The MTU of the next link in "fragmentation needed" (RFC 1191, section 4); none of other errors.
#[must_use]
pub fn told_mtu(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    let icmp: &IcmpHeader = view(frame, parsed.transport)?;
    ((icmp.icmp_type, icmp.code) == FRAGMENTATION_NEEDED).then(|| icmp.sequence.get())
}

/// Where extensions of an ICMP error begin at the earliest; past its end if it has none. They are
/// announced by the quote's length in words, which the types that may have them carry in the second
/// byte of their second word (RFC 4884, section 4).
fn extensions(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    let icmp: &IcmpHeader = view(frame, parsed.transport)?;
    let [_, words] = icmp.identifier.get().to_be_bytes();
    match icmp.icmp_type {
        3 | 11 | 12 if words != 0 => {
            let quote = parsed.transport.saturating_add(ICMP_LENGTH);
            Some(quote.saturating_add(u16::from(words) * 4))
        }
        _ => Some(u16::MAX),
    }
}

/// The ports of a quoted packet, or its query identifier as both. Of protocols that have ports, their
/// first eight bytes must be there (RFC 792).
fn quoted_ports(quoted: &[u8], transport: u16, protocol: Protocol) -> Option<[u16; 2]> {
    if protocol == Protocol::ICMP {
        let icmp: &IcmpHeader = view(quoted, transport)?;
        // An error about an error must not be sent (RFC 1812, section 4.3.2.7).
        return match icmp_kind(icmp.icmp_type) {
            Kind::IcmpQuery { .. } => Some([icmp.identifier.get(); 2]),
            Kind::IcmpError | Kind::IcmpOther { .. } | Kind::Transport => None,
        };
    }
    if !protocol.has_ports() {
        return Some([0; 2]);
    }
    let header: &UdpHeader = view(quoted, transport)?;
    Some([header.source_port.get(), header.destination_port.get()])
}

/// An ICMP error that natwerk sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IcmpError {
    /// Type 3, code 13: refused by policy or limits.
    AdministrativelyProhibited,
    /// Type 3, code 4, with the next link's MTU in bytes (RFC 1191).
    FragmentationNeeded {
        /// What the next link takes, in bytes.
        mtu: u16,
    },
    /// Type 3, code 1.
    HostUnreachable,
    /// Type 3, code 0.
    NetUnreachable,
    /// Type 11, code 0.
    TtlExceeded,
}

impl IcmpError {
    /// Type, code, and the last two bytes of the header.
    const fn words(self) -> (u8, u8, u16) {
        match self {
            Self::AdministrativelyProhibited => (3, 13, 0),
            Self::FragmentationNeeded { mtu } => (3, 4, mtu),
            Self::HostUnreachable => (3, 1, 0),
            Self::NetUnreachable => (3, 0, 0),
            Self::TtlExceeded => (11, 0, 0),
        }
    }
}

/// Whether RFC 1812, section 4.3.2.7 allows an ICMP error about this packet: not about ICMP errors,
/// later fragments, group or unspecified addresses, or frames sent to a group address.
#[must_use]
pub fn may_answer(frame: &[u8], parsed: &Parsed) -> bool {
    let about_error = matches!(parsed.kind, Kind::IcmpError | Kind::IcmpOther { .. });
    let to_group = macs(frame).is_none_or(|(destination, _)| destination.is_group());
    !about_error
        && !to_group
        && parsed.fragment != Fragment::Later
        && is_single_host(parsed.source.address)
        && !parsed.destination.address.is_multicast()
        && !parsed.destination.address.is_broadcast()
}

/// Whether an address can be one host's on the network: not unspecified, "this network", loopback,
/// multicast, class E or broadcast.
fn is_single_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

/// Writes an ICMP error about the packet `original` (from its IPv4 header on; as much is quoted as
/// RFC 1812, section 4.3.2.3 allows: up to 576 bytes in all) into `buffer` behind a blank Ethernet
/// header of 14 bytes, from `source` to the packet's source. Returns the frame's length, or none if
/// `buffer` is too small.
pub fn write_error(
    buffer: &mut [u8],
    error: IcmpError,
    source: Ipv4Addr,
    original: &[u8],
) -> Option<usize> {
    let original_length = view::<Ipv4Header>(original, 0)?.total_length.get();
    let to = view::<Ipv4Header>(original, 0)?.source;
    // Link padding is no part of the packet.
    let quoted = usize::from(original_length).min(original.len()).min(QUOTE_MAX);
    let quote = original.get(..quoted)?;
    let length = ERROR_OVERHEAD + quoted;
    let frame = buffer.get_mut(..usize::from(LINK_LENGTH) + length)?;
    frame.fill(0);

    let header: &mut Ipv4Header = view_mut(frame, LINK_LENGTH)?;
    header.version_ihl = 0x45;
    header.tos = INTERNETWORK_CONTROL;
    header.total_length.set(u16::try_from(length).ok()?);
    // An atomic datagram, so its identification means nothing (RFC 6864, section 4.1).
    header.flags_offset.set(Ipv4Header::DONT_FRAGMENT);
    header.ttl = TTL;
    header.protocol = Protocol::ICMP.0;
    header.source.set(source.to_bits());
    header.destination = to;
    let checksum = checksum::checksum(header.as_bytes());
    header.checksum.set(checksum);

    let (icmp_type, code, sequence) = error.words();
    let (_, message) = frame.split_at_mut_checked(usize::from(LINK_LENGTH + IPV4_LENGTH))?;
    let (_, place) = message.split_at_mut_checked(usize::from(ICMP_LENGTH))?;
    place.copy_from_slice(quote);
    let icmp: &mut IcmpHeader = view_mut(message, 0)?;
    icmp.icmp_type = icmp_type;
    icmp.code = code;
    icmp.sequence.set(sequence);
    let checksum = checksum::checksum(message);
    view_mut::<IcmpHeader>(message, 0)?.checksum.set(checksum);
    Some(usize::from(LINK_LENGTH) + length)
}

/// Turns an echo request into its reply in place: addresses swapped, type 0, TTL 64, checksums right.
/// Link addresses are swapped too.
pub fn turn_into_echo_reply(frame: &mut [u8], parsed: &Parsed) {
    if parsed.kind != (Kind::IcmpQuery { icmp_type: ECHO_REQUEST }) {
        return;
    }
    if let Some(ethernet) = view_mut::<EthernetHeader>(frame, 0) {
        std::mem::swap(&mut ethernet.destination, &mut ethernet.source);
    }
    if let Some(header) = view_mut::<Ipv4Header>(frame, parsed.network) {
        // Trading places changes no sum.
        std::mem::swap(&mut header.source, &mut header.destination);
        let old = header.ttl_word();
        header.ttl = TTL;
        let delta = ChecksumDelta::between([old], [header.ttl_word()]);
        header.checksum.set(delta.apply(header.checksum.get()));
    }
    if let Some(icmp) = view_mut::<IcmpHeader>(frame, parsed.transport) {
        let old = u16::from_be_bytes([icmp.icmp_type, icmp.code]);
        icmp.icmp_type = ECHO_REPLY;
        let new = u16::from_be_bytes([icmp.icmp_type, icmp.code]);
        icmp.checksum.set(ChecksumDelta::between([old], [new]).apply(icmp.checksum.get()));
    }
}

/// The first eight bytes of a TCP header, all that a quote need have.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TcpStart {
    ports: [u8; 4],
    sequence: U32,
}

/// Type and code of "fragmentation needed and DF set".
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
/// Echo reply.
const ECHO_REPLY: u8 = 0;
/// Echo.
const ECHO_REQUEST: u8 = 8;
/// The header of an ICMP message, in bytes.
const ICMP_LENGTH: u16 = 8;
/// An IPv4 header without options and an ICMP header, in bytes.
const ERROR_OVERHEAD: usize = 28;
/// What an ICMP error quotes at most, in bytes (RFC 1812, section 4.3.2.3).
const QUOTE_MAX: usize = 576 - ERROR_OVERHEAD;
/// The type of service of ICMP errors: precedence "internetwork control" (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// The time to live of packets that natwerk sends (RFC 1340).
const TTL: u8 = 64;

#[cfg(test)]
mod tests;
