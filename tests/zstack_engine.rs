//! What ZStack asks for beside addresses and forwards, on a running engine: policy routes over a second uplink, static
//! routes, blackholes, and what VIPs may send and receive. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use common::router::{CONFIG, LONG, Router, Running};
use common::{Namespace, cable, eventually};
use serde_json::{Value, json};

/// How long nothing must come until it is taken for lost.
const SILENCE: Duration = Duration::from_millis(700);

const PUBLIC: &str = "fa:16:3e:00:00:01";
const PRIVATE: &str = "fa:16:3e:00:00:02";
const SECOND: &str = "fa:16:3e:00:00:04";

/// Behind both uplinks.
const FAR: &str = "192.0.2.80";

/// A router with two uplinks, `first` the default; a guest with several addresses.
struct Lab {
    router: Router,
    guest: Namespace,
    first: Namespace,
    second: Namespace,
}

impl Lab {
    fn new() -> Option<Self> {
        // In this order: what was `eth2` is not renamed twice.
        let config = CONFIG.replace("eth2", "eth1").replace("eth0", "eth2");
        let config = config
            .replace("FOLDER/rules.json", "zstack:FOLDER/zstack")
            .replace("[workers]", "[[interface]]\nname = \"eth3\"\nrole = \"public\"\n[workers]");
        let router = Router::new(&format!("manage_addresses = true\n{config}"))?;
        let [guest, first, second] = ["guest", "first", "second"].map(Namespace::new);
        let (guest, first, second) = (guest?, first?, second?);
        for (name, mac, other, end) in [
            ("eth1", PUBLIC, &first, "f0"),
            ("eth2", PRIVATE, &guest, "g0"),
            ("eth3", SECOND, &second, "s0"),
        ] {
            cable((&router.namespace, name), (other, end));
            router.namespace.run(&format!("ip link set {name} address {mac}"));
        }
        first.run("ip address add 203.0.113.1/24 dev f0");
        second.run("ip address add 198.51.100.1/24 dev s0");
        for uplink in [&first, &second] {
            for far in [FAR, "172.20.0.1", "172.21.0.1"] {
                uplink.run(&format!("ip address add {far}/32 dev lo"));
            }
        }
        for last in [50, 51] {
            guest.run(&format!("ip address add 192.168.10.{last}/24 dev g0"));
        }
        guest.run("ip route add default via 192.168.10.1");
        fs::create_dir(router.path("zstack")).expect("a folder");
        let lab = Self { router, guest, first, second };
        lab.boot();
        Some(lab)
    }

    fn boot(&self) {
        let nic = |name, mac, ip, gateway, category| {
            json!({"deviceName": name, "mac": mac, "ip": ip, "netmask": "255.255.255.0", "gateway": gateway,
                   "isDefaultRoute": name == "eth1", "category": category, "mtu": 1500})
        };
        let boot = json!({
            "managementNic": nic("eth0", "fa:16:3e:00:00:00", "10.9.0.2", "", "Public"),
            "additionalNics": [
                nic("eth1", PUBLIC, "203.0.113.5", "203.0.113.1", "Public"),
                nic("eth2", PRIVATE, "192.168.10.1", "192.168.10.1", "Private"),
                nic("eth3", SECOND, "198.51.100.5", "198.51.100.1", "Public"),
            ],
            "uuid": "u",
        });
        self.router.write("zstack/bootstrap-info.json", &boot.to_string());
    }

    /// Records these requests in place of all others, whole.
    fn record(&self, requests: &[(&str, Value)]) {
        let lines = requests.iter().zip(1..).map(|((path, body), step)| {
            let request =
                json!({"step": step, "method": "POST", "path": path, "body": body.to_string()});
            format!("{request}\n")
        });
        let new = self.router.write("new", &lines.collect::<String>());
        fs::rename(new, self.router.path("zstack/requests.jsonl")).expect("renamed");
    }

    /// The same, and waits until the engine goes by them.
    fn change(&self, requests: &[(&str, Value)]) {
        let generation = || -> Value {
            let policy = self.router.says("show policy --json");
            serde_json::from_str::<Value>(&policy).expect("JSON")["last_reload"]["generation"]
                .clone()
        };
        let before = generation();
        self.record(requests);
        assert!(eventually(LONG, || generation() != before), "{}", self.router.log());
    }

