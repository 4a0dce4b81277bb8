//! A state as the requests that lead to it, one entry a line: what the HTTP front keeps over restarts, and what messages
//! about its rules point into.

use std::fmt::Write;

use serde_json::json;

use super::firewall::{ListKey, RuleList};
use super::firewall_rule;
use super::nics::Nic;
use super::policy_routes::PolicyRoutes;
use super::state::{Entry, State};

/// The requests that lead to `state`, from a router that only has booted.
#[must_use]
pub fn requests(state: &State) -> String {
    let mut out = String::new();
    for entry in state.removed_nics.values() {
        line(&mut out, "/removenic", "nics", entry, "");
    }
    for nic in state.nics.values() {
        match nic.is_default_route {
            true => single(&mut out, "/changeDefaultNic", "newNic", &nic.entry),
            false => line(&mut out, "/configurenic", "nics", &without_default_route(nic), ""),
        }
        if let Some(address) = &nic.address_entry {
            line(&mut out, "/createvip", "nicIps", address, "");
        }
    }
    for vip in state.vips.values() {
        line(&mut out, "/createvip", "vips", &vip.entry, "");
    }
    for limit in state.limits.values() {
        line(&mut out, "/setvipqos", "vipQosSettings", &limit.entry, "");
    }
    for snat in state.snats.values() {
        let more = if snat.is_on { ",\"enabled\":true" } else { ",\"enabled\":false" };
        line(&mut out, "/setsnatservicestate", "snats", &snat.entry, more);
    }
    for eip in state.eips.values() {
        single(&mut out, "/createeip", "eip", &eip.entry);
    }
    for (_, forward) in state.forwards.iter() {
        line(&mut out, "/createportforwarding", "rules", &forward.entry, "");
    }
    for listener in state.listeners.values() {
        line(&mut out, "/lb/refresh", "lbs", &listener.entry, "");
    }
    for (key, list) in &state.firewall {
        firewall(&mut out, *key, list);
    }
    if !state.routes.is_empty() {
        let entries: Vec<_> =
            state.routes.values().map(|route| route.entry.json.as_str()).collect();
        write_line(&mut out, "/syncroutes", &format!("{{\"routes\":[{}]}}", entries.join(",")));
    }
    policy_routes(&mut out, &state.policy_routes);
    for eip in state.flat_eips.values() {
        single(&mut out, "/flatnetworkprovider/eip/apply", "eip", &eip.entry);
    }
    out
}

/// What is known of a NIC that has not the default route, whatever it was sent with: another one took it since.
fn without_default_route(nic: &Nic) -> Entry {
    let json = nic.entry.json.replace("\"isDefaultRoute\":true", "\"isDefaultRoute\":false");
    Entry { json, ..nic.entry.clone() }
}

/// One request: whatever comes later would replace it.
fn policy_routes(out: &mut String, policies: &PolicyRoutes) {
    if policies.sets.is_empty() && policies.tables.is_empty() {
        return;
    }
    let list = |entries: Vec<&Entry>| {
        entries.into_iter().map(|entry| entry.json.as_str()).collect::<Vec<_>>().join(",")
    };
    let sets = list(policies.sets.values().map(|(_, entry)| entry).collect());
    let rules = list(policies.rules.values().map(|rule| &rule.entry).collect());
    let routes = policies.tables.values().flat_map(|table| table.values());
    let routes = list(routes.map(|route| &route.entry).collect());
    let references = list(policies.references.iter().map(|(_, _, entry)| entry).collect());
    let body = format!(
        "{{\"ruleSets\":[{sets}],\"rules\":[{rules}],\"routes\":[{routes}],\"refs\":[{references}]}}"
    );
    write_line(out, "/policyroute/sync", &body);
}

fn firewall(out: &mut String, (mac, way): ListKey, list: &RuleList) {
    let of = format!("\"mac\":\"{mac}\",\"forward\":\"{}\"", way.as_str());
    if let Some((action, _)) = &list.default {
        let action = firewall_rule::word(*action);
        write_line(out, "/fw/update/ruleSet", &format!("{{{of},\"actionType\":\"{action}\"}}"));
    }
    for rule in list.rules.values() {
        let state = if rule.is_on { "enable" } else { "disable" };
        let rule = &rule.entry.json;
        let body = format!("{{\"rule\":{rule},\"state\":\"{state}\",{of}}}");
        write_line(out, "/fw/changeState/rule", &body);
    }
}

/// A request whose list `field` has this one entry.
fn line(out: &mut String, path: &str, field: &str, entry: &Entry, more: &str) {
    write_line(out, path, &format!("{{\"{field}\":[{}]{more}}}", entry.json));
}

/// A request whose `field` is this entry.
fn single(out: &mut String, path: &str, field: &str, entry: &Entry) {
    write_line(out, path, &format!("{{\"{field}\":{}}}", entry.json));
}

fn write_line(out: &mut String, path: &str, body: &str) {
    let request = json!({ "method": "POST", "path": path, "body": body });
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{request}");
}
