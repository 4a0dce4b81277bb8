//! `natwerk replay`: captures through the real pipeline, with the captures' own clock.
//!
//! Frames of all inputs are taken in the order of their times. The same input always gives the same
//! output: keys and seeds are fixed, and the only clock is the captures'.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::Common;
use crate::cli::offline::{self, Passed, Router};
use crate::cli::output::{self, Failure, Outcome};
use crate::cli::place;
use crate::config::Config;
use crate::flow::{Mac, PortId};
use crate::host;
use crate::io::pcap::{CaptureError, CaptureReader, CaptureWriter, Captured};
use crate::rules;
use crate::time::Tick;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire::{arp, parse};

/// What to replay.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// A capture of what comes in by an interface (pcap or pcapng, Ethernet).
    #[arg(long = "in", value_name = "IFACE=FILE", num_args = 1.., required = true)]
    inputs: Vec<Assignment>,
    /// Where to write what leaves by an interface (pcapng if it ends in `.pcapng`, else pcap).
    #[arg(long = "out", value_name = "IFACE=FILE", num_args = 1..)]
    outputs: Vec<Assignment>,
    /// The router's own link address on an interface; without it, the one that most of the frames
    /// that come in by it are addressed to.
    #[arg(long = "mac", value_name = "IFACE=MAC", num_args = 1..)]
    macs: Vec<Assignment>,
}

/// `name=value`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    name: String,
    value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("an interface, `=`, and what belongs to it".to_owned()),
        }
    }
}

/// What a replay came to.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Summary {
    /// Frames that came in, by interface.
    pub received: BTreeMap<String, u64>,
    /// Frames that left, by interface.
    pub sent: BTreeMap<String, u64>,
    /// Frames forwarded, dropped, held and handed to the kernel.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Frames for the kernel, by reason.
    pub hosted: BTreeMap<&'static str, u64>,
    /// Sessions made.
    pub sessions_created: u64,
    /// Sessions that live at the end.
    pub sessions: u32,
    /// Milliseconds between the first frame and the last.
    pub duration_ms: u64,
}

/// Replays.
///
/// # Errors
/// When the configuration or the rules are faulty, or a capture cannot be read or written.
pub fn run(arguments: &Arguments, common: &Common) -> Outcome {
    let config = Config::load(&common.config).map_err(|faults| offline::faulty(&faults))?;
    let loaded = rules::load_with_nics(&config.rules, Some(&config), &host::nics())
        .map_err(|it| offline::faulty(&it))?;
    let mut router = Router::new(&config, &loaded.rules, config.sessions.max)?;
    for input in &arguments.inputs {
        let port = named(&input.name, &config)?;
        learn(&mut router, port, Path::new(&input.value))?;
    }
    for given in &arguments.macs {
        let mac = mac(&given.value)
            .ok_or_else(|| Failure::refused(format!("`{}` is not a link address", given.value)))?;
        router.set_interface(named(&given.name, &config)?, mac, MTU);
    }
    let mut inputs = Vec::new();
    for input in &arguments.inputs {
        inputs.push(Input::open(named(&input.name, &config)?, Path::new(&input.value))?);
    }
    let mut outputs = Outputs::default();
    for output in &arguments.outputs {
        outputs.open(named(&output.name, &config)?, &output.name, Path::new(&output.value))?;
    }
    let summary = Replay { router, config: &config, outputs, summary: Summary::default() };
    let summary = summary.play(inputs)?;
    match common.json {
        true => output::print_json(&summary),
        false => output::print_bytes(text(&summary).as_bytes()),
    }
}

const MTU: u16 = 1500;

fn named(name: &str, config: &Config) -> Result<PortId, Failure> {
    match place::tagged(name, config)? {
        (port, 0) => Ok(port),
        _ => {
            Err(Failure::refused(format!("`{name}` names a VLAN; captures hold whole interfaces")))
        }
    }
}

fn mac(text: &str) -> Option<Mac> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok());
    let octets: Option<Vec<u8>> = octets.collect();
    Some(Mac(octets?.try_into().ok()?))
}

fn trouble(path: &Path) -> impl Fn(CaptureError) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::failed(format!("{path}: {error}"))
}

/// Looks through a capture for who is who: the router's own address, and its neighbours'.
fn learn(router: &mut Router, port: PortId, path: &Path) -> Result<(), Failure> {
    let mut addressed: HashMap<Mac, u64> = HashMap::new();
    for captured in CaptureReader::open(path).map_err(trouble(path))? {
        let frame = captured.map_err(trouble(path))?.bytes;
        let Some((to, from)) = parse::macs(&frame) else { continue };
        if !to.is_group() {
            *addressed.entry(to).or_default() += 1;
        }
        if let Some(arp) = arp::parse(&frame) {
            router.set_neighbor(port, arp.sender, from);
        } else if let Ok(packet) = parse::parse(&frame) {
            router.set_neighbor(port, packet.source.address, from);
        }
    }
    // Of several the smallest, so that it is always the same.
    let most = addressed.into_iter().max_by_key(|(mac, count)| (*count, std::cmp::Reverse(*mac)));
    if let Some((own, _)) = most {
        router.set_interface(port, own, MTU);
    }
    Ok(())
}

