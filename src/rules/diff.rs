//! What a reload changes.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;

use super::names::{RuleKind, RuleName};
use super::set::{AclDirection, InterfaceFilter, LocalService, NetworkAcl, RuleSet};

/// The rules that differ between two rule sets. Moving a rule to another line or file is no change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Diff {
    /// Rules only the new set has.
    pub added: Vec<RuleName>,
    /// Rules only the old set has.
    pub removed: Vec<RuleName>,
    /// Rules both sets have under one name, but not alike; and rules that were moved among others
    /// where the first match decides.
    pub changed: Vec<RuleName>,
}

impl Diff {
    /// Whether the sets say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// What changes when `new` replaces `old`.
#[must_use]
pub fn diff(old: &RuleSet, new: &RuleSet) -> Diff {
    use RuleKind as Kind;
    let mut diff = Diff::default();
    diff.compare(
        Kind::PublicIp,
        (&old.public_ips, &new.public_ips),
        |ip| ip.address.to_string().into(),
        |ip, other| ip.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::PublicIpv6,
        (&old.public_ipv6, &new.public_ipv6),
        |ip| ip.address.to_string().into(),
        |ip, other| ip.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::AddressLimit,
        (&old.address_limits, &new.address_limits),
        |limit| Cow::from(&limit.id),
        |limit, other| limit.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::Network,
        (&old.networks, &new.networks),
        |network| Cow::from(&network.name),
        |network, other| network.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::EgressRule,
        (&old.egress_rules, &new.egress_rules),
        |rule| Cow::from(&rule.id),
        |rule, other| rule.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::FirewallRule,
        (&old.firewall_rules, &new.firewall_rules),
        |rule| Cow::from(&rule.id),
        |rule, other| rule.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::Ipv6FirewallRule,
        (&old.ipv6_firewall_rules, &new.ipv6_firewall_rules),
        |rule| Cow::from(&rule.id),
        |rule, other| rule.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::Ipv6Route,
        (&old.ipv6_routes, &new.ipv6_routes),
        |route| route.destination.to_string().into(),
        |route, other| route.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::InterfaceFilter,
        (&old.interface_filters, &new.interface_filters),
        |filter| filter.name().into(),
        move_filter,
    );
    diff.compare(
        Kind::PortForward,
        (&old.port_forwards, &new.port_forwards),
        |rule| Cow::from(&rule.id),
        |rule, other| rule.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::StaticNat,
        (&old.static_nats, &new.static_nats),
        |rule| Cow::from(&rule.id),
        |rule, other| rule.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::LoadBalancer,
        (&old.load_balancers, &new.load_balancers),
        |rule| Cow::from(&rule.id),
        |rule, other| rule.place.clone_from(&other.place),
    );
    diff.compare(Kind::NetworkAcl, (&old.network_acls, &new.network_acls), acl_id, move_acl);
    diff.compare(
        Kind::Route,
        (&old.routes, &new.routes),
        |route| format!("{} {}", route.domain, route.destination).into(),
        |route, other| route.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::PolicyRoute,
        (&old.policy_routes, &new.policy_routes),
        |route| Cow::from(&route.id),
        |route, other| route.place.clone_from(&other.place),
    );
    diff.compare(
        Kind::LocalService,
        (&old.local_services, &new.local_services),
        local_service_id,
        |service, other| service.place.clone_from(&other.place),
    );
    diff
}

impl Diff {
    /// Compares one list. `id` tells rules apart, `settle` gives the first rule the second's places.
    fn compare<'r, R: Clone + PartialEq>(
        &mut self,
        kind: RuleKind,
        (old, new): (&'r [R], &'r [R]),
        id: impl Fn(&'r R) -> Cow<'r, str>,
        settle: impl Fn(&mut R, &R),
    ) {
        if old == new {
            return;
        }
        let name = |id: &Cow<'_, str>| RuleName { kind, id: id.to_string() };
        let old: Vec<_> = old.iter().map(|rule| (id(rule), rule)).collect();
        let new: Vec<_> = new.iter().map(|rule| (id(rule), rule)).collect();
        let (old_ids, new_ids) = (by_id(&old), by_id(&new));
        let stays = |ids: &HashMap<&str, _, _>, id: &str| ids.contains_key(id);
        self.removed
            .extend(old.iter().filter(|(id, _)| !stays(&new_ids, id)).map(|(id, _)| name(id)));
        // The rules that stay, in the old order: where the first match decides, one that stands
        // elsewhere among them decides otherwise.
        let mut stayed = old.iter().filter(|(id, _)| stays(&new_ids, id));
        for (id, rule) in &new {
            let Some(&before) = old_ids.get(&**id) else {
                self.added.push(name(id));
                continue;
            };
            let moved = stayed.next().is_some_and(|(other, _)| other != id)
                && matches!(
                    kind,
                    RuleKind::EgressRule | RuleKind::FirewallRule | RuleKind::PolicyRoute
                );
            if moved || !is_same(before, rule, &settle) {
                self.changed.push(name(id));
            }
        }
    }
}

fn by_id<'r, R>(rules: &'r [(Cow<'_, str>, &'r R)]) -> HashMap<&'r str, &'r R, ahash::RandomState> {
    rules.iter().map(|(id, rule)| (&**id, *rule)).collect()
}

