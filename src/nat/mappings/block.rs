//! A block of 1,024 neighbouring ports of one public address for one protocol: who has which, and which
//! rest.
//!
//! A port is free, live or resting. Freed ports stand in a list in the order of their freeing and
//! leave it from its oldest end once they have rested.

use super::allowed::{Allowed, Parity, Pass, WORD_PORTS, bits_between};
use super::owner::Owner;
use super::slots::{BLOCK_WORDS, Slot, Slots};
use crate::prefetch::prefetch;
use crate::time::Coarse;

/// Ports of a block.
pub(super) const BLOCK_PORTS: u16 = BLOCK_WORDS * WORD_PORTS;

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

impl Wish<'_> {
    /// Whether a port that is not live has rested long enough for anybody.
    fn has_rested(&self, slot: &Slot) -> bool {
        // Both times are rounded down to a unit, so one more makes sure.
        slot.freed_units_ago(self.now)
            .is_none_or(|units| self.hold_units == 0 || units > self.hold_units)
    }

    /// Whether `owner` may have it: its own guest may at once (RFC 6888, REQ-8).
    fn suits(&self, slot: &Slot) -> bool {
        self.has_rested(slot) || slot.owner().guest() == self.owner.guest()
    }
}

/// A search under way, over one block after the other.
pub(super) struct Search<'w, 'p, A> {
    /// What for.
    pub(super) wish: &'w Wish<'p>,
    /// Candidates it may still look at.
    pub(super) candidates: u32,
    /// Has the last word on each.
    pub(super) accept: A,
}

/// What a search found in a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scanned {
    /// It looked at as many candidates as it may.
    GaveUp,
    /// Nothing before this word.
    Nothing(u16),
    /// This port, which the owner has now.
    Taken(u16),
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

/// What others want to know of a block before they lock it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Summary {
    /// Whether there are open ports: even and odd ones.
    pub(super) open: [bool; 2],
    /// Whether ports are closed.
    pub(super) closed: bool,
    /// Whether ports rest.
    pub(super) rests: bool,
}

/// 1,024 ports.
///
/// What nearly every request writes or reads stands in front, in the cache line of the lock.
#[repr(C)]
pub(super) struct Block {
    live: u16,
    resting: u16,
    /// The ends of the list of resting ports; without meaning while there are none.
    oldest: u16,
    newest: u16,
    /// The shortest rest after which ports were made free here, so what is not busy has rested as long.
    rested_units: u32,
    /// How many random numbers were drawn.
    draws: u64,
    slots: Slots,
}

impl Block {
    /// All free. `number` counts the blocks from port 0.
    pub(super) const fn new(number: u16) -> Self {
        Self {
            live: 0,
            resting: 0,
            oldest: 0,
            newest: 0,
            rested_units: u32::MAX,
            draws: 0,
            slots: Slots::new(number * BLOCK_WORDS),
        }
    }

    /// Gives `wish.owner` the port that it has itself, with one reference, if it may keep it (port
    /// preservation).
    #[inline(always)]
    pub(super) fn take_own(
        &mut self,
        wish: &Wish<'_>,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        self.settle(wish, SETTLE_BURST / 2);
        let port = wish.owner.port();
        let may_be = wish.allowed.contains(port) && self.may_keep(port, wish) && accept(port);
        may_be.then(|| self.give(port, wish))
    }

