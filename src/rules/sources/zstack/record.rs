//! A state on disk, one entry a line: what the HTTP front keeps over restarts, and what messages about its rules point
//! into. The lines look like requests, to a path that no server knows.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::json;

use super::kept::Kept;
use super::state::State;

/// The path of the requests that are kept entries.
pub const PATH: &str = "/natwerk/kept";

/// A state, one entry a line, in the order in which they came: what was first keeps what two claim.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    lines: Vec<Line>,
}

/// The line of an entry.
#[derive(Clone, Debug)]
struct Line {
    text: String,
    kept: Kept,
}

impl Record {
    /// What `state` is on disk.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let mut kept = entries(state);
        kept.sort_by_key(Kept::arrival);
        Self { lines: kept.into_iter().map(Line::of).collect() }
    }

    /// The same lines, those that `before` has in its order: what is new or has changed comes behind them.
    #[must_use]
    pub fn behind(mut self, before: &Self) -> Self {
        let order: HashMap<&str, usize> =
            before.lines.iter().zip(0..).map(|(line, index)| (&*line.text, index)).collect();
        let index = |line: &Line| order.get(&*line.text).copied().unwrap_or(usize::MAX);
        self.lines.sort_by_key(index);
        self
    }

    /// The entries that `before` does not have, by line.
    #[must_use]
    pub fn since(&self, before: &Self) -> HashMap<u32, &Kept> {
        let known: HashSet<&str> = before.lines.iter().map(|line| &*line.text).collect();
        let new = (1..).zip(&self.lines).filter(|(_, line)| !known.contains(&*line.text));
        new.map(|(number, line)| (number, &line.kept)).collect()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

impl Line {
    fn of(kept: Kept) -> Self {
        // Nothing that is kept cannot be written.
        let body = serde_json::to_string(&kept).unwrap_or_default();
        let text = json!({ "method": "POST", "path": PATH, "body": body }).to_string();
        Self { text, kept }
    }
}

/// Two lines are the same if they say the same, wherever that came from.
impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Line {}

/// All that `state` holds, but for what the server says again to whoever starts anew.
fn entries(state: &State) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::new();
    kept.extend(state.removed_nics.iter().map(|mac| Kept::RemovedNic(*mac)));
    kept.extend(state.nics.iter().map(|(mac, nic)| Kept::Nic(*mac, nic.clone())));
    kept.extend(state.vips.iter().map(|(address, vip)| Kept::Vip(*address, vip.clone())));
    kept.extend(state.limits.iter().map(|(key, limit)| Kept::VipLimit(*key, limit.clone())));
    kept.extend(state.snats.iter().map(|(key, snat)| Kept::Snat(*key, snat.clone())));
    kept.extend(state.eips.iter().map(|(vip, eip)| Kept::Eip(*vip, eip.clone())));
    let forwards = state.forwards.iter();
    kept.extend(forwards.map(|(uuid, it)| Kept::PortForward(uuid.clone(), it.clone())));
    let listeners = state.listeners.iter();
    kept.extend(listeners.map(|(uuid, it)| Kept::Listener(uuid.clone(), it.clone())));
    for (key, list) in &state.firewall {
        let default = list.default.iter();
        kept.extend(default.map(|default| Kept::FirewallDefault(*key, default.clone())));
        let rules = list.rules.iter();
        kept.extend(rules.map(|(number, it)| Kept::FirewallRule(*key, *number, it.clone())));
    }
    kept.extend(state.routes.iter().map(|(to, it)| Kept::StaticRoute(*to, it.clone())));
    let policies = &state.policy_routes;
    let sets = policies.sets.iter();
    kept.extend(sets.map(|(name, set)| Kept::PolicySet(name.clone(), set.clone())));
    let rules = policies.rules.iter();
    kept.extend(rules.map(|(key, rule)| Kept::PolicyRule(key.clone(), rule.clone())));
    let routes = policies.routes.iter();
    kept.extend(routes.map(|(key, route)| Kept::TableRoute(*key, route.clone())));
    let references = policies.references.iter();
    kept.extend(references.map(|(number, it)| Kept::PolicyReference(*number, it.clone())));
    kept.extend(state.flat_eips.iter().map(|(vip, eip)| Kept::FlatEip(*vip, eip.clone())));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::diagnostic::{Diagnostic, Place, Severity};
    use crate::rules::source::Source;
    use crate::rules::sources::zstack::read_texts;
    use crate::rules::sources::{Nics, Translation};
    use crate::rules::{Loaded, load_translation};

    /// A router that has booted and then read `requests`.
    fn read(requests: &str) -> (State, Translation) {
        let source = |name, text: &str| Some(Source::new(name, text.to_owned()));
        read_texts(source("boot.json", BOOT), source("kept.jsonl", requests), Nics::default())
    }

    /// The same router after a restart.
    fn restarted(state: &State) -> State {
        let (state, translation) = read(&Record::of(state).to_string());
        let mut faults = translation.faults.iter();
        assert!(faults.all(|fault| fault.severity == Severity::Warning), "{translation:?}");
        state
    }

    /// Has `state` carry out a request, which must succeed.
    fn ask(state: &mut State, path: &str, body: &str) {
        let answer = state.apply(path, body, &|_| Place::nowhere());
        assert!(answer.is_success(), "{}", answer.reply);
    }

    /// The ids of the port forwards and load balancers in force, and what is said.
    fn in_force(translation: Translation) -> (Vec<String>, Vec<Diagnostic>) {
        let Loaded { rules, warnings, .. } = load_translation(translation).unwrap();
        let forwards = rules.port_forwards.into_iter().map(|rule| rule.id);
        (forwards.chain(rules.load_balancers.into_iter().map(|rule| rule.id)).collect(), warnings)
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let (state, translation) = read(ALL);
        assert_eq!(translation.faults, []);
        let record = Record::of(&state);
        let text = record.to_string();
        for kind in [
            "eip",
            "firewall-default",
            "firewall-rule",
            "flat-eip",
            "listener",
            "nic",
            "policy-reference",
            "policy-rule",
            "policy-set",
            "port-forward",
            "removed-nic",
            "snat",
            "static-route",
            "table-route",
            "vip",
            "vip-limit",
        ] {
            assert!(text.contains(&format!("{{\\\"{kind}\\\":")), "{kind}: {text}");
        }
        assert_eq!(Record::of(&restarted(&state)), record);
    }

    #[test]
    fn a_nic_that_comes_back_after_a_restart_finds_its_rules() {
        let (mut state, _) = read(ALL);
        let nic = "{\"nics\": [{\"mac\": \"fa:16:3e:00:00:02\"}]}";
        ask(&mut state, "/removenic", nic);
        let mut state = restarted(&state);
        let (ids, _) = in_force(read(&Record::of(&state).to_string()).1);
        assert_eq!(ids, Vec::<String>::new());
        let nic = "{\"nics\": [{\"mac\": \"fa:16:3e:00:00:02\", \"ip\": \"192.168.10.1\", \"category\": \"Private\",
                    \"netmask\": \"255.255.255.0\", \"deviceName\": \"eth2\"}]}";
        ask(&mut state, "/configurenic", nic);
        let (ids, warnings) = in_force(read(&Record::of(&restarted(&state)).to_string()).1);
        assert_eq!(ids, ["f", "l"], "{warnings:?}");
    }

    #[test]
    fn a_nic_of_the_boot_information_that_was_removed_twice_stays_away() {
        let (mut state, _) = read("");
        let mac = "fa:16:3e:00:00:03";
        let nic = format!(
            "{{\"nics\": [{{\"mac\": \"{mac}\", \"ip\": \"192.168.20.1\", \"category\": \"Private\",
               \"netmask\": \"255.255.255.0\", \"deviceName\": \"eth3\"}}]}}"
        );
        for path in ["/removenic", "/configurenic", "/removenic"] {
            ask(&mut state, path, &nic);
        }
        assert!(!restarted(&state).nics.keys().any(|known| known.to_string() == mac));
    }

    #[test]
    fn what_is_new_comes_behind_what_was_there() {
        let (mut state, _) = read(ALL);
        let before = Record::of(&state);
        let listener = |uuid: &str, port: u16| {
            format!(
                "{{\"lbs\": [{{\"listenerUuid\": \"{uuid}\", \"vip\": \"203.0.113.21\", \"instancePort\": 80,
                   \"loadBalancerPort\": {port}, \"mode\": \"tcp\", \"nicIps\": [\"192.168.10.51\"]}}]}}"
            )
        };
        // A listener whose uuid sorts first, on the forward's port; and the old ones once more, as they were.
        ask(&mut state, "/lb/refresh", &listener("a", 2222));
        let old = ALL.lines().find(|line| line.contains("/lb/refresh")).unwrap();
        let old: serde_json::Value = serde_json::from_str(old).unwrap();
        ask(&mut state, "/lb/refresh", old["body"].as_str().unwrap());
        let record = Record::of(&state).behind(&before);
        assert!(record.to_string().starts_with(&before.to_string()));
        let since = record.since(&before);
        let last = u32::try_from(record.lines.len()).unwrap();
        assert!(matches!(since.get(&last), Some(Kept::Listener(uuid, _)) if uuid == "a"));
        assert_eq!(since.len(), 1);
        // It is the one that is told, and the old ones stay.
        let (ids, warnings) = in_force(read(&record.to_string()).1);
        assert_eq!(ids, ["f", "l"]);
        let errors = warnings.iter().filter(|fault| fault.what.contains("already claimed"));
        assert_eq!(errors.map(|fault| fault.place.line).collect::<Vec<_>>(), [last]);
        // Refused, it is not there; an entry that was changed is what it was.
        let (booted, _) = read(ALL);
        since[&last].put_back(&mut state, &booted);
        ask(&mut state, "/lb/refresh", &listener("l", 2222));
        let changed = Record::of(&state).behind(&before);
        for kept in changed.since(&before).values() {
            kept.put_back(&mut state, &booted);
        }
        assert_eq!(Record::of(&state).behind(&before), before);
    }

    #[test]
    fn a_default_route_that_is_refused_stays_where_it_was() {
        let (mut state, _) = read("");
        let (booted, before) = (state.clone(), Record::of(&state));
        let nic = "{\"newNic\": {\"mac\": \"fa:16:3e:00:00:04\", \"ip\": \"198.51.100.5\", \"netmask\": \"255.255.255.0\"}}";
        ask(&mut state, "/changeDefaultNic", nic);
        let changed = Record::of(&state).behind(&before);
        let since = changed.since(&before);
        assert_eq!(since.len(), 2);
        let default =
            since.values().find(|kept| matches!(kept, Kept::Nic(_, nic) if nic.is_default_route));
        default.unwrap().put_back(&mut state, &booted);
        assert_eq!(Record::of(&state).behind(&before), before);
    }

    #[test]
    fn networks_that_overlap_are_told_apart_by_who_came_first() {
        let (mut state, _) = read("");
        let nic = "{\"nics\": [{\"mac\": \"0a:00:00:00:00:01\", \"ip\": \"192.168.10.2\", \"category\": \"Private\",
                    \"netmask\": \"255.255.255.0\", \"deviceName\": \"eth9\"}]}";
        ask(&mut state, "/configurenic", nic);
        let (_, translation) = read(&Record::of(&state).to_string());
        let networks = load_translation(translation).unwrap().rules.networks;
        let names: Vec<_> = networks.iter().map(|network| &*network.name).collect();
        assert_eq!(names, ["eth2", "eth3"]);
    }

    #[test]
    fn nobody_outside_can_send_what_is_kept() {
        assert!(!State::knows(PATH));
        let (state, _) = read(ALL);
        let text = Record::of(&state).to_string();
        let line: serde_json::Value =
            serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
        let mut state = State::default();
        let body = line["body"].as_str().unwrap();
        assert!(!state.apply(PATH, body, &|_| Place::nowhere()).path_is_known);
        assert_eq!(Record::of(&state).to_string(), "");
    }

    #[test]
    fn a_kept_line_that_cannot_be_costs_itself_and_says_where() {
        let line = |body: &str| json!({ "path": PATH, "body": body }).to_string();
        let vip = "{\"vip\":[\"203.0.113.21\",{\"mac\":\"fa:16:3e:00:00:01\",\"length\":24,\"gateway\":null,\"uuid\":\"\"}]}";
        let forward = "{\"port-forward\":[\"f\",{\"vip\":\"203.0.113.21\",\"protocol\":\"tcp\",\"public_ports\":\"80\",
            \"private_mac\":\"fa:16:3e:00:00:02\",\"guest\":\"192.168.10.9\",\"guest_ports\":\"80\",\"allowed\":null}]}";
        let rule = "{\"policy-rule\":[[\"s\",1],{\"matches\":[[{\"protocol\":\"tcp\"},null]],\"sources\":[],\"destinations\":[],\"table\":1,\"is_on\":true}]}";
        let wrong = [
            (vip.replace("24", "33"), "cannot be: a prefix length goes up to 32"),
            (
                vip.replace("24", "true"),
                "cannot be read: invalid type: boolean `true`, expected u8",
            ),
            (vip.replace("\"length\":24,", ""), "cannot be read: missing field `length`"),
            (vip.replace("\"uuid\"", "\"colour\""), "cannot be read: unknown field `colour`"),
            (
                vip.replace("vip", "v\\nip"),
                "cannot be read: unknown variant `v ip`, expected one of",
            ),
            (forward.replace("tcp", "icmp"), "cannot be: tcp or udp belongs here"),
            (forward.replace("\"80\",\"a", "\"80-81\",\"a"), "as many guest ports"),
            (forward.replace("[\"f\"", "[\"\""), "a name has up to 64 bytes"),
            (rule.replace("},null", "},\"0\""), "string \"0\", expected a port or range"),
            (rule.replace("\"tcp\"},null", "\"esp\"},\"80\""), "ports belong to a protocol"),
            (rule.replace("\"tcp\"", "\"tcp\",\"icmp_type\":8"), "only ICMP has types"),
            (rule.replace("\"tcp\"", "\"icmp\",\"icmp_code\":8"), "belongs to a type"),
            ("{".to_owned(), "cannot be read: EOF"),
            (String::new(), "cannot be read: EOF"),
        ];
        for (body, words) in &wrong {
            let text = [line(vip), line(body), line(forward)].join("\n");
            let (state, translation) = read(&text);
            let [fault] = &translation.faults[..] else { panic!("{body}: {translation:?}") };
            assert!(fault.what.contains(words), "{fault}");
            assert!(fault.place.line == 2 && fault.place.column >= 8, "{fault}");
            assert!(!fault.hint.is_empty() && !fault.to_string().contains('\n'), "{fault}");
            assert_eq!((state.vips.len(), state.forwards.iter().count()), (1, 1), "{body}");
        }
        // Inside a body of several lines, too.
        let (_, translation) = read(&line(&forward.replace("192.168.10.9", "192.168.10.999")));
        let column = usize::try_from(translation.faults[0].place.column).unwrap();
        let before: String = line(forward).chars().take(column).collect();
        assert!(before.contains("guest") && !before.contains("guest_ports"), "{before}");
    }

    #[test]
    fn two_kept_entries_that_claim_one_port_are_told_apart_by_their_lines() {
        let (state, _) = read(ALL);
        let text = Record::of(&state).to_string();
        let forward = text.lines().find(|line| line.contains("port-forward")).unwrap();
        let other = forward.replace("[\\\"f\\\"", "[\\\"e\\\"");
        let (mut state, translation) = read(&format!("{text}{other}\n"));
        assert_eq!(in_force(translation).0, ["f", "l"]);
        // Neither takes the other along.
        ask(&mut state, "/revokeportforwarding", "{\"rules\": [{\"uuid\": \"e\"}]}");
        let (ids, warnings) = in_force(read(&Record::of(&state).to_string()).1);
        assert_eq!(ids, ["f", "l"], "{warnings:?}");
    }

    const BOOT: &str = include_str!(
        "../../../../tests/samples/zstack/vyos-02-port-forwarding/bootstrap-info.json"
    );
    /// Requests that lead to at least one entry of each kind.
    const ALL: &str = include_str!("../../../../fuzz/corpus/zstack/an-entry-of-each-kind");
}
