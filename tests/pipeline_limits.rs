//! Limits of bandwidth, packet rate and new sessions, packet by packet, on the lab's own clock.

use std::sync::Arc;
use std::time::Duration;

use natwerk::flow::{Endpoint, PortId};
use natwerk::io::frame::{Frame, FramePool};
use natwerk::pipeline::Pipeline;
use natwerk::pipeline::batch::Batch;
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::testing::packets_ipv6;
use natwerk::time::Tick;
use natwerk::verdict::{DropReason, Verdict};

/// Two tenants behind one address; the first one has `LIMITS`.
const RULES: &str = r#"{"version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1", "ingress_default": "allow"}],
    "networks": [
        {"name": "slow", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow",
         "limits": {LIMITS}},
        {"name": "free", "interface": "eth0", "vlan": 200, "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"}]}"#;

const REMOTE: &str = "198.51.100.9";

fn rules(limits: &str) -> String {
    RULES.replace("LIMITS", limits)
}

fn at(address: &str, port: u16) -> Endpoint {
    Endpoint::new(address.parse().expect("an address"), port)
}

/// What becomes of a hundred and fifty datagrams at once, each of 128 bytes, the header included.
fn burst(lab: &mut Lab, from: PortId, vlan: u16, source: Endpoint, to: Endpoint) -> Counts {
    let mut counts = Counts::default();
    let tag = (vlan != 0).then_some(vlan);
    let frame = Packet { tag, ..Packet::udp(source, to, &[7; 100]) }.frame();
    for _ in 0..150 {
        counts.add(lab.send(from, frame.clone()).verdict);
    }
    counts
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Counts {
    forwarded: u32,
    network: u32,
    guest: u32,
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Forward(_) => self.forwarded += 1,
            Verdict::Drop(DropReason::NetworkRateExceeded) => self.network += 1,
            Verdict::Drop(DropReason::GuestRateExceeded) => self.guest += 1,
            other => panic!("{other:?}"),
        }
    }
}

const ALL: Counts = Counts { forwarded: 150, network: 0, guest: 0 };

fn up(lab: &mut Lab, vlan: u16, guest: &str) -> Counts {
    burst(lab, GUEST, vlan, at(guest, 4000), at(REMOTE, 53))
}

