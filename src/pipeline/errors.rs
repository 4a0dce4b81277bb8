//! ICMP errors: those that pass through, translated inside out, and those that natwerk sends.

use crate::flow::{FlowKey, PortId, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::Resolution;
use crate::pipeline::admit::is_stray;
use crate::pipeline::waiting::Fate;
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::Attachment;
use crate::session::entry::SessionKind;
use crate::session::tcp;
use crate::time::Tick;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::header::ether_type;
use crate::wire::icmp::{IcmpError, Quote};

impl<F: FrameBuffer> Pipeline<F> {
    /// Translates an ICMP error that belongs to a session (RFC 5508, REQ-4, REQ-5 and REQ-7). It
    /// neither refreshes nor ends the session (RFC 4787, REQ-12; RFC 5508, REQ-6).
    #[cold]
    pub(super) fn icmp_error<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        let packet = &ready.packet;
        if let Err(reason) = self.admit(ready, context.policy) {
            return Verdict::Drop(reason);
        }
        let icmp_type = frame.bytes().get(usize::from(packet.transport));
        if icmp_type.is_none_or(|icmp_type| matches!(*icmp_type, SOURCE_QUENCH | REDIRECT)) {
            // RFC 6633 and RFC 1812, section 5.2.7.2: nobody behind a router has use for them.
            return Verdict::Drop(DropReason::IcmpRefused);
        }
        let quote = match wire::icmp::quote(frame.bytes(), packet) {
            Ok(quote) => quote,
            Err(reason) => return Verdict::Drop(reason),
        };
        if is_stray(ready.attachment, quote.destination.address, context.policy) {
            // The packet that it quotes went to another network of the realm.
            return Verdict::Drop(DropReason::IcmpErrorUnmatched);
        }
        // The error travels against the packet it quotes: with the flow that answers that packet.
        let key = FlowKey {
            realm: ready.realm,
            protocol: quote.protocol,
            source: quote.destination,
            destination: quote.source,
        };
        let hash = context.shared.sessions.hash(&key);
        // An error goes to whoever sent what it quotes; one that does not is made up.
        let is_plausible = quote.source.address == packet.destination.address;
        let found = self.living(&key, hash, context).filter(|_| is_plausible);
        let Some(found) = found else { return self.unmatched_error(ready, context) };
        if let Some(sequence) = quote.tcp_sequence
            && !tcp::plausible_quote(sequence, self.peer_tcp(&found))
        {
            return Verdict::Drop(DropReason::IcmpSequenceRefused);
        }
        if packet.ttl <= 1 {
            // No error about an error (RFC 1812, section 4.3.2.7).
            return Verdict::Drop(DropReason::TtlExpired);
        }
        if ready.realm == Realm::External
            && let Some(mtu) = wire::icmp::told_mtu(frame.bytes(), packet)
        {
            let (public, remote) = (packet.destination.address, quote.destination.address);
            context.shared.path_mtus.tell(public, remote, mtu, context.now);
        }
        let outer_source = self.outer_source(ready, &quote, found.kind(), &found.rewrite);
        let link = context.shared.next_hops.link(found.next_hop);
        let Resolution::Reachable(destination) = link.destination else {
            let hop = (found.next_hop, &link);
            return self.unresolved(slot, port, ready, hop, Fate::Anew, context);
        };
        found.rewrite.apply_to_error(frame.bytes_mut(), packet, &quote, outer_source);
        self.transmit(port, frame, packet, &link, destination, context)
    }

    /// Who the error seems to come from on the other side. The quoted packet's receiver becomes
    /// what the sender knows it as; a router in between keeps its address, unless it is a guest's:
    /// then the public address of the flow stands in for it (RFC 5508, REQ-5c).
    fn outer_source(
        &self,
        ready: &Ready,
        quote: &Quote,
        kind: SessionKind,
        rewrite: &crate::rewrite::Rewrite,
    ) -> std::net::Ipv4Addr {
        let from_inside = ready.realm != Realm::External && kind != SessionKind::Routed;
        if from_inside || ready.packet.source.address == quote.destination.address {
            rewrite.source.address
        } else {
            ready.packet.source.address
        }
    }

    fn unmatched_error<S>(&self, ready: &Ready, context: &Context<'_, F, S>) -> Verdict {
        let ours = context.policy.public_address(ready.packet.destination.address).is_some();
        if ready.realm == Realm::External && ours {
            // It may be about a packet of the router's own.
            return Verdict::Host(HostReason::RouterOwnTraffic);
        }
        Verdict::Drop(DropReason::IcmpErrorUnmatched)
    }

    /// A packet whose time to live ran out here.
    #[cold]
    pub(super) fn ttl_expired<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        if ready.packet.ttl == 1 {
            self.answer(frame, port, ready, IcmpError::TtlExceeded, context);
        }
        Verdict::Drop(DropReason::TtlExpired)
    }

    /// A packet too long for its next link that must not be cut (RFC 1191).
    #[cold]
    pub(super) fn too_big<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        port: PortId,
        ready: &Ready,
        mtu: u16,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        self.answer(frame, port, ready, IcmpError::FragmentationNeeded { mtu }, context);
        Verdict::Drop(DropReason::MtuExceeded)
    }

    /// Sends an ICMP error about a packet back where it came from: out of the interface it came in
    /// by, to the station that sent it, from the address the sender knows us by.
    #[cold]
    pub(super) fn answer<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        port: PortId,
        ready: &Ready,
        error: IcmpError,
        context: &mut Context<'_, F, S>,
    ) {
        let packet = &ready.packet;
        let source = match ready.attachment {
            Attachment::Guest(network) => context.policy.network(network).gateway,
            // The packet came to a public address of ours: never show a guest's (RFC 5508, 7.2).
            Attachment::Public => packet.destination.address,
        };
        if !wire::icmp::may_answer(frame, packet) {
            return;
        }
        let original = frame.get(usize::from(packet.network)..usize::from(packet.end));
        let back = (port, packet.vlan, ether_type::IPV4);
        self.send_error(frame, back, ICMP_ERROR_LENGTH_MAX, context, |reply| {
            wire::icmp::write_error(reply, error, source, original?)
        });
    }

    /// Sends an error about `frame` to the station it came from, by the interface and tag that it
    /// came in by, if the rate limit lets it. `write` makes the frame, at most `length_max` bytes,
    /// and says how long it is; the link header is none of its business.
    pub(super) fn send_error<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &[u8],
        (port, vlan, carried): (PortId, u16, u16),
        length_max: usize,
        context: &mut Context<'_, F, S>,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        if context.extra.len() == context.extra.capacity() {
            return;
        }
        if !self.error_limit.take(context.now) {
            self.counters.icmp_error_limited();
            return;
        }
        let Some(mut reply) = context.frames.allocate() else { return };
        let ours = context.shared.next_hops.source_mac(port);
        let sent = wire::parse::macs(frame).and_then(|(_, sender)| {
            reply.set_length(length_max).then_some(())?;
            let length = write(reply.bytes_mut())?;
            reply.set_length(length).then_some(())?;
            wire::link::write_header_of(carried, &mut reply, 14, sender, ours, vlan)
        });
        if sent.is_none() {
            context.frames.release(reply);
            return;
        }
        self.counters.icmp_error_sent();
        self.counters.forwarded(port, reply.bytes().len());
        context.extra.push((port, reply));
    }
}

