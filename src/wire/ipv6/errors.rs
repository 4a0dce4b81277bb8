//! ICMPv6 errors: those that pass, read inside out, and those that natwerk writes (RFC 4443).

use std::net::Ipv6Addr;

use zerocopy::IntoBytes;

use crate::flow::{Endpoint, Protocol};
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::header::{EthernetHeader, IcmpHeader, TcpHeader, UdpHeader, ether_type};
use crate::wire::header::{view, view_mut};
use crate::wire::ipv6::forward::pseudo_header_sum;
use crate::wire::ipv6::{Chain, IPV6_LENGTH, Ipv6Header, Parsed, icmp_kind, walk};
use crate::wire::parse::{Fragment, Kind, LINK_LENGTH, macs};

/// The packet that an ICMPv6 error quotes, as far as forwarding cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quote {
    /// The quoted protocol.
    pub protocol: Protocol,
    /// The quoted source; port is the identifier for ICMPv6 queries.
    pub source: Endpoint<Ipv6Addr>,
    /// The quoted destination.
    pub destination: Endpoint<Ipv6Addr>,
    /// The quoted TCP sequence number, where the protocol is TCP.
    pub tcp_sequence: Option<u32>,
}

/// Reads the packet quoted in an ICMPv6 error and checks the error's own checksum.
///
/// # Errors
/// Why the error must be dropped.
pub fn quote(frame: &[u8], parsed: &Parsed) -> Result<Quote, DropReason> {
    if parsed.kind != Kind::IcmpError || parsed.fragment != Fragment::Whole {
        return Err(DropReason::BadIcmpQuote);
    }
    let packet = frame.get(..usize::from(parsed.end)).ok_or(DropReason::BadIcmpQuote)?;
    let message = packet.get(usize::from(parsed.transport)..).ok_or(DropReason::BadIcmpQuote)?;
    let length = u32::from(parsed.end - parsed.transport);
    let (source, destination) = (parsed.source.address, parsed.destination.address);
    let pseudo = pseudo_header_sum(source, destination, length, Protocol::ICMPV6);
    let sum = u32::from(pseudo) + u32::from(checksum::sum(message));
    if (sum >> 16) + (sum & 0xffff) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    read_quote(packet, parsed).ok_or(DropReason::BadIcmpQuote)
}

/// Reads the quote of a whole ICMPv6 error; none if it is malformed, or no packet that a session
/// could have sent.
fn read_quote(packet: &[u8], parsed: &Parsed) -> Option<Quote> {
    let network = parsed.transport.checked_add(ICMP_LENGTH)?;
    let header: &Ipv6Header = view(packet, network)?;
    if header.version_class_flow.get() >> 28 != 6 {
        return None;
    }
    // The quote is cut where the error ends; behind a short packet may be extensions (RFC 4884).
    let told = (network + IPV6_LENGTH).saturating_add(header.payload_length.get());
    let quoted = packet.get(..usize::from(told).min(packet.len()))?;
    let chain = walk(quoted, network + IPV6_LENGTH, header.next_header).ok()?;
    let Chain { transport, protocol, fragment, .. } = chain;
    if fragment == Fragment::Later {
        return None;
    }
    let protocol = Protocol(protocol);
    let mut tcp_sequence = None;
    let ports = match protocol {
        Protocol::ICMPV6 => {
            let icmp: &IcmpHeader = view(quoted, transport)?;
            match icmp_kind(icmp.icmp_type) {
                Kind::IcmpQuery { .. } => [icmp.identifier.get(); 2],
                Kind::IcmpError | Kind::IcmpOther { .. } | Kind::Transport => return None,
            }
        }
        Protocol::TCP => {
            let tcp: &TcpHeader = view(quoted, transport)?;
            tcp_sequence = Some(tcp.sequence.get());
            [tcp.source_port.get(), tcp.destination_port.get()]
        }
        protocol if protocol.has_ports() => {
            let header: &UdpHeader = view(quoted, transport)?;
            [header.source_port.get(), header.destination_port.get()]
        }
        _ => [0; 2],
    };
    Some(Quote {
        protocol,
        source: Endpoint::new(Ipv6Addr::from(header.source), ports[0]),
        destination: Endpoint::new(Ipv6Addr::from(header.destination), ports[1]),
        tcp_sequence,
    })
}

