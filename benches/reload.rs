//! How long a change of a rule file takes to be in force in a running engine, as packets see it, and whether sessions
//! that it does not concern lose any. Needs root; says so and ends when it is not.
//!
//! A router between a guest and the internet has `count` rules. Each round replaces a rule file so that another public
//! port leads to the guest, and the internet sends to that port until the guest answers. Meanwhile a session of other
//! rules sends a thousand datagrams a second and counts the answers.
//!
//! `cargo bench --bench reload [-- COUNT…]`

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::router::Router;
use common::{Namespace, eventually};
use serde_json::Value;

const ROUNDS: u16 = 9;
const LONG: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
rules = ["RULES"]
state_dir = "FOLDER/state"
control_socket = "FOLDER/control.sock"
manage_addresses = true
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
"#;

/// Where the rules come from.
#[derive(Clone, Copy)]
enum Source {
    CloudStack,
    Native,
}

/// A router between a guest and the internet.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
    source: Source,
    count: usize,
}

impl Lab {
    fn new(source: Source, count: usize) -> Option<Self> {
        let rules = match source {
            Source::CloudStack => "cloudstack:FOLDER/in/router",
            Source::Native => "FOLDER/in/rules",
        };
        let router = Router::new(&CONFIG.replace("RULES", rules))?;
        let (guest, internet) = router.between()?;
        let lab = Self { router, guest, internet, source, count };
        match source {
            Source::CloudStack => lab.cloudstack(),
            Source::Native => lab.native(),
        }
        Some(lab)
    }

    /// Puts a file in its place, whole.
    fn put(&self, name: &str, text: &str) {
        let path = self.router.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::rename(self.router.write("landing", text), path).expect("renamed");
    }

    /// Half of the rules are port forwards, half the firewall rules for them, on 64 addresses.
    fn rules(&self) -> impl Iterator<Item = (usize, String, usize, usize)> {
        let public = |number: usize| format!("203.0.113.{}", number % 64 + 100);
        (0..self.count / 2)
            .map(move |number| (number, public(number), number / 64 + 1, number % 200 + 20))
    }

