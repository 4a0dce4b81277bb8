//! One next hop as it lies in memory: three words, each true by itself, and how they are packed.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Neighbor, Resolution};
use crate::flow::{Mac, PortId};

/// One next hop. Thirty-two bytes, so that it never lies across two cache lines.
#[repr(align(32))]
pub struct Hop {
    /// The neighbour's link address in the low 48 bits, and flags above.
    pub destination: AtomicU64,
    /// Our own link address in the low 48 bits, the interface above.
    pub source: AtomicU64,
    /// From the top: tag (16 bits), MTU (16 bits), the neighbour's IPv4 address (32 bits).
    pub network: AtomicU64,
}

impl Hop {
    /// A hop that leads nowhere, until it is made.
    pub const fn unused() -> Self {
        Self {
            destination: AtomicU64::new(FAILED),
            source: AtomicU64::new(0),
            network: AtomicU64::new(0),
        }
    }

    /// Who this is.
    pub fn neighbor(&self) -> Neighbor {
        let network = self.network.load(Ordering::Relaxed);
        Neighbor {
            port: source_port(self.source.load(Ordering::Relaxed)),
            vlan: network_vlan(network),
            address: Ipv4Addr::from_bits(network as u32),
        }
    }
}

/// Flags in [`Hop::destination`], and the absence of the first two.
pub const PENDING: u64 = 0;
pub const REACHABLE: u64 = 1 << 48;
pub const FAILED: u64 = 1 << 49;
/// Somebody waits for the resolution; the hop is in the queue.
pub const WANTED: u64 = 1 << 50;
/// A frame was sent here since the flag was last taken away.
pub const USED: u64 = 1 << 51;
/// Somebody said that it is reachable since the flag was last taken away.
pub const CONFIRMED: u64 = 1 << 52;

pub const fn resolution(destination: u64) -> Resolution {
    if destination & REACHABLE != 0 {
        Resolution::Reachable(Mac::from_bits(destination))
    } else if destination & FAILED != 0 {
        Resolution::Failed
    } else {
        Resolution::Pending
    }
}

pub const fn source_word(source: Mac, port: PortId) -> u64 {
    (port.0 as u64) << 48 | source.as_bits()
}

pub const fn source_port(source: u64) -> PortId {
    PortId((source >> 48) as u8)
}

pub const fn network_word(vlan: u16, mtu: u16, address: Ipv4Addr) -> u64 {
    (vlan as u64) << 48 | (mtu as u64) << 32 | address.to_bits() as u64
}

pub const fn network_vlan(network: u64) -> u16 {
    (network >> 48) as u16
}

pub const fn network_mtu(network: u64) -> u16 {
    (network >> 32) as u16
}

pub const fn interface_word(source: Mac, mtu: u16) -> u64 {
    (mtu as u64) << 48 | source.as_bits()
}

pub const fn interface_mtu(interface: u64) -> u16 {
    (interface >> 48) as u16
}
