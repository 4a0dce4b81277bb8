//! A CloudStack router's life with live clients: the engine follows command files as they land, rules wait for their
//! addresses, a revoke cuts exactly its own sessions. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

mod cloudstack {
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cloudstack::router::{EGRESS_ALLOWED, addresses, firewall, forward, forward_of};
use common::router::{CONFIG, LONG, Router, installed};
use common::{Namespace, cable, eventually};

/// How long nothing must come until it is taken for cut.
const SILENCE: Duration = Duration::from_millis(700);

const COMMAND_LINE: &str = "name=r-9-VM type=router eth0ip=10.1.1.1 eth0mask=255.255.255.0";
const WAN: &str = "1e:00:a9:00:01:01";
const OPEN: &str = r#""0.0.0.0/0""#;

/// A router between a guest network and the internet.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
    sent: AtomicU32,
}

impl Lab {
    fn new() -> Option<Self> {
        let config = CONFIG.replace("FOLDER/rules.json", "cloudstack:FOLDER/router");
        // The interfaces are not called as CloudStack numbers them: MACs find them.
        let config = format!(
            "manage_addresses = true\n{}",
            config.replace("eth2", "wan").replace("max = 4096", "max = 65536")
        );
        let router = Router::new(&config)?;
        let (guest, internet) = (Namespace::new("guest")?, Namespace::new("internet")?);
        cable((&router.namespace, "eth0"), (&guest, "g0"));
        cable((&router.namespace, "wan"), (&internet, "i0"));
        router.namespace.run(&format!("ip link set wan address {WAN}"));
        for (namespace, command) in [
            (&guest, "ip address add 10.1.1.5/24 dev g0"),
            (&guest, "ip address add 10.1.1.6/24 dev g0"),
            (&guest, "ip route add default via 10.1.1.1"),
            (&internet, "ip address add 203.0.113.1/24 dev i0"),
        ] {
            namespace.run(command);
        }
        fs::create_dir_all(router.path("router/cache")).expect("a folder");
        router.write("router/cmdline", COMMAND_LINE);
        Some(Self { router, guest, internet, sent: AtomicU32::new(0) })
    }

    /// A command file lands, whole, as the agent puts it there.
    fn send(&self, text: &str) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let landing = self.router.write("landing", text);
        let name = format!("router/cache/command.json.{number:03}");
        fs::rename(landing, self.router.path(&name)).expect("renamed");
    }

    /// A connection from the internet to `port` of 203.0.113.11.
    fn connect(&self, port: u16) -> Option<TcpStream> {
        let to = SocketAddr::from(([203, 0, 113, 11], port));
        let stream = self.internet.enter(|| TcpStream::connect_timeout(&to, SILENCE)).ok()?;
        stream.set_read_timeout(Some(SILENCE)).expect("set");
        Some(stream)
    }

    fn connects(&self, port: u16) -> TcpStream {
        let mut stream = None;
        let done = eventually(LONG, || {
            stream = self.connect(port);
            stream.is_some()
        });
        assert!(done, "{port}: {}\n{}", self.router.says("show rules"), self.router.log());
        stream.expect("connected")
    }

    fn guest_reaches_internet(&self) -> bool {
        self.guest.succeeds("ping -c1 -W1 203.0.113.1")
    }
}

/// Answers every byte with the last byte of the address it was sent to.
fn serve(listener: TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        std::thread::spawn(move || {
            let Ok(SocketAddr::V4(local)) = stream.local_addr() else { return };
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                if stream.write_all(&[local.ip().octets()[3]]).is_err() {
                    return;
                }
            }
        });
    }
}

/// Which guest answers on a connection; none if it is cut.
fn guest_on(stream: &mut TcpStream) -> Option<u8> {
    let mut answer = [0];
    stream.write_all(b"?").ok()?;
    stream.read_exact(&mut answer).ok()?;
    Some(answer[0])
}

