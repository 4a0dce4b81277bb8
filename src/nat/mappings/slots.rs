//! The memory of one public address's ports: a slot each, and an occupancy bitmap.
//!
//! Live and resting ports are marked busy, and reserved ones closed where a search came by them.
//! Above the bitmap a summary by parity says which words have any other port, so that a search
//! costs a few words however full the address is. A new policy may free a reserved port: closed ones
//! are looked at again, some at a time, where nothing else of the best kind is left. Slots are 16 bytes in blocks of 64,
//! made when a port of theirs is first used, and kept: 1 MiB at most.

use std::mem::replace;

use super::allowed::{Allowed, Parity, WORD_PORTS};
use super::owner::Owner;
use crate::time::Coarse;

/// A port's owner and state.
///
/// `freed` is [`NEVER`], [`LIVE`], or one more than the coarse time of its freeing. `word` holds the
/// references of a live port, and the neighbours in the list of a resting one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    owner: Owner,
    word: u32,
    freed: u32,
}

const NEVER: u32 = 0;
const LIVE: u32 = u32::MAX;

impl Slot {
    const UNUSED: Self = Self { owner: Owner::NOBODY, word: 0, freed: NEVER };

    /// A live port with one reference.
    pub(super) const fn live(owner: Owner) -> Self {
        Self { owner, word: 1, freed: LIVE }
    }

    /// One more reference on a live port.
    pub(super) const fn join(&mut self) {
        self.word = self.word.saturating_add(1);
    }

    /// One reference less on a live port, unless it is the last.
    pub(super) const fn leave_shared(&mut self) -> bool {
        let is_shared = self.word > 1;
        if is_shared {
            self.word -= 1;
        }
        is_shared
    }

    /// The port is live no more.
    pub(super) fn free(&mut self, now: Coarse) {
        self.freed = now.as_raw().saturating_add(1).min(LIVE - 1);
    }

    /// Puts a resting port between its neighbours in the list; at an end it is its own neighbour.
    pub(super) const fn link(&mut self, older: u16, newer: u16) {
        self.word = (older as u32) << 16 | newer as u32;
    }

    /// Who has it, or had it last.
    pub(super) const fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether it has references.
    pub(super) const fn is_live(&self) -> bool {
        self.freed == LIVE
    }

    /// References on a live port.
    pub(super) const fn references(&self) -> u32 {
        self.word
    }

    /// How long ago a port was freed that is not live; none if it never had an owner.
    pub(super) const fn freed_units_ago(&self, now: Coarse) -> Option<u32> {
        match self.freed {
            NEVER => None,
            freed => Some(now.as_raw().saturating_add(1).saturating_sub(freed)),
        }
    }

    /// The resting port freed before this one; itself if there is none.
    pub(super) const fn older(&self) -> u16 {
        (self.word >> 16) as u16
    }

    /// The resting port freed after this one; itself if there is none.
    pub(super) const fn newer(&self) -> u16 {
        self.word as u16
    }
}

/// Words looked at again for closed ports at a time.
const REOPEN_WORDS: u16 = 16;

/// The slots of 64 ports.
struct Block {
    slots: [Slot; 64],
}

impl Block {
    /// Of ports that nobody has used yet.
    #[cold]
    fn unused() -> Box<Self> {
        Box::new(Self { slots: [Slot::UNUSED; 64] })
    }
}

/// 32 words of 64 ports. The bitmaps of many words lie side by side, apart from the slots: who looks for
/// a free port finds them near, also where there are more slots than caches hold.
struct Group {
    busy: [u64; GROUP_WORDS],
    closed: [u64; GROUP_WORDS],
    blocks: [Option<Box<Block>>; GROUP_WORDS],
}

impl Group {
    #[cold]
    fn unused() -> Box<Self> {
        let (busy, closed) = ([0; GROUP_WORDS], [0; GROUP_WORDS]);
        Box::new(Self { busy, closed, blocks: [const { None }; GROUP_WORDS] })
    }

    /// The ports of a word that are neither busy nor closed, as bits.
    const fn open_ports(&self, at: usize) -> u64 {
        !(self.busy[at] | self.closed[at])
    }
}

const GROUP_WORDS: usize = 32;

/// All 65,536 ports.
pub(super) struct Slots {
    groups: [Option<Box<Group>>; GROUP_WORDS],
    /// By parity: the words with a port that is neither busy nor closed, as bits.
    open: [[u64; 16]; 2],
    blocks: usize,
    /// Where [`Self::reopen`] goes on.
    reopened_to: u16,
}

