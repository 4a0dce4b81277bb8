//! Policy routes: rule sets hang on NICs, their rules name a table for what they match, and tables have routes.
//!
//! Rule sets of the system send answers back by the NIC that a session came in by, and what leaves from a public
//! address by that address's gateway: natwerk does both without being told, so they are taken and need nothing.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::firewall_rule;
use super::nics;
use super::reader::{Notes, Object, cidr, quoted};
use super::state::{Call, Origin, State};
use crate::flow::Mac;
use crate::rules::set::{Cidr, Match, PortRange};

/// All policy routes.
#[derive(Clone, Debug, Default)]
pub struct PolicyRoutes {
    /// The rule sets.
    pub sets: BTreeMap<String, PolicySet>,
    /// The rules by set and number.
    pub rules: BTreeMap<(String, i64), PolicyRule>,
    /// The routes by table, the nearest of those to one destination.
    pub routes: BTreeMap<TableKey, TableRoute>,
    /// Which sets hang on which NICs, by the number that orders them.
    pub references: BTreeMap<usize, PolicyReference>,
}

/// The table, and the destination.
pub type TableKey = (i64, Cidr);

/// A rule set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    /// Whether it is the system's.
    pub is_system: bool,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// That a rule set hangs on a NIC.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyReference {
    /// The rule set.
    pub set: String,
    /// The NIC.
    pub mac: Mac,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// A rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// The transport parts that it matches, each with the source ports.
    pub matches: Vec<(Match, Option<PortRange>)>,
    /// Sources; empty means all.
    pub sources: Vec<Cidr>,
    /// Destinations; empty means all.
    pub destinations: Vec<Cidr>,
    /// The table that decides.
    pub table: i64,
    /// Whether it is enabled.
    pub is_on: bool,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// A route of a table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TableRoute {
    /// The next hop.
    pub via: Ipv4Addr,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// `/policyroute/sync`: exactly these.
pub fn sync(state: &mut State, call: &mut Call<'_>) {
    call.know(&["ruleSets", "rules", "tableNumbers", "routes", "refs", "markConntrack"]);
    // Which answers it marks is nothing to sessions: they go back the way they came.
    call.body.boolean("markConntrack", &mut call.notes);
    let mut policies = PolicyRoutes::default();
    for node in call.entries("ruleSets") {
        let notes = &mut call.notes;
        let Some(object) = Object::open(node, "a rule set", &SET_FIELDS, notes) else { continue };
        let name = nics::name(&object, "ruleSetName", notes);
        let is_system = object.boolean("system", notes);
        if let (Some(name), Some(is_system)) = (name, is_system) {
            let origin = call.origin(&object);
            policies.sets.insert(name.to_owned(), PolicySet { is_system, origin });
        }
    }
    let mut distances = BTreeMap::new();
    for node in call.entries("routes") {
        let object = Object::open(node, "a route of a table", &ROUTE_FIELDS, &mut call.notes);
        if let Some((key, distance, route)) =
            object.and_then(|object| read_route(state, &object, call))
            && distances.get(&key).is_none_or(|nearest| distance < *nearest)
        {
            distances.insert(key, distance);
            policies.routes.insert(key, route);
        }
    }
    for node in call.entries("rules") {
        let object = Object::open(node, "a policy route", &RULE_FIELDS, &mut call.notes);
        if let Some(object) = object
            && let Some((key, rule)) = read_rule(&policies, &object, call)
        {
            policies.rules.insert(key, rule);
        }
    }
    for node in call.entries("refs") {
        let object = Object::open(node, "a rule set's NIC", &REF_FIELDS, &mut call.notes);
        if let Some(object) = object
            && let Some((set, mac)) = read_reference(state, &policies, &object, &mut call.notes)
            // Once is enough.
            && !policies.references.values().any(|known| known.set == set && known.mac == mac)
        {
            let origin = call.origin(&object);
            let number = policies.references.len();
            policies.references.insert(number, PolicyReference { set, mac, origin });
        }
    }
    state.policy_routes = policies;
}

fn read_route(
    state: &State,
    object: &Object<'_>,
    call: &mut Call<'_>,
) -> Option<(TableKey, i64, TableRoute)> {
    let notes = &mut call.notes;
    let table = object.integer("tableNumber", notes);
    let text = object.required_text("destinationCidr", notes);
    let via = object.address("nextHopIp", notes);
    let distance = object.integer("distance", notes);
    if object.text("outNicMic", notes).is_some_and(|text| !text.is_empty()) {
        let mac = object.mac("outNicMic", notes)?;
        nics::known(state, mac, object, "outNicMic", notes)?;
    }
    let (table, text, via, distance) = (table?, text?, via?, distance?);
    let Some(destination) = cidr(text) else {
        let what = format!("destinationCidr {} is not an IPv4 prefix", quoted(text));
        notes.error(object.place_of("destinationCidr"), what, "send a prefix such as 0.0.0.0/0");
        return None;
    };
    Some(((table, destination), distance, TableRoute { via, origin: call.origin(object) }))
}

fn read_rule(
    policies: &PolicyRoutes,
    object: &Object<'_>,
    call: &mut Call<'_>,
) -> Option<((String, i64), PolicyRule)> {
    let notes = &mut call.notes;
    let set = set_of(policies, object, notes);
    let number = object.integer("ruleNumber", notes);
    let table = object.integer("tableNumber", notes);
    let is_on = firewall_rule::is_on(object, notes);
    let matches = firewall_rule::matches(object, notes);
    let source_ports = firewall_rule::source_ports(object, notes);
    let sources = firewall_rule::addresses(object, "sourceIp", notes);
    let destinations = firewall_rule::addresses(object, "destIp", notes);
    let (matches, source_ports) = (matches?, source_ports?);
    let each = |it: Match| source_ports.iter().map(move |ports| (it, *ports));
    let rule = PolicyRule {
        matches: matches.into_iter().flat_map(each).collect(),
        sources: sources?,
        destinations: destinations?,
        table: table?,
        is_on: is_on?,
        origin: call.origin(object),
    };
    Some(((set?, number?), rule))
}

fn read_reference(
    state: &State,
    policies: &PolicyRoutes,
    object: &Object<'_>,
    notes: &mut Notes,
) -> Option<(String, Mac)> {
    let set = set_of(policies, object, notes);
    let mac = object.mac("mac", notes)?;
    nics::known(state, mac, object, "mac", notes)?;
    Some((set?, mac))
}

/// The rule set that an entry names.
fn set_of(policies: &PolicyRoutes, object: &Object<'_>, notes: &mut Notes) -> Option<String> {
    let name = object.required_text("ruleSetName", notes)?;
    if !policies.sets.contains_key(name) {
        let what = format!("there is no rule set {}", quoted(name));
        notes.error(object.place_of("ruleSetName"), what, "send it with ruleSets");
        return None;
    }
    Some(name.to_owned())
}

const SET_FIELDS: [&str; 2] = ["ruleSetName", "system"];

const REF_FIELDS: [&str; 2] = ["ruleSetName", "mac"];

const ROUTE_FIELDS: [&str; 5] =
    ["tableNumber", "destinationCidr", "nextHopIp", "outNicMic", "distance"];

const RULE_FIELDS: [&str; 9] = [
    "ruleSetName",
    "ruleNumber",
    "destPort",
    "protocol",
    "sourcePort",
    "sourceIp",
    "destIp",
    "state",
    "tableNumber",
];
