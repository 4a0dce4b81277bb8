//! Shortcuts of the running engine: packets take them, are counted all the same, and take none once
//! anything says that they should not. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::router::{LONG, RULES, Router, Running, config_with_hook, installed};
use common::{Namespace, eventually};
use serde_json::Value;

const REMOTE: &str = "203.0.113.1:7000";

/// A router between a guest and the internet.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
}

impl Lab {
    /// Its ends take frames from the program, and finish their checksums.
    fn new(hook: &str) -> Option<Self> {
        let lab = Self::with_ordinary_ends(hook)?;
        for (namespace, device) in [(&lab.guest, "g0"), (&lab.internet, "i0")] {
            namespace.run(&format!("ethtool -K {device} gro on tx off"));
        }
        Some(lab)
    }

    /// Its ends are as veths are made.
    fn with_ordinary_ends(hook: &str) -> Option<Self> {
        if !installed(&["ethtool"]) {
            return None;
        }
        let router = Router::new(&config_with_hook(hook))?;
        let (guest, internet) = router.between()?;
        router.write("rules.json", RULES);
        Some(Self { router, guest, internet })
    }

    /// As many queues of each interface, and so workers.
    fn with_queues(self, count: u32) -> Self {
        let ends = [(&self.router.namespace, "eth0"), (&self.router.namespace, "eth2")];
        for (namespace, device) in
            ends.into_iter().chain([(&self.guest, "g0"), (&self.internet, "i0")])
        {
            namespace.run(&format!("ethtool -L {device} rx {count} tx {count}"));
        }
        self
    }

    /// A guest's socket and the remote one that it speaks with, which know each other.
    fn speakers(&self) -> [UdpSocket; 2] {
        let remote = self.internet.enter(|| UdpSocket::bind(REMOTE).expect("a socket"));
        let guest = self.guest.enter(|| UdpSocket::bind("10.1.1.5:0").expect("a socket"));
        for socket in [&guest, &remote] {
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        }
        guest.connect(REMOTE).expect("connected");
        assert!(eventually(LONG, || {
            guest.send(b"hello").expect("sent");
            remote.recv_from(&mut [0; 9]).is_ok_and(|(_, from)| remote.connect(from).is_ok())
        }));
        [guest, remote]
    }

    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.router.says(&format!("{what} --json"))).expect("JSON")
    }

    /// Packets that took shortcuts as frames, and such that the kernel carried, from both sides.
    fn shortcuts_by_way(&self) -> [u64; 2] {
        let workers = self.json("show workers");
        let interfaces = workers["interfaces"].as_array().expect("interfaces");
        ["shortcut", "carried"]
            .map(|way| interfaces.iter().filter_map(|it| it["kernel"][way].as_u64()).sum())
    }

    /// Both.
    fn shortcuts(&self) -> u64 {
        self.shortcuts_by_way().iter().sum()
    }
}

/// Whether a datagram that one of them sends gets to the other.
fn gets_through(from: &UdpSocket, to: &UdpSocket) -> bool {
    from.send(b"hello").expect("sent");
    to.recv(&mut [0; 9]).is_ok()
}

fn speak([guest, remote]: &[UdpSocket; 2]) -> bool {
    gets_through(guest, remote) && gets_through(remote, guest)
}

/// Speaks until packets take shortcuts, and are seen to.
fn speak_by_shortcut(lab: &Lab, speakers: &[UdpSocket; 2]) {
    // The interfaces' statuses are renewed once a second.
    let before = lab.shortcuts();
    let takes = eventually(LONG, || {
        assert!(speak(speakers));
        lab.shortcuts() > before + 2
    });
    assert!(takes, "{}", lab.router.log());
}

fn started() -> Option<(Lab, Running)> {
    started_with("auto")
}

fn started_with(hook: &str) -> Option<(Lab, Running)> {
    let lab = Lab::new(hook)?;
    let engine = lab.router.start();
    Some((lab, engine))
}

