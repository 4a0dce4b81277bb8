//! Entries that can never match, because earlier ones match everything they would.
//!
//! A piece of an entry is one prefix, one protocol and one span of what the entry selects by (ports,
//! or ICMP type and code). A piece is covered when an earlier entry has a piece with a prefix
//! around its prefix, the same protocol or all, and a span around its span. For each prefix and
//! protocol the spans that no other span covers are kept in order, so a question costs one look per
//! prefix length in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::flow::{Family, Protocol};
use crate::rules::set::{Cidr, Match, PortRange};

/// Spans of which none is inside another: first number to last number and the entry.
type Spans = BTreeMap<u32, (u32, usize)>;

/// The entries so far.
pub(super) struct Shadow<A: Family> {
    spans: HashMap<(Cidr<A>, Option<Protocol>), Spans, ahash::RandomState>,
    /// Which prefix lengths occur.
    lengths: BTreeSet<u8>,
}

impl<A: Family> Default for Shadow<A> {
    fn default() -> Self {
        Self { spans: HashMap::default(), lengths: BTreeSet::new() }
    }
}

impl<A: Family> Shadow<A> {
    /// Adds the entry `index`; returns the earlier entries that cover all of it, if they do: one for
    /// each of its prefixes.
    pub(super) fn add(
        &mut self,
        index: usize,
        matches: &Match,
        cidrs: &[Cidr<A>],
    ) -> Option<Vec<usize>> {
        let covering = self.covering_all(matches, cidrs);
        let any = [Cidr::ANY];
        for &cidr in if cidrs.is_empty() { &any } else { cidrs } {
            self.insert((cidr, matches.protocol), span(matches), index);
        }
        covering
    }

    /// The entries so far that cover all of another, if they do: one for each of its prefixes. If it
    /// `covers` others itself, it is added.
    pub(super) fn ask(
        &mut self,
        index: usize,
        matches: &Match,
        cidrs: &[Cidr<A>],
        covers: bool,
    ) -> Option<Vec<usize>> {
        match covers {
            true => self.add(index, matches, cidrs),
            false => self.covering_all(matches, cidrs),
        }
    }

    fn covering_all(&self, matches: &Match, cidrs: &[Cidr<A>]) -> Option<Vec<usize>> {
        let covering = |&cidr: &Cidr<A>| self.covering(cidr, matches.protocol, span(matches));
        let any = [Cidr::ANY];
        let cidrs = if cidrs.is_empty() { &any } else { cidrs };
        cidrs.iter().map(covering).collect()
    }

    fn covering(
        &self,
        cidr: Cidr<A>,
        protocol: Option<Protocol>,
        span: (u32, u32),
    ) -> Option<usize> {
        let protocols = [protocol, None];
        // For "all", both are the same question.
        let protocols = if protocol.is_none() { &protocols[1..] } else { &protocols[..] };
        self.lengths.range(..=cidr.length()).find_map(|&length| {
            let wider = Cidr::containing(cidr.first(), length);
            protocols.iter().find_map(|&protocol| {
                // "All" has one span, everything.
                let spans = self.spans.get(&(wider, protocol))?;
                let (_, &(last, index)) = spans.range(..=span.0).next_back()?;
                (last >= span.1).then_some(index)
            })
        })
    }

    fn insert(
        &mut self,
        key: (Cidr<A>, Option<Protocol>),
        (first, last): (u32, u32),
        index: usize,
    ) {
        self.lengths.insert(key.0.length());
        let spans = self.spans.entry(key).or_default();
        let covered = spans.range(..=first).next_back().is_some_and(|(_, &(end, _))| end >= last);
        if covered {
            return;
        }
        // What the new span covers need not be asked again.
        while let Some((&start, _)) =
            spans.range(first..).next().filter(|&(_, &(end, _))| end <= last)
        {
            spans.remove(&start);
        }
        spans.insert(first, (last, index));
    }
}

/// What `matches` selects by beside the protocol, as a span of numbers.
fn span(matches: &Match) -> (u32, u32) {
    const EVERYTHING: (u32, u32) = (0, 0xffff);
    match (matches.protocol, matches.icmp_type, matches.icmp_code) {
        (Some(Protocol::ICMP | Protocol::ICMPV6), Some(kind), code) => {
            let kind = u32::from(kind) << 8;
            code.map_or((kind, kind | 0xff), |code| {
                (kind | u32::from(code), kind | u32::from(code))
            })
        }
        (Some(Protocol::ICMP | Protocol::ICMPV6), None, _) | (None, _, _) => EVERYTHING,
        (Some(_), _, _) => matches.ports.map_or(EVERYTHING, |ports: PortRange| {
            (u32::from(ports.first()), u32::from(ports.last()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn matches() -> impl Strategy<Value = Match> {
        let protocol =
            prop_oneof![Just(None), Just(Some(Protocol::TCP)), Just(Some(Protocol::ICMP))];
        (protocol, 1_u16..6, 0_u16..4, any::<bool>(), 0_u8..3, 0_u8..3).prop_map(
            |(protocol, first, more, all, kind, code)| Match {
                protocol,
                ports: (protocol == Some(Protocol::TCP) && !all)
                    .then(|| PortRange::new(first, first + more).unwrap()),
                icmp_type: (protocol == Some(Protocol::ICMP) && kind > 0).then_some(kind),
                icmp_code: (protocol == Some(Protocol::ICMP) && kind > 0 && code > 0)
                    .then_some(code),
            },
        )
    }

    fn cidrs() -> impl Strategy<Value = Vec<Cidr>> {
        let cidr = (0_u32..16, 28_u8..=32)
            .prop_map(|(low, length)| Cidr::containing(Ipv4Addr::from_bits(low), length));
        prop::collection::vec(cidr, 0..3)
    }

    /// One entry covers one prefix of another, said plainly.
    fn covers(earlier: &(Match, Vec<Cidr>), matches: &Match, cidr: Cidr) -> bool {
        let (by, cidrs) = earlier;
        let wide = cidrs.is_empty()
            || cidrs.iter().any(|c| c.contains(cidr.first()) && c.contains(cidr.last()));
        let protocol = by.protocol.is_none() || by.protocol == matches.protocol;
        let ports = match (by.ports, matches.ports) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(by), Some(of)) => by.first() <= of.first() && of.last() <= by.last(),
        };
        let kind = by.icmp_type.is_none() || by.icmp_type == matches.icmp_type;
        let code = by.icmp_code.is_none() || by.icmp_code == matches.icmp_code;
        wide && (by.protocol.is_none() || ports && kind && code) && protocol
    }

    proptest! {
        #[test]
        fn an_entry_is_shadowed_exactly_when_comparing_all_pairs_says_so(
            entries in prop::collection::vec((matches(), cidrs()), 1..30),
        ) {
            let mut shadow = Shadow::<Ipv4Addr>::default();
            for (index, (matches, cidrs)) in entries.iter().enumerate() {
                let found = shadow.add(index, matches, cidrs);
                let pieces = if cidrs.is_empty() { vec![Cidr::ANY] } else { cidrs.clone() };
                let expected = pieces.iter().all(|&cidr| {
                    entries[..index].iter().any(|earlier| covers(earlier, matches, cidr))
                });
                prop_assert_eq!(found.is_some(), expected);
                for (&by, &cidr) in found.iter().flatten().zip(&pieces) {
                    prop_assert!(by < index && covers(&entries[by], matches, cidr));
                }
            }
        }
    }
}
