//! Packets and bytes by public address, each way, of sessions that ended. As with rules, what live
//! sessions carried is added when somebody asks, and costs workers nothing.

use std::net::Ipv4Addr;

use dashmap::DashMap;

/// What passed by a public address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AddressTotals {
    /// Packets from the public side.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets to the public side.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

impl AddressTotals {
    /// Adds `more`.
    pub const fn add(&mut self, more: Self) {
        self.packets_in += more.packets_in;
        self.bytes_in += more.bytes_in;
        self.packets_out += more.packets_out;
        self.bytes_out += more.bytes_out;
    }
}

/// Totals of every public address that sessions ended on. Written when sessions end, by all workers.
#[derive(Debug, Default)]
pub struct AddressCounters(DashMap<Ipv4Addr, AddressTotals, ahash::RandomState>);

impl AddressCounters {
    /// A session ended on `address` that had carried this much.
    pub fn add(&self, address: Ipv4Addr, carried: AddressTotals) {
        self.0.entry(address).or_default().add(carried);
    }

    /// What sessions that ended carried by `address`.
    #[must_use]
    pub fn totals(&self, address: Ipv4Addr) -> AddressTotals {
        self.0.get(&address).map_or_else(AddressTotals::default, |totals| *totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_kept_by_address_and_way() {
        let counters = AddressCounters::default();
        let [one, other] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
        let carried = AddressTotals { packets_in: 1, bytes_in: 60, packets_out: 2, bytes_out: 140 };
        counters.add(one, carried);
        counters.add(one, AddressTotals { packets_in: 1, ..AddressTotals::default() });
        assert_eq!(counters.totals(one), AddressTotals { packets_in: 2, ..carried });
        assert_eq!(counters.totals(other), AddressTotals::default());
    }
}
