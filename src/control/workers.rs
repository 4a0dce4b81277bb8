//! Workers and interfaces as rows, and the engine in numbers.

use std::collections::BTreeMap;

use crate::config::{Config, Role, XdpMode};
use crate::control::rows::{DropRow, InterfaceRow, Stats, WorkerRow, Workers};
use crate::engine::handle::{EngineHandle, InterfaceStatus, QueueStatus, WorkerStatus};
use crate::flow::PortId;
use crate::telemetry::counters::{BATCH_BUCKETS, Ended, PortTotals, WorkerTotals};
use crate::verdict::{DropReason, HostReason};

/// What all workers counted.
#[must_use]
pub fn totals(engine: &EngineHandle) -> WorkerTotals {
    let mut sum = WorkerTotals::default();
    for worker in engine.workers().iter() {
        sum.add(&worker.counters.totals());
    }
    sum
}

/// `show workers`.
#[must_use]
pub fn rows(engine: &EngineHandle) -> Workers {
    let sum = totals(engine);
    let workers = engine.workers();
    let queues: Vec<_> = workers.iter().flat_map(|worker| worker.queues.clone()).collect();
    let interfaces = engine.interfaces();
    Workers {
        interfaces: interfaces.iter().map(|status| interface(status, &sum, &queues)).collect(),
        workers: workers.iter().map(|status| worker(status, engine.config())).collect(),
    }
}

fn interface(status: &InterfaceStatus, sum: &WorkerTotals, queues: &[QueueStatus]) -> InterfaceRow {
    let counted = sum.ports.get(status.port.index()).copied().unwrap_or_default();
    let mut kernel: BTreeMap<String, u64> =
        status.steering.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    for queue in queues.iter().filter(|queue| queue.port == status.port) {
        for (name, count) in [
            ("socket_fill_ring_empty", queue.fill_ring_empty),
            ("socket_receive_dropped", queue.receive_dropped),
            ("socket_receive_ring_full", queue.receive_ring_full),
            ("socket_transmit_invalid", queue.transmit_invalid),
        ] {
            *kernel.entry(name.to_owned()).or_default() += count;
        }
    }
    InterfaceRow {
        name: status.name.clone(),
        role: role(status.role).to_owned(),
        mode: mode(status.mode).to_owned(),
        // Where its program is not, packets are taken at the other hook.
        hook: if status.program_id.is_some() { "xdp" } else { "tc" }.to_owned(),
        queues: status.queues,
        received_packets: counted.received_packets,
        received_bytes: counted.received_bytes,
        transmitted_packets: counted.forwarded_packets,
        transmitted_bytes: counted.forwarded_bytes,
        crossed_in_bytes: counted.crossed_in_bytes,
        crossed_out_bytes: counted.crossed_out_bytes,
        kernel,
    }
}

fn worker(status: &WorkerStatus, config: &Config) -> WorkerRow {
    let totals = status.counters.totals();
    let ports = all_ports(&totals);
    let queue = |queue: &QueueStatus| format!("{}:{}", port_name(queue.port, config), queue.queue);
    WorkerRow {
        worker: status.index,
        core: status.core,
        queues: status.queues.iter().map(queue).collect(),
        received_packets: ports.received_packets,
        received_bytes: ports.received_bytes,
        transmitted_packets: ports.forwarded_packets,
        transmitted_bytes: ports.forwarded_bytes,
        drops: totals.drops.iter().sum(),
        hosted: totals.hosted.iter().sum(),
        sessions_created: totals.sessions_created,
        busy_ratio: busy_ratio(&totals),
        batch_mean: ratio(totals.batched, totals.loops_busy()),
        slept_ms: totals.slept_ns / 1_000_000,
        loops_busy: totals.loops_busy(),
        loops_idle: totals.loops_idle,
        restarts: totals.restarts,
    }
}

