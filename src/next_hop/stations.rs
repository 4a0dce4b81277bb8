//! Which station of a VXLAN network is behind which remote VTEP, learned from what it sends
//! (RFC 7348, section 4.1).
//!
//! Bounded: a set of eight for each hash, in which the station that was silent longest makes room.
//! Readers take no lock. A packet of a station that is where it was writes nothing, but for a stamp
//! every few seconds.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::flow::Mac;
use crate::time::Tick;

/// The stations of all VXLAN networks, each network by the tag that stands in for it.
pub struct Stations {
    slots: Box<[Slot]>,
    hasher: RandomState,
    /// Held to learn. The remotes that were heard of, by network.
    remotes: Mutex<HashMap<u16, Vec<Remote>>>,
    /// When anybody was heard last, for whoever has another clock.
    latest: AtomicU64,
}

/// A station. The key is its network and link address, the value its remote and when it was heard.
#[derive(Default)]
struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

/// A VTEP that was heard of.
#[derive(Clone, Copy, Debug)]
struct Remote {
    address: Ipv4Addr,
    heard: u32,
}

impl Stations {
    /// Nobody is known.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: (0..STATIONS_MAX).map(|_| Slot::default()).collect(),
            hasher: RandomState::new(),
            remotes: Mutex::new(HashMap::new()),
            latest: AtomicU64::new(0),
        }
    }

    /// The remote VTEP that `station` of the network `tag` is behind, if it was heard of lately.
    #[must_use]
    pub fn find(&self, tag: u16, station: Mac, now: Tick) -> Option<Ipv4Addr> {
        let key = key(tag, station);
        let slot = self.set(key).iter().find(|slot| slot.key.load(Ordering::Acquire) == key)?;
        let (remote, heard) = unpack(slot.value.load(Ordering::Acquire));
        // Another station may have moved in meanwhile.
        let is_same = slot.key.load(Ordering::Acquire) == key;
        (is_same && seconds(now).wrapping_sub(heard) < STATION_SECONDS).then_some(remote)
    }

    /// A frame of `station` came from `remote`.
    pub fn heard(&self, tag: u16, station: Mac, remote: Ipv4Addr, now: Tick) {
        if station.is_group() || station == Mac::default() {
            return;
        }
        let key = key(tag, station);
        let known = self.set(key).iter().find(|slot| slot.key.load(Ordering::Acquire) == key);
        if let Some(slot) = known {
            let (before, heard) = unpack(slot.value.load(Ordering::Acquire));
            if before == remote && seconds(now).wrapping_sub(heard) < STAMP_SECONDS {
                return;
            }
        }
        self.learn(key, tag, remote, seconds(now));
    }

    /// Tells the remote VTEPs of the network `tag` that were heard of lately, at most 256.
    pub fn for_each_remote(&self, tag: u16, now: Tick, tell: impl FnMut(Ipv4Addr)) {
        let remotes = self.remotes.lock();
        let known = remotes.get(&tag).map_or(&[][..], Vec::as_slice);
        let is_fresh = |remote: &&Remote| seconds(now).wrapping_sub(remote.heard) < STATION_SECONDS;
        known.iter().filter(is_fresh).map(|remote| remote.address).for_each(tell);
    }

    /// When anybody was heard last, on the workers' clock, to some seconds.
    #[must_use]
    pub fn latest(&self) -> Tick {
        Tick::from_ms(self.latest.load(Ordering::Relaxed).saturating_mul(1000))
    }

    #[cold]
    fn learn(&self, key: u64, tag: u16, remote: Ipv4Addr, now: u32) {
        let mut remotes = self.remotes.lock();
        self.latest.store(now.into(), Ordering::Relaxed);
        let known = remotes.entry(tag).or_default();
        match known.iter_mut().find(|known| known.address == remote) {
            Some(known) => known.heard = now,
            None => {
                known.retain(|known| now.wrapping_sub(known.heard) < STATION_SECONDS);
                if known.len() < REMOTES_MAX {
                    known.push(Remote { address: remote, heard: now });
                }
            }
        }
        let set = self.set(key);
        let own = set.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key);
        let silent = |slot: &&Slot| match slot.key.load(Ordering::Relaxed) {
            0 => u32::MAX,
            _ => now.wrapping_sub(unpack(slot.value.load(Ordering::Relaxed)).1),
        };
        let Some(slot) = own.or_else(|| set.iter().max_by_key(silent)) else { return };
        if own.is_none() {
            // Nobody may take the old station's remote for the new one's.
            slot.key.store(0, Ordering::Release);
        }
        slot.value.store(u64::from(remote.to_bits()) << 32 | u64::from(now), Ordering::Release);
        slot.key.store(key, Ordering::Release);
    }

    fn set(&self, key: u64) -> &[Slot] {
        let sets = STATIONS_MAX / SET_LENGTH;
        let first = self.hasher.hash_one(key) as usize % sets * SET_LENGTH;
        self.slots.get(first..first + SET_LENGTH).unwrap_or_default()
    }
}

