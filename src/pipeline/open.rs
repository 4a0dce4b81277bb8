//! Opening a session: the choice of member and external endpoint, next hops, and the table.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, FlowKey, NetworkId, Protocol, Realm};
use crate::frame::FrameBuffer;
use crate::nat::balance;
use crate::nat::guests::GuestLimits;
use crate::nat::mappings::{BindRequest, Bound};
use crate::next_hop::{Neighbor, NextHopId};
use crate::pipeline::decide::{Plan, Source, Target};
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::{Attachment, Policy};
use crate::rules::set::FilteringBehavior;
use crate::session::entry::{NewSession, SessionKind};
use crate::session::table::InsertError;
use crate::verdict::DropReason;

/// How a source was translated.
#[derive(Clone, Copy)]
struct Translated {
    endpoint: Endpoint,
    /// A reference on a mapping is held.
    mapped: bool,
}

impl<F: FrameBuffer> Pipeline<F> {
    /// Opens the session that `plan` describes for packets of `key`.
    pub(super) fn open<S>(
        &mut self,
        ready: &Ready,
        key: &FlowKey,
        plan: &Plan<'_>,
        context: &Context<'_, F, S>,
    ) -> Result<(), DropReason> {
        let (shared, policy, now) = (context.shared, context.policy, context.now);
        let (realm, target) = choose_target(plan, key, shared, policy)?;
        let limits = guest_limits(ready.attachment, policy);
        let translated = self.translate(key, plan, realm, target, context)?;
        let release = |translated: &Translated| {
            if translated.mapped {
                shared.mappings.release(key.protocol, translated.endpoint, now);
            }
        };
        // The identifier of an ICMP query stands in both ports, before and after.
        let port =
            if key.protocol == Protocol::ICMP { translated.endpoint.port } else { target.port };
        let session = NewSession {
            initiator: *key,
            responder: FlowKey {
                realm,
                protocol: key.protocol,
                source: Endpoint::new(target.address, port),
                destination: translated.endpoint,
            },
            ..self.routed(key, plan, (realm, target), &translated, context).inspect_err(|_| {
                release(&translated);
            })?
        };
        if let Err(reason) = shared.enter_guest(&session, limits, now) {
            release(&translated);
            return Err(reason);
        }
        if plan.through_mapping && !shared.mappings.hold(key.protocol, key.destination) {
            shared.leave_guest(&session);
            return Err(DropReason::FirewallDenied);
        }
        match shared.sessions.insert(&session, now) {
            Ok(_) => {
                if matches!(plan.target, Target::Balanced(_)) {
                    shared.balance.enter(&session);
                }
                if let Attachment::Guest(network) = ready.attachment
                    && policy.network(network).filtering == FilteringBehavior::AddressDependent
                {
                    shared.contacts.enter(&session);
                }
                Ok(())
            }
            Err(error) => {
                shared.leave_guest(&session);
                if plan.through_mapping {
                    shared.mappings.release(key.protocol, key.destination, now);
                }
                release(&translated);
                match error {
                    InsertError::Full => Err(DropReason::SessionTableFull),
                    // Another worker was first with the very same session, or another guest has
                    // this pair of addresses already (protocols without ports).
                    InsertError::Exists if shared.sessions.contains(key) => Ok(()),
                    InsertError::Exists => Err(DropReason::ProtocolUnsupported),
                }
            }
        }
    }

