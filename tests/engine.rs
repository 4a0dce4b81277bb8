//! `natwerk run` from outside: it starts whole or not at all, says why not, follows its rule files,
//! and leaves nothing behind but its sessions. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::router::{CONFIG, LONG, RULES, Router};
use common::{Namespace, cable, eventually};

/// A router between a guest and the internet.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
}

const LOCAL_SERVICE: &str =
    r#""local_services": [{"address": "203.0.113.10", "protocol": "tcp", "ports": "22"}]"#;

impl Lab {
    fn new() -> Option<Self> {
        let router = Router::new(CONFIG)?;
        let (guest, internet) = router.between()?;
        router.namespace.run("ip address add 10.1.1.1/24 dev eth0");
        router.namespace.run("ip address add 203.0.113.10/24 dev eth2");
        router.write("rules.json", RULES);
        Some(Self { router, guest, internet })
    }

    /// What a start that must fail says, and its exit code.
    fn refusal(&self) -> (String, Option<i32>) {
        let run = self.router.natwerk("run").output().expect("run");
        (String::from_utf8_lossy(&run.stderr).into_owned(), run.status.code())
    }

    /// Whether a program of natwerk's takes what comes in, at whichever hook.
    fn shows_program(&self, interface: &str) -> bool {
        let says = |command| self.router.namespace.run(&format!("{command} dev {interface}"));
        says("ip link show").contains(" xdp ")
            || says("tc filter show ingress").contains("natwerk_carry")
    }

    fn guest_reaches_internet(&self) -> bool {
        self.guest.succeeds("ping -c1 -W1 203.0.113.1")
    }
}

#[test]
fn it_forwards_until_it_is_stopped_and_leaves_only_its_sessions() {
    let Some(lab) = Lab::new() else { return };
    let engine = lab.router.start();
    let line = engine.line();
    assert!(line.contains("interface=eth2 mode="), "{line}");
    assert!(line.contains("interface=eth0 mode="), "{line}");
    assert!(line.contains("workers=1"), "{line}");
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    assert!(lab.shows_program("eth0") && lab.shows_program("eth2"));

    let (said, code) = lab.refusal();
    assert!(said.contains("another natwerk"), "{said}");
    assert_eq!(code, Some(1));

    assert_eq!(engine.end("-TERM"), Some(0));
    assert!(!lab.shows_program("eth0") && !lab.shows_program("eth2"));
    assert!(!lab.router.path("control.sock").exists());
    assert!(
        !lab.router.namespace.run("ip link").contains("nwk"),
        "the host path's interfaces are gone"
    );

    let engine = lab.router.start();
    assert!(lab.router.log().contains("sessions taken over sessions=1"), "{}", lab.router.log());
    engine.end("-KILL");
    // Nothing passes around the rules while nobody forwards.
    assert!(lab.shows_program("eth0") && lab.shows_program("eth2"));
    assert!(!lab.guest_reaches_internet());
    let engine = lab.router.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    assert_eq!(engine.end("-INT"), Some(0));
}

/// The kernel would answer segments to its own address with resets.
#[test]
fn a_stop_that_holds_leaves_nothing_to_the_kernel_until_the_next_start() {
    let Some(lab) = Lab::new() else { return };
    let held = CONFIG.replace("[workers]", "[workers]\non_stop = \"hold\"");
    lab.router.write("natwerk.toml", &held);
    let engine = lab.router.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    assert_eq!(engine.end("-TERM"), Some(0));
    assert!(lab.shows_program("eth0") && lab.shows_program("eth2"));
    assert!(!lab.internet.succeeds("ping -c1 -W1 203.0.113.10"), "the kernel would answer");
    let engine = lab.router.start();
    assert!(lab.router.log().contains("sessions taken over sessions=1"), "{}", lab.router.log());
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    lab.router.write("natwerk.toml", CONFIG);
    assert_eq!(engine.end("-TERM"), Some(0));
    assert!(lab.shows_program("eth0"), "what it was started with counts");
    // A start that is to release takes over what was held, and takes it off.
    let engine = lab.router.start();
    assert_eq!(engine.end("-TERM"), Some(0));
    assert!(!lab.shows_program("eth0") && !lab.shows_program("eth2"));
    assert!(lab.internet.succeeds("ping -c1 -W1 203.0.113.10"), "the kernel answers again");
}

