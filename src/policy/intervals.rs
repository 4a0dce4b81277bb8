//! Interval maps: the one search behind every table of a policy.
//!
//! A list of intervals covers all 32-bit keys without a gap, the first one from zero: each is its
//! start and a value, and lasts until the next start. Many lists share one [`Intervals`], so that a
//! filter of ten thousand prefixes is three allocations and not ten thousand.
//!
//! Starts lie in blocks of sixteen, a cache line each, with the first start of every block again
//! in blocks above them: a search reads one line a level, compares sixteen starts at once and
//! takes no branch that depends on the key.

/// The value of an interval that belongs to nothing.
pub(super) const NOTHING: u32 = u32::MAX;

/// Interval lists in one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals {
    starts: Vec<u32>,
    values: Vec<u32>,
}

/// One list among [`Intervals`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    offset: u32,
    length: u32,
}

impl Intervals {
    /// Adds a list: starts ascend from zero, each with the value of its interval.
    pub fn push(&mut self, list: &[(u32, u32)]) -> Span {
        debug_assert!(list.first().is_some_and(|&(start, _)| start == 0));
        debug_assert!(list.is_sorted_by(|a, b| a.0 < b.0));
        let span = Span {
            offset: u32::try_from(self.starts.len()).unwrap_or(u32::MAX),
            length: u32::try_from(list.len()).unwrap_or(u32::MAX),
        };
        self.starts.extend(list.iter().map(|&(start, _)| start));
        self.values.extend(list.iter().map(|&(_, value)| value));
        span
    }

    /// Gives back what growing took too much.
    pub fn shrink(&mut self) {
        self.starts.shrink_to_fit();
        self.values.shrink_to_fit();
    }

    /// The value of the interval that `key` is in.
    pub fn find(&self, span: Span, key: u32) -> u32 {
        let (first, length) = (span.offset as usize, span.length as usize);
        let Some(starts) = self.starts.get(first..first + length) else { return NOTHING };
        let below = starts.partition_point(|&start| start <= key);
        self.values.get(first + below.saturating_sub(1)).copied().unwrap_or(NOTHING)
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        (self.starts.capacity() + self.values.capacity()) * size_of::<u32>()
    }
}

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

    fn pieces() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        let edge = prop_oneof![0_u32..200, u32::MAX - 5..=u32::MAX, any::<u32>()];
        prop::collection::vec((edge.clone(), edge), 0..80).prop_map(|edges| {
            (0_u32..).zip(edges).map(|(value, (a, b))| (a.min(b), a.max(b), value)).collect()
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
        assert_eq!(Intervals::default().find(Span::default(), 5), NOTHING);
    }
}
