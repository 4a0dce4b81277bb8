//! Policy routes, packet by packet: decided with a session's first packet, and kept by the session.

use std::net::Ipv4Addr;
use std::time::Duration;

use natwerk::config::{ChecksumMode, Config, Interface, Role};
use natwerk::control::pools;
use natwerk::flow::{Endpoint, PortId};
use natwerk::testing::lab::{Lab, Outcome};
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::verdict::{DropReason, Verdict};
use natwerk::wire::parse::parse;

/// The public side where the default gateway is, two guest networks, and another public side.
const MAIN: PortId = PortId(0);
const WEB: PortId = PortId(1);
const APPLIANCES: PortId = PortId(2);
const OTHER: PortId = PortId(3);

const REMOTE: &str = "192.0.2.9";
const GATEWAY: [u8; 4] = [203, 0, 113, 1];
const SECOND: [u8; 4] = [198, 51, 100, 1];

fn lab(policy_routes: &str) -> Lab {
    Lab::with(&rules(policy_routes), |config: &mut Config| {
        let names = ["pub1", "web0", "app0", "pub2"];
        let roles = [Role::Public, Role::Guest, Role::Guest, Role::Public];
        let interface = |(name, role): (&str, Role)| Interface {
            name: name.to_owned(),
            role,
            checksum: ChecksumMode::DetectPartial,
            kernel_vlans: Vec::new(),
        };
        config.interfaces = names.into_iter().zip(roles).map(interface).collect();
    })
}

fn rules(policy_routes: &str) -> String {
    format!(
        r#"{{"version": 1,
  "public_ips": [
    {{"address": "203.0.113.10", "prefix_len": 24, "interface": "pub1", "gateway": "203.0.113.1"}},
    {{"address": "203.0.113.12", "prefix_len": 24, "interface": "pub1", "gateway": "203.0.113.1", "ingress_default": "allow"}},
    {{"address": "198.51.100.10", "prefix_len": 25, "interface": "pub2", "gateway": "198.51.100.1"}},
    {{"address": "198.51.100.12", "prefix_len": 25, "interface": "pub2", "gateway": "198.51.100.1"}}],
  "networks": [
    {{"name": "web", "interface": "web0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1", "domain": "vpc",
      "source_nat": ["203.0.113.10"], "egress_default": "allow"}},
    {{"name": "app", "interface": "app0", "cidr": "10.1.2.0/24", "gateway": "10.1.2.1", "domain": "vpc",
      "source_nat": ["203.0.113.10"], "egress_default": "allow"}}],
  "static_nats": [
    {{"id": "main", "public_ip": "203.0.113.12", "network": "web", "guest_ip": "10.1.1.6"}},
    {{"id": "there", "public_ip": "198.51.100.12", "network": "web", "guest_ip": "10.1.1.7"}}],
  "policy_routes": [{policy_routes}]}}"#
    )
}

/// HTTPS of one half of the network leaves by the other side, except to one prefix, which is dropped.
const HTTPS: &str = r#"{"id": "https", "network": "web", "protocol": "tcp", "ports": "443", "sources": ["10.1.1.0/25"],
    "routes": [{"via": "198.51.100.1", "source_nat": ["198.51.100.10"]},
               {"destination": "192.0.2.128/25", "via": null}]}"#;

fn at(address: &str, port: u16) -> Endpoint {
    Endpoint::new(address.parse().expect("an address"), port)
}

fn syn(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    Packet::tcp(at(from.0, from.1), at(to.0, to.1), 0x02, &[], b"").frame()
}

fn udp(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    Packet::udp(at(from.0, from.1), at(to.0, to.1), b"data").frame()
}

/// By which interface the one frame left, to which station, with which source.
fn left(outcome: &Outcome) -> (PortId, [u8; 6], Endpoint) {
    let [(port, frame)] = outcome.sent.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(wrong_checksums(&frame[14..]), Vec::<&str>::new());
    let station = frame[..6].try_into().expect("an address");
    (*port, station, parse(frame).expect("a sound packet").source)
}