impl Slots {
    /// All free and never used.
    pub(super) const fn new() -> Self {
        Self {
            groups: [const { None }; GROUP_WORDS],
            open: [[u64::MAX; 16]; 2],
            blocks: 0,
            reopened_to: 0,
        }
    }

    /// Makes a port busy, with this slot. Returns the one it had, if it was busy before. Who takes a closed
    /// port was allowed to.
    #[inline(always)]
    pub(super) fn occupy(&mut self, port: u16, slot: Slot) -> Option<Slot> {
        let word = port / WORD_PORTS;
        let at = place(word);
        let bit = 1 << (port % WORD_PORTS);
        let group = self.groups[group_of(word)].get_or_insert_with(Group::unused);
        let block = block_of(group, at, &mut self.blocks);
        let before = replace(&mut block.slots[usize::from(port % WORD_PORTS)], slot);
        let was_busy = group.busy[at] & bit != 0;
        group.busy[at] |= bit;
        group.closed[at] &= !bit;
        let parity = Parity::of(port);
        if group.open_ports(at) & parity.bits() == 0 {
            self.open[parity_place(parity)][usize::from(word / 64)] &= !(1 << (word % 64));
        }
        was_busy.then_some(before)
    }

    /// Makes a port free again if it has a slot that may be. Returns the slot then.
    pub(super) fn set_free_if(
        &mut self,
        port: u16,
        may_be: impl FnOnce(&Slot) -> bool,
    ) -> Option<Slot> {
        let word = port / WORD_PORTS;
        let at = place(word);
        let group = self.existing_group_mut(word)?;
        let slot = group.blocks[at].as_deref()?.slots[usize::from(port % WORD_PORTS)];
        if !may_be(&slot) {
            return None;
        }
        let bit = 1 << (port % WORD_PORTS);
        group.busy[at] &= !bit;
        if group.closed[at] & bit == 0 {
            let parity = parity_place(Parity::of(port));
            self.open[parity][usize::from(word / 64)] |= 1 << (word % 64);
        }
        Some(slot)
    }

    /// Closes ports of a word, unless none of it or its neighbours was ever used: that would cost memory.
    pub(super) fn close(&mut self, word: u16, ports: u64) {
        let at = place(word);
        if let Some(group) = self.existing_group_mut(word)
            && ports & !group.closed[at] != 0
        {
            group.closed[at] |= ports;
            let open_ports = group.open_ports(at);
            self.summarize(word, open_ports);
        }
    }

    /// Opens ports that are reserved no more, in a few words of the pool's range. Returns whether
    /// there were any.
    pub(super) fn reopen(&mut self, allowed: &Allowed<'_>) -> bool {
        let (first, last) = allowed.words();
        let mut has_opened = false;
        for _ in first..=last.min(first + REOPEN_WORDS - 1) {
            let word = self.reopened_to.clamp(first, last);
            self.reopened_to = if word < last { word + 1 } else { first };
            let at = place(word);
            if let Some(group) = self.existing_group_mut(word)
                && group.closed[at] != 0
            {
                let still = group.closed[at] & allowed.reserved_in_word(word).0;
                has_opened |= still != group.closed[at];
                group.closed[at] = still;
                let open_ports = group.open_ports(at);
                self.summarize(word, open_ports);
            }
        }
        has_opened
    }

    /// The slot of a port, made if need be.
    pub(super) fn at_mut(&mut self, port: u16) -> &mut Slot {
        &mut self.block_mut(port / WORD_PORTS).slots[usize::from(port % WORD_PORTS)]
    }

    /// The slot of a live port.
    pub(super) fn live_mut(&mut self, port: u16) -> Option<&mut Slot> {
        let block = self.existing_block_mut(port / WORD_PORTS)?;
        Some(&mut block.slots[usize::from(port % WORD_PORTS)]).filter(|slot| slot.is_live())
    }

    /// The slot of a port; none if neither it nor a neighbour was ever used.
    pub(super) fn at(&self, port: u16) -> Option<&Slot> {
        self.block(port / WORD_PORTS).map(|block| &block.slots[usize::from(port % WORD_PORTS)])
    }

    /// Whether a port is live or rests.
    pub(super) fn is_busy(&self, port: u16) -> bool {
        let word = port / WORD_PORTS;
        self.group(word)
            .is_some_and(|group| group.busy[place(word)] >> (port % WORD_PORTS) & 1 == 1)
    }

