//! IPv6 fragments: the first one is judged like a whole packet, the others follow it, in any order.
//! They are forwarded as they are; nobody but the receiver puts them together.

use std::net::Ipv6Addr;

use crate::flow::{FlowKey, PortId, Protocol};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::fragments::{DatagramKey, Span, Step};
use crate::pipeline::fragments::{keep, refusal_of};
use crate::pipeline::ipv6::{Ready, belongs};
use crate::pipeline::waiting::{Fate, Released};
use crate::pipeline::{Context, Pipeline};
use crate::session::tcp::{self, Judgement};
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire::parse::{Fragment, Kind};
use crate::wire::segment;

/// What the first fragment's judgement says to do with all fragments of its datagram.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) enum FragmentPlan {
    /// They are for the router's own kernel.
    Host(HostReason),
    /// They follow the session with this key.
    Session(FlowKey<Ipv6Addr>),
}

impl<F: FrameBuffer> Pipeline<F> {
    /// The way of a fragment.
    #[cold]
    pub(super) fn fragment_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let packet = &ready.packet;
        let part = packet.part;
        let key = DatagramKey {
            realm: ready.realm,
            source: packet.source.address,
            destination: packet.destination.address,
            // Fragments of one datagram may name different headers (RFC 8200, section 4.5).
            protocol: Protocol(0),
            identification: part.identification,
        };
        let span = Span { start: part.start, end: part.end, more: part.more };
        match self.fragments_ipv6.step(&key, span, context.now) {
            Step::Drop(reason) => Verdict::Drop(reason),
            Step::Wait => keep(&mut self.fragments_ipv6, &key, slot, port),
            Step::Follow(plan) => self.follow_ipv6(slot, port, ready, plan, context),
            Step::Judge => {
                let Some(frame) = slot.as_mut() else { return Verdict::Hold };
                let plan = self.judge_first_ipv6(frame, port, ready, context);
                let reason = plan.map_err(refusal_of);
                let fate = reason.map_or_else(Fate::Drop, Fate::FollowIpv6);
                let released = &mut self.released;
                self.fragments_ipv6.judged(&key, reason, context.now, |(port, frame)| {
                    // The list has room for every frame that may wait.
                    released.push(Released { frame, port, fate });
                });
                match plan {
                    Ok(plan) => self.follow_ipv6(slot, port, ready, plan, context),
                    Err(verdict) => verdict,
                }
            }
        }
    }

    /// Finds or opens the session of a first fragment.
    fn judge_first_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Result<FragmentPlan, Verdict> {
        let kind = ready.packet.kind;
        if !matches!(kind, Kind::Transport | Kind::IcmpQuery { .. }) {
            return Err(Verdict::Drop(DropReason::IcmpRefused));
        }
        match self.session_ipv6(frame, port, ready, context) {
            Ok(found) => match kind {
                Kind::IcmpQuery { icmp_type } if !belongs(&found, icmp_type) => {
                    Err(Verdict::Drop(DropReason::IcmpRefused))
                }
                Kind::IcmpError
                | Kind::IcmpOther { .. }
                | Kind::IcmpQuery { .. }
                | Kind::Transport => Ok(FragmentPlan::Session(ready.packet.key(ready.realm))),
            },
            Err(Verdict::Host(reason)) => Ok(FragmentPlan::Host(reason)),
            Err(verdict) => Err(verdict),
        }
    }

    /// Does to a fragment what its datagram's plan says.
    pub(in crate::pipeline) fn follow_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        plan: FragmentPlan,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let key = match plan {
            FragmentPlan::Host(reason) => return Verdict::Host(reason),
            FragmentPlan::Session(key) => key,
        };
        let hash = context.shared.sessions_ipv6.hash(&key);
        let Some(found) = self.living_ipv6(&key, hash, context) else {
            return Verdict::Drop(DropReason::FragmentTimeout);
        };
        let fate = Fate::FollowIpv6(plan);
        let link = match self.link_ipv6(slot, port, ready, &found, fate, context) {
            Ok(link) => link,
            Err(verdict) => return verdict,
        };
        let packet = &ready.packet;
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        if key.protocol == Protocol::TCP && packet.fragment == Fragment::First {
            let seen = segment::segment(frame.bytes(), packet.transport, packet.end);
            match tcp::judge(&seen, found.tcp(), || found.peer_tcp()) {
                Judgement::Believe(state) => {
                    found.set_tcp(state);
                    found.touch(packet.packet_length(), context.now.coarse());
                }
                Judgement::Doubt => {}
                // Nobody opens a connection anew with a SYN in fragments.
                Judgement::Reopen => return Verdict::Drop(DropReason::TcpNoSession),
            }
        } else {
            found.touch(packet.packet_length(), context.now.coarse());
        }
        self.transmit_ipv6(port, frame, packet, &link)
    }
}
