//! The slow path of IPv6: a packet without a session, or with one that must be looked at again.

use std::net::Ipv6Addr;

use crate::flow::{FlowKey, PortId, Protocol, Realm, RuleId};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::guests::{GuestLimits, Shows};
use crate::next_hop::{Neighbor, NextHopId};
use crate::pipeline::decide::Refusal;
use crate::pipeline::ipv6::admit::admit;
use crate::pipeline::ipv6::decide::{Decision, Plan, Question, decide};
use crate::pipeline::ipv6::{Ready, Session, opens_connection};
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Pipeline};
use crate::policy::{Attachment, Policy};
use crate::rules::set::MssClamp;
use crate::session::entry::{NewSession, SessionKind};
use crate::session::table::{Hash, InsertError};
use crate::telemetry::counters::Ended;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ipv6::Parsed;
use crate::wire::ipv6::errors::Icmpv6Error;
use crate::wire::parse::Kind;

impl<F: FrameBuffer> Pipeline<F> {
    /// Finds out what becomes of a packet that the fast path could not help: the session it now
    /// has, or its verdict.
    #[cold]
    pub(super) fn miss_ipv6<'c, S: FrameSource<Frame = F>>(
        &mut self,
        frame: &F,
        port: PortId,
        ready: &Ready,
        key: &FlowKey<Ipv6Addr>,
        context: &mut Context<'c, F, S>,
    ) -> Result<Session<'c>, Verdict> {
        let shared = context.shared;
        if let Some(found) = self.living_ipv6(key, ready.hash, context) {
            return Ok(found);
        }
        let (source, destination) = (key.source.address, key.destination.address);
        admit(ready.attachment, source, destination, context.policy).map_err(Verdict::Drop)?;
        let packet = &ready.packet;
        if packet.protocol == Protocol::TCP && !opens_connection(packet.tcp_flags) {
            return Err(Verdict::Drop(DropReason::TcpNoSession));
        }
        let refusal = match decide(context.policy, &question(frame.bytes(), ready, key), &mut ()) {
            Decision::Host(reason) => return Err(Verdict::Host(reason)),
            Decision::Refuse(refusal) => refusal,
            Decision::Open(plan) => match self.open_ipv6(ready, key, &plan, context) {
                Ok(()) => {
                    self.counters.session_created();
                    if plan.admitted_by != RuleId::DEFAULT && plan.admitted_by != plan.rule {
                        let bytes = u64::from(packet.packet_length());
                        shared.rules.add(plan.admitted_by, 1, bytes);
                    }
                    let found = shared.sessions_ipv6.find(key, ready.hash);
                    return found.ok_or(Verdict::Drop(DropReason::SessionTableFull));
                }
                Err(reason) => {
                    let tell =
                        matches!(reason, DropReason::SessionLimit | DropReason::SessionTableFull);
                    Refusal { reason, rule: plan.rule, tell }
                }
            },
        };
        if refusal.rule != RuleId::DEFAULT {
            shared.rules.refused(refusal.rule, u64::from(packet.packet_length()));
        }
        if refusal.tell && matches!(ready.attachment, Attachment::Guest(_)) {
            let error = Icmpv6Error::AdministrativelyProhibited;
            self.answer_ipv6(frame.bytes(), port, ready, error, context);
        }
        Err(Verdict::Drop(refusal.reason))
    }

    /// The session of `key`, if the rules in force still allow it and it has not expired.
    pub(super) fn living_ipv6<'c, S>(
        &mut self,
        key: &FlowKey<Ipv6Addr>,
        hash: Hash,
        context: &Context<'c, F, S>,
    ) -> Option<Session<'c>> {
        let sessions = &context.shared.sessions_ipv6;
        let found = sessions.find(key, hash)?;
        if self.is_current(&found, key.protocol, context) {
            return Some(found);
        }
        let view = sessions.view(found.index)?;
        let lives = self.review_ipv6(&view, context.shared, context.policy, context.now);
        lives.then(|| sessions.find(key, hash)).flatten()
    }

    /// Opens a connection anew whose former one is closed, with the SYN at hand.
    #[cold]
    pub(super) fn reopen_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        found: &Session<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let shared = context.shared;
        if let Some(view) = shared.sessions_ipv6.view(found.index) {
            self.end_ipv6(&view, Ended::Expired, shared);
        }
        let Some(frame) = slot.as_ref() else { return Verdict::Hold };
        let key = ready.packet.key(ready.realm);
        match self.miss_ipv6(frame, port, ready, &key, context) {
            Ok(found) => self.apply_ipv6(slot, port, ready, &found, context),
            Err(verdict) => verdict,
        }
    }

    /// Opens the session that `plan` describes for packets of `key`.
    fn open_ipv6<S>(
        &mut self,
        ready: &Ready,
        key: &FlowKey<Ipv6Addr>,
        plan: &Plan,
        context: &Context<'_, F, S>,
    ) -> Result<(), DropReason> {
        let (shared, policy, now) = (context.shared, context.policy, context.now);
        let target = match plan.target {
            None => Realm::External,
            Some(network) => Realm::Internal(policy.network(network).realm),
        };
        let session = NewSession {
            initiator: *key,
            responder: FlowKey { realm: target, ..key.reversed() },
            initiator_next_hop: next_hop(shared, policy, target, key.destination.address)?,
            responder_next_hop: next_hop(shared, policy, key.realm, key.source.address)?,
            rule: plan.rule,
            generation: policy.generation(),
            kind: SessionKind::Routed,
            source_mapped: false,
            target_mapped: false,
        };
        let limits = match ready.attachment {
            Attachment::Guest(network) => policy.network(network).limits,
            Attachment::Public => GuestLimits::default(),
        };
        shared.enter_guest(key, limits, Shows::Nothing, now)?;
        let inserted = shared.sessions_ipv6.insert(&session, now);
        if inserted.is_err() {
            shared.leave_guest(key, None);
        }
        match inserted {
            // Another worker was first with the very same session.
            Err(InsertError::Exists) if shared.sessions_ipv6.contains(key) => Ok(()),
            Err(InsertError::Exists) => Err(DropReason::ProtocolUnsupported),
            Err(InsertError::Full) => Err(DropReason::SessionTableFull),
            Ok(_) => Ok(()),
        }
    }

    /// Lowers the MSS of a SYN where the guest's network says so.
    #[cold]
    pub(super) fn clamp_mss_ipv6(
        &self,
        frame: &mut F,
        packet: &Parsed,
        found: &Session<'_>,
        policy: &Policy,
    ) {
        let Some(view) = self.shared.sessions_ipv6.view(found.index) else { return };
        let session = &view.session;
        let mtu = [session.initiator_next_hop, session.responder_next_hop]
            .map(|hop| self.shared.next_hops.link(hop).mtu)
            .into_iter()
            .min()
            .unwrap_or(u16::MAX);
        let guests = [session.initiator.source.address, session.responder.source.address];
        let clamps = guests.into_iter().filter_map(|guest| {
            let network = policy.network(policy.ipv6().network(guest)?);
            Some(match network.mss_clamp? {
                // What people write is for IPv4, whose header is twenty bytes shorter.
                MssClamp::To(mss) => mss.saturating_sub(HEADER_DIFFERENCE),
                MssClamp::PathMtu => mtu.saturating_sub(IPV6_AND_TCP_HEADER),
            })
        });
        if let Some(mss) = clamps.min() {
            crate::wire::segment::clamp_mss(frame.bytes_mut(), packet.transport, packet.end, mss);
        }
    }
}

