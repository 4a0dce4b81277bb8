//! `natwerk bench`: what the pipeline costs on this machine, in memory, beside the floor of the
//! memory itself.
//!
//! Each round writes a frame memory full of packets of random sessions (not timed), has them
//! processed in batches of 64 with the clock and the sweep as a worker has them (timed), and looks
//! whether they were translated (not timed). In between, one worker measures the floor over the same
//! frames: a random cache line of a table of the same size read and written, batched and
//! prefetched, and the header rewritten at fixed offsets. New sessions are measured while the table
//! is filled for the second time, so that no page fault is counted.

mod compare;
mod floor;
mod frames;
mod rounds;
mod traffic;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::Common;
use crate::cli::output::{self, Failure, Outcome};
use crate::control::workers::ratio;
use compare::{Compared, Earlier, Profile};
use rounds::Round;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Sessions in the table.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=32_000_000))]
    sessions: u32,
    /// A session profile of CSIT's instead: so many hosts with 63 sessions each.
    #[arg(long, value_enum, conflicts_with = "sessions")]
    profile: Option<Profile>,
    /// Bytes of a frame, its checksum sequence of four bytes counted (RFC 2544).
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    size: u16,
    /// Workers, each on a core of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Egress rules that a new session is held against; none of them matches.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    acl_rules: u32,
    /// Guest networks, each under a tag and in a realm of its own, all with the same addresses; guests, public addresses and egress
    /// rules are shared out among them. Without it there is one, without a tag.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4094))]
    networks: Option<u16>,
    /// Seconds of measured work; the whole run takes several times as long.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// What the sessions carry.
    #[arg(long, value_enum, default_value_t = Carried::Udp)]
    protocol: Carried,
    /// Let the clock go on by a set time with each batch and measure as few rounds as there may be: every run then does the same,
    /// so that its instructions can be counted.
    #[arg(long)]
    repeatable: bool,
    /// An earlier report, printed by --json: the ratio of each of its figures to today's is shown.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

/// What the sessions of a bench carry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Carried {
    /// TCP connections: opened by a handshake, then segments with data.
    Tcp,
    /// UDP datagrams.
    #[default]
    Udp,
}

/// What was measured. Times are medians over rounds; `min` and `max` are the best and worst round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Sessions in the table.
    pub sessions: u32,
    /// Bytes of a frame.
    pub size: u16,
    /// What the sessions carry.
    pub protocol: Carried,
    /// Workers.
    pub workers: u16,
    /// Egress rules.
    pub acl_rules: u32,
    /// Guest networks under tags; none if there is one without a tag.
    pub networks: Option<u16>,
    /// Nanoseconds of a worker per packet of an established session.
    pub ns_per_packet: f64,
    /// The best round.
    pub ns_per_packet_min: f64,
    /// The worst round.
    pub ns_per_packet_max: f64,
    /// Million packets per second, all workers together.
    pub mpps: f64,
    /// Nanoseconds of a worker per new session.
    pub ns_per_new_session: f64,
    /// New sessions per second, all workers together.
    pub new_sessions_per_second: f64,
    /// Bytes of memory per session: table, indexes, mappings.
    pub bytes_per_session: f64,
    /// The part of it that is the session table with its index.
    pub table_bytes_per_session: f64,
    /// Nanoseconds per packet that the memory alone costs, in the same run.
    pub floor_ns_per_packet: f64,
    /// `ns_per_packet` in floors.
    pub floors: f64,
    /// Milliseconds it took to compile the rules.
    pub compile_ms: f64,
    /// Rounds measured.
    pub rounds: usize,
    /// Packets measured.
    pub packets: u64,
    /// Packets whose translation was checked byte by byte; every verdict was.
    pub checked: u64,
    /// What that means, in plain words.
    pub verdict: String,
    /// Beside an earlier report.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compared: Vec<Compared>,
    /// What the earlier report measured otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// Measures and prints.
///
/// # Errors
/// When packets were not translated as they should be, or memory is short.
pub fn run(arguments: &Arguments, common: &Common) -> Outcome {
    let earlier = arguments.compare.as_deref().map(Earlier::read).transpose()?;
    let mut arguments = arguments.clone();
    arguments.sessions = arguments.profile.map_or(arguments.sessions, Profile::sessions);
    let mut report = measure(&arguments)?;
    report.verdict = compare::verdict(&report);
    if let Some(earlier) = earlier {
        report.compared = earlier.compared(&report);
        report.differences = earlier.differences(&report);
    }
    match common.json {
        true => output::print_json(&report),
        false => output::print_bytes(text(&report).as_bytes()),
    }
}

