//! What the random topologies found, packet by packet.

use std::net::Ipv4Addr;

use natwerk::flow::Endpoint;
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};

use crate::world::ip;

const RULES: &str = r#"{"version": 1,
    "public_ips": [
        {"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
         "gateway": "203.0.113.1", "ingress_default": "allow"}],
    "networks": [
        {"name": "one", "interface": "eth0", "vlan": 100, "domain": "vpc", "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"},
        {"name": "two", "interface": "eth0", "vlan": 101, "domain": "vpc", "cidr": "10.1.2.0/24",
         "gateway": "10.1.2.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"},
        {"name": "bare", "interface": "eth0", "vlan": 102, "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "egress_default": "allow",
         "nat": {"exempt_destinations": ["198.51.100.128/25"]}}],
    "network_acls": [
        {"network": "bare", "direction": "ingress", "entries": [
            {"number": 1, "action": "allow", "protocol": "all", "cidr": "0.0.0.0/0"}]},
        {"network": "bare", "direction": "egress", "entries": [
            {"number": 1, "action": "allow", "protocol": "all", "cidr": "0.0.0.0/0"}]}],
    "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "udp",
        "public_ports": "53", "network": "one", "guest_ip": "10.1.1.5", "guest_ports": "53"}]}"#;

const REMOTE: Ipv4Addr = ip(198, 51, 100, 9);

fn udp(lab: &mut Lab, vlan: u16, source: Ipv4Addr, destination: Ipv4Addr) -> Outcome {
    let (source, destination) = (Endpoint::new(source, 4000), Endpoint::new(destination, 53));
    let tag = (vlan != 0).then_some(vlan);
    let port = if tag.is_some() { GUEST } else { PUBLIC };
    lab.send(port, Packet { tag, ..Packet::udp(source, destination, b"data") }.frame())
}

#[test]
fn a_session_is_its_guests_own_within_a_domain() {
    let mut lab = Lab::new(RULES);
    let guest = ip(10, 1, 1, 5);
    assert_eq!(udp(&mut lab, 100, guest, REMOTE).verdict, Verdict::Forward(PUBLIC));
    let spoofed = Verdict::Drop(DropReason::SourceSpoofed);
    assert_eq!(udp(&mut lab, 101, guest, REMOTE).verdict, spoofed);
    assert_eq!(udp(&mut lab, 100, guest, REMOTE).verdict, Verdict::Forward(PUBLIC));
}

#[test]
fn a_guests_own_address_is_not_seen_in_another_domain() {
    let mut lab = Lab::new(RULES);
    let public = ip(203, 0, 113, 10);
    let refused = Verdict::Drop(DropReason::NoSourceNat);
    assert_eq!(udp(&mut lab, 102, ip(10, 1, 1, 6), public).verdict, refused);
    assert_eq!(udp(&mut lab, 101, ip(10, 1, 2, 6), public).verdict, Verdict::Forward(GUEST));
}

#[test]
fn nobody_outside_reaches_the_gateway_of_a_network_without_translation() {
    let mut lab = Lab::new(RULES);
    let remote = ip(198, 51, 100, 130);
    let refused = Verdict::Drop(DropReason::AddressNotOurs);
    assert_eq!(udp(&mut lab, 0, remote, ip(10, 1, 1, 1)).verdict, refused);
    assert_eq!(udp(&mut lab, 0, remote, ip(10, 1, 1, 7)).verdict, Verdict::Forward(GUEST));
}
