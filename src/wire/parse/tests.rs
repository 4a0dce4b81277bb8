use proptest::prelude::*;

use super::*;
use crate::testing::packets::{Packet, checksum};
use crate::wire::segment::flags;

fn guest() -> Endpoint {
    Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), 40_000)
}

fn remote() -> Endpoint {
    Endpoint::new(Ipv4Addr::new(198, 51, 100, 9), 443)
}

fn udp(data: &[u8]) -> Packet {
    Packet::udp(guest(), remote(), data)
}

fn tcp(flags: u8) -> Packet {
    Packet::tcp(guest(), remote(), flags, &[], &[])
}

/// A packet of `protocol` with just these bytes behind its IPv4 header.
fn raw(protocol: Protocol, transport: &[u8]) -> Packet {
    Packet::new(protocol, guest().address, remote().address, transport.to_vec())
}

fn verdict(packet: &Packet) -> Result<Parsed, DropReason> {
    parse(&packet.frame())
}

/// The frame of a datagram with `change` done to its IPv4 header and the checksum made right again.
fn with_header(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut frame = udp(b"data").frame();
    change(&mut frame[14..34]);
    frame[24..26].fill(0);
    let right = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&right.to_be_bytes());
    frame
}

#[test]
fn a_plain_datagram_says_all_of_itself() {
    let parsed = verdict(&Packet { ttl: 7, ..udp(b"four") }).unwrap();
    assert_eq!(
        parsed,
        Parsed {
            vlan: 0,
            network: 14,
            transport: 34,
            end: 46,
            protocol: Protocol::UDP,
            kind: Kind::Transport,
            fragment: Fragment::Whole,
            source: guest(),
            destination: remote(),
            tcp_flags: 0,
            ttl: 7,
            dont_fragment: true,
        }
    );
    assert_eq!(parsed.packet_length(), 32);
}

#[test]
fn a_priority_tag_is_no_vlan_and_a_second_tag_is_not_forwarded() {
    let tagged = |control| Packet { tag: Some(control), ..udp(b"") };
    let parsed = verdict(&tagged(0xe000)).unwrap();
    assert_eq!((parsed.vlan, parsed.network), (0, 18));
    assert_eq!(verdict(&tagged(0xf064)).unwrap().vlan, 100);
    let mut twice = tagged(100).frame();
    twice.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    assert_eq!(parse(&twice), Err(DropReason::NotForwardable));
}

#[test]
fn other_ethertypes_and_runts_are_ignored() {
    let mut frame = udp(b"").frame();
    for other in [0x0806_u16, 0x86dd, 0x88a8, 0x0042, 0xffff] {
        frame[12..14].copy_from_slice(&other.to_be_bytes());
        assert_eq!(parse(&frame), Err(DropReason::NotForwardable));
    }
    for length in 0..14 {
        assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated));
    }
}

#[test]
fn padding_is_no_part_of_the_packet() {
    // UDP-05.
    let padded = Packet { padding: vec![0xde; 16], ..udp(b"p") };
    let parsed = verdict(&padded).unwrap();
    assert_eq!(usize::from(parsed.end), padded.frame().len() - 16);
}

#[test]
fn every_cut_of_a_frame_is_truncated() {
    let frame = tcp(flags::SYN).frame();
    for length in 0..frame.len() {
        assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated), "{length} bytes");
    }
}

#[test]
fn impossible_ip_headers_are_dropped() {
    // BAD-01, BAD-02.
    for (byte, value) in [(0, 0x44), (0, 0x40), (0, 0x65), (0, 0x05), (3, 19), (2, 0)] {
        let frame = with_header(|header| {
            header[2] = 0;
            header[3] = 32;
            header[byte] = value;
            if byte == 2 {
                header[3] = 0;
            }
        });
        assert_eq!(parse(&frame), Err(DropReason::BadHeader), "byte {byte} = {value:#x}");
    }
    let too_long = with_header(|header| header[3] = 200);
    assert_eq!(parse(&too_long), Err(DropReason::Truncated));
    let mut damaged = udp(b"").frame();
    damaged[24] ^= 1;
    assert_eq!(parse(&damaged), Err(DropReason::BadChecksum));
    let mut options = Packet { options: vec![1; 4], ..udp(b"") }.frame();
    options[36] = 0;
    assert_eq!(parse(&options), Err(DropReason::BadChecksum));
}

