//! Packets and bytes by rule, of sessions that ended and of packets that were refused.
//!
//! What a rule carries now is these totals plus the counters of its live sessions, which only a walk
//! of the session table knows: that is added when somebody asks, and costs workers nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::RuleId;

/// Totals of every rule. Written in the slow path, by all workers at once.
#[derive(Debug)]
pub struct RuleCounters {
    chunks: Box<[OnceLock<Box<[Pair]>>]>,
}

/// Packets and bytes of one rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RuleTotals {
    /// Packets.
    pub packets: u64,
    /// Bytes of IPv4 packets.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Pair {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// Rules a chunk holds; ids have 24 bits, so there are as many chunks.
const CHUNK: usize = 1 << 12;

impl Default for RuleCounters {
    fn default() -> Self {
        Self::new()
    }
}

impl RuleCounters {
    /// Zeros for every rule there may ever be; memory is taken as rules are first counted.
    #[must_use]
    pub fn new() -> Self {
        Self { chunks: (0..CHUNK).map(|_| OnceLock::new()).collect() }
    }

    /// A packet of `bytes` bytes was refused by `rule`.
    pub fn refused(&self, rule: RuleId, bytes: u64) {
        self.add(rule, 1, bytes);
    }

    /// A session of `rule` ended that had carried this much.
    pub fn add(&self, rule: RuleId, packets: u64, bytes: u64) {
        let (chunk, place) = split(rule);
        let Some(chunk) = self.chunks.get(chunk) else { return };
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| Pair::default()).collect());
        if let Some(pair) = chunk.get(place) {
            pair.packets.fetch_add(packets, Ordering::Relaxed);
            pair.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Takes the memory for `rule` now, so that counting it later allocates nothing.
    pub fn reserve(&self, rule: RuleId) {
        self.add(rule, 0, 0);
    }

    /// What `rule` carried in sessions that ended, and refused.
    #[must_use]
    pub fn totals(&self, rule: RuleId) -> RuleTotals {
        let (chunk, place) = split(rule);
        let pair =
            self.chunks.get(chunk).and_then(OnceLock::get).and_then(|chunk| chunk.get(place));
        pair.map_or(RuleTotals::default(), |pair| RuleTotals {
            packets: pair.packets.load(Ordering::Relaxed),
            bytes: pair.bytes.load(Ordering::Relaxed),
        })
    }
}

/// The chunk a rule's pair is in, and its place there.
fn split(rule: RuleId) -> (usize, usize) {
    let id = rule.0 as usize;
    (id / CHUNK, id % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_kept_by_rule() {
        let counters = RuleCounters::new();
        let (one, far) = (RuleId(1), RuleId((1 << 24) - 1));
        counters.refused(one, 60);
        counters.add(one, 10, 1500);
        counters.add(far, 2, 3);
        assert_eq!(counters.totals(one), RuleTotals { packets: 11, bytes: 1560 });
        assert_eq!(counters.totals(far), RuleTotals { packets: 2, bytes: 3 });
        assert_eq!(counters.totals(RuleId(2)), RuleTotals::default());
        assert_eq!(counters.totals(RuleId::DEFAULT), RuleTotals::default());
    }

    #[test]
    fn an_id_of_more_than_24_bits_is_not_counted() {
        let counters = RuleCounters::new();
        counters.add(RuleId(1 << 24), 1, 1);
        assert_eq!(counters.totals(RuleId(1 << 24)), RuleTotals::default());
    }

    #[test]
    fn writers_at_once_lose_nothing() {
        let counters = RuleCounters::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counters.add(RuleId(7), 1, 2)));
            }
        });
        assert_eq!(counters.totals(RuleId(7)), RuleTotals { packets: 40_000, bytes: 80_000 });
    }
}
