//! Public addresses, networks, domains and routes.

use std::collections::{HashMap, HashSet};

use super::{Checker, Spot, realm, unusable};
use crate::config::Role;
use crate::rules::diagnostic::{Place, Severity};
use crate::rules::native::{NETWORK, PUBLIC_IP, ROUTE};
use crate::rules::set::{Action, Cidr, Network, OuterTag};

pub(super) fn check_public_ips(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut seen: HashMap<_, &Place> = HashMap::new();
    for (index, ip) in set.public_ips.iter().enumerate() {
        let spot: Spot<'_> = (&checker.spots.public_ips, &PUBLIC_IP, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &ip.place);
        check_interface(checker, &ip.interface, Role::Public, at(checker, "interface"));
        if let Some(first) = seen.get(&ip.address) {
            let what = format!("public address {} is already defined at {first}", ip.address);
            checker.error(at(checker, "address"), what, "delete one of the two");
            continue;
        }
        seen.insert(ip.address, &ip.place);
        let segment = Cidr::containing(ip.address, ip.prefix_len);
        if let Some(why) = unusable(ip.address) {
            let what = format!("{} is {why}", ip.address);
            checker.error(at(checker, "address"), what, "name an address of a public segment");
        } else if let Some(why) = no_host(segment, ip.address) {
            let what = format!("{} is the {why} of its segment {segment}", ip.address);
            checker.error(at(checker, "address"), what, "correct the address or \"prefix_len\"");
        }
        let Some(gateway) = ip.gateway else { continue };
        let wrong = if gateway == ip.address {
            Some("is the address itself".to_owned())
        } else if ip.prefix_len < 32 && !segment.contains(gateway) {
            Some(format!("is not in the segment {segment}"))
        } else {
            no_host(segment, gateway)
                .map(|why| format!("is the {why} of the segment {segment}"))
                .or_else(|| unusable(gateway).map(|why| format!("is {why}")))
        };
        if let Some(wrong) = wrong {
            let what = format!("gateway {gateway} {wrong}");
            checker.error(at(checker, "gateway"), what, "name the upstream router of this segment");
        }
    }
}

pub(super) fn check_networks(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut names: HashMap<&str, &Place> = HashMap::new();
    let mut tags: HashMap<(&str, Wire), (String, Option<&Network>)> = HashMap::new();
    for ip in &set.public_ips {
        let segment = format!("public address {} at {}", ip.address, ip.place);
        tags.entry((&ip.interface, Wire::Tagged(ip.vlan, None))).or_insert((segment, None));
    }
    for (index, network) in set.networks.iter().enumerate() {
        let spot: Spot<'_> = (&checker.spots.networks, &NETWORK, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &network.place);
        check_interface(checker, &network.interface, Role::Guest, at(checker, "interface"));
        if let Some(first) = names.insert(&network.name, &network.place) {
            let what = format!("network \"{}\" is already defined at {first}", network.name);
            checker.error(at(checker, "name"), what, "give each network its own name");
            continue;
        }
        let wire = match &network.vxlan {
            None => Wire::Tagged(network.vlan, network.outer_tag),
            Some(vxlan) => Wire::Vxlan(vxlan.vni),
        };
        match tags.get(&(network.interface.as_str(), wire)) {
            // Subnets of one segment: sources tell them apart, and they meet anyway.
            Some((_, Some(other)))
                if network.domain.is_some() && network.domain == other.domain => {}
            Some((other, of_network)) => {
                let tag = match wire {
                    Wire::Tagged(0, _) => "untagged".to_owned(),
                    Wire::Tagged(vlan, None) => format!("VLAN {vlan}"),
                    Wire::Tagged(vlan, Some(outer)) => format!("VLAN {}.{vlan}", outer.vlan),
                    Wire::Vxlan(vni) => format!("VNI {vni}"),
                };
                let what = format!("interface {} {tag} already carries {other}", network.interface);
                let field = match wire {
                    Wire::Tagged(0, _) => "interface",
                    Wire::Tagged(..) => "vlan",
                    Wire::Vxlan(_) => "vxlan",
                };
                let hint = match of_network {
                    None => OWN_TAG.to_owned(),
                    Some(_) => format!("{OWN_TAG}, or put both into one domain"),
                };
                checker.error(at(checker, field), what, hint);
            }
            None => {
                let this = format!("network \"{}\" at {}", network.name, network.place);
                tags.insert((&network.interface, wire), (this, Some(network)));
            }
        }
        check_network_addresses(checker, network, spot);
        check_pool(checker, network, spot);
    }
}

/// What tells networks of one interface apart.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
enum Wire {
    Tagged(u16, Option<OuterTag>),
    Vxlan(u32),
}

/// What to do about two on one tag.
const OWN_TAG: &str = "give each network an interface or a VLAN of its own";

