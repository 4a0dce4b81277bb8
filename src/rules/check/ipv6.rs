//! IPv6: addresses and prefixes that can be, belong to nobody else, and rules that can match.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use super::addresses::check_interface;
use super::{Checker, Spot};
use crate::config::Role;
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::ipv6::unusable;
use crate::rules::native::{EGRESS_RULE, IPV6_FIREWALL_RULE, IPV6_ROUTE, NETWORK, PUBLIC_IPV6};
use crate::rules::set::{AclDirection, Cidr, Match, Network, NetworkIpv6, Prefixes};

pub(super) fn check_ipv6(checker: &mut Checker<'_>) {
    check_public(checker);
    check_networks(checker);
    check_routes(checker);
    check_firewall(checker);
    check_families(checker);
}

fn check_public(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut seen: HashMap<Ipv6Addr, &Place> = HashMap::new();
    for (index, ip) in set.public_ipv6.iter().enumerate() {
        let spot: Spot<'_> = (&checker.spots.public_ipv6, &PUBLIC_IPV6, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &ip.place);
        check_interface(checker, &ip.interface, Role::Public, at(checker, "interface"));
        if let Some(first) = seen.insert(ip.address, &ip.place) {
            let what = format!("public address {} is already defined at {first}", ip.address);
            checker.error(at(checker, "address"), what, "delete one of the two");
            continue;
        }
        let segment = Cidr::containing(ip.address, ip.prefix_len);
        if let Some(why) = unusable(ip.address) {
            let what = format!("{} is {why}", ip.address);
            checker.error(at(checker, "address"), what, "name an address of a public segment");
        }
        let Some(gateway) = ip.gateway else { continue };
        let wrong = if gateway == ip.address {
            Some("is the address itself".to_owned())
        } else if gateway.is_unicast_link_local() {
            None
        } else if ip.prefix_len < 128 && !segment.contains(gateway) {
            Some(format!("is not in the segment {segment}"))
        } else {
            unusable(gateway).map(|why| format!("is {why}"))
        };
        if let Some(wrong) = wrong {
            let what = format!("gateway {gateway} {wrong}");
            checker.error(at(checker, "gateway"), what, "name the upstream router of this segment");
        }
    }
}

fn check_networks(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut prefixes: Vec<(Cidr<Ipv6Addr>, usize)> = Vec::new();
    for (index, network) in set.networks.iter().enumerate() {
        let Some(ipv6) = network.ipv6 else { continue };
        prefixes.push((ipv6.cidr, index));
        let Some(wrong) = wrong_with(&ipv6, network.mtu) else { continue };
        let spot: Spot<'_> = (&checker.spots.networks, &NETWORK, index);
        let place = checker.at(spot, "ipv6", &network.place);
        let hint = "write prefix and gateway like 2001:db8:1::/64 and 2001:db8:1::1, and no mtu below 1280";
        checker.error(place, wrong, hint);
    }
    // Sorted, a prefix that overlaps anything overlaps the widest one that is still open.
    prefixes.sort_unstable_by_key(|&(cidr, index)| (cidr, index));
    let mut open: Option<(Cidr<Ipv6Addr>, usize)> = None;
    for (cidr, index) in prefixes {
        match open {
            Some((widest, first)) if widest.overlaps(&cidr) => {
                let (earlier, later) = (first.min(index), first.max(index));
                let (Some(one), Some(other)) = (set.networks.get(earlier), set.networks.get(later))
                else {
                    continue;
                };
                if one.name != other.name {
                    overlap(checker, one, other, later);
                }
            }
            Some(_) | None => open = Some((cidr, index)),
        }
    }
}

fn overlap(checker: &mut Checker<'_>, one: &Network, other: &Network, index: usize) {
    let spot: Spot<'_> = (&checker.spots.networks, &NETWORK, index);
    let place = checker.at(spot, "ipv6", &other.place);
    let prefix =
        |network: &Network| network.ipv6.map_or_else(String::new, |it| it.cidr.to_string());
    let what = format!(
        "{} overlaps {} of network \"{}\" at {}: IPv6 prefixes are public, whatever the domain",
        prefix(other),
        prefix(one),
        one.name,
        one.place
    );
    checker.error(place, what, "use another prefix");
}

