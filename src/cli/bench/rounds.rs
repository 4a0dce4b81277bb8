//! The measuring itself: workers that write, process and check, all in step.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::bench::Arguments;
use crate::cli::bench::floor::Floor;
use crate::cli::bench::traffic::{Packet, Random, Stage, Traffic};
use crate::cli::bench::world::World;
use crate::cli::output::Failure;
use crate::frame::{FrameBuffer, FrameSource};
use crate::io::frame::{Frame, FramePool};
use crate::pipeline::Pipeline;
use crate::pipeline::batch::{BATCH_MAX, Batch};
use crate::telemetry::counters::WorkerCounters;
use crate::time::Tick;
use crate::verdict::Verdict;

/// One measured stretch of work.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Packets processed.
    pub packets: u64,
    /// How long the worker's thread ran for it. On a machine that others use too this leaves out
    /// the time that they had the core; what they did to its caches stays in.
    pub time: Duration,
}

impl Round {
    /// Nanoseconds per packet.
    #[expect(clippy::cast_precision_loss, reason = "counts of a round are small")]
    pub fn ns_per_packet(&self) -> f64 {
        self.time.as_nanos() as f64 / self.packets.max(1) as f64
    }
}

/// What all rounds of all workers came to.
#[derive(Debug, Default)]
pub struct Measured {
    /// By worker, packets of established sessions.
    pub established: Vec<Vec<Round>>,
    /// By worker, first packets of sessions.
    pub created: Vec<Vec<Round>>,
    /// The floor.
    pub floor: Vec<Round>,
    /// Packets that were checked byte by byte.
    pub checked: u64,
}

/// Frames of a worker: with 2,048 bytes each, 64 MiB of frame memory.
const FRAMES: usize = if cfg!(test) { 2048 } else { 32_768 };
/// Frames beside them for what the pipeline makes itself.
const SPARE: usize = 1024;
/// Every how many frames one is checked byte by byte.
const CHECK_EVERY: usize = 8;
/// How long ago the first sessions were made when they are made again: freed ports have rested.
const REST: Duration = Duration::from_secs(200);
/// How many rounds there are at least: a median of fewer says little.
const ROUNDS_MIN: usize = 5;

/// Runs all rounds.
///
/// # Errors
/// When packets are not translated as they should be, or memory is short.
pub fn run(world: &World, arguments: &Arguments) -> Result<Measured, Failure> {
    let workers = u32::from(arguments.workers);
    let barrier = Barrier::new(usize::from(arguments.workers));
    let floor = Floor::new(world.shared.sessions.memory_bytes())?;
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let results: Vec<_> = thread::scope(|scope| {
        let mut floor = Some(floor);
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let floor = floor.take();
                let core = cores.get(usize::try_from(worker).unwrap_or(0)).copied();
                let barrier = &barrier;
                scope.spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    Worker::new(world, worker, arguments.repeatable)
                        .map(|it| it.run(floor, barrier, rounds_of(arguments)))
                })
            })
            .collect();
        let died = || Err(Failure::failed("a worker of the bench died"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    let mut all = Measured::default();
    for result in results {
        let result = result??;
        all.established.extend(result.established);
        all.created.extend(result.created);
        all.floor.extend(result.floor);
        all.checked += result.checked;
    }
    Ok(all)
}

struct Worker<'w> {
    world: &'w World,
    number: u32,
    pipeline: Pipeline<Frame>,
    counters: Arc<WorkerCounters>,
    pool: FramePool,
    batches: Vec<Batch<Frame>>,
    /// Frames to be processed, and the packets in them.
    frames: Vec<Frame>,
    packets: Vec<Packet>,
    /// Frames that were processed, in the same order.
    done: Vec<Frame>,
    verdicts: Vec<Verdict>,
    random: Random,
    /// How many random packets were written.
    sent: u32,
    clock: Clock,
    measured: Measured,
    wrong: u64,
}

/// A worker's clock. It stands still between rounds, as if the next packets came at once: else the
/// sweep would catch up on the time that writing and checking frames takes.
struct Clock {
    start: Instant,
    before: Duration,
    /// By how much it goes on with each reading, instead of with time.
    step: Option<Duration>,
}

/// What a batch takes about, for a clock that goes on by itself.
const BATCH_TIME: Duration = Duration::from_micros(3);

impl Clock {
    fn new(is_repeatable: bool) -> Self {
        let step = is_repeatable.then_some(BATCH_TIME);
        Self { start: Instant::now(), before: Duration::ZERO, step }
    }

    /// One reading of the system's clock.
    fn now(&mut self) -> Tick {
        let since = match self.step {
            None => self.start.elapsed(),
            Some(step) => {
                self.before += step;
                Duration::ZERO
            }
        };
        Tick::from_ms(1_000_000).after(self.before).after(since)
    }

