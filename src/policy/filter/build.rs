//! From rules to the tables of a filter.

use crate::flow::Family;
use crate::policy::filter::block::{Block, LANES};
use crate::policy::filter::service::services;
use crate::policy::filter::{FilterRule, Level, Node, Part};
use crate::policy::intervals::{Intervals, NOTHING, Span, as_number, paint};
use crate::policy::prefixes::nest;
use crate::rules::set::Cidr;

/// A box of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<A: Family> {
    pub rule: u32,
    pub destination: Cidr<A>,
    pub source: Cidr<A>,
    pub service: (u32, u32),
}

pub(super) fn pieces<A: Family>(rules: &[FilterRule<'_, A>]) -> Vec<Piece<A>> {
    let any = [Cidr::ANY];
    let mut pieces = Vec::with_capacity(rules.len());
    for (rule, filter_rule) in (0..).zip(rules) {
        let services = services::<A>(&filter_rule.matches);
        let sources = or(filter_rule.sources, &any);
        for &destination in or(filter_rule.destinations, &any) {
            for &source in sources {
                pieces.extend(services.iter().map(|&service| Piece {
                    rule,
                    destination,
                    source,
                    service,
                }));
            }
        }
    }
    pieces
}

fn or<'c, A: Family>(cidrs: &'c [Cidr<A>], any: &'c [Cidr<A>]) -> &'c [Cidr<A>] {
    if cidrs.is_empty() { any } else { cidrs }
}

/// A dimension of addresses, from the outside in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dimension {
    Destination,
    Source,
}

impl Dimension {
    fn of<A: Family>(self, piece: &Piece<A>) -> Cidr<A> {
        match self {
            Self::Destination => piece.destination,
            Self::Source => piece.source,
        }
    }
}

/// The tables of a filter while they grow.
pub(super) struct Builder<A: Family> {
    pub levels: Vec<Level<A::Bits>>,
    pub nodes: Vec<Node>,
    pub blocks: Vec<Block<A::Bits>>,
    pub services: Vec<Span>,
    pub addresses: Intervals<A::Bits>,
    pub intervals: Intervals,
}

impl<A: Family> Default for Builder<A> {
    fn default() -> Self {
        Self {
            levels: Vec::new(),
            nodes: Vec::new(),
            blocks: Vec::new(),
            services: Vec::new(),
            addresses: Intervals::default(),
            intervals: Intervals::default(),
        }
    }
}

impl<A: Family> Builder<A> {
    /// Adds the rules of `pieces`, which come in the order of their rules and are all alike in the
    /// dimensions before `dimension`.
    pub fn part(&mut self, pieces: &[Piece<A>], dimension: Dimension) -> Part {
        let alike = pieces.iter().all(|piece| dimension.of(piece) == Cidr::ANY);
        match dimension {
            _ if pieces.is_empty() => Part::Empty,
            _ if pieces.len() <= SCAN_MAX => self.scan(pieces),
            Dimension::Destination if alike => self.part(pieces, Dimension::Source),
            Dimension::Destination => Part::Destinations(self.level(pieces, dimension)),
            Dimension::Source if alike => self.services(pieces),
            Dimension::Source => Part::Sources(self.level(pieces, dimension)),
        }
    }

    /// The part of pieces that are alike in `dimension` too.
    fn inner_part(&mut self, pieces: &[Piece<A>], dimension: Dimension) -> Part {
        match dimension {
            _ if pieces.len() <= SCAN_MAX => self.scan(pieces),
            Dimension::Destination => self.part(pieces, Dimension::Source),
            Dimension::Source => self.services(pieces),
        }
    }

    fn level(&mut self, pieces: &[Piece<A>], dimension: Dimension) -> u32 {
        let mut pieces = pieces.to_vec();
        pieces.sort_by_key(|piece| dimension.of(piece));
        let wide = pieces.partition_point(|piece| dimension.of(piece) == Cidr::ANY);
        let (all, pieces) = pieces.split_at(wide);
        let all = self.inner_part(all, dimension);
        let groups: Vec<&[Piece<A>]> =
            pieces.chunk_by(|a, b| dimension.of(a) == dimension.of(b)).collect();
        let prefixes: Vec<Cidr<A>> = groups
            .iter()
            .filter_map(|group| group.first())
            .map(|piece| dimension.of(piece))
            .collect();
        let nesting = nest(&prefixes);

        // The nodes of a level lie side by side; those of the levels inside come behind them.
        let base = self.nodes.len();
        self.nodes.resize(base + groups.len(), Node::EMPTY);
        let number = |place: u32| match place {
            NOTHING => NOTHING,
            place => place.saturating_add(as_number(base)),
        };
        let mut wholes: Vec<Option<Vec<Piece<A>>>> = Vec::with_capacity(groups.len());
        for (place, (group, &parent)) in groups.iter().zip(&nesting.parents).enumerate() {
            let whole = whole(group, parent, &wholes);
            let part = self.inner_part(whole.as_deref().unwrap_or(group), dimension);
            let around = if whole.is_some() { NOTHING } else { number(parent) };
            let first = group.first().map_or(NOTHING, |piece| piece.rule);
            let first =
                self.nodes.get(number(parent) as usize).map_or(first, |node| node.first.min(first));
            self.nodes[base + place] = Node { part, around, first };
            wholes.push(whole);
        }
        let intervals: Vec<(A::Bits, u32)> =
            nesting.intervals.iter().map(|&(start, place)| (start, number(place))).collect();
        let innermost = self.addresses.push(&intervals);
        self.levels.push(Level { all, innermost });
        as_number(self.levels.len() - 1)
    }

    fn scan(&mut self, pieces: &[Piece<A>]) -> Part {
        let first = as_number(self.blocks.len());
        self.blocks.extend(pieces.chunks(LANES).map(Block::new));
        Part::Scan { first, count: as_number(self.blocks.len()) - first }
    }

    fn services(&mut self, pieces: &[Piece<A>]) -> Part {
        let pieces: Vec<(u32, u32, u32)> =
            pieces.iter().map(|piece| (piece.service.0, piece.service.1, piece.rule)).collect();
        self.services.push(self.intervals.push(&paint(&pieces)));
        Part::Services(as_number(self.services.len() - 1))
    }
}

/// The pieces of a node together with those of all nodes around it, if they are few.
fn whole<A: Family>(
    group: &[Piece<A>],
    parent: u32,
    wholes: &[Option<Vec<Piece<A>>>],
) -> Option<Vec<Piece<A>>> {
    let around: &[Piece<A>] = match parent {
        NOTHING => &[],
        parent => wholes.get(parent as usize)?.as_ref()?,
    };
    if group.len() + around.len() > SCAN_MAX {
        return None;
    }
    let mut whole = [group, around].concat();
    whole.sort_by_key(|piece| piece.rule);
    Some(whole)
}

/// How many boxes are compared one block after the other rather than searched.
const SCAN_MAX: usize = 16;
