//! What the router's own kernel has: links, addresses, IPv4 routes, neighbours. Made from netlink
//! messages, no I/O here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::flow::{Mac, PortId};
use crate::rules::set::Cidr;

/// The kernel's state as far as it concerns a router, and what we made of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Interfaces by the kernel's index.
    pub links: BTreeMap<u32, KernelLink>,
    /// Addresses of interfaces.
    pub addresses: BTreeSet<KernelAddress>,
    /// IPv4 unicast routes.
    pub routes: BTreeSet<KernelRoute>,
    /// Neighbours by interface index and address.
    pub neighbors: BTreeMap<(u32, IpAddr), KernelNeighbor>,
    /// Addresses of ours that another station claims as well.
    pub conflicts: BTreeSet<Conflict>,
}

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelLink {
    /// Its name.
    pub name: String,
    /// Its link address; zero if it has none.
    pub mac: Mac,
    /// The largest packet it takes, in bytes.
    pub mtu: u32,
    /// Whether it is switched on and has a carrier.
    pub is_up: bool,
    /// Of a VLAN interface: the one it is on, and the tag.
    pub tag: Option<(u32, u16)>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelAddress {
    /// The interface.
    pub interface_index: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix_length: u8,
    /// Whether natwerk put it there, this one or one before it.
    pub is_managed: bool,
}

/// A route.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelRoute {
    /// The lowest address of the destination prefix.
    pub destination: Ipv4Addr,
    /// The length of the destination prefix.
    pub prefix_length: u8,
    /// The routing table.
    pub table: u32,
    /// Lower is preferred.
    pub metric: u32,
    /// The router to send to; none if the destination is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The interface; none for a route over several.
    pub interface_index: Option<u32>,
}

/// A neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelNeighbor {
    /// Its link address, if it is known.
    pub mac: Option<Mac>,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

/// Somebody else's claim on an address of ours.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Conflict {
    /// The interface it was seen on.
    pub port: PortId,
    /// The address.
    pub address: Ipv4Addr,
    /// Who claims it.
    pub mac: Mac,
}

/// What a message changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// An interface's addresses.
    Address,
    /// An interface.
    Link(u32),
    /// A neighbour.
    Neighbor(u32, IpAddr),
    /// Nothing that we keep.
    Nothing,
    /// A route.
    Route,
}

impl View {
    /// Takes in what the kernel says.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> Change {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.apply_link(link, true),
            RouteNetlinkMessage::DelLink(link) => self.apply_link(link, false),
            RouteNetlinkMessage::NewAddress(address) => self.apply_address(address, true),
            RouteNetlinkMessage::DelAddress(address) => self.apply_address(address, false),
            RouteNetlinkMessage::NewRoute(route) => self.apply_route(route, true),
            RouteNetlinkMessage::DelRoute(route) => self.apply_route(route, false),
            RouteNetlinkMessage::NewNeighbour(neighbor) => self.apply_neighbor(neighbor, true),
            RouteNetlinkMessage::DelNeighbour(neighbor) => self.apply_neighbor(neighbor, false),
            _ => Change::Nothing,
        }
    }

    /// The index of the interface called `name`.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(&index, _)| index)
    }

    /// Whether the kernel, asking for `address` on an interface, would speak from an address of
    /// the same prefix: only then may it ask (many stations ignore strangers).
    #[must_use]
    pub fn can_ask(&self, interface_index: u32, address: IpAddr) -> bool {
        let is_near = |own: &KernelAddress| match (own.address, address) {
            (IpAddr::V4(own_address), IpAddr::V4(address)) => {
                own_address != address
                    && Cidr::containing(own_address, own.prefix_length).contains(address)
            }
            // Whoever has IPv6 has a link-local address to ask from, which nobody takes amiss.
            (IpAddr::V6(_), IpAddr::V6(_)) => own.address != address,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        };
        self.addresses.iter().any(|own| own.interface_index == interface_index && is_near(own))
    }

    /// The kernel's interface for frames under `vlan` of the one at `index`: itself without a tag.
    #[must_use]
    pub fn tagged(&self, index: u32, vlan: u16) -> Option<u32> {
        if vlan == 0 {
            return Some(index);
        }
        let place = Some((index, vlan));
        self.links.iter().find(|(_, link)| link.tag == place).map(|(&index, _)| index)
    }

    /// Everything of one interface is gone with it.
    fn forget(&mut self, index: u32) {
        self.addresses.retain(|address| address.interface_index != index);
        self.neighbors.retain(|&(interface_index, _), _| interface_index != index);
        self.routes.retain(|route| route.interface_index != Some(index));
    }

    fn apply_link(&mut self, message: &LinkMessage, is_there: bool) -> Change {
        // A bridge tells of its ports with the same messages, in a family of its own.
        if message.header.interface_family != AddressFamily::Unspec {
            return Change::Nothing;
        }
        let index = message.header.index;
        if !is_there {
            self.links.remove(&index);
            self.forget(index);
            return Change::Link(index);
        }
        let link = link(message);
        if self.links.get(&index) == Some(&link) {
            return Change::Nothing;
        }
        self.links.insert(index, link);
        Change::Link(index)
    }

    fn apply_address(&mut self, message: &AddressMessage, is_there: bool) -> Change {
        let Some(address) = address(message) else { return Change::Nothing };
        let other = KernelAddress { is_managed: !address.is_managed, ..address };
        let had = self.addresses.remove(&address);
        let had_other = self.addresses.remove(&other);
        if is_there {
            self.addresses.insert(address);
        }
        if had == is_there && !had_other { Change::Nothing } else { Change::Address }
    }

    fn apply_route(&mut self, message: &RouteMessage, is_there: bool) -> Change {
        let Some(route) = route(message) else { return Change::Nothing };
        let is_changed = if is_there {
            self.routes.len() < ROUTE_COUNT_MAX && self.routes.insert(route)
        } else {
            self.routes.remove(&route)
        };
        if is_changed { Change::Route } else { Change::Nothing }
    }

    fn apply_neighbor(&mut self, message: &NeighbourMessage, is_there: bool) -> Change {
        let Some(address) = neighbor_address(message) else { return Change::Nothing };
        let key = (message.header.ifindex, address);
        if is_there {
            self.neighbors.insert(key, neighbor(message));
        } else {
            self.neighbors.remove(&key);
        }
        Change::Neighbor(key.0, key.1)
    }
}

