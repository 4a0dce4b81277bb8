//! Which ports of the dataplane's public addresses are the kernel's, kept so that ten thousand
//! addresses cost little: the ports of the kernel's own connections are the same on each, so they
//! are said once, and only pages of ports that differ from them are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::flow::Protocol;

/// Ports that the kernel serves, or sends from, on public addresses of the dataplane. A protocol
/// without ports has port zero.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelPorts {
    /// What the kernel gives to its own connections.
    own: Option<(u16, u16)>,
    /// Where those of TCP and UDP are the kernel's.
    own_addresses: BTreeSet<Ipv4Addr>,
    /// Pages that differ from that.
    pages: BTreeMap<PageKey, Page>,
}

/// 256 ports of a protocol of an address.
pub type PageKey = (Ipv4Addr, Protocol, u8);

/// A set bit is a port of the kernel's.
pub type Page = [u64; 4];

/// What the program has to look into for an address.
pub mod holdings {
    /// The kernel's own connections.
    pub const OWN: u32 = 1;
    /// Pages.
    pub const PAGES: u32 = 2;
}

impl KernelPorts {
    /// None yet; `own` are the ports of the kernel's own connections.
    #[must_use]
    pub fn new(own: Option<RangeInclusive<u16>>) -> Self {
        let own = own.map(|range| (*range.start(), *range.end()));
        Self { own, ..Self::default() }
    }

    /// Gives the kernel the ports of its own connections on `address`. Do this first: what is
    /// added and taken away differs from it.
    pub fn have_own(&mut self, address: Ipv4Addr) {
        if self.own.is_some() {
            self.own_addresses.insert(address);
        }
    }

    /// Gives the kernel ports.
    pub fn insert(&mut self, address: Ipv4Addr, protocol: Protocol, ports: RangeInclusive<u16>) {
        self.change(address, protocol, ports, |word, bit| *word |= bit);
    }

    /// Takes ports from the kernel.
    pub fn remove(&mut self, address: Ipv4Addr, protocol: Protocol, ports: RangeInclusive<u16>) {
        self.change(address, protocol, ports, |word, bit| *word &= !bit);
    }

    /// Whether a port is the kernel's, as the program finds it out.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        let [page, place] = port.to_be_bytes();
        let plain = || self.plain((address, protocol, page));
        let bits = self.pages.get(&(address, protocol, page)).copied().unwrap_or_else(plain);
        bits[usize::from(place >> 6)] >> (place & 63) & 1 != 0
    }

    /// The ports of the kernel's own connections.
    #[must_use]
    pub const fn own(&self) -> Option<(u16, u16)> {
        self.own
    }

    /// The pages that differ.
    #[must_use]
    pub const fn pages(&self) -> &BTreeMap<PageKey, Page> {
        &self.pages
    }

    /// What there is to look into, by address; see [`holdings`].
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<Ipv4Addr, u32> {
        let own = self.own_addresses.iter().map(|address| (*address, holdings::OWN));
        let mut addresses: BTreeMap<_, _> = own.collect();
        for (address, _, _) in self.pages.keys() {
            *addresses.entry(*address).or_default() |= holdings::PAGES;
        }
        addresses
    }

    fn change(
        &mut self,
        address: Ipv4Addr,
        protocol: Protocol,
        ports: RangeInclusive<u16>,
        change: impl Fn(&mut u64, u64),
    ) {
        let [first, _] = ports.start().to_be_bytes();
        let [last, _] = ports.end().to_be_bytes();
        for page in first..=last {
            let key = (address, protocol, page);
            let plain = self.plain(key);
            let mut bits = self.pages.get(&key).copied().unwrap_or(plain);
            let whole = RangeInclusive::new(u16::from(page) << 8, u16::from(page) << 8 | 0xff);
            for port in (*ports.start()).max(*whole.start())..=(*ports.end()).min(*whole.end()) {
                change(&mut bits[usize::from(port >> 6 & 3)], 1 << (port & 63));
            }
            if bits == plain {
                self.pages.remove(&key);
            } else {
                self.pages.insert(key, bits);
            }
        }
    }

    /// A page in which nothing differs.
    fn plain(&self, (address, protocol, page): PageKey) -> Page {
        let has_own = [Protocol::TCP, Protocol::UDP].contains(&protocol)
            && self.own_addresses.contains(&address);
        let mut bits = [0; 4];
        let Some((first, last)) = self.own.filter(|_| has_own) else { return bits };
        let from = first.max(u16::from(page) << 8);
        for port in from..=last.min(u16::from(page) << 8 | 0xff) {
            bits[usize::from(port >> 6 & 3)] |= 1 << (port & 63);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: [Ipv4Addr; 2] =
        [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];

    #[test]
    fn a_range_ends_at_65535() {
        let mut ports = KernelPorts::new(None);
        ports.insert(ADDRESSES[0], Protocol::TCP, 65_530..=65_535);
        assert!(ports.contains(ADDRESSES[0], Protocol::TCP, 65_535));
        assert!(!ports.contains(ADDRESSES[0], Protocol::TCP, 65_529));
        ports.remove(ADDRESSES[0], Protocol::TCP, 0..=u16::MAX);
        assert_eq!(ports, KernelPorts::new(None));
    }

    #[test]
    fn the_kernels_own_ports_take_no_pages() {
        let mut ports = KernelPorts::new(Some(32_768..=60_999));
        ports.have_own(ADDRESSES[0]);
        assert!(ports.pages().is_empty());
        assert_eq!(ports.addresses(), [(ADDRESSES[0], holdings::OWN)].into());
        // A forward takes one of them, and gives it back.
        ports.remove(ADDRESSES[0], Protocol::TCP, 40_000..=40_000);
        assert_eq!(ports.pages().len(), 1);
        assert_eq!(ports.addresses()[&ADDRESSES[0]], holdings::OWN | holdings::PAGES);
        ports.insert(ADDRESSES[0], Protocol::TCP, 40_000..=40_000);
        assert!(ports.pages().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn kernel_ports_are_a_set(
            own in prop::option::of((any::<u16>(), 0..30_000_u16)),
            has_own in any::<bool>(),
            steps in prop::collection::vec(
                (any::<bool>(), 0..2_usize, any::<bool>(), any::<u16>(), 0..600_u16), 0..12),
        ) {
            let own = own.map(|(first, more)| first..=first.saturating_add(more));
            let mut ports = KernelPorts::new(own.clone());
            let mut naive = BTreeSet::new();
            if has_own {
                ports.have_own(ADDRESSES[0]);
                let own = own.into_iter().flatten();
                naive.extend(own.flat_map(|port| [(0, Protocol::TCP, port), (0, Protocol::UDP, port)]));
            }
            for (insert, place, is_tcp, first, more) in steps {
                let protocol = if is_tcp { Protocol::TCP } else { Protocol::SCTP };
                let range = first..=first.saturating_add(more);
                let address = ADDRESSES[place];
                if insert {
                    naive.extend(range.clone().map(|port| (place, protocol, port)));
                    ports.insert(address, protocol, range);
                } else {
                    range.clone().for_each(|port| { naive.remove(&(place, protocol, port)); });
                    ports.remove(address, protocol, range);
                }
            }
            for (place, address) in ADDRESSES.into_iter().enumerate() {
                for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                    for port in 0..=u16::MAX {
                        let expected = naive.contains(&(place, protocol, port));
                        prop_assert_eq!(ports.contains(address, protocol, port), expected);
                    }
                }
            }
        }
    }
}
