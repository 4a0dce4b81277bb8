//! The keyed hash of flow keys.
//!
//! It must be the same in the process that adopts the region, so it is ours and not a library's
//! that may change. It must give nothing away to who chooses keys to collide (hash flooding): the
//! first stage is NH (Black et al., UMAC, 1999), whose 128-bit product of two keyed sums is equal
//! for two given keys with a chance of at most 2^-64 over the secret seed; the second stage
//! multiplies both halves of that product with two more secret words, so that every bit of the
//! result depends on all of it. A sender sees neither the result nor where entries stand.

use crate::flow::FlowKey;
use crate::session::shape::Shape;

/// A keyed hash of a flow key, valid for the table that made it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hash(pub u64);

/// The secret of a table's hash.
#[derive(Clone, Copy, Debug)]
pub struct Hasher {
    seed: [u64; 4],
    /// The secrets of wide keys, drawn from the seed.
    wide: [u64; 6],
}

impl Hasher {
    /// A hasher with the secret `seed`, which should come from the system's random source.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Self {
        let narrow = Self { seed, wide: [0; 6] };
        let mut number = 0;
        let wide = [(); 6].map(|()| {
            number += 1;
            narrow.hash_words([number, !number]).0
        });
        Self { seed, wide }
    }

    /// The hash of a key.
    #[must_use]
    pub fn hash<A: Shape>(&self, key: &FlowKey<A>) -> Hash {
        let (addresses, rest) = (A::pack(key.source.address, key.destination.address), key.rest());
        A::hash_key(self, addresses, rest)
    }

    /// The hash of an IPv6 key: the same two stages, with a sum of three products in the first
    /// (each pair of words has secrets of its own, as NH asks).
    #[must_use]
    pub fn hash_wide(&self, addresses: [u64; 4], rest: u64) -> Hash {
        let [_, _, c, d] = self.seed;
        let pair = |a: u64, b: u64, first: usize| {
            let secret = |place: usize| self.wide.get(place).copied().unwrap_or(0);
            let (a, b) = (a.wrapping_add(secret(first)), b.wrapping_add(secret(first + 1)));
            u128::from(a) * u128::from(b)
        };
        let [source_high, source_low, destination_high, destination_low] = addresses;
        let sum = pair(source_high, source_low, 0)
            .wrapping_add(pair(destination_high, destination_low, 2))
            .wrapping_add(pair(rest, 0, 4));
        let (high, low) = multiply((sum >> 64) as u64 ^ c, sum as u64 ^ d);
        Hash(high ^ low)
    }

    /// The hash of a key given as words.
    #[inline(always)]
    #[must_use]
    pub fn hash_words(&self, [addresses, rest]: [u64; 2]) -> Hash {
        let [a, b, c, d] = self.seed;
        let (high, low) = multiply(addresses.wrapping_add(a), rest.wrapping_add(b));
        let (high, low) = multiply(high ^ c, low ^ d);
        Hash(high ^ low)
    }

    /// A word that is the same for the same hash function and seed: a region keeps it, so that
    /// none is adopted under another function.
    #[must_use]
    pub fn check(&self) -> u64 {
        let Hash(once) = self.hash_words([0x6e61_7477_6572_6b01, 0x7365_7373_696f_6e00]);
        self.hash_words([once, !once]).0
    }
}

impl Hash {
    /// The tag that an index keeps of it: never zero.
    #[inline]
    #[must_use]
    pub const fn tag(self) -> u8 {
        let low = self.0 as u8;
        if low == 0 { 1 } else { low }
    }

    /// Its tag in every byte of a word.
    #[inline]
    #[must_use]
    pub const fn tags(self) -> u64 {
        let low = self.0 & 0xff;
        // One more than zero, and not a choice between two, which takes longer.
        (low + (low == 0) as u64).wrapping_mul(ONES)
    }

    /// A number below `count`, evenly spread. A multiple of `count` gives a multiple of the number,
    /// so that the groups of one shard lie side by side.
    #[inline]
    #[must_use]
    pub const fn below(self, count: u32) -> u32 {
        ((self.0 >> 32).wrapping_mul(count as u64) >> 32) as u32
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

#[inline]
fn multiply(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    ((product >> 64) as u64, product as u64)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::{Endpoint, Protocol, Realm};

    const SEED: [u64; 4] = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];

    /// A family of keys.
    type Pattern = fn(u32) -> FlowKey;

    fn key(source: u32, source_port: u16, destination: u32, destination_port: u16) -> FlowKey {
        FlowKey {
            realm: Realm::External,
            protocol: Protocol::UDP,
            source: Endpoint::new(Ipv4Addr::from_bits(source), source_port),
            destination: Endpoint::new(Ipv4Addr::from_bits(destination), destination_port),
        }
    }

    /// Chi-squared of `keys` over 256 buckets taken from the hash at `bucket`: about 255 when even.
    fn unevenness(keys: &[FlowKey], bucket: impl Fn(Hash) -> usize) -> f64 {
        let hasher = Hasher::new(SEED);
        let mut counts = [0_u32; 256];
        for key in keys {
            counts[bucket(hasher.hash(key))] += 1;
        }
        let expected = keys.len() as f64 / 256.0;
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn patterned_keys_spread_like_random_ones() {
        // The patterns of natprobe's ATK-13, and the plain ones every network has.
        let patterns: [(&str, Pattern); 5] = [
            ("ports", |i| key(0x0a01_0105, i as u16, 0xc633_6409, 443)),
            ("guests", |i| key(0x0a01_0000 + i, 40_000, 0xc633_6409, 443)),
            ("sum", |i| {
                key(
                    0x0a01_0114 + i % 200,
                    (1024 + i) as u16,
                    0xc634_00ff - i % 200,
                    (60_000 - i) as u16,
                )
            }),
            ("xor", |i| {
                key(
                    0x0a01_0140 + i % 64,
                    (2048 + (i ^ 0x155)) as u16,
                    0xc635_0040 + i % 64,
                    (2048 + i) as u16,
                )
            }),
            ("stride", |i| {
                key(
                    0x0a01_0114,
                    (1024 + i * 16) as u16,
                    0xc636_0010 + ((i % 250) << 8),
                    (i * 4096) as u16,
                )
            }),
        ];
        for (name, pattern) in patterns {
            let keys: Vec<_> = (0..51_200).map(pattern).collect();
            for (part, value) in [
                ("group", unevenness(&keys, |hash| hash.below(256) as usize)),
                ("tag", unevenness(&keys, |hash| (hash.0 & 0xff) as usize)),
                ("within", unevenness(&keys, |hash| (hash.below(1 << 20) & 0xff) as usize)),
            ] {
                // 255 degrees of freedom: 400 is six standard deviations out.
                assert!(value < 400.0, "{part} of {name}: {value}");
            }
        }
    }

    #[test]
    fn the_hash_is_the_one_that_regions_were_written_with() {
        // The numbers were computed apart from this code. Changing them means that no region
        // written before can be adopted.
        let hasher = Hasher::new(SEED);
        assert_eq!(hasher.check(), 0xfd91_e027_0cca_3617);
        assert_eq!(hasher.hash(&key(1, 2, 3, 4)), Hash(0x5cff_5098_5dc4_b265));
    }

    #[test]
    fn a_shard_is_a_run_of_groups() {
        for bits in [0, 1 << 63, u64::MAX, 0x1234_5678_9abc_def0] {
            let hash = Hash(bits);
            assert_eq!(hash.below(64 * 37) / 37, hash.below(64));
        }
    }
}
