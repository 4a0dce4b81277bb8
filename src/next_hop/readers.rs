//! Who may still hold the id of a next hop that was taken out of the table.
//!
//! Each thread that holds ids has a [`HopReader`] and says between two pieces of work that it holds none
//! from before. What was changed before an [`Epoch`] began is known to all once every reader has
//! passed it (the idea is that of read-copy-update, McKenney and Slingwine, 1998). Time alone proves
//! nothing: a thread may be held up for any while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

/// The readers there are: at first, none.
#[derive(Default)]
pub struct Readers {
    epoch: Arc<CachePadded<AtomicU64>>,
    /// The epoch that each has passed.
    passed: Mutex<Vec<Passed>>,
}

type Passed = Arc<CachePadded<AtomicU64>>;

/// A time that readers pass, each by itself.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Epoch(u64);

/// A thread's word that it holds no id from before an epoch.
pub struct HopReader {
    epoch: Arc<CachePadded<AtomicU64>>,
    passed: Passed,
}

impl Readers {
    /// One more reader, until it is dropped.
    pub fn enter(&self) -> HopReader {
        let mut all = self.passed.lock();
        let now = self.epoch.load(Ordering::Acquire);
        let passed: Passed = Arc::new(CachePadded::new(AtomicU64::new(now)));
        all.push(Arc::clone(&passed));
        HopReader { epoch: Arc::clone(&self.epoch), passed }
    }

    /// Begins an epoch: whoever passes it knows all that the caller has done before.
    pub fn begin(&self) -> Epoch {
        Epoch(self.epoch.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Whether every reader has passed `epoch`; the caller then knows all that they had done before.
    pub fn have_passed(&self, Epoch(epoch): Epoch) -> bool {
        let mut all = self.passed.lock();
        all.retain(|passed| passed.load(Ordering::Acquire) != GONE);
        all.iter().all(|passed| epoch <= passed.load(Ordering::Acquire))
    }
}

impl HopReader {
    /// The epoch that has begun, if it is not passed yet.
    #[must_use]
    pub fn due(&self) -> Option<Epoch> {
        let now = self.epoch.load(Ordering::Acquire);
        (now != self.passed.load(Ordering::Relaxed)).then_some(Epoch(now))
    }

    /// Says that this thread holds nothing from before `epoch`, which was [due](Self::due) when it
    /// last looked.
    pub fn pass(&self, Epoch(epoch): Epoch) {
        self.passed.store(epoch, Ordering::Release);
    }
}

impl Drop for HopReader {
    fn drop(&mut self) {
        self.passed.store(GONE, Ordering::Release);
    }
}

/// The reader is no more and holds nothing.
const GONE: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_over_when_every_reader_that_was_there_has_passed_it_or_is_gone() {
        let readers = Readers::default();
        let (first, second) = (readers.enter(), readers.enter());
        assert_eq!(first.due(), None);
        let epoch = readers.begin();
        let late = readers.enter();
        assert_eq!(late.due(), None, "it came after");
        assert!(!readers.have_passed(epoch));
        first.pass(first.due().expect("an epoch has begun"));
        assert!(!readers.have_passed(epoch));
        drop(second);
        assert!(readers.have_passed(epoch));
        let next = readers.begin();
        assert!(readers.have_passed(epoch) && !readers.have_passed(next));
    }
}
