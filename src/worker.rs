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
use crate::io::wait::{Bell, Patience, Waiter};
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
            } else if !turn.more && !pace.spin {
                if patience.is_over() {
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
        let start = Instant::now();
        waiter.wait(if waits { SLEEP_WITH_FRAMES } else { SLEEP });
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
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::io::frame::Whereabouts;
    use crate::io::memory::{MemoryPort, copied};
    use crate::verdict::HostReason;

    const CHUNKS: u32 = 256;

    /// Does to each frame what its first byte says.
    #[derive(Default)]
    struct Obedient {
        kept: Vec<Frame>,
        give_back: bool,
        make: usize,
    }

    const FORWARD: u8 = 0;
    const DROP: u8 = 1;
    const HOST: u8 = 2;
    const HOLD: u8 = 3;
    const FORWARD_NOWHERE: u8 = 4;
    const PANIC: u8 = 5;

    impl Processor<Frame> for Obedient {
        fn process<S: FrameSource<Frame = Frame>>(
            &mut self,
            batch: &mut Batch<Frame>,
            frames: &mut S,
            _now: Tick,
        ) {
            for slot in &mut batch.slots {
                let order = slot.frame.as_ref().map(|frame| frame.bytes()[0]);
                slot.verdict = match order.expect("the worker gives whole slots") {
                    FORWARD => Verdict::Forward(PortId(1 - slot.port.0)),
                    DROP => Verdict::Drop(DropReason::NoRoute),
                    HOST => Verdict::Host(HostReason::LocalService),
                    HOLD => {
                        self.kept.extend(slot.frame.take());
                        Verdict::Hold
                    }
                    FORWARD_NOWHERE => Verdict::Forward(PortId(7)),
                    _ => panic!("as ordered"),
                };
            }
            for _ in 0..self.make {
                batch.extra.extend(copied(frames, &[9; 60]).map(|frame| (PortId(0), frame)));
            }
        }

        fn idle<S: FrameSource<Frame = Frame>>(
            &mut self,
            batch: &mut Batch<Frame>,
            _frames: &mut S,
            _now: Tick,
        ) -> bool {
            if self.give_back {
                for frame in self.kept.drain(..) {
                    match frame.bytes()[1] {
                        0 => batch.extra.push((PortId(1), frame)),
                        1 => batch.host.push((PortId(0), HostReason::LocalService, frame)),
                        _ => drop(frame),
                    }
                }
            }
            false
        }
    }

    fn lane(room: usize) -> Lane<MemoryPort> {
        let pool = FramePool::in_memory(CHUNKS, 2048).expect("memory");
        let port =
            |n| LanePort { port: PortId(n), queue: 0, socket: MemoryPort::new(pool.clone(), room) };
        Lane { ports: vec![port(0), port(1)], pool: pool.clone() }
    }

    fn counters() -> Arc<WorkerCounters> {
        Arc::new(WorkerCounters::new(2))
    }

    fn nothing_is_held(lane: &Lane<MemoryPort>) {
        let chunks = lane.pool.whereabouts();
        assert_eq!(chunks, Whereabouts { free: CHUNKS as usize, in_hand: 0, lent: 0 });
    }

    #[test]
    fn every_verdict_returns_its_frame() {
        let mut lane = lane(64);
        let hosted = RefCell::new(Vec::new());
        let counters = counters();
        for order in [FORWARD, DROP, HOST, HOLD, FORWARD_NOWHERE, FORWARD] {
            assert!(lane.ports[0].socket.arrive(&[order; 60]));
        }
        let host = |port: PortId, frame: &[u8]| {
            hosted.borrow_mut().push((port, frame.to_vec()));
            true
        };
        let mut worker = Worker::new(&mut lane, Obedient::default(), host, Arc::clone(&counters));
        assert_eq!(worker.turn(Tick::ZERO), Turn { received: 6, more: false });
        assert_eq!(worker.processor.kept.len(), 1);
        // The third byte says "drop" when it is given back.
        worker.processor.give_back = true;
        assert_eq!(worker.turn(Tick::ZERO).received, 0);
        drop(worker);

        assert_eq!(*hosted.borrow(), [(PortId(0), vec![HOST; 60])]);
        let totals = counters.totals();
        assert_eq!(totals.dropped(DropReason::UnknownNeighborPort), 1);
        assert_eq!(lane.ports[1].socket.transmitted(), 2);
        while lane.ports[1].socket.leave().is_some() {}
        nothing_is_held(&lane);
    }

    #[test]
    fn a_full_ring_drops_what_does_not_fit_and_says_so() {
        let mut lane = lane(3);
        let counters = counters();
        for _ in 0..3 {
            assert!(lane.ports[0].socket.arrive(&[FORWARD; 60]));
        }
        let processor = Obedient { make: 5, ..Obedient::default() };
        let mut worker = Worker::new(&mut lane, processor, |_, _| true, Arc::clone(&counters));
        counters.forwarded_many(PortId(0), 5, 300);
        worker.turn(Tick::ZERO);
        drop(worker);
        assert_eq!(counters.totals().dropped(DropReason::TxRingFull), 2);
        assert_eq!(lane.ports[0].socket.transmitted(), 3);
        // The processor counted all five as forwarded; each frame counts once.
        assert_eq!(counters.totals().ports[0].forwarded_packets, 3);
        assert_eq!(counters.totals().ports[0].forwarded_bytes, 180);
        for port in &mut lane.ports {
            while port.socket.leave().is_some() {}
        }
        nothing_is_held(&lane);
    }

    #[test]
    fn a_full_host_path_drops_and_says_so() {
        let mut lane = lane(3);
        let counters = counters();
        assert!(lane.ports[1].socket.arrive(&[HOST; 60]));
        Worker::new(&mut lane, Obedient::default(), |_, _| false, Arc::clone(&counters))
            .turn(Tick::ZERO);
        assert_eq!(counters.totals().dropped(DropReason::HostPathFull), 1);
        nothing_is_held(&lane);
    }

    #[test]
    fn frames_that_waited_leave_when_they_are_released() {
        let mut lane = lane(8);
        let hosted = RefCell::new(0);
        for release in 0..3 {
            let mut frame = [HOLD; 60];
            frame[1] = release;
            assert!(lane.ports[0].socket.arrive(&frame));
        }
        let host = |_: PortId, _: &[u8]| {
            *hosted.borrow_mut() += 1;
            true
        };
        let mut worker = Worker::new(&mut lane, Obedient::default(), host, counters());
        worker.turn(Tick::ZERO);
        worker.processor.give_back = true;
        worker.turn(Tick::ZERO);
        drop(worker);
        assert_eq!((*hosted.borrow(), lane.ports[1].socket.transmitted()), (1, 1));
        assert!(lane.ports[1].socket.leave().is_some());
        nothing_is_held(&lane);
    }

    #[test]
    fn a_panic_loses_no_frame() {
        let mut lane = lane(8);
        for order in [FORWARD, HOLD, PANIC, DROP] {
            assert!(lane.ports[0].socket.arrive(&[order; 60]));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Worker::new(&mut lane, Obedient::default(), |_, _| true, counters()).turn(Tick::ZERO)
        }));
        assert!(result.is_err());
        nothing_is_held(&lane);
    }

    #[test]
    fn a_flood_on_one_port_does_not_starve_the_other() {
        let mut lane = lane(256);
        for _ in 0..200 {
            assert!(lane.ports[0].socket.arrive(&[DROP; 60]));
        }
        assert!(lane.ports[1].socket.arrive(&[FORWARD; 60]));
        let mut worker = Worker::new(&mut lane, Obedient::default(), |_, _| true, counters());
        worker.turn(Tick::ZERO);
        worker.turn(Tick::ZERO);
        drop(worker);
        assert_eq!(lane.ports[0].socket.transmitted(), 1);
    }

    #[test]
    fn a_stopped_worker_ends_and_an_idle_one_can_be_stopped() {
        let bell = Bell::new().expect("a bell");
        std::thread::scope(|scope| {
            let heard = bell.clone();
            let running = scope.spawn(move || {
                let mut lane = lane(1);
                let mut worker =
                    Worker::new(&mut lane, Obedient::default(), |_, _| true, counters());
                worker.run(&heard, Pace { spin: false }, |_, _| {});
            });
            bell.stop();
            running.join().expect("it ends");
        });
    }
}
