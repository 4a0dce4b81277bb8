//! One rule of the user's firewall.

use serde::{Deserialize, Serialize};

use super::balancers::prefixes_of;
use super::reader::{Notes, Object, quoted};
use super::state::{Call, Origin};
use crate::flow::Protocol;
use crate::rules::scalars::PROTOCOLS;
use crate::rules::set::{Cidr, FilterAction, Match, PortRange};

/// A rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UserRule {
    /// What it does.
    pub action: FilterAction,
    /// The transport parts that it matches: one for each port or range that it lists.
    pub matches: Vec<Match>,
    /// Sources; empty means all.
    pub sources: Vec<Cidr>,
    /// Destinations; empty means all.
    pub destinations: Vec<Cidr>,
    /// Whether new sessions match it. Others it never sees.
    pub is_about_new: bool,
    /// Whether it is enabled.
    pub is_on: bool,
    /// The server's words for it.
    pub words: Box<RuleWords>,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// A rule in the server's words, which it is told when it asks.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RuleWords {
    pub action: String,
    pub protocol: String,
    pub dest_port: String,
    pub source_port: String,
    pub source_ip: String,
    pub dest_ip: String,
    pub allow_states: String,
    pub tcp: String,
    pub icmp: String,
    pub rule_number: i64,
    pub enable_log: bool,
    pub state: String,
    pub is_default: bool,
}

/// A rule with its number.
pub struct Rule {
    /// Its number.
    pub number: i64,
    /// The rule.
    pub rule: UserRule,
}

/// The rule that `object` describes.
pub fn read(object: &Object<'_>, call: &mut Call<'_>) -> Option<Rule> {
    let notes = &mut call.notes;
    let number = object.integer("ruleNumber", notes);
    let action = action(object, "action", notes);
    let matches = matches(object, notes);
    let sources = addresses(object, "sourceIp", notes);
    let destinations = addresses(object, "destIp", notes);
    let is_about_new = is_about_new(object, notes);
    let is_on = is_on(object, notes);
    for (field, what) in [("sourcePort", "source ports"), ("tcp", "TCP flags")] {
        if object.text(field, notes).is_some_and(|text| !text.is_empty()) {
            let what = format!("natwerk's filters do not match {what}");
            notes.error(object.place_of(field), what, "leave it out");
            return None;
        }
    }
    if object.boolean("enableLog", notes) == Some(true) {
        let what = "natwerk does not log what a rule matches";
        notes.warning(object.place_of("enableLog"), what, "see its counters in show rules");
    }
    let words = words(object, notes);
    let rule = UserRule {
        action: action?,
        matches: matches?,
        sources: sources?,
        destinations: destinations?,
        is_about_new: is_about_new?,
        is_on: is_on?,
        words: Box::new(words?),
        origin: call.origin(object),
    };
    Some(Rule { number: number?, rule })
}

fn words(object: &Object<'_>, notes: &mut Notes) -> Option<RuleWords> {
    let is_default = object.boolean("isDefault", notes);
    // Of what is read for the rule itself, it is noted there what is wrong with it.
    let mut seen = Notes::default();
    let mut text = |field| object.text(field, &mut seen).map(str::to_owned);
    let words = RuleWords {
        action: text("action")?,
        protocol: text("protocol")?,
        dest_port: text("destPort")?,
        source_port: text("sourcePort")?,
        source_ip: text("sourceIp")?,
        dest_ip: text("destIp")?,
        allow_states: text("allowStates")?,
        tcp: text("tcp")?,
        icmp: text("icmp")?,
        state: text("state")?,
        rule_number: object.integer("ruleNumber", &mut seen)?,
        enable_log: object.boolean("enableLog", &mut seen)?,
        is_default: is_default?,
    };
    Some(words)
}

/// Whether a rule is one that every router has by itself: established traffic, and new sessions behind the user's rules.
pub fn is_of_system(number: i64, rule: &UserRule) -> bool {
    number == 4000 || (number == 9999 && rule.action == FilterAction::Allow)
}

/// What a rule or a rule set does; nothing is said means accept.
pub fn action(object: &Object<'_>, field: &str, notes: &mut Notes) -> Option<FilterAction> {
    match object.text(field, notes)?.to_ascii_lowercase().as_str() {
        "accept" | "return" | "" => Some(FilterAction::Allow),
        "drop" => Some(FilterAction::Deny),
        "reject" => Some(FilterAction::Reject),
        other => {
            let what = format!("{field} {} is no action", quoted(other));
            notes.error(object.place_of(field), what, "send accept, drop or reject");
            None
        }
    }
}

/// As ZStack calls an action.
pub const fn word(action: FilterAction) -> &'static str {
    match action {
        FilterAction::Allow => "accept",
        FilterAction::Deny => "drop",
        FilterAction::Reject => "reject",
    }
}

/// Whether something is enabled; nothing is said means that it is.
pub fn is_on(object: &Object<'_>, notes: &mut Notes) -> Option<bool> {
    match object.text("state", notes)? {
        "enable" | "" => Some(true),
        "disable" => Some(false),
        other => {
            let what = format!("state {} is neither enable nor disable", quoted(other));
            notes.error(object.place_of("state"), what, "send one of the two");
            None
        }
    }
}

