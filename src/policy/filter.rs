//! Filters: ordered rules compiled so that the first match is found without a scan.
//!
//! A rule is a set of boxes in three dimensions: destination prefixes, source prefixes, and
//! services. A service is a 24-bit number, the protocol above the port (or above ICMP type and
//! code), so that protocol, port range and ICMP message are one interval.
//!
//! Boxes that differ in their destinations are sorted by them into a level: a tree of prefixes, in
//! which one search finds the innermost prefix around an address and links lead outward from
//! there. Each prefix holds the boxes written for just it, which are sorted by source in the same
//! way, and then by service. Wherever only a few boxes are left they are compared, four at a time;
//! where only services differ, a map leads from each to the first rule that takes it. Each prefix
//! knows the earliest rule in and around it, so the walk outward ends as soon as nothing earlier
//! can come. Boxes for all addresses stand beside the tree, because every probe needs them.
//!
//! Each box is stored once, or with the few around it at a prefix whose boxes all fit into one
//! comparison, so memory grows with the number of boxes however they overlap. (Bit vectors, the
//! usual answer, grow with its square: 25 MB for 10,000 rules, and three misses for a look-up.)
//! Measured with `cargo bench --bench acl`, one decision after the other at random.

mod block;
mod build;
mod service;

use std::net::Ipv4Addr;

use crate::flow::{Family, Protocol, RuleId};
use crate::policy::intervals::{Intervals, NOTHING, Span};
use crate::rules::set::{Action, Cidr, Match};
use block::{Block, LANES, Point};
use build::{Builder, Dimension, pieces};
use service::service;

/// What a filter looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe<A: Family = Ipv4Addr> {
    /// The protocol.
    pub protocol: Protocol,
    /// The source address.
    pub source: A,
    /// The destination address.
    pub destination: A,
    /// The destination port; ignored for protocols without ports.
    pub port: u16,
    /// ICMP type and code; ignored for other protocols.
    pub icmp: (u8, u8),
}

/// What a filter decided, and which rule did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decided {
    /// What to do.
    pub action: Action,
    /// Whose rule it was: of a default, the number of the network's or address's default, or
    /// [`RuleId::DEFAULT`] where it has none.
    pub rule: RuleId,
}

/// A rule for a filter.
#[derive(Clone, Copy, Debug)]
pub struct FilterRule<'a, A: Family = Ipv4Addr> {
    /// What it decides.
    pub decided: Decided,
    /// The transport part. Ports match only protocols with ports (ICMP has none here), an ICMP
    /// type or code matches only ICMP.
    pub matches: Match,
    /// Sources; empty means all.
    pub sources: &'a [Cidr<A>],
    /// Destinations; empty means all.
    pub destinations: &'a [Cidr<A>],
}

/// Ordered rules with a default behind them.
#[derive(Clone, Debug)]
pub struct Filter<A: Family = Ipv4Addr> {
    /// What each rule decides, and behind them the default.
    decisions: Box<[Decided]>,
    root: Part,
    levels: Box<[Level<A::Bits>]>,
    nodes: Box<[Node]>,
    blocks: Box<[Block<A::Bits>]>,
    services: Box<[Span]>,
    addresses: Intervals<A::Bits>,
    intervals: Intervals,
}

/// Some of the rules.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// None.
    Empty,
    /// Rules that differ in their destinations: the number of the level.
    Destinations(u32),
    /// Few rules, compared one block after the other.
    Scan { first: u32, count: u32 },
    /// Rules that differ in nothing but services: the number of the map from each service to the
    /// first rule that takes it.
    Services(u32),
    /// Rules that differ in their sources: the number of the level.
    Sources(u32),
}

/// Rules sorted by prefix.
#[derive(Clone, Copy, Debug)]
struct Level<B> {
    /// The rules for all addresses. They stand apart because every probe needs them, whatever the
    /// search finds.
    all: Part,
    /// The innermost node of each stretch of addresses.
    innermost: Span<B>,
}

/// A prefix of a level.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The rules at this prefix.
    part: Part,
    /// The node of the prefix around this one whose rules are not among `part`.
    around: u32,
    /// The earliest rule at this prefix and those around it.
    first: u32,
}

impl Node {
    const EMPTY: Self = Self { part: Part::Empty, around: NOTHING, first: NOTHING };
}

impl<A: Family> Filter<A> {
    /// The filter of `rules` in their order, with `default` behind them.
    #[must_use]
    pub fn new(rules: &[FilterRule<'_, A>], default: Decided) -> Self {
        let mut builder = Builder::<A>::default();
        let root = builder.part(&pieces(rules), Dimension::Destination);
        builder.addresses.shrink();
        builder.intervals.shrink();
        Self {
            decisions: rules.iter().map(|rule| rule.decided).chain([default]).collect(),
            root,
            levels: builder.levels.into(),
            nodes: builder.nodes.into(),
            blocks: builder.blocks.into(),
            services: builder.services.into(),
            addresses: builder.addresses,
            intervals: builder.intervals,
        }
    }

    /// The first match, or the default.
    #[inline(always)]
    #[must_use]
    pub fn decide(&self, probe: &Probe<A>) -> Decided {
        let point = Point {
            destination: probe.destination.number(),
            source: probe.source.number(),
            service: service(probe),
        };
        let earliest = self.earliest(self.root, &point, NOTHING) as usize;
        self.decisions[earliest.min(self.decisions.len() - 1)]
    }

    /// The first rule of `part` that takes `point`, unless one before `bound` is known.
    fn earliest(&self, part: Part, point: &Point<A::Bits>, bound: u32) -> u32 {
        match part {
            Part::Empty => bound,
            Part::Destinations(level) => self.walk(level, point.destination, point, bound),
            Part::Scan { first, count } => {
                let blocks = self.blocks.get(first as usize..(first + count) as usize);
                let mut earliest = [bound; LANES];
                for block in blocks.unwrap_or_default() {
                    block.lower(point, &mut earliest);
                }
                earliest.into_iter().fold(bound, u32::min)
            }
            Part::Services(map) => match self.services.get(map as usize) {
                None => bound,
                Some(&span) => self.intervals.find(span, point.service).min(bound),
            },
            Part::Sources(level) => self.walk(level, point.source, point, bound),
        }
    }

    /// The first rule of a level: of those for all, and of the nodes from the innermost outward.
    fn walk(&self, level: u32, address: A::Bits, point: &Point<A::Bits>, bound: u32) -> u32 {
        let Some(level) = self.levels.get(level as usize) else { return bound };
        let mut earliest = self.earliest(level.all, point, bound);
        let mut place = self.addresses.find(level.innermost, address);
        while let Some(node) = self.nodes.get(place as usize).filter(|node| node.first < earliest) {
            earliest = self.earliest(node.part, point, earliest);
            place = node.around;
        }
        earliest
    }

    /// What happens to what no rule matches.
    #[must_use]
    pub fn default_decision(&self) -> Decided {
        self.decisions[self.decisions.len() - 1]
    }

    /// How many rules.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.decisions.len() - 1
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.decisions)
            + size_of_val(&*self.levels)
            + size_of_val(&*self.nodes)
            + size_of_val(&*self.blocks)
            + size_of_val(&*self.services)
            + self.addresses.bytes()
            + self.intervals.bytes()
    }
}

#[cfg(test)]
mod tests;
