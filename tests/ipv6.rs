//! IPv6 through the pipeline: routed guest networks behind a stateful firewall, without NAT.

use std::net::Ipv6Addr;
use std::time::Duration;

use natwerk::flow::Endpoint;
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets_ipv6::Packet;
use natwerk::verdict::{DropReason, HostReason, Verdict};
use natwerk::wire::ipv6::{Parsed, parse};

const RULES: &str = r#"{
  "version": 1,
  "public_ipv6": [
    {"address": "2001:db8:ff::1", "prefix_len": 64, "interface": "eth2", "gateway": "2001:db8:ff::fe"}
  ],
  "networks": [
    {"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1", "egress_reject": true,
     "ipv6": {"cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}},
    {"name": "db", "interface": "eth0", "vlan": 100, "cidr": "10.1.2.0/24", "gateway": "10.1.2.1", "mtu": 1300,
     "ipv6": {"cidr": "2001:db8:2::/64", "gateway": "2001:db8:2::1"}},
    {"name": "tier", "interface": "eth0", "vlan": 101, "cidr": "10.1.3.0/24", "gateway": "10.1.3.1",
     "ipv6": {"cidr": "2001:db8:3::/64", "gateway": "2001:db8:3::1"}},
    {"name": "old", "interface": "eth0", "vlan": 102, "cidr": "10.1.4.0/24", "gateway": "10.1.4.1"}
  ],
  "egress_rules": [
    {"id": "e1", "network": "web", "action": "deny", "protocol": "tcp", "ports": "25"},
    {"id": "e2", "network": "web", "action": "deny", "protocol": "udp", "destinations": ["2001:db8:66::/48", "192.0.2.0/24"]},
    {"id": "e3", "network": "web", "action": "deny", "protocol": "udp", "destinations": ["198.51.100.0/24"]}
  ],
  "ipv6_firewall_rules": [
    {"id": "i1", "network": "web", "protocol": "tcp", "ports": "443", "sources": ["2001:db8:51::/48"],
     "destinations": ["2001:db8:1::5"]},
    {"id": "i2", "network": "web", "protocol": "icmpv6", "icmp_type": 128}
  ],
  "network_acls": [
    {"network": "tier", "direction": "ingress", "entries": [
      {"number": 10, "action": "allow", "protocol": "tcp", "ports": "80", "cidr": ["2001:db8:1::/64", "10.1.1.0/24"]}]},
    {"network": "tier", "direction": "egress", "entries": [
      {"number": 10, "action": "allow", "protocol": "udp", "ports": "53"}]}
  ]
}"#;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

const GUEST_ADDRESS: &str = "2001:db8:1::5";
const REMOTE: &str = "2001:db8:51::9";

fn ip(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

fn at(address: &str, port: u16) -> Endpoint<Ipv6Addr> {
    Endpoint::new(ip(address), port)
}

fn udp(source: (&str, u16), destination: (&str, u16)) -> Packet {
    Packet::udp(at(source.0, source.1), at(destination.0, destination.1), b"payload")
}

fn tcp(source: (&str, u16), destination: (&str, u16), flags: u8) -> Packet {
    Packet::tcp(at(source.0, source.1), at(destination.0, destination.1), flags, b"")
}

/// The one packet that left.
fn only(outcome: &Outcome) -> Parsed {
    assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
    parse(&outcome.sent[0].1).expect("is IPv6").expect("sound")
}

/// The ICMPv6 error that a guest got: who sent it, type, code, and the word behind the checksum.
fn error(outcome: &Outcome) -> (Ipv6Addr, u8, u8, u32) {
    let packet = only(outcome);
    let message = &outcome.sent[0].1[usize::from(packet.transport)..];
    let word = u32::from_be_bytes(message[4..8].try_into().expect("four bytes"));
    (packet.source.address, message[0], message[1], word)
}

fn sessions(lab: &Lab) -> u32 {
    lab.shared.sessions_ipv6.len()
}

#[test]
fn a_guest_gets_out_untranslated_and_only_its_replies_come_in() {
    let mut lab = Lab::new(RULES);
    let request = udp((GUEST_ADDRESS, 4000), (REMOTE, 53));
    let out = lab.send(GUEST, request.frame());
    assert_eq!(out.verdict, Verdict::Forward(PUBLIC));
    // Nothing changes but the hop limit: RFC 8200, section 3.
    assert_eq!(out.sent[0].1[14..], Packet { hop_limit: 63, ..request }.bytes());
    assert_eq!(out.sent[0].1[0..6], Lab::neighbor_mac(ip("2001:db8:ff::fe")).0);

    for stranger in [
        udp((REMOTE, 54), (GUEST_ADDRESS, 4000)),
        udp(("2001:db8:51::a", 53), (GUEST_ADDRESS, 4000)),
        udp((REMOTE, 53), (GUEST_ADDRESS, 4001)),
    ] {
        let refused = lab.send(PUBLIC, stranger.frame());
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::FirewallDenied));
    }
    let reply = udp((REMOTE, 53), (GUEST_ADDRESS, 4000));
    let back = lab.send(PUBLIC, reply.frame());
    assert_eq!(back.verdict, Verdict::Forward(GUEST));
    assert_eq!(back.sent[0].1[0..6], Lab::neighbor_mac(ip(GUEST_ADDRESS)).0);
    assert_eq!((sessions(&lab), lab.frames_in_hand()), (1, 0));
}

