//! What stands in packets: lengths, checksums, options, headers that cannot be, frames that are not for us.

use natwerk::flow::Protocol;
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::{Packet, checksum};
use natwerk::verdict::{DropReason, Verdict};

use crate::{Net, at, told};

const OUT: &str = "udp 10.1.1.5:4000 > 198.51.100.9:53";
const BACK: &str = "udp 198.51.100.9:53 > 203.0.113.10:4000";

/// A datagram of a guest, to be spoilt.
fn datagram() -> Packet {
    Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), b"payload!")
}

/// One to a forward, from outside.
fn knock() -> Packet {
    Packet::udp(at("198.51.100.9:5000"), at("203.0.113.11:5003"), b"payload!")
}

/// Shows R-071.
#[test]
fn rfc768_empty_datagrams_pass_and_lengths_that_disagree_do_no_harm() {
    let mut net = Net::new();
    let mut empty = datagram();
    empty.transport.truncate(8);
    empty.transport[4..6].copy_from_slice(&8_u16.to_be_bytes());
    let left = told(&net.lab.send(GUEST, empty.with_transport_checksum().frame()));
    assert_eq!(left, "public: udp 203.0.113.10:4000 > 198.51.100.9:53");
    for length in [0, 7, 17, 200_u16] {
        let mut lying = datagram();
        lying.transport[4..6].copy_from_slice(&length.to_be_bytes());
        let outcome = net.lab.send(GUEST, lying.frame());
        assert!(matches!(outcome.verdict, Verdict::Drop(_)), "{length}: {outcome:?}");
    }
    // Padding stays on the link it was needed on.
    for padding in [1, 16, 46] {
        let left =
            net.lab.send(GUEST, crate::text::frame(&format!("{OUT} data=x padding={padding}")));
        let [(_, frame)] = left.sent.as_slice() else { panic!("{left:?}") };
        assert_eq!(frame.len(), 14 + 20 + 8 + 1);
    }
}

/// Shows R-078.
#[test]
fn rfc5508_req_3b_options_of_a_quoted_header_are_skipped() {
    let mut net = Net::new();
    net.guest(OUT);
    let quoted = "udp 203.0.113.10:4000 > 198.51.100.9:53 options=01010100";
    let heard = net
        .public(&format!("icmp 198.51.100.9 > 203.0.113.10 unreachable code=3 about [{quoted}]"));
    let inner = "udp 10.1.1.5:4000 > 198.51.100.9:53 options=01010100";
    assert_eq!(
        heard,
        format!("guest: icmp 198.51.100.9 > 10.1.1.5 unreachable code=3 about [{inner}]")
    );
}

/// Shows R-083.
#[test]
fn rfc4884_extensions_pass_as_they_are() {
    let mut net = Net::new();
    net.guest(OUT);
    let mut quote = Packet::udp(at("203.0.113.10:4000"), at("198.51.100.9:53"), b"").bytes();
    quote.resize(128, 0);
    let object = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0x3e, 0x81, 0x40];
    quote.extend_from_slice(&object);
    let (from, to) = (at("192.0.2.50:0").address, at("203.0.113.10:0").address);
    let error = Packet::icmp(from, to, (11, 0), [0, 32, 0, 0], &quote);
    let outcome = net.lab.send(PUBLIC, error.frame());
    let [(_, frame)] = outcome.sent.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(frame[14 + 20 + 8 + 128..], object);
    assert_eq!(checksum(&frame[14 + 20..]), 0);
    assert_eq!(frame[14 + 20 + 8 + 12..][..4], [10, 1, 1, 5]);
}

/// Shows R-108.
#[test]
fn rfc7126_harmless_options_pass_routes_and_nonsense_do_not() {
    let mut net = Net::new();
    net.guest(OUT);
    // NOP and end; router alert.
    for options in ["01010100", "94040000"] {
        let left = net.guest(&format!("{OUT} options={options}"));
        assert_eq!(
            left,
            format!("public: udp 203.0.113.10:4000 > 198.51.100.9:53 options={options}")
        );
        let heard = net.public(&format!("{BACK} options={options}"));
        assert!(heard.ends_with(&format!("> 10.1.1.5:4000 options={options}")), "{heard}");
    }
    // Loose and strict source routes, and options whose lengths cannot be.
    let bad = [
        "830b04c6336414c633641400",
        "890b04c6336414c633641400",
        "0700040000000000",
        "0728040000000000",
        "0701000000000000",
        "4403050000000000",
        "88ff000000000000",
        "07030483",
    ];
    for options in bad {
        for told in [
            net.guest(&format!("{OUT} options={options}")),
            net.public(&format!("{BACK} options={options}")),
        ] {
            assert!(told.starts_with("drop "), "{options}: {told}");
        }
    }
    // Record route and timestamps may pass, but tell nobody outside of a guest.
    for options in ["070b0400000000000000000000", "440c05010000000000000000"].map(|it| &it[..24]) {
        let mut recording = datagram();
        recording.options = (0..12)
            .map(|at| u8::from_str_radix(&options[2 * at..][..2], 16).expect("hex"))
            .collect();
        for (_, frame) in net.lab.send(GUEST, recording.frame()).sent {
            assert!(
                !frame.windows(4).any(|bytes| bytes == [10, 1, 1, 1] || bytes == [10, 1, 1, 5])
            );
            assert_eq!(checksum(&frame[14..][..32]), 0);
        }
    }
}

