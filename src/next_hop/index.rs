//! The index that finds next hops by neighbour: chains through the hops themselves.
//!
//! Readers take no lock. Whoever changes a chain holds the lock of the table, and does it by one store. A
//! hop that was taken out of its chain still leads on to the rest of it, for readers that stand on
//! it: it is put into another one only when none is left.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use ahash::RandomState;

use super::hop::Hop;
use super::{Neighbor, NextHopId};

/// Where each chain begins.
pub struct Index {
    /// A place holds an id plus one, or zero.
    heads: Box<[AtomicU32]>,
    hasher: RandomState,
}

impl Index {
    /// An index of no hops, with chains for `capacity`.
    pub fn new(capacity: usize) -> Self {
        let length = (capacity * 2).next_power_of_two();
        Self { heads: (0..length).map(|_| AtomicU32::new(0)).collect(), hasher: RandomState::new() }
    }

    /// The first hop in the chain of `neighbor` that `is_it` is true of.
    pub fn find<'h>(
        &self,
        hops: &'h [Hop],
        neighbor: Neighbor,
        is_it: impl Fn(NextHopId, &Hop) -> bool,
    ) -> Option<(NextHopId, &'h Hop)> {
        let mut link = self.head(neighbor)?;
        // Who is no reader (see `readers`) may stray into other chains, but not for ever.
        for _ in 0..=hops.len() {
            // Pairs with the release in `add`: whoever sees the id sees the hop's words.
            let id = NextHopId(link.load(Ordering::Acquire).checked_sub(1)?);
            let hop = hops.get(id.0 as usize)?;
            if is_it(id, hop) {
                return Some((id, hop));
            }
            link = &hop.next;
        }
        None
    }

    /// Puts a hop into the chain of `neighbor`. The caller holds the lock of the table, and no reader
    /// is left that may stand on the hop.
    pub fn add(&self, hop: &Hop, neighbor: Neighbor, id: NextHopId) {
        let Some(head) = self.head(neighbor) else { return };
        hop.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(id.0 + 1, Ordering::Release);
    }

    /// Takes a hop out of the chain of `neighbor`. The caller holds the lock of the table.
    pub fn remove(&self, hops: &[Hop], neighbor: Neighbor, id: NextHopId) {
        let Some(mut link) = self.head(neighbor) else { return };
        while let Some(next) = link.load(Ordering::Acquire).checked_sub(1)
            && let Some(hop) = hops.get(next as usize)
        {
            if next == id.0 {
                link.store(hop.next.load(Ordering::Acquire), Ordering::Release);
                return;
            }
            link = &hop.next;
        }
    }

    fn head(&self, neighbor: Neighbor) -> Option<&AtomicU32> {
        self.heads.get(self.hash(neighbor) & (self.heads.len() - 1))
    }

    /// The hash of a neighbour. IPv4 ones, which every new session asks for, are one word.
    fn hash(&self, neighbor: Neighbor) -> usize {
        let link = u64::from(neighbor.port.0) << 16 | u64::from(neighbor.vlan);
        let hash = match neighbor.address {
            IpAddr::V4(address) => self.hasher.hash_one(u64::from(address.to_bits()) << 32 | link),
            IpAddr::V6(address) => self.hasher.hash_one((address.to_bits(), link)),
        };
        hash as usize
    }
}
