//! What serves public addresses: does it lead to guests, and does it clash with the rest.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::addresses::no_host;
use super::{Checker, Spot, realm};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::names::{RuleKind, RuleName};
use crate::rules::native::{
    EGRESS_RULE, FIREWALL_RULE, IPV6_FIREWALL_RULE, LOAD_BALANCER, LOCAL_SERVICE, MEMBER,
    PORT_FORWARD, STATIC_NAT,
};
use crate::rules::set::{Cidr, Network, PortForward, PortRange};

/// Ids are unique among the rules of one kind.
pub(super) fn check_ids(checker: &mut Checker<'_>) {
    let set = checker.set;
    let spots = checker.spots;
    let egress = set.egress_rules.iter().map(|rule| (&rule.id, &rule.place));
    check_ids_of(checker, RuleKind::EgressRule, egress, |i| (&spots.egress_rules, &EGRESS_RULE, i));
    let firewall = set.firewall_rules.iter().map(|rule| (&rule.id, &rule.place));
    check_ids_of(checker, RuleKind::FirewallRule, firewall, |index| {
        (&spots.firewall_rules, &FIREWALL_RULE, index)
    });
    let ipv6 = set.ipv6_firewall_rules.iter().map(|rule| (&rule.id, &rule.place));
    check_ids_of(checker, RuleKind::Ipv6FirewallRule, ipv6, |index| {
        (&spots.ipv6_firewall_rules, &IPV6_FIREWALL_RULE, index)
    });
    let forwards = set.port_forwards.iter().map(|rule| (&rule.id, &rule.place));
    check_ids_of(checker, RuleKind::PortForward, forwards, |index| {
        (&spots.port_forwards, &PORT_FORWARD, index)
    });
    let static_nats = set.static_nats.iter().map(|rule| (&rule.id, &rule.place));
    check_ids_of(checker, RuleKind::StaticNat, static_nats, |index| {
        (&spots.static_nats, &STATIC_NAT, index)
    });
    let balancers = set.load_balancers.iter().map(|rule| (&rule.id, &rule.place));
    check_ids_of(checker, RuleKind::LoadBalancer, balancers, |index| {
        (&spots.load_balancers, &LOAD_BALANCER, index)
    });
}

fn check_ids_of<'a>(
    checker: &mut Checker<'a>,
    kind: RuleKind,
    rules: impl Iterator<Item = (&'a String, &'a Place)>,
    spot: impl Fn(usize) -> Spot<'a>,
) {
    let mut seen: HashMap<&str, &Place, ahash::RandomState> = HashMap::default();
    for (index, (id, place)) in rules.enumerate() {
        if let Some(first) = seen.get(id.as_str()) {
            let what = format!("{kind} \"{id}\" is already defined at {first}");
            let at = checker.at(spot(index), "id", place);
            checker.error(at, what, format!("give each {kind} its own id"));
            continue;
        }
        seen.insert(id, place);
    }
}

/// Every service is on a defined address and leads to guests of a defined network.
pub(super) fn check_services(checker: &mut Checker<'_>) {
    let set = checker.set;
    let spots = checker.spots;
    for (index, rule) in set.port_forwards.iter().enumerate() {
        let at = Target { spot: (&spots.port_forwards, &PORT_FORWARD, index), place: &rule.place };
        check_target(checker, &at, rule.public_ip, &rule.network, rule.guest_ip);
    }
    for (index, rule) in set.static_nats.iter().enumerate() {
        let at = Target { spot: (&spots.static_nats, &STATIC_NAT, index), place: &rule.place };
        check_target(checker, &at, rule.public_ip, &rule.network, rule.guest_ip);
    }
    let mut member_index = 0;
    for (index, rule) in set.load_balancers.iter().enumerate() {
        let at =
            Target { spot: (&spots.load_balancers, &LOAD_BALANCER, index), place: &rule.place };
        let network = check_target(checker, &at, rule.public_ip, &rule.network, None);
        let mut seen = HashMap::new();
        for member in &rule.members {
            let at = Target { spot: (&spots.members, &MEMBER, member_index), place: &rule.place };
            member_index += 1;
            if let Some(network) = network {
                check_guest(checker, &at, network, member.guest_ip);
            }
            let place = checker.at(at.spot, "guest_ip", at.place);
            if let Some(first) = seen.insert((member.guest_ip, member.guest_port), place.clone()) {
                let what = format!(
                    "member {}:{} is already listed at {first}",
                    member.guest_ip, member.guest_port
                );
                checker.error(place, what, "list each member once, with a weight");
            }
        }
    }
    for (index, service) in set.local_services.iter().enumerate() {
        let spot = (&spots.local_services, &LOCAL_SERVICE, index);
        checker.require_public_ip(service.address, |checker| {
            checker.at(spot, "address", &service.place)
        });
    }
}