#[test]
fn what_takes_shortcuts_is_counted_as_if_it_did_not() {
    let Some((lab, _engine)) = started() else { return };
    let speakers = lab.speakers();
    speak_by_shortcut(&lab, &speakers);
    let before = lab.json("show sessions")[0]["initiator"]["packets"].as_u64().expect("packets");
    for _ in 0..100 {
        assert!(speak(&speakers));
    }
    assert!(eventually(LONG, || lab.json("show stats")["shortcuts"] == 2));
    let is_all_counted = || {
        let session = &lab.json("show sessions")[0];
        let (there, back) = (&session["initiator"], &session["responder"]);
        let packets = there["packets"].as_u64().expect("packets");
        let rule = &lab.json("show rules")[0];
        let interface = &lab.json("show workers")["interfaces"][1];
        let crossed = interface["crossed_in_bytes"].as_u64().expect("bytes");
        // The first datagram was answered by none.
        packets >= before + 100
            && back["packets"] == packets - 1
            && there["bytes"] == packets * 33
            && rule["packets"] == 2 * packets - 1
            && crossed == packets * 33
            && interface["transmitted_bytes"] == (packets - 1) * 47
    };
    assert!(eventually(LONG, is_all_counted), "{:#}", lab.json("show sessions"));

    let text = lab.router.says("show stats");
    assert!(text.lines().any(|line| line.ends_with("2 of 2048")), "{text}");
    // A flow that rests gives its place up, and is a session all the same.
    assert!(eventually(LONG, || lab.json("show stats")["shortcuts"] == 0));
    assert!(speak(&speakers));
    assert_eq!(lab.json("show stats")["sessions"], 1);
}

#[test]
fn what_passes_between_the_queues_of_two_workers_is_counted_once() {
    const FLOWS: u16 = 40;
    const ROUNDS: u64 = 50;
    let Some(lab) = Lab::new("auto") else { return };
    let lab = lab.with_queues(2);
    let engine = lab.router.start();
    assert!(engine.line().ends_with("workers=2"), "{}", engine.line());
    let remote = lab.internet.enter(|| UdpSocket::bind(REMOTE).expect("a socket"));
    let guest = |port| lab.guest.enter(|| UdpSocket::bind(("10.1.1.5", port)).expect("a socket"));
    let guests: Vec<_> = (5000..5000 + FLOWS).map(guest).collect();
    for socket in guests.iter().chain([&remote]) {
        socket.set_read_timeout(Some(LONG)).expect("set");
    }
    for _ in 0..ROUNDS {
        for guest in &guests {
            guest.send_to(b"hello", REMOTE).expect("sent");
            let (_, from) = remote.recv_from(&mut [0; 9]).expect("it gets through");
            remote.send_to(b"hello", from).expect("sent");
            guest.recv(&mut [0; 9]).expect("and back");
        }
    }
    let packets = |session: &Value, side: &str| session[side]["packets"].as_u64();
    let is_all_counted = || {
        let sessions = lab.json("show sessions");
        let sessions = sessions.as_array().expect("sessions");
        let all = |side| sessions.iter().all(|it| packets(it, side) == Some(ROUNDS));
        let rule = &lab.json("show rules")[0]["packets"];
        sessions.len() == usize::from(FLOWS)
            && all("initiator")
            && all("responder")
            && *rule == 2 * ROUNDS * u64::from(FLOWS)
    };
    assert!(eventually(LONG, is_all_counted), "{:#}", lab.json("show sessions"));
    let few = 2 * u64::from(FLOWS) * 4;
    assert!(eventually(LONG, || lab.shortcuts() > 2 * ROUNDS * u64::from(FLOWS) - few));
}

#[test]
fn a_session_that_ends_takes_its_shortcuts_and_what_passed_by_them_with_it() {
    let Some((lab, _engine)) = started() else { return };
    let [guest, remote] = &lab.speakers();
    speak_by_shortcut(&lab, &[guest.try_clone().unwrap(), remote.try_clone().unwrap()]);
    for _ in 0..20 {
        assert!(gets_through(guest, remote) && gets_through(remote, guest));
    }
    let sent = "show workers";
    let forwarded = || {
        let interface = &lab.json(sent)["interfaces"][1];
        interface["crossed_in_bytes"].as_u64().expect("bytes") / 33
    };
    lab.router.says("sessions flush");
    assert!(!gets_through(remote, guest), "nobody let it in");
    // All are counted on the rule once, those that passed just before as well.
    let is_all_counted = || {
        let rule = &lab.json("show rules")[0];
        let packets = forwarded();
        rule["sessions"] == 0 && rule["packets"] == 2 * packets - 1
    };
    assert!(eventually(LONG, is_all_counted), "{:#} {}", lab.json("show rules"), forwarded());
}