#[test]
fn harmless_options_pass_and_dangerous_or_malformed_ones_do_not() {
    // OPT-01 to OPT-04.
    let harmless: [&[u8]; 4] =
        [&[1, 1, 1, 0], &[0x94, 4, 0, 0], &[0, 0xff, 0xff, 0xff], &[0x82, 3, 1, 1]];
    for options in harmless {
        let parsed = verdict(&Packet { options: options.to_vec(), ..udp(b"opt") }).unwrap();
        assert_eq!((parsed.transport, parsed.source), (38, guest()), "{options:x?}");
    }
    let refused: [&[u8]; 12] = [
        &[0x83, 7, 4, 1, 2, 3, 4, 0],
        &[0x89, 7, 4, 1, 2, 3, 4, 0],
        &[1, 0x89, 3, 4],
        &[7, 7, 4, 0, 0, 0, 0, 0],
        &[0x44, 8, 5, 0, 0, 0, 0, 0],
        &[7, 0, 4, 0],
        &[7, 1, 0, 0],
        &[0x88, 0xff, 0, 0],
        &[0x88, 0, 0, 0],
        &[0x88, 1, 0, 0],
        &[7, 3, 4, 0x83],
        &[1, 1, 1, 0x88],
    ];
    for options in refused {
        let packet = Packet { options: options.to_vec(), ..udp(b"opt") };
        assert_eq!(verdict(&packet), Err(DropReason::BadOptions), "{options:x?}");
    }
}

#[test]
fn truncated_transport_headers_are_dropped() {
    // BAD-03.
    for (protocol, shortest) in [
        (Protocol::TCP, 20),
        (Protocol::UDP, 8),
        (Protocol::ICMP, 8),
        (Protocol::SCTP, 12),
        (Protocol::DCCP, 12),
        (Protocol::UDP_LITE, 8),
    ] {
        for length in 0..shortest {
            let packet = raw(protocol, &vec![1; length]);
            assert_eq!(verdict(&packet), Err(DropReason::Truncated), "{protocol} {length}");
        }
    }
    for offset in [0, 4, 15] {
        let mut segment = tcp(flags::SYN);
        segment.transport[12] = offset << 4;
        assert_eq!(verdict(&segment), Err(DropReason::BadHeader), "offset {offset}");
    }
}

#[test]
fn ethernet_padding_is_no_transport_header() {
    let short = Packet { padding: vec![1; 40], ..raw(Protocol::TCP, &[1; 19]) };
    assert_eq!(verdict(&short), Err(DropReason::Truncated));
}

#[test]
fn impossible_flags_are_dropped() {
    // TCP-14, and whatever else no stack sends.
    use flags::{ACK, FIN, PSH, RST, SYN, URG};
    for good in [SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, FIN | PSH | ACK | URG, RST, RST | ACK] {
        for extra in [0, 0x40, 0x80, 0xc0] {
            assert_eq!(verdict(&tcp(good | extra)).unwrap().tcp_flags, good | extra);
        }
    }
    for bad in [
        SYN | FIN,
        SYN | RST,
        SYN | RST | FIN,
        0,
        FIN | PSH | URG,
        FIN,
        0xff,
        PSH,
        URG,
        RST | FIN,
        SYN | FIN | ACK,
    ] {
        assert_eq!(verdict(&tcp(bad)), Err(DropReason::BadTcpFlags), "{bad:#x}");
    }
}

#[test]
fn a_udp_length_must_be_the_datagrams() {
    // UDP-03, UDP-04.
    assert!(verdict(&udp(b"")).is_ok());
    for length in [0_u16, 4, 7, 8, 15, 17, 200] {
        let mut datagram = udp(b"12345678");
        datagram.transport[4..6].copy_from_slice(&length.to_be_bytes());
        assert_eq!(verdict(&datagram), Err(DropReason::BadHeader), "length {length}");
    }
}

#[test]
fn port_zero_is_dropped_and_edge_ports_are_not() {
    // PRT-10.
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        for (source, destination) in [(0, 1), (1, 0), (1, 65_535), (65_535, 1023)] {
            let (mut from, mut to) = (guest(), remote());
            (from.port, to.port) = (source, destination);
            let packet = match protocol {
                Protocol::TCP => Packet::tcp(from, to, flags::SYN, &[], &[]),
                Protocol::UDP => Packet::udp(from, to, &[]),
                other => Packet::with_ports(other, from, to, &[]),
            };
            match (source, destination) {
                (0, _) | (_, 0) => assert_eq!(verdict(&packet), Err(DropReason::BadHeader)),
                _ => {
                    assert_eq!(verdict(&packet).map(|p| (p.source, p.destination)), Ok((from, to)))
                }
            }
        }
    }
    for identifier in [0, 65_535] {
        let echo = Packet::echo(guest().address, remote().address, 8, identifier, b"");
        assert_eq!(verdict(&echo).unwrap().source.port, identifier);
    }
}