    /// Has `name` answer datagrams to `at` in `namespace`: who it is, and who asked.
    fn serve(namespace: &Namespace, name: &'static str, at: &str) {
        let socket = namespace.enter(|| UdpSocket::bind(at).expect("a port"));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        });
    }

    fn socket(namespace: &Namespace, from: &str) -> UdpSocket {
        let socket = namespace.enter(|| UdpSocket::bind((from, 0)).expect("a port"));
        socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        socket
    }

    /// Who answers what a guest sends, and as whom it was seen.
    fn ask(&self, to: &str) -> Option<String> {
        self.ask_from(&Self::socket(&self.guest, "192.168.10.50"), to)
    }

    fn ask_from(&self, socket: &UdpSocket, to: &str) -> Option<String> {
        let mut buffer = [0; 64];
        socket.send_to(b"who?", to).ok()?;
        let (count, _) = socket.recv_from(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    /// How many of a hundred datagrams of 1,428 bytes from outside are answered.
    fn answered(&self, to: &str) -> usize {
        let socket = Self::socket(&self.first, "0.0.0.0");
        for _ in 0..100 {
            socket.send_to(&[7; 1400], to).expect("sent");
        }
        std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count()
    }
}

fn snats() -> (&'static str, Value) {
    let snat = |mac, ip| {
        json!({"publicNicMac": mac, "publicIp": ip, "privateNicMac": PRIVATE, "privateNicIp": "192.168.10.1",
               "privateGatewayIp": "192.168.10.1", "snatNetmask": "255.255.255.0", "state": true})
    };
    let snats = [snat(PUBLIC, "203.0.113.5"), snat(SECOND, "198.51.100.5")];
    ("/syncsnat", json!({"snats": snats, "enable": true}))
}

/// Guests' datagrams to port 443 go by the second uplink.
fn by_the_second(port: &str) -> (&'static str, Value) {
    let policies = json!({
        "ruleSets": [{"ruleSetName": "rs1", "system": false}],
        "rules": [{"ruleSetName": "rs1", "ruleNumber": 1, "destPort": port, "protocol": "udp", "sourcePort": "",
                   "sourceIp": "192.168.10.0/24", "destIp": "", "state": "enable", "tableNumber": 180}],
        "tableNumbers": [180],
        "routes": [{"tableNumber": 180, "destinationCidr": "0.0.0.0/0", "nextHopIp": "198.51.100.1",
                    "outNicMic": "", "distance": 1}],
        "refs": [{"ruleSetName": "rs1", "mac": PRIVATE}],
        "markConntrack": true,
    });
    ("/policyroute/sync", policies)
}

fn start(lab: &Lab) -> Running {
    for (namespace, name) in [(&lab.first, "first"), (&lab.second, "second")] {
        for at in [&format!("{FAR}:443"), &format!("{FAR}:80"), "172.20.0.1:80", "172.21.0.1:80"] {
            Lab::serve(namespace, name, at);
        }
    }
    lab.router.start()
}

#[test]
fn policy_routes_lead_guests_over_another_uplink_and_with_its_address() {
    let Some(lab) = Lab::new() else { return };
    let routes = |gone: &str| {
        json!({"routes": [{"destination": "172.20.0.0/16", "target": "198.51.100.1", "distance": 10},
                          {"destination": gone, "target": "", "distance": 128}]})
    };
    lab.record(&[snats(), ("/syncroutes", routes("172.21.0.0/16")), by_the_second("443")]);
    let _engine = start(&lab);
    let steered = Lab::socket(&lab.guest, "192.168.10.50");
    let to_443 = format!("{FAR}:443");
    let steered_by = || lab.ask_from(&steered, &to_443);
    // The first datagrams of all wait for the routers' addresses.
    assert!(eventually(LONG, || steered_by().is_some()), "{}", lab.router.log());
    let (second, first) = (Some("second 198.51.100.5"), Some("first 203.0.113.5"));
    assert_eq!(steered_by().as_deref(), second);
    assert_eq!(lab.ask(&format!("{FAR}:80")).as_deref(), first);
    assert_eq!(lab.ask("172.20.0.1:80").as_deref(), second, "a static route");
    assert_eq!(lab.ask("172.21.0.1:80"), None, "a blackhole");
    // What was steered goes the other way as soon as the rule is another, and comes back again.
    lab.change(&[snats(), ("/syncroutes", routes("172.20.0.0/16")), by_the_second("80")]);
    assert_eq!(steered_by().as_deref(), first, "a session that lived");
    assert_eq!(lab.ask(&format!("{FAR}:80")).as_deref(), second);
    assert_eq!(lab.ask("172.20.0.1:80").as_deref(), second, "the policy goes before the blackhole");
    assert_eq!(lab.ask("172.21.0.1:80").as_deref(), second);
    lab.change(&[snats()]);
    for port in ["443", "80"] {
        assert_eq!(lab.ask(&format!("{FAR}:{port}")).as_deref(), first);
    }
}

#[test]
fn a_vip_passes_what_its_limit_says_and_others_are_not_touched() {
    let Some(lab) = Lab::new() else { return };
    let vip = |ip: &str| json!({"ip": ip, "netmask": "255.255.255.0", "gateway": "203.0.113.1", "ownerEthernetMac": PUBLIC});
    let eip = |vip: &str, guest: &str| json!({"vipIp": vip, "privateMac": PRIVATE, "guestIp": guest, "publicMac": PUBLIC, "snatInboundTraffic": false});
    let vips = ("/createvip", json!({"vips": [vip("203.0.113.21"), vip("203.0.113.22")]}));
    let eips = json!({"eips": [eip("203.0.113.21", "192.168.10.50"), eip("203.0.113.22", "192.168.10.51")]});
    let eips = ("/synceip", eips);
    // A thousand bytes a second, after a burst of 64 KiB: 45 such datagrams.
    let limit = |port: u16, inbound: i64, outbound: i64| {
        json!({"vip": "203.0.113.21", "publicNic": PUBLIC, "vipUuid": "v", "port": port, "inboundBandwidth": inbound,
               "outboundBandwidth": outbound, "type": "", "hasVipQos": true, "sharedQosUuid": "", "update": false})
    };
    let limits = |limit: Value| ("/setvipqos", json!({"vipQosSettings": [limit]}));
    lab.record(&[vips.clone(), eips.clone(), limits(limit(0, 8000, -1))]);
    for guest in ["192.168.10.50:80", "192.168.10.51:80", "192.168.10.50:81"] {
        Lab::serve(&lab.guest, "guest", guest);
    }
    let _engine = lab.router.start();
    assert!(eventually(LONG, || lab.answered("203.0.113.22:80") > 0), "{}", lab.router.log());
    let limited = lab.answered("203.0.113.21:80");
    assert!((30..80).contains(&limited), "{limited} of 100 passed");
    assert!(lab.answered("203.0.113.22:80") > 90);
    let rows: Value =
        serde_json::from_str(&lab.router.says("show addresses --json")).expect("JSON");
    let row = |address: &str| {
        let rows = rows.as_array().expect("rows").iter();
        rows.clone().find(|row| row["public_ip"] == address).expect("a row").clone()
    };
    assert!(row("203.0.113.21")["rate_exceeded_in"].as_u64() >= Some(20), "{rows}");
    assert!(
        row("203.0.113.21")["packets_in"].as_u64() < row("203.0.113.22")["packets_in"].as_u64()
    );
    // A limit of a port leaves the others alone.
    lab.change(&[vips.clone(), eips.clone(), limits(limit(81, 8000, -1))]);
    assert!(lab.answered("203.0.113.21:80") > 90);
    let limited = lab.answered("203.0.113.21:81");
    assert!((30..80).contains(&limited), "{limited} of 100 passed");
    lab.change(&[
        vips,
        eips,
        limits(limit(0, 8000, -1)),
        ("/deletevipqos", json!({"vipQosSettings": [limit(0, 8000, -1)]})),
    ]);
    assert!(lab.answered("203.0.113.21:81") > 90, "a limit that was taken away");
}
