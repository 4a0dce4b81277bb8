//! Load balancers with a running engine and live members: whom the router finds dead gets no new client, whoever comes
//! back does, and a drained member keeps what it has. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Namespace, cable, eventually};

const LONG: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
rules = ["FOLDER/rules.json"]
state_dir = "FOLDER/state"
control_socket = "FOLDER/control.sock"
manage_addresses = true
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
[workers]
frames = 4096
[sessions]
max = 4096
"#;

/// Rules in which member 10.1.1.5 has this weight.
fn rules(weight: u16) -> String {
    format!(
        r#"{{"version": 1,
        "public_ips": [{{"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "ingress_default": "allow"}}],
        "networks": [{{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1"}}],
        "load_balancers": [{{"id": "l", "public_ip": "203.0.113.11", "protocol": "tcp", "public_port": 80,
            "network": "web", "algorithm": "round-robin",
            "health_check": {{"interval_seconds": 1, "timeout_seconds": 1, "healthy_after": 1, "unhealthy_after": 2}},
            "members": [{{"guest_ip": "10.1.1.5", "guest_port": 8080, "weight": {weight}}},
                        {{"guest_ip": "10.1.1.6", "guest_port": 8080}}]}}]}}"#
    )
}

struct Lab {
    router: Namespace,
    guest: Namespace,
    client: Namespace,
    folder: tempfile::TempDir,
}

struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A member that listens until it is told not to. Connections that it has go on.
struct Server(Arc<AtomicBool>, std::thread::JoinHandle<()>);

impl Lab {
    fn new() -> Option<Self> {
        let [router, guest, client] = ["router", "guest", "client"].map(Namespace::new);
        let (router, guest, client) = (router?, guest?, client?);
        cable((&router, "eth0"), (&guest, "g0"));
        cable((&router, "eth2"), (&client, "c0"));
        guest.run("ip address add 10.1.1.5/24 dev g0");
        guest.run("ip address add 10.1.1.6/24 dev g0");
        guest.run("ip route add default via 10.1.1.1");
        client.run("ip address add 203.0.113.1/24 dev c0");
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().to_str().expect("a name").to_owned();
        fs::write(folder.path().join("natwerk.toml"), CONFIG.replace("FOLDER", &name))
            .expect("written");
        let lab = Self { router, guest, client, folder };
        lab.write_rules(1);
        Some(lab)
    }

    fn write_rules(&self, weight: u16) {
        fs::write(self.folder.path().join("rules.json"), rules(weight)).expect("written");
    }

    fn natwerk(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.router.name(), env!("CARGO_BIN_EXE_natwerk")]);
        command.args(words).arg("--config").arg(self.folder.path().join("natwerk.toml"));
        command
    }

    fn start(&self) -> Engine {
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        let mut child =
            self.natwerk(&["run"]).stdout(Stdio::piped()).stderr(log).spawn().expect("started");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("read");
        assert!(line.starts_with("ready "), "{line:?}");
        Engine(child)
    }

    fn serve(&self, address: &'static str) -> Server {
        let listener = self.guest.enter(|| TcpListener::bind((address, 8080)).expect("a port"));
        listener.set_nonblocking(true).expect("a socket");
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopping);
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).expect("a socket");
                        std::thread::spawn(move || echo(stream, address));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Server(is_stopping, thread)
    }

    /// A connection from outside, and which member answers.
    fn connect(&self) -> Option<(TcpStream, String)> {
        let to: SocketAddr = "203.0.113.11:80".parse().expect("an endpoint");
        self.client.enter(|| {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
            let mut line = String::new();
            BufReader::new(stream.try_clone().ok()?).read_line(&mut line).ok()?;
            Some((stream, line.trim().to_owned()))
        })
    }

    /// What `show balancers` says of the health of a member.
    fn health(&self, member: &str) -> String {
        let shown = self.natwerk(&["show", "balancers", "--json"]).output().expect("run");
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let rows = rows.as_array().expect("rows");
        let row = rows.iter().find(|row| row["member"] == format!("{member}:8080"));
        row.expect("the member")["health"].as_str().expect("a word").to_owned()
    }

    /// What `explain --live` says of a packet from outside.
    fn live(&self, packet: &str) -> String {
        let said = self.natwerk(&["explain", "--live", "--in", "eth2", packet]).output();
        let said = said.expect("run");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Which members answer so many new clients.
    fn answers(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.connect().map_or("nobody".to_owned(), |(_, who)| who)).collect()
    }
}