    fn native(&self) {
        let (mut forwards, mut firewall) = (Vec::new(), Vec::new());
        for (number, public, port, guest) in self.rules() {
            forwards.push(format!(
                r#"{{"id": "p{number}", "public_ip": "{public}", "protocol": "tcp", "public_ports": "{port}", "network": "web", "guest_ip": "10.1.1.{guest}", "guest_ports": "{port}"}}"#
            ));
            firewall.push(format!(
                r#"{{"id": "f{number}", "public_ip": "{public}", "protocol": "tcp", "ports": "{port}", "sources": ["198.51.100.0/24"]}}"#
            ));
        }
        let addresses: Vec<String> = [10, 11]
            .into_iter()
            .chain(100..164)
            .map(|last| {
                format!(
                    r#"{{"address": "203.0.113.{last}", "prefix_len": 24, "interface": "eth2"}}"#
                )
            })
            .collect();
        self.put("in/rules/a.json", &format!(
            r#"{{"version": 1, "public_ips": [{}], "networks": [{{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
               "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"]}}], "port_forwards": [{}], "firewall_rules": [{}]}}"#,
            addresses.join(","), forwards.join(",\n"), firewall.join(",\n")
        ));
        self.put("in/rules/b.json", r#"{"version": 1, "firewall_rules": [
            {"id": "open", "public_ip": "203.0.113.11", "protocol": "udp", "ports": "50000-60000"}], "port_forwards": [
            {"id": "steady", "public_ip": "203.0.113.11", "protocol": "udp", "public_ports": "50000", "network": "web",
             "guest_ip": "10.1.1.5", "guest_ports": "8"}]}"#);
        self.change(0);
    }

    fn cloudstack(&self) {
        self.put(
            "in/router/cmdline",
            "name=r-1-VM type=router eth0ip=10.1.1.1 eth0mask=255.255.255.0",
        );
        let address = |last: usize| {
            format!(
                r#"{{"public_ip": "203.0.113.{last}", "source_nat": {}, "add": true, "gateway": "203.0.113.1",
                   "netmask": "255.255.255.0", "nic_dev_id": 2, "nw_type": "public"}}"#,
                last == 10
            )
        };
        let addresses: Vec<String> = [10, 11].into_iter().chain(100..164).map(address).collect();
        self.put(
            "in/router/ips.json",
            &format!(r#"{{"eth2": [{}], "id": "ips"}}"#, addresses.join(",")),
        );
        let rule = |number: usize, public: &str, protocol: &str, ports: (usize, usize)| {
            let (first, last) = ports;
            format!(
                r#""{number}": {{"id": {number}, "src_ip": "{public}", "protocol": "{protocol}", "src_port_range": [{first}, {last}],
                   "revoked": false, "source_cidr_list": ["198.51.100.0/24", "203.0.113.0/24"], "purpose": "Firewall",
                   "traffic_type": "Ingress", "default_egress_policy": false}}"#
            )
        };
        let mut firewall: Vec<String> = self
            .rules()
            .map(|(number, public, port, _)| rule(number + 10, &public, "tcp", (port, port)))
            .collect();
        firewall.push(rule(1, "203.0.113.11", "udp", (50_000, 60_000)));
        let mut forwards: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        let forward = |public: &str,
                       protocol: &str,
                       port: usize,
                       guest: usize,
                       guest_port: usize| {
            format!(
                r#"{{"type": "forward", "public_ip": "{public}", "internal_ip": "10.1.1.{guest}", "public_ports": "{port}:{port}",
                   "internal_ports": "{guest_port}:{guest_port}", "protocol": "{protocol}", "source_cidr_list": ""}}"#
            )
        };
        for (_, public, port, guest) in self.rules() {
            let text = forward(&public, "tcp", port, guest, port);
            forwards.entry(public).or_default().push(text);
        }
        let steady = forward("203.0.113.11", "udp", 50_000, 5, 8);
        forwards.entry("203.0.113.11".to_owned()).or_default().push(steady);
        let forwards: Vec<String> = forwards
            .iter()
            .map(|(public, list)| format!(r#""{public}": [{}]"#, list.join(",")))
            .collect();
        self.put(
            "in/router/firewallrules.json",
            &format!(r#"{{{}, "id": "firewallrules"}}"#, firewall.join(",\n")),
        );
        self.put(
            "in/router/forwardingrules.json",
            &format!(r#"{{{}, "id": "forwardingrules"}}"#, forwards.join(",\n")),
        );
        self.change(0);
    }

    /// Has the public port of `round` lead to the guest.
    fn change(&self, round: u16) {
        let port = 50_001 + round;
        match self.source {
            Source::Native => self.put("in/rules/c.json", &format!(
                r#"{{"version": 1, "port_forwards": [{{"id": "changes", "public_ip": "203.0.113.11", "protocol": "udp",
                   "public_ports": "{port}", "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "8"}}]}}"#
            )),
            Source::CloudStack => self.put(&format!("in/router/cache/forwarding_rules.json.{round:03}"), &format!(
                r#"{{"rules":[{{"revoke":false,"protocol":"udp","source_ip_address":"203.0.113.11","source_port_range":"{port}:{port}",
                   "destination_ip_address":"10.1.1.5","destination_port_range":"8:8","source_cidr_list":""}}],"type":"forwardrules"}}"#
            )),
        }
    }

    /// The last reload, as the engine tells it.
    fn last_reload(&self) -> Value {
        let policy: Value =
            serde_json::from_str(&self.router.says("show policy --json")).expect("JSON");
        policy["last_reload"].clone()
    }

    /// From the change of `round` until the guest answers through it.
    fn round(&self, round: u16) -> Duration {
        self.internet.enter(|| {
            let socket = UdpSocket::bind("203.0.113.1:0").expect("a port");
            socket.set_read_timeout(Some(Duration::from_micros(500))).expect("set");
            socket.connect(("203.0.113.11", 50_001 + round)).expect("connected");
            let started = Instant::now();
            self.change(round);
            let answered = || {
                let _ = socket.send(b"?");
                socket.recv(&mut [0; 8]).is_ok()
            };
            while !answered() {
                assert!(started.elapsed() < LONG, "{}", self.router.log());
            }
            started.elapsed()
        })
    }
}

