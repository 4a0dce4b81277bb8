//! What one guest may use: sessions, and new sessions per second (RFC 6888, REQ-4).
//!
//! A map by guest in shards with a lock each. A guest without sessions is forgotten once its rate
//! has recovered too, so memory follows the guests that are there.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::flow::Realm;
use crate::time::Tick;
use crate::verdict::DropReason;

/// What a guest may use. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GuestLimits {
    /// Concurrent sessions.
    pub sessions: u32,
    /// New sessions per second, with a burst of one second's worth.
    pub new_sessions_per_second: u32,
}

/// Every guest's present use, shared by the workers.
pub struct Guests {
    shards: Box<[Shard]>,
}

/// Its own cache line, so that workers with different guests do not disturb each other.
#[repr(align(64))]
struct Shard(Mutex<Uses>);

struct Uses {
    guests: HashMap<GuestKey, GuestUse, RandomState>,
    /// Guests without sessions whose rate may not have recovered, in about the order it will.
    idle: VecDeque<GuestKey>,
}

/// A guest of either family, in few words to hash and compare.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct GuestKey {
    high: u64,
    low: u64,
    /// The realm's number, and [`IPV6`].
    realm: u32,
}

/// Above the realm's number: the guest is of IPv6.
const IPV6: u32 = 1 << 16;

impl GuestKey {
    fn new(realm: Realm, guest: IpAddr) -> Self {
        let realm = u32::from(realm.as_raw());
        match guest {
            IpAddr::V4(guest) => Self { high: 0, low: guest.to_bits().into(), realm },
            IpAddr::V6(guest) => {
                let bits = guest.to_bits();
                Self { high: (bits >> 64) as u64, low: bits as u64, realm: realm | IPV6 }
            }
        }
    }

    /// The shard it belongs to. It needs no secret: who shares a lock with whom is nothing to gain by.
    const fn shard(self) -> usize {
        let mixed = self.high ^ self.low ^ (self.realm as u64) << 40;
        (mixed.wrapping_mul(GOLDEN) >> 56) as usize % SHARDS
    }
}

/// 2^64 divided by the golden ratio: neighbouring numbers, multiplied with it, lie far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Debug, Default)]
struct GuestUse {
    sessions: u32,
    /// Whether it stands in [`Uses::idle`].
    is_queued: bool,
    /// When, in nanoseconds of the clock, a guest that starts nothing more has its whole burst back.
    recovered_ns: u64,
    /// The pool address that its sessions have.
    paired: Option<Ipv4Addr>,
}