#[test]
fn a_network_gets_its_packets_each_way_and_its_neighbour_is_not_asked() {
    let mut lab = Lab::new(&rules(r#""packets_per_second": 1000"#));
    let limited = Counts { forwarded: 100, network: 50, guest: 0 };
    assert_eq!(up(&mut lab, 100, "10.1.1.5"), limited);
    assert_eq!(up(&mut lab, 200, "10.1.1.5"), ALL);
    let nothing = Counts { forwarded: 0, network: 150, guest: 0 };
    assert_eq!(up(&mut lab, 100, "10.1.1.6"), nothing, "the network's, whoever sends");
    // The way back has a share of its own.
    let public = at("203.0.113.10", 4000);
    assert_eq!(burst(&mut lab, PUBLIC, 0, at(REMOTE, 53), public), limited);
    lab.pass(Duration::from_millis(100));
    assert_eq!(up(&mut lab, 100, "10.1.1.5"), limited);
    let policy = lab.shared.policy.load();
    let limits = policy.networks()[0].rate_limits.as_ref().expect("its limits");
    assert_eq!(limits.refused(), 50 + 150 + 50 + 50);
}

#[test]
fn who_answers_is_limited_as_who_asks() {
    let (slow, free) = ("10.1.1.5", "10.1.2.5");
    let text =
        rules(r#""packets_per_second": 1000"#).replace("\"vlan\"", "\"domain\": \"one\", \"vlan\"");
    let (first, second) = text.split_once("{\"name\": \"free\"").expect("the second network");
    let joined = format!("{first}{{\"name\": \"free\"{}", second.replace("10.1.1.", "10.1.2."));
    let mut lab = Lab::new(&joined);
    let limited = Counts { forwarded: 100, network: 50, guest: 0 };
    // Each is known to the router once it has sent.
    assert_eq!(up(&mut lab, 100, slow), limited);
    assert_eq!(up(&mut lab, 200, free), ALL);
    let (asks, answers) = (at(free, 5000), at(slow, 53));
    assert_eq!(burst(&mut lab, GUEST, 200, asks, answers), limited, "what it receives");
    lab.pass(Duration::from_millis(100));
    assert_eq!(burst(&mut lab, GUEST, 100, answers, asks), limited, "what it sends");
}

#[test]
fn a_guest_leaves_the_others_their_share() {
    let mut lab = Lab::new(&rules(r#""guest_packets_per_second": 1000"#));
    let limited = Counts { forwarded: 100, network: 0, guest: 50 };
    assert_eq!(up(&mut lab, 100, "10.1.1.5"), limited);
    assert_eq!(up(&mut lab, 100, "10.1.1.6"), limited);
    let public = at("203.0.113.10", 4000);
    assert_eq!(burst(&mut lab, PUBLIC, 0, at(REMOTE, 53), public), limited);
}

#[test]
fn bandwidth_is_that_of_whole_packets() {
    // A tenth of a second of this is a hundred packets of 128 bytes, and 65,536 bytes is the least burst.
    let mut lab = Lab::new(&rules(r#""guest_bandwidth_kbit_per_second": 8"#));
    let mut forwarded = 0;
    for _ in 0..4 {
        forwarded += up(&mut lab, 100, "10.1.1.5").forwarded;
    }
    assert_eq!(forwarded, 65_536 / 128);
}

#[test]
fn limits_come_and_go_for_sessions_that_live() {
    let mut lab = Lab::new(&rules(""));
    assert_eq!(up(&mut lab, 100, "10.1.1.5"), ALL);
    let public = at("203.0.113.10", 4000);
    assert_eq!(burst(&mut lab, PUBLIC, 0, at(REMOTE, 53), public), ALL);
    lab.reload(&rules(r#""packets_per_second": 1000"#));
    let limited = Counts { forwarded: 100, network: 50, guest: 0 };
    assert_eq!(up(&mut lab, 100, "10.1.1.5"), limited);
    assert_eq!(burst(&mut lab, PUBLIC, 0, at(REMOTE, 53), public), limited);
    // Other rules change: what is used stays used.
    lab.reload(&rules(r#""packets_per_second": 1000, "sessions_per_guest": 9"#));
    assert_eq!(up(&mut lab, 100, "10.1.1.5").forwarded, 0);
    lab.reload(&rules(""));
    assert_eq!(up(&mut lab, 100, "10.1.1.5"), ALL);
    assert_eq!(burst(&mut lab, PUBLIC, 0, at(REMOTE, 53), public), ALL);
}

/// One network with both families and `LIMITS`.
fn rules_ipv6(limits: &str) -> String {
    format!(
        r#"{{"version": 1,
        "public_ipv6": [{{"address": "2001:db8:ff::1", "prefix_len": 64, "interface": "eth2",
                         "gateway": "2001:db8:ff::fe"}}],
        "networks": [{{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
                       "gateway": "10.1.1.1",
                       "ipv6": {{"cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}},
                       "limits": {{{limits}}}}}]}}"#
    )
}

fn at_ipv6(address: &str, port: u16) -> Endpoint<std::net::Ipv6Addr> {
    Endpoint::new(address.parse().expect("an address"), port)
}

/// What becomes of IPv6 datagrams of a guest, each with a source port of its own or all with one.
fn ipv6(lab: &mut Lab, guest: &str, ports: impl Iterator<Item = u16>) -> Vec<Verdict> {
    let remote = at_ipv6("2001:db8:51::9", 53);
    ports
        .map(|port| packets_ipv6::Packet::udp(at_ipv6(guest, port), remote, &[7; 80]).frame())
        .map(|frame| lab.send(GUEST, frame).verdict)
        .collect()
}

fn count(verdicts: &[Verdict], which: Verdict) -> usize {
    verdicts.iter().filter(|verdict| **verdict == which).count()
}

#[test]
fn rates_of_ipv6_are_limited_each_way_too() {
    let mut lab = Lab::new(&rules_ipv6(r#""guest_packets_per_second": 1000"#));
    let exceeded = Verdict::Drop(DropReason::GuestRateExceeded);
    for guest in ["2001:db8:1::5", "2001:db8:1::6"] {
        let up = ipv6(&mut lab, guest, std::iter::repeat_n(4000, 150));
        assert_eq!((count(&up, Verdict::Forward(PUBLIC)), count(&up, exceeded)), (100, 50));
    }
    let (remote, guest) = (at_ipv6("2001:db8:51::9", 53), at_ipv6("2001:db8:1::5", 4000));
    let reply = packets_ipv6::Packet::udp(remote, guest, &[7; 80]).frame();
    let down: Vec<_> = (0..150).map(|_| lab.send(PUBLIC, reply.clone()).verdict).collect();
    assert_eq!((count(&down, Verdict::Forward(GUEST)), count(&down, exceeded)), (100, 50));
}

#[test]
fn new_sessions_of_an_ipv6_guest_are_limited_and_its_neighbour_is_spared() {
    let mut lab = Lab::new(&rules_ipv6(r#""new_sessions_per_second": 10"#));
    let limited = Verdict::Drop(DropReason::RateLimited);
    for guest in ["2001:db8:1::5", "2001:db8:1::6"] {
        let all = ipv6(&mut lab, guest, 4000..4050);
        assert_eq!((count(&all, Verdict::Forward(PUBLIC)), count(&all, limited)), (10, 40));
    }
    let known = ipv6(&mut lab, "2001:db8:1::5", 4000..4010);
    assert_eq!(count(&known, Verdict::Forward(PUBLIC)), 10, "what there is goes on");
    lab.pass(Duration::from_secs(1));
    let more = ipv6(&mut lab, "2001:db8:1::5", 5000..5050);
    assert_eq!(count(&more, Verdict::Forward(PUBLIC)), 10);
}

#[test]
fn a_flooding_ipv6_guest_takes_nothing_from_its_neighbour() {
    let mut lab = Lab::new(&rules_ipv6(r#""sessions_per_guest": 100"#));
    let held = ipv6(&mut lab, "2001:db8:1::6", 4000..4050);
    let flood = ipv6(&mut lab, "2001:db8:1::5", 1024..6024);
    assert_eq!(count(&flood, Verdict::Forward(PUBLIC)), 100);
    assert_eq!(count(&flood, Verdict::Drop(DropReason::SessionLimit)), 4900);
    for verdicts in [
        held,
        ipv6(&mut lab, "2001:db8:1::6", 4000..4050),
        ipv6(&mut lab, "2001:db8:1::6", 5000..5050),
    ] {
        assert_eq!(count(&verdicts, Verdict::Forward(PUBLIC)), 50);
    }
}

/// Two networks with IPv6; the first one has `LIMITS`.
const RULES_IPV6: &str = r#"{"version": 1,
    "public_ipv6": [{"address": "2001:db8:ff::1", "prefix_len": 64, "interface": "eth2",
                     "gateway": "2001:db8:ff::fe"}],
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1"}],
    "networks": [
        {"name": "slow", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow",
         "limits": {LIMITS},
         "ipv6": {"cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}},
        {"name": "free", "interface": "eth0", "vlan": 200, "cidr": "10.1.2.0/24",
         "gateway": "10.1.2.1", "egress_default": "allow",
         "ipv6": {"cidr": "2001:db8:2::/64", "gateway": "2001:db8:2::1"}}]}"#;

const REMOTE_IPV6: &str = "2001:db8:51::9";

/// What becomes of a hundred and fifty datagrams at once, each of 128 bytes, the header included.
fn burst_ipv6(lab: &mut Lab, from: PortId, vlan: u16, (source, to): (&str, &str)) -> Counts {
    let at = |address: &str| Endpoint::new(address.parse().expect("an address"), 4000);
    let tag = (vlan != 0).then_some(vlan);
    let frame =
        packets_ipv6::Packet { tag, ..packets_ipv6::Packet::udp(at(source), at(to), &[7; 80]) }
            .frame();
    let mut counts = Counts::default();
    for _ in 0..150 {
        counts.add(lab.send(from, frame.clone()).verdict);
    }
    counts
}

#[test]
fn ipv6_has_the_networks_packets_each_way_and_its_neighbour_is_not_asked() {
    let mut lab = Lab::new(&RULES_IPV6.replace("LIMITS", r#""packets_per_second": 1000"#));
    let limited = Counts { forwarded: 100, network: 50, guest: 0 };
    let nothing = Counts { forwarded: 0, network: 150, guest: 0 };
    let guest = "2001:db8:1::5";
    assert_eq!(burst_ipv6(&mut lab, GUEST, 100, (guest, REMOTE_IPV6)), limited);
    assert_eq!(burst_ipv6(&mut lab, GUEST, 200, ("2001:db8:2::5", REMOTE_IPV6)), ALL);
    assert_eq!(burst_ipv6(&mut lab, GUEST, 100, ("2001:db8:1::6", REMOTE_IPV6)), nothing);
    assert_eq!(burst_ipv6(&mut lab, PUBLIC, 0, (REMOTE_IPV6, guest)), limited);
    lab.pass(Duration::from_millis(100));
    assert_eq!(burst_ipv6(&mut lab, GUEST, 100, (guest, REMOTE_IPV6)), limited);
}

#[test]
fn both_families_share_the_networks_bandwidth() {
    let limits = r#""bandwidth_kbit_per_second": 8"#;
    let mut lab = Lab::new(&RULES_IPV6.replace("LIMITS", limits));
    let mut forwarded = 0;
    for _ in 0..2 {
        forwarded += burst_ipv6(&mut lab, GUEST, 100, ("2001:db8:1::5", REMOTE_IPV6)).forwarded;
        forwarded += up(&mut lab, 100, "10.1.1.5").forwarded;
    }
    assert_eq!(forwarded, 65_536 / 128);
    lab.pass(Duration::from_millis(10_240));
    // A thousand bytes a second: eighty packets of 128 bytes.
    let later = burst_ipv6(&mut lab, GUEST, 100, ("2001:db8:1::5", REMOTE_IPV6));
    assert_eq!(later, Counts { forwarded: 80, network: 70, guest: 0 });
}

/// Two public addresses with static NAT each, with these limits.
fn address_rules(limits: &str) -> String {
    format!(
        r#"{{"version": 1,
    "public_ips": [
        {{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1", "ingress_default": "allow"}},
        {{"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1", "ingress_default": "allow"}}],
    "address_limits": [{limits}],
    "networks": [{{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                   "source_nat": ["203.0.113.10"], "egress_default": "allow"}}],
    "static_nats": [{{"id": "s", "public_ip": "203.0.113.11", "network": "web", "guest_ip": "10.1.1.6"}}]}}"#
    )
}

/// How many of six hundred datagrams of 128 bytes pass.
fn passed(lab: &mut Lab, from: PortId, source: Endpoint, to: Endpoint) -> usize {
    let frame = Packet::udp(source, to, &[7; 100]).frame();
    let verdicts = (0..600).map(|_| lab.send(from, frame.clone()).verdict);
    verdicts
        .filter(|verdict| match verdict {
            Verdict::Forward(_) => true,
            Verdict::Drop(DropReason::AddressRateExceeded) => false,
            other => panic!("{other:?}"),
        })
        .count()
}

/// The least burst, in such datagrams.
const BURST: usize = 65_536 / 128;

#[test]
fn a_public_address_has_limits_of_its_own_each_way() {
    let limit = r#"{"id": "q", "public_ip": "203.0.113.11", "inbound_kbit_per_second": 8}"#;
    let mut lab = Lab::new(&address_rules(limit));
    let (remote, public) = (at(REMOTE, 53), at("203.0.113.11", 80));
    assert_eq!(passed(&mut lab, PUBLIC, remote, public), BURST);
    assert_eq!(passed(&mut lab, GUEST, at("10.1.1.6", 80), remote), 600, "outbound has none");
    assert_eq!(passed(&mut lab, GUEST, at("10.1.1.5", 80), remote), 600);
    assert_eq!(passed(&mut lab, PUBLIC, remote, at("203.0.113.10", 80)), 600, "nor the other");
    // The limit holds for sessions that live, whoever opened them, and is gone with its rule.
    lab.reload(&address_rules(&limit.replace("inbound", "outbound")));
    assert_eq!(passed(&mut lab, GUEST, at("10.1.1.6", 80), remote), BURST);
    assert_eq!(passed(&mut lab, PUBLIC, remote, public), 600);
    lab.reload(&address_rules(""));
    assert_eq!(passed(&mut lab, GUEST, at("10.1.1.6", 80), remote), 600);
}

#[test]
fn a_port_with_a_limit_leaves_its_addresss_alone_and_shared_limits_are_one() {
    let limits = r#"
        {"id": "port", "public_ip": "203.0.113.11", "ports": "80-81", "inbound_kbit_per_second": 8},
        {"id": "one", "public_ip": "203.0.113.11", "inbound_kbit_per_second": 8, "shared": "s"},
        {"id": "two", "public_ip": "203.0.113.10", "ports": "4000", "inbound_kbit_per_second": 8, "shared": "s"}"#;
    let mut lab = Lab::new(&address_rules(limits));
    let remote = at(REMOTE, 53);
    assert_eq!(passed(&mut lab, PUBLIC, remote, at("203.0.113.11", 81)), BURST);
    assert_eq!(
        passed(&mut lab, PUBLIC, remote, at("203.0.113.11", 80)),
        0,
        "one limit for the range"
    );
    assert_eq!(passed(&mut lab, PUBLIC, remote, at("203.0.113.11", 82)), BURST);
    assert_eq!(passed(&mut lab, GUEST, at("10.1.1.5", 4000), remote), 600);
    assert_eq!(
        passed(&mut lab, PUBLIC, remote, at("203.0.113.10", 4000)),
        0,
        "used up by the other"
    );
}

#[test]
fn what_passes_an_address_is_counted_each_way_and_hairpins_pass_none() {
    let mut lab = Lab::new(&address_rules(""));
    let (remote, public) = (at(REMOTE, 53), "203.0.113.11".parse().expect("an address"));
    passed(&mut lab, PUBLIC, remote, at("203.0.113.11", 80));
    lab.send(GUEST, Packet::udp(at("10.1.1.6", 80), remote, &[7; 100]).frame());
    lab.send(GUEST, Packet::udp(at("10.1.1.5", 80), at("203.0.113.11", 80), &[7; 100]).frame());
    lab.pass(Duration::from_secs(400));
    assert_eq!(lab.shared.sessions.len(), 0);
    let totals = lab.shared.addresses.totals(public);
    assert_eq!((totals.packets_in, totals.bytes_in), (600, 600 * 128));
    assert_eq!((totals.packets_out, totals.bytes_out), (1, 128));
}

/// A lab with three thousand sessions, of which a pipeline that has just begun owes a whole sweep.
fn lab_with_sessions() -> (Lab, Pipeline<Frame>) {
    let mut lab = Lab::new(&rules(""));
    for port in 0..SESSIONS {
        let datagram = Packet::udp(at("10.1.1.5", 1024 + port), at(REMOTE, 53), b"");
        lab.send(GUEST, Packet { tag: Some(200), ..datagram }.frame());
    }
    assert_eq!(lab.shared.sessions.len(), u32::from(SESSIONS));
    let pipeline = Pipeline::new(Arc::clone(&lab.shared), Arc::clone(&lab.counters));
    (lab, pipeline)
}

const SESSIONS: u16 = 3000;

/// Has `pipeline` do all that is due at `now`, and counts by `count` what each of its calls has done.
fn by_call(pipeline: &mut Pipeline<Frame>, now: Tick, count: impl Fn() -> u32) -> Vec<u32> {
    let (mut batch, mut done) = (Batch::new(), Vec::new());
    let mut frames = FramePool::in_memory(64, 2048).expect("memory");
    let (mut before, mut more) = (count(), true);
    while more {
        more = pipeline.idle(&mut batch, &mut frames, now);
        let after = count();
        done.push(after - before);
        before = after;
    }
    done
}

#[test]
fn a_table_without_sessions_is_looked_at_in_few_calls() {
    let lab = Lab::new(&rules(""));
    let mut pipeline = Pipeline::new(Arc::clone(&lab.shared), Arc::clone(&lab.counters));
    let now = lab.now().after(Duration::from_secs(86_400));
    let calls = by_call(&mut pipeline, now, || 0).len();
    // An idle worker wakes for each of them.
    let slots = lab.shared.sessions.slots() + lab.shared.sessions_ipv6.slots();
    let (few, many) = (slots / 16_000 + 1, slots / 2_044);
    assert!(many > 2 * few, "{slots} slots are too few to tell");
    assert!(calls as u32 <= few, "{calls} calls for {slots} slots");
}

#[test]
fn what_expires_at_once_ends_a_few_sessions_at_a_time() {
    let (lab, mut pipeline) = lab_with_sessions();
    let now = lab.now().after(Duration::from_secs(86_400));
    let ended = || u32::from(SESSIONS) - lab.shared.sessions.len();
    let by_call = by_call(&mut pipeline, now, ended);
    // Fifteen may have ended when a last step of fourteen slots begins.
    assert!(by_call.iter().all(|&ended| ended <= 15 + 14), "{by_call:?}");
    assert!(lab.shared.sessions.is_empty(), "one whole pass ends all");
}

#[test]
fn new_rules_are_held_against_some_sessions_at_a_time() {
    let (mut lab, mut pipeline) = lab_with_sessions();
    lab.reload(&rules(r#""new_sessions_per_second": 7"#));
    let generation = lab.shared.policy.reader().current().generation();
    let decided = || {
        let mut count = 0;
        lab.shared.sessions.walk(&mut 0, lab.shared.sessions.slots(), |view| {
            count += u32::from(view.session.generation == generation);
        });
        count
    };
    let by_call = by_call(&mut pipeline, lab.now().after(Duration::from_secs(1)), decided);
    assert!(by_call.iter().all(|&decided| decided <= 127 + 14), "{by_call:?}");
    assert_eq!(decided(), u32::from(SESSIONS), "one whole pass decides all");
}
