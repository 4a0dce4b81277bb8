//! Frames that wait until their next hop's link address is known, as they came: unchanged.

use crate::flow::PortId;
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::{Link, NextHopId, NextHops, Resolution};
use crate::pipeline::fragments::FragmentPlan;
use crate::pipeline::{Context, Pipeline, Ready, ipv6};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp::IcmpError;

/// Frames that one worker keeps waiting.
pub(super) const WAITING_MAX: usize = 1024;
/// Frames that wait for one neighbour (RFC 1122, section 2.3.2.2 asks for at least one).
const WAITING_PER_HOP_MAX: usize = 512;
/// How long a frame waits at the most, in milliseconds: longer than the kernel tries.
const WAITING_MS_MAX: u64 = 6000;

/// The frames that wait.
pub(super) struct Waiting<F> {
    frames: Vec<Waiter<F>>,
    /// What [`NextHops::changes`] was when they were last looked at.
    changes: u64,
}

struct Waiter<F> {
    frame: F,
    port: PortId,
    fate: Fate,
    next_hop: NextHopId,
    since: Tick,
}

/// A frame that need not wait any more.
pub(super) struct Released<F> {
    pub(super) frame: F,
    pub(super) port: PortId,
    pub(super) fate: Fate,
}

/// What becomes of a released frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It goes its way again from the start.
    Anew,
    /// It goes its way, but for what it has on the wire of its side.
    Close,
    /// Its datagram was refused.
    Drop(DropReason),
    /// It is a fragment that was counted already and follows this plan.
    Follow(FragmentPlan),
    /// The same of IPv6.
    FollowIpv6(ipv6::FragmentPlan),
}

impl<F> Waiting<F> {
    pub(super) fn new() -> Self {
        Self { frames: Vec::with_capacity(WAITING_MAX), changes: 0 }
    }

    fn has_room(&self, next_hop: NextHopId) -> bool {
        self.frames.len() < WAITING_MAX
            && self.frames.iter().filter(|waiter| waiter.next_hop == next_hop).count()
                < WAITING_PER_HOP_MAX
    }

    /// Moves the frames whose next hop has been resolved or given up to `released`, in the order
    /// they came, and hands those that waited too long to `drop`.
    fn sort(
        &mut self,
        hops: &NextHops,
        now: Tick,
        released: &mut Vec<Released<F>>,
        mut drop: impl FnMut(F),
    ) {
        let changes = hops.changes();
        let changed = std::mem::replace(&mut self.changes, changes) != changes;
        let mut index = 0;
        while let Some(waiter) = self.frames.get(index) {
            let late = u128::from(WAITING_MS_MAX) < now.since(waiter.since).as_millis();
            let settled = changed && hops.link(waiter.next_hop).destination != Resolution::Pending;
            if settled {
                let Waiter { frame, port, fate, .. } = self.frames.remove(index);
                released.push(Released { frame, port, fate });
            } else if late {
                drop(self.frames.remove(index).frame);
            } else {
                index += 1;
            }
        }
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// A packet whose next hop has no link address: it waits, or its sender hears that nobody
    /// answers (RFC 1812, section 5.2.7.1).
    #[cold]
    pub(super) fn unresolved<S: FrameSource<Frame = F>>(
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
            self.answer(frame.bytes(), port, ready, IcmpError::HostUnreachable, context);
        }
        self.wait(slot, port, (next_hop, link), fate, context)
    }

    /// Has a frame wait for its next hop, if anybody may still answer.
    pub(super) fn wait<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        (next_hop, link): (NextHopId, &Link),
        fate: Fate,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        context.shared.next_hops.want(next_hop);
        if link.destination == Resolution::Failed {
            return Verdict::Drop(DropReason::NeighborUnreachable);
        }
        if !self.waiting.has_room(next_hop) {
            return Verdict::Drop(DropReason::NeighborQueueFull);
        }
        if let Some(frame) = slot.take() {
            self.waiting.frames.push(Waiter { frame, port, fate, next_hop, since: context.now });
        }
        Verdict::Hold
    }

    /// Takes up the frames that need not wait any more.
    pub(super) fn release_waiting<S: FrameSource<Frame = F>>(
        &mut self,
        context: &mut Context<'_, F, S>,
    ) {
        if !self.waiting.frames.is_empty() {
            let Self { waiting, released, counters, .. } = self;
            waiting.sort(&context.shared.next_hops, context.now, released, |frame| {
                counters.dropped(DropReason::NeighborUnreachable);
                context.frames.release(frame);
            });
        }
        if self.released.is_empty() {
            return;
        }
        // What is released while these are processed waits for the next round.
        let before = std::mem::take(&mut self.released_before);
        let mut released = std::mem::replace(&mut self.released, before);
        for frame in released.drain(..) {
            self.process_released(frame, context);
        }
        self.released_before = released;
    }

    /// The way of a released frame, as if it came now.
    fn go_on<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        fate: Fate,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_ref() else { return Verdict::Hold };
        if let Fate::Close = fate {
            self.counters.forwarded(port, frame.bytes().len());
            return Verdict::Forward(port);
        }
        match (self.look_ipv4(frame, port, context.policy), fate) {
            (_, Fate::Drop(reason)) => Verdict::Drop(reason),
            (Ok(ready), Fate::Follow(plan)) => self.follow(slot, port, &ready, plan, context),
            (Ok(ready), Fate::Anew | Fate::Close | Fate::FollowIpv6(_)) => {
                self.forward(slot, port, &ready, context)
            }
            (Err(reason), _) => match (self.look_ipv6(frame, port, context.policy), fate) {
                (Some(Ok(ready)), Fate::FollowIpv6(plan)) => {
                    self.follow_ipv6(slot, port, &ready, plan, context)
                }
                (Some(Ok(ready)), _) => self.forward_ipv6(slot, port, &ready, context),
                (Some(Err(reason)), _) => Verdict::Drop(reason),
                (None, _) => Verdict::Drop(reason),
            },
        }
    }

    /// Processes one frame outside a batch.
    fn process_released<S: FrameSource<Frame = F>>(
        &mut self,
        Released { frame, port, fate }: Released<F>,
        context: &mut Context<'_, F, S>,
    ) {
        // Where it is cut, its other pieces get in line behind the first.
        let place = context.extra.len();
        let mut slot = Some(frame);
        let mut verdict = self.go_on(&mut slot, port, fate, context);
        if let Some(frame) = slot {
            match verdict {
                Verdict::Forward(to) if context.extra.len() < context.extra.capacity() => {
                    context.extra.insert(place, (to, frame));
                }
                Verdict::Forward(to) => {
                    self.counters.not_transmitted(to, frame.bytes().len());
                    context.frames.release(frame);
                }
                Verdict::Host(reason) if context.host.len() < context.host.capacity() => {
                    context.host.push((port, reason, frame));
                }
                Verdict::Host(_) => {
                    verdict = Verdict::Drop(DropReason::HostPathFull);
                    context.frames.release(frame);
                }
                Verdict::Drop(_) | Verdict::Hold => context.frames.release(frame),
            }
        }
        self.count(verdict);
    }
}
