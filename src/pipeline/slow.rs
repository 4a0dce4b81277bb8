//! The slow path: a packet without a session, or with one that must be looked at again.

use crate::flow::{FlowKey, PortId, Protocol, RuleId};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::{Link, Resolution};
use crate::pipeline::admit::admit_first;
use crate::pipeline::decide::{Decider, Decision, Plan, Question, Refusal};
use crate::pipeline::{Context, Pipeline, Ready, queries};
use crate::policy::{Attachment, Policy};
use crate::session::entry::EntryIndex;
use crate::session::table::{Found, Hash};
use crate::telemetry::counters::Ended;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::icmp::IcmpError;
use crate::wire::parse::{Fragment, Kind, Parsed};
use crate::wire::segment::flags;

impl<F: FrameBuffer> Pipeline<F> {
    /// Finds out what becomes of a packet that the fast path could not help: the session it now
    /// has, or its verdict.
    #[cold]
    pub(super) fn miss<'c, S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        key: &FlowKey,
        context: &mut Context<'c, F, S>,
    ) -> Result<Found<'c>, Verdict> {
        match self.living(key, ready.hash, context) {
            Some(found) => Ok(found),
            None => self.newcomer(frame, port, ready, key, context),
        }
    }

    /// The same for a packet that there was no session for a moment ago.
    pub(super) fn newcomer<'c, S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        key: &FlowKey,
        context: &mut Context<'c, F, S>,
    ) -> Result<Found<'c>, Verdict> {
        let sessions = &context.shared.sessions;
        let found = self
            .settled(frame, port, ready, key, context)?
            .and_then(|place| sessions.at(place, key))
            .or_else(|| sessions.find(key, ready.hash));
        if let (Some(found), Kind::IcmpQuery { icmp_type }) = (&found, ready.packet.kind) {
            queries::remember(found, icmp_type);
        }
        found.ok_or(Verdict::Drop(DropReason::SessionTableFull))
    }

    /// Opens the session of a packet that has none, if it may have one. Returns where it stands, unless
    /// another worker has opened it meanwhile; or the packet's verdict.
    pub(super) fn settled<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        key: &FlowKey,
        context: &mut Context<'_, F, S>,
    ) -> Result<Option<EntryIndex>, Verdict> {
        let plan = self.judged(frame, port, ready, key, context)?;
        match self.open(ready, key, &plan, context) {
            Ok(place) => {
                self.opened(ready.packet.packet_length(), &plan, context);
                self.learn_sender(frame, port, ready, context);
                Ok(place)
            }
            Err(reason) => Err(self.not_opened(frame, port, ready, (reason, &plan), context)),
        }
    }

    /// How the session of a packet that has none is to be opened, or the packet's verdict.
    pub(super) fn judged<'c, S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        key: &FlowKey,
        context: &mut Context<'c, F, S>,
    ) -> Result<Plan<'c>, Verdict> {
        let question = question(frame.bytes(), ready, key, context.policy);
        decided(&question, ready.attachment, ready.packet.tcp_flags, context)
            .map_err(|unopened| self.unopened(frame, port, ready, unopened, context))
    }

    /// The verdict of a first packet that no session is opened for.
    #[cold]
    pub(super) fn unopened<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        unopened: Unopened,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        match unopened {
            Unopened::Dropped(reason) => Verdict::Drop(reason),
            Unopened::EchoReply => self.reply_to_echo(frame, port, &ready.packet, context),
            Unopened::Host(reason) => Verdict::Host(reason),
            Unopened::Refused(refusal) => self.refuse(frame, port, ready, refusal, context),
        }
    }

    /// Counts the session that a packet of `bytes` bytes opened.
    pub(super) fn opened<S>(&mut self, bytes: u16, plan: &Plan<'_>, context: &Context<'_, F, S>) {
        self.counters.session_created();
        if plan.admitted_by != RuleId::DEFAULT && plan.admitted_by != plan.rule {
            self.tally.admitted(plan.admitted_by, bytes, &context.shared.rules);
        }
    }

    /// The verdict of a packet whose session was allowed, but not opened.
    #[cold]
    pub(super) fn not_opened<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &F,
        port: PortId,
        ready: &Ready,
        (reason, plan): (DropReason, &Plan<'_>),
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let (from, policy) = (ready.attachment, context.policy);
        let key = ready.packet.key(ready.realm);
        context.shared.session_refused(reason, &key, from, policy, context.now);
        // RFC 5508, REQ-8; RFC 6888, REQ-11: the sender is told that it was refused.
        // Strangers are not told how full we are.
        let tell = matches!(ready.attachment, Attachment::Guest(_))
            && matches!(
                reason,
                DropReason::NoPort
                    | DropReason::PortLimit
                    | DropReason::SessionLimit
                    | DropReason::SessionTableFull
            );
        let refusal = Refusal { reason, rule: plan.rule, tell };
        self.refuse(frame, port, ready, refusal, context)
    }

    /// The session of `key`, if the rules in force still allow it and it has not expired.
    pub(super) fn living<'c, S>(
        &mut self,
        key: &FlowKey,
        hash: Hash,
        context: &Context<'c, F, S>,
    ) -> Option<Found<'c>> {
        let sessions = &context.shared.sessions;
        let found = sessions.find(key, hash)?;
        if self.is_current(&found, key.protocol, context) {
            return Some(found);
        }
        self.still_holds(&found, context).then(|| sessions.find(key, hash)).flatten()
    }

    /// Whether an old session may go on: not expired, and decided the same under the new rules.
    /// Ends it if not.
    fn still_holds<S>(&mut self, found: &Found<'_>, context: &Context<'_, F, S>) -> bool {
        let Some(view) = context.shared.sessions.view(found.index) else { return false };
        self.review(&view, context.shared, context.policy, context.now)
    }

    /// Opens a connection anew whose former one is closed, with the SYN at hand.
    #[cold]
    pub(super) fn reopen<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        found: &Found<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let shared = context.shared;
        if let Some(view) = shared.sessions.view(found.index) {
            self.end(&view, Ended::Expired, shared, context.now);
        }
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        let key = ready.packet.key(ready.realm);
        match self.miss(frame, port, ready, &key, context) {
            Ok(found) => self.apply(slot, port, ready, &found, context),
            Err(verdict) => verdict,
        }
    }

    fn refuse<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &F,
        port: PortId,
        ready: &Ready,
        refusal: Refusal,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        if refusal.rule != RuleId::DEFAULT {
            let bytes = u64::from(ready.packet.packet_length());
            context.shared.rules.refused(refusal.rule, bytes);
        }
        if refusal.tell {
            let error = IcmpError::AdministrativelyProhibited;
            self.answer(frame.bytes(), port, ready, error, context);
        }
        Verdict::Drop(refusal.reason)
    }

    fn reply_to_echo<S: FrameSource<Frame = F>>(
        &self,
        frame: &mut F,
        port: PortId,
        packet: &Parsed,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let (ours, remote) = (packet.destination.address, packet.source.address);
        let path = context.shared.path_mtus.of(ours, remote, context.now);
        if packet.fragment != Fragment::Whole {
            // Who answers a datagram in fragments must put it together first: the kernel can. It has
            // not heard how narrow the path is.
            return match path {
                None => Verdict::Host(HostReason::EchoForRouter),
                Some(_) => Verdict::Drop(DropReason::MtuExceeded),
            };
        }
        wire::icmp::turn_into_echo_reply(frame.bytes_mut(), packet);
        if let Some(mtu) = path.filter(|mtu| packet.packet_length() > *mtu) {
            return self.reply_in_pieces(frame, port, packet, mtu, context);
        }
        if !frame.set_length(usize::from(packet.end)) {
            return Verdict::Drop(DropReason::Truncated);
        }
        self.counters.forwarded(port, frame.bytes().len());
        Verdict::Forward(port)
    }

    /// Sends an echo reply over a path that takes no more than `mtu` at once (RFC 1191).
    #[cold]
    fn reply_in_pieces<S: FrameSource<Frame = F>>(
        &self,
        frame: &mut F,
        port: PortId,
        packet: &Parsed,
        mtu: u16,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some((destination, source)) = wire::parse::macs(frame.bytes()) else {
            return Verdict::Drop(DropReason::Truncated);
        };
        let (ours, remote) = (packet.destination.address, packet.source.address);
        let own = context.shared.identifications.next(ours, remote, Protocol::ICMP);
        wire::fragment::clear_dont_fragment(frame.bytes_mut(), packet);
        wire::fragment::set_identification(frame.bytes_mut(), packet, own);
        let station = Resolution::Reachable(destination);
        let link = Link { port, vlan: packet.vlan, mtu, source, destination: station };
        self.cut(frame, packet, &link, destination, context)
    }
}

