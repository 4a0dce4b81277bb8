//! Egress rules, firewall rules and network ACLs: do they belong to something, can they match.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::shadow::Shadow;
use super::{Checker, Spot};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::native::{EGRESS_RULE, FIREWALL_RULE, NETWORK_ACL};
use crate::rules::set::{AclDirection, Action, FirewallRule, Match, NetworkAcl, PortRange};

/// Egress and firewall rules belong to what is defined.
pub(super) fn check_filters(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut governed: HashMap<&str, &Place> = HashMap::new();
    for acl in set.network_acls.iter().filter(|acl| acl.direction == AclDirection::Egress) {
        governed.entry(&acl.network).or_insert(&acl.place);
    }
    for (index, rule) in set.egress_rules.iter().enumerate() {
        let spot: Spot<'_> = (&spots.egress_rules, &EGRESS_RULE, index);
        checker.require_network(&rule.network, |checker| checker.at(spot, "network", &rule.place));
        if let Some(acl) = governed.get(rule.network.as_str()) {
            let what = format!(
                "egress rule \"{}\" is never asked: the network ACL at {acl} governs what leaves \"{}\"",
                rule.id, rule.network
            );
            let at = checker.at(spot, "network", &rule.place);
            checker.warning(at, what, "delete the rule, or add an entry to the ACL");
        }
    }
    for (index, rule) in set.firewall_rules.iter().enumerate() {
        let spot: Spot<'_> = (&spots.firewall_rules, &FIREWALL_RULE, index);
        checker.require_public_ip(rule.public_ip, |checker| {
            checker.at(spot, "public_ip", &rule.place)
        });
    }
}

/// One ACL per network and direction, whose entries have numbers of their own and can all match.
pub(super) fn check_acls(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut seen: HashMap<(&str, AclDirection), &Place> = HashMap::new();
    for (index, acl) in set.network_acls.iter().enumerate() {
        let spot: Spot<'_> = (&spots.network_acls, &NETWORK_ACL, index);
        checker.require_network(&acl.network, |checker| checker.at(spot, "network", &acl.place));
        if let Some(first) = seen.insert((&acl.network, acl.direction), &acl.place) {
            let direction = match acl.direction {
                AclDirection::Egress => "egress",
                AclDirection::Ingress => "ingress",
            };
            let what =
                format!("network \"{}\" already has an {direction} ACL at {first}", acl.network);
            let at = checker.at(spot, "direction", &acl.place);
            checker.error(at, what, "put all entries into one ACL");
        }
        check_entries(checker, acl);
    }
}

fn check_entries(checker: &mut Checker<'_>, acl: &NetworkAcl) {
    let mut shadows = (Shadow::<Ipv4Addr>::default(), Shadow::<Ipv6Addr>::default());
    let mut before: Option<(u32, &Place)> = None;
    for (index, entry) in acl.entries.iter().enumerate() {
        let twice = before.filter(|&(number, _)| number == entry.number);
        if let Some((number, first)) = twice {
            let what = format!("ACL entry {number} is already defined at {first}");
            checker.error(entry.place.clone(), what, "give each entry its own number");
            continue;
        }
        before = Some((entry.number, &entry.place));
        // An entry about some guests matches no more than one about all, and covers none.
        let covers = entry.guests.is_empty();
        let ipv4 =
            entry.cidrs.family().map(|own| shadows.0.ask(index, &entry.matches, own, covers));
        let ipv6 =
            entry.cidrs.family().map(|own| shadows.1.ask(index, &entry.matches, own, covers));
        // Only an entry that is covered in every family it is about can never match.
        let covering: Option<Vec<_>> = [ipv4, ipv6].into_iter().flatten().collect();
        let Some(mut covering) = covering.map(|covering| covering.concat()) else { continue };
        covering.sort_unstable();
        let mut by: Vec<_> = covering.iter().filter_map(|&index| acl.entries.get(index)).collect();
        by.dedup_by_key(|entry| entry.number);
        let Some(first) = by.first() else { continue };
        let who = match by.as_slice() {
            [_] => format!("entry {} at {} comes first and matches", first.number, first.place),
            _ => format!("entries before it, such as {} at {}, match", first.number, first.place),
        };
        let what = format!("ACL entry {} can never match: {who} all it would", entry.number);
        let hint = if by.iter().all(|earlier| earlier.action == entry.action) {
            "delete it: it changes nothing"
        } else {
            "give it a lower number, or delete it"
        };
        checker.warning(entry.place.clone(), what, hint);
    }
}

