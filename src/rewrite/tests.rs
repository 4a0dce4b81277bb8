use proptest::prelude::*;

use super::*;
use crate::flow::{LinkWords, Mac, Realm};
use crate::testing::packets::{Packet, wrong_checksums};
use crate::wire::checksum::is_partial;
use crate::wire::icmp::quote;
use crate::wire::parse::parse;
use crate::wire::plain::Plain;

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
        Protocol::ICMP => Packet::echo(source.address, destination.address, 8, source.port, data),
        protocol if protocol.has_ports() => Packet::with_ports(protocol, source, destination, data),
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
    fn a_packet_is_plain_unless_its_checksum_is_yet_to_be_finished(
        is_tcp: bool,
        source in endpoint(), destination in endpoint(),
        data in data(),
        other in 1..=u16::MAX,
    ) {
        let protocol = if is_tcp { Protocol::TCP } else { Protocol::UDP };
        let mut frame = packet(protocol, source, destination, &data).frame();
        let parsed = parse(&frame).unwrap();
        let halves = [source, destination].map(|end| end.address.to_bits());
        let addresses: u32 = halves.iter().map(|bits| (bits >> 16) + (bits & 0xffff)).sum();
        let mut sum = addresses + u32::from(protocol.0) + u32::from(parsed.end - parsed.transport);
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let at = usize::from(parsed.transport + if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM });
        for checksum in [sum as u16, other] {
            frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
            prop_assert_eq!(is_partial(&frame, &parsed), u32::from(checksum) == sum);
            prop_assert_eq!(Plain::read(&frame).is_none(), u32::from(checksum) == sum);
        }
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

fn at(last: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(203, 0, 113, last), port)
}

/// `packet` after a rewrite to these endpoints, from its IPv4 header on.
fn rewritten(packet: &Packet, source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let mut frame = packet.frame();
    let parsed = parse(&frame).unwrap();
    Rewrite::new(&parsed.key(Realm::External), source, destination).apply(&mut frame, &parsed);
    frame.split_off(14)
}

/// A UDP datagram whose checksum comes out as `checksum`, by the last word of its data.
fn steered(source: Endpoint, destination: Endpoint, checksum: u16) -> Packet {
    (0..=u16::MAX)
        .map(|word| Packet::udp(source, destination, &word.to_be_bytes()))
        .find(|packet| packet.transport[6..8] == checksum.to_be_bytes())
        .expect("one of all words does it")
}

#[test]
fn tos_identification_flags_and_payload_survive() {
    // MAP-17.
    for tos in [0x00, 0xb8, 0xba, 0x03, 0x01] {
        for flags_offset in [0x4000, 0] {
            let packet = Packet {
                tos,
                flags_offset,
                identification: 0xbeef,
                ..Packet::udp(at(1, 5000), at(2, 53), b"payload")
            };
            let out = rewritten(&packet, at(3, 6000), at(2, 53));
            let sent = packet.bytes();
            assert_eq!(out[..8], sent[..8]);
            assert_eq!(out[28..], sent[28..]);
        }
    }
}

#[test]
fn checksums_are_right_at_their_corners() {
    // MAP-18, UDP-02.
    for checksum in [0x0001, 0x0002, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff] {
        let into = rewritten(&steered(at(1, 5000), at(2, 53), checksum), at(9, 77), at(2, 53));
        assert_eq!(wrong_checksums(&into), Vec::<&str>::new(), "from {checksum:#x}");
        // And such that it comes out of the rewrite.
        let target = steered(at(9, 77), at(2, 53), checksum);
        let sent = Packet::udp(at(1, 5000), at(2, 53), &target.transport[8..]);
        let out = rewritten(&sent, at(9, 77), at(2, 53));
        assert_eq!(out[26..28], checksum.to_be_bytes(), "to {checksum:#x}");
    }
}

#[test]
fn a_computed_zero_is_sent_as_ones_even_when_nothing_changed() {
    //
    let packet = steered(at(1, 5000), at(2, 53), 0xffff);
    assert_eq!(rewritten(&packet, at(1, 5000), at(2, 53))[26..28], [0xff, 0xff]);
}

#[test]
fn a_zero_udp_checksum_stays_zero_also_when_quoted() {
    // UDP-01, ICM-20.
    let mut packet = Packet::udp(at(1, 5000), at(2, 53), b"nocheck");
    packet.transport[6..8].fill(0);
    assert_eq!(rewritten(&packet, at(3, 9), at(2, 53))[26..28], [0, 0]);

    let mut frame =
        Packet::icmp(at(2, 0).address, at(1, 0).address, (3, 3), [0; 4], &packet.bytes()).frame();
    let parsed = parse(&frame).unwrap();
    let found = quote(&frame, &parsed).unwrap();
    Rewrite { source: at(2, 53), destination: at(7, 99), address_delta: ChecksumDelta::default() }
        .apply_to_error(&mut frame, &parsed, &found, at(2, 0).address);
    assert_eq!(frame[14 + 28 + 26..14 + 28 + 28], [0, 0]);
    assert_eq!(wrong_checksums(&frame[14..]), Vec::<&str>::new());
}

