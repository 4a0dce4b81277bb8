//! Networks inside VXLAN, with the kernel's own vxlan devices as the other VTEPs, and under two tags,
//! on a running engine. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::net::Ipv4Addr;

use common::router::{CONFIG, LONG, Router, installed, output};
use common::{Namespace, cable, eventually};
use natwerk::flow::Mac;
use natwerk::io::packet::PacketSocket;
use natwerk::io::xdp::device::Device;
use natwerk::testing::packets::Packet;
use natwerk::wire::arp::{Arp, ArpOperation};
use natwerk::wire::parse::{Kind, parse};

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2"}],
    "networks": [
        {"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
         "source_nat": ["203.0.113.10"],
         "vxlan": {"vni": 5001, "local": "172.31.0.1", "prefix_len": 24, "remotes": ["172.31.0.3"]}},
        {"name": "other", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
         "source_nat": ["203.0.113.10"],
         "vxlan": {"vni": 5002, "local": "172.31.0.1", "prefix_len": 24}},
        {"name": "twice", "interface": "eth0", "vlan": 100, "outer_tag": {"vlan": 200},
         "cidr": "10.1.1.0/24", "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"]}],
    "firewall_rules": [{"id": "f", "public_ip": "203.0.113.10", "protocol": "tcp", "ports": "8080"}],
    "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "tcp", "public_ports": "8080",
        "network": "web", "guest_ip": "10.1.1.6", "guest_ports": "80"}]
}"#;

/// A router with its underlay `eth0` on a switch, and the internet.
struct Lab {
    router: Router,
    switch: Namespace,
    internet: Namespace,
}

impl Lab {
    fn new() -> Option<Self> {
        let router = Router::new(CONFIG)?;
        let (switch, internet) = (Namespace::new("switch")?, Namespace::new("internet")?);
        switch.run("ip link add underlay type bridge");
        switch.run("ip link set underlay up");
        cable((&router.namespace, "eth0"), (&switch, "router"));
        switch.run("ip link set router master underlay");
        cable((&router.namespace, "eth2"), (&internet, "i0"));
        router.namespace.run("ip address add 172.31.0.1/24 dev eth0");
        router.namespace.run("ip address add 203.0.113.10/24 dev eth2");
        internet.run("ip address add 203.0.113.1/24 dev i0");
        router.write("rules.json", RULES);
        Some(Self { router, switch, internet })
    }

    /// A host with the VTEP 172.31.0.`last`; a guest of the network `vni` is on its kernel's device.
    fn host(&self, last: u8, vni: u32, guest: &str) -> Option<Namespace> {
        let host = Namespace::new("vtep")?;
        let port = format!("vtep{last}");
        cable((&host, "u0"), (&self.switch, &port));
        self.switch.run(&format!("ip link set {port} master underlay"));
        host.run(&format!("ip address add 172.31.0.{last}/24 dev u0"));
        let added = host.succeeds(&format!(
            "ip link add vx0 type vxlan id {vni} local 172.31.0.{last} remote 172.31.0.1 dstport 4789 dev u0"
        ));
        if !added {
            println!("skipped: this kernel has no vxlan devices");
            return None;
        }
        host.run(&format!("ip address add {guest}/24 dev vx0"));
        host.run("ip link set vx0 up");
        host.run("ip route add default via 10.1.1.1");
        Some(host)
    }

    fn drops(&self) -> String {
        self.router.says("show drops --json")
    }
}

