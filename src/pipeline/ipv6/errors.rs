//! ICMPv6 errors: those that pass for a session, and those that natwerk sends.

use crate::flow::{FlowKey, PortId, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::{Link, NextHopId, Resolution};
use crate::pipeline::ipv6::Ready;
use crate::pipeline::ipv6::admit::admit;
use crate::pipeline::waiting::Fate;
use crate::pipeline::{Context, Pipeline};
use crate::policy::Attachment;
use crate::session::tcp;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::header::ether_type;
use crate::wire::ipv6::errors::{ERROR_MAX, Icmpv6Error};

impl<F: FrameBuffer> Pipeline<F> {
    /// Lets an ICMPv6 error pass that belongs to a session (RFC 4890, section 4.3.1; RFC 6092,
    /// REC-10). It neither refreshes nor ends the session.
    #[cold]
    pub(super) fn icmp_error_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_ref() else { return Verdict::Hold };
        let packet = &ready.packet;
        let (source, destination) = (packet.source.address, packet.destination.address);
        if let Err(reason) = admit(ready.attachment, source, destination, context.policy) {
            return Verdict::Drop(reason);
        }
        let quote = match wire::ipv6::errors::quote(frame.bytes(), packet) {
            Ok(quote) => quote,
            Err(reason) => return Verdict::Drop(reason),
        };
        // The error travels against the packet it quotes: with the flow that answers that packet.
        let key = FlowKey {
            realm: ready.realm,
            protocol: quote.protocol,
            source: quote.destination,
            destination: quote.source,
        };
        let hash = context.shared.sessions_ipv6.hash(&key);
        let found = self.living_ipv6(&key, hash, context);
        // Without translation, an error is for whoever sent what it quotes.
        let found = found.filter(|_| quote.source.address == destination);
        let Some(found) = found else {
            if context.policy.ipv6().is_own(destination) && ready.realm == Realm::External {
                return Verdict::Host(HostReason::RouterOwnTraffic);
            }
            return Verdict::Drop(DropReason::IcmpErrorUnmatched);
        };
        if let Some(sequence) = quote.tcp_sequence
            && !tcp::plausible_quote(sequence, found.peer_tcp())
        {
            return Verdict::Drop(DropReason::IcmpSequenceRefused);
        }
        match self.link_ipv6(slot, port, ready, &found, Fate::Anew, context) {
            Ok(link) => match slot.as_mut() {
                Some(frame) => self.transmit_ipv6(port, frame, packet, &link),
                None => Verdict::Hold,
            },
            Err(verdict) => verdict,
        }
    }

    /// A packet whose hop limit ran out here (RFC 4443, section 3.3).
    #[cold]
    pub(super) fn hop_limit_exceeded<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        self.answer_ipv6(frame, port, ready, Icmpv6Error::HopLimitExceeded, context);
        Verdict::Drop(DropReason::TtlExpired)
    }

    /// A packet too long for its next link: only its sender may fragment it (RFC 8200, section 5).
    #[cold]
    pub(super) fn too_big_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        port: PortId,
        ready: &Ready,
        mtu: u16,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        self.answer_ipv6(frame, port, ready, Icmpv6Error::PacketTooBig { mtu }, context);
        Verdict::Drop(DropReason::MtuExceeded)
    }

    /// A packet whose next hop has no link address: it waits, or its sender hears that nobody
    /// answers (RFC 4861, section 7.2.2).
    #[cold]
    pub(super) fn unresolved_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        (next_hop, link): (NextHopId, &Link),
        fate: Fate,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        if link.destination == Resolution::Failed
            && let Some(frame) = slot
        {
            let error = Icmpv6Error::AddressUnreachable;
            self.answer_ipv6(frame.bytes(), port, ready, error, context);
        }
        self.wait(slot, port, (next_hop, link), fate, context)
    }

    /// Sends an ICMPv6 error about a packet back where it came from: out of the interface it came
    /// in by, to the station that sent it, from the router's address there.
    #[cold]
    pub(super) fn answer_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        port: PortId,
        ready: &Ready,
        error: Icmpv6Error,
        context: &mut Context<'_, F, S>,
    ) {
        let packet = &ready.packet;
        let source = match ready.attachment {
            Attachment::Guest(id) => {
                context.policy.network(id).ipv6.as_ref().map(|ipv6| ipv6.gateway)
            }
            Attachment::Public => context.policy.ipv6().speaker(port, packet.vlan),
        };
        let Some(source) = source else { return };
        if !wire::ipv6::errors::may_answer(frame, packet) {
            return;
        }
        let original = frame.get(usize::from(packet.network)..usize::from(packet.end));
        let back = (port, packet.vlan, ether_type::IPV6);
        self.send_error(frame, back, LINK_LENGTH + ERROR_MAX, context, |reply| {
            wire::ipv6::errors::write_error(reply, error, source, original?)
        });
    }
}

/// An untagged Ethernet header, in bytes.
const LINK_LENGTH: usize = 14;