/// A firewall rule that lets packets in where nothing takes them does nothing.
pub(super) fn check_reach(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    if checker.unread.any_rule {
        return;
    }
    let services = Services::of(checker);
    for (index, rule) in set.firewall_rules.iter().enumerate() {
        if rule.action == Action::Deny || !checker.public_ips.contains_key(&rule.public_ip) {
            continue;
        }
        let (what, hint) = match services.reach(rule) {
            Reach::Somebody => continue,
            Reach::Nobody => (
                format!(
                    "firewall rule \"{}\" opens what nothing serves: no port forward, load balancer, \
                     static NAT or local service on {} takes it",
                    rule.id, rule.public_ip
                ),
                "add what it was meant for, or delete it",
            ),
            Reach::Governed => (
                format!(
                    "firewall rule \"{}\" has no effect: what it opens on {} leads into networks \
                     that a network ACL governs",
                    rule.id, rule.public_ip
                ),
                "allow it in the network's ingress ACL instead",
            ),
        };
        let spot: Spot<'_> = (&spots.firewall_rules, &FIREWALL_RULE, index);
        let at = checker.at(spot, "public_ip", &rule.place);
        checker.warning(at, what, hint);
    }
}

/// Whom a firewall rule lets packets reach.
enum Reach {
    /// Guests of networks that network ACLs govern, who do not ask firewall rules.
    Governed,
    /// Nobody.
    Nobody,
    /// A guest or the router.
    Somebody,
}

/// What serves the public addresses.
#[derive(Default)]
struct Services<'a> {
    /// Ports by address, protocol (none is all), and whether a network ACL governs where they lead:
    /// in order and apart from each other, so that one look answers for a range.
    ports: HashMap<(Ipv4Addr, Option<Protocol>, bool), Vec<PortRange>, ahash::RandomState>,
    governed: HashSet<&'a str>,
}

impl<'a> Services<'a> {
    fn of(checker: &Checker<'a>) -> Self {
        let set = checker.set;
        let ingress = set.network_acls.iter().filter(|acl| acl.direction == AclDirection::Ingress);
        let governed = ingress.map(|acl| acl.network.as_str()).collect();
        let mut services = Self { governed, ..Self::default() };
        for rule in &set.port_forwards {
            services.add(rule.public_ip, Some(rule.protocol), rule.public_ports, &rule.network);
        }
        for rule in &set.load_balancers {
            let port = rule.public_port.get();
            let ports = PortRange::new(port, port).unwrap_or(PortRange::ALL);
            services.add(rule.public_ip, Some(rule.protocol), ports, &rule.network);
        }
        for rule in &set.static_nats {
            services.add(rule.public_ip, None, PortRange::ALL, &rule.network);
        }
        for service in &set.local_services {
            let ports = service.ports.unwrap_or(PortRange::ALL);
            services.add(service.address, Some(service.protocol), ports, "");
        }
        for ranges in services.ports.values_mut() {
            ranges.sort_by_key(PortRange::first);
            ranges.dedup_by(|next, kept| {
                let touches = next.first() <= kept.last();
                if let (true, Ok(both)) =
                    (touches, PortRange::new(kept.first(), kept.last().max(next.last())))
                {
                    *kept = both;
                }
                touches
            });
        }
        services
    }

    fn add(
        &mut self,
        address: Ipv4Addr,
        protocol: Option<Protocol>,
        ports: PortRange,
        network: &str,
    ) {
        let governed = self.governed.contains(network);
        self.ports.entry((address, protocol, governed)).or_default().push(ports);
    }

    fn reach(&self, rule: &FirewallRule) -> Reach {
        let Match { protocol, ports, .. } = rule.matches;
        // The router itself answers pings.
        if protocol.is_none_or(|protocol| protocol == Protocol::ICMP) {
            return Reach::Somebody;
        }
        let ports = ports.unwrap_or(PortRange::ALL);
        let takes = |governed| {
            [protocol, None].iter().any(|&protocol| {
                let key = (rule.public_ip, protocol, governed);
                let ranges = self.ports.get(&key).map_or(&[][..], Vec::as_slice);
                let behind = ranges.partition_point(|range| range.first() <= ports.last());
                let last = behind.checked_sub(1).and_then(|index| ranges.get(index));
                last.is_some_and(|range| range.last() >= ports.first())
            })
        };
        if takes(false) {
            Reach::Somebody
        } else if takes(true) {
            Reach::Governed
        } else {
            Reach::Nobody
        }
    }
}
