//! What sessions hold, and that they give all of it back: mappings, shared ports, counts. Faults that
//! the model found (`tests/model`), packet by packet.

use std::net::Ipv4Addr;
use std::time::Duration;

use natwerk::config::OnRuleRemoval;
use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};
use natwerk::wire::parse::parse;

const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const REMOTE: &str = "198.51.100.9:7000";

/// One network behind one address, with these options of the network and these further rules.
fn rules(network: &str, more: &str) -> String {
    format!(
        r#"{{"version": 1,
  "public_ips": [{{"address": "{POOL}", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}}],
  "networks": [{{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                 "source_nat": ["{POOL}"]{network}}}]{more}}}"#
    )
}

fn at(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address:port");
    Endpoint::new(address.parse().expect("an address"), port.parse().expect("a port"))
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    Packet::udp(at(source), at(destination), b"payload").frame()
}

fn query(icmp_type: u8, source: &str, destination: &str, identifier: u8) -> Packet {
    let [source, destination] = [source, destination].map(|text| text.parse().expect("an address"));
    Packet::icmp(source, destination, (icmp_type, 0), [0, identifier, 0, 1], &[7; 40])
}

/// The source of the one packet that left.
fn source_of(outcome: &Outcome) -> Endpoint {
    let [(_, frame)] = outcome.sent.as_slice() else { panic!("{outcome:?}") };
    parse(frame).expect("a sound packet").source
}

fn usage(lab: &Lab) -> (u32, u32) {
    let usage = lab.shared.mappings.usage(POOL, Protocol::UDP);
    (usage.live, usage.overloaded)
}

#[test]
fn a_hairpin_to_a_dynamic_mapping_gives_both_mappings_back() {
    let open = r#", "nat": {"filtering_type": "endpoint-independent"}"#;
    let mut lab = Lab::new(&rules(open, ""));
    lab.send(GUEST, udp("10.1.1.5:4000", REMOTE));
    let hairpin = lab.send(GUEST, udp("10.1.1.6:5000", "203.0.113.10:4000"));
    assert_eq!(source_of(&hairpin), at("203.0.113.10:5000"));
    assert_eq!(usage(&lab), (2, 0));
    lab.pass(Duration::from_secs(302));
    assert_eq!((lab.shared.sessions.len(), usage(&lab)), (0, (0, 0)));
}

#[test]
fn a_hairpin_that_shares_a_port_leaves_the_count_of_shared_ports() {
    let narrow = r#", "nat": {"port_range": "2000-2000"}"#;
    let forward = r#", "firewall_rules": [{"id": "f", "public_ip": "203.0.113.10", "protocol": "udp"}],
        "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "udp", "public_ports": "53",
                           "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "53"}]"#;
    let mut lab = Lab::new(&rules(narrow, forward));
    lab.send(GUEST, udp("10.1.1.7:4000", REMOTE));
    let hairpin = lab.send(GUEST, udp("10.1.1.6:4000", "203.0.113.10:53"));
    assert_eq!(source_of(&hairpin), at("203.0.113.10:2000"));
    assert_eq!(usage(&lab), (1, 1));
    lab.pass(Duration::from_secs(302));
    assert_eq!((lab.shared.sessions.len(), usage(&lab)), (0, (0, 0)));
}

#[test]
fn a_port_that_another_session_has_for_this_remote_is_not_the_only_one() {
    let forward = r#", "firewall_rules": [{"id": "f", "public_ip": "203.0.113.10", "protocol": "udp"}],
        "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "udp", "public_ports": "53",
                           "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "53"}]"#;
    let mut lab = Lab::with(&rules("", forward), |config| {
        config.sessions.on_rule_removal = OnRuleRemoval::Keep;
    });
    let inbound = lab.send(PUBLIC, udp(REMOTE, "203.0.113.10:53"));
    assert_eq!(inbound.verdict, Verdict::Forward(GUEST));
    lab.reload(&rules("", ""));
    // The forward's port may be given out again, but its session still talks to this remote.
    let other = lab.send(GUEST, udp("10.1.1.6:53", REMOTE));
    assert_ne!(source_of(&other), at("203.0.113.10:53"));
    assert_eq!(lab.send(PUBLIC, udp(REMOTE, "203.0.113.10:53")).verdict, Verdict::Forward(GUEST));
    assert_eq!(lab.shared.sessions.len(), 2);
}

