//! From an internal endpoint to its mappings.
//!
//! Each mapping is named by six bytes, ten of them in a bucket of one cache line, at most four fifths
//! of the room taken: 8 bytes a mapping, all allocated at start. What a name stands for is read from
//! the port's slot, which is the truth. A bucket counts the names that did not fit into it and
//! stand in a later one, so that a search knows where to end and a removal leaves no trace.

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

use super::owner::Owner;
use crate::flow::Protocol;
use crate::prefetch::Lines;

/// Names in a bucket.
const BUCKET_NAMES: usize = 10;
/// Buckets a search looks at.
const PROBES: usize = 64;
/// Parts with a lock each, as a power of two.
const SHARD_BITS_MAX: u32 = 6;
/// Mappings for which another part is worth while.
const SHARD_MAPPINGS_MIN: usize = 1024;

/// A port of a [`super::directory::Space`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PortName {
    /// The number of the space.
    pub(super) space: u16,
    /// The port.
    pub(super) port: u16,
}

/// The index has no room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct IndexFull;

/// Where the mappings of an owner stand.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    shard: usize,
    bucket: usize,
    tag: u16,
}

/// Ten names, each a tag and a port.
#[repr(align(64))]
struct Bucket {
    /// Sixteen bits of each owner's hash; zero for no name. Side by side, so that one comparison after
    /// the other finds one.
    tags: [u16; BUCKET_NAMES],
    ports: [PortName; BUCKET_NAMES],
    /// Names that belong here or before and stand behind.
    overflow: u32,
}

/// The ports whose tag is an owner's, bucket by bucket.
pub(super) struct Candidates<'s> {
    buckets: &'s [Bucket],
    tag: u16,
    /// The bucket it looks at, the names in it that it has yet to name, and how many buckets there may be to
    /// look at.
    at: usize,
    names: Names,
    left: usize,
}

/// A part of the index.
pub(super) struct Shard {
    buckets: Box<[Bucket]>,
}

/// A part and its lock, with a cache line of its own: workers at different ones do not disturb each other.
#[repr(align(64))]
struct Locked(Mutex<Shard>);

/// The whole index.
pub(super) struct Index {
    shards: Box<[Locked]>,
    /// Where the buckets of each shard lie, which never move.
    lines: Box<[Lines]>,
    /// Buckets in each shard.
    buckets: usize,
    hasher: RandomState,
}

impl Index {
    /// Room for `capacity` mappings.
    pub(super) fn new(capacity: usize, hasher: RandomState) -> Self {
        let shards = 1 << (capacity / SHARD_MAPPINGS_MIN).max(1).ilog2().min(SHARD_BITS_MAX);
        let each = capacity.div_ceil(shards);
        let buckets = (each + each / 4).div_ceil(BUCKET_NAMES) + 1;
        let shards: Vec<Shard> = (0..shards).map(|_| Shard::new(buckets)).collect();
        let lines = shards.iter().map(|shard| Lines::of(&shard.buckets)).collect();
        let shards = shards.into_iter().map(|shard| Locked(Mutex::new(shard)));
        Self { shards: shards.collect(), lines, buckets, hasher }
    }

    /// Where the mappings of `owner` stand.
    pub(super) fn place(&self, protocol: Protocol, owner: Owner) -> Place {
        let hash = self.hasher.hash_one((owner, protocol.0));
        Place {
            shard: (hash >> 48) as usize & (self.shards.len() - 1),
            // The product's high half is below the number of buckets.
            bucket: ((u128::from(hash) * self.buckets as u128) >> 64) as usize,
            tag: (hash as u16).max(1),
        }
    }

    /// Asks for the bucket that a search for `place` begins in. Takes no lock.
    pub(super) fn prefetch(&self, place: Place) {
        if let Some(lines) = self.lines.get(place.shard) {
            lines.prefetch(place.bucket);
        }
    }

    /// Locks the shard that `place` is in.
    pub(super) fn lock(&self, place: Place) -> MutexGuard<'_, Shard> {
        self.shards[place.shard].0.lock()
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let buckets = self.buckets * size_of::<Bucket>();
        self.shards.len() * (size_of::<Locked>() + size_of::<Lines>() + buckets)
    }
}

