//! What one guest may use: sessions, new sessions per second, and mappings (RFC 6888, REQ-4).
//!
//! A map by guest in shards with a lock each, which is the last one taken. A guest without sessions and
//! mappings is forgotten once its rate has recovered too, so memory follows the guests that are there.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};

use ahash::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::flow::{Protocol, Realm};
use crate::nat::mappings::{MappingCounts, MappingLimits, Pool};
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

/// Which pool address a session shows.
#[derive(Clone, Copy, Debug)]
pub enum Shows<'p> {
    /// None: its source comes from no pool.
    Nothing,
    /// This one.
    Address(Ipv4Addr),
    /// The one that others of its guest show, if it is in the pool, or the pool's only one (paired
    /// pooling: RFC 4787, REQ-2).
    OneOf(&'p Pool),
}

impl From<Option<Ipv4Addr>> for Shows<'_> {
    fn from(address: Option<Ipv4Addr>) -> Self {
        address.map_or(Self::Nothing, Self::Address)
    }
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
    /// Guests that use nothing and whose rate may not have recovered, in about the order it will.
    idle: VecDeque<GuestKey>,
}

/// A guest of either family, in few words to hash and compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct GuestKey {
    high: u64,
    low: u64,
    /// The realm's number, and [`IPV6`].
    realm: u32,
}

/// One word is hashed of a guest of IPv4: its lower half is no more than the address.
impl Hash for GuestKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if self.realm & IPV6 != 0 {
            state.write_u64(self.high);
            state.write_u64(self.low);
            state.write_u32(self.realm);
        } else {
            state.write_u64(self.low << 32 | u64::from(self.realm));
        }
    }
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

#[derive(Debug, Default)]
struct GuestUse {
    sessions: u32,
    mappings: MappingCounts,
    /// Whether it stands in [`Uses::idle`].
    is_queued: bool,
    /// When, in nanoseconds of the clock, a guest that starts nothing more has its whole burst back.
    recovered_ns: u64,
    shown: Shown,
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

    /// Counts one more session of a guest. Returns the address that it shows; none if it shows none, or
    /// [`Self::show`] is to say which one of several.
    ///
    /// # Errors
    /// [`DropReason::SessionLimit`] or [`DropReason::RateLimited`]; nothing is counted then.
    pub fn enter(
        &self,
        realm: Realm,
        guest: impl Into<IpAddr>,
        limits: GuestLimits,
        shows: Shows<'_>,
        now: Tick,
    ) -> Result<Option<Ipv4Addr>, DropReason> {
        let now_ns = now.as_ms().saturating_mul(NS_PER_MS);
        self.change(GuestKey::new(realm, guest.into()), now_ns, |guest| {
            guest.recovered_ns = guest.after_one_more(limits, now_ns)?;
            guest.sessions += 1;
            Ok(guest.shown.enter(shows))
        })
    }