    /// What the source becomes.
    fn translate<S>(
        &mut self,
        key: &FlowKey,
        plan: &Plan<'_>,
        realm: Realm,
        target: Endpoint,
        context: &Context<'_, F, S>,
    ) -> Result<Translated, DropReason> {
        let kept = |endpoint| Translated { endpoint, mapped: false };
        let network = match plan.source {
            Source::Keep => return Ok(kept(key.source)),
            Source::Static(public) => return Ok(kept(Endpoint::new(public, key.source.port))),
            Source::Pool(network) => network,
        };
        let shared = context.shared;
        let Some(pool) = &context.policy.network(network).pool else {
            return Err(DropReason::NoSourceNat);
        };
        let request =
            BindRequest { realm: key.realm, protocol: key.protocol, internal: key.source, pool };
        if !key.protocol.has_ports() {
            let public = shared.mappings.paired_address(&request).ok_or(DropReason::NoSourceNat)?;
            return Ok(kept(Endpoint::new(public, 0)));
        }
        let unused = |external: Endpoint| {
            let port = if key.protocol == Protocol::ICMP { external.port } else { target.port };
            let source = Endpoint::new(target.address, port);
            let responder =
                FlowKey { realm, protocol: key.protocol, source, destination: external };
            !shared.sessions.contains(&responder)
        };
        match shared.mappings.bind(&request, context.now, unused) {
            Ok(Bound { external, overloaded }) => {
                Ok(Translated { endpoint: external, mapped: !overloaded })
            }
            Err(_) => Err(DropReason::NoPort),
        }
    }

    /// The session with its next hops; the responder's key is filled in by the caller.
    fn routed<S>(
        &self,
        key: &FlowKey,
        plan: &Plan<'_>,
        (realm, target): (Realm, Endpoint),
        translated: &Translated,
        context: &Context<'_, F, S>,
    ) -> Result<NewSession, DropReason> {
        let public = public_side(plan.kind, key, translated.endpoint);
        let hops =
            |realm, address| next_hop(context.shared, context.policy, realm, address, public);
        Ok(NewSession {
            initiator: *key,
            responder: key.reversed(),
            initiator_next_hop: hops(realm, target.address)?,
            responder_next_hop: hops(key.realm, key.source.address)?,
            rule: plan.rule,
            generation: context.policy.generation(),
            kind: plan.kind,
            mapped: translated.mapped || plan.through_mapping,
        })
    }
}

/// The public address that a session's remote knows, if there is one.
pub(super) fn public_side(
    kind: SessionKind,
    initiator: &FlowKey,
    translated: Endpoint,
) -> Option<Ipv4Addr> {
    match kind {
        SessionKind::Inbound => Some(initiator.destination.address),
        SessionKind::SourceNat | SessionKind::StaticNat => Some(translated.address),
        SessionKind::Hairpin | SessionKind::Routed => None,
    }
}

/// The next hop of packets to `address` in `realm`.
pub(super) fn next_hop(
    shared: &Shared,
    policy: &Policy,
    realm: Realm,
    address: Ipv4Addr,
    public: Option<Ipv4Addr>,
) -> Result<NextHopId, DropReason> {
    let neighbor = match realm {
        Realm::Internal(realm) => {
            let route = policy.internal_route(realm, address).ok_or(DropReason::NoRoute)?;
            let network = policy.network(route.network);
            Neighbor { port: network.port, vlan: network.vlan, address: route.next_hop }
        }
        Realm::External => {
            let route = policy.external_route(public, address).ok_or(DropReason::NoRoute)?;
            Neighbor { port: route.port, vlan: route.vlan, address: route.next_hop }
        }
    };
    shared.next_hops.id(neighbor).ok_or(DropReason::NeighborQueueFull)
}

fn choose_target(
    plan: &Plan<'_>,
    key: &FlowKey,
    shared: &Shared,
    policy: &Policy,
) -> Result<(Realm, Endpoint), DropReason> {
    let realm_of = |network: NetworkId| Realm::Internal(policy.network(network).realm);
    Ok(match plan.target {
        Target::External(remote) => (Realm::External, remote),
        Target::Guest { network, guest } => (realm_of(network), guest),
        Target::Balanced(balancer) => {
            let turn = shared.balance.turn(balancer.rule);
            let public = key.destination;
            let member = balance::choose(balancer, key.source.address, turn, |member| {
                shared.balance.sessions(key.protocol, public, member)
            });
            (realm_of(balancer.network), member.ok_or(DropReason::ForwardDetached)?)
        }
    })
}

fn guest_limits(attachment: Attachment, policy: &Policy) -> GuestLimits {
    match attachment {
        Attachment::Guest(network) => policy.network(network).limits,
        Attachment::Public => GuestLimits::default(),
    }
}