/// A rule that leads to guests, for its places.
struct Target<'a> {
    spot: Spot<'a>,
    place: &'a Place,
}

fn check_target<'a>(
    checker: &mut Checker<'a>,
    at: &Target<'_>,
    public_ip: Ipv4Addr,
    network: &str,
    guest_ip: Option<Ipv4Addr>,
) -> Option<&'a Network> {
    checker.require_public_ip(public_ip, |checker| checker.at(at.spot, "public_ip", at.place));
    let network =
        checker.require_network(network, |checker| checker.at(at.spot, "network", at.place))?;
    if let Some(guest_ip) = guest_ip {
        check_guest(checker, at, network, guest_ip);
    }
    Some(network)
}

fn check_guest(checker: &mut Checker<'_>, at: &Target<'_>, network: &Network, guest: Ipv4Addr) {
    let wrong = if !network.cidr.contains(guest) {
        format!("is not in {} of network \"{}\"", network.cidr, network.name)
    } else if guest == network.gateway {
        format!("is the gateway of network \"{}\"", network.name)
    } else if let Some(why) = no_host(network.cidr, guest) {
        format!("is the {why} of network \"{}\"", network.name)
    } else {
        return;
    };
    let place = checker.at(at.spot, "guest_ip", at.place);
    let hint = format!("name a guest's address in {}, or another network", network.cidr);
    checker.error(place, format!("guest {guest} {wrong}"), hint);
}

/// A public port that somebody claims.
struct Claim<'a> {
    address: Ipv4Addr,
    protocol: Protocol,
    ports: PortRange,
    kind: RuleKind,
    id: &'a str,
    place: &'a Place,
    spot: Spot<'a>,
    field: &'static str,
}

/// No two rules claim one public port.
pub(super) fn check_claims(checker: &mut Checker<'_>) {
    let mut claims = claims(checker);
    claims.sort_by_key(|claim| (claim.address, claim.protocol, claim.ports.first()));
    let mut widest: Option<&Claim<'_>> = None;
    for claim in &claims {
        let clash = widest.filter(|other| {
            (other.address, other.protocol) == (claim.address, claim.protocol)
                && other.ports.overlaps(&claim.ports)
        });
        if let Some(other) = clash {
            report_clash(checker, claim, other);
            if claim.ports.last() <= other.ports.last() {
                continue;
            }
        }
        widest = Some(claim);
    }
}

fn claims<'a>(checker: &Checker<'a>) -> Vec<Claim<'a>> {
    let (set, spots) = (checker.set, checker.spots);
    let mut sharing = Sharing::default();
    let forwards = set.port_forwards.iter().enumerate();
    let forwards = forwards.filter(|(_, rule)| !sharing.joins(rule));
    let forwards: Vec<_> = forwards.collect();
    let forwards = forwards.into_iter().map(|(index, rule)| Claim {
        address: rule.public_ip,
        protocol: rule.protocol,
        ports: rule.public_ports,
        kind: RuleKind::PortForward,
        id: &rule.id,
        place: &rule.place,
        spot: (&spots.port_forwards, &PORT_FORWARD, index),
        field: "public_ports",
    });
    let balancers = set.load_balancers.iter().enumerate().map(|(index, rule)| Claim {
        address: rule.public_ip,
        protocol: rule.protocol,
        ports: PortRange::new(rule.public_port.get(), rule.public_port.get())
            .unwrap_or(PortRange::ALL),
        kind: RuleKind::LoadBalancer,
        id: &rule.id,
        place: &rule.place,
        spot: (&spots.load_balancers, &LOAD_BALANCER, index),
        field: "public_port",
    });
    let services = set.local_services.iter().enumerate().map(|(index, service)| Claim {
        address: service.address,
        protocol: service.protocol,
        ports: service.ports.unwrap_or(PortRange::ALL),
        kind: RuleKind::LocalService,
        id: "",
        place: &service.place,
        spot: (&spots.local_services, &LOCAL_SERVICE, index),
        field: if service.ports.is_some() { "ports" } else { "protocol" },
    });
    forwards.chain(balancers).chain(services).collect()
}

/// Port forwards of the same ports, which may be several if each is for sources of its own.
#[derive(Default)]
struct Sharing<'a> {
    by_ports: HashMap<(Ipv4Addr, Protocol, PortRange), Vec<&'a PortForward>, ahash::RandomState>,
}