#[test]
fn command_files_are_followed_while_clients_are_connected() {
    let Some(lab) = Lab::new() else { return };
    let listener = lab.guest.enter(|| TcpListener::bind("0.0.0.0:22").expect("a port"));
    std::thread::spawn(move || serve(listener));
    let _engine = lab.router.start();
    assert!(!lab.guest_reaches_internet(), "egress is closed until its rule came");

    // Rules come before the addresses they need.
    lab.send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", false));
    lab.send(&forward("tcp", "2223:2223", "10.1.1.5", "22:22", false));
    lab.send(&firewall(1, "203.0.113.11", "tcp", (2222, 2223), OPEN, false));
    let waiting = "waits for public address 203.0.113.11";
    assert!(
        eventually(LONG, || lab.router.says("show policy").contains(waiting)),
        "{}",
        lab.router.log()
    );
    assert!(lab.router.says("show rules").contains("port forward of 203.0.113.11:2222"));
    lab.send(EGRESS_ALLOWED);
    let by_mac = format!("\"vif_mac_address\":\"{WAN}\",\"nw_type\"");
    let both = addresses(&[("203.0.113.10", 2, true), ("203.0.113.11", 2, false)]);
    lab.send(&both.replace("\"nw_type\"", &by_mac));
    let mut one = lab.connects(2222);
    let mut other = lab.connects(2223);
    assert_eq!((guest_on(&mut one), guest_on(&mut other)), (Some(5), Some(5)));
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.router.log());
    assert!(!lab.router.says("show policy").contains("waits for"));

    // A revoke cuts its own sessions and no others; what is sent again and what is broken, none.
    lab.send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", true));
    assert!(eventually(LONG, || guest_on(&mut one).is_none()), "{}", lab.router.log());
    assert!(lab.connect(2222).is_none());
    assert_eq!(guest_on(&mut other), Some(5));
    lab.send(&forward("tcp", "2223:2223", "10.1.1.5", "22:22", false));
    lab.send("{\"rules\":[{\"revoke\":");
    lab.send(&forward("tcp", "2223:2223", "10.1.1.500", "22:22", false));
    lab.send(&forward_of("203.0.113.99", "tcp", "1:1", ("10.1.1.5", "1:1"), "", false));
    assert!(
        eventually(LONG, || lab.router.says("show policy").contains("203.0.113.99")),
        "{}",
        lab.router.log()
    );
    assert_eq!(guest_on(&mut other), Some(5));

    // Added again it works again, and rebound it leads to the other guest.
    lab.send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", false));
    assert_eq!(guest_on(&mut lab.connects(2222)), Some(5));
    lab.send(&forward("tcp", "2222:2222", "10.1.1.6", "22:22", false));
    let rebound = || lab.connect(2222).is_some_and(|mut stream| guest_on(&mut stream) == Some(6));
    assert!(eventually(LONG, rebound), "{}", lab.router.log());
    assert_eq!(guest_on(&mut other), Some(5));

    // What the management server asks.
    let nat = lab.router.says("cloudstack iptables-save");
    for chain in ["-A PREROUTING -d 203.0.113.11/32 -i wan", "-A OUTPUT -d 203.0.113.11/32"] {
        let line =
            format!("{chain} -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.1.1.6:22");
        assert!(nat.lines().any(|known| known == line), "{line} in\n{nat}");
    }
    let usage = lab.router.says("cloudstack netusage -g -l 203.0.113.11");
    let counts: Vec<u64> =
        usage.trim_end_matches(':').split(':').filter_map(|it| it.parse().ok()).collect();
    assert!(matches!(counts.as_slice(), [out, back, 0, 0] if *out > 0 && *back > 0), "{usage}");
    // TCP of the router itself, which the kernel has counted since it was asked first.
    let upstream = lab.internet.enter(|| TcpListener::bind("203.0.113.1:8080").expect("a port"));
    let to = upstream.local_addr().expect("its address");
    assert!(
        lab.router.namespace.enter(|| TcpStream::connect_timeout(&to, LONG).is_ok()),
        "{}",
        lab.router.log()
    );
    let usage = lab.router.says("cloudstack netusage -g");
    let counts: Vec<u64> =
        usage.trim_end_matches(':').split(':').filter_map(|it| it.parse().ok()).collect();
    let is_counted = matches!(counts.as_slice(), [_, _, out, back] if *out > 0 && *back > 0);
    assert!(is_counted || !installed(&["nft"]), "{usage}");

    // A released address takes what is on it along.
    let release = addresses(&[("203.0.113.11", 2, false)]).replace("\"add\":true", "\"add\":false");
    lab.send(&release.replace("\"nw_type\"", &by_mac));
    assert!(eventually(LONG, || guest_on(&mut other).is_none()), "{}", lab.router.log());
    assert!(lab.guest_reaches_internet());
}

/// Answers every datagram, in a thread that ends with the test program.
fn echo(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], from);
        }
    });
}

/// Whether a guest's datagram from a port that nobody has used is answered.
fn is_answered(patience: Duration) -> bool {
    let socket = UdpSocket::bind("10.1.1.5:0").expect("a port");
    socket.set_read_timeout(Some(patience)).expect("set");
    let sent = socket.send_to(b"?", "203.0.113.1:5353").is_ok();
    sent && socket.recv(&mut [0; 64]).is_ok()
}

fn public_addresses() -> String {
    let by_mac = format!("\"vif_mac_address\":\"{WAN}\",\"nw_type\"");
    let both = addresses(&[("203.0.113.10", 2, true), ("203.0.113.11", 2, false)]);
    both.replace("\"nw_type\"", &by_mac)
}

