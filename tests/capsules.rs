//! Networks under two tags and inside VXLAN, frame by frame through the pipeline.

use std::net::Ipv4Addr;
use std::time::Duration;

use natwerk::flow::{Endpoint, Mac, PortId};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::verdict::{DropReason, Verdict};
use natwerk::wire::parse::{Parsed, parse};
use natwerk::wire::{arp, vxlan};

const LOCAL: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 3);
const FAR: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 9);
/// That of 10.1.1.5, as a lab's neighbours answer.
const GUEST_MAC: [u8; 6] = [2, 1, 10, 1, 1, 5];

/// Two public addresses and `networks`.
fn rules(networks: &str) -> String {
    format!(
        r#"{{"version": 1,
        "public_ips": [{{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}},
                       {{"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}}],
        "networks": [{networks}],
        "local_services": [{{"address": "203.0.113.11", "protocol": "tcp", "ports": "80"}}]}}"#
    )
}

fn network(name: &str, place: &str) -> String {
    format!(
        r#"{{"name": "{name}", "interface": "eth0", {place}, "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
            "source_nat": ["203.0.113.10"]}}"#
    )
}

fn at(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address:port");
    Endpoint::new(address.parse().expect("an address"), port.parse().expect("a port"))
}

fn udp(source: &str, destination: &str) -> Packet {
    Packet::udp(at(source), at(destination), b"payload")
}

/// A frame from the guest to the router.
fn from_guest(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[0..6].copy_from_slice(&Lab::router_mac(GUEST).0);
    frame[6..12].copy_from_slice(&GUEST_MAC);
    frame
}

/// The packet that is behind `link` bytes of link header, as if it had an ordinary one.
fn behind(frame: &[u8], link: usize) -> Parsed {
    let mut plain = frame[..12].to_vec();
    plain.extend([8, 0]);
    plain.extend(&frame[link..]);
    let parsed = parse(&plain).expect("a sound packet");
    assert!(wrong_checksums(&plain[14..]).is_empty());
    parsed
}

fn request(sender: &str, target: &str) -> Vec<u8> {
    let message = arp::Arp {
        vlan: 0,
        operation: arp::ArpOperation::Request,
        sender_mac: Mac(GUEST_MAC),
        sender: sender.parse().expect("an address"),
        target_mac: Mac::default(),
        target: target.parse().expect("an address"),
    };
    let mut frame = vec![0; 60];
    arp::write(&mut frame, Mac(GUEST_MAC), Mac::BROADCAST, &message).expect("it fits");
    frame
}

/// Two tags in front of an untagged frame's packet.
fn tagged(mut frame: Vec<u8>, outer_type: u16, outer: u16, inner: u16) -> Vec<u8> {
    let tags = [outer_type, outer, 0x8100, inner].map(u16::to_be_bytes).concat();
    frame.splice(12..12, tags);
    frame
}

const PROVIDER: u16 = 0x88a8;
const QINQ: &str = r#""vlan": 100, "outer_tag": {"vlan": 200}"#;

fn qinq(frame: Vec<u8>) -> Vec<u8> {
    tagged(frame, PROVIDER, 200, 100)
}

