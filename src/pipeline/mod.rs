//! The core: a batch of frames in, a verdict for each out. No clock, no file, no socket.
//!
//! Read [`Pipeline::process`] first, then [`fast`], the fast path. What a packet without a session
//! needs is in [`slow`], and what the rules say of it in [`decide`].

mod admit;
mod arp;
pub mod batch;
mod charge;
pub mod contacts;
pub mod decide;
mod errors;
mod events;
mod fast;
mod fragments;
pub mod ipv6;
mod open;
mod passage;
pub mod plan;
mod queries;
pub mod review;
pub mod shared;
mod slow;
mod sweep;
mod transmit;
mod waiting;
pub mod witness;

use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::config::{ChecksumMode, Role};
use crate::flow::{Mac, PortId, Protocol, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::fragments::Fragments;
use crate::next_hop::Resolution;
use crate::policy::publish::Reader;
use crate::policy::{Attachment, Policy};
use crate::prefetch::prefetch;
use crate::session::shape::Shape;
use crate::session::table::{Found, Hash};
use crate::session::tcp::{self, Judgement};
use crate::telemetry::counters::WorkerCounters;
use crate::time::Tick;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::parse::{Fragment, Kind, Parsed};
use crate::wire::segment::{self, Segment, flags};

use batch::{BATCH_MAX, Batch, Slot};
use charge::Charge;
use errors::ErrorLimit;
use fast::Glance;
use fragments::{FragmentPlan, own_identification};
use shared::Shared;
use waiting::{Fate, Released, WAITING_MAX, Waiting};

/// One worker's pipeline.
pub struct Pipeline<F> {
    /// Which worker it belongs to.
    index: usize,
    shared: Arc<Shared>,
    policy: Reader,
    counters: Arc<WorkerCounters>,
    /// What the first pass of a batch found out about each frame.
    looks: Vec<Look>,
    /// What it found out about those that are IPv6, with their places in the batch.
    parsed_ipv6: Vec<(usize, Result<ipv6::Ready, DropReason>)>,
    waiting: Waiting<F>,
    fragments: Fragments<FragmentPlan, (PortId, F)>,
    fragments_ipv6: Fragments<ipv6::FragmentPlan, (PortId, F), Ipv6Addr>,
    /// Frames that came out of waiting and have yet to be processed.
    released: Vec<Released<F>>,
    /// Trades places with `released` while those are processed, so that neither ever grows.
    released_before: Vec<Released<F>>,
    error_limit: ErrorLimit,
    sweep: sweep::Sweep,
}

/// What the first pass found out about a frame.
#[derive(Clone, Copy)]
enum Look {
    /// It may go the fast path.
    Fast(Glance),
    /// It goes the general way, or nowhere.
    General(Result<Ready, DropReason>),
}

/// A sound packet with what the lookup needs.
#[derive(Clone, Copy)]
struct Ready {
    packet: Parsed,
    realm: Realm,
    attachment: Attachment,
    hash: Hash,
}

/// What every step of a packet's way needs to know beside the packet.
struct Context<'c, F, S> {
    shared: &'c Shared,
    policy: &'c Policy,
    /// Where frames that natwerk makes, or held until now, go.
    extra: &'c mut Vec<(PortId, F)>,
    /// Where held frames for the kernel go.
    host: &'c mut Vec<(PortId, HostReason, F)>,
    frames: &'c mut S,
    now: Tick,
}

