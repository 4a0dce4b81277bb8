//! How a session is to be opened: what a decision asks of the slow path.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, NetworkId, RealmId, RuleId};
use crate::nat::mappings::Pool;
use crate::next_hop::Neighbor;
use crate::policy::ways::Way;
use crate::policy::{Balancer, Policy};
use crate::session::entry::SessionKind;

/// How a session is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// The kind of session.
    pub kind: SessionKind,
    /// The rule that made it what it is: its forward, static NAT, source NAT, or the filter's rule
    /// where nothing is translated. The session counts for it.
    pub rule: RuleId,
    /// The filter's rule that let it pass, which counts the first packet, as a chain that lets
    /// established traffic pass before its rules does.
    pub admitted_by: RuleId,
    /// What becomes of the source.
    pub source: Source,
    /// Who gets it.
    pub target: Target<'p>,
    /// Whether the target is a stranger to the guest who sends: see [`Policy::is_stranger_to`].
    pub to_stranger: bool,
    /// Whether it came through a mapping that the session must hold.
    pub through_mapping: bool,
    /// The way that a policy route sends the initiator's packets.
    pub way: Option<&'p Way>,
}

impl<'p> Plan<'p> {
    /// A session that holds no mapping at its target. The rules are the one that made it what it is and
    /// the filter's.
    #[must_use]
    pub const fn new(
        kind: SessionKind,
        (rule, admitted_by): (RuleId, RuleId),
        source: Source,
        target: Target<'p>,
    ) -> Self {
        Self {
            kind,
            rule,
            admitted_by,
            source,
            target,
            to_stranger: false,
            through_mapping: false,
            way: None,
        }
    }

    /// The pool that the source is translated through, if it is.
    #[must_use]
    pub fn pool(&self, policy: &'p Policy) -> Option<&'p Pool> {
        match (self.source, self.way) {
            (Source::Pool(_), Some(Way::Outside { pool, .. })) => pool.as_ref(),
            (source, _) => source.pool(policy),
        }
    }

    /// Whether nobody is there for a new session. Drained members keep those that they have.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        match self.target {
            Target::Balanced(balancer) => balancer.members.iter().all(|(_, weight)| *weight == 0),
            Target::External(_) | Target::Guest { .. } => false,
        }
    }
}

/// What becomes of the source of a session's first packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// Its address becomes the router's in this network, which the packet enters from another of the
    /// realm.
    Gateway(NetworkId),
    /// It stays.
    Keep,
    /// It is translated through the source-NAT pool of this network.
    Pool(NetworkId),
    /// Its address becomes this one, its port stays.
    Static(Ipv4Addr),
}

impl Source {
    /// The pool that it is translated through, if it is.
    #[must_use]
    pub fn pool(self, policy: &Policy) -> Option<&Pool> {
        match self {
            Self::Gateway(network) => policy.network(network).gateway_pool.as_ref(),
            Self::Keep | Self::Static(_) => None,
            Self::Pool(network) => policy.network(network).pool.as_ref(),
        }
    }
}

/// Who gets a session's first packet.
#[derive(Clone, Copy, Debug)]
pub enum Target<'p> {
    /// One of a balancer's members, yet to be chosen.
    Balanced(&'p Balancer),
    /// This remote, on the public side.
    External(Endpoint),
    /// A guest.
    Guest {
        /// Its network.
        network: NetworkId,
        /// The guest.
        guest: Endpoint,
    },
}

impl Target<'_> {
    /// The realm that it is in; none outside.
    #[must_use]
    pub fn realm(&self, policy: &Policy) -> Option<RealmId> {
        let network = match self {
            Self::Balanced(balancer) => balancer.network,
            Self::External(_) => return None,
            Self::Guest { network, .. } => *network,
        };
        Some(policy.network(network).realm)
    }
}

/// The next hop of a way; none of a blackhole.
#[must_use]
pub fn neighbor(way: &Way, policy: &Policy) -> Option<Neighbor> {
    let (port, vlan, via) = match way {
        Way::Blackhole => return None,
        Way::Guest { network, via } => {
            let network = policy.network(*network);
            (network.port, network.vlan, *via)
        }
        Way::Outside { port, vlan, via, .. } => (*port, *vlan, *via),
    };
    Some(Neighbor { port, vlan, address: via.into() })
}