#[test]
fn what_crosses_the_router_is_counted_as_crossing() {
    const LENGTH: u64 = 40 + 8 + 7;
    let mut lab = Lab::new(RULES);
    lab.send(GUEST, udp((GUEST_ADDRESS, 4000), (REMOTE, 53)).frame());
    for _ in 0..2 {
        lab.send(PUBLIC, udp((REMOTE, 53), (GUEST_ADDRESS, 4000)).frame());
    }
    // What the firewall stops does not cross.
    lab.send(PUBLIC, udp((REMOTE, 54), (GUEST_ADDRESS, 4000)).frame());
    let ports = lab.counters.totals().ports;
    let crossed = [GUEST, PUBLIC].map(|port| {
        let port = &ports[port.index()];
        (port.crossed_in_bytes, port.crossed_out_bytes)
    });
    assert_eq!(crossed, [(LENGTH, 2 * LENGTH), (2 * LENGTH, LENGTH)]);
}

#[test]
fn link_padding_and_tags_end_at_the_router() {
    let mut lab = Lab::new(RULES);
    let tagged = Packet { tag: Some(100), ..udp(("2001:db8:2::7", 1), (REMOTE, 53)) };
    let out = lab.send(GUEST, Packet { padding: vec![0xee; 9], ..tagged.clone() }.frame());
    let expected = Packet { tag: None, hop_limit: 63, ..tagged };
    assert_eq!(out.sent[0].1[12..], expected.frame()[12..]);
    let back = lab.send(PUBLIC, udp((REMOTE, 53), ("2001:db8:2::7", 1)).frame());
    assert_eq!(only(&back).vlan, 100);
}

#[test]
fn echo_requests_go_one_way_and_replies_the_other() {
    let mut lab = Lab::new(RULES);
    let ping = |from, to, icmp_type, id| Packet::echo(ip(from), ip(to), icmp_type, id).frame();
    assert_eq!(
        lab.send(GUEST, ping(GUEST_ADDRESS, REMOTE, 128, 7)).verdict,
        Verdict::Forward(PUBLIC)
    );
    assert_eq!(
        lab.send(PUBLIC, ping(REMOTE, GUEST_ADDRESS, 129, 7)).verdict,
        Verdict::Forward(GUEST)
    );
    // A request through the session of the guest's own ping.
    let refused = lab.send(PUBLIC, ping(REMOTE, GUEST_ADDRESS, 128, 7));
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::IcmpRefused));
    let unasked = lab.send(PUBLIC, ping(REMOTE, GUEST_ADDRESS, 129, 8));
    assert_eq!(unasked.verdict, Verdict::Drop(DropReason::IcmpRefused));
    // An opened one: rule i2.
    let opened = lab.send(PUBLIC, ping(REMOTE, GUEST_ADDRESS, 128, 9));
    assert_eq!(opened.verdict, Verdict::Forward(GUEST));
    for icmp_type in [130, 133, 135, 137, 139, 143] {
        let discovery = lab.send(GUEST, ping(GUEST_ADDRESS, REMOTE, icmp_type, 9));
        assert_eq!(discovery.verdict, Verdict::Drop(DropReason::IcmpRefused), "{icmp_type}");
    }
}

