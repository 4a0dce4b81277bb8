//! How the addresses of a session lie in an entry, by family.
//!
//! An IPv4 entry is a cache line with the addresses before and after translation. An IPv6 session is
//! never translated, so its entry has the longer addresses once; two lines, of which a lookup that
//! meets the wrong entry reads only the first. All other words are the same (see
//! [`crate::session::entry`]).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::{Family, FlowKey};
use crate::rewrite::Rewrite;
use crate::session::fuse::step;
use crate::session::hash::{Hash, Hasher};
use crate::wire::checksum::ChecksumDelta;

/// A family that sessions are remembered of.
pub trait Shape: Family {
    /// The words of an entry.
    type Words: AsRef<[AtomicU64]> + Default + std::fmt::Debug + Send + Sync;
    /// Source and destination of a key.
    type Addresses: Copy + Eq + std::fmt::Debug;
    /// Source and destination after translation, as far as they differ.
    type Translated: Copy + Eq + std::fmt::Debug;
    /// What the fast path does to a packet's addresses and ports.
    type Rewrite: Copy + std::fmt::Debug;
    /// What tells regions of this family apart from others; part of the format.
    const FORMAT: &'static [u8];

    /// Source and destination, packed.
    fn pack(source: Self, destination: Self) -> Self::Addresses;

    /// What [`Self::pack`] packed.
    fn unpack(addresses: Self::Addresses) -> (Self, Self);

    /// The same with source and destination in each other's place.
    fn reversed(addresses: Self::Addresses) -> Self::Addresses;

    /// Whether the entry's key has these addresses.
    fn has(words: &Self::Words, addresses: Self::Addresses) -> bool;

    /// The addresses of the entry's key.
    fn load(words: &Self::Words) -> Self::Addresses;

    /// Writes the addresses of the entry's key.
    fn store(words: &Self::Words, addresses: Self::Addresses);

    /// What is kept of the addresses after translation.
    fn translated(after: Self::Addresses) -> Self::Translated;

    /// The addresses after translation.
    fn after(before: Self::Addresses, translated: Self::Translated) -> Self::Addresses;

    /// The entry's addresses after translation.
    fn load_translated(words: &Self::Words) -> Self::Translated;

    /// Writes the entry's addresses after translation.
    fn store_translated(words: &Self::Words, translated: Self::Translated);

    /// What to do to a packet; `ports` has them after translation, as the highest bits.
    fn rewrite(before: Self::Addresses, translated: Self::Translated, ports: u64) -> Self::Rewrite;

    /// The hash of a key.
    fn hash_key(hasher: &Hasher, addresses: Self::Addresses, rest: u64) -> Hash;
}

/// A key as entries store and compare it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackedKey<A: Shape = Ipv4Addr> {
    pub(super) addresses: A::Addresses,
    pub(super) rest: u64,
}

impl PackedKey {
    /// The key that [`FlowKey::words`] gives as words.
    #[inline]
    #[must_use]
    pub const fn from_words([addresses, rest]: [u64; 2]) -> Self {
        Self { addresses, rest }
    }
}

impl<A: Shape> PackedKey<A> {
    /// The key, packed.
    #[must_use]
    pub fn new(key: &FlowKey<A>) -> Self {
        Self { addresses: A::pack(key.source.address, key.destination.address), rest: key.rest() }
    }

    /// The hash of the key.
    #[inline]
    #[must_use]
    pub fn hash(&self, hasher: &Hasher) -> Hash {
        A::hash_key(hasher, self.addresses, self.rest)
    }

    /// The same flow seen from the other end, in the same realm: see [`FlowKey::reversed`].
    pub(super) fn reversed(&self) -> Self {
        let ports = ((self.rest >> 32) as u32).rotate_left(16);
        Self {
            addresses: A::reversed(self.addresses),
            rest: u64::from(ports) << 32 | self.rest & 0xffff_ffff,
        }
    }

    pub(super) fn unpacked(&self) -> FlowKey<A> {
        let (source, destination) = A::unpack(self.addresses);
        FlowKey::from_rest(source, destination, self.rest)
    }
}

/// The word of IPv4's addresses, and of those after translation.
const IPV4_WORDS: [usize; 2] = [0, 2];

impl Shape for Ipv4Addr {
    type Words = [AtomicU64; 8];
    type Addresses = u64;
    type Translated = u64;
    type Rewrite = Rewrite;
    const FORMAT: &'static [u8] = b"";

