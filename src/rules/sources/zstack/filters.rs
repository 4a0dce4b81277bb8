//! The user's firewall, as native filters of interfaces: behind its rules, what is new and comes in is accepted.

use super::firewall::{RuleList, Way};
use super::firewall_rule::UserRule;
use super::rules::{Translated, nic_of};
use super::state::State;
use crate::rules::diagnostic::{Diagnostic, Severity};
use crate::rules::set::{FilterAction, InterfaceFilter, InterfaceFilterEntry};
use crate::rules::sources::Pending;

/// Adds the filters that `state` says.
pub fn add(state: &State, out: &mut Translated) {
    for (&(mac, way), list) in &state.firewall {
        let Some(filter) = filter(list, way) else { continue };
        let Some(nic) = state.nics.get(&mac) else {
            out.pending.push(Pending {
                what: format!("the firewall of {mac} {}", way.as_str()),
                place: filter.place,
                waits_for: nic_of(mac),
            });
            continue;
        };
        let filter = InterfaceFilter { interface: nic.interface.clone(), ..filter };
        if out.set.interface_filters.iter().any(|other| other.name() == filter.name()) {
            out.faults.push(Diagnostic {
                severity: Severity::Error,
                what: format!("another NIC is {}, too, and has a firewall", nic.interface),
                place: filter.place,
                hint: "name NICs as the kernel does".to_owned(),
            });
            continue;
        }
        out.set.interface_filters.push(filter);
    }
}

/// What a list comes to, of an interface yet to be named; none if it does nothing.
fn filter(list: &RuleList, way: Way) -> Option<InterfaceFilter> {
    let default = list.default.as_ref().filter(|_| way == Way::Out);
    let action = default.map_or(FilterAction::Allow, |default| default.action);
    let rules = list.rules.iter().filter(|(_, rule)| rule.is_on && rule.is_about_new);
    let entries: Vec<_> = rules.flat_map(|(number, rule)| entries(*number, rule)).collect();
    if entries.is_empty() && action == FilterAction::Allow {
        return None;
    }
    let first = entries.first().map(|entry| &entry.place);
    let place = first.or_else(|| list.default.as_ref().map(|default| &default.origin.place))?;
    Some(InterfaceFilter {
        interface: String::new(),
        vlan: 0,
        direction: way.direction(),
        default: action,
        place: place.clone(),
        entries,
    })
}

/// A rule: an entry for each port or range that it lists.
fn entries(number: i64, rule: &UserRule) -> impl Iterator<Item = InterfaceFilterEntry> + use<'_> {
    (1..).zip(&rule.matches).map(move |(place, &matches)| InterfaceFilterEntry {
        id: if place == 1 { number.to_string() } else { format!("{number}.{place}") },
        action: rule.action,
        matches,
        sources: rule.sources.clone(),
        destinations: rule.destinations.clone(),
        place: rule.origin.place.clone(),
    })
}