impl Server {
    fn stop(self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.join().expect("it ends");
    }
}

fn echo(mut stream: TcpStream, name: &str) {
    let _ = stream.write_all(format!("{name}\n").as_bytes());
    let mut buffer = [0; 64];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn lives(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.write_all(b"here").is_ok() && stream.read_exact(&mut buffer).is_ok()
}

#[test]
fn dead_members_get_nobody_until_they_are_back_and_drained_ones_keep_what_they_have() {
    let Some(lab) = Lab::new() else { return };
    let (_five, six) = (lab.serve("10.1.1.5"), lab.serve("10.1.1.6"));
    let _engine = lab.start();
    let is = |member: &str, word: &str| eventually(LONG, || lab.health(member) == word);
    assert!(is("10.1.1.5", "up") && is("10.1.1.6", "up"));
    let answers = lab.answers(4);
    assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "{answers:?}");

    // The running engine knows which session a packet belongs to, and where it goes.
    let (stream, who) = lab.connect().expect("a session");
    let from = stream.local_addr().expect("an address");
    let live = lab.live(&format!("tcp {from} > 203.0.113.11:80 [ack]"));
    assert!(live.contains("it belongs to session ") && live.contains("load-balancer:l"), "{live}");
    assert!(live.contains(&format!("next hop {who} on eth0: reachable at ")), "{live}");
    let live = lab.live("tcp 203.0.113.1:9 > 203.0.113.11:80 [syn]");
    assert!(live.contains("live     no session has it"), "{live}");

    let mut sessions: Vec<_> = (0..2).filter_map(|_| lab.connect()).collect();
    six.stop();
    assert!(is("10.1.1.6", "down"), "{}", lab.health("10.1.1.6"));
    assert_eq!(lab.answers(4), ["10.1.1.5"; 4]);
    // What a dead member still answers is not cut.
    assert!(sessions.iter_mut().all(|(stream, _)| lives(stream)));

    let _six = lab.serve("10.1.1.6");
    assert!(is("10.1.1.6", "up"));
    assert!(lab.answers(4).contains(&"10.1.1.6".to_owned()));

    lab.write_rules(0);
    let reload = lab.natwerk(&["reload"]).output().expect("run");
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    assert_eq!(lab.answers(4), ["10.1.1.6"; 4], "a drained member got a client");
    assert!(sessions.iter_mut().all(|(stream, _)| lives(stream)));
    // What was known of the others outlives the reload.
    assert_eq!(lab.health("10.1.1.6"), "up");
}

#[test]
fn where_the_kernel_has_no_address_health_is_unknown_and_members_stay_in() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.folder.path().join("natwerk.toml");
    let text = fs::read_to_string(&config).expect("read");
    fs::write(&config, text.replace("manage_addresses = true", "")).expect("written");
    lab.router.run("ip address add 203.0.113.11/24 dev eth2");
    // Guests find their gateway all the same.
    let address = lab.router.run("cat /sys/class/net/eth0/address");
    lab.guest.run(&format!("ip neighbor replace 10.1.1.1 lladdr {} dev g0", address.trim()));
    let _five = lab.serve("10.1.1.5");
    let _six = lab.serve("10.1.1.6");
    let _engine = lab.start();
    let shown = || {
        let shown = lab.natwerk(&["show", "balancers"]).output().expect("run");
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    assert!(
        eventually(LONG, || shown().contains("has no address in 10.1.1.0/24 on eth0")),
        "{}",
        shown()
    );
    assert_eq!(lab.health("10.1.1.5"), "unknown");
}