#[test]
fn new_rules_are_in_force_at_once_and_faulty_ones_never() {
    let Some(lab) = Lab::new() else { return };
    let engine = lab.router.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));

    // By renaming, as tools do.
    let closed = RULES.replace("\"allow\"", "\"deny\"");
    lab.router.write("rules.new", &closed);
    fs::rename(lab.router.path("rules.new"), lab.router.path("rules.json")).expect("renamed");
    assert!(
        eventually(LONG, || lab.router.log().contains("changed=1 sessions_ended=1")),
        "{}",
        lab.router.log()
    );
    assert!(!lab.guest_reaches_internet());
    let reload = || lab.router.says("reload --json");
    // Whether the file watch or the request is quicker, the request is answered with the change.
    reload();
    for add in [true, false] {
        let extra = closed.replace("\"public_ips\"", &format!("{LOCAL_SERVICE}, \"public_ips\""));
        lab.router.write("rules.json", if add { &extra } else { &closed });
        std::thread::sleep(Duration::from_millis(if add { 0 } else { 500 }));
        let said = reload();
        let expected = if add { "\"added\": 1" } else { "\"removed\": 1" };
        assert!(said.contains(expected), "{said}");
    }

    // In place.
    lab.router.write("rules.json", "{\"version\": 1, \"nonsense\": true}");
    assert!(
        eventually(LONG, || lab.router.log().contains("the old ones stay")),
        "{}",
        lab.router.log()
    );
    let refused = lab.router.natwerk("reload").output().expect("run");
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("rules.json:1:"), "{said}");

    lab.router.write("rules.json", RULES);
    engine.signal("-HUP");
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    reload();
    let said = reload();
    assert!(said.contains("\"changed\": 0"), "{said}");
}

#[test]
fn guests_leave_by_another_address_once_the_rules_say_so() {
    let Some(lab) = Lab::new() else { return };
    let two = RULES.replace(
        r#""interface": "eth2"}"#,
        r#""interface": "eth2"}, {"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2"}"#,
    );
    lab.router.write("rules.json", &two);
    lab.router.write("natwerk.toml", &format!("manage_addresses = true\n{CONFIG}"));
    let _engine = lab.router.start();
    let listener = lab.internet.enter(|| TcpListener::bind("203.0.113.1:8080").expect("a port"));
    let seen = || {
        let mut client = None;
        let (server, limit) = (SocketAddr::from(([203, 0, 113, 1], 8080)), Duration::from_secs(2));
        let connected = || {
            client = lab.guest.enter(|| TcpStream::connect_timeout(&server, limit).ok());
            client.is_some()
        };
        assert!(eventually(LONG, connected), "{}", lab.router.log());
        listener.accept().expect("a client").1.ip().to_string()
    };
    assert_eq!(seen(), "203.0.113.10");
    let moved = r#""source_nat": ["203.0.113.11"]"#;
    lab.router.write("rules.json", &two.replace(r#""source_nat": ["203.0.113.10"]"#, moved));
    lab.router.says("reload");
    assert_eq!(seen(), "203.0.113.11");
}

/// Folders swapped behind a link, as configuration tools do; files that come in pieces.
#[test]
fn rules_are_followed_however_their_files_are_replaced() {
    let Some(lab) = Lab::new() else { return };
    for (version, action) in [("v1", "allow"), ("v2", "deny"), ("v3", "allow")] {
        fs::create_dir(lab.router.path(version)).expect("a folder");
        lab.router.write(&format!("{version}/rules.json"), &RULES.replace("allow", action));
    }
    let lead_to = |version: &str| {
        std::os::unix::fs::symlink(version, lab.router.path("next")).expect("linked");
        fs::rename(lab.router.path("next"), lab.router.path("current")).expect("swapped");
    };
    lead_to("v1");
    lab.router.write("natwerk.toml", &CONFIG.replace("rules.json", "current"));
    let _engine = lab.router.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.router.log());
    for (version, is_open) in [("v2", false), ("v3", true), ("v2", false)] {
        lead_to(version);
        let follows = || lab.guest_reaches_internet() == is_open;
        assert!(eventually(LONG, follows), "{version}: {}", lab.router.log());
    }
    // In place, behind the link, in two pieces: the first alone is no JSON, and changes nothing for good.
    let (start, end) = RULES.split_at(RULES.len() / 2);
    let mut file = fs::File::create(lab.router.path("v2/rules.json")).expect("a file");
    file.write_all(start.as_bytes()).expect("written");
    std::thread::sleep(Duration::from_millis(10));
    file.write_all(end.as_bytes()).expect("written");
    drop(file);
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.router.log());
    // Several changes at once come to the last one.
    for action in ["deny", "allow", "deny", "allow", "deny"] {
        lab.router.write("landing", &RULES.replace("allow", action));
        fs::rename(lab.router.path("landing"), lab.router.path("v2/rules.json")).expect("renamed");
    }
    assert!(eventually(LONG, || !lab.guest_reaches_internet()), "{}", lab.router.log());
    // A file more in the folder, and one less.
    lab.router.write("v2/more.json", &format!("{{\"version\": 1, {LOCAL_SERVICE}}}"));
    assert!(
        eventually(LONG, || lab.router.log().contains("added=1 removed=0 changed=0")),
        "{}",
        lab.router.log()
    );
    fs::remove_file(lab.router.path("v2/more.json")).expect("removed");
    assert!(
        eventually(LONG, || lab.router.log().contains("added=0 removed=1 changed=0")),
        "{}",
        lab.router.log()
    );
}

