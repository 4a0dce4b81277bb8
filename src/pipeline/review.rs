//! A second look at a session: has it expired, and would the rules in force still open it so?

use std::net::Ipv4Addr;

use crate::config::OnRuleRemoval;
use crate::flow::{Protocol, Realm, RuleId};
use crate::frame::FrameBuffer;
use crate::nat::mappings::Pool;
use crate::next_hop::NextHopId;
use crate::pipeline::admit::{admit_first, network_of};
use crate::pipeline::decide::{Decider, Decision, Filters, Plan, Question, Source, Target};
use crate::pipeline::hops::{NextHop, next_hops};
use crate::pipeline::pptp::answers_hop;
use crate::pipeline::shared::Shared;
use crate::pipeline::{Pipeline, queries};
use crate::policy::ways::Way;
use crate::policy::{Attachment, Policy};
use crate::session::entry::{NewSession, SessionKind};
use crate::session::table::SessionView;
use crate::session::timeout;
use crate::telemetry::counters::Ended;
use crate::time::Tick;

impl<F: FrameBuffer> Pipeline<F> {
    /// Looks at a session again and ends it, or confirms it under the rules in force. Returns
    /// whether it lives on.
    pub(super) fn review(
        &mut self,
        view: &SessionView,
        shared: &Shared,
        policy: &Policy,
        now: Tick,
    ) -> bool {
        if timeout::is_expired(&shared.settings.timeouts, view, now.coarse()) {
            self.end(view, Ended::Expired, shared, now);
            return false;
        }
        if view.session.generation == policy.generation() {
            return true;
        }
        match renewed(view, shared, policy) {
            Some(renewal) => {
                enter_contacts(&view.session, shared, policy);
                shared.sessions.confirm(view, policy.generation(), renewal.rule, renewal.next_hops);
                true
            }
            None => {
                self.end(view, Ended::Removed, shared, now);
                false
            }
        }
    }

    /// Ends a session and gives back what it held.
    pub(super) fn end(&mut self, view: &SessionView, how: Ended, shared: &Shared, now: Tick) {
        if let Some(last) = shared.sessions.remove(view.index, &view.session.initiator) {
            shared.settle(&last, now);
            self.counters.session_ended(how);
        }
    }
}

/// Where the new rules filter by address, they ask of the sessions from before too.
fn enter_contacts(session: &NewSession, shared: &Shared, policy: &Policy) {
    let has_entered = shared.contacts.enter_if_asked(session, policy);
    if has_entered && !shared.sessions.contains(&session.initiator) {
        // Another worker ended it meanwhile, before it had entered.
        shared.contacts.leave(session);
    }
}

/// What changes for a session that lives on under new rules.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    /// The rule that allows it now.
    pub rule: RuleId,
    /// Where the initiator's and the responder's packets go now.
    pub next_hops: [NextHopId; 2],
}

/// Whether the rules in force would open this session the same way, and what changes for it.
#[must_use]
pub fn renewed(view: &SessionView, shared: &Shared, policy: &Policy) -> Option<Renewal> {
    let session = &view.session;
    let obeying = |filters| same_decision(view, shared, policy, filters);
    let (rule, way) = match (obeying(Filters::Obeyed), shared.settings.on_rule_removal) {
        (Some(found), _) => found,
        (None, OnRuleRemoval::End) => return None,
        (None, OnRuleRemoval::Keep) => (session.rule, None),
        // The rule that would let it in now is none that counts it.
        (None, OnRuleRemoval::KeepFiltered) => (session.rule, obeying(Filters::Ignored)?.1),
    };
    let (initiator, responder) = (&session.initiator, &session.responder);
    let hops = next_hops(policy, way, session.kind, [initiator, responder]).ok()?;
    let id = |hop: NextHop| Some(hop.watch(shared.next_hops.id(hop.neighbor)?));
    let [there, back] = hops.map(id);
    let next_hops = [there?, answers_hop(back?, session.kind, initiator, policy)];
    Some(Renewal { rule, next_hops })
}

/// The rule that would open the session as it is, if any does, and the way of a policy route.
fn same_decision<'p>(
    view: &SessionView,
    shared: &Shared,
    policy: &'p Policy,
    filters: Filters,
) -> Option<(RuleId, Option<&'p Way>)> {
    let session = &view.session;
    let key = &session.initiator;
    let network = network_of(policy, key.realm, key.source.address);
    let attachment = match (key.realm, network) {
        (Realm::External, _) => Attachment::Public,
        (Realm::Internal(_), network) => Attachment::Guest(network?),
    };
    let question = Question::new(policy, *key, network, queries::question(view));
    admit_first(attachment, &question, policy).ok()?;
    let decider = Decider { filters, ..Decider::new(policy, shared) };
    match decider.decide(&question, &mut ()) {
        Decision::Open(plan) if same_plan(session, &plan, policy) => Some((plan.rule, plan.way)),
        Decision::EchoReply | Decision::Host(_) | Decision::Open(_) | Decision::Refuse(_) => None,
    }
}

fn same_plan(session: &NewSession, plan: &Plan<'_>, policy: &Policy) -> bool {
    let (initiator, responder) = (&session.initiator, &session.responder);
    if plan.kind != session.kind {
        return false;
    }
    let same_target = match plan.target {
        Target::External(remote) => {
            responder.realm == Realm::External && responder.source.address == remote.address
        }
        Target::Guest { network, guest } => {
            responder.realm == Realm::Internal(policy.network(network).realm)
                && responder.source.address == guest.address
                && (initiator.protocol == Protocol::ICMP || responder.source.port == guest.port)
        }
        // A member of weight zero is drained: it keeps the sessions it has.
        Target::Balanced(balancer) => {
            balancer.members.iter().any(|(member, _)| *member == responder.source)
        }
    };
    same_target
        && match plan.source {
            Source::Keep => responder.destination == initiator.source,
            Source::Static(public) => responder.destination.address == public,
            Source::Gateway(_) | Source::Pool(_) => plan
                .pool(policy)
                .is_some_and(|pool| may_use(pool, session, responder.destination.address)),
        }
}

/// Whether a pool may still give out the external endpoint that a session has.
fn may_use(pool: &Pool, session: &NewSession, public: Ipv4Addr) -> bool {
    let external = session.responder.destination;
    if session.kind != SessionKind::SourceNat && session.kind != SessionKind::Hairpin {
        return false;
    }
    let Some(address) = pool.addresses.iter().find(|address| address.address == public) else {
        return false;
    };
    !session.initiator.protocol.has_ports()
        || pool.ports.contains(&external.port)
            && !address.reserved.iter().any(|(protocol, ports)| {
                *protocol == session.initiator.protocol && ports.contains(&external.port)
            })
}