/// Today's scripts empty the chain of egress rules and fill it again whenever one of them changes.
#[test]
fn fault_12_a_change_of_egress_rules_refuses_nobody_in_between() {
    let Some(lab) = Lab::new() else { return };
    echo(lab.internet.enter(|| UdpSocket::bind("0.0.0.0:5353").expect("a port")));
    let _engine = lab.router.start();
    let egress = |id: u32, port: u16, revoked: bool| {
        let rule = firewall(id, "", "udp", (port, port), OPEN, revoked);
        rule.replace("Ingress", "Egress")
    };
    let closed =
        EGRESS_ALLOWED.replace("\"default_egress_policy\":true", "\"default_egress_policy\":false");
    for command in [public_addresses(), closed, egress(1, 5353, false)] {
        lab.send(&command);
    }
    let short = Duration::from_millis(300);
    assert!(eventually(LONG, || lab.guest.enter(|| is_answered(short))), "{}", lab.router.log());
    let reloads = || lab.router.log().matches("rules read again").count();
    let before = reloads();
    let done = AtomicU32::new(0);
    let unanswered = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            lab.guest.enter(|| {
                let mut unanswered = 0;
                while done.load(Ordering::Relaxed) == 0 {
                    // Every one is a new session, which the rules are asked about; the table has room
                    // for as many as this pace makes.
                    std::thread::sleep(Duration::from_millis(1));
                    unanswered += u32::from(!is_answered(Duration::from_secs(5)));
                }
                unanswered
            })
        });
        for round in 0..6 {
            let known = reloads();
            lab.send(&egress(2, 5354, round % 2 == 1));
            assert!(eventually(LONG, || reloads() > known), "{}", lab.router.log());
        }
        done.store(1, Ordering::Relaxed);
        asking.join().expect("asked")
    });
    let drops = lab.router.says("show drops");
    assert_eq!(unanswered, 0, "{drops}\n{}", lab.router.log());
    assert!(reloads() >= before + 6);
}

/// An aggregate file of these commands, as a restart of the network sends.
fn aggregate(commands: &[String]) -> String {
    let mut text =
        "#Apache CloudStack Virtual Router Config File\n<version>\n1\n</version>\n".to_owned();
    for (number, command) in commands.iter().enumerate() {
        let name = format!("command.json.again-{number}");
        let one_line = command.replace('\n', " ");
        text.push_str(&format!("<file>\n/var/cache/cloud/{name}\n{one_line}\n</file>\n"));
        text.push_str(&format!("<script>\n/opt/cloud/bin/update_config.py {name}\n</script>\n"));
    }
    text
}

/// Today's router forgets every connection when an aggregate comes, and none when a rule is revoked.
#[test]
fn fault_13_an_aggregate_cuts_no_session_and_a_revoke_cuts_its_own() {
    let Some(lab) = Lab::new() else { return };
    let listener = lab.guest.enter(|| TcpListener::bind("0.0.0.0:22").expect("a port"));
    std::thread::spawn(move || serve(listener));
    let _engine = lab.router.start();
    let commands = [
        public_addresses(),
        firewall(1, "203.0.113.11", "tcp", (2222, 2222), OPEN, false),
        firewall(2, "203.0.113.11", "tcp", (2223, 2223), OPEN, false),
        forward("tcp", "2222:2222", "10.1.1.5", "22:22", false),
        forward("tcp", "2223:2223", "10.1.1.5", "22:22", false),
    ];
    commands.iter().for_each(|command| lab.send(command));
    let (mut one, mut other) = (lab.connects(2222), lab.connects(2223));
    assert_eq!((guest_on(&mut one), guest_on(&mut other)), (Some(5), Some(5)));

    let land = |name: &str, commands: &[String]| {
        let known = lab.router.log().matches("rules read again").count();
        lab.router.write("landing", &aggregate(commands));
        let place = lab.router.path(&format!("router/cache/VR-{name}.cfg"));
        fs::rename(lab.router.path("landing"), place).expect("renamed");
        let is_read = || lab.router.log().matches("rules read again").count() > known;
        assert!(eventually(LONG, is_read), "{}", lab.router.log());
    };
    land("1", &commands);
    assert_eq!(
        (guest_on(&mut one), guest_on(&mut other)),
        (Some(5), Some(5)),
        "{}",
        lab.router.log()
    );
    // Of a forward, and of the firewall rule that let a session in.
    land("2", &[forward("tcp", "2222:2222", "10.1.1.5", "22:22", true)]);
    assert!(eventually(LONG, || guest_on(&mut one).is_none()), "{}", lab.router.log());
    assert_eq!(guest_on(&mut other), Some(5), "{}", lab.router.log());
    land("3", &[firewall(2, "203.0.113.11", "tcp", (2223, 2223), OPEN, true)]);
    assert!(eventually(LONG, || guest_on(&mut other).is_none()), "{}", lab.router.log());
}
