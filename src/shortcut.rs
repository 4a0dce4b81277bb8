//! Shortcuts: what the pipeline did to the last packet of a flow, written where the XDP program finds it, so
//! that the next ones go from interface to interface without leaving the kernel. What Linux calls flow
//! offload.
//!
//! A shortcut decides nothing. It says again what a session said under the rules and next hops of one
//! [`Epoch`], of packets that the fast path would do the same to; whatever changes ends the epoch, and
//! every packet goes to the pipeline again. What passed by one is counted on its session by the worker
//! that made it.
//!
//! This is memory and what lies in it. The programs that read it are `src/io/xdp/shortcut.bpf.h`, for frames, and
//! `carry.bpf.h`, for what has to be a packet of the kernel's own.

mod slot;
mod table;

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::flow::PortId;
use crate::time::Tick;

pub use slot::{Direction, Key, Passed, Tenant, WORDS};
pub use table::{Account, Memory, Place, Table, Words};

/// While one lasts, what shortcuts made in it say is true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Epoch(u32);

/// The shortcuts of all interfaces.
pub struct Shortcuts {
    /// By interface; none for one whose program has no memory for them.
    tables: Box<[Option<Table>]>,
    /// The epoch, or zero while there are to be none.
    epoch: AtomicU32,
    ending: Mutex<Ending>,
    /// Why there are to be none now.
    holds: AtomicU8,
    /// How many there are, true or not.
    count: AtomicU32,
    /// When the program was last told that somebody is there, in milliseconds.
    told: AtomicU64,
}

/// Held while an epoch ends: the number of the last one.
struct Ending(u32);

/// Why there are to be no shortcuts for a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Hold {
    /// Somebody looks at frames as they pass.
    Watched = 1,
    /// The workers are about to stop.
    Stopping = 2,
}

impl Shortcuts {
    /// No shortcut yet, in these tables.
    #[must_use]
    pub fn new(tables: Vec<Option<Table>>) -> Self {
        let shortcuts = Self {
            tables: tables.into(),
            epoch: AtomicU32::new(0),
            ending: Mutex::new(Ending(0)),
            holds: AtomicU8::new(0),
            count: AtomicU32::new(0),
            told: AtomicU64::new(0),
        };
        shortcuts.end_epoch();
        shortcuts
    }

    /// The epoch, if there are to be shortcuts. Whoever makes one asks before it looks at what the
    /// shortcut will say.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self.epoch.load(Ordering::Acquire) {
            0 => None,
            epoch => Some(Epoch(epoch)),
        }
    }

    /// Makes every shortcut untrue. Call it after whatever they go by has changed.
    pub fn end_epoch(&self) {
        let Ending(last) = &mut *self.ending.lock();
        *last = last.checked_add(1).unwrap_or(1);
        let epoch = if self.holds.load(Ordering::Acquire) == 0 { *last } else { 0 };
        // Nobody makes one for an epoch that the program does not know yet.
        self.tables().for_each(|(_, table)| table.set_epoch(epoch));
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Has no shortcuts until [`Self::release`].
    pub fn hold(&self, why: Hold) {
        self.holds.fetch_or(why as u8, Ordering::AcqRel);
        self.end_epoch();
    }

    /// Ends a hold.
    pub fn release(&self, why: Hold) {
        self.holds.fetch_and(!(why as u8), Ordering::AcqRel);
        self.end_epoch();
    }

    /// Whether there are no shortcuts for this reason.
    #[must_use]
    pub fn is_held(&self, why: Hold) -> bool {
        self.holds.load(Ordering::Acquire) & why as u8 != 0
    }

    /// Tells the program that somebody is there who ends epochs: it believes no shortcut for longer than
    /// [`BELIEVED_MS`] after.
    #[inline]
    pub fn tell(&self, now: Tick) {
        if now.as_ms().wrapping_sub(self.told.load(Ordering::Relaxed)) >= TELL_EVERY_MS {
            self.told.store(now.as_ms(), Ordering::Relaxed);
            self.tables().for_each(|(_, table)| table.set_until(now.as_ms() + BELIEVED_MS));
        }
    }

    /// Makes a shortcut, if there is room for it and it is not there. Returns where it is.
    pub fn make(
        &self,
        entrance: PortId,
        direction: &Direction,
        tenant: Tenant,
        epoch: Epoch,
        now: Tick,
    ) -> Option<Place> {
        let place = self.table(entrance)?.make(direction, tenant, epoch.0, now)?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(place)
    }

    /// Makes the shortcuts of `key` untrue, whichever interface they begin at, as its session ended. Returns
    /// what passed by them that was not counted on it.
    #[must_use]
    pub fn end(&self, key: Key) -> Passed {
        let tables = self.places(key).filter_map(|(port, place)| Some((self.table(port)?, place)));
        tables.fold(Passed::default(), |passed, (table, place)| {
            table.end(place);
            passed.and(table.settle(place))
        })
    }

    /// The sequence number behind the last one of TCP's that passed by a shortcut of `key`, if there is one.
    #[must_use]
    pub fn sequence_next(&self, key: Key) -> Option<u32> {
        let (entrance, place) = self.places(key).next()?;
        Some(self.table(entrance)?.sequence_next(place))
    }

    /// Whether the shortcut at `place` of `table` is true.
    #[must_use]
    pub fn is_true(&self, table: &Table, place: Place) -> bool {
        self.epoch().is_some_and(|Epoch(epoch)| table.is_true(place, epoch))
    }

    /// Where there are shortcuts of `key`, true or not. Of most flows there is none, and mostly none at all.
    pub fn places(&self, key: Key) -> impl Iterator<Item = (PortId, Place)> {
        let tables = self.tables().filter(|_| !self.is_empty());
        tables.filter_map(move |(entrance, table)| Some((entrance, table.find(key)?)))
    }

    /// The table of the interface `entrance`.
    #[must_use]
    pub fn table(&self, entrance: PortId) -> Option<&Table> {
        self.tables.get(entrance.index())?.as_ref()
    }

    /// Takes a shortcut's place from whoever made it: it is free.
    pub fn vacate(&self, table: &Table, place: Place) {
        if table.vacate(place) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many shortcuts there are, those of former epochs included.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there may be.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.tables().map(|(_, table)| table.places() as u64).sum()
    }

    /// The tables there are, with their interfaces.
    pub fn tables(&self) -> impl Iterator<Item = (PortId, &Table)> {
        let numbered = (0u8..).map(PortId).zip(&self.tables);
        numbered.filter_map(|(port, table)| Some((port, table.as_ref()?)))
    }
}

/// How long the program believes that somebody is there, in milliseconds: longer than a worker sleeps.
const BELIEVED_MS: u64 = 2000;
const TELL_EVERY_MS: u64 = 100;

#[cfg(test)]
mod tests;
