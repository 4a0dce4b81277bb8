//! First packets that come together: each is treated as if it had come alone, in its turn.

use natwerk::flow::{Endpoint, PortId};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::Verdict;
use natwerk::wire::segment::flags;
use proptest::prelude::*;

/// Few ports and few sessions for each guest, so that many are refused.
const RULES: &str = r#"{"version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1"}],
    "networks": [
        {"name": "web", "domain": "one", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
         "source_nat": ["203.0.113.10"], "egress_default": "allow", "egress_reject": true,
         "mss_clamp": 1200, "limits": {"sessions_per_guest": 7},
         "nat": {"port_range": "4000-4009", "overload": false, "filtering_type": "endpoint-independent"}}],
    "port_forwards": [{"id": "pf", "public_ip": "203.0.113.10", "protocol": "udp", "public_ports": "53",
                       "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "53"}],
    "firewall_rules": [{"id": "fw", "public_ip": "203.0.113.10", "protocol": "udp",
                        "ports": "53"}],
    "egress_rules": [{"id": "e1", "network": "web", "action": "deny", "protocol": "udp", "ports": "54"}]}"#;

const GUESTS: [&str; 3] = ["10.1.1.5", "10.1.1.6", "10.1.1.7"];

fn at(address: &str, port: u16) -> Endpoint {
    Endpoint::new(address.parse().expect("an address"), port)
}

/// A router that knows its neighbours.
fn lab() -> Lab {
    let mut lab = Lab::new(RULES);
    for guest in GUESTS {
        let asks = Packet::udp(at(guest, 4009), at("198.51.100.1", 123), b"asks").frame();
        let sent = lab.send(GUEST, asks).sent.remove(0).1;
        let packet = natwerk::wire::parse::parse(&sent).expect("a sound packet");
        let answer = Packet::udp(packet.destination, packet.source, b"answers").frame();
        assert_eq!(lab.send(PUBLIC, answer).verdict, Verdict::Forward(GUEST));
    }
    lab
}

fn frame() -> impl Strategy<Value = (PortId, Vec<u8>)> {
    let guest = prop::sample::select(GUESTS.to_vec());
    let source = (guest, 4000..4004_u16).prop_map(|(guest, port)| at(guest, port));
    let remote = (prop::sample::select(vec!["198.51.100.9", "198.51.100.7"]), 53..55_u16);
    let remote = remote.prop_map(|(address, port)| at(address, port));
    let public =
        prop_oneof![Just(53_u16), 4000..4010_u16].prop_map(|port| at("203.0.113.10", port));
    let udp = |from, to| Packet::udp(from, to, b"data").frame();
    // With an MSS of 1,460.
    let tcp = |from, to, flags| Packet::tcp(from, to, flags, &[2, 4, 5, 180], b"").frame();
    prop_oneof![
        8 => (source.clone(), remote.clone()).prop_map(move |(from, to)| (GUEST, udp(from, to))),
        4 => (source.clone(), remote.clone(), 0..8_u8).prop_map(move |(from, to, kind)| {
            let mut syn = tcp(from, to, flags::SYN);
            match kind {
                0 => leave_checksum(&mut syn),
                // For somebody else.
                1 => syn[5] ^= 1,
                _ => {}
            }
            (GUEST, syn)
        }),
        1 => (source.clone(), remote.clone()).prop_map(move |(from, to)| {
            (GUEST, tcp(from, to, flags::ACK))
        }),
        1 => (source.clone(), public.clone()).prop_map(move |(from, to)| (GUEST, udp(from, to))),
        1 => (source.clone(), source).prop_map(move |(from, to)| (GUEST, udp(from, to))),
        2 => (remote, public).prop_map(move |(from, to)| (PUBLIC, udp(from, to))),
    ]
}

/// Makes the frame of a TCP segment one whose sender leaves the checksum to its device.
fn leave_checksum(frame: &mut [u8]) {
    let (addresses, length) = (&frame[26..34], frame.len() - 34);
    let words = addresses.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + 6 + u32::try_from(length).expect("a short frame");
    let folded = u16::try_from((sum >> 16) + (sum & 0xffff)).expect("few words");
    frame[50..52].copy_from_slice(&folded.to_be_bytes());
}

fn told(outcome: &Outcome) -> (Verdict, Vec<(PortId, Vec<u8>)>) {
    (outcome.verdict, outcome.sent.clone())
}

proptest! {
    #[test]
    fn packets_that_come_together_fare_as_if_they_came_one_by_one(
        frames in prop::collection::vec(frame(), 1..64),
    ) {
        let (mut together, mut alone) = (lab(), lab());
        let (each, beside) = together.send_all(&frames);
        let mut errors = Vec::new();
        for (frame, outcome) in frames.iter().zip(&each) {
            let (one, beside) = alone.send_all(std::slice::from_ref(frame));
            prop_assert_eq!(one.iter().map(told).collect::<Vec<_>>(), vec![told(outcome)]);
            errors.extend(beside.sent);
        }
        let mut sent = beside.sent;
        sent.sort();
        errors.sort();
        prop_assert_eq!(sent, errors);
        let count = |lab: &Lab| lab.shared.sessions.len();
        prop_assert_eq!(count(&together), count(&alone));
    }
}