#[test]
fn guests_behind_the_kernels_vxlan_devices_are_served() {
    if !installed(&["iperf3", "curl", "nc", "python3"]) {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    // The first VTEP is learned, the second is listed and its guest says nothing by itself.
    let Some(guest) = lab.host(2, 5001, "10.1.1.5") else { return };
    let Some(silent) = lab.host(3, 5001, "10.1.1.6") else { return };
    let Some(other) = lab.host(4, 5002, "10.1.1.5") else { return };
    let Some(stranger) = lab.host(5, 6000, "10.1.1.5") else { return };
    let _engine = lab.router.start();
    let log = || lab.router.log();
    for tenant in [&guest, &other] {
        assert!(tenant.succeeds("ping -c1 -W2 10.1.1.1"), "the gateway\n{}{}", log(), lab.drops());
        let out = "ping -c3 -i0.2 -W2 203.0.113.1";
        assert!(eventually(LONG, || tenant.succeeds(out)), "{}{}", log(), lab.drops());
    }
    // What just fits into the underlay's frames does, and what does not is told of.
    assert!(guest.succeeds("ping -c1 -W2 -M do -s 1422 203.0.113.1"), "{}", lab.drops());
    assert!(guest.succeeds("ping -c1 -W2 -s 4000 203.0.113.1"), "fragments: {}", lab.drops());
    assert!(!lab.internet.succeeds("ping -c1 -W1 10.1.1.5"));

    // Somebody has to ask for the silent one first, over every VTEP of its network.
    let web = "python3 -m http.server 80 --bind 10.1.1.6";
    let _web = lab.router.background(&silent, web);
    let fetch = "curl -sf -m2 -o /dev/null http://203.0.113.10:8080/";
    assert!(eventually(LONG, || lab.internet.succeeds(fetch)), "{}{}", log(), lab.drops());

    let _server = lab.router.background(&lab.internet, "iperf3 -s");
    for way in ["", "-R"] {
        let run = format!("iperf3 -c 203.0.113.1 -t 2 {way} -J");
        assert!(eventually(LONG, || guest.succeeds(&run)), "{way} {}{}", log(), lab.drops());
    }

    assert!(!stranger.succeeds("ping -c1 -W1 10.1.1.1"));
    assert!(lab.drops().contains("vxlan_unknown_vni"), "{}", lab.drops());
    let neighbors = lab.router.says("show neighbors");
    assert!(neighbors.contains("VNI 5001") && neighbors.contains("VNI 5002"), "{neighbors}");
}

#[test]
fn a_station_that_moves_to_another_vtep_is_followed() {
    let Some(lab) = Lab::new() else { return };
    let Some(first) = lab.host(2, 5001, "10.1.1.5") else { return };
    let Some(second) = lab.host(4, 5001, "10.1.1.5") else { return };
    let mac = "02:00:00:00:00:55";
    first.run(&format!("ip link set vx0 address {mac}"));
    second.run("ip link set vx0 down");
    second.run(&format!("ip link set vx0 address {mac}"));
    let _engine = lab.router.start();
    let out = "ping -c1 -W2 203.0.113.1";
    assert!(eventually(LONG, || first.succeeds(out)), "{}{}", lab.router.log(), lab.drops());
    first.run("ip link set vx0 down");
    second.run("ip link set vx0 up");
    second.run("ip route replace default via 10.1.1.1");
    assert!(eventually(LONG, || second.succeeds(out)), "{}{}", lab.router.log(), lab.drops());
}

/// A frame under both tags of the network `twice`.
fn twice(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
    frame
}

#[test]
fn a_guest_under_two_tags_is_served() {
    if !installed(&["ethtool"]) {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    for (namespace, device) in [(&lab.router.namespace, "eth0"), (&lab.switch, "router")] {
        namespace.run(&format!("ethtool -K {device} rxvlan off txvlan off"));
    }
    let _engine = lab.router.start();
    // The bridge is in the way of raw frames.
    lab.switch.run("ip link set router nomaster");
    let socket = lab.switch.enter(|| {
        let device = Device::find("router").expect("the device");
        PacketSocket::open(device.index, 3).expect("a socket")
    });
    // The kernel takes the outer tag off before a packet socket sees the frame.
    let hears = |wanted: &dyn Fn(&[u8]) -> bool| {
        let mut buffer = [0; 2048];
        eventually(LONG, || {
            while let Ok(Some(received)) = socket.receive(&mut buffer) {
                if wanted(&buffer[..received.length]) {
                    return true;
                }
            }
            false
        })
    };
    let (address, gateway) = (Ipv4Addr::new(10, 1, 1, 5), Ipv4Addr::new(10, 1, 1, 1));
    let mac = Mac([2, 0, 0, 0, 0, 0x77]);
    let say = |operation, target, to: Mac| {
        let message =
            Arp { vlan: 0, operation, sender_mac: mac, sender: address, target_mac: to, target };
        let mut frame = vec![0; 60];
        natwerk::wire::arp::write(&mut frame, mac, to, &message).expect("it fits");
        socket.send(&twice(frame)).expect("sent");
    };
    let router = std::cell::Cell::new(Mac::default());
    say(ArpOperation::Request, gateway, Mac::BROADCAST);
    let answered = hears(&|frame| {
        let told = natwerk::wire::arp::parse(frame)
            .filter(|arp| arp.vlan == 100 && arp.operation == ArpOperation::Reply);
        told.inspect(|arp| router.set(arp.sender_mac)).is_some()
    });
    assert!(answered, "ARP: {}{}", lab.router.log(), lab.drops());
    for to in [gateway, Ipv4Addr::new(203, 0, 113, 1)] {
        let mut frame = Packet::echo(address, to, 8, 77, b"twice").frame();
        frame[..6].copy_from_slice(&router.get().0);
        frame[6..12].copy_from_slice(&mac.0);
        socket.send(&twice(frame)).expect("sent");
        let answered = hears(&|frame| {
            parse(frame).is_ok_and(|packet| {
                packet.vlan == 100
                    && packet.kind == Kind::IcmpQuery { icmp_type: 0 }
                    && packet.source.address == to
            })
        });
        assert!(answered, "{to}: {}{}", lab.router.log(), lab.drops());
    }
    // A tag that no network has does not even get to the dataplane.
    let mut unknown = Packet::echo(address, gateway, 8, 77, b"twice").frame();
    unknown.splice(12..12, [0x88, 0xa8, 0, 201, 0x81, 0, 0, 100]);
    socket.send(&unknown).expect("sent");
    let counted = || output(&mut lab.router.natwerk("show workers --json"));
    let is_counted = || {
        let workers: serde_json::Value = serde_json::from_str(&counted()).expect("JSON");
        let interfaces = workers["interfaces"].as_array().expect("a list").clone();
        interfaces.iter().any(|it| it["kernel"]["dropped_unknown_tag"].as_u64() > Some(0))
    };
    assert!(eventually(LONG, is_counted), "{}", counted());
}