#[test]
fn tcp_opens_with_a_syn_and_a_blind_reset_does_not_close_it() {
    let mut lab = Lab::new(RULES);
    let (guest, remote) = ((GUEST_ADDRESS, 4000), (REMOTE, 443));
    let stray = lab.send(GUEST, tcp(guest, remote, ACK).frame());
    assert_eq!(stray.verdict, Verdict::Drop(DropReason::TcpNoSession));
    assert_eq!(lab.send(GUEST, tcp(guest, remote, SYN).frame()).verdict, Verdict::Forward(PUBLIC));
    let numbered = |mut packet: Packet, sequence: u32, acknowledged: u32| {
        packet.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        packet.transport[8..12].copy_from_slice(&acknowledged.to_be_bytes());
        packet.frame()
    };
    let answer = numbered(tcp(remote, guest, SYN | ACK), 5000, 1001);
    assert_eq!(lab.send(PUBLIC, answer).verdict, Verdict::Forward(GUEST));
    let last = numbered(tcp(guest, remote, ACK), 1001, 5001);
    assert_eq!(lab.send(GUEST, last).verdict, Verdict::Forward(PUBLIC));
    lab.send(PUBLIC, numbered(tcp(remote, guest, RST), 0x7000_0000, 1001));
    lab.pass(Duration::from_secs(600));
    assert_eq!(sessions(&lab), 1, "an established connection outlives ten minutes");
}

#[test]
fn firewall_rules_open_what_they_name_and_count() {
    let mut lab = Lab::new(RULES);
    let inbound = |lab: &mut Lab, from: &str, to: (&str, u16)| {
        lab.send(PUBLIC, tcp((from, 5000), to, SYN).frame()).verdict
    };
    let denied = Verdict::Drop(DropReason::FirewallDenied);
    assert_eq!(inbound(&mut lab, REMOTE, (GUEST_ADDRESS, 443)), Verdict::Forward(GUEST));
    assert_eq!(inbound(&mut lab, REMOTE, (GUEST_ADDRESS, 80)), denied);
    assert_eq!(inbound(&mut lab, REMOTE, ("2001:db8:1::6", 443)), denied);
    assert_eq!(inbound(&mut lab, "2001:db8:77::9", (GUEST_ADDRESS, 443)), denied);
    assert_eq!(inbound(&mut lab, REMOTE, ("2001:db8:2::7", 443)), denied);
    let elsewhere = inbound(&mut lab, REMOTE, ("2001:db8:9::9", 443));
    assert_eq!(elsewhere, Verdict::Drop(DropReason::AddressNotOurs));
    let answer = tcp((GUEST_ADDRESS, 443), (REMOTE, 5000), SYN | ACK);
    assert_eq!(lab.send(GUEST, answer.frame()).verdict, Verdict::Forward(PUBLIC));
}

#[test]
fn egress_rules_are_about_the_families_they_name() {
    let mut lab = Lab::new(RULES);
    // e1 names no prefix: both families. The guest is told (RFC 4443, code 1).
    let refused = lab.send(GUEST, tcp((GUEST_ADDRESS, 4000), (REMOTE, 25), SYN).frame());
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::EgressDenied));
    assert_eq!(error(&refused), (ip("2001:db8:1::1"), 1, 1, 0));
    // e2 names both, e3 IPv4 alone.
    let listed = lab.send(GUEST, udp((GUEST_ADDRESS, 4000), ("2001:db8:66::1", 9)).frame());
    assert_eq!(listed.verdict, Verdict::Drop(DropReason::EgressDenied));
    let free = lab.send(GUEST, udp((GUEST_ADDRESS, 4000), (REMOTE, 9)).frame());
    assert_eq!(free.verdict, Verdict::Forward(PUBLIC));
}