    /// Gives `port` to `wish.owner`, if it is free.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        port: u16,
        wish: &Wish<'_>,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        self.settle(wish, SETTLE_BURST / 2);
        let may_be = self.is_free(port, wish) && accept(port);
        may_be.then(|| self.give(port, wish))
    }

    /// The number of the first of so many draws, which nobody else of this block gets.
    pub(super) const fn draw(&mut self, count: u32) -> u64 {
        let first = self.draws;
        self.draws = first.wrapping_add(count as u64);
        first
    }

    /// One more reference for `owner` on its port.
    pub(super) fn join(&mut self, port: u16, owner: Owner) -> bool {
        let slot = self.slots.live_mut(port).filter(|slot| slot.owner() == owner);
        slot.map(Slot::join).is_some()
    }

    /// One more reference on a port, whoever has it.
    pub(super) fn hold(&mut self, port: u16) -> bool {
        self.slots.live_mut(port).map(Slot::join).is_some()
    }

    /// One reference less, unless it is the last.
    pub(super) fn leave_shared(&mut self, port: u16) -> Left {
        match self.slots.live_mut(port) {
            None => Left::Gone,
            Some(slot) => match slot.leave_shared() {
                true => Left::Shared,
                false => Left::Last(slot.owner()),
            },
        }
    }

    /// One reference of `owner` less; the last one frees the port, which then rests. Returns
    /// whether it was the last.
    pub(super) fn leave(&mut self, port: u16, owner: Owner, now: Coarse) -> bool {
        let slot = self.slots.live_mut(port).filter(|slot| slot.owner() == owner);
        let Some(slot) = slot else { return false };
        if slot.leave_shared() {
            return false;
        }
        slot.free(now);
        self.live -= 1;
        self.append_resting(port);
        true
    }

    /// A reference for an adopted session of `owner`.
    pub(super) fn adopt(&mut self, port: u16, owner: Owner) -> Adopted {
        match self.slots.live_mut(port) {
            Some(slot) if slot.owner() == owner => {
                slot.join();
                Adopted::Joined
            }
            Some(_) => Adopted::Refused,
            None => {
                self.occupy(port, owner);
                Adopted::Taken
            }
        }
    }

    /// The first free port of a pass that suits, from the word `from` on, for the owner that wishes. Reserved
    /// ports on the way are closed, so that no later search comes by them.
    pub(super) fn scan(
        &mut self,
        pass: &Pass,
        from: u16,
        search: &mut Search<'_, '_, impl Fn(u16) -> bool>,
    ) -> Scanned {
        let (mut from, end) = (from, self.slots.end());
        let last_word = pass.last / WORD_PORTS;
        while from < end
            && let Some(word) = self.slots.next_open(from, pass.parity)
            && word <= last_word
        {
            let (reserved, next) = search.wish.allowed.reserved_in_word(word);
            self.slots.close(word, reserved);
            let mut free = self.slots.open_word(word)
                & !reserved
                & pass.parity.bits()
                & bits_between(word, pass.first, pass.last);
            while free != 0 {
                let Some(left) = search.candidates.checked_sub(1) else { return Scanned::GaveUp };
                search.candidates = left;
                let port = word * WORD_PORTS + free.trailing_zeros() as u16;
                if self.is_free(port, search.wish) && (search.accept)(port) {
                    return Scanned::Taken(self.give(port, search.wish));
                }
                free &= free - 1;
            }
            from = next;
        }
        // A long reserved range may have led further than the block.
        Scanned::Nothing(from.max(end))
    }

    /// Gives out a resting port for want of a free one: one that the guest itself had, or the one freed last
    /// if it has rested as long as it must (it stays in the list only to be the last choice). Looks through
    /// so many of the others, at most.
    pub(super) fn take_resting(
        &mut self,
        wish: &Wish<'_>,
        looks: &mut u32,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let passes = wish.allowed.passes(wish.owner.port());
        let widest = passes.iter().flatten().last()?;
        let serves = |port, slot: &Slot| {
            widest.contains(port) && wish.suits(slot) && wish.allowed.contains(port) && accept(port)
        };
        let mut port = self.oldest;
        for _ in 1..self.resting {
            let Some(left) = looks.checked_sub(1) else { break };
            *looks = left;
            let slot = self.slots.at(port)?;
            if serves(port, slot) {
                return Some(self.give(port, wish));
            }
            port = slot.newer();
        }
        let newest = self.slots.at(self.newest).filter(|_| self.resting > 0)?;
        serves(self.newest, newest).then(|| self.give(self.newest, wish))
    }

    /// Makes up to `count` ports that have rested free, oldest first, but never the one freed last.
    /// Returns how many.
    #[inline(always)]
    pub(super) fn settle(&mut self, wish: &Wish<'_>, count: u32) -> u32 {
        let mut settled = 0;
        while settled < count && self.resting > 1 {
            let rested = self.slots.set_free_if(self.oldest, |slot| wish.has_rested(slot));
            let Some(slot) = rested else { break };
            // There is a newer one, which is the oldest now; nobody asks it what is older.
            self.oldest = slot.newer();
            self.resting -= 1;
            settled += 1;
        }
        if settled > 0 {
            self.rested_units = self.rested_units.min(wish.hold_units);
            // The next request looks at this one first.
            self.slots.at(self.oldest).map(prefetch);
        }
        settled
    }

    /// When the port was freed that rests longest.
    pub(super) fn oldest_freed(&self) -> Option<Coarse> {
        let oldest = self.slots.at(self.oldest).filter(|_| self.resting > 0)?;
        oldest.freed_at()
    }

    /// Opens ports that are reserved no more. Returns whether there were any.
    pub(super) fn reopen(&mut self, allowed: &Allowed<'_>) -> bool {
        self.slots.reopen(allowed)
    }

    /// Who has a port, and with how many references.
    pub(super) fn owner(&self, port: u16) -> Option<(Owner, u32)> {
        let slot = self.slots.at(port).filter(|slot| slot.is_live())?;
        Some((slot.owner(), slot.references()))
    }

    /// Ports with a mapping.
    pub(super) const fn live(&self) -> u16 {
        self.live
    }

    /// Ports that rest.
    pub(super) const fn resting(&self) -> u16 {
        self.resting
    }

    /// What others want to know.
    #[inline(always)]
    pub(super) const fn summary(&self) -> Summary {
        Summary {
            open: [self.slots.has_open(Parity::Even), self.slots.has_open(Parity::Odd)],
            closed: self.slots.has_closed(),
            rests: self.resting > 0,
        }
    }

    /// Bytes of memory outside of this value.
    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
    }

    /// Whether the owner may have the port that it has itself.
    #[inline(always)]
    fn may_keep(&self, port: u16, wish: &Wish<'_>) -> bool {
        if !self.slots.is_busy(port) {
            return self.is_free(port, wish);
        }
        let resting = self.slots.at(port).filter(|slot| !slot.is_live());
        resting.is_some_and(|slot| {
            let own = slot.owner().guest() == wish.owner.guest();
            // The port freed last is the last to be handed to somebody else.
            wish.suits(slot) && (own || self.newest != port)
        })
    }

    /// Whether a port is neither live nor resting, and the owner may have it. Its slot, which may be far, is
    /// asked only where others are content with a shorter rest.
    #[inline(always)]
    fn is_free(&self, port: u16, wish: &Wish<'_>) -> bool {
        !self.slots.is_busy(port)
            && (wish.hold_units <= self.rested_units
                || self.slots.at(port).is_none_or(|slot| wish.suits(slot)))
    }

    /// Gives a port that is not live to the owner that wishes.
    #[inline(always)]
    fn give(&mut self, port: u16, wish: &Wish<'_>) -> u16 {
        self.occupy(port, wish.owner);
        self.settle(wish, SETTLE_BURST / 2);
        port
    }

    /// Gives a port that is not live to `owner`.
    #[inline(always)]
    fn occupy(&mut self, port: u16, owner: Owner) {
        if let Some(rested) = self.slots.occupy(port, Slot::live(owner)) {
            self.remove_resting(port, &rested);
        }
        self.live += 1;
    }

    fn append_resting(&mut self, port: u16) {
        let previous = self.newest;
        if self.resting == 0 {
            self.oldest = port;
            self.slots.at_mut(port).link(port, port);
        } else {
            let before = self.slots.at_mut(previous);
            before.link(before.older(), port);
            self.slots.at_mut(port).link(previous, port);
        }
        self.newest = port;
        self.resting += 1;
    }

    /// Takes a port, whose slot was `rested`, out of the list of those that rest.
    fn remove_resting(&mut self, port: u16, rested: &Slot) {
        let (older, newer) = (rested.older(), rested.newer());
        let (is_oldest, is_newest) = (self.oldest == port, self.newest == port);
        if !is_oldest {
            let before = self.slots.at_mut(older);
            before.link(before.older(), if is_newest { older } else { newer });
        }
        if !is_newest {
            let after = self.slots.at_mut(newer);
            after.link(if is_oldest { newer } else { older }, after.newer());
        }
        self.oldest = if is_oldest { newer } else { self.oldest };
        self.newest = if is_newest { older } else { self.newest };
        self.resting -= 1;
    }
}

/// Rested ports that become free again with each request, half of them before it is answered and half
/// after; more come only when nothing is free. More than one, so that the list empties; no more, because
/// each one's slot says which is next, and has to come from memory first.
const SETTLE_BURST: u32 = 2;
