//! Golden packets: what goes in and what must come out, in words and bytes, case by case.
//!
//! Each `*.txt` beside this file holds cases: a description behind `==`, then steps. Lines that begin
//! with a space are what the pipeline said to the step before them, and are compared whole:
//!
//! ```text
//! in PORT: FRAME      a frame comes in by `public` or `guest`
//! pass MILLISECONDS   time passes
//! reload s/OLD/NEW/   the rules as they were, with OLD replaced by NEW
//! neighbors silent    nobody answers the router's ARP any more (or again: `answer`), or the kernel
//!                     has given up whoever is waited for: `gone`
//! ```
//!
//! `NATWERK_BLESS=1 cargo test --test golden` writes what came out into the files. Read the
//! difference before you commit it: every line is a promise.

mod text;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use natwerk::flow::PortId;
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::crc32c;
use natwerk::verdict::Verdict;

const RULES: &str = include_str!("rules.json");

#[test]
fn every_packet_comes_out_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    let mut different = Vec::new();
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder of this test")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    for path in files {
        let written = fs::read_to_string(&path).expect("a text file");
        let seen = run(&written);
        cases += written.lines().filter(|line| line.starts_with("==")).count();
        if seen == written {
            continue;
        }
        if std::env::var_os("NATWERK_BLESS").is_some() {
            fs::write(&path, seen).expect("a writable file");
        } else {
            different.push(format!("{}:\n{}", path.display(), difference(&written, &seen)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(cases >= 60, "{cases} cases");
}

/// The file as it should be: its own steps, each followed by what came of it.
fn run(written: &str) -> String {
    let mut seen = String::new();
    let mut lab = None;
    let mut rules = RULES.to_owned();
    for line in written.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(seen, "{line}").expect("text");
        if line.starts_with("==") {
            finish(&mut lab);
            rules = RULES.to_owned();
            lab = Some(Lab::new(&rules));
        }
        let Some(lab) = lab.as_mut() else { continue };
        if let Some((port, frame)) = line.strip_prefix("in ").and_then(|step| step.split_once(": "))
        {
            let port = port_named(port);
            let outcome = send(lab, port, frame);
            tell_verdict(outcome.verdict, lab, &mut seen);
            tell_frames(&outcome, &mut seen);
        } else if let Some(ms) = line.strip_prefix("pass ") {
            let outcome = lab.pass(Duration::from_millis(ms.parse().expect("milliseconds")));
            tell_frames(&outcome, &mut seen);
        } else if let Some(edit) = line.strip_prefix("reload s/") {
            let mut parts = edit.split('/');
            let (old, new) = (parts.next().expect("OLD"), parts.next().expect("NEW"));
            assert!(rules.contains(old), "{old} is not in the rules");
            rules = rules.replace(old, new);
            lab.reload(&rules);
        } else if let Some(word) = line.strip_prefix("neighbors ") {
            match word {
                "answer" => lab.answers = true,
                "silent" => lab.answers = false,
                "gone" => lab.give_up_neighbors(),
                other => panic!("neighbors {other}?"),
            }
        } else {
            let is_plain = line.is_empty() || line.starts_with('#') || line.starts_with("==");
            assert!(is_plain, "not understood: {line}");
        }
    }
    finish(&mut lab);
    seen
}

/// A `raw` frame keeps the link addresses it has; others come from somebody who knows the router.
fn send(lab: &mut Lab, port: PortId, line: &str) -> Outcome {
    if line.starts_with("arp ") || line.starts_with("raw ") {
        return lab.send_raw(port, &text::frame(line.strip_prefix("raw ").unwrap_or(line)));
    }
    lab.send(port, text::frame(line))
}

/// Every frame has been given back, whatever became of it.
fn finish(lab: &mut Option<Lab>) {
    if let Some(lab) = lab.as_mut() {
        lab.pass(Duration::from_secs(5));
        assert_eq!(lab.frames_in_hand(), 0, "frames that nobody gave back");
    }
}

fn tell_verdict(verdict: Verdict, _: &Lab, seen: &mut String) {
    match verdict {
        Verdict::Drop(reason) => writeln!(seen, "  drop {}", reason.name()),
        Verdict::Forward(port) => writeln!(seen, "  forward {}", port_name(port)),
        Verdict::Hold => writeln!(seen, "  hold"),
        Verdict::Host(reason) => writeln!(seen, "  host {}", reason.name()),
    }
    .expect("text");
}

fn tell_frames(outcome: &Outcome, seen: &mut String) {
    for (port, frame) in &outcome.sent {
        let from = Lab::router_mac(*port).0;
        assert!(frame[0..6] == from || frame[6..12] == from, "another source than the router");
        writeln!(seen, "  out {} to {}: {}", port_name(*port), neighbor(frame), text::line(frame))
            .expect("text");
        bytes(frame, seen);
    }
    for (port, frame) in &outcome.host {
        writeln!(seen, "  host {}: {}", port_name(*port), text::line(frame)).expect("text");
    }
}

/// All bytes of a short frame, the sum of a long one.
fn bytes(frame: &[u8], seen: &mut String) {
    if frame.len() <= HEX_MAX {
        writeln!(seen, "      {}", text::hex(frame)).expect("text");
    } else {
        writeln!(seen, "      {} bytes, crc32c {:08x}", frame.len(), crc32c(frame)).expect("text");
    }
}

/// Whose link address a frame goes to, in the lab's scheme.
fn neighbor(frame: &[u8]) -> String {
    match frame[0..6] {
        [2, 1, a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
        [2, 6, a, b, c, d] => {
            format!("the one whose address ends in {a:02x}{b:02x}:{c:02x}{d:02x}")
        }
        [2, 9, 9, 9, 9, _] => "its sender".to_owned(),
        ref other => text::hex(other),
    }
}

fn port_named(name: &str) -> PortId {
    match name {
        "guest" => GUEST,
        "public" => PUBLIC,
        other => panic!("no port {other}"),
    }
}

fn port_name(port: PortId) -> &'static str {
    if port == PUBLIC { "public" } else { "guest" }
}

fn difference(written: &str, seen: &str) -> String {
    let (mut written, mut seen) = (written.lines(), seen.lines());
    let mut heading = "";
    loop {
        match (written.next(), seen.next()) {
            (None, None) => return "only the end of the last line differs".to_owned(),
            (one, other) if one != other => {
                return format!(
                    "{heading}\n- {}\n+ {}",
                    one.unwrap_or("(end)"),
                    other.unwrap_or("(end)")
                );
            }
            (Some(line), _) if line.starts_with("==") => heading = line,
            _ => {}
        }
    }
}

const HEX_MAX: usize = 160;
