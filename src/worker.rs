//! One core's loop: poll ports, read the clock, process, transmit, sweep a bounded share.
//!
//! The worker is the only place that knows both frames' rings and frames' fate. Each turn takes at
//! most a batch from its ports, has it processed, and sees every frame off: to a port, to the
//! router's own kernel, or back to the pool. Nothing in a turn blocks. Without work it spins a
//! little, then sleeps until a frame comes or a sweep is due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::flow::PortId;
use crate::frame::{FrameBuffer, FrameSource};
use crate::io::frame::{Frame, FramePool};
use crate::io::wait::{Bell, Patience, Waiter, be_punctual};
use crate::io::{Lane, LanePort, Losses, Port};
use crate::pipeline::Pipeline;
use crate::pipeline::batch::{BATCH_MAX, Batch};
use crate::telemetry::counters::WorkerCounters;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// What gives frames their verdicts: the [`Pipeline`], but for the tests here.
pub trait Processor<F> {
    /// Gives every frame of the batch its verdict.
    fn process<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    );

    /// Work that is due without a frame. Returns whether more is due already.
    fn idle<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) -> bool;
}

impl<F: FrameBuffer> Processor<F> for Pipeline<F> {
    fn process<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) {
        Self::process(self, batch, frames, now);
    }

    fn idle<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) -> bool {
        Self::idle(self, batch, frames, now)
    }
}

/// One worker, with the lane it serves. `H` takes frames to the router's own kernel and says
/// whether there was room.
pub struct Worker<'l, P, K, H> {
    ports: &'l mut [LanePort<P>],
    pool: FramePool,
    processor: K,
    host: H,
    counters: Arc<WorkerCounters>,
    batch: Batch<Frame>,
    received: Vec<Frame>,
    /// By interface, what leaves after this turn.
    outboxes: Vec<Outbox>,
    /// Which port is asked first in the next turn.
    first: usize,
}

/// Frames on their way to one interface.
struct Outbox {
    /// The port of the lane that leads there, if any.
    port: Option<usize>,
    frames: Vec<Frame>,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Turn {
    /// Frames received.
    pub received: usize,
    /// Whether work is due already without another frame.
    pub more: bool,
}

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Whether it never sleeps.
    pub spin: bool,
}

