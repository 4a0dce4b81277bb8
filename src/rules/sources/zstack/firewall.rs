//! The user's firewall: rules by number for what comes in by a NIC or leaves by it. They see packets behind the
//! translation of destinations and before that of sources, and only new sessions ask them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::firewall_rule::{self, FIELDS, Rule, RuleWords, UserRule};
use super::nics;
use super::reader::{Object, quoted};
use super::state::{Call, Origin, State};
use crate::flow::Mac;
use crate::rules::set::{FilterAction, InterfaceDirection};

/// The user's rules of a NIC, one way.
#[derive(Clone, Debug, Default)]
pub struct RuleList {
    /// What happens to what no rule matches, if it was said. It matters for what leaves: what comes in and is new is
    /// accepted before.
    pub default: Option<ListDefault>,
    /// The rules by number.
    pub rules: BTreeMap<i64, UserRule>,
}

/// What happens to what no rule of a list matches.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListDefault {
    /// What happens to it.
    pub action: FilterAction,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// Of which NIC, and which way.
pub type ListKey = (Mac, Way);

/// Which way a list looks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// What comes in.
    In,
    /// What leaves.
    Out,
}

impl Way {
    /// As ZStack calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    /// As native rules call it.
    pub const fn direction(self) -> InterfaceDirection {
        match self {
            Self::In => InterfaceDirection::In,
            Self::Out => InterfaceDirection::Out,
        }
    }
}

/// Answers the command that `path` names. Returns whether there is one.
pub fn run(state: &mut State, path: &str, call: &mut Call<'_>) -> bool {
    match path {
        "/fw/getConfig" => tell(state, call),
        "/fw/create/rule" => one(state, call, add),
        "/fw/delete/rule" => one(state, call, delete),
        "/fw/attach/ruleSet" => one(state, call, set_default),
        "/fw/changeState/rule" => change_state(state, call),
        "/fw/update/ruleSet" => update(state, call),
        "/fw/apply/rule" => apply(state, call),
        "/fw/apply/ruleSet/changes" => change(state, call),
        "/fw/delete/firewall" => state.firewall.clear(),
        "/fw/create/ruleSet" | "/fw/delete/ruleSet" | "/fw/detach/ruleSet" => {
            call.notes.error(call.body.at(), "this api is not supported", "apply rules instead");
        }
        _ => return false,
    }
    true
}

/// A rule set that belongs to a NIC and a way.
struct Reference<'a> {
    mac: Mac,
    /// None for the router's own traffic.
    way: Option<Way>,
    /// The rule set itself.
    set: Option<Object<'a>>,
}

type Act = fn(&mut State, &Reference<'_>, &mut Call<'_>);

/// A command about one rule set.
fn one(state: &mut State, call: &mut Call<'_>, act: Act) {
    call.know(&["ref"]);
    let Some(node) = call.body.find("ref") else {
        call.notes.error(call.body.at(), "the command lacks ref", "send it");
        return;
    };
    let Some(object) = Object::open(node, "a reference", &REFERENCE, &mut call.notes) else {
        return;
    };
    if let Some(reference) = reference(state, &object, call) {
        act(state, &reference, call);
    }
}

/// `/fw/apply/rule`: exactly these rules, on all NICs.
fn apply(state: &mut State, call: &mut Call<'_>) {
    call.know(&["refs"]);
    if call.body.find("refs").is_none() {
        return;
    }
    state.firewall.clear();
    for node in call.entries("refs") {
        let object = Object::open(node, "a reference", &REFERENCE, &mut call.notes);
        if let Some(reference) = object.and_then(|object| reference(state, &object, call)) {
            set_default(state, &reference, call);
            add(state, &reference, call);
        }
    }
}