fn link(message: &LinkMessage) -> KernelLink {
    let on_with_carrier = LinkFlags::Up | LinkFlags::LowerUp;
    let mut link = KernelLink {
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        is_up: message.header.flags.contains(on_with_carrier),
        tag: None,
    };
    let (mut lower, mut vlan) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkInfo(infos) => vlan = infos.iter().find_map(tag),
            _ => {}
        }
    }
    link.tag = lower.zip(vlan);
    link
}

fn tag(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(infos)) = info else { return None };
    infos.iter().find_map(|info| match info {
        InfoVlan::Id(vlan) => Some(*vlan),
        _ => None,
    })
}

fn address(message: &AddressMessage) -> Option<KernelAddress> {
    let mut local = None;
    let mut is_managed = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            // IPv6 has a local address of its own on point-to-point links only.
            AddressAttribute::Address(address @ IpAddr::V6(_)) => {
                local = local.or(Some(*address));
            }
            AddressAttribute::Protocol(protocol) => is_managed = *protocol == MANAGED,
            _ => {}
        }
    }
    Some(KernelAddress {
        interface_index: message.header.index,
        address: local?,
        prefix_length: message.header.prefix_len,
        is_managed,
    })
}

fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    if header.address_family != AddressFamily::Inet || header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = KernelRoute {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_length: header.destination_prefix_length,
        table: u32::from(header.table),
        metric: 0,
        gateway: None,
        interface_index: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.destination = *address
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::Oif(index) => route.interface_index = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) => route.table = *table,
            _ => {}
        }
    }
    Some(route)
}

fn neighbor_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })
}

