//! The pipeline's everyday work, packet by packet.

use std::net::Ipv4Addr;
use std::time::Duration;

use natwerk::flow::{Endpoint, PortId};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::verdict::{DropReason, Verdict};
use natwerk::wire::parse::{Parsed, parse};

const RULES: &str = r#"{
  "version": 1,
  "public_ips": [
    {"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
    {"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
    {"address": "203.0.113.12", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}
  ],
  "networks": [
    {"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
     "source_nat": ["203.0.113.10"], "egress_default": "allow"}
  ],
  "egress_rules": [{"id": "e1", "network": "web", "action": "deny", "protocol": "tcp", "ports": "25", "destinations": ["0.0.0.0/0"]}],
  "firewall_rules": [
    {"id": "f1", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "2222-2230", "sources": ["198.51.100.0/24"]},
    {"id": "f2", "public_ip": "203.0.113.12", "protocol": "icmp", "icmp_type": 8, "icmp_code": 0, "sources": ["0.0.0.0/0"]},
    {"id": "f3", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "2222-2230", "sources": ["10.1.1.0/24"]}],
  "port_forwards": [{"id": "p1", "public_ip": "203.0.113.11", "protocol": "tcp", "public_ports": "2222-2230",
                     "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "22-30"}],
  "static_nats": [{"id": "s1", "public_ip": "203.0.113.12", "network": "web", "guest_ip": "10.1.1.6"}]
}"#;

const SYN: u8 = 0x02;

fn at(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address:port");
    Endpoint::new(address.parse().expect("an address"), port.parse().expect("a port"))
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    Packet::udp(at(source), at(destination), b"payload").frame()
}

fn tcp(source: &str, destination: &str, flags: u8) -> Vec<u8> {
    Packet::tcp(at(source), at(destination), flags, &[], b"").frame()
}

/// The one packet that left, with all checksums right.
fn only(outcome: &Outcome) -> Parsed {
    assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
    let frame = &outcome.sent[0].1;
    let parsed = parse(frame).expect("a sound packet");
    assert!(wrong_checksums(&frame[usize::from(parsed.network)..]).is_empty());
    parsed
}

#[test]
fn what_was_refused_already_passes_by_no_session_and_opens_none() {
    let mut lab = Lab::new(RULES);
    let packet = || udp("10.1.1.5:4000", "198.51.100.9:53");
    let refused = Verdict::Drop(DropReason::VxlanMalformed);
    for round in 0..2 {
        let outcome = lab.send_refused(GUEST, packet(), DropReason::VxlanMalformed);
        assert_eq!(outcome.verdict, refused, "before there is a session, and after: {round}");
        assert_eq!(lab.send(GUEST, packet()).verdict, Verdict::Forward(PUBLIC));
    }
}

#[test]
fn a_guest_leaves_with_the_public_source_and_its_reply_comes_back() {
    let mut lab = Lab::new(RULES);
    let out = lab.send(GUEST, udp("10.1.1.5:4000", "198.51.100.9:53"));
    assert_eq!(out.verdict, Verdict::Forward(PUBLIC));
    let packet = only(&out);
    assert_eq!(
        (packet.source, packet.destination),
        (at("203.0.113.10:4000"), at("198.51.100.9:53"))
    );
    assert_eq!(packet.ttl, 63);

    let back = lab.send(PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000"));
    assert_eq!(back.verdict, Verdict::Forward(GUEST));
    let packet = only(&back);
    assert_eq!((packet.source, packet.destination), (at("198.51.100.9:53"), at("10.1.1.5:4000")));

    // The next hops are the gateway outside and the guest inside.
    assert_eq!(out.sent[0].1[0..6], Lab::neighbor_mac(Ipv4Addr::new(203, 0, 113, 1)).0);
    assert_eq!(back.sent[0].1[0..6], Lab::neighbor_mac(Ipv4Addr::new(10, 1, 1, 5)).0);
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn every_packet_that_crosses_counts_as_crossing() {
    const LENGTH: u64 = 20 + 8 + 7;
    let mut lab = Lab::new(RULES);
    // The first packet of each direction goes another way through the pipeline than the others.
    for _ in 0..3 {
        only(&lab.send(GUEST, udp("10.1.1.5:4000", "198.51.100.9:53")));
    }
    for _ in 0..2 {
        only(&lab.send(PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000")));
    }
    let ports = lab.counters.totals().ports;
    let crossed = |port: PortId| {
        (ports[port.index()].crossed_in_bytes, ports[port.index()].crossed_out_bytes)
    };
    assert_eq!(crossed(GUEST), (3 * LENGTH, 2 * LENGTH));
    assert_eq!(crossed(PUBLIC), (2 * LENGTH, 3 * LENGTH));
}

#[test]
fn a_port_forward_answers_where_the_firewall_opens_it() {
    let mut lab = Lab::new(RULES);
    let out = lab.send(PUBLIC, tcp("198.51.100.9:5000", "203.0.113.11:2223", SYN));
    let packet = only(&out);
    assert_eq!((packet.source, packet.destination), (at("198.51.100.9:5000"), at("10.1.1.5:23")));
    let closed = lab.send(PUBLIC, tcp("192.0.2.9:5000", "203.0.113.11:2223", SYN));
    assert_eq!(closed.verdict, Verdict::Drop(DropReason::FirewallDenied));
    let other = lab.send(PUBLIC, tcp("198.51.100.9:5000", "203.0.113.11:80", SYN));
    assert_eq!(other.verdict, Verdict::Drop(DropReason::FirewallDenied));
}

#[test]
fn static_nat_goes_both_ways() {
    let mut lab = Lab::new(RULES);
    let out = lab.send(GUEST, tcp("10.1.1.6:4001", "198.51.100.9:443", SYN));
    assert_eq!(only(&out).source, at("203.0.113.12:4001"));
    let ping =
        Packet::echo(Ipv4Addr::new(198, 51, 100, 9), Ipv4Addr::new(203, 0, 113, 12), 8, 7, b"ping");
    let out = lab.send(PUBLIC, ping.frame());
    let packet = only(&out);
    assert_eq!(
        (packet.destination.address, packet.destination.port),
        (Ipv4Addr::new(10, 1, 1, 6), 7)
    );
    let reply = Packet::echo(packet.destination.address, packet.source.address, 0, 7, b"ping");
    let packet = only(&lab.send(GUEST, reply.frame()));
    assert_eq!(packet.source.address, Ipv4Addr::new(203, 0, 113, 12));
}

#[test]
fn a_guest_reaches_a_forward_through_its_public_address_with_an_external_source() {
    let mut lab = Lab::new(RULES);
    let out = lab.send(GUEST, tcp("10.1.1.7:4002", "203.0.113.11:2222", SYN));
    assert_eq!(out.verdict, Verdict::Forward(GUEST));
    let packet = only(&out);
    assert_eq!((packet.source, packet.destination), (at("203.0.113.10:4002"), at("10.1.1.5:22")));
    let back = lab.send(GUEST, tcp("10.1.1.5:22", "203.0.113.10:4002", 0x12));
    let packet = only(&back);
    assert_eq!((packet.source, packet.destination), (at("203.0.113.11:2222"), at("10.1.1.7:4002")));
}

#[test]
fn refused_egress_and_strays_are_dropped_with_their_reasons() {
    let mut lab = Lab::new(RULES);
    let cases = [
        (GUEST, tcp("10.1.1.5:4000", "198.51.100.9:25", SYN), DropReason::EgressDenied),
        (GUEST, tcp("10.1.1.5:4000", "198.51.100.9:80", 0x10), DropReason::TcpNoSession),
        (GUEST, udp("10.9.9.9:4000", "198.51.100.9:53"), DropReason::SourceSpoofed),
        (GUEST, udp("10.1.1.5:4000", "127.0.0.1:53"), DropReason::MartianAddress),
        (GUEST, udp("10.1.1.5:4000", "203.0.113.10:999"), DropReason::ExternalHairpinLoop),
        (PUBLIC, udp("198.51.100.9:53", "10.1.1.5:4000"), DropReason::AddressNotOurs),
        (PUBLIC, udp("10.1.1.5:53", "203.0.113.10:4000"), DropReason::SourceSpoofed),
        (PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000"), DropReason::FirewallDenied),
    ];
    for (port, frame, reason) in cases {
        let outcome = lab.send(port, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(reason));
        assert!(outcome.sent.is_empty());
    }
    assert!(lab.shared.sessions.is_empty());
}

#[test]
fn an_idle_session_ends_and_gives_everything_back() {
    let mut lab = Lab::new(RULES);
    lab.send(GUEST, udp("10.1.1.5:4000", "198.51.100.9:5353"));
    assert_eq!(lab.shared.sessions.len(), 1);
    lab.pass(Duration::from_secs(299));
    assert_eq!(lab.shared.sessions.len(), 1);
    lab.pass(Duration::from_secs(3));
    assert_eq!(lab.shared.sessions.len(), 0);
    let realm = natwerk::flow::Realm::from_raw(1);
    assert_eq!(lab.shared.guests.sessions(realm, Ipv4Addr::new(10, 1, 1, 5)), 0);
}

#[test]
fn a_withdrawn_forward_ends_its_sessions_within_a_second_and_others_live() {
    let mut lab = Lab::new(RULES);
    lab.send(PUBLIC, tcp("198.51.100.9:5000", "203.0.113.11:2222", SYN));
    lab.send(GUEST, udp("10.1.1.5:4000", "198.51.100.9:53"));
    assert_eq!(lab.shared.sessions.len(), 2);
    lab.reload(&RULES.replace("2222-2230\",\n", "3222-3230\",\n"));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shared.sessions.len(), 1);
    let back = lab.send(PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000"));
    assert_eq!(back.verdict, Verdict::Forward(GUEST));
}

#[test]
fn time_exceeded_comes_from_the_gateway_and_quotes_what_was_sent() {
    let mut lab = Lab::new(RULES);
    let mut packet = Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), b"x");
    packet.ttl = 1;
    let out = lab.send(GUEST, packet.frame());
    assert_eq!(out.verdict, Verdict::Drop(DropReason::TtlExpired));
    let error = only(&out);
    assert_eq!(error.source.address, Ipv4Addr::new(10, 1, 1, 1));
    assert_eq!(error.destination.address, Ipv4Addr::new(10, 1, 1, 5));
}

#[test]
fn a_guest_over_its_limit_leaves_no_ports_resting_for_others() {
    let rules = RULES.replace(
        "\"egress_default\": \"allow\"",
        "\"egress_default\": \"allow\", \"limits\": {\"sessions_per_guest\": 1}",
    );
    let mut lab = Lab::new(&rules);
    for port in 4000..4100 {
        lab.send(GUEST, udp(&format!("10.1.1.5:{port}"), "198.51.100.9:53"));
    }
    let usage =
        lab.shared.mappings.usage(Ipv4Addr::new(203, 0, 113, 10), natwerk::flow::Protocol::UDP);
    assert_eq!((usage.live, usage.resting), (1, 0));
}

#[test]
fn a_guest_may_not_pose_as_its_gateway() {
    let rules = RULES.replace(
        "\"egress_default\": \"allow\"",
        "\"egress_default\": \"allow\", \"anti_spoofing\": false",
    );
    for rules in [RULES, &rules] {
        let mut lab = Lab::new(rules);
        let outcome = lab.send(GUEST, udp("10.1.1.1:4000", "198.51.100.9:53"));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::SourceSpoofed));
    }
}

#[test]
fn fragments_held_for_a_neighbor_leave_whole_and_with_one_identification() {
    let mut lab = Lab::new(RULES);
    lab.answers = false;
    let whole = Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), &[7; 92]);
    let piece = |range: std::ops::Range<usize>| {
        let more = if range.end < whole.transport.len() { 0x2000 } else { 0 };
        let flags_offset = more | u16::try_from(range.start / 8).expect("short");
        let transport = whole.transport[range].to_vec();
        Packet { transport, flags_offset, identification: 500, ..whole.clone() }.frame()
    };
    for range in [40..80, 0..40, 80..100] {
        assert_eq!(lab.send(GUEST, piece(range)).verdict, Verdict::Hold);
    }
    lab.answers = true;
    let out = lab.send(GUEST, udp("10.1.1.8:4000", "198.51.100.9:53"));
    let fragments: Vec<_> = out
        .sent
        .iter()
        .map(|(_, frame)| &frame[14..])
        .filter(|ip| ip[6] & 0x3f | ip[7] != 0)
        .collect();
    assert_eq!(fragments.len(), 3);
    assert!(fragments.iter().all(|ip| ip[4..6] == fragments[0][4..6]));
    let bytes: usize = fragments.iter().map(|ip| ip.len() - 20).sum();
    assert_eq!(bytes, whole.transport.len());
}
