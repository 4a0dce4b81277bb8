//! Answers of the engine as text.

use std::collections::BTreeMap;

use crate::cli::listing::{self, Align};
use crate::cli::output::Column::{Number, Word};
use crate::cli::output::{duration, magnitude, table};
use crate::cli::show::ConfigAnswer;
use crate::control::rows::{
    DropRow, InterfaceRow, MappingRow, MemberRow, NeighborRow, NetworkRow, PolicyRow, PoolRow,
    ReloadRow, RuleRow, SessionRow, WorkerRow, Workers,
};

/// The columns of `show sessions`.
pub const SESSIONS: [listing::Column; 10] = [
    ("PROTO", 5, Align::Left),
    ("STATE", 11, Align::Left),
    ("INITIATOR", 43, Align::Left),
    ("RESPONDER", 43, Align::Left),
    ("IDLE", 6, Align::Right),
    ("EXPIRES", 7, Align::Right),
    ("PACKETS", 11, Align::Right),
    ("BYTES", 13, Align::Right),
    ("RULE", 12, Align::Left),
    ("KEY", 13, Align::Left),
];

/// A row of `show sessions`; packets and bytes are the initiator's and the responder's.
#[must_use]
pub fn session(row: &SessionRow) -> [String; 10] {
    let (initiator, responder) = (&row.initiator, &row.responder);
    [
        row.protocol.clone(),
        row.state.clone(),
        format!("{} > {}", initiator.source, initiator.destination),
        format!("{} > {}", responder.source, responder.destination),
        duration(row.idle_s),
        duration(row.expires_s),
        format!("{}/{}", magnitude(initiator.packets), magnitude(responder.packets)),
        format!("{}/{}", magnitude(initiator.bytes), magnitude(responder.bytes)),
        row.rule.clone(),
        row.key.clone(),
    ]
}

/// The columns of `show mappings`.
pub const MAPPINGS: [listing::Column; 5] = [
    ("PROTO", 5, Align::Left),
    ("INTERNAL", 21, Align::Left),
    ("EXTERNAL", 21, Align::Left),
    ("SESSIONS", 8, Align::Right),
    ("DOMAIN", 10, Align::Left),
];

/// A row of `show mappings`.
#[must_use]
pub fn mapping(row: &MappingRow) -> [String; 5] {
    [
        row.protocol.clone(),
        row.internal.clone(),
        row.external.clone(),
        row.sessions.to_string(),
        row.domain.clone(),
    ]
}

/// `show drops`.
#[must_use]
pub fn drops(rows: &[DropRow]) -> String {
    if rows.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let columns = [Number("FRAMES"), Word("REASON"), Word("MEANING")];
    table(
        &columns,
        rows.iter()
            .map(|row| vec![row.frames.to_string(), row.reason.clone(), row.meaning.clone()]),
    )
}

/// `show balancers`.
#[must_use]
pub fn members(rows: &[MemberRow]) -> String {
    let columns = [
        Word("BALANCER"),
        Word("PROTO"),
        Word("PUBLIC"),
        Word("ALGORITHM"),
        Word("MEMBER"),
        Number("WEIGHT"),
        Number("SESSIONS"),
        Word("HEALTH"),
    ];
    let cells = |row: &MemberRow| {
        let health = match row.why.as_str() {
            "" => row.health.clone(),
            why => format!("{} ({why})", row.health),
        };
        vec![
            row.balancer.clone(),
            row.protocol.clone(),
            row.public.clone(),
            row.algorithm.clone(),
            row.member.clone(),
            row.weight.to_string(),
            row.sessions.to_string(),
            health,
        ]
    };
    table(&columns, rows.iter().map(cells))
}

/// `show pools`.
#[must_use]
pub fn pools(rows: &[PoolRow]) -> String {
    let columns = [
        Word("PUBLIC IP"),
        Word("PROTO"),
        Number("LIVE"),
        Number("RESTING"),
        Number("OVERLOADED"),
        Number("CAPACITY"),
        Number("USED"),
        Word("NETWORKS"),
    ];
    let cells = |row: &PoolRow| {
        vec![
            row.public_ip.clone(),
            row.protocol.clone(),
            row.live.to_string(),
            row.resting.to_string(),
            row.overloaded.to_string(),
            row.capacity.to_string(),
            format!("{:.1}%", row.used_percent),
            row.networks.join(","),
        ]
    };
    table(&columns, rows.iter().map(cells))
}

/// `show rules`.
#[must_use]
pub fn rules(rows: &[RuleRow]) -> String {
    let columns = [
        Number("PACKETS"),
        Number("BYTES"),
        Number("SESSIONS"),
        Word("KIND"),
        Word("ID"),
        Word("OF"),
        Word("RULE"),
        Word("PLACE"),
    ];
    let cells = |row: &RuleRow| {
        vec![
            row.packets.to_string(),
            row.bytes.to_string(),
            row.sessions.to_string(),
            row.kind.clone(),
            row.id.clone(),
            row.owner.clone(),
            row.text.clone(),
            row.place.clone(),
        ]
    };
    table(&columns, rows.iter().map(cells))
}

