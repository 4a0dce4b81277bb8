//! Where the running engine takes the packets of veths: at the kernel's traffic control, or by XDP. Needs root; says
//! so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::router::{LONG, RULES, Router, Running, config_with_hook};
use common::{Namespace, eventually};

/// A router between a guest and the internet, by veths as they are made.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
}

impl Lab {
    fn new(hook: &str) -> Option<Self> {
        let router = Router::new(&config_with_hook(hook))?;
        let (guest, internet) = router.between()?;
        router.write("rules.json", RULES);
        Some(Self { router, guest, internet })
    }

    /// Has the next engine take packets there.
    fn hook(&self, hook: &str) {
        self.router.write("natwerk.toml", &config_with_hook(hook));
    }

    fn has_xdp(&self) -> bool {
        self.router.namespace.run("ip link show dev eth0").contains("xdp")
    }

    /// What it says of the guest's interface.
    fn says(&self, what: &str) -> serde_json::Value {
        let workers = self.router.says("show workers --json");
        let workers: serde_json::Value = serde_json::from_str(&workers).expect("JSON");
        let rows = workers["interfaces"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["name"] == "eth0").expect("the interface");
        row[what].clone()
    }

    /// The interfaces of feeders.
    fn feeders(&self) -> usize {
        let links = self.router.namespace.run("ip -o link show");
        links.lines().filter(|line| line.contains(": nwf") || line.contains(": nwx")).count()
    }

    fn pings(&self, options: &str) -> bool {
        let ping = format!("ping -c 1 -W 1 {options}");
        eventually(LONG, || self.guest.succeeds(&ping))
    }

    fn pings_once(&self) -> bool {
        self.guest.succeeds("ping -c 1 -W 1 203.0.113.1")
    }

    /// Sends so many megabytes through one connection, and sees that they arrive.
    fn stream(&self, megabytes: usize) {
        let listener = self.internet.enter(|| TcpListener::bind("203.0.113.1:0").expect("one"));
        let address = listener.local_addr().expect("its address");
        let connect = || TcpStream::connect_timeout(&address, LONG).expect("connected");
        let mut guest = self.guest.enter(connect);
        let (mut remote, _) = listener.accept().expect("accepted");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for megabyte in 0..megabytes {
                    guest.write_all(&vec![megabyte as u8; 1 << 20]).expect("sent");
                }
            });
            let mut megabyte = vec![0; 1 << 20];
            for expected in 0..megabytes {
                remote.read_exact(&mut megabyte).expect("received");
                assert!(megabyte.iter().all(|byte| *byte == expected as u8), "{expected}");
            }
        });
    }
}

fn started(hook: &str) -> Option<(Lab, Running)> {
    let lab = Lab::new(hook)?;
    let engine = lab.router.start();
    Some((lab, engine))
}

#[test]
fn what_takes_no_shortcut_goes_by_the_feeder_cut_to_size() {
    let Some((lab, _engine)) = started("auto") else { return };
    assert!(!lab.has_xdp() && lab.feeders() == 4, "{}", lab.router.log());
    assert_eq!(lab.says("hook"), "tc");
    assert!(lab.pings("203.0.113.1"), "{}", lab.router.log());
    assert!(lab.pings("-s 9000 203.0.113.1"), "fragments");
    assert!(lab.pings("10.1.1.1"), "the kernel's own address");
    // As long as somebody looks, there are no shortcuts.
    let mut trace = lab.router.natwerk("trace --count 1000000 --seconds 60 --json");
    let trace = trace.stdout(std::process::Stdio::null()).spawn();
    let mut trace = trace.expect("it runs");
    assert!(eventually(LONG, || lab.pings("203.0.113.1")));
    lab.stream(4);
    trace.kill().and_then(|()| trace.wait()).expect("it ends");
}

