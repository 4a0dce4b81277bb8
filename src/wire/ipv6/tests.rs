//! What is read off an IPv6 frame, what is refused, and the errors that are written.

use proptest::prelude::*;

use super::*;
use crate::testing::packets_ipv6::Packet;
use crate::wire::ipv6::errors::{ERROR_MAX, Icmpv6Error, may_answer, quote, write_error};
use crate::wire::segment::flags;

fn address(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last)
}

fn endpoint(last: u16, port: u16) -> Endpoint<Ipv6Addr> {
    Endpoint::new(address(last), port)
}

fn datagram() -> Packet {
    Packet::udp(endpoint(1, 5000), endpoint(2, 53), b"a question")
}

fn parsed(packet: &Packet) -> Result<Parsed, DropReason> {
    parse(&packet.frame()).expect("is IPv6")
}

/// An extension header of `length` bytes.
fn extension(number: u8, length: usize) -> (u8, Vec<u8>) {
    let mut rest = vec![0; length - 1];
    rest[0] = u8::try_from(length / 8 - 1).unwrap();
    (number, rest)
}

#[test]
fn ports_and_lengths_are_read_behind_any_chain_of_headers() {
    for extensions in [
        vec![],
        vec![extension(0, 8)],
        vec![extension(60, 24), extension(43, 8)],
        vec![extension(0, 16), extension(60, 8), extension(43, 8), extension(60, 8)],
        // An atomic fragment is a whole packet.
        vec![extension(0, 8), (44, vec![0, 0, 0, 0, 0, 0, 7])],
    ] {
        for tag in [None, Some(0x6007)] {
            let packet =
                Packet { extensions: extensions.clone(), tag, padding: vec![0; 6], ..datagram() };
            let read = parsed(&packet).expect("sound");
            assert_eq!(read.source, endpoint(1, 5000));
            assert_eq!(read.destination, endpoint(2, 53));
            assert_eq!((read.protocol, read.fragment), (Protocol::UDP, Fragment::Whole));
            assert_eq!(usize::from(read.packet_length()), packet.bytes().len());
            assert_eq!(usize::from(read.end - read.transport), packet.transport.len());
            assert_eq!(read.vlan, tag.map_or(0, |_| 7));
            assert_eq!(read.hop_limit, 64);
        }
    }
}

#[test]
fn icmpv6_is_told_apart() {
    let kind = |icmp_type| parsed(&Packet::echo(address(1), address(2), icmp_type, 9)).unwrap();
    for icmp_type in [128, 129] {
        let read = kind(icmp_type);
        assert_eq!(read.kind, Kind::IcmpQuery { icmp_type });
        assert_eq!((read.source.port, read.destination.port), (9, 9));
    }
    for icmp_type in [1, 2, 3, 4] {
        assert_eq!(kind(icmp_type).kind, Kind::IcmpError);
    }
    for icmp_type in [0, 5, 130, 133, 135, 136, 137, 139, 143, 255] {
        assert_eq!(kind(icmp_type).kind, Kind::IcmpOther { icmp_type });
    }
}