fn neighbor(message: &NeighbourMessage) -> KernelNeighbor {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    KernelNeighbor { mac, state: message.header.state }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// How the kernel remembers for us which addresses natwerk put there (`IFA_PROTO`; `ip address`
/// shows it as `proto 0x6e`). Kernels before 5.18 forget it.
pub const MANAGED: AddressProtocol = AddressProtocol::Other(0x6e);

/// A router with a full routing table has its own tools to look at it.
const ROUTE_COUNT_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);

    fn link_message(family: AddressFamily, name: &str, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 3;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Mtu(1500),
        ];
        message
    }

    fn address_message(protocol: Option<AddressProtocol>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.prefix_len = 24;
        message.attributes = vec![AddressAttribute::Local(IpAddr::V4(ADDRESS))];
        message.attributes.extend(protocol.map(AddressAttribute::Protocol));
        message
    }

    fn neighbor_message(state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        let destination = NeighbourAddress::Inet(Ipv4Addr::new(10, 1, 1, 5));
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 5]),
        ];
        message
    }

    #[test]
    fn a_link_is_up_only_with_a_carrier() {
        let mut view = View::default();
        let new = |flags| {
            RouteNetlinkMessage::NewLink(link_message(AddressFamily::Unspec, "eth0", flags))
        };
        assert_eq!(view.apply(&new(LinkFlags::Up)), Change::Link(3));
        assert!(!view.links[&3].is_up);
        let up = new(LinkFlags::Up | LinkFlags::LowerUp);
        assert_eq!(view.apply(&up), Change::Link(3));
        assert_eq!(view.apply(&up), Change::Nothing);
        assert!(view.links[&3].is_up);
        assert_eq!(view.index_of("eth0"), Some(3));
        assert_eq!(view.index_of("eth1"), None);
    }

    #[test]
    fn leaving_a_bridge_is_not_leaving_the_machine() {
        let mut view = View::default();
        let flags = LinkFlags::Up;
        let link = |family| link_message(family, "eth0", flags);
        view.apply(&RouteNetlinkMessage::NewLink(link(AddressFamily::Unspec)));
        let bridge = RouteNetlinkMessage::DelLink(link(AddressFamily::Bridge));
        assert_eq!(view.apply(&bridge), Change::Nothing);
        assert_eq!(view.links.len(), 1);
    }

    #[test]
    fn a_link_takes_its_addresses_and_neighbors_with_it() {
        let mut view = View::default();
        let link = link_message(AddressFamily::Unspec, "eth0", LinkFlags::Up);
        view.apply(&RouteNetlinkMessage::NewLink(link.clone()));
        view.apply(&RouteNetlinkMessage::NewAddress(address_message(None)));
        let neighbor = neighbor_message(NeighbourState::Reachable);
        view.apply(&RouteNetlinkMessage::NewNeighbour(neighbor));
        assert_eq!((view.addresses.len(), view.neighbors.len()), (1, 1));
        view.apply(&RouteNetlinkMessage::DelLink(link));
        assert_eq!(view, View::default());
    }

    #[test]
    fn an_address_says_whether_natwerk_put_it_there() {
        let mut view = View::default();
        let apply = |view: &mut View, protocol| {
            view.apply(&RouteNetlinkMessage::NewAddress(address_message(protocol)))
        };
        assert_eq!(apply(&mut view, Some(MANAGED)), Change::Address);
        assert!(view.addresses.iter().all(|address| address.is_managed));
        assert_eq!(apply(&mut view, Some(MANAGED)), Change::Nothing);
        assert_eq!(apply(&mut view, None), Change::Address);
        assert_eq!(view.addresses.len(), 1);
        assert!(view.addresses.iter().all(|address| !address.is_managed));
        let gone = RouteNetlinkMessage::DelAddress(address_message(Some(MANAGED)));
        assert_eq!(view.apply(&gone), Change::Address);
        assert_eq!(view.apply(&gone), Change::Nothing);
    }

    #[test]
    fn the_kernel_can_ask_within_its_own_prefixes_only() {
        let mut view = View::default();
        view.apply(&RouteNetlinkMessage::NewAddress(address_message(None)));
        for (index, address, expected) in [
            (3, [10, 1, 1, 5], true),
            (3, [10, 1, 2, 5], false),
            (4, [10, 1, 1, 5], false),
            (3, [10, 1, 1, 1], false),
        ] {
            assert_eq!(
                view.can_ask(index, Ipv4Addr::from(address).into()),
                expected,
                "{address:?}"
            );
        }
    }

    #[test]
    fn whoever_has_ipv6_can_ask_for_any_of_it() {
        let mut view = View::default();
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.prefix_len = 64;
        let own: IpAddr = "fe80::1".parse().unwrap();
        // As the kernel says it: IPv6 has no local address beside the address.
        message.attributes = vec![AddressAttribute::Address(own)];
        let target: IpAddr = "2001:db8:1::5".parse().unwrap();
        assert!(!view.can_ask(3, target));
        view.apply(&RouteNetlinkMessage::NewAddress(message));
        assert!(view.can_ask(3, target) && !view.can_ask(4, target) && !view.can_ask(3, own));
        assert!(!view.can_ask(3, IpAddr::V4(ADDRESS)));
    }

    #[test]
    fn a_tag_leads_to_its_vlan_interface() {
        let mut view = View::default();
        let mut message = link_message(AddressFamily::Unspec, "eth0.100", LinkFlags::Up);
        message.header.index = 9;
        let vlan = LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)]));
        message.attributes.extend([LinkAttribute::Link(3), LinkAttribute::LinkInfo(vec![vlan])]);
        view.apply(&RouteNetlinkMessage::NewLink(message));
        assert_eq!([0, 100, 101].map(|vlan| view.tagged(3, vlan)), [Some(3), Some(9), None]);
        assert_eq!(view.tagged(4, 100), None);
    }

    #[test]
    fn a_neighbor_is_known_until_the_kernel_forgets_it() {
        let mut view = View::default();
        let message = neighbor_message(NeighbourState::Stale);
        let change = view.apply(&RouteNetlinkMessage::NewNeighbour(message.clone()));
        let address = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 5));
        assert_eq!(change, Change::Neighbor(3, address));
        let known = view.neighbors[&(3, address)];
        assert_eq!(known.mac, Some(Mac([2, 0, 0, 0, 0, 5])));
        assert_eq!(known.state, NeighbourState::Stale);
        view.apply(&RouteNetlinkMessage::DelNeighbour(message));
        assert!(view.neighbors.is_empty());
    }
}
