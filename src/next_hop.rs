//! Where frames go next on the wire: interface, tag and link addresses, kept true by `host`.
//!
//! A session stores a [`NextHopId`]; the link address behind it may change at any time without
//! touching the session. Readers never lock: a next hop is three words of memory, each of which is
//! true by itself, and the index that finds it only ever grows. Making a next hop takes a lock.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ahash::RandomState;
use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use crate::flow::{Mac, PortId};

/// A next hop: its place in [`NextHops`] (24 bits). Ids are never reused while the engine runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct NextHopId(pub u32);

/// A neighbour on an interface, by which it is found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Neighbor {
    /// The interface.
    pub port: PortId,
    /// The VLAN identifier; zero for untagged.
    pub vlan: u16,
    /// The neighbour's address.
    pub address: Ipv4Addr,
}

/// What a frame needs to reach a neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// The interface to transmit on.
    pub port: PortId,
    /// The tag to transmit with; zero for none.
    pub vlan: u16,
    /// The largest IPv4 packet the link takes, in bytes.
    pub mtu: u16,
    /// Our own address on the link.
    pub source: Mac,
    /// The neighbour's address, or why there is none.
    pub destination: Resolution,
}

/// How far the resolution of a neighbour's link address has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resolution {
    /// It does not answer.
    Failed,
    /// It was asked for and has not answered yet.
    Pending,
    /// Frames go to this address.
    Reachable(Mac),
}

/// All next hops, shared by workers and the host thread.
pub struct NextHops {
    hops: Box<[Hop]>,
    /// Open addressing with linear probing; a place holds an id plus one, or zero. Never emptied.
    index: Box<[AtomicU32]>,
    hasher: RandomState,
    /// How many hops are made; they are `hops[..count]`.
    count: AtomicU32,
    /// Source address (low 48 bits) and MTU (high 16) of every interface.
    interfaces: Box<[AtomicU64]>,
    /// Held while a hop is made or link properties change. The MTUs of tagged networks.
    vlan_mtus: Mutex<Vec<(PortId, u16, u16)>>,
    wanted: ArrayQueue<NextHopId>,
    changes: AtomicU64,
}

/// One next hop. Thirty-two bytes, so that it never lies across two cache lines.
#[repr(align(32))]
struct Hop {
    /// The neighbour's link address in the low 48 bits, and flags above.
    destination: AtomicU64,
    /// Our own link address in the low 48 bits, the interface above.
    source: AtomicU64,
    /// From the top: tag (16 bits), MTU (16 bits), the neighbour's IPv4 address (32 bits).
    network: AtomicU64,
}

