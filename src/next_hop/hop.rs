//! One next hop as it lies in memory: words of which each is true by itself, how they are packed, and
//! the link to the next one in the index.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{INTERFACES, Neighbor, NextHopId, Resolution};
use crate::flow::{LinkWords, Mac, PortId};

/// One next hop. Thirty-two bytes, so that it never lies across two cache lines.
#[repr(align(32))]
pub struct Hop {
    /// The neighbour's link address in the low 48 bits, as [`LinkWords`] has it, and flags above.
    pub destination: AtomicU64,
    /// Our own link address, likewise, and above it IPv4's type.
    pub source: AtomicU64,
    /// The neighbour's IPv4 address (IPv6 addresses stand in a [`WideAddress`]).
    pub address: AtomicU32,
    /// Where that is: the tag (16 bits), a flag for IPv6 (8 bits), the interface (8 bits).
    pub place: AtomicU32,
    /// The hop behind it in its chain of the index: an id plus one, or zero.
    pub next: AtomicU32,
    /// The largest IP packet that the link takes, in bytes.
    pub mtu: AtomicU16,
}

impl Hop {
    /// A hop that leads nowhere, until it is made.
    pub const fn unused() -> Self {
        Self {
            destination: AtomicU64::new(FAILED),
            source: AtomicU64::new(0),
            address: AtomicU32::new(0),
            place: AtomicU32::new(0),
            next: AtomicU32::new(0),
            mtu: AtomicU16::new(0),
        }
    }

    /// Notes that somebody asks for this hop. False if it is gone.
    pub fn ask(&self) -> bool {
        self.destination.load(Ordering::Acquire) & (DOUBTED | GONE) == 0 || self.believe()
    }

    /// Whether nobody can find it any more.
    pub fn is_gone(&self) -> bool {
        self.destination.load(Ordering::Acquire) & GONE != 0
    }

    /// Marks it as one that nobody asks for, until somebody does. Not while its resolution is under
    /// way: there are frames that wait for it. Nor a reachable one, unless `even_reachable`.
    pub fn doubt(&self, even_reachable: bool) -> bool {
        let settled = if even_reachable { FAILED | REACHABLE } else { FAILED };
        let is_settled = |word| word & settled != 0 && word & (GONE | WANTED) == 0;
        let update = |word| is_settled(word).then_some(word | DOUBTED);
        self.destination.try_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    /// Has it gone if still nobody has asked for it. Whoever asks meanwhile wins, or finds it gone.
    pub fn go(&self) -> bool {
        let is_settled = |word| word & (FAILED | REACHABLE) != 0 && word & (GONE | WANTED) == 0;
        let update =
            |word| (is_settled(word) && word & DOUBTED != 0).then_some(FAILED | DOUBTED | GONE);
        self.destination.try_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    #[cold]
    fn believe(&self) -> bool {
        let update = |word| (word & GONE == 0).then_some(word & !DOUBTED);
        self.destination.try_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    /// Whether this is the IPv4 neighbour `address` on `port` under `vlan`.
    pub fn is_at(&self, port: PortId, vlan: u16, address: Ipv4Addr) -> bool {
        self.address.load(Ordering::Relaxed) == address.to_bits()
            && self.place.load(Ordering::Relaxed) == place_word(port, vlan, IpAddr::V4(address))
    }

    /// Who this is; `wide` has the address of an IPv6 one.
    pub fn neighbor(&self, wide: impl FnOnce() -> Ipv6Addr) -> Neighbor {
        let place = self.place.load(Ordering::Relaxed);
        Neighbor {
            port: place_port(place),
            vlan: place_vlan(place),
            address: match place & IPV6 {
                0 => IpAddr::V4(Ipv4Addr::from_bits(self.address.load(Ordering::Relaxed))),
                _ => IpAddr::V6(wide()),
            },
        }
    }
}

/// An IPv6 address, written before its hop is found.
#[derive(Default)]
pub struct WideAddress {
    halves: [AtomicU64; 2],
}

impl WideAddress {
    /// Writes the address.
    pub fn store(&self, address: Ipv6Addr) {
        let bits = address.to_bits();
        self.halves[0].store((bits >> 64) as u64, Ordering::Relaxed);
        self.halves[1].store(bits as u64, Ordering::Relaxed);
    }

    /// Reads the address.
    pub fn load(&self) -> Ipv6Addr {
        let [high, low] = self.halves.each_ref().map(|half| half.load(Ordering::Relaxed));
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))
    }
}

/// The ways to next hops, for who asks for one after the other.
#[derive(Clone, Copy)]
pub struct Ways<'h>(&'h [Hop]);