/// A capture that is being read.
struct Input {
    port: PortId,
    path: PathBuf,
    frames: Peekable<CaptureReader<BufReader<File>>>,
}

impl Input {
    fn open(port: PortId, path: &Path) -> Result<Self, Failure> {
        let frames = CaptureReader::open(path).map_err(trouble(path))?.peekable();
        Ok(Self { port, path: path.to_owned(), frames })
    }

    /// When its next frame was seen; an error is next of all.
    fn next_at(&mut self) -> Option<Duration> {
        self.frames.peek().map(|next| next.as_ref().map_or(Duration::ZERO, |it| it.at))
    }

    fn next(&mut self) -> Option<Result<Captured, Failure>> {
        let next = self.frames.next()?;
        Some(next.map_err(trouble(&self.path)))
    }
}

/// The captures that are being written.
#[derive(Default)]
struct Outputs {
    files: Vec<(PortId, PathBuf, CaptureWriter<BufWriter<File>>)>,
}

impl Outputs {
    fn open(&mut self, port: PortId, name: &str, path: &Path) -> Outcome {
        let writer = CaptureWriter::create(path, &[name]).map_err(trouble(path))?;
        self.files.push((port, path.to_owned(), writer));
        Ok(())
    }

    fn write(&mut self, port: PortId, at: Duration, frame: &[u8]) -> Outcome {
        for (of, path, writer) in &mut self.files {
            if *of == port {
                writer.write(0, at, frame, None).map_err(trouble(path))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        for (_, path, writer) in self.files {
            writer.finish().map_err(trouble(&path))?;
        }
        Ok(())
    }
}

struct Replay<'c> {
    router: Router,
    config: &'c Config,
    outputs: Outputs,
    summary: Summary,
}

/// How often the router does what is due while no frame comes.
const STEP: Duration = Duration::from_millis(100);
/// How much of a long silence is lived through: a whole sweep over all sessions fits in.
const LIVED: Duration = Duration::from_secs(5);

impl Replay<'_> {
    fn play(mut self, mut inputs: Vec<Input>) -> Result<Summary, Failure> {
        let first = inputs.iter_mut().filter_map(Input::next_at).min().unwrap_or_default();
        let mut now = first;
        loop {
            let next = inputs.iter_mut().enumerate();
            let next = next.filter_map(|(place, input)| Some((input.next_at()?, place))).min();
            let Some(input) = next.and_then(|(_, place)| inputs.get_mut(place)) else { break };
            let port = input.port;
            let Some(captured) = input.next() else { continue };
            let captured = captured?;
            // A clock that goes back stands still instead.
            let at = captured.at.max(now);
            self.wait(first, now, at)?;
            now = at;
            *self.summary.received.entry(self.name(port)).or_default() += 1;
            let passed = self.router.pass(port, &captured.bytes, tick(first, now));
            let verdict = match passed.verdict {
                Verdict::Drop(_) => "drop",
                Verdict::Forward(_) => "forward",
                Verdict::Hold => "hold",
                Verdict::Host(_) => "host",
            };
            *self.summary.verdicts.entry(verdict).or_default() += 1;
            self.keep(passed, now)?;
        }
        self.outputs.finish()?;
        let totals = self.router.counters.totals();
        let mut summary = self.summary;
        for reason in DropReason::ALL.into_iter().filter(|reason| totals.dropped(*reason) > 0) {
            summary.drops.insert(reason.name(), totals.dropped(reason));
        }
        for reason in HostReason::ALL.into_iter().filter(|reason| totals.hosted(*reason) > 0) {
            summary.hosted.insert(reason.name(), totals.hosted(reason));
        }
        summary.sessions_created = totals.sessions_created;
        summary.sessions = self.router.shared.sessions.len();
        summary.duration_ms = u64::try_from((now - first).as_millis()).unwrap_or(u64::MAX);
        Ok(summary)
    }

    /// Lets the router do what is due between two frames.
    fn wait(&mut self, first: Duration, from: Duration, until: Duration) -> Outcome {
        let mut now = from.max(until.saturating_sub(LIVED));
        while now + STEP < until {
            now += STEP;
            let passed = self.router.idle(tick(first, now));
            self.keep(passed, now)?;
        }
        Ok(())
    }

    /// Writes what left.
    fn keep(&mut self, passed: Passed, at: Duration) -> Outcome {
        for (to, frame) in &passed.sent {
            *self.summary.sent.entry(self.name(*to)).or_default() += 1;
            self.outputs.write(*to, at, frame)?;
        }
        Ok(())
    }

    fn name(&self, port: PortId) -> String {
        crate::control::workers::port_name(port, self.config)
    }
}

