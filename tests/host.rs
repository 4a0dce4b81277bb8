//! The host thread against a real kernel, in network namespaces of its own.

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use natwerk::flow::{Mac, PortId};
use natwerk::host::plan::{Plan, Segment};
use natwerk::host::{Host, HostOptions};
use natwerk::io::packet::PacketSocket;
use natwerk::next_hop::{Neighbor, NextHopId, NextHops, Resolution};
use natwerk::rules::set::Cidr;
use natwerk::wire::arp::{self, Arp, ArpOperation};

use common::{Namespace, cable, eventually};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 5);
const GUEST_MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const MOVED_MAC: Mac = Mac([2, 0, 0, 0, 0, 6]);
const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SOON: Duration = Duration::from_secs(5);

/// A router with one NIC and a guest at its other end.
struct Lab {
    router: Namespace,
    guest: Namespace,
    hops: Arc<NextHops>,
}

impl Lab {
    fn new(purpose: &str) -> Option<Self> {
        let router = Namespace::new(&format!("{purpose}-r"))?;
        let guest = Namespace::new(&format!("{purpose}-g"))?;
        cable((&router, "eth0"), (&guest, "eth0"));
        router.run(&format!("ip link set eth0 address {ROUTER_MAC}"));
        guest.run(&format!("ip link set eth0 address {GUEST_MAC}"));
        Some(Self { router, guest, hops: Arc::new(NextHops::new(64)) })
    }

    fn start(&self, plan: Plan, manage_addresses: bool) -> Host {
        let next_hops = Arc::clone(&self.hops);
        let ports = vec![(PortId(0), "eth0".to_owned())];
        let options = HostOptions { ports, next_hops, plan, manage_addresses };
        self.router.enter(|| Host::start(options).expect("a host thread"))
    }

    fn becomes(&self, id: NextHopId, resolution: Resolution) -> bool {
        eventually(SOON, || {
            // Forwarding goes on all the while.
            let _ = self.hops.link(id);
            self.hops.resolution(id) == resolution
        })
    }
}

fn plan(vlan: u16, addresses: &[Ipv4Addr]) -> Plan {
    let segment = |&address: &Ipv4Addr| Segment {
        port: PortId(0),
        vlan,
        address,
        prefix: Cidr::containing(address, 24),
    };
    let segments = addresses.iter().map(segment).collect();
    Plan { segments, mtus: vec![(PortId(0), vlan, 1400)], ..Plan::default() }
}

fn neighbor(vlan: u16, address: Ipv4Addr) -> Neighbor {
    Neighbor { port: PortId(0), vlan, address: address.into() }
}

/// The kernel's index of an interface.
fn index(namespace: &Namespace, name: &str) -> u32 {
    let file = format!("cat /sys/class/net/{name}/ifindex");
    namespace.run(&file).trim().parse().expect("a number")
}

fn send_arp(namespace: &Namespace, vlan: u16, sender: (Ipv4Addr, Mac), operation: ArpOperation) {
    let message = Arp {
        vlan,
        operation,
        sender_mac: sender.1,
        sender: sender.0,
        target_mac: Mac::default(),
        target: sender.0,
    };
    let mut frame = [0; 60];
    arp::write(&mut frame, sender.1, Mac::BROADCAST, &message).expect("room");
    let index = index(namespace, "eth0");
    namespace.enter(|| {
        let socket = PacketSocket::open(index, 0x0806).expect("a socket");
        socket.send(&frame).expect("sent");
    });
}

/// Whether an ARP message that `is_it` comes.
fn hears(socket: &PacketSocket, limit: Duration, is_it: impl Fn(&Arp, bool) -> bool) -> bool {
    eventually(limit, || {
        let mut buffer = [0; 128];
        while let Ok(Some(received)) = socket.receive(&mut buffer) {
            let message = arp::parse(&buffer[..received.length]);
            if message.is_some_and(|message| is_it(&message, received.is_foreign)) {
                return true;
            }
        }
        false
    })
}

#[test]
fn the_kernel_resolves_untagged_neighbors_and_moves_are_followed() {
    let Some(lab) = Lab::new("move") else { return };
    lab.router.run("ip address add 10.1.1.1/24 dev eth0");
    lab.guest.run("ip address add 10.1.1.5/24 dev eth0");
    let host = lab.start(plan(0, &[GATEWAY]), false);

    let id = lab.hops.id(neighbor(0, GUEST)).expect("room");
    assert!(lab.becomes(id, Resolution::Reachable(GUEST_MAC)), "resolved by the kernel");
    let link = lab.hops.link(id);
    assert_eq!((link.source, link.mtu), (ROUTER_MAC, 1400));
    assert!(
        host.view().neighbors.keys().any(|&(_, address)| address == std::net::IpAddr::V4(GUEST))
    );

    // The kernel takes a second answer within a second for an attack.
    std::thread::sleep(Duration::from_millis(1100));
    send_arp(&lab.guest, 0, (GUEST, MOVED_MAC), ArpOperation::Reply);
    assert!(lab.becomes(id, Resolution::Reachable(MOVED_MAC)), "gratuitous ARP followed");
}

