//! Limits of bandwidth and packet rate. Sessions of limited networks and addresses say so in their next hops,
//! which leave no packet to the fast path, so nobody else is asked.

use std::net::IpAddr;

use crate::flow::{Endpoint, PortId, Protocol};
use crate::nat::limits::Way;
use crate::next_hop::{Link, NextHopId};
use crate::policy::address_limits::Passing;
use crate::policy::{Attachment, Policy};
use crate::session::entry::SessionKind;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::parse::Parsed;

/// A packet whose limits are asked for.
pub(super) struct Charge {
    /// What it came in by.
    pub attachment: Attachment,
    /// Who sent it, before translation.
    pub source: IpAddr,
    /// Who gets it, after translation.
    pub destination: IpAddr,
    /// Its length.
    pub bytes: u16,
    /// Whose packet it is.
    pub worker: usize,
    /// The public endpoint that it passes, and which way.
    pub public: Option<(Passing, Endpoint)>,
}

/// The public endpoint that a packet of a session passes. An ICMP identifier is no port.
pub(super) fn passing(
    attachment: Attachment,
    kind: SessionKind,
    packet: &Parsed,
    leaves_as: Endpoint,
) -> Option<(Passing, Endpoint)> {
    let (passing, endpoint) = match (kind, attachment) {
        (SessionKind::Hairpin | SessionKind::HairpinStatic | SessionKind::Routed, _) => {
            return None;
        }
        (_, Attachment::Public) => (Passing::In, packet.destination),
        (_, Attachment::Guest(_)) => (Passing::Out, leaves_as),
    };
    let port = if packet.protocol == Protocol::ICMP { 0 } else { endpoint.port };
    Some((passing, Endpoint::new(endpoint.address, port)))
}

impl Charge {
    /// Takes the packet from what its sender's and its receiver's networks may use, and the public
    /// address that it passes.
    ///
    /// # Errors
    /// When one of them has no more.
    pub fn take(
        &self,
        hop: NextHopId,
        link: &Link,
        policy: &Policy,
        now: Tick,
    ) -> Result<(), DropReason> {
        if let Attachment::Guest(id) = self.attachment
            && let Some(limits) = &policy.network(id).rate_limits
        {
            limits.take(Way::Sent, self.source, self.bytes, self.worker, now)?;
        }
        if !hop.is_watched() {
            return Ok(());
        }
        if let Some((passing, public)) = self.public
            && let Some(limits) = policy.address_limits(public.address)
            && let Some(limit) = limits.find(passing, public.port)
        {
            limit.take(self.worker, self.bytes, now)?;
        }
        match receiver(self.destination, link.port, link.vlan, policy) {
            Some(limits) => {
                limits.take(Way::Received, self.destination, self.bytes, self.worker, now)
            }
            None => Ok(()),
        }
    }
}

/// The limits of the network on `port` under `vlan` that `guest` is in.
fn receiver(
    guest: IpAddr,
    port: PortId,
    vlan: u16,
    policy: &Policy,
) -> Option<&crate::nat::limits::NetworkLimits> {
    let id = match guest {
        IpAddr::V4(guest) => policy.guest_network(port, vlan, guest)?,
        IpAddr::V6(guest) => policy.ipv6().network(guest)?,
    };
    policy.network(id).rate_limits.as_deref()
}
