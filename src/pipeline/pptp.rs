//! Calls of PPTP, for networks that ask for it (RFC 2637): several guests may call one server from
//! one public address, their GRE told apart by call id.
//!
//! The server's reply on the control connection names both ids of a call. It is read when it passes,
//! not changed, and lets in no more than GRE of that call, from that server to the guest that called
//! it. Two guests who gave their calls the same number towards one server cannot be told apart: the
//! second call's reply is dropped.

use crate::flow::{Endpoint, FlowKey, NetworkId, PortId, Protocol};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::guests::Shows;
use crate::next_hop::NextHopId;
use crate::pipeline::admit::network_of;
use crate::pipeline::decide::{Decider, Decision, Question};
use crate::pipeline::shared::shown;
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::Policy;
use crate::session::entry::{NewSession, SessionKind};
use crate::session::table::{Found, InsertError};
use crate::telemetry::counters::Ended;
use crate::telemetry::events::Change;
use crate::verdict::{DropReason, Verdict};
use crate::wire::parse::Parsed;
use crate::wire::pptp::{self, CONTROL_PORT, Call};

/// The next hop of a session's answers: that of a followed control connection says so, and so keeps
/// its packets off the fast path.
pub(super) fn answers_hop(
    hop: NextHopId,
    kind: SessionKind,
    initiator: &FlowKey,
    policy: &Policy,
) -> NextHopId {
    match control_network(kind, initiator, policy) {
        Some(_) => hop.watched(),
        None => hop,
    }
}

/// The network of the guest whose control connection to a server this is, if it asks for PPTP.
fn control_network(kind: SessionKind, initiator: &FlowKey, policy: &Policy) -> Option<NetworkId> {
    let is_control = kind == SessionKind::SourceNat
        && initiator.protocol == Protocol::TCP
        && initiator.destination.port == CONTROL_PORT;
    let id =
        is_control.then(|| network_of(policy, initiator.realm, initiator.source.address))??;
    policy.network(id).pptp.then_some(id)
}

impl<F: FrameBuffer> Pipeline<F> {
    /// The way of a packet of a call: that call's session, or that of its addresses.
    #[cold]
    pub(super) fn forward_call<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        key: &FlowKey,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        if let Some(found) = self.living(key, ready.hash, context) {
            return self.apply(slot, port, ready, &found, context);
        }
        let mut ready = *ready;
        ready.packet.destination.port = 0;
        ready.hash = context.shared.sessions.hash(&ready.packet.key(ready.realm));
        self.forward(slot, port, &ready, context)
    }

    /// Opens a session for the GRE of the call that a segment of a control connection connects.
    ///
    /// # Errors
    /// When the call cannot be carried: then the segment must not pass.
    pub(super) fn follow_call<S>(
        &mut self,
        frame: &[u8],
        packet: &Parsed,
        found: &Found<'_>,
        context: &Context<'_, F, S>,
    ) -> Result<(), DropReason> {
        if packet.source.port != CONTROL_PORT
            || !found.next_hop.is_watched()
            || found.is_initiator()
        {
            return Ok(());
        }
        let Some(call) = pptp::connected_call(frame, packet) else { return Ok(()) };
        let (shared, policy) = (context.shared, context.policy);
        let Some(view) = shared.sessions.view(found.index) else { return Ok(()) };
        let control = view.session;
        let Some(id) = control_network(control.kind, &control.initiator, policy) else {
            return Ok(());
        };
        let session = match session_of(call, &control, id, context) {
            Some(session) => session,
            // The rules let no GRE out: its packets will be told so.
            None => return Ok(()),
        };
        let (limits, shown) = (policy.network(id).limits, shown(&session));
        shared.enter_guest(&session.initiator, limits, Shows::from(shown), context.now)?;
        let opened = self.open_call(&session, context);
        if opened != Ok(true) {
            shared.leave_guest(&session.initiator, shown);
        }
        opened.map(|_| ())
    }

    /// Puts the session of a call into the table. Returns false if it is there already.
    fn open_call<S>(
        &mut self,
        session: &NewSession,
        context: &Context<'_, F, S>,
    ) -> Result<bool, DropReason> {
        let (shared, now) = (context.shared, context.now);
        for _ in 0..ATTEMPTS {
            match shared.sessions.insert(session, now) {
                Ok(_) => {
                    self.counters.session_created();
                    shared.session_changed(session, Change::Created, now);
                    return Ok(true);
                }
                Err(InsertError::Full) => return Err(DropReason::SessionTableFull),
                Err(InsertError::Exists) => {}
            }
            for key in [&session.initiator, &session.responder] {
                let found = shared.sessions.find(key, shared.sessions.hash(key));
                let Some(former) = found.and_then(|found| shared.sessions.view(found.index)) else {
                    continue;
                };
                let is_own = former.session.initiator.source == session.initiator.source
                    && former.session.initiator.realm == session.initiator.realm;
                if former.session.initiator == session.initiator
                    && former.session.responder == session.responder
                {
                    return Ok(false);
                } else if !is_own {
                    return Err(DropReason::EndpointsTaken);
                }
                // A number that the guest, or the server, uses again: that call is over.
                self.end(&former, Ended::Removed, shared, now);
            }
        }
        Err(DropReason::EndpointsTaken)
    }
}

/// The session of a call's GRE, if the rules let it out.
fn session_of<F, S>(
    call: Call,
    control: &NewSession,
    network: NetworkId,
    context: &Context<'_, F, S>,
) -> Option<NewSession> {
    let (shared, policy) = (context.shared, context.policy);
    let key = |realm, source, destination| FlowKey {
        realm,
        protocol: Protocol::GRE,
        source,
        destination,
    };
    let (guest, server) = (control.initiator.source.address, control.initiator.destination.address);
    let public = control.responder.destination.address;
    let (guest, realm) = (Endpoint::new(guest, 0), control.initiator.realm);
    let key_of_control = key(realm, guest, Endpoint::new(server, 0));
    let question = Question::new(policy, key_of_control, Some(network), (0, 0));
    let decider = Decider::new(policy, shared);
    let Decision::Open(plan) = decider.decide(&question, &mut ()) else { return None };
    let [initiator_next_hop, responder_next_hop] = [
        shared.next_hops.again(control.initiator_next_hop)?,
        shared.next_hops.again(control.responder_next_hop)?,
    ];
    (plan.kind == SessionKind::SourceNat).then(|| NewSession {
        initiator: key(realm, guest, Endpoint::new(server, call.server)),
        responder: key(
            control.responder.realm,
            Endpoint::new(server, 0),
            Endpoint::new(public, call.client),
        ),
        initiator_next_hop,
        responder_next_hop,
        rule: plan.rule,
        generation: policy.generation(),
        kind: SessionKind::SourceNat,
        source_mapped: false,
        target_mapped: false,
    })
}

/// Once for each of the two keys that a former call may have, and once without.
const ATTEMPTS: usize = 3;
