//! Everything that the running engine keeps can be seen: `natwerk show`, its JSON, Prometheus. Needs
//! root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use common::Namespace;
use common::router::{CONFIG, Router, Running};
use natwerk::verdict::DropReason;
use serde_json::Value;

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
                  "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"],
                  "egress_default": "allow"}],
    "load_balancers": [{"id": "spread", "public_ip": "203.0.113.10", "protocol": "tcp",
        "public_port": 80, "network": "web",
        "members": [{"guest_ip": "10.1.1.5", "guest_port": 8080}]}]
}"#;

/// What `natwerk show` can show: a word that its text must have, and the value at a pointer into its
/// JSON, after one ping of a guest and one connection that nobody let in.
const SHOWN: [(&str, &str, &str, &str); 14] = [
    ("addresses", "203.0.113.10", "/0/bytes_out", "84"),
    ("balancers", "10.1.1.5:8080", "/0/health", "not checked"),
    ("config", "control_socket", "/interface/0/name", "eth2"),
    ("drops", "firewall_denied", "/0/reason", "firewall_denied"),
    ("mappings", "203.0.113.10", "/0/protocol", "icmp"),
    ("neighbors", "reachable", "/0/address", "203.0.113.1"),
    ("native", "10.1.1.0/24", "/networks/0/name", "web"),
    ("networks", "10.1.1.0/24", "/0/name", "web"),
    ("policy", "generation", "/rules/source-nat", "1"),
    ("pools", "203.0.113.10", "/0/live", "1"),
    ("rules", "rules.json:4:18", "/0/bytes", "168"),
    ("sessions", "source-nat:web", "/0/initiator/bytes", "84"),
    ("stats", "1 of 4096", "/sessions_created", "1"),
    ("workers", "eth0:0", "/interfaces/1/received_bytes", "98"),
];

/// A router with a session and a drop.
fn busy() -> Option<(Router, Running, [Namespace; 2])> {
    let settings = "manage_addresses = true\nmetrics_listen = \"127.0.0.1:9469\"";
    let router = Router::new(&format!("{settings}\n{CONFIG}"))?;
    let (guest, internet) = router.between()?;
    router.write("rules.json", RULES);
    let engine = router.start();
    guest.run("ping -c1 -W9 203.0.113.1");
    assert!(!internet.succeeds("timeout 0.5 nc -z 203.0.113.10 9"));
    Some((router, engine, [guest, internet]))
}

#[test]
fn everything_that_the_engine_keeps_can_be_seen() {
    let Some((router, _engine, _hosts)) = busy() else { return };
    let help = router.says("show --help");
    let (_, commands) = help.split_once("Commands:\n").expect("commands");
    let commands = commands.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next());
    assert!(commands.eq(SHOWN.map(|shown| shown.0)), "all of them are asked here: {help}");
    for (what, word, pointer, expected) in SHOWN {
        let text = router.says(&format!("show {what}"));
        assert!(text.contains(word), "{what}: {text}");
        let json = router.says(&format!("show {what} --json"));
        let rows: Value = serde_json::from_str(&json).expect(what);
        let value = rows.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}: {json}"));
        assert!(value.to_string().trim_matches('"').ends_with(expected), "{what}: {json}");
    }
}

#[test]
fn prometheus_gets_the_same_numbers() {
    let Some((router, _engine, _hosts)) = busy() else { return };
    let metrics = router.namespace.run("curl -sf http://127.0.0.1:9469/metrics");
    for line in [
        "natwerk_rx_bytes_total{interface=\"eth0\"} 98",
        "natwerk_worker_restarts_total{worker=\"0\"} 0",
        "natwerk_drops_total{reason=\"firewall_denied\"} 1",
        "natwerk_sessions 1",
        "natwerk_next_hops_max 262144",
        "natwerk_next_hops_reclaimed_total 0",
        "natwerk_next_hops_refused_total 0",
        "natwerk_nat_ports_in_use{public_ip=\"203.0.113.10\",protocol=\"icmp\"} 1",
        "natwerk_rule_bytes_total{kind=\"source-nat\",rule=\"source-nat:web\",owner=\"web\"} 168",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line} in\n{metrics}");
    }
    // Each is explained, and every reason to drop is there before it happens.

    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let name = name.strip_suffix("_total").unwrap_or(name);
        assert!(metrics.contains(&format!("# HELP {name} ")), "{line}");
    }
    for reason in DropReason::ALL {
        assert!(metrics.contains(&format!("reason=\"{}\"", reason.name())), "{reason:?}");
    }
}