#[test]
fn a_neighbor_known_before_the_start_is_known_at_once() {
    let Some(lab) = Lab::new("known") else { return };
    lab.router.run("ip address add 10.1.1.1/24 dev eth0");
    lab.router.run(&format!("ip neigh add 10.1.1.5 lladdr {GUEST_MAC} dev eth0 nud permanent"));
    let id = lab.hops.id(neighbor(0, GUEST)).expect("room");
    let _host = lab.start(plan(0, &[GATEWAY]), false);
    assert_eq!(lab.hops.resolution(id), Resolution::Reachable(GUEST_MAC));
}

#[test]
fn an_upstream_router_is_known_before_anybody_sends_to_it() {
    let Some(lab) = Lab::new("upstream") else { return };
    lab.guest.run("ip address add 10.1.1.5/24 dev eth0");
    let plan = Plan { upstreams: vec![neighbor(0, GUEST)], ..plan(0, &[GATEWAY]) };
    let _host = lab.start(plan, true);
    let resolved = || {
        let id = lab.hops.find(neighbor(0, GUEST))?;
        Some(lab.hops.resolution(id) == Resolution::Reachable(GUEST_MAC))
    };
    assert!(eventually(SOON, || resolved() == Some(true)));
}

#[test]
fn a_neighbor_that_does_not_exist_fails() {
    let Some(lab) = Lab::new("fail") else { return };
    lab.router.run("ip address add 10.1.1.1/24 dev eth0");
    let _host = lab.start(plan(0, &[GATEWAY]), false);
    let id = lab.hops.id(neighbor(0, Ipv4Addr::new(10, 1, 1, 99))).expect("room");
    assert!(lab.becomes(id, Resolution::Failed));
}

#[test]
fn without_an_address_of_the_kernels_we_ask_and_hear_ourselves() {
    let Some(lab) = Lab::new("own") else { return };
    lab.guest.run("ip address add 10.1.1.5/24 dev eth0");
    let _host = lab.start(plan(0, &[GATEWAY]), false);
    let id = lab.hops.id(neighbor(0, GUEST)).expect("room");
    assert!(lab.becomes(id, Resolution::Reachable(GUEST_MAC)));
    assert!(!lab.router.run("ip address show dev eth0").contains("10.1.1.1"), "nothing changed");
}

#[test]
fn tagged_neighbors_are_asked_with_the_tag() {
    let Some(lab) = Lab::new("tag") else { return };
    let index = index(&lab.guest, "eth0");
    let socket = lab.guest.enter(|| PacketSocket::open(index, 0x0806)).expect("a socket");
    let _host = lab.start(plan(100, &[GATEWAY]), false);
    let id = lab.hops.id(neighbor(100, GUEST)).expect("room");
    // The guest's kernel has no interface for the tag: to it, the frame is a stranger's.
    let is_request = |message: &Arp, is_tagged: bool| {
        let expected = (GATEWAY, GUEST, ROUTER_MAC, ArpOperation::Request);
        let seen = (message.sender, message.target, message.sender_mac, message.operation);
        is_tagged && seen == expected
    };
    assert!(hears(&socket, SOON, is_request));
    // Here the pipeline hears the answer.
    lab.hops.set(neighbor(100, GUEST), Resolution::Reachable(GUEST_MAC));
    assert!(lab.becomes(id, Resolution::Reachable(GUEST_MAC)));
}

#[test]
fn a_claim_with_a_tag_is_not_heard_on_the_link_itself() {
    let Some(lab) = Lab::new("claim") else { return };
    let _host = lab.start(plan(0, &[GATEWAY]), false);
    let id = lab.hops.id(neighbor(0, GUEST)).expect("room");
    send_arp(&lab.guest, 7, (GUEST, MOVED_MAC), ArpOperation::Reply);
    send_arp(&lab.guest, 0, (GUEST, GUEST_MAC), ArpOperation::Reply);
    assert!(eventually(SOON, || lab.hops.resolution(id) != Resolution::Pending));
    assert_eq!(lab.hops.resolution(id), Resolution::Reachable(GUEST_MAC));
}

