//! How much of the table each network may have, so that none can take it from the others.

use std::collections::HashMap;

use super::Neighbor;
use crate::flow::PortId;

/// What every network has of the table's places.
#[derive(Default)]
pub struct Shares {
    /// By interface and tag.
    held: HashMap<(PortId, u16), usize>,
    total: usize,
}

impl Shares {
    /// Counts one more of `neighbor`'s network, unless it has its share of `capacity` places: eight
    /// times as many as are free. So one network gets eight ninths of a table, and whatever others
    /// have taken, there is some left for the next one (the dynamic thresholds of Choudhury and
    /// Hahne, 1998).
    pub fn take(&mut self, neighbor: Neighbor, capacity: usize) -> bool {
        let free = capacity.saturating_sub(self.total);
        let held = self.held.entry((neighbor.port, neighbor.vlan)).or_default();
        let is_admitted = *held < free.saturating_mul(SHARE);
        if is_admitted {
            *held += 1;
            self.total += 1;
        }
        is_admitted
    }

    /// Counts one less.
    pub fn give_back(&mut self, neighbor: Neighbor) {
        let network = (neighbor.port, neighbor.vlan);
        if let Some(held) = self.held.get_mut(&network) {
            *held -= 1;
            self.total -= 1;
            if *held == 0 {
                self.held.remove(&network);
            }
        }
    }

    /// Places that are taken.
    pub const fn total(&self) -> usize {
        self.total
    }
}

/// How many times as much as is free one network may have.
const SHARE: usize = 8;