/// The router's clock: it began a while before the first frame.
fn tick(first: Duration, now: Duration) -> Tick {
    Tick::from_ms(1_000_000).after(now.saturating_sub(first))
}

fn text(summary: &Summary) -> String {
    let pairs = |counts: Vec<(String, u64)>| match counts.is_empty() {
        true => "-".to_owned(),
        false => {
            let pairs = counts.iter().map(|(name, count)| format!("{name} {count}"));
            pairs.collect::<Vec<_>>().join(", ")
        }
    };
    let owned = |counts: &BTreeMap<String, u64>| {
        pairs(counts.iter().map(|(name, count)| (name.clone(), *count)).collect())
    };
    let fixed = |counts: &BTreeMap<&'static str, u64>| {
        pairs(counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
    };
    let lines = [
        ("received", owned(&summary.received)),
        ("sent", owned(&summary.sent)),
        ("verdicts", fixed(&summary.verdicts)),
        ("dropped", fixed(&summary.drops)),
        ("to the kernel", fixed(&summary.hosted)),
        (
            "sessions",
            format!("{} made, {} live at the end", summary.sessions_created, summary.sessions),
        ),
        ("time", format!("{} ms", summary.duration_ms)),
    ];
    lines.iter().map(|(name, value)| format!("{name:<15}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::frame_text::describe;
    use crate::cli::packet_text::PacketText;

    const RULES: &str = r#"{"version": 1,
  "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}],
  "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                "source_nat": ["203.0.113.10"], "egress_default": "allow"}]}"#;

    const CONFIG: &str = r#"rules = ["rules.json"]
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
"#;

    const ROUTER: Mac = Mac([2, 0, 0, 0, 0xaa, 1]);
    const GUEST: Mac = Mac([2, 0, 0, 0, 0xbb, 5]);

    /// A capture of packets with the seconds at which they came.
    fn capture(path: &Path, packets: &[(u64, &str)]) {
        let mut writer = CaptureWriter::create(path, &["x"]).unwrap();
        for (at, text) in packets {
            let packet: PacketText = text.parse().unwrap();
            let frame = packet.frame(GUEST, ROUTER, 0).unwrap();
            writer.write(0, Duration::from_secs(1_700_000_000 + at), &frame, None).unwrap();
        }
        writer.finish().unwrap();
    }

    fn read(path: &Path) -> Vec<(Duration, Vec<u8>)> {
        let frames = CaptureReader::open(path).unwrap().map(Result::unwrap);
        frames.map(|captured| (captured.at, captured.bytes)).collect()
    }

    fn assignment(name: &str, path: &Path) -> Assignment {
        Assignment { name: name.to_owned(), value: path.to_str().unwrap().to_owned() }
    }

    #[test]
    fn two_captures_are_played_in_the_order_of_their_times() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("rules.json"), RULES).unwrap();
        std::fs::write(at("natwerk.toml"), CONFIG).unwrap();
        let query = "udp 10.1.1.5:5000 > 198.51.100.9:4000";
        capture(&at("guest.pcap"), &[(0, query), (400, query)]);
        let reply = "udp 198.51.100.9:4000 > 203.0.113.10:5000";
        capture(&at("public.pcap"), &[(1, reply), (399, reply)]);
        let arguments = Arguments {
            inputs: vec![
                assignment("eth2", &at("public.pcap")),
                assignment("eth0", &at("guest.pcap")),
            ],
            outputs: vec![
                assignment("eth2", &at("out.pcap")),
                assignment("eth0", &at("in.pcapng")),
            ],
            macs: Vec::new(),
        };
        let common = Common { config: at("natwerk.toml"), socket: None, json: true };
        run(&arguments, &common).unwrap();

        let left = read(&at("out.pcap"));
        let times: Vec<_> = left.iter().map(|(at, _)| at.as_secs() - 1_700_000_000).collect();
        assert_eq!(times, [0, 400]);
        let text = describe(&left[0].1);
        assert!(text.starts_with("udp 203.0.113.10:5000 > 198.51.100.9:4000"), "{text}");
        // The second reply came when the session had expired.
        let entered = read(&at("in.pcapng"));
        assert_eq!(entered.len(), 1);
        assert!(describe(&entered[0].1).starts_with("udp 198.51.100.9:4000 > 10.1.1.5:5000"));
        let (to, from) = parse::macs(&entered[0].1).unwrap();
        assert_eq!((to, from), (GUEST, ROUTER));
    }

    #[test]
    fn an_assignment_has_two_sides() {
        assert!("eth0=a=b.pcap".parse::<Assignment>().is_ok_and(|it| it.value == "a=b.pcap"));
        assert!("eth0".parse::<Assignment>().is_err());
        assert!("=x".parse::<Assignment>().is_err());
    }

    #[test]
    fn a_link_address_has_six_octets() {
        assert_eq!(mac("02:00:00:00:aa:01"), Some(ROUTER));
        assert_eq!(mac("02:00:00:00:aa"), None);
        assert_eq!(mac("02:00:00:00:aa:xx"), None);
    }
}