impl<'a> Sharing<'a> {
    /// Whether `rule` shares its ports with forwards before it, none of which is for its sources.
    fn joins(&mut self, rule: &'a PortForward) -> bool {
        let key = (rule.public_ip, rule.protocol, rule.public_ports);
        let before = self.by_ports.entry(key).or_default();
        let apart = |other: &&PortForward| {
            let overlap = |cidr: &Cidr| other.sources.iter().any(|known| known.overlaps(cidr));
            !other.sources.is_empty() && !rule.sources.iter().any(overlap)
        };
        let joins = !before.is_empty() && !rule.sources.is_empty() && before.iter().all(apart);
        if joins || before.is_empty() {
            before.push(rule);
        }
        joins
    }
}

fn report_clash(checker: &mut Checker<'_>, one: &Claim<'_>, other: &Claim<'_>) {
    // The later of the two is told; rules that were written first keep their port.
    let order = |claim: &Claim<'_>| {
        let file = checker.sources.iter().position(|source| **source.file() == *claim.place.file);
        (file, claim.place.line, claim.place.column)
    };
    let (first, second) = if order(one) < order(other) { (one, other) } else { (other, one) };
    let name = |claim: &Claim<'_>| match claim.kind {
        RuleKind::LocalService => "a local service".to_owned(),
        kind => RuleName { kind, id: claim.id.to_owned() }.to_string(),
    };
    let ports = second.ports.to_string();
    let what = format!(
        "{} {}:{ports} is already claimed by {} ({}) at {}",
        second.protocol,
        second.address,
        name(first),
        first.ports,
        first.place
    );
    let place = checker.at(second.spot, second.field, second.place);
    checker.error(place, what, "use another public port or another public address");
}

/// Static NAT takes a public address whole.
pub(super) fn check_static_nats(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut owners: HashMap<Ipv4Addr, (&str, &Place), ahash::RandomState> = HashMap::default();
    let mut guests: HashMap<(&str, Ipv4Addr), (&str, &Place)> = HashMap::new();
    for (index, rule) in set.static_nats.iter().enumerate() {
        let spot: Spot<'_> = (&spots.static_nats, &STATIC_NAT, index);
        if let Some((id, place)) = owners.get(&rule.public_ip) {
            let what = format!(
                "public address {} already belongs to static NAT \"{id}\" at {place}",
                rule.public_ip
            );
            let at = checker.at(spot, "public_ip", &rule.place);
            checker.error(at, what, "use another public address, or delete one of the two");
            continue;
        }
        owners.insert(rule.public_ip, (&rule.id, &rule.place));
        let Some((guest, network)) =
            rule.guest_ip.zip(checker.networks.get(rule.network.as_str()).copied())
        else {
            continue;
        };
        if let Some((id, place)) = guests.get(&(realm(network), guest)) {
            let what = format!("guest {guest} already has static NAT \"{id}\" at {place}");
            let at = checker.at(spot, "guest_ip", &rule.place);
            checker.warning(at, what, "it leaves with the first one's address");
            continue;
        }
        guests.insert((realm(network), guest), (&rule.id, &rule.place));
    }
    if owners.is_empty() {
        return;
    }
    let hidden = |kind: &RuleKind| matches!(kind, RuleKind::PortForward | RuleKind::LoadBalancer);
    for claim in claims(checker).iter().filter(|claim| hidden(&claim.kind)) {
        let Some((id, place)) = owners.get(&claim.address) else { continue };
        let what = format!(
            "{} \"{}\" never gets a packet: static NAT \"{id}\" at {place} has all of {}",
            claim.kind, claim.id, claim.address
        );
        let at = checker.at(claim.spot, "public_ip", claim.place);
        checker.warning(at, what, "use another public address for one of the two");
    }
    warn_of_pools(checker, &owners);
}

fn warn_of_pools(
    checker: &mut Checker<'_>,
    owners: &HashMap<Ipv4Addr, (&str, &Place), ahash::RandomState>,
) {
    let (set, spots) = (checker.set, checker.spots);
    for (index, network) in set.networks.iter().enumerate() {
        for address in &network.source_nat {
            let Some((id, place)) = owners.get(address) else { continue };
            let spot = (&spots.networks, &super::super::native::NETWORK, index);
            let at = checker.at(spot, "source_nat", &network.place);
            let what =
                format!("source NAT address {address} belongs to static NAT \"{id}\" at {place}");
            checker.warning(at, what, "guests that share an address with a static NAT lose unsolicited packets to it; use another");
        }
    }
}