impl Shard {
    fn new(buckets: usize) -> Self {
        Self { buckets: (0..buckets).map(|_| Bucket::EMPTY).collect() }
    }

    /// The ports that may belong to the owner of `place`.
    pub(super) fn candidates(&self, place: Place) -> Candidates<'_> {
        let left = PROBES.min(self.buckets.len());
        let Place { bucket: at, tag, .. } = place;
        let names = self.buckets.get(at).map_or(Names(0), |bucket| bucket.names_of(tag));
        Candidates { buckets: &self.buckets, tag, at, names, left }
    }

    /// Remembers that the owner of `place` has `port`.
    #[inline(always)]
    pub(super) fn insert(&mut self, place: Place, port: PortName) -> Result<(), IndexFull> {
        if self.buckets[place.bucket].add(place.tag, port) {
            return Ok(());
        }
        for (distance, at) in self.probe(place).enumerate() {
            if !self.buckets[at].add(place.tag, port) {
                continue;
            }
            for passed in self.probe(place).take(distance) {
                self.buckets[passed].overflow += 1;
            }
            return Ok(());
        }
        Err(IndexFull)
    }

    /// Forgets that the owner of `place` has `port`, if it was remembered.
    pub(super) fn remove(&mut self, place: Place, port: PortName) {
        let mut distance = 0;
        for at in self.probe(place) {
            let bucket = &mut self.buckets[at];
            let is_it =
                |name: &usize| bucket.tags[*name] == place.tag && bucket.ports[*name] == port;
            if let Some(name) = (0..BUCKET_NAMES).find(is_it) {
                bucket.tags[name] = NO_NAME;
                break;
            }
            if bucket.overflow == 0 {
                return;
            }
            distance += 1;
        }
        // A search that ran to its bound found nothing.
        if distance < PROBES.min(self.buckets.len()) {
            for passed in self.probe(place).take(distance) {
                self.buckets[passed].overflow -= 1;
            }
        }
    }

    /// The buckets that may hold what belongs to `place`, nearest first.
    fn probe(&self, place: Place) -> impl Iterator<Item = usize> + use<> {
        let count = self.buckets.len();
        // There are not more of them than buckets, so none is passed twice.
        (0..PROBES.min(count)).map(move |distance| {
            let at = place.bucket + distance;
            if at < count { at } else { at - count }
        })
    }
}

impl Bucket {
    const EMPTY: Self = Self {
        tags: [NO_NAME; BUCKET_NAMES],
        ports: [PortName { space: 0, port: 0 }; BUCKET_NAMES],
        overflow: 0,
    };

    /// Has a name stand here too, if there is room for one more.
    #[inline(always)]
    fn add(&mut self, tag: u16, port: PortName) -> bool {
        let Some(name) = self.tags.iter().position(|other| *other == NO_NAME) else { return false };
        self.tags[name] = tag;
        self.ports[name] = port;
        true
    }

    /// The names with that tag.
    #[inline(always)]
    fn names_of(&self, tag: u16) -> Names {
        let [a, b, c, d, e, f, g, h, i, j] = self.tags;
        let no = !tag;
        // Of each word the highest bits of the tags that are it; the words' side by side.
        let of = |tags| matching(tags, tag);
        Names(of([a, b, c, d]) >> 15 | of([e, f, g, h]) >> 14 | of([i, j, no, no]) >> 13)
    }
}

/// Names of a bucket, as bits: those of places 0 to 3 are the lowest ones of each sixteen, above them 4 to 7, then
/// the rest.
#[derive(Clone, Copy)]
struct Names(u64);

impl Iterator for Names {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit / 16 + bit % 16 * 4)
    }
}