impl Guests {
    /// Nobody uses anything yet.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        let hasher = RandomState::with_seeds(a, b, c, d);
        let uses = || Uses { guests: HashMap::with_hasher(hasher.clone()), idle: VecDeque::new() };
        let shards = (0..SHARDS).map(|_| Shard(Mutex::new(uses()))).collect();
        Self { shards }
    }

    /// Counts one more session of a guest. Returns the pool address that its other sessions have.
    ///
    /// # Errors
    /// [`DropReason::SessionLimit`] or [`DropReason::RateLimited`]; nothing is counted then.
    pub fn enter(
        &self,
        realm: Realm,
        guest: impl Into<IpAddr>,
        limits: GuestLimits,
        now: Tick,
    ) -> Result<Option<Ipv4Addr>, DropReason> {
        let key = GuestKey::new(realm, guest.into());
        let now_ns = now.as_ms().saturating_mul(NS_PER_MS);
        let mut uses = self.shard(key).lock();
        uses.forget_idle(now_ns);
        // Most have sessions already; a place for one more is asked for where there is none.
        let guest = match uses.guests.get_mut(&key) {
            Some(guest) => guest,
            None => uses.guests.entry(key).or_default(),
        };
        let recovered_ns = guest.after_one_more(limits, now_ns);
        if let Ok(recovered_ns) = recovered_ns {
            guest.recovered_ns = recovered_ns;
            guest.sessions += 1;
        }
        recovered_ns.map(|_| guest.paired)
    }

    /// Counts one session less.
    pub fn leave(&self, realm: Realm, guest: impl Into<IpAddr>) {
        let key = GuestKey::new(realm, guest.into());
        let mut uses = self.shard(key).lock();
        let uses = &mut *uses;
        let Some(guest) = uses.guests.get_mut(&key) else { return };
        guest.sessions = guest.sessions.saturating_sub(1);
        if guest.sessions > 0 || guest.is_queued {
            return;
        }
        if guest.recovered_ns == 0 {
            // It never had a rate to keep.
            uses.guests.remove(&key);
        } else {
            guest.is_queued = true;
            uses.idle.push_back(key);
        }
    }

    /// Sessions a guest has now.
    #[must_use]
    pub fn sessions(&self, realm: Realm, guest: impl Into<IpAddr>) -> u32 {
        let key = GuestKey::new(realm, guest.into());
        self.shard(key).lock().guests.get(&key).map_or(0, |guest| guest.sessions)
    }

    /// The pool address that a guest's sessions have, while it has some.
    #[must_use]
    pub fn paired(&self, realm: Realm, guest: Ipv4Addr) -> Option<Ipv4Addr> {
        let key = GuestKey::new(realm, guest.into());
        self.shard(key).lock().guests.get(&key)?.paired
    }

    /// Remembers the pool address of a guest's sessions for as long as it has some.
    pub fn pair(&self, realm: Realm, guest: Ipv4Addr, address: Ipv4Addr) {
        let key = GuestKey::new(realm, guest.into());
        if let Some(guest) = self.shard(key).lock().guests.get_mut(&key) {
            guest.paired = Some(address);
        }
    }

    fn shard(&self, key: GuestKey) -> &Mutex<Uses> {
        &self.shards[key.shard()].0
    }
}

impl Uses {
    /// Forgets a few guests that have neither sessions nor a rate to recover from.
    fn forget_idle(&mut self, now_ns: u64) {
        for _ in 0..FORGET_BURST {
            let Some(key) = self.idle.front() else { return };
            match self.guests.get_mut(key) {
                Some(guest) if guest.sessions > 0 => guest.is_queued = false,
                Some(guest) if guest.recovered_ns > now_ns => return,
                Some(_) => {
                    self.guests.remove(key);
                }
                None => {}
            }
            self.idle.pop_front();
        }
    }
}

impl GuestUse {
    /// When the guest will have recovered if it gets one more session; or why it does not get it.
    ///
    /// A token bucket kept as the one moment at which it is full again: each session moves that
    /// moment by its share of a second, and never further ahead than one second, the burst.
    fn after_one_more(&self, limits: GuestLimits, now_ns: u64) -> Result<u64, DropReason> {
        if limits.sessions > 0 && self.sessions >= limits.sessions {
            return Err(DropReason::SessionLimit);
        }
        let Some(share_ns) = NS_PER_S.checked_div(u64::from(limits.new_sessions_per_second)) else {
            return Ok(self.recovered_ns);
        };
        let recovered_ns = self.recovered_ns.max(now_ns).saturating_add(share_ns);
        if recovered_ns - now_ns > NS_PER_S {
            return Err(DropReason::RateLimited);
        }
        Ok(recovered_ns)
    }
}