#[test]
fn icmp_is_query_error_or_other() {
    for icmp_type in 0..=255 {
        let message = Packet::icmp(
            guest().address,
            remote().address,
            (icmp_type, 0),
            [0x12, 0x34, 0, 1],
            b"quoted",
        );
        let parsed = verdict(&message).unwrap();
        let (kind, port) = match icmp_type {
            3 | 4 | 5 | 11 | 12 => (Kind::IcmpError, 0),
            0 | 8 | 13 | 14 | 17 | 18 => (Kind::IcmpQuery { icmp_type }, 0x1234),
            icmp_type => (Kind::IcmpOther { icmp_type }, 0),
        };
        assert_eq!((parsed.kind, parsed.source.port, parsed.destination.port), (kind, port, port));
    }
}

#[test]
fn protocols_without_ports_have_none() {
    for protocol in [Protocol::GRE, Protocol::ESP, Protocol::AH, Protocol(0), Protocol(255)] {
        let parsed = verdict(&raw(protocol, &[7; 9])).unwrap();
        assert_eq!((parsed.source.port, parsed.destination.port), (0, 0));
        assert_eq!(parsed.kind, Kind::Transport);
    }
}

#[test]
fn impossible_fragments_are_dropped() {
    // FRG-07, FRG-13, FRG-14.
    const MORE: u16 = 0x2000;
    let bytes = udp(&[b'P'; 200]).transport;
    let cases: [(&str, Protocol, u16, &[u8]); 9] = [
        ("odd with more to come", Protocol::UDP, MORE, &bytes[..13]),
        ("empty first", Protocol::UDP, MORE, &[]),
        ("empty last", Protocol::UDP, 10, &[]),
        ("past 65535", Protocol::UDP, 8191, &bytes[..8]),
        ("past 65535 with its header", Protocol::UDP, 8189, &bytes[..4]),
        ("tiny TCP", Protocol::TCP, MORE, &bytes[..16]),
        ("TCP at offset 8", Protocol::TCP, 1, &bytes[..40]),
        ("TCP at offset 8 with more", Protocol::TCP, MORE | 1, &bytes[..40]),
        ("tiny SCTP", Protocol::SCTP, MORE, &bytes[..8]),
    ];
    for (what, protocol, flags_offset, transport) in cases {
        let packet = Packet { flags_offset, ..raw(protocol, transport) };
        assert_eq!(verdict(&packet), Err(DropReason::FragmentBad), "{what}");
    }
    let mut long_options = tcp(flags::SYN);
    long_options.transport[12] = 15 << 4;
    long_options.transport.resize(40, 1);
    long_options.flags_offset = MORE;
    assert_eq!(verdict(&long_options), Err(DropReason::FragmentBad));
}

#[test]
fn possible_fragments_are_told_apart() {
    let first = Packet { flags_offset: 0x2000, ..udp(&[0; 200]) };
    let cut = Packet { transport: first.transport[..104].to_vec(), ..first.clone() };
    let parsed = verdict(&cut).unwrap();
    assert_eq!((parsed.fragment, parsed.source), (Fragment::First, guest()));
    let lying = Packet { flags_offset: 0x2000, ..udp(&[0; 8]) };
    assert_eq!(verdict(&lying), Err(DropReason::BadHeader), "more than the UDP length says");
    for flags_offset in [0x2001, 13, 8189] {
        let later = Packet { flags_offset, ..raw(Protocol::UDP, &[0; 3]) };
        let later = match flags_offset {
            0x2001 => Packet { transport: vec![0; 8], ..later },
            _ => later,
        };
        let parsed = verdict(&later).unwrap();
        assert_eq!((parsed.fragment, parsed.source.port), (Fragment::Later, 0));
    }
    let of_icmp = Packet { flags_offset: 185, ..raw(Protocol::ICMP, &[3; 40]) };
    assert_eq!(verdict(&of_icmp).unwrap().kind, Kind::Transport);
}

#[test]
fn the_longest_frames_end_before_offsets_do() {
    let longest = Packet { tag: Some(1), ..raw(Protocol::GRE, &vec![0; 65_535 - 20]) };
    assert_eq!(verdict(&longest), Err(DropReason::FrameTooLong));
    let shorter = Packet { transport: vec![0; 65_535 - 20 - 18], ..longest };
    assert_eq!(verdict(&shorter).unwrap().end, u16::MAX);
}

