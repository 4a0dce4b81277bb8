//! `natwerk trace` and `natwerk capture`: frames as they pass through the running engine, as lines or
//! in a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::output::{self, Failure, Outcome};
use crate::cli::packet_text::{PacketTextError, protocol};
use crate::cli::{Common, ask, frame_text};
use crate::control::requests::{AddressMatch, Request, WatchFilter};
use crate::control::rows::{FrameRow, Workers};
use crate::io::pcap::{CaptureError, CaptureWriter};
use crate::verdict::{DropReason, HostReason};

/// Which frames; all conditions that are given must hold.
#[derive(Clone, Debug, Args)]
pub struct Conditions {
    /// The interface they come in by.
    #[arg(long = "in", value_name = "IFACE")]
    interface: Option<String>,
    /// The protocol: tcp, udp, icmp, or a number.
    #[arg(long, value_parser = number)]
    protocol: Option<u8>,
    /// The source as it comes in: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    source: Option<AddressMatch>,
    /// The destination as it comes in: address, prefix or endpoint.
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<AddressMatch>,
    /// Either of them.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<AddressMatch>,
    /// Only frames that are dropped.
    #[arg(long)]
    drops: bool,
    /// Only frames that are dropped for this reason.
    #[arg(long, value_name = "NAME")]
    reason: Option<String>,
    /// Stop after this many frames.
    #[arg(long)]
    count: Option<u64>,
    /// Stop after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

/// What to capture, and where to.
#[derive(Clone, Debug, Args)]
pub struct CaptureArguments {
    /// The file: pcapng, with what became of each frame as its comment.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    conditions: Conditions,
}

impl Conditions {
    fn request(&self) -> Request {
        Request::Watch(WatchFilter {
            interface: self.interface.clone(),
            protocol: self.protocol,
            source: self.source,
            destination: self.destination,
            host: self.host,
            drops: self.drops,
            reason: self.reason.clone(),
            count: self.count,
            seconds: self.seconds,
        })
    }
}

fn number(word: &str) -> Result<u8, PacketTextError> {
    protocol(word).map(|protocol| protocol.0)
}

/// A frame as `trace --json` prints it, one a line.
#[derive(Debug, Serialize)]
struct TraceLine<'r> {
    packet: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_packet: Option<String>,
    #[serde(flatten)]
    row: &'r FrameRow,
}

/// Prints frames as they pass, until enough were seen or somebody stops it.
///
/// # Errors
/// When the engine does not run, or a condition is no good.
pub fn trace(conditions: &Conditions, common: &Common) -> Outcome {
    let mut missed = 0;
    ask::connect(common)?.ask_in_parts(&conditions.request(), |rows: Vec<FrameRow>| {
        for row in &rows {
            match common.json {
                true => output::print_bytes(&json_line(row)?)?,
                false => output::print_bytes(text(row).as_bytes())?,
            }
            if row.missed > missed {
                missed = row.missed;
                eprintln!("natwerk: {missed} frames were missed so far; narrow the conditions");
            }
        }
        Ok::<(), Failure>(())
    })
}

/// Writes frames to a file, until enough were seen or somebody stops it.
///
/// # Errors
/// When the engine does not run, a condition is no good, or the file cannot be written.
pub fn capture(arguments: &CaptureArguments, common: &Common) -> Outcome {
    let path = &arguments.write;
    if path.extension().is_none_or(|extension| extension != "pcapng") {
        return Err(Failure::refused(format!("{} does not end in .pcapng", path.display()))
            .hint("only pcapng keeps what became of each frame"));
    }
    let mut client = ask::connect(common)?;
    let interfaces: Workers = client.ask(&Request::ShowWorkers)?;
    let names: Vec<_> = interfaces.interfaces.into_iter().map(|row| row.name).collect();
    let mut file = CaptureFile::create(path, names)?;
    let stopped = stop_flag()?;
    let taken = client.ask_in_parts(&arguments.conditions.request(), |rows: Vec<FrameRow>| {
        for row in &rows {
            file.write(row).map_err(trouble(path))?;
        }
        // A client that leaves ends the watch.
        if stopped.load(Ordering::Relaxed) { Err(Failure::reported(0)) } else { Ok(()) }
    });
    let (frames, missed) = (file.frames, file.missed);
    file.writer.finish().map_err(trouble(path))?;
    match taken {
        Err(failure) if failure.exit() != 0 => Err(failure),
        _ => {
            eprintln!("natwerk: {frames} frames in {}, {missed} missed", path.display());
            Ok(())
        }
    }
}

/// Set when somebody stops the program, so that the file ends as it should.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stopped))
            .map_err(|error| Failure::failed(format!("cannot hear signals: {error}")))?;
    }
    Ok(stopped)
}

fn trouble(path: &Path) -> impl Fn(CaptureError) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::failed(format!("{path}: {error}"))
}

struct CaptureFile {
    writer: CaptureWriter<std::io::BufWriter<std::fs::File>>,
    names: Vec<String>,
    frames: u64,
    missed: u64,
}

impl CaptureFile {
    fn create(path: &Path, names: Vec<String>) -> Result<Self, Failure> {
        let borrowed: Vec<_> = names.iter().map(String::as_str).collect();
        let writer = CaptureWriter::create(path, &borrowed).map_err(trouble(path))?;
        Ok(Self { writer, names, frames: 0, missed: 0 })
    }

