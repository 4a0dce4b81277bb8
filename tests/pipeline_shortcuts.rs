//! Which packets get shortcuts, and what becomes of those, packet by packet on the lab's own clock. What a
//! shortcut does to a packet is `tests/shortcuts.rs`.

#[path = "common/sums.rs"]
mod sums;

use std::time::Duration;

use natwerk::flow::{Endpoint, PortId};
use natwerk::next_hop::{Neighbor, Resolution};
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::Verdict;
use natwerk::wire::segment::flags;
use sums::{pseudo_header_sum, repair};

const RULES: &str = r#"{"version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}],
    "networks": [
        {"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
         "source_nat": ["203.0.113.10"], "egress_default": "allow" LIMITS},
        {"name": "tagged", "interface": "eth0", "vlan": 100, "cidr": "10.1.2.0/24",
         "gateway": "10.1.2.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"}]}"#;

fn lab(limits: &str) -> Lab {
    let mut lab = Lab::with(&RULES.replace("LIMITS", limits), |config| {
        config.workers.shortcuts = Some(64);
    });
    // The program believes in nobody who was never there.
    lab.pass(Duration::from_millis(100));
    lab
}

fn guest() -> Endpoint {
    Endpoint::new([10, 1, 1, 5].into(), 4000)
}

fn remote() -> Endpoint {
    Endpoint::new([198, 51, 100, 9].into(), 5000)
}

fn outside() -> Endpoint {
    Endpoint::new([203, 0, 113, 10].into(), 4000)
}

fn question() -> Vec<u8> {
    Packet::udp(guest(), remote(), b"what?").frame()
}

fn answer() -> Vec<u8> {
    Packet::udp(remote(), outside(), b"that").frame()
}

/// How many shortcuts there are.
fn count(lab: &Lab) -> u32 {
    lab.shared.shortcuts.load().as_ref().map_or(0, |all| all.len())
}

/// How many of `count` frames are forwarded, and how many of them by shortcuts.
fn sent(lab: &mut Lab, port: PortId, frame: &[u8], count: usize) -> (usize, u64) {
    let before = lab.shortcuts_taken;
    let forwarded = |_: &usize| {
        let verdict = lab.send(port, frame.to_vec()).verdict;
        matches!(verdict, Verdict::Forward(_))
    };
    let forwarded = (0..count).filter(forwarded).count();
    (forwarded, lab.shortcuts_taken - before)
}

#[test]
fn a_flows_third_packet_takes_one_and_its_answers_third_does() {
    let mut lab = lab("");
    assert_eq!(sent(&mut lab, GUEST, &question(), 10), (10, 8));
    assert_eq!(sent(&mut lab, PUBLIC, &answer(), 10), (10, 8));
    lab.pass(Duration::from_millis(600));
    let mut seen = Vec::new();
    lab.shared.sessions.walk(&mut 0, u32::MAX, |view| {
        seen.push((view.initiator.packets, view.responder.packets));
    });
    assert_eq!(seen, [(10, 10)], "all are counted");
    let ports = lab.counters.totals().ports;
    let frames = question().len() as u64;
    assert_eq!((ports[1].received_packets, ports[1].received_bytes), (10, 10 * frames));
    assert_eq!(ports[0].forwarded_packets, 10);
    assert_eq!(ports[1].crossed_in_bytes, 10 * (frames - 14));
}

#[test]
fn it_is_no_matter_how_many_come_together() {
    for (first, together) in [(1, 2), (1, 8), (1, 64), (2, 64), (3, 6), (7, 32)] {
        let mut lab = lab("");
        (0..first).for_each(|_| drop(lab.send(GUEST, question())));
        for _ in 0..4 {
            lab.send_all(&vec![(GUEST, question()); together]);
        }
        assert_eq!(count(&lab), 1, "{first} alone, then always {together}");
    }
}

