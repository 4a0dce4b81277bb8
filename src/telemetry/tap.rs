//! Looking at frames as they pass: what came in, what became of it, what left.
//!
//! Nobody looks: one relaxed load a batch. Somebody looks: workers copy the frames that are wanted
//! into records that were allocated beforehand, and hand them over through a queue. When all records
//! are on their way, frames are missed and counted; a worker never waits and never allocates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use crossbeam::queue::ArrayQueue;

use crate::flow::{Endpoint, Family, PortId, Protocol};
use crate::telemetry::address_match::AddressMatch;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ipv6;
use crate::wire::parse;

/// The place where workers and whoever looks meet.
#[derive(Debug)]
pub struct Tap {
    armed: AtomicBool,
    filter: ArcSwapOption<TapFilter>,
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    missed: AtomicU64,
}

/// Which frames. Every condition that is given must hold; without any, all are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TapFilter {
    /// The interface they came in by.
    pub port: Option<PortId>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The source as it came in.
    pub source: Option<AddressMatch>,
    /// The destination as it came in.
    pub destination: Option<AddressMatch>,
    /// Either of them.
    pub host: Option<AddressMatch>,
    /// Only frames that were dropped.
    pub drops: bool,
    /// Only frames that were dropped for this reason.
    pub reason: Option<DropReason>,
}

/// A frame that was looked at.
#[derive(Debug)]
pub struct Record {
    /// When, since 1970.
    pub at: Duration,
    /// The interface it came in by.
    pub port: PortId,
    /// What became of it.
    pub verdict: Verdict,
    /// The frame as it came in.
    pub before: Vec<u8>,
    /// The frame as it left; empty if it did not.
    pub after: Vec<u8>,
}

/// Records there are: so many frames may be on their way to whoever looks.
const RECORDS: usize = 1024;
/// Bytes kept of a frame: all of it without jumbo frames.
const BYTES_MAX: usize = 2048;

impl Default for Tap {
    fn default() -> Self {
        Self::new()
    }
}

impl Tap {
    /// A tap that nobody looks through. Memory is taken when somebody first does.
    #[must_use]
    pub fn new() -> Self {
        Self {
            armed: AtomicBool::new(false),
            filter: ArcSwapOption::empty(),
            free: ArrayQueue::new(RECORDS),
            full: ArrayQueue::new(RECORDS),
            missed: AtomicU64::new(0),
        }
    }

    /// Begins to look. None if somebody else does already.
    #[must_use]
    pub fn watch(self: &Arc<Self>, filter: TapFilter) -> Option<Watch> {
        let free = self.armed.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
        free.ok()?;
        while self.full.pop().is_some() {}
        // Those that workers still have in hand come back, and find no room.
        while self.free.push(Box::default()).is_ok() {}
        self.missed.store(0, Ordering::Relaxed);
        self.filter.store(Some(Arc::new(filter)));
        Some(Watch { tap: Arc::clone(self) })
    }

    /// Whether anybody looks.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// What is wanted, if anything is.
    #[must_use]
    pub fn filter(&self) -> Option<Arc<TapFilter>> {
        if !self.armed.load(Ordering::Relaxed) {
            return None;
        }
        self.filter.load_full()
    }

    /// Keeps a frame that is about to be processed, if it is wanted and there is a record for it.
    #[must_use]
    pub fn begin(&self, filter: &TapFilter, port: PortId, frame: &[u8]) -> Option<Box<Record>> {
        if !filter.wants(port, frame) {
            return None;
        }
        let Some(mut record) = self.free.pop() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        record.port = port;
        copy(&mut record.before, frame);
        record.after.clear();
        Some(record)
    }

    /// Tells what became of a frame.
    pub fn end(
        &self,
        filter: &TapFilter,
        mut record: Box<Record>,
        verdict: Verdict,
        after: Option<&[u8]>,
    ) {
        record.verdict = verdict;
        let is_wanted = match verdict {
            Verdict::Drop(reason) => filter.reason.is_none_or(|wanted| wanted == reason),
            Verdict::Forward(_) | Verdict::Hold | Verdict::Host(_) => {
                !filter.drops && filter.reason.is_none()
            }
        };
        if !is_wanted {
            // Too many only if somebody began to look anew in between.
            let _ = self.free.push(record);
            return;
        }
        if let (Verdict::Forward(_), Some(after)) = (verdict, after) {
            copy(&mut record.after, after);
        }
        record.at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let _ = self.full.push(record);
    }
}

impl TapFilter {
    fn wants(&self, port: PortId, frame: &[u8]) -> bool {
        if self.port.is_some_and(|wanted| wanted != port) {
            return false;
        }
        let any = self.protocol.is_none()
            && self.source.is_none()
            && self.destination.is_none()
            && self.host.is_none();
        if any {
            return true;
        }
        if let Ok(packet) = parse::parse(frame) {
            return self.wants_flow(packet.protocol, packet.source, packet.destination);
        }
        ipv6::parse(frame).is_some_and(|parsed| {
            parsed.is_ok_and(|packet| {
                self.wants_flow(packet.protocol, packet.source, packet.destination)
            })
        })
    }

