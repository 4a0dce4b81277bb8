//! Where an entry may be: groups of seven tags in one word.
//!
//! Group `g` covers the entries `7g..7g+7`. Its word holds a byte of the hash for each of them
//! (zero: nobody) and, in the highest byte, how many keys wanted to be here and went further. A
//! search goes from a key's home group on and ends at the first group that nobody passed by, so an
//! absent key costs one word as a rule, and removal leaves no tombstones (the idea is that of F14,
//! Bronson and Shi, 2019; one word a group lets readers do without locks).
//!
//! Searches stay within a shard, which is a run of groups. Words change under its lock only.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::entry::{EntryIndex, SLOTS_MAX};
use crate::session::fuse::step;
use crate::session::hash::Hash;

/// Entries of a group.
pub const GROUP_SLOTS: u32 = 7;

/// How many groups and shards a table has; follows from how many sessions it may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    /// Sessions it may hold.
    pub sessions_max: u32,
    /// Shards, a power of two.
    pub shards: u32,
    /// Groups of each shard.
    pub shard_groups: u32,
}

impl Layout {
    /// The layout for `sessions_max` sessions, held at [`Self::SESSIONS_MAX`].
    #[must_use]
    pub fn new(sessions_max: u32) -> Self {
        let sessions_max = sessions_max.clamp(1, Self::SESSIONS_MAX);
        let entries = sessions_max * 2;
        // Keys fall into shards at random. With 4,096 entries each, a shard that is seven eighths
        // full on average would have to be nine standard deviations out to run over.
        let mut shards = 1;
        while shards < SHARDS_MAX && entries / (shards * 2) >= SHARD_ENTRIES_MIN {
            shards *= 2;
        }
        let slots = u64::from(entries) * 8 / 7;
        let shard_slots = slots.div_ceil(u64::from(shards));
        let shard_groups = shard_slots.div_ceil(u64::from(GROUP_SLOTS)) as u32;
        Self { sessions_max, shards, shard_groups }
    }

    /// Whether a table may be laid out so, by this build or another.
    #[must_use]
    pub fn is_sound(self) -> bool {
        let slots = u64::from(self.shards) * u64::from(self.shard_groups) * u64::from(GROUP_SLOTS);
        self.shards.is_power_of_two()
            && self.shards <= SHARDS_MAX
            && (1..=Self::SESSIONS_MAX).contains(&self.sessions_max)
            && slots >= u64::from(self.sessions_max) * 2
            && slots <= u64::from(SLOTS_MAX)
    }

    /// Groups of the whole table.
    #[inline]
    #[must_use]
    pub const fn groups(self) -> u32 {
        self.shards.wrapping_mul(self.shard_groups)
    }

    /// Entries of the whole table.
    #[must_use]
    pub const fn slots(self) -> u32 {
        self.groups() * GROUP_SLOTS
    }

    /// The group where the search for a key of this hash begins.
    #[inline]
    #[must_use]
    pub const fn home(self, hash: Hash) -> u32 {
        hash.below(self.groups())
    }

    /// The shard of all keys with this hash.
    #[must_use]
    pub const fn shard(self, hash: Hash) -> u32 {
        hash.below(self.shards)
    }

    /// The group to look into after `group`, in the same shard.
    #[must_use]
    pub const fn next(self, group: u32) -> u32 {
        let next = group + 1;
        if next.is_multiple_of(self.shard_groups) { next - self.shard_groups } else { next }
    }

    /// The groups behind `home`, the home of a hash: what [`Self::next`] gives, without a division each.
    #[inline]
    #[must_use]
    const fn behind(self, hash: Hash, home: u32) -> Behind {
        let end = self.shard(hash).wrapping_add(1).wrapping_mul(self.shard_groups);
        Behind { group: home, home, end, count: self.shard_groups }
    }

    /// The most sessions a table can be made for: entries have 27 bits for their partner's place.
    pub const SESSIONS_MAX: u32 = 50_000_000;
}

/// The groups of a shard behind one of them, in the order of a search.
struct Behind {
    group: u32,
    home: u32,
    /// One past the shard's last group, and how many it has.
    end: u32,
    count: u32,
}

