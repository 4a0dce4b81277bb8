//! What one worker counts.
//!
//! A worker is the only writer of its [`WorkerCounters`], so counting is a relaxed load and store
//! (0.6 ns against 2.0 of an atomic addition). Anybody may read at any time: a reader sees each
//! counter as it was at some moment, and never a torn one. Counters only grow, and wrap after 2^64.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::flow::PortId;
use crate::verdict::{DropReason, HostReason};

pub use crate::telemetry::rule_counters::{RuleCounters, RuleTotals};

/// Why a session is no longer remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Ended {
    /// It was idle for too long, or closed and over.
    Expired,
    /// An operator ended it.
    Flushed,
    /// The rules would no longer create it.
    Removed,
}

impl Ended {
    /// Every way to end, in order.
    pub const ALL: [Self; 3] = [Self::Expired, Self::Flushed, Self::Removed];

    /// The stable name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Flushed => "flushed",
            Self::Removed => "removed",
        }
    }
}

/// Buckets of the batch-size histogram: batches of up to 1, 2, 4 ... 64 frames.
pub const BATCH_BUCKETS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Everything one worker counts.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
    drops: [Counter; DropReason::ALL.len()],
    hosted: [Counter; HostReason::ALL.len()],
    held: Counter,
    sessions_created: Counter,
    sessions_ended: [Counter; Ended::ALL.len()],
    icmp_errors_sent: Counter,
    icmp_errors_limited: Counter,
    batches: [Counter; BATCH_BUCKETS.len()],
    loops_idle: Counter,
    batched: Counter,
    slept_ns: Counter,
    restarts: Counter,
    started: OnceLock<Instant>,
}

/// What one worker counts on one interface.
#[derive(Debug, Default)]
#[repr(align(64))]
struct PortCounters {
    received_packets: Counter,
    received_bytes: Counter,
    forwarded_packets: Counter,
    forwarded_bytes: Counter,
    crossed_in_bytes: Counter,
    crossed_out_bytes: Counter,
}