    fn stop(&mut self) {
        if self.step.is_none() {
            self.before += self.start.elapsed();
        }
    }

    fn go(&mut self) {
        self.start = Instant::now();
    }
}

impl<'w> Worker<'w> {
    fn new(world: &'w World, number: u32, is_repeatable: bool) -> Result<Self, Failure> {
        let memory = |error| Failure::failed(format!("no memory for frames: {error}"));
        let count = u32::try_from(FRAMES + SPARE).unwrap_or(u32::MAX);
        let mut pool = FramePool::in_memory(count, 2048).map_err(memory)?;
        let mut frames: Vec<_> = (0..FRAMES).filter_map(|_| pool.allocate()).collect();
        for frame in &mut frames {
            let fits = frame.set_length(world.traffic.length());
            assert!(fits, "a frame has room for 1,518 bytes");
        }
        let counters = Arc::new(WorkerCounters::new(2));
        Ok(Self {
            world,
            number,
            pipeline: Pipeline::of_worker(
                usize::try_from(number).unwrap_or(0),
                Arc::clone(&world.shared),
                Arc::clone(&counters),
            ),
            counters,
            pool,
            batches: Vec::new(),
            frames,
            packets: Vec::with_capacity(FRAMES),
            done: Vec::with_capacity(FRAMES),
            verdicts: Vec::with_capacity(FRAMES),
            random: Random::new(u64::from(number) + 1),
            clock: Clock::new(is_repeatable),
            sent: 0,
            measured: Measured::default(),
            wrong: 0,
        })
    }

    fn run(
        mut self,
        mut floor: Option<Floor>,
        barrier: &Barrier,
        rounds: usize,
    ) -> Result<Measured, Failure> {
        // The first time, pages are new; only the second time counts.
        self.fill(barrier, Self::process);
        barrier.wait();
        self.forget();
        barrier.wait();
        self.clock.before += REST;
        let created = self.fill(barrier, Self::opened);
        self.measured.created.push(created);
        let mut established = Vec::with_capacity(rounds);
        for round in 0..rounds + 1 {
            if let Some(floor) = &mut floor {
                self.write_random();
                let start = thread_time();
                black_box(floor.pass(&mut self.frames, &mut self.random));
                let time = thread_time().saturating_sub(start);
                if round > 0 {
                    self.measured.floor.push(Round { packets: count(FRAMES), time });
                }
            }
            self.write_random();
            barrier.wait();
            // The first round only warms up.
            if round > 0 {
                self.established(&mut established);
            } else {
                self.process();
            }
            barrier.wait();
            self.check();
        }
        self.measured.established.push(established);
        match self.wrong {
            0 => Ok(self.measured),
            wrong => Err(Failure::failed(format!(
                "{wrong} packets were not translated as they should be, of {} checked",
                self.measured.checked
            ))),
        }
    }

    /// Sends the first packet of every session that is this worker's, and has `process` process them.
    fn fill(&mut self, barrier: &Barrier, process: fn(&mut Self) -> Round) -> Vec<Round> {
        let traffic = &self.world.traffic;
        let mut sessions = traffic.created_by(self.number);
        let mut rounds = Vec::new();
        // As many rounds as the worker with most sessions needs, so that all stay in step.
        let most = usize::try_from(traffic.guests()).unwrap_or(0) * 63 / FRAMES + 1;
        for _ in 0..most {
            self.packets.clear();
            self.packets.extend(sessions.by_ref().take(FRAMES));
            self.write(traffic);
            barrier.wait();
            let round = process(self);
            barrier.wait();
            for (packet, frame) in self.packets.iter().zip(&self.done) {
                self.wrong += u64::from(!traffic.learn(*packet, frame.bytes()));
            }
            self.measured.checked += round.packets;
            self.take_back();
            if traffic.is_tcp() {
                self.shake_hands();
            }
            // The last round may be short, and short rounds say little.
            if self.packets.len() * 2 >= FRAMES || rounds.is_empty() {
                rounds.push(round);
            }
        }
        rounds
    }

    /// Completes the handshakes that the last packets began. Nobody else has packets of these
    /// connections yet, whoever gets them later.
    fn shake_hands(&mut self) {
        let traffic = &self.world.traffic;
        for step in 0..2 {
            for packet in &mut self.packets {
                let [answers, goes] = Packet { stage: Stage::Opens, ..*packet }.answers();
                *packet = if step == 0 { answers } else { goes };
            }
            self.write(traffic);
            self.process();
            self.check();
        }
    }

