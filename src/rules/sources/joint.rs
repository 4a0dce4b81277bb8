//! Translated rules beside native ones: looked at together, each faulty entry left out alone.

use std::collections::HashSet;
use std::sync::Arc;

use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::native::Draft;
use crate::rules::set::RuleSet;

/// Leaves out of `draft`, entry by entry, what `check` finds wrong with entries of the files `translated`. Returns
/// the faults of what was left out, then what is still to be said of the rest.
pub fn settle(
    draft: &mut Draft,
    translated: &HashSet<Arc<str>>,
    check: impl Fn(&Draft) -> Vec<Diagnostic>,
) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    let mut left_out = Vec::new();
    loop {
        let found = check(draft);
        let is_of_entry = |fault: &Diagnostic| {
            fault.severity == Severity::Error && translated.contains(&fault.place.file)
        };
        let places: HashSet<Place> = found
            .iter()
            .filter(|fault| is_of_entry(fault))
            .map(|fault| fault.place.clone())
            .collect();
        // What one entry defined, others may miss now: they are told in the next round.
        if places.is_empty() || !leave_out(&mut draft.set, &places) {
            return (left_out, found);
        }
        left_out.extend(found.into_iter().filter(is_of_entry));
    }
}

/// Puts the rules of `other` behind those of `set`.
pub fn append(set: &mut RuleSet, other: RuleSet) {
    let RuleSet {
        public_ips,
        public_ipv6,
        address_limits,
        networks,
        egress_rules,
        firewall_rules,
        ipv6_firewall_rules,
        ipv6_routes,
        interface_filters,
        port_forwards,
        static_nats,
        load_balancers,
        network_acls,
        routes,
        policy_routes,
        local_services,
    } = other;
    set.public_ips.extend(public_ips);
    set.public_ipv6.extend(public_ipv6);
    set.address_limits.extend(address_limits);
    set.networks.extend(networks);
    set.egress_rules.extend(egress_rules);
    set.firewall_rules.extend(firewall_rules);
    set.ipv6_firewall_rules.extend(ipv6_firewall_rules);
    set.ipv6_routes.extend(ipv6_routes);
    set.interface_filters.extend(interface_filters);
    set.port_forwards.extend(port_forwards);
    set.static_nats.extend(static_nats);
    set.load_balancers.extend(load_balancers);
    set.network_acls.extend(network_acls);
    set.routes.extend(routes);
    set.policy_routes.extend(policy_routes);
    set.local_services.extend(local_services);
}

/// Leaves out everything that was written at one of `places`. Returns whether there was anything.
fn leave_out(set: &mut RuleSet, places: &HashSet<Place>) -> bool {
    let RuleSet {
        public_ips,
        public_ipv6,
        address_limits,
        networks,
        egress_rules,
        firewall_rules,
        ipv6_firewall_rules,
        ipv6_routes,
        interface_filters,
        port_forwards,
        static_nats,
        load_balancers,
        network_acls,
        routes,
        policy_routes,
        local_services,
    } = set;
    let mut changed = retain(public_ips, places, |rule| &rule.place);
    changed |= retain(public_ipv6, places, |rule| &rule.place);
    changed |= retain(address_limits, places, |rule| &rule.place);
    changed |= retain(networks, places, |rule| &rule.place);
    changed |= retain(egress_rules, places, |rule| &rule.place);
    changed |= retain(firewall_rules, places, |rule| &rule.place);
    changed |= retain(ipv6_firewall_rules, places, |rule| &rule.place);
    changed |= retain(ipv6_routes, places, |rule| &rule.place);
    changed |= retain(interface_filters, places, |rule| &rule.place);
    for filter in interface_filters {
        changed |= retain(&mut filter.entries, places, |entry| &entry.place);
    }
    changed |= retain(port_forwards, places, |rule| &rule.place);
    changed |= retain(static_nats, places, |rule| &rule.place);
    changed |= retain(load_balancers, places, |rule| &rule.place);
    changed |= retain(network_acls, places, |rule| &rule.place);
    for acl in network_acls {
        changed |= retain(&mut acl.entries, places, |entry| &entry.place);
    }
    changed |= retain(routes, places, |rule| &rule.place);
    changed |= retain(policy_routes, places, |rule| &rule.place);
    changed |= retain(local_services, places, |rule| &rule.place);
    changed
}