/// A counter with a single writer.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.store(self.value().wrapping_add(count), Ordering::Relaxed);
    }

    fn take_back(&self, count: u64) {
        self.0.store(self.value().wrapping_sub(count), Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl WorkerCounters {
    /// Zeros, for `ports` interfaces.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            ports: (0..ports).map(|_| PortCounters::default()).collect(),
            drops: [const { Counter(AtomicU64::new(0)) }; DropReason::ALL.len()],
            hosted: Default::default(),
            held: Counter::default(),
            sessions_created: Counter::default(),
            sessions_ended: Default::default(),
            icmp_errors_sent: Counter::default(),
            icmp_errors_limited: Counter::default(),
            batches: Default::default(),
            loops_idle: Counter::default(),
            batched: Counter::default(),
            slept_ns: Counter::default(),
            restarts: Counter::default(),
            started: OnceLock::new(),
        }
    }

    /// How many interfaces there are.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// The worker begins its loop, for the first time or again.
    pub fn started(&self) {
        self.started.get_or_init(Instant::now);
    }

    /// A frame of `bytes` bytes came in on `port`.
    pub fn received(&self, port: PortId, bytes: usize) {
        self.received_many(port, 1, bytes as u64);
    }

    /// `packets` frames of `bytes` bytes together came in on `port`.
    pub fn received_many(&self, port: PortId, packets: u64, bytes: u64) {
        if let Some(counters) = self.ports.get(port.interface().index()) {
            counters.received_packets.add(packets);
            counters.received_bytes.add(bytes);
        }
    }

    /// A frame of `bytes` bytes was handed to `port` for transmission.
    pub fn forwarded(&self, port: PortId, bytes: usize) {
        self.forwarded_many(port, 1, bytes as u64);
    }

    /// `packets` frames of `bytes` bytes together were handed to `port` for transmission.
    pub fn forwarded_many(&self, port: PortId, packets: u64, bytes: u64) {
        if let Some(counters) = self.ports.get(port.interface().index()) {
            counters.forwarded_packets.add(packets);
            counters.forwarded_bytes.add(bytes);
        }
    }

    /// A packet of `bytes` bytes, link header not included, goes from one interface to another.
    pub fn crossed(&self, from: PortId, to: PortId, bytes: u16) {
        if from != to {
            self.crossed_many(from, u64::from(bytes), 0);
            self.crossed_many(to, 0, u64::from(bytes));
        }
    }

    /// Packets of so many bytes, link headers not included, came in on `port` for others, and left by
    /// it from others.
    pub fn crossed_many(&self, port: PortId, bytes_in: u64, bytes_out: u64) {
        if let Some(counters) = self.ports.get(port.interface().index()) {
            counters.crossed_in_bytes.add(bytes_in);
            counters.crossed_out_bytes.add(bytes_out);
        }
    }

    /// A frame that was to be handed to `port` did not fit into its transmit ring: it is dropped, and
    /// was never forwarded.
    pub fn not_transmitted(&self, port: PortId, bytes: usize) {
        self.not_forwarded(port, bytes);
        self.dropped(DropReason::TxRingFull);
    }

    /// A frame that was to be handed to `port` is not. Called in the turn that counted it.
    pub fn not_forwarded(&self, port: PortId, bytes: usize) {
        if let Some(counters) = self.ports.get(port.interface().index()) {
            counters.forwarded_packets.take_back(1);
            counters.forwarded_bytes.take_back(bytes as u64);
        }
    }

    /// A frame was dropped.
    pub fn dropped(&self, reason: DropReason) {
        if let Some(counter) = self.drops.get(reason.index()) {
            counter.add(1);
        }
    }

    /// A frame was handed to the router's own kernel.
    pub fn hosted(&self, reason: HostReason) {
        if let Some(counter) = self.hosted.get(reason.index()) {
            counter.add(1);
        }
    }

    /// A frame that was to be handed to the router's own kernel is not. Called in the turn that counted it.
    pub fn not_hosted(&self, reason: HostReason) {
        if let Some(counter) = self.hosted.get(reason.index()) {
            counter.take_back(1);
        }
    }

    /// A frame waits for its neighbour or its first fragment. It is counted again under the verdict
    /// it gets then.
    pub fn held(&self) {
        self.held.add(1);
    }

    /// A session was created.
    pub fn session_created(&self) {
        self.sessions_created.add(1);
    }

    /// A session ended.
    pub fn session_ended(&self, how: Ended) {
        if let Some(counter) = self.sessions_ended.get(how as usize) {
            counter.add(1);
        }
    }

    /// An ICMP error was sent.
    pub fn icmp_error_sent(&self) {
        self.icmp_errors_sent.add(1);
    }

    /// An ICMP error was not sent because of the rate limit.
    pub fn icmp_error_limited(&self) {
        self.icmp_errors_limited.add(1);
    }

    /// A batch of `frames` frames was processed; an empty one is a loop without work.
    pub fn batch(&self, frames: usize) {
        if frames == 0 {
            return self.loops_idle.add(1);
        }
        self.batched.add(frames as u64);
        let bucket = BATCH_BUCKETS.iter().position(|&most| frames <= most);
        let last = BATCH_BUCKETS.len() - 1;
        if let Some(counter) = self.batches.get(bucket.unwrap_or(last)) {
            counter.add(1);
        }
    }

    /// The worker slept.
    pub fn slept(&self, duration: Duration) {
        self.slept_ns.add(nanoseconds(duration));
    }

    /// The worker was started again after a panic.
    pub fn restarted(&self) {
        self.restarts.add(1);
    }

    /// The counters as they are now.
    #[must_use]
    pub fn totals(&self) -> WorkerTotals {
        let values = |counters: &[Counter]| counters.iter().map(Counter::value).collect::<Vec<_>>();
        let port = |counters: &PortCounters| PortTotals {
            received_packets: counters.received_packets.value(),
            received_bytes: counters.received_bytes.value(),
            forwarded_packets: counters.forwarded_packets.value(),
            forwarded_bytes: counters.forwarded_bytes.value(),
            crossed_in_bytes: counters.crossed_in_bytes.value(),
            crossed_out_bytes: counters.crossed_out_bytes.value(),
        };
        WorkerTotals {
            ports: self.ports.iter().map(port).collect(),
            drops: values(&self.drops),
            hosted: values(&self.hosted),
            held: self.held.value(),
            sessions_created: self.sessions_created.value(),
            sessions_ended: values(&self.sessions_ended),
            icmp_errors_sent: self.icmp_errors_sent.value(),
            icmp_errors_limited: self.icmp_errors_limited.value(),
            batches: values(&self.batches),
            loops_idle: self.loops_idle.value(),
            batched: self.batched.value(),
            slept_ns: self.slept_ns.value(),
            lived_ns: self.started.get().map_or(0, |started| nanoseconds(started.elapsed())),
            restarts: self.restarts.value(),
        }
    }
}

/// What was counted up to some moment; of one worker, or of several added up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WorkerTotals {
    /// By interface.
    pub ports: Vec<PortTotals>,
    /// Frames dropped, by [`DropReason::index`].
    pub drops: Vec<u64>,
    /// Frames handed to the kernel, by [`HostReason::index`].
    pub hosted: Vec<u64>,
    /// Frames that had to wait.
    pub held: u64,
    /// Sessions created.
    pub sessions_created: u64,
    /// Sessions ended, in the order of [`Ended::ALL`].
    pub sessions_ended: Vec<u64>,
    /// ICMP errors sent.
    pub icmp_errors_sent: u64,
    /// ICMP errors withheld by the rate limit.
    pub icmp_errors_limited: u64,
    /// Batches, in the order of [`BATCH_BUCKETS`].
    pub batches: Vec<u64>,
    /// Loops that found no frame.
    pub loops_idle: u64,
    /// Frames in batches: all that came but those that took shortcuts.
    pub batched: u64,
    /// Time asleep.
    pub slept_ns: u64,
    /// Time since it first began its loop, asleep or not.
    pub lived_ns: u64,
    /// Starts after a panic.
    pub restarts: u64,
}

