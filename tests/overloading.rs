//! More sessions behind one public address than it has ports, each to a destination of its own
//! (RFC 7857, section 3), through the pipeline.
//!
//! A run has eight sessions for each of 3,000 ports. `NATWERK_OVERLOAD_PORTS=64500 cargo test --release --test
//! overloading` has 516,000 behind all ports of one address.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};
use proptest::prelude::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Few enough for the lab's table of neighbours.
const GUESTS: u32 = 2048;
/// Well-known ports are not for guests' high ones (RFC 4787, REQ-3a).
const FIRST_PORT: u32 = 1024;

fn rules(ports: u32) -> String {
    let last = FIRST_PORT + ports - 1;
    format!(
        r#"{{"version": 1,
        "public_ips": [{{"address": "{ADDRESS}", "prefix_len": 24, "interface": "eth2",
                         "gateway": "203.0.113.1"}}],
        "networks": [{{"name": "all", "interface": "eth0", "cidr": "10.0.0.0/12",
                       "gateway": "10.0.0.1", "source_nat": ["{ADDRESS}"],
                       "egress_default": "allow",
                       "nat": {{"port_range": "{FIRST_PORT}-{last}"}}}}]}}"#
    )
}

fn lab(ports: u32, sessions: u32) -> Lab {
    Lab::with(&rules(ports), |config| config.sessions.max = sessions)
}

/// The guest of a session; no two have the same endpoint.
fn guest(number: u32) -> Endpoint {
    let port = u16::try_from(1024 + number / GUESTS).expect("few sessions of a guest");
    Endpoint::new(Ipv4Addr::from_bits(0x0a00_0100 + number % GUESTS), port)
}

/// The destination that no other session has.
fn remote(number: u32) -> Endpoint {
    Endpoint::new(Ipv4Addr::from_bits(0xc612_0000 + number / 4), 7000 + (number % 4) as u16)
}

/// Opens a session; its external endpoint, or why there is none.
fn open(lab: &mut Lab, from: Endpoint, to: Endpoint) -> Result<Endpoint, DropReason> {
    let outcome = lab.send(GUEST, Packet::udp(from, to, b"out").frame());
    match (outcome.verdict, outcome.sent.as_slice()) {
        (Verdict::Drop(reason), _) => Err(reason),
        (Verdict::Forward(PUBLIC), [(PUBLIC, frame)]) => {
            let packet = natwerk::wire::parse::parse(frame).expect("a sound packet");
            assert_eq!((packet.source.address, packet.destination), (ADDRESS, to));
            Ok(packet.source)
        }
        other => panic!("{other:?}"),
    }
}

/// The guest that hears what `from` sends to `external`.
fn heard(lab: &mut Lab, from: Endpoint, external: Endpoint) -> Option<Endpoint> {
    let outcome = lab.send(PUBLIC, Packet::udp(from, external, b"back").frame());
    let [(GUEST, frame)] = outcome.sent.as_slice() else { return None };
    Some(natwerk::wire::parse::parse(frame).expect("a sound packet").destination)
}

#[test]
fn one_address_carries_eight_sessions_a_port_and_every_answer_finds_its_guest() {
    let ports = std::env::var("NATWERK_OVERLOAD_PORTS");
    let ports: u32 = ports.map_or(3000, |text| text.parse().expect("a number"));
    let sessions = ports * 8;
    let mut lab = lab(ports, sessions);
    let externals: Vec<Endpoint> = (0..sessions)
        .map(|number| {
            let external = open(&mut lab, guest(number), remote(number));
            external.unwrap_or_else(|reason| panic!("session {number}: {reason:?}"))
        })
        .collect();
    assert_eq!(lab.shared.sessions.len(), sessions);
    let used: HashSet<u16> = externals.iter().map(|external| external.port).collect();
    assert!(used.len() <= ports as usize);
    let usage = lab.shared.mappings.usage(ADDRESS, Protocol::UDP);
    assert_eq!(usage.live + usage.overloaded, sessions, "{usage:?}");
    assert_eq!(usage.live, ports, "{usage:?}");
    for (number, external) in (0..).zip(externals) {
        assert_eq!(heard(&mut lab, remote(number), external), Some(guest(number)));
        // Another session's remote is nobody to this one.
        let other = remote((number + 1) % sessions);
        assert_ne!(heard(&mut lab, other, external), Some(guest(number)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Few ports and remotes, so that conflicts are the rule.
    #[test]
    fn no_two_sessions_share_an_external_endpoint_towards_one_remote(
        ports in 1..40_u32,
        flows in prop::collection::vec((0..60_u32, 0..8_u32), 1..400),
    ) {
        let mut lab = lab(ports, 1024);
        let mut owners: HashMap<(Endpoint, Endpoint), Endpoint> = HashMap::new();
        for (number, to) in flows {
            let (from, to) = (guest(number), remote(to));
            match open(&mut lab, from, to) {
                Ok(external) => {
                    let owner = *owners.entry((external, to)).or_insert(from);
                    prop_assert_eq!(owner, from, "{} has two owners towards {}", external, to);
                }
                Err(DropReason::NoPort) => {
                    let taken = owners.keys().filter(|(_, remote)| *remote == to).count();
                    // Ports are drawn at random, so some may be left when the search gives up.
                    prop_assert!(taken > 0, "refused although all {} are free", ports);
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
        for ((external, to), from) in owners {
            prop_assert_eq!(heard(&mut lab, to, external), Some(from));
        }
    }
}
