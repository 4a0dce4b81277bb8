//! What the looks at a packet ask of a table: each asks for a line of memory, and the next one reads it.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;

use crate::next_hop::NextHopId;
use crate::prefetch::{prefetch, prefetch_at};
use crate::session::entry::{Entry, EntryIndex, Identity};
use crate::session::hash::Hash;
use crate::session::index::{Group, slot_of};
use crate::session::shape::{PackedKey, Shape};
use crate::session::table::Table;

/// A table and where its memory lies: for who looks at one packet after the other, and would read anew each
/// time what never changes.
#[derive(Clone, Copy)]
pub struct Nearby<'t, A: Shape = Ipv4Addr> {
    table: &'t Table<A>,
    words: &'t [AtomicU64],
    entries: &'t [Entry<A>],
}

/// A key with what a table makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<A: Shape = Ipv4Addr> {
    /// The key.
    pub key: PackedKey<A>,
    /// Its hash.
    pub hash: Hash,
    /// The group that the search for it begins in.
    pub home: u32,
}

impl<'t, A: Shape> Nearby<'t, A> {
    /// What the table makes of a key, whose index line it asks for.
    #[inline(always)]
    #[must_use]
    pub fn keyed(self, key: PackedKey<A>) -> Keyed<A> {
        let hash = key.hash(self.table.hasher());
        Keyed { key, hash, home: self.prefetch_home(hash) }
    }

    /// Asks for the index line of a hash. Returns the group that the search for it begins in.
    #[inline(always)]
    #[must_use]
    pub fn prefetch_home(self, hash: Hash) -> u32 {
        // There are as many words as groups, and fewer than 2^27.
        let home = hash.below(self.words.len() as u32);
        prefetch_at(self.words, home as usize);
        home
    }

    /// Where a key with this hash stands most likely; asks for that entry's line, or else for the one that a
    /// new session's direction would take. `home` is what [`Self::prefetch_home`] gave.
    ///
    /// # Errors
    /// With the word of that group, if it stands nowhere.
    #[inline(always)]
    pub fn prefetch_likely(self, hash: Hash, home: u32) -> Result<EntryIndex, Group> {
        let Some(word) = self.words.get(home as usize).map(Group::load) else {
            return Err(Group(0));
        };
        let tags = hash.tags();
        if let Some(slot) = word.first_of_tags(tags) {
            return Ok(self.prefetch_slot(home, slot));
        }
        if word.passed_by() == 0 {
            word.first_of(0).map(|slot| self.prefetch_slot(home, slot));
            return Err(word);
        }
        // Most who went further stand in the next group or the one behind it, most likely in the same line. Those
        // may be another shard's, and then it is somebody else who is found there: that shows.
        for group in [home.wrapping_add(1), home.wrapping_add(2)] {
            let Some(behind) = self.words.get(group as usize).map(Group::load) else { break };
            if let Some(slot) = behind.first_of_tags(tags) {
                return Ok(self.prefetch_slot(group, slot));
            }
            if behind.passed_by() == 0 {
                break;
            }
        }
        self.table.first_displaced(hash, home, word).ok_or(word)
    }

    /// Asks for the entry of a group's slot. Returns its place.
    #[inline(always)]
    fn prefetch_slot(self, group: u32, slot: u32) -> EntryIndex {
        let place = slot_of(group, slot);
        prefetch_at(self.entries, place.as_usize());
        place
    }

    /// The entry at `likely` and what it is, if it holds `key`.
    #[inline(always)]
    #[must_use]
    pub fn entry_at(
        self,
        key: PackedKey<A>,
        likely: EntryIndex,
    ) -> Option<(&'t Entry<A>, Identity<A>)> {
        let entry = self.entry(likely)?;
        Some((entry, entry.identity_of(&key)?))
    }

    /// The same if it stands elsewhere; `likely` is what [`Self::prefetch_likely`] gave, or
    /// [`EntryIndex::NONE`]. Where that was nowhere, so is this: a key that came since has to be
    /// [searched](Table::holds) for.
    #[inline(always)]
    #[must_use]
    pub fn entry_elsewhere(
        self,
        key: PackedKey<A>,
        hash: Hash,
        likely: EntryIndex,
    ) -> Option<(&'t Entry<A>, Identity<A>)> {
        let entry = self.table.search_entry(key, hash, likely)?;
        Some((entry, entry.identity_of(&key)?))
    }

    /// Where packets of the session whose entry stands at `place` go, whichever it is: to be asked for,
    /// not to be followed.
    #[inline(always)]
    #[must_use]
    pub fn next_hop_at(self, place: EntryIndex) -> Option<NextHopId> {
        self.entry(place).map(Entry::next_hop)
    }

    #[inline(always)]
    fn entry(self, place: EntryIndex) -> Option<&'t Entry<A>> {
        self.entries.get(place.as_usize())
    }
}

impl<A: Shape> Table<A> {
    /// The table, for looks at packets.
    #[inline]
    #[must_use]
    pub fn nearby(&self) -> Nearby<'_, A> {
        Nearby { table: self, words: self.region().groups(), entries: self.region().entries() }
    }

    /// The entry that holds `key`, and what it is: [`Nearby::entry_at`] or [`Nearby::entry_elsewhere`].
    #[inline]
    #[must_use]
    pub fn entry_of(
        &self,
        key: PackedKey<A>,
        hash: Hash,
        likely: EntryIndex,
    ) -> Option<(&Entry<A>, Identity<A>)> {
        let nearby = self.nearby();
        nearby.entry_at(key, likely).or_else(|| nearby.entry_elsewhere(key, hash, likely))
    }

    /// The same for a hash whose home has no such tag.
    #[cold]
    #[inline(never)]
    fn first_displaced(&self, hash: Hash, home: u32, word: Group) -> Option<EntryIndex> {
        let found = self.index().first_beyond(hash, home, word);
        let vacant = || word.first_of(0).map(|slot| slot_of(home, slot));
        if let Some(place) = found.or_else(vacant) {
            self.prefetch_at(place);
        }
        found
    }

    #[cold]
    #[inline(never)]
    fn search_entry(&self, key: PackedKey<A>, hash: Hash, likely: EntryIndex) -> Option<&Entry<A>> {
        if likely == EntryIndex::NONE {
            return None;
        }
        self.index().search(hash, |index| {
            let entry = self.entry(index)?;
            entry.identity_of(&key).map(|_| entry)
        })
    }

    /// Brings the index line of a hash near: a packet's first look.
    #[inline]
    pub fn prefetch_index(&self, hash: Hash) {
        let _ = self.nearby().prefetch_home(hash);
    }

    /// Brings the entry near that a new session's direction would most likely take; `home` is what
    /// [`Keyed`] has.
    #[inline]
    pub fn prefetch_vacant(&self, home: u32) {
        let vacant = self.index().vacant(home).and_then(|place| self.entry(place));
        vacant.map(prefetch);
    }

    /// Brings the entry that a hash most likely leads to near, or else the one that a new session's
    /// direction would take: its second look.
    pub fn prefetch_entry(&self, hash: Hash) {
        let _ = self.nearby().prefetch_likely(hash, self.index().layout.home(hash));
    }

    /// Brings the entry at `place` near.
    #[inline]
    pub fn prefetch_at(&self, place: EntryIndex) {
        self.entry(place).map(prefetch);
    }
}
