//! PPTP through source NAT: calls of several guests to one server, told apart by call id (RFC 2637).

use std::time::Duration;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};

const RULES: &str = r#"{"version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
                  "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"],
                  "egress_default": "allow", "nat": {"pptp": PPTP}, "limits": {LIMITS}}]}"#;

const PUBLIC_IP: &str = "203.0.113.10";
const SERVER: &str = "198.51.100.9";
const ONE: &str = "10.1.1.5";
const OTHER: &str = "10.1.1.6";

fn rules(pptp: bool) -> String {
    RULES.replace("PPTP", &pptp.to_string()).replace("LIMITS", "")
}

fn at(address: &str, port: u16) -> Endpoint {
    Endpoint::new(address.parse().expect("an address"), port)
}

/// A control connection: the public port it has.
fn connect(lab: &mut Lab, guest: &str, port: u16) -> u16 {
    let tcp = |from, to, flags| Packet::tcp(from, to, flags, &[], b"");
    let (client, server) = (at(guest, port), at(SERVER, 1723));
    let out = lab.send(GUEST, tcp(client, server, 2).frame());
    let [(PUBLIC, frame)] = out.sent.as_slice() else { panic!("{out:?}") };
    let public = natwerk::wire::parse::parse(frame).expect("sound").source;
    let mut answer = tcp(server, public, 0x12);
    answer.transport[4..12].copy_from_slice(&[0, 0, 7, 207, 0, 0, 3, 233]);
    lab.send(PUBLIC, answer.with_transport_checksum().frame());
    let mut ack = tcp(client, server, 0x10);
    ack.transport[4..12].copy_from_slice(&[0, 0, 3, 233, 0, 0, 7, 208]);
    lab.send(GUEST, ack.with_transport_checksum().frame());
    public.port
}

/// The server's reply to a call: its own number and the guest's.
fn reply(lab: &mut Lab, port: u16, server: u16, client: u16) -> Outcome {
    let mut message = vec![0, 32, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 8, 0, 0];
    message.extend(server.to_be_bytes());
    message.extend(client.to_be_bytes());
    message.extend([1, 0]);
    message.resize(32, 0);
    let (from, to) = (at(SERVER, 1723), at(PUBLIC_IP, port));
    let mut packet = Packet::tcp(from, to, 0x18, &[], &message);
    packet.transport[4..12].copy_from_slice(&[0, 0, 7, 208, 0, 0, 3, 233]);
    lab.send(PUBLIC, packet.with_transport_checksum().frame())
}

fn gre(from: &str, to: &str, call: u16) -> Vec<u8> {
    let [high, low] = call.to_be_bytes();
    let data = vec![0x30, 1, 0x88, 0x0b, 0, 4, high, low, 0, 0, 0, 1, b'd', b'a', b't', b'a'];
    let address = |text: &str| text.parse().expect("an address");
    Packet::new(Protocol::GRE, address(from), address(to), data).frame()
}

/// Where GRE from the server with this call's number goes.
fn heard(lab: &mut Lab, call: u16) -> Option<String> {
    let outcome = lab.send(PUBLIC, gre(SERVER, PUBLIC_IP, call));
    let [(GUEST, frame)] = outcome.sent.as_slice() else { return None };
    let packet = natwerk::wire::parse::parse(frame).expect("sound");
    assert_eq!(frame[34..], gre(SERVER, PUBLIC_IP, call)[34..], "nothing of it was changed");
    Some(packet.destination.address.to_string())
}

fn sent(lab: &mut Lab, guest: &str, call: u16) -> Verdict {
    lab.send(GUEST, gre(guest, SERVER, call)).verdict
}

