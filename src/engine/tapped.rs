//! A pipeline through which somebody may look: see [`crate::telemetry::tap`].

use std::sync::Arc;

use crate::frame::{FrameBuffer, FrameSource};
use crate::pipeline::batch::{BATCH_MAX, Batch};
use crate::shortcut::{Hold, Shortcuts};
use crate::telemetry::tap::{Record, Tap, TapFilter};
use crate::time::Tick;
use crate::worker::Processor;

/// A processor with a tap before and behind it.
pub struct Tapped<P> {
    inner: P,
    tap: Arc<Tap>,
    /// By which frames pass unseen.
    shortcuts: Option<Arc<Shortcuts>>,
    /// Frames of the batch that are being looked at, by their slots.
    watched: Vec<(usize, Box<Record>)>,
}

impl<P> Tapped<P> {
    /// `inner` behind `tap`.
    #[must_use]
    pub fn new(inner: P, tap: Arc<Tap>, shortcuts: Option<Arc<Shortcuts>>) -> Self {
        Self { inner, tap, shortcuts, watched: Vec::with_capacity(BATCH_MAX) }
    }

    /// Has no frame pass unseen while somebody looks. (Whoever begins to look ended shortcuts already.)
    fn see_to_shortcuts(&self) {
        if let Some(shortcuts) = &self.shortcuts {
            match (self.tap.is_armed(), shortcuts.is_held(Hold::Watched)) {
                (true, false) => shortcuts.hold(Hold::Watched),
                (false, true) => shortcuts.release(Hold::Watched),
                (true, true) | (false, false) => {}
            }
        }
    }

    #[cold]
    fn watched<F, S>(&mut self, filter: &TapFilter, batch: &mut Batch<F>, frames: &mut S, now: Tick)
    where
        F: FrameBuffer,
        S: FrameSource<Frame = F>,
        P: Processor<F>,
    {
        self.watched.clear();
        for (place, slot) in batch.slots.iter().enumerate() {
            let Some(frame) = &slot.frame else { continue };
            if let Some(record) = self.tap.begin(filter, slot.port, frame.bytes()) {
                self.watched.push((place, record));
            }
        }
        self.inner.process(batch, frames, now);
        for (place, record) in self.watched.drain(..) {
            let Some(slot) = batch.slots.get(place) else { continue };
            let after = slot.frame.as_ref().map(FrameBuffer::bytes);
            self.tap.end(filter, record, slot.verdict, after);
        }
    }
}

impl<F: FrameBuffer, P: Processor<F>> Processor<F> for Tapped<P> {
    fn process<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) {
        match self.tap.filter() {
            None => self.inner.process(batch, frames, now),
            Some(filter) => self.watched(&filter, batch, frames, now),
        }
    }

    fn idle<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) -> bool {
        self.see_to_shortcuts();
        self.inner.idle(batch, frames, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::PortId;
    use crate::io::frame::{Frame, FramePool};
    use crate::io::memory::copied;
    use crate::verdict::{DropReason, Verdict};

    /// Forwards every other frame with its first byte changed, drops the others.
    struct Alternating;

    impl Processor<Frame> for Alternating {
        fn process<S: FrameSource<Frame = Frame>>(
            &mut self,
            batch: &mut Batch<Frame>,
            _: &mut S,
            _: Tick,
        ) {
            for (place, slot) in batch.slots.iter_mut().enumerate() {
                slot.verdict = match place % 2 {
                    0 => Verdict::Forward(PortId(1)),
                    _ => Verdict::Drop(DropReason::NoRoute),
                };
                if let Some(frame) = &mut slot.frame {
                    frame.bytes_mut()[0] = 0xee;
                }
            }
        }

        fn idle<S: FrameSource<Frame = Frame>>(
            &mut self,
            _: &mut Batch<Frame>,
            _: &mut S,
            _: Tick,
        ) -> bool {
            false
        }
    }

    #[test]
    fn whoever_looks_sees_each_frame_before_and_after() {
        let tap = Arc::new(Tap::new());
        let mut pool = FramePool::in_memory(8, 2048).unwrap();
        let mut tapped = Tapped::new(Alternating, Arc::clone(&tap), None);
        let mut run = || {
            let mut batch = Batch::new();
            for first in [1u8, 2] {
                batch.push(PortId(0), copied(&mut pool, &[first; 60]).unwrap());
            }
            tapped.process(&mut batch, &mut pool, Tick::ZERO);
        };
        run();
        let watch = tap.watch(TapFilter::default()).unwrap();
        run();
        let mut seen = Vec::new();
        while watch.next(|it| seen.push((it.verdict, it.before[0], it.after.first().copied()))) {}
        let forwarded = (Verdict::Forward(PortId(1)), 1, Some(0xee));
        assert_eq!(seen, [forwarded, (Verdict::Drop(DropReason::NoRoute), 2, None)]);
    }
}