/// What was counted on one interface.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortTotals {
    /// Frames received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames transmitted.
    pub forwarded_packets: u64,
    /// Their bytes.
    pub forwarded_bytes: u64,
    /// Bytes of packets that came in here and left by another interface; IP headers, not link headers,
    /// are included.
    pub crossed_in_bytes: u64,
    /// Bytes of packets that came in by another interface and left here.
    pub crossed_out_bytes: u64,
}

impl WorkerTotals {
    /// Adds another worker's counters to these.
    pub fn add(&mut self, other: &Self) {
        if self.ports.len() < other.ports.len() {
            self.ports.resize(other.ports.len(), PortTotals::default());
        }
        for (mine, theirs) in self.ports.iter_mut().zip(&other.ports) {
            mine.received_packets += theirs.received_packets;
            mine.received_bytes += theirs.received_bytes;
            mine.forwarded_packets += theirs.forwarded_packets;
            mine.forwarded_bytes += theirs.forwarded_bytes;
            mine.crossed_in_bytes += theirs.crossed_in_bytes;
            mine.crossed_out_bytes += theirs.crossed_out_bytes;
        }
        add_each(&mut self.drops, &other.drops);
        add_each(&mut self.hosted, &other.hosted);
        add_each(&mut self.sessions_ended, &other.sessions_ended);
        add_each(&mut self.batches, &other.batches);
        self.held += other.held;
        self.sessions_created += other.sessions_created;
        self.icmp_errors_sent += other.icmp_errors_sent;
        self.icmp_errors_limited += other.icmp_errors_limited;
        self.loops_idle += other.loops_idle;
        self.batched += other.batched;
        self.slept_ns += other.slept_ns;
        self.lived_ns += other.lived_ns;
        self.restarts += other.restarts;
    }

    /// Frames dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.index()).copied().unwrap_or(0)
    }

    /// Frames handed to the kernel for one reason.
    #[must_use]
    pub fn hosted(&self, reason: HostReason) -> u64 {
        self.hosted.get(reason.index()).copied().unwrap_or(0)
    }

    /// Sessions that ended in one way.
    #[must_use]
    pub fn ended(&self, how: Ended) -> u64 {
        self.sessions_ended.get(how as usize).copied().unwrap_or(0)
    }

    /// Loops that found frames.
    #[must_use]
    pub fn loops_busy(&self) -> u64 {
        self.batches.iter().sum()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn add_each(mine: &mut Vec<u64>, theirs: &[u64]) {
    if mine.len() < theirs.len() {
        mine.resize(theirs.len(), 0);
    }
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_under_its_own_name() {
        let counters = WorkerCounters::new(2);
        counters.received(PortId(0), 64);
        counters.received(PortId(0), 100);
        counters.forwarded(PortId(1), 64);
        counters.dropped(DropReason::NoPort);
        counters.dropped(DropReason::UnknownVlan);
        counters.dropped(DropReason::UnknownVlan);
        counters.hosted(HostReason::LocalService);
        counters.session_ended(Ended::Removed);
        counters.slept(Duration::from_millis(3));
        let totals = counters.totals();
        let first = PortTotals { received_packets: 2, received_bytes: 164, ..Default::default() };
        let second = PortTotals { forwarded_packets: 1, forwarded_bytes: 64, ..Default::default() };
        assert_eq!(totals.ports, [first, second]);
        assert_eq!(totals.dropped(DropReason::NoPort), 1);
        assert_eq!(totals.dropped(DropReason::UnknownVlan), 2);
        assert_eq!(totals.drops.iter().sum::<u64>(), 3);
        assert_eq!(totals.hosted(HostReason::LocalService), 1);
        assert_eq!(totals.ended(Ended::Removed), 1);
        assert_eq!(totals.ended(Ended::Expired), 0);
        assert_eq!(totals.slept_ns, 3_000_000);
    }

    #[test]
    fn an_unknown_port_is_not_counted() {
        let counters = WorkerCounters::new(1);
        counters.received(PortId(1), 64);
        counters.forwarded(PortId(255), 64);
        assert_eq!(counters.totals().ports, [PortTotals::default()]);
    }

    #[test]
    fn batches_fall_into_the_smallest_bucket_that_holds_them() {
        let counters = WorkerCounters::new(0);
        for frames in [0, 1, 2, 3, 4, 5, 33, 64, 65] {
            counters.batch(frames);
        }
        let totals = counters.totals();
        assert_eq!(totals.batches, [1, 1, 2, 1, 0, 0, 3]);
        assert_eq!((totals.loops_idle, totals.loops_busy(), totals.batched), (1, 8, 177));
    }

    #[test]
    fn workers_add_up() {
        let (one, other) = (WorkerCounters::new(1), WorkerCounters::new(2));
        one.received(PortId(0), 10);
        other.received(PortId(0), 5);
        other.received(PortId(1), 7);
        other.dropped(DropReason::AclDenied);
        let mut sum = WorkerTotals::default();
        sum.add(&one.totals());
        sum.add(&other.totals());
        assert_eq!(sum.ports[0].received_bytes, 15);
        assert_eq!(sum.ports[1].received_packets, 1);
        assert_eq!(sum.dropped(DropReason::AclDenied), 1);
    }
}
