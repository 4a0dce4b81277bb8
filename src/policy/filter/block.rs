//! Few boxes, compared side by side.

use crate::flow::{Bits, Family};
use crate::policy::filter::build::Piece;
use crate::policy::intervals::NOTHING;

/// A probe as numbers.
pub(super) struct Point<B> {
    pub destination: B,
    pub source: B,
    pub service: u32,
}

/// Up to four boxes side by side.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub(super) struct Block<B> {
    destinations: [B; LANES],
    destination_masks: [B; LANES],
    sources: [B; LANES],
    source_masks: [B; LANES],
    first_services: [u32; LANES],
    last_services: [u32; LANES],
    rules: [u32; LANES],
}

impl<B: Bits> Block<B> {
    /// No box at all: its services end before they begin.
    const EMPTY: Self = Self {
        destinations: [B::ZERO; LANES],
        destination_masks: [B::ZERO; LANES],
        sources: [B::ZERO; LANES],
        source_masks: [B::ZERO; LANES],
        first_services: [1; LANES],
        last_services: [0; LANES],
        rules: [NOTHING; LANES],
    };

    pub fn new<A: Family<Bits = B>>(pieces: &[Piece<A>]) -> Self {
        let mut block = Self::EMPTY;
        for (lane, piece) in pieces.iter().take(LANES).enumerate() {
            block.destinations[lane] = piece.destination.first().number();
            block.destination_masks[lane] = piece.destination.mask();
            block.sources[lane] = piece.source.first().number();
            block.source_masks[lane] = piece.source.mask();
            (block.first_services[lane], block.last_services[lane]) = piece.service;
            block.rules[lane] = piece.rule;
        }
        block
    }

    /// Lowers each lane of `earliest` to the rule in that lane, if it takes `point`.
    ///
    /// Without a branch: which rules take a probe is as good as random. (Arranged so that the
    /// compiler makes vector instructions of it, it was measured to be no faster.)
    pub fn lower(&self, point: &Point<B>, earliest: &mut [u32; LANES]) {
        for (lane, earliest) in earliest.iter_mut().enumerate() {
            let differs = (point.destination ^ self.destinations[lane])
                & self.destination_masks[lane]
                | (point.source ^ self.sources[lane]) & self.source_masks[lane];
            // Services have 24 bits, so the highest bit says which difference fell below zero.
            let outside = point.service.wrapping_sub(self.first_services[lane])
                | self.last_services[lane].wrapping_sub(point.service);
            let misses = if differs == B::ZERO { outside >> 31 } else { 1 };
            let rule = self.rules[lane] | misses.wrapping_neg();
            *earliest = (*earliest).min(rule);
        }
    }
}

/// How many boxes a block holds: a block is under two cache lines.
pub(super) const LANES: usize = 4;