/// `show networks`.
#[must_use]
pub fn networks(rows: &[NetworkRow]) -> String {
    let columns = [
        Word("NETWORK"),
        Word("DOMAIN"),
        Word("INTERFACE"),
        Number("VLAN"),
        Word("CIDR"),
        Word("GATEWAY"),
        Number("MTU"),
        Word("SOURCE NAT"),
        Word("EGRESS"),
        Number("SESSIONS"),
        Number("LIMITED"),
    ];
    let cells = |row: &NetworkRow| {
        vec![
            row.name.clone(),
            row.domain.clone(),
            row.interface.clone(),
            row.tag().unwrap_or_else(dash),
            with_ipv6(&row.cidr, row.ipv6_cidr.as_ref()),
            with_ipv6(&row.gateway, row.ipv6_gateway.as_ref()),
            row.mtu.map_or_else(dash, |mtu| mtu.to_string()),
            some_or_dash(row.source_nat.join(",")),
            row.egress.clone(),
            row.sessions.to_string(),
            row.rate_exceeded.map_or_else(dash, |packets| packets.to_string()),
        ]
    };
    table(&columns, rows.iter().map(cells))
}

/// What a network has of IPv4, and what it has of IPv6.
fn with_ipv6(ipv4: &str, ipv6: Option<&String>) -> String {
    ipv6.map_or_else(|| ipv4.to_owned(), |ipv6| format!("{ipv4},{ipv6}"))
}

/// `show neighbors`.
#[must_use]
pub fn neighbors(rows: &[NeighborRow]) -> String {
    let columns =
        [Word("ADDRESS"), Word("INTERFACE"), Number("VLAN"), Word("STATE"), Word("LINK ADDRESS")];
    let cells = |row: &NeighborRow| {
        vec![
            row.address.clone(),
            row.interface.clone(),
            row.tag().unwrap_or_else(dash),
            row.state.clone(),
            row.mac.clone().unwrap_or_else(dash),
        ]
    };
    table(&columns, rows.iter().map(cells))
}

/// `show workers`.
#[must_use]
pub fn workers(answer: &Workers) -> String {
    let interfaces = [
        Word("INTERFACE"),
        Word("ROLE"),
        Word("MODE"),
        Word("HOOK"),
        Number("QUEUES"),
        Number("RECEIVED"),
        Number("BYTES"),
        Number("TRANSMITTED"),
        Number("BYTES"),
        Word("KERNEL SIDE"),
    ];
    let workers = [
        Number("WORKER"),
        Number("CORE"),
        Word("QUEUES"),
        Number("RECEIVED"),
        Number("TRANSMITTED"),
        Number("DROPS"),
        Number("TO HOST"),
        Number("NEW SESSIONS"),
        Number("BUSY"),
        Number("BATCH"),
        Number("RESTARTS"),
    ];
    let above = table(&interfaces, answer.interfaces.iter().map(interface));
    let below = table(&workers, answer.workers.iter().map(worker));
    format!("{above}\n{below}")
}

fn interface(row: &InterfaceRow) -> Vec<String> {
    vec![
        row.name.clone(),
        row.role.clone(),
        row.mode.clone(),
        row.hook.clone(),
        row.queues.to_string(),
        row.received_packets.to_string(),
        row.received_bytes.to_string(),
        row.transmitted_packets.to_string(),
        row.transmitted_bytes.to_string(),
        some_or_dash(pairs(&row.kernel)),
    ]
}

fn worker(row: &WorkerRow) -> Vec<String> {
    vec![
        row.worker.to_string(),
        row.core.map_or_else(dash, |core| core.to_string()),
        row.queues.join(","),
        row.received_packets.to_string(),
        row.transmitted_packets.to_string(),
        row.drops.to_string(),
        row.hosted.to_string(),
        row.sessions_created.to_string(),
        format!("{:.1}%", row.busy_ratio * 100.0),
        format!("{:.1}", row.batch_mean),
        row.restarts.to_string(),
    ]
}

/// `show policy`.
#[must_use]
pub fn policy(row: &PolicyRow) -> String {
    let rules = row.rules.iter().map(|(kind, count)| (kind.clone(), *count)).collect();
    let mut lines = vec![
        ("generation", row.generation.to_string()),
        ("public addresses", row.public_ips.to_string()),
        ("networks", row.networks.to_string()),
        ("domains", row.domains.to_string()),
        ("rules", some_or_dash(pairs(&rules))),
        ("filters", format!("{} bytes", row.filter_bytes)),
    ];
    lines.extend(row.pending.iter().map(|rule| ("pending", rule.clone())));
    if let Some(report) = &row.last_reload {
        lines.push(("last reload", reload_line(report)));
    }
    list(lines)
}

/// `reload`.
#[must_use]
pub fn reload(row: &ReloadRow) -> String {
    let mut text = format!("{}\n", reload_line(row));
    for warning in &row.warnings {
        text.push_str(&format!("{warning}\n"));
    }
    text
}

