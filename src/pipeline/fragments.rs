//! Fragments on their way: the first one is judged like a whole packet, the others follow it.

use crate::flow::{Family, FlowKey, PortId, Protocol};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::fragments::{DatagramKey, Fragments, Span, Step};
use crate::next_hop::Resolution;
use crate::pipeline::charge::{Charge, passing};
use crate::pipeline::shared::Shared;
use crate::pipeline::waiting::{Fate, Released};
use crate::pipeline::{Context, Pipeline, Ready, Tracked, queries};
use crate::session::entry::SessionKind;
use crate::session::table::Found;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::parse::{Fragment, Kind};

/// What the first fragment's judgement says to do with all fragments of its datagram.
#[derive(Clone, Copy, Debug)]
pub(super) enum FragmentPlan {
    /// They are for the router's own kernel.
    Host(HostReason),
    /// They follow the session with this key; those of guests who share a public address get an
    /// identification of their own (RFC 6864, section 5.3.1).
    Session { key: FlowKey, identification: Option<u16> },
}

impl<F: FrameBuffer> Pipeline<F> {
    /// The way of a fragment.
    #[cold]
    pub(super) fn fragment<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        let packet = &ready.packet;
        let (start, end, more) = wire::fragment::span(frame.bytes(), packet);
        let key = DatagramKey {
            realm: ready.realm,
            source: packet.source.address,
            destination: packet.destination.address,
            protocol: packet.protocol,
            identification: wire::fragment::identification(frame.bytes(), packet),
        };
        match self.fragments.step(&key, Span { start, end, more }, context.now) {
            Step::Drop(reason) => Verdict::Drop(reason),
            Step::Wait => keep(&mut self.fragments, &key, slot, port),
            Step::Follow(plan) => self.follow(slot, port, ready, plan, context),
            Step::Judge => {
                let plan = self.judge_first(frame, port, ready, context);
                let reason = plan.map_err(refusal_of);
                let fate = reason.map_or_else(Fate::Drop, Fate::Follow);
                let released = &mut self.released;
                self.fragments.judged(&key, reason, context.now, |(port, frame)| {
                    // The list has room for every frame that may wait.
                    released.push(Released { frame, port, fate });
                });
                match plan {
                    Ok(plan) => self.follow(slot, port, ready, plan, context),
                    Err(verdict) => verdict,
                }
            }
        }
    }

    /// Finds or opens the session of a first fragment.
    fn judge_first<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Result<FragmentPlan, Verdict> {
        if !matches!(ready.packet.kind, Kind::Transport | Kind::IcmpQuery { .. }) {
            return Err(Verdict::Drop(DropReason::IcmpRefused));
        }
        let key = ready.packet.key(ready.realm);
        let sessions = &context.shared.sessions;
        let found = match sessions.find(&key, ready.hash) {
            Some(found) if self.is_current(&found, key.protocol, context) => found,
            Some(_) | None => match self.miss(frame, port, ready, &key, context) {
                Ok(found) => found,
                Err(Verdict::Host(reason)) => return Ok(FragmentPlan::Host(reason)),
                Err(verdict) => return Err(verdict),
            },
        };
        if let Kind::IcmpQuery { icmp_type } = ready.packet.kind
            && !queries::belongs(&found, icmp_type)
        {
            return Err(Verdict::Drop(DropReason::IcmpRefused));
        }
        let identification = own_identification(&found, key.protocol, context.shared);
        Ok(FragmentPlan::Session { key, identification })
    }

    /// Does to a fragment what its datagram's plan says.
    pub(super) fn follow<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        plan: FragmentPlan,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let (key, identification) = match plan {
            FragmentPlan::Host(reason) => return Verdict::Host(reason),
            FragmentPlan::Session { key, identification } => (key, identification),
        };
        let hash = context.shared.sessions.hash(&key);
        let Some(found) = self.living(&key, hash, context) else {
            return Verdict::Drop(DropReason::FragmentTimeout);
        };
        let packet = &ready.packet;
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        // As `apply` does; nobody is told about a later fragment (RFC 1812, section 4.3.2.7).
        if packet.ttl <= 1 {
            return self.ttl_expired(frame.bytes(), port, ready, context);
        }
        let link = context.shared.next_hops.link(found.next_hop);
        if packet.packet_length() > link.mtu && packet.dont_fragment {
            return self.too_big(frame.bytes(), port, ready, link.mtu, context);
        }
        let Resolution::Reachable(destination) = link.destination else {
            let fate = Fate::Follow(plan);
            return self.unresolved(slot, port, ready, (found.next_hop, &link), fate, context);
        };
        let charge = Charge {
            attachment: ready.attachment,
            source: packet.source.address.into(),
            destination: found.rewrite.destination.address.into(),
            bytes: packet.packet_length(),
            worker: self.index,
            public: passing(ready.attachment, found.kind(), packet, found.rewrite.source),
        };
        if let Err(reason) = charge.take(found.next_hop, &link, context.policy, context.now) {
            return Verdict::Drop(reason);
        }
        if packet.protocol == Protocol::TCP && packet.fragment == Fragment::First {
            match self.track(frame, packet, &found, context) {
                Tracked::Counts => found.touch(packet.packet_length(), context.now.coarse()),
                Tracked::Passes => {}
                // Nobody opens a connection anew with a SYN in fragments.
                Tracked::Reopens => return Verdict::Drop(DropReason::TcpNoSession),
            }
        } else {
            found.touch(packet.packet_length(), context.now.coarse());
        }
        if let Some(identification) = identification {
            wire::fragment::set_identification(frame.bytes_mut(), packet, identification);
        }
        found.rewrite.apply(frame.bytes_mut(), packet);
        self.transmit(port, frame, packet, &link, destination, context)
    }
}

/// The identification for a datagram that leaves in fragments, if it cannot keep its own: that of
/// a guest whose public address others share (RFC 6864, section 5.3.1).
pub(super) fn own_identification(
    found: &Found<'_>,
    protocol: Protocol,
    shared: &Shared,
) -> Option<u16> {
    let shares_address = match found.kind() {
        SessionKind::Hairpin | SessionKind::SourceNat => found.is_initiator(),
        SessionKind::HairpinStatic
        | SessionKind::Inbound
        | SessionKind::Routed
        | SessionKind::StaticNat => false,
    };
    let (source, destination) = (found.rewrite.source.address, found.rewrite.destination.address);
    shares_address.then(|| shared.identifications.next(source, destination, protocol))
}

/// Keeps a fragment until its datagram's first one comes; one that cannot be kept is dropped.
pub(super) fn keep<P: Copy, F, A: Family>(
    fragments: &mut Fragments<P, (PortId, F), A>,
    key: &DatagramKey<A>,
    slot: &mut Option<F>,
    port: PortId,
) -> Verdict {
    let Some(frame) = slot.take() else { return Verdict::Hold };
    match fragments.keep(key, (port, frame)) {
        Ok(()) => Verdict::Hold,
        Err(((_, frame), reason)) => {
            *slot = Some(frame);
            Verdict::Drop(reason)
        }
    }
}

/// Why the other fragments of a datagram are dropped when its first one got this verdict.
pub(super) const fn refusal_of(verdict: Verdict) -> DropReason {
    match verdict {
        Verdict::Drop(reason) => reason,
        Verdict::Forward(_) | Verdict::Hold | Verdict::Host(_) => DropReason::IcmpRefused,
    }
}
