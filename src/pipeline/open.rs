//! Opening a session: the choice of member and external endpoint, next hops, and the table.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, FlowKey, NetworkId, Protocol, Realm};
use crate::frame::FrameBuffer;
use crate::nat::balance;
use crate::nat::guests::GuestLimits;
use crate::nat::mappings::{BindError, BindRequest, Bound};
use crate::next_hop::{Neighbor, NextHopId};
use crate::pipeline::admit::network_of;
use crate::pipeline::decide::{Plan, Source, Target};
use crate::pipeline::plan::neighbor;
use crate::pipeline::pptp::answers_hop;
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::ways::Way;
use crate::policy::{Attachment, Policy};
use crate::session::entry::{EntryIndex, NewSession, SessionKind};
use crate::session::table::InsertError;
use crate::telemetry::events::Change;
use crate::time::Tick;
use crate::verdict::DropReason;

/// How a source was translated, and what that took.
#[derive(Clone, Copy)]
struct Translated {
    endpoint: Endpoint,
    held: Held,
}

/// What a translated source holds in the mappings.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Held {
    Mapping,
    Nothing,
    /// A port that it shares with sessions to other remotes.
    SharedPort,
}

impl Translated {
    fn release(&self, protocol: Protocol, shared: &Shared, now: Tick) {
        match self.held {
            Held::Mapping => shared.release_mapping(protocol, self.endpoint, now),
            Held::Nothing => {}
            Held::SharedPort => shared.mappings.release_overloaded(protocol, self.endpoint),
        }
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// Opens the session that `plan` describes for packets of `key`. Returns where it stands, unless
    /// another worker has opened it meanwhile.
    pub(super) fn open<S>(
        &mut self,
        ready: &Ready,
        key: &FlowKey,
        plan: &Plan<'_>,
        context: &Context<'_, F, S>,
    ) -> Result<Option<EntryIndex>, DropReason> {
        let (shared, now) = (context.shared, context.now);
        let target = choose_target(plan, key, shared, context.policy)?;
        // First of all, so that a guest over its limit leaves no ports resting for others.
        let limits = guest_limits(ready.attachment, context.policy);
        let paired = shared.enter_guest(key, limits, now)?;
        match self.open_entered(key, plan, target, paired, context) {
            Ok(Opened::Here(place, public)) => {
                // Another side's address, which a policy route leads to, is none to stay with.
                if plan.way.is_none() && public.is_some() && public != paired {
                    shared.pair_guest(key, public);
                }
                Ok(Some(place))
            }
            Ok(Opened::Elsewhere) => {
                shared.leave_guest(key);
                Ok(None)
            }
            Err(reason) => {
                shared.leave_guest(key);
                Err(reason)
            }
        }
    }

    /// Opens a session whose guest was counted.
    fn open_entered<S>(
        &mut self,
        key: &FlowKey,
        plan: &Plan<'_>,
        target: (Realm, Endpoint),
        paired: Option<Ipv4Addr>,
        context: &Context<'_, F, S>,
    ) -> Result<Opened, DropReason> {
        let (shared, now) = (context.shared, context.now);
        let mut was_taken = false;
        for _ in 0..OPEN_ATTEMPTS {
            let translated = self.translate(key, plan, target, (paired, was_taken), context)?;
            let opened = self
                .planned(key, plan, target, &translated, context)
                .and_then(|session| self.remember(&session, plan, context));
            let reason = match opened {
                Ok(place) => {
                    let pooled = matches!(plan.source, Source::Pool(_));
                    let public = pooled.then_some(translated.endpoint.address);
                    return Ok(Opened::Here(place, public));
                }
                Err(reason) => reason,
            };
            translated.release(key.protocol, shared, now);
            match reason {
                // Another worker was first with the very same session.
                Refused::Taken if shared.sessions.contains(key) => return Ok(Opened::Elsewhere),
                // A session of rules that are no more makes way; one that lives on keeps the pair of
                // endpoints, and there is no other port to take.
                Refused::Taken if translated.held == Held::Nothing => {
                    let taken = responder(key, target, translated.endpoint);
                    let hash = shared.sessions.hash(&taken);
                    // Who sends to itself through its own address is its own answer.
                    if taken == *key || self.living(&taken, hash, context).is_some() {
                        return Err(match key.protocol.has_ports() {
                            true => DropReason::EndpointsTaken,
                            false => DropReason::ProtocolUnsupported,
                        });
                    }
                }
                // Another session has this port for this remote: another worker was first, or it
                // was opened under rules that are no more. Another port will do.
                Refused::Taken => was_taken = true,
                Refused::Because(reason) => return Err(reason),
            }
        }
        Err(DropReason::NoPort)
    }

    /// Puts a session into the table and counts it. Returns its place there.
    fn remember<S>(
        &self,
        session: &NewSession,
        plan: &Plan<'_>,
        context: &Context<'_, F, S>,
    ) -> Result<EntryIndex, Refused> {
        let (shared, policy, now) = (context.shared, context.policy, context.now);
        let (protocol, public) = (session.initiator.protocol, session.initiator.destination);
        if plan.through_mapping && !shared.mappings.hold(protocol, public) {
            return Err(Refused::Because(DropReason::FirewallDenied));
        }
        let place = shared.sessions.insert(session, now).map_err(|error| {
            if plan.through_mapping {
                shared.release_mapping(protocol, public, now);
            }
            match error {
                InsertError::Exists => Refused::Taken,
                InsertError::Full => Refused::Because(DropReason::SessionTableFull),
            }
        })?;
        if matches!(plan.target, Target::Balanced(_)) {
            shared.balance.enter(session);
        }
        shared.contacts.enter_if_asked(session, policy);
        shared.session_changed(session, Change::Created, now);
        Ok(place)
    }

    /// What the source becomes.
    fn translate<S>(
        &mut self,
        key: &FlowKey,
        plan: &Plan<'_>,
        (realm, target): (Realm, Endpoint),
        (paired, was_taken): (Option<Ipv4Addr>, bool),
        context: &Context<'_, F, S>,
    ) -> Result<Translated, DropReason> {
        let kept = |endpoint| Translated { endpoint, held: Held::Nothing };
        match plan.source {
            Source::Keep => return Ok(kept(key.source)),
            Source::Static(public) => return Ok(kept(Endpoint::new(public, key.source.port))),
            Source::Gateway(_) | Source::Pool(_) => {}
        }
        let shared = context.shared;
        let pool = plan.pool(context.policy).ok_or(DropReason::NoSourceNat)?;
        let home = match plan.source {
            Source::Pool(network) => Some(network),
            Source::Gateway(_) | Source::Keep | Source::Static(_) => {
                network_of(context.policy, key.realm, key.source.address)
            }
        };
        let request = BindRequest {
            realm: key.realm,
            protocol: key.protocol,
            internal: key.source,
            pool,
            paired,
            limits: home
                .map(|home| context.policy.network(home).mapping_limits)
                .unwrap_or_default(),
            was_taken,
        };
        if !key.protocol.has_ports() {
            let public = shared.mappings.paired_address(&request).ok_or(DropReason::NoSourceNat)?;
            return Ok(kept(Endpoint::new(public, 0)));
        }
        // Who is sent to at its own external endpoint needs another one: no packet of such a session
        // could be told from its answers.
        let unused = |external| {
            let responder = responder(key, (realm, target), external);
            responder != *key && !shared.sessions.contains(&responder)
        };
        match shared.mappings.bind(&request, context.now, unused) {
            Ok(Bound { external, overloaded, is_new }) => {
                if is_new {
                    shared.mapping_made(&request, external, context.now);
                }
                let held = if overloaded { Held::SharedPort } else { Held::Mapping };
                Ok(Translated { endpoint: external, held })
            }
            Err(BindError::GuestLimit) => Err(DropReason::PortLimit),
            Err(BindError::PortsExhausted) => Err(DropReason::NoPort),
        }
    }

    /// The session that is to be remembered.
    fn planned<S>(
        &self,
        key: &FlowKey,
        plan: &Plan<'_>,
        (realm, target): (Realm, Endpoint),
        translated: &Translated,
        context: &Context<'_, F, S>,
    ) -> Result<NewSession, Refused> {
        let sessions = &context.shared.sessions;
        let responder = responder(key, (realm, target), translated.endpoint);
        // What the table needs of it comes near while next hops are looked up.
        let hash = sessions.hash(&responder);
        sessions.prefetch_index(hash);
        let public = public_side(plan.kind, key, translated.endpoint);
        let hop = |way, realm, address| {
            next_hop(context.shared, context.policy, way, (realm, address), public)
                .map_err(Refused::Because)
        };
        let initiator_next_hop = hop(plan.way, realm, target.address)?;
        sessions.prefetch_vacant(hash);
        let back = hop(None, key.realm, key.source.address)?;
        Ok(NewSession {
            initiator: *key,
            responder,
            initiator_next_hop,
            responder_next_hop: answers_hop(back, plan.kind, key, context.policy),
            rule: plan.rule,
            generation: context.policy.generation(),
            kind: plan.kind,
            source_mapped: translated.held == Held::Mapping,
            target_mapped: plan.through_mapping,
        })
    }
}

/// Who opened a session.
#[derive(Clone, Copy)]
enum Opened {
    /// Another worker, meanwhile.
    Elsewhere,
    /// This worker: where it stands, and its address of a pool.
    Here(EntryIndex, Option<Ipv4Addr>),
}

/// Why a session was not remembered.
enum Refused {
    Because(DropReason),
    /// Its responder's key is another session's.
    Taken,
}

/// How often a session is tried to be opened when other workers take its external endpoint.
const OPEN_ATTEMPTS: usize = 4;

/// The key of the packets that answer a session from `target`, sent to `external`. The identifier of
/// an ICMP query stands in both ports, before and after.
fn responder(key: &FlowKey, (realm, target): (Realm, Endpoint), external: Endpoint) -> FlowKey {
    let port = if key.protocol == Protocol::ICMP { external.port } else { target.port };
    FlowKey {
        realm,
        protocol: key.protocol,
        source: Endpoint::new(target.address, port),
        destination: external,
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
        SessionKind::Hairpin | SessionKind::HairpinStatic | SessionKind::Routed => None,
    }
}

/// The next hop of packets to `address` in `realm`, by `way` if a policy route says so.
pub(super) fn next_hop(
    shared: &Shared,
    policy: &Policy,
    way: Option<&Way>,
    (realm, address): (Realm, Ipv4Addr),
    public: Option<Ipv4Addr>,
) -> Result<NextHopId, DropReason> {
    let mut limited = false;
    let hop = match (way, realm) {
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
    let id = shared.next_hops.id(hop).ok_or(DropReason::NeighborQueueFull)?;
    Ok(if limited { id.watched() } else { id })
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
            let sessions = |member| shared.balance.sessions(key.protocol, public, member);
            let takes = |member| shared.balance.health.takes(balancer.rule, member);
            let client = key.source.address;
            let member = balance::choose(balancer, client, turn, sessions, takes);
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
