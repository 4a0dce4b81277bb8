//! A guest that sends to every address of a wide tier, most of which nobody has, and everybody else:
//! next hops become free again, and no network can have them all.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use natwerk::config::Config;
use natwerk::flow::{Endpoint, Protocol};
use natwerk::next_hop::{Neighbor, Resolution};
use natwerk::pipeline::reclaim::{Progress, Reclaimer};
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};
use natwerk::wire::parse::{macs, parse};

/// Two tiers of a VPC, one of them with room for a quarter of a million guests, and another tenant.
const RULES: &str = r#"{"version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}],
    "networks": [
        {"name": "web", "interface": "eth0", "vlan": 100, "cidr": "10.1.0.0/24", "gateway": "10.1.0.1",
         "domain": "vpc", "source_nat": ["203.0.113.10"], "egress_default": "allow"},
        {"name": "wide", "interface": "eth0", "vlan": 200, "cidr": "10.4.0.0/14", "gateway": "10.4.0.1",
         "domain": "vpc", "source_nat": ["203.0.113.10"], "egress_default": "allow"},
        {"name": "tenant", "interface": "eth0", "vlan": 300, "cidr": "10.1.0.0/24", "gateway": "10.1.0.1",
         "source_nat": ["203.0.113.10"], "egress_default": "allow"}]}"#;

const SCANNER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
const NEIGHBOR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 6);
const CAPACITY: usize = 90;
/// From one round's end to the next one's, in steps of a tenth of a second: four, and a pause.
const ROUND: u32 = 7;

/// A host of the wide tier.
fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 4, 1, 0).to_bits() + number)
}

fn lab(sessions_per_guest: u32) -> Lab {
    let mut lab = Lab::with_next_hops(RULES, CAPACITY, |config: &mut Config| {
        config.sessions.per_guest = sessions_per_guest;
        config.timeouts.udp = Duration::from_secs(2);
    });
    lab.answers = false;
    lab
}

fn datagram(guest: Ipv4Addr, vlan: u16, to: Ipv4Addr) -> Vec<u8> {
    let (from, to) = (Endpoint::new(guest, 4000), Endpoint::new(to, 4001));
    Packet { tag: Some(vlan), ..Packet::udp(from, to, b"hello") }.frame()
}

/// Sends a datagram to a host that is there, whose neighbour answers if it is asked for. Returns
/// whether it arrived; it goes to that host and to nobody else.
fn arrives(lab: &mut Lab, to: Ipv4Addr) -> bool {
    let outcome = lab.send(GUEST, datagram(NEIGHBOR, 100, to));
    let mut sent = outcome.sent;
    match outcome.verdict {
        Verdict::Drop(DropReason::NeighborQueueFull) => return false,
        Verdict::Hold => {
            let neighbor = Neighbor { port: GUEST, vlan: 200, address: to.into() };
            let mac = Lab::neighbor_mac(to);
            lab.shared.next_hops.set(neighbor, Resolution::Reachable(mac));
            sent = lab.pass(Duration::from_millis(1)).sent;
        }
        Verdict::Forward(_) => {}
        other => panic!("{to}: {other:?}"),
    }
    let mine: Vec<_> = sent
        .iter()
        .filter(|(_, frame)| parse(frame).is_ok_and(|it| it.protocol == Protocol::UDP))
        .collect();
    let [(_, frame)] = mine[..] else { panic!("{to}: {mine:?}") };
    assert_eq!(parse(frame).expect("sound").destination.address, to);
    assert_eq!(macs(frame).expect("sound").0, Lab::neighbor_mac(to), "{to}");
    true
}

#[test]
fn a_guest_that_scans_a_wide_tier_keeps_nobody_from_new_hosts_for_longer_than_a_round() {
    let mut lab = lab(40);
    let mut reclaimer = Reclaimer::new();
    let (mut refused, mut longest, mut rounds) = (0, 0, 0);
    let mut scanned = HashMap::new();
    for tenth in 0..400_u32 {
        // As many as it can, every tenth of a second, each time further on.
        for number in 0..10 {
            let to = host(1000 + tenth * 10 + number);
            let verdict = lab.send(GUEST, datagram(SCANNER, 100, to)).verdict;
            *scanned.entry(format!("{verdict:?}")).or_insert(0_usize) += 1;
        }
        lab.shared.next_hops.take_wanted();
        lab.give_up_neighbors();
        lab.pass(Duration::from_millis(100));
        // A host that stays, and a new one.
        assert!(arrives(&mut lab, host(0)));
        let is_refused = !arrives(&mut lab, host(1 + tenth));
        refused = if is_refused { refused + 1 } else { 0 };
        longest = longest.max(refused);
        let progress = reclaimer.step(&lab.shared, lab.now());
        rounds += u32::from(matches!(progress, Progress::Freed(_)));
    }
    assert!(scanned["Hold"] > 3 * CAPACITY, "{scanned:?}");
    assert!(rounds > 20 && longest <= ROUND, "{rounds} rounds, {longest} refused on end");
    let occupancy = lab.shared.next_hops.occupancy();
    assert!(occupancy.reclaimed > CAPACITY as u64, "{occupancy:?}");
}

#[test]
fn rounds_in_vain_leave_time_for_other_things() {
    let mut lab = Lab::with_next_hops(RULES, CAPACITY, |_| {});
    lab.answers = false;
    for number in 0..100 {
        lab.send(GUEST, datagram(SCANNER, 100, host(number)));
    }
    lab.shared.next_hops.take_wanted();
    lab.give_up_neighbors();
    let mut reclaimer = Reclaimer::new();
    let mut freed = Vec::new();
    // Each step a tenth of a second: a round takes 0.3, and then waits for 0.3, or 1.2 once it knows.
    for _ in 0..300 {
        lab.pass(Duration::from_millis(100));
        if let Progress::Freed(count) = reclaimer.step(&lab.shared, lab.now()) {
            freed.push(count);
        }
    }
    assert!((15..=22).contains(&freed.len()), "{freed:?}");
    assert!(freed.iter().all(|count| *count == 0), "sessions have them all: {freed:?}");
}

#[test]
fn without_a_limit_of_sessions_it_has_the_share_of_one_network_and_others_go_on() {
    let mut lab = lab(0);
    for number in 0..2000 {
        lab.send(GUEST, datagram(SCANNER, 100, host(number)));
        if number % 100 == 0 {
            lab.shared.next_hops.take_wanted();
            lab.give_up_neighbors();
            lab.pass(Duration::from_millis(10));
        }
    }
    let full = lab.send(GUEST, datagram(NEIGHBOR, 100, host(3000))).verdict;
    assert_eq!(full, Verdict::Drop(DropReason::NeighborQueueFull));
    let gateway = Neighbor { port: PUBLIC, vlan: 0, address: Ipv4Addr::new(203, 0, 113, 1).into() };
    for last in 5..10 {
        let guest = Ipv4Addr::new(10, 1, 0, last);
        let frame = datagram(guest, 300, Ipv4Addr::new(198, 51, 100, 9));
        let verdict = lab.send(GUEST, frame).verdict;
        assert!(matches!(verdict, Verdict::Hold | Verdict::Forward(PUBLIC)), "{last}: {verdict:?}");
        let mac = Lab::neighbor_mac(Ipv4Addr::new(203, 0, 113, 1));
        lab.shared.next_hops.set(gateway, Resolution::Reachable(mac));
        lab.pass(Duration::from_millis(1));
    }
}
