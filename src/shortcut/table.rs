//! The shortcuts of frames that come in by one interface.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::{Mac, PortId};
use crate::shortcut::slot::{Books, Direction, Key, NS_PER_MS, Passed, Slot, Tenant, WORDS, word};
use crate::time::Tick;

/// Memory that the program reads too.
pub type Words = Box<dyn AsRef<[AtomicU64]> + Send + Sync>;

/// Where a shortcut is in its table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(pub u32);

/// The memory of a table.
pub struct Memory {
    /// Of its slots.
    pub slots: Words,
    /// Of a byte for each.
    pub tags: Words,
    /// Of the gate in front of them.
    pub gate: Words,
}

/// The slots of one interface, and the gate in front of them.
pub struct Table {
    slots: Words,
    /// Of each slot what the program has no use for.
    books: Box<[Books]>,
    /// Of each slot a byte by which the program knows which keys may be there.
    tags: Words,
    /// The epoch, until when it is believed, in nanoseconds, and the link address of the interface.
    gate: Words,
    seeds: [u64; 2],
    bits: u32,
}

impl Table {
    /// A table over the memory of eight times `1 << bits` slots, with the seeds that the program has. Nothing is
    /// there.
    #[must_use]
    pub fn new(memory: Memory, seeds: [u64; 2], bits: u32) -> Self {
        let Memory { slots, tags, gate } = memory;
        let places = (*slots).as_ref().len() / WORDS;
        let books = (0..places).map(|_| Books::default()).collect();
        Self { slots, books, tags, gate, seeds, bits }
    }

    /// How many shortcuts may be in it.
    #[must_use]
    pub fn places(&self) -> usize {
        self.books.len()
    }

    pub(super) fn set_epoch(&self, epoch: u32) {
        self.set_gate(0, epoch.into());
    }

    pub(super) fn set_until(&self, ms: u64) {
        self.set_gate(1, ms.saturating_mul(NS_PER_MS));
    }

    /// Says which frames are sent to the interface, and not only past it.
    fn set_station(&self, station: Mac) {
        let word = word([&station.0]);
        if (*self.gate).as_ref().get(2).is_some_and(|is| is.load(Ordering::Relaxed) != word) {
            self.set_gate(2, word);
        }
    }

    fn set_gate(&self, word: usize, value: u64) {
        if let Some(place) = (*self.gate).as_ref().get(word) {
            place.store(value, Ordering::Release);
        }
    }

    /// The word of tags that a hash names.
    fn word(&self, hash: u64) -> u32 {
        (hash >> (u64::BITS - self.bits)) as u32
    }

    /// The places of a word that have this tag; zero for those that are free.
    fn places_of(&self, word: u32, tag: u8) -> impl Iterator<Item = Place> {
        let tags = (*self.tags).as_ref().get(word as usize);
        let tags = tags.map_or(0, |tags| tags.load(Ordering::Acquire)).to_ne_bytes();
        let numbered = (word * TAGS_PER_WORD..).zip(tags);
        numbered.filter_map(move |(place, its)| (its == tag).then_some(Place(place)))
    }

    /// Tells the program what to look for at a place; zero for nothing.
    fn set_tag(&self, Place(place): Place, tag: u8) {
        if let Some(word) = (*self.tags).as_ref().get((place / TAGS_PER_WORD) as usize) {
            // In memory's order the tag of the first place comes first.
            let shift = place % TAGS_PER_WORD * 8;
            let with = |tags: u64| tags & !(0xff << shift) | u64::from(tag) << shift;
            word.update(Ordering::Release, Ordering::Relaxed, with);
        }
    }

    pub(super) fn find(&self, key: Key) -> Option<Place> {
        let hash = key.hash(self.seeds);
        let mut places = self.places_of(self.word(hash), tag(hash));
        places.find(|place| self.slot(*place).is_some_and(|slot| slot.is_of(key)))
    }

    pub(super) fn make(
        &self,
        direction: &Direction,
        tenant: Tenant,
        epoch: u32,
        now: Tick,
    ) -> Option<Place> {
        if self.find(direction.key).is_some() {
            return None;
        }
        let hash = direction.key.hash(self.seeds);
        let mut free = self.places_of(self.word(hash), 0);
        let place = free.find(|place| self.slot(*place).is_some_and(|slot| slot.enter(tenant)))?;
        self.set_station(direction.station);
        self.slot(place)?.fill(direction, epoch, now);
        self.set_tag(place, tag(hash));
        Some(place)
    }

    /// Brings a shortcut near.
    pub fn prefetch(&self, place: Place) {
        if let Some(slot) = self.slot(place) {
            slot.prefetch();
        }
    }

    /// Makes a shortcut untrue.
    pub fn end(&self, place: Place) {
        if let Some(slot) = self.slot(place) {
            slot.end();
        }
    }

    pub(super) fn vacate(&self, place: Place) -> bool {
        self.set_tag(place, 0);
        self.slot(place).is_some_and(Slot::vacate)
    }

    /// What passed by the shortcut and nobody was told of yet.
    #[must_use]
    pub fn take_passed(&self, place: Place) -> Passed {
        self.slot(place).map_or_else(Passed::default, Slot::take_passed)
    }

    pub(super) fn settle(&self, place: Place) -> Passed {
        self.slot(place).map_or_else(Passed::default, Slot::settle)
    }

    /// What of it was counted on the session by whoever ended that, since this was last asked.
    #[must_use]
    pub fn take_settled(&self, place: Place) -> Passed {
        self.slot(place).map_or_else(Passed::default, Slot::take_settled)
    }

    /// Whether it is true in `epoch`.
    pub(super) fn is_true(&self, place: Place, epoch: u32) -> bool {
        self.slot(place).is_some_and(|slot| slot.is_true(epoch))
    }

    pub(super) fn sequence_next(&self, place: Place) -> u32 {
        self.slot(place).map_or(0, Slot::sequence_next)
    }

    /// Whose shortcut it is.
    #[must_use]
    pub fn tenant(&self, place: Place) -> Option<Tenant> {
        self.slot(place)?.tenant()
    }

    /// What a worker has to know of a shortcut to count on its session, within minutes of `around`.
    #[must_use]
    pub fn account(&self, place: Place, around: Tick) -> Option<Account> {
        let slot = self.slot(place)?;
        Some(Account {
            tenant: slot.tenant()?,
            key: slot.key(),
            exit: slot.exit(),
            last: slot.last(around),
            sequence_next: slot.sequence_next(),
        })
    }

    fn slot(&self, Place(place): Place) -> Option<Slot<'_>> {
        let words = (*self.slots).as_ref();
        let first = place as usize * WORDS;
        Some(Slot {
            words: words.get(first..first + WORDS)?.try_into().ok()?,
            books: self.books.get(place as usize)?,
        })
    }
}

/// What the program looks for: bits of a hash that neither say where nor are they its weakest.
const fn tag(hash: u64) -> u8 {
    (hash >> 24) as u8 | 1
}

const TAGS_PER_WORD: u32 = 8;

/// Whose shortcut it is, and what it saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Account {
    /// Whose.
    pub tenant: Tenant,
    /// Of which packets.
    pub key: Key,
    /// Where they left.
    pub exit: PortId,
    /// When the last one did.
    pub last: Tick,
    /// The sequence number behind the last one of TCP's.
    pub sequence_next: u32,
}
