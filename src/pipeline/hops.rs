//! Where the packets of a new session go next, in both directions.

use std::net::Ipv4Addr;

use crate::flow::{FlowKey, NetworkId, Realm};
use crate::next_hop::{Neighbor, NextHopId};
use crate::pipeline::plan::neighbor;
use crate::policy::Policy;
use crate::policy::ways::Way;
use crate::session::entry::SessionKind;
use crate::verdict::DropReason;

/// Who packets go to next, and whether limits are to be asked on the way.
#[derive(Clone, Copy)]
pub(super) struct NextHop {
    pub(super) neighbor: Neighbor,
    limited: bool,
}

impl NextHop {
    /// The id of the neighbour, so that limits are asked where there are some.
    pub(super) const fn watch(&self, id: NextHopId) -> NextHopId {
        if self.limited { id.watched() } else { id }
    }
}

/// The next hops of a session of `kind`: of the initiator's packets, by `way` if a policy route says so, and
/// of the answers. What one end is limited to holds for packets from there as for packets to there.
pub(super) fn next_hops(
    policy: &Policy,
    way: Option<&Way>,
    kind: SessionKind,
    [initiator, responder]: [&FlowKey; 2],
) -> Result<[NextHop; 2], DropReason> {
    let public = public_side(kind, initiator, responder.destination.address);
    let hop = |way, end: &FlowKey| next_hop(policy, way, (end.realm, end.source.address), public);
    let hops = [hop(way, responder)?, hop(None, initiator)?];
    let limited = hops.iter().any(|hop| hop.limited);
    Ok(hops.map(|hop| NextHop { limited, ..hop }))
}

/// The same of a session that a guest of `home` opens to a stranger, who sees it as `public`.
#[inline(always)]
pub(super) fn next_hops_of_guest(
    policy: &Policy,
    home: NetworkId,
    guest: Ipv4Addr,
    public: Ipv4Addr,
) -> Result<[NextHop; 2], DropReason> {
    let there = policy.route_to_stranger(public).ok_or(DropReason::NoRoute)?;
    let there = Neighbor { port: there.port, vlan: there.vlan, address: there.next_hop.into() };
    let back = policy.route_to_guest(home, guest).ok_or(DropReason::NoRoute)?;
    let network = policy.network(back.network);
    let back = Neighbor { port: network.port, vlan: network.vlan, address: back.next_hop.into() };
    let limited = network.rate_limits.is_some() || policy.address_limits(public).is_some();
    Ok([NextHop { neighbor: there, limited }, NextHop { neighbor: back, limited }])
}

/// The next hop of packets to `address` in `realm`, by `way` if a policy route says so.
fn next_hop(
    policy: &Policy,
    way: Option<&Way>,
    (realm, address): (Realm, Ipv4Addr),
    public: Option<Ipv4Addr>,
) -> Result<NextHop, DropReason> {
    let mut limited = false;
    let neighbor = match (way, realm) {
        (Some(way), _) => {
            if let Way::Guest { network, .. } = way {
                limited = policy.network(*network).rate_limits.is_some();
            }
            neighbor(way, policy).ok_or(DropReason::NoRoute)?
        }
        (None, Realm::Internal(realm)) => {
            let route = policy.internal_route(realm, address).ok_or(DropReason::NoRoute)?;
            let network = policy.network(route.network);
            limited = network.rate_limits.is_some();
            Neighbor { port: network.port, vlan: network.vlan, address: route.next_hop.into() }
        }
        (None, Realm::External) => {
            let route = policy.external_route(public, address).ok_or(DropReason::NoRoute)?;
            Neighbor { port: route.port, vlan: route.vlan, address: route.next_hop.into() }
        }
    };
    limited |= public.is_some_and(|public| policy.address_limits(public).is_some());
    Ok(NextHop { neighbor, limited })
}

/// The public address that a session's remote knows, if there is one.
fn public_side(kind: SessionKind, initiator: &FlowKey, translated: Ipv4Addr) -> Option<Ipv4Addr> {
    match kind {
        SessionKind::Inbound => Some(initiator.destination.address),
        SessionKind::SourceNat | SessionKind::StaticNat => Some(translated),
        SessionKind::Hairpin | SessionKind::HairpinStatic | SessionKind::Routed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, Generation, Protocol};
    use crate::policy::compile::compile;
    use crate::policy::registry::Registry;
    use crate::policy::samples::{config, ip, network, public_ip, route};
    use crate::rules::set::RuleSet;

    #[test]
    fn the_short_way_to_the_next_hops_of_guest_and_stranger_leads_to_the_same() {
        let mut tiers = ["10.1.1.0/24", "10.1.2.0/24"].map(|cidr| network(cidr, 7, cidr));
        for tier in &mut tiers {
            tier.domain = Some("vpc".to_owned());
            tier.source_nat = vec![ip("203.0.113.10"), ip("198.51.100.20")];
        }
        tiers[1].vlan = 8;
        let rules = RuleSet {
            public_ips: ["203.0.113.10", "198.51.100.20"].map(public_ip).to_vec(),
            networks: tiers.to_vec(),
            routes: vec![route("vpc", "10.1.1.64/26", "10.1.2.3")],
            ..RuleSet::default()
        };
        let policy = compile(&rules, &config(), &mut Registry::new(), Generation(1));
        for (number, home) in (0..).zip(policy.networks()) {
            let guests = ["10.1.1.5", "10.1.1.70", "10.1.2.9", "192.0.2.1"].map(ip);
            for (guest, public) in guests.into_iter().flat_map(|guest| {
                ["203.0.113.10", "198.51.100.20", "203.0.113.99"].map(|public| (guest, ip(public)))
            }) {
                let remote = Endpoint::new(ip("8.8.8.8"), 53);
                let key = |realm, source, destination| FlowKey {
                    realm,
                    protocol: Protocol::UDP,
                    source,
                    destination,
                };
                let initiator = key(Realm::Internal(home.realm), Endpoint::new(guest, 9), remote);
                let responder = key(Realm::External, remote, Endpoint::new(public, 9));
                assert!(policy.is_stranger_to(NetworkId(number), remote.address));
                let simple = |hops: Result<[NextHop; 2], DropReason>| {
                    hops.map(|hops| hops.map(|hop| (hop.neighbor, hop.limited)))
                };
                let keys = [&initiator, &responder];
                assert_eq!(
                    simple(next_hops_of_guest(&policy, NetworkId(number), guest, public)),
                    simple(next_hops(&policy, None, SessionKind::SourceNat, keys)),
                );
            }
        }
    }
}
