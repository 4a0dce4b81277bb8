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
    Ok([there, back].map(|neighbor| NextHop { neighbor, limited }))
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