/// Whether new sessions match. What is established passes anyway, what is invalid never does.
fn is_about_new(object: &Object<'_>, notes: &mut Notes) -> Option<bool> {
    let states = object.text("allowStates", notes)?;
    let mut is_about_new = states.is_empty();
    for state in states.split(',').map(str::trim).filter(|state| !state.is_empty()) {
        match state.to_ascii_lowercase().as_str() {
            "new" => is_about_new = true,
            "established" | "related" | "invalid" => {}
            other => {
                let what = format!("allowStates has {}, which is no state", quoted(other));
                let hint = "send new, established, related or invalid";
                notes.error(object.place_of("allowStates"), what, hint);
                return None;
            }
        }
    }
    Some(is_about_new)
}

/// The transport parts: one for each port or range that is listed.
pub fn matches(object: &Object<'_>, notes: &mut Notes) -> Option<Vec<Match>> {
    let protocol = protocol(object, notes);
    let ports = object.text("destPort", notes);
    let icmp = icmp(object, notes);
    let (protocol, ports, (icmp_type, icmp_code)) = (protocol?, ports?, icmp?);
    let all = Match { protocol, ports: None, icmp_type, icmp_code };
    let ranges = ranges(object, "destPort", ports, protocol, notes)?;
    Some(ranges.into_iter().map(|ports| Match { ports, ..all }).collect())
}

/// The source ports and ranges that are listed; a list of none means all.
pub fn source_ports(object: &Object<'_>, notes: &mut Notes) -> Option<Vec<Option<PortRange>>> {
    let text = object.text("sourcePort", notes)?;
    let protocol = if text.is_empty() { None } else { protocol(object, notes)? };
    ranges(object, "sourcePort", text, protocol, notes)
}

/// The ports and ranges of a list; none stands for all.
fn ranges(
    object: &Object<'_>,
    field: &'static str,
    text: &str,
    protocol: Option<Protocol>,
    notes: &mut Notes,
) -> Option<Vec<Option<PortRange>>> {
    if text.is_empty() {
        return Some(vec![None]);
    }
    if !protocol.is_some_and(|protocol| protocol.has_ports() && !protocol.is_icmp()) {
        let what = format!("{field} without a protocol that has ports");
        notes.error(object.place_of(field), what, "send tcp or udp, or no port");
        return None;
    }
    let mut ranges = Vec::new();
    for text in text.split(',').map(str::trim) {
        let Ok(range) = text.replace(':', "-").parse::<PortRange>() else {
            let what = format!("{field} {} is not a port or range", quoted(text));
            notes.error(object.place_of(field), what, "send ports such as 80 or 8000-8010");
            return None;
        };
        ranges.push(Some(range));
    }
    Some(ranges)
}

/// The protocol; none matches all.
fn protocol(object: &Object<'_>, notes: &mut Notes) -> Option<Option<Protocol>> {
    let text = object.text("protocol", notes)?.to_ascii_lowercase();
    if text.is_empty() || text == "all" {
        return Some(None);
    }
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol);
    let found = named.or_else(|| text.parse().ok().map(Protocol));
    if found.is_none() {
        let what = format!("protocol {} is not known", quoted(&text));
        notes.error(object.place_of("protocol"), what, "send a name such as tcp, or a number");
    }
    found.map(Some)
}

/// ICMP type and code.
fn icmp(object: &Object<'_>, notes: &mut Notes) -> Option<(Option<u8>, Option<u8>)> {
    let text = object.text("icmp", notes)?.to_ascii_lowercase();
    if text.is_empty() || text == "any" {
        return Some((None, None));
    }
    let is_icmp = object.text("protocol", notes)?.eq_ignore_ascii_case("icmp");
    let named = ICMP_NAMES.iter().find(|(name, ..)| *name == text);
    let (kind, code) =
        text.split_once('/').map_or((&*text, None), |(kind, code)| (kind, Some(code)));
    let number = || {
        let code = code.map(str::parse).transpose().ok()?;
        Some((Some(kind.parse().ok()?), code))
    };
    let found = named.map(|&(_, kind, code)| (Some(kind), code)).or_else(number);
    if found.is_none() || !is_icmp {
        let what = format!("icmp {} is no ICMP type of protocol icmp", quoted(&text));
        notes.error(object.place_of("icmp"), what, "send a name such as echo-request, or a number");
        return None;
    }
    found
}

/// Addresses, prefixes and ranges; empty means all.
pub fn addresses(object: &Object<'_>, field: &str, notes: &mut Notes) -> Option<Vec<Cidr>> {
    let mut prefixes = Vec::new();
    for text in object.text(field, notes)?.split(',').map(str::trim) {
        if text.is_empty() {
            continue;
        }
        let Some(mut found) = prefixes_of(text) else {
            let what =
                format!("{field} has {}, which is no address, prefix or range", quoted(text));
            notes.error(object.place_of(field), what, "send IPv4 addresses, prefixes or ranges");
            return None;
        };
        prefixes.append(&mut found);
    }
    Some(prefixes)
}

/// iptables' names of ICMP types.
const ICMP_NAMES: [(&str, u8, Option<u8>); 14] = [
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("redirect", 5, None),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("time-exceeded", 11, None),
    ("parameter-problem", 12, None),
    ("timestamp-request", 13, None),
];

/// The fields of a rule.
pub const FIELDS: [&str; 13] = [
    "action",
    "protocol",
    "destPort",
    "sourcePort",
    "sourceIp",
    "destIp",
    "allowStates",
    "tcp",
    "icmp",
    "ruleNumber",
    "enableLog",
    "state",
    "isDefault",
];
