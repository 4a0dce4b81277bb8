//! Where frames go next on the wire: interface, tag and link addresses, kept true by `host`.
//!
//! A session stores a [`NextHopId`]; the link address behind it may change at any time without
//! touching the session. Readers never lock: a next hop is three words of memory, each of which is
//! true by itself, and the index that finds it only ever grows. Making a next hop takes a lock.

mod hop;
pub mod stations;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use ahash::RandomState;
use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use self::hop::{
    CONFIRMED, FAILED, Hop, PENDING, REACHABLE, USED, WANTED, WideAddress, interface_mtu,
    interface_word, network_mtu, network_vlan, network_word, resolution, source_port, source_word,
};
use self::stations::Stations;
use crate::flow::{Mac, PortId};

/// A next hop: its place in [`NextHops`] (23 bits), and whether packets there are watched.
/// Ids are never reused while the engine runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct NextHopId(pub u32);

impl NextHopId {
    /// The same place, where more than the session is to be asked: limits, or calls that open others.
    #[must_use]
    pub const fn watched(self) -> Self {
        Self(self.0 | WATCHED)
    }

    /// Whether more than the session is to be asked, so that packets go the general way.
    #[inline]
    #[must_use]
    pub const fn is_watched(self) -> bool {
        self.0 & WATCHED != 0
    }

    /// The place alone.
    const fn plain(self) -> Self {
        Self(self.0 & !WATCHED)
    }
}

/// One for each number that a port may have.
const INTERFACES: usize = 256;
/// A link address in a word.
const MAC_BITS: u64 = (1 << 48) - 1;

/// The flag of [`NextHopId::watched`], above the places.
const WATCHED: u32 = 1 << 23;

/// A neighbour on an interface, by which it is found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Neighbor {
    /// The interface.
    pub port: PortId,
    /// The VLAN identifier; zero for untagged.
    pub vlan: u16,
    /// The neighbour's address.
    pub address: IpAddr,
}

/// What a frame needs to reach a neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// The interface to transmit on.
    pub port: PortId,
    /// The tag to transmit with; zero for none.
    pub vlan: u16,
    /// The largest IP packet the link takes, in bytes.
    pub mtu: u16,
    /// Our own address on the link.
    pub source: Mac,
    /// The neighbour's address, or why there is none.
    pub destination: Resolution,
}

/// What a frame needs to reach a neighbour whose link address is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// The interface to transmit on.
    pub port: PortId,
    /// The tag to transmit with; zero for none.
    pub vlan: u16,
    /// The largest IP packet the link takes, in bytes.
    pub mtu: u16,
    /// The neighbour's address and our own, as [`Mac::as_bits`] gives them.
    pub stations: [u64; 2],
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
    /// The addresses of those that are IPv6, at the same places: nobody who sends needs them.
    wide: Box<[WideAddress]>,
    /// Open addressing with linear probing; a place holds an id plus one, or zero. Never emptied.
    index: Box<[AtomicU32]>,
    hasher: RandomState,
    /// How many hops are made; they are `hops[..count]`.
    count: AtomicU32,
    /// Source address (low 48 bits) and MTU (high 16) of every interface.
    interfaces: Box<[AtomicU64; INTERFACES]>,
    /// Held while a hop is made or link properties change. The MTUs of tagged networks.
    vlan_mtus: Mutex<Vec<(PortId, u16, u16)>>,
    wanted: ArrayQueue<NextHopId>,
    /// Whether whoever drains `wanted` was woken and has not begun to drain.
    woken: AtomicBool,
    waker: Mutex<Option<Waker>>,
    changes: AtomicU64,
    stations: Stations,
}