fn retain<R>(rules: &mut Vec<R>, places: &HashSet<Place>, place: impl Fn(&R) -> &Place) -> bool {
    let before = rules.len();
    rules.retain(|rule| !places.contains(place(rule)));
    rules.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::check;
    use crate::rules::testing::parse_json;

    const NETWORK: &str = r#"{"version": 1,
        "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2"}],
        "networks": [{"name": "a", "interface": "eth0", "cidr": "10.1.1.0/24",
                      "gateway": "10.1.1.1"}]}"#;

    fn forward(id: &str, network: &str, guest: &str) -> String {
        format!(
            r#"{{"id": "{id}", "public_ip": "203.0.113.10", "protocol": "tcp", "public_ports": "22",
                "network": "{network}", "guest_ip": "{guest}", "guest_ports": "22"}}"#
        )
    }

    /// `native` and `translated` together: the ids of the forwards that stay, what was said of those
    /// left out, and what is left to be said as an error.
    fn joined(native: &str, translated: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let mut draft = Draft::default();
        append(&mut draft.set, parse_json("native.json", native));
        append(&mut draft.set, parse_json("bag.json", translated));
        let sources = [("native.json", native), ("bag.json", translated)]
            .map(|(name, text)| crate::rules::source::Source::new(name, text.to_owned()));
        let files = HashSet::from(["bag.json".into()]);
        let (left_out, found) =
            settle(&mut draft, &files, |draft| check::check(draft, &sources, None));
        let said = |faults: &[Diagnostic]| {
            let errors = faults.iter().filter(|fault| fault.severity == Severity::Error);
            errors.map(|fault| fault.what.clone()).collect()
        };
        let ids = draft.set.port_forwards.iter().map(|rule| rule.id.clone()).collect();
        (ids, said(&left_out), said(&found))
    }

    #[test]
    fn a_fault_of_a_translated_entry_costs_that_entry_alone() {
        let forwards = [
            forward("good", "a", "10.1.1.5"),
            forward("outside", "a", "10.9.9.9").replace("\"22\",", "\"23\","),
        ];
        let translated = format!("{{\"version\": 1, \"port_forwards\": [{}]}}", forwards.join(","));
        let (ids, left_out, found) = joined(NETWORK, &translated);
        assert_eq!(ids, ["good"]);
        assert_eq!(left_out, ["guest 10.9.9.9 is not in 10.1.1.0/24 of network \"a\""]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn what_a_native_file_claims_a_control_plane_does_not_get() {
        let native = NETWORK.replacen(
            '{',
            &format!("{{\"port_forwards\": [{}],", forward("native", "a", "10.1.1.5")),
            1,
        );
        let translated = format!(
            "{{\"version\": 1, \"port_forwards\": [{}]}}",
            forward("late", "a", "10.1.1.6")
        );
        let (ids, left_out, found) = joined(&native, &translated);
        assert_eq!(ids, ["native"]);
        assert!(left_out[0].contains("already claimed"), "{left_out:?}");
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn what_a_faulty_entry_would_have_defined_is_missed_in_the_next_round() {
        let network = r#""networks": [{"name": "b", "interface": "eth3", "cidr": "10.1.1.0/24",
            "gateway": "10.1.2.1"}]"#;
        let translated = format!(
            "{{\"version\": 1, {network}, \"port_forwards\": [{}]}}",
            forward("b", "b", "10.1.1.6")
        );
        let (ids, left_out, found) = joined(NETWORK, &translated);
        assert!(ids.is_empty());
        assert_eq!(
            left_out,
            ["gateway 10.1.2.1 is not in 10.1.1.0/24", "network \"b\" is not defined"]
        );
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn faults_of_native_rules_are_nobody_elses() {
        let native = NETWORK.replace("10.1.1.1\"", "10.9.9.9\"");
        let (_, left_out, found) = joined(&native, "{\"version\": 1}");
        assert!(left_out.is_empty());
        assert_eq!(found.len(), 1);
    }
}
