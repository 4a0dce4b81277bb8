//! Which frames of an interface the dataplane gets, as plain values.
//!
//! The engine derives a [`Steering`] from the rules and from what the kernel owns;
//! [`crate::io::xdp::program::Program::apply`] puts it into the maps of the XDP program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::flow::{DoubleTag, Protocol};

/// What the XDP program of one interface goes by.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Steering {
    /// Tags under which the dataplane has a network or public addresses; zero stands for none.
    pub tags: BTreeSet<u16>,
    /// Tags under which frames are the kernel's. Frames under tags that stand in neither set are
    /// dropped; those without a tag are the kernel's then.
    pub kernel_tags: BTreeSet<u16>,
    /// Those of the dataplane's under which the kernel has no IPv4 address: ARP is the dataplane's
    /// there.
    pub arp_tags: BTreeSet<u16>,
    /// Two tags under which the dataplane has a network; all frames there are its own.
    pub double_tags: BTreeSet<DoubleTag>,
    /// The dataplane's VTEPs: what comes for them untagged, to VXLAN's port, is its own.
    pub vteps: BTreeSet<Ipv4Addr>,
    /// Addresses that are the kernel's alone, by the tag they are reached under: gateways of guest
    /// networks, management addresses. Never public addresses of the dataplane.
    pub local_addresses: BTreeSet<(u16, Ipv4Addr)>,
    /// The same of IPv6, public addresses included: all that is sent to the router is the kernel's.
    pub local_addresses_ipv6: BTreeSet<(u16, Ipv6Addr)>,
    /// Ports that the kernel serves (or sends from) on public addresses of the dataplane. A
    /// protocol without ports has port zero.
    pub kernel_ports: BTreeMap<(Ipv4Addr, Protocol), PortSet>,
}

/// A set of ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSet {
    pages: Box<[[u64; 4]; 256]>,
}

impl PortSet {
    /// Adds ports.
    pub fn insert(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = self.place(port);
            *word |= bit;
        }
    }

    /// Takes ports away.
    pub fn remove(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = self.place(port);
            *word &= !bit;
        }
    }

    /// Whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let page = &self.pages[usize::from(port >> 8)];
        page[usize::from(port >> 6 & 3)] >> (port & 63) & 1 != 0
    }

    /// Whether there is no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages().next().is_none()
    }

    /// The pages of 256 ports that are not empty, by number, as the program keeps them.
    pub fn pages(&self) -> impl Iterator<Item = (u8, [u64; 4])> {
        let numbered = (0u8..=255).zip(self.pages.iter().copied());
        numbered.filter(|(_, page)| *page != [0; 4])
    }

    fn place(&mut self, port: u16) -> (&mut u64, u64) {
        let page = &mut self.pages[usize::from(port >> 8)];
        (&mut page[usize::from(port >> 6 & 3)], 1 << (port & 63))
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self { pages: Box::new([[0; 4]; 256]) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_ends_at_65535() {
        let mut ports = PortSet::default();
        ports.insert(65_530..=65_535);
        assert!(ports.contains(65_535) && !ports.contains(65_529));
        ports.remove(0..=u16::MAX);
        assert!(ports.is_empty());
    }

    proptest! {
        #[test]
        fn a_port_set_is_a_set(steps in prop::collection::vec((any::<bool>(), any::<u16>(), 0u16..600), 0..20)) {
            let mut ports = PortSet::default();
            let mut naive = BTreeSet::new();
            for (insert, first, more) in steps {
                let range = first..=first.saturating_add(more);
                if insert {
                    naive.extend(range.clone());
                    ports.insert(range);
                } else {
                    naive.retain(|port| !range.contains(port));
                    ports.remove(range);
                }
            }
            let listed: BTreeSet<u16> = ports.pages().flat_map(|(page, words)| {
                (0u16..256).filter(move |bit| words[usize::from(bit >> 6)] >> (bit & 63) & 1 != 0)
                    .map(move |bit| u16::from(page) << 8 | bit)
            }).collect();
            prop_assert_eq!(&listed, &naive);
            for port in 0..=u16::MAX {
                prop_assert_eq!(ports.contains(port), naive.contains(&port));
            }
        }
    }
}
