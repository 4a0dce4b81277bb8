//! One frame to one [`Parsed`]: offsets and endpoints, or why not.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, FlowKey, Mac, Protocol, Realm};
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::header::{EthernetHeader, IcmpHeader, Ipv4Header, VlanTag, ether_type, view};
use crate::wire::transport;

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
    IcmpQuery {
        /// The ICMP type.
        icmp_type: u8,
    },
    /// Any other ICMP message; never forwarded.
    IcmpOther {
        /// The ICMP type.
        icmp_type: u8,
    },
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
/// Whether the addresses may be forwarded is not judged here.
///
/// # Errors
/// The reason to drop it. [`DropReason::NotForwardable`] for another EtherType, ARP included.
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let (vlan, network) = link(frame)?;
    let header: &Ipv4Header = view(frame, network).ok_or(DropReason::Truncated)?;
    let (transport, end) = extent(frame, network, header)?;
    let mut parsed = Parsed {
        vlan,
        network,
        transport,
        end,
        protocol: Protocol(header.protocol),
        kind: Kind::Transport,
        fragment: fragment(header, end - transport)?,
        source: Endpoint::new(Ipv4Addr::from_bits(header.source.get()), 0),
        destination: Endpoint::new(Ipv4Addr::from_bits(header.destination.get()), 0),
        tcp_flags: 0,
        ttl: header.ttl,
        dont_fragment: header.flags_offset.get() & Ipv4Header::DONT_FRAGMENT != 0,
    };
    if parsed.fragment != Fragment::Later {
        let bytes = frame.get(..usize::from(end)).ok_or(DropReason::Truncated)?;
        read_transport(bytes, &mut parsed)?;
    }
    Ok(parsed)
}

/// The destination and source of the Ethernet header, if the frame is long enough.
#[must_use]
pub fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    let ethernet: &EthernetHeader = view(frame, 0)?;
    Some((Mac(ethernet.destination), Mac(ethernet.source)))
}

/// The VLAN of a frame that carries IPv4, and where its IPv4 header begins.
fn link(frame: &[u8]) -> Result<(u16, u16), DropReason> {
    let ethernet: &EthernetHeader = view(frame, 0).ok_or(DropReason::Truncated)?;
    match ethernet.ether_type.get() {
        ether_type::IPV4 => Ok((0, LINK_LENGTH)),
        ether_type::VLAN => {
            let tag: &VlanTag = view(frame, LINK_LENGTH).ok_or(DropReason::Truncated)?;
            if tag.ether_type.get() != ether_type::IPV4 {
                return Err(DropReason::NotForwardable);
            }
            Ok((tag.control.get() & VLAN_MASK, LINK_LENGTH_TAGGED))
        }
        _ => Err(DropReason::NotForwardable),
    }
}

/// Judges the IPv4 header (RFC 1812, section 5.2.2): where its payload begins and ends.
fn extent(frame: &[u8], network: u16, header: &Ipv4Header) -> Result<(u16, u16), DropReason> {
    let (header_length, total_length) = (header.header_length(), header.total_length.get());
    if header.version() != 4 || header_length < IPV4_LENGTH || total_length < header_length {
        return Err(DropReason::BadHeader);
    }
    let end = network.checked_add(total_length).ok_or(DropReason::FrameTooLong)?;
    if usize::from(end) > frame.len() {
        return Err(DropReason::Truncated);
    }
    let transport = network + header_length;
    if header_length == IPV4_LENGTH {
        if !checksum::header_is_right(header) {
            return Err(DropReason::BadChecksum);
        }
    } else {
        let bytes =
            frame.get(usize::from(network)..usize::from(transport)).ok_or(DropReason::Truncated)?;
        if !checksum::is_right(bytes) {
            return Err(DropReason::BadChecksum);
        }
        let (_, options) = bytes.split_at_checked(20).ok_or(DropReason::Truncated)?;
        judge_options(options)?;
    }
    Ok((transport, end))
}

