//! Interval maps: the one search behind every table of a policy.
//!
//! A list of intervals covers all keys (32 bits, or the 128 of IPv6) without a gap, the first one from zero: each is its
//! start and a value, and lasts until the next start. Many lists share one [`Intervals`], so that a
//! filter of ten thousand prefixes is three allocations and not ten thousand.
//!
//! A search asks an index by the key's upper bits where to begin, then halves a window as wide as
//! the fullest bucket of the list needs: the number of steps does not depend on the key, so that
//! none is mispredicted. The index covers only the stretch in which starts lie, so prefixes close
//! together, as in 10.0.0.0/8, fare no worse; the worst lists are searched as if there were no
//! index. (Blocks of sixteen starts compared at once, as in a B-tree, were measured: no faster
//! than halving.)

use crate::flow::Bits;

/// The value of an interval that belongs to nothing.
pub(super) const NOTHING: u32 = u32::MAX;

/// Interval lists in one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals<K = u32> {
    starts: Vec<K>,
    values: Vec<u32>,
    /// By bucket, the place in `starts` at which to begin.
    index: Vec<u32>,
}

/// One list among [`Intervals`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<K = u32> {
    /// How many starts a search looks at.
    window: u32,
    /// The key with which the first bucket begins.
    base: K,
    /// How many keys a bucket has, as a power of two.
    shift: u32,
    /// The place of the first bucket in the index.
    first_bucket: u32,
    /// How many buckets come after the first.
    more_buckets: u32,
}

impl<K: Bits> Intervals<K> {
    /// Adds a list: starts ascend from zero, each with the value of its interval.
    pub fn push(&mut self, list: &[(K, u32)]) -> Span<K> {
        debug_assert!(list.first().is_some_and(|&(start, _)| start == K::ZERO));
        debug_assert!(list.is_sorted_by(|a, b| a.0 < b.0));
        let first = as_number(self.starts.len());
        self.starts.extend(list.iter().map(|&(start, _)| start));
        self.values.extend(list.iter().map(|&(_, value)| value));

        let Buckets { base, shift, more } = Buckets::of(list);
        let last_up_to =
            |key: K| as_number(list.partition_point(|&(start, _)| start <= key).saturating_sub(1));
        // The first and the last interval that a key of the bucket can be in.
        let reach = |bucket: u32| {
            let edge = |bucket: u32| base.plus(K::placed(bucket, shift));
            let begins = if bucket == 0 { 0 } else { last_up_to(edge(bucket)) };
            let ends = if bucket == more { K::MAX } else { edge(bucket + 1).before() };
            (begins, last_up_to(ends))
        };
        let window = (0..=more).map(reach).map(|(begins, ends)| ends - begins + 1).max();
        let window = window.unwrap_or(0);
        let latest = as_number(list.len()).saturating_sub(window);
        let first_bucket = as_number(self.index.len());
        self.index.extend((0..=more).map(reach).map(|(begins, _)| first + begins.min(latest)));
        Span { window, base, shift, first_bucket, more_buckets: more }
    }

    /// Gives back what growing took too much.
    pub fn shrink(&mut self) {
        self.starts.shrink_to_fit();
        self.values.shrink_to_fit();
        self.index.shrink_to_fit();
    }

    /// The value of the interval that `key` is in.
    #[inline]
    pub fn find(&self, span: Span<K>, key: K) -> u32 {
        let bucket = key.above(span.base).shifted(span.shift).min(span.more_buckets);
        let bucket = span.first_bucket.wrapping_add(bucket) as usize;
        let Some(&begin) = self.index.get(bucket) else { return NOTHING };
        // The first start of a window is never above a key of its bucket, so one is always found.
        let (mut place, mut width) = (begin as usize, span.window as usize);
        while width > 1 {
            let half = width / 2;
            let middle = place.wrapping_add(half);
            let is_below = self.starts.get(middle).is_some_and(|start| *start <= key);
            place = if is_below { middle } else { place };
            width = width.wrapping_sub(half);
        }
        self.values.get(place).copied().unwrap_or(NOTHING)
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        let numbers = self.values.capacity() + self.index.capacity();
        self.starts.capacity() * size_of::<K>() + numbers * size_of::<u32>()
    }
}

/// How the keys of a list are divided for its index.
struct Buckets<K> {
    base: K,
    shift: u32,
    more: u32,
}

