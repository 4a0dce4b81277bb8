//! IPv6: one frame to one [`Parsed`], its header chain walked to the end (RFC 8200).
//!
//! A packet whose chain cannot be followed to the transport header hides it from every filter, so
//! it is refused: too many headers, a routing header that still wants to route (RFC 5095), a first
//! fragment that does not hold the chain (RFC 7112).

pub mod errors;
mod forward;

use std::net::Ipv6Addr;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::{Endpoint, FlowKey, Protocol, Realm};
use crate::verdict::DropReason;
use crate::wire::header::{EthernetHeader, IcmpHeader, VlanTag, ether_type, view};
use crate::wire::parse::{Fragment, Kind, LINK_LENGTH, LINK_LENGTH_TAGGED, VLAN_MASK};
use crate::wire::transport;

pub use forward::{complete_partial, lower_hop_limit};

/// The fixed header (RFC 8200, section 3).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    /// What follows this header, in bytes.
    pub payload_length: U16,
    /// What kind of header follows.
    pub next_header: u8,
    /// How many links it may still cross.
    pub hop_limit: u8,
    /// From whom.
    pub source: [u8; 16],
    /// To whom.
    pub destination: [u8; 16],
}

/// The fragment header (RFC 8200, section 4.5).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    /// Offset in units of eight octets (13 bits), reserved (2 bits), more fragments (1 bit).
    offset_flags: U16,
    identification: U32,
}

/// How most extension headers begin (RFC 6564).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtensionHeader {
    next_header: u8,
    /// In units of eight octets, the first ones not counted.
    length: u8,
    /// Of a routing header.
    routing_type: u8,
    /// Of a routing header.
    segments_left: u8,
}

/// What a sound IPv6 frame says of itself. All offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// The 802.1Q VLAN identifier; zero for an untagged or priority-tagged frame.
    pub vlan: u16,
    /// Where the IPv6 header begins.
    pub network: u16,
    /// Where the transport header (or the later fragment's data) begins.
    pub transport: u16,
    /// One past the last byte of the packet.
    pub end: u16,
    /// The protocol at the end of the header chain; of a later fragment, what the fragment header
    /// names.
    pub protocol: Protocol,
    /// What the packet is.
    pub kind: Kind,
    /// Whole, first fragment or later fragment.
    pub fragment: Fragment,
    /// The part of its datagram that a fragment carries.
    pub part: Part,
    /// The source; port is the query identifier for ICMPv6 queries, zero where there is none to see.
    pub source: Endpoint<Ipv6Addr>,
    /// The destination, likewise.
    pub destination: Endpoint<Ipv6Addr>,
    /// The TCP flags octet; zero for other protocols.
    pub tcp_flags: u8,
    /// The hop limit as received.
    pub hop_limit: u8,
}

/// The part of a datagram that a fragment carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Part {
    /// Ties fragments together.
    pub identification: u32,
    /// Its first byte, counted from behind the fragment header.
    pub start: u16,
    /// One past its last byte.
    pub end: u32,
    /// Whether more follow.
    pub more: bool,
}

impl Parsed {
    /// The packet's key in `realm`.
    #[must_use]
    pub const fn key(&self, realm: Realm) -> FlowKey<Ipv6Addr> {
        FlowKey {
            realm,
            protocol: self.protocol,
            source: self.source,
            destination: self.destination,
        }
    }

    /// The length of the packet in bytes.
    #[must_use]
    pub const fn packet_length(&self) -> u16 {
        self.end - self.network
    }
}

/// Parses an Ethernet frame that carries IPv6, with at most one 802.1Q tag. None for any other
/// EtherType.
///
/// Whether the addresses may be forwarded is not judged here.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Result<Parsed, DropReason>> {
    let (vlan, network) = link(frame)?;
    Some(parse_packet(frame, vlan, network))
}

fn link(frame: &[u8]) -> Option<(u16, u16)> {
    let ethernet: &EthernetHeader = view(frame, 0)?;
    match ethernet.ether_type.get() {
        ether_type::IPV6 => Some((0, LINK_LENGTH)),
        ether_type::VLAN => {
            let tag: &VlanTag = view(frame, LINK_LENGTH)?;
            (tag.ether_type.get() == ether_type::IPV6)
                .then(|| (tag.control.get() & VLAN_MASK, LINK_LENGTH_TAGGED))
        }
        _ => None,
    }
}

fn parse_packet(frame: &[u8], vlan: u16, network: u16) -> Result<Parsed, DropReason> {
    let header: &Ipv6Header = view(frame, network).ok_or(DropReason::Truncated)?;
    if header.version_class_flow.get() >> 28 != 6 {
        return Err(DropReason::BadHeader);
    }
    let end = (network + IPV6_LENGTH)
        .checked_add(header.payload_length.get())
        .ok_or(DropReason::FrameTooLong)?;
    // Padding behind the packet is the link's.
    let packet = frame.get(..usize::from(end)).ok_or(DropReason::Truncated)?;
    let chain = walk(packet, network + IPV6_LENGTH, header.next_header)?;
    let mut parsed = Parsed {
        vlan,
        network,
        transport: chain.transport,
        end,
        protocol: Protocol(chain.protocol),
        kind: Kind::Transport,
        fragment: chain.fragment,
        part: chain.part,
        source: Endpoint::new(Ipv6Addr::from(header.source), 0),
        destination: Endpoint::new(Ipv6Addr::from(header.destination), 0),
        tcp_flags: 0,
        hop_limit: header.hop_limit,
    };
    if parsed.fragment != Fragment::Later {
        read_transport(packet, &mut parsed)?;
    }
    Ok(parsed)
}