fn measure(arguments: &Arguments) -> Result<Report, Failure> {
    let start = Instant::now();
    let world = world::World::new(arguments)?;
    let compile_ms = world.compile_time.as_secs_f64() * 1e3;
    let measured = rounds::run(&world, arguments)?;
    tracing::debug!(elapsed = ?start.elapsed(), "measured");
    let per_packet = |rounds: &[Round]| rounds.iter().map(Round::ns_per_packet).collect::<Vec<_>>();
    let all: Vec<f64> = measured.established.iter().flat_map(|rounds| per_packet(rounds)).collect();
    let created: Vec<f64> = measured.created.iter().flat_map(|rounds| per_packet(rounds)).collect();
    let floor = median(&per_packet(&measured.floor));
    let ns_per_packet = median(&all);
    let (table, mappings) = world.memory_bytes();
    let per_session = |bytes| ratio(bytes, arguments.sessions.into());
    Ok(Report {
        sessions: arguments.sessions,
        size: arguments.size,
        protocol: arguments.protocol,
        workers: arguments.workers,
        acl_rules: arguments.acl_rules,
        networks: arguments.networks,
        ns_per_packet,
        ns_per_packet_min: all.iter().copied().fold(f64::INFINITY, f64::min),
        ns_per_packet_max: all.iter().copied().fold(0.0, f64::max),
        mpps: together(&measured.established) * 1e3,
        ns_per_new_session: median(&created),
        new_sessions_per_second: together(&measured.created) * 1e9,
        bytes_per_session: per_session(table + mappings),
        table_bytes_per_session: per_session(table),
        floor_ns_per_packet: floor,
        floors: ns_per_packet / floor,
        compile_ms,
        rounds: measured.established.first().map_or(0, Vec::len),
        packets: measured.established.iter().flatten().map(|round| round.packets).sum(),
        checked: measured.checked,
        ..Report::default()
    })
}

/// Packets per nanosecond of all workers together: the median over the rounds, which they began
/// together.
fn together(workers: &[Vec<Round>]) -> f64 {
    let rounds = workers.iter().map(Vec::len).min().unwrap_or(0);
    let sums: Vec<f64> = (0..rounds)
        .map(|round| {
            workers
                .iter()
                .filter_map(|rounds| rounds.get(round))
                .map(|it| 1.0 / it.ns_per_packet())
                .sum()
        })
        .collect();
    median(&sums)
}

/// The middle value; zero of none.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn text(report: &Report) -> String {
    let lines = [
        (
            "established",
            format!(
                "{:.1} ns per packet ({:.1} to {:.1}), {:.2} Mpps",
                report.ns_per_packet,
                report.ns_per_packet_min,
                report.ns_per_packet_max,
                report.mpps
            ),
        ),
        (
            "floor",
            format!(
                "{:.1} ns per packet; established costs {:.2} floors",
                report.floor_ns_per_packet, report.floors
            ),
        ),
        (
            "new sessions",
            format!(
                "{:.0} ns each, {:.0} per second",
                report.ns_per_new_session, report.new_sessions_per_second
            ),
        ),
        (
            "memory",
            format!(
                "{:.1} bytes per session, {:.1} of them in the session table",
                report.bytes_per_session, report.table_bytes_per_session
            ),
        ),
        ("rules", format!("{} compiled in {:.1} ms", report.acl_rules, report.compile_ms)),
        (
            "run",
            format!(
                "{} sessions, {} bytes, {} workers, {} rounds, {} packets, {} checked",
                report.sessions,
                report.size,
                report.workers,
                report.rounds,
                report.packets,
                report.checked
            ),
        ),
    ];
    let mut text: String =
        lines.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect();
    for Compared { figure, before, now, ratio } in &report.compared {
        text += &format!("{figure:<24}{before:.1} before, {now:.1} now: {ratio:.2}\n");
    }
    for difference in &report.differences {
        text += &format!("not the same measurement: {difference}\n");
    }
    text + &format!("\n{}\n", report.verdict)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds, from 0.01 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_translates_and_measures_everything() {
        for (workers, protocol, networks) in
            [(1, Carried::Udp, None), (2, Carried::Udp, Some(1)), (2, Carried::Tcp, Some(5))]
        {
            let arguments = Arguments {
                sessions: 500,
                size: 64,
                workers,
                acl_rules: 10,
                networks,
                seconds: 0.0,
                protocol,
                repeatable: workers == 1,
                profile: None,
                compare: None,
            };
            let report = measure(&arguments).unwrap();
            assert!(report.ns_per_packet > 0.0 && report.floor_ns_per_packet > 0.0, "{report:?}");
            assert!(report.new_sessions_per_second > 0.0 && report.mpps > 0.0, "{report:?}");
            assert!(report.checked > 0 && report.packets >= report.checked, "{report:?}");
        }
    }

    #[test]
    fn a_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }
}