/// `/fw/apply/ruleSet/changes`: some rules go and others come, for each rule set.
fn change(state: &mut State, call: &mut Call<'_>) {
    call.know(&["refs", "deleteRules", "newRules"]);
    for node in call.entries("refs") {
        let object = Object::open(node, "a reference", &REFERENCE, &mut call.notes);
        let Some(reference) = object.and_then(|object| reference(state, &object, call)) else {
            continue;
        };
        for node in call.entries("deleteRules") {
            remove(state, &reference, Object::open(node, RULE, &FIELDS, &mut call.notes), call);
        }
        for node in call.entries("newRules") {
            insert(state, &reference, Object::open(node, RULE, &FIELDS, &mut call.notes), call);
        }
    }
}

/// `/fw/changeState/rule`.
fn change_state(state: &mut State, call: &mut Call<'_>) {
    call.know(&["rule", "state", "mac", "forward"]);
    let body = call.body;
    let is_on = firewall_rule::is_on(&body, &mut call.notes);
    let reference = reference(state, &body, call);
    let Some(node) = body.find("rule") else {
        call.notes.error(body.at(), "the command lacks rule", "send it");
        return;
    };
    let (Some(is_on), Some(reference)) = (is_on, reference) else { return };
    let object = Object::open(node, RULE, &FIELDS, &mut call.notes);
    let number = object.and_then(|object| object.integer("ruleNumber", &mut call.notes));
    insert(state, &reference, object, call);
    if let (Some(number), Some(way)) = (number, reference.way)
        && let Some(list) = state.firewall.get_mut(&(reference.mac, way))
        && let Some(rule) = list.rules.get_mut(&number)
    {
        rule.is_on = is_on;
    }
}

/// `/fw/update/ruleSet`: what happens to what no rule matches.
fn update(state: &mut State, call: &mut Call<'_>) {
    call.know(&["mac", "forward", "actionType"]);
    let body = call.body;
    if let Some(reference) = reference(state, &body, call) {
        set_default(state, &Reference { set: Some(body), ..reference }, call);
    }
}

fn reference<'a>(state: &State, object: &Object<'a>, call: &mut Call<'_>) -> Option<Reference<'a>> {
    let notes = &mut call.notes;
    let mac = object.mac("mac", notes);
    let way = match object.required_text("forward", notes) {
        Some("in") => Some(Some(Way::In)),
        Some("out") => Some(Some(Way::Out)),
        Some("local") => Some(None),
        Some(other) => {
            let what = format!("forward {} is neither in, out nor local", quoted(other));
            notes.error(object.place_of("forward"), what, "send one of the three");
            None
        }
        None => None,
    };
    let set = object
        .find("ruleSetInfo")
        .and_then(|node| Object::open(node, "a rule set", &RULE_SET, notes));
    let mac = mac?;
    nics::known(state, mac, object, "mac", notes)?;
    Some(Reference { mac, way: way?, set })
}

fn set_default(state: &mut State, reference: &Reference<'_>, call: &mut Call<'_>) {
    let Some(set) = reference.set else { return };
    let Some(action) = firewall_rule::action(&set, "actionType", &mut call.notes) else { return };
    let Some(way) = reference.way else { return };
    let origin = call.origin(&set);
    let list = state.firewall.entry((reference.mac, way)).or_default();
    list.default = Some(ListDefault { action, origin });
}

fn add(state: &mut State, reference: &Reference<'_>, call: &mut Call<'_>) {
    let Some(set) = reference.set else { return };
    for node in set.list("rules", &mut call.notes).unwrap_or_default() {
        insert(state, reference, Object::open(node, RULE, &FIELDS, &mut call.notes), call);
    }
}

fn delete(state: &mut State, reference: &Reference<'_>, call: &mut Call<'_>) {
    let Some(set) = reference.set else { return };
    for node in set.list("rules", &mut call.notes).unwrap_or_default() {
        remove(state, reference, Object::open(node, RULE, &FIELDS, &mut call.notes), call);
    }
}