    /// Writes the frame as it came in, with what became of it, and as it left.
    fn write(&mut self, row: &FrameRow) -> Result<(), CaptureError> {
        let at = Duration::from_micros(row.at_us);
        let comment = became(row);
        let place = |name: &str| {
            let place = self.names.iter().position(|known| known == name).unwrap_or(0);
            u32::try_from(place).unwrap_or(0)
        };
        let (from, to) = (place(&row.interface), place(&row.sent_interface));
        self.writer.write(from, at, &bytes(&row.frame), Some(&comment))?;
        if !row.sent_frame.is_empty() {
            let comment = format!("sent, was received on {}", row.interface);
            self.writer.write(to, at, &bytes(&row.sent_frame), Some(&comment))?;
        }
        self.frames += 1;
        self.missed = row.missed;
        Ok(())
    }
}

fn json_line(row: &FrameRow) -> Result<Vec<u8>, Failure> {
    let sent = bytes(&row.sent_frame);
    let line = TraceLine {
        packet: frame_text::describe(&bytes(&row.frame)),
        sent_packet: (!sent.is_empty()).then(|| frame_text::describe(&sent)),
        row,
    };
    let mut text = serde_json::to_vec(&line).map_err(|error| Failure::failed(error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

/// Two lines: what came, and what became of it.
fn text(row: &FrameRow) -> String {
    let (seconds, micros) = (row.at_us / 1_000_000, row.at_us % 1_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    let time = format!("{hours:02}:{minutes:02}:{:02}.{micros:06}", seconds % 60);
    let before = frame_text::describe(&bytes(&row.frame));
    let sent = bytes(&row.sent_frame);
    let after = match sent.is_empty() {
        true => became(row),
        false => format!("{}: {}", became(row), frame_text::describe(&sent)),
    };
    format!("{time}  {}: {before}\n                 {after}\n", row.interface)
}

/// What became of a frame, in words.
fn became(row: &FrameRow) -> String {
    let of_drop = DropReason::ALL.iter().find(|reason| reason.name() == row.reason);
    let of_host = HostReason::ALL.iter().find(|reason| reason.name() == row.reason);
    let sentence = of_drop.map(|it| it.sentence()).or(of_host.map(|it| it.sentence()));
    match (sentence, row.sent_interface.as_str()) {
        (Some(sentence), _) => format!("{} {}: {sentence}", row.verdict, row.reason),
        (None, "") => row.verdict.clone(),
        (None, interface) => format!("{} to {interface}", row.verdict),
    }
}

/// The bytes of a hexadecimal text; what is none is left out.
fn bytes(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.filter_map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::packet_text::PacketText;
    use crate::flow::Mac;
    use crate::io::pcap::CaptureReader;

    fn frame(text: &str) -> String {
        let packet: PacketText = text.parse().unwrap();
        let frame = packet.frame(Mac([2; 6]), Mac([4; 6]), 0).unwrap();
        frame.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn row(verdict: &str, reason: &str, sent: Option<(&str, &str)>) -> FrameRow {
        let (interface, packet) = sent.unwrap_or_default();
        FrameRow {
            at_us: 3_723_000_042,
            interface: "eth0".to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
            frame: frame("udp 10.1.1.5:5000 > 198.51.100.9:53"),
            sent_interface: interface.to_owned(),
            sent_frame: if packet.is_empty() { String::new() } else { frame(packet) },
            missed: 0,
        }
    }

    #[test]
    fn a_frame_is_two_lines() {
        let forwarded =
            row("forward", "", Some(("eth2", "udp 203.0.113.10:5000 > 198.51.100.9:53 ttl 63")));
        let expected = "\
01:02:03.000042  eth0: udp 10.1.1.5:5000 > 198.51.100.9:53 ttl 64 length 28
                 forward to eth2: udp 203.0.113.10:5000 > 198.51.100.9:53 ttl 63 length 28
";
        assert_eq!(text(&forwarded), expected);
        let dropped = text(&row("drop", "no_port", None));
        assert!(
            dropped
                .ends_with("drop no_port: No external port is free on any address of the pool.\n")
        );
    }

    #[test]
    fn a_capture_keeps_frames_on_both_sides() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcapng");
        let names = vec!["eth0".to_owned(), "eth2".to_owned()];
        let mut file = CaptureFile::create(&path, names).unwrap();
        file.write(&row("forward", "", Some(("eth2", "udp 203.0.113.10:5000 > 198.51.100.9:53"))))
            .unwrap();
        file.write(&row("drop", "no_port", None)).unwrap();
        file.writer.finish().unwrap();
        let frames: Vec<_> = CaptureReader::open(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].at, Duration::from_micros(3_723_000_042));
        let raw = std::fs::read(&path).unwrap();
        let comment = b"drop no_port: No external port is free";
        assert!(raw.windows(comment.len()).any(|window| window == comment));
    }

    #[test]
    fn hexadecimal_is_read_back() {
        assert_eq!(bytes("00ff7a"), [0, 0xff, 0x7a]);
        assert_eq!(bytes("zz1"), Vec::<u8>::new());
    }
}
