//! The memory of one block of ports: a slot each, and an occupancy bitmap.
//!
//! Live and resting ports are marked busy, and reserved ones closed where a search came by them.
//! Above the bitmap a summary by parity says which words have any other port, so that a search
//! costs a few words however full the block is. A new policy may free a reserved port: closed ones
//! are looked at again where nothing else of the best kind is left. Slots are 16 bytes in pages of 64,
//! made when a port of theirs is first used, and kept: 16 KiB at most.

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

    /// When a port was freed that is not live; none if it never had an owner.
    pub(super) const fn freed_at(&self) -> Option<Coarse> {
        match self.freed {
            NEVER => None,
            freed => Some(Coarse::from_raw(freed - 1)),
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

/// Words of 64 ports in a block.
pub(super) const BLOCK_WORDS: u16 = 16;

/// The slots of 64 ports.
struct Page {
    slots: [Slot; WORD_PORTS as usize],
}

impl Page {
    /// Of ports that nobody has used yet.
    #[cold]
    fn unused() -> Box<Self> {
        Box::new(Self { slots: [Slot::UNUSED; WORD_PORTS as usize] })
    }
}

/// 64 ports. What is asked of a port first lies side by side, apart from its slot.
struct Word {
    busy: u64,
    closed: u64,
    page: Option<Box<Page>>,
}

impl Word {
    const UNUSED: Self = Self { busy: 0, closed: 0, page: None };

    /// The ports that are neither busy nor closed, as bits.
    const fn open_ports(&self) -> u64 {
        !(self.busy | self.closed)
    }
}

/// All ports of a block. What every request reads is in front.
#[repr(C)]
pub(super) struct Slots {
    /// Ports below these are other blocks'.
    first_word: u16,
    /// By parity: the words with a port that is neither busy nor closed, as bits.
    open: [u16; 2],
    /// The words with closed ports.
    closed: u16,
    words: [Word; BLOCK_WORDS as usize],
}

impl Slots {
    /// All free and never used. The block begins with this word.
    pub(super) const fn new(first_word: u16) -> Self {
        let words = [Word::UNUSED; BLOCK_WORDS as usize];
        Self { first_word, open: [u16::MAX; 2], closed: 0, words }
    }

    /// Makes a port busy, with this slot. Returns the one it had, if it was busy before: else nobody reads
    /// that, which need not come from memory then. Who takes a closed port was allowed to.
    #[inline(always)]
    pub(super) fn occupy(&mut self, port: u16, slot: Slot) -> Option<Slot> {
        let word = &mut self.words[place(port / WORD_PORTS)];
        let bit = 1 << (port % WORD_PORTS);
        let page = word.page.get_or_insert_with(Page::unused);
        let at = &mut page.slots[usize::from(port % WORD_PORTS)];
        let before = (word.busy & bit != 0).then_some(*at);
        *at = slot;
        word.busy |= bit;
        word.closed &= !bit;
        let parity = Parity::of(port);
        if word.open_ports() & parity.bits() == 0 {
            self.open[parity_place(parity)] &= !(1 << place(port / WORD_PORTS));
        }
        before
    }

    /// Makes a port free again if it has a slot that may be. Returns the slot then.
    pub(super) fn set_free_if(
        &mut self,
        port: u16,
        may_be: impl FnOnce(&Slot) -> bool,
    ) -> Option<Slot> {
        let word = &mut self.words[place(port / WORD_PORTS)];
        let slot = word.page.as_deref()?.slots[usize::from(port % WORD_PORTS)];
        if !may_be(&slot) {
            return None;
        }
        let bit = 1 << (port % WORD_PORTS);
        word.busy &= !bit;
        if word.closed & bit == 0 {
            self.open[parity_place(Parity::of(port))] |= 1 << place(port / WORD_PORTS);
        }
        Some(slot)
    }

    /// Closes ports of a word.
    pub(super) fn close(&mut self, word: u16, ports: u64) {
        let closed = &mut self.words[place(word)].closed;
        if ports & !*closed != 0 {
            *closed |= ports;
            self.closed |= 1 << place(word);
            self.summarize(word);
        }
    }

    /// Opens ports that are reserved no more. Returns whether there were any.
    pub(super) fn reopen(&mut self, allowed: &Allowed<'_>) -> bool {
        let mut has_opened = false;
        let (mut left, first) = (self.closed, self.first_word);
        while left != 0 {
            let word = first + left.trailing_zeros() as u16;
            left &= left - 1;
            let closed = &mut self.words[place(word)].closed;
            let still = *closed & allowed.reserved_in_word(word).0;
            has_opened |= still != *closed;
            *closed = still;
            if still == 0 {
                self.closed &= !(1 << place(word));
            }
            self.summarize(word);
        }
        has_opened
    }

    /// The slot of a port, made if need be.
    pub(super) fn at_mut(&mut self, port: u16) -> &mut Slot {
        let page = self.words[place(port / WORD_PORTS)].page.get_or_insert_with(Page::unused);
        &mut page.slots[usize::from(port % WORD_PORTS)]
    }

    /// The slot of a live port.
    pub(super) fn live_mut(&mut self, port: u16) -> Option<&mut Slot> {
        let page = self.words[place(port / WORD_PORTS)].page.as_deref_mut()?;
        Some(&mut page.slots[usize::from(port % WORD_PORTS)]).filter(|slot| slot.is_live())
    }

    /// The slot of a port; none if neither it nor a neighbour was ever used.
    pub(super) fn at(&self, port: u16) -> Option<&Slot> {
        let page = self.words[place(port / WORD_PORTS)].page.as_deref()?;
        Some(&page.slots[usize::from(port % WORD_PORTS)])
    }

    /// Whether a port is live or rests.
    pub(super) const fn is_busy(&self, port: u16) -> bool {
        self.words[place(port / WORD_PORTS)].busy >> (port % WORD_PORTS) & 1 == 1
    }

    /// The ports of a word that are neither busy nor closed, as bits.
    pub(super) const fn open_word(&self, word: u16) -> u64 {
        self.words[place(word)].open_ports()
    }

    /// Whether there is an open port of that parity.
    pub(super) const fn has_open(&self, parity: Parity) -> bool {
        self.open_words(parity) != 0
    }

    /// Whether there may be a closed port.
    pub(super) const fn has_closed(&self) -> bool {
        self.closed != 0
    }

    /// The first word that is another block's.
    pub(super) const fn end(&self) -> u16 {
        self.first_word + BLOCK_WORDS
    }

    /// The first word from `from` on with an open port of that parity. `from` is one of the block's.
    pub(super) fn next_open(&self, from: u16, parity: Parity) -> Option<u16> {
        let words = self.open_words(parity) & u16::MAX << place(from);
        (words != 0).then(|| self.first_word + words.trailing_zeros() as u16)
    }

    /// Bytes of memory outside of this value.
    pub(super) fn memory_bytes(&self) -> usize {
        let pages = self.words.iter().filter(|word| word.page.is_some()).count();
        pages * size_of::<Page>()
    }

    const fn open_words(&self, parity: Parity) -> u16 {
        let [even, odd] = self.open;
        match parity {
            Parity::Any => even | odd,
            Parity::Even => even,
            Parity::Odd => odd,
        }
    }

    /// Notes which ports of a word are neither busy nor closed now.
    fn summarize(&mut self, word: u16) {
        let (open_ports, bit) = (self.open_word(word), 1_u16 << place(word));
        for (parity, open) in [Parity::Even, Parity::Odd].into_iter().zip(&mut self.open) {
            if open_ports & parity.bits() == 0 {
                *open &= !bit;
            } else {
                *open |= bit;
            }
        }
    }
}

/// Where [`Slots::open`] has the words of a parity; [`Parity::Any`] is both.
const fn parity_place(parity: Parity) -> usize {
    match parity {
        Parity::Any | Parity::Even => 0,
        Parity::Odd => 1,
    }
}

/// The place of a word in its block.
const fn place(word: u16) -> usize {
    (word % BLOCK_WORDS) as usize
}

const _: () = assert!(BLOCK_WORDS as u32 == u16::BITS);
const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Page>() == 64 * 16);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_summary_leads_to_the_first_word_with_a_free_port(
            block in 0u16..64,
            words in proptest::collection::btree_set(0u16..16, 0..16),
            freed in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
            from in 0u16..16,
        ) {
            let first = block * BLOCK_WORDS;
            let mut slots = Slots::new(first);
            let mut busy = BTreeSet::new();
            let ports_of = |word: u16| (0..64).map(move |port| word * 64 + port);
            for port in words.iter().flat_map(|word| ports_of(first + word)) {
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
                let has_free = |word: &u16| ports_of(*word).any(|port| is_free(&port));
                let mut all = first..=first + 15;
                prop_assert_eq!(slots.has_open(parity), all.clone().any(|word| has_free(&word)));
                let found = all.find(|word| *word >= first + from && has_free(word));
                prop_assert_eq!(slots.next_open(first + from, parity), found);
            }
            let mut all = words.iter().flat_map(|word| ports_of(first + word));
            prop_assert!(all.all(|port| slots.is_busy(port) == busy.contains(&port)));
        }
    }
}
