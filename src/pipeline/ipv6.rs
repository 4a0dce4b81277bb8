//! IPv6: the same way as IPv4's, without translation. Read [`Pipeline::forward_ipv6`] first.
//!
//! A frame gets here by its EtherType alone, so that IPv4 pays nothing for it. What is the same for
//! both families (next hops, TCP tracking, waiting frames, limits, rule counters) is the same code.

mod admit;
pub mod decide;
mod errors;
mod fragments;
mod open;
pub mod review;

use crate::pipeline::charge::Charge;
use std::net::Ipv6Addr;

use crate::flow::{PortId, Protocol, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::{Link, Resolution};
use crate::pipeline::waiting::Fate;
use crate::pipeline::{Context, Pipeline};
use crate::policy::{Attachment, Policy};
use crate::session::table::{Found, Hash};
use crate::session::tcp::{self, Judgement};
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::wire::header::ether_type;
use crate::wire::ipv6::{ECHO_REPLY, ECHO_REQUEST, Parsed};
use crate::wire::parse::{Fragment, Kind};
use crate::wire::segment::{self, flags};

pub(super) use fragments::FragmentPlan;

/// A sound IPv6 packet with what the lookup needs.
#[derive(Clone, Copy)]
pub(super) struct Ready {
    pub packet: Parsed,
    pub realm: Realm,
    pub attachment: Attachment,
    pub hash: Hash,
}

/// What a session says of one of its packets.
type Session<'t> = Found<'t, Ipv6Addr>;

impl<F: FrameBuffer> Pipeline<F> {
    /// First pass over a frame that is not IPv4: if it is IPv6, parse it, find the realm it is in,
    /// hash its key. None for what is neither.
    pub(super) fn look_ipv6(
        &self,
        frame: &F,
        port: PortId,
        policy: &Policy,
    ) -> Option<Result<Ready, DropReason>> {
        let packet = match wire::ipv6::parse(frame.bytes())? {
            Ok(packet) => packet,
            Err(reason) => return Some(Err(reason)),
        };
        let (realm, attachment) = match policy.attachment(port, packet.vlan) {
            Some(Attachment::Public) => (Realm::External, Attachment::Public),
            Some(Attachment::Guest(first)) => {
                let here = |id| {
                    let network = policy.network(id);
                    (network.port, network.vlan) == (port, packet.vlan)
                };
                let own = policy.ipv6().network(packet.source.address).filter(|id| here(*id));
                let network = own.unwrap_or(first);
                (Realm::Internal(policy.network(network).realm), Attachment::Guest(network))
            }
            None => return Some(Err(DropReason::UnknownVlan)),
        };
        let hash = self.shared.sessions_ipv6.hash(&packet.key(realm));
        Some(Ok(Ready { packet, realm, attachment, hash }))
    }

    /// The way of one sound packet: its session if there is one, the slow path if not.
    pub(super) fn forward_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        if !self.is_for_us(frame.bytes(), port) {
            return Verdict::Drop(DropReason::MacNotOurs);
        }
        if self.checks_partial(port) {
            wire::ipv6::complete_partial(frame.bytes_mut(), &ready.packet);
        }
        if ready.packet.fragment != Fragment::Whole {
            return self.fragment_ipv6(slot, port, ready, context);
        }
        match ready.packet.kind {
            Kind::Transport | Kind::IcmpQuery { .. } => {}
            Kind::IcmpError => return self.icmp_error_ipv6(slot, port, ready, context),
            Kind::IcmpOther { .. } => return Verdict::Drop(DropReason::IcmpRefused),
        }
        match self.session_ipv6(frame, port, ready, context) {
            Ok(found) => self.apply_ipv6(slot, port, ready, &found, context),
            Err(verdict) => verdict,
        }
    }

    /// The session of a packet, opened if the rules say so.
    fn session_ipv6<'c, S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'c, F, S>,
    ) -> Result<Session<'c>, Verdict> {
        let key = ready.packet.key(ready.realm);
        match context.shared.sessions_ipv6.find(&key, ready.hash) {
            Some(found) if self.is_current(&found, key.protocol, context) => Ok(found),
            Some(_) | None => self.miss_ipv6(frame, port, ready, &key, context),
        }
    }

    /// Does what a session says to one of its packets.
    fn apply_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        found: &Session<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let packet = &ready.packet;
        if let Kind::IcmpQuery { icmp_type } = packet.kind
            && !belongs(found, icmp_type)
        {
            return Verdict::Drop(DropReason::IcmpRefused);
        }
        let link = match self.link_ipv6(slot, port, ready, found, Fate::Anew, context) {
            Ok(link) => link,
            Err(verdict) => return verdict,
        };
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        if packet.protocol == Protocol::TCP {
            let seen = segment::segment(frame.bytes(), packet.transport, packet.end);
            let own = found.tcp();
            match tcp::judge(&seen, own, || found.peer_tcp()) {
                Judgement::Believe(state) => {
                    if state != own {
                        found.set_tcp(state);
                    }
                    if seen.flags & flags::SYN != 0 && context.policy.clamps_mss() {
                        self.clamp_mss_ipv6(frame, packet, found, context.policy);
                    }
                    found.touch(packet.packet_length(), context.now.coarse());
                }
                Judgement::Doubt => {}
                Judgement::Reopen => return self.reopen_ipv6(slot, port, ready, found, context),
            }
        } else {
            found.touch(packet.packet_length(), context.now.coarse());
        }
        self.transmit_ipv6(port, frame, packet, &link)
    }

    /// The link that a session's packets leave on, if this one may and the neighbour is known
    /// (RFC 4443, sections 3.2 and 3.3; RFC 8200, section 5: nobody but the sender fragments).
    fn link_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        found: &Session<'_>,
        fate: Fate,
        context: &mut Context<'_, F, S>,
    ) -> Result<Link, Verdict> {
        let Some(frame) = slot.as_ref() else { return Err(Verdict::Hold) };
        let packet = &ready.packet;
        if packet.hop_limit <= 1 {
            return Err(self.hop_limit_exceeded(frame.bytes(), port, ready, context));
        }
        let link = context.shared.next_hops.link(found.next_hop);
        if packet.packet_length() > link.mtu {
            return Err(self.too_big_ipv6(frame.bytes(), port, ready, link.mtu, context));
        }
        if !matches!(link.destination, Resolution::Reachable(_)) {
            let hop = (found.next_hop, &link);
            return Err(self.unresolved_ipv6(slot, port, ready, hop, fate, context));
        }
        let charge = Charge {
            attachment: ready.attachment,
            source: packet.source.address.into(),
            destination: packet.destination.address.into(),
            bytes: packet.packet_length(),
            worker: self.index,
            public: None,
        };
        charge.take(found.next_hop, &link, context.policy, context.now).map_err(Verdict::Drop)?;
        Ok(link)
    }

    /// Sends a packet, which came in on `from`, over `link`, one hop older.
    fn transmit_ipv6(&self, from: PortId, frame: &mut F, packet: &Parsed, link: &Link) -> Verdict {
        let Resolution::Reachable(destination) = link.destination else {
            return Verdict::Drop(DropReason::NeighborUnreachable);
        };
        self.counters.crossed(from, link.port, packet.packet_length());
        wire::ipv6::lower_hop_limit(frame.bytes_mut(), packet);
        // Ethernet padding ends here: it is no part of the packet.
        if !frame.set_length(usize::from(packet.end)) {
            return Verdict::Drop(DropReason::Truncated);
        }
        let (network, source, vlan) = (packet.network, link.source, link.vlan);
        let carried = ether_type::IPV6;
        let written =
            wire::link::write_header_of(carried, frame, network, destination, source, vlan);
        if written.is_none() {
            return Verdict::Drop(DropReason::OutOfFrames);
        }
        self.counters.forwarded(link.port, frame.bytes().len());
        Verdict::Forward(link.port)
    }
}

/// Whether an echo message belongs to the session: requests go the way of the first one, replies
/// the other way.
fn belongs(found: &Session<'_>, icmp_type: u8) -> bool {
    match icmp_type {
        ECHO_REQUEST => found.is_initiator(),
        ECHO_REPLY => !found.is_initiator(),
        _ => false,
    }
}

/// A SYN and nothing that contradicts it.
const fn opens_connection(tcp_flags: u8) -> bool {
    tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}
