//! What the looks at a packet ask of a table: each asks for a line of memory, and the next one reads it.

use crate::next_hop::NextHopId;
use crate::prefetch::prefetch;
use crate::session::entry::{Entry, EntryIndex, Identity};
use crate::session::hash::Hash;
use crate::session::index::{Group, slot_of};
use crate::session::shape::{PackedKey, Shape};
use crate::session::table::Table;

impl<A: Shape> Table<A> {
    /// Asks for the index line of a hash. Returns the group that the search for it begins in.
    #[inline(always)]
    #[must_use]
    pub fn prefetch_home(&self, hash: Hash) -> u32 {
        let words = self.region().groups();
        // There are as many words as groups, and fewer than 2^27.
        let home = hash.below(words.len() as u32);
        if let Some(word) = words.get(home as usize) {
            prefetch(word);
        }
        home
    }

    /// Where a key with this hash stands most likely, [`EntryIndex::NONE`] if nowhere; asks for that
    /// entry's line, or else for the one that a new session's direction would take. `home` is what
    /// [`Self::prefetch_home`] gave.
    #[inline(always)]
    #[must_use]
    pub fn prefetch_likely(&self, hash: Hash, home: u32) -> EntryIndex {
        let word = self.region().groups().get(home as usize).map_or(Group(0), Group::load);
        let place = match word.first_of(hash.tag()) {
            Some(slot) => slot_of(home, slot),
            None => self.first_displaced(hash, home, word),
        };
        if let Some(entry) = self.entry(place) {
            prefetch(entry);
        }
        place
    }

    /// The entry that holds `key`, and what it is; `likely` is what [`Self::prefetch_likely`] gave. Where
    /// that was nowhere, so is this: a key that came since has to be [searched](Self::holds) for.
    #[inline(always)]
    #[must_use]
    pub fn entry_of(
        &self,
        key: PackedKey<A>,
        hash: Hash,
        likely: EntryIndex,
    ) -> Option<(&Entry<A>, Identity<A>)> {
        match self.entry_at(likely, &key) {
            None => self.search_entry(key, hash, likely),
            found => found,
        }
    }

    /// The same for a hash whose home has no such tag.
    #[cold]
    #[inline(never)]
    fn first_displaced(&self, hash: Hash, home: u32, word: Group) -> EntryIndex {
        self.index().first_beyond(hash, home, word).unwrap_or_else(|| {
            let vacant = word.first_of(0).and_then(|slot| self.entry(slot_of(home, slot)));
            vacant.map(prefetch);
            EntryIndex::NONE
        })
    }

    #[cold]
    #[inline(never)]
    fn search_entry(
        &self,
        key: PackedKey<A>,
        hash: Hash,
        likely: EntryIndex,
    ) -> Option<(&Entry<A>, Identity<A>)> {
        if likely == EntryIndex::NONE {
            return None;
        }
        self.index().search(hash, |index| self.entry_at(index, &key))
    }

    /// The entry at `index` and what it is, if it holds `key`.
    #[inline(always)]
    fn entry_at(&self, index: EntryIndex, key: &PackedKey<A>) -> Option<(&Entry<A>, Identity<A>)> {
        let entry = self.entry(index)?;
        Some((entry, entry.identity_of(key)?))
    }

    /// Brings the index line of a hash near: a packet's first look.
    #[inline]
    pub fn prefetch_index(&self, hash: Hash) {
        let _ = self.prefetch_home(hash);
    }

    /// Brings the entry that a new session's direction would most likely take near.
    pub fn prefetch_vacant(&self, hash: Hash) {
        let vacant = self.index().vacant(hash).and_then(|place| self.entry(place));
        vacant.map(prefetch);
    }

    /// Brings the entry that a hash most likely leads to near, or else the one that a new session's
    /// direction would take: its second look.
    pub fn prefetch_entry(&self, hash: Hash) {
        let _ = self.prefetch_likely(hash, self.index().layout.home(hash));
    }

    /// Brings the entry at `place` near.
    #[inline]
    pub fn prefetch_at(&self, place: EntryIndex) {
        self.entry(place).map(prefetch);
    }

    /// Where packets of the session whose entry stands at `place` go, whichever it is: to be asked for,
    /// not to be followed.
    #[inline(always)]
    #[must_use]
    pub fn next_hop_at(&self, place: EntryIndex) -> Option<NextHopId> {
        self.entry(place).map(Entry::next_hop)
    }
}