/// Shows R-109.
#[test]
fn rfc1812_5_2_2_headers_that_cannot_be_are_dropped() {
    for (port, packet) in [(GUEST, datagram()), (PUBLIC, knock())] {
        let mut net = Net::new();
        let sound = packet.frame();
        let spoilt = |place: usize, byte: u8| {
            let mut frame = sound.clone();
            frame[14 + place] = byte;
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..34]).to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
            frame
        };
        let mut bad: Vec<Vec<u8>> =
            [0x05, 0x15, 0x55, 0x65, 0xf5, 0x40, 0x44, 0x4f].map(|byte| spoilt(0, byte)).into();
        // Total lengths: none, less than a header, more than the frame.
        bad.extend([0, 19, 24, 200].map(|length| spoilt(3, length)));
        bad.extend([0, 1, 12, 19].map(|length| sound[..14 + length].to_vec()));
        let mut sum = sound.clone();
        sum[24] ^= 0x55;
        bad.push(sum);
        for frame in bad {
            let outcome = net.lab.send(port, frame.clone());
            assert!(matches!(outcome.verdict, Verdict::Drop(_)), "{frame:02x?}: {outcome:?}");
            assert!(outcome.sent.is_empty());
        }
        assert_eq!(net.sessions(), 0);
        assert!(matches!(net.lab.send(port, sound).verdict, Verdict::Forward(_)));
    }
}

/// Shows R-110.
#[test]
fn truncated_transport_headers_are_dropped() {
    let mut net = Net::new();
    let mut cut = |protocol: Protocol, transport: &[u8], length: usize| {
        for (port, from, to) in
            [(GUEST, "10.1.1.5:1", "198.51.100.9:1"), (PUBLIC, "198.51.100.9:1", "203.0.113.13:1")]
        {
            let part = transport[..length].to_vec();
            let packet = Packet::new(protocol, at(from).address, at(to).address, part);
            let outcome = net.lab.send(port, packet.frame());
            assert!(
                matches!(outcome.verdict, Verdict::Drop(_)),
                "{protocol} {length}: {outcome:?}"
            );
        }
    };
    for length in 0..8 {
        cut(Protocol::UDP, &datagram().transport, length);
        cut(Protocol::ICMP, &[8, 0, 0, 0, 0, 1, 0, 1], length);
    }
    let mut segment = Packet::tcp(at("10.1.1.5:1"), at("198.51.100.9:1"), 2, &[], b"").transport;
    (0..20).for_each(|length| cut(Protocol::TCP, &segment, length));
    for words in [0, 4, 15] {
        segment[12] = words << 4;
        cut(Protocol::TCP, &segment, 20);
    }
    assert_eq!(net.sessions(), 0);
}

/// Shows R-111 R-112.
#[test]
fn rfc1812_5_3_4_frames_for_others_and_of_other_kinds_are_not_routed() {
    let mut net = Net::new();
    for (port, packet) in [(GUEST, datagram()), (PUBLIC, knock())] {
        let mut frame = packet.frame();
        for station in [[2, 0, 0, 0, 0x77, 0x77], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            frame[..6].copy_from_slice(&station);
            assert_eq!(
                net.lab.send_raw(port, &frame).verdict,
                Verdict::Drop(DropReason::MacNotOurs)
            );
        }
        frame[..6].copy_from_slice(&Lab::router_mac(port).0);
        // Others' EtherTypes, and a length in the place of one (IEEE 802.3).
        for ether_type in [0x0801, 0x8847, 0x8863, 0x88b5, 0x88cc, 0xffff, 60_u16] {
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            let outcome = net.lab.send_raw(port, &frame);
            assert!(
                outcome.sent.is_empty() && matches!(outcome.verdict, Verdict::Drop(_)),
                "{outcome:?}"
            );
        }
        for length in 0..14 {
            assert!(matches!(net.lab.send_raw(port, &frame[..length]).verdict, Verdict::Drop(_)));
        }
    }
    assert_eq!(net.sessions(), 0);
    assert!(net.guest(OUT).starts_with("public: "));
}

/// It covers addresses: who verifies it behind a NAT finds it wrong, whatever we do.
///
/// Shows R-117.
#[test]
fn rfc3715_authentication_headers_pass_untouched() {
    let mut net = Net::new();
    let transport: Vec<u8> = [6, 4, 0, 0, 0, 0, 0, 0x99].into_iter().chain(0..40).collect();
    let (guest, remote) = (at("10.1.1.5:0").address, at("198.51.100.9:0").address);
    let packet = Packet::new(Protocol::AH, guest, remote, transport.clone());
    let outcome = net.lab.send(GUEST, packet.frame());
    let [(PUBLIC, frame)] = outcome.sent.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(frame[26..30], [203, 0, 113, 10]);
    assert_eq!(frame[34..], transport);
}