impl NextHops {
    /// Room for `capacity` next hops.
    ///
    /// # Panics
    ///
    /// If `capacity` is zero or does not fit into the 23 bits of a place.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!((1..=CAPACITY_MAX).contains(&capacity), "a next hop's place has 23 bits");
        let index_length = (capacity * 2).next_power_of_two();
        Self {
            hops: (0..capacity).map(|_| Hop::unused()).collect(),
            wide: (0..capacity).map(|_| WideAddress::default()).collect(),
            index: (0..index_length).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
            count: AtomicU32::new(0),
            interfaces: Box::new(
                [const { AtomicU64::new(interface_word(Mac([0; 6]), MTU_DEFAULT)) }; INTERFACES],
            ),
            vlan_mtus: Mutex::new(Vec::new()),
            wanted: ArrayQueue::new(capacity),
            woken: AtomicBool::new(false),
            waker: Mutex::new(None),
            changes: AtomicU64::new(0),
            stations: Stations::new(),
        }
    }

    /// The id of `neighbor`, made and queued for resolution if it is new. None when the table is full.
    pub fn id(&self, neighbor: Neighbor) -> Option<NextHopId> {
        self.find(neighbor).or_else(|| self.make(neighbor))
    }

    /// The same for who knows where it stands `likely`: one comparison instead of a search.
    pub fn id_near(&self, neighbor: Neighbor, likely: NextHopId) -> Option<NextHopId> {
        if let (IpAddr::V4(address), Some(hop)) = (neighbor.address, self.hop(likely))
            && hop.is_at(neighbor.port, neighbor.vlan, address)
        {
            return Some(likely);
        }
        self.id(neighbor)
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

    /// The way to this next hop, if its link address is known. What [`Self::link`] says, in words as
    /// they are written into frames.
    #[inline]
    #[must_use]
    pub fn way(&self, id: NextHopId) -> Option<Way> {
        let hop = self.hop(id)?;
        let destination = hop.destination.load(Ordering::Relaxed);
        if destination & (REACHABLE | USED) != REACHABLE | USED {
            // The first frame that is sent here takes the other way, which notes that it is used.
            return None;
        }
        let source = hop.source.load(Ordering::Relaxed);
        let network = hop.network.load(Ordering::Relaxed);
        Some(Way {
            port: source_port(source),
            vlan: network_vlan(network),
            mtu: network_mtu(network),
            stations: [destination & MAC_BITS, source & MAC_BITS],
        })
    }

    /// Who this next hop is.
    #[must_use]
    pub fn neighbor(&self, id: NextHopId) -> Neighbor {
        self.hop(id).map_or(Neighbor::NOBODY, |hop| self.neighbor_of(id, hop))
    }

    /// How far the resolution of `id` has come. Unlike [`Self::link`] it does not count as use.
    #[must_use]
    pub fn resolution(&self, id: NextHopId) -> Resolution {
        self.hop(id)
            .map_or(Resolution::Failed, |hop| resolution(hop.destination.load(Ordering::Acquire)))
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
            let _ = self.wanted.push(id.plain());
            if !self.woken.swap(true, Ordering::AcqRel)
                && let Some(waker) = &*self.waker.lock()
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Who is woken when a next hop is wanted and [`Self::take_wanted`] has to be called.
    pub fn set_waker(&self, waker: Waker) {
        *self.waker.lock() = Some(waker);
    }

    /// The next hops whose resolution somebody waits for, each once.
    pub fn take_wanted(&self) -> Vec<NextHopId> {
        // First, so that what is pushed from now on wakes again, and what was before is found here.
        self.woken.swap(false, Ordering::AcqRel);
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

    /// Whether `id` was said to be reachable, at whatever link address, since the last call.
    pub fn take_confirmed(&self, id: NextHopId) -> bool {
        self.clear(id, CONFIRMED)
    }

    /// What `host` learned of a neighbour. Unknown neighbours are ignored, and so is a link address
    /// that can be nobody's: a group's, or zero.
    pub fn set(&self, neighbor: Neighbor, learned: Resolution) {
        let bits = match learned {
            Resolution::Failed => FAILED,
            Resolution::Pending => PENDING,
            Resolution::Reachable(mac) if mac.is_group() || mac == Mac::default() => return,
            Resolution::Reachable(mac) => REACHABLE | CONFIRMED | mac.as_bits(),
        };
        let Some(hop) = self.find(neighbor).and_then(|id| self.hop(id)) else { return };
        let update = |word| word & (WANTED | USED) | bits;
        let before = hop.destination.update(Ordering::AcqRel, Ordering::Acquire, update);
        let changed = resolution(before) != resolution(bits);
        if changed {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// The link properties of an interface's (and tag's) next hops, present and future.
    pub fn set_interface(&self, port: PortId, source: Mac, mtu: u16) {
        let vlan_mtus = self.vlan_mtus.lock();
        let sides = [
            (port, 0),
            (port.double_tagged(), DOUBLE_TAG_OVERHEAD),
            (port.vxlan(), VXLAN_OVERHEAD),
        ];
        for (side, overhead) in sides {
            if let Some(interface) = self.interfaces.get(side.index()) {
                let word = interface_word(source, mtu.saturating_sub(overhead));
                interface.store(word, Ordering::Release);
            }
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
    #[inline]
    #[must_use]
    pub fn source_mac(&self, port: PortId) -> Mac {
        Mac::from_bits(self.interface(port))
    }

    /// Which VTEP the stations of VXLAN networks are behind.
    #[must_use]
    pub const fn stations(&self) -> &Stations {
        &self.stations
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
            Some((
                id,
                self.neighbor_of(id, hop),
                resolution(hop.destination.load(Ordering::Acquire)),
            ))
        })
        .collect()
    }

    /// The id of `neighbor`, or the place in the index where it belongs (none if that is full).
    fn probe(&self, neighbor: Neighbor) -> Result<NextHopId, Option<usize>> {
        let mask = self.index.len() - 1;
        let start = self.hash(neighbor);
        for step in 0..self.index.len() {
            let place = start.wrapping_add(step) & mask;
            // Pairs with the release in `make`: whoever sees the id sees the hop's words.
            let found = self.index.get(place).map_or(0, |entry| entry.load(Ordering::Acquire));
            let Some(id) = found.checked_sub(1).map(NextHopId) else { return Err(Some(place)) };
            let is_it = match neighbor.address {
                IpAddr::V4(address) => {
                    self.hop(id).is_some_and(|hop| hop.is_at(neighbor.port, neighbor.vlan, address))
                }
                IpAddr::V6(_) => self.neighbor(id) == neighbor,
            };
            if is_it {
                return Ok(id);
            }
        }
        Err(None)
    }

    /// The hash of a neighbour. IPv4 ones, which every new session asks for, are one word.
    fn hash(&self, neighbor: Neighbor) -> usize {
        let link = u64::from(neighbor.port.0) << 16 | u64::from(neighbor.vlan);
        let hash = match neighbor.address {
            IpAddr::V4(address) => self.hasher.hash_one(u64::from(address.to_bits()) << 32 | link),
            IpAddr::V6(address) => self.hasher.hash_one((address.to_bits(), link)),
        };
        hash as usize
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
        if let (IpAddr::V6(address), Some(place)) = (address, self.wide.get(id.0 as usize)) {
            place.store(address);
        }
        hop.source.store(source_word(source, port, address), Ordering::Relaxed);
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
        for (id, hop) in (0..).map(NextHopId).zip(self.hops.iter().take(count)) {
            let neighbor = self.neighbor_of(id, hop);
            if neighbor.port.interface() != port.interface() {
                continue;
            }
            let port = neighbor.port;
            let (source, mtu) = self.properties(port, neighbor.vlan, vlan_mtus);
            hop.source.store(source_word(source, port, neighbor.address), Ordering::Relaxed);
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

    #[inline]
    fn interface(&self, port: PortId) -> u64 {
        // A port's number has eight bits, and there is a word for each.
        self.interfaces[port.index()].load(Ordering::Acquire)
    }

    fn neighbor_of(&self, id: NextHopId, hop: &Hop) -> Neighbor {
        hop.neighbor(|| self.wide.get(id.0 as usize).map_or(Ipv6Addr::UNSPECIFIED, |it| it.load()))
    }

    #[inline]
    fn hop(&self, id: NextHopId) -> Option<&Hop> {
        self.hops.get(id.plain().0 as usize)
    }

    /// Takes a flag away; returns whether it was there.
    fn clear(&self, id: NextHopId, flag: u64) -> bool {
        self.hop(id).is_some_and(|hop| {
            hop.destination.load(Ordering::Relaxed) & flag != 0
                && hop.destination.fetch_and(!flag, Ordering::AcqRel) & flag != 0
        })
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
    const NOBODY: Self =
        Self { port: PortId(0), vlan: 0, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
}

/// What an interface's MTU is taken for until `host` has said.
const MTU_DEFAULT: u16 = 1500;
const CAPACITY_MAX: usize = 1 << 23;
/// What the second tag takes of a link's MTU: interfaces have room for one beside it.
const DOUBLE_TAG_OVERHEAD: u16 = 4;
/// What the outer headers take of it (RFC 7348, section 5).
const VXLAN_OVERHEAD: u16 = 50;

#[cfg(test)]
mod tests;
