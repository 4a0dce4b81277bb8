//! The ports of one public address for one protocol, in blocks with a lock each.
//!
//! Workers that open sessions of one address at once meet only where their ports are of one block; two
//! blocks share no cache line. Who needs several blocks locks one after the other: a search does not see
//! what is freed behind it while it goes on, as if it had come before.
//!
//! Which port is drawn is decided before its block is locked (RFC 6056, section 3.3.1). The numbers of the
//! draws are counted in the block of the port that was asked for, which is locked anyway, so that workers
//! share no count; the block's number is part of the number, so none comes twice.
//!
//! Beside the blocks a summary says where open and resting ports are. It is written, with the block
//! locked, where a block becomes full or is full no more, and spares a search the locks of all full ones.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::allowed::{Allowed, Parity, Pass, WORD_PORTS};
use super::block::{Adopted, BLOCK_PORTS, Block, Left, Scanned, Search, Summary, Wish};
use super::owner::Owner;
use super::slots::BLOCK_WORDS;
use crate::time::Coarse;

/// Blocks of a space. The summary has a bit for each.
pub(super) const BLOCKS: usize = 64;
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
/// What it costs to lock the block of some, in such looks.
const LOOKS_OF_LOCK: u32 = 8;
/// Blocks looked at again for closed ports at a time: all of a range that is not longer than one.
const REOPEN_BLOCKS: usize = 2;

/// A block and its lock, with lines of its own.
#[repr(align(64))]
struct Locked(Mutex<Block>);

/// Where ports are that a search may find, by block.
#[repr(align(64))]
struct Summaries {
    /// Blocks with open ports: even and odd ones.
    open: [AtomicU64; 2],
    /// Blocks with closed ports.
    closed: AtomicU64,
    /// Blocks with resting ports.
    resting: AtomicU64,
    /// No port rests that was freed before this coarse time, as far as is known.
    freed_since: AtomicU32,
    /// Where [`Ports::reopen`] goes on.
    reopened_to: AtomicU16,
}

/// The ports of one public address for one protocol.
pub(super) struct Ports {
    /// Made when a port of theirs is first used, and kept.
    blocks: [OnceLock<Box<Locked>>; BLOCKS],
    summaries: Summaries,
}

impl Ports {
    /// All free.
    pub(super) const fn new() -> Self {
        Self {
            blocks: [const { OnceLock::new() }; BLOCKS],
            summaries: Summaries {
                open: [const { AtomicU64::new(u64::MAX) }; 2],
                closed: AtomicU64::new(0),
                resting: AtomicU64::new(0),
                freed_since: AtomicU32::new(0),
                reopened_to: AtomicU16::new(0),
            },
        }
    }

    /// Gives a port to `wish.owner`, with one reference: the one it wants if possible (port
    /// preservation), else one like it (RFC 4787, REQ-3a and REQ-4) from a place that `random`
    /// decides (RFC 6056, section 3.3.1), else any allowed one. `accept` has the last word on each, and is
    /// asked under a block's lock. `random` makes a number that nobody can foretell of that of a draw.
    #[inline(always)]
    pub(super) fn take(
        &self,
        wish: &Wish<'_>,
        random: impl Fn(u64) -> u64,
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let home = home(&wish.allowed, wish.owner.port());
        let own = self.with_made(home, |block| {
            block.take_own(wish, &accept).ok_or_else(|| block.draw(DRAWS_MAX + 1))
        });
        own.or_else(|draw| {
            let random = |draw| random(number(draw, home));
            self.drawn(wish, (draw, &random), &accept)
                .or_else(|| self.search(wish, random(draw + u64::from(DRAWS_MAX)), &accept))
                .or_else(|| self.take_resting(wish, &accept))
                .ok_or(())
        })
        .ok()
    }

    /// The numbers of so many draws that nobody else gets, for who wants something like `port`.
    pub(super) fn draws(
        &self,
        allowed: &Allowed<'_>,
        port: u16,
        count: u32,
    ) -> impl Iterator<Item = u64> + use<> {
        let home = home(allowed, port);
        let first = self.with_made(home, |block| block.draw(count));
        (first..first + u64::from(count)).map(move |draw| number(draw, home))
    }

