//! The engine's numbers as metrics.
//!
//! No metric has a label that grows with traffic: interfaces, reasons, workers, public addresses and
//! rules, never sessions or guests.

use std::sync::{Mutex, PoisonError};

use crate::control::answers::Answers;
use crate::control::rows::{AddressRow, InterfaceRow, WorkerRow};
use crate::control::workers;
use crate::telemetry::counters::WorkerTotals;
use crate::telemetry::prometheus::{Labels, Metrics};

/// What a scrape needs to know of the one before.
#[derive(Debug, Default)]
pub struct Scraper {
    /// What each worker had counted.
    before: Mutex<Vec<WorkerTotals>>,
}

impl Scraper {
    /// Every metric as it is now.
    #[must_use]
    pub fn scrape(&self, answers: &Answers) -> Metrics {
        let mut metrics = Metrics::new();
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        metrics.gauge("build_info", "The version that runs", [(build, 1)]);
        let rows = workers::rows(answers.engine());
        interfaces(&mut metrics, &rows.interfaces);
        self.workers(&mut metrics, &rows.workers, answers);
        drops(&mut metrics, answers);
        sessions(&mut metrics, answers);
        pools(&mut metrics, answers);
        networks(&mut metrics, answers);
        addresses(&mut metrics, answers);
        rules(&mut metrics, answers);
        metrics
    }

    fn workers(&self, metrics: &mut Metrics, rows: &[WorkerRow], answers: &Answers) {
        let label = |row: &WorkerRow| vec![("worker", row.worker.to_string())];
        let sample = |value: fn(&WorkerRow) -> u64| {
            rows.iter().map(move |row| (label(row), value(row))).collect::<Vec<_>>()
        };
        metrics.counter("worker_batches", "Batches processed", sample(|row| row.loops_busy));
        metrics.counter("worker_idle_loops", "Loops without a frame", sample(|row| row.loops_idle));
        metrics.counter("worker_restarts", "Starts after a panic", sample(|row| row.restarts));
        let busy = self.busy_ratios(answers);
        let busy = busy.into_iter().enumerate();
        let help = "Share of the time at work since the last scrape";
        metrics.ratio(
            "worker_busy_ratio",
            help,
            busy.map(|(worker, ratio)| (vec![("worker", worker.to_string())], ratio)),
        );
    }

    /// Each worker's share of the time at work since the last scrape, or since the start.
    fn busy_ratios(&self, answers: &Answers) -> Vec<f64> {
        let workers = answers.engine().workers();
        let totals: Vec<_> = workers.iter().map(|worker| worker.counters.totals()).collect();
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let ratio = |(index, now): (usize, &WorkerTotals)| {
            let none = WorkerTotals::default();
            busy_between(before.get(index).unwrap_or(&none), now)
        };
        let ratios = totals.iter().enumerate().map(ratio).collect();
        *before = totals;
        ratios
    }
}

fn busy_between(earlier: &WorkerTotals, later: &WorkerTotals) -> f64 {
    workers::busy_ratio(&WorkerTotals {
        slept_ns: later.slept_ns.saturating_sub(earlier.slept_ns),
        lived_ns: later.lived_ns.saturating_sub(earlier.lived_ns),
        loops_idle: later.loops_idle.saturating_sub(earlier.loops_idle),
        batches: vec![later.loops_busy().saturating_sub(earlier.loops_busy())],
        ..WorkerTotals::default()
    })
}