fn wrong_with(ipv6: &NetworkIpv6, mtu: Option<u16>) -> Option<String> {
    let NetworkIpv6 { cidr, gateway } = *ipv6;
    if let Some(mtu) = mtu.filter(|mtu| *mtu < MTU_MIN) {
        return Some(format!("an MTU of {mtu} is too small for IPv6, which needs {MTU_MIN}"));
    }
    if !(16..=127).contains(&cidr.length()) {
        return Some(format!("{cidr} is no prefix for guests: its length is not from 16 to 127"));
    }
    if let Some(why) = unusable(cidr.first()) {
        return Some(format!("{cidr} begins with {why}"));
    }
    if !cidr.contains(gateway) {
        return Some(format!("gateway {gateway} is not in {cidr}"));
    }
    // RFC 4291, section 2.6.1; RFC 6164 for /127.
    let anycast = gateway == cidr.first() && cidr.length() < 127;
    anycast.then(|| format!("gateway {gateway} is the subnet-router anycast address of {cidr}"))
}

/// RFC 8200, section 5.
const MTU_MIN: u16 = 1280;

fn check_routes(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut seen: HashMap<Cidr<Ipv6Addr>, &Place> = HashMap::new();
    for (index, route) in set.ipv6_routes.iter().enumerate() {
        let spot: Spot<'_> = (&checker.spots.ipv6_routes, &IPV6_ROUTE, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &route.place);
        if let Some(first) = seen.insert(route.destination, &route.place) {
            let what = format!("a route to {} is already defined at {first}", route.destination);
            checker.error(at(checker, "destination"), what, "delete one of the two");
        }
        let networks = || set.networks.iter().filter_map(|it| Some((it, it.ipv6?)));
        let inside = |ipv6: &NetworkIpv6| {
            ipv6.cidr.overlaps(&route.destination)
                && route.destination.length() >= ipv6.cidr.length()
        };
        if let Some((network, _)) = networks().find(|(_, ipv6)| inside(ipv6)) {
            let what = format!(
                "{} lies in the network \"{}\": its addresses would never be asked for there",
                route.destination, network.name
            );
            checker.error(at(checker, "destination"), what, "delete the route");
        }
        let public = set.public_ipv6.iter().find(|public| {
            route.destination.overlaps(&Cidr::containing(public.address, public.prefix_len))
        });
        if let Some(public) = public {
            let what = format!(
                "{} holds the public segment of {}: who is there would be taken for a guest",
                route.destination, public.address
            );
            checker.error(at(checker, "destination"), what, "name the prefixes of guests");
        }
        let wrong = match networks().find(|(_, ipv6)| ipv6.cidr.contains(route.via)) {
            None if checker.unread.any_network => continue,
            None => "is in no network's prefix".to_owned(),
            Some((network, ipv6)) if ipv6.gateway == route.via => {
                format!("is the router itself, in network \"{}\"", network.name)
            }
            Some(_) => continue,
        };
        let what = format!("next hop {} {wrong}", route.via);
        checker.error(at(checker, "via"), what, "name a guest that forwards");
    }
}