    /// One more reference for `owner` on its port.
    pub(super) fn join(&self, port: u16, owner: Owner) -> bool {
        self.look(block_of(port), |block| block.join(port, owner)).unwrap_or(false)
    }

    /// One more reference on a port, whoever has it.
    pub(super) fn hold(&self, port: u16) -> bool {
        self.look(block_of(port), |block| block.hold(port)).unwrap_or(false)
    }

    /// One reference less, unless it is the last.
    pub(super) fn leave_shared(&self, port: u16) -> Left {
        self.look(block_of(port), |block| block.leave_shared(port)).unwrap_or(Left::Gone)
    }

    /// One reference of `owner` less; the last one frees the port, which then rests. Returns
    /// whether it was the last.
    pub(super) fn leave(&self, port: u16, owner: Owner, now: Coarse) -> bool {
        self.with(block_of(port), |block| block.leave(port, owner, now)).unwrap_or(false)
    }

    /// A reference for an adopted session of `owner`.
    pub(super) fn adopt(&self, port: u16, owner: Owner) -> Adopted {
        self.with_made(block_of(port), |block| block.adopt(port, owner))
    }

    /// Who has a port, and with how many references.
    pub(super) fn owner(&self, port: u16) -> Option<(Owner, u32)> {
        self.look(block_of(port), |block| block.owner(port)).flatten()
    }

    /// Every live port of one of the [`BLOCKS`].
    pub(super) fn for_each_in_block(&self, number: u16, mut visit: impl FnMut(u16, Owner, u32)) {
        self.look(number, |block| {
            for port in ports_of(number) {
                if let Some((owner, references)) = block.owner(port) {
                    visit(port, owner, references);
                }
            }
        });
    }

    /// How many ports have a mapping, and how many rest. Exact when nobody takes or frees any meanwhile.
    pub(super) fn usage(&self) -> (u32, u32) {
        self.made().fold((0, 0), |(live, resting), block| {
            let block = block.0.lock();
            (live + u32::from(block.live()), resting + u32::from(block.resting()))
        })
    }

    /// Bytes of memory outside of this value.
    pub(super) fn memory_bytes(&self) -> usize {
        self.made().map(|block| size_of::<Locked>() + block.0.lock().memory_bytes()).sum()
    }

    /// A free port of the best kind from a few draws. What a search from a drawn port on would find
    /// instead is the end of a reserved range more often than chance has it.
    fn drawn(
        &self,
        wish: &Wish<'_>,
        (first, random): (u64, impl Fn(u64) -> u64),
        accept: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let passes = wish.allowed.passes(wish.owner.port());
        let pass = passes.iter().flatten().next()?;
        (first..first + u64::from(DRAWS_MAX)).find_map(|draw| {
            let port = pass.drawn(random(draw));
            let may_be = self.has_open(block_of(port), pass.parity)
                && pass.contains(port)
                && wish.allowed.contains(port);
            may_be
                .then(|| self.with_made(block_of(port), |block| block.take(port, wish, &accept)))?
        })
    }

