//! Firewall rules and network ACLs, translated.

use super::acl::{Acl, AclRule};
use super::firewall::FirewallEntry;
use super::translate::Translator;
use super::values::{Ends, Families};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::{
    AclDirection, AclEntry, Action, Cidr, EgressRule, FirewallRule, Match, Network, NetworkAcl,
    Prefixes,
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
        let entries: Vec<&FirewallEntry> = self.bags.firewall.values().collect();
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
        self.ipv6_firewall();
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
        let ends = &entry.sources.v4;
        let concerns = |cidr: Cidr| ends.is_empty() || ends.iter().any(|it| it.overlaps(&cidr));
        let networks = self.set.networks.iter().filter(|network| concerns(network.cidr));
        let networks: Vec<(String, Families)> =
            networks.map(|network| (network.name.clone(), ipv4_of(network))).collect();
        for (index, (network, families)) in networks.into_iter().enumerate() {
            let id = match index {
                0 => entry.id.to_string(),
                _ => format!("{} of {network}", entry.id),
            };
            self.push_egress_rule(id, &network, entry, families);
        }
    }

    /// An egress rule for some families, if it is about them.
    pub fn push_egress_rule(
        &mut self,
        id: String,
        network: &str,
        entry: &FirewallEntry,
        families: Families,
    ) {
        let sources = entry.sources.prefixes(families);
        let Some((sources, destinations)) = sources.zip(entry.destinations.prefixes(families))
        else {
            return;
        };
        self.set.egress_rules.push(EgressRule {
            id,
            network: network.to_owned(),
            action: entry.action(),
            matches: entry.matches,
            sources,
            destinations,
            place: entry.place.clone(),
        });
    }

    /// The firewall of a routed network: both directions end in what no rule matches.
    fn routed_firewall(&mut self, entries: &[&FirewallEntry], policy: Action) {
        let ipv6: Vec<&FirewallEntry> = self.bags.ipv6_firewall.values().collect();
        let ipv6_policy = ipv6.iter().find(|entry| entry.is_default());
        let ipv6_policy = ipv6_policy.map_or(Action::Deny, |entry| entry.egress_policy);
        for network in self.set.networks.clone() {
            let mut lists = [Vec::new(), Vec::new()];
            for (is_egress, list) in [false, true].into_iter().zip(&mut lists) {
                for entry in entries {
                    push_entry(list, entry, is_egress, ipv4_of(&network));
                }
                if is_egress && policy == Action::Allow {
                    push_allow(list, ipv4_of(&network), &network.place);
                }
                for entry in ipv6.iter().filter(|_| network.ipv6.is_some()) {
                    push_entry(list, entry, is_egress, Families::Ipv6OfBoth);
                }
                if is_egress && ipv6_policy == Action::Allow && network.ipv6.is_some() {
                    push_allow(list, Families::Ipv6OfBoth, &network.place);
                }
            }
            let [ingress, egress] = lists;
            self.push_acl(&network.name, &network.place, ingress, egress);
        }
    }

    /// The firewall of a VPC's public addresses (4.23): one that a rule names is closed to everything else, before
    /// the tiers' ACLs are asked. What guests send is for these alone.
    pub fn vpc_firewall(&mut self) {
        let entries: Vec<&FirewallEntry> = self.bags.firewall.values().collect();
        for entry in entries.into_iter().filter(|entry| !entry.is_default()) {
            if entry.is_egress {
                let what = format!("firewall rule {} is about what guests send", entry.id);
                let hint = "in a VPC the ACLs of its tiers decide that: the rule is not in force";
                self.notes.warn(entry.place.clone(), what, hint);
                continue;
            }
            self.firewall_rule(entry);
        }
        let rules = self.set.firewall_rules.iter();
        let guarded: ahash::HashSet<_> = rules.map(|rule| rule.public_ip).collect();
        for public in &mut self.set.public_ips {
            if guarded.contains(&public.address) {
                public.firewall_before_acl = true;
                public.echo_reply = None;
            }
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
                push_allow(&mut egress, ipv4_of(network), &network.place);
                self.push_acl(&network.name, &network.place, Vec::new(), egress);
                continue;
            };
            self.acl(network, acl);
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

    fn acl(&mut self, network: &Network, acl: &Acl) {
        let entries = |rules: &[AclRule]| {
            let mut entries = Vec::with_capacity(rules.len());
            rules.iter().for_each(|rule| rule.push(&mut entries, network.ipv6.is_some()));
            entries
        };
        let (ingress, mut egress) = (entries(&acl.ingress), entries(&acl.egress));
        if self.options.unmatched_vpc_egress == Action::Allow && !self.is_routed() {
            push_allow(&mut egress, ipv4_of(network), &acl.place);
        }
        self.push_acl(&network.name, &acl.place, ingress, egress);
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

/// IPv4 in this network.
fn ipv4_of(network: &Network) -> Families {
    if network.ipv6.is_some() { Families::Ipv4OfBoth } else { Families::Ipv4 }
}

/// Lets pass what no entry before matched.
fn push_allow(entries: &mut Vec<AclEntry>, families: Families, place: &Place) {
    let any = Ends { has_v4: true, has_v6: true, ..Ends::default() };
    entries.push(AclEntry {
        number: next_number(entries),
        action: Action::Allow,
        matches: ANYTHING,
        guests: Prefixes::default(),
        cidrs: any.prefixes(families).unwrap_or_default(),
        place: place.clone(),
    });
}

/// A firewall rule of a routed network as an entry, if it is about this direction and these families.
fn push_entry(
    entries: &mut Vec<AclEntry>,
    entry: &FirewallEntry,
    is_egress: bool,
    families: Families,
) {
    if entry.is_egress != is_egress || entry.is_default() {
        return;
    }
    let (guests, ends) = match is_egress {
        true => (&entry.sources, &entry.destinations),
        false => (&entry.destinations, &entry.sources),
    };
    let Some((guests, cidrs)) = guests.prefixes(families).zip(ends.prefixes(families)) else {
        return;
    };
    entries.push(AclEntry {
        number: next_number(entries),
        action: entry.action(),
        matches: entry.matches,
        guests,
        cidrs,
        place: entry.place.clone(),
    });
}

fn next_number(entries: &[AclEntry]) -> u32 {
    entries.last().map_or(1, |last| last.number.saturating_add(1))
}

impl AclRule {
    /// Adds what it says: one entry, or one for each family's ICMP.
    fn push(&self, entries: &mut Vec<AclEntry>, has_ipv6: bool) {
        let is_icmp = self.matches.protocol == Some(Protocol::ICMP);
        let parts: &[_] = match (has_ipv6, is_icmp) {
            (false, _) => &[(Families::Ipv4, Protocol::ICMP)],
            (true, false) => &[(Families::Both, Protocol::ICMP)],
            (true, true) => {
                &[(Families::Ipv4OfBoth, Protocol::ICMP), (Families::Ipv6OfBoth, Protocol::ICMPV6)]
            }
        };
        for (families, icmp) in parts {
            let Some(cidrs) = self.ends.prefixes(*families) else { continue };
            let protocol = if is_icmp { Some(*icmp) } else { self.matches.protocol };
            entries.push(AclEntry {
                number: next_number(entries),
                action: self.action,
                matches: Match { protocol, ..self.matches },
                guests: Prefixes::default(),
                cidrs,
                place: self.place.clone(),
            });
        }
    }
}
