//! A shortcut as it lies in memory: `struct shortcut` of `src/io/xdp/shortcut.bpf.h`, word by word.
//!
//! | word | what, in memory's order of bytes | written by |
//! |---|---|---|
//! | 0 | epoch (high 32 bits), how often the slot was given away | the dataplane |
//! | 1 | source and destination address, as in the packet | the dataplane |
//! | 2 | ports as in the packet; protocol; exit; MTU | the dataplane |
//! | 3 | the interface's link address; what a change adds to the IPv4 header's checksum | the dataplane |
//! | 4 | addresses after translation | the dataplane |
//! | 5 | ports after translation; what a change adds to the transport checksum; nothing | the dataplane |
//! | 6, 7 | the link addresses of the frame that leaves; how far a TCP segment may be ahead | the dataplane |
//! | 8, 9 | packets and bytes of IP packets that passed, over all tenants | the program |
//! | 10 | when the last one did, in nanoseconds of `CLOCK_MONOTONIC` | both |
//! | 11 | the sequence number behind the last one of TCP's; about large segments (high 32 bits) | both |
//! | 12, 13 | of words 8 and 9, what was counted already | the dataplane |
//! | 14 | the tenant, zero if it is vacant | the dataplane |
//! | 15 | packets (high 28 bits) and bytes that were taken with the session when that ended | the dataplane |

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::flow::{FlowKey, Mac, PortId, Protocol};
use crate::prefetch::prefetch;
use crate::time::Tick;

/// Words of a slot: two cache lines, the first of which the program only reads.
pub const WORDS: usize = 16;

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
    /// And how far ahead of it a segment may end.
    pub window: u32,
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

/// A slot. All of it is atomic words, for which every pattern of bits is a value.
#[derive(Clone, Copy)]
pub(super) struct Slot<'t>(pub(super) &'t [AtomicU64; WORDS]);

