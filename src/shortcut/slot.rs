//! A shortcut as it lies in memory: `struct shortcut` of `src/io/xdp/shortcut.bpf.h`, word by word.
//!
//! | word | what, in memory's order of bytes | written by |
//! |---|---|---|
//! | 0 | epoch (high 32 bits), how often the slot was given away (16 bits), MTU | the dataplane |
//! | 1 | source and destination address, as in the packet | the dataplane |
//! | 2 | ports as in the packet; protocol; exit; how far a TCP segment may be ahead; nothing | the dataplane |
//! | 3 | addresses after translation | the dataplane |
//! | 4, 5 | ports after translation; the link addresses of the frame that leaves | the dataplane |
//! | 6 | packets (high 27 bits) and bytes of IP packets that passed, over all tenants | the program |
//! | 7 | the sequence number behind the last one of TCP's; about large segments; when the last packet passed, in units of 2^24 ns of `CLOCK_MONOTONIC` | both |
//!
//! What the program has no use for lies elsewhere ([`Books`]).

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::flow::{FlowKey, Mac, PortId, Protocol};
use crate::prefetch::prefetch;
use crate::time::Tick;

/// Words of a slot: one cache line, which is all that the program waits for where there are many flows.
pub const WORDS: usize = 8;

/// Whose packets: the words of a flow key but for its realm, which no packet shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key {
    /// Source (high 32 bits) and destination address.
    pub addresses: u64,
    /// Source (high 16 bits) and destination port.
    pub ports: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What is done to the packets of one direction of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Direction {
    /// Which packets.
    pub key: Key,
    /// The link address that their frames are sent to.
    pub station: Mac,
    /// Where they leave.
    pub exit: PortId,
    /// The largest packet that leaves there, in bytes.
    pub mtu: u16,
    /// The addresses and ports that they leave with, the source's in the higher half of each.
    pub leaves_as: (u64, u32),
    /// Destination and source of the frames that leave.
    pub stations: [Mac; 2],
    /// Of TCP, the sequence number behind the last one that was sent.
    pub sequence_next: u32,
    /// And how far ahead of it a segment may end: 65,535 shifted left by so much, at most 14.
    pub window_shift: u8,
}

/// The session whose shortcut it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tenant {
    /// The realm of the flow's key, as [`crate::flow::Realm::as_raw`] gives it.
    pub realm: u16,
    /// Where the entry of the direction stood.
    pub entry: u32,
}

/// What passed by a shortcut since it was last asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Passed {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
}

impl Passed {
    /// As one word counts both.
    const fn pack(self) -> u64 {
        (self.packets << PACKETS_SHIFT).wrapping_add(self.bytes)
    }

