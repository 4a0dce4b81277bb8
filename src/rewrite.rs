//! What a session does to a packet: new endpoints and the checksum change they bring.

use crate::flow::{Endpoint, FlowKey};
use crate::wire::checksum::ChecksumDelta;
use crate::wire::icmp::Quote;
use crate::wire::parse::Parsed;

/// New endpoints for the packets of one direction, with the checksum change ready to apply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rewrite {
    /// The source that leaves.
    pub source: Endpoint,
    /// The destination that leaves.
    pub destination: Endpoint,
    /// What the change of addresses adds to the IPv4 header checksum.
    pub address_delta: ChecksumDelta,
}

impl Rewrite {
    /// The rewrite that turns packets of `key` into packets from `source` to `destination`.
    #[must_use]
    pub fn new(key: &FlowKey, source: Endpoint, destination: Endpoint) -> Self {
        todo!()
    }

    /// Rewrites a packet of `kind` Transport or IcmpQuery (or a later fragment, whose transport
    /// header is elsewhere): addresses, ports or identifier, TTL down by one, all checksums
    /// (UDP zero stays zero, a computed zero is sent as 0xffff; protocols without checksum over
    /// addresses are left alone; SCTP's CRC32c is computed anew only if ports changed).
    pub fn apply(&self, frame: &mut [u8], parsed: &Parsed) {
        todo!()
    }

    /// Rewrites an ICMP error that travels with this direction: outer destination becomes
    /// `self.destination.address`, outer source becomes `outer_source`; the quoted packet, which is
    /// of the other direction, gets `self.destination` as its source and `self.source` as its
    /// destination, with its IPv4 checksum, its transport checksum where it is there, and the ICMP
    /// checksum mended; TTL down by one (RFC 5508, REQ-4 and REQ-5).
    pub fn apply_to_error(
        &self,
        frame: &mut [u8],
        parsed: &Parsed,
        quote: &Quote,
        outer_source: std::net::Ipv4Addr,
    ) {
        todo!()
    }
}