impl<K: Bits> Buckets<K> {
    /// About as many buckets as intervals; a short list is one bucket.
    fn of(list: &[(K, u32)]) -> Self {
        let one = Self { base: K::ZERO, shift: 0, more: 0 };
        if list.len() <= PLAIN_MAX {
            return one;
        }
        // Zero is where every list begins; the others say where its keys lie.
        let starts = (list.get(1), list.last());
        let (Some(&(base, _)), Some(&(last, _))) = starts else { return one };
        let stretch = last.above(base);
        let few = |shift: &u32| stretch.shifted(*shift) < as_number(list.len());
        let shift = (0..u32::from(K::COUNT)).find(few);
        shift.map_or(one, |shift| Self { base, shift, more: stretch.shifted(shift) })
    }
}

pub(super) fn as_number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NOTHING)
}

/// The longest list that is searched without an index.
const PLAIN_MAX: usize = 16;

/// The intervals that `pieces` cut the keys into: each piece is its first and last key and a value,
/// and where pieces overlap the earlier one shows.
pub(super) fn paint(pieces: &[(u32, u32, u32)]) -> Vec<(u32, u32)> {
    let mut starts = Vec::with_capacity(pieces.len() * 2 + 1);
    starts.push(0);
    for &(first, last, _) in pieces {
        starts.push(first);
        starts.extend(last.checked_add(1));
    }
    starts.sort_unstable();
    starts.dedup();
    let mut values = vec![NOTHING; starts.len()];
    // `bare[i]` leads to the first interval from `i` on that nothing has painted.
    let mut bare: Vec<usize> = (0..=starts.len()).collect();
    for &(first, last, value) in pieces {
        let mut place = first_bare(&mut bare, starts.partition_point(|&start| start < first));
        while starts.get(place).is_some_and(|&start| start <= last) {
            values[place] = value;
            bare[place] = place + 1;
            place = first_bare(&mut bare, place);
        }
    }
    let mut painted: Vec<(u32, u32)> = starts.into_iter().zip(values).collect();
    painted.dedup_by_key(|&mut (_, value)| value);
    painted
}

/// The end of the chain from `place`, shortening it on the way.
fn first_bare(bare: &mut [usize], mut place: usize) -> usize {
    while bare[place] != place {
        bare[place] = bare[bare[place]];
        place = bare[place];
    }
    place
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces crowded at both ends and strewn between, most of them narrow.
    fn pieces() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        let edge = prop_oneof![0_u32..300, u32::MAX - 50..=u32::MAX, any::<u32>()];
        let width = prop_oneof![20 => 0_u32..4, 1 => any::<u32>()];
        prop::collection::vec((edge, width), 0..120).prop_map(|edges| {
            let piece = |(value, (first, width)): (u32, (u32, u32))| {
                (first, first.saturating_add(width), value)
            };
            (0_u32..).zip(edges).map(piece).collect()
        })
    }

    proptest! {
        #[test]
        fn the_earliest_piece_shows(pieces in pieces(), keys in prop::collection::vec(any::<u32>(), 20)) {
            let mut intervals = Intervals::default();
            intervals.push(&[(0, 7)]);
            let span = intervals.push(&paint(&pieces));
            let edges = pieces.iter().flat_map(|&(first, last, _)| {
                [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
            });
            for key in edges.chain(keys).chain([0, u32::MAX]) {
                let shown = pieces.iter().find(|piece| piece.0 <= key && key <= piece.1);
                prop_assert_eq!(intervals.find(span, key), shown.map_or(NOTHING, |piece| piece.2));
            }
        }
    }

    #[test]
    fn an_unknown_span_holds_nothing() {
        let span = Intervals::<u32>::default().push(&[(0, 1)]);
        assert_eq!(Intervals::<u32>::default().find(span, 5), NOTHING);
    }

    #[test]
    fn starts_close_together_far_from_zero_are_told_apart() {
        let list: Vec<(u32, u32)> = [(0, 0)]
            .into_iter()
            .chain((1..500).map(|place| (0x0a00_0000 + place, place)))
            .collect();
        let mut intervals = Intervals::default();
        let span = intervals.push(&list);
        assert!(span.window <= 4, "{span:?}");
        for &(start, value) in &list {
            assert_eq!(intervals.find(span, start), value);
        }
        assert_eq!(intervals.find(span, u32::MAX), 499);
        assert_eq!(intervals.find(span, 5), 0);
    }
}