#[test]
fn who_only_sends_inbound_keeps_no_mapping_alive() {
    let open = r#", "nat": {"filtering_type": "endpoint-independent"}"#;
    let mut lab = Lab::new(&rules(open, ""));
    lab.send(GUEST, udp("10.1.1.5:4000", REMOTE));
    for _ in 0..4 {
        lab.send(PUBLIC, udp("198.51.100.66:1", "203.0.113.10:4000"));
        lab.pass(Duration::from_secs(100));
    }
    assert_eq!((lab.shared.sessions.len(), usage(&lab).0), (0, 0));
}

#[test]
fn a_guest_that_sends_to_its_own_mapping_hears_itself_from_another_port() {
    let open = r#", "nat": {"filtering_type": "endpoint-independent"}"#;
    let mut lab = Lab::new(&rules(open, ""));
    lab.send(GUEST, udp("10.1.1.5:4000", REMOTE));
    let heard = lab.send(GUEST, udp("10.1.1.5:4000", "203.0.113.10:4000"));
    let source = source_of(&heard);
    assert_eq!(source.address, POOL);
    assert_ne!(source.port, 4000);
    let answer = lab.send(GUEST, udp("10.1.1.5:4000", &source.to_string()));
    assert_eq!(source_of(&answer), at("203.0.113.10:4000"));
}

#[test]
fn who_is_not_translated_does_not_hairpin_into_another_domain() {
    let more = r#", "firewall_rules": [{"id": "f", "public_ip": "203.0.113.10", "protocol": "udp"}],
        "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "udp", "public_ports": "53",
                           "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "53"}]"#;
    let routed = r#"}, {"name": "routed", "interface": "eth0", "vlan": 7, "cidr": "10.1.1.0/24",
        "gateway": "10.1.1.1""#;
    let mut lab = Lab::new(&rules(routed, more));
    let mut packet = Packet::udp(at("10.1.1.6:4000"), at("203.0.113.10:53"), b"x");
    assert_eq!(lab.send(GUEST, packet.frame()).verdict, Verdict::Forward(GUEST));
    packet.tag = Some(7);
    assert_eq!(lab.send(GUEST, packet.frame()).verdict, Verdict::Drop(DropReason::NoSourceNat));
}