impl Default for Stations {
    fn default() -> Self {
        Self::new()
    }
}

/// Tags are never zero, and so is no key.
const fn key(tag: u16, station: Mac) -> u64 {
    (tag as u64) << 48 | station.as_bits()
}

const fn unpack(value: u64) -> (Ipv4Addr, u32) {
    (Ipv4Addr::from_bits((value >> 32) as u32), value as u32)
}

/// Seconds on the workers' clock, as far as they fit.
fn seconds(now: Tick) -> u32 {
    now.since(Tick::ZERO).as_secs() as u32
}

/// Stations that are known at once, over all networks.
const STATIONS_MAX: usize = 1 << 16;
/// Stations whose hashes are the same, as far as they count.
const SET_LENGTH: usize = 8;
/// VTEPs that are learned of one network.
const REMOTES_MAX: usize = 256;
/// How long a silent station is believed to be where it was (as Linux does, and 802.1Q bridges).
const STATION_SECONDS: u32 = 300;
/// How often the stamp of a station is renewed.
const STAMP_SECONDS: u32 = 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
    const THERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 3);
    const NOW: Tick = Tick::from_ms(1_000_000);

    fn station(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    fn remotes(stations: &Stations, tag: u16, now: Tick) -> Vec<Ipv4Addr> {
        let mut all = Vec::new();
        stations.for_each_remote(tag, now, |remote| all.push(remote));
        all
    }

    fn later(seconds: u64) -> Tick {
        NOW.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_station_is_where_it_was_heard_last_in_its_own_network() {
        let stations = Stations::new();
        stations.heard(7, station(1), HERE, NOW);
        assert_eq!(stations.find(7, station(1), NOW), Some(HERE));
        assert_eq!(stations.find(8, station(1), NOW), None);
        assert_eq!(stations.find(7, station(2), NOW), None);
        stations.heard(7, station(1), THERE, later(1));
        assert_eq!(stations.find(7, station(1), later(1)), Some(THERE), "it moved");
        assert_eq!(remotes(&stations, 7, later(1)), [HERE, THERE]);
        assert!(remotes(&stations, 8, NOW).is_empty());
    }

    #[test]
    fn who_is_silent_is_forgotten_and_who_speaks_is_not() {
        let stations = Stations::new();
        for at in (0..1000).step_by(9) {
            stations.heard(7, station(1), HERE, later(at));
            assert_eq!(stations.find(7, station(1), later(at)), Some(HERE));
        }
        assert_eq!(stations.find(7, station(1), later(1400)), None);
        assert!(remotes(&stations, 7, later(1400)).is_empty());
    }

    #[test]
    fn groups_are_no_stations() {
        let stations = Stations::new();
        for mac in [Mac::BROADCAST, Mac::default(), Mac([1, 0, 0x5e, 0, 0, 1])] {
            stations.heard(7, mac, HERE, NOW);
            assert_eq!(stations.find(7, mac, NOW), None);
        }
    }

    #[test]
    fn however_many_speak_the_last_ones_are_known() {
        let stations = Stations::new();
        let count = 3 * STATIONS_MAX as u32;
        for number in 0..count {
            stations.heard(7, station(number), HERE, later(u64::from(number / 100_000)));
        }
        assert_eq!(stations.find(7, station(count - 1), later(2)), Some(HERE));
        let known = (0..count).filter(|n| stations.find(7, station(*n), later(2)).is_some());
        assert!(known.count() <= STATIONS_MAX);
    }
}