#[test]
fn what_hides_its_transport_or_asks_to_be_routed_is_refused() {
    let with = |extensions| parsed(&Packet { extensions, ..datagram() }).unwrap_err();
    // RFC 5095: a routing header that still wants to route, whatever its type.
    for routing_type in [0, 2, 4] {
        let mut header = extension(43, 24);
        header.1[1..3].copy_from_slice(&[routing_type, 1]);
        assert_eq!(with(vec![header]), DropReason::BadOptions);
    }
    // Hop-by-hop options stand first or not at all.
    assert_eq!(with(vec![extension(60, 8), extension(0, 8)]), DropReason::BadHeader);
    assert_eq!(with(vec![extension(60, 8); 9]), DropReason::BadHeader);
    // Longer than the packet.
    let mut header = extension(60, 8);
    header.1[0] = 0xff;
    assert_eq!(with(vec![header]), DropReason::Truncated);
    // A second fragment header.
    let more = (44, vec![0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(with(vec![more.clone(), more]), DropReason::FragmentBad);
    // ICMP of the other family.
    let foreign = Packet { protocol: Protocol::ICMP, ..datagram() };
    assert_eq!(parsed(&foreign), Err(DropReason::BadHeader));
}

#[test]
fn impossible_headers_are_refused() {
    let frame = datagram().frame();
    for (at, value, reason) in [
        (14, 0x40, DropReason::BadHeader),
        (18, 0x10, DropReason::Truncated),
        (19, 4, DropReason::Truncated),
        // A UDP length that is not the packet's.
        (59, 1, DropReason::BadHeader),
    ] {
        let mut frame = frame.clone();
        frame[at] = value;
        assert_eq!(parse(&frame), Some(Err(reason)), "byte {at}");
    }
    for length in 14..frame.len() {
        assert_eq!(parse(&frame[..length]), Some(Err(DropReason::Truncated)), "{length} bytes");
    }
    assert_eq!(parse(&frame[..13]), None);
    let port_zero = Packet::udp(endpoint(1, 0), endpoint(2, 53), b"");
    assert_eq!(parsed(&port_zero), Err(DropReason::BadHeader));
    let christmas = Packet::tcp(endpoint(1, 1), endpoint(2, 2), flags::SYN | flags::FIN, b"");
    assert_eq!(parsed(&christmas), Err(DropReason::BadTcpFlags));
}

#[test]
fn fragments_say_which_part_they_are() {
    let whole = Packet::udp(endpoint(1, 5), endpoint(2, 53), &[7; 100]);
    let first = parsed(&whole.fragment(9, 0, 48)).expect("sound");
    assert_eq!((first.fragment, first.source.port), (Fragment::First, 5));
    assert_eq!(first.part, Part { identification: 9, start: 0, end: 48, more: true });
    let later = parsed(&whole.fragment(9, 48, 200)).expect("sound");
    assert_eq!((later.fragment, later.source.port), (Fragment::Later, 0));
    assert_eq!(later.part, Part { identification: 9, start: 48, end: 108, more: false });
    // RFC 7112: the first one holds the whole chain.
    assert_eq!(parsed(&whole.fragment(9, 0, 4)), Err(DropReason::FragmentBad));
    // Not a multiple of eight with more to come; past the longest datagram.
    assert_eq!(parsed(&whole.fragment(9, 0, 50)), Err(DropReason::FragmentBad));
    let mut long = whole.fragment(9, 0, 200);
    long.extensions[0].1[1..3].copy_from_slice(&0xfff8_u16.to_be_bytes());
    assert_eq!(parsed(&long), Err(DropReason::FragmentBad));
}

#[test]
fn an_error_quotes_what_fits_and_sums_up() {
    let packet = Packet::udp(endpoint(1, 5000), endpoint(2, 53), &[1; 1400]);
    let router = address(0xfe);
    for (error, expected) in [
        (Icmpv6Error::HopLimitExceeded, [3, 0]),
        (Icmpv6Error::PacketTooBig { mtu: 1400 }, [2, 0]),
        (Icmpv6Error::AdministrativelyProhibited, [1, 1]),
        (Icmpv6Error::AddressUnreachable, [1, 3]),
        (Icmpv6Error::NoRoute, [1, 0]),
    ] {
        let mut buffer = vec![0xee; 1400];
        let length = write_error(&mut buffer, error, router, &packet.bytes()).expect("room");
        assert_eq!(length, 14 + ERROR_MAX);
        buffer.truncate(length);
        let read = parse(&buffer).expect("is IPv6").expect("sound");
        assert_eq!(read.source.address, router);
        assert_eq!(read.destination.address, address(1));
        assert_eq!(buffer[54..56], expected);
        let quoted = quote(&buffer, &read).expect("sums up");
        assert_eq!(quoted.source, endpoint(1, 5000));
        assert_eq!(quoted.destination, endpoint(2, 53));
        // Nobody answers an error.
        assert!(!may_answer(&buffer, &read));
        buffer[54 + 20] ^= 1;
        assert_eq!(quote(&buffer, &read), Err(DropReason::BadChecksum));
    }
    assert_eq!(&write_error(&mut [0; 60], Icmpv6Error::NoRoute, router, &packet.bytes()), &None);
}

#[test]
fn a_quote_names_its_flow_or_is_refused() {
    let error = |quoted: &[u8]| {
        let rest = [&[0, 0, 5, 0], quoted].concat();
        let frame = Packet::icmp(address(9), address(1), 2, 0, &rest).frame();
        let read = parse(&frame).expect("is IPv6").expect("sound");
        quote(&frame, &read)
    };
    let segment = Packet::tcp(endpoint(1, 5), endpoint(2, 80), flags::ACK, b"data");
    let quoted = error(&segment.bytes()).expect("names a flow");
    assert_eq!((quoted.protocol, quoted.tcp_sequence), (Protocol::TCP, Some(1000)));
    assert_eq!((quoted.source, quoted.destination), (endpoint(1, 5), endpoint(2, 80)));
    let ping = error(&Packet::echo(address(1), address(2), 128, 7).bytes()).expect("a flow");
    assert_eq!((ping.source.port, ping.destination.port), (7, 7));
    let chained = Packet { extensions: vec![extension(60, 8)], ..datagram() };
    assert_eq!(error(&chained.bytes()).map(|quote| quote.source), Ok(endpoint(1, 5000)));
    // Cut in the transport header, of another version, about an error, a later fragment.
    let cut = datagram().bytes();
    assert_eq!(error(&cut[..44]), Err(DropReason::BadIcmpQuote));
    assert_eq!(error(&[0x45; 60]), Err(DropReason::BadIcmpQuote));
    let about_error = Packet::icmp(address(1), address(2), 1, 0, &[0; 8]);
    assert_eq!(error(&about_error.bytes()), Err(DropReason::BadIcmpQuote));
    let later = Packet::udp(endpoint(1, 5), endpoint(2, 53), &[7; 100]).fragment(9, 48, 200);
    assert_eq!(error(&later.bytes()), Err(DropReason::BadIcmpQuote));
}

#[test]
fn an_unfinished_checksum_is_finished_and_a_finished_one_left_alone() {
    for packet in
        [datagram(), Packet::tcp(endpoint(1, 5), endpoint(2, 80), flags::SYN, b"early data")]
    {
        let place = 14 + 40 + if packet.protocol == Protocol::TCP { 16 } else { 6 };
        let right = packet.frame();
        let read = parse(&right).expect("is IPv6").expect("sound");
        let mut frame = right.clone();
        complete_partial(&mut frame, &read);
        assert_eq!(frame, right);
        // What the kernel leaves there is the sum of the pseudo-header.
        let empty = Packet { transport: vec![0; packet.transport.len()], ..packet.clone() };
        assert!(packet.sums_up() && !empty.sums_up());
        let length = u32::from(read.end - read.transport);
        let pseudo =
            forward::pseudo_header_sum(packet.source, packet.destination, length, packet.protocol);
        frame[place..place + 2].copy_from_slice(&pseudo.to_be_bytes());
        complete_partial(&mut frame, &read);
        assert_eq!(frame, right);
    }
}

#[test]
fn forwarding_changes_the_hop_limit_alone() {
    let before = datagram().frame();
    let read = parse(&before).expect("is IPv6").expect("sound");
    let mut after = before.clone();
    lower_hop_limit(&mut after, &read);
    let changed: Vec<_> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    assert_eq!((changed, after[21]), (vec![21], 63));
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), chain: [u8; 4]) {
        let _ = parse(&bytes);
        // Most random bytes are no IPv6: give them a header.
        let mut frame = datagram().frame();
        frame[20] = chain[0] % 64;
        frame.extend(&bytes);
        frame.resize(frame.len().max(90), 0);
        let length = u16::try_from(frame.len() - 54).unwrap();
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        for (place, number) in chain.into_iter().enumerate() {
            frame[54 + place * 8] = if number < 200 { [0, 43, 44, 60, 58, 17][usize::from(number) % 6] } else { number };
        }
        if let Some(Ok(read)) = parse(&frame) {
            prop_assert!(read.network <= read.transport && read.transport <= read.end);
            prop_assert!(usize::from(read.end) <= frame.len());
            let _ = quote(&frame, &read);
            complete_partial(&mut frame, &read);
            lower_hop_limit(&mut frame, &read);
        }
    }

    #[test]
    fn any_quote_gets_an_answer(quoted in prop::collection::vec(any::<u8>(), 0..160)) {
        let rest = [&[0, 0, 5, 0], &quoted[..]].concat();
        let frame = Packet::icmp(address(9), address(1), 3, 0, &rest).frame();
        if let Some(Ok(read)) = parse(&frame) {
            let _ = quote(&frame, &read);
        }
    }
}
