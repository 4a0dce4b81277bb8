//! The ports of one public address for one protocol: who has which, and which rest.
//!
//! A port is free, live or resting. Live and resting ones are marked in an occupancy bitmap; above
//! it a summary by parity says which words have a free port at all, so that a search costs a few
//! words however full the address is. Freed ports stand in a list in the order of their freeing and
//! leave it from its oldest end once they have rested. Slots are 16 bytes in blocks of 64, made when
//! a port of theirs is first used and kept: memory is bounded by 1 MiB for each address and protocol.

use super::allowed::{Allowed, Parity, Pass, WORD_PORTS};
use super::owner::Owner;
use crate::time::Coarse;

/// Rested ports that become free again with each request; more come only when nothing is free.
const SETTLE_BURST: u32 = 32;
/// Candidates a search looks at before it gives up.
const CANDIDATES_MAX: u32 = 32;
/// Rounds of making rested ports free when nothing is.
const SETTLE_ROUNDS: u32 = 4;
/// Resting ports looked through for one that its own guest may have back.
const OWN_RESTING_MAX: u32 = 64;

/// What a request asks of the ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'p> {
    /// For whom; its port is the one preferred.
    pub(super) owner: Owner,
    /// What may be given out.
    pub(super) allowed: Allowed<'p>,
    /// How long a port of another guest must have rested; zero for not at all.
    pub(super) hold_units: u32,
    /// The time.
    pub(super) now: Coarse,
}

/// A search under way.
struct Search<'w, 'p, A> {
    wish: &'w Wish<'p>,
    /// Candidates it may still look at.
    candidates: u32,
    accept: A,
}

/// What became of a mapping when a reference was given back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// There was no such mapping.
    Gone,
    /// Only one reference is left, which was not given back.
    Last(Owner),
    /// Others still use it.
    Shared,
}

/// What became of a mapping that an adopted session has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Adopted {
    /// It was known: one more reference.
    Joined,
    /// The port is another's.
    Refused,
    /// It was made.
    Taken,
}

/// A port's owner and state.
///
/// `freed` is [`NEVER`], [`LIVE`], or one more than the coarse time of its freeing. `word` holds the
/// references of a live port, and the neighbours in the list of a resting one.
#[derive(Clone, Copy, Debug)]
struct Slot {
    owner: Owner,
    word: u32,
    freed: u32,
}

const NEVER: u32 = 0;
const LIVE: u32 = u32::MAX;

impl Slot {
    const UNUSED: Self = Self { owner: Owner::NOBODY, word: 0, freed: NEVER };

    const fn is_live(&self) -> bool {
        self.freed == LIVE
    }

    /// The resting port freed before this one; itself if there is none.
    const fn older(&self) -> u16 {
        (self.word >> 16) as u16
    }

    /// The resting port freed after this one; itself if there is none.
    const fn newer(&self) -> u16 {
        self.word as u16
    }

    fn link(&mut self, older: u16, newer: u16) {
        self.word = u32::from(older) << 16 | u32::from(newer);
    }

    /// Whether it has rested long enough for anybody.
    fn has_rested(&self, wish: &Wish<'_>) -> bool {
        // Both times are rounded down to a unit, so one more makes sure.
        let rested = wish.now.as_raw().saturating_add(1).saturating_sub(self.freed);
        self.freed == NEVER || wish.hold_units == 0 || rested > wish.hold_units
    }

    /// Whether `wish.owner` may have it: its own guest may at once (RFC 6888, REQ-8).
    fn suits(&self, wish: &Wish<'_>) -> bool {
        self.has_rested(wish) || self.owner.guest() == wish.owner.guest()
    }
}

/// 64 ports.
struct Block {
    busy: u64,
    slots: [Slot; 64],
}

type Group = [Option<Box<Block>>; 32];

/// The ports of one public address for one protocol.
pub(super) struct Ports {
    groups: [Option<Box<Group>>; 32],
    /// By parity: the words with a free port, as bits.
    open: [[u64; 16]; 2],
    live: u32,
    resting: u32,
    /// The ends of the list of resting ports; without meaning while there are none.
    oldest: u16,
    newest: u16,
    blocks: u32,
}