    fn wants_flow<A: Family>(
        &self,
        protocol: Protocol,
        source: Endpoint<A>,
        destination: Endpoint<A>,
    ) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.source.is_none_or(|wanted| wanted.matches(source))
            && self.destination.is_none_or(|wanted| wanted.matches(destination))
            && self.host.is_none_or(|it| it.matches(source) || it.matches(destination))
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            at: Duration::ZERO,
            port: PortId::default(),
            verdict: Verdict::Hold,
            before: Vec::with_capacity(BYTES_MAX),
            after: Vec::with_capacity(BYTES_MAX),
        }
    }
}

/// Copies what fits without allocating.
fn copy(to: &mut Vec<u8>, from: &[u8]) {
    to.clear();
    to.extend_from_slice(from.get(..BYTES_MAX).unwrap_or(from));
}

/// Somebody looks. Dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    tap: Arc<Tap>,
}

impl Watch {
    /// Hands the next frame to `look`, if there is one. Returns whether there was.
    pub fn next(&self, look: impl FnOnce(&Record)) -> bool {
        let Some(record) = self.tap.full.pop() else { return false };
        look(&record);
        let _ = self.tap.free.push(record);
        true
    }

    /// Frames that were wanted but missed so far, because this was not asked often enough.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.tap.missed.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tap.filter.store(None);
        self.tap.armed.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN of 10.1.1.5:40000 to 198.51.100.9:443: 54 bytes.
    fn frame() -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 1, 1, 5], [198, 51, 100, 9], 64)
            .tcp(40000, 443, 1, 1024)
            .syn();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        frame
    }

    /// Passes a frame by the tap; whether it was recorded.
    fn pass(tap: &Tap, verdict: Verdict) -> bool {
        let Some(filter) = tap.filter() else { return false };
        let bytes = frame();
        let Some(record) = tap.begin(&filter, PortId(1), &bytes) else { return false };
        tap.end(&filter, record, verdict, Some(&bytes));
        true
    }

    fn seen(watch: &Watch) -> Vec<(Verdict, usize, usize)> {
        let mut seen = Vec::new();
        while watch.next(|it| seen.push((it.verdict, it.before.len(), it.after.len()))) {}
        seen
    }

    const FORWARD: Verdict = Verdict::Forward(PortId(0));

    #[test]
    fn nothing_is_kept_unless_somebody_looks() {
        let tap = Arc::new(Tap::new());
        assert!(!pass(&tap, FORWARD));
        let watch = tap.watch(TapFilter::default()).unwrap();
        assert!(tap.watch(TapFilter::default()).is_none());
        assert!(pass(&tap, FORWARD));
        assert_eq!(seen(&watch), [(FORWARD, 54, 54)]);
        drop(watch);
        assert!(!pass(&tap, FORWARD));
        assert!(tap.watch(TapFilter::default()).is_some());
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let tap = Arc::new(Tap::new());
        let no_port = Verdict::Drop(DropReason::NoPort);
        let other = Verdict::Drop(DropReason::NoRoute);
        let filter = TapFilter::default;
        let address = |text: &str| Some(text.parse().unwrap());
        for (filter, verdict, expected) in [
            (TapFilter { port: Some(PortId(0)), ..filter() }, FORWARD, 0),
            (TapFilter { protocol: Some(Protocol::UDP), ..filter() }, FORWARD, 0),
            (TapFilter { protocol: Some(Protocol::TCP), ..filter() }, FORWARD, 1),
            (TapFilter { source: address("10.1.1.0/24"), ..filter() }, FORWARD, 1),
            (TapFilter { destination: address("10.1.1.0/24"), ..filter() }, FORWARD, 0),
            (TapFilter { host: address("198.51.100.9:443"), ..filter() }, FORWARD, 1),
            (TapFilter { host: address("198.51.100.9:80"), ..filter() }, FORWARD, 0),
            (TapFilter { drops: true, ..filter() }, FORWARD, 0),
            (TapFilter { drops: true, ..filter() }, no_port, 1),
            (TapFilter { reason: Some(DropReason::NoPort), ..filter() }, no_port, 1),
            (TapFilter { reason: Some(DropReason::NoPort), ..filter() }, other, 0),
        ] {
            let watch = tap.watch(filter.clone()).unwrap();
            pass(&tap, verdict);
            assert_eq!(seen(&watch).len(), expected, "{filter:?}");
        }
    }

    #[test]
    fn when_nobody_takes_them_frames_are_missed_and_counted() {
        let tap = Arc::new(Tap::new());
        let watch = tap.watch(TapFilter::default()).unwrap();
        for _ in 0..RECORDS + 7 {
            pass(&tap, FORWARD);
        }
        assert_eq!((seen(&watch).len(), watch.missed()), (RECORDS, 7));
        assert!(pass(&tap, FORWARD), "records come back");
    }

    #[test]
    fn a_dropped_frame_has_no_after() {
        let tap = Arc::new(Tap::new());
        let watch = tap.watch(TapFilter::default()).unwrap();
        pass(&tap, Verdict::Drop(DropReason::NoPort));
        assert_eq!(seen(&watch)[0].2, 0);
    }
}