/// An ICMPv6 error that natwerk sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Icmpv6Error {
    /// Type 1, code 3: the next hop does not answer.
    AddressUnreachable,
    /// Type 1, code 1: refused by policy or limits.
    AdministrativelyProhibited,
    /// Type 3, code 0.
    HopLimitExceeded,
    /// Type 1, code 0.
    NoRoute,
    /// Type 2.
    PacketTooBig {
        /// What the next link takes, in bytes.
        mtu: u16,
    },
}

impl Icmpv6Error {
    /// Type, code, and the four bytes behind the checksum.
    const fn words(self) -> (u8, u8, u32) {
        match self {
            Self::AddressUnreachable => (1, 3, 0),
            Self::AdministrativelyProhibited => (1, 1, 0),
            Self::HopLimitExceeded => (3, 0, 0),
            Self::NoRoute => (1, 0, 0),
            Self::PacketTooBig { mtu } => (2, 0, mtu as u32),
        }
    }
}

/// Whether RFC 4443, section 2.4 (e) allows an error about this packet: not about ICMPv6 errors,
/// group or unspecified addresses, or frames sent to a group address.
#[must_use]
pub fn may_answer(frame: &[u8], parsed: &Parsed) -> bool {
    let about_error = matches!(parsed.kind, Kind::IcmpError | Kind::IcmpOther { .. });
    let to_group = macs(frame).is_none_or(|(destination, _)| destination.is_group());
    let source = parsed.source.address;
    !about_error
        && !to_group
        && !source.is_multicast()
        && !source.is_unspecified()
        && !source.is_loopback()
        && !parsed.destination.address.is_multicast()
}

/// Writes an ICMPv6 error about the packet `original` (from its IPv6 header on; as much is quoted as
/// fits the minimum MTU) into `buffer` behind a blank Ethernet header of 14 bytes, from `source` to
/// the packet's source. Returns the frame's length, or none if `buffer` is too small.
pub fn write_error(
    buffer: &mut [u8],
    error: Icmpv6Error,
    source: Ipv6Addr,
    original: &[u8],
) -> Option<usize> {
    let told: &Ipv6Header = view(original, 0)?;
    let to = Ipv6Addr::from(told.source);
    let quoted = (usize::from(told.payload_length.get()) + usize::from(IPV6_LENGTH))
        .min(original.len())
        .min(ERROR_MAX - ERROR_OVERHEAD);
    let quote = original.get(..quoted)?;
    let length = ERROR_OVERHEAD + quoted;
    let frame = buffer.get_mut(..usize::from(LINK_LENGTH) + length)?;
    frame.fill(0);
    view_mut::<EthernetHeader>(frame, 0)?.ether_type.set(ether_type::IPV6);

    let message_length = u16::try_from(length).ok()? - IPV6_LENGTH;
    let header: &mut Ipv6Header = view_mut(frame, LINK_LENGTH)?;
    header.version_class_flow.set(6 << 28);
    header.payload_length.set(message_length);
    header.next_header = Protocol::ICMPV6.0;
    header.hop_limit = HOP_LIMIT;
    header.source = source.octets();
    header.destination = to.octets();

    let (icmp_type, code, rest) = error.words();
    let (_, message) = frame.split_at_mut_checked(usize::from(LINK_LENGTH + IPV6_LENGTH))?;
    let (start, place) = message.split_at_mut_checked(usize::from(ICMP_LENGTH))?;
    place.copy_from_slice(quote);
    start.get_mut(4..8)?.copy_from_slice(rest.to_be_bytes().as_bytes());
    let icmp: &mut IcmpHeader = view_mut(message, 0)?;
    (icmp.icmp_type, icmp.code) = (icmp_type, code);
    let pseudo = pseudo_header_sum(source, to, u32::from(message_length), Protocol::ICMPV6);
    let sum = u32::from(pseudo) + u32::from(checksum::sum(message));
    let sum = (sum >> 16) + (sum & 0xffff);
    view_mut::<IcmpHeader>(message, 0)?.checksum.set(!u16::try_from(sum).ok()?);
    Some(usize::from(LINK_LENGTH) + length)
}

/// The header of an ICMPv6 message, in bytes.
const ICMP_LENGTH: u16 = 8;
/// An IPv6 header and an ICMPv6 header, in bytes.
const ERROR_OVERHEAD: usize = 48;
/// The longest error: the minimum MTU of IPv6 (RFC 4443, section 2.4 (c)).
pub const ERROR_MAX: usize = 1280;
/// The hop limit of packets that natwerk sends.
const HOP_LIMIT: u8 = 64;
