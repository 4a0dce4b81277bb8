//! Rules in order, of which the first match decides: one that earlier ones leave nothing can never match.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::shadow::Shadow;
use super::{Checker, Spot};
use crate::rules::diagnostic::Place;
use crate::rules::native::{EGRESS_RULE, FIREWALL_RULE};
use crate::rules::set::{Action, FilterAction, Match, Prefixes};

/// Firewall rules of one address, egress rules of one network, entries of one interface's filter.
pub(super) fn check_order(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let firewall = set.firewall_rules.iter().enumerate().map(|(index, rule)| {
        let spot: Spot<'_> = (&spots.firewall_rules, &FIREWALL_RULE, index);
        let public_ip = rule.public_ip;
        let rule = Ordered {
            name: format!("firewall rule \"{}\"", rule.id),
            at: checker.at(spot, "id", &rule.place),
            place: &rule.place,
            action: rule.action,
            matches: &rule.matches,
            by: rule.sources.clone().into(),
            is_about_all_else: true,
        };
        (public_ip, rule)
    });
    let mut found = Vec::new();
    shadowed(firewall.collect(), &mut found);
    let egress = set.egress_rules.iter().enumerate().map(|(index, rule)| {
        let spot: Spot<'_> = (&spots.egress_rules, &EGRESS_RULE, index);
        let ordered = Ordered {
            name: format!("egress rule \"{}\"", rule.id),
            at: checker.at(spot, "id", &rule.place),
            place: &rule.place,
            action: rule.action,
            matches: &rule.matches,
            by: rule.destinations.clone(),
            is_about_all_else: rule.sources.is_empty(),
        };
        (rule.network.as_str(), ordered)
    });
    shadowed(egress.collect(), &mut found);
    let entries = set.interface_filters.iter().enumerate().flat_map(|(index, filter)| {
        filter.entries.iter().map(move |entry| {
            // What is refused in silence and what is told are not the same.
            let told = entry.action == FilterAction::Reject;
            let ordered = Ordered {
                name: format!("entry \"{}\" of {}", entry.id, filter.name()),
                at: entry.place.clone(),
                place: &entry.place,
                action: entry.action.action(),
                matches: &entry.matches,
                by: entry.destinations.clone().into(),
                is_about_all_else: entry.sources.is_empty() && !told,
            };
            (index, ordered)
        })
    });
    shadowed(entries.collect(), &mut found);
    for (at, what, hint) in found {
        checker.warning(at, what, hint);
    }
}

/// A rule among others in order.
struct Ordered<'a> {
    name: String,
    at: Place,
    place: &'a Place,
    action: Action,
    matches: &'a Match,
    /// What the rules are compared by, beside their services.
    by: Prefixes,
    /// Whether it is about all of what they are not compared by: else it covers no other rule.
    is_about_all_else: bool,
}

type Finding = (Place, String, &'static str);

/// The rules that can never match, of those with the same owner.
fn shadowed<K: Eq + std::hash::Hash + Copy>(
    rules: Vec<(K, Ordered<'_>)>,
    found: &mut Vec<Finding>,
) {
    let mut shadows: HashMap<K, (Shadow<Ipv4Addr>, Shadow<Ipv6Addr>), ahash::RandomState> =
        HashMap::default();
    for (index, (owner, rule)) in rules.iter().enumerate() {
        let shadow = shadows.entry(*owner).or_default();
        let covers = rule.is_about_all_else;
        let ipv4 = rule.by.family().map(|own| shadow.0.ask(index, rule.matches, own, covers));
        let ipv6 = rule.by.family().map(|own| shadow.1.ask(index, rule.matches, own, covers));
        // Only a rule that is covered in every family it is about can never match.
        let covering: Option<Vec<_>> = [ipv4, ipv6].into_iter().flatten().collect();
        let Some(mut covering) = covering.map(|covering| covering.concat()) else { continue };
        covering.sort_unstable();
        covering.dedup();
        let by: Vec<_> = covering.iter().filter_map(|index| rules.get(*index)).collect();
        let Some((_, first)) = by.first() else { continue };
        let who = match by.as_slice() {
            [_] => format!("{} at {} comes first and matches", first.name, first.place),
            _ => format!("rules before it, such as {} at {}, match", first.name, first.place),
        };
        let hint = match by.iter().all(|(_, earlier)| earlier.action == rule.action) {
            true => "delete it: it changes nothing",
            false => "put it first, or delete it",
        };
        found.push((
            rule.at.clone(),
            format!("{} can never match: {who} all it would", rule.name),
            hint,
        ));
    }
}
