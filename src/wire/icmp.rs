//! ICMP that natwerk reads inside out (errors) or writes itself (errors, echo replies).

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, Protocol};
use crate::verdict::DropReason;
use crate::wire::parse::Parsed;

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
    todo!()
}

/// An ICMP error that natwerk sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IcmpError {
    /// Type 3, code 13: refused by policy or limits.
    AdministrativelyProhibited,
    /// Type 3, code 4, with the next link's MTU in bytes (RFC 1191).
    FragmentationNeeded { mtu: u16 },
    /// Type 3, code 1.
    HostUnreachable,
    /// Type 3, code 0.
    NetUnreachable,
    /// Type 11, code 0.
    TtlExceeded,
}

/// Whether RFC 1812, section 4.3.2.7 allows an ICMP error about this packet: not about ICMP errors,
/// later fragments, group or unspecified addresses, or frames sent to a group address.
#[must_use]
pub fn may_answer(frame: &[u8], parsed: &Parsed) -> bool {
    todo!()
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
    todo!()
}

/// Turns an echo request into its reply in place: addresses swapped, type 0, TTL 64, checksums right.
/// Link addresses are swapped too.
pub fn turn_into_echo_reply(frame: &mut [u8], parsed: &Parsed) {
    todo!()
}
