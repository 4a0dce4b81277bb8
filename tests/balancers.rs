//! Load balancers with a running engine and live members: whom the router finds dead gets no new client, whoever comes
//! back does, and a drained member keeps what it has. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::router::{CONFIG, LONG, Router, output};
use common::{Namespace, eventually};

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
    router: Router,
    guest: Namespace,
    client: Namespace,
}

/// A member that listens until it is told not to. Connections that it has go on.
struct Server(Arc<AtomicBool>, std::thread::JoinHandle<()>);

impl Lab {
    fn new() -> Option<Self> {
        let router = Router::new(&format!("manage_addresses = true\n{CONFIG}"))?;
        let (guest, client) = router.between()?;
        guest.run("ip address add 10.1.1.6/24 dev g0");
        router.write("rules.json", &rules(1));
        Some(Self { router, guest, client })
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
        let shown = self.router.says("show balancers --json");
        let rows: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let rows = rows.as_array().expect("rows");
        let row = rows.iter().find(|row| row["member"] == format!("{member}:8080"));
        row.expect("the member")["health"].as_str().expect("a word").to_owned()
    }

    /// What `explain --live` says of a packet from outside.
    fn live(&self, packet: &str) -> String {
        output(self.router.natwerk("explain --live --in eth2").arg(packet))
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
    let _engine = lab.router.start();
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

    lab.router.write("rules.json", &rules(0));
    lab.router.says("reload");
    assert_eq!(lab.answers(4), ["10.1.1.6"; 4], "a drained member got a client");
    assert!(sessions.iter_mut().all(|(stream, _)| lives(stream)));
    // What was known of the others outlives the reload.
    assert_eq!(lab.health("10.1.1.6"), "up");
}

#[test]
fn where_the_kernel_has_no_address_health_is_unknown_and_members_stay_in() {
    let Some(lab) = Lab::new() else { return };
    lab.router.write("natwerk.toml", CONFIG);
    lab.router.namespace.run("ip address add 203.0.113.11/24 dev eth2");
    // Guests find their gateway all the same.
    let address = lab.router.namespace.run("cat /sys/class/net/eth0/address");
    lab.guest.run(&format!("ip neighbor replace 10.1.1.1 lladdr {} dev g0", address.trim()));
    let _five = lab.serve("10.1.1.5");
    let _six = lab.serve("10.1.1.6");
    let _engine = lab.router.start();
    let shown = || lab.router.says("show balancers");
    let why = "has no address in 10.1.1.0/24 on eth0";
    assert!(eventually(LONG, || shown().contains(why)), "{}", shown());
    assert_eq!(lab.health("10.1.1.5"), "unknown");
}
