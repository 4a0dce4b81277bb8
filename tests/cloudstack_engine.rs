//! A CloudStack router's life with live clients: the engine follows command files as they land, rules wait for their
//! addresses, a revoke cuts exactly its own sessions. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

mod cloudstack {
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cloudstack::router::{EGRESS_ALLOWED, addresses, firewall, forward, forward_of};
use common::{Namespace, cable, eventually};

const LONG: Duration = Duration::from_secs(20);
/// How long nothing must come until it is taken for cut.
const SILENCE: Duration = Duration::from_millis(700);

/// The interfaces are not called as CloudStack numbers them: MACs find them.
const CONFIG: &str = r#"
rules = ["cloudstack:FOLDER/router"]
state_dir = "FOLDER/state"
control_socket = "FOLDER/control.sock"
manage_addresses = true
[[interface]]
name = "wan"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
[workers]
frames = 4096
[sessions]
max = 4096
"#;

const COMMAND_LINE: &str = "name=r-9-VM type=router eth0ip=10.1.1.1 eth0mask=255.255.255.0";
const WAN: &str = "1e:00:a9:00:01:01";
const OPEN: &str = r#""0.0.0.0/0""#;

/// A router between a guest network and the internet.
struct Lab {
    router: Namespace,
    guest: Namespace,
    internet: Namespace,
    folder: tempfile::TempDir,
    sent: AtomicU32,
}

impl Lab {
    fn new() -> Option<Self> {
        let [router, guest, internet] = ["router", "guest", "internet"].map(Namespace::new);
        let (router, guest, internet) = (router?, guest?, internet?);
        cable((&router, "eth0"), (&guest, "g0"));
        cable((&router, "wan"), (&internet, "i0"));
        router.run(&format!("ip link set wan address {WAN}"));
        for (namespace, command) in [
            (&guest, "ip address add 10.1.1.5/24 dev g0"),
            (&guest, "ip address add 10.1.1.6/24 dev g0"),
            (&guest, "ip route add default via 10.1.1.1"),
            (&internet, "ip address add 203.0.113.1/24 dev i0"),
        ] {
            namespace.run(command);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let lab = Self { router, guest, internet, folder, sent: AtomicU32::new(0) };
        fs::create_dir_all(lab.folder.path().join("router/cache")).expect("a folder");
        lab.write("natwerk.toml", CONFIG);
        lab.write("router/cmdline", COMMAND_LINE);
        Some(lab)
    }

    fn write(&self, name: &str, text: &str) {
        let folder = self.folder.path().to_str().expect("a name");
        fs::write(self.folder.path().join(name), text.replace("FOLDER", folder)).expect("written");
    }

    /// A command file lands, whole, as the agent puts it there.
    fn send(&self, text: &str) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        self.write("landing", text);
        let name = format!("router/cache/command.json.{number:03}");
        fs::rename(self.folder.path().join("landing"), self.folder.path().join(name))
            .expect("renamed");
    }

    fn natwerk(&self, arguments: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.router.name(), env!("CARGO_BIN_EXE_natwerk")]);
        command.args(arguments.split(' ')).arg("--config");
        command.arg(self.folder.path().join("natwerk.toml"));
        command
    }

    fn says(&self, arguments: &str) -> String {
        let output = self.natwerk(arguments).output().expect("run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn start(&self) -> Engine {
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        let mut engine =
            self.natwerk("run").stdout(Stdio::piped()).stderr(log).spawn().expect("started");
        let mut line = String::new();
        let output = engine.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("read");
        assert!(line.starts_with("ready "), "{line:?}\n{}", self.log());
        Engine(engine)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
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
        assert!(done, "{port}: {}\n{}", self.says("show rules"), self.log());
        stream.expect("connected")
    }

    fn guest_reaches_internet(&self) -> bool {
        let ping = Command::new("ip")
            .args(["netns", "exec", self.guest.name(), "ping", "-c1", "-W1", "203.0.113.1"])
            .output();
        ping.expect("ping runs").status.success()
    }
}

/// A running engine, killed with the test.
struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
    let _engine = lab.start();
    assert!(!lab.guest_reaches_internet(), "egress is closed until its rule came");

    // Rules come before the addresses they need.
    lab.send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", false));
    lab.send(&forward("tcp", "2223:2223", "10.1.1.5", "22:22", false));
    lab.send(&firewall(1, "203.0.113.11", "tcp", (2222, 2223), OPEN, false));
    let waiting = "waits for public address 203.0.113.11";
    assert!(eventually(LONG, || lab.says("show policy").contains(waiting)), "{}", lab.log());
    assert!(lab.says("show rules").contains("port forward of 203.0.113.11:2222"));
    lab.send(EGRESS_ALLOWED);
    let by_mac = format!("\"vif_mac_address\":\"{WAN}\",\"nw_type\"");
    let both = addresses(&[("203.0.113.10", 2, true), ("203.0.113.11", 2, false)]);
    lab.send(&both.replace("\"nw_type\"", &by_mac));
    let mut one = lab.connects(2222);
    let mut other = lab.connects(2223);
    assert_eq!((guest_on(&mut one), guest_on(&mut other)), (Some(5), Some(5)));
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.log());
    assert!(!lab.says("show policy").contains("waits for"));

    // A revoke cuts its own sessions and no others; what is sent again and what is broken, none.
    lab.send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", true));
    assert!(eventually(LONG, || guest_on(&mut one).is_none()), "{}", lab.log());
    assert!(lab.connect(2222).is_none());
    assert_eq!(guest_on(&mut other), Some(5));
    lab.send(&forward("tcp", "2223:2223", "10.1.1.5", "22:22", false));
    lab.send("{\"rules\":[{\"revoke\":");
    lab.send(&forward("tcp", "2223:2223", "10.1.1.500", "22:22", false));
    lab.send(&forward_of("203.0.113.99", "tcp", "1:1", ("10.1.1.5", "1:1"), "", false));
    assert!(eventually(LONG, || lab.says("show policy").contains("203.0.113.99")), "{}", lab.log());
    assert_eq!(guest_on(&mut other), Some(5));

    // Added again it works again, and rebound it leads to the other guest.
    lab.send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", false));
    assert_eq!(guest_on(&mut lab.connects(2222)), Some(5));
    lab.send(&forward("tcp", "2222:2222", "10.1.1.6", "22:22", false));
    let rebound = || lab.connect(2222).is_some_and(|mut stream| guest_on(&mut stream) == Some(6));
    assert!(eventually(LONG, rebound), "{}", lab.log());
    assert_eq!(guest_on(&mut other), Some(5));

    // What the management server asks.
    let nat = lab.says("cloudstack iptables-save");
    for chain in ["-A PREROUTING -d 203.0.113.11/32 -i wan", "-A OUTPUT -d 203.0.113.11/32"] {
        let line =
            format!("{chain} -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.1.1.6:22");
        assert!(nat.lines().any(|known| known == line), "{line} in\n{nat}");
    }
    let usage = lab.says("cloudstack netusage -g -l 203.0.113.11");
    let counts: Vec<u64> =
        usage.trim_end_matches(':').split(':').filter_map(|it| it.parse().ok()).collect();
    assert!(matches!(counts.as_slice(), [out, back, 0, 0] if *out > 0 && *back > 0), "{usage}");

    // A released address takes what is on it along.
    let release = addresses(&[("203.0.113.11", 2, false)]).replace("\"add\":true", "\"add\":false");
    lab.send(&release.replace("\"nw_type\"", &by_mac));
    assert!(eventually(LONG, || guest_on(&mut other).is_none()), "{}", lab.log());
    assert!(lab.guest_reaches_internet());
}