    /// The same with a mapping of `protocol`: both, or none.
    ///
    /// # Errors
    /// Likewise, and [`DropReason::PortLimit`].
    #[inline(always)]
    pub fn enter_with_mapping(
        &self,
        realm: Realm,
        guest: Ipv4Addr,
        (limits, mapping_limits): (GuestLimits, MappingLimits),
        (protocol, shows): (Protocol, Shows<'_>),
        now: Tick,
    ) -> Result<Option<Ipv4Addr>, DropReason> {
        let now_ns = now.as_ms().saturating_mul(NS_PER_MS);
        self.change(GuestKey::new(realm, guest.into()), now_ns, |guest| {
            let recovered_ns = guest.after_one_more(limits, now_ns)?;
            guest.map(protocol, mapping_limits)?;
            guest.recovered_ns = recovered_ns;
            guest.sessions += 1;
            Ok(guest.shown.enter(shows))
        })
    }

    /// Counts one more mapping of a guest.
    ///
    /// # Errors
    /// [`DropReason::PortLimit`]; nothing is counted then.
    pub fn enter_mapping(
        &self,
        realm: Realm,
        guest: Ipv4Addr,
        protocol: Protocol,
        limits: MappingLimits,
    ) -> Result<(), DropReason> {
        self.change(GuestKey::new(realm, guest.into()), 0, |guest| guest.map(protocol, limits))
    }

    /// Counts one session less, which showed that address.
    pub fn leave(&self, realm: Realm, guest: impl Into<IpAddr>, shown: Option<Ipv4Addr>) {
        self.give_back(GuestKey::new(realm, guest.into()), |guest| {
            guest.sessions = guest.sessions.saturating_sub(1);
            if let Some(address) = shown {
                guest.shown.leave(address);
            }
        });
    }

    /// Counts one mapping less.
    pub fn leave_mapping(&self, realm: Realm, guest: Ipv4Addr, protocol: Protocol) {
        self.give_back(GuestKey::new(realm, guest.into()), |guest| guest.mappings.shrink(protocol));
    }

    /// The mappings that a guest has now.
    #[must_use]
    pub fn mappings(&self, realm: Realm, guest: Ipv4Addr) -> MappingCounts {
        let key = GuestKey::new(realm, guest.into());
        self.shard(key).lock().guests.get(&key).map(|guest| guest.mappings).unwrap_or_default()
    }

    /// Sessions a guest has now.
    #[must_use]
    pub fn sessions(&self, realm: Realm, guest: impl Into<IpAddr>) -> u32 {
        let key = GuestKey::new(realm, guest.into());
        self.shard(key).lock().guests.get(&key).map_or(0, |guest| guest.sessions)
    }

    /// The address of a pool that a guest's sessions show, if any does.
    #[must_use]
    pub fn shown(&self, realm: Realm, guest: Ipv4Addr, pool: &Pool) -> Option<Ipv4Addr> {
        let key = GuestKey::new(realm, guest.into());
        self.shard(key).lock().guests.get(&key)?.shown.one_of(pool)
    }

    /// Says which address a session shows that was counted without one.
    pub fn show(&self, realm: Realm, guest: Ipv4Addr, address: Ipv4Addr) {
        let key = GuestKey::new(realm, guest.into());
        if let Some(guest) = self.shard(key).lock().guests.get_mut(&key) {
            guest.shown.add(address);
        }
    }

    /// Has a guest use more, or not: whoever uses nothing after all is not kept.
    #[inline(always)]
    fn change<T>(
        &self,
        key: GuestKey,
        now_ns: u64,
        more: impl FnOnce(&mut GuestUse) -> Result<T, DropReason>,
    ) -> Result<T, DropReason> {
        let mut uses = self.shard(key).lock();
        if !uses.idle.is_empty() {
            uses.forget_idle(now_ns);
        }
        // Most are known already; a place for one more is asked for where there is none.
        let mut newcomer = GuestUse::default();
        let known = uses.guests.get_mut(&key);
        let is_known = known.is_some();
        let changed = more(known.unwrap_or(&mut newcomer))?;
        if !is_known {
            uses.guests.insert(key, newcomer);
        }
        Ok(changed)
    }

    /// Has a guest use less.
    fn give_back(&self, key: GuestKey, less: impl FnOnce(&mut GuestUse)) {
        let mut uses = self.shard(key).lock();
        let uses = &mut *uses;
        let Some(guest) = uses.guests.get_mut(&key) else { return };
        less(guest);
        if guest.is_active() || guest.is_queued {
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

    fn shard(&self, key: GuestKey) -> &Mutex<Uses> {
        &self.shards[key.shard()].0
    }
}

impl Uses {
    /// Forgets a few guests that use nothing and have no rate to recover from.
    fn forget_idle(&mut self, now_ns: u64) {
        for _ in 0..FORGET_BURST {
            let Some(key) = self.idle.front() else { return };
            match self.guests.get_mut(key) {
                Some(guest) if guest.is_active() => guest.is_queued = false,
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
    /// Whether it has sessions or mappings.
    const fn is_active(&self) -> bool {
        self.sessions > 0 || self.mappings.mappings > 0
    }

    /// Counts one more mapping, unless it may not have it.
    fn map(&mut self, protocol: Protocol, limits: MappingLimits) -> Result<(), DropReason> {
        if !self.mappings.may_grow(protocol, limits) {
            return Err(DropReason::PortLimit);
        }
        self.mappings.grow(protocol);
        Ok(())
    }

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

/// The pool addresses that a guest's sessions show, the longest shown first, each with how many sessions
/// show it. More than one while sessions live on whose address new rules have taken from the pool, or where
/// some leave by another side or into a network with a pool of its own.
#[derive(Debug, Default)]
struct Shown(SmallVec<[(Ipv4Addr, u32); 2]>);

impl Shown {
    /// One more session. Returns its address, if that is settled.
    #[inline(always)]
    fn enter(&mut self, shows: Shows<'_>) -> Option<Ipv4Addr> {
        let address = match shows {
            Shows::Nothing => None,
            Shows::Address(address) => Some(address),
            Shows::OneOf(pool) => self.one_of(pool),
        };
        if let Some(address) = address {
            self.add(address);
        }
        address
    }

    /// The address in a pool that is shown; of a pool with one address that one.
    #[inline(always)]
    fn one_of(&self, pool: &Pool) -> Option<Ipv4Addr> {
        if let [only] = pool.addresses.as_slice() {
            return Some(only.address);
        }
        let is_pooled = |address| pool.addresses.iter().any(|pooled| pooled.address == address);
        self.0.iter().map(|(address, _)| *address).find(|address| is_pooled(*address))
    }

    #[inline(always)]
    fn add(&mut self, address: Ipv4Addr) {
        match self.0.iter_mut().find(|(shown, _)| *shown == address) {
            Some((_, sessions)) => *sessions += 1,
            None => self.0.push((address, 1)),
        }
    }

    fn leave(&mut self, address: Ipv4Addr) {
        let Some(at) = self.0.iter().position(|(shown, _)| *shown == address) else { return };
        match &mut self.0[at].1 {
            0 | 1 => {
                self.0.remove(at);
            }
            sessions => *sessions -= 1,
        }
    }
}

const SHARDS: usize = 256;
/// Idle guests looked at with each new session: more than one, so that the queue empties.
const FORGET_BURST: u32 = 2;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests;