#[test]
fn a_guest_under_two_tags_leaves_and_its_reply_comes_back_under_both() {
    for (kind, outer_type) in [("802.1ad", PROVIDER), ("802.1q", 0x8100)] {
        let place = format!(r#""vlan": 100, "outer_tag": {{"vlan": 200, "type": "{kind}"}}"#);
        let mut lab = Lab::new(&rules(&network("web", &place)));
        for _ in 0..3 {
            let frame = from_guest(&udp("10.1.1.5:4000", "198.51.100.9:53"));
            let out = lab.send_raw(GUEST, &tagged(frame, outer_type, 200, 100));
            assert_eq!(out.verdict, Verdict::Forward(PUBLIC));
            assert_eq!(behind(&out.sent[0].1, 14).source, at("203.0.113.10:4000"));
            let back = lab.send(PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000").frame());
            assert_eq!(back.verdict, Verdict::Forward(GUEST));
            let frame = &back.sent[0].1;
            assert_eq!(frame[..6], GUEST_MAC, "learned from its first packet");
            let expected = [outer_type, 200, 0x8100, 100, 0x0800].map(u16::to_be_bytes).concat();
            assert_eq!(frame[12..22], expected);
            assert_eq!(behind(frame, 22).destination, at("10.1.1.5:4000"));
        }
        let counted = lab.counters.totals().ports[GUEST.index()];
        assert_eq!((counted.received_packets, counted.forwarded_packets), (3, 3));
        assert_eq!(counted.received_bytes, counted.forwarded_bytes);
        assert_eq!(lab.frames_in_hand(), 0);
    }
}

#[test]
fn tags_that_no_network_has_in_this_order_and_type_are_refused() {
    let mut lab = Lab::new(&rules(&network("web", QINQ)));
    let frame = || from_guest(&udp("10.1.1.5:4000", "198.51.100.9:53"));
    let mut single = frame();
    single.splice(12..12, [0x81, 0, 0, 100]);
    for wrong in [
        tagged(frame(), PROVIDER, 201, 100),
        tagged(frame(), PROVIDER, 200, 101),
        tagged(frame(), PROVIDER, 100, 200),
        tagged(frame(), 0x8100, 200, 100),
        frame(),
        single,
    ] {
        let out = lab.send_raw(GUEST, &wrong);
        assert_eq!(out.verdict, Verdict::Drop(DropReason::UnknownVlan));
    }
    let mut short = qinq(frame());
    short.truncate(24);
    assert_eq!(lab.send_raw(GUEST, &short).verdict, Verdict::Drop(DropReason::Truncated));
}

#[test]
fn the_gateway_under_two_tags_answers_arp_ping_and_with_errors() {
    let mut lab = Lab::new(&rules(&network("web", QINQ)));
    let out = lab.send_raw(GUEST, &qinq(request("10.1.1.5", "10.1.1.1")));
    assert_eq!(out.verdict, Verdict::Forward(GUEST));
    let frame = &out.sent[0].1;
    assert_eq!(frame[12..20], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
    let reply = arp::parse(&[&frame[..12], &frame[20..]].concat()).expect("ARP");
    assert_eq!((reply.sender, reply.sender_mac), ([10, 1, 1, 1].into(), Lab::router_mac(GUEST)));

    let ping = Packet::echo([10, 1, 1, 5].into(), [10, 1, 1, 1].into(), 8, 7, b"there?");
    let out = lab.send_raw(GUEST, &qinq(from_guest(&ping)));
    assert_eq!(behind(&out.sent[0].1, 22).source.address, Ipv4Addr::new(10, 1, 1, 1));

    let last = Packet { ttl: 1, ..udp("10.1.1.5:4000", "198.51.100.9:53") };
    let out = lab.send_raw(GUEST, &qinq(from_guest(&last)));
    assert_eq!(out.verdict, Verdict::Drop(DropReason::TtlExpired));
    let (port, error) = &out.sent[0];
    assert_eq!((*port, error[22 + 20]), (GUEST, 11));
    assert_eq!(error[12..20], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
}

/// What becomes of a large packet to the guest, without and with leave to cut it.
fn large_to_guest(lab: &mut Lab, link: usize, mtu: u16) -> Vec<Vec<u8>> {
    let large = |length: usize| {
        Packet::udp(at("198.51.100.9:53"), at("203.0.113.10:4000"), &vec![7; length - 28])
    };
    let fits = lab.send(PUBLIC, large(mtu.into()).frame());
    assert_eq!(fits.verdict, Verdict::Forward(GUEST));
    assert_eq!(fits.sent[0].1.len(), usize::from(mtu) + link);
    let told = lab.send(PUBLIC, large(usize::from(mtu) + 1).frame());
    assert_eq!(told.verdict, Verdict::Drop(DropReason::MtuExceeded));
    assert_eq!(
        told.sent[0].1[34..42],
        [&[3, 4][..], &told.sent[0].1[36..40], &mtu.to_be_bytes()].concat()
    );
    let cut = lab.send(PUBLIC, Packet { flags_offset: 0, ..large(usize::from(mtu) + 1) }.frame());
    assert_eq!(cut.sent.len(), 2, "{:?}", cut.verdict);
    cut.sent
        .into_iter()
        .map(|(port, frame)| {
            assert_eq!(port, GUEST);
            assert!(frame.len() <= usize::from(mtu) + link);
            frame
        })
        .collect()
}

#[test]
fn the_second_tag_takes_four_bytes_of_the_mtu() {
    let mut lab = Lab::new(&rules(&network("web", QINQ)));
    let out = udp("10.1.1.5:4000", "198.51.100.9:53");
    assert_eq!(lab.send_raw(GUEST, &qinq(from_guest(&out))).verdict, Verdict::Forward(PUBLIC));
    for piece in large_to_guest(&mut lab, 22, 1496) {
        assert_eq!(piece[12..20], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
    }
    // Fragments of the guest's own, the last one first.
    let whole = Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), &[1; 1000]);
    let piece = |from: usize, to: usize, more: u16| Packet {
        flags_offset: more | u16::try_from(from / 8).expect("short"),
        transport: whole.transport[from..to].to_vec(),
        ..whole.clone()
    };
    let late = lab.send_raw(GUEST, &qinq(from_guest(&piece(800, 1008, 0))));
    assert_eq!(late.verdict, Verdict::Hold);
    let first = lab.send_raw(GUEST, &qinq(from_guest(&piece(0, 800, 0x2000))));
    assert_eq!(first.sent.len(), 2);
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn on_one_interface_are_4094_networks_with_the_same_addresses() {
    for double in [false, true] {
        let networks: Vec<_> = (1..=4094_u16)
            .map(|vlan| match double {
                true => format!(r#""vlan": {}, "outer_tag": {{"vlan": {vlan}}}"#, 4095 - vlan),
                false => format!(r#""vlan": {vlan}"#),
            })
            .enumerate()
            .map(|(number, place)| network(&format!("n{number}"), &place))
            .collect();
        let mut lab = Lab::with(&rules(&networks.join(",")), |config| config.sessions.max = 16_384);
        let mut ports = Vec::new();
        for vlan in 1..=4094_u16 {
            let mut frame = from_guest(&udp("10.1.1.5:4000", "198.51.100.9:53"));
            match double {
                true => frame = tagged(frame, PROVIDER, vlan, 4095 - vlan),
                false => drop(frame.splice(12..12, [0x8100, vlan].map(u16::to_be_bytes).concat())),
            }
            let out = lab.send_raw(GUEST, &frame);
            assert_eq!(out.verdict, Verdict::Forward(PUBLIC), "{vlan}");
            ports.push((vlan, behind(&out.sent[0].1, 14).source.port));
        }
        for (vlan, port) in ports {
            let reply = udp("198.51.100.9:53", &format!("203.0.113.10:{port}"));
            let back = lab.send(PUBLIC, reply.frame());
            assert_eq!(back.verdict, Verdict::Forward(GUEST));
            let [a, b] = vlan.to_be_bytes();
            assert_eq!(back.sent[0].1[14..16], [a, b], "back to where it came from");
        }
    }
}

const VXLAN: &str = r#""vxlan": {"vni": 5001, "local": "172.31.0.1", "prefix_len": 24,
    "gateway": "172.31.0.254", "remotes": ["172.31.0.2", "172.30.0.9"]}"#;

/// A frame inside VXLAN, from a remote VTEP.
fn within(inner: &[u8], remote: Ipv4Addr, vni: u32) -> Vec<u8> {
    let data = vxlan::payload(vni, inner);
    let mut frame =
        Packet::udp(Endpoint::new(remote, 50_000), Endpoint::new(LOCAL, 4789), &data).frame();
    frame[0..6].copy_from_slice(&Lab::router_mac(GUEST).0);
    frame
}

/// The frame that is inside of one that was sent to `remote`.
fn inside(outer: &[u8], remote: Ipv4Addr, vni: u32) -> Vec<u8> {
    let parsed = parse(outer).expect("a sound outer packet");
    assert_eq!((parsed.source.address, parsed.destination), (LOCAL, Endpoint::new(remote, 4789)));
    assert!(parsed.source.port >= 49_152 && parsed.dont_fragment);
    assert_eq!(outer[40..42], [0, 0], "no UDP checksum");
    let next_hop = if remote == FAR { Ipv4Addr::new(172, 31, 0, 254) } else { remote };
    assert_eq!(outer[0..6], Lab::neighbor_mac(next_hop).0);
    let opened = vxlan::open(outer).expect("VXLAN");
    assert_eq!(opened.vni, vni);
    outer[usize::from(opened.inner)..].to_vec()
}

fn vxlan_lab() -> Lab {
    Lab::new(&rules(&network("web", VXLAN)))
}

fn send_within(lab: &mut Lab, packet: &Packet, remote: Ipv4Addr) -> Outcome {
    lab.send_raw(GUEST, &within(&from_guest(packet), remote, 5001))
}

#[test]
fn a_guest_behind_a_vtep_leaves_and_its_reply_goes_to_that_vtep() {
    let mut lab = vxlan_lab();
    let question = udp("10.1.1.5:4000", "198.51.100.9:53");
    let reply = udp("198.51.100.9:53", "203.0.113.10:4000").frame();
    // It is learned, although nobody listed it, and followed when it moves.
    for remote in [OTHER, OTHER, REMOTE, OTHER, FAR] {
        let out = send_within(&mut lab, &question, remote);
        assert_eq!(out.verdict, Verdict::Forward(PUBLIC));
        assert_eq!(behind(&out.sent[0].1, 14).source, at("203.0.113.10:4000"));
        let back = lab.send(PUBLIC, reply.clone());
        assert_eq!(back.verdict, Verdict::Forward(GUEST));
        assert_eq!(back.sent.len(), 1);
        let inner = inside(&back.sent[0].1, remote, 5001);
        assert_eq!((&inner[..6], &inner[6..12]), (&GUEST_MAC[..], &Lab::router_mac(GUEST).0[..]));
        assert_eq!(behind(&inner, 14).destination, at("10.1.1.5:4000"));
    }
    let counted = lab.counters.totals().ports[GUEST.index()];
    assert_eq!(counted.received_bytes, counted.forwarded_bytes, "outer headers count both ways");
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn what_nobody_has_heard_of_goes_to_every_vtep_once() {
    let mut lab = vxlan_lab();
    let out = send_within(&mut lab, &udp("10.1.1.5:4000", "10.1.1.9:53"), OTHER);
    assert_eq!(out.verdict, Verdict::Forward(GUEST));
    let mut targets: Vec<_> = out
        .sent
        .iter()
        .map(|(port, frame)| {
            assert_eq!(*port, GUEST);
            parse(frame).expect("sound").destination.address
        })
        .collect();
    targets.sort();
    assert_eq!(targets, [FAR, REMOTE, OTHER], "those that are listed, and one that was learned");
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn the_gateway_inside_vxlan_answers_arp_ping_and_with_errors() {
    let mut lab = vxlan_lab();
    let ask = request("10.1.1.5", "10.1.1.1");
    let out = lab.send_raw(GUEST, &within(&ask, OTHER, 5001));
    let inner = inside(&out.sent[0].1, OTHER, 5001);
    let reply = arp::parse(&inner).expect("ARP");
    assert_eq!((reply.sender, reply.sender_mac), ([10, 1, 1, 1].into(), Lab::router_mac(GUEST)));
    let ping = Packet::echo([10, 1, 1, 5].into(), [10, 1, 1, 1].into(), 8, 7, b"there?");
    let out = send_within(&mut lab, &ping, OTHER);
    assert_eq!(
        behind(&inside(&out.sent[0].1, OTHER, 5001), 14).source.address,
        Ipv4Addr::new(10, 1, 1, 1)
    );
    let last = Packet { ttl: 1, ..udp("10.1.1.5:4000", "198.51.100.9:53") };
    let out = send_within(&mut lab, &last, OTHER);
    assert_eq!(out.verdict, Verdict::Drop(DropReason::TtlExpired));
    assert_eq!(inside(&out.sent[0].1, OTHER, 5001)[14 + 20], 11);
}

#[test]
fn the_outer_headers_take_fifty_bytes_of_the_mtu() {
    let mut lab = vxlan_lab();
    send_within(&mut lab, &udp("10.1.1.5:4000", "198.51.100.9:53"), OTHER);
    // The inner link header takes the place of the outer one.
    for piece in large_to_guest(&mut lab, 64, 1450) {
        assert!(piece.len() - 14 <= 1500);
        inside(&piece, OTHER, 5001);
    }
}

#[test]
fn vxlan_that_is_malformed_or_nobodys_is_dropped_with_its_reason() {
    let listed = VXLAN
        .replace("5001", "5002")
        .replace("\"prefix_len\"", "\"learning\": false, \"prefix_len\"");
    let mut lab =
        Lab::new(&rules(&format!("{},{}", network("web", VXLAN), network("listed", &listed))));
    let inner = from_guest(&udp("10.1.1.5:4000", "198.51.100.9:53"));
    let good = within(&inner, OTHER, 5001);
    let mut other_address = good.clone();
    other_address[30..34].copy_from_slice(&[172, 31, 0, 77]);
    let mut expect = |frame: &[u8], reason| {
        assert_eq!(lab.send_raw(GUEST, frame).verdict, Verdict::Drop(reason));
    };
    let changed = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    expect(&changed(42, 0), DropReason::VxlanMalformed);
    expect(&changed(45, 1), DropReason::VxlanMalformed);
    expect(&changed(49, 1), DropReason::VxlanMalformed);
    expect(&within(&inner, OTHER, 6000), DropReason::VxlanUnknownVni);
    expect(&within(&inner, OTHER, 5002), DropReason::VxlanUnknownRemote);
    expect(&within(&inner[..13], OTHER, 5001), DropReason::VxlanMalformed);
    let mut tag = inner.clone();
    tag.splice(12..12, [0x81, 0, 0, 7]);
    expect(&within(&tag, OTHER, 5001), DropReason::VxlanMalformed);
    expect(&changed(5, 0x77), DropReason::MacNotOurs);
    expect(&good[..60], DropReason::Truncated);
    let fragment = {
        let data = vxlan::payload(5001, &inner);
        let packet = Packet::udp(Endpoint::new(OTHER, 50_000), Endpoint::new(LOCAL, 4789), &data);
        let mut packet = Packet { flags_offset: 0x2000, ..packet };
        packet.transport.truncate(packet.transport.len() / 8 * 8);
        let mut frame = packet.frame();
        frame[0..6].copy_from_slice(&Lab::router_mac(GUEST).0);
        frame
    };
    expect(&fragment, DropReason::VxlanMalformed);
    // What a guest sends to the VTEP is not opened a second time.
    let nested =
        Packet::udp(at("10.1.1.5:1"), Endpoint::new(LOCAL, 4789), &vxlan::payload(5001, &inner));
    let out = lab.send_raw(GUEST, &within(&from_guest(&nested), OTHER, 5001));
    assert_eq!(out.verdict, Verdict::Forward(PUBLIC), "as any packet to any address outside");
    assert_eq!(lab.frames_in_hand(), 0);
}

#[test]
fn the_same_addresses_in_two_vxlan_networks_are_kept_apart() {
    let other = VXLAN.replace("5001", "5002");
    let mut lab =
        Lab::new(&rules(&format!("{},{}", network("one", VXLAN), network("two", &other))));
    let question = from_guest(&udp("10.1.1.5:4000", "198.51.100.9:53"));
    let mut ports = Vec::new();
    for (vni, remote) in [(5001, REMOTE), (5002, OTHER)] {
        let out = lab.send_raw(GUEST, &within(&question, remote, vni));
        ports.push((vni, remote, behind(&out.sent[0].1, 14).source.port));
    }
    assert_ne!(ports[0].2, ports[1].2);
    for (vni, remote, port) in ports {
        let back =
            lab.send(PUBLIC, udp("198.51.100.9:53", &format!("203.0.113.10:{port}")).frame());
        inside(&back.sent[0].1, remote, vni);
        // Nobody sends to the other's guests directly.
        let direct = lab
            .send_raw(GUEST, &within(&from_guest(&udp("10.1.1.5:1", "10.1.1.9:1")), remote, vni));
        assert!(
            direct.sent.iter().all(|(_, frame)| vxlan::open(frame).is_ok_and(|it| it.vni == vni))
        );
    }
}

#[test]
fn the_kernel_is_not_offered_what_it_could_not_answer() {
    let mut lab = vxlan_lab();
    let packet = Packet::tcp(at("10.1.1.5:4000"), at("203.0.113.11:80"), 2, &[], b"");
    let out = send_within(&mut lab, &packet, OTHER);
    assert_eq!(out.verdict, Verdict::Drop(DropReason::HostPathMissing));
    assert!(out.host.is_empty());
}

#[test]
fn a_frame_waits_for_the_way_to_its_vtep() {
    let mut lab = vxlan_lab();
    lab.answers = false;
    let out = send_within(&mut lab, &udp("10.1.1.5:4000", "198.51.100.9:53"), OTHER);
    assert_eq!(out.verdict, Verdict::Hold);
    let next_hops = std::sync::Arc::clone(&lab.shared.next_hops);
    let answer = |port: PortId, address: [u8; 4]| {
        let neighbor =
            natwerk::next_hop::Neighbor { port, vlan: 0, address: Ipv4Addr::from(address).into() };
        let mac = Lab::neighbor_mac(Ipv4Addr::from(address));
        next_hops.set(neighbor, natwerk::next_hop::Resolution::Reachable(mac));
    };
    answer(PUBLIC, [203, 0, 113, 1]);
    assert_eq!(lab.pass(Duration::from_millis(100)).sent.len(), 1);
    let reply = lab.send(PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000").frame());
    assert_eq!(reply.verdict, Verdict::Hold, "its VTEP's link address is not known");
    answer(GUEST, OTHER.octets());
    let released = lab.pass(Duration::from_millis(100)).sent;
    assert_eq!(released.len(), 1);
    inside(&released[0].1, OTHER, 5001);
    assert_eq!(lab.frames_in_hand(), 0);
}