/// Sends a thousand datagrams a second through the session of a rule that never changes. Returns how many, and how
/// many were not answered.
fn steady(done: &AtomicBool) -> (u64, u64) {
    let socket = UdpSocket::bind("203.0.113.1:0").expect("a port");
    socket.connect("203.0.113.11:50000").expect("connected");
    socket.set_nonblocking(true).expect("set");
    let (mut sent, mut answered) = (0, 0);
    let take = |answered: &mut u64| {
        while socket.recv(&mut [0; 8]).is_ok() {
            *answered += 1;
        }
    };
    while !done.load(Ordering::Relaxed) {
        sent += u64::from(socket.send(b"?").is_ok());
        std::thread::sleep(Duration::from_millis(1));
        take(&mut answered);
    }
    std::thread::sleep(Duration::from_millis(300));
    take(&mut answered);
    (sent, sent - answered)
}

fn measure(source: Source, count: usize) -> bool {
    let Some(lab) = Lab::new(source, count) else { return false };
    let answering = lab.guest.enter(|| UdpSocket::bind("10.1.1.5:8").expect("a port"));
    std::thread::spawn(move || {
        let mut datagram = [0; 8];
        while let Ok((length, from)) = answering.recv_from(&mut datagram) {
            let _ = answering.send_to(&datagram[..length], from);
        }
    });
    let _engine = lab.router.start();
    // Neighbours are known, sessions open.
    lab.round(0);
    let done = AtomicBool::new(false);
    let (mut rounds, mut waited, mut in_force, mut whole) = (vec![], vec![], vec![], vec![]);
    let (sent, lost) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| lab.internet.enter(|| steady(&done)));
        for round in 1..=ROUNDS {
            let before = lab.last_reload();
            rounds.push(u64::try_from(lab.round(round).as_millis()).unwrap_or(u64::MAX));
            eventually(LONG, || lab.last_reload()["generation"] != before["generation"]);
            let report = lab.last_reload();
            let ms = |name: &str| report[name].as_u64().unwrap_or_default();
            waited.push(ms("waited_ms"));
            in_force.push(ms("in_force_ms"));
            whole.push(ms("duration_ms"));
        }
        done.store(true, Ordering::Relaxed);
        sending.join().expect("sent")
    });
    let name = match source {
        Source::CloudStack => "cloudstack",
        Source::Native => "native",
    };
    println!(
        "| {name} | {count} | {} | {} | {} | {} | {lost} of {sent} |",
        spread(rounds),
        spread(waited),
        spread(in_force),
        spread(whole)
    );
    true
}

/// Median, least and most.
fn spread(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let [first, .., last] = times.as_slice() else { return String::new() };
    format!("{} ({first} to {last})", times[times.len() / 2])
}

fn main() {
    let counts: Vec<usize> =
        std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let counts = if counts.is_empty() { vec![100, 1_000, 10_000, 100_000] } else { counts };
    println!(
        "| rules from | rules | change to in force, ms | of that waiting for files | reading to in force | sessions looked at | lost packets |"
    );
    println!("|---|---|---|---|---|---|---|");
    for source in [Source::Native, Source::CloudStack] {
        for &count in &counts {
            if !measure(source, count) {
                return;
            }
        }
    }
}
