//! What a session does to a packet: new endpoints and the checksum change they bring.

use std::net::Ipv4Addr;

use zerocopy::network_endian::U16;

use crate::flow::{Endpoint, FlowKey, Protocol};
use crate::wire::checksum::ChecksumDelta;
use crate::wire::header::{IcmpHeader, Ipv4Header, SctpHeader, view_mut};
use crate::wire::icmp::Quote;
use crate::wire::parse::{Fragment, Kind, Parsed};
use crate::wire::sctp;

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
        let address_delta = ChecksumDelta::between_addresses(
            [key.source.address, key.destination.address],
            [source.address, destination.address],
        );
        Self { source, destination, address_delta }
    }

    /// Rewrites a packet of `kind` Transport or IcmpQuery (or a later fragment, whose transport
    /// header is elsewhere): addresses, ports or identifier, TTL down by one, all checksums
    /// (UDP zero stays zero, a computed zero is sent as 0xffff; protocols without checksum over
    /// addresses are left alone; SCTP's CRC32c changes only if ports do, and is left alone in
    /// fragments, where it cannot be known). Wrong checksums stay wrong (RFC 3022, section 4.2).
    pub fn apply(&self, frame: &mut [u8], parsed: &Parsed) {
        let addresses = [self.source.address, self.destination.address];
        rewrite_network(frame, parsed.network, addresses, self.address_delta);
        if parsed.fragment == Fragment::Later {
            return;
        }
        let length = match parsed.fragment {
            Fragment::Whole => Some(parsed.end - parsed.transport),
            Fragment::First | Fragment::Later => None,
        };
        if parsed.protocol == Protocol::ICMP && !matches!(parsed.kind, Kind::IcmpQuery { .. }) {
            return;
        }
        let change = PortChange {
            old: [parsed.source.port, parsed.destination.port],
            new: [self.source.port, self.destination.port],
            address_delta: self.address_delta,
        };
        change.apply(frame, parsed.transport, parsed.protocol, length);
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
        outer_source: Ipv4Addr,
    ) {
        let outer = [outer_source, self.destination.address];
        let outer_delta = ChecksumDelta::between_addresses(
            [parsed.source.address, parsed.destination.address],
            outer,
        );
        rewrite_network(frame, parsed.network, outer, outer_delta);
        let delta = self.apply_to_quote(frame, quote);
        // All that changed in the quote stands at even offsets of the message.
        if let Some(icmp) = view_mut::<IcmpHeader>(frame, parsed.transport) {
            icmp.checksum.set(delta.apply(icmp.checksum.get()));
        }
    }

    /// Rewrites the quoted packet as the other direction's sender knows it. Returns what the changes
    /// add to a checksum over them.
    fn apply_to_quote(&self, frame: &mut [u8], quote: &Quote) -> ChecksumDelta {
        // Nothing past the quote is the quoted packet's, even if the frame goes on.
        let Some(frame) = frame.get_mut(..usize::from(quote.end)) else {
            return ChecksumDelta::default();
        };
        let Some(header) = view_mut::<Ipv4Header>(frame, quote.network) else {
            return ChecksumDelta::default();
        };
        let (source, destination) = (self.destination, self.source);
        let address_delta = ChecksumDelta::between_addresses(
            [quote.source.address, quote.destination.address],
            [source.address, destination.address],
        );
        let old = header.checksum.get();
        let new = address_delta.apply(old);
        header.source.set(source.address.to_bits());
        header.destination.set(destination.address.to_bits());
        header.checksum.set(new);
        let length = match header.more_fragments() {
            false => Some(header.total_length.get().saturating_sub(header.header_length())),
            true => None,
        };
        let change = PortChange {
            old: [quote.source.port, quote.destination.port],
            new: [source.port, destination.port],
            address_delta,
        };
        address_delta.plus(ChecksumDelta::between([old], [new])).plus(change.apply(
            frame,
            quote.transport,
            quote.protocol,
            length,
        ))
    }
}

/// Writes `addresses` (source, destination) into an IPv4 header, and takes one off its time to live
/// (RFC 1812, section 5.3.1).
fn rewrite_network(
    frame: &mut [u8],
    network: u16,
    addresses: [Ipv4Addr; 2],
    address_delta: ChecksumDelta,
) {
    let Some(header) = view_mut::<Ipv4Header>(frame, network) else { return };
    let [source, destination] = addresses;
    let old = header.ttl_word();
    header.ttl = header.ttl.saturating_sub(1);
    let delta = ChecksumDelta::between([old], [header.ttl_word()]).plus(address_delta);
    header.source.set(source.to_bits());
    header.destination.set(destination.to_bits());
    header.checksum.set(delta.apply(header.checksum.get()));
}

