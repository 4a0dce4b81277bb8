//! `natwerk top`: what the running engine does, second by second.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cli::output::Column::{Number, Word};
use crate::cli::output::{self, Failure, Outcome, magnitude, table};
use crate::cli::{Common, ask};
use crate::control::client::Client;
use crate::control::requests::Request;
use crate::control::rows::{DropRow, PoolRow, Stats, Workers};

/// How to watch.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Stop after this many looks.
    #[arg(long)]
    count: Option<u64>,
}

/// What was seen at some moment.
struct Look {
    at: Instant,
    stats: Stats,
    workers: Workers,
    drops: Vec<DropRow>,
    pools: Vec<PoolRow>,
}

/// What happened between two looks, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Live sessions.
    pub sessions: u64,
    /// Sessions the table may hold.
    pub sessions_max: u64,
    /// New sessions a second.
    pub new_sessions: u64,
    /// Frames received a second.
    pub received_packets: u64,
    /// Bits received a second.
    pub received_bits: u64,
    /// Frames transmitted a second.
    pub transmitted_packets: u64,
    /// Bits transmitted a second.
    pub transmitted_bits: u64,
    /// Frames dropped a second, by reason; reasons that did not come up are left out.
    pub drops: BTreeMap<String, u64>,
    /// Each worker's share of the time at work, in per cent.
    pub busy_percent: Vec<u64>,
    /// Interfaces: frames received and transmitted a second.
    pub interfaces: Vec<(String, u64, u64)>,
    /// The fullest public addresses: address, protocol, live ports, per cent.
    pub pools: Vec<(String, String, u32, f64)>,
}

/// Watches until `--count` looks were taken, or for ever.
///
/// # Errors
/// When the engine does not run, or stops.
pub fn run(arguments: &Arguments, common: &Common) -> Outcome {
    let mut client = ask::connect(common)?;
    let interval = Duration::from_secs_f64(arguments.interval);
    let clears = std::io::stdout().is_terminal() && !common.json;
    let mut before = look(&mut client)?;
    let mut looks = 0;
    while arguments.count.is_none_or(|count| looks < count) {
        thread::sleep(interval);
        let now = look(&mut client)?;
        let rates = rates(&before, &now);
        if common.json {
            let line = serde_json::to_string(&rates);
            output::print_line(&line.map_err(|error| Failure::failed(error.to_string()))?)?;
        } else {
            let clear = if clears { CLEAR } else { "" };
            output::print_bytes(format!("{clear}{}", screen(&rates)).as_bytes())?;
        }
        before = now;
        looks += 1;
    }
    Ok(())
}

/// Cursor home, clear to the end of the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Public addresses that fit on a screen.
const POOLS_MAX: usize = 8;

fn look(client: &mut Client) -> Result<Look, Failure> {
    Ok(Look {
        at: Instant::now(),
        stats: client.ask(&Request::ShowStats)?,
        workers: client.ask(&Request::ShowWorkers)?,
        drops: client.ask(&Request::ShowDrops)?,
        pools: client.ask(&Request::ShowPools)?,
    })
}

fn rates(before: &Look, now: &Look) -> Rates {
    let time = now.at.duration_since(before.at);
    let rate = |before: u64, now: u64| per_second(now.saturating_sub(before), time);
    let (old, new) = (&before.stats, &now.stats);
    let drops = before.drops.iter().zip(&now.drops);
    let drops = drops.map(|(old, new)| (new.reason.clone(), rate(old.frames, new.frames)));
    let workers = before.workers.workers.iter().zip(&now.workers.workers);
    let interfaces = before.workers.interfaces.iter().zip(&now.workers.interfaces);
    let mut pools: Vec<_> = now.pools.iter().filter(|pool| pool.live > 0).collect();
    pools.sort_by(|one, other| other.used_percent.total_cmp(&one.used_percent));
    Rates {
        sessions: new.sessions,
        sessions_max: new.sessions_max,
        new_sessions: rate(old.sessions_created, new.sessions_created),
        received_packets: rate(old.received_packets, new.received_packets),
        received_bits: rate(old.received_bytes, new.received_bytes).saturating_mul(8),
        transmitted_packets: rate(old.transmitted_packets, new.transmitted_packets),
        transmitted_bits: rate(old.transmitted_bytes, new.transmitted_bytes).saturating_mul(8),
        drops: drops.filter(|(_, rate)| *rate > 0).collect(),
        busy_percent: workers
            .map(|(old, new)| {
                let busy = new.loops_busy.saturating_sub(old.loops_busy);
                let idle = new.loops_idle.saturating_sub(old.loops_idle);
                busy_percent(new.slept_ms.saturating_sub(old.slept_ms), busy, idle, time)
            })
            .collect(),
        interfaces: interfaces
            .map(|(old, new)| {
                let received = rate(old.received_packets, new.received_packets);
                let transmitted = rate(old.transmitted_packets, new.transmitted_packets);
                (new.name.clone(), received, transmitted)
            })
            .collect(),
        pools: pools
            .iter()
            .take(POOLS_MAX)
            .map(|pool| {
                (pool.public_ip.clone(), pool.protocol.clone(), pool.live, pool.used_percent)
            })
            .collect(),
    }
}

