//! Addresses that a policy knows one by one, with a few instructions for all others: nearly every new
//! session asks about addresses that nobody knows.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashSet};

use crate::flow::Realm;

/// Where each public address stands in the policy's list.
#[derive(Clone, Debug, Default)]
pub(super) struct PublicPlaces {
    /// The lowest one.
    first: u32,
    /// The places from that one on, [`NOWHERE`] in the gaps, if they lie so close together that there are
    /// not many gaps.
    near: Box<[u32]>,
    /// All of them, if not; the highest is so far above the lowest.
    far: HashMap<u32, u32>,
    far_span: u32,
}

/// What stands in place of a place where there is none.
const NOWHERE: u32 = u32::MAX;
/// Gaps that each address may have, at most, where places are listed without a hash.
const GAPS_MAX: usize = 16;

impl PublicPlaces {
    /// The places of `addresses` in their order; the last of equal ones counts.
    pub fn new(addresses: impl Iterator<Item = Ipv4Addr>) -> Self {
        let far: HashMap<u32, u32> = addresses.map(Ipv4Addr::to_bits).zip(0..NOWHERE).collect();
        let bounds = (far.keys().min().copied(), far.keys().max().copied());
        let (Some(first), Some(last)) = bounds else { return Self::default() };
        let far_span = last - first;
        let span = usize::try_from(far_span).unwrap_or(usize::MAX);
        if span > far.len().saturating_mul(GAPS_MAX) {
            return Self { first, near: Box::default(), far, far_span };
        }
        let near = (first..=last).map(|bits| far.get(&bits).copied().unwrap_or(NOWHERE)).collect();
        Self { first, near, far: HashMap::default(), far_span: 0 }
    }

    /// The place of `address`, if it is one of them.
    #[inline]
    pub fn find(&self, address: Ipv4Addr) -> Option<usize> {
        let above = address.to_bits().wrapping_sub(self.first);
        let place = match self.near.get(above as usize) {
            Some(place) => *place,
            None if above > self.far_span => return None,
            None => *self.far.get(&address.to_bits())?,
        };
        (place != NOWHERE).then_some(place as usize)
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
        (0_u32..600, 0_u32..8).prop_map(|(bits, distance)| {
            // Most lie close together, some nowhere near.
            let far = if distance == 0 { bits << 20 } else { 0 };
            Ipv4Addr::from_bits((0xc000_0200 + bits).wrapping_add(far))
        })
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
