//! Addresses that no first packet may carry: martians and spoofed sources. Of these, packets of
//! established sessions are only asked whether they came by the right network of their realm: all
//! else was admitted with their key.

use std::net::Ipv4Addr;

use crate::flow::{NetworkId, Realm};
use crate::frame::FrameBuffer;
use crate::pipeline::decide::Question;
use crate::pipeline::{Pipeline, Ready};
use crate::policy::{Attachment, Policy};
use crate::verdict::DropReason;

impl<F: FrameBuffer> Pipeline<F> {
    /// Judges a packet's addresses (RFC 1812, sections 5.3.7 and 5.3.8; BCP 38).
    pub(super) fn admit(&self, ready: &Ready, policy: &Policy) -> Result<(), DropReason> {
        admit(
            ready.attachment,
            ready.packet.source.address,
            ready.packet.destination.address,
            policy,
        )
    }
}

/// Judges the addresses of the first packet that asks `question` and came by `attachment`.
///
/// # Errors
/// Why it must be dropped.
#[inline(always)]
pub(super) fn admit_first(
    attachment: Attachment,
    question: &Question,
    policy: &Policy,
) -> Result<(), DropReason> {
    let (source, destination) = (question.key.source.address, question.key.destination.address);
    // A stranger's address may be sent to, if it is not forged to be the sender's too.
    if question.to_stranger && source != destination {
        return admit_sender(attachment, source, policy);
    }
    admit(attachment, source, destination, policy)
}

/// Judges the addresses of a first packet that came by `attachment`.
///
/// # Errors
/// Why it must be dropped.
pub fn admit(
    attachment: Attachment,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    policy: &Policy,
) -> Result<(), DropReason> {
    let is_martian = never_forwarded(destination)
        || source == destination
        || policy.is_broadcast_in(realm_of(attachment, policy), destination)
        || policy.is_broadcast_in(Realm::External, destination);
    if is_martian {
        return Err(DropReason::MartianAddress);
    }
    admit_sender(attachment, source, policy)
}

#[inline(always)]
fn admit_sender(
    attachment: Attachment,
    source: Ipv4Addr,
    policy: &Policy,
) -> Result<(), DropReason> {
    let is_martian = never_forwarded(source)
        // RFC 3927, section 2.7. As destinations they may be the kernel's.
        || source.is_link_local()
        || policy.is_broadcast_in(realm_of(attachment, policy), source);
    if is_martian {
        return Err(DropReason::MartianAddress);
    }
    let is_spoofed = match attachment {
        Attachment::Public => !policy.may_come_from_outside(source),
        Attachment::Guest(id) => {
            let network = policy.network(id);
            // Nobody but the router has a gateway's address, whatever else may come from there.
            let is_gateway = source == network.gateway;
            let at_home = network.cidr.contains(source)
                || network_of(policy, Realm::Internal(network.realm), source) == Some(id);
            is_gateway || network.anti_spoofing && !at_home
        }
    };
    if is_spoofed { Err(DropReason::SourceSpoofed) } else { Ok(()) }
}

/// Realms overlap: what is a broadcast address in one may be a guest in another.
fn realm_of(attachment: Attachment, policy: &Policy) -> Realm {
    match attachment {
        Attachment::Guest(id) => Realm::Internal(policy.network(id).realm),
        Attachment::Public => Realm::External,
    }
}

/// Whether a packet that came by `attachment` speaks in the name of a guest of another network.
/// Established sessions ask this too: they are found by realm, and a realm may have many networks.
pub(super) fn is_stray(attachment: Attachment, guest: Ipv4Addr, policy: &Policy) -> bool {
    let Attachment::Guest(id) = attachment else { return false };
    let network = policy.network(id);
    network.has_siblings
        && network.anti_spoofing
        && !network.cidr.contains(guest)
        && network_of(policy, Realm::Internal(network.realm), guest) != Some(id)
        && !network.transit.iter().any(|transit| transit.contains(guest))
}

/// The network of `realm` that `guest` is in, or behind.
#[must_use]
pub fn network_of(policy: &Policy, realm: Realm, guest: Ipv4Addr) -> Option<NetworkId> {
    match realm {
        Realm::External => None,
        Realm::Internal(realm) => policy.internal_route(realm, guest).map(|route| route.network),
    }
}

/// "This network", loopback, multicast, class E and limited broadcast.
fn never_forwarded(address: Ipv4Addr) -> bool {
    matches!(address.octets()[0], 0 | 127 | 224..=255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn martians_are_never_forwarded() {
        for martian in
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255"]
        {
            assert!(never_forwarded(martian.parse().unwrap()), "{martian}");
        }
        assert!(!never_forwarded(Ipv4Addr::new(223, 255, 255, 255)));
    }
}