fn station(address: [u8; 4]) -> [u8; 6] {
    Lab::neighbor_mac(Ipv4Addr::from(address)).0
}

#[test]
fn what_a_policy_route_takes_leaves_by_its_next_hop_with_an_address_of_that_side() {
    let mut lab = lab(HTTPS);
    let out = left(&lab.send(WEB, syn(("10.1.1.5", 4000), (REMOTE, 443))));
    assert_eq!(out, (OTHER, station(SECOND), at("198.51.100.10", 4000)));
    // The answer finds its way back by that side, and is translated back.
    let reply = Packet::tcp(at(REMOTE, 443), at("198.51.100.10", 4000), 0x12, &[], b"").frame();
    let back = lab.send(OTHER, reply);
    assert_eq!(back.verdict, Verdict::Forward(WEB));
    assert_eq!(parse(&back.sent[0].1).expect("sound").destination, at("10.1.1.5", 4000));
    let ack = Packet::tcp(at("10.1.1.5", 4000), at(REMOTE, 443), 0x10, &[], b"data").frame();
    assert_eq!(left(&lab.send(WEB, ack)).0, OTHER, "the session keeps the way");
}

#[test]
fn everything_else_goes_as_ever() {
    let mut lab = lab(HTTPS);
    let main = |source| (MAIN, station(GATEWAY), source);
    let http = left(&lab.send(WEB, syn(("10.1.1.5", 4000), (REMOTE, 80))));
    assert_eq!(http, main(at("203.0.113.10", 4000)));
    let quic = left(&lab.send(WEB, udp(("10.1.1.5", 4001), (REMOTE, 443))));
    assert_eq!(quic, main(at("203.0.113.10", 4001)));
    let others = left(&lab.send(WEB, syn(("10.1.1.200", 4002), (REMOTE, 443))));
    assert_eq!(others, main(at("203.0.113.10", 4002)));
    let network = left(&lab.send(APPLIANCES, syn(("10.1.2.5", 4003), (REMOTE, 443))));
    assert_eq!(network, main(at("203.0.113.10", 4003)));
    // The domain's own networks are nearer than the policy route's 0.0.0.0/0.
    let inside = lab.send(WEB, syn(("10.1.1.5", 4004), ("10.1.2.5", 443)));
    assert_eq!(
        (inside.verdict, left(&inside).2),
        (Verdict::Forward(APPLIANCES), at("10.1.1.5", 4004))
    );
}

#[test]
fn the_longest_prefix_of_a_policy_route_counts_and_null_drops() {
    let mut lab = lab(HTTPS);
    let dropped = lab.send(WEB, syn(("10.1.1.5", 4000), ("192.0.2.200", 443)));
    assert_eq!(dropped.verdict, Verdict::Drop(DropReason::NoRoute));
    assert_eq!(lab.shared.sessions.len(), 0);
}

#[test]
fn source_ports_and_destinations_choose_too_and_the_first_that_knows_a_way_counts() {
    let first = r#"{"id": "a", "network": "web", "protocol": "udp", "source_ports": "5000-5009",
        "destinations": ["192.0.2.0/24"], "routes": [{"destination": "192.0.2.0/28", "via": "198.51.100.1",
        "source_nat": ["198.51.100.10"]}]}"#;
    let second = r#"{"id": "b", "network": "web", "protocol": "udp", "routes": [{"via": null}]}"#;
    let mut lab = lab(&format!("{first}, {second}"));
    assert_eq!(left(&lab.send(WEB, udp(("10.1.1.5", 5009), (REMOTE, 53)))).0, OTHER);
    for (port, to) in [(5010, REMOTE), (5009, "192.0.2.16"), (5009, "192.0.3.9")] {
        let sent = lab.send(WEB, udp(("10.1.1.5", port), (to, 53)));
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoRoute), "{port} {to}");
    }
}