fn check_network_addresses(checker: &mut Checker<'_>, network: &Network, spot: Spot<'_>) {
    let at = |checker: &Checker<'_>, name| checker.at(spot, name, &network.place);
    let (cidr, gateway) = (network.cidr, network.gateway);
    if cidr.length() > 31 {
        let what = format!("{cidr} has room for one address only");
        checker.error(
            at(checker, "cidr"),
            what,
            "a network needs a gateway and guests: /31 or wider",
        );
        return;
    }
    if cidr.length() < 8 {
        let what = format!("{cidr} is wider than any guest network");
        checker.error(at(checker, "cidr"), what, "write a prefix length of 8 or more");
        return;
    }
    if let Some(why) = unusable(cidr.first()) {
        let what = format!("{cidr} begins with {why}");
        checker.error(at(checker, "cidr"), what, "name a prefix for guests, such as 10.1.1.0/24");
    }
    let wrong = if cidr.contains(gateway) {
        no_host(cidr, gateway).map(|why| format!("is the {why} of {cidr}"))
    } else {
        Some(format!("is not in {cidr}"))
    };
    if let Some(wrong) = wrong {
        let what = format!("gateway {gateway} {wrong}");
        let hint = format!("name the router's address in {cidr}");
        checker.error(at(checker, "gateway"), what, hint);
    }
    if let Some(ip) = checker.public_ip_in(cidr) {
        let what =
            format!("{cidr} contains the public address {} (defined at {})", ip.address, ip.place);
        checker.warning(
            at(checker, "cidr"),
            what,
            "its guests cannot reach that address; use another prefix",
        );
    }
}

fn check_pool(checker: &mut Checker<'_>, network: &Network, spot: Spot<'_>) {
    let at = |checker: &Checker<'_>| checker.at(spot, "source_nat", &network.place);
    for (position, &address) in network.source_nat.iter().enumerate() {
        if network.source_nat.iter().take(position).any(|&earlier| earlier == address) {
            let what = format!("source NAT address {address} is listed twice");
            checker.error(at(checker), what, "list each address once");
            continue;
        }
        checker.require_public_ip(address, at);
    }
}

/// A network of a realm of its own whose guests may go anywhere, and have no address to leave with.
pub(super) fn check_ways_out(checker: &mut Checker<'_>) {
    let set = checker.set;
    // Whoever has faults to mend need not hear of what may come of them.
    let is_faulty = checker.faults.iter().any(|fault| fault.severity == Severity::Error);
    if is_faulty || checker.unread.any_rule || set.public_ips.is_empty() {
        return;
    }
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for network in &set.networks {
        *sizes.entry(realm(network)).or_default() += 1;
    }
    let with_static_nat: HashSet<&str> =
        set.static_nats.iter().map(|rule| rule.network.as_str()).collect();
    let steered: HashSet<&str> =
        set.policy_routes.iter().map(|route| route.network.as_str()).collect();
    let routed: HashSet<&str> = set.routes.iter().map(|route| route.domain.as_str()).collect();
    for (index, network) in set.networks.iter().enumerate() {
        let leaves = !network.source_nat.is_empty()
            || !network.nat.exempt.is_empty()
            || network.ipv6.is_some()
            || with_static_nat.contains(network.name.as_str())
            || steered.contains(network.name.as_str())
            || sizes.get(realm(network)).is_some_and(|size| *size > 1)
            || routed.contains(realm(network));
        if leaves || network.egress_default == Action::Deny {
            continue;
        }
        let spot: Spot<'_> = (&checker.spots.networks, &NETWORK, index);
        let place = checker.at(spot, "source_nat", &network.place);
        let what = format!(
            "guests of network \"{}\" reach nothing outside: it has no source NAT address",
            network.name
        );
        checker.warning(place, what, "list one in \"source_nat\", or deny by \"egress_default\"");
    }
}

/// Names of domains must not be mistaken for names of networks, and no two networks of one domain
/// may share an address.
pub(super) fn check_domains(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut members: Vec<(&str, Cidr, usize)> = Vec::with_capacity(set.networks.len());
    for (index, network) in set.networks.iter().enumerate() {
        members.push((realm(network), network.cidr, index));
        let Some(domain) = &network.domain else { continue };
        let Some(namesake) = checker.networks.get(domain.as_str()).copied() else { continue };
        if namesake.domain.is_none() {
            let spot = (&checker.spots.networks, &NETWORK, index);
            let place = checker.at(spot, "domain", &network.place);
            let what = format!(
                "domain \"{domain}\" is also the name of the network at {}, which is a domain of its own",
                namesake.place
            );
            checker.error(place, what, "rename the domain, or put that network into it");
        }
    }
    // Sorted, a prefix that overlaps anything overlaps the widest one that is still open.
    members
        .sort_unstable_by_key(|&(realm, cidr, index)| (realm, cidr.first(), cidr.length(), index));
    let mut open: Option<(&str, Cidr, usize)> = None;
    for (realm, cidr, index) in members {
        match open {
            Some((same, widest, first)) if same == realm && widest.overlaps(&cidr) => {
                let (earlier, later) = (first.min(index), first.max(index));
                let (Some(one), Some(other)) = (set.networks.get(earlier), set.networks.get(later))
                else {
                    continue;
                };
                // A network that is defined twice overlaps itself; that was said already.
                if one.name == other.name {
                    continue;
                }
                let spot = (&checker.spots.networks, &NETWORK, later);
                let place = checker.at(spot, "cidr", &other.place);
                let what = format!(
                    "{} overlaps {} of network \"{}\" at {}, in the same domain \"{realm}\"",
                    other.cidr, one.cidr, one.name, one.place
                );
                checker.error(place, what, "use another prefix, or another domain");
            }
            _ => open = Some((realm, cidr, index)),
        }
    }
}