#[test]
fn interfaces_may_go_down_and_away_and_come_back() {
    let Some(lab) = Lab::new() else { return };
    let near = LOCAL_SERVICE.replace("\"22\"", "\"22\", \"sources\": [\"203.0.113.0/24\"]");
    lab.router.write("rules.json", &RULES.replacen('{', &format!("{{{near},"), 1));
    let engine = lab.router.start();
    assert!(eventually(LONG, || lab.guest_reaches_internet()));
    lab.router.namespace.run("ip link set eth2 down");
    assert!(!lab.guest_reaches_internet());
    lab.router.namespace.run("ip link set eth2 up");
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.router.log());

    lab.router.namespace.run("ip link delete eth2");
    assert!(
        eventually(LONG, || lab.router.log().contains("interfaces are gone")),
        "{}",
        lab.router.log()
    );
    cable((&lab.router.namespace, "eth2"), (&lab.internet, "i0"));
    lab.router.namespace.run("ip address add 203.0.113.10/24 dev eth2");
    lab.internet.run("ip address add 203.0.113.1/24 dev i0");
    assert!(eventually(LONG, || lab.guest_reaches_internet()), "{}", lab.router.log());
    // So is the way to the router's own kernel, which only user space knows to take here.
    let served = lab.router.namespace.enter(|| TcpListener::bind("203.0.113.10:22"));
    let _served = served.expect("a free port");
    assert!(eventually(LONG, || lab.internet.succeeds("timeout 1 nc -z 203.0.113.10 22")));
    assert_eq!(engine.end("-TERM"), Some(0));
}

#[test]
fn what_stands_in_the_way_is_said_and_nothing_is_started() {
    let Some(lab) = Lab::new() else { return };
    let metrics = lab.router.namespace.enter(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
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
        lab.router.write("natwerk.toml", &config);
        lab.router.write("rules.json", &rules);
        let (said, got) = lab.refusal();
        assert!(said.contains(sentence), "{sentence}: {said}");
        assert_eq!(got, Some(code), "{said}");
        assert!(!lab.router.path("control.sock").exists(), "{sentence}");
        assert!(!lab.shows_program("eth2"), "{sentence}");
        assert!(!lab.router.namespace.run("ip link").contains("nwk"), "{sentence}");
    }
    lab.router.write("rules.json", RULES);
    lab.router.write("natwerk.toml", CONFIG);
    lab.router.namespace.run("ip link set eth0 down");
    let (said, code) = lab.refusal();
    assert!(said.contains("ip link set dev eth0 up"), "{said}");
    assert_eq!(code, Some(1));
}