/// New ports, or a new identifier, for a transport header.
struct PortChange {
    /// Source and destination as they are.
    old: [u16; 2],
    /// Source and destination as they shall be.
    new: [u16; 2],
    /// What the change of addresses adds to checksums that cover them.
    address_delta: ChecksumDelta,
}

impl PortChange {
    /// Changes the header at `transport`, and its checksum if `frame` reaches so far. `length` is the
    /// transport header's and data's, where the packet is whole. Returns what the change adds to a
    /// checksum over the header.
    fn apply(
        &self,
        frame: &mut [u8],
        transport: u16,
        protocol: Protocol,
        length: Option<u16>,
    ) -> ChecksumDelta {
        let ports_delta = ChecksumDelta::between(self.old, self.new);
        let delta = ports_delta.plus(self.address_delta);
        match protocol {
            Protocol::TCP => {
                self.write_ports(frame, transport);
                ports_delta.plus(update(frame, transport, TCP_CHECKSUM, |old| delta.apply(old)))
            }
            Protocol::UDP | Protocol::UDP_LITE => {
                self.write_ports(frame, transport);
                ports_delta
                    .plus(update(frame, transport, UDP_CHECKSUM, |old| delta.apply_to_udp(old)))
            }
            Protocol::DCCP => {
                self.write_ports(frame, transport);
                ports_delta.plus(update(frame, transport, DCCP_CHECKSUM, |old| delta.apply(old)))
            }
            Protocol::ICMP => self.apply_to_query(frame, transport),
            Protocol::SCTP if self.old != self.new => {
                self.write_ports(frame, transport);
                ports_delta.plus(self.update_sctp(frame, transport, length))
            }
            _ => ChecksumDelta::default(),
        }
    }

    /// Writes the new ports, which every protocol that has any puts first.
    fn write_ports(&self, frame: &mut [u8], transport: u16) {
        let Some(ports) = view_mut::<[U16; 2]>(frame, transport) else { return };
        *ports = self.new.map(U16::new);
    }

    /// Changes the identifier of an ICMP query, whose checksum covers no addresses.
    fn apply_to_query(&self, frame: &mut [u8], transport: u16) -> ChecksumDelta {
        let Some(icmp) = view_mut::<IcmpHeader>(frame, transport) else {
            return ChecksumDelta::default();
        };
        let ([old, _], [new, _]) = (self.old, self.new);
        let delta = ChecksumDelta::between([old], [new]);
        icmp.identifier.set(new);
        let checksum = icmp.checksum.get();
        icmp.checksum.set(delta.apply(checksum));
        delta.plus(ChecksumDelta::between([checksum], [icmp.checksum.get()]))
    }

    /// Mends SCTP's CRC32c, which covers ports but no addresses, where the packet is whole.
    fn update_sctp(&self, frame: &mut [u8], transport: u16, length: Option<u16>) -> ChecksumDelta {
        let (Some(length), Some(header)) = (length, view_mut::<SctpHeader>(frame, transport))
        else {
            return ChecksumDelta::default();
        };
        let bytes = |[source, destination]: [u16; 2]| {
            let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
            [a, b, c, d]
        };
        let words =
            |[a, b, c, d]: [u8; 4]| [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        let old = header.checksum;
        header.checksum = sctp::update(old, bytes(self.old), bytes(self.new), length);
        ChecksumDelta::between(words(old), words(header.checksum))
    }
}

/// Puts the checksum at `transport + offset` through `change`, if it is there. Returns what that adds
/// to a checksum over it.
fn update(
    frame: &mut [u8],
    transport: u16,
    offset: u16,
    change: impl Fn(u16) -> u16,
) -> ChecksumDelta {
    let Some(field) = view_mut::<U16>(frame, transport.saturating_add(offset)) else {
        return ChecksumDelta::default();
    };
    let old = field.get();
    let new = change(old);
    field.set(new);
    ChecksumDelta::between([old], [new])
}

/// Where in their headers the checksums are, in bytes.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
const DCCP_CHECKSUM: u16 = 6;

#[cfg(test)]
mod tests;