    /// Ends this worker's share of the sessions.
    fn forget(&mut self) {
        let shared = &self.world.shared;
        let (table, now) = (&shared.sessions, self.clock.now());
        if self.number != 0 {
            return;
        }
        table.walk(&mut 0, table.slots(), |view| {
            if let Some(last) = table.remove(view.index, &view.session.initiator) {
                shared.settle(&last, now);
            }
        });
    }

    fn write_random(&mut self) {
        let traffic = &self.world.traffic;
        self.packets.clear();
        for _ in 0..FRAMES {
            self.packets.push(traffic.random(self.number, self.sent, &mut self.random));
            self.sent = self.sent.wrapping_add(1);
        }
        self.write(traffic);
    }

    fn write(&mut self, traffic: &Traffic) {
        for (packet, frame) in self.packets.iter().zip(&mut self.frames) {
            let fits = frame.set_length(traffic.length_of(*packet));
            assert!(fits, "a frame has room for 1,518 bytes and a tag");
            traffic.write(*packet, frame.bytes_mut());
        }
    }

    /// [`Self::process`] for packets of sessions that are there: a function of its own, so that
    /// `scripts/instructions.sh` can count it alone.
    #[inline(never)]
    fn established(&mut self, rounds: &mut Vec<Round>) {
        rounds.push(self.process());
    }

    /// [`Self::process`] for first packets, likewise.
    #[inline(never)]
    fn opened(&mut self) -> Round {
        let round = self.process();
        black_box(round)
    }

    /// Has all packets processed, batch by batch, and measures it. Filling the batches and emptying them
    /// is the rings' business, and not measured.
    fn process(&mut self) -> Round {
        let packets = self.packets.len();
        let count_batches = packets.div_ceil(BATCH_MAX);
        self.batches.resize_with(self.batches.len().max(count_batches), Batch::new);
        let mut frames = self.frames.drain(..packets).zip(&self.packets);
        for batch in self.batches.iter_mut().take(count_batches) {
            for (frame, packet) in frames.by_ref().take(BATCH_MAX) {
                batch.push(Traffic::port(*packet), frame);
            }
        }
        drop(frames);
        self.clock.go();
        let start = thread_time();
        for batch in self.batches.iter_mut().take(count_batches) {
            let now = self.clock.now();
            self.counters.batch(batch.slots.len());
            engine(&mut self.pipeline, batch, &mut self.pool, now);
        }
        let time = thread_time().saturating_sub(start);
        self.clock.stop();
        for batch in self.batches.iter_mut().take(count_batches) {
            for slot in batch.slots.drain(..) {
                self.verdicts.push(slot.verdict);
                self.done.extend(slot.frame);
            }
            batch.clear();
        }
        Round { packets: count(packets), time }
    }

    /// Looks at every verdict, and at some packets byte by byte.
    fn check(&mut self) {
        let traffic = &self.world.traffic;
        let forwarded = |verdict: &Verdict| matches!(verdict, Verdict::Forward(_));
        let lost = self.verdicts.iter().filter(|verdict| !forwarded(verdict)).count();
        self.wrong += count(lost);
        for (packet, frame) in self.packets.iter().zip(&self.done).step_by(CHECK_EVERY) {
            self.wrong += u64::from(!traffic.is_translated(*packet, frame.bytes()));
            self.measured.checked += 1;
        }
        self.take_back();
    }

    /// The frames that were processed are free again; lost ones are made anew.
    fn take_back(&mut self) {
        self.verdicts.clear();
        // Where a tag was pushed or popped, the frame begins elsewhere.
        if self.world.traffic.is_tagged() {
            self.done.clear();
        }
        self.frames.append(&mut self.done);
        let length = self.world.traffic.length();
        while self.frames.len() < FRAMES {
            let Some(mut frame) = self.pool.allocate() else { return };
            if !frame.set_length(length) {
                return;
            }
            self.frames.push(frame);
        }
    }
}

/// What is the engine's of the measured time, and not the bench's: a function of its own, so that
/// `scripts/instructions.sh` can tell them apart.
#[inline(never)]
fn engine(
    pipeline: &mut Pipeline<Frame>,
    batch: &mut Batch<Frame>,
    pool: &mut FramePool,
    now: Tick,
) {
    pipeline.process(batch, pool, now);
    pipeline.idle(batch, pool, now);
}

/// How many rounds take the seconds that are asked for, at a guess: the same for every worker.
fn rounds_of(arguments: &Arguments) -> usize {
    if arguments.repeatable {
        return ROUNDS_MIN;
    }
    let guess = arguments.seconds * 1e9 / (GUESS_NS * FRAMES as f64);
    (guess as usize).max(ROUNDS_MIN)
}

/// How long this thread has run so far.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// What a packet takes about, for the number of rounds.
const GUESS_NS: f64 = 50.0;

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
