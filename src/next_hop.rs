//! Where frames go next on the wire: interface, tag and link addresses, kept true by `host`.
//!
//! A session stores a [`NextHopId`]; the link address behind it may change at any time without
//! touching the session. Readers never lock: a next hop is a few words of memory, each of which
//! is true by itself. Making a next hop takes a lock. Its place is given to another neighbour only when
//! nobody can hold its id any more: see [`reclaim`].

mod hop;
mod index;
mod links;
pub mod readers;
pub mod reclaim;
mod share;
pub mod stations;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use self::hop::{
    CONFIRMED, DOUBTED, FAILED, GONE, Hop, PENDING, REACHABLE, USED, WANTED, WideAddress,
    interface_word, place_port, place_vlan, place_word, resolution,
};
use self::index::Index;
use self::readers::{HopReader, Readers};
use self::share::Shares;
use self::stations::Stations;
use crate::flow::{LinkWords, Mac, PortId};
use crate::prefetch::prefetch;

pub use self::hop::{Interfaces, Way, Ways};

/// A next hop: its place in [`NextHops`] (23 bits), and whether packets there are watched.
/// It leads to one neighbour for as long as a session or the work of a [`HopReader`] holds it.
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
    index: Index,
    /// How many hops were ever made; they are `hops[..count]`.
    count: AtomicU32,
    /// Source address and MTU of every interface.
    interfaces: Box<[AtomicU64; INTERFACES]>,
    making: Mutex<Making>,
    readers: Readers,
    /// Hops that are gone and became free, and neighbours for which there was no place.
    reclaimed: AtomicU64,
    refused: AtomicU64,
    wanted: ArrayQueue<NextHopId>,
    /// Whether whoever drains `wanted` was woken and has not begun to drain.
    woken: AtomicBool,
    waker: Mutex<Option<Waker>>,
    changes: AtomicU64,
    moves: AtomicU64,
    stations: Stations,
}

