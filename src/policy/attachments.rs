//! What hangs on each interface under each tag.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashMapExt};

use crate::flow::{NetworkId, PortId, Realm};
use crate::policy::Attachment;
use crate::policy::prefixes::PrefixMap;
use crate::rules::set::Cidr;

impl Attachment {
    /// The guest network; none of the public side.
    #[inline]
    #[must_use]
    pub const fn network(self) -> Option<NetworkId> {
        match self {
            Self::Guest(network) => Some(network),
            Self::Public => None,
        }
    }
}

/// A table per interface, and the networks that share an interface and tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Attachments {
    /// By interface, then tag: nothing, the public side, or a network's number plus one.
    tables: Vec<Box<[u16]>>,
    shared: HashMap<(PortId, u16), PrefixMap<NetworkId>>,
    /// By interface, then tag: the realm of all that comes in there, or [`UNSURE`].
    realms: Vec<Box<[u32]>>,
    /// The same of what comes in without a tag.
    untagged: Box<Untagged>,
}

/// A network where it hangs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    /// The interface.
    pub port: PortId,
    /// The tag; zero for none.
    pub vlan: u16,
    /// Its guests' addresses.
    pub cidr: Cidr,
    /// The realm of all that comes in there, if no more than the place is to be asked.
    pub realm: Option<Realm>,
}

/// By interface: the realm of all that comes in there without a tag, or [`UNSURE`].
#[derive(Clone, Debug)]
pub struct Untagged([u32; PORTS]);

impl Untagged {
    /// The realm of all that comes in on `port` without a tag, as [`Realm::as_raw`] gives it; none if
    /// more has to be asked. (Made a realm and bits again, it is a branch that nobody foresees.)
    #[inline(always)]
    #[must_use]
    pub fn realm(&self, port: PortId) -> Option<u16> {
        let word = self.0[port.index()];
        if word == UNSURE { None } else { Some(word as u16) }
    }
}

impl Default for Untagged {
    fn default() -> Self {
        Self([UNSURE; PORTS])
    }
}

impl Attachments {
    /// The attachments of `public` sides and of `networks`. Where both claim a tag, it is public.
    pub fn new(public: &[(PortId, u16)], networks: &[Attached]) -> Self {
        let mut attachments = Self::default();
        for &(port, vlan) in public {
            attachments.set(port, vlan, PUBLIC);
        }
        let mut by_tag: HashMap<(PortId, u16), Vec<(Cidr, NetworkId)>> = HashMap::new();
        for (id, &Attached { port, vlan, cidr, .. }) in (0..NETWORK_MAX).zip(networks) {
            attachments.set(port, vlan, id + 1);
            by_tag.entry((port, vlan)).or_default().push((cidr, NetworkId(id)));
        }
        let alone =
            |place: &&Attached| by_tag.get(&(place.port, place.vlan)).map(Vec::len) == Some(1);
        attachments.realms = vec![vec![UNSURE; TAG_COUNT].into(); attachments.tables.len()];
        for place in networks.iter().filter(alone) {
            attachments.set_realm(place.port, place.vlan, place.realm);
        }
        for &(port, vlan) in public {
            attachments.set_realm(port, vlan, Some(Realm::External));
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
    #[inline(always)]
    pub fn own_network(
        &self,
        first: NetworkId,
        port: PortId,
        vlan: u16,
        source: Ipv4Addr,
    ) -> NetworkId {
        if self.shared.is_empty() { first } else { self.own_of_shared(first, port, vlan, source) }
    }

    #[inline(never)]
    fn own_of_shared(
        &self,
        first: NetworkId,
        port: PortId,
        vlan: u16,
        source: Ipv4Addr,
    ) -> NetworkId {
        let own = self.shared.get(&(port, vlan)).and_then(|networks| networks.find(source));
        own.copied().unwrap_or(first)
    }

    /// The realms of what comes in without a tag.
    pub fn untagged(&self) -> &Untagged {
        &self.untagged
    }

    /// The realm of all that comes in on `port` under `vlan`; none if more is to be asked.
    #[inline(always)]
    pub fn realm(&self, port: PortId, vlan: u16) -> Option<Realm> {
        realm(*self.realms.get(port.index())?.get(usize::from(vlan))?)
    }

    fn set_realm(&mut self, port: PortId, vlan: u16, realm: Option<Realm>) {
        let word = realm.map_or(UNSURE, |realm| SURE | u32::from(realm.as_raw()));
        let tags = self.realms.get_mut(port.index());
        if let Some(place) = tags.and_then(|tags| tags.get_mut(usize::from(vlan))) {
            *place = word;
        }
        if vlan == 0 {
            self.untagged.0[port.index()] = word;
        }
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

/// The realm that a word names, if it names one.
#[inline(always)]
const fn realm(word: u32) -> Option<Realm> {
    if word == UNSURE { None } else { Some(Realm::from_raw(word as u16)) }
}

/// How many networks a policy may have.
pub(super) const NETWORK_MAX: u16 = PUBLIC - 1;

const NOTHING: u16 = 0;
const PUBLIC: u16 = u16::MAX;
const TAG_COUNT: usize = 4096;
/// One for each number that a port may have.
const PORTS: usize = 256;
const UNSURE: u32 = 0;
const SURE: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::RealmId;

    const PORT: PortId = PortId(1);

    fn place(vlan: u16, cidr: &str, realm: Option<u16>) -> Attached {
        let realm = realm.map(Realm::from_raw);
        Attached { port: PORT, vlan, cidr: cidr.parse().unwrap(), realm }
    }

    #[test]
    fn a_tag_leads_to_its_network() {
        let places = [place(100, "0.0.0.0/0", Some(7)), place(4095, "0.0.0.0/0", None)];
        let attachments = Attachments::new(&[(PortId(0), 0)], &places);
        assert_eq!(attachments.find(PortId(0), 0), Some(Attachment::Public));
        assert_eq!(attachments.find(PORT, 100), Some(Attachment::Guest(NetworkId(0))));
        assert_eq!(attachments.find(PORT, 4095), Some(Attachment::Guest(NetworkId(1))));
        for (port, vlan) in [(PORT, 0), (PORT, 101), (PORT, u16::MAX), (PortId(9), 0)] {
            assert_eq!(attachments.find(port, vlan), None);
            assert_eq!(attachments.guest_network(port, vlan, Ipv4Addr::LOCALHOST), None);
            assert_eq!(attachments.realm(port, vlan), None);
        }
        let realm = RealmId(7.try_into().unwrap());
        assert_eq!(attachments.realm(PORT, 100), Some(Realm::Internal(realm)));
        assert_eq!(attachments.realm(PORT, 4095), None, "more is to be asked");
        assert_eq!(attachments.untagged().realm(PortId(0)), Some(Realm::External.as_raw()));
        assert_eq!(attachments.untagged().realm(PORT), None);
    }

    #[test]
    fn networks_that_share_a_tag_are_told_apart_by_source() {
        let places = [place(0, "10.1.1.0/24", Some(1)), place(0, "10.1.2.0/24", Some(1))];
        let attachments = Attachments::new(&[], &places);
        let network = |source: [u8; 4]| attachments.guest_network(PORT, 0, source.into());
        assert_eq!(network([10, 1, 1, 9]), Some(NetworkId(0)));
        assert_eq!(network([10, 1, 2, 9]), Some(NetworkId(1)));
        assert_eq!(network([192, 168, 0, 1]), Some(NetworkId(0)), "the first for strangers");
        assert_eq!(attachments.untagged().realm(PORT), None, "the place alone does not tell");
    }
}