#[test]
fn new_rules_are_in_force_at_once() {
    let Some((lab, _engine)) = started() else { return };
    let [guest, remote] = &lab.speakers();
    let both = [guest.try_clone().unwrap(), remote.try_clone().unwrap()];
    speak_by_shortcut(&lab, &both);
    let denied = r#""egress_rules": [{"id": "no", "network": "web", "action": "deny", "protocol": "udp",
        "ports": "7000", "destinations": ["0.0.0.0/0"]}], "version": 1"#;
    lab.router.write("rules.json", &RULES.replace(r#""version": 1"#, denied));
    lab.router.says("reload");
    assert!(!gets_through(guest, remote) && !gets_through(remote, guest));
    lab.router.write("rules.json", RULES);
    lab.router.says("reload");
    // From another port, as the one it had rests.
    guest.send(b"hello").expect("sent");
    assert!(eventually(LONG, || lab.json("show stats")["sessions"] == 1));
}

#[test]
fn whoever_looks_sees_every_frame() {
    let Some((lab, _engine)) = started() else { return };
    let speakers = lab.speakers();
    speak_by_shortcut(&lab, &speakers);
    let seconds = "trace --seconds 3 --protocol udp --json";
    let trace = lab.router.natwerk(seconds).stdout(std::process::Stdio::piped()).spawn().unwrap();
    assert!(eventually(LONG, || lab.json("show stats")["shortcuts"] == 0), "they are held");
    let mut spoken = 0;
    let end = std::time::Instant::now() + Duration::from_millis(500);
    while std::time::Instant::now() < end {
        assert!(speak(&speakers));
        spoken += 1;
        // No faster than frames can be taken away.
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = trace.wait_with_output().expect("it ends");
    let seen = String::from_utf8_lossy(&output.stdout).matches("\"verdict\"").count();
    assert_eq!(seen, 2 * spoken);
    speak_by_shortcut(&lab, &speakers);
}

#[test]
fn nothing_is_forwarded_for_long_when_nobody_is_there() {
    ["tc", "xdp"].into_iter().for_each(nothing_is_forwarded_for_long_by);
}

fn nothing_is_forwarded_for_long_by(hook: &str) {
    let Some((lab, engine)) = started_with(hook) else { return };
    let speakers = lab.speakers();
    speak_by_shortcut(&lab, &speakers);
    engine.end("-KILL");
    // Its last word is believed for two seconds.
    assert!(eventually(LONG, || !speak(&speakers)));
    assert!(!speak(&speakers));
    let engine = lab.router.start();
    assert!(eventually(LONG, || speak(&speakers)), "the session lives on");
    speak_by_shortcut(&lab, &speakers);
    let filters = lab.router.namespace.run("tc filter show dev eth0 ingress");
    let ours = filters.lines().filter(|line| line.contains("natwerk_carry")).count();
    assert_eq!(ours, 1, "{filters}");

    engine.signal("-STOP");
    assert!(eventually(LONG, || !speak(&speakers)), "one that hangs is not there");
    engine.signal("-CONT");
    assert!(eventually(LONG, || speak(&speakers)));
}

#[test]
fn a_neighbour_that_moves_is_followed_and_one_that_takes_no_frames_has_packets_carried_there() {
    let Some((lab, _engine)) = started_with("xdp") else { return };
    let speakers = lab.speakers();
    speak_by_shortcut(&lab, &speakers);
    lab.internet.run("ip link set i0 address 02:00:00:00:77:77");
    // It asks for the router, by which that learns where it is.
    lab.internet.run("ip neigh flush dev i0");
    assert!(eventually(LONG, || gets_through(&speakers[1], &speakers[0]) && speak(&speakers)));
    speak_by_shortcut(&lab, &speakers);

    assert_eq!(lab.shortcuts_by_way()[1], 0);
    lab.internet.run("ethtool -K i0 gro off");
    let is_carried = || speak(&speakers) && lab.shortcuts_by_way()[1] > 0;
    assert!(eventually(LONG, is_carried), "{}", lab.router.log());
    let [as_frames, carried] = lab.shortcuts_by_way();
    for _ in 0..50 {
        assert!(speak(&speakers));
    }
    // Answers still leave as frames.
    let are_all_counted = || {
        let [frames_now, carried_now] = lab.shortcuts_by_way();
        frames_now >= as_frames + 50 && carried_now >= carried + 50
    };
    assert!(eventually(LONG, are_all_counted), "{:?}", lab.shortcuts_by_way());
}

#[test]
fn between_ordinary_veths_packets_are_carried() {
    ["tc", "xdp"].into_iter().for_each(packets_are_carried_by);
}

fn packets_are_carried_by(hook: &str) {
    let Some(lab) = Lab::with_ordinary_ends(hook) else { return };
    let _engine = lab.router.start();
    let speakers = lab.speakers();
    speak_by_shortcut(&lab, &speakers);
    let packets = || lab.json("show sessions")[0]["initiator"]["packets"].as_u64();
    let before = packets().expect("packets");
    for _ in 0..50 {
        assert!(speak(&speakers));
    }
    // That something is counted twice would show, too.
    let spoken = |packets: u64| (before + 50..before + 80).contains(&packets);
    assert!(eventually(LONG, || packets().is_some_and(spoken)), "{:?}", packets());
    assert_eq!(lab.shortcuts_by_way()[0], 0, "their checksums are unfinished");
}

#[test]
fn a_stream_is_whole_or_joined_and_loses_nothing_to_new_rules() {
    ["tc", "xdp"].into_iter().for_each(a_stream_loses_nothing_by);
}

fn a_stream_loses_nothing_by(hook: &str) {
    const MEGABYTES: usize = 64;
    let Some(lab) = Lab::with_ordinary_ends(hook) else { return };
    let engine = lab.router.start();
    let listener = lab.internet.enter(|| TcpListener::bind(REMOTE).expect("a listener"));
    let connect = || TcpStream::connect_timeout(&REMOTE.parse().unwrap(), LONG);
    let mut guest = lab.guest.enter(connect).expect("connected");
    let (mut remote, _) = listener.accept().expect("accepted");
    let received_before = packets_received(&lab.internet);
    let writer = std::thread::spawn(move || {
        for megabyte in 0..MEGABYTES {
            guest.write_all(&vec![megabyte as u8; 1 << 20]).expect("sent");
        }
    });
    let mut megabyte = vec![0; 1 << 20];
    for expected in 0..MEGABYTES {
        remote.read_exact(&mut megabyte).expect("received");
        assert!(megabyte.iter().all(|byte| *byte == expected as u8), "megabyte {expected}");
        if expected % 8 == 7 {
            lab.router.says("reload");
        }
    }
    writer.join().expect("all was sent");
    // It takes 47,000 frames.
    let received = packets_received(&lab.internet) - received_before;
    assert!(received < 20_000, "{received} packets");
    assert!(eventually(LONG, || lab.shortcuts_by_way()[1] > 20_000));
    let bytes = || lab.json("show sessions")[0]["initiator"]["bytes"].as_u64();
    let all = (MEGABYTES as u64) << 20;
    assert!(eventually(LONG, || bytes().is_some_and(|bytes| bytes > all)), "{:?}", bytes());
    drop(remote);
    engine.end("-TERM");
    let left = lab.router.namespace.run("tc filter show dev eth0 ingress");
    assert!(!left.contains("natwerk"), "{left}");
}

/// Packets that `i0` got, however large.
fn packets_received(internet: &Namespace) -> u64 {
    let said = internet.run("cat /sys/class/net/i0/statistics/rx_packets");
    said.trim().parse().expect("a number")
}

#[test]
fn a_connection_that_took_shortcuts_is_seen_to_end() {
    let Some((lab, _engine)) = started() else { return };
    let listener = lab.internet.enter(|| TcpListener::bind(REMOTE).expect("a listener"));
    let connect = || lab.guest.enter(|| TcpStream::connect_timeout(&REMOTE.parse().unwrap(), LONG));
    let before = lab.shortcuts();
    let mut guest = connect().expect("connected");
    let (mut remote, _) = listener.accept().expect("accepted");
    // Megabytes: many windows further than the pipeline saw.
    let data = vec![7; 1 << 16];
    for _ in 0..100 {
        let mut seen = vec![0; data.len()];
        guest.write_all(&data).expect("sent");
        remote.read_exact(&mut seen).expect("received");
        remote.write_all(&seen[..1000]).expect("sent");
        guest.read_exact(&mut seen[..1000]).expect("received");
    }
    drop((guest, remote));
    let state = || lab.json("show sessions")[0]["state"].as_str().unwrap_or_default().to_owned();
    assert!(eventually(LONG, || state() == "closed"), "{}", state());
    assert!(eventually(LONG, || lab.shortcuts() > before + 1000));
}
