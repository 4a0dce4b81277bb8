use proptest::prelude::*;

use super::*;
use crate::testing::packets::{Packet, wrong_checksums};
use crate::wire::parse::parse;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 5);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

fn datagram(length: usize) -> Packet {
    Packet::udp(Endpoint::new(GUEST, 4000), Endpoint::new(REMOTE, 53), &vec![0xa5; length])
}

fn segment() -> Packet {
    Packet::tcp(Endpoint::new(GUEST, 4000), Endpoint::new(REMOTE, 80), 0x18, &[], &[7; 100])
}

/// An error from `REMOTE` that quotes these bytes.
fn error(quoted: &[u8]) -> Packet {
    Packet::icmp(REMOTE, GUEST, (3, 1), [0; 4], quoted)
}

fn read(packet: &Packet) -> Result<Quote, DropReason> {
    let frame = packet.frame();
    quote(&frame, &parse(&frame).expect("the error itself is sound"))
}

#[test]
fn a_quote_of_eight_transport_bytes_is_enough() {
    // ICM-05.
    let whole = segment().bytes();
    for cut in [28, 37, 40, 41, whole.len()] {
        let quote = read(&error(&whole[..cut])).unwrap();
        assert_eq!(quote.source, Endpoint::new(GUEST, 4000));
        assert_eq!(quote.destination, Endpoint::new(REMOTE, 80));
        assert_eq!(quote.tcp_sequence, Some(1000));
        assert_eq!(usize::from(quote.end), 14 + 28 + cut);
    }
    for cut in 0..28 {
        assert_eq!(read(&error(&whole[..cut])), Err(DropReason::BadIcmpQuote), "{cut} bytes");
    }
}

#[test]
fn quoted_options_are_skipped() {
    // ICM-10.
    let quoted = Packet { options: vec![1; 8], ..segment() }.bytes();
    let quote = read(&error(&quoted)).unwrap();
    assert_eq!((quote.network, quote.transport), (14 + 28, 14 + 28 + 28));
    assert_eq!(quote.source.port, 4000);
}

#[test]
fn a_bad_icmp_checksum_is_dropped() {
    // ICM-11.
    let mut packet = error(&datagram(30).bytes());
    packet.transport[2] ^= 0x12;
    assert_eq!(read(&packet), Err(DropReason::BadChecksum));
}

#[test]
fn a_bad_quoted_header_is_dropped_but_a_bad_quoted_transport_is_not() {
    // ICM-12, ICM-13.
    let mut quoted = datagram(30).bytes();
    quoted[26] ^= 0x55;
    assert!(read(&error(&quoted)).is_ok());
    quoted[10] ^= 1;
    assert_eq!(read(&error(&quoted)), Err(DropReason::BadIcmpQuote));
}

#[test]
fn quotes_that_no_session_sent_are_dropped() {
    let later = Packet { flags_offset: 10, ..datagram(30) };
    let nested = error(&datagram(8).bytes());
    let mut other_version = datagram(30).bytes();
    other_version[0] = 0x65;
    for quoted in [later.bytes(), nested.bytes(), other_version, vec![0x4f; 40], Vec::new()] {
        assert_eq!(read(&error(&quoted)), Err(DropReason::BadIcmpQuote), "{quoted:x?}");
    }
}

#[test]
fn a_quoted_query_is_known_by_its_identifier() {
    let quoted = Packet::echo(GUEST, REMOTE, 8, 77, b"ping").bytes();
    let quote = read(&error(&quoted[..28])).unwrap();
    assert_eq!((quote.source.port, quote.destination.port), (77, 77));
    assert_eq!((quote.protocol, quote.tcp_sequence), (Protocol::ICMP, None));
}

#[test]
fn extensions_are_not_taken_for_the_quote() {
    // ICM-15.
    let mut quoted = segment().bytes();
    quoted.resize(200, 0);
    let packet = Packet::icmp(REMOTE, GUEST, (11, 0), [0, 32, 0, 0], &quoted);
    assert_eq!(read(&packet).unwrap().end, 14 + 28 + 128);
    let without = Packet::icmp(REMOTE, GUEST, (11, 0), [0; 4], &quoted);
    assert_eq!(read(&without).unwrap().end, 14 + 28 + 140, "padding is not quoted");
}

