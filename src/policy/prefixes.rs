//! Longest-prefix match over a fixed set of prefixes.

use std::net::Ipv4Addr;

use crate::policy::intervals::{Intervals, NOTHING, Span};
use crate::rules::set::Cidr;

/// Prefixes with a value each; of those that hold an address, the longest counts.
#[derive(Clone, Debug)]
pub(super) struct PrefixMap<V> {
    intervals: Intervals,
    span: Span,
    values: Box<[V]>,
}

impl<V> PrefixMap<V> {
    /// The map of `entries`; of equal prefixes the first counts.
    pub fn new(entries: impl IntoIterator<Item = (Cidr, V)>) -> Self {
        let mut entries: Vec<(Cidr, V)> = entries.into_iter().collect();
        entries.sort_by_key(|(cidr, _)| *cidr);
        entries.dedup_by_key(|(cidr, _)| *cidr);
        let (cidrs, values): (Vec<Cidr>, Vec<V>) = entries.into_iter().unzip();
        let mut intervals = Intervals::default();
        let span = intervals.push(&nest(&cidrs).intervals);
        intervals.shrink();
        Self { intervals, span, values: values.into() }
    }

    /// The value of the longest prefix that holds `address`.
    pub fn find(&self, address: Ipv4Addr) -> Option<&V> {
        self.values.get(self.intervals.find(self.span, address.to_bits()) as usize)
    }
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self::new([])
    }
}

/// How prefixes lie in each other. Prefixes are named by their place in the list.
#[derive(Clone, Debug)]
pub(super) struct Nesting {
    /// Where each stretch of addresses starts, and the innermost prefix there.
    pub intervals: Vec<(u32, u32)>,
    /// The innermost prefix around each prefix.
    pub parents: Vec<u32>,
}

/// The nesting of distinct prefixes in ascending order, the wider of two with the same first
/// address before the narrower.
pub(super) fn nest(prefixes: &[Cidr]) -> Nesting {
    debug_assert!(prefixes.is_sorted_by(|a, b| a < b));
    let mut nesting =
        Nesting { intervals: vec![(0, NOTHING)], parents: Vec::with_capacity(prefixes.len()) };
    let mut open: Vec<(u32, u32)> = Vec::new();
    for (place, prefix) in (0..).zip(prefixes) {
        close(&mut open, &mut nesting.intervals, Some(prefix.first().to_bits()));
        nesting.parents.push(innermost(&open));
        begin(&mut nesting.intervals, prefix.first().to_bits(), place);
        open.push((prefix.last().to_bits(), place));
    }
    close(&mut open, &mut nesting.intervals, None);
    nesting
}

/// Ends the open prefixes that end before `next`, or all.
fn close(open: &mut Vec<(u32, u32)>, intervals: &mut Vec<(u32, u32)>, next: Option<u32>) {
    while let Some(&(last, _)) = open.last() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        if let Some(after) = last.checked_add(1) {
            begin(intervals, after, innermost(open));
        }
    }
}

fn innermost(open: &[(u32, u32)]) -> u32 {
    open.last().map_or(NOTHING, |&(_, place)| place)
}

/// Lets `value` count from `start` on.
fn begin(intervals: &mut Vec<(u32, u32)>, start: u32, value: u32) {
    match intervals.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        Some(_) | None => intervals.push((start, value)),
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_first_of_equal_prefixes_counts() {
        let map = PrefixMap::new([(Cidr::ANY, 1), (Cidr::ANY, 2)]);
        assert_eq!(map.find(Ipv4Addr::LOCALHOST), Some(&1));
    }
}