impl<F: FrameBuffer> Pipeline<F> {
    /// A pipeline for the first of `shared`'s workers, which counts into `counters`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, counters: Arc<WorkerCounters>) -> Self {
        Self::of_worker(0, shared, counters)
    }

    /// A pipeline for the worker `index` of `shared`, which counts into `counters`.
    #[must_use]
    pub fn of_worker(index: usize, shared: Arc<Shared>, counters: Arc<WorkerCounters>) -> Self {
        let settings = &shared.settings;
        Self {
            index,
            policy: shared.policy.reader(),
            looks: Vec::with_capacity(BATCH_MAX),
            parsed_ipv6: Vec::with_capacity(BATCH_MAX),
            waiting: Waiting::new(),
            fragments: Fragments::new(
                FRAGMENT_DATAGRAMS_MAX,
                FRAGMENT_FRAMES_MAX,
                settings.timeouts.fragment,
                settings.seed,
            ),
            fragments_ipv6: Fragments::new(
                FRAGMENT_DATAGRAMS_MAX,
                FRAGMENT_FRAMES_MAX,
                settings.timeouts.fragment,
                settings.seed,
            ),
            released: Vec::with_capacity(RELEASED_MAX),
            released_before: Vec::with_capacity(RELEASED_MAX),
            error_limit: ErrorLimit::new(settings.icmp_errors_per_second),
            sweep: sweep::Sweep::new(&settings.timeouts),
            counters,
            shared,
        }
    }

    /// Gives every frame of `batch` its verdict. Forwarded frames stand rewritten in their slots,
    /// dropped ones untouched; held ones were taken out.
    pub fn process<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) {
        let policy = Arc::clone(self.policy.current());
        let shared = Arc::clone(&self.shared);

        self.parsed_ipv6.clear();
        for slot in &batch.slots {
            if let Some(header) = slot.frame.as_ref().and_then(|frame| frame.bytes().first()) {
                prefetch(header);
            }
        }
        self.looks.clear();
        for slot in &batch.slots {
            let look = match &slot.frame {
                Some(frame) => {
                    self.counters.received(slot.port, frame.bytes().len());
                    match self.glance(frame, slot.port, &policy) {
                        Some(glance) => Look::Fast(glance),
                        None => Look::General(self.look(frame, slot.port, &policy)),
                    }
                }
                None => Look::General(Err(DropReason::Truncated)),
            };
            match look {
                Look::Fast(Glance { hash, .. }) | Look::General(Ok(Ready { hash, .. })) => {
                    shared.sessions.prefetch_index(hash);
                }
                Look::General(Err(DropReason::NotForwardable)) => self.look_aside(slot, &policy),
                Look::General(Err(_)) => {}
            }
            self.looks.push(look);
        }
        for look in &mut self.looks {
            match look {
                Look::Fast(glance) => glance.place = shared.sessions.prefetch_likely(glance.hash),
                Look::General(Ok(ready)) => shared.sessions.prefetch_entry(ready.hash),
                Look::General(Err(_)) => {}
            }
        }
        for ready in self.parsed_ipv6.iter().flat_map(|(_, ready)| ready) {
            shared.sessions_ipv6.prefetch_entry(ready.hash);
        }

        let Batch { slots, extra, host } = batch;
        let mut context = Context { shared: &shared, policy: &policy, extra, host, frames, now };
        let mut next_ipv6 = 0;
        for (index, slot) in slots.iter_mut().enumerate() {
            let look = self.looks.get(index);
            if let Some(Look::Fast(glance)) = look
                && let Some(verdict) = self.fast(&mut slot.frame, glance, &context)
            {
                slot.verdict = verdict;
            } else if let Some((place, ready)) = self.parsed_ipv6.get(next_ipv6).copied()
                && place == index
            {
                next_ipv6 += 1;
                slot.verdict = self.judged_ipv6(slot, ready, &mut context);
            } else {
                let look = look.copied().unwrap_or(Look::General(Err(DropReason::Truncated)));
                slot.verdict = self.general(&mut slot.frame, slot.port, look, &mut context);
            }
            self.count(slot.verdict);
        }
        self.release_waiting(&mut context);
    }

    /// The way of a packet that the fast path is not for.
    fn general<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        look: Look,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let ready = match (look, slot.as_ref()) {
            (Look::General(ready), _) => ready,
            (Look::Fast(_), Some(frame)) => self.look(frame, port, context.policy),
            (Look::Fast(_), None) => Err(DropReason::Truncated),
        };
        match ready {
            Ok(ready) => self.forward(slot, port, &ready, context),
            Err(reason) => self.unparsed(slot, port, reason, context),
        }
    }

    /// First pass over a frame that is not IPv4: notes it if it is IPv6.
    fn look_aside(&mut self, slot: &Slot<F>, policy: &Policy) {
        let Some(frame) = &slot.frame else { return };
        let Some(ready) = self.look_ipv6(frame, slot.port, policy) else { return };
        if let Ok(ready) = &ready {
            self.shared.sessions_ipv6.prefetch_index(ready.hash);
        }
        // Its own look comes next.
        self.parsed_ipv6.push((self.looks.len(), ready));
    }

    fn judged_ipv6<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Slot<F>,
        ready: Result<ipv6::Ready, DropReason>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        match ready {
            Ok(ready) => self.forward_ipv6(&mut slot.frame, slot.port, &ready, context),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// First pass over a frame: parse it, find the realm it is in, hash its key.
    fn look(&self, frame: &F, port: PortId, policy: &Policy) -> Result<Ready, DropReason> {
        let packet = wire::parse::parse(frame.bytes())?;
        let (realm, attachment) = match policy.attachment(port, packet.vlan) {
            Some(Attachment::Public) => (Realm::External, Attachment::Public),
            Some(Attachment::Guest(first)) => {
                let source = packet.source.address;
                let network = policy.guest_network(port, packet.vlan, source).unwrap_or(first);
                (Realm::Internal(policy.network(network).realm), Attachment::Guest(network))
            }
            None => return Err(DropReason::UnknownVlan),
        };
        let hash = self.shared.sessions.hash(&packet.key(realm));
        Ok(Ready { packet, realm, attachment, hash })
    }

    /// The way of one sound packet: its session if there is one, the slow path if not.
    fn forward<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let shared = context.shared;
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        if !self.is_for_us(frame.bytes(), port) {
            return Verdict::Drop(DropReason::MacNotOurs);
        }
        if admit::is_stray(ready.attachment, ready.packet.source.address, context.policy) {
            return Verdict::Drop(DropReason::SourceSpoofed);
        }
        if self.checks_partial(port) && wire::checksum::is_partial(frame.bytes(), &ready.packet) {
            wire::checksum::complete(frame.bytes_mut(), &ready.packet);
        }
        if ready.packet.fragment != Fragment::Whole {
            return self.fragment(slot, port, ready, context);
        }
        match ready.packet.kind {
            Kind::Transport | Kind::IcmpQuery { .. } => {}
            Kind::IcmpError => return self.icmp_error(slot, port, ready, context),
            Kind::IcmpOther { .. } => return Verdict::Drop(DropReason::IcmpRefused),
        }
        let key = ready.packet.key(ready.realm);
        let found = match shared.sessions.find(&key, ready.hash) {
            Some(found) if self.is_current(&found, key.protocol, context) => found,
            Some(_) | None => match self.miss(frame, port, ready, &key, context) {
                Ok(found) => found,
                Err(verdict) => return verdict,
            },
        };
        self.apply(slot, port, ready, &found, context)
    }

    /// Whether a session can be followed without another look at it: decided under the rules in
    /// force, and surely not expired.
    fn is_current<A: Shape, S>(
        &self,
        found: &Found<'_, A>,
        protocol: Protocol,
        context: &Context<'_, F, S>,
    ) -> bool {
        let idle = context.now.coarse().since(found.last_seen);
        found.generation == context.policy.generation()
            && idle < self.sweep.shortest_timeout(protocol)
    }

    /// Does what a session says to one of its packets.
    fn apply<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        found: &Found<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        let packet = &ready.packet;
        if let Kind::IcmpQuery { icmp_type } = packet.kind
            && !queries::belongs(found, icmp_type)
        {
            return Verdict::Drop(DropReason::IcmpRefused);
        }
        if packet.ttl <= 1 {
            return self.ttl_expired(frame.bytes(), port, ready, context);
        }
        let shared = context.shared;
        let link = shared.next_hops.link(found.next_hop);
        if packet.packet_length() > link.mtu && packet.dont_fragment {
            return self.too_big(frame.bytes(), port, ready, link.mtu, context);
        }
        let Resolution::Reachable(destination) = link.destination else {
            let hop = (found.next_hop, &link);
            return self.unresolved(slot, port, ready, hop, Fate::Anew, context);
        };
        let charge = Charge {
            attachment: ready.attachment,
            source: packet.source.address.into(),
            destination: found.rewrite.destination.address.into(),
            bytes: packet.packet_length(),
            worker: self.index,
        };
        if let Err(reason) = charge.take(found.next_hop, &link, context.policy, context.now) {
            return Verdict::Drop(reason);
        }
        if packet.protocol == Protocol::TCP {
            match self.track(frame, packet, found, context) {
                Tracked::Counts => found.touch(packet.packet_length(), context.now.coarse()),
                Tracked::Passes => {}
                Tracked::Reopens => return self.reopen(slot, port, ready, found, context),
            }
        } else {
            found.touch(packet.packet_length(), context.now.coarse());
        }
        if packet.packet_length() > link.mtu
            && let Some(own) = own_identification(found, packet.protocol, shared)
        {
            wire::fragment::set_identification(frame.bytes_mut(), packet, own);
        }
        found.rewrite.apply(frame.bytes_mut(), packet);
        self.transmit(port, frame, packet, &link, destination, context)
    }

    /// Follows the TCP state of a session; clamps the MSS of SYNs.
    fn track<S>(
        &self,
        frame: &mut F,
        packet: &Parsed,
        found: &Found<'_>,
        context: &Context<'_, F, S>,
    ) -> Tracked {
        let seen: Segment = segment::segment(frame.bytes(), packet.transport, packet.end);
        let own = found.tcp();
        match tcp::judge(&seen, own, || found.peer_tcp()) {
            Judgement::Believe(state) => {
                if state != own {
                    found.set_tcp(state);
                }
                if seen.flags & flags::SYN != 0 {
                    self.clamp_mss(frame, packet, found, context.policy);
                }
                Tracked::Counts
            }
            Judgement::Doubt => Tracked::Passes,
            Judgement::Reopen => Tracked::Reopens,
        }
    }

    /// Whether a frame is addressed to this interface (RFC 1812, section 5.3.4).
    fn is_for_us(&self, frame: &[u8], port: PortId) -> bool {
        let ours = self.shared.next_hops.source_mac(port);
        wire::parse::macs(frame).is_some_and(|(destination, _): (Mac, Mac)| destination == ours)
    }

    fn checks_partial(&self, port: PortId) -> bool {
        let port: Option<&(Role, ChecksumMode)> = self.shared.settings.ports.get(port.index());
        port.is_some_and(|(_, mode)| *mode == ChecksumMode::DetectPartial)
    }

    /// Counts a frame's verdict. A held frame is counted again when it gets its last one.
    fn count(&self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(reason) => self.counters.dropped(reason),
            Verdict::Forward(_) => {}
            Verdict::Hold => self.counters.held(),
            Verdict::Host(reason) => self.counters.hosted(reason),
        }
    }
}

/// What TCP tracking says of a segment.
enum Tracked {
    /// It counts and keeps the session alive.
    Counts,
    /// It passes without changing anything (RFC 5961: not believed, not cut).
    Passes,
    /// It opens a new connection on a closed session.
    Reopens,
}

/// Datagrams in fragments that a worker follows at once.
const FRAGMENT_DATAGRAMS_MAX: usize = 4096;
/// Fragments that wait for their first one, per worker; they keep frames from the pool.
const FRAGMENT_FRAMES_MAX: usize = 512;
/// Frames that come out of waiting in one round: all that wait, of both families, and fragments of
/// the round's own batch that began to wait when others had left.
const RELEASED_MAX: usize = 2 * FRAGMENT_FRAMES_MAX + WAITING_MAX + BATCH_MAX;