#[test]
fn between_networks_both_sides_have_a_say() {
    let mut lab = Lab::new(RULES);
    let send = |lab: &mut Lab, packet: Packet| lab.send(GUEST, packet.frame()).verdict;
    // Another domain's network is as far away as the outside.
    let stranger = send(&mut lab, tcp((GUEST_ADDRESS, 1), ("2001:db8:2::7", 80), SYN));
    assert_eq!(stranger, Verdict::Drop(DropReason::FirewallDenied));
    let opened = send(&mut lab, tcp((GUEST_ADDRESS, 1), ("2001:db8:3::7", 80), SYN));
    assert_eq!(opened, Verdict::Forward(GUEST));
    let reply = tcp(("2001:db8:3::7", 80), (GUEST_ADDRESS, 1), SYN | ACK);
    assert_eq!(send(&mut lab, Packet { tag: Some(101), ..reply }), Verdict::Forward(GUEST));
    let closed = send(&mut lab, tcp((GUEST_ADDRESS, 1), ("2001:db8:3::7", 81), SYN));
    assert_eq!(closed, Verdict::Drop(DropReason::AclDenied));
    let tier = |port| Packet { tag: Some(101), ..udp(("2001:db8:3::7", 1), (REMOTE, port)) };
    assert_eq!(send(&mut lab, tier(53)), Verdict::Forward(PUBLIC));
    assert_eq!(send(&mut lab, tier(54)), Verdict::Drop(DropReason::AclDenied));
}

#[test]
fn addresses_that_must_not_be_forwarded_are_not() {
    let mut lab = Lab::new(RULES);
    let from = |lab: &mut Lab, port, source: &str, to: &str| {
        lab.send(port, udp((source, 1), (to, 53)).frame()).verdict
    };
    let (martian, spoofed) = (DropReason::MartianAddress, DropReason::SourceSpoofed);
    for source in ["fe80::5", "::1", "::", "ff02::5", "::ffff:10.1.1.5"] {
        assert_eq!(from(&mut lab, GUEST, source, REMOTE), Verdict::Drop(martian), "{source}");
    }
    for to in ["ff0e::5", "fe80::5", "::1"] {
        assert_eq!(from(&mut lab, GUEST, GUEST_ADDRESS, to), Verdict::Drop(martian), "{to}");
    }
    assert_eq!(from(&mut lab, GUEST, "2001:db8:2::7", REMOTE), Verdict::Drop(spoofed));
    assert_eq!(from(&mut lab, GUEST, "2001:db8:1::1", REMOTE), Verdict::Drop(spoofed));
    assert_eq!(from(&mut lab, PUBLIC, "2001:db8:2::7", GUEST_ADDRESS), Verdict::Drop(spoofed));
    assert_eq!(from(&mut lab, PUBLIC, "2001:db8:ff::1", GUEST_ADDRESS), Verdict::Drop(spoofed));
    // A network without an IPv6 side forwards none.
    let old = Packet { tag: Some(102), ..udp(("2001:db8:4::7", 1), (REMOTE, 53)) };
    assert_eq!(lab.send(GUEST, old.frame()).verdict, Verdict::Drop(spoofed));
    assert_eq!(sessions(&lab), 0);
}

#[test]
fn the_router_itself_is_the_kernels() {
    let mut lab = Lab::new(RULES);
    let to = |lab: &mut Lab, port, source: &str, to: &str| {
        lab.send(port, udp((source, 1), (to, 53)).frame()).verdict
    };
    let local = Verdict::Host(HostReason::LocalService);
    assert_eq!(to(&mut lab, GUEST, GUEST_ADDRESS, "2001:db8:1::1"), local);
    assert_eq!(to(&mut lab, GUEST, GUEST_ADDRESS, "2001:db8:ff::1"), local);
    assert_eq!(to(&mut lab, PUBLIC, REMOTE, "2001:db8:ff::1"), local);
    let not_ours = Verdict::Drop(DropReason::AddressNotOurs);
    assert_eq!(to(&mut lab, PUBLIC, REMOTE, "2001:db8:1::1"), not_ours);
    assert_eq!(to(&mut lab, GUEST, GUEST_ADDRESS, "2001:db8:2::1"), not_ours);
}

