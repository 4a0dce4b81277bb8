//! What hangs on each interface under each tag.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashMapExt};

use crate::flow::{NetworkId, PortId};
use crate::policy::Attachment;
use crate::policy::prefixes::PrefixMap;
use crate::rules::set::Cidr;

/// A table per interface, and the networks that share an interface and tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Attachments {
    /// By interface, then tag: nothing, the public side, or a network's number plus one.
    tables: Vec<Box<[u16]>>,
    shared: HashMap<(PortId, u16), PrefixMap<NetworkId>>,
}

impl Attachments {
    /// The attachments of `public` sides and of `networks`. Where both claim a tag, it is public.
    pub fn new(public: &[(PortId, u16)], networks: &[(PortId, u16, Cidr)]) -> Self {
        let mut attachments = Self::default();
        for &(port, vlan) in public {
            attachments.set(port, vlan, PUBLIC);
        }
        let mut by_tag: HashMap<(PortId, u16), Vec<(Cidr, NetworkId)>> = HashMap::new();
        for (id, &(port, vlan, cidr)) in (0..NETWORK_MAX).zip(networks) {
            attachments.set(port, vlan, id + 1);
            by_tag.entry((port, vlan)).or_default().push((cidr, NetworkId(id)));
        }
        attachments.shared = by_tag
            .into_iter()
            .filter(|(_, networks)| networks.len() > 1)
            .map(|(tag, networks)| (tag, PrefixMap::new(networks)))
            .collect();
        attachments
    }

    /// What hangs on `port` under `vlan`; the first of several networks.
    #[inline]
    pub fn find(&self, port: PortId, vlan: u16) -> Option<Attachment> {
        match *self.tables.get(port.index())?.get(usize::from(vlan))? {
            NOTHING => None,
            PUBLIC => Some(Attachment::Public),
            number => Some(Attachment::Guest(NetworkId(number - 1))),
        }
    }

    /// What hangs on `port` under `vlan`; of several networks the one that `source` belongs to, or
    /// else the first.
    #[inline]
    pub fn of_source(&self, port: PortId, vlan: u16, source: Ipv4Addr) -> Option<Attachment> {
        Some(match self.find(port, vlan)? {
            Attachment::Public => Attachment::Public,
            Attachment::Guest(first) => {
                Attachment::Guest(self.own_network(first, port, vlan, source))
            }
        })
    }

    /// The network on `port` under `vlan` that `source` belongs to, or else the first.
    pub fn guest_network(&self, port: PortId, vlan: u16, source: Ipv4Addr) -> Option<NetworkId> {
        let Some(Attachment::Guest(first)) = self.find(port, vlan) else { return None };
        Some(self.own_network(first, port, vlan, source))
    }

    /// The same where `first` is what hangs there.
    #[inline]
    pub fn own_network(
        &self,
        first: NetworkId,
        port: PortId,
        vlan: u16,
        source: Ipv4Addr,
    ) -> NetworkId {
        if self.shared.is_empty() {
            return first;
        }
        let own = self.shared.get(&(port, vlan)).and_then(|networks| networks.find(source));
        own.copied().unwrap_or(first)
    }

    /// Sets what nothing has claimed before.
    fn set(&mut self, port: PortId, vlan: u16, value: u16) {
        while self.tables.len() <= port.index() {
            self.tables.push(vec![NOTHING; TAG_COUNT].into());
        }
        let tag =
            self.tables.get_mut(port.index()).and_then(|tags| tags.get_mut(usize::from(vlan)));
        if let Some(tag) = tag
            && *tag == NOTHING
        {
            *tag = value;
        }
    }
}

/// How many networks a policy may have.
pub(super) const NETWORK_MAX: u16 = PUBLIC - 1;

const NOTHING: u16 = 0;
const PUBLIC: u16 = u16::MAX;
const TAG_COUNT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(1);

    #[test]
    fn a_tag_leads_to_its_network() {
        let attachments =
            Attachments::new(&[(PortId(0), 0)], &[(PORT, 100, Cidr::ANY), (PORT, 4095, Cidr::ANY)]);
        assert_eq!(attachments.find(PortId(0), 0), Some(Attachment::Public));
        assert_eq!(attachments.find(PORT, 100), Some(Attachment::Guest(NetworkId(0))));
        assert_eq!(attachments.find(PORT, 4095), Some(Attachment::Guest(NetworkId(1))));
        for (port, vlan) in [(PORT, 0), (PORT, 101), (PORT, u16::MAX), (PortId(9), 0)] {
            assert_eq!(attachments.find(port, vlan), None);
            assert_eq!(attachments.guest_network(port, vlan, Ipv4Addr::LOCALHOST), None);
        }
    }

    #[test]
    fn networks_that_share_a_tag_are_told_apart_by_source() {
        let networks = ["10.1.1.0/24", "10.1.2.0/24"].map(|text| (PORT, 0, text.parse().unwrap()));
        let attachments = Attachments::new(&[], &networks);
        let network = |source: [u8; 4]| attachments.guest_network(PORT, 0, source.into());
        assert_eq!(network([10, 1, 1, 9]), Some(NetworkId(0)));
        assert_eq!(network([10, 1, 2, 9]), Some(NetworkId(1)));
        assert_eq!(network([192, 168, 0, 1]), Some(NetworkId(0)), "the first for strangers");
    }
}