fn reload_line(row: &ReloadRow) -> String {
    let change = match (row.added, row.removed, row.changed) {
        (0, 0, 0) => "nothing changed".to_owned(),
        (added, removed, changed) => {
            format!("{added} added, {removed} removed, {changed} changed")
        }
    };
    let waited = match row.waited_ms {
        0 => String::new(),
        waited => format!(" and {waited} ms of waiting for the files"),
    };
    format!(
        "{change}; {} sessions ended; generation {}, in force after {} ms{waited}, sessions looked at after {} ms",
        row.sessions_ended, row.generation, row.in_force_ms, row.duration_ms
    )
}

/// `show config`: as TOML, like the file.
#[must_use]
pub fn config(answer: &ConfigAnswer) -> String {
    let text = toml::to_string_pretty(answer).unwrap_or_else(|_| format!("{answer:#}"));
    format!("{}\n", text.trim_end())
}

/// Names and values, one pair a line.
pub(super) fn list(lines: impl IntoIterator<Item = (&'static str, String)>) -> String {
    lines.into_iter().map(|(name, value)| format!("{name:<18}{value}\n")).collect()
}

/// What is not zero, as `name value, name value`. Names that are numbers keep their order.
pub(super) fn pairs<V: Copy + PartialEq + Default + ToString>(
    values: &BTreeMap<String, V>,
) -> String {
    let mut values: Vec<_> = values.iter().filter(|(_, value)| **value != V::default()).collect();
    values.sort_by_key(|(name, _)| name.parse::<u64>().unwrap_or(u64::MAX));
    let values: Vec<_> =
        values.iter().map(|(name, value)| format!("{name} {}", value.to_string())).collect();
    values.join(", ")
}

pub(super) fn dash() -> String {
    "-".to_owned()
}

pub(super) fn some_or_dash(text: String) -> String {
    if text.is_empty() { dash() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_a_table_and_no_drops_a_sentence() {
        let row = DropRow {
            reason: "no_port".to_owned(),
            frames: 7,
            meaning: "No external port is free on any address of the pool.".to_owned(),
        };
        let expected = "\
FRAMES  REASON   MEANING
     7  no_port  No external port is free on any address of the pool.
";
        assert_eq!(drops(&[row]), expected);
        assert_eq!(drops(&[]), "nothing was dropped\n");
    }

    #[test]
    fn rules_show_their_counters_first() {
        let row = RuleRow {
            kind: "firewall".to_owned(),
            id: "f1".to_owned(),
            owner: "203.0.113.11".to_owned(),
            text: "allow tcp 2222-2230 from 198.51.100.0/24".to_owned(),
            place: "rules.json:12:5".to_owned(),
            sessions: 2,
            packets: 1_234,
            bytes: 98_765,
        };
        let expected = "\
PACKETS  BYTES  SESSIONS  KIND      ID  OF            RULE                                      PLACE
   1234  98765         2  firewall  f1  203.0.113.11  allow tcp 2222-2230 from 198.51.100.0/24  rules.json:12:5
";
        assert_eq!(rules(&[row]), expected);
    }

    #[test]
    fn an_untagged_network_without_nat_shows_dashes() {
        let row = NetworkRow {
            name: "web".to_owned(),
            domain: "web".to_owned(),
            interface: "eth0".to_owned(),
            vlan: 0,
            encapsulation: None,
            cidr: "10.1.1.0/24".to_owned(),
            gateway: "10.1.1.1".to_owned(),
            ipv6_cidr: None,
            ipv6_gateway: None,
            mtu: None,
            source_nat: Vec::new(),
            egress: "allow".to_owned(),
            sessions: 3,
            rate_exceeded: None,
        };
        let text = networks(&[row]);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            cells,
            ["web", "web", "eth0", "-", "10.1.1.0/24", "10.1.1.1", "-", "-", "allow", "3", "-"]
        );
    }

    #[test]
    fn a_reload_says_what_changed() {
        let row = ReloadRow {
            added: 0,
            removed: 0,
            changed: 0,
            sessions_ended: 0,
            generation: 3,
            waited_ms: 0,
            in_force_ms: 3,
            duration_ms: 4,
            warnings: vec![],
        };
        let times = "generation 3, in force after 3 ms";
        let start = format!("nothing changed; 0 sessions ended; {times}, ");
        assert!(reload(&row).starts_with(&start));
        let row = ReloadRow { added: 2, removed: 1, sessions_ended: 9, waited_ms: 50, ..row };
        let text = format!(
            "2 added, 1 removed, 0 changed; 9 sessions ended; {times} and 50 ms of waiting for the \
             files, sessions looked at after 4 ms\n"
        );
        assert_eq!(reload(&row), text);
    }

    #[test]
    fn pairs_leave_zeros_out_and_count_in_order() {
        let values = [("16", 3), ("2", 1), ("64", 0)];
        let values = values.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(pairs::<u64>(&values), "2 1, 16 3");
    }
}