#[test]
fn a_feeder_that_somebody_removes_is_made_again() {
    let Some((lab, _engine)) = started("tc") else { return };
    assert!(lab.pings("203.0.113.1"));
    let links = lab.router.namespace.run("ip -o link show type veth");
    let feeder = links.split([' ', '@']).find(|word| word.starts_with("nwf")).expect("one");
    lab.router.namespace.run(&format!("ip link del {feeder}"));
    assert!(eventually(LONG, || lab.feeders() == 4), "{}", lab.router.log());
    assert!(lab.pings("203.0.113.1"));
}

#[test]
fn nothing_is_left_behind_whichever_hook_a_killed_engine_had() {
    let Some((lab, engine)) = started("tc") else { return };
    engine.end("-KILL");
    assert!(!lab.pings_once(), "what was the engine's is dropped");
    for hook in ["xdp", "tc", "tc", "xdp"] {
        lab.hook(hook);
        let engine = lab.router.start();
        assert!(lab.pings("203.0.113.1"), "{hook}: {}", lab.router.log());
        assert_eq!(
            (lab.has_xdp(), lab.feeders()),
            (hook == "xdp", if hook == "xdp" { 0 } else { 4 })
        );
        engine.end("-KILL");
        assert!(!lab.pings_once(), "{hook}");
    }
    let engine = lab.router.start();
    engine.end("-TERM");
    let filters = lab.router.namespace.run("tc filter show dev eth0 ingress");
    assert!(!lab.has_xdp() && lab.feeders() == 0 && !filters.contains("natwerk"), "{filters}");
}

#[test]
fn frames_bring_xdp_and_streams_take_it_off_again() {
    let Some((lab, _engine)) = started("auto") else { return };
    assert!(lab.pings("203.0.113.1"));
    let link = lab.router.namespace.run("cat /sys/class/net/eth0/address");
    let send = format!(
        "{} generate send --interface g0 --router-mac {} --destination 203.0.113.1 \
         --first-source 10.1.1.5 --hosts 1 --ports 8 --rate 20000 --seconds 60",
        env!("CARGO_BIN_EXE_natwerk"),
        link.trim()
    );
    let generator = lab.router.background(&lab.guest, &send);
    // The internet's end takes no frames yet, so they would have to be carried.
    let frames = || lab.says("kernel")["as_frames"].as_u64().expect("a count");
    assert!(eventually(LONG, || frames() > 60_000), "{}", lab.router.log());
    assert!(!lab.has_xdp(), "{}", lab.router.log());
    lab.internet.run("ethtool -K i0 gro on");
    assert!(eventually(LONG, || lab.has_xdp()), "{}", lab.router.log());
    assert!(eventually(LONG, || lab.says("hook") == "xdp"));
    generator.end("-TERM");
    let streams_until_it_is_off = || {
        lab.stream(16);
        !lab.has_xdp()
    };
    assert!(eventually(LONG, streams_until_it_is_off), "{}", lab.router.log());
    assert!(lab.pings("203.0.113.1"));
}

#[test]
fn an_end_that_gets_an_xdp_program_is_not_passed_by() {
    let Some((lab, _engine)) = started("tc") else { return };
    assert!(lab.pings("203.0.113.1"));
    let crosses = || lab.router.log().matches("is_passage=true").count();
    assert_eq!(crosses(), 2, "{}", lab.router.log());
    let address = lab.router.namespace.run("cat /sys/class/net/eth0/address");
    let natwerk = env!("CARGO_BIN_EXE_natwerk");
    let send = format!(
        "{natwerk} generate send --interface g0 --router-mac {} --destination 203.0.113.1 \
         --first-source 10.1.1.5 --hosts 1 --ports 1 --rate 1000 --seconds 60",
        address.trim()
    );
    let _generator = lab.router.background(&lab.guest, &send);
    assert!(eventually(LONG, || lab.router.says("show stats --json").contains("\"shortcuts\": 1")));
    let receive = format!("{natwerk} generate receive --interface i0 --seconds 4 --json");
    let report = lab.internet.run(&receive);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    // Until the engine looks again, they pass its program by.
    assert!(report["packets"].as_u64().is_some_and(|packets| packets > 1000), "{report}");
}
