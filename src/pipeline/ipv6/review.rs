//! A second look at an IPv6 session: has it expired, and would the rules in force still open it?

use std::net::Ipv6Addr;

use crate::config::OnRuleRemoval;
use crate::flow::{Protocol, Realm, RuleId};
use crate::frame::FrameBuffer;
use crate::pipeline::Pipeline;
use crate::pipeline::decide::Refusal;
use crate::pipeline::ipv6::admit::admit;
use crate::pipeline::ipv6::decide::{Decision, Question, decide};
use crate::pipeline::ipv6::open::next_hop;
use crate::pipeline::review::Renewal;
use crate::pipeline::shared::Shared;
use crate::policy::{Attachment, Policy};
use crate::session::entry::NewSession;
use crate::session::table::SessionView;
use crate::session::timeout;
use crate::telemetry::counters::Ended;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::ipv6::ECHO_REQUEST;

impl<F: FrameBuffer> Pipeline<F> {
    /// Looks at a session again and ends it, or confirms it under the rules in force. Returns
    /// whether it lives on.
    pub(in crate::pipeline) fn review_ipv6(
        &mut self,
        view: &SessionView<Ipv6Addr>,
        shared: &Shared,
        policy: &Policy,
        now: Tick,
    ) -> bool {
        if timeout::is_expired(&shared.settings.timeouts, view, now.coarse()) {
            self.end_ipv6(view, Ended::Expired, shared);
            return false;
        }
        if view.session.generation == policy.generation() {
            return true;
        }
        match renewed(&view.session, shared, policy) {
            Some(Renewal { rule, next_hops }) => {
                shared.sessions_ipv6.confirm(view, policy.generation(), rule, next_hops);
                true
            }
            None => {
                self.end_ipv6(view, Ended::Removed, shared);
                false
            }
        }
    }

    /// Ends a session and gives back what it held.
    pub(super) fn end_ipv6(&mut self, view: &SessionView<Ipv6Addr>, how: Ended, shared: &Shared) {
        if let Some(last) = shared.sessions_ipv6.remove(view.index, &view.session.initiator) {
            shared.settle_ipv6(&last);
            self.counters.session_ended(how);
        }
    }
}

/// Whether the rules in force would open this session the same way, and what changes for it.
#[must_use]
pub fn renewed(
    session: &NewSession<Ipv6Addr>,
    shared: &Shared,
    policy: &Policy,
) -> Option<Renewal> {
    let rule = match (same_decision(session, policy), shared.settings.on_rule_removal) {
        (Same::Yes(rule), _) => rule,
        (Same::No | Same::Filtered, OnRuleRemoval::Keep)
        | (Same::Filtered, OnRuleRemoval::KeepFiltered) => session.rule,
        (Same::No, OnRuleRemoval::End | OnRuleRemoval::KeepFiltered)
        | (Same::Filtered, OnRuleRemoval::End) => return None,
    };
    let hop = |realm, address| next_hop(shared, policy, realm, address).ok();
    let (initiator, responder) = (&session.initiator, &session.responder);
    let next_hops = [
        hop(responder.realm, responder.source.address)?,
        hop(initiator.realm, initiator.source.address)?,
    ];
    Some(Renewal { rule, next_hops })
}

/// Whether the rules in force would open a session as it is.
enum Same {
    /// All but a filter would.
    Filtered,
    /// They would open another one or none.
    No,
    /// This rule would.
    Yes(RuleId),
}

fn same_decision(session: &NewSession<Ipv6Addr>, policy: &Policy) -> Same {
    let key = &session.initiator;
    let (attachment, network) = match key.realm {
        Realm::External => (Attachment::Public, None),
        Realm::Internal(_) => match policy.ipv6().network(key.source.address) {
            Some(id) => (Attachment::Guest(id), Some(id)),
            None => return Same::No,
        },
    };
    if admit(attachment, key.source.address, key.destination.address, policy).is_err() {
        return Same::No;
    }
    let icmp = if key.protocol == Protocol::ICMPV6 { (ECHO_REQUEST, 0) } else { (0, 0) };
    match decide(policy, &Question { key: *key, network, icmp }, &mut ()) {
        Decision::Open(plan) => {
            let target = match plan.target {
                None => Realm::External,
                Some(network) => Realm::Internal(policy.network(network).realm),
            };
            if target == session.responder.realm { Same::Yes(plan.rule) } else { Same::No }
        }
        // Nothing is translated, so that who it is for cannot have changed without its realm.
        Decision::Refuse(Refusal {
            reason: DropReason::AclDenied | DropReason::EgressDenied | DropReason::FirewallDenied,
            ..
        }) if realm_of(policy, session) == session.responder.realm => Same::Filtered,
        Decision::Host(_) | Decision::Refuse(_) => Same::No,
    }
}

/// The realm that the session's responder is in now.
fn realm_of(policy: &Policy, session: &NewSession<Ipv6Addr>) -> Realm {
    let network = policy.ipv6().network(session.responder.source.address);
    network.map_or(Realm::External, |id| Realm::Internal(policy.network(id).realm))
}