impl Iterator for Behind {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        self.group = self.group.wrapping_add(1);
        if self.group == self.end {
            self.group = self.group.wrapping_sub(self.count);
        }
        (self.group != self.home).then_some(self.group)
    }
}

const SHARDS_MAX: u32 = 256;
const SHARD_ENTRIES_MIN: u32 = 4096;
const _: () = assert!((Layout::SESSIONS_MAX as u64) * 2 * 8 / 7 + 256 * 7 < SLOTS_MAX as u64);

/// Why no place was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotTaken {
    /// The key stands there already.
    Exists,
    /// The shard is full.
    Full,
}

/// The words of all groups, with their layout.
#[derive(Clone, Copy, Debug)]
pub struct Index<'t> {
    /// One word a group.
    pub words: &'t [AtomicU64],
    /// How they are laid out.
    pub layout: Layout,
}

impl<'t> Index<'t> {
    /// The word of a group.
    #[inline]
    #[must_use]
    pub fn group(self, group: u32) -> Group {
        // Groups come from the layout, so there always is one; an empty one ends every search.
        self.words.get(group as usize).map_or(Group(0), Group::load)
    }

    /// The entry of the home group `group` that [`Self::take`] would take, if it has one.
    #[inline]
    #[must_use]
    pub fn vacant(self, group: u32) -> Option<EntryIndex> {
        let slot = self.group(group).first_of(0)?;
        Some(EntryIndex(group.wrapping_mul(GROUP_SLOTS).wrapping_add(slot)))
    }

    /// Searches the places where a key of this hash may be, until `look` finds something.
    #[inline]
    pub fn search<T>(self, hash: Hash, mut look: impl FnMut(EntryIndex) -> Option<T>) -> Option<T> {
        let mut group = self.layout.home(hash);
        let mut behind = self.layout.behind(hash, group);
        loop {
            let word = self.group(group);
            for slot in word.slots_of(hash.tag()) {
                if let Some(found) = look(slot_of(group, slot)) {
                    return Some(found);
                }
            }
            if word.passed_by() == 0 {
                return None;
            }
            group = behind.next()?;
        }
    }

    /// The first place where a key of this hash may be, of those behind its home group, whose word is
    /// `word`.
    #[must_use]
    pub fn first_beyond(self, hash: Hash, home: u32, word: Group) -> Option<EntryIndex> {
        let (tags, mut word) = (hash.tags(), word);
        let mut behind = self.layout.behind(hash, home);
        while word.passed_by() != 0 {
            let group = behind.next()?;
            word = self.group(group);
            if let Some(slot) = word.first_of_tags(tags) {
                return Some(slot_of(group, slot));
            }
        }
        None
    }

    /// Takes a place for a key of this hash. None if its shard is full. The caller holds the
    /// shard's lock.
    #[must_use]
    pub fn take(self, hash: Hash) -> Option<EntryIndex> {
        self.take_unless(hash, self.layout.home(hash), |_| false).ok()
    }

    /// The same, unless `is_it` says of a place where the key may be that it stands there. `home` is the hash's.
    ///
    /// # Errors
    /// When the key is there already, or its shard is full.
    #[inline(always)]
    pub fn take_unless(
        self,
        hash: Hash,
        home: u32,
        is_it: impl Fn(EntryIndex) -> bool,
    ) -> Result<EntryIndex, NotTaken> {
        let Some(cell) = self.words.get(home as usize) else { return Err(NotTaken::Full) };
        let word = Group::load(cell);
        // Nearly always nobody passed by and nobody has the tag: the one word says it all.
        let may_be_here = word.passed_by() != 0 || word.first_of_tags(hash.tags()).is_some();
        if may_be_here && self.search(hash, |place| is_it(place).then_some(())).is_some() {
            return Err(NotTaken::Exists);
        }
        match word.first_of(0) {
            Some(slot) => {
                step();
                cell.store(word.with(slot, hash.tag()).0, Ordering::Release);
                Ok(slot_of(home, slot))
            }
            None => self.take_beyond(home, hash).ok_or(NotTaken::Full),
        }
    }

    /// Gives the place of a key of this hash back. The caller holds the shard's lock.
    pub fn give_back(self, hash: Hash, index: EntryIndex) {
        let group = index.0 / GROUP_SLOTS;
        self.update(group, |word| word.with(index.0 % GROUP_SLOTS, 0));
        self.count_passing(self.layout.home(hash), group, Group::unpass);
    }