fn insert(
    state: &mut State,
    reference: &Reference<'_>,
    object: Option<Object<'_>>,
    call: &mut Call<'_>,
) {
    let Some(object) = object else { return };
    let Some(Rule { number, rule }) = firewall_rule::read(&object, call) else { return };
    if firewall_rule::is_of_system(number, &rule) {
        return;
    }
    let Some(way) = reference.way else {
        let what =
            format!("natwerk does not filter the router's own traffic: rule {number} of local");
        call.notes.error(object.at(), what, "have the router's kernel do it");
        return;
    };
    state.firewall.entry((reference.mac, way)).or_default().rules.insert(number, rule);
}

fn remove(
    state: &mut State,
    reference: &Reference<'_>,
    object: Option<Object<'_>>,
    call: &mut Call<'_>,
) {
    let number = object.and_then(|object| object.integer("ruleNumber", &mut call.notes));
    if let (Some(number), Some(way)) = (number, reference.way)
        && let Some(list) = state.firewall.get_mut(&(reference.mac, way))
    {
        list.rules.remove(&number);
    }
}

/// `/fw/getConfig`: the rule sets of NICs as ZStack's own router has them, its own rules among them.
fn tell(state: &State, call: &mut Call<'_>) {
    call.know(&["nicInfos"]);
    let mut refs = Vec::new();
    for node in call.entries("nicInfos") {
        let Some(object) = Object::open(node, "a NIC", &["mac", "nicType"], &mut call.notes) else {
            continue;
        };
        let Some(mac) = object.mac("mac", &mut call.notes) else { continue };
        let Some(nic) = nics::known(state, mac, &object, "mac", &mut call.notes) else { continue };
        let name = &nic.interface;
        let own = nic.address.map(|(address, _)| address.to_string()).unwrap_or_default();
        let local = json!([
            default_rule(1, "accept", "related,established", ("", "", &own)),
            default_rule(2, "accept", "", ("ICMP", "", &own)),
            default_rule(3, "reject", "", ("TCP", "22", &own)),
        ]);
        let sets = [
            ("in", told(state, (mac, Way::In)), "reject"),
            ("local", local, "reject"),
            ("out", told(state, (mac, Way::Out)), "accept"),
        ];
        for (forward, rules, default) in sets {
            let way = if forward == "in" { Way::In } else { Way::Out };
            let said = state.firewall.get(&(mac, way)).filter(|_| forward != "local");
            let said =
                said.and_then(|list| Some(firewall_rule::word(list.default.as_ref()?.action)));
            refs.push(json!({
                "mac": mac.to_string(),
                "forward": forward,
                "ruleSetInfo": {
                    "name": format!("{name}.{forward}"),
                    "actionType": said.unwrap_or(default),
                    "enableDefaultLog": false,
                    "rules": rules,
                },
            }));
        }
    }
    call.reply = Some(json!({ "refs": refs }));
}

/// The rules of a list: the user's, and behind them what lets new sessions in.
fn told(state: &State, key: ListKey) -> Value {
    let rules = state.firewall.get(&key).into_iter().flat_map(|list| list.rules.values());
    let mut told: Vec<RuleWords> =
        rules.filter(|rule| rule.is_on).map(|rule| RuleWords::clone(&rule.words)).collect();
    if key.1 == Way::In {
        told.push(default_rule(4000, "accept", "related,established", ("", "", "")));
        told.push(default_rule(9999, "accept", "new", ("", "", "")));
    }
    json!(told)
}

fn default_rule(
    number: i64,
    action: &str,
    states: &str,
    (protocol, port, destination): (&str, &str, &str),
) -> RuleWords {
    RuleWords {
        action: action.to_owned(),
        protocol: protocol.to_owned(),
        dest_port: port.to_owned(),
        dest_ip: destination.to_owned(),
        allow_states: states.to_owned(),
        rule_number: number,
        state: "enable".to_owned(),
        is_default: true,
        ..RuleWords::default()
    }
}

const RULE: &str = "a firewall rule";

const REFERENCE: [&str; 3] = ["mac", "forward", "ruleSetInfo"];

const RULE_SET: [&str; 4] = ["name", "actionType", "enableDefaultLog", "rules"];