fn interfaces(metrics: &mut Metrics, rows: &[InterfaceRow]) {
    let label = |row: &InterfaceRow| vec![("interface", row.name.clone())];
    let sample = |value: fn(&InterfaceRow) -> u64| {
        rows.iter().map(move |row| (label(row), value(row))).collect::<Vec<_>>()
    };
    metrics.counter("rx_packets", "Frames received", sample(|row| row.received_packets));
    metrics.counter("rx_bytes", "Bytes received", sample(|row| row.received_bytes));
    metrics.counter("tx_packets", "Frames transmitted", sample(|row| row.transmitted_packets));
    metrics.counter("tx_bytes", "Bytes transmitted", sample(|row| row.transmitted_bytes));
    let mode =
        |row: &InterfaceRow| (vec![("interface", row.name.clone()), ("mode", row.mode.clone())], 1);
    metrics.gauge("xdp_mode_info", "The AF_XDP mode that was got", rows.iter().map(mode));
    let hook =
        |row: &InterfaceRow| (vec![("interface", row.name.clone()), ("hook", row.hook.clone())], 1);
    metrics.gauge("hook_info", "Where what comes in is taken", rows.iter().map(hook));
    let kernel = rows.iter().flat_map(|row| {
        row.kernel.iter().map(|(name, count)| {
            (vec![("interface", row.name.clone()), ("what", name.clone())], *count)
        })
    });
    metrics.counter("xdp_frames", "What the XDP program and the sockets counted", kernel);
}

fn drops(metrics: &mut Metrics, answers: &Answers) {
    let rows = workers::drops(&workers::totals(answers.engine()));
    let samples = rows.into_iter().map(|row| (vec![("reason", row.reason)], row.frames));
    metrics.counter("drops", "Frames not forwarded", samples);
}

fn sessions(metrics: &mut Metrics, answers: &Answers) {
    let stats = answers.stats();
    metrics.number("sessions", "Live sessions", stats.sessions);
    metrics.number("sessions_max", "Sessions the table may hold", stats.sessions_max);
    metrics.number(
        "sessions_memory_bytes",
        "Memory of the session table",
        stats.sessions_memory_bytes,
    );
    metrics.number("sessions_ipv6", "Live IPv6 sessions", stats.sessions_ipv6);
    metrics.number(
        "sessions_ipv6_max",
        "Sessions the table of IPv6 may hold",
        stats.sessions_ipv6_max,
    );
    metrics.number(
        "sessions_ipv6_memory_bytes",
        "Memory of the table of IPv6 sessions",
        stats.sessions_ipv6_memory_bytes,
    );
    metrics.number("shortcuts", "Shortcuts that XDP programs read", stats.shortcuts);
    metrics.number("shortcuts_max", "Shortcuts there is room for", stats.shortcuts_max);
    metrics.number("next_hops", "Neighbours that frames may be sent to", stats.next_hops);
    metrics.number("next_hops_max", "Neighbours there is room for", stats.next_hops_max);
    metrics.count(
        "next_hops_reclaimed",
        "Next hops that became free, as nobody sent to them",
        stats.next_hops_reclaimed,
    );
    metrics.count(
        "next_hops_refused",
        "Times that there was no room for a neighbour",
        stats.next_hops_refused,
    );
    metrics.count("sessions_created", "Sessions created", stats.sessions_created);
    let ended = stats.sessions_ended.into_iter().map(|(how, count)| (vec![("how", how)], count));
    metrics.counter("sessions_ended", "Sessions ended", ended);
    let hosted = stats.hosted.into_iter().map(|(reason, count)| (vec![("reason", reason)], count));
    metrics.counter("host_packets", "Frames handed to the router's own kernel", hosted);
    metrics.count("held_packets", "Frames that had to wait", stats.held);
    metrics.count("icmp_errors_sent", "ICMP errors sent", stats.icmp_errors_sent);
    metrics.count("icmp_errors_limited", "ICMP errors withheld", stats.icmp_errors_limited);
    if let Some([exported, lost, withheld]) = stats.events {
        metrics.count("events_exported", "NAT events given to the network", exported);
        metrics.count("events_lost", "NAT events lost, as the queue was full", lost);
        metrics.count("events_withheld", "Refusals beyond those told of in a second", withheld);
    }
    metrics.count("reloads", "Reloads that were done", stats.reloads);
    metrics.count("reloads_refused", "Reloads that were refused", stats.reloads_refused);
    metrics.number(
        "policy_generation",
        "The number of the policy in force",
        stats.generation.into(),
    );
    metrics.number("uptime_seconds", "Time since the start", stats.uptime_s);
}

