//! Opening a session: the choice of member and external endpoint, next hops, and the table.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, FlowKey, NetworkId, Protocol, Realm};
use crate::frame::FrameBuffer;
use crate::nat::balance;
use crate::nat::guests::{GuestLimits, Shows};
use crate::nat::mappings::{BindError, BindRequest, Bound, Place};
use crate::next_hop::NextHopId;
use crate::pipeline::admit::network_of;
use crate::pipeline::decide::{Plan, Source, Target};
use crate::pipeline::hops::{NextHop, next_hops, next_hops_of_guest};
use crate::pipeline::pptp::answers_hop;
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::{Attachment, Policy};
use crate::session::entry::{EntryIndex, NewSession};
use crate::session::shape::PackedKey;
use crate::session::table::{InsertError, Keyed, Places};
use crate::telemetry::events::Change;
use crate::time::Tick;
use crate::verdict::DropReason;

/// How a source was translated, and what that took.
#[derive(Clone, Copy)]
pub(super) struct Translated {
    endpoint: Endpoint,
    held: Held,
}

/// What is known of a session when its source is to be translated.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// What its guest may use, if it is to be counted.
    session: Option<GuestLimits>,
    /// The pool address that it shows, if it was counted.
    paired: Option<Ipv4Addr>,
    /// Whether what it got before turned out to be another session's.
    was_taken: bool,
    /// Where the mappings of its source stand, if somebody asked for them.
    place: Option<Place>,
}

impl Asked {
    /// Of a session that comes to be, of a guest with these limits.
    pub(super) const fn first(limits: GuestLimits, place: Option<Place>) -> Self {
        Self { session: Some(limits), paired: None, was_taken: false, place }
    }
}

/// A session whose source was translated: what its packets are known by in both directions.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    translated: Translated,
    responder: FlowKey,
    /// The responder's key, for the table.
    keyed: Keyed,
}

/// What a translated source holds in the mappings.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Held {
    Mapping,
    Nothing,
    /// A port that it shares with sessions to other remotes.
    SharedPort,
}

impl Opening {
    /// Gives back what the translation took.
    pub(super) fn release(&self, protocol: Protocol, shared: &Shared, now: Tick) {
        let Translated { endpoint, held } = self.translated;
        match held {
            Held::Mapping => shared.release_mapping(protocol, endpoint, now),
            Held::Nothing => {}
            Held::SharedPort => shared.mappings.release_overloaded(protocol, endpoint),
        }
    }

    /// The address of a pool that it shows; none if its source came from no pool.
    pub(super) fn shown(&self, plan: &Plan<'_>) -> Option<Ipv4Addr> {
        match plan.source {
            Source::Gateway(_) | Source::Pool(_) => Some(self.translated.endpoint.address),
            Source::Keep | Source::Static(_) => None,
        }
    }

    /// Asks for the entry that the responder's direction will most likely take.
    pub(super) fn prefetch_entry(&self, shared: &Shared) {
        shared.sessions.prefetch_vacant(self.keyed.home);
    }

    /// The responder's key.
    pub(super) const fn keyed(&self) -> Keyed {
        self.keyed
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
        let shared = context.shared;
        let target = choose_target(plan, key, shared, context.policy)?;
        let asked = Asked::first(guest_limits(ready.attachment, context.policy), None);
        let opening = self.translate(key, plan, target, asked, context)?;
        let opened = self.open_translated(key, plan, target, opening, context);
        if !matches!(opened, Ok(Some(_))) {
            shared.leave_guest(key, opening.shown(plan));
        }
        opened
    }

