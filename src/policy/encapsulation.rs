//! Networks under two tags or inside VXLAN. To the pipeline each is a network under one tag, its
//! stand-in, on a side of the interface that only such networks are on; what is really on the wire is
//! taken off before and put on behind.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashSet};

use crate::flow::{DoubleTag, PortId};
use crate::rules::set::{Network, Vxlan};

/// Every such network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Encapsulations {
    /// Stand-ins by what is on the wire.
    double_tags: HashMap<(PortId, DoubleTag), u16>,
    vnis: HashMap<(PortId, u32), u16>,
    /// What is on the wire, by stand-in.
    tags: HashMap<u16, DoubleTag>,
    vxlans: HashMap<u16, Vxlan>,
    vteps: HashSet<(PortId, Ipv4Addr)>,
}

impl Encapsulations {
    /// Adds `network` on the interface `port` under a stand-in; returns the side that it is on.
    pub(super) fn add(&mut self, network: &Network, port: PortId, stand_in: u16) -> PortId {
        if let Some(vxlan) = &network.vxlan {
            self.vnis.insert((port, vxlan.vni), stand_in);
            self.vteps.insert((port, vxlan.local));
            self.vxlans.insert(stand_in, vxlan.clone());
            return port.vxlan();
        }
        if let Some(tags) = double_tag(network) {
            self.double_tags.insert((port, tags), stand_in);
            self.tags.insert(stand_in, tags);
            return port.double_tagged();
        }
        port
    }

    /// Whether there is no such network.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.vxlans.is_empty()
    }

    /// The stand-in for two tags on an interface.
    #[must_use]
    pub fn of_tags(&self, port: PortId, tags: DoubleTag) -> Option<u16> {
        self.double_tags.get(&(port, tags)).copied()
    }

    /// Whether `address` on an interface is a VTEP of ours.
    #[must_use]
    pub fn is_vtep(&self, port: PortId, address: Ipv4Addr) -> bool {
        self.vteps.contains(&(port, address))
    }

    /// The stand-in for a VXLAN network on an interface.
    #[must_use]
    pub fn of_vni(&self, port: PortId, vni: u32) -> Option<u16> {
        self.vnis.get(&(port, vni)).copied()
    }

    /// The tags that one stands in for.
    #[must_use]
    pub fn tags(&self, stand_in: u16) -> Option<DoubleTag> {
        self.tags.get(&stand_in).copied()
    }

    /// What people call the tag `vlan` of a side or interface: a VLAN, two, or a VNI.
    #[must_use]
    pub fn describe(&self, port: PortId, vlan: u16) -> (u16, Option<String>) {
        match (port.is_encapsulated(), port.is_vxlan()) {
            (false, _) => (vlan, None),
            (true, false) => match self.tags(vlan) {
                Some(DoubleTag { outer, inner, .. }) => (inner, Some(format!("{outer}.{inner}"))),
                None => (0, None),
            },
            (true, true) => (0, self.vxlan(vlan).map(|vxlan| format!("VNI {}", vxlan.vni))),
        }
    }

    /// The side and the stand-in of what [`Self::describe`] calls `name` on an interface.
    #[must_use]
    pub fn named(&self, port: PortId, name: &str) -> Option<(PortId, u16)> {
        let tags =
            self.double_tags.iter().map(|(&(on, _), place)| (on, on.double_tagged(), *place));
        let vnis = self.vnis.iter().map(|(&(on, _), place)| (on, on.vxlan(), *place));
        let is_it = |&(on, side, stand_in): &(PortId, PortId, u16)| {
            on == port && self.describe(side, stand_in).1.as_deref() == Some(name)
        };
        // Two networks may differ in the type of the outer tag alone.
        let found = tags.chain(vnis).filter(is_it).map(|(_, side, stand_in)| (side, stand_in));
        found.min_by_key(|&(_, stand_in)| stand_in)
    }

    /// The VXLAN network that a tag stands in for.
    #[must_use]
    pub fn vxlan(&self, stand_in: u16) -> Option<&Vxlan> {
        self.vxlans.get(&stand_in)
    }
}

/// The two tags of a network, if it has two.
#[must_use]
pub fn double_tag(network: &Network) -> Option<DoubleTag> {
    let outer = network.outer_tag?;
    Some(DoubleTag { outer_type: outer.kind.ether_type(), outer: outer.vlan, inner: network.vlan })
}
