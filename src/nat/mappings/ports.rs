//! The ports of one public address for one protocol: who has which, and which rest.
//!
//! A port is free, live or resting. Freed ports stand in a list in the order of their freeing and
//! leave it from its oldest end once they have rested.

use super::allowed::{Allowed, Pass, WORD_PORTS, bits_between};
use super::owner::Owner;
use super::slots::{Slot, Slots};
use crate::prefetch::prefetch;
use crate::time::Coarse;

/// Rested ports that become free again with each request, half of them before it is answered and half
/// after; more come only when nothing is free. More than one, so that the list empties; no more, because
/// each one's slot says which is next, and has to come from memory first.
const SETTLE_BURST: u32 = 2;
/// Ports drawn before a search begins.
const DRAWS_MAX: u32 = 4;
/// Candidates a search looks at before it gives up.
const CANDIDATES_MAX: u32 = 32;
/// Rested ports made free at once when nothing else is.
const SETTLE_MORE: u32 = 64;
/// Rounds of searching, with more made free between them.
const ROUNDS_MAX: u32 = 4;
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

/// The ports of one public address for one protocol.
pub(super) struct Ports {
    slots: Slots,
    live: u32,
    resting: u32,
    /// The ends of the list of resting ports; without meaning while there are none.
    oldest: u16,
    newest: u16,
    /// How many random numbers were drawn.
    draws: u64,
    /// One that was drawn and not used yet.
    drawn_before: Option<u64>,
}

