//! Filters of networks: the same rules compiled for each family they are about.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::flow::RuleId;
use crate::policy::compile::index::NetworkRules;
use crate::policy::compile::{Compiler, text};
use crate::policy::filter::{Decided, Filter, FilterRule};
use crate::policy::registry::RuleKind;
use crate::rules::set::{
    self, AclDirection, AclEntry, Action, Cidr, FamilyPrefixes, Match, Prefixes,
};

/// A rule that has its number, for filters of either family.
struct Numbered<'a> {
    decided: Decided,
    matches: Match,
    sources: &'a Prefixes,
    destinations: &'a Prefixes,
}

/// The filters of both families from the same rules.
pub(super) struct Filters<'a> {
    rules: Vec<Numbered<'a>>,
    default: Decided,
}

impl Filters<'_> {
    /// The filter of IPv4.
    pub fn ipv4(&self) -> Filter {
        self.family::<Ipv4Addr>()
    }

    /// The filter of IPv6.
    pub fn ipv6(&self) -> Filter<Ipv6Addr> {
        self.family()
    }

    fn family<A: FamilyPrefixes>(&self) -> Filter<A> {
        let rules: Vec<FilterRule<'_, A>> = self
            .rules
            .iter()
            .filter_map(|rule| {
                Some(FilterRule {
                    decided: rule.decided,
                    matches: rule.matches,
                    sources: rule.sources.family()?,
                    destinations: rule.destinations.family()?,
                })
            })
            .collect();
        Filter::new(&rules, self.default)
    }
}

impl<'a> Compiler<'a> {
    /// The egress rules of a network that no ACL governs.
    pub(super) fn egress(&mut self, owner: &Arc<str>, rules: &NetworkRules<'a>) -> Filters<'a> {
        let network = rules.network;
        let mut numbered = Vec::with_capacity(rules.egress.len());
        for rule in &rules.egress {
            let text =
                text::filter_rule(rule.action, &rule.matches, &rule.sources, &rule.destinations);
            let number = self.number(RuleKind::Egress, &rule.id, owner, text, &rule.place);
            numbered.push(Numbered {
                decided: Decided { action: rule.action, rule: number },
                matches: rule.matches,
                sources: &rule.sources,
                destinations: &rule.destinations,
            });
        }
        let action = network.egress_default;
        let default = self.number_default(
            RuleKind::EgressDefault,
            owner,
            text::default(action),
            &network.place,
        );
        Filters { rules: numbered, default: Decided { action, rule: default } }
    }

    /// The filter of a VPC tier for one direction: what no entry matches is denied, and so is all
    /// of a direction for which nothing was written.
    pub(super) fn acl(
        &mut self,
        owner: &Arc<str>,
        network: &set::Network,
        direction: AclDirection,
        entries: &[&'a AclEntry],
    ) -> Filters<'a> {
        let list = match direction {
            AclDirection::Egress => format!("{}:egress", network.name),
            AclDirection::Ingress => format!("{}:ingress", network.name),
        };
        let mut numbered = Vec::with_capacity(entries.len());
        for entry in entries {
            let (sources, destinations) = match direction {
                AclDirection::Egress => (&entry.guests, &entry.cidrs),
                AclDirection::Ingress => (&entry.cidrs, &entry.guests),
            };
            let text = text::filter_rule(entry.action, &entry.matches, sources, destinations);
            let id = format!("{list}:{}", entry.number);
            let number = self.number(RuleKind::AclEntry, &id, owner, text, &entry.place);
            numbered.push(Numbered {
                decided: Decided { action: entry.action, rule: number },
                matches: entry.matches,
                sources,
                destinations,
            });
        }
        let id = format!("{}:{list}", RuleKind::AclDefault.as_str());
        let text = text::default(Action::Deny);
        let number = self.number(RuleKind::AclDefault, &id, owner, text, &network.place);
        Filters { rules: numbered, default: Decided { action: Action::Deny, rule: number } }
    }

    /// The IPv6 firewall of a network that no ACL governs.
    pub(super) fn ipv6_firewall(
        &mut self,
        owner: &Arc<str>,
        rules: &NetworkRules<'a>,
    ) -> Filter<Ipv6Addr> {
        let mut filter_rules = Vec::with_capacity(rules.ipv6_firewall.len());
        for rule in &rules.ipv6_firewall {
            let wide =
                |cidrs: &[Cidr<Ipv6Addr>]| Prefixes { ipv4: Vec::new(), ipv6: cidrs.to_vec() };
            let (sources, destinations) = (wide(&rule.sources), wide(&rule.destinations));
            let text = text::filter_rule(rule.action, &rule.matches, &sources, &destinations);
            let number = self.number(RuleKind::Ipv6Firewall, &rule.id, owner, text, &rule.place);
            filter_rules.push(FilterRule {
                decided: Decided { action: rule.action, rule: number },
                matches: rule.matches,
                sources: &rule.sources,
                destinations: &rule.destinations,
            });
        }
        let action = Action::Deny;
        let rule: RuleId = self.number_default(
            RuleKind::Ipv6FirewallDefault,
            owner,
            text::default(action),
            &rules.network.place,
        );
        Filter::new(&filter_rules, Decided { action, rule })
    }
}
