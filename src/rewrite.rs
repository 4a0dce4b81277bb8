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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Realm;
    use crate::testing::packets::{Packet, wrong_checksums};
    use crate::wire::icmp::quote;
    use crate::wire::parse::parse;

    const PROTOCOLS: [Protocol; 8] = [
        Protocol::TCP,
        Protocol::UDP,
        Protocol::UDP_LITE,
        Protocol::DCCP,
        Protocol::SCTP,
        Protocol::ICMP,
        Protocol::GRE,
        Protocol::ESP,
    ];

    fn packet(protocol: Protocol, source: Endpoint, destination: Endpoint, data: &[u8]) -> Packet {
        match protocol {
            Protocol::TCP => Packet::tcp(source, destination, 0x18, &[], data),
            Protocol::UDP => Packet::udp(source, destination, data),
            Protocol::ICMP => {
                Packet::echo(source.address, destination.address, 8, source.port, data)
            }
            protocol if protocol.has_ports() => {
                Packet::with_ports(protocol, source, destination, data)
            }
            protocol => Packet::new(protocol, source.address, destination.address, data.to_vec()),
        }
    }

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        // Zero and all ones are where one's complement has two faces.
        let word = || prop_oneof![4 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff)];
        (word(), word(), prop_oneof![4 => 1..=u16::MAX, 1 => Just(0xffff)]).prop_map(
            |(high, low, port)| {
                let address = u32::from(high) << 16 | u32::from(low);
                Endpoint::new(Ipv4Addr::from_bits(address), port)
            },
        )
    }

    fn ip_options() -> impl Strategy<Value = Vec<u8>> {
        proptest::sample::select(vec![vec![], vec![1, 1, 1, 0], vec![0x94, 4, 0, 0]])
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..120)
    }

    /// The endpoint as a packet of `protocol` shows it, when `other` is what its identifier would be.
    fn visible(protocol: Protocol, endpoint: Endpoint, identifier: u16) -> Endpoint {
        match protocol {
            Protocol::ICMP => Endpoint::new(endpoint.address, identifier),
            protocol if protocol.has_ports() => endpoint,
            _ => Endpoint::new(endpoint.address, 0),
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_packet_is_the_one_its_new_sender_would_have_sent(
            protocol in proptest::sample::select(&PROTOCOLS[..]),
            source in endpoint(), destination in endpoint(),
            new_source in endpoint(), new_destination in endpoint(),
            data in data(), ttl in 2_u8..=255, tos: u8, identification: u16,
            tag in proptest::option::of(any::<u16>()),
            options in ip_options(),
            padding in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let make = |source, destination, ttl| Packet {
                tag, ttl, tos, identification,
                options: options.to_vec(),
                padding: padding.clone(),
                ..packet(protocol, source, destination, &data)
            };
            let mut frame = make(source, destination, ttl).frame();
            let parsed = parse(&frame).unwrap();
            prop_assert_eq!(parsed.source, visible(protocol, source, source.port));
            prop_assert_eq!(parsed.destination, visible(protocol, destination, source.port));
            Rewrite::new(&parsed.key(Realm::External), new_source, new_destination)
                .apply(&mut frame, &parsed);
            prop_assert_eq!(frame, make(new_source, new_destination, ttl - 1).frame());
        }

        #[test]
        fn a_wrong_transport_checksum_stays_as_wrong(
            protocol in proptest::sample::select(&PROTOCOLS[..6]),
            source in endpoint(), destination in endpoint(),
            new_source in endpoint(), new_destination in endpoint(),
            data in proptest::collection::vec(any::<u8>(), 1..50),
            flip in 1_u8..=255,
        ) {
            let mut sent = packet(protocol, source, destination, &data);
            *sent.transport.last_mut().unwrap() ^= flip;
            let mut frame = sent.frame();
            let parsed = parse(&frame).unwrap();
            Rewrite::new(&parsed.key(Realm::External), new_source, new_destination)
                .apply(&mut frame, &parsed);
            prop_assert_eq!(wrong_checksums(&frame[14..]), ["transport"]);
        }

        #[test]
        fn a_rewritten_error_quotes_the_packet_its_receiver_sent(
            protocol in proptest::sample::select(&PROTOCOLS[..]),
            guest in endpoint(), public in endpoint(), remote in endpoint(),
            router in endpoint(),
            data in data(), cut in 8_usize..200, extension in any::<bool>(),
            options in ip_options(),
        ) {
            // What left, and what its sender knows of it.
            let make = |source, ttl| Packet {
                ttl, options: options.to_vec(), ..packet(protocol, source, remote, &data)
            };
            let quoted = |packet: Packet| {
                let mut bytes = packet.bytes();
                if extension {
                    bytes.resize(128, 0);
                    bytes.extend_from_slice(&[0x20, 0, 1, 2, 0, 8, 1, 1, 9, 9, 9, 9]);
                } else {
                    bytes.truncate(20 + options.len() + cut);
                }
                bytes
            };
            prop_assume!(protocol.has_ports() || !data.is_empty());
            let rest = if extension { [0, 32, 0, 0] } else { [0; 4] };
            let error = |to: Ipv4Addr, quote: &[u8], ttl| Packet {
                ttl, ..Packet::icmp(router.address, to, (11, 0), rest, quote)
            };
            let mut frame = error(public.address, &quoted(make(public, 3)), 9).frame();
            let parsed = parse(&frame).unwrap();
            let found = quote(&frame, &parsed).unwrap();
            prop_assert_eq!(found.source, visible(protocol, public, public.port));
            prop_assert_eq!(found.destination, visible(protocol, remote, public.port));

            // The direction that carries the error: remote to guest.
            let inbound = Rewrite {
                source: visible(protocol, remote, guest.port),
                destination: visible(protocol, guest, guest.port),
                address_delta: ChecksumDelta::default(),
            };
            inbound.apply_to_error(&mut frame, &parsed, &found, router.address);
            let expected = error(guest.address, &quoted(make(guest, 3)), 8).frame();
            prop_assert_eq!(wrong_checksums(&frame[14..]), Vec::<&str>::new());
            // A CRC32c or a checksum that the quote shows only a part of cannot be mended.
            let cut_within = match protocol {
                Protocol::TCP => cut == 17,
                Protocol::SCTP => cut > 8 && cut < 12,
                _ => false,
            };
            if !cut_within {
                prop_assert_eq!(frame, expected);
            }
        }
    }
}
