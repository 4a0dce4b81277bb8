//! `natwerk run` from outside: it starts whole or not at all, says why not, follows its rule files,
//! and leaves nothing behind but its sessions. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Namespace, cable, eventually};

/// A router between a guest and the internet, and a folder for its files.
struct Lab {
    router: Namespace,
    guest: Namespace,
    internet: Namespace,
    folder: tempfile::TempDir,
}

const LONG: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
rules = ["FOLDER/rules.json"]
state_dir = "FOLDER/state"
control_socket = "FOLDER/control.sock"
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

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
                  "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"],
                  "egress_default": "allow"}]
}"#;

const LOCAL_SERVICE: &str =
    r#""local_services": [{"address": "203.0.113.10", "protocol": "tcp", "ports": "22"}]"#;

impl Lab {
    fn new() -> Option<Self> {
        let [router, guest, internet] = ["router", "guest", "internet"].map(Namespace::new);
        let (router, guest, internet) = (router?, guest?, internet?);
        cable((&router, "eth0"), (&guest, "g0"));
        cable((&router, "eth2"), (&internet, "i0"));
        for (namespace, command) in [
            (&router, "ip address add 10.1.1.1/24 dev eth0"),
            (&router, "ip address add 203.0.113.10/24 dev eth2"),
            (&guest, "ip address add 10.1.1.5/24 dev g0"),
            (&guest, "ip route add default via 10.1.1.1"),
            (&internet, "ip address add 203.0.113.1/24 dev i0"),
        ] {
            namespace.run(command);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let lab = Self { router, guest, internet, folder };
        lab.write("natwerk.toml", CONFIG);
        lab.write("rules.json", RULES);
        Some(lab)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let folder = self.folder.path().to_str().expect("a name");
        fs::write(self.path(name), text.replace("FOLDER", folder)).expect("written");
    }

    fn natwerk(&self, arguments: &str) -> Command {
        let config = self.path("natwerk.toml");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.router.name(), env!("CARGO_BIN_EXE_natwerk")]);
        command.args(arguments.split(' ')).arg("--config").arg(config);
        command
    }

    /// Starts the engine and waits for its line.
    fn start(&self) -> (Child, String) {
        let log = fs::File::create(self.path("log")).expect("a log");
        let mut engine =
            self.natwerk("run").stdout(Stdio::piped()).stderr(log).spawn().expect("started");
        let mut line = String::new();
        let output = engine.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("read");
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(line.starts_with("ready "), "{line:?}\n{log}");
        (engine, line)
    }

    /// What a start that must fail says, and its exit code.
    fn refusal(&self) -> (String, Option<i32>) {
        let run = self.natwerk("run").output().expect("run");
        (String::from_utf8_lossy(&run.stderr).into_owned(), run.status.code())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn shows_program(&self, interface: &str) -> bool {
        self.router.run(&format!("ip link show dev {interface}")).contains(" xdp ")
    }

    fn guest_reaches_internet(&self) -> bool {
        let ping = Command::new("ip")
            .args(["netns", "exec", self.guest.name(), "ping", "-c1", "-W1", "203.0.113.1"])
            .output();
        ping.expect("ping runs").status.success()
    }
}

fn signal(engine: &Child, name: &str) {
    let id = engine.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
}

#[test]
fn it_forwards_until_it_is_stopped_and_leaves_only_its_sessions() {
    let Some(lab) = Lab::new() else { return };
    let (mut engine, line) = lab.start();
    assert!(line.contains("interface=eth2 mode="), "{line}");
    assert!(line.contains("interface=eth0 mode="), "{line}");
    assert!(line.contains("workers=1"), "{line}");
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    assert!(lab.shows_program("eth0") && lab.shows_program("eth2"));

    let (said, code) = lab.refusal();
    assert!(said.contains("another natwerk"), "{said}");
    assert_eq!(code, Some(1));

    signal(&engine, "-TERM");
    assert_eq!(engine.wait().expect("it ends").code(), Some(0));
    assert!(!lab.shows_program("eth0") && !lab.shows_program("eth2"));
    assert!(!lab.path("control.sock").exists());
    assert!(!lab.router.run("ip link").contains("nwk"), "the host path's interfaces are gone");

    let (mut engine, _) = lab.start();
    assert!(lab.log().contains("sessions taken over sessions=1"), "{}", lab.log());
    engine.kill().expect("killed");
    engine.wait().expect("it ends");
    // Nothing passes around the rules while nobody forwards.
    assert!(lab.shows_program("eth0") && lab.shows_program("eth2"));
    assert!(!lab.guest_reaches_internet());
    let (mut engine, _) = lab.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    signal(&engine, "-INT");
    assert_eq!(engine.wait().expect("it ends").code(), Some(0));
}