#[test]
fn managed_addresses_come_are_announced_and_go() {
    let Some(lab) = Lab::new("addr") else { return };
    let index = index(&lab.guest, "eth0");
    let socket = lab.guest.enter(|| PacketSocket::open(index, 0x0806)).expect("a socket");
    lab.router.run("ip address add 10.9.9.9/24 dev eth0");
    let (first, second) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11));
    let shows = |text: &str| lab.router.run("ip address show dev eth0").contains(text);

    let host = lab.start(plan(0, &[first]), true);
    assert!(shows("203.0.113.10/24"));
    let announces = |address: Ipv4Addr| {
        move |message: &Arp, _: bool| {
            message.sender == address
                && message.target == address
                && message.sender_mac == ROUTER_MAC
        }
    };
    assert!(hears(&socket, SOON, announces(first)));

    host.apply(plan(0, &[first, second]));
    assert!(hears(&socket, Duration::from_secs(1), announces(second)), "within a second");
    assert!(shows("203.0.113.11/24"));

    host.apply(plan(0, &[second]));
    assert!(eventually(SOON, || !shows("203.0.113.10/24")));
    assert!(shows("203.0.113.11/24") && shows("10.9.9.9/24"), "the others stay");

    // Somebody takes it away: it comes back. The process goes: it stays.
    lab.router.run("ip address del 203.0.113.11/24 dev eth0");
    assert!(eventually(SOON, || shows("203.0.113.11/24")));
    host.stop();
    assert!(shows("203.0.113.11/24"));

    // The next process knows which are natwerk's.
    let _host = lab.start(plan(0, &[first]), true);
    assert!(eventually(SOON, || !shows("203.0.113.11/24")));
    assert!(shows("203.0.113.10/24") && shows("10.9.9.9/24"));
}

#[test]
fn another_claimant_of_an_address_is_noticed() {
    let Some(lab) = Lab::new("dup") else { return };
    lab.guest.run("ip address add 203.0.113.10/24 dev eth0");
    let address = Ipv4Addr::new(203, 0, 113, 10);
    let host = lab.start(plan(0, &[address]), true);
    let is_noticed = || {
        let conflicts = host.view().conflicts;
        conflicts.iter().any(|conflict| (conflict.address, conflict.mac) == (address, GUEST_MAC))
    };
    assert!(eventually(SOON, is_noticed), "{:?}", host.view().conflicts);
}

#[test]
fn an_interface_may_come_and_go() {
    let Some(lab) = Lab::new("link") else { return };
    let host = lab.start(plan(0, &[GATEWAY]), true);
    assert!(lab.router.run("ip address show").contains("10.1.1.1/24"));
    lab.router.run("ip link del eth0");
    assert!(eventually(SOON, || host.view().index_of("eth0").is_none()));
    cable((&lab.router, "eth0"), (&lab.guest, "eth0"));
    assert!(eventually(SOON, || lab.router.run("ip address show").contains("10.1.1.1/24")));
    lab.guest.run(&format!("ip link set eth0 address {GUEST_MAC}"));
    lab.guest.run("ip address add 10.1.1.5/24 dev eth0");
    let id = lab.hops.id(neighbor(0, GUEST)).expect("room");
    assert!(lab.becomes(id, Resolution::Reachable(GUEST_MAC)));
}

#[test]
fn a_guest_that_moved_without_a_word_is_found() {
    let Some(lab) = Lab::new("quiet") else { return };
    lab.router.run("ip address add 10.1.1.1/24 dev eth0");
    lab.guest.run("ip address add 10.1.1.5/24 dev eth0");
    // The kernel's patience, cut short for the test.
    for (name, value) in [("base_reachable_time_ms", 200), ("delay_first_probe_time", 1)] {
        lab.router.run(&format!("sysctl -qw net.ipv4.neigh.eth0.{name}={value}"));
    }
    lab.router.run("sysctl -qw net.ipv4.neigh.eth0.retrans_time_ms=100");
    let _host = lab.start(plan(0, &[GATEWAY]), false);
    let id = lab.hops.id(neighbor(0, GUEST)).expect("room");
    assert!(lab.becomes(id, Resolution::Reachable(GUEST_MAC)));
    lab.guest.run("sysctl -qw net.ipv4.conf.eth0.arp_notify=0");
    lab.guest.run(&format!("ip link set eth0 address {MOVED_MAC}"));
    let found = eventually(Duration::from_secs(20), || {
        if lab.hops.link(id).destination == Resolution::Failed {
            lab.hops.want(id);
        }
        lab.hops.resolution(id) == Resolution::Reachable(MOVED_MAC)
    });
    assert!(found, "{:?}", lab.hops.resolution(id));
}