/// Whether rules are alike but for their places. Most stand where they stood, and are not copied to find out.
fn is_same<R: Clone + PartialEq>(before: &R, rule: &R, settle: &impl Fn(&mut R, &R)) -> bool {
    before == rule || {
        let mut before = before.clone();
        settle(&mut before, rule);
        before == *rule
    }
}

fn acl_id(acl: &NetworkAcl) -> Cow<'_, str> {
    let direction = match acl.direction {
        AclDirection::Egress => "egress",
        AclDirection::Ingress => "ingress",
    };
    format!("{} {direction}", acl.network).into()
}

fn move_acl(acl: &mut NetworkAcl, other: &NetworkAcl) {
    acl.place.clone_from(&other.place);
    for (entry, other) in acl.entries.iter_mut().zip(&other.entries) {
        entry.place.clone_from(&other.place);
    }
}

fn move_filter(filter: &mut InterfaceFilter, other: &InterfaceFilter) {
    filter.place.clone_from(&other.place);
    for (entry, other) in filter.entries.iter_mut().zip(&other.entries) {
        entry.place.clone_from(&other.place);
    }
}

fn local_service_id(service: &LocalService) -> Cow<'_, str> {
    match service.ports {
        None => format!("{} {}", service.address, service.protocol).into(),
        Some(ports) => format!("{} {} {ports}", service.address, service.protocol).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::{example, parse_json};

    #[test]
    fn the_same_rules_elsewhere_are_no_change() {
        let old = parse_json("old.json", example());
        let new = parse_json("new.json", &example().replace("{", "\n {"));
        assert_ne!(old, new, "the places differ");
        assert_eq!(diff(&old, &new), Diff::default());
        assert!(diff(&old, &new).is_empty());
    }

    #[test]
    fn what_is_added_removed_and_changed_is_named() {
        let old = parse_json("f", example());
        let text = example()
            .replace("\"10.1.1.6\"", "\"10.1.1.7\"")
            .replace("\"number\": 10", "\"number\": 11")
            .replace("\"p1\"", "\"p2\"");
        let diff = diff(&old, &parse_json("f", &text));
        let said = |names: &[RuleName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(said(&diff.added), ["port forward \"p2\""]);
        assert_eq!(said(&diff.removed), ["port forward \"p1\""]);
        assert_eq!(said(&diff.changed), ["static NAT \"s1\"", "network ACL \"web ingress\""]);
    }

    #[test]
    fn an_egress_rule_that_moves_is_changed_and_a_port_forward_is_not() {
        let rules = parse_json("f", example());
        let mut old = rules.clone();
        let mut second = rules.egress_rules[0].clone();
        second.id = "e2".to_owned();
        old.egress_rules.push(second);
        let mut forward = rules.port_forwards[0].clone();
        forward.id = "p2".to_owned();
        old.port_forwards.push(forward);
        let mut new = old.clone();
        new.egress_rules.reverse();
        new.port_forwards.reverse();
        let diff = diff(&old, &new);
        assert!(diff.added.is_empty() && diff.removed.is_empty());
        assert!(diff.changed.iter().all(|name| name.kind == RuleKind::EgressRule));
        assert!(!diff.changed.is_empty());
    }
}
