//! How places become free that neighbours have whom nobody sends to any more.
//!
//! A round has four steps, and none ever takes a next hop from a session that has its id:
//!
//! 1. [`NextHops::doubt`] marks hops. Whoever asks for one from then on takes the mark away.
//! 2. When every [`HopReader`](super::HopReader) has passed the epoch that began then, whatever was asked for
//!    unmarked stands in the session tables, or is over. The caller walks them and notes every id.
//! 3. [`NextHops::take_out`] has the hops go that still are marked and were not noted. Nobody finds
//!    them any more, but a reader may hold one until it has passed the next epoch.
//! 4. [`NextHops::free`] then lets other neighbours have their places.

use std::sync::atomic::Ordering;

use super::readers::Epoch;
use super::{NextHopId, NextHops, WANTED};

/// Ids that were noted.
pub struct Noted(Box<[u64]>);

/// Hops that are gone and may still be held.
pub struct Gone {
    ids: Vec<NextHopId>,
    /// When who passes it holds none.
    epoch: Epoch,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Occupancy {
    /// Next hops there are.
    pub used: u64,
    /// As many as there may be.
    pub max: u64,
    /// How often one became free.
    pub reclaimed: u64,
    /// How often there was no place for another one.
    pub refused: u64,
}

impl Occupancy {
    /// Whether three quarters are taken.
    #[must_use]
    pub const fn is_high(&self) -> bool {
        self.used * 4 >= self.max * 3
    }
}

impl NextHops {
    /// How full the table is now.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            used: self.making.lock().shares.total() as u64,
            max: self.hops.len() as u64,
            reclaimed: self.reclaimed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Begins a round: doubts that anybody needs the hops that do not answer, and those that do, if
    /// `even_reachable`.
    pub fn doubt(&self, even_reachable: bool) -> Epoch {
        for hop in self.made() {
            hop.doubt(even_reachable);
        }
        self.begin_epoch()
    }

    /// Whether every reader has passed `epoch`.
    #[must_use]
    pub fn have_passed(&self, epoch: Epoch) -> bool {
        self.readers.have_passed(epoch)
    }

    /// Nothing noted, with room for every id.
    #[must_use]
    pub fn noted(&self) -> Noted {
        Noted(vec![0; self.hops.len().div_ceil(WORD_BITS)].into())
    }

    /// Has every hop go that nobody asked for since it was doubted, and that was not noted since
    /// every reader passed the epoch of that.
    pub fn take_out(&self, noted: &Noted) -> Gone {
        let mut ids = Vec::new();
        for (id, hop) in (0..).map(NextHopId).zip(self.made()) {
            if !noted.has(id) && hop.go() {
                // Briefly, so that whoever needs a hop now does not wait for all.
                let _making = self.making.lock();
                self.index.remove(&self.hops, self.neighbor_of(id, hop), id);
                ids.push(id);
            }
        }
        Gone { ids, epoch: self.begin_epoch() }
    }

    /// Lets others have the places of those of `gone` that nobody can hold any more. Returns how many
    /// they are.
    pub fn free(&self, gone: &mut Gone) -> u64 {
        if !self.have_passed(gone.epoch) {
            return 0;
        }
        let before = gone.ids.len();
        gone.ids.retain(|&id| {
            let Some(hop) = self.hop(id) else { return false };
            if hop.destination.load(Ordering::Acquire) & WANTED != 0 {
                // Somebody wanted it before it passed; it is in the queue still.
                return true;
            }
            let mut making = self.making.lock();
            making.shares.give_back(self.neighbor_of(id, hop));
            making.free.push(id);
            false
        });
        let freed = (before - gone.ids.len()) as u64;
        self.reclaimed.fetch_add(freed, Ordering::Relaxed);
        freed
    }

    /// Whether nobody can find `id` any more.
    #[must_use]
    pub fn is_gone(&self, id: NextHopId) -> bool {
        self.hop(id).is_some_and(super::Hop::is_gone)
    }

    fn made(&self) -> impl Iterator<Item = &super::Hop> {
        self.hops.iter().take(self.count.load(Ordering::Acquire) as usize)
    }

    fn begin_epoch(&self) -> Epoch {
        let epoch = self.readers.begin();
        // The workers look at it by themselves; who follows the kernel may sleep for seconds.
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
        epoch
    }
}

impl Noted {
    /// Notes an id.
    pub fn note(&mut self, id: NextHopId) {
        let (word, bit) = place(id);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn has(&self, id: NextHopId) -> bool {
        let (word, bit) = place(id);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

impl Gone {
    /// Whether all of them are free.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

const fn place(id: NextHopId) -> (usize, u64) {
    let id = id.plain().0 as usize;
    (id / WORD_BITS, 1 << (id % WORD_BITS))
}

const WORD_BITS: usize = u64::BITS as usize;

#[cfg(test)]
mod tests;
