//! Identifications of datagrams that leave in fragments in the name of a shared public address
//! (RFC 6864, section 5.3.1).
//!
//! Guests count each for itself; behind one address two of their datagrams could have one number, and
//! the receiver would put pieces of both together. One counter for each public source, destination
//! and protocol, as far as there are counters: names that share one still start at places of their own.
//! Within a name no number comes again before 65,536 datagrams.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

use ahash::RandomState;

use crate::flow::Protocol;

/// The counters, shared by the workers.
pub struct Identifications {
    counters: Box<[AtomicU16]>,
    hasher: RandomState,
}

impl Identifications {
    /// Counters whose places and beginnings are keyed by `seed`.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        Self {
            counters: (0..COUNTERS).map(|_| AtomicU16::new(0)).collect(),
            hasher: RandomState::with_seeds(a, b, c, d ^ IDENTIFICATIONS_KEY),
        }
    }

    /// The identification of the next datagram from `source` to `destination`.
    pub fn next(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol) -> u16 {
        let hash = self.hasher.hash_one((source.to_bits(), destination.to_bits(), protocol.0));
        // Below the number of counters, and a start from other bits.
        let place = (hash % COUNTERS) as usize;
        let count =
            self.counters.get(place).map_or(0, |counter| counter.fetch_add(1, Ordering::Relaxed));
        count.wrapping_add((hash >> 48) as u16)
    }
}

const COUNTERS: u64 = 4096;
/// Makes the hash another one than those of the same seed.
const IDENTIFICATIONS_KEY: u64 = 0x6864;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn none_comes_twice_before_all_others() {
        let identifications = Identifications::new([1, 2, 3, 4]);
        let next = |remote: u32| {
            let remote = Ipv4Addr::from_bits(remote);
            identifications.next(Ipv4Addr::new(203, 0, 113, 10), remote, Protocol::UDP)
        };
        let seen: HashSet<u16> = (0..=u16::MAX).map(|_| next(7)).collect();
        assert_eq!(seen.len(), 65_536);
        let starts: HashSet<u16> = (1000..1100).map(next).collect();
        assert!(starts.len() > 90, "{} beginnings of a hundred names", starts.len());
    }

    #[test]
    fn workers_never_give_one_out_twice() {
        let identifications = Identifications::new([1, 2, 3, 4]);
        let remote = Ipv4Addr::new(198, 51, 100, 9);
        let take = || -> Vec<u16> {
            let next = |_| identifications.next(remote, remote, Protocol::UDP);
            (0..10_000).map(next).collect()
        };
        let mut seen = HashSet::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            for thread in threads {
                seen.extend(thread.join().unwrap());
            }
        });
        assert_eq!(seen.len(), 40_000);
    }
}