/// Where a header chain ends, and what it says of fragments.
struct Chain {
    transport: u16,
    protocol: u8,
    fragment: Fragment,
    part: Part,
}

/// Follows the chain of extension headers from `at` on. `packet` ends where the IPv6 packet does.
fn walk(packet: &[u8], at: u16, next_header: u8) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        transport: at,
        protocol: next_header,
        fragment: Fragment::Whole,
        part: Part::default(),
    };
    for place in 0..=EXTENSIONS_MAX {
        match chain.protocol {
            extension::HOP_BY_HOP if place > 0 => return Err(DropReason::BadHeader),
            extension::FRAGMENT => {
                read_fragment(packet, &mut chain)?;
                if chain.fragment == Fragment::Later {
                    return Ok(chain);
                }
            }
            extension::HOP_BY_HOP
            | extension::ROUTING
            | extension::DESTINATION
            | extension::MOBILITY
            | extension::HIP
            | extension::SHIM6 => pass_extension(packet, &mut chain)?,
            _ => return Ok(chain),
        }
    }
    Err(DropReason::BadHeader)
}

/// Steps over an extension header.
fn pass_extension(packet: &[u8], chain: &mut Chain) -> Result<(), DropReason> {
    // A chain that the first fragment does not hold hides from every filter (RFC 7112).
    let too_short = transport::too_short(chain.fragment);
    let header: &ExtensionHeader = view(packet, chain.transport).ok_or(too_short)?;
    // A routing header with segments left asks to be routed by its sender's will (RFC 5095).
    if chain.protocol == extension::ROUTING && header.segments_left != 0 {
        return Err(DropReason::BadOptions);
    }
    let length = (u16::from(header.length) + 1) * 8;
    let behind = chain.transport.checked_add(length).ok_or(too_short)?;
    if usize::from(behind) > packet.len() {
        return Err(too_short);
    }
    chain.protocol = header.next_header;
    chain.transport = behind;
    Ok(())
}

fn read_fragment(packet: &[u8], chain: &mut Chain) -> Result<(), DropReason> {
    // There is one fragment header, or none.
    if chain.part != Part::default() || chain.fragment != Fragment::Whole {
        return Err(DropReason::FragmentBad);
    }
    let header: &FragmentHeader = view(packet, chain.transport).ok_or(DropReason::Truncated)?;
    let (start, more) = (header.offset_flags.get() & 0xfff8, header.offset_flags.get() & 1 != 0);
    chain.protocol = header.next_header;
    chain.transport += FRAGMENT_LENGTH;
    let length = packet.len().saturating_sub(usize::from(chain.transport));
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let end = u32::from(start) + length;
    if start == 0 && !more {
        // An atomic fragment is a whole packet (RFC 6946).
        return Ok(());
    }
    if length == 0 || end > 65_535 || (more && !length.is_multiple_of(8)) {
        return Err(DropReason::FragmentBad);
    }
    chain.fragment = if start == 0 { Fragment::First } else { Fragment::Later };
    chain.part = Part { identification: header.identification.get(), start, end, more };
    Ok(())
}

/// Reads ports or identifier, judges the transport header. `packet` ends where the IPv6 packet does.
fn read_transport(packet: &[u8], parsed: &mut Parsed) -> Result<(), DropReason> {
    let Parsed { transport, protocol, fragment, .. } = *parsed;
    match protocol {
        Protocol::ICMPV6 => {
            let icmp: &IcmpHeader =
                view(packet, transport).ok_or(transport::too_short(fragment))?;
            parsed.kind = icmp_kind(icmp.icmp_type);
            if let Kind::IcmpQuery { .. } = parsed.kind {
                parsed.source.port = icmp.identifier.get();
                parsed.destination.port = icmp.identifier.get();
            }
            return Ok(());
        }
        // ICMP of IPv4 has no business in IPv6.
        Protocol::ICMP => return Err(DropReason::BadHeader),
        _ => {}
    }
    let length = parsed.end - transport;
    if let Some(shown) = transport::read(packet, transport, length, protocol, fragment)? {
        [parsed.source.port, parsed.destination.port] = shown.ports;
        parsed.tcp_flags = shown.tcp_flags;
    }
    Ok(())
}

/// What an ICMPv6 message of a type is to forwarding (RFC 4443; RFC 4890, section 4.3): neighbour
/// and listener discovery never leave their link.
pub(crate) const fn icmp_kind(icmp_type: u8) -> Kind {
    match icmp_type {
        1..=4 => Kind::IcmpError,
        ECHO_REQUEST | ECHO_REPLY => Kind::IcmpQuery { icmp_type },
        _ => Kind::IcmpOther { icmp_type },
    }
}

/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// The fixed header, in bytes.
pub const IPV6_LENGTH: u16 = 40;
const FRAGMENT_LENGTH: u16 = 8;
/// More extension headers than this nobody sends in earnest (RFC 8504, section 5.3 lets a node say
/// so).
const EXTENSIONS_MAX: usize = 8;

/// Extension headers (IANA "IPv6 Extension Header Types"). ESP and AH are not followed: what they
/// carry is judged as ESP and AH.
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

#[cfg(test)]
mod tests;