    const fn unpack(word: u64) -> Self {
        Self { packets: word >> PACKETS_SHIFT, bytes: word & ((1 << PACKETS_SHIFT) - 1) }
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

impl Tenant {
    const fn pack(self) -> u64 {
        OCCUPIED | (self.realm as u64) << 32 | self.entry as u64
    }

    const fn unpack(word: u64) -> Option<Self> {
        if word & OCCUPIED == 0 {
            return None;
        }
        Some(Self { realm: (word >> 32) as u16, entry: word as u32 })
    }
}

impl Key {
    /// Of the packets of a session's direction.
    #[must_use]
    pub const fn of(key: &FlowKey) -> Self {
        let [addresses, rest] = key.words();
        Self { addresses, ports: (rest >> 32) as u32, protocol: key.protocol }
    }

    /// The words of the flow key in `realm`.
    #[must_use]
    pub const fn in_realm(self, realm: u16) -> [u64; 2] {
        let rest = (self.ports as u64) << 32 | (realm as u64) << 16 | (self.protocol.0 as u64) << 8;
        [self.addresses, rest]
    }

    /// Words 1 and 2 as far as they say whose packets.
    const fn words(self) -> [u64; 2] {
        let [a, b, c, d] = self.ports.to_be_bytes();
        [self.addresses.to_be(), u64::from_ne_bytes([a, b, c, d, self.protocol.0, 0, 0, 0])]
    }

    /// By which the program finds its places: the highest bits name a word of tags.
    pub(super) const fn hash(self, seeds: [u64; 2]) -> u64 {
        let (addresses, ports) = (self.addresses.to_be(), self.ports.to_be() as u64);
        let protocol = self.protocol.0 as u64;
        let hash = (addresses ^ seeds[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = hash ^ hash >> 32;
        (hash ^ ports ^ protocol << 32).wrapping_mul(seeds[1] | 1)
    }
}

/// What the dataplane keeps of a slot for itself.
#[derive(Default)]
pub(super) struct Books {
    /// The tenant, zero if it is vacant.
    tenant: AtomicU64,
    /// Of word 6, what was counted already.
    taken: AtomicU64,
    /// What was taken with the session when that ended.
    settled: AtomicU64,
}

/// A slot. All of it is atomic words, for which every pattern of bits is a value.
#[derive(Clone, Copy)]
pub(super) struct Slot<'t> {
    pub(super) words: &'t [AtomicU64; WORDS],
    pub(super) books: &'t Books,
}

impl Slot<'_> {
    fn load(self, word: usize) -> u64 {
        self.words[word].load(Ordering::Relaxed)
    }

    fn store(self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Relaxed);
    }

    /// Asks for all of it.
    pub(super) fn prefetch(self) {
        prefetch(self.words);
        prefetch(self.books);
    }

    /// Whether it belongs to somebody and is, or was in a former epoch, of `key`.
    pub(super) fn is_of(self, key: Key) -> bool {
        let [addresses, rest] = key.words();
        self.books.tenant.load(Ordering::Acquire) != 0
            && self.load(1) == addresses
            && self.load(2) & KEY_MASK == rest & KEY_MASK
    }

    /// Whether it is true in `epoch`.
    pub(super) fn is_true(self, epoch: u32) -> bool {
        self.load(0) >> 32 == u64::from(epoch)
    }

    /// Moves `tenant` in, if nobody is there.
    pub(super) fn enter(self, tenant: Tenant) -> bool {
        let (is, set) = (0, tenant.pack());
        let entered =
            self.books.tenant.compare_exchange(is, set, Ordering::AcqRel, Ordering::Relaxed);
        entered.is_ok()
    }

    /// Writes what the tenant's shortcut says, and makes it true in `epoch`.
    pub(super) fn fill(self, direction: &Direction, epoch: u32, now: Tick) {
        let count = (self.load(0) >> 16) as u16;
        let state = u64::from(count.wrapping_add(1)) << 16 | u64::from(direction.mtu);
        self.store(0, state);
        fence(Ordering::Release);
        let words = words(direction);
        for (word, value) in (1..).zip(words) {
            self.store(word, value);
        }
        self.store(7, moments(now) << 48 | u64::from(direction.sequence_next));
        // The program never sets its count back, so that one that is still counting spoils nothing.
        self.books.taken.store(self.load(6), Ordering::Relaxed);
        self.words[0].store(u64::from(epoch) << 32 | state, Ordering::Release);
    }

    /// Makes it untrue.
    pub(super) fn end(self) {
        let state = self.load(0);
        // Whoever else ends it, or fills it anew, has done that.
        let ended = state & u64::from(u32::MAX);
        let _ = self.words[0].compare_exchange(state, ended, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Moves the tenant out. False if nobody was there any more.
    pub(super) fn vacate(self) -> bool {
        self.books.tenant.swap(0, Ordering::AcqRel) != 0
    }

    pub(super) fn tenant(self) -> Option<Tenant> {
        Tenant::unpack(self.books.tenant.load(Ordering::Acquire))
    }

    pub(super) fn key(self) -> Key {
        let [a, b, c, d, protocol, ..] = self.load(2).to_ne_bytes();
        Key {
            addresses: u64::from_be(self.load(1)),
            ports: u32::from_be_bytes([a, b, c, d]),
            protocol: Protocol(protocol),
        }
    }

    pub(super) fn exit(self) -> PortId {
        let [.., exit, _, _] = self.load(2).to_ne_bytes();
        PortId(exit)
    }

    /// When the last packet passed: within nine minutes of `around`, for it is known by its low bits.
    pub(super) fn last(self, around: Tick) -> Tick {
        let around = moments(around);
        let behind = (around as u16).wrapping_sub((self.load(7) >> 48) as u16) as i16;
        let moment = around.saturating_add_signed(-i64::from(behind));
        Tick::from_ms((moment << MOMENT_BITS) / NS_PER_MS)
    }

    pub(super) fn sequence_next(self) -> u32 {
        self.load(7) as u32
    }

    /// What passed and was not taken so far; each packet is given to one who asks.
    pub(super) fn take_passed(self) -> Passed {
        let mut count = 0;
        // It is read after what was taken, so it is never less.
        let taken = self.books.taken.update(Ordering::AcqRel, Ordering::Acquire, |_| {
            count = self.load(6);
            count
        });
        Passed::unpack(count.wrapping_sub(taken))
    }

    /// The same for who ends the session; its tenant is told by [`Self::take_settled`]. It is of no key
    /// from now on: what it saw of TCP is not another session's.
    pub(super) fn settle(self) -> Passed {
        self.store(1, 0);
        let passed = self.take_passed();
        self.books.settled.fetch_add(passed.pack(), Ordering::AcqRel);
        passed
    }

    /// What was taken with the session.
    pub(super) fn take_settled(self) -> Passed {
        Passed::unpack(self.books.settled.swap(0, Ordering::AcqRel))
    }
}

/// Words 1 to 5.
fn words(direction: &Direction) -> [u64; 5] {
    let Direction { key, exit, leaves_as: (addresses, ports), window_shift, .. } = direction;
    let [destination, source] = direction.stations.map(|station| station.0);
    let (destination_start, destination_end) = destination.split_at(4);
    let window_shift = window_shift.min(&WINDOW_SHIFT_MAX);
    [
        key.addresses.to_be(),
        word([&key.ports.to_be_bytes(), &[key.protocol.0, exit.0, *window_shift]]),
        addresses.to_be(),
        word([&ports.to_be_bytes(), destination_start]),
        word([destination_end, &source]),
    ]
}

/// Eight bytes as they lie in memory, or as many as there are and zeros.
pub(super) fn word<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let mut bytes = [0; 8];
    let all = parts.into_iter().flatten();
    bytes.iter_mut().zip(all).for_each(|(byte, value)| *byte = *value);
    u64::from_ne_bytes(bytes)
}

/// As word 7 counts time, whole.
const fn moments(tick: Tick) -> u64 {
    tick.as_ms().saturating_mul(NS_PER_MS) >> MOMENT_BITS
}

/// The low bytes of word 2, which say whose packets.
const KEY_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
/// Of a tenant's word: somebody is there.
const OCCUPIED: u64 = 1 << 63;
/// Between two looks at a slot, a few seconds, pass no more than 128 GB and 134 million packets.
const PACKETS_SHIFT: u32 = 37;
pub(super) const NS_PER_MS: u64 = 1_000_000;
const MOMENT_BITS: u32 = 24;
/// RFC 7323, section 2.3.
const WINDOW_SHIFT_MAX: u8 = 14;
