//! What the engine counts as a whole, for people.

use crate::cli::output::duration;
use crate::cli::tables::{dash, list, pairs, some_or_dash};
use crate::control::rows::Stats;

/// `show stats`.
#[must_use]
pub fn stats(row: &Stats) -> String {
    let full = row.sessions.saturating_mul(100).checked_div(row.sessions_max).unwrap_or(0);
    let (hops, most) = (row.next_hops, row.next_hops_max);
    let (freed, refused) = (row.next_hops_reclaimed, row.next_hops_refused);
    let lines = [
        ("version", row.version.clone()),
        ("uptime", duration(row.uptime_s)),
        ("workers", row.workers.to_string()),
        ("received", format!("{} packets, {} bytes", row.received_packets, row.received_bytes)),
        (
            "transmitted",
            format!("{} packets, {} bytes", row.transmitted_packets, row.transmitted_bytes),
        ),
        ("dropped", row.drops.to_string()),
        ("to the kernel", some_or_dash(pairs(&row.hosted))),
        ("had to wait", row.held.to_string()),
        (
            "ICMP errors",
            format!("{} sent, {} withheld", row.icmp_errors_sent, row.icmp_errors_limited),
        ),
        ("sessions", format!("{} of {} ({full}%)", row.sessions, row.sessions_max)),
        ("IPv6 sessions", format!("{} of {}", row.sessions_ipv6, row.sessions_ipv6_max)),
        (
            "session memory",
            format!("{} bytes", row.sessions_memory_bytes + row.sessions_ipv6_memory_bytes),
        ),
        ("shortcuts", format!("{} of {}", row.shortcuts, row.shortcuts_max)),
        ("next hops", format!("{hops} of {most}, {freed} freed, {refused} refused")),
        ("sessions created", row.sessions_created.to_string()),
        ("sessions ended", some_or_dash(pairs(&row.sessions_ended))),
        (
            "NAT events",
            row.events.map_or_else(dash, |[exported, lost, withheld]| {
                format!("{exported} exported, {lost} lost, {withheld} withheld")
            }),
        ),
        ("policy", format!("generation {}", row.generation)),
        ("reloads", format!("{} done, {} refused", row.reloads, row.reloads_refused)),
        ("batches", some_or_dash(pairs(&row.batches))),
    ];
    list(lines)
}