/// Held while a hop is made or becomes free, or link properties change.
#[derive(Default)]
struct Making {
    /// The MTUs of tagged networks.
    vlan_mtus: Vec<(PortId, u16, u16)>,
    /// Hops that may be made anew.
    free: Vec<NextHopId>,
    shares: Shares,
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
        Self {
            hops: (0..capacity).map(|_| Hop::unused()).collect(),
            wide: (0..capacity).map(|_| WideAddress::default()).collect(),
            index: Index::new(capacity),
            count: AtomicU32::new(0),
            interfaces: Box::new(
                [const { AtomicU64::new(interface_word(Mac([0; 6]), MTU_DEFAULT)) }; INTERFACES],
            ),
            making: Mutex::default(),
            readers: Readers::default(),
            reclaimed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            wanted: ArrayQueue::new(capacity),
            woken: AtomicBool::new(false),
            waker: Mutex::new(None),
            changes: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            stations: Stations::new(),
        }
    }

    /// A reader, which whoever keeps ids for longer than a call has, and passes its epochs.
    #[must_use]
    pub fn reader(&self) -> HopReader {
        self.readers.enter()
    }

    /// The id of `neighbor`, made and queued for resolution if it is new. None when the table is full,
    /// or its network has its share of it.
    pub fn id(&self, neighbor: Neighbor) -> Option<NextHopId> {
        self.asked(neighbor).or_else(|| self.make(neighbor))
    }

    /// The same for a [reader](Self::reader) that knows where it stands `likely`: one comparison
    /// instead of a search.
    pub fn id_near(&self, neighbor: Neighbor, likely: NextHopId) -> Option<NextHopId> {
        if let (IpAddr::V4(address), Some(hop)) = (neighbor.address, self.hop(likely))
            // In this order: the place may be free, and become another neighbour's now. Whoever sees
            // that it is not gone sees whose it is, and it stays so until the reader has passed.
            && hop.ask()
            && hop.is_at(neighbor.port, neighbor.vlan, address)
        {
            return Some(likely);
        }
        self.id(neighbor)
    }

    /// The id of the neighbour that `id` leads to, for one more session: another one, if `id` is gone.
    pub fn again(&self, id: NextHopId) -> Option<NextHopId> {
        let found = self.id(self.neighbor(id))?;
        Some(if id.is_watched() { found.watched() } else { found })
    }

    /// The id of `neighbor`, if somebody asked for it before. It is not for keeping.
    #[must_use]
    pub fn find(&self, neighbor: Neighbor) -> Option<NextHopId> {
        let (id, hop) = self.probe(neighbor)?;
        (!hop.is_gone()).then_some(id)
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
        let place = hop.place.load(Ordering::Relaxed);
        Link {
            port: place_port(place),
            vlan: place_vlan(place),
            mtu: hop.mtu.load(Ordering::Relaxed),
            source: LinkWords::address(source),
            destination: resolution(destination),
        }
    }

    /// The way to this next hop, if its link address is known: see [`Ways::to`].
    #[inline]
    #[must_use]
    pub fn way(&self, id: NextHopId) -> Option<Way> {
        self.ways().to(id)
    }

    /// The ways to all next hops.
    #[inline]
    #[must_use]
    pub const fn ways(&self) -> Ways<'_> {
        Ways::new(&self.hops)
    }

    /// Whether there are more next hops than stay in the nearest cache.
    #[inline]
    #[must_use]
    pub fn are_many(&self) -> bool {
        self.count.load(Ordering::Relaxed) > NEAR_MAX
    }

    /// Brings a next hop near.
    #[inline]
    pub fn prefetch(&self, id: NextHopId) {
        self.hop(id).map(prefetch);
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
        if hop.destination.load(Ordering::Relaxed) & (WANTED | GONE) != 0 {
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
        let mut left = self.wanted.len();
        let mut taken = Vec::with_capacity(left);
        // At most what was there at the start: others may ask as fast as we take.
        while left > 0
            && let Some(id) = self.wanted.pop()
        {
            left -= 1;
            self.clear(id, WANTED);
            if !self.is_gone(id) {
                taken.push(id);
            }
        }
        taken
    }

    /// The next hops that frames were sent to since the last call, for `host` to keep fresh.
    pub fn take_used(&self) -> Vec<NextHopId> {
        let ids = (0..self.count.load(Ordering::Acquire)).map(NextHopId);
        ids.filter(|&id| !self.is_gone(id) && self.clear(id, USED)).collect()
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
            Resolution::Reachable(mac) => REACHABLE | CONFIRMED | LinkWords::word(mac),
        };
        let Some(hop) = self.find(neighbor).and_then(|id| self.hop(id)) else { return };
        let update = |word| word & (WANTED | USED | DOUBTED | GONE) | bits;
        let before = hop.destination.update(Ordering::AcqRel, Ordering::Acquire, update);
        let changed = resolution(before) != resolution(bits);
        if changed {
            self.changes.fetch_add(1, Ordering::Release);
            if before & REACHABLE != 0 {
                self.moves.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Our own address on an interface.
    #[inline]
    #[must_use]
    pub fn source_mac(&self, port: PortId) -> Mac {
        LinkWords::address(self.interface(port))
    }

    /// Our own addresses on all of them.
    #[inline]
    #[must_use]
    pub fn interfaces(&self) -> Interfaces<'_> {
        Interfaces(&self.interfaces)
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

    /// Goes up whenever a neighbour that was reachable is not any more, or elsewhere, and when the
    /// properties of links change: what somebody wrote down of a way may be true no more.
    #[inline]
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Every next hop, for people to look at.
    #[must_use]
    pub fn all(&self) -> Vec<(NextHopId, Neighbor, Resolution)> {
        let ids = (0..self.count.load(Ordering::Acquire)).map(NextHopId);
        ids.filter_map(|id| {
            let hop = self.hop(id)?;
            let word = hop.destination.load(Ordering::Acquire);
            (word & GONE == 0).then(|| (id, self.neighbor_of(id, hop), resolution(word)))
        })
        .collect()
    }

    /// The id of `neighbor` for whoever keeps it, if it has one.
    fn asked(&self, neighbor: Neighbor) -> Option<NextHopId> {
        let (id, hop) = self.probe(neighbor)?;
        hop.ask().then_some(id)
    }

    /// The hop of `neighbor`, which may be gone.
    fn probe(&self, neighbor: Neighbor) -> Option<(NextHopId, &Hop)> {
        let Neighbor { port, vlan, address } = neighbor;
        match address {
            IpAddr::V4(address) => {
                self.index.find(&self.hops, neighbor, |_, hop| hop.is_at(port, vlan, address))
            }
            IpAddr::V6(_) => {
                let is_it = |id, hop: &Hop| self.neighbor_of(id, hop) == neighbor;
                self.index.find(&self.hops, neighbor, is_it)
            }
        }
    }

    fn make(&self, neighbor: Neighbor) -> Option<NextHopId> {
        let mut making = self.making.lock();
        if let Some(id) = self.asked(neighbor) {
            return Some(id);
        }
        if !making.shares.take(neighbor, self.hops.len()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let count = self.count.load(Ordering::Acquire);
        let id = making.free.pop().unwrap_or(NextHopId(count));
        let hop = self.hop(id)?;
        let Neighbor { port, vlan, address } = neighbor;
        let (source, mtu) = self.properties(port, vlan, &making.vlan_mtus);
        match (address, self.wide.get(id.0 as usize)) {
            (IpAddr::V4(address), _) => hop.address.store(address.to_bits(), Ordering::Relaxed),
            (IpAddr::V6(address), Some(wide)) => wide.store(address),
            (IpAddr::V6(_), None) => {}
        }
        hop.source.store(LinkWords::word_of_source(source), Ordering::Relaxed);
        hop.place.store(place_word(port, vlan, address), Ordering::Relaxed);
        hop.mtu.store(mtu, Ordering::Relaxed);
        hop.destination.store(PENDING, Ordering::Release);
        if id.0 == count {
            self.count.store(count + 1, Ordering::Release);
        }
        self.index.add(hop, neighbor, id);
        drop(making);
        self.want(id);
        Some(id)
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
// [`Ways::to`] takes the flag for a place that there is not.
const _: () = assert!(CAPACITY_MAX <= WATCHED as usize);
/// Next hops of 8 KiB together, a small part of the nearest cache.
const NEAR_MAX: u32 = 256;

#[cfg(test)]
mod tests;
