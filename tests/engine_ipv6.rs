//! IPv6 through `natwerk run`, with the kernel's own stacks at both ends: neighbour discovery, a
//! stateful firewall, path-MTU discovery, a restart in the middle of a connection. Needs root.
#![cfg(feature = "af-xdp")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::router::{CONFIG, LONG, Router};
use common::{Namespace, cable, eventually};

const RULES: &str = r#"{
    "version": 1,
    "public_ipv6": [{"address": "2001:db8:ff::1", "prefix_len": 64, "interface": "eth2",
                     "gateway": "2001:db8:ff::fe"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                  "ipv6": {"cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}}]
}"#;

const OPENED: &str = r#""ipv6_firewall_rules": [{"id": "http", "network": "web",
    "protocol": "tcp", "ports": "8080"}], "networks""#;

const GUEST: &str = "2001:db8:1::5";
const REMOTE: &str = "2001:db8:51::9";
/// More than any buffer takes, so that it has to travel in full segments.
const MUCH: usize = 2 << 20;

/// A guest, the router, and a remote behind an upstream router with a smaller MTU.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
}

impl Lab {
    fn new() -> Option<Self> {
        let config = format!("manage_addresses = true\n{CONFIG}max_ipv6 = 4096\n");
        let router = Router::new(&config)?;
        let (guest, internet) = (Namespace::new("guest")?, Namespace::new("internet")?);
        cable((&router.namespace, "eth0"), (&guest, "g0"));
        cable((&router.namespace, "eth2"), (&internet, "i0"));
        for (namespace, name) in [
            (&router.namespace, "eth0"),
            (&router.namespace, "eth2"),
            (&guest, "g0"),
            (&internet, "i0"),
        ] {
            // Addresses are used at once; nobody else could have them here.
            namespace.run(&format!("sysctl -qw net.ipv6.conf.{name}.accept_dad=0"));
            namespace.run(&format!("sysctl -qw net.ipv6.conf.{name}.disable_ipv6=0"));
        }
        for (namespace, command) in [
            (&router.namespace, "ip link set eth2 mtu 1400"),
            (&internet, "ip link set i0 mtu 1400"),
            (&guest, "ip address add 2001:db8:1::5/64 dev g0"),
            (&guest, "ip route add default via 2001:db8:1::1"),
            (&internet, "ip address add 2001:db8:ff::fe/64 dev i0"),
            (&internet, "ip address add 2001:db8:51::9/128 dev lo"),
            (&internet, "ip route add default via 2001:db8:ff::1"),
        ] {
            namespace.run(command);
        }
        router.write("rules.json", RULES);
        Some(Self { router, guest, internet })
    }

    /// Whether curl in `from` gets the page that `address` serves.
    fn fetches(from: &Namespace, address: &str) -> bool {
        let url = format!("http://[{address}]:8080/");
        let curl = format!("curl -6 -gsS --max-time 4 {url}");
        let curl = from.command(&curl).output().expect("curl runs");
        curl.status.success() && curl.stdout.len() == MUCH
    }
}

/// Serves a large page on port 8080 of `namespace`, to any number of clients.
fn serve(namespace: &Namespace) {
    namespace.enter(|| {
        let listener = TcpListener::bind("[::]:8080").expect("a listener");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
    });
}

fn answer(mut stream: TcpStream) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; MUCH]));
}

/// Takes what clients send to port 9090 of `namespace`, in parts, and says so after each.
fn swallow(namespace: &Namespace) {
    namespace.enter(|| {
        let listener = TcpListener::bind("[::]:9090").expect("a listener");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut part = vec![0; MUCH];
                    while stream.read_exact(&mut part).is_ok() && stream.write_all(b"!").is_ok() {}
                });
            }
        });
    });
}

#[test]
fn guests_fetch_pages_and_strangers_are_kept_out_until_a_rule_lets_them_in() {
    let Some(lab) = Lab::new() else { return };
    let engine = lab.router.start();
    serve(&lab.internet);
    serve(&lab.guest);
    assert!(eventually(LONG, || Lab::fetches(&lab.guest, REMOTE)));
    // The guest's own server answers to nobody outside, and the router forwards nothing by itself.
    assert!(!Lab::fetches(&lab.internet, GUEST));
    assert_eq!(lab.router.namespace.run("sysctl -n net.ipv6.conf.all.forwarding").trim(), "0");
    let refused = lab.router.says("show drops");
    assert!(refused.contains("firewall_denied"), "{refused}");
    let sessions = lab.router.says("show sessions");
    assert!(sessions.contains(&format!("[{REMOTE}]:8080")), "{sessions}");
    let networks = lab.router.says("show networks");
    assert!(networks.contains("2001:db8:1::/64"), "{networks}");

    lab.router.write("rules.json", &RULES.replace("\"networks\"", OPENED));
    lab.router.says("reload");
    assert!(Lab::fetches(&lab.internet, GUEST));
    let rules = lab.router.says("show rules");
    assert!(rules.contains("ipv6-firewall"), "{rules}");
    lab.router.write("rules.json", RULES);
    lab.router.says("reload");
    assert!(!Lab::fetches(&lab.internet, GUEST));
    engine.end("-TERM");
    // The program is gone, and the kernel does not forward in its place.
    assert!(!Lab::fetches(&lab.guest, REMOTE));
}

#[test]
fn a_connection_outlives_the_engine_and_finds_the_paths_mtu() {
    let Some(lab) = Lab::new() else { return };
    // The remote says in its SYN that it takes full segments; only the router knows better.
    lab.internet.run("ip link set i0 mtu 1500");
    let engine = lab.router.start();
    swallow(&lab.internet);
    let mut stream = lab.guest.enter(|| {
        let mut stream = None;
        assert!(eventually(LONG, || {
            stream = TcpStream::connect((REMOTE, 9090)).ok();
            stream.is_some()
        }));
        stream.expect("a connection")
    });
    stream.set_read_timeout(Some(LONG)).expect("set");
    let mut send = |what: &str| {
        stream.write_all(&vec![7; MUCH]).expect(what);
        let mut answer = [0];
        stream.read_exact(&mut answer).expect(what);
    };
    // Segments of 1,500 bytes do not fit into the public side's 1,400.
    send("a large upload");
    let route = lab.guest.run(&format!("ip -6 route get {REMOTE}"));
    assert!(route.contains("mtu 1400"), "the guest was told: {route}");

    engine.end("-KILL");
    let engine = lab.router.start();
    send("the same connection after a crash");
    let stats = lab.router.says("show stats");
    assert!(stats.contains("IPv6 sessions"), "{stats}");
    engine.end("-TERM");
    let _engine = lab.router.start();
    send("the same connection after a restart");
}
