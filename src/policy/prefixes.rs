//! Longest-prefix match over a fixed set of prefixes.

use std::net::Ipv4Addr;

use crate::flow::{Bits, Family};
use crate::policy::intervals::{Intervals, NOTHING, Span};
use crate::rules::set::Cidr;

/// Prefixes with a value each; of those that hold an address, the longest counts.
#[derive(Clone, Debug)]
pub(super) struct PrefixMap<V, A: Family = Ipv4Addr> {
    intervals: Intervals<A::Bits>,
    span: Span<A::Bits>,
    values: Box<[V]>,
}

impl<V, A: Family> PrefixMap<V, A> {
    /// The map of `entries`; of equal prefixes the first counts.
    pub fn new(entries: impl IntoIterator<Item = (Cidr<A>, V)>) -> Self {
        let mut entries: Vec<(Cidr<A>, V)> = entries.into_iter().collect();
        entries.sort_by_key(|(cidr, _)| *cidr);
        entries.dedup_by_key(|(cidr, _)| *cidr);
        let (cidrs, values): (Vec<Cidr<A>>, Vec<V>) = entries.into_iter().unzip();
        let mut intervals = Intervals::default();
        let span = intervals.push(&nest(&cidrs).intervals);
        intervals.shrink();
        Self { intervals, span, values: values.into() }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline(always)]
    pub fn find(&self, address: A) -> Option<&V> {
        self.values.get(self.intervals.find(self.span, address.number()) as usize)
    }

    /// Every value.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter()
    }
}

impl<V, A: Family> Default for PrefixMap<V, A> {
    fn default() -> Self {
        Self::new([])
    }
}

/// How prefixes lie in each other. Prefixes are named by their place in the list.
#[derive(Clone, Debug)]
pub(super) struct Nesting<B> {
    /// Where each stretch of addresses starts, and the innermost prefix there.
    pub intervals: Vec<(B, u32)>,
    /// The innermost prefix around each prefix.
    pub parents: Vec<u32>,
}

/// The nesting of distinct prefixes in ascending order, the wider of two with the same first
/// address before the narrower.
pub(super) fn nest<A: Family>(prefixes: &[Cidr<A>]) -> Nesting<A::Bits> {
    debug_assert!(prefixes.is_sorted_by(|a, b| a < b));
    let mut nesting = Nesting {
        intervals: vec![(A::Bits::ZERO, NOTHING)],
        parents: Vec::with_capacity(prefixes.len()),
    };
    let mut open: Vec<(A::Bits, u32)> = Vec::new();
    for (place, prefix) in (0..).zip(prefixes) {
        close(&mut open, &mut nesting.intervals, Some(prefix.first().number()));
        nesting.parents.push(innermost(&open));
        begin(&mut nesting.intervals, prefix.first().number(), place);
        open.push((prefix.last().number(), place));
    }
    close(&mut open, &mut nesting.intervals, None);
    nesting
}

/// Ends the open prefixes that end before `next`, or all.
fn close<B: Bits>(open: &mut Vec<(B, u32)>, intervals: &mut Vec<(B, u32)>, next: Option<B>) {
    while let Some(&(last, _)) = open.last() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        if let Some(after) = last.next() {
            begin(intervals, after, innermost(open));
        }
    }
}

fn innermost<B>(open: &[(B, u32)]) -> u32 {
    open.last().map_or(NOTHING, |&(_, place)| place)
}

/// Lets `value` count from `start` on.
fn begin<B: Bits>(intervals: &mut Vec<(B, u32)>, start: B, value: u32) {
    match intervals.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        Some(_) | None => intervals.push((start, value)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn cidrs() -> impl Strategy<Value = Vec<Cidr>> {
        let cidr = (any::<u32>(), 0_u8..=32, any::<bool>()).prop_map(|(bits, length, near)| {
            let bits = if near { 0x0a00_0000 | bits & 0x3ff } else { bits };
            Cidr::containing(Ipv4Addr::from_bits(bits), length)
        });
        prop::collection::vec(cidr, 0..60)
    }

    proptest! {
        #[test]
        fn the_longest_prefix_counts(cidrs in cidrs(), others in prop::collection::vec(any::<u32>(), 9)) {
            let map = PrefixMap::new(cidrs.iter().map(|cidr| (*cidr, *cidr)));
            let edges = cidrs.iter().flat_map(|cidr| {
                let (first, last) = (cidr.first().to_bits(), cidr.last().to_bits());
                [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
            });
            for address in edges.chain(others).map(Ipv4Addr::from_bits) {
                let longest = cidrs
                    .iter()
                    .filter(|cidr| cidr.contains(address))
                    .max_by_key(|cidr| cidr.length());
                prop_assert_eq!(map.find(address), longest);
            }
        }

        #[test]
        fn a_parent_is_the_innermost_prefix_around(cidrs in cidrs()) {
            let mut cidrs = cidrs;
            cidrs.sort();
            cidrs.dedup();
            let nesting = nest(&cidrs);
            for (cidr, parent) in cidrs.iter().zip(nesting.parents) {
                let around = cidrs
                    .iter()
                    .filter(|other| other.contains(cidr.first()) && other.length() < cidr.length())
                    .max_by_key(|other| other.length());
                prop_assert_eq!(cidrs.get(parent as usize), around);
            }
        }
    }

    fn wide() -> impl Strategy<Value = Cidr<Ipv6Addr>> {
        (any::<u128>(), 0_u8..=128, any::<bool>()).prop_map(|(bits, length, near)| {
            let bits = if near { 0x2001_0db8 << 96 | bits & 0x3ff << 60 } else { bits };
            Cidr::containing(Ipv6Addr::from_bits(bits), length)
        })
    }

    proptest! {
        #[test]
        fn the_longest_ipv6_prefix_counts(
            cidrs in prop::collection::vec(wide(), 0..60),
            others in prop::collection::vec(any::<u128>(), 9),
        ) {
            let map = PrefixMap::new(cidrs.iter().map(|cidr| (*cidr, *cidr)));
            let edges = cidrs.iter().flat_map(|cidr| {
                let (first, last) = (cidr.first().to_bits(), cidr.last().to_bits());
                [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
            });
            for address in edges.chain(others).map(Ipv6Addr::from_bits) {
                let longest = cidrs
                    .iter()
                    .filter(|cidr| cidr.contains(address))
                    .max_by_key(|cidr| cidr.length());
                prop_assert_eq!(map.find(address), longest);
            }
        }
    }

    #[test]
    fn the_first_of_equal_prefixes_counts() {
        let map = PrefixMap::<_, Ipv4Addr>::new([(Cidr::ANY, 1), (Cidr::ANY, 2)]);
        assert_eq!(map.find(Ipv4Addr::LOCALHOST), Some(&1));
    }
}