    /// Whether a key of this hash may stand at `index`: the place is in the key's shard.
    #[must_use]
    pub const fn admits(self, hash: Hash, index: EntryIndex) -> bool {
        index.0 / GROUP_SLOTS / self.layout.shard_groups == self.layout.shard(hash)
    }

    /// Notes that a key of this hash stands at `index`, where it may stand and so far nobody does.
    /// For rebuilding an index.
    pub fn restore(self, hash: Hash, index: EntryIndex) {
        let group = index.0 / GROUP_SLOTS;
        self.count_passing(self.layout.home(hash), group, Group::pass);
        self.update(group, |word| word.with(index.0 % GROUP_SLOTS, hash.tag()));
    }

    /// Takes a place behind a home group that is full.
    #[cold]
    fn take_beyond(self, home: u32, hash: Hash) -> Option<EntryIndex> {
        let vacant = |group| Some((group, self.group(group).first_of(0)?));
        let (group, slot) = self.layout.behind(hash, home).find_map(vacant)?;
        self.update(home, Group::pass);
        let passed = self.layout.behind(hash, home).take_while(|passed| *passed != group);
        passed.for_each(|passed| self.update(passed, Group::pass));
        self.update(group, |word| word.with(slot, hash.tag()));
        Some(slot_of(group, slot))
    }

    /// Changes every group from `home` to the one before `group`.
    fn count_passing(self, home: u32, group: u32, change: impl Fn(Group) -> Group) {
        let mut passed = home;
        while passed != group {
            self.update(passed, &change);
            passed = self.layout.next(passed);
            if passed == home {
                // Only a place outside the key's shard leads here; no entry stands there.
                return;
            }
        }
    }

    fn update(self, group: u32, change: impl Fn(Group) -> Group) {
        if let Some(word) = self.words.get(group as usize) {
            let Group(changed) = change(Group(word.load(Ordering::Relaxed)));
            step();
            word.store(changed, Ordering::Release);
        }
    }
}

/// The entry of a group's slot. Both are below what the layout has.
#[inline]
pub const fn slot_of(group: u32, slot: u32) -> EntryIndex {
    EntryIndex(group.wrapping_mul(GROUP_SLOTS).wrapping_add(slot))
}

/// The word of a group: seven tags, and how many keys passed it by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Group(pub u64);

impl Group {
    /// The word as it is now.
    #[inline(always)]
    #[must_use]
    pub fn load(word: &AtomicU64) -> Self {
        Self(word.load(Ordering::Acquire))
    }

    /// Whether no entry of this group is taken.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 & TAGS == 0
    }

    /// The tag of a slot.
    #[must_use]
    pub const fn tag(self, slot: u32) -> u8 {
        (self.0 >> (slot * 8)) as u8
    }

    /// The slots whose tag is `tag`, lowest first.
    #[inline]
    pub fn slots_of(self, tag: u8) -> Slots {
        // A byte of the difference is zero where the tag is: adding 0x7f sets the highest bit of
        // every other byte, and no byte carries into the next.
        let difference = self.0 ^ u64::from(tag).wrapping_mul(ONES);
        Slots(!((difference & LOW_BITS).wrapping_add(LOW_BITS) | difference | LOW_BITS) & TAGS)
    }

    /// The slots that are taken, lowest first.
    #[inline]
    pub const fn taken(self) -> Slots {
        Slots(((self.0 & LOW_BITS).wrapping_add(LOW_BITS) | self.0) & TAGS & !LOW_BITS)
    }

    /// The lowest slot whose tag is `tag`.
    #[inline]
    #[must_use]
    pub const fn first_of(self, tag: u8) -> Option<u32> {
        self.first_of_tags((tag as u64).wrapping_mul(ONES))
    }

    /// The same for a tag that stands in every byte of `tags`.
    #[inline]
    #[must_use]
    pub const fn first_of_tags(self, tags: u64) -> Option<u32> {
        // Subtracting one from each byte of the difference borrows from the lowest that is zero; what
        // the bytes above it then say is of no interest.
        let difference = self.0 ^ tags;
        let found = difference.wrapping_sub(ONES) & !difference & TAGS & !LOW_BITS;
        if found == 0 { None } else { Some(found.trailing_zeros() / 8) }
    }

    /// How many keys wanted a place here and stand further on.
    #[inline]
    #[must_use]
    pub const fn passed_by(self) -> u8 {
        (self.0 >> 56) as u8
    }

    const fn with(self, slot: u32, tag: u8) -> Self {
        let shift = slot * 8;
        Self(self.0 & !(0xff << shift) | (tag as u64) << shift)
    }

    /// One more key passed by. A full count stays: it no longer knows how many they are.
    const fn pass(self) -> Self {
        if self.passed_by() == u8::MAX { self } else { Self(self.0 + (1 << 56)) }
    }

    const fn unpass(self) -> Self {
        match self.passed_by() {
            0 | u8::MAX => self,
            _ => Self(self.0 - (1 << 56)),
        }
    }
}

