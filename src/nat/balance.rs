//! The choice among a load balancer's members.

use std::net::Ipv4Addr;

use crate::flow::Endpoint;
use crate::policy::Balancer;

/// The member for a new client: by the balancer's algorithm, never one of weight zero.
///
/// `turn` goes up by one for each session of this balancer (round robin); `sessions` says how many a
/// member has now (least connections). Source hashing moves only the clients of a member that goes
/// (rendezvous hashing), whatever the order of members.
#[must_use]
pub fn choose(
    balancer: &Balancer,
    client: Ipv4Addr,
    turn: u64,
    sessions: impl Fn(Endpoint) -> u32,
) -> Option<Endpoint> {
    todo!()
}