#[test]
fn an_outbound_error_hides_the_inside() {
    // ICM-08, ICM-09. A router behind the NAT cannot deliver to the forwarded guest.
    let (guest, virtual_ip) = (at(5, 80), at(11, 8080));
    let (client, inner_router) = (at(200, 5000), at(254, 0));
    let delivered = Packet::udp(client, guest, b"knock");
    let mut frame =
        Packet::icmp(inner_router.address, client.address, (3, 1), [0; 4], &delivered.bytes())
            .frame();
    let parsed = parse(&frame).unwrap();
    let found = quote(&frame, &parsed).unwrap();
    // The direction that carries the error: guest to client.
    Rewrite { source: virtual_ip, destination: client, address_delta: ChecksumDelta::default() }
        .apply_to_error(&mut frame, &parsed, &found, virtual_ip.address);
    let seen = Packet::udp(client, virtual_ip, b"knock");
    let expected = Packet {
        ttl: 63,
        ..Packet::icmp(virtual_ip.address, client.address, (3, 1), [0; 4], &seen.bytes())
    };
    assert_eq!(frame, expected.frame());
}

#[test]
fn the_time_to_live_drops_by_one_and_never_below_zero() {
    // TTL-01.
    for (ttl, left) in [(255, 254), (64, 63), (3, 2), (2, 1), (1, 0), (0, 0)] {
        let out = rewritten(
            &Packet { ttl, ..Packet::udp(at(1, 5000), at(2, 53), b"") },
            at(3, 1),
            at(2, 53),
        );
        assert_eq!(out[8], left);
        assert_eq!(wrong_checksums(&out), Vec::<&str>::new());
    }
}

#[test]
fn rewritten_fragments_make_up_the_rewritten_datagram() {
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::DCCP, Protocol::ICMP] {
        let data: Vec<u8> = (0..=255).collect();
        let make = |source| packet(protocol, source, at(2, 53), &data);
        let whole = make(at(1, 5000));
        let first = Packet {
            flags_offset: 0x2000,
            transport: whole.transport[..64].to_vec(),
            ..whole.clone()
        };
        let later = Packet { flags_offset: 8, transport: whole.transport[64..].to_vec(), ..whole };
        let to = if protocol == Protocol::ICMP { at(2, 6000) } else { at(2, 53) };
        let mut out = rewritten(&first, at(3, 6000), to).split_off(20);
        let rest = rewritten(&later, at(3, 6000), to);
        assert_eq!(wrong_checksums(&rest), Vec::<&str>::new());
        assert_eq!(rest[12..16], [203, 0, 113, 3]);
        out.extend_from_slice(&rest[20..]);
        assert_eq!(out, make(at(3, 6000)).transport, "{protocol}");
    }
}

#[test]
fn an_icmp_message_that_is_no_query_only_travels() {
    let redirect = Packet::icmp(at(1, 0).address, at(2, 0).address, (9, 0), [1; 4], &[2; 9]);
    let out = rewritten(&redirect, at(3, 7), at(2, 7));
    assert_eq!(out[20..], redirect.transport[..]);
}

fn perhaps_plain() -> impl Strategy<Value = Packet> {
    let data = || proptest::collection::vec(any::<u8>(), 0..60);
    let flags = prop_oneof![3 => Just(0x10), 2 => Just(0x18), 1 => any::<u8>()];
    let transport = prop_oneof![
        (endpoint(), endpoint(), flags, data()).prop_map(|(a, b, flags, data)| Packet::tcp(
            a,
            b,
            flags,
            &[],
            &data
        )),
        (endpoint(), endpoint(), data()).prop_map(|(a, b, data)| Packet::udp(a, b, &data)),
    ];
    let flags_offset = prop_oneof![4 => Just(0_u16), 4 => Just(0x4000), 1 => any::<u16>()];
    let tag = proptest::option::of(any::<u16>());
    let padding = proptest::collection::vec(any::<u8>(), 0..8);
    (transport, flags_offset, tag, padding, any::<u8>()).prop_map(
        |(packet, flags_offset, tag, padding, ttl)| Packet {
            flags_offset,
            tag,
            padding,
            ttl,
            ..packet
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_plain_reads_and_is_rewritten_as_everything_else(
        packet in perhaps_plain(),
        realm: u16,
        to in (endpoint(), endpoint()),
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut frame = packet.frame();
        if let Some((place, value)) = damage {
            let place = place.index(frame.len());
            frame[place] = value;
        }
        let untagged = Plain::read(&frame).map(|plain| (plain, 0));
        let Some((mut plain, vlan)) = untagged.or_else(|| Plain::read_tagged(&frame)) else {
            return Ok(());
        };
        let parsed = parse(&frame).expect("plain packets are sound");
        let realm = Realm::from_raw(realm);
        let key = parsed.key(realm);
        plain.set_realm(realm.as_raw());
        prop_assert_eq!(plain.key_words(), key.words());
        prop_assert_eq!(plain.parsed(&frame), Some(parsed));
        prop_assert_eq!(plain.source(), parsed.source.address);
        prop_assert_eq!((plain.network, vlan), (parsed.network, parsed.vlan));
        prop_assert!(!is_partial(&frame, &parsed) && parsed.ttl > 1);

        let rewrite = Rewrite::new(&key, to.0, to.1);
        let [addresses, rest] = FlowKey { source: to.0, destination: to.1, ..key }.words();
        let mut expected = frame.clone();
        rewrite.apply(&mut expected, &parsed);
        let mut other = frame.clone();
        plain.rewrite(&mut frame, addresses, (rest >> 32) as u32);
        prop_assert_eq!(&frame, &expected);

        let stations = LinkWords::new([Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        let is_done = plain.rewrite_untagged(&mut other, stations, addresses, (rest >> 32) as u32);
        prop_assert_eq!(is_done, plain.network == 14);
        if is_done {
            expected[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            prop_assert_eq!(other, expected);
        }
    }
}