impl<'l, P, K, H> Worker<'l, P, K, H>
where
    P: Port<Frame = Frame>,
    K: Processor<Frame>,
    H: Fn(PortId, &[u8]) -> bool,
{
    /// A worker over `lane`, which counts into `counters`.
    #[must_use]
    pub fn new(
        lane: &'l mut Lane<P>,
        processor: K,
        host: H,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let interfaces = lane.ports.iter().map(|port| port.port.index() + 1).max().unwrap_or(0);
        let outbox = |index: usize| Outbox {
            port: lane.ports.iter().position(|port| port.port.index() == index),
            frames: Vec::with_capacity(OUTBOX_ROOM),
        };
        Self {
            outboxes: (0..interfaces).map(outbox).collect(),
            pool: lane.pool.clone(),
            ports: &mut lane.ports,
            processor,
            host,
            counters,
            batch: Batch::new(),
            received: Vec::with_capacity(BATCH_MAX),
            first: 0,
        }
    }

    /// Works until `bell` says stop. Hands the ports' losses to `publish` about once a second.
    pub fn run(&mut self, bell: &Bell, pace: Pace, mut publish: impl FnMut(usize, Losses)) {
        be_punctual();
        let mut waiter = Waiter::new(bell.clone());
        for descriptor in self.ports.iter().filter_map(|port| port.socket.descriptor()) {
            waiter.add(descriptor);
        }
        let mut patience = Patience::new();
        let mut published = Tick::ZERO;
        while !bell.is_stopped() {
            let now = now();
            let turn = self.turn(now);
            if now.since(published) >= PUBLISH_EVERY {
                published = now;
                for (index, port) in self.ports.iter().enumerate() {
                    publish(index, port.socket.losses());
                }
            }
            if turn.received > 0 {
                patience.reward();
            } else if !pace.spin {
                if turn.more {
                    self.rest(&mut waiter, REST);
                } else if patience.is_over() {
                    self.sleep(&mut waiter);
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }

    /// One turn: at most a batch of frames, from ring to ring.
    pub fn turn(&mut self, now: Tick) -> Turn {
        let received = self.receive();
        self.counters.batch(received);
        if received > 0 {
            self.processor.process(&mut self.batch, &mut self.pool, now);
            self.see_off();
        }
        let more = self.processor.idle(&mut self.batch, &mut self.pool, now);
        self.see_off();
        self.transmit();
        Turn { received, more }
    }

    /// Fills the batch from the ports. Another port is first each turn, so that none starves.
    fn receive(&mut self) -> usize {
        let count = self.ports.len();
        self.first = (self.first + 1) % count.max(1);
        let (behind, ahead) = self.ports.split_at_mut(self.first.min(count));
        let mut room = BATCH_MAX;
        for port in ahead.iter_mut().chain(behind) {
            port.socket.refill();
            room -= port.socket.receive(&mut self.received, room).min(room);
            for frame in self.received.drain(..) {
                self.batch.push(port.port, frame);
            }
        }
        BATCH_MAX - room
    }

    /// Takes every frame out of the batch to where its verdict says.
    fn see_off(&mut self) {
        let Self { batch, outboxes, host, counters, .. } = self;
        for slot in batch.slots.drain(..) {
            let Some(frame) = slot.frame else { continue };
            match slot.verdict {
                Verdict::Forward(port) => post(outboxes, counters, port, frame),
                Verdict::Host(_) => punt(host, counters, slot.port, &frame),
                // Counted by the pipeline; the frame returns to the pool by itself.
                Verdict::Drop(_) | Verdict::Hold => {}
            }
        }
        for (port, frame) in batch.extra.drain(..) {
            post(outboxes, counters, port, frame);
        }
        for (port, _, frame) in batch.host.drain(..) {
            punt(host, counters, port, &frame);
        }
    }

    /// Hands what is in the outboxes to their ports. What does not fit is dropped: a full ring
    /// means the link is slower than we are.
    fn transmit(&mut self) {
        for outbox in &mut self.outboxes {
            let Some(port) = outbox.port.and_then(|port| self.ports.get_mut(port)) else {
                continue;
            };
            if !outbox.frames.is_empty() {
                port.socket.transmit(&mut outbox.frames);
                for frame in outbox.frames.drain(..) {
                    self.counters.not_transmitted(port.port, frame.bytes().len());
                }
            }
            // Every turn: what the kernel put off last time goes now.
            port.socket.kick();
        }
    }

    /// Sleeps until something comes, or a sweep is due. Frames that wait for their neighbour are
    /// looked after more often.
    fn sleep(&mut self, waiter: &mut Waiter) {
        let waits = self.pool.whereabouts().in_hand > 0;
        self.rest(waiter, if waits { SLEEP_WITH_FRAMES } else { SLEEP });
    }

    fn rest(&self, waiter: &mut Waiter, longest: Duration) {
        let start = Instant::now();
        waiter.wait(longest);
        self.counters.slept(start.elapsed());
    }
}

fn post(outboxes: &mut [Outbox], counters: &WorkerCounters, port: PortId, frame: Frame) {
    match outboxes.get_mut(port.index()) {
        Some(outbox) if outbox.port.is_some() => outbox.frames.push(frame),
        _ => counters.dropped(DropReason::UnknownNeighborPort),
    }
}

fn punt(
    host: &impl Fn(PortId, &[u8]) -> bool,
    counters: &WorkerCounters,
    port: PortId,
    frame: &Frame,
) {
    if !host(port, frame.bytes()) {
        counters.dropped(DropReason::HostPathFull);
    }
}

/// The time on the clock that sessions live by. It outlives the process, as they do.
#[must_use]
pub fn now() -> Tick {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Tick::from_ms(seconds * 1000 + u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0))
}

/// Frames that an outbox has room for without allocating: a batch, and what the pipeline may make
/// beside it.
const OUTBOX_ROOM: usize = 1088;
/// The longest sleep: sweeps go on while nothing comes.
const SLEEP: Duration = Duration::from_millis(100);
/// The longest sleep while frames wait for a neighbour or for their first fragment.
const SLEEP_WITH_FRAMES: Duration = Duration::from_millis(2);
/// The longest rest in the midst of work that is due without a frame. What brings frames may run on
/// this core, and frames come before such work.
const REST: Duration = Duration::from_micros(20);
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