const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
/// 576 bytes of packet behind an Ethernet header (RFC 1812, section 4.3.2.3).
const ICMP_ERROR_LENGTH_MAX: usize = 14 + 576;

/// How many ICMP errors may still be sent (RFC 1812, section 4.3.2.8): a token bucket that holds
/// one second's worth. One per worker, so that no global rate can be read from outside
/// (CVE-2020-25705).
pub(super) struct ErrorLimit {
    per_second: u32,
    tokens_milli: u64,
    filled: Tick,
}

impl ErrorLimit {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, tokens_milli: u64::from(per_second) * 1000, filled: Tick::ZERO }
    }

    pub(super) fn take(&mut self, now: Tick) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let passed_ms = u64::try_from(now.since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let full = u64::from(self.per_second) * 1000;
        let gained = passed_ms.saturating_mul(u64::from(self.per_second));
        self.tokens_milli = self.tokens_milli.saturating_add(gained).min(full);
        self.filled = now;
        if self.tokens_milli < 1000 {
            return false;
        }
        self.tokens_milli -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_errors_are_limited_and_recover() {
        let mut limit = ErrorLimit::new(10);
        let sent = (0..100).filter(|_| limit.take(Tick::from_ms(5000))).count();
        assert_eq!(sent, 10);
        assert!(!limit.take(Tick::from_ms(5050)));
        assert!(limit.take(Tick::from_ms(5150)));
    }

    #[test]
    fn no_limit_limits_nothing() {
        let mut limit = ErrorLimit::new(0);
        assert!((0..100_000).all(|_| limit.take(Tick::ZERO)));
    }
}
