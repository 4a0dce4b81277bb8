//! Addresses that a policy knows one by one, with a few instructions for all others: nearly every new
//! session asks about addresses that nobody knows.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashSet};

use crate::flow::Realm;

/// Where each public address stands in the policy's list.
#[derive(Clone, Debug, Default)]
pub(super) struct PublicPlaces {
    places: HashMap<u32, usize>,
    /// The lowest and the highest; without meaning while there are none.
    bounds: (u32, u32),
}

impl PublicPlaces {
    /// The places of `addresses` in their order; the last of equal ones counts.
    pub fn new(addresses: impl Iterator<Item = Ipv4Addr>) -> Self {
        let places: HashMap<u32, usize> =
            addresses.enumerate().map(|(place, address)| (address.to_bits(), place)).collect();
        let bounds = (places.keys().min(), places.keys().max());
        let bounds = (bounds.0.copied().unwrap_or(0), bounds.1.copied().unwrap_or(0));
        Self { places, bounds }
    }

    /// The place of `address`, if it is one of them.
    #[inline]
    pub fn find(&self, address: Ipv4Addr) -> Option<usize> {
        let address = address.to_bits();
        let (first, last) = self.bounds;
        if address < first || address > last {
            return None;
        }
        self.places.get(&address).copied()
    }
}

/// The broadcast addresses of every realm.
#[derive(Clone, Debug, Default)]
pub(super) struct Broadcasts {
    addresses: HashSet<u64>,
    /// The last octets that they have, as bits. They are few, whatever the prefixes.
    last_octets: [u64; 4],
}

impl Broadcasts {
    /// The broadcast addresses `all`.
    pub fn new(all: &[(Realm, Ipv4Addr)]) -> Self {
        let mut broadcasts = Self::default();
        for &(realm, address) in all {
            let [.., octet] = address.octets();
            broadcasts.last_octets[usize::from(octet / 64)] |= 1 << (octet % 64);
            broadcasts.addresses.insert(word(realm, address));
        }
        broadcasts
    }

    /// Whether `address` is one of `realm`.
    #[inline]
    pub fn contains(&self, realm: Realm, address: Ipv4Addr) -> bool {
        let [.., octet] = address.octets();
        self.last_octets[usize::from(octet / 64)] >> (octet % 64) & 1 == 1
            && self.addresses.contains(&word(realm, address))
    }
}

/// A realm and an address in one word.
fn word(realm: Realm, address: Ipv4Addr) -> u64 {
    u64::from(realm.as_raw()) << 32 | u64::from(address.to_bits())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = Ipv4Addr> {
        (0_u32..600).prop_map(|bits| Ipv4Addr::from_bits(0xc000_0200 + bits))
    }

    proptest! {
        #[test]
        fn known_addresses_are_found_and_no_others(
            known in prop::collection::vec(address(), 0..20),
            others in prop::collection::vec(address(), 20),
        ) {
            let places = PublicPlaces::new(known.iter().copied());
            for address in known.iter().chain(&others) {
                let place = known.iter().rposition(|other| other == address);
                prop_assert_eq!(places.find(*address), place);
            }
        }

        #[test]
        fn broadcasts_are_those_of_their_realm(
            known in prop::collection::vec((0_u16..3, address()), 0..20),
            others in prop::collection::vec((0_u16..3, address()), 20),
        ) {
            let known: Vec<_> =
                known.into_iter().map(|(raw, address)| (Realm::from_raw(raw), address)).collect();
            let broadcasts = Broadcasts::new(&known);
            let others = others.into_iter().map(|(raw, address)| (Realm::from_raw(raw), address));
            for (realm, address) in known.iter().copied().chain(others) {
                let is_known = known.contains(&(realm, address));
                prop_assert_eq!(broadcasts.contains(realm, address), is_known);
            }
        }
    }
}