#[test]
fn unfinished_checksums_get_one_for_the_kernel_to_carry_them_by() {
    let mut lab = lab("");
    let mut frame = question();
    let sum = pseudo_header_sum(&frame, 8 + 5);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    let forwarded = |lab: &mut Lab| lab.send(GUEST, frame.clone()).verdict;
    assert_eq!(forwarded(&mut lab), Verdict::Forward(PUBLIC));
    assert_eq!(count(&lab), 0, "it may be the only one");
    assert_eq!(forwarded(&mut lab), Verdict::Forward(PUBLIC));
    assert_eq!(count(&lab), 1);
    // What is cut in pieces is for a worker to follow.
    let mut first = Packet::udp(remote(), outside(), b"that").frame();
    first[20] |= 0x20;
    repair(&mut first);
    for _ in 0..3 {
        lab.send(PUBLIC, first.clone());
    }
    assert_eq!(count(&lab), 1);
}

#[test]
fn what_the_fast_path_is_not_for_takes_none() {
    let mut lab = lab("");
    let tagged = Endpoint::new([10, 1, 2, 5].into(), 4000);
    let tagged = Packet { tag: Some(100), ..Packet::udp(tagged, remote(), b"") }.frame();
    assert_eq!(sent(&mut lab, GUEST, &tagged, 10), (10, 0));
    let echo = Packet::echo(guest().address, remote().address, 8, 7, b"").frame();
    assert_eq!(sent(&mut lab, GUEST, &echo, 10), (10, 0));
    // It opens and nobody answers.
    let syn = Packet::tcp(guest(), remote(), flags::SYN, &[], b"").frame();
    assert_eq!(sent(&mut lab, GUEST, &syn, 10), (10, 0));
    assert_eq!(count(&lab), 0);
}

#[test]
fn limited_guests_take_none() {
    let mut lab = lab(r#", "limits": {"packets_per_second": 100000}"#);
    assert_eq!(sent(&mut lab, GUEST, &question(), 10), (10, 0));
}

#[test]
fn a_flow_at_rest_gives_its_place_up_and_lives_on() {
    let mut lab = lab("");
    assert_eq!(sent(&mut lab, GUEST, &question(), 4), (4, 2));
    lab.pass(Duration::from_secs(9));
    assert_eq!(count(&lab), 1);
    assert_eq!(sent(&mut lab, GUEST, &question(), 1), (1, 1));
    lab.pass(Duration::from_secs(11));
    assert_eq!((count(&lab), lab.shared.sessions.len()), (0, 1));
    // A session by shortcuts is as long-lived as another: five minutes from its last packet.
    lab.pass(Duration::from_secs(285));
    assert_eq!(lab.shared.sessions.len(), 1);
    lab.pass(Duration::from_secs(12));
    assert_eq!(lab.shared.sessions.len(), 0);
}

#[test]
fn whatever_they_went_by_ends_them() {
    let mut lab = lab("");
    assert_eq!(sent(&mut lab, GUEST, &question(), 4), (4, 2));
    lab.reload(&RULES.replace("LIMITS", ""));
    assert_eq!(sent(&mut lab, GUEST, &question(), 1), (1, 0), "the same rules, but new ones");
    lab.pass(Duration::from_millis(600));
    assert_eq!(sent(&mut lab, GUEST, &question(), 4).0, 4);
    assert_eq!(sent(&mut lab, GUEST, &question(), 1), (1, 1));

    let neighbor = Neighbor { port: PUBLIC, vlan: 0, address: [203, 0, 113, 1].into() };
    lab.shared.next_hops.set(neighbor, Resolution::Failed);
    lab.pass(Duration::from_millis(100));
    lab.answers = false;
    assert_eq!(sent(&mut lab, GUEST, &question(), 1), (0, 0), "nobody is there");
}

#[test]
fn a_session_that_ends_ends_them() {
    let mut lab = lab("");
    assert_eq!(sent(&mut lab, GUEST, &question(), 4), (4, 2));
    assert_eq!(sent(&mut lab, PUBLIC, &answer(), 4), (4, 2));
    let denied = RULES.replace("LIMITS", "").replacen(r#""allow""#, r#""deny""#, 1);
    lab.reload(&denied);
    assert_eq!(sent(&mut lab, PUBLIC, &answer(), 4), (0, 0));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shared.sessions.len(), 0);
    assert_eq!(count(&lab), 0);
    let totals = lab.shared.addresses.totals(outside().address);
    assert_eq!((totals.packets_out, totals.packets_in), (4, 4), "what passed by them too");
}