/// The highest bit of each sixteen that are `tag`, of four compared at once.
#[inline(always)]
fn matching([a, b, c, d]: [u16; 4], tag: u16) -> u64 {
    let word = u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
    let difference = word ^ u64::from(tag).wrapping_mul(LANES);
    // Sixteen bits are zero where the tag is: adding 0x7fff sets the highest bit of all others, and carries
    // into none.
    !((difference & LOW_BITS).wrapping_add(LOW_BITS) | difference | LOW_BITS)
}

const LANES: u64 = 0x0001_0001_0001_0001;
const LOW_BITS: u64 = 0x7fff_7fff_7fff_7fff;

/// The tag where there is no name.
const NO_NAME: u16 = 0;

impl Candidates<'_> {
    /// Whether there are none, as the first bucket tells.
    #[inline(always)]
    pub(super) fn are_none(&self) -> bool {
        self.names.0 == 0 && self.buckets.get(self.at).is_none_or(|bucket| bucket.overflow == 0)
    }
}

impl Iterator for Candidates<'_> {
    type Item = PortName;

    #[inline(always)]
    fn next(&mut self) -> Option<PortName> {
        while self.left > 0 {
            let bucket = self.buckets.get(self.at)?;
            if let Some(name) = self.names.next() {
                return bucket.ports.get(name).copied();
            }
            if bucket.overflow == 0 {
                return None;
            }
            self.left -= 1;
            self.at = if self.at + 1 < self.buckets.len() { self.at + 1 } else { 0 };
            self.names = self.buckets.get(self.at)?.names_of(self.tag);
        }
        None
    }
}

const _: () = assert!(size_of::<Bucket>() == 64);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Endpoint, Realm};

    fn index(capacity: usize) -> Index {
        Index::new(capacity, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn place(index: &Index, number: u32) -> Place {
        let owner = Owner::new(Realm::from_raw(1), Endpoint::new(number.into(), 7));
        index.place(Protocol::UDP, owner)
    }

    fn name(number: u32) -> PortName {
        PortName { space: (number >> 16) as u16, port: number as u16 }
    }

    #[test]
    fn it_holds_as_many_as_it_was_made_for_in_ten_bytes_each() {
        for capacity in [1, 10, 1_000, 100_000] {
            let index = index(capacity);
            for number in 0..capacity as u32 {
                let place = place(&index, number);
                index.lock(place).insert(place, name(number)).expect("room");
            }
            for number in 0..capacity as u32 {
                let place = place(&index, number);
                assert!(index.lock(place).candidates(place).any(|port| port == name(number)));
            }
        }
        assert!(index(1 << 20).memory_bytes() <= 8_400_000);
    }

    #[test]
    fn a_full_index_refuses() {
        let index = index(10);
        let inserted = (0..1000)
            .filter(|number| {
                let place = place(&index, *number);
                index.lock(place).insert(place, name(*number)).is_ok()
            })
            .count();
        assert!((10..100).contains(&inserted), "{inserted}");
    }

    proptest! {
        #[test]
        fn it_knows_what_was_put_in_and_not_taken_out(
            steps in proptest::collection::vec((any::<bool>(), 0u32..60), 0..400),
        ) {
            let index = index(60);
            let mut model = HashSet::new();
            for (inserts, number) in steps {
                let place = place(&index, number);
                let mut shard = index.lock(place);
                if inserts && model.insert(number) {
                    shard.insert(place, name(number)).expect("room");
                } else if !inserts {
                    model.remove(&number);
                    shard.remove(place, name(number));
                }
                let found = shard.candidates(place).filter(|port| *port == name(number)).count();
                prop_assert_eq!(found, usize::from(model.contains(&number)));
            }
            for number in 0..60 {
                let place = place(&index, number);
                let shard = index.lock(place);
                let found = shard.candidates(place).filter(|port| *port == name(number)).count();
                prop_assert_eq!(found, usize::from(model.contains(&number)));
            }
            for number in model {
                let place = place(&index, number);
                index.lock(place).remove(place, name(number));
            }
            let clean = index.shards.iter().all(|shard| {
                shard.0.lock().buckets.iter().all(|bucket| bucket.overflow == 0)
            });
            prop_assert!(clean, "an empty index counts no overflow");
        }
    }
}
