//! What the links are like that next hops are on: our own address there, and the MTU.

use std::sync::atomic::Ordering;

use super::hop::{interface_mtu, interface_word};
use super::{NextHopId, NextHops};
use crate::flow::{LinkWords, Mac, PortId};

impl NextHops {
    /// The link properties of an interface's (and tag's) next hops, present and future.
    pub fn set_interface(&self, port: PortId, source: Mac, mtu: u16) {
        let making = self.making.lock();
        let sides = [
            (port, 0),
            (port.double_tagged(), DOUBLE_TAG_OVERHEAD),
            (port.vxlan(), VXLAN_OVERHEAD),
        ];
        for (side, overhead) in sides {
            if let Some(interface) = self.interfaces.get(side.index()) {
                let word = interface_word(source, mtu.saturating_sub(overhead));
                if interface.swap(word, Ordering::AcqRel) != word {
                    self.moves.fetch_add(1, Ordering::Release);
                }
            }
        }
        self.refresh(port, &making.vlan_mtus);
    }

    /// The MTU of a tagged network, where it is smaller than its interface's.
    pub fn set_vlan_mtu(&self, port: PortId, vlan: u16, mtu: u16) {
        let vlan_mtus = &mut self.making.lock().vlan_mtus;
        vlan_mtus.retain(|&(p, v, _)| (p, v) != (port, vlan));
        vlan_mtus.push((port, vlan, mtu));
        self.refresh(port, vlan_mtus);
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
            let source = LinkWords::word_of_source(source);
            let before = hop.source.swap(source, Ordering::Relaxed);
            if (before, hop.mtu.swap(mtu, Ordering::Relaxed)) != (source, mtu) {
                self.moves.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Our own address and the MTU that a hop on `port` under `vlan` has.
    pub(super) fn properties(
        &self,
        port: PortId,
        vlan: u16,
        vlan_mtus: &[(PortId, u16, u16)],
    ) -> (Mac, u16) {
        let interface = self.interface(port);
        let of_interface = interface_mtu(interface);
        let of_vlan = vlan_mtus.iter().find(|&&(p, v, _)| (p, v) == (port, vlan));
        let mtu = of_vlan.map_or(of_interface, |&(_, _, mtu)| mtu.min(of_interface));
        (LinkWords::address(interface), mtu)
    }
}

/// What the second tag takes of a link's MTU: interfaces have room for one beside it.
const DOUBLE_TAG_OVERHEAD: u16 = 4;
/// What the outer headers take of it (RFC 7348, section 5).
const VXLAN_OVERHEAD: u16 = 50;