    /// Opens a session whose guest was counted. Returns where it stands, unless another worker has opened it
    /// meanwhile.
    fn open_translated<S>(
        &mut self,
        key: &FlowKey,
        plan: &Plan<'_>,
        target: (Realm, Endpoint),
        mut opening: Opening,
        context: &Context<'_, F, S>,
    ) -> Result<Option<EntryIndex>, DropReason> {
        let (shared, now) = (context.shared, context.now);
        let paired = opening.shown(plan);
        let mut was_taken = false;
        for attempt in 1..=OPEN_ATTEMPTS {
            let keys = [shared.sessions.nearby().keyed(PackedKey::new(key)), opening.keyed];
            let hops = self.hops_of(key, plan, &opening, context).map_err(Refused::Because);
            let opened = hops.and_then(|hops| {
                let session = session_of(key, plan, &opening, hops, context.policy);
                self.remember(&session, keys, plan, &mut shared.sessions.places(1), context)
            });
            let reason = match opened {
                Ok(place) => return Ok(Some(place)),
                Err(reason) => reason,
            };
            opening.release(key.protocol, shared, now);
            match reason {
                // Another worker was first with the very same session.
                Refused::Taken if shared.sessions.contains(key) => return Ok(None),
                // A session of rules that are no more makes way; one that lives on keeps the pair of
                // endpoints, and there is no other port to take.
                Refused::Taken if opening.translated.held == Held::Nothing => {
                    let Opening { responder: taken, keyed: Keyed { hash, .. }, .. } = opening;
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
            if attempt < OPEN_ATTEMPTS {
                let asked = Asked { session: None, paired, was_taken, place: None };
                opening = self.translate(key, plan, target, asked, context)?;
            }
        }
        Err(DropReason::NoPort)
    }

    /// Puts a session into one of these places of the table and counts it. Returns where it stands.
    #[inline(always)]
    pub(super) fn remember<S>(
        &self,
        session: &NewSession,
        keys: [Keyed; 2],
        plan: &Plan<'_>,
        places: &mut Places<'_>,
        context: &Context<'_, F, S>,
    ) -> Result<EntryIndex, Refused> {
        let (shared, policy, now) = (context.shared, context.policy, context.now);
        let (protocol, public) = (session.initiator.protocol, session.initiator.destination);
        if plan.through_mapping && !shared.mappings.hold(protocol, public) {
            return Err(Refused::Because(DropReason::FirewallDenied));
        }
        let place = shared.sessions.insert_keyed(session, keys, now, places).map_err(|error| {
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

    /// What the source becomes, and who answers, with the guest counted if it is to be. What the table
    /// needs of the answers' key comes near while other things are looked up.
    #[inline(always)]
    pub(super) fn translate<S>(
        &self,
        key: &FlowKey,
        plan: &Plan<'_>,
        target: (Realm, Endpoint),
        asked: Asked,
        context: &Context<'_, F, S>,
    ) -> Result<Opening, DropReason> {
        let translated = self.translated(key, plan, target, asked, context)?;
        let responder = responder(key, target, translated.endpoint);
        let keyed = context.shared.sessions.nearby().keyed(PackedKey::new(&responder));
        Ok(Opening { translated, responder, keyed })
    }

    /// What the source becomes.
    #[inline(always)]
    fn translated<S>(
        &self,
        key: &FlowKey,
        plan: &Plan<'_>,
        (realm, target): (Realm, Endpoint),
        Asked { session, paired, was_taken, place }: Asked,
        context: &Context<'_, F, S>,
    ) -> Result<Translated, DropReason> {
        let shared = context.shared;
        let kept = |endpoint| Translated { endpoint, held: Held::Nothing };
        let unpooled = match plan.source {
            Source::Keep => Some(key.source),
            Source::Static(public) => Some(Endpoint::new(public, key.source.port)),
            Source::Gateway(_) | Source::Pool(_) => None,
        };
        if let Some(endpoint) = unpooled {
            if let Some(limits) = session {
                shared.enter_guest(key, limits, Shows::Nothing, context.now)?;
            }
            return Ok(kept(endpoint));
        }
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
            session,
            paired,
            limits: home
                .map(|home| context.policy.network(home).mapping_limits)
                .unwrap_or_default(),
            was_taken,
            place,
        };
        if !key.protocol.has_ports() {
            return match shared.mappings.bind_address(&request, context.now) {
                Ok(public) => Ok(kept(Endpoint::new(public, 0))),
                Err(BindError::PortsExhausted) => Err(DropReason::NoSourceNat),
                Err(BindError::Refused(reason)) => Err(reason),
            };
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
            Err(BindError::PortsExhausted) => Err(DropReason::NoPort),
            Err(BindError::Refused(reason)) => Err(reason),
        }
    }

    /// The next hops of a session that is opened as `plan` says: of the initiator's packets and of the
    /// answers.
    #[inline(always)]
    pub(super) fn hops_of<S>(
        &mut self,
        key: &FlowKey,
        plan: &Plan<'_>,
        opening: &Opening,
        context: &Context<'_, F, S>,
    ) -> Result<[NextHopId; 2], DropReason> {
        match plan.source {
            Source::Pool(home) if plan.to_stranger => {
                let (guest, public) = (key.source.address, opening.responder.destination.address);
                let hops = next_hops_of_guest(context.policy, home, guest, public)?;
                self.ids_of(hops, key, plan, opening, context)
            }
            _ => self.hops_by_routes(key, plan, opening, context),
        }
    }

    /// The same where each of the routes is to be asked.
    #[inline(never)]
    fn hops_by_routes<S>(
        &mut self,
        key: &FlowKey,
        plan: &Plan<'_>,
        opening: &Opening,
        context: &Context<'_, F, S>,
    ) -> Result<[NextHopId; 2], DropReason> {
        let hops = next_hops(context.policy, plan.way, plan.kind, [key, &opening.responder])?;
        self.ids_of(hops, key, plan, opening, context)
    }

    /// The ids of a session's next hops.
    #[inline(always)]
    fn ids_of<S>(
        &mut self,
        [there, back]: [NextHop; 2],
        key: &FlowKey,
        plan: &Plan<'_>,
        opening: &Opening,
        context: &Context<'_, F, S>,
    ) -> Result<[NextHopId; 2], DropReason> {
        let Context { shared, policy, .. } = context;
        let mut id = |hop: NextHop| {
            let id = self.hints.id(&shared.next_hops, hop.neighbor);
            id.map(|id| hop.watch(id)).ok_or(DropReason::NeighborQueueFull)
        };
        let there = id(there)?;
        opening.prefetch_entry(shared);
        Ok([there, answers_hop(id(back)?, plan.kind, key, policy)])
    }
}

/// The session that is to be remembered.
#[inline(always)]
pub(super) fn session_of(
    key: &FlowKey,
    plan: &Plan<'_>,
    opening: &Opening,
    [there, back]: [NextHopId; 2],
    policy: &Policy,
) -> NewSession {
    NewSession {
        initiator: *key,
        responder: opening.responder,
        initiator_next_hop: there,
        responder_next_hop: back,
        rule: plan.rule,
        generation: policy.generation(),
        kind: plan.kind,
        source_mapped: opening.translated.held == Held::Mapping,
        target_mapped: plan.through_mapping,
    }
}

/// Why a session was not remembered.
pub(super) enum Refused {
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

#[inline(always)]
pub(super) fn choose_target(
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

pub(super) fn guest_limits(attachment: Attachment, policy: &Policy) -> GuestLimits {
    match attachment {
        Attachment::Guest(network) => policy.network(network).limits,
        Attachment::Public => GuestLimits::default(),
    }
}
