//! Every folder of `tests/samples/zstack`: what its requests lead to, what is answered, and what then becomes of packets.
//!
//! A folder has what ZStack sends (`bootstrap-info.json`, `requests.jsonl`, whose `snap` lines mark points in time), and
//! what must come of it:
//!
//! ```text
//! expected/SNAP.json       the native rules at that point; `end.json` behind the last request
//! expected/findings.txt    every diagnostic, and what is pending
//! expected/answers.txt     what each request is answered; beside it what ZStack's own router answered, if otherwise
//! packets.txt              `@SNAP`, then `INTERFACE: PACKET => INTERFACE: PACKET` or `=> REASON`
//! ```
//!
//! `NATWERK_BLESS=1 cargo test --test zstack_samples` writes what came out into `expected/`. Read the difference before you
//! commit it: every line is a promise.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use natwerk::config::{ChecksumMode, Interface, Role};
use natwerk::flow::{Endpoint, PortId};
use natwerk::rules::diagnostic::{Diagnostic, Place};
use natwerk::rules::set::RuleSet;
use natwerk::rules::sources::Nics;
use natwerk::rules::sources::zstack::record::Record;
use natwerk::rules::sources::zstack::state::State;
use natwerk::rules::{Loaded, load_with_nics, to_json};
use natwerk::testing::lab::{Lab, Outcome};
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::verdict::Verdict;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/zstack");

/// The folders, in order.
fn samples() -> Vec<PathBuf> {
    let entries = fs::read_dir(SAMPLES).expect("samples");
    let mut folders: Vec<_> = entries.map(|entry| entry.expect("a folder").path()).collect();
    folders.sort();
    assert!(folders.len() >= 14, "{} samples", folders.len());
    folders
}

/// The points in time of a sample, each with the requests before it.
fn snaps(sample: &Path) -> Vec<(String, String)> {
    let requests = fs::read_to_string(sample.join("requests.jsonl")).expect("requests");
    let mut snaps = Vec::new();
    let mut before = String::new();
    for line in requests.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(snap) = value["snap"].as_str() {
            snaps.push((snap.to_owned(), before.clone()));
        }
        before.push_str(line);
        before.push('\n');
    }
    snaps.push(("end".to_owned(), before));
    snaps
}

/// What a sample's boot information and `requests` come to.
fn load(sample: &Path, requests: &str) -> Loaded {
    let folder = tempfile::tempdir().expect("a folder");
    let boot = fs::read(sample.join("bootstrap-info.json"));
    if let Ok(boot) = boot {
        fs::write(folder.path().join("bootstrap-info.json"), boot).expect("written");
    }
    fs::write(folder.path().join("requests.jsonl"), requests).expect("written");
    let path = format!("zstack:{}", folder.path().display());
    let mut loaded = load_with_nics(&[path], None, &Nics::default()).expect("rules");
    // Folders differ from run to run.
    let shorten = |place: &mut Place| {
        let name = Path::new(&*place.file).file_name().expect("a file");
        place.file = name.to_str().expect("a name").into();
    };
    loaded.warnings.iter_mut().for_each(|fault: &mut Diagnostic| shorten(&mut fault.place));
    loaded
}

