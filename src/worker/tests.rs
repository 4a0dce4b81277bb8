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
    /// How often more work is due than was done, and who is told when that is over.
    owes: usize,
    teller: Option<Bell>,
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
        self.owes = self.owes.saturating_sub(1);
        if let (0, Some(teller)) = (self.owes, &self.teller) {
            teller.stop();
        }
        self.owes > 0
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
            let mut worker = Worker::new(&mut lane, Obedient::default(), |_, _| true, counters());
            worker.run(&heard, Pace { spin: false }, |_, _| {});
        });
        bell.stop();
        running.join().expect("it ends");
    });
}

#[test]
fn work_that_is_due_leaves_the_core_to_others_now_and_then() {
    const SHARES: usize = 100;
    let slept = |spin| {
        let (bell, counters) = (Bell::new().expect("a bell"), counters());
        let mut lane = lane(1);
        let busy = Obedient { owes: SHARES, teller: Some(bell.clone()), ..Obedient::default() };
        let mut worker = Worker::new(&mut lane, busy, |_, _| true, Arc::clone(&counters));
        worker.run(&bell, Pace { spin }, |_, _| {});
        Duration::from_nanos(counters.totals().slept_ns)
    };
    // Before each share but the first; in the end there is more patience than that.
    assert!(slept(false) >= REST * (SHARES as u32 - 1));
    assert_eq!(slept(true), Duration::ZERO);
}
