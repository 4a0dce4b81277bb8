//! What a worker counts within one batch, before it goes into counters that others read: one addition
//! a packet to memory of the worker's own, and one store a batch to what is shared.

use std::mem::take;

use crate::flow::{PortId, RuleId};
use crate::telemetry::counters::{RuleCounters, RuleTotals, WorkerCounters};

/// The counts of a batch, by interface: of each kind apart, so that a port's number leads to its word.
pub struct Tally {
    received: Sums,
    forwarded: Sums,
    crossed_in_bytes: [u64; PORTS],
    crossed_out_bytes: [u64; PORTS],
    /// A rule that admitted sessions, and their first packets. Most sessions of a batch are one rule's, and all
    /// workers add to the same rule's totals.
    admitted: (RuleId, RuleTotals),
}

/// Packets of each interface, and their bytes. (In one word both took more instructions.)
struct Sums {
    packets: [u64; PORTS],
    bytes: [u64; PORTS],
}

impl Sums {
    const NOTHING: Self = Self { packets: [0; PORTS], bytes: [0; PORTS] };

    #[inline(always)]
    fn add(&mut self, port: PortId, bytes: usize) {
        let packets = &mut self.packets[port.index()];
        *packets = packets.wrapping_add(1);
        let sum = &mut self.bytes[port.index()];
        *sum = sum.wrapping_add(bytes as u64);
    }

    /// The packets and bytes of an interface, which begins anew.
    fn take(&mut self, port: PortId) -> (u64, u64) {
        (take(&mut self.packets[port.index()]), take(&mut self.bytes[port.index()]))
    }
}

impl Tally {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            received: Sums::NOTHING,
            forwarded: Sums::NOTHING,
            crossed_in_bytes: [0; PORTS],
            crossed_out_bytes: [0; PORTS],
            admitted: (RuleId::DEFAULT, RuleTotals::default()),
        }
    }

    /// A frame of `bytes` bytes came in on `port`.
    #[inline]
    pub fn received(&mut self, port: PortId, bytes: usize) {
        self.received.add(port, bytes);
    }

    /// A frame of `bytes` bytes was handed to `port` for transmission.
    #[inline]
    pub fn forwarded(&mut self, port: PortId, bytes: usize) {
        self.forwarded.add(port, bytes);
    }

    /// A packet of `bytes` bytes, link header not included, goes from one interface to another.
    #[inline]
    pub fn crossed(&mut self, from: PortId, to: PortId, bytes: u16) {
        if from == to {
            return;
        }
        let bytes = u64::from(bytes);
        let into = &mut self.crossed_in_bytes[from.index()];
        *into = into.wrapping_add(bytes);
        let out = &mut self.crossed_out_bytes[to.index()];
        *out = out.wrapping_add(bytes);
    }

    /// A packet of `bytes` bytes opened a session that `rule` admitted.
    pub fn admitted(&mut self, rule: RuleId, bytes: u16, counters: &RuleCounters) {
        if self.admitted.0 != rule {
            self.settle_rules(counters);
            self.admitted.0 = rule;
        }
        let RuleTotals { packets, bytes: sum } = &mut self.admitted.1;
        *packets = packets.wrapping_add(1);
        *sum = sum.wrapping_add(bytes.into());
    }

    /// Adds what was counted for rules to `counters` and begins anew.
    pub fn settle_rules(&mut self, counters: &RuleCounters) {
        let RuleTotals { packets, bytes } = take(&mut self.admitted.1);
        if packets > 0 {
            counters.add(self.admitted.0, packets, bytes);
        }
    }

    /// Adds what was counted on interfaces to `counters` and begins anew.
    pub fn settle(&mut self, counters: &WorkerCounters) {
        self.settle_from(0, counters);
    }

    /// The same of interfaces' sides ([`PortId::double_tagged`], [`PortId::vxlan`]), to their interfaces.
    pub fn settle_sides(&mut self, counters: &WorkerCounters) {
        let first = PortId(0);
        self.settle_from(first.double_tagged().0, counters);
        self.settle_from(first.vxlan().0, counters);
    }

    fn settle_from(&mut self, first: u8, counters: &WorkerCounters) {
        for port in (first..=u8::MAX).take(counters.ports()).map(PortId) {
            let (packets, bytes) = self.received.take(port);
            counters.received_many(port, packets, bytes);
            let (packets, bytes) = self.forwarded.take(port);
            counters.forwarded_many(port, packets, bytes);
            let into = take(&mut self.crossed_in_bytes[port.index()]);
            let out = take(&mut self.crossed_out_bytes[port.index()]);
            counters.crossed_many(port, into, out);
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// One for each number that a port may have.
const PORTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counters::PortTotals;

    #[test]
    fn sessions_are_counted_for_the_rule_that_admitted_them() {
        let (mut tally, counters) = (Tally::new(), RuleCounters::new());
        let [one, other] = [RuleId(1), RuleId(2)];
        for rule in [one, one, other, one] {
            tally.admitted(rule, 60, &counters);
        }
        tally.settle_rules(&counters);
        tally.settle_rules(&counters);
        assert_eq!(counters.totals(one), RuleTotals { packets: 3, bytes: 180 });
        assert_eq!(counters.totals(other), RuleTotals { packets: 1, bytes: 60 });
    }

    #[test]
    fn a_tally_comes_to_what_was_counted() {
        let (mut tally, counters) = (Tally::new(), WorkerCounters::new(2));
        for _ in 0..2 {
            for bytes in [60, 65_535] {
                tally.received(PortId(0), bytes);
                tally.forwarded(PortId(1), bytes);
            }
            tally.crossed(PortId(0), PortId(1), 40);
            tally.crossed(PortId(1), PortId(1), 50);
            // Nobody counts on an interface that there is not.
            tally.received(PortId(9), 1);
            tally.settle(&counters);
        }
        let first = PortTotals {
            received_packets: 4,
            received_bytes: 2 * 65_595,
            crossed_in_bytes: 80,
            ..PortTotals::default()
        };
        let second = PortTotals {
            forwarded_packets: 4,
            forwarded_bytes: 2 * 65_595,
            crossed_out_bytes: 80,
            ..PortTotals::default()
        };
        assert_eq!(counters.totals().ports, [first, second]);
    }
}