#[test]
fn filtering_by_address_asks_of_sessions_from_before_and_of_the_guest_alone() {
    let filtering = |by: &str| {
        let nat = format!(r#", "nat": {{"filtering_type": "{by}", "port_range": "2000-2000"}}"#);
        rules(&nat, "")
    };
    let mut lab = Lab::new(&filtering("address-and-port-dependent"));
    lab.send(GUEST, udp("10.1.1.5:4000", REMOTE));
    // Another guest shares the port, to another remote.
    lab.send(GUEST, udp("10.1.1.6:4000", "198.51.100.66:7000"));
    lab.reload(&filtering("address-dependent"));
    lab.pass(Duration::from_secs(1));
    let verdict =
        |lab: &mut Lab, remote| lab.send(PUBLIC, udp(remote, "203.0.113.10:2000")).verdict;
    assert_eq!(verdict(&mut lab, "198.51.100.9:1"), Verdict::Forward(GUEST));
    let refused = Verdict::Drop(DropReason::FirewallDenied);
    assert_eq!(verdict(&mut lab, "198.51.100.66:1"), refused);
    assert_eq!(verdict(&mut lab, "198.51.100.67:1"), refused);
}

#[test]
fn a_balancer_whose_last_member_is_drained_keeps_its_sessions_and_opens_none() {
    let balancer = |weight| {
        rules(
            "",
            &format!(
                r#", "firewall_rules": [{{"id": "f", "public_ip": "203.0.113.10", "protocol": "udp"}}],
        "load_balancers": [{{"id": "l", "public_ip": "203.0.113.10", "protocol": "udp", "public_port": 53,
            "network": "web", "members": [{{"guest_ip": "10.1.1.5", "guest_port": 53, "weight": {weight}}}]}}]"#
            ),
        )
    };
    let mut lab = Lab::new(&balancer(1));
    let verdict = |lab: &mut Lab, remote| lab.send(PUBLIC, udp(remote, "203.0.113.10:53")).verdict;
    assert_eq!(verdict(&mut lab, REMOTE), Verdict::Forward(GUEST));
    lab.reload(&balancer(0));
    lab.pass(Duration::from_secs(1));
    assert_eq!(verdict(&mut lab, REMOTE), Verdict::Forward(GUEST));
    let detached = Verdict::Drop(DropReason::ForwardDetached);
    assert_eq!(verdict(&mut lab, "198.51.100.9:7001"), detached);
}

#[test]
fn the_broadcast_address_of_one_domain_may_be_a_guest_of_another() {
    let wide = r#"}, {"name": "wide", "interface": "eth0", "vlan": 7, "cidr": "10.1.0.0/16",
        "gateway": "10.1.0.1", "source_nat": ["203.0.113.10"]"#;
    let mut lab = Lab::new(&rules(wide, ""));
    let mut from_wide = Packet::udp(at("10.1.1.255:4000"), at(REMOTE), b"x");
    from_wide.tag = Some(7);
    assert_eq!(lab.send(GUEST, from_wide.frame()).verdict, Verdict::Forward(PUBLIC));
    let martian = Verdict::Drop(DropReason::MartianAddress);
    for destination in ["10.1.1.255:53", "203.0.113.255:53"] {
        assert_eq!(lab.send(GUEST, udp("10.1.1.5:4000", destination)).verdict, martian);
    }
    assert_eq!(lab.send(GUEST, udp("10.1.1.255:4000", REMOTE)).verdict, martian);
}

#[test]
fn a_query_from_outside_reaches_no_guest_by_its_own_ping_even_in_fragments() {
    let mut lab = Lab::new(&rules("", ""));
    lab.send(GUEST, query(8, "10.1.1.5", "198.51.100.9", 9).frame());
    let mut asked = query(8, "198.51.100.9", "203.0.113.10", 9);
    let answered = query(0, "198.51.100.9", "203.0.113.10", 9);
    let first_half = |packet: &Packet, identification| Packet {
        transport: packet.transport[..24].to_vec(),
        flags_offset: 0x2000,
        identification,
        ..packet.clone()
    };
    asked = first_half(&asked, 1);
    assert_eq!(lab.send(PUBLIC, asked.frame()).verdict, Verdict::Drop(DropReason::IcmpRefused));
    let answered = first_half(&answered, 2);
    assert_eq!(lab.send(PUBLIC, answered.frame()).verdict, Verdict::Forward(GUEST));
}

#[test]
fn new_rules_judge_a_query_by_its_own_type() {
    let egress = |icmp_type| {
        format!(
            r#", "egress_rules": [{{"id": "e", "network": "web", "action": "deny", "protocol": "icmp",
                                    "icmp_type": {icmp_type}}}]"#
        )
    };
    let mut lab = Lab::new(&rules("", ""));
    lab.send(GUEST, query(8, "10.1.1.5", "198.51.100.9", 1).frame());
    lab.send(GUEST, query(13, "10.1.1.5", "198.51.100.9", 2).frame());
    let answers = |lab: &mut Lab| {
        [(0, 1), (14, 2)].map(|(icmp_type, identifier)| {
            let reply = query(icmp_type, "198.51.100.9", "203.0.113.10", identifier);
            lab.send(PUBLIC, reply.frame()).verdict == Verdict::Forward(GUEST)
        })
    };
    lab.reload(&rules("", &egress(8)));
    assert_eq!(answers(&mut lab), [false, true]);
    lab.reload(&rules("", &egress(13)));
    assert_eq!(answers(&mut lab), [false, false]);
}

const STATIC: &str = r#", "static_nats": [{"id": "s", "public_ip": "203.0.113.12", "network": "web", "guest_ip": "GUEST"}]"#;

