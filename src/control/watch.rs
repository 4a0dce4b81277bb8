//! Frames as they pass, for `trace` and `capture`.

use std::thread;
use std::time::{Duration, Instant};

use crate::control::requests::WatchFilter;
use crate::control::rows::FrameRow;
use crate::control::server::{Refusal, Reply};
use crate::control::workers::port_name;
use crate::engine::handle::EngineHandle;
use crate::flow::{PortId, Protocol};
use crate::pipeline::shared::Shared;
use crate::shortcut::Hold;
use crate::telemetry::tap::{Record, TapFilter};
use crate::verdict::{DropReason, Verdict};

/// How often the queue is looked into.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the client hears something, so that one that went away is noticed.
const HEAR_EVERY: Duration = Duration::from_millis(500);
/// Frames in one line of a reply.
const ROWS_PER_PART: usize = 64;

/// Sends frames until enough were seen, or the client goes away.
pub fn run(
    wanted: &WatchFilter,
    engine: &EngineHandle,
    shared: &Shared,
    reply: &mut Reply<'_>,
) -> Result<(), Refusal> {
    let watch = engine.tap().watch(filter(wanted, engine)?).ok_or_else(|| {
        Refusal::new("somebody else is looking at frames already", "wait until they are done")
    })?;
    // Until a worker sees that nobody looks any more.
    shared.shortcuts.load().iter().for_each(|shortcuts| shortcuts.hold(Hold::Watched));
    let start = Instant::now();
    let end = wanted.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let (mut left, mut heard) = (wanted.count.unwrap_or(u64::MAX), start);
    while left > 0 && end.is_none_or(|end| Instant::now() < end) {
        let mut rows = Vec::new();
        while left > 0 && rows.len() < ROWS_PER_PART {
            let missed = watch.missed();
            if !watch.next(|record| rows.push(row(record, missed, engine))) {
                break;
            }
            left -= 1;
        }
        let more = rows.len() == ROWS_PER_PART;
        if !rows.is_empty() || heard.elapsed() >= HEAR_EVERY {
            reply.part(rows)?;
            heard = Instant::now();
        }
        if !more {
            thread::sleep(LOOK_EVERY);
        }
    }
    reply.done(Vec::<FrameRow>::new())
}

fn filter(wanted: &WatchFilter, engine: &EngineHandle) -> Result<TapFilter, Refusal> {
    let port = |name: &String| {
        let interfaces = &engine.config().interfaces;
        let place = interfaces.iter().position(|interface| interface.name == *name);
        place.and_then(|place| u8::try_from(place).ok()).map(PortId).ok_or_else(|| {
            Refusal::new(format!("there is no interface `{name}`"), "`natwerk show workers`")
                .bad_input()
        })
    };
    let reason = |name: &String| {
        DropReason::ALL.into_iter().find(|reason| reason.name() == name).ok_or_else(|| {
            let error = format!("there is no reason `{name}`");
            Refusal::new(error, "`natwerk show drops --all` lists them").bad_input()
        })
    };
    Ok(TapFilter {
        port: wanted.interface.as_ref().map(port).transpose()?,
        protocol: wanted.protocol.map(Protocol),
        source: wanted.source,
        destination: wanted.destination,
        host: wanted.host,
        drops: wanted.drops,
        reason: wanted.reason.as_ref().map(reason).transpose()?,
    })
}

fn row(record: &Record, missed: u64, engine: &EngineHandle) -> FrameRow {
    let name = |port| port_name(port, engine.config());
    let (verdict, reason, to) = match record.verdict {
        Verdict::Drop(reason) => ("drop", reason.name(), None),
        Verdict::Forward(to) => ("forward", "", Some(to)),
        Verdict::Hold => ("hold", "", None),
        Verdict::Host(reason) => ("host", reason.name(), None),
    };
    FrameRow {
        at_us: u64::try_from(record.at.as_micros()).unwrap_or(u64::MAX),
        interface: name(record.port),
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        frame: hexadecimal(&record.before),
        sent_interface: to.map(name).unwrap_or_default(),
        sent_frame: hexadecimal(&record.after),
        missed,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