impl NextHops {
    /// Room for `capacity` next hops.
    ///
    /// # Panics
    ///
    /// If `capacity` is zero or does not fit into the 24 bits of an id.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!((1..=CAPACITY_MAX).contains(&capacity), "a next hop's id has 24 bits");
        let index_length = (capacity * 2).next_power_of_two();
        Self {
            hops: (0..capacity).map(|_| Hop::unused()).collect(),
            index: (0..index_length).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
            count: AtomicU32::new(0),
            interfaces: (0..=usize::from(u8::MAX))
                .map(|_| AtomicU64::new(interface_word(Mac::default(), MTU_DEFAULT)))
                .collect(),
            vlan_mtus: Mutex::new(Vec::new()),
            wanted: ArrayQueue::new(capacity),
            changes: AtomicU64::new(0),
        }
    }

    /// The id of `neighbor`, made and queued for resolution if it is new. None when the table is full.
    pub fn id(&self, neighbor: Neighbor) -> Option<NextHopId> {
        self.find(neighbor).or_else(|| self.make(neighbor))
    }

    /// The id of `neighbor`, if somebody asked for it before.
    #[must_use]
    pub fn find(&self, neighbor: Neighbor) -> Option<NextHopId> {
        self.probe(neighbor).ok()
    }

    /// What a frame to this next hop needs now. An id that was never given out leads nowhere: its
    /// resolution has failed.
    #[must_use]
    pub fn link(&self, id: NextHopId) -> Link {
        let Some(hop) = self.hop(id) else { return Link::NOWHERE };
        let destination = hop.destination.load(Ordering::Relaxed);
        if destination & USED == 0 {
            hop.destination.fetch_or(USED, Ordering::Relaxed);
        }
        let source = hop.source.load(Ordering::Relaxed);
        let network = hop.network.load(Ordering::Relaxed);
        Link {
            port: source_port(source),
            vlan: network_vlan(network),
            mtu: network_mtu(network),
            source: Mac::from_bits(source),
            destination: resolution(destination),
        }
    }

    /// Who this next hop is.
    #[must_use]
    pub fn neighbor(&self, id: NextHopId) -> Neighbor {
        self.hop(id).map_or(Neighbor::NOBODY, Hop::neighbor)
    }

    /// Asks (again) for the link address of `id`; drained by [`Self::take_wanted`]. Cheap, may be
    /// called for every frame that finds the next hop unresolved.
    pub fn want(&self, id: NextHopId) {
        let Some(hop) = self.hop(id) else { return };
        if hop.destination.load(Ordering::Relaxed) & WANTED != 0 {
            return;
        }
        if hop.destination.fetch_or(WANTED, Ordering::AcqRel) & WANTED == 0 {
            // Cannot be full: the flag admits each hop once, and there is room for all.
            let _ = self.wanted.push(id);
        }
    }

    /// The next hops whose resolution somebody waits for, each once.
    pub fn take_wanted(&self) -> Vec<NextHopId> {
        let mut taken = Vec::with_capacity(self.wanted.len());
        // At most what was there at the start: others may ask as fast as we take.
        while taken.len() < taken.capacity()
            && let Some(id) = self.wanted.pop()
        {
            self.clear(id, WANTED);
            taken.push(id);
        }
        taken
    }

    /// The next hops that frames were sent to since the last call, for `host` to keep fresh.
    pub fn take_used(&self) -> Vec<NextHopId> {
        let ids = (0..self.count.load(Ordering::Acquire)).map(NextHopId);
        ids.filter(|&id| self.clear(id, USED)).collect()
    }

    /// What `host` learned of a neighbour. Unknown neighbours are ignored, and so is a link address
    /// that can be nobody's: a group's, or zero.
    pub fn set(&self, neighbor: Neighbor, resolution: Resolution) {
        let bits = match resolution {
            Resolution::Failed => FAILED,
            Resolution::Pending => PENDING,
            Resolution::Reachable(mac) if mac.is_group() || mac == Mac::default() => return,
            Resolution::Reachable(mac) => REACHABLE | mac.as_bits(),
        };
        let Some(hop) = self.find(neighbor).and_then(|id| self.hop(id)) else { return };
        let keep = WANTED | USED;
        let changed = hop
            .destination
            .try_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & !keep != bits).then_some(word & keep | bits)
            })
            .is_ok();
        if changed {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// The link properties of an interface's (and tag's) next hops, present and future.
    pub fn set_interface(&self, port: PortId, source: Mac, mtu: u16) {
        let vlan_mtus = self.vlan_mtus.lock();
        if let Some(interface) = self.interfaces.get(port.index()) {
            interface.store(interface_word(source, mtu), Ordering::Release);
        }
        self.refresh(port, &vlan_mtus);
    }

    /// The MTU of a tagged network, where it is smaller than its interface's.
    pub fn set_vlan_mtu(&self, port: PortId, vlan: u16, mtu: u16) {
        let mut vlan_mtus = self.vlan_mtus.lock();
        vlan_mtus.retain(|&(p, v, _)| (p, v) != (port, vlan));
        vlan_mtus.push((port, vlan, mtu));
        self.refresh(port, &vlan_mtus);
    }

    /// Our own address on an interface.
    #[must_use]
    pub fn source_mac(&self, port: PortId) -> Mac {
        Mac::from_bits(self.interface(port))
    }

    /// Goes up whenever anything was resolved or failed: a worker that holds frames looks again.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Every next hop, for people to look at.
    #[must_use]
    pub fn all(&self) -> Vec<(NextHopId, Neighbor, Resolution)> {
        let ids = (0..self.count.load(Ordering::Acquire)).map(NextHopId);
        ids.filter_map(|id| {
            let hop = self.hop(id)?;
            Some((id, hop.neighbor(), resolution(hop.destination.load(Ordering::Acquire))))
        })
        .collect()
    }

    /// The id of `neighbor`, or the place in the index where it belongs (none if that is full).
    fn probe(&self, neighbor: Neighbor) -> Result<NextHopId, Option<usize>> {
        let mask = self.index.len() - 1;
        let start = self.hasher.hash_one(neighbor) as usize;
        for step in 0..self.index.len() {
            let place = start.wrapping_add(step) & mask;
            // Pairs with the release in `make`: whoever sees the id sees the hop's words.
            let found = self.index.get(place).map_or(0, |entry| entry.load(Ordering::Acquire));
            let Some(id) = found.checked_sub(1).map(NextHopId) else { return Err(Some(place)) };
            if self.neighbor(id) == neighbor {
                return Ok(id);
            }
        }
        Err(None)
    }

    fn make(&self, neighbor: Neighbor) -> Option<NextHopId> {
        let vlan_mtus = self.vlan_mtus.lock();
        let place = match self.probe(neighbor) {
            Ok(id) => return Some(id),
            Err(place) => place?,
        };
        let count = self.count.load(Ordering::Acquire);
        let id = NextHopId(count);
        let hop = self.hop(id)?;
        let Neighbor { port, vlan, address } = neighbor;
        let (source, mtu) = self.properties(port, vlan, &vlan_mtus);
        hop.source.store(source_word(source, port), Ordering::Relaxed);
        hop.network.store(network_word(vlan, mtu, address), Ordering::Relaxed);
        hop.destination.store(PENDING, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
        if let Some(entry) = self.index.get(place) {
            entry.store(count + 1, Ordering::Release);
        }
        drop(vlan_mtus);
        self.want(id);
        Some(id)
    }

    /// Gives every hop of `port` the link properties it should have now.
    fn refresh(&self, port: PortId, vlan_mtus: &[(PortId, u16, u16)]) {
        let count = self.count.load(Ordering::Acquire) as usize;
        for hop in self.hops.iter().take(count) {
            let neighbor = hop.neighbor();
            if neighbor.port != port {
                continue;
            }
            let (source, mtu) = self.properties(port, neighbor.vlan, vlan_mtus);
            hop.source.store(source_word(source, port), Ordering::Relaxed);
            let network = network_word(neighbor.vlan, mtu, neighbor.address);
            hop.network.store(network, Ordering::Relaxed);
        }
    }

    fn properties(&self, port: PortId, vlan: u16, vlan_mtus: &[(PortId, u16, u16)]) -> (Mac, u16) {
        let interface = self.interface(port);
        let of_interface = interface_mtu(interface);
        let of_vlan = vlan_mtus.iter().find(|&&(p, v, _)| (p, v) == (port, vlan));
        let mtu = of_vlan.map_or(of_interface, |&(_, _, mtu)| mtu.min(of_interface));
        (Mac::from_bits(interface), mtu)
    }

    fn interface(&self, port: PortId) -> u64 {
        self.interfaces.get(port.index()).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn hop(&self, id: NextHopId) -> Option<&Hop> {
        self.hops.get(id.0 as usize)
    }

    /// Takes a flag away; returns whether it was there.
    fn clear(&self, id: NextHopId, flag: u64) -> bool {
        self.hop(id).is_some_and(|hop| {
            hop.destination.load(Ordering::Relaxed) & flag != 0
                && hop.destination.fetch_and(!flag, Ordering::AcqRel) & flag != 0
        })
    }
}

impl Hop {
    const fn unused() -> Self {
        Self {
            destination: AtomicU64::new(FAILED),
            source: AtomicU64::new(0),
            network: AtomicU64::new(0),
        }
    }

    fn neighbor(&self) -> Neighbor {
        let network = self.network.load(Ordering::Relaxed);
        Neighbor {
            port: source_port(self.source.load(Ordering::Relaxed)),
            vlan: network_vlan(network),
            address: Ipv4Addr::from_bits(network as u32),
        }
    }
}

impl Link {
    const NOWHERE: Self = Self {
        port: PortId(0),
        vlan: 0,
        mtu: MTU_DEFAULT,
        source: Mac([0; 6]),
        destination: Resolution::Failed,
    };
}

impl Neighbor {
    const NOBODY: Self = Self { port: PortId(0), vlan: 0, address: Ipv4Addr::UNSPECIFIED };
}

/// What an interface's MTU is taken for until `host` has said.
const MTU_DEFAULT: u16 = 1500;
const CAPACITY_MAX: usize = 1 << 24;

/// Flags in [`Hop::destination`], and the absence of the first two.
const PENDING: u64 = 0;
const REACHABLE: u64 = 1 << 48;
const FAILED: u64 = 1 << 49;
/// Somebody waits for the resolution; the hop is in the queue.
const WANTED: u64 = 1 << 50;
/// A frame was sent here since the flag was last taken away.
const USED: u64 = 1 << 51;

const fn resolution(destination: u64) -> Resolution {
    if destination & REACHABLE != 0 {
        Resolution::Reachable(Mac::from_bits(destination))
    } else if destination & FAILED != 0 {
        Resolution::Failed
    } else {
        Resolution::Pending
    }
}

const fn source_word(source: Mac, port: PortId) -> u64 {
    (port.0 as u64) << 48 | source.as_bits()
}

const fn source_port(source: u64) -> PortId {
    PortId((source >> 48) as u8)
}

const fn network_word(vlan: u16, mtu: u16, address: Ipv4Addr) -> u64 {
    (vlan as u64) << 48 | (mtu as u64) << 32 | address.to_bits() as u64
}

const fn network_vlan(network: u64) -> u16 {
    (network >> 48) as u16
}

const fn network_mtu(network: u64) -> u16 {
    (network >> 32) as u16
}

const fn interface_word(source: Mac, mtu: u16) -> u64 {
    (mtu as u64) << 48 | source.as_bits()
}

const fn interface_mtu(interface: u64) -> u16 {
    (interface >> 48) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn neighbor(port: u8, vlan: u16, last: u8) -> Neighbor {
        Neighbor { port: PortId(port), vlan, address: Ipv4Addr::new(10, 1, 1, last) }
    }

    #[test]
    fn a_new_next_hop_is_pending_and_wanted_once() {
        let hops = NextHops::new(8);
        let id = hops.id(neighbor(1, 100, 5)).expect("room");
        hops.want(id);
        assert_eq!(hops.id(neighbor(1, 100, 5)), Some(id));
        assert_eq!(hops.link(id).destination, Resolution::Pending);
        assert_eq!(hops.take_wanted(), [id]);
        assert!(hops.take_wanted().is_empty());
        hops.want(id);
        assert_eq!(hops.take_wanted(), [id]);
    }

    #[test]
    fn what_was_learned_is_what_frames_get() {
        let hops = NextHops::new(8);
        hops.set_interface(PortId(1), OURS, 1500);
        hops.set_vlan_mtu(PortId(1), 100, 1400);
        let id = hops.id(neighbor(1, 100, 5)).expect("room");
        hops.set(neighbor(1, 100, 5), Resolution::Reachable(MAC));
        let expected = Link {
            port: PortId(1),
            vlan: 100,
            mtu: 1400,
            source: OURS,
            destination: Resolution::Reachable(MAC),
        };
        assert_eq!(hops.link(id), expected);
        assert_eq!(hops.neighbor(id), neighbor(1, 100, 5));
        assert_eq!(hops.all(), [(id, neighbor(1, 100, 5), Resolution::Reachable(MAC))]);
        assert_eq!(hops.source_mac(PortId(1)), OURS);
    }

    #[test]
    fn link_properties_reach_present_and_future_hops_of_their_interface_only() {
        let hops = NextHops::new(8);
        let tagged = hops.id(neighbor(0, 7, 1)).expect("room");
        let other = hops.id(neighbor(1, 0, 1)).expect("room");
        hops.set_interface(PortId(0), OURS, 9000);
        hops.set_vlan_mtu(PortId(0), 7, 1450);
        let untagged = hops.id(neighbor(0, 0, 1)).expect("room");
        assert_eq!((hops.link(tagged).mtu, hops.link(tagged).source), (1450, OURS));
        assert_eq!((hops.link(untagged).mtu, hops.link(untagged).source), (9000, OURS));
        assert_eq!((hops.link(other).mtu, hops.link(other).source), (1500, Mac::default()));
        // A network's MTU never exceeds what its interface carries.
        hops.set_interface(PortId(0), OURS, 1300);
        assert_eq!(hops.link(tagged).mtu, 1300);
    }

    #[test]
    fn only_a_changed_resolution_counts_as_a_change() {
        let hops = NextHops::new(8);
        let id = hops.id(neighbor(0, 0, 1)).expect("room");
        for (resolution, changes) in [
            (Resolution::Pending, 0),
            (Resolution::Reachable(MAC), 1),
            (Resolution::Reachable(MAC), 1),
            (Resolution::Reachable(OURS), 2),
            (Resolution::Failed, 3),
            (Resolution::Failed, 3),
            (Resolution::Pending, 4),
        ] {
            hops.set(neighbor(0, 0, 1), resolution);
            assert_eq!((hops.changes(), hops.link(id).destination), (changes, resolution));
        }
    }

    #[test]
    fn an_unknown_neighbor_and_an_impossible_address_are_ignored() {
        let hops = NextHops::new(8);
        hops.set(neighbor(0, 0, 1), Resolution::Reachable(MAC));
        assert_eq!((hops.changes(), hops.all().len()), (0, 0));
        let id = hops.id(neighbor(0, 0, 1)).expect("room");
        for mac in [Mac::BROADCAST, Mac::default(), Mac([1, 0, 0x5e, 0, 0, 1])] {
            hops.set(neighbor(0, 0, 1), Resolution::Reachable(mac));
        }
        assert_eq!(hops.link(id).destination, Resolution::Pending);
    }

    #[test]
    fn a_full_table_makes_no_more_but_still_finds() {
        let hops = NextHops::new(2);
        let first = hops.id(neighbor(0, 0, 1));
        assert!(first.is_some() && hops.id(neighbor(0, 0, 2)).is_some());
        assert_eq!(hops.id(neighbor(0, 0, 3)), None);
        assert_eq!(hops.id(neighbor(0, 0, 1)), first);
        assert_eq!(hops.all().len(), 2);
    }

    #[test]
    fn an_id_that_was_never_given_out_leads_nowhere() {
        let hops = NextHops::new(2);
        for id in [NextHopId(0), NextHopId(2), NextHopId(u32::MAX)] {
            hops.want(id);
            assert_eq!(hops.link(id).destination, Resolution::Failed);
        }
    }

    #[test]
    fn used_hops_are_told_once() {
        let hops = NextHops::new(4);
        let id = hops.id(neighbor(0, 0, 1)).expect("room");
        let _unused = hops.id(neighbor(0, 0, 2)).expect("room");
        assert!(hops.take_used().is_empty());
        let _ = (hops.link(id), hops.link(id));
        assert_eq!(hops.take_used(), [id]);
        assert!(hops.take_used().is_empty());
    }

    #[test]
    fn threads_agree_on_every_id_and_each_is_wanted_once() {
        const THREADS: u8 = 4;
        let hops = NextHops::new(250);
        let barrier = Barrier::new(usize::from(THREADS));
        let seen: Vec<Vec<Option<NextHopId>>> = std::thread::scope(|scope| {
            let run = |thread: u8| {
                let (hops, barrier) = (&hops, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let mut ids = vec![None; 250];
                    for step in 0..250_u8 {
                        // Seven and 250 have no common divisor: every thread asks for all, in turn.
                        let last = (u16::from(step) * 7 + u16::from(thread) * 50) % 250;
                        let last = u8::try_from(last).expect("below 250");
                        let id = hops.id(neighbor(last % 3, 0, last)).expect("room");
                        hops.set(neighbor(last % 3, 0, last), Resolution::Reachable(MAC));
                        // Whoever holds an id sees whole words.
                        assert_eq!(hops.link(id).port, PortId(last % 3));
                        ids[usize::from(last)] = Some(id);
                    }
                    ids
                })
            };
            let threads: Vec<_> = (0..THREADS).map(run).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(hops.all().len(), 250);
        let mut wanted = hops.take_wanted();
        wanted.sort_by_key(|id| id.0);
        assert_eq!(wanted, (0..250).map(NextHopId).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn ids_are_those_of_a_map(
            asked in prop::collection::vec((0..3_u8, 0..3_u16, 0..20_u8), 0..200)
        ) {
            let hops = NextHops::new(64);
            let mut map = HashMap::new();
            for (port, vlan, last) in asked {
                let neighbor = neighbor(port, vlan, last);
                let full = map.len() == 64;
                let next = NextHopId(u32::try_from(map.len()).expect("few"));
                let expected = map.get(&neighbor).copied().or((!full).then_some(next));
                if let Some(id) = expected {
                    map.insert(neighbor, id);
                }
                prop_assert_eq!(hops.id(neighbor), expected);
            }
            for (neighbor, id) in map {
                prop_assert_eq!(hops.neighbor(id), neighbor);
            }
        }
    }
}
