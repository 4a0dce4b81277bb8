//! Where frames go next on the wire: interface, tag and link addresses, kept true by `host`.
//!
//! A session stores a [`NextHopId`]; the link address behind it may change at any time without
//! touching the session. Readers never lock.

use std::net::Ipv4Addr;

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
    _private: (),
}

impl NextHops {
    /// Room for `capacity` next hops.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        todo!()
    }

    /// The id of `neighbor`, made and queued for resolution if it is new. None when the table is full.
    pub fn id(&self, neighbor: Neighbor) -> Option<NextHopId> {
        todo!()
    }

    /// What a frame to this next hop needs now.
    #[must_use]
    pub fn link(&self, id: NextHopId) -> Link {
        todo!()
    }

    /// Who this next hop is.
    #[must_use]
    pub fn neighbor(&self, id: NextHopId) -> Neighbor {
        todo!()
    }

    /// Asks (again) for the link address of `id`; drained by [`Self::take_wanted`]. Cheap, may be
    /// called for every frame that finds the next hop unresolved.
    pub fn want(&self, id: NextHopId) {
        todo!()
    }

    /// The next hops whose resolution somebody waits for, each once.
    pub fn take_wanted(&self) -> Vec<NextHopId> {
        todo!()
    }

    /// What `host` learned of a neighbour. Unknown neighbours are ignored.
    pub fn set(&self, neighbor: Neighbor, resolution: Resolution) {
        todo!()
    }

    /// The link properties of an interface's (and tag's) next hops, present and future.
    pub fn set_interface(&self, port: PortId, source: Mac, mtu: u16) {
        todo!()
    }

    /// The MTU of a tagged network, where it is smaller than its interface's.
    pub fn set_vlan_mtu(&self, port: PortId, vlan: u16, mtu: u16) {
        todo!()
    }

    /// Our own address on an interface.
    #[must_use]
    pub fn source_mac(&self, port: PortId) -> Mac {
        todo!()
    }

    /// Goes up whenever anything was resolved or failed: a worker that holds frames looks again.
    #[must_use]
    pub fn changes(&self) -> u64 {
        todo!()
    }

    /// Every next hop, for people to look at.
    #[must_use]
    pub fn all(&self) -> Vec<(NextHopId, Neighbor, Resolution)> {
        todo!()
    }
}
