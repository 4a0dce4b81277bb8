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
mod encapsulation;
mod errors;
mod events;
mod fast;
mod first;
mod fragments;
mod hints;
mod hops;
pub mod ipv6;
mod look;
mod open;
mod outbound;
mod passage;
pub mod plan;
mod pptp;
mod queries;
pub mod reclaim;
pub mod review;
pub mod shared;
pub mod shortcuts;
mod slow;
mod sweep;
mod track;
mod transmit;
mod waiting;
pub mod witness;

use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{ChecksumMode, Role};
use crate::flow::{FlowKey, Mac, PortId, Protocol, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::fragments::Fragments;
use crate::next_hop::Resolution;
use crate::next_hop::readers::HopReader;
use crate::policy::publish::Reader;
use crate::policy::{Attachment, Policy};
use crate::session::shape::Shape;
use crate::session::table::{Found, Hash};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::tally::Tally;
use crate::time::Tick;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::parse::{Fragment, Kind, Parsed};

use batch::{BATCH_MAX, Batch, Slot};
use charge::{Charge, passing};
use encapsulation::Replicas;
use errors::ErrorLimit;
use fast::{Glance, Moment, fast_all};
use fragments::{FragmentPlan, own_identification};
use hints::Hints;
use look::{Group, attached, group, group_mut, groups, prefetch_headers};
use shared::Shared;
use shortcuts::Wishes;
use track::Tracked;
use waiting::{Fate, Released, WAITING_MAX, Waiting};

/// One worker's pipeline.
pub struct Pipeline<F> {
    /// Which worker it belongs to.
    index: usize,
    #[expect(clippy::redundant_allocation, reason = "all workers would write to the other count")]
    shared: Rc<Arc<Shared>>,
    policy: Reader,
    counters: Arc<WorkerCounters>,
    tally: Box<Tally>,
    /// The groups of frames that are on their way through the looks, kept so that they need not be made anew for
    /// each batch; none while a batch is processed.
    under_way: Option<Box<[Group; 3]>>,
    /// What the first look at a batch found out about frames that the fast path is not for, in order.
    looks: Vec<Look>,
    /// Says when no id of a next hop is held from before.
    hop_reader: HopReader,
    waiting: Waiting<F>,
    fragments: Fragments<FragmentPlan, (PortId, F)>,
    fragments_ipv6: Fragments<ipv6::FragmentPlan, (PortId, F), Ipv6Addr>,
    /// Frames that came out of waiting and have yet to be processed.
    released: Vec<Released<F>>,
    /// Trades places with `released` while those are processed, so that neither ever grows.
    released_before: Vec<Released<F>>,
    error_limit: ErrorLimit,
    replicas: Replicas<F>,
    hints: Hints,
    sweep: sweep::Sweep,
    /// None where the XDP programs read none.
    shortcuts: Option<shortcuts::Own>,
    wishes: Wishes,
}

/// What the first look found out about a frame that does not go the fast path.
#[derive(Clone, Copy)]
enum Look {
    /// It goes IPv4's general way.
    Ipv4(Ready),
    /// It goes IPv6's.
    Ipv6(ipv6::Ready),
    /// It goes nowhere, unless it is ARP.
    Nowhere(DropReason),
    /// It is refused.
    Refused(DropReason),
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
            tally: Box::new(Tally::new()),
            under_way: Some(Box::default()),
            looks: Vec::with_capacity(BATCH_MAX),
            hop_reader: shared.next_hops.reader(),
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
            replicas: Replicas::new(),
            hints: Hints::new(),
            sweep: sweep::Sweep::new(&settings.timeouts),
            shortcuts: shared.shortcuts.load_full().map(shortcuts::Own::new),
            wishes: Wishes::new(BATCH_MAX),
            counters,
            shared: Rc::new(shared),
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
        self.hear_wishes();
        self.sweep.frames_came();
        let policy = self.policy.current();
        let shared = Rc::clone(&self.shared);
        let Batch { slots, extra, host } = batch;
        let has_capsules = !policy.encapsulations().is_empty();
        if has_capsules {
            self.open_capsules(slots, &policy, now);
        }
        let mut context = Context { shared: &shared, policy: &policy, extra, host, frames, now };
        let moment = Moment::new(&policy, now, self.sweep.shortest(), &shared);
        let mut under_way = self.under_way.take().unwrap_or_default();
        under_way.iter_mut().for_each(Group::clear);
        let [mut first, mut second, mut third] = under_way.each_mut();
        let has_many_ways = shared.next_hops.are_many();
        let mut next_look = 0;
        self.looks.clear();
        prefetch_headers(group(slots, 0));
        // Each step takes one group of frames into the pipeline, one on, and one out of it: what a frame
        // needs from memory comes while others are worked on, and few enough are under way to stay near.
        for step in 0..groups(slots.len()) + 2 {
            prefetch_headers(group(slots, step + 1));
            self.look_at(group(slots, step), first, &moment, &context);
            self.find_places(second, &moment, &shared);
            if let Some(before) = step.checked_sub(2) {
                if has_many_ways {
                    third.find_ways(&shared);
                }
                let slots = group_mut(slots, before);
                self.finish(slots, third, &moment, &mut next_look, &mut context);
            }
            (first, second, third) = (third, first, second);
        }
        self.under_way = Some(under_way);
        self.tally.settle(&self.counters);
        self.grant_wishes(now);
        self.release_waiting(&mut context);
        self.tally.settle_rules(&shared.rules);
        if has_capsules {
            self.close_capsules(slots, &mut context);
        }
    }

    /// The last look at a group of frames: each goes its way.
    #[inline(always)]
    fn finish<S: FrameSource<Frame = F>>(
        &mut self,
        slots: &mut [Slot<F>],
        group: &Group,
        moment: &Moment<'_>,
        next_look: &mut usize,
        context: &mut Context<'_, F, S>,
    ) {
        let first = fast_all(slots, &group.glances, moment, &mut self.tally);
        if first < slots.len() {
            self.finish_others(slots, group, first, moment, next_look, context);
        }
        if self.wishes.are_heard() {
            self.wishes.hear(slots, group, group.looks(&self.looks), moment, context.shared);
        }
    }

    /// The last look at a frame that did not go the fast path, and its way.
    #[cold]
    #[inline(never)]
    fn general<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Slot<F>,
        glance: &Glance,
        moment: &Moment<'_>,
        next_look: &mut usize,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let look = if glance.is_plain() {
            if let Some(verdict) = self.plain(slot, *glance, moment, context) {
                self.count(verdict);
                return verdict;
            }
            self.look(slot, context.policy)
        } else {
            *next_look += 1;
            self.looks.get(*next_look - 1).copied()
        };
        let Slot { frame, port, .. } = slot;
        let verdict = match look {
            Some(Look::Ipv4(ready)) => self.forward(frame, *port, &ready, context),
            Some(Look::Ipv6(ready)) => self.forward_ipv6(frame, *port, &ready, context),
            Some(Look::Nowhere(reason)) => self.unparsed(frame, *port, reason, context),
            Some(Look::Refused(reason)) => Verdict::Drop(reason),
            None => Verdict::Drop(DropReason::Truncated),
        };
        self.count(verdict);
        verdict
    }

    /// First pass over a frame: parse it, find the realm it is in, hash its key.
    fn look_ipv4(&self, frame: &F, port: PortId, policy: &Policy) -> Result<Ready, DropReason> {
        let mut packet = wire::parse::parse(frame.bytes())?;
        if packet.protocol == Protocol::GRE
            && policy.follows_calls()
            && packet.fragment == Fragment::Whole
        {
            packet.destination.port = wire::pptp::call_id(frame.bytes(), &packet).unwrap_or(0);
        }
        let (realm, attachment) = attached(policy, port, packet.vlan, packet.source.address)
            .ok_or(DropReason::UnknownVlan)?;
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
        if key.protocol == Protocol::GRE && key.destination.port != 0 {
            return self.forward_call(slot, port, ready, &key, context);
        }
        match shared.sessions.find(&key, ready.hash) {
            Some(found) => self.forward_known(slot, port, ready, &key, &found, context),
            None => match self.newcomer(frame, port, ready, &key, context) {
                Ok(found) => self.apply(slot, port, ready, &found, context),
                Err(verdict) => verdict,
            },
        }
    }

    /// Does what a session says to one of its packets, if the session is in force; else what becomes of
    /// the packet without it.
    fn forward_known<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        ready: &Ready,
        key: &FlowKey,
        found: &Found<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        if self.is_current(found, key.protocol, context) {
            return self.apply(slot, port, ready, found, context);
        }
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        match self.miss(frame, port, ready, key, context) {
            Ok(found) => self.apply(slot, port, ready, &found, context),
            Err(verdict) => verdict,
        }
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
            public: passing(ready.attachment, found.kind(), packet, found.rewrite.source),
        };
        if let Err(reason) = charge.take(found.next_hop, &link, context.policy, context.now) {
            return Verdict::Drop(reason);
        }
        if packet.protocol == Protocol::TCP {
            match self.track(frame, packet, found, context) {
                Tracked::Counts => {
                    if let Err(reason) = self.follow_call(frame.bytes(), packet, found, context) {
                        return Verdict::Drop(reason);
                    }
                    found.touch(packet.packet_length(), context.now.coarse());
                }
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

    /// Whether a frame is addressed to this interface (RFC 1812, section 5.3.4).
    fn is_for_us(&self, frame: &[u8], port: PortId) -> bool {
        let ours = self.shared.next_hops.source_mac(port);
        wire::parse::macs(frame).is_some_and(|(destination, _): (Mac, Mac)| destination == ours)
    }

    fn checks_partial(&self, port: PortId) -> bool {
        let port: Option<&(Role, ChecksumMode)> =
            self.shared.settings.ports.get(port.interface().index());
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

/// Datagrams in fragments that a worker follows at once.
const FRAGMENT_DATAGRAMS_MAX: usize = 4096;
/// Fragments that wait for their first one, per worker; they keep frames from the pool.
const FRAGMENT_FRAMES_MAX: usize = 512;
/// Frames that come out of waiting in one round: all that wait, of both families, and fragments of
/// the round's own batch that began to wait when others had left.
const RELEASED_MAX: usize = 2 * FRAGMENT_FRAMES_MAX + WAITING_MAX + BATCH_MAX;