#[test]
fn new_rules_are_in_force_at_once_and_faulty_ones_never() {
    let Some(lab) = Lab::new() else { return };
    let (mut engine, _) = lab.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));

    // By renaming, as tools do.
    let closed = RULES.replace("\"allow\"", "\"deny\"");
    lab.write("rules.new", &closed);
    fs::rename(lab.path("rules.new"), lab.path("rules.json")).expect("renamed");
    assert!(eventually(LONG, || lab.log().contains("changed=1 sessions_ended=1")), "{}", lab.log());
    assert!(!lab.guest_reaches_internet());
    let reload = || {
        let reload = lab.natwerk("reload --json").output().expect("run");
        assert!(reload.status.success());
        String::from_utf8_lossy(&reload.stdout).into_owned()
    };
    // Whether the file watch or the request is quicker, the request is answered with the change.
    reload();
    for add in [true, false] {
        let extra = closed.replace("\"public_ips\"", &format!("{LOCAL_SERVICE}, \"public_ips\""));
        lab.write("rules.json", if add { &extra } else { &closed });
        std::thread::sleep(Duration::from_millis(if add { 0 } else { 500 }));
        let said = reload();
        let expected = if add { "\"added\": 1" } else { "\"removed\": 1" };
        assert!(said.contains(expected), "{said}");
    }

    // In place.
    lab.write("rules.json", "{\"version\": 1, \"nonsense\": true}");
    assert!(eventually(LONG, || lab.log().contains("the old ones stay")), "{}", lab.log());
    let refused = lab.natwerk("reload").output().expect("run");
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("rules.json:1:"), "{said}");

    lab.write("rules.json", RULES);
    signal(&engine, "-HUP");
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    reload();
    let said = reload();
    assert!(said.contains("\"changed\": 0"), "{said}");
    signal(&engine, "-TERM");
    engine.wait().expect("it ends");
}

#[test]
fn interfaces_may_go_down_and_away_and_come_back() {
    let Some(lab) = Lab::new() else { return };
    let (mut engine, _) = lab.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    lab.router.run("ip link set eth2 down");
    assert!(!lab.guest_reaches_internet());
    lab.router.run("ip link set eth2 up");
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.log());

    lab.router.run("ip link delete eth2");
    assert!(eventually(LONG, || lab.log().contains("interfaces are gone")), "{}", lab.log());
    cable((&lab.router, "eth2"), (&lab.internet, "i0"));
    lab.router.run("ip address add 203.0.113.10/24 dev eth2");
    lab.internet.run("ip address add 203.0.113.1/24 dev i0");
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.log());
    signal(&engine, "-TERM");
    assert_eq!(engine.wait().expect("it ends").code(), Some(0));
}

#[test]
fn what_stands_in_the_way_is_said_and_nothing_is_started() {
    let Some(lab) = Lab::new() else { return };
    let metrics = lab.router.enter(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let taken = metrics.local_addr().expect("its address");
    let taken = format!("metrics_listen = \"{taken}\"\n{CONFIG}");
    for (config, rules, code, sentence) in [
        (CONFIG.replace("eth0", "eth7"), RULES.replace("eth0", "eth7"), 1, "interface eth7"),
        (format!("{CONFIG}nonsense = 1\n"), RULES.into(), 2, "natwerk.toml:"),
        (CONFIG.into(), "{".into(), 2, "rules.json:1:"),
        (CONFIG.into(), RULES.replace("eth0", "eth7"), 2, "eth7"),
        (taken, RULES.into(), 1, "metrics"),
        (CONFIG.replace("rules.json", "none.json"), RULES.into(), 2, "none.json"),
        (
            CONFIG.replace("[workers]", "[workers]\nmode = \"zero-copy\""),
            RULES.into(),
            1,
            "no zero-copy",
        ),
        (CONFIG.replace("[workers]", "[workers]\ncount = 2"), RULES.into(), 1, "combined 2"),
    ] {
        lab.write("natwerk.toml", &config);
        lab.write("rules.json", &rules);
        let (said, got) = lab.refusal();
        assert!(said.contains(sentence), "{sentence}: {said}");
        assert_eq!(got, Some(code), "{said}");
        assert!(!lab.path("control.sock").exists(), "{sentence}");
        assert!(!lab.shows_program("eth2"), "{sentence}");
        assert!(!lab.router.run("ip link").contains("nwk"), "{sentence}");
    }
    lab.write("rules.json", RULES);
    lab.write("natwerk.toml", CONFIG);
    lab.router.run("ip link set eth0 down");
    let (said, code) = lab.refusal();
    assert!(said.contains("ip link set dev eth0 up"), "{said}");
    assert_eq!(code, Some(1));
}
