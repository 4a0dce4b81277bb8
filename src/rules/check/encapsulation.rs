//! Networks under two tags and inside VXLAN.

use std::collections::HashMap;

use super::{Checker, Spot, unusable};
use crate::rules::native::NETWORK;
use crate::rules::set::{Cidr, Network, Vxlan};

/// Whatever is wrong with how networks are reached. Which two claim the same is asked with all others.
pub(super) fn check_encapsulation(checker: &mut Checker<'_>) {
    let set = checker.set;
    let (mut tagged, mut tunnelled) = (0, 0);
    let untagged: HashMap<&str, &Network> = set
        .networks
        .iter()
        .filter(|it| it.vlan == 0 && it.outer_tag.is_none() && it.vxlan.is_none())
        .map(|network| (network.interface.as_str(), network))
        .collect();
    for (index, network) in set.networks.iter().enumerate() {
        let spot: Spot<'_> = (&checker.spots.networks, &NETWORK, index);
        if let Some(vxlan) = &network.vxlan {
            tunnelled += 1;
            check_vxlan(checker, network, vxlan, spot);
            if let Some(neighbor) = untagged.get(network.interface.as_str()) {
                let at = checker.at(spot, "vxlan", &network.place);
                let what = format!(
                    "guests of network \"{}\" are on the underlay and can send as any VTEP",
                    neighbor.name
                );
                checker.warning(at, what, "give that network a VLAN, or another interface");
            }
        }
        if network.outer_tag.is_some() {
            tagged += 1;
            if network.vlan == 0 {
                let at = checker.at(spot, "outer_tag", &network.place);
                let what = "an outer tag without an inner one".to_owned();
                checker.error(at, what, "write the inner VLAN as \"vlan\", or this one instead");
            }
        }
        let is_encapsulated = network.outer_tag.is_some() || network.vxlan.is_some();
        if is_encapsulated && network.ipv6.is_some() {
            let at = checker.at(spot, "ipv6", &network.place);
            let what = "IPv6 under two tags or inside VXLAN".to_owned();
            checker.error(at, what, "the kernel has no interface there for neighbour discovery");
        }
        for (count, name) in [(tagged, "outer_tag"), (tunnelled, "vxlan")] {
            if count == ENCAPSULATED_MAX + 1 {
                let at = checker.at(spot, name, &network.place);
                let what = format!("more than {ENCAPSULATED_MAX} networks have \"{name}\"");
                checker.error(at, what, "spread them over several routers");
                return;
            }
        }
    }
    for (index, balancer) in set.load_balancers.iter().enumerate() {
        let Some(network) = checker.networks.get(balancer.network.as_str()) else { continue };
        let is_encapsulated = network.outer_tag.is_some() || network.vxlan.is_some();
        if is_encapsulated && balancer.health_check.is_some() {
            let section = &crate::rules::native::LOAD_BALANCER;
            let spot: Spot<'_> = (&checker.spots.load_balancers, section, index);
            let at = checker.at(spot, "health_check", &balancer.place);
            let what = format!("members in network \"{}\" cannot be checked", network.name);
            checker.error(at, what, "the kernel, which asks them, has no interface there");
        }
    }
}

fn check_vxlan(checker: &mut Checker<'_>, network: &Network, vxlan: &Vxlan, spot: Spot<'_>) {
    let place = checker.at(spot, "vxlan", &network.place);
    let mut fault = |what: String, hint: &str| checker.error(place.clone(), what, hint);
    if network.vlan != 0 || network.outer_tag.is_some() {
        let hint = "the underlay is untagged, and so is what is inside";
        fault("a VXLAN network with a VLAN tag".to_owned(), hint);
    }
    let segment = Cidr::containing(vxlan.local, vxlan.prefix_len);
    let named = [(vxlan.local, "local")].into_iter();
    let named = named.chain(vxlan.remotes.iter().map(|remote| (*remote, "remote")));
    for (address, name) in named {
        if let Some(why) = unusable(address) {
            fault(format!("{name} {address} is {why}"), "name the address of a VTEP");
        }
    }
    for remote in &vxlan.remotes {
        if *remote == vxlan.local {
            fault(format!("remote {remote} is \"local\" itself"), "name the other VTEPs");
        } else if vxlan.next_hop(*remote).is_none() {
            let what = format!("nothing leads to remote {remote}: it is not in {segment}");
            fault(what, "name the underlay's router as \"gateway\"");
        }
    }
    if let Some(gateway) = vxlan.gateway
        && (!segment.contains(gateway) || gateway == vxlan.local)
    {
        let what = format!("gateway {gateway} is not another address of {segment}");
        fault(what, "name the underlay's router");
    }
    if vxlan.remotes.is_empty() && !vxlan.learning {
        fault("no VTEP takes part".to_owned(), "list some as \"remotes\", or allow \"learning\"");
    }
}

/// Networks that can have a stand-in of their own.
const ENCAPSULATED_MAX: u32 = 4094;