fn pools(metrics: &mut Metrics, answers: &Answers) {
    let rows = answers.pools();
    let sample = |value: fn(&crate::control::rows::PoolRow) -> u32| {
        rows.iter()
            .map(move |row| {
                let labels: Labels =
                    vec![("public_ip", row.public_ip.clone()), ("protocol", row.protocol.clone())];
                (labels, u64::from(value(row)))
            })
            .collect::<Vec<_>>()
    };
    metrics.gauge("nat_ports_in_use", "Ports with live mappings", sample(|row| row.live));
    metrics.gauge("nat_ports_resting", "Ports that rest after use", sample(|row| row.resting));
    metrics.gauge("nat_ports_max", "Ports that may be given out", sample(|row| row.capacity));
    metrics.gauge(
        "nat_sessions_overloaded",
        "Sessions that share a port",
        sample(|row| row.overloaded),
    );
}

/// Walks the session table once.
fn addresses(metrics: &mut Metrics, answers: &Answers) {
    let rows = answers.addresses();
    let sample = |value: fn(&AddressRow) -> u64| {
        let label = |row: &AddressRow| vec![("public_ip", row.public_ip.clone())];
        rows.iter().map(move |row| (label(row), value(row))).collect::<Vec<_>>()
    };
    metrics.counter("address_packets_in", "Packets in by it", sample(|row| row.packets_in));
    metrics.counter("address_bytes_in", "Bytes in by it", sample(|row| row.bytes_in));
    metrics.counter("address_packets_out", "Packets out by it", sample(|row| row.packets_out));
    metrics.counter("address_bytes_out", "Bytes out by it", sample(|row| row.bytes_out));
    let exceeded = |row: &AddressRow| {
        [("in", row.rate_exceeded_in), ("out", row.rate_exceeded_out)].map(|(way, count)| {
            let labels: Labels =
                vec![("public_ip", row.public_ip.clone()), ("way", way.to_owned())];
            count.map(|count| (labels, count))
        })
    };
    let exceeded = rows.iter().flat_map(exceeded).flatten();
    metrics.counter("address_rate_exceeded", "Packets beyond an address's limits", exceeded);
}

fn networks(metrics: &mut Metrics, answers: &Answers) {
    let rows = answers.rate_exceeded().into_iter();
    let samples = rows.map(|(name, packets)| (vec![("network", name)], packets));
    metrics.counter("network_rate_exceeded", "Packets beyond a network's limits", samples);
}

/// Walks the session table once.
fn rules(metrics: &mut Metrics, answers: &Answers) {
    let rows = answers.rules();
    let sample = |value: fn(&crate::control::rows::RuleRow) -> u64| {
        rows.iter()
            .map(move |row| {
                let labels: Labels = vec![
                    ("kind", row.kind.clone()),
                    ("rule", row.id.clone()),
                    ("owner", row.owner.clone()),
                ];
                (labels, value(row))
            })
            .collect::<Vec<_>>()
    };
    metrics.counter(
        "rule_packets",
        "Packets that a rule let pass or refused",
        sample(|row| row.packets),
    );
    metrics.counter("rule_bytes", "Bytes that a rule let pass or refused", sample(|row| row.bytes));
    metrics.gauge("rule_sessions", "Live sessions that a rule allowed", sample(|row| row.sessions));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_as_busy_as_it_was_since_the_last_scrape() {
        let earlier = WorkerTotals { slept_ns: 500, lived_ns: 600, ..Default::default() };
        let later = WorkerTotals { slept_ns: 575, lived_ns: 700, ..Default::default() };
        let ratio = busy_between(&earlier, &later);
        assert!((ratio - 0.25).abs() < 1e-9);
    }
}
