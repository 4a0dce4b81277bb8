//! TCP of the router itself (haproxy, say), which the kernel sends and receives without natwerk and CloudStack
//! bills, too: the kernel counts it, in a table of nftables that does nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Bytes of the router's own TCP by an interface: out, and in.
pub type Bytes = (u64, u64);

/// What was counted on each of `interfaces`; from now on it is counted where it was not.
///
/// # Errors
/// When `nft` cannot be run, or refuses.
pub fn read(interfaces: &[&str]) -> io::Result<BTreeMap<String, Bytes>> {
    // Without the table there is nothing to list, and `nft` fails.
    let counted = nft(&["-j", "list", "table", "ip", TABLE], "").unwrap_or_default();
    let counted = parsed(&counted);
    let missing: Vec<&str> =
        interfaces.iter().copied().filter(|name| !counted.contains_key(*name)).collect();
    if !missing.is_empty() {
        nft(&["-f", "-"], &counting(&missing))?;
    }
    Ok(counted)
}

/// Counts no more and forgets what was counted.
///
/// # Errors
/// When `nft` cannot be run, or refuses.
pub fn forget() -> io::Result<()> {
    // Deleting what is not there is a fault, so it is made first.
    nft(&["-f", "-"], &format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")).map(|_| ())
}

/// What has `nft` count on `interfaces`.
fn counting(interfaces: &[&str]) -> String {
    let mut text = format!("add table ip {TABLE}\n");
    for (chain, _) in WAYS {
        // Writing to memory cannot fail.
        let _ = writeln!(
            text,
            "add chain ip {TABLE} {chain} {{ type filter hook {chain} priority {PRIORITY}; }}"
        );
    }
    for name in interfaces {
        for (chain, way) in WAYS {
            let _ = writeln!(
                text,
                "add rule ip {TABLE} {chain} {way} \"{name}\" ip protocol tcp counter"
            );
        }
    }
    text
}

/// The bytes in what `nft -j list table` printed, by interface.
fn parsed(text: &str) -> BTreeMap<String, Bytes> {
    let mut found: BTreeMap<String, Bytes> = BTreeMap::new();
    let listed: Value = serde_json::from_str(text).unwrap_or_default();
    let entries = listed.get("nftables").and_then(Value::as_array).into_iter().flatten();
    for rule in entries.filter_map(|entry| entry.get("rule")) {
        let parts = || rule.get("expr").and_then(Value::as_array).into_iter().flatten();
        let name = parts().find_map(|part| part.pointer("/match/right")?.as_str());
        let bytes = parts().find_map(|part| part.pointer("/counter/bytes")?.as_u64());
        let (Some(name), Some(bytes)) = (name, bytes) else { continue };
        let (out, back) = found.entry(name.to_owned()).or_default();
        match rule.get("chain").and_then(Value::as_str) {
            Some("output") => *out = bytes,
            Some("input") => *back = bytes,
            Some(_) | None => {}
        }
    }
    found
}

fn nft(arguments: &[&str], input: &str) -> io::Result<String> {
    let mut nft = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The hooks, which the chains are called like, and what tells an interface there.
const WAYS: [(&str, &str); 2] = [("input", "iifname"), ("output", "oifname")];
const TABLE: &str = "natwerk_netusage";
/// Before anything that may drop what came.
const PRIORITY: i32 = -300;

#[cfg(test)]
mod tests {
    use super::*;

    /// What nft 1.0.6 prints.
    const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "natwerk_netusage"}},
        {"chain": {"family": "ip", "table": "natwerk_netusage", "name": "input", "hook": "input", "prio": -300}},
        {"rule": {"chain": "input", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth2"}},
         {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "tcp"}},
         {"counter": {"packets": 3, "bytes": 180}}]}},
        {"rule": {"chain": "output", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth2"}},
         {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "tcp"}},
         {"counter": {"packets": 2, "bytes": 90}}]}}]}"#;

    #[test]
    fn counters_are_told_by_direction_and_interface() {
        assert_eq!(parsed(LISTED), [("eth2".to_owned(), (90, 180))].into());
        assert_eq!(parsed("not JSON"), BTreeMap::new());
    }

    #[test]
    fn every_interface_is_counted_both_ways() {
        let text = counting(&["eth2", "wan-1"]);
        assert_eq!(text.matches("add rule").count(), 4);
        assert!(text.contains("input iifname \"wan-1\" ip protocol tcp counter"), "{text}");
    }
}