#[test]
fn rfc4443_3_3_a_hop_limit_that_runs_out_is_told() {
    let mut lab = Lab::new(RULES);
    let packet = |hop_limit| Packet { hop_limit, ..udp((GUEST_ADDRESS, 4000), (REMOTE, 53)) };
    for hop_limit in [1, 0] {
        let out = lab.send(GUEST, packet(hop_limit).frame());
        assert_eq!(out.verdict, Verdict::Drop(DropReason::TtlExpired));
        assert_eq!(error(&out), (ip("2001:db8:1::1"), 3, 0, 0));
    }
    lab.send(GUEST, packet(64).frame());
    let back = Packet { hop_limit: 1, ..udp((REMOTE, 53), (GUEST_ADDRESS, 4000)) };
    let out = lab.send(PUBLIC, back.frame());
    assert_eq!(error(&out), (ip("2001:db8:ff::1"), 3, 0, 0));
}

#[test]
fn rfc8201_too_big_for_the_next_link_is_told_and_never_fragmented() {
    let mut lab = Lab::new(RULES);
    let guest = Packet { tag: Some(100), ..udp(("2001:db8:2::7", 1), (REMOTE, 53)) };
    lab.send(GUEST, guest.frame());
    let reply = |length: usize| {
        Packet::udp(at(REMOTE, 53), at("2001:db8:2::7", 1), &vec![7; length - 48]).frame()
    };
    // The network's MTU is 1300.
    assert_eq!(lab.send(PUBLIC, reply(1300)).verdict, Verdict::Forward(GUEST));
    let out = lab.send(PUBLIC, reply(1301));
    assert_eq!(out.verdict, Verdict::Drop(DropReason::MtuExceeded));
    assert_eq!(error(&out), (ip("2001:db8:ff::1"), 2, 0, 1300));
    assert_eq!(out.sent[0].1.len(), 14 + 1280, "RFC 4443, section 2.4 (c)");
}

#[test]
fn rfc6092_rec_18_errors_pass_for_flows_that_are_there_only() {
    let mut lab = Lab::new(RULES);
    let sent = udp((GUEST_ADDRESS, 4000), (REMOTE, 53));
    lab.send(GUEST, sent.frame());
    let about = |quoted: &Packet, to: &str| {
        let rest = [&[0, 0, 5, 0], &quoted.bytes()[..]].concat();
        Packet::icmp(ip("2001:db8:77::1"), ip(to), 2, 0, &rest).frame()
    };
    let passes = lab.send(PUBLIC, about(&sent, GUEST_ADDRESS));
    assert_eq!(passes.verdict, Verdict::Forward(GUEST));
    let unmatched = Verdict::Drop(DropReason::IcmpErrorUnmatched);
    let other = udp((GUEST_ADDRESS, 4001), (REMOTE, 53));
    assert_eq!(lab.send(PUBLIC, about(&other, GUEST_ADDRESS)).verdict, unmatched);
    // For somebody else than who sent what it quotes.
    assert_eq!(lab.send(PUBLIC, about(&sent, "2001:db8:1::6")).verdict, unmatched);
    let mut forged = about(&sent, GUEST_ADDRESS);
    forged[60] ^= 1;
    assert_eq!(lab.send(PUBLIC, forged).verdict, Verdict::Drop(DropReason::BadChecksum));
}

#[test]
fn forged_errors_about_a_tcp_connection_are_refused() {
    let mut lab = Lab::new(RULES);
    let syn = tcp((GUEST_ADDRESS, 4000), (REMOTE, 443), SYN);
    lab.send(GUEST, syn.frame());
    let mut quoted = syn;
    quoted.transport[4..8].copy_from_slice(&0x5000_0000_u32.to_be_bytes());
    let rest = [&[0, 0, 5, 0], &quoted.bytes()[..]].concat();
    let error = Packet::icmp(ip("2001:db8:77::1"), ip(GUEST_ADDRESS), 2, 0, &rest);
    let refused = lab.send(PUBLIC, error.frame());
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::IcmpSequenceRefused));
}

