//! Path MTUs that remotes on the way of guests' flows told the public addresses (RFC 1191).
//!
//! Guests follow them; what natwerk itself sends in the name of a public address must follow them too. A NAT
//! that answers pings in one piece after it was told that they are too long is known as a NAT and not as the
//! host that its address seems to be (ReDAN, NDSS 2025).

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

use crate::time::Tick;

/// What was told last, for as many pairs of a public address and a remote as there are places; pairs that
/// share a place forget each other. Shared by the workers.
pub struct PathMtus {
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl PathMtus {
    /// Nothing was told; places are keyed by `seed`.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::with_seeds(a, b, c, d ^ PATH_MTUS_KEY),
        }
    }

    /// `public` was told that what it sends to `remote` must not be longer than `mtu`.
    pub fn tell(&self, public: Ipv4Addr, remote: Ipv4Addr, mtu: u16, now: Tick) {
        let (place, name) = self.place(public, remote);
        if let Some(place) = place {
            let told = name | minutes(now) << 16 | u64::from(mtu.max(MTU_MIN));
            place.store(told, Ordering::Relaxed);
        }
    }

    /// How long a packet from `public` to `remote` may be, if it was told lately.
    #[must_use]
    pub fn of(&self, public: Ipv4Addr, remote: Ipv4Addr, now: Tick) -> Option<u16> {
        let (place, name) = self.place(public, remote);
        let told = place?.load(Ordering::Relaxed);
        let age = minutes(now).wrapping_sub(told >> 16) & MINUTES_MASK;
        let is_known = told != 0 && told & NAME_MASK == name && age < LIFETIME_MINUTES;
        is_known.then_some((told & 0xffff) as u16)
    }

    /// The place of a pair, and the part of its hash that tells it from others there.
    fn place(&self, public: Ipv4Addr, remote: Ipv4Addr) -> (Option<&AtomicU64>, u64) {
        let hash = self.hasher.hash_one((public.to_bits(), remote.to_bits()));
        // Below the number of places.
        let place = (hash % PLACES) as usize;
        (self.places.get(place), hash & NAME_MASK)
    }
}

/// Minutes since the clock's beginning, as far as a place has room for them.
const fn minutes(now: Tick) -> u64 {
    (now.as_ms() / 60_000) & MINUTES_MASK
}

const PLACES: u64 = 4096;
/// A path is believed for ten minutes; then it may have become better (RFC 1191, section 6.3).
const LIFETIME_MINUTES: u64 = 10;
/// Below this nobody is believed, so that one short packet never becomes dozens (as Linux's `min_pmtu`).
const MTU_MIN: u16 = 552;
/// A place holds 32 bits of the pair's hash, 16 of minutes and the MTU.
const NAME_MASK: u64 = 0xffff_ffff_0000_0000;
const MINUTES_MASK: u64 = 0xffff;
/// Makes the hash another one than those of the same seed.
const PATH_MTUS_KEY: u64 = 0x1191;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

    #[test]
    fn what_was_told_holds_for_the_pair_and_ten_minutes() {
        let told = PathMtus::new([1, 2, 3, 4]);
        let now = Tick::from_ms(7_000_000);
        assert_eq!(told.of(PUBLIC, REMOTE, now), None);
        told.tell(PUBLIC, REMOTE, 800, now);
        assert_eq!(told.of(PUBLIC, REMOTE, now), Some(800));
        assert_eq!(told.of(PUBLIC, Ipv4Addr::new(198, 51, 100, 10), now), None);
        assert_eq!(told.of(REMOTE, PUBLIC, now), None);
        assert_eq!(told.of(PUBLIC, REMOTE, now.after(Duration::from_secs(9 * 60))), Some(800));
        assert_eq!(told.of(PUBLIC, REMOTE, now.after(Duration::from_secs(10 * 60))), None);
    }

    #[test]
    fn nobody_talks_us_into_tiny_pieces() {
        let told = PathMtus::new([1, 2, 3, 4]);
        told.tell(PUBLIC, REMOTE, 68, Tick::ZERO);
        assert_eq!(told.of(PUBLIC, REMOTE, Tick::ZERO), Some(552));
    }

    #[test]
    fn minutes_go_round() {
        let told = PathMtus::new([1, 2, 3, 4]);
        let late = Tick::from_ms(60_000 * 65_535);
        told.tell(PUBLIC, REMOTE, 800, late);
        assert_eq!(told.of(PUBLIC, REMOTE, late.after(Duration::from_secs(5 * 60))), Some(800));
    }
}
