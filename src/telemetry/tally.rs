//! What a worker counts within one batch, before it goes into counters that others read: one addition
//! a packet to memory of the worker's own, and one store a batch to what is shared.

use crate::flow::PortId;
use crate::telemetry::counters::WorkerCounters;

/// The counts of a batch, by interface.
pub struct Tally {
    ports: [PortTally; PORTS],
}

#[derive(Clone, Copy, Default)]
struct PortTally {
    received: Sum,
    forwarded: Sum,
    crossed_in_bytes: u64,
    crossed_out_bytes: u64,
}

/// Packets (above) and their bytes (the low 40 bits) of one batch: it has far fewer.
#[derive(Clone, Copy, Default)]
struct Sum(u64);

impl Sum {
    #[inline]
    fn add(&mut self, bytes: usize) {
        self.0 = self.0.wrapping_add(PACKET | bytes as u64);
    }

    const fn packets(self) -> u64 {
        self.0 >> BYTES_BITS
    }

    const fn bytes(self) -> u64 {
        self.0 & (PACKET - 1)
    }
}

impl Tally {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self { ports: [PortTally::default(); PORTS] }
    }

    /// A frame of `bytes` bytes came in on `port`.
    #[inline]
    pub fn received(&mut self, port: PortId, bytes: usize) {
        self.ports[port.index()].received.add(bytes);
    }

    /// A frame of `bytes` bytes was handed to `port` for transmission.
    #[inline]
    pub fn forwarded(&mut self, port: PortId, bytes: usize) {
        self.ports[port.index()].forwarded.add(bytes);
    }

    /// A packet of `bytes` bytes, link header not included, goes from one interface to another.
    #[inline]
    pub fn crossed(&mut self, from: PortId, to: PortId, bytes: u16) {
        if from == to {
            return;
        }
        let bytes = u64::from(bytes);
        let ports = &mut self.ports;
        let into = &mut ports[from.index()].crossed_in_bytes;
        *into = into.wrapping_add(bytes);
        let out = &mut ports[to.index()].crossed_out_bytes;
        *out = out.wrapping_add(bytes);
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
        let numbered = (0..=u8::MAX).map(PortId).zip(&mut self.ports[..]);
        for (port, tally) in numbered.skip(usize::from(first)).take(counters.ports()) {
            let PortTally { received, forwarded, crossed_in_bytes, crossed_out_bytes } =
                std::mem::take(tally);
            counters.received_many(port, received.packets(), received.bytes());
            counters.forwarded_many(port, forwarded.packets(), forwarded.bytes());
            counters.crossed_many(port, crossed_in_bytes, crossed_out_bytes);
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
const BYTES_BITS: u32 = 40;
const PACKET: u64 = 1 << BYTES_BITS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counters::PortTotals;

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