    #[inline]
    fn pack(source: Self, destination: Self) -> u64 {
        u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits())
    }

    fn unpack(addresses: u64) -> (Self, Self) {
        (Self::from_bits((addresses >> 32) as u32), Self::from_bits(addresses as u32))
    }

    fn reversed(addresses: u64) -> u64 {
        addresses.rotate_left(32)
    }

    #[inline]
    fn has(words: &Self::Words, addresses: u64) -> bool {
        words[IPV4_WORDS[0]].load(Ordering::Relaxed) == addresses
    }

    #[inline]
    fn load(words: &Self::Words) -> u64 {
        words[IPV4_WORDS[0]].load(Ordering::Relaxed)
    }

    fn store(words: &Self::Words, addresses: u64) {
        step();
        words[IPV4_WORDS[0]].store(addresses, Ordering::Relaxed);
    }

    fn translated(after: u64) -> u64 {
        after
    }

    fn after(_before: u64, translated: u64) -> u64 {
        translated
    }

    #[inline]
    fn load_translated(words: &Self::Words) -> u64 {
        words[IPV4_WORDS[1]].load(Ordering::Relaxed)
    }

    fn store_translated(words: &Self::Words, translated: u64) {
        step();
        words[IPV4_WORDS[1]].store(translated, Ordering::Relaxed);
    }

    #[inline]
    fn rewrite(before: u64, translated: u64, ports: u64) -> Rewrite {
        ipv4_rewrite(before, translated, ports)
    }

    #[inline]
    fn hash_key(hasher: &Hasher, addresses: u64, rest: u64) -> Hash {
        hasher.hash_words([addresses, rest])
    }
}

/// The words of IPv6's addresses: the source's upper half and the destination's lower one, by which
/// keys differ most, stand in the first line.
const IPV6_WORDS: [usize; 4] = [0, 8, 9, 2];

impl Shape for Ipv6Addr {
    type Words = [AtomicU64; 16];
    type Addresses = [u64; 4];
    type Translated = ();
    type Rewrite = ();
    const FORMAT: &'static [u8] = b"ipv6: words 16, addresses 0,8,9,2";

    fn pack(source: Self, destination: Self) -> [u64; 4] {
        let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
        let ([a, b], [c, d]) = (halves(source.to_bits()), halves(destination.to_bits()));
        [a, b, c, d]
    }

    fn unpack([a, b, c, d]: [u64; 4]) -> (Self, Self) {
        let whole = |high, low| Self::from_bits(u128::from(high) << 64 | u128::from(low));
        (whole(a, b), whole(c, d))
    }

    fn reversed([a, b, c, d]: [u64; 4]) -> [u64; 4] {
        [c, d, a, b]
    }

    fn has(words: &Self::Words, addresses: [u64; 4]) -> bool {
        let same = |(&word, own): (&usize, u64)| words[word].load(Ordering::Relaxed) == own;
        IPV6_WORDS.iter().zip(addresses).all(same)
    }

    fn load(words: &Self::Words) -> [u64; 4] {
        IPV6_WORDS.map(|word| words[word].load(Ordering::Relaxed))
    }

    fn store(words: &Self::Words, addresses: [u64; 4]) {
        for (word, half) in IPV6_WORDS.into_iter().zip(addresses) {
            step();
            words[word].store(half, Ordering::Relaxed);
        }
    }

    fn translated(_after: [u64; 4]) {}

    fn after(before: [u64; 4], _translated: ()) -> [u64; 4] {
        before
    }

    fn load_translated(_words: &Self::Words) {}

    fn store_translated(_words: &Self::Words, _translated: ()) {}

    fn rewrite(_before: [u64; 4], _translated: (), _ports: u64) {}

    fn hash_key(hasher: &Hasher, addresses: [u64; 4], rest: u64) -> Hash {
        hasher.hash_wide(addresses, rest)
    }
}

/// What an IPv4 session does to a packet with the addresses `before`.
#[inline]
fn ipv4_rewrite(before: u64, after: u64, ports: u64) -> Rewrite {
    let FlowKey { source, destination, .. } = FlowKey::from_words([after, ports]);
    // The change of addresses follows from two words at hand in fewer clocks than a third place in
    // a full line is worth.
    let address_delta = address_delta(before, after);
    Rewrite { source, destination, address_delta }
}

/// What the change from one pair of addresses to another adds to a checksum (RFC 1624, eqn. 3):
/// `ChecksumDelta::between` of their four words each, summed all at once.
#[inline]
fn address_delta(old: u64, new: u64) -> ChecksumDelta {
    let (sum, carry) = (!old).overflowing_add(new);
    let mut sum = (sum >> 32) + (sum & 0xffff_ffff) + u64::from(carry);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    ChecksumDelta::from_raw(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Endpoint, Protocol, Realm};

    fn key<A: Family>(
        bits: [A::Bits; 2],
        ports: [u16; 2],
        (realm, protocol): (u16, u8),
    ) -> FlowKey<A> {
        let [source, destination] = bits.map(A::from_number);
        FlowKey {
            realm: Realm::from_raw(realm),
            protocol: Protocol(protocol),
            source: Endpoint::new(source, ports[0]),
            destination: Endpoint::new(destination, ports[1]),
        }
    }

    proptest! {
        #[test]
        fn a_packed_key_is_reversed_as_the_key_is(
            narrow: [u32; 2],
            wide: [u128; 2],
            ports: [u16; 2],
            rest: (u16, u8),
        ) {
            let narrow = key::<Ipv4Addr>(narrow, ports, rest);
            prop_assert_eq!(PackedKey::new(&narrow).reversed().unpacked(), narrow.reversed());
            let wide = key::<Ipv6Addr>(wide, ports, rest);
            prop_assert_eq!(PackedKey::new(&wide).reversed().unpacked(), wide.reversed());
        }
    }
}
