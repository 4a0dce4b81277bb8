//! Firewall rules and network ACLs, translated.

use super::acl::{Acl, AclRule};
use super::firewall::FirewallEntry;
use super::translate::Translator;
use crate::rules::diagnostic::Place;
use crate::rules::set::{
    AclDirection, AclEntry, Action, Cidr, EgressRule, FirewallRule, Match, NetworkAcl, Prefixes,
};

/// Everything.
const ANYTHING: Match = Match { protocol: None, ports: None, icmp_type: None, icmp_code: None };

impl Translator<'_> {
    /// The firewall of an isolated network.
    pub fn firewall(&mut self) {
        let bags = self.bags;
        for (device, acl) in &bags.acls {
            self.wait_for_network(&format!("{device} of a VPC"), acl);
        }
        let mut entries: Vec<&FirewallEntry> = self.bags.firewall.values().collect();
        entries.sort_by_key(|entry| entry.id);
        let policy =
            entries.iter().find(|entry| entry.is_default()).map(|entry| entry.egress_policy);
        if self.is_routed() {
            // Without the rule that says so, the first one does.
            let first = entries.iter().find(|entry| entry.is_egress);
            let policy = policy.or(first.map(|entry| entry.egress_policy));
            self.routed_firewall(&entries, policy.unwrap_or(Action::Deny));
            return;
        }
        for network in &mut self.set.networks {
            network.egress_default = policy.unwrap_or(Action::Deny);
        }
        if policy.is_none() {
            let networks = self.set.networks.iter();
            let networks: Vec<_> = networks.map(|it| (it.name.clone(), it.place.clone())).collect();
            for (name, place) in networks {
                self.wait(format!("egress of network \"{name}\""), &place, "its default rule");
            }
        }
        for entry in entries.iter().filter(|entry| !entry.is_default()) {
            match entry.is_egress {
                true => self.egress_rule(entry),
                false => self.firewall_rule(entry),
            }
        }
    }

    fn firewall_rule(&mut self, entry: &FirewallEntry) {
        // One for IPv6 alone is no rule for everybody.
        if !entry.sources.has_v4 {
            return;
        }
        let Some(public_ip) = entry.public_ip else {
            let what = format!("firewall rule {} names no public address", entry.id);
            self.notes.list.push(*super::record::fault(entry.place.clone(), what));
            return;
        };
        if !self.has_public_ip(public_ip) {
            let waits_for = format!("public address {public_ip}");
            self.wait(format!("firewall rule {}", entry.id), &entry.place, &waits_for);
            return;
        }
        self.set.firewall_rules.push(FirewallRule {
            id: entry.id.to_string(),
            public_ip,
            action: Action::Allow,
            matches: entry.matches,
            sources: entry.sources.v4.clone(),
            place: entry.place.clone(),
        });
    }

    fn egress_rule(&mut self, entry: &FirewallEntry) {
        if !entry.sources.has_v4 || !entry.destinations.has_v4 {
            return;
        }
        let sources = &entry.sources.v4;
        let concerns =
            |cidr: Cidr| sources.is_empty() || sources.iter().any(|it| it.overlaps(&cidr));
        let networks: Vec<String> = self
            .set
            .networks
            .iter()
            .filter(|network| concerns(network.cidr))
            .map(|network| network.name.clone())
            .collect();
        for (index, network) in networks.into_iter().enumerate() {
            let id = match index {
                0 => entry.id.to_string(),
                _ => format!("{} of {network}", entry.id),
            };
            self.set.egress_rules.push(EgressRule {
                id,
                network,
                action: entry.action(),
                matches: entry.matches,
                sources: sources.clone().into(),
                destinations: entry.destinations.v4.clone().into(),
                place: entry.place.clone(),
            });
        }
    }

    /// The firewall of a routed network: both directions end in what no rule matches.
    fn routed_firewall(&mut self, entries: &[&FirewallEntry], policy: Action) {
        let networks = self.set.networks.clone();
        for network in networks {
            let list = |is_egress: bool| {
                let entries = entries.iter().filter(move |entry| {
                    let has_v4 = entry.sources.has_v4 && entry.destinations.has_v4;
                    entry.is_egress == is_egress && !entry.is_default() && has_v4
                });
                (1..).zip(entries).map(move |(number, entry)| {
                    let (guests, ends) = match is_egress {
                        true => (&entry.sources, &entry.destinations),
                        false => (&entry.destinations, &entry.sources),
                    };
                    AclEntry {
                        number,
                        action: entry.action(),
                        matches: entry.matches,
                        guests: guests.v4.clone().into(),
                        cidrs: ends.v4.clone().into(),
                        place: entry.place.clone(),
                    }
                })
            };
            let ingress: Vec<AclEntry> = list(false).collect();
            let mut egress: Vec<AclEntry> = list(true).collect();
            if policy == Action::Allow {
                push_allow(&mut egress, &network.place);
            }
            self.push_acl(&network.name, &network.place, ingress, egress);
        }
    }

    /// The ACLs of a VPC's tiers and private gateways.
    pub fn acls(&mut self) {
        if !self.bags.command_line.has_public_network() {
            return;
        }
        let bags = self.bags;
        let networks = self.set.networks.clone();
        for network in &networks {
            let Some(acl) = bags.acls.get(&network.name) else {
                // Nobody said what may leave; what comes in waits for its list.
                let mut egress = Vec::new();
                push_allow(&mut egress, &network.place);
                self.push_acl(&network.name, &network.place, Vec::new(), egress);
                continue;
            };
            self.acl(&network.name, acl);
        }
        for (device, acl) in &bags.acls {
            if !networks.iter().any(|network| network.name == *device) {
                self.wait_for_network(device, acl);
            }
        }
    }

    fn wait_for_network(&mut self, device: &str, acl: &Acl) {
        let what = format!("network ACL of {}", acl.device.name);
        self.wait(what, &acl.place, &format!("a network on {device}"));
    }

    fn acl(&mut self, network: &str, acl: &Acl) {
        let entries = |rules: &[AclRule]| -> Vec<AclEntry> {
            let rules = (1..).zip(rules).filter(|(_, rule)| rule.ends.has_v4);
            rules.map(|(number, rule)| rule.entry(number)).collect()
        };
        let (ingress, mut egress) = (entries(&acl.ingress), entries(&acl.egress));
        if self.options.unmatched_vpc_egress == Action::Allow && !self.is_routed() {
            push_allow(&mut egress, &acl.place);
        }
        self.push_acl(network, &acl.place, ingress, egress);
    }

    fn push_acl(
        &mut self,
        network: &str,
        place: &Place,
        ingress: Vec<AclEntry>,
        egress: Vec<AclEntry>,
    ) {
        for (direction, entries) in
            [(AclDirection::Ingress, ingress), (AclDirection::Egress, egress)]
        {
            let (network, place) = (network.to_owned(), place.clone());
            self.set.network_acls.push(NetworkAcl { network, direction, entries, place });
        }
    }
}

/// Lets pass what no entry before matched.
fn push_allow(entries: &mut Vec<AclEntry>, place: &Place) {
    let number = entries.last().map_or(1, |last| last.number.saturating_add(1));
    entries.push(AclEntry {
        number,
        action: Action::Allow,
        matches: ANYTHING,
        guests: Prefixes::default(),
        cidrs: Prefixes::default(),
        place: place.clone(),
    });
}

impl AclRule {
    fn entry(&self, number: u32) -> AclEntry {
        AclEntry {
            number,
            action: self.action,
            matches: self.matches,
            guests: Prefixes::default(),
            cidrs: self.ends.v4.clone().into(),
            place: self.place.clone(),
        }
    }
}