#[test]
fn two_guests_call_one_server_from_one_address() {
    let mut lab = Lab::new(&rules(true));
    for (guest, server, client) in [(ONE, 100, 7), (OTHER, 101, 8)] {
        let port = connect(&mut lab, guest, 4000);
        assert_eq!(reply(&mut lab, port, server, client).verdict, Verdict::Forward(GUEST));
    }
    for _ in 0..2 {
        assert_eq!(sent(&mut lab, ONE, 100), Verdict::Forward(PUBLIC));
        assert_eq!(sent(&mut lab, OTHER, 101), Verdict::Forward(PUBLIC));
        assert_eq!(heard(&mut lab, 7).as_deref(), Some(ONE));
        assert_eq!(heard(&mut lab, 8).as_deref(), Some(OTHER));
        assert_eq!(heard(&mut lab, 9), None, "nobody's call");
        // New rules look at the sessions again; both live on.
        lab.reload(&rules(true));
        lab.pass(Duration::from_secs(1));
    }
    assert_eq!(lab.shared.sessions.len(), 4);
    lab.pass(Duration::from_secs(310));
    assert_eq!(heard(&mut lab, 7), None);
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn a_number_that_two_guests_use_is_refused_to_the_second_and_never_misdelivered() {
    let mut lab = Lab::new(&rules(true));
    let one = connect(&mut lab, ONE, 4000);
    let other = connect(&mut lab, OTHER, 4000);
    assert_eq!(reply(&mut lab, one, 100, 7).verdict, Verdict::Forward(GUEST));
    let refused = reply(&mut lab, other, 101, 7).verdict;
    assert_eq!(refused, Verdict::Drop(DropReason::EndpointsTaken));
    assert_eq!(heard(&mut lab, 7).as_deref(), Some(ONE));
    // The reply again, and a new call of the same guest under the same number.
    assert_eq!(reply(&mut lab, one, 100, 7).verdict, Verdict::Forward(GUEST));
    assert_eq!(reply(&mut lab, one, 102, 7).verdict, Verdict::Forward(GUEST));
    assert_eq!(heard(&mut lab, 7).as_deref(), Some(ONE));
    assert_eq!(sent(&mut lab, ONE, 102), Verdict::Forward(PUBLIC));
    assert_eq!(lab.shared.sessions.len(), 3);
    // As soon as the first one's is over the second may call.
    lab.pass(Duration::from_secs(310));
    assert_eq!(reply(&mut lab, other, 103, 7).verdict, Verdict::Forward(GUEST));
    assert_eq!(heard(&mut lab, 7).as_deref(), Some(OTHER));
}

#[test]
fn no_payload_is_looked_at_unless_the_network_asks_for_it() {
    let mut lab = Lab::new(&rules(false));
    let port = connect(&mut lab, ONE, 4000);
    assert_eq!(reply(&mut lab, port, 100, 7).verdict, Verdict::Forward(GUEST));
    assert_eq!(heard(&mut lab, 7), None);
    // By addresses, as long as one guest alone does.
    assert_eq!(sent(&mut lab, ONE, 100), Verdict::Forward(PUBLIC));
    assert_eq!(heard(&mut lab, 7).as_deref(), Some(ONE));
    assert_eq!(sent(&mut lab, OTHER, 101), Verdict::Drop(DropReason::ProtocolUnsupported));
}

#[test]
fn only_the_server_that_was_called_opens_only_its_call() {
    let mut lab = Lab::new(&rules(true));
    // A reply of nobody's connection.
    assert!(matches!(reply(&mut lab, 4000, 100, 7).verdict, Verdict::Drop(_)));
    let port = connect(&mut lab, ONE, 4000);
    assert_eq!(heard(&mut lab, 7), None);
    assert_eq!(reply(&mut lab, port, 100, 7).verdict, Verdict::Forward(GUEST));
    let stranger = lab.send(PUBLIC, gre("198.51.100.66", PUBLIC_IP, 7));
    assert!(matches!(stranger.verdict, Verdict::Drop(_)), "{stranger:?}");
    let limits = rules(true).replace("\"limits\": {}", "\"limits\": {\"sessions_per_guest\": 2}");
    let mut lab = Lab::new(&limits);
    let port = connect(&mut lab, ONE, 4000);
    assert_eq!(reply(&mut lab, port, 100, 7).verdict, Verdict::Forward(GUEST));
    let full = reply(&mut lab, port, 101, 8).verdict;
    assert_eq!(full, Verdict::Drop(DropReason::SessionLimit), "calls count as sessions");
}