/// Slots of a group, each a set highest bit of its byte.
#[derive(Clone, Copy, Debug)]
pub struct Slots(u64);

impl Iterator for Slots {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() / 8;
        self.0 &= self.0.wrapping_sub(1);
        Some(slot)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const TAGS: u64 = 0x00ff_ffff_ffff_ffff;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_of_a_tag_are_exactly_those_that_hold_it(word: u64, tag: u8) {
            let expected: Vec<u32> =
                (0..GROUP_SLOTS).filter(|slot| word.to_le_bytes()[*slot as usize] == tag).collect();
            prop_assert_eq!(Group(word).first_of(tag), expected.first().copied());
            let hash = Hash(tag.into());
            let first = Group(word).first_of(hash.tag());
            prop_assert_eq!(Group(word).first_of_tags(hash.tags()), first);
            prop_assert_eq!(Group(word).slots_of(tag).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn every_layout_has_room_for_its_sessions(sessions_max in 1_u32..=Layout::SESSIONS_MAX) {
            let layout = Layout::new(sessions_max);
            prop_assert!(layout.slots() >= sessions_max * 2);
            prop_assert!(layout.slots() <= SLOTS_MAX && layout.is_sound());
            let bytes = f64::from(layout.slots()) * 64.0 + f64::from(layout.groups()) * 8.0;
            if sessions_max > 10_000 {
                prop_assert!(bytes / f64::from(sessions_max) < 151.0);
            }
        }

        #[test]
        fn what_was_taken_is_found_until_it_is_given_back(
            operations in prop::collection::vec((any::<u8>(), any::<bool>()), 1..400),
            is_sharded: bool,
        ) {
            let sharded = Layout { sessions_max: 40, shards: 4, shard_groups: 4 };
            let layout = if is_sharded { sharded } else { Layout::new(40) };
            let words: Vec<AtomicU64> =
                (0..layout.groups()).map(|_| AtomicU64::new(0)).collect();
            let index = Index { words: &words, layout };
            let mut standing: Vec<(Hash, EntryIndex)> = Vec::new();
            for (choice, take) in operations {
                if take {
                    // Few homes and few tags: groups overflow, tags collide.
                    let hash = Hash(u64::from(choice & 0xf0) << 56 | u64::from(choice & 3));
                    match index.take(hash) {
                        Some(place) => standing.push((hash, place)),
                        None => {
                            let here = |&&(other, _): &&(Hash, _)| {
                                layout.shard(other) == layout.shard(hash)
                            };
                            let count = standing.iter().filter(here).count() as u32;
                            prop_assert_eq!(count, layout.shard_groups * GROUP_SLOTS);
                        }
                    }
                } else if !standing.is_empty() {
                    let (hash, place) = standing.swap_remove(usize::from(choice) % standing.len());
                    index.give_back(hash, place);
                }
                for (hash, place) in &standing {
                    let found = index.search(*hash, |at| (at == *place).then_some(()));
                    prop_assert!(found.is_some());
                    let home = layout.home(*hash);
                    let word = index.group(home);
                    let here = word.first_of(hash.tag()).map(|slot| slot_of(home, slot));
                    let first = here.or_else(|| index.first_beyond(*hash, home, word));
                    prop_assert_eq!(first, index.search(*hash, Some));
                }
            }
            for (hash, place) in standing {
                index.give_back(hash, place);
            }
            prop_assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }
    }
}