fn per_second(count: u64, time: Duration) -> u64 {
    let count = u128::from(count) * 1_000_000 / time.as_micros().max(1);
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// As [`crate::control::workers::busy_ratio`] has it.
fn busy_percent(slept_ms: u64, busy: u64, idle: u64, time: Duration) -> u64 {
    let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    match slept_ms {
        0 => (busy * 100).checked_div(busy + idle).unwrap_or(0),
        slept => 100 - slept.min(time_ms) * 100 / time_ms,
    }
}

fn screen(rates: &Rates) -> String {
    let full = rates.sessions.saturating_mul(100).checked_div(rates.sessions_max).unwrap_or(0);
    let busy: Vec<_> = rates.busy_percent.iter().map(|percent| format!("{percent}%")).collect();
    let mut text = format!(
        "sessions {} of {} ({full}%)   new {}/s   workers busy {}\n",
        rates.sessions,
        magnitude(rates.sessions_max),
        magnitude(rates.new_sessions),
        busy.join(" "),
    );
    text.push_str(&format!(
        "received {} packets/s, {}bit/s   transmitted {} packets/s, {}bit/s\n\n",
        magnitude(rates.received_packets),
        magnitude(rates.received_bits),
        magnitude(rates.transmitted_packets),
        magnitude(rates.transmitted_bits),
    ));
    let columns = [Word("INTERFACE"), Number("RECEIVED/S"), Number("TRANSMITTED/S")];
    let cells = |(name, received, transmitted): &(String, u64, u64)| {
        vec![name.clone(), magnitude(*received), magnitude(*transmitted)]
    };
    text.push_str(&table(&columns, rates.interfaces.iter().map(cells)));
    if !rates.pools.is_empty() {
        let columns = [Word("PUBLIC IP"), Word("PROTO"), Number("PORTS"), Number("USED")];
        let cells = |(address, protocol, live, percent): &(String, String, u32, f64)| {
            vec![address.clone(), protocol.clone(), live.to_string(), format!("{percent:.1}%")]
        };
        text.push('\n');
        text.push_str(&table(&columns, rates.pools.iter().map(cells)));
    }
    if !rates.drops.is_empty() {
        let columns = [Word("DROPPED"), Number("FRAMES/S")];
        let cells = |(reason, rate): (&String, &u64)| vec![reason.clone(), magnitude(*rate)];
        text.push('\n');
        text.push_str(&table(&columns, rates.drops.iter().map(cells)));
    }
    text.push('\n');
    text
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds, from 0.1 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at: Instant, packets: u64, created: u64, dropped: u64) -> Look {
        Look {
            at,
            stats: Stats {
                received_packets: packets,
                received_bytes: packets * 100,
                sessions_created: created,
                sessions: 5,
                sessions_max: 10,
                ..Stats::default()
            },
            workers: Workers::default(),
            drops: vec![DropRow {
                reason: "no_port".to_owned(),
                frames: dropped,
                meaning: String::new(),
            }],
            pools: Vec::new(),
        }
    }

    #[test]
    fn rates_are_what_happened_in_between_per_second() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let rates = rates(&at(start, 1000, 10, 7), &at(later, 5000, 30, 7));
        assert_eq!((rates.received_packets, rates.received_bits), (2000, 1_600_000));
        assert_eq!((rates.new_sessions, rates.drops.len()), (10, 0));
        let expected = "\
sessions 5 of 10 (50%)   new 10/s   workers busy \n\
received 2.0k packets/s, 1.6Mbit/s   transmitted 0 packets/s, 0bit/s

INTERFACE  RECEIVED/S  TRANSMITTED/S

";
        assert_eq!(screen(&rates), expected);
    }

    #[test]
    fn a_restarted_engine_has_no_negative_rates() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        assert_eq!(rates(&at(start, 1000, 0, 9), &at(later, 10, 0, 0)).received_packets, 0);
    }

    #[test]
    fn a_worker_is_busy_while_it_is_awake_or_finds_frames() {
        assert_eq!(busy_percent(750, 1, 1, Duration::from_secs(1)), 25);
        assert_eq!(busy_percent(0, 1, 3, Duration::from_secs(1)), 25);
        assert_eq!(busy_percent(0, 0, 0, Duration::from_secs(1)), 0);
    }
}
