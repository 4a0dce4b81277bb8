//! Rules in order, of which the first match decides: one that earlier ones leave nothing can never match.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::shadow::Shadow;
use super::{Checker, Spot};
use crate::rules::diagnostic::Place;
use crate::rules::native::{EGRESS_RULE, FIREWALL_RULE};
use crate::rules::set::{Action, Cidr, FilterAction, Match};

/// Firewall rules of one address, egress rules of one network, entries of one interface's filter.
pub(super) fn check_order(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let firewall = set.firewall_rules.iter().map(|rule| {
        let ordered = Ordered {
            id: &rule.id,
            place: &rule.place,
            action: rule.action,
            matches: &rule.matches,
            ipv4: Some(&rule.sources),
            // Public addresses are of IPv4.
            ipv6: None,
            is_about_all_else: true,
        };
        (rule.public_ip, ordered)
    });
    let firewall: Vec<_> = firewall.collect();
    let found = shadowed(&firewall, |index| {
        let (_, rule) = firewall.get(index)?;
        let spot: Spot<'_> = (&spots.firewall_rules, &FIREWALL_RULE, index);
        Some((format!("firewall rule \"{}\"", rule.id), checker.at(spot, "id", rule.place)))
    });
    tell(checker, found);
    let egress = set.egress_rules.iter().map(|rule| {
        let ordered = Ordered {
            id: &rule.id,
            place: &rule.place,
            action: rule.action,
            matches: &rule.matches,
            ipv4: rule.destinations.family(),
            ipv6: rule.destinations.family(),
            is_about_all_else: rule.sources.is_empty(),
        };
        (rule.network.as_str(), ordered)
    });
    let egress: Vec<_> = egress.collect();
    let found = shadowed(&egress, |index| {
        let (_, rule) = egress.get(index)?;
        let spot: Spot<'_> = (&spots.egress_rules, &EGRESS_RULE, index);
        Some((format!("egress rule \"{}\"", rule.id), checker.at(spot, "id", rule.place)))
    });
    tell(checker, found);
    check_filter_entries(checker);
}

fn check_filter_entries(checker: &mut Checker<'_>) {
    let filters = &checker.set.interface_filters;
    let entries = filters.iter().enumerate().flat_map(|(index, filter)| {
        filter.entries.iter().map(move |entry| {
            // What is refused in silence and what is told are not the same.
            let told = entry.action == FilterAction::Reject;
            let ordered = Ordered {
                id: &entry.id,
                place: &entry.place,
                action: entry.action.action(),
                matches: &entry.matches,
                ipv4: Some(&entry.destinations),
                ipv6: entry.destinations.is_empty().then_some(&[]),
                is_about_all_else: entry.sources.is_empty() && !told,
            };
            (index, ordered)
        })
    });
    let entries: Vec<_> = entries.collect();
    let found = shadowed(&entries, |index| {
        let (filter, entry) = entries.get(index)?;
        let name = filters.get(*filter)?.name();
        Some((format!("entry \"{}\" of {name}", entry.id), entry.place.clone()))
    });
    tell(checker, found);
}

fn tell(checker: &mut Checker<'_>, found: Vec<Finding>) {
    for (at, what, hint) in found {
        checker.warning(at, what, hint);
    }
}

/// A rule among others in order.
struct Ordered<'a> {
    id: &'a str,
    place: &'a Place,
    action: Action,
    matches: &'a Match,
    /// What the rules are compared by, beside their services: prefixes of each family that it is about.
    ipv4: Option<&'a [Cidr]>,
    ipv6: Option<&'a [Cidr<Ipv6Addr>]>,
    /// Whether it is about all of what they are not compared by: else it covers no other rule.
    is_about_all_else: bool,
}

type Finding = (Place, String, &'static str);

/// The rules that can never match, of those with the same owner. `names` says what people call a rule and where its
/// name stands.
fn shadowed<K: Eq + std::hash::Hash + Copy>(
    rules: &[(K, Ordered<'_>)],
    names: impl Fn(usize) -> Option<(String, Place)>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut shadows: HashMap<K, (Shadow<Ipv4Addr>, Shadow<Ipv6Addr>), ahash::RandomState> =
        HashMap::default();
    for (index, (owner, rule)) in rules.iter().enumerate() {
        let shadow = shadows.entry(*owner).or_default();
        let covers = rule.is_about_all_else;
        let ipv4 = rule.ipv4.map(|own| shadow.0.ask(index, rule.matches, own, covers));
        let ipv6 = rule.ipv6.map(|own| shadow.1.ask(index, rule.matches, own, covers));
        // Only a rule that is covered in every family it is about can never match.
        let covering: Option<Vec<_>> = [ipv4, ipv6].into_iter().flatten().collect();
        let Some(mut covering) = covering.map(|covering| covering.concat()) else { continue };
        covering.sort_unstable();
        covering.dedup();
        let by: Vec<_> = covering.iter().filter_map(|index| rules.get(*index)).collect();
        let first = covering.first().copied().and_then(&names).zip(by.first());
        let Some(((first, _), (_, rule_before))) = first else { continue };
        let Some((name, at)) = names(index) else { continue };
        let who = match by.as_slice() {
            [_] => format!("{first} at {} comes first and matches", rule_before.place),
            _ => format!("rules before it, such as {first} at {}, match", rule_before.place),
        };
        let hint = match by.iter().all(|(_, earlier)| earlier.action == rule.action) {
            true => "delete it: it changes nothing",
            false => "put it first, or delete it",
        };
        found.push((at, format!("{name} can never match: {who} all it would"), hint));
    }
    found
}
