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
pub(super) struct Place {
    shard: usize,
    bucket: usize,
    tag: u16,
}

#[derive(Clone, Copy)]
struct Name {
    /// Sixteen bits of the owner's hash; zero for no name.
    tag: u16,
    port: PortName,
}

#[repr(align(64))]
struct Bucket {
    names: [Name; BUCKET_NAMES],
    /// Names that belong here or before and stand behind.
    overflow: u32,
}

/// A part of the index.
pub(super) struct Shard {
    buckets: Box<[Bucket]>,
}

/// The whole index.
pub(super) struct Index {
    shards: Box<[Mutex<Shard>]>,
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
        let shard = || Mutex::new(Shard::new(buckets));
        Self { shards: (0..shards).map(|_| shard()).collect(), buckets, hasher }
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

    /// Locks the shard that `place` is in.
    pub(super) fn lock(&self, place: Place) -> MutexGuard<'_, Shard> {
        self.shards[place.shard].lock()
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let shard = size_of::<Mutex<Shard>>() + self.buckets * size_of::<Bucket>();
        self.shards.len() * shard
    }
}

impl Shard {
    fn new(buckets: usize) -> Self {
        let bucket = || Bucket { names: [Name::NONE; BUCKET_NAMES], overflow: 0 };
        Self { buckets: (0..buckets).map(|_| bucket()).collect() }
    }

    /// The ports that may belong to the owner of `place`.
    pub(super) fn candidates(&self, place: Place) -> impl Iterator<Item = PortName> {
        let mut is_last = false;
        self.probe(place)
            .map_while(move |at| {
                let bucket = &self.buckets[at];
                let before = std::mem::replace(&mut is_last, bucket.overflow == 0);
                (!before).then_some(bucket)
            })
            .flat_map(move |bucket| bucket.names.iter().filter(move |name| name.tag == place.tag))
            .map(|name| name.port)
    }

    /// Remembers that the owner of `place` has `port`.
    pub(super) fn insert(&mut self, place: Place, port: PortName) -> Result<(), IndexFull> {
        let (distance, at) = self
            .probe(place)
            .enumerate()
            .find(|(_, at)| self.buckets[*at].names.iter().any(Name::is_none))
            .ok_or(IndexFull)?;
        for passed in self.probe(place).take(distance) {
            self.buckets[passed].overflow += 1;
        }
        if let Some(name) = self.buckets[at].names.iter_mut().find(|name| name.is_none()) {
            *name = Name { tag: place.tag, port };
        }
        Ok(())
    }

    /// Forgets that the owner of `place` has `port`, if it was remembered.
    pub(super) fn remove(&mut self, place: Place, port: PortName) {
        let is_it = |name: &Name| name.tag == place.tag && name.port == port;
        let mut distance = 0;
        for at in self.probe(place) {
            let bucket = &mut self.buckets[at];
            if let Some(name) = bucket.names.iter_mut().find(|name| is_it(name)) {
                *name = Name::NONE;
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
        (0..PROBES.min(count)).map(move |distance| (place.bucket + distance) % count)
    }
}

impl Name {
    const NONE: Self = Self { tag: 0, port: PortName { space: 0, port: 0 } };

    const fn is_none(&self) -> bool {
        self.tag == 0
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
                shard.lock().buckets.iter().all(|bucket| bucket.overflow == 0)
            });
            prop_assert!(clean, "an empty index counts no overflow");
        }
    }
}
