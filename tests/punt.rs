//! The host path against a real kernel, in network namespaces of its own.
#![cfg(feature = "af-xdp")]

mod common;

use std::io::Read;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use natwerk::flow::{Mac, PortId};
use natwerk::host::punt::{Punt, PuntError};
use natwerk::io::packet::PacketSocket;

use common::{Namespace, cable, eventually};

const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const SOON: Duration = Duration::from_secs(5);

fn ports() -> Vec<(PortId, String)> {
    vec![(PortId(1), "eth2".to_owned())]
}

/// A router whose NIC leads to nobody who would answer.
fn router(purpose: &str) -> Option<(Namespace, Namespace)> {
    let router = Namespace::new(&format!("{purpose}-r"))?;
    let peer = Namespace::new(&format!("{purpose}-p"))?;
    cable((&router, "eth2"), (&peer, "eth2"));
    router.run(&format!("ip link set eth2 address {ROUTER_MAC}"));
    router.run("ip address add 203.0.113.10/24 dev eth2");
    router.run(&format!("ip neigh add 203.0.113.1 lladdr {PEER_MAC} dev eth2 nud permanent"));
    Some((router, peer))
}

fn taps(router: &Namespace) -> usize {
    router.run("ip -o link").lines().filter(|line| line.contains(": nwk")).count()
}

#[test]
fn an_echo_reply_handed_over_reaches_a_ping_on_the_router() {
    let Some((router, peer)) = router("ping") else { return };
    let punt = router.enter(|| Punt::open(&ports())).expect("a way to the kernel");
    let index = peer.run("cat /sys/class/net/eth2/ifindex").trim().parse().expect("a number");
    let socket = peer.enter(|| PacketSocket::open(index, 0x0800)).expect("a socket");
    // Strict: a reply that seemed to come in by the TAP would be dropped.
    router.run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    let mut ping = Command::new("ip")
        .args(["netns", "exec", router.name(), "ping", "-c1", "-W3", "-I", "eth2", "203.0.113.1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping");
    let mut request = [0; 256];
    let mut length = 0;
    let came = eventually(SOON, || {
        // Protocol 1 at its place in the IPv4 header: an echo request, the only ICMP here.
        while let Ok(Some(received)) = socket.receive(&mut request) {
            length = received.length;
            if request[23] == 1 {
                return true;
            }
        }
        false
    });
    assert!(came, "the request left by the NIC");

    // As natwerk hands over a reply: addressed to the router's NIC, and from the peer.
    let mut reply = request[..length].to_vec();
    reply[..6].copy_from_slice(&ROUTER_MAC.0);
    reply[6..12].copy_from_slice(&PEER_MAC.0);
    let (source, destination) = (request[26..30].to_vec(), request[30..34].to_vec());
    reply[26..30].copy_from_slice(&destination);
    reply[30..34].copy_from_slice(&source);
    reply[34] = 0;
    // Type 8 became 0: the checksum's first octet grows by 8, with the carry end around.
    let checksum = u32::from(u16::from_be_bytes([reply[36], reply[37]])) + 0x0800;
    let checksum = u16::try_from((checksum & 0xffff) + (checksum >> 16)).expect("folded");
    reply[36..38].copy_from_slice(&checksum.to_be_bytes());
    assert!(punt.send(PortId(1), &reply));
    assert!(!punt.send(PortId(0), &reply), "no such way");

    let status = ping.wait().expect("an end");
    let mut said = String::new();
    ping.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(status.success(), "{said}");
}

#[test]
fn a_datagram_handed_over_reaches_a_socket_bound_to_the_nic() {
    let Some((router, _peer)) = router("udp") else { return };
    let punt = router.enter(|| Punt::open(&ports())).expect("a way to the kernel");
    let socket = router.enter(|| UdpSocket::bind("203.0.113.10:5353")).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("set");
    let payload = [7; 1400];
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER_MAC.0, ROUTER_MAC.0)
        .ipv4([203, 0, 113, 1], [203, 0, 113, 10], 64)
        .udp(4000, 5353)
        .write(&mut frame, &payload)
        .expect("room");
    assert!(punt.send(PortId(1), &frame));
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).expect("received");
    assert_eq!(
        (&buffer[..length], from.to_string()),
        (&payload[..], "203.0.113.1:4000".to_owned())
    );
}

#[test]
fn workers_can_share_the_way() {
    fn shared<T: Send + Sync>() {}
    shared::<Punt>();
}

#[test]
fn nothing_is_left_behind_and_what_was_left_is_removed() {
    let Some((router, _peer)) = router("stale") else { return };
    let index = router.run("cat /sys/class/net/eth2/ifindex").trim().to_owned();
    router.run(&format!("ip tuntap add nwk{index} mode tap"));
    let punt = router.enter(|| Punt::open(&ports())).expect("a way to the kernel");
    assert_eq!(taps(&router), 1);
    drop(punt);
    assert!(eventually(SOON, || taps(&router) == 0));
    let mut unknown = ports();
    unknown.push((PortId(2), "eth9".to_owned()));
    let error = router.enter(|| Punt::open(&unknown)).err();
    assert!(matches!(error, Some(PuntError::NoInterface(name)) if name == "eth9"));
    assert!(eventually(SOON, || taps(&router) == 0), "nothing half-made");
}