#[test]
fn fragments_follow_the_first_one_in_any_order() {
    let mut lab = Lab::new(RULES);
    let datagram = Packet::udp(at(GUEST_ADDRESS, 4000), at(REMOTE, 53), &[7; 3000]);
    let pieces = [0, 1200, 2400].map(|start| datagram.fragment(7, start, 1200));
    assert_eq!(lab.send(GUEST, pieces[2].frame()).verdict, Verdict::Hold);
    assert_eq!(lab.send(GUEST, pieces[1].frame()).verdict, Verdict::Hold);
    let first = lab.send(GUEST, pieces[0].frame());
    let released = lab.pass(Duration::from_millis(100));
    let left: Vec<_> = [first.sent, released.sent].concat();
    let expected = [&pieces[0], &pieces[2], &pieces[1]]
        .map(|piece| Packet { hop_limit: 63, ..piece.clone() }.bytes());
    let payloads: Vec<_> = left.iter().map(|(_, frame)| frame[14..].to_vec()).collect();
    assert_eq!(payloads, expected);
    // The same datagram once more, and one that overlaps.
    let again = lab.send(GUEST, pieces[1].frame());
    assert_eq!(again.verdict, Verdict::Drop(DropReason::FragmentOverlap));
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn fragments_that_nobody_asked_for_are_refused_together() {
    let mut lab = Lab::new(RULES);
    let datagram = Packet::udp(at(REMOTE, 53), at(GUEST_ADDRESS, 4000), &[7; 3000]);
    let pieces = [0, 1200, 2400].map(|start| datagram.fragment(7, start, 1200));
    assert_eq!(lab.send(PUBLIC, pieces[1].frame()).verdict, Verdict::Hold);
    let denied = Verdict::Drop(DropReason::FirewallDenied);
    assert_eq!(lab.send(PUBLIC, pieces[0].frame()).verdict, denied);
    assert_eq!(lab.send(PUBLIC, pieces[2].frame()).verdict, denied);
    assert_eq!(lab.pass(Duration::from_secs(3)).sent, []);
    assert_eq!(lab.frames_in_hand(), 0);
    // Without its first fragment a datagram is given up.
    assert_eq!(lab.send(PUBLIC, datagram.fragment(8, 1200, 1200).frame()).verdict, Verdict::Hold);
    lab.pass(Duration::from_secs(3));
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn frames_wait_for_a_neighbour_and_hear_when_there_is_none() {
    let mut lab = Lab::new(RULES);
    lab.answers = false;
    let out = lab.send(GUEST, udp((GUEST_ADDRESS, 4000), (REMOTE, 53)).frame());
    assert_eq!(out.verdict, Verdict::Hold);
    lab.give_up_neighbors();
    let told = lab.pass(Duration::from_millis(100));
    assert_eq!(error(&told), (ip("2001:db8:1::1"), 1, 3, 0));
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn sessions_expire_and_end_with_the_rule_that_let_them_in() {
    let mut lab = Lab::new(RULES);
    lab.send(GUEST, udp((GUEST_ADDRESS, 4000), (REMOTE, 9)).frame());
    lab.send(PUBLIC, tcp((REMOTE, 5000), (GUEST_ADDRESS, 443), SYN).frame());
    let ping = Packet::echo(ip(GUEST_ADDRESS), ip(REMOTE), 128, 7);
    lab.send(GUEST, ping.frame());
    assert_eq!(sessions(&lab), 3);
    // 60 s for queries.
    lab.pass(Duration::from_secs(70));
    assert_eq!(sessions(&lab), 2);
    lab.reload(&RULES.replace("\"ports\": \"443\"", "\"ports\": \"444\""));
    lab.pass(Duration::from_secs(2));
    assert_eq!(sessions(&lab), 1, "the session of the rule that changed is over");
    let reply = lab.send(PUBLIC, udp((REMOTE, 9), (GUEST_ADDRESS, 4000)).frame());
    assert_eq!(reply.verdict, Verdict::Forward(GUEST));
    lab.pass(Duration::from_secs(400));
    assert_eq!(sessions(&lab), 0);
}

#[test]
fn a_guest_has_as_many_sessions_as_it_may() {
    let limited = RULES.replacen(
        "\"egress_reject\": true",
        "\"egress_reject\": true, \"limits\": {\"sessions_per_guest\": 2}",
        1,
    );
    let mut lab = Lab::new(&limited);
    for port in [1, 2] {
        let sent = lab.send(GUEST, udp((GUEST_ADDRESS, port), (REMOTE, 53)).frame());
        assert_eq!(sent.verdict, Verdict::Forward(PUBLIC));
    }
    let refused = lab.send(GUEST, udp((GUEST_ADDRESS, 3), (REMOTE, 53)).frame());
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::SessionLimit));
    assert_eq!(error(&refused).1, 1);
    let other = lab.send(GUEST, udp(("2001:db8:1::6", 3), (REMOTE, 53)).frame());
    assert_eq!(other.verdict, Verdict::Forward(PUBLIC));
}

#[test]
fn rfc4443_3_1_a_guest_that_finds_the_table_full_is_told_and_open_sessions_stay() {
    let mut lab = Lab::with(RULES, |config| config.sessions.max_ipv6 = 2);
    for port in [1, 2] {
        let sent = lab.send(GUEST, udp((GUEST_ADDRESS, port), (REMOTE, 53)).frame());
        assert_eq!(sent.verdict, Verdict::Forward(PUBLIC));
    }
    let refused = lab.send(GUEST, udp(("2001:db8:1::6", 1), (REMOTE, 53)).frame());
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::SessionTableFull));
    let (router, kind, code, _) = error(&refused);
    assert_eq!((router, kind, code), (ip("2001:db8:1::1"), 1, 1), "administratively prohibited");
    assert_eq!(only(&refused).destination.address, ip("2001:db8:1::6"));
    // Who is outside is not told what the router is short of.
    let stranger = lab.send(PUBLIC, tcp((REMOTE, 5000), (GUEST_ADDRESS, 443), SYN).frame());
    assert_eq!(stranger.verdict, Verdict::Drop(DropReason::SessionTableFull));
    assert_eq!(stranger.sent, []);
    for port in [1, 2] {
        let reply = lab.send(PUBLIC, udp((REMOTE, 53), (GUEST_ADDRESS, port)).frame());
        assert_eq!(reply.verdict, Verdict::Forward(GUEST));
    }
}