impl<'h> Ways<'h> {
    #[inline]
    pub(super) const fn new(hops: &'h [Hop]) -> Self {
        Self(hops)
    }

    /// The way to this next hop, if its link address is known and it is not [watched](NextHopId::is_watched). What
    /// [`super::NextHops::link`] says, in words as they are written into frames.
    #[inline]
    #[must_use]
    pub fn to(self, id: NextHopId) -> Option<Way> {
        // No place is as high as that flag, so there is none for who is watched.
        let hop = self.0.get(id.0 as usize)?;
        let destination = hop.destination.load(Ordering::Relaxed);
        if destination & (REACHABLE | USED) != REACHABLE | USED {
            // The first frame that is sent here takes the other way, which notes that it is used.
            return None;
        }
        let source = hop.source.load(Ordering::Relaxed);
        let place = hop.place.load(Ordering::Relaxed);
        let mtu = hop.mtu.load(Ordering::Relaxed);
        Some(Way { destination, source, place, mtu })
    }
}

/// Our own addresses on all interfaces, for who asks for one after the other.
#[derive(Clone, Copy)]
pub struct Interfaces<'h>(pub(super) &'h [AtomicU64; INTERFACES]);

impl Interfaces<'_> {
    /// Whether a frame that begins with these eight bytes is sent to our own address on an interface.
    #[inline]
    #[must_use]
    pub fn is_own(self, port: PortId, start: [u8; 8]) -> bool {
        // A port's number has eight bits, and there is a word for each.
        interface_has(self.0[port.index()].load(Ordering::Acquire), start)
    }
}

/// What a frame needs to reach a neighbour whose link address is known: the words of its next hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    destination: u64,
    source: u64,
    place: u32,
    mtu: u16,
}

impl Way {
    /// The interface to transmit on.
    #[inline]
    #[must_use]
    pub const fn port(self) -> PortId {
        place_port(self.place)
    }

    /// The tag to transmit with; zero for none.
    #[inline]
    #[must_use]
    pub const fn vlan(self) -> u16 {
        place_vlan(self.place)
    }

    /// Whether it is without a tag.
    #[inline]
    #[must_use]
    pub const fn is_untagged(self) -> bool {
        self.place < 1 << 16
    }

    /// The largest IP packet the link takes, in bytes.
    #[inline]
    #[must_use]
    pub const fn mtu(self) -> u16 {
        self.mtu
    }

    /// The neighbour's address and our own.
    #[inline]
    #[must_use]
    pub const fn link_words(self) -> LinkWords {
        LinkWords([self.destination, self.source])
    }
}

/// In [`Hop::place`]: the neighbour is an IPv6 one.
const IPV6: u32 = 1 << 8;

/// Flags in [`Hop::destination`], and the absence of the first two.
pub const PENDING: u64 = 0;
pub const REACHABLE: u64 = 1 << 62;
pub const FAILED: u64 = 1 << 48;
/// Somebody waits for the resolution; the hop is in the queue.
pub const WANTED: u64 = 1 << 49;
/// A frame was sent here since the flag was last taken away.
pub const USED: u64 = 1 << 63;
/// Somebody said that it is reachable since the flag was last taken away.
pub const CONFIRMED: u64 = 1 << 50;
/// Nobody has asked for this hop since the flag was set.
pub const DOUBTED: u64 = 1 << 51;
/// The hop is nobody's: whoever asks for its neighbour gets another one.
pub const GONE: u64 = 1 << 52;

pub const fn resolution(destination: u64) -> Resolution {
    if destination & REACHABLE != 0 {
        Resolution::Reachable(LinkWords::address(destination))
    } else if destination & FAILED != 0 {
        Resolution::Failed
    } else {
        Resolution::Pending
    }
}

pub const fn place_word(port: PortId, vlan: u16, address: IpAddr) -> u32 {
    let family = if address.is_ipv6() { IPV6 } else { 0 };
    (vlan as u32) << 16 | family | port.0 as u32
}

pub const fn place_port(place: u32) -> PortId {
    PortId(place as u8)
}

pub const fn place_vlan(place: u32) -> u16 {
    (place >> 16) as u16
}

/// An interface's own address, and the MTU above.
pub const fn interface_word(own: Mac, mtu: u16) -> u64 {
    (mtu as u64) << 48 | LinkWords::word(own)
}

/// Whether a frame that begins with these bytes is sent to the interface.
const fn interface_has(interface: u64, start: [u8; 8]) -> bool {
    // Both have an address in their lower 48 bits; what stands above is of no interest.
    (u64::from_le_bytes(start) ^ interface) << 16 == 0
}

pub const fn interface_mtu(interface: u64) -> u16 {
    (interface >> 48) as u16
}