impl Slot<'_> {
    fn load(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    fn store(self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    /// Asks for both of its lines.
    pub(super) fn prefetch(self) {
        prefetch(&self.0[0]);
        prefetch(&self.0[8]);
    }

    /// Whether it belongs to somebody and is, or was in a former epoch, of `key`.
    pub(super) fn is_of(self, key: Key) -> bool {
        let [addresses, rest] = key.words();
        self.0[14].load(Ordering::Acquire) != 0
            && self.load(1) == addresses
            && self.load(2) & KEY_MASK == rest & KEY_MASK
    }

    /// Whether it is true in `epoch`.
    pub(super) fn is_true(self, epoch: u32) -> bool {
        self.load(0) >> 32 == u64::from(epoch)
    }

    /// Moves `tenant` in, if nobody is there.
    pub(super) fn enter(self, tenant: Tenant) -> bool {
        let entered =
            self.0[14].compare_exchange(0, tenant.pack(), Ordering::AcqRel, Ordering::Relaxed);
        entered.is_ok()
    }

    /// Writes what the tenant's shortcut says, and makes it true in `epoch`.
    pub(super) fn fill(self, direction: &Direction, epoch: u32, now: Tick) {
        let count = self.load(0) as u32;
        self.store(0, u64::from(count));
        fence(Ordering::Release);
        let words = words(direction);
        for (word, value) in (1..).zip(words) {
            self.store(word, value);
        }
        self.store(10, now.as_ms().saturating_mul(NS_PER_MS));
        self.store(11, direction.sequence_next.into());
        // The program never sets its counts back, so that one that is still counting spoils nothing.
        self.store(12, self.load(8));
        self.store(13, self.load(9));
        let state = u64::from(epoch) << 32 | u64::from(count.wrapping_add(1));
        self.0[0].store(state, Ordering::Release);
    }

    /// Makes it untrue.
    pub(super) fn end(self) {
        let state = self.load(0);
        // Whoever else ends it, or fills it anew, has done that.
        let ended = state & u64::from(u32::MAX);
        let _ = self.0[0].compare_exchange(state, ended, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Moves the tenant out. False if nobody was there any more.
    pub(super) fn vacate(self) -> bool {
        self.0[14].swap(0, Ordering::AcqRel) != 0
    }

    pub(super) fn tenant(self) -> Option<Tenant> {
        Tenant::unpack(self.0[14].load(Ordering::Acquire))
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

    pub(super) fn last(self) -> Tick {
        Tick::from_ms(self.load(10) / NS_PER_MS)
    }

    pub(super) fn sequence_next(self) -> u32 {
        self.load(11) as u32
    }

    /// What passed and was not taken so far; each packet is given to one who asks.
    pub(super) fn take_passed(self) -> Passed {
        let take = |counted: usize, taken: usize| {
            let count = self.load(counted);
            count.saturating_sub(self.0[taken].fetch_max(count, Ordering::AcqRel))
        };
        Passed { packets: take(8, 12), bytes: take(9, 13) }
    }

    /// The same for who ends the session; its tenant is told by [`Self::take_settled`]. It is of no key
    /// from now on: what it saw of TCP is not another session's.
    pub(super) fn settle(self) -> Passed {
        self.store(1, 0);
        let passed = self.take_passed();
        let word = passed.packets << SETTLED_BITS | passed.bytes & SETTLED_BYTES;
        self.0[15].fetch_add(word, Ordering::AcqRel);
        passed
    }

    /// What was taken with the session.
    pub(super) fn take_settled(self) -> Passed {
        let word = self.0[15].swap(0, Ordering::AcqRel);
        Passed { packets: word >> SETTLED_BITS, bytes: word & SETTLED_BYTES }
    }
}

/// Words 1 to 7.
fn words(direction: &Direction) -> [u64; 7] {
    let Direction { key, station, exit, mtu, leaves_as: (addresses, ports), .. } = direction;
    let (old, new) = (key.addresses.to_be_bytes(), addresses.to_be_bytes());
    let (old_ports, new_ports) = (key.ports.to_be_bytes(), ports.to_be_bytes());
    let translation = change(&old, &new);
    let header_change = plus(translation, TTL_CHANGE);
    let transport_change = plus(translation, change(&old_ports, &new_ports));
    let [destination, source] = direction.stations.map(|station| station.0);
    let (source_start, source_end) = source.split_at(2);
    [
        word([&old]),
        word([&old_ports, &[key.protocol.0, exit.0], &mtu.to_ne_bytes()]),
        word([&station.0, &header_change.to_ne_bytes()]),
        word([&new]),
        word([&new_ports, &transport_change.to_ne_bytes(), &[0, 0]]),
        word([&destination, source_start]),
        word([source_end, &direction.window.to_ne_bytes()]),
    ]
}

/// Eight bytes as they lie in memory, or as many as there are and zeros.
fn word<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let mut bytes = [0; 8];
    let all = parts.into_iter().flatten();
    bytes.iter_mut().zip(all).for_each(|(byte, value)| *byte = *value);
    u64::from_ne_bytes(bytes)
}

/// What it adds to a checksum's complement that `old` becomes `new` (RFC 1624), in memory's order of
/// bytes, in which a sum says the same (RFC 1071, section 2).
fn change(old: &[u8], new: &[u8]) -> u16 {
    let word = |pair: &[u8]| pair.try_into().map_or(0, u16::from_ne_bytes);
    let added = old.chunks(2).map(|pair| !word(pair)).chain(new.chunks(2).map(word));
    added.fold(0, plus)
}

/// The one's complement sum.
const fn plus(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u16)
}

/// The low bytes of word 2, which say whose packets.
const KEY_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
/// Of word 14: somebody is there.
const OCCUPIED: u64 = 1 << 63;
/// Of a few seconds: 64 GB.
const SETTLED_BITS: u32 = 36;
const SETTLED_BYTES: u64 = (1 << SETTLED_BITS) - 1;
pub(super) const NS_PER_MS: u64 = 1_000_000;
/// One hop less to live.
const TTL_CHANGE: u16 = 0xfeff_u16.to_be();