/// The share of its life that a worker was at work. One that sleeps when there is nothing to do was
/// at work while it was awake; one that never sleeps, in the loops that found frames.
#[must_use]
pub fn busy_ratio(totals: &WorkerTotals) -> f64 {
    match totals.slept_ns {
        0 => ratio(totals.loops_busy(), totals.loops_busy() + totals.loops_idle),
        slept => 1.0 - ratio(slept.min(totals.lived_ns), totals.lived_ns.max(1)),
    }
}

/// A quotient for people to read; zero of nothing.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
#[must_use]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// All interfaces added up.
#[must_use]
pub fn all_ports(totals: &WorkerTotals) -> PortTotals {
    totals.ports.iter().fold(PortTotals::default(), |mut sum, port| {
        sum.received_packets += port.received_packets;
        sum.received_bytes += port.received_bytes;
        sum.forwarded_packets += port.forwarded_packets;
        sum.forwarded_bytes += port.forwarded_bytes;
        sum
    })
}

/// `show drops`: every reason.
#[must_use]
pub fn drops(sum: &WorkerTotals) -> Vec<DropRow> {
    let row = |reason: DropReason| DropRow {
        reason: reason.name().to_owned(),
        frames: sum.dropped(reason),
        meaning: reason.sentence().to_owned(),
    };
    DropReason::ALL.into_iter().map(row).collect()
}

/// The part of `show stats` that workers and the engine know.
#[must_use]
pub fn stats(engine: &EngineHandle, flushed: u64) -> Stats {
    let sum = totals(engine);
    let ports = all_ports(&sum);
    let (reloads, reloads_refused) = engine.reloads();
    let ended = |how: Ended| match how {
        Ended::Flushed => sum.ended(how) + flushed,
        Ended::Expired | Ended::Removed => sum.ended(how),
    };
    Stats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: engine.uptime().as_secs(),
        workers: engine.workers().len(),
        received_packets: ports.received_packets,
        received_bytes: ports.received_bytes,
        transmitted_packets: ports.forwarded_packets,
        transmitted_bytes: ports.forwarded_bytes,
        drops: sum.drops.iter().sum(),
        hosted: HostReason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), sum.hosted(reason)))
            .collect(),
        held: sum.held,
        icmp_errors_sent: sum.icmp_errors_sent,
        icmp_errors_limited: sum.icmp_errors_limited,
        sessions_created: sum.sessions_created,
        sessions_ended: Ended::ALL
            .into_iter()
            .map(|how| (how.name().to_owned(), ended(how)))
            .collect(),
        reloads,
        reloads_refused,
        batches: BATCH_BUCKETS
            .iter()
            .zip(&sum.batches)
            .map(|(most, count)| (most.to_string(), *count))
            .collect(),
        ..Stats::default()
    }
}

/// The kernel's name of an interface.
#[must_use]
pub fn port_name(port: PortId, config: &Config) -> String {
    let interface = config.interfaces.get(port.interface().index());
    interface.map_or_else(|| format!("#{}", port.0), |interface| interface.name.clone())
}

/// The name of a role, as the configuration has it.
#[must_use]
pub const fn role(role: Role) -> &'static str {
    match role {
        Role::Guest => "guest",
        Role::Public => "public",
    }
}

/// The name of a mode, as the configuration has it.
#[must_use]
pub const fn mode(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Auto => "auto",
        XdpMode::Copy => "copy",
        XdpMode::Skb => "skb",
        XdpMode::ZeroCopy => "zero-copy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_sleeps_was_busy_while_it_was_awake() {
        let totals =
            WorkerTotals { slept_ns: 75, lived_ns: 100, loops_idle: 9, ..Default::default() };
        assert!((busy_ratio(&totals) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn a_worker_that_spins_was_busy_in_the_loops_that_found_frames() {
        let totals = WorkerTotals { batches: vec![1, 2], loops_idle: 9, ..Default::default() };
        assert!((busy_ratio(&totals) - 0.25).abs() < 1e-9);
        assert!(busy_ratio(&WorkerTotals::default()).abs() < 1e-9);
    }
}