impl Ports {
    /// All free.
    pub(super) fn new() -> Self {
        Self {
            groups: [const { None }; 32],
            open: [[u64::MAX; 16]; 2],
            live: 0,
            resting: 0,
            oldest: 0,
            newest: 0,
            blocks: 0,
        }
    }

    /// Gives a port to `wish.owner`, with one reference: the one it wants if possible (port
    /// preservation), else one like it (RFC 4787, REQ-3a and REQ-4) from a place that `random`
    /// decides (RFC 6056, section 3.3.1), else any allowed one. `accept` has the last word on each.
    pub(super) fn take(
        &mut self,
        wish: &Wish<'_>,
        random: impl Fn() -> u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        self.settle(wish, SETTLE_BURST);
        let port = self.preserved(wish, &accept).or_else(|| {
            let random = random();
            let mut round = 0;
            loop {
                let found = self.search_passes(wish, random, &accept);
                round += 1;
                if found.is_some() || round == SETTLE_ROUNDS || self.settle(wish, 64) == 0 {
                    return found.or_else(|| self.search_resting(wish, &accept));
                }
            }
        })?;
        self.occupy(port, wish.owner);
        Some(port)
    }

    /// One more reference for `owner` on its port.
    pub(super) fn join(&mut self, port: u16, owner: Owner) -> bool {
        match self.live_slot_mut(port) {
            Some(slot) if slot.owner == owner => {
                slot.word = slot.word.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// One more reference on a port, whoever has it.
    pub(super) fn hold(&mut self, port: u16) -> bool {
        match self.live_slot_mut(port) {
            Some(slot) => {
                slot.word = slot.word.saturating_add(1);
                true
            }
            None => false,
        }
    }

    /// One reference less, unless it is the last.
    pub(super) fn leave_shared(&mut self, port: u16) -> Left {
        match self.live_slot_mut(port) {
            None => Left::Gone,
            Some(slot) if slot.word > 1 => {
                slot.word -= 1;
                Left::Shared
            }
            Some(slot) => Left::Last(slot.owner),
        }
    }

    /// One reference of `owner` less; the last one frees the port, which then rests. Returns
    /// whether it was the last.
    pub(super) fn leave(&mut self, port: u16, owner: Owner, now: Coarse) -> bool {
        match self.live_slot_mut(port) {
            Some(slot) if slot.owner == owner && slot.word > 1 => {
                slot.word -= 1;
                false
            }
            Some(slot) if slot.owner == owner => {
                slot.freed = now.as_raw().saturating_add(1).min(LIVE - 1);
                self.live -= 1;
                self.append_resting(port);
                true
            }
            _ => false,
        }
    }

    /// A reference for an adopted session of `owner`.
    pub(super) fn adopt(&mut self, port: u16, owner: Owner) -> Adopted {
        match self.live_slot_mut(port) {
            Some(slot) if slot.owner == owner => {
                slot.word = slot.word.saturating_add(1);
                Adopted::Joined
            }
            Some(_) => Adopted::Refused,
            None => {
                self.occupy(port, owner);
                Adopted::Taken
            }
        }
    }

    /// Who has a port, and with how many references.
    pub(super) fn owner(&self, port: u16) -> Option<(Owner, u32)> {
        self.slot(port).filter(|slot| slot.is_live()).map(|slot| (slot.owner, slot.word))
    }

    /// Every live port of one of the 32 groups.
    pub(super) fn for_each_in_group(&self, group: u16, mut visit: impl FnMut(u16, Owner, u32)) {
        for port in group * 2048..=group * 2048 + 2047 {
            if let Some((owner, references)) = self.owner(port) {
                visit(port, owner, references);
            }
        }
    }

    /// Ports with a mapping.
    pub(super) const fn live(&self) -> u32 {
        self.live
    }

    /// Ports that rest.
    pub(super) const fn resting(&self) -> u32 {
        self.resting
    }

    /// Bytes of memory outside of this value.
    pub(super) fn memory_bytes(&self) -> usize {
        let groups = self.groups.iter().flatten().count();
        groups * size_of::<Group>() + self.blocks as usize * size_of::<Block>()
    }

    /// The port the owner has itself, if it may keep it.
    fn preserved(&self, wish: &Wish<'_>, accept: impl Fn(u16) -> bool) -> Option<u16> {
        let port = wish.owner.port();
        if !wish.allowed.contains(port) || self.slot(port).is_some_and(Slot::is_live) {
            return None;
        }
        let suits = self.slot(port).is_none_or(|slot| {
            let own = slot.owner.guest() == wish.owner.guest();
            // The port freed last is the last to be handed to somebody else.
            slot.suits(wish) && (own || !self.is_newest_resting(port))
        });
        (suits && accept(port)).then_some(port)
    }

    fn search_passes(
        &self,
        wish: &Wish<'_>,
        random: u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let mut search = Search { wish, candidates: CANDIDATES_MAX, accept };
        wish.allowed.passes(wish.owner.port()).iter().flatten().find_map(|pass| {
            let start = pass.port(random as u32);
            self.scan(&Pass { first: start, ..*pass }, &mut search).or_else(|| {
                let before = Pass { last: start.checked_sub(1)?, ..*pass };
                self.scan(&before, &mut search)
            })
        })
    }

    /// The first free port of a pass that suits.
    fn scan(&self, pass: &Pass, search: &mut Search<'_, '_, impl Fn(u16) -> bool>) -> Option<u16> {
        let last_word = pass.last / WORD_PORTS;
        let mut from = pass.first / WORD_PORTS;
        while from <= last_word {
            let word = self.next_open(from, pass.parity).filter(|word| *word <= last_word)?;
            let (permitted, next) = search.wish.allowed.in_word(word, pass.first, pass.last);
            let mut free = !self.busy(word) & permitted & pass.parity.bits();
            while free != 0 {
                search.candidates = search.candidates.checked_sub(1)?;
                let port = word * WORD_PORTS + free.trailing_zeros() as u16;
                if self.slot(port).is_none_or(|slot| slot.suits(search.wish))
                    && (search.accept)(port)
                {
                    return Some(port);
                }
                free &= free - 1;
            }
            from = next;
        }
        None
    }

    /// A resting port for want of a free one: one that the guest itself had, or the one freed last
    /// if it has rested as long as it must (it stays in the list only to be the last choice).
    fn search_resting(&self, wish: &Wish<'_>, accept: impl Fn(u16) -> bool) -> Option<u16> {
        let passes = wish.allowed.passes(wish.owner.port());
        let widest = passes.iter().flatten().last()?;
        let mut port = self.oldest;
        for _ in 0..self.resting.min(OWN_RESTING_MAX) {
            let slot = self.slot(port)?;
            let in_range = widest.first <= port && port <= widest.last;
            if in_range && slot.suits(wish) && wish.allowed.contains(port) && accept(port) {
                return Some(port);
            }
            port = slot.newer();
        }
        let newest = self.slot(self.newest).filter(|_| self.resting > OWN_RESTING_MAX)?;
        let port = self.newest;
        let in_range = widest.first <= port && port <= widest.last;
        (in_range && newest.suits(wish) && wish.allowed.contains(port) && accept(port))
            .then_some(port)
    }

    /// Makes up to `count` ports that have rested free, oldest first, but never the one freed last.
    /// Returns how many.
    fn settle(&mut self, wish: &Wish<'_>, count: u32) -> u32 {
        let mut settled = 0;
        while settled < count && self.resting > 1 {
            let port = self.oldest;
            if !self.slot(port).is_some_and(|slot| slot.has_rested(wish)) {
                break;
            }
            self.remove_resting(port);
            self.set_busy(port, false);
            settled += 1;
        }
        settled
    }

    /// Gives a port that is not live to `owner`.
    fn occupy(&mut self, port: u16, owner: Owner) {
        let is_resting = self.busy(port / WORD_PORTS) >> (port % WORD_PORTS) & 1 == 1;
        if is_resting {
            self.remove_resting(port);
        } else {
            self.set_busy(port, true);
        }
        *self.slot_mut(port) = Slot { owner, word: 1, freed: LIVE };
        self.live += 1;
    }

    fn is_newest_resting(&self, port: u16) -> bool {
        self.resting > 0 && self.newest == port
    }

    fn append_resting(&mut self, port: u16) {
        let previous = self.newest;
        if self.resting == 0 {
            self.oldest = port;
            self.slot_mut(port).link(port, port);
        } else {
            let before = self.slot_mut(previous);
            before.link(before.older(), port);
            self.slot_mut(port).link(previous, port);
        }
        self.newest = port;
        self.resting += 1;
    }

    fn remove_resting(&mut self, port: u16) {
        let (older, newer) = {
            let slot = self.slot_mut(port);
            (slot.older(), slot.newer())
        };
        let (is_oldest, is_newest) = (self.oldest == port, self.newest == port);
        if !is_oldest {
            let before = self.slot_mut(older);
            before.link(before.older(), if is_newest { older } else { newer });
        }
        if !is_newest {
            let after = self.slot_mut(newer);
            after.link(if is_oldest { newer } else { older }, after.newer());
        }
        self.oldest = if is_oldest { newer } else { self.oldest };
        self.newest = if is_newest { older } else { self.newest };
        self.resting -= 1;
    }

    /// The first word from `from` on with a free port of that parity.
    fn next_open(&self, from: u16, parity: Parity) -> Option<u16> {
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

    fn set_busy(&mut self, port: u16, is_busy: bool) {
        let word = port / WORD_PORTS;
        let block = self.block_mut(word);
        let bit = 1 << (port % WORD_PORTS);
        if is_busy {
            block.busy |= bit;
        } else {
            block.busy &= !bit;
        }
        let free = !block.busy;
        let (at, bit) = (usize::from(word / 64), 1_u64 << (word % 64));
        for (parity, open) in [Parity::Even, Parity::Odd].into_iter().zip(&mut self.open) {
            if free & parity.bits() == 0 {
                open[at] &= !bit;
            } else {
                open[at] |= bit;
            }
        }
    }

    fn busy(&self, word: u16) -> u64 {
        self.block(word).map_or(0, |block| block.busy)
    }

    fn block(&self, word: u16) -> Option<&Block> {
        let group = self.groups[usize::from(word / 32 % 32)].as_deref()?;
        group[usize::from(word % 32)].as_deref()
    }

    fn block_mut(&mut self, word: u16) -> &mut Block {
        let group = self.groups[usize::from(word / 32 % 32)]
            .get_or_insert_with(|| Box::new([const { None }; 32]));
        let blocks = &mut self.blocks;
        group[usize::from(word % 32)].get_or_insert_with(|| {
            *blocks += 1;
            Box::new(Block { busy: 0, slots: [Slot::UNUSED; 64] })
        })
    }

    fn slot(&self, port: u16) -> Option<&Slot> {
        self.block(port / WORD_PORTS).map(|block| &block.slots[usize::from(port % WORD_PORTS)])
    }

    fn slot_mut(&mut self, port: u16) -> &mut Slot {
        &mut self.block_mut(port / WORD_PORTS).slots[usize::from(port % WORD_PORTS)]
    }

    /// The slot of a live port; makes no block.
    fn live_slot_mut(&mut self, port: u16) -> Option<&mut Slot> {
        let word = port / WORD_PORTS;
        let group = self.groups[usize::from(word / 32 % 32)].as_deref_mut()?;
        let block = group[usize::from(word % 32)].as_deref_mut()?;
        Some(&mut block.slots[usize::from(port % WORD_PORTS)]).filter(|slot| slot.is_live())
    }
}

const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Block>() == 64 * 16 + 8);