#[test]
fn only_what_may_be_answered_is() {
    // ICM-17.
    let answered = |packet: &Packet, to: [u8; 6]| {
        let mut frame = packet.frame();
        frame[..6].copy_from_slice(&to);
        may_answer(&frame, &parse(&frame).unwrap())
    };
    let ours = [2, 0, 0, 0, 0, 2];
    let plain = datagram(30);
    assert!(answered(&plain, ours));
    assert!(answered(&Packet::echo(GUEST, REMOTE, 8, 1, b""), ours));
    assert!(answered(
        &Packet {
            flags_offset: 0x2000,
            transport: plain.transport[..32].to_vec(),
            ..plain.clone()
        },
        ours
    ));
    assert!(!answered(&plain, [0xff; 6]));
    assert!(!answered(&plain, [1, 0, 0x5e, 0, 0, 1]));
    assert!(!answered(&error(&plain.bytes()), ours));
    assert!(!answered(&Packet::icmp(GUEST, REMOTE, (9, 0), [0; 4], b""), ours));
    assert!(!answered(&Packet { flags_offset: 185, ..plain.clone() }, ours));
    for source in
        [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [240, 0, 0, 1]]
    {
        assert!(!answered(&Packet { source: source.into(), ..plain.clone() }, ours), "{source:?}");
    }
    for destination in [[224, 0, 0, 1], [255; 4]] {
        assert!(!answered(&Packet { destination: destination.into(), ..plain.clone() }, ours));
    }
}

#[test]
fn an_error_quotes_as_much_as_it_may() {
    for (data, quoted) in [(0, 28), (1, 29), (520, 548), (521, 548), (1400, 548)] {
        let original = datagram(data).bytes();
        let mut with_padding = original.clone();
        with_padding.extend_from_slice(&[0xee; 30]);
        let mut buffer = [0xff; 1000];
        let kind = IcmpError::FragmentationNeeded { mtu: 1400 };
        let length = write_error(&mut buffer, kind, GATEWAY, &with_padding).unwrap();
        let packet = &buffer[14..length];
        assert_eq!(wrong_checksums(packet), Vec::<&str>::new());
        assert_eq!(packet.len(), 28 + quoted);
        assert_eq!(packet[..2], [0x45, 0xc0]);
        assert_eq!(packet[8..10], [64, 1]);
        assert_eq!(packet[12..20], [10, 1, 1, 1, 10, 1, 1, 5]);
        assert_eq!(packet[20..22], [3, 4]);
        assert_eq!(packet[24..28], [0, 0, 0x05, 0x78]);
        assert_eq!(packet[28..], original[..quoted]);
    }
    assert_eq!(
        write_error(&mut [0; 69], IcmpError::TtlExceeded, GATEWAY, &datagram(0).bytes()),
        None
    );
    assert_eq!(write_error(&mut [0; 99], IcmpError::TtlExceeded, GATEWAY, &[0x45; 19]), None);
}

#[test]
fn each_error_has_its_type_and_code() {
    for (error, icmp_type, code) in [
        (IcmpError::AdministrativelyProhibited, 3, 13),
        (IcmpError::FragmentationNeeded { mtu: 68 }, 3, 4),
        (IcmpError::HostUnreachable, 3, 1),
        (IcmpError::NetUnreachable, 3, 0),
        (IcmpError::TtlExceeded, 11, 0),
    ] {
        let mut frame = vec![0; 600];
        let length = write_error(&mut frame, error, GATEWAY, &segment().bytes()).unwrap();
        frame.truncate(length);
        frame[12] = 8;
        let parsed = parse(&frame).unwrap();
        assert_eq!(frame[34..36], [icmp_type, code]);
        assert_eq!(quote(&frame, &parsed).unwrap().source, Endpoint::new(GUEST, 4000));
    }
}

proptest! {
    #[test]
    fn a_request_becomes_the_reply_a_host_would_send(
        tag in proptest::option::of(any::<u16>()), ttl: u8, identifier: u16, tos: u8,
        data in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let make = |source, destination, icmp_type, ttl| Packet {
            tag, ttl, tos, ..Packet::echo(source, destination, icmp_type, identifier, &data)
        };
        let mut frame = make(GUEST, GATEWAY, 8, ttl).frame();
        let parsed = parse(&frame).unwrap();
        turn_into_echo_reply(&mut frame, &parsed);
        let mut expected = make(GATEWAY, GUEST, 0, 64).frame();
        expected[..12].rotate_left(6);
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn any_quoted_bytes_get_an_answer(
        icmp_type in proptest::sample::select(vec![3_u8, 4, 5, 11, 12]),
        rest: [u8; 4],
        mut quoted in proptest::collection::vec(any::<u8>(), 0..80),
        sound in any::<bool>(),
    ) {
        // Half of them with a header that gets past the first checks.
        if sound && quoted.len() >= 20 {
            quoted[0] = 0x45;
            quoted[6..8].fill(0);
            quoted[10..12].fill(0);
            let checksum = crate::testing::packets::checksum(&quoted[..20]);
            quoted[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        let frame = Packet::icmp(REMOTE, GUEST, (icmp_type, 0), rest, &quoted).frame();
        let parsed = parse(&frame).unwrap();
        if let Ok(quote) = quote(&frame, &parsed) {
            prop_assert!(quote.network < quote.transport);
            prop_assert!(quote.transport <= parsed.end && quote.end <= parsed.end);
        }
    }
}