/// A static NAT of 203.0.113.12 to `guest`, beside the pool.
fn static_rules(guest: &str) -> String {
    let address = r#""public_ips": ["#;
    let more = r#""public_ips": [{"address": "203.0.113.12", "prefix_len": 24, "interface": "eth2",
        "gateway": "203.0.113.1", "ingress_default": "allow"}, "#;
    rules("", &STATIC.replace("GUEST", guest)).replace(address, more)
}

#[test]
fn after_a_rebind_the_new_guest_answers_at_once_where_the_old_ones_session_stood() {
    let mut lab = Lab::new(&static_rules("10.1.1.5"));
    let asked = lab.send(PUBLIC, udp(REMOTE, "203.0.113.12:22"));
    assert_eq!(asked.verdict, Verdict::Forward(GUEST));
    lab.reload(&static_rules("10.1.1.6"));
    // No sweep has been by: the key of what comes back is still the old guest's session's.
    let sent = lab.send(GUEST, udp("10.1.1.6:22", REMOTE));
    assert_eq!((sent.verdict, source_of(&sent)), (Verdict::Forward(PUBLIC), at("203.0.113.12:22")));
    assert_eq!(lab.shared.sessions.len(), 1);
    let late = lab.send(GUEST, udp("10.1.1.5:22", REMOTE));
    assert_eq!(source_of(&late).address, POOL, "the old guest is an ordinary one now");
}

#[test]
fn who_would_have_the_endpoints_of_a_session_that_lives_is_told_why_not() {
    let forward = |id, port| {
        format!(
            r#"{{"id": "{id}", "public_ip": "{POOL}", "protocol": "udp", "public_ports": "{port}",
                 "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "53"}}"#
        )
    };
    let more = format!(
        r#", "firewall_rules": [{{"id": "f", "public_ip": "{POOL}", "protocol": "udp"}}],
            "port_forwards": [{}, {}]"#,
        forward("one", 53),
        forward("two", 54)
    );
    let mut lab = Lab::new(&rules("", &more));
    assert_eq!(lab.send(PUBLIC, udp(REMOTE, "203.0.113.10:53")).verdict, Verdict::Forward(GUEST));
    let second = lab.send(PUBLIC, udp(REMOTE, "203.0.113.10:54"));
    assert_eq!(second.verdict, Verdict::Drop(DropReason::EndpointsTaken));
}

#[test]
fn a_guest_keeps_its_address_of_a_pool_that_grows_while_sessions_live() {
    let addresses = ["203.0.113.10", "203.0.113.13", "203.0.113.14", "203.0.113.15"];
    let with = |count: usize| {
        let mut text = rules("", "");
        for address in &addresses[1..count] {
            let place =
                format!(r#"{{"address": "{address}", "prefix_len": 24, "interface": "eth2"}}, "#);
            text = text.replace(r#""public_ips": ["#, &format!(r#""public_ips": [{place}"#));
            text = text.replace(r#""source_nat": ["#, &format!(r#""source_nat": ["{address}", "#));
        }
        text.replace(r#""interface": "eth2"}"#, r#""interface": "eth2", "gateway": "203.0.113.1"}"#)
    };
    let mut lab = Lab::new(&with(1));
    let guests: Vec<_> = (10..50).map(|last| format!("10.1.1.{last}")).collect();
    let address = |lab: &mut Lab, guest: &str, port: u16, to: &str| {
        source_of(&lab.send(GUEST, udp(&format!("{guest}:{port}"), to))).address
    };
    let before: Vec<_> =
        guests.iter().map(|guest| address(&mut lab, guest, 4000, REMOTE)).collect();
    lab.reload(&with(4));
    for (guest, before) in guests.iter().zip(&before) {
        assert_eq!(address(&mut lab, guest, 4001, REMOTE), *before, "{guest}");
        assert_eq!(address(&mut lab, guest, 4000, "198.51.100.9:9"), *before, "{guest}");
    }
    // When nothing lives any more, the new addresses get their share.
    lab.pass(Duration::from_secs(302));
    let after = guests.iter().map(|guest| address(&mut lab, guest, 4000, REMOTE));
    assert!(after.zip(&before).any(|(after, before)| after != *before));
}
