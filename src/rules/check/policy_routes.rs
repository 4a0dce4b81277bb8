//! Policy routes: each with an id of its own, about a network that there is, with next hops that are somewhere.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::{Checker, Spot, realm};
use crate::rules::diagnostic::Place;
use crate::rules::native::POLICY_ROUTE;
use crate::rules::set::{Cidr, Network, PolicyHop, PolicyRoute, PublicIp};

pub(super) fn check_policy_routes(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for (index, route) in set.policy_routes.iter().enumerate() {
        let spot: Spot<'_> = (&spots.policy_routes, &POLICY_ROUTE, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &route.place);
        if let Some(first) = seen.insert(&route.id, &route.place) {
            let what = format!("policy route \"{}\" is already defined at {first}", route.id);
            checker.error(at(checker, "id"), what, "give each policy route its own id");
        }
        let network = checker.require_network(&route.network, |checker| at(checker, "network"));
        let Some(network) = network else { continue };
        for hop in &route.routes {
            check_hop(checker, route, network, hop, &at(checker, "routes"));
        }
    }
}

fn check_hop(
    checker: &mut Checker<'_>,
    route: &PolicyRoute,
    network: &Network,
    hop: &PolicyHop,
    place: &Place,
) {
    for &address in &hop.source_nat {
        checker.require_public_ip(address, |_| place.clone());
    }
    let Some(via) = hop.via else { return };
    let mut inside = checker.set.networks.iter().filter(|it| realm(it) == realm(network));
    if let Some(with) = inside.find(|it| it.cidr.contains(via)) {
        if with.gateway == via {
            let what = format!("next hop {via} is the router itself, in network \"{}\"", with.name);
            checker.error(place.clone(), what, "name a guest that forwards, or a router outside");
        }
        return;
    }
    let Some(public) = segment_of(&checker.set.public_ips, via) else {
        if !checker.unread.any_network && !checker.unread.any_address {
            let what = format!(
                "next hop {via} is in no network of \"{}\" and on no public segment",
                realm(network)
            );
            let hint = "name a guest that forwards, or a router beside a public address";
            checker.error(place.clone(), what, hint);
        }
        return;
    };
    let there = (public.interface.as_str(), public.vlan);
    let is_there = |address: &Ipv4Addr| {
        let found = checker.public_ips.get(address);
        found.is_some_and(|found| (found.interface.as_str(), found.vlan) == there)
    };
    let elsewhere = hop.source_nat.iter().find(|address| !is_there(address)).copied();
    if let Some(address) = elsewhere.filter(|it| checker.public_ips.contains_key(it)) {
        let what = format!("{address} is not on {}, where next hop {via} is", public.interface);
        checker.error(place.clone(), what, "list addresses of that interface in \"source_nat\"");
        return;
    }
    let has_address = !hop.source_nat.is_empty() || network.source_nat.iter().any(is_there);
    let is_exempt = network.nat.exempt.iter().any(|exempt| exempt.length() == 0);
    if !has_address && !is_exempt {
        let what = format!(
            "guests of network \"{}\" have no address on {} for policy route \"{}\"",
            network.name, public.interface, route.id
        );
        let hint =
            "only guests with static NAT there get through: list addresses in \"source_nat\"";
        checker.warning(place.clone(), what, hint);
    }
}

/// The public address beside which a router is.
fn segment_of(addresses: &[PublicIp], via: Ipv4Addr) -> Option<&PublicIp> {
    addresses.iter().find(|ip| {
        let segment = Cidr::containing(ip.address, ip.prefix_len);
        segment.contains(via) || ip.gateway == Some(via)
    })
}
