//! Static routes. Those through a guest are natwerk's; what lies beyond the public side is reached by the gateways of the
//! public addresses, and policy routes are not done at all: whoever asks for either is told.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::json;

use super::nics::Category;
use super::reader::{Notes, Object, cidr, quoted};
use super::state::{Call, Entry, State};
use crate::rules::set::Cidr;

/// A static route through a guest.
#[derive(Clone, Debug)]
pub struct StaticRoute {
    /// The next hop.
    pub via: Ipv4Addr,
    /// As it was sent.
    pub entry: Entry,
}

/// `/syncroutes`: exactly these.
pub fn sync(state: &mut State, call: &mut Call<'_>) {
    call.know(&["routes"]);
    if call.body.find("routes").is_none() {
        return;
    }
    let mut routes: BTreeMap<Cidr, (i64, StaticRoute)> = BTreeMap::new();
    for node in call.entries("routes") {
        let Some(object) = Object::open(node, "a route", &FIELDS, &mut call.notes) else {
            continue;
        };
        let Some((destination, distance, route)) = read(state, &object, call) else { continue };
        // Of two routes to one destination the nearer counts.
        match routes.get(&destination) {
            Some((nearer, _)) if *nearer <= distance => {}
            _ => {
                routes.insert(destination, (distance, route));
            }
        }
    }
    state.routes = routes.into_iter().map(|(to, (_, route))| (to, route)).collect();
}

fn read(
    state: &State,
    object: &Object<'_>,
    call: &mut Call<'_>,
) -> Option<(Cidr, i64, StaticRoute)> {
    let notes = &mut call.notes;
    let text = object.required_text("destination", notes);
    let target = object.address_or_none("target", notes);
    let distance = object.integer("distance", notes);
    let (text, target, distance) = (text?, target?, distance?);
    let Some(destination) = cidr(text) else {
        let what = format!("destination {} is not an IPv4 prefix", quoted(text));
        notes.error(object.place_of("destination"), what, "send a prefix such as 172.20.0.0/16");
        return None;
    };
    let Some(via) = target else {
        let what = format!("natwerk does not do the blackhole route to {destination}");
        notes.error(object.at(), what, "deny the destination with a firewall rule");
        return None;
    };
    if !is_behind_a_guest(state, via) {
        refuse_public(destination, via, object, notes);
        return None;
    }
    Some((destination, distance, StaticRoute { via, entry: call.entry(object) }))
}

fn is_behind_a_guest(state: &State, via: Ipv4Addr) -> bool {
    let mut private = state.nics.values().filter(|nic| nic.category == Category::Private);
    private.any(|nic| nic.segment().is_some_and(|segment| segment.contains(via)))
}

fn refuse_public(destination: Cidr, via: Ipv4Addr, object: &Object<'_>, notes: &mut Notes) {
    let what =
        format!("natwerk does not route {destination} to {via}, which is in no private network");
    let hint = "beyond the public side, the gateways of the public addresses are used";
    notes.error(object.place_of("target"), what, hint);
}

/// `/getroutes`: the static routes, in words.
pub fn list(state: &State, call: &mut Call<'_>) {
    let lines = state.routes.iter().map(|(to, route)| format!("S>* {to} via {}\n", route.via));
    call.reply = Some(json!({ "rawRoutes": lines.collect::<String>() }));
}

/// `/policyroute/sync`: one without rules is done.
pub fn sync_policy(call: &mut Call<'_>) {
    call.know(&["ruleSets", "rules", "tableNumbers", "routes", "refs", "markConntrack"]);
    for node in call.entries("rules") {
        let notes = &mut call.notes;
        let Some(object) = Object::open(node, "a policy route", &POLICY_FIELDS, notes) else {
            continue;
        };
        let number = object.integer("ruleNumber", notes);
        let set = object.text("ruleSetName", notes);
        let (Some(number), Some(set)) = (number, set) else { continue };
        if object.text("state", notes) == Some("disable") {
            continue;
        }
        let what = format!("natwerk does not do policy routes: rule {number} of {}", quoted(set));
        notes.error(object.at(), what, "delete the policy route");
    }
}

const FIELDS: [&str; 3] = ["destination", "target", "distance"];

const POLICY_FIELDS: [&str; 9] = [
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