fn check_firewall(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut governed: HashMap<&str, &Place> = HashMap::new();
    for acl in set.network_acls.iter().filter(|acl| acl.direction == AclDirection::Ingress) {
        governed.entry(&acl.network).or_insert(&acl.place);
    }
    for (index, rule) in set.ipv6_firewall_rules.iter().enumerate() {
        let spot: Spot<'_> = (&spots.ipv6_firewall_rules, &IPV6_FIREWALL_RULE, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &rule.place);
        let network = checker.require_network(&rule.network, |checker| at(checker, "network"));
        let Some(network) = network else { continue };
        let Some(ipv6) = network.ipv6 else {
            let what = format!(
                "IPv6 firewall rule \"{}\" is never asked: network \"{}\" has no IPv6 side",
                rule.id, rule.network
            );
            checker.warning(at(checker, "network"), what, "add \"ipv6\" to the network");
            continue;
        };
        if let Some(acl) = governed.get(rule.network.as_str()) {
            let what = format!(
                "IPv6 firewall rule \"{}\" is never asked: the network ACL at {acl} governs what enters \"{}\"",
                rule.id, rule.network
            );
            checker.warning(at(checker, "network"), what, "add an entry to the ACL instead");
        }
        let behind = |cidr: &Cidr<Ipv6Addr>| {
            let routes = set.ipv6_routes.iter().filter(|route| ipv6.cidr.contains(route.via));
            routes.into_iter().any(|route| route.destination.overlaps(cidr))
        };
        let elsewhere = |cidr: &Cidr<Ipv6Addr>| !cidr.overlaps(&ipv6.cidr) && !behind(cidr);
        if !rule.destinations.is_empty() && rule.destinations.iter().all(elsewhere) {
            let what = format!(
                "IPv6 firewall rule \"{}\" can never match: no destination is in {}",
                rule.id, ipv6.cidr
            );
            checker.warning(at(checker, "destinations"), what, "name guests of the network");
        }
        if rule.matches.protocol == Some(Protocol::ICMP) {
            let what = format!("protocol icmp in IPv6 firewall rule \"{}\"", rule.id);
            checker.error(at(checker, "protocol"), what, "write \"icmpv6\"");
        }
    }
}

/// A rule whose parts are of different families can never match.
fn check_families(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    for (index, rule) in set.egress_rules.iter().enumerate() {
        let wrong = of_two_families(&rule.matches, &[&rule.sources, &rule.destinations]);
        let Some(hint) = wrong else { continue };
        let spot: Spot<'_> = (&spots.egress_rules, &EGRESS_RULE, index);
        let what = format!("egress rule \"{}\" mixes IPv4 and IPv6 and can never match", rule.id);
        checker.error(checker.at(spot, "id", &rule.place), what, hint);
    }
    for entry in set.network_acls.iter().flat_map(|acl| &acl.entries) {
        if let Some(hint) = of_two_families(&entry.matches, &[&entry.cidrs]) {
            let what =
                format!("ACL entry {} mixes IPv4 and IPv6 and can never match", entry.number);
            checker.error(entry.place.clone(), what, hint);
        }
    }
}

