//! Every public address that was ever used, by protocol: found without a lock.
//!
//! Tables of doubling size, each entry written once: a reader needs no lock, and no entry ever
//! moves, so its number is its name. A key stands within a few places from where its hash points, or
//! in the next table if those are taken.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use ahash::RandomState;

use super::ports::Ports;
use crate::flow::{Endpoint, Protocol};

/// Entries of the first table, as a power of two; each further one is twice as large.
const FIRST_TABLE_BITS: u32 = 8;
/// Tables. All entries together have numbers of sixteen bits.
const TABLES: usize = 8;
/// Places that a key may stand at in one table.
const PROBES: u32 = 16;

/// A public address with one protocol.
pub(super) struct Space {
    /// The address.
    pub(super) address: Ipv4Addr,
    /// The protocol.
    pub(super) protocol: Protocol,
    /// The name others know it by.
    pub(super) number: u16,
    /// Sessions that share a port.
    pub(super) overloaded: AtomicU32,
    /// The ports.
    pub(super) ports: Ports,
}

impl Space {
    /// `port` of the address.
    pub(super) const fn endpoint(&self, port: u16) -> Endpoint {
        Endpoint::new(self.address, port)
    }
}

type Table = Box<[OnceLock<Box<Space>>]>;

/// Every [`Space`].
pub(super) struct Directory {
    tables: [OnceLock<Table>; TABLES],
    hasher: RandomState,
}

impl Directory {
    /// None.
    pub(super) fn new(hasher: RandomState) -> Self {
        Self { tables: [const { OnceLock::new() }; TABLES], hasher }
    }

    /// The space of an address and protocol, if it was ever used.
    #[inline(always)]
    pub(super) fn find(&self, address: Ipv4Addr, protocol: Protocol) -> Option<&Space> {
        let hash = self.hash(address, protocol);
        for (level, table) in self.tables.iter().enumerate() {
            let table = table.get()?;
            for probe in 0..PROBES {
                let space = table[place(hash, probe, level)].get()?;
                if (space.address, space.protocol) == (address, protocol) {
                    return Some(space);
                }
            }
        }
        None
    }

    /// The space of an address and protocol; none if there are too many.
    #[inline(always)]
    pub(super) fn find_or_make(&self, address: Ipv4Addr, protocol: Protocol) -> Option<&Space> {
        self.find(address, protocol).or_else(|| self.make(address, protocol))
    }

    #[cold]
    fn make(&self, address: Ipv4Addr, protocol: Protocol) -> Option<&Space> {
        let hash = self.hash(address, protocol);
        for (level, table) in self.tables.iter().enumerate() {
            let table =
                table.get_or_init(|| (0..table_length(level)).map(|_| OnceLock::new()).collect());
            for probe in 0..PROBES {
                let at = place(hash, probe, level);
                let space = table[at].get_or_init(|| {
                    Box::new(Space {
                        address,
                        protocol,
                        number: number(level, at),
                        overloaded: AtomicU32::new(0),
                        ports: Ports::new(),
                    })
                });
                if (space.address, space.protocol) == (address, protocol) {
                    return Some(space);
                }
            }
        }
        None
    }

    /// The space with that number.
    pub(super) fn get(&self, number: u16) -> Option<&Space> {
        let biased = u32::from(number) + (1 << FIRST_TABLE_BITS);
        let level = biased.ilog2() - FIRST_TABLE_BITS;
        let at = biased - (1 << biased.ilog2());
        self.tables.get(level as usize)?.get()?.get(at as usize)?.get().map(Box::as_ref)
    }

    /// Every space.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Space> {
        let tables = self.tables.iter().filter_map(OnceLock::get);
        tables.flat_map(|table| table.iter().filter_map(OnceLock::get).map(Box::as_ref))
    }

    /// Bytes of memory, ports included.
    pub(super) fn memory_bytes(&self) -> usize {
        let tables = self.tables.iter().filter_map(OnceLock::get);
        let tables: usize = tables.map(|table| size_of_val::<[_]>(table)).sum();
        let spaces = self.iter().map(|space| size_of::<Space>() + space.ports.memory_bytes());
        tables + spaces.sum::<usize>()
    }

    fn hash(&self, address: Ipv4Addr, protocol: Protocol) -> u32 {
        self.hasher.hash_one(u64::from(address.to_bits()) << 8 | u64::from(protocol.0)) as u32
    }
}

const fn table_length(level: usize) -> usize {
    1 << (FIRST_TABLE_BITS as usize + level)
}

fn place(hash: u32, probe: u32, level: usize) -> usize {
    hash.wrapping_add(probe) as usize & (table_length(level) - 1)
}

/// The entries of all smaller tables come first.
const fn number(level: usize, at: usize) -> u16 {
    (table_length(level) - table_length(0) + at) as u16
}

const _: () = assert!(table_length(TABLES) - table_length(0) <= 1 << 16);

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        Directory::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn ten_thousand_addresses_with_three_protocols_are_found_again() {
        let directory = directory();
        let keys: Vec<_> = (0..10_000_u32)
            .flat_map(|bits| [Protocol::TCP, Protocol::UDP, Protocol::ICMP].map(|p| (bits, p)))
            .map(|(bits, protocol)| (Ipv4Addr::from_bits(0xcb00_0000 + bits), protocol))
            .collect();
        for (address, protocol) in &keys {
            assert!(directory.find(*address, *protocol).is_none());
            let space = directory.find_or_make(*address, *protocol).expect("room");
            assert_eq!((space.address, space.protocol), (*address, *protocol));
        }
        assert_eq!(directory.iter().count(), keys.len());
        for (address, protocol) in &keys {
            let space = directory.find(*address, *protocol).expect("made above");
            let same = directory.get(space.number).expect("a number names a space");
            assert!(std::ptr::eq(space, same));
        }
    }

    #[test]
    fn too_many_addresses_are_refused_and_no_number_is_given_twice() {
        let directory = directory();
        let made = (0..70_000_u32)
            .filter_map(|bits| directory.find_or_make(Ipv4Addr::from_bits(bits), Protocol::UDP))
            .count();
        assert!((45_000..70_000).contains(&made), "{made}");
        let numbers: std::collections::HashSet<_> = directory.iter().map(|s| s.number).collect();
        assert_eq!(numbers.len(), made);
    }
}