    /// A port found by going through the bitmaps, with more made free as long as there is none.
    #[inline(never)]
    fn search(&self, wish: &Wish<'_>, random: u64, accept: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in 0..ROUNDS_MAX {
            if let Some(port) = self.search_passes(wish, random, &accept) {
                return Some(port);
            }
            if !self.may_have_rested(wish) || self.settle(wish, random) == 0 {
                return None;
            }
        }
        None
    }

    fn search_passes(
        &self,
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
        if self.reopen(&wish.allowed)
            && let Some(port) = self.search_pass(best, random, &mut search)
        {
            return Some(port);
        }
        passes.find_map(|pass| self.search_pass(pass, random, &mut search))
    }

    /// A free port of a pass, from a place on that `random` decides.
    fn search_pass(
        &self,
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

    /// The first free port of a pass that suits.
    fn scan(&self, pass: &Pass, search: &mut Search<'_, '_, impl Fn(u16) -> bool>) -> Option<u16> {
        let (mut from, last_word) = (pass.first / WORD_PORTS, pass.last / WORD_PORTS);
        while from <= last_word {
            let block = self.next_open(from / BLOCK_WORDS, pass.parity)?;
            from = from.max(block * BLOCK_WORDS);
            if from > last_word {
                return None;
            }
            // A block is not made for ports that are all reserved: that would cost memory.
            if self.blocks[usize::from(block)].get().is_none() {
                let (reserved, next) = search.wish.allowed.reserved_in_word(from);
                if reserved == u64::MAX {
                    from = next;
                    continue;
                }
            }
            match self.with_made(block, |block| block.scan(pass, from, search)) {
                Scanned::Taken(port) => return Some(port),
                Scanned::Nothing(next) => from = next,
                Scanned::GaveUp => return None,
            }
        }
        None
    }

    /// Makes some ports that have rested free, from a block on that `random` decides. Returns how many.
    fn settle(&self, wish: &Wish<'_>, random: u64) -> u32 {
        let (mut settled, mut since) = (0, wish.now);
        let blocks = self.resting_in(&wish.allowed);
        let all = blocks == self.summaries.resting.load(Ordering::Relaxed);
        for block in from(blocks, random) {
            if settled == SETTLE_MORE {
                break;
            }
            let seen = self.with(block, |block| {
                (block.settle(wish, SETTLE_MORE - settled), block.oldest_freed())
            });
            let Some((more, oldest)) = seen else { continue };
            settled += more;
            since = oldest.map_or(since, |oldest| oldest.min(since));
        }
        if settled == 0 && all {
            self.summaries.freed_since.store(since.as_raw(), Ordering::Relaxed);
        }
        settled
    }

    /// Whether any resting port may have rested as long as it must. What is freed from now on has not, so a
    /// full address is not looked through again and again. (What a worker freed whose clock was behind by a
    /// batch may rest so much longer.)
    fn may_have_rested(&self, wish: &Wish<'_>) -> bool {
        let since = Coarse::from_raw(self.summaries.freed_since.load(Ordering::Relaxed));
        wish.hold_units == 0 || wish.now.since(since) > wish.hold_units
    }

    /// A resting port for want of a free one. Where none has rested, only the guest's own may be found, and
    /// they are not looked for everywhere.
    #[inline(never)]
    fn take_resting(&self, wish: &Wish<'_>, accept: impl Fn(u16) -> bool) -> Option<u16> {
        let everywhere = self.may_have_rested(wish);
        let mut looks = OWN_RESTING_MAX;
        for block in from(self.resting_in(&wish.allowed), wish.owner.port().into()) {
            if looks == 0 && !everywhere {
                return None;
            }
            let taken = self.with(block, |block| block.take_resting(wish, &mut looks, &accept));
            if let Some(port) = taken.flatten() {
                return Some(port);
            }
            looks = looks.saturating_sub(LOOKS_OF_LOCK);
        }
        None
    }

    /// Opens ports that are reserved no more, in a few blocks of the pool's range. Returns whether
    /// there were any.
    fn reopen(&self, allowed: &Allowed<'_>) -> bool {
        let (first, last) = blocks_of(allowed);
        let mut has_opened = false;
        let closed = self.summaries.closed.load(Ordering::Relaxed) & mask(first, last);
        if closed == 0 {
            return false;
        }
        // Two workers that look at the same blocks do no harm.
        let next = self.summaries.reopened_to.load(Ordering::Relaxed);
        for block in from(closed, next.into()).take(REOPEN_BLOCKS) {
            self.summaries.reopened_to.store((block + 1) % BLOCKS as u16, Ordering::Relaxed);
            has_opened |= self.with(block, |block| block.reopen(allowed)).unwrap_or(false);
        }
        has_opened
    }

    /// The first block from `from` on with an open port of that parity.
    fn next_open(&self, from: u16, parity: Parity) -> Option<u16> {
        let blocks = self.open_blocks(parity) & u64::MAX << from;
        (blocks != 0).then(|| blocks.trailing_zeros() as u16)
    }

    fn has_open(&self, block: u16, parity: Parity) -> bool {
        self.open_blocks(parity) >> block & 1 == 1
    }

    fn open_blocks(&self, parity: Parity) -> u64 {
        let [even, odd] = &self.summaries.open;
        match parity {
            Parity::Any => even.load(Ordering::Relaxed) | odd.load(Ordering::Relaxed),
            Parity::Even => even.load(Ordering::Relaxed),
            Parity::Odd => odd.load(Ordering::Relaxed),
        }
    }

    /// The blocks of a pool's range with resting ports, as bits.
    fn resting_in(&self, allowed: &Allowed<'_>) -> u64 {
        let (first, last) = blocks_of(allowed);
        self.summaries.resting.load(Ordering::Relaxed) & mask(first, last)
    }

    /// Does something with a block that makes no port live, resting or free, if the block was ever used.
    #[inline(always)]
    fn look<T>(&self, number: u16, act: impl FnOnce(&mut Block) -> T) -> Option<T> {
        self.blocks[usize::from(number)].get().map(|locked| act(&mut locked.0.lock()))
    }

    /// Does something with a block, if it was ever used.
    #[inline(always)]
    fn with<T>(&self, number: u16, act: impl FnOnce(&mut Block) -> T) -> Option<T> {
        let locked = self.blocks[usize::from(number)].get()?;
        Some(self.act(number, locked, act))
    }

    /// Does something with a block.
    #[inline(always)]
    fn with_made<T>(&self, number: u16, act: impl FnOnce(&mut Block) -> T) -> T {
        let locked = self.blocks[usize::from(number)]
            .get_or_init(|| Box::new(Locked(Mutex::new(Block::new(number)))));
        self.act(number, locked, act)
    }

    #[inline(always)]
    fn act<T>(&self, number: u16, locked: &Locked, act: impl FnOnce(&mut Block) -> T) -> T {
        let mut block = locked.0.lock();
        let before = block.summary();
        let done = act(&mut block);
        let now = block.summary();
        if now != before {
            self.summarize(number, now);
        }
        done
    }

    /// Notes what there is in a block, which is locked.
    #[cold]
    fn summarize(&self, number: u16, summary: Summary) {
        let Summaries { open: [even, odd], closed, resting, .. } = &self.summaries;
        let Summary { open: [has_even, has_odd], closed: has_closed, rests } = summary;
        let all = [(even, has_even), (odd, has_odd), (closed, has_closed), (resting, rests)];
        for (blocks, has) in all {
            let bit = 1_u64 << number;
            if has {
                blocks.fetch_or(bit, Ordering::Relaxed);
            } else {
                blocks.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    fn made(&self) -> impl Iterator<Item = &Locked> {
        self.blocks.iter().filter_map(OnceLock::get).map(Box::as_ref)
    }
}

/// The block that is asked first: that of the port that the owner has itself. Where it may not have that,
/// one of the pool's range, so that none is made that will not be used.
#[inline(always)]
fn home(allowed: &Allowed<'_>, port: u16) -> u16 {
    let (first, last) = blocks_of(allowed);
    let own = block_of(port);
    if first <= own && own <= last { own } else { first + own % (last - first + 1) }
}

/// The number of a draw among those of all blocks.
const fn number(draw: u64, home: u16) -> u64 {
    draw << BLOCKS.ilog2() | home as u64
}

/// The first and the last block with a port of the range.
const fn blocks_of(allowed: &Allowed<'_>) -> (u16, u16) {
    let (first, last) = allowed.words();
    (first / BLOCK_WORDS, last / BLOCK_WORDS)
}

/// Which block a port is in.
const fn block_of(port: u16) -> u16 {
    port / BLOCK_PORTS
}

/// The blocks from `first` to `last`, as bits.
const fn mask(first: u16, last: u16) -> u64 {
    u64::MAX << first & u64::MAX >> (63 - last)
}

/// The numbers of these blocks, from the one on that `random` decides.
fn from(blocks: u64, random: u64) -> impl Iterator<Item = u16> {
    let start = (random % 64) as u32;
    let mut left = blocks.rotate_right(start);
    std::iter::from_fn(move || {
        let next = (left != 0).then(|| left.trailing_zeros())?;
        left &= left - 1;
        Some(((next + start) % 64) as u16)
    })
}

fn ports_of(block: u16) -> std::ops::RangeInclusive<u16> {
    block * BLOCK_PORTS..=block * BLOCK_PORTS + (BLOCK_PORTS - 1)
}

const _: () = assert!(BLOCKS * BLOCK_PORTS as usize == 1 << 16);
const _: () = assert!(BLOCKS == u64::BITS as usize);
const _: () = assert!(size_of::<Locked>() == 448 && size_of::<Ports>() == 1088, "as documented");

#[cfg(test)]
mod tests;