    /// The ports of a word that are neither busy nor closed, as bits.
    pub(super) fn open_word(&self, word: u16) -> u64 {
        self.group(word).map_or(u64::MAX, |group| group.open_ports(place(word)))
    }

    /// The first word from `from` on with an open port of that parity.
    pub(super) fn next_open(&self, from: u16, parity: Parity) -> Option<u16> {
        let [even, odd] = &self.open;
        let mut mask = u64::MAX << (from % 64);
        for index in from / 64..16 {
            let at = usize::from(index);
            let words = match parity {
                Parity::Any => even[at] | odd[at],
                Parity::Even => even[at],
                Parity::Odd => odd[at],
            };
            if words & mask != 0 {
                return Some(index * 64 + (words & mask).trailing_zeros() as u16);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Bytes of memory outside of this value.
    pub(super) fn memory_bytes(&self) -> usize {
        let groups = self.groups.iter().flatten().count();
        groups * size_of::<Group>() + self.blocks * size_of::<Block>()
    }

    /// Notes which ports of a word are neither busy nor closed now.
    fn summarize(&mut self, word: u16, open_ports: u64) {
        let (at, bit) = (usize::from(word / 64), 1_u64 << (word % 64));
        for (parity, open) in [Parity::Even, Parity::Odd].into_iter().zip(&mut self.open) {
            if open_ports & parity.bits() == 0 {
                open[at] &= !bit;
            } else {
                open[at] |= bit;
            }
        }
    }

    fn existing_group_mut(&mut self, word: u16) -> Option<&mut Group> {
        self.groups[group_of(word)].as_deref_mut()
    }

    fn existing_block_mut(&mut self, word: u16) -> Option<&mut Block> {
        self.existing_group_mut(word)?.blocks[place(word)].as_deref_mut()
    }

    fn block_mut(&mut self, word: u16) -> &mut Block {
        let group = self.groups[group_of(word)].get_or_insert_with(Group::unused);
        block_of(group, place(word), &mut self.blocks)
    }

    fn group(&self, word: u16) -> Option<&Group> {
        self.groups[group_of(word)].as_deref()
    }

    fn block(&self, word: u16) -> Option<&Block> {
        self.group(word)?.blocks[place(word)].as_deref()
    }
}

/// The block of a group's word, made and counted among `blocks` if need be.
fn block_of<'g>(group: &'g mut Group, at: usize, blocks: &mut usize) -> &'g mut Block {
    group.blocks[at].get_or_insert_with(|| {
        *blocks += 1;
        Block::unused()
    })
}

/// Where [`Slots::open`] has the words of a parity; [`Parity::Any`] is both.
const fn parity_place(parity: Parity) -> usize {
    match parity {
        Parity::Any | Parity::Even => 0,
        Parity::Odd => 1,
    }
}

/// Which group a word is in. Ports have 1024 words, in as many groups as a group has words.
const fn group_of(word: u16) -> usize {
    word as usize / GROUP_WORDS % GROUP_WORDS
}

/// The place of a word in its group.
const fn place(word: u16) -> usize {
    word as usize % GROUP_WORDS
}

const _: () = assert!(GROUP_WORDS * GROUP_WORDS * WORD_PORTS as usize == 1 << 16);
const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Block>() == 64 * 16);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_summary_leads_to_the_first_word_with_a_free_port(
            words in proptest::collection::btree_set(0u16..1024, 0..20),
            freed in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
            from in 0u16..1024,
        ) {
            let mut slots = Slots::new();
            let mut busy = BTreeSet::new();
            for port in words.iter().flat_map(|word| word * 64..=word * 64 + 63) {
                slots.occupy(port, Slot::live(Owner::NOBODY));
                busy.insert(port);
            }
            for index in freed.iter().filter(|_| !words.is_empty()) {
                let port = *index.get(&busy.iter().copied().collect::<Vec<u16>>());
                slots.set_free_if(port, |_| true);
                busy.remove(&port);
            }
            for parity in [Parity::Any, Parity::Even, Parity::Odd] {
                let is_free = |port: &u16| {
                    (parity == Parity::Any || parity == Parity::of(*port)) && !busy.contains(port)
                };
                let has_free = |word: &u16| (word * 64..=word * 64 + 63).any(|port| is_free(&port));
                let first = (from..1024).find(has_free);
                prop_assert_eq!(slots.next_open(from, parity), first);
            }
            let mut near = words.iter().flat_map(|word| word * 64..=word * 64 + 63);
            prop_assert!(near.all(|port| slots.is_busy(port) == busy.contains(&port)));
        }
    }
}