/// Compares with what is written in `sample/expected/name`, or writes it there.
fn expect(sample: &Path, name: &str, found: &str) -> Option<String> {
    let path = sample.join("expected").join(name);
    if std::env::var_os("NATWERK_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, found).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    (found != expected).then(|| format!("{} is not what came out:\n{found}", path.display()))
}

#[test]
fn requests_lead_to_the_rules_that_are_expected() {
    let mut faults = Vec::new();
    for sample in samples() {
        for (snap, requests) in snaps(&sample) {
            let loaded = load(&sample, &requests);
            let rules = to_json(&loaded.rules).expect("JSON");
            faults.extend(expect(&sample, &format!("{snap}.json"), &rules));
            if snap == "end" {
                let findings = loaded.warnings.iter().fold(String::new(), |mut text, fault| {
                    writeln!(text, "{fault}").expect("text");
                    text
                });
                faults.extend(expect(&sample, "findings.txt", &findings));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What ZStack's own router answered, by step.
fn observed(sample: &Path) -> BTreeMap<i64, serde_json::Value> {
    let text = fs::read_to_string(sample.join("observed-replies.jsonl")).unwrap_or_default();
    let reply = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (value["step"].as_i64().expect("a step"), value["callback"].clone())
    };
    text.lines().map(reply).collect()
}

/// The state behind all requests of a sample, and what is answered to each.
fn answers(sample: &Path) -> (State, String) {
    let mut state = State::new(Nics::default());
    let place = |_| Place { file: "".into(), line: 1, column: 1 };
    if let Ok(boot) = fs::read_to_string(sample.join("bootstrap-info.json")) {
        assert_eq!(state.boot(&boot, &place), []);
    }
    let observed = observed(sample);
    let mut text = String::new();
    let requests = fs::read_to_string(sample.join("requests.jsonl")).expect("requests");
    for line in requests.lines() {
        let request: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let Some(path) = request["path"].as_str() else { continue };
        let step = request["step"].as_i64().expect("a step");
        let answer = state.apply(path, request["body"].as_str().expect("a body"), &place);
        writeln!(text, "{step} {path} {}", answer.reply).expect("text");
        if let Some(today) = observed.get(&step).filter(|today| **today != answer.reply) {
            writeln!(text, "    today's router: {today}").expect("text");
        }
    }
    (state, text)
}

#[test]
fn requests_are_answered_as_expected() {
    let faults: Vec<_> = samples()
        .iter()
        .filter_map(|sample| expect(sample, "answers.txt", &answers(sample).1))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_recorded_leads_to_the_same_rules() {
    for sample in samples() {
        let (state, _) = answers(&sample);
        let recorded = Record::of(&state).to_string();
        let original = fs::read_to_string(sample.join("requests.jsonl")).expect("requests");
        let again = load(&sample, &recorded);
        assert_eq!(
            to_json(&again.rules).expect("JSON"),
            to_json(&load(&sample, &original).rules).expect("JSON"),
            "{}: {recorded}",
            sample.display()
        );
        let errors: Vec<_> = again.warnings.iter().map(ToString::to_string).collect();
        let errors: Vec<_> = errors.iter().filter(|fault| fault.contains(": error: ")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn packets_pass_or_do_not_as_they_must() {
    let mut cases = 0;
    let mut wrong = Vec::new();
    for sample in samples() {
        let Ok(packets) = fs::read_to_string(sample.join("packets.txt")) else { continue };
        let snaps: BTreeMap<_, _> = snaps(&sample).into_iter().collect();
        let mut lab: Option<(Lab, Vec<String>)> = None;
        for line in packets.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(snap) = line.strip_prefix('@') {
                let rules = load(&sample, &snaps[snap]).rules;
                let json = to_json(&rules).expect("JSON");
                match &mut lab {
                    Some((lab, _)) => {
                        lab.reload(&json);
                        // The engine answers a reload when the sweep has been by, too.
                        lab.pass(Duration::from_secs(1));
                    }
                    None => lab = Some(lab_of(&rules, &json)),
                }
                continue;
            }
            let (lab, names) = lab.as_mut().expect("a snap first");
            let (packet, expected) = line.split_once(" => ").expect("PACKET => OUTCOME");
            let found = send(lab, names, packet);
            cases += 1;
            if found != expected {
                wrong.push(format!("{}: {packet} => {found}, not {expected}", sample.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 60, "{cases} packets");
}

/// A router in memory with the interfaces that `rules` name, and their names by port.
fn lab_of(rules: &RuleSet, json: &str) -> (Lab, Vec<String>) {
    let guests = rules.networks.iter().map(|network| (network.interface.clone(), Role::Guest));
    let public = rules.public_ips.iter().map(|ip| (ip.interface.clone(), Role::Public));
    let mut interfaces: Vec<_> = guests.chain(public).collect();
    interfaces.sort_by(|one, other| one.0.cmp(&other.0));
    interfaces.dedup();
    let names = interfaces.iter().map(|(name, _)| name.clone()).collect();
    let checksum = ChecksumMode::DetectPartial;
    let interfaces = interfaces
        .into_iter()
        .map(|(name, role)| Interface { name, role, checksum, kernel_vlans: Vec::new() })
        .collect();
    (Lab::with(json, |config| config.interfaces = interfaces), names)
}

/// Sends `INTERFACE: PACKET`; what comes of it, in the same words.
fn send(lab: &mut Lab, names: &[String], text: &str) -> String {
    let (interface, packet) = text.split_once(": ").expect("INTERFACE: PACKET");
    let port = names.iter().position(|name| name == interface).expect("an interface");
    let port = PortId(u8::try_from(port).expect("few interfaces"));
    let Outcome { verdict, sent, .. } = lab.send(port, packet_of(packet).frame());
    match (verdict, sent.as_slice()) {
        (Verdict::Drop(reason), []) => reason.name().to_owned(),
        (Verdict::Drop(reason), [(to, frame), ..]) => {
            format!("{} {}: {}", reason.name(), names[to.index()], words(&frame[14..]))
        }
        (Verdict::Host(reason), _) => format!("host {}", reason.name()),
        (_, [(to, frame), ..]) => {
            assert_eq!(wrong_checksums(&frame[14..]), Vec::<&str>::new(), "{text}");
            format!("{}: {}", names[to.index()], words(&frame[14..]))
        }
        (verdict, []) => format!("{verdict:?}"),
    }
}

fn packet_of(text: &str) -> Packet {
    let words: Vec<&str> = text.split(' ').collect();
    let [protocol, source, ">", destination, flags @ ..] = words.as_slice() else {
        panic!("{text}");
    };
    let endpoint = |text: &str| {
        let (address, port) = text.split_once(':').expect("address:port");
        Endpoint::new(address.parse().expect("an address"), port.parse().expect("a port"))
    };
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
    match *protocol {
        "tcp" => {
            let flags = if flags.contains(&"[ack]") { 0x10 } else { 0x02 };
            Packet::tcp(endpoint(source), endpoint(destination), flags, &[], b"")
        }
        "udp" => Packet::udp(endpoint(source), endpoint(destination), b"data"),
        "ping" => Packet::echo(address(source), address(destination), 8, 7, b"data"),
        "pong" => Packet::echo(address(source), address(destination), 0, 7, b"data"),
        other => panic!("protocol {other}"),
    }
}

fn words(packet: &[u8]) -> String {
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (source, destination) = (address(12), address(16));
    match packet[9] {
        1 if packet[20] == 8 => format!("ping {source} > {destination}"),
        1 if packet[20] == 0 => format!("pong {source} > {destination}"),
        1 => format!("icmp {}/{} {source} > {destination}", packet[20], packet[21]),
        6 => format!("tcp {source}:{} > {destination}:{}", port(20), port(22)),
        17 => format!("udp {source}:{} > {destination}:{}", port(20), port(22)),
        other => format!("protocol {other} {source} > {destination}"),
    }
}