/// What becomes of a first packet that no session is opened for.
pub(super) enum Unopened {
    /// It is dropped before the rules are asked.
    Dropped(DropReason),
    /// The router answers it.
    EchoReply,
    /// It is for the router's own kernel.
    Host(HostReason),
    /// The rules refuse it.
    Refused(Refusal),
}

/// How the session of a first packet is to be opened that asks `question` and came by `attachment`.
#[inline(always)]
pub(super) fn decided<'c, F, S>(
    question: &Question,
    attachment: Attachment,
    tcp_flags: u8,
    context: &Context<'c, F, S>,
) -> Result<Plan<'c>, Unopened> {
    admit_first(attachment, question, context.policy).map_err(Unopened::Dropped)?;
    if question.key.protocol == Protocol::TCP && !opens_connection(tcp_flags) {
        // RFC 6146, section 3.5.2.2: only a SYN opens a session.
        return Err(Unopened::Dropped(DropReason::TcpNoSession));
    }
    match Decider::new(context.policy, context.shared).decide(question, &mut ()) {
        Decision::EchoReply => Err(Unopened::EchoReply),
        Decision::Host(reason) => Err(Unopened::Host(reason)),
        Decision::Open(plan) => Ok(plan),
        Decision::Refuse(refusal) => Err(Unopened::Refused(refusal)),
    }
}

/// The question that a packet asks of the rules.
#[inline(always)]
pub(super) fn question(frame: &[u8], ready: &Ready, key: &FlowKey, policy: &Policy) -> Question {
    let packet = &ready.packet;
    let icmp = match packet.kind {
        Kind::IcmpQuery { icmp_type } | Kind::IcmpOther { icmp_type } => {
            let code = frame.get(usize::from(packet.transport) + 1).copied().unwrap_or(0);
            (icmp_type, code)
        }
        Kind::IcmpError | Kind::Transport => (0, 0),
    };
    Question::new(policy, *key, ready.attachment.network(), icmp)
}

/// A SYN and nothing that contradicts it; ECN setup and data are welcome (RFC 3168, RFC 7413).
const fn opens_connection(tcp_flags: u8) -> bool {
    tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}