#[test]
fn both_families_in_one_batch_find_their_own_way() {
    let mut lab = Lab::new(RULES);
    let ipv6: Vec<_> =
        (1..=20).map(|port| udp((GUEST_ADDRESS, port), (REMOTE, 53)).frame()).collect();
    let frame = |mut frame: Vec<u8>| {
        frame[0..6].copy_from_slice(&Lab::router_mac(GUEST).0);
        frame
    };
    let ipv4 = natwerk::testing::packets::Packet::udp(
        Endpoint::new([10, 1, 1, 5].into(), 1),
        Endpoint::new([198, 51, 100, 9].into(), 53),
        b"routed nowhere",
    );
    let frames: Vec<_> = ipv6
        .into_iter()
        .flat_map(|wide| [frame(wide), frame(ipv4.frame()), frame(vec![0; 60])])
        .collect();
    let warm = lab.send(GUEST, udp((GUEST_ADDRESS, 99), (REMOTE, 53)).frame());
    assert_eq!(warm.verdict, Verdict::Forward(PUBLIC));
    let forwarded = lab.forward(frames.iter().map(|frame| (GUEST, &frame[..])));
    assert_eq!((forwarded, sessions(&lab)), (20, 21));
}

#[test]
fn the_clamp_of_a_network_holds_for_ipv6_too() {
    let clamped = RULES.replacen(
        "\"egress_reject\": true",
        "\"egress_reject\": true, \"mss_clamp\": \"path-mtu\"",
        1,
    );
    let mut lab = Lab::new(&clamped);
    let mut syn = tcp((GUEST_ADDRESS, 4000), (REMOTE, 443), SYN);
    // An MSS option of 9000, in a header of six words; the checksum is not looked at.
    syn.transport[12] = 0x60;
    syn.transport.extend([2, 4, 0x23, 0x28]);
    let out = lab.send(GUEST, syn.frame());
    let packet = only(&out);
    let option = usize::from(packet.transport) + 20;
    assert_eq!(out.sent[0].1[option..option + 4], [2, 4, 0x05, 0xa0], "1440: RFC 6691");
}