/// The next hop of packets to `address` in `realm`.
pub(super) fn next_hop(
    shared: &Shared,
    policy: &Policy,
    realm: Realm,
    address: Ipv6Addr,
) -> Result<NextHopId, DropReason> {
    let mut limited = false;
    let neighbor = match realm {
        Realm::Internal(realm) => {
            let id = policy.ipv6().network(address).ok_or(DropReason::NoRoute)?;
            let network = policy.network(id);
            if network.realm != realm {
                return Err(DropReason::NoRoute);
            }
            limited = network.rate_limits.is_some();
            let address = policy.ipv6().internal_hop(address).into();
            Neighbor { port: network.port, vlan: network.vlan, address }
        }
        Realm::External => {
            let route = policy.ipv6().external_route(address).ok_or(DropReason::NoRoute)?;
            Neighbor { port: route.port, vlan: route.vlan, address: route.next_hop.into() }
        }
    };
    let id = shared.next_hops.id(neighbor).ok_or(DropReason::NeighborQueueFull)?;
    Ok(if limited { id.watched() } else { id })
}

/// The question that a packet asks of the rules.
fn question(frame: &[u8], ready: &Ready, key: &FlowKey<Ipv6Addr>) -> Question {
    let packet = &ready.packet;
    let icmp = match packet.kind {
        Kind::IcmpQuery { icmp_type } | Kind::IcmpOther { icmp_type } => {
            (icmp_type, frame.get(usize::from(packet.transport) + 1).copied().unwrap_or(0))
        }
        Kind::IcmpError | Kind::Transport => (0, 0),
    };
    let network = match ready.attachment {
        Attachment::Guest(network) => Some(network),
        Attachment::Public => None,
    };
    Question { key: *key, network, icmp }
}

/// Both headers without options.
const IPV6_AND_TCP_HEADER: u16 = 60;
const HEADER_DIFFERENCE: u16 = 20;