const SHARDS: usize = 256;
/// Idle guests looked at with each new session: more than one, so that the queue empties.
const FORGET_BURST: u32 = 2;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 5);

    fn realm(number: u16) -> Realm {
        Realm::from_raw(number)
    }

    fn entries(guests: &Guests) -> usize {
        guests.shards.iter().map(|shard| shard.0.lock().guests.len()).sum()
    }

    #[test]
    fn a_guest_has_as_many_sessions_as_it_may_and_others_do_not_count() {
        let guests = Guests::new([1, 2, 3, 4]);
        let limits = GuestLimits { sessions: 2, new_sessions_per_second: 0 };
        let enter = |realm, guest| guests.enter(realm, guest, limits, Tick::ZERO);
        assert_eq!(enter(realm(1), GUEST), Ok(None));
        assert_eq!(enter(realm(1), GUEST), Ok(None));
        assert_eq!(enter(realm(1), GUEST), Err(DropReason::SessionLimit));
        assert_eq!(enter(realm(2), GUEST), Ok(None));
        assert_eq!(enter(realm(1), Ipv4Addr::new(10, 1, 1, 6)), Ok(None));
        assert_eq!(guests.sessions(realm(1), GUEST), 2);
        guests.leave(realm(1), GUEST);
        assert_eq!(enter(realm(1), GUEST), Ok(None));
    }

    #[test]
    fn a_rate_allows_a_burst_of_one_second_and_then_its_share() {
        let guests = Guests::new([1, 2, 3, 4]);
        let limits = GuestLimits { sessions: 0, new_sessions_per_second: 10 };
        let entered = |from_ms: u64, to_ms: u64| {
            let ticks = (from_ms..to_ms).map(Tick::from_ms);
            ticks.filter(|now| guests.enter(realm(1), GUEST, limits, *now).is_ok()).count()
        };
        assert_eq!(entered(5_000, 5_050), 10);
        assert_eq!(entered(5_050, 7_000), 19);
        assert_eq!(entered(9_000, 9_001), 1);
        assert_eq!(guests.sessions(realm(1), GUEST), 30);
    }

    #[test]
    fn opening_and_closing_does_not_renew_the_burst() {
        let guests = Guests::new([1, 2, 3, 4]);
        let limits = GuestLimits { sessions: 0, new_sessions_per_second: 10 };
        let mut entered = 0;
        for _ in 0..100 {
            if guests.enter(realm(1), GUEST, limits, Tick::from_ms(1)).is_ok() {
                entered += 1;
                guests.leave(realm(1), GUEST);
            }
        }
        assert_eq!(entered, 10);
    }

    #[test]
    fn a_guest_that_uses_nothing_is_forgotten() {
        let guests = Guests::new([1, 2, 3, 4]);
        for limits in
            [GuestLimits::default(), GuestLimits { sessions: 0, new_sessions_per_second: 10 }]
        {
            for bits in 0..10_000 {
                let guest = Ipv4Addr::from_bits(bits);
                assert_eq!(guests.enter(realm(1), guest, limits, Tick::from_ms(1)), Ok(None));
            }
            for bits in 0..10_000 {
                guests.leave(realm(1), Ipv4Addr::from_bits(bits));
                guests.leave(realm(1), Ipv4Addr::from_bits(bits));
            }
        }
        assert!(entries(&guests) > 0, "their rates have not recovered yet");
        for round in 0..10_000_u32 {
            let guest = Ipv4Addr::from_bits(0xff00_0000 + round);
            let now = Tick::from_ms(2_000);
            assert_eq!(guests.enter(realm(1), guest, GuestLimits::default(), now), Ok(None));
            guests.leave(realm(1), guest);
        }
        assert!(entries(&guests) < 20, "{}", entries(&guests));
        assert!(guests.shards.iter().all(|shard| shard.0.lock().idle.len() < 10));
    }

    #[test]
    fn a_refused_newcomer_leaves_nothing_behind() {
        let guests = Guests::new([1, 2, 3, 4]);
        let limits = GuestLimits { sessions: 1, new_sessions_per_second: 1 };
        assert_eq!(guests.enter(realm(1), GUEST, limits, Tick::from_ms(7)), Ok(None));
        assert_eq!(
            guests.enter(realm(1), GUEST, limits, Tick::from_ms(8)),
            Err(DropReason::SessionLimit)
        );
        guests.leave(realm(1), GUEST);
        assert_eq!(
            guests.enter(realm(1), GUEST, limits, Tick::from_ms(9)),
            Err(DropReason::RateLimited)
        );
        assert_eq!(guests.sessions(realm(1), GUEST), 0);
        assert_eq!(entries(&guests), 1, "its rate has not recovered yet");
    }
}