#[test]
fn static_nat_serves_a_way_on_its_own_side_and_nobody_leaves_untranslated() {
    let bare = r#"{"id": "r", "network": "web", "routes": [{"via": "198.51.100.1"}]}"#;
    let mut lab = lab(bare);
    let there = left(&lab.send(WEB, udp(("10.1.1.7", 4000), (REMOTE, 53))));
    assert_eq!(there, (OTHER, station(SECOND), at("198.51.100.12", 4000)));
    for guest in ["10.1.1.6", "10.1.1.5"] {
        let sent = lab.send(WEB, udp((guest, 4000), (REMOTE, 53)));
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoSourceNat), "{guest}");
    }
    // What comes in by a static NAT is answered by the side it came by.
    let asked = lab.send(MAIN, udp((REMOTE, 7000), ("203.0.113.12", 53)));
    assert_eq!(asked.verdict, Verdict::Forward(WEB));
    let answer = left(&lab.send(WEB, udp(("10.1.1.6", 53), (REMOTE, 7000))));
    assert_eq!(answer, (MAIN, station(GATEWAY), at("203.0.113.12", 53)));
}

#[test]
fn the_addresses_of_policy_routes_are_shown_among_the_pools() {
    let mut lab = lab(HTTPS);
    lab.send(WEB, syn(("10.1.1.5", 4000), (REMOTE, 443)));
    let rows = pools::rows(&lab.shared.policy.load(), &lab.shared.mappings);
    let row = rows.iter().find(|row| (&*row.public_ip, &*row.protocol) == ("198.51.100.10", "tcp"));
    let row = row.expect("the address of the policy route");
    assert_eq!((&row.networks[..], row.live), (&["web".to_owned()][..], 1));
    assert!(row.capacity > 60_000, "{row:?}");
}

#[test]
fn a_guest_that_forwards_may_be_the_next_hop_and_its_answers_pass() {
    let by_guest = r#"{"id": "r", "network": "web", "destinations": ["192.0.2.0/24"],
        "routes": [{"via": "10.1.2.9"}]}"#;
    let mut lab = lab(by_guest);
    let out = left(&lab.send(WEB, udp(("10.1.1.5", 4000), (REMOTE, 53))));
    assert_eq!(out, (APPLIANCES, station([10, 1, 2, 9]), at("10.1.1.5", 4000)));
    let back = lab.send(APPLIANCES, udp((REMOTE, 53), ("10.1.1.5", 4000)));
    assert_eq!(back.verdict, Verdict::Forward(WEB));
    // Only what such a route leads to may come by the appliance, and only as an answer.
    let stray = lab.send(APPLIANCES, udp((REMOTE, 54), ("10.1.1.5", 4000)));
    assert_eq!(stray.verdict, Verdict::Drop(DropReason::SourceSpoofed));
    let out = left(&lab.send(WEB, udp(("10.1.1.5", 4001), ("192.0.3.9", 53))));
    assert_eq!(out.0, MAIN);
}

#[test]
fn sessions_follow_policy_routes_that_come_change_and_go() {
    let mut lab = lab("");
    lab.send(WEB, syn(("10.1.1.5", 4000), (REMOTE, 443)));
    lab.send(WEB, udp(("10.1.1.5", 4001), (REMOTE, 53)));
    lab.reload(&rules(HTTPS));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shared.sessions.len(), 1, "HTTPS would leave otherwise now");
    lab.send(WEB, syn(("10.1.1.5", 4000), (REMOTE, 443)));
    // Another router on the same side: the session goes on by it.
    lab.reload(&rules(&HTTPS.replace("\"198.51.100.1\"", "\"198.51.100.2\"")));
    let ack = Packet::tcp(at("10.1.1.5", 4000), at(REMOTE, 443), 0x10, &[], b"data").frame();
    let out = left(&lab.send(WEB, ack));
    assert_eq!(out, (OTHER, station([198, 51, 100, 2]), at("198.51.100.10", 4000)));
    lab.reload(&rules(""));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.shared.sessions.len(), 1);
    let main = left(&lab.send(WEB, udp(("10.1.1.5", 4001), (REMOTE, 53))));
    assert_eq!(
        main,
        (MAIN, station(GATEWAY), at("203.0.113.10", 4001)),
        "this one lived all along"
    );
}