impl Ports {
    /// All free.
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::new(),
            live: 0,
            resting: 0,
            oldest: 0,
            newest: 0,
            draws: 0,
            drawn_before: None,
        }
    }

    /// Gives a port to `wish.owner`, with one reference: the one it wants if possible (port
    /// preservation), else one like it (RFC 4787, REQ-3a and REQ-4) from a place that `random`
    /// decides (RFC 6056, section 3.3.1), else any allowed one. `accept` has the last word on each.
    /// `random` makes a number that nobody can foretell of that of a draw.
    pub(super) fn take(
        &mut self,
        wish: &Wish<'_>,
        random: impl Fn(u64) -> u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        self.settle(wish, SETTLE_BURST / 2);
        let port = self
            .preserved(wish, &accept)
            .or_else(|| self.drawn(wish, &random, &accept))
            .or_else(|| self.search(wish, &random, &accept))
            .or_else(|| self.search_resting(wish, &accept))?;
        self.occupy(port, wish.owner);
        self.settle(wish, SETTLE_BURST / 2);
        Some(port)
    }

    /// The number of the next draw.
    pub(super) const fn next_draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        self.draws
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

    /// Who has a port, and with how many references.
    pub(super) fn owner(&self, port: u16) -> Option<(Owner, u32)> {
        let slot = self.slots.at(port).filter(|slot| slot.is_live())?;
        Some((slot.owner(), slot.references()))
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
        self.slots.memory_bytes()
    }

    /// The port the owner has itself, if it may keep it.
    fn preserved(&self, wish: &Wish<'_>, accept: impl Fn(u16) -> bool) -> Option<u16> {
        let port = wish.owner.port();
        let slot = self.slots.at(port);
        if slot.is_some_and(Slot::is_live) || !wish.allowed.contains(port) {
            return None;
        }
        let suits = slot.is_none_or(|slot| {
            let own = slot.owner().guest() == wish.owner.guest();
            // The port freed last is the last to be handed to somebody else.
            wish.suits(slot) && (own || !self.is_newest_resting(port))
        });
        (suits && accept(port)).then_some(port)
    }

    /// A free port of the best kind from a few draws. What a search from a drawn port on would find
    /// instead is the end of a reserved range more often than chance has it. The first number was
    /// drawn after the request before, and the slot that it leads to has come near meanwhile.
    fn drawn(
        &mut self,
        wish: &Wish<'_>,
        random: impl Fn(u64) -> u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let passes = wish.allowed.passes(wish.owner.port());
        let pass = passes.iter().flatten().next()?;
        let mut next = self.drawn_before.take();
        let found = (0..DRAWS_MAX).find_map(|_| {
            let number = next.take().unwrap_or_else(|| random(self.next_draw()));
            let port = pass.drawn(number);
            let is_good = !self.slots.is_busy(port)
                && pass.contains(port)
                && wish.allowed.contains(port)
                && self.slots.at(port).is_none_or(|slot| wish.suits(slot))
                && accept(port);
            is_good.then_some(port)
        });
        self.draw_ahead(pass, random);
        found
    }

    /// Draws for the next request, which is likely to want a port of the same kind.
    fn draw_ahead(&mut self, pass: &Pass, random: impl Fn(u64) -> u64) {
        for _ in 0..DRAWS_MAX {
            let number = random(self.next_draw());
            let port = pass.drawn(number);
            if !self.slots.is_busy(port) {
                self.slots.at(port).map(prefetch);
                self.drawn_before = Some(number);
                return;
            }
        }
    }

    /// A port found by going through the bitmap, with more made free as long as there is none.
    fn search(
        &mut self,
        wish: &Wish<'_>,
        random: impl Fn(u64) -> u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let random = random(self.next_draw());
        for _ in 0..ROUNDS_MAX {
            if let Some(port) = self.search_passes(wish, random, &accept) {
                return Some(port);
            }
            if self.settle(wish, SETTLE_MORE) == 0 {
                return None;
            }
        }
        None
    }

    fn search_passes(
        &mut self,
        wish: &Wish<'_>,
        random: u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let mut search = Search { wish, candidates: CANDIDATES_MAX, accept };
        let passes = wish.allowed.passes(wish.owner.port());
        let mut passes = passes.iter().flatten();
        let best = passes.next()?;
        if let Some(port) = self.search_pass(best, random, &mut search) {
            return Some(port);
        }
        // Before anything worse is given out: some ports may be reserved no more.
        if self.slots.reopen(&wish.allowed)
            && let Some(port) = self.search_pass(best, random, &mut search)
        {
            return Some(port);
        }
        passes.find_map(|pass| self.search_pass(pass, random, &mut search))
    }

    /// A free port of a pass, from a place on that `random` decides.
    fn search_pass(
        &mut self,
        pass: &Pass,
        random: u64,
        search: &mut Search<'_, '_, impl Fn(u16) -> bool>,
    ) -> Option<u16> {
        let start = pass.port(random as u32);
        self.scan(&Pass { first: start, ..*pass }, search).or_else(|| {
            let before = Pass { last: start.checked_sub(1)?, ..*pass };
            self.scan(&before, search)
        })
    }

    /// The first free port of a pass that suits. Reserved ports on the way are closed, so that no
    /// later search comes by them.
    fn scan(
        &mut self,
        pass: &Pass,
        search: &mut Search<'_, '_, impl Fn(u16) -> bool>,
    ) -> Option<u16> {
        let last_word = pass.last / WORD_PORTS;
        let mut from = pass.first / WORD_PORTS;
        while from <= last_word {
            let word = self.slots.next_open(from, pass.parity).filter(|word| *word <= last_word)?;
            let (reserved, next) = search.wish.allowed.reserved_in_word(word);
            self.slots.close(word, reserved);
            let mut free = self.slots.open_word(word)
                & !reserved
                & pass.parity.bits()
                & bits_between(word, pass.first, pass.last);
            while free != 0 {
                search.candidates = search.candidates.checked_sub(1)?;
                let port = word * WORD_PORTS + free.trailing_zeros() as u16;
                if self.slots.at(port).is_none_or(|slot| search.wish.suits(slot))
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
            let slot = self.slots.at(port)?;
            if widest.contains(port)
                && wish.suits(slot)
                && wish.allowed.contains(port)
                && accept(port)
            {
                return Some(port);
            }
            port = slot.newer();
        }
        let newest = self.slots.at(self.newest).filter(|_| self.resting > OWN_RESTING_MAX)?;
        let port = self.newest;
        (widest.contains(port) && wish.suits(newest) && wish.allowed.contains(port) && accept(port))
            .then_some(port)
    }

    /// Makes up to `count` ports that have rested free, oldest first, but never the one freed last.
    /// Returns how many.
    #[inline(always)]
    fn settle(&mut self, wish: &Wish<'_>, count: u32) -> u32 {
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
            // The next request looks at this one first.
            self.slots.at(self.oldest).map(prefetch);
        }
        settled
    }

    /// Gives a port that is not live to `owner`.
    #[inline(always)]
    fn occupy(&mut self, port: u16, owner: Owner) {
        if let Some(rested) = self.slots.occupy(port, Slot::live(owner)) {
            self.remove_resting(port, &rested);
        }
        self.live += 1;
    }

    fn is_newest_resting(&self, port: u16) -> bool {
        self.resting > 0 && self.newest == port
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