/// Judges IP options. Source routes are refused (RFC 7126, sections 4.3 and 4.4); so are record
/// route and timestamp, which would tell internal addresses (sections 4.5 and 4.6). What else is
/// well formed passes.
fn judge_options(mut options: &[u8]) -> Result<(), DropReason> {
    loop {
        match *options {
            [] | [option::END, ..] => return Ok(()),
            [option::NO_OPERATION, ref rest @ ..] => options = rest,
            [
                option::RECORD_ROUTE
                | option::TIMESTAMP
                | option::LOOSE_SOURCE_ROUTE
                | option::STRICT_SOURCE_ROUTE,
                ..,
            ] => return Err(DropReason::BadOptions),
            [_, length, ..] if length >= 2 => {
                options = options.get(usize::from(length)..).ok_or(DropReason::BadOptions)?;
            }
            _ => return Err(DropReason::BadOptions),
        }
    }
}

/// Which part of a datagram a packet with `length` bytes of payload is, if it can be one at all.
fn fragment(header: &Ipv4Header, length: u16) -> Result<Fragment, DropReason> {
    let more = header.more_fragments();
    let offset = header.fragment_offset();
    if !more && offset == 0 {
        return Ok(Fragment::Whole);
    }
    // Empty, not a multiple of eight octets with more to come (RFC 791, section 3.2), or past the
    // longest datagram ("ping of death").
    let past_end =
        u32::from(header.header_length()) + u32::from(offset) + u32::from(length) > 65_535;
    if length == 0 || (more && !length.is_multiple_of(8)) || past_end {
        return Err(DropReason::FragmentBad);
    }
    match offset {
        0 => Ok(Fragment::First),
        // It would rewrite the flags of the first one (RFC 1858, section 3; RFC 3128).
        8 if header.protocol == Protocol::TCP.0 => Err(DropReason::FragmentBad),
        _ => Ok(Fragment::Later),
    }
}

/// Reads ports or identifier, judges the transport header. `packet` ends where the IPv4 packet does.
fn read_transport(packet: &[u8], parsed: &mut Parsed) -> Result<(), DropReason> {
    let Parsed { transport, protocol, fragment, .. } = *parsed;
    if protocol == Protocol::ICMP {
        let icmp: &IcmpHeader = view(packet, transport).ok_or(transport::too_short(fragment))?;
        parsed.kind = icmp_kind(icmp.icmp_type);
        if let Kind::IcmpQuery { .. } = parsed.kind {
            let identifier = icmp.identifier.get();
            parsed.source.port = identifier;
            parsed.destination.port = identifier;
        }
        return Ok(());
    }
    let length = parsed.end - transport;
    if let Some(shown) = transport::read(packet, transport, length, protocol, fragment)? {
        [parsed.source.port, parsed.destination.port] = shown.ports;
        parsed.tcp_flags = shown.tcp_flags;
    }
    Ok(())
}

/// What an ICMP message of a type is to translation.
pub(crate) const fn icmp_kind(icmp_type: u8) -> Kind {
    match icmp_type {
        3 | 4 | 5 | 11 | 12 => Kind::IcmpError,
        0 | 8 | 13 | 14 | 17 | 18 => Kind::IcmpQuery { icmp_type },
        _ => Kind::IcmpOther { icmp_type },
    }
}

/// The Ethernet header without a tag, in bytes.
pub const LINK_LENGTH: u16 = 14;
/// The Ethernet header with a tag, in bytes.
pub const LINK_LENGTH_TAGGED: u16 = 18;
/// The VLAN identifier in a tag's control field.
pub(crate) const VLAN_MASK: u16 = 0x0fff;
/// The IPv4 header without options, in bytes.
pub(crate) const IPV4_LENGTH: u16 = 20;

/// IP option types (IANA "IP Option Numbers").
mod option {
    pub const END: u8 = 0;
    pub const NO_OPERATION: u8 = 1;
    pub const RECORD_ROUTE: u8 = 7;
    pub const TIMESTAMP: u8 = 68;
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
}

#[cfg(test)]
mod tests;