fn of_two_families(matches: &Match, prefixes: &[&Prefixes]) -> Option<&'static str> {
    let protocol = matches.protocol;
    let ipv4 = prefixes.iter().all(|it| it.family::<std::net::Ipv4Addr>().is_some());
    let ipv6 = prefixes.iter().all(|it| it.family::<Ipv6Addr>().is_some());
    match (ipv4, ipv6) {
        (false, false) => Some("name sources and destinations of one family"),
        (false, true) if protocol == Some(Protocol::ICMP) => Some("write protocol \"icmpv6\""),
        (true, false) if protocol == Some(Protocol::ICMPV6) => Some("write protocol \"icmp\""),
        (_, true) | (true, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::rules::diagnostic::Severity;
    use crate::rules::load::load_text;

    /// What is said of a file with these networks and more; the public side is 2001:db8:ff::/64.
    fn said(networks: &str, more: &str) -> Vec<(Severity, String)> {
        let text = format!(
            r#"{{"version": 1, "public_ipv6": [{{"address": "2001:db8:ff::1", "prefix_len": 64,
                "interface": "eth2", "gateway": "fe80::1"}}], "networks": [{networks}]{more}}}"#
        );
        let faults = match load_text("f.json", &text, None) {
            Ok(loaded) => loaded.warnings,
            Err(faults) => faults,
        };
        faults.into_iter().map(|fault| (fault.severity, fault.what)).collect()
    }

    fn network(name: &str, third: u8, ipv6: &str) -> String {
        format!(
            r#"{{"name": "{name}", "interface": "eth{third}0", "cidr": "10.1.{third}.0/24",
                "gateway": "10.1.{third}.1", "ipv6": {ipv6}}}"#
        )
    }

    const GOOD: &str = r#"{"cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}"#;

    #[test]
    fn a_sound_file_is_not_objected_to() {
        let rules = r#", "ipv6_firewall_rules": [{"id": "i", "network": "a", "protocol": "tcp",
            "ports": 443, "destinations": ["2001:db8:1::10"]}]"#;
        assert_eq!(said(&network("a", 1, GOOD), rules), []);
    }

    #[test]
    fn prefixes_that_no_network_can_have_are_refused() {
        for (ipv6, words) in [
            (r#"{"cidr": "fe80::/64", "gateway": "fe80::1"}"#, "link-local"),
            (r#"{"cidr": "2001:db8:1::/64", "gateway": "2001:db8:2::1"}"#, "is not in"),
            (r#"{"cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::"}"#, "anycast"),
            (r#"{"cidr": "2001:db8:1::1/128", "gateway": "2001:db8:1::1"}"#, "length"),
        ] {
            let said = said(&network("a", 1, ipv6), "");
            assert!(
                matches!(&said[..], [(Severity::Error, what)] if what.contains(words)),
                "{said:?}"
            );
        }
    }

    #[test]
    fn two_networks_never_share_a_prefix() {
        let wide = r#"{"cidr": "2001:db8::/32", "gateway": "2001:db8::1"}"#;
        let both = [network("a", 1, GOOD), network("b", 2, wide)].join(",");
        let said = said(&both, "");
        assert!(
            matches!(&said[..], [(Severity::Error, what)] if what.contains("overlaps")),
            "{said:?}"
        );
    }

    #[test]
    fn routes_lead_to_what_is_nobody_elses_by_a_guest() {
        let routes = |list: &str| format!(r#", "ipv6_routes": [{list}]"#);
        let route = |destination: &str, via: &str| {
            format!(r#"{{"destination": "{destination}", "via": "{via}"}}"#)
        };
        let good = route("2001:db8:22::/48", "2001:db8:1::254");
        let firewall = r#", "ipv6_firewall_rules": [{"id": "i", "network": "a", "protocol": "tcp",
            "ports": "80", "destinations": ["2001:db8:22:5::/64"]}]"#;
        let more = format!("{}{firewall}", routes(&good));
        assert_eq!(said(&network("a", 1, GOOD), &more), []);
        for (list, words) in [
            (route("2001:db8:22::/48", "2001:db8:7::254"), "is in no network's prefix"),
            (route("2001:db8:22::/48", "2001:db8:1::1"), "is the router itself"),
            (route("2001:db8:1:0:8::/80", "2001:db8:1::254"), "lies in the network"),
            (route("::/0", "2001:db8:1::254"), "holds the public segment"),
            (format!("{good}, {good}"), "already defined"),
        ] {
            let said = said(&network("a", 1, GOOD), &routes(&list));
            assert!(
                matches!(&said[..], [(Severity::Error, what)] if what.contains(words)),
                "{words}: {said:?}"
            );
        }
    }

    #[test]
    fn rules_of_two_families_are_refused() {
        let rule = |fields: &str| {
            format!(
                r#", "egress_rules": [{{"id": "e", "network": "a", "action": "deny", {fields}}}]"#
            )
        };
        for fields in [
            r#""sources": ["10.1.1.0/24"], "destinations": ["2001:db8:5::/48"]"#,
            r#""protocol": "icmp", "destinations": ["2001:db8:5::/48"]"#,
            r#""protocol": "icmpv6", "destinations": ["192.0.2.0/24"]"#,
        ] {
            let said = said(&network("a", 1, GOOD), &rule(fields));
            assert!(
                matches!(&said[..], [(Severity::Error, what)] if what.contains("mixes")),
                "{said:?}"
            );
        }
        let both = r#""protocol": "tcp", "destinations": ["192.0.2.0/24", "2001:db8:5::/48"]"#;
        assert_eq!(said(&network("a", 1, GOOD), &rule(both)), []);
    }
}