/// What etherparse makes of a frame that `parse` accepted.
fn assert_etherparse_agrees(frame: &[u8], parsed: &Parsed) {
    use etherparse::{Ipv4HeaderSlice, SlicedPacket, TransportSlice};
    let header = Ipv4HeaderSlice::from_slice(&frame[usize::from(parsed.network)..])
        .expect("etherparse accepts it too");
    assert_eq!(checksum(header.slice()), 0);
    assert_eq!(parsed.source.address, header.source_addr());
    assert_eq!(parsed.destination.address, header.destination_addr());
    assert_eq!(parsed.ttl, header.ttl());
    assert_eq!(parsed.dont_fragment, header.dont_fragment());
    assert_eq!(parsed.protocol.0, header.protocol().0);
    assert_eq!(parsed.packet_length(), header.total_len());
    assert_eq!(parsed.transport - parsed.network, u16::from(header.ihl()) * 4);
    assert_eq!(parsed.fragment != Fragment::Whole, header.is_fragmenting_payload());
    assert_eq!(parsed.fragment == Fragment::Later, header.fragments_offset().value() != 0);
    let ports = (parsed.source.port, parsed.destination.port);
    if !matches!(parsed.protocol, Protocol::ICMP | Protocol::TCP | Protocol::UDP) {
        return;
    }
    let sliced = SlicedPacket::from_ethernet(frame).expect("etherparse accepts it too");
    assert_eq!(parsed.vlan, sliced.vlan_ids().first().map_or(0, |id| id.value()));
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
            assert_eq!(parsed.tcp_flags & flags::SYN != 0, tcp.syn());
            assert_eq!(parsed.tcp_flags & flags::ACK != 0, tcp.ack());
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(ports, (udp.source_port(), udp.destination_port()));
        }
        Some(TransportSlice::Icmpv4(icmp)) => match parsed.kind {
            Kind::IcmpQuery { icmp_type } => {
                assert_eq!(icmp_type, icmp.type_u8());
                let [high, low, ..] = icmp.bytes5to8();
                assert_eq!(ports, (u16::from_be_bytes([high, low]), ports.0));
            }
            _ => assert_eq!(ports, (0, 0)),
        },
        Some(TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) | None => {}
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let data = || proptest::collection::vec(any::<u8>(), 0..80);
    let endpoint = || {
        (any::<u32>(), any::<u16>())
            .prop_map(|(address, port)| Endpoint::new(Ipv4Addr::from_bits(address), port))
    };
    let tcp_options = proptest::sample::select(vec![vec![], vec![2, 4, 5, 180], vec![1; 40]]);
    let transport = prop_oneof![
        (endpoint(), endpoint(), any::<u8>(), tcp_options, data())
            .prop_map(|(a, b, flags, options, d)| Packet::tcp(a, b, flags, &options, &d)),
        (endpoint(), endpoint(), data()).prop_map(|(a, b, d)| Packet::udp(a, b, &d)),
        (endpoint(), endpoint(), any::<(u8, u8)>(), any::<[u8; 4]>(), data())
            .prop_map(|(a, b, t, rest, d)| Packet::icmp(a.address, b.address, t, rest, &d)),
        (endpoint(), endpoint(), any::<u8>(), data()).prop_map(|(a, b, p, d)| Packet::new(
            Protocol(p),
            a.address,
            b.address,
            d
        )),
    ];
    let options = proptest::sample::select(vec![vec![], vec![], vec![1; 4], vec![0x94, 4, 0, 0]]);
    let flags_offset = prop_oneof![3 => Just(0_u16), 2 => Just(0x4000), 1 => any::<u16>()];
    let padding = proptest::collection::vec(any::<u8>(), 0..8);
    let tag = proptest::option::of(any::<u16>());
    (transport, options, flags_offset, padding, tag, any::<u8>()).prop_map(
        |(packet, options, flags_offset, padding, tag, ttl)| Packet {
            options,
            flags_offset,
            padding,
            tag,
            ttl,
            ..packet
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_accepted_etherparse_reads_in_the_same_way(packet in any_packet()) {
        let frame = packet.frame();
        if let Ok(parsed) = parse(&frame) {
            assert_etherparse_agrees(&frame, &parsed);
        }
    }

    #[test]
    fn a_damaged_frame_is_read_as_etherparse_reads_it_or_dropped(
        packet in any_packet(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut frame = packet.frame();
        for (place, value) in damage {
            let place = place.index(frame.len());
            frame[place] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        if let Ok(parsed) = parse(&frame) {
            assert_etherparse_agrees(&frame, &parsed);
        }
    }

    #[test]
    fn no_single_bit_of_the_ip_header_flips_unseen(
        packet in any_packet(), bit in 0_usize..160,
    ) {
        let packet = Packet { tag: None, padding: Vec::new(), ..packet };
        let mut frame = packet.frame();
        prop_assume!(parse(&frame).is_ok());
        frame[14 + bit / 8] ^= 1 << (bit % 8);
        prop_assert!(parse(&frame).is_err());
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(&bytes);
        let _ = macs(&bytes);
    }
}