pub(super) fn check_routes(checker: &mut Checker<'_>) {
    let set = checker.set;
    let mut realms: HashMap<&str, Vec<&Network>> = HashMap::new();
    for network in &set.networks {
        realms.entry(realm(network)).or_default().push(network);
    }
    let mut seen: HashMap<(&str, Cidr), &Place> = HashMap::new();
    for (index, route) in set.routes.iter().enumerate() {
        let spot: Spot<'_> = (&checker.spots.routes, &ROUTE, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &route.place);
        if let Some(first) = seen.insert((&route.domain, route.destination), &route.place) {
            let what = format!(
                "a route of \"{}\" to {} is already defined at {first}",
                route.domain, route.destination
            );
            checker.error(at(checker, "destination"), what, "delete one of the two");
        }
        let Some(networks) = realms.get(route.domain.as_str()) else {
            let unread = checker.unread.any_network || checker.unread.names.contains(&route.domain);
            if !unread {
                let what = format!("domain \"{}\" is not defined", route.domain);
                let near = crate::rules::fields::nearest(&route.domain, realms.keys().copied());
                let hint = near.map_or_else(
                    || "name a \"domain\" of a network, or a network without one".to_owned(),
                    |near| format!("did you mean \"{near}\"?"),
                );
                checker.error(at(checker, "domain"), what, hint);
            }
            continue;
        };
        let inside = |network: &&&Network| {
            network.cidr.overlaps(&route.destination)
                && route.destination.length() >= network.cidr.length()
        };
        if let Some(network) = networks.iter().find(inside) {
            let what = format!(
                "{} lies in the network \"{}\" itself: the route is never used",
                route.destination, network.name
            );
            checker.warning(at(checker, "destination"), what, "delete the route");
        }
        let wrong = match networks.iter().find(|network| network.cidr.contains(route.via)) {
            None if checker.unread.any_network => None,
            None => Some(format!("is in no network of \"{}\"", route.domain)),
            Some(network) if network.gateway == route.via => {
                Some(format!("is the router itself, in network \"{}\"", network.name))
            }
            Some(network) => no_host(network.cidr, route.via)
                .map(|why| format!("is the {why} of network \"{}\"", network.name)),
        };
        if let Some(wrong) = wrong {
            let what = format!("next hop {} {wrong}", route.via);
            let hint = "name a guest that forwards, in a network of this domain";
            checker.error(at(checker, "via"), what, hint);
        }
    }
}

/// Why `address` is no host of `cidr`: the first and last addresses of a prefix that has room for
/// more than two are the network's own (RFC 3021 for those that have not).
pub(super) fn no_host(cidr: Cidr, address: std::net::Ipv4Addr) -> Option<&'static str> {
    if cidr.length() > 30 {
        return None;
    }
    if address == cidr.first() {
        Some("network address")
    } else if address == cidr.last() {
        Some("broadcast address")
    } else {
        None
    }
}

pub(super) fn check_interface(checker: &mut Checker<'_>, name: &str, role: Role, place: Place) {
    let Some(config) = checker.config else { return };
    let said = match role {
        Role::Guest => "guest",
        Role::Public => "public",
    };
    match config.interfaces.iter().find(|interface| interface.name == name) {
        Some(interface) if interface.role == role => {}
        Some(_) => {
            let what = format!("interface {name} does not have the role \"{said}\"");
            checker.error(
                place,
                what,
                "name another interface, or change its role in the configuration",
            );
        }
        None => {
            let known: Vec<_> = config
                .interfaces
                .iter()
                .filter(|interface| interface.role == role)
                .map(|interface| interface.name.as_str())
                .collect();
            let what = format!("interface {name} is not in the configuration");
            let hint = match known.as_slice() {
                [] => format!("add an [[interface]] with the role \"{said}\" to the configuration"),
                known => format!("the {said} interfaces there are {}", known.join(", ")),
            };
            checker.error(place, what, hint);
        }
    }
}
