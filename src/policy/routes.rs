//! Where packets go inside a realm and on the public side.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashMapExt};

use crate::flow::{NetworkId, PortId, RealmId};
use crate::policy::intervals::as_number;
use crate::policy::prefixes::PrefixMap;
use crate::policy::{ExternalRoute, InternalRoute, PublicAddress};
use crate::rules::set::Cidr;

/// A network, the next hop in it if that is not the destination itself, and the prefix's length.
type Hop = (NetworkId, Option<Ipv4Addr>, u8);

/// The routes of every realm.
#[derive(Clone, Debug, Default)]
pub(super) struct InternalRoutes {
    realms: Vec<PrefixMap<Hop>>,
    /// By the number of a realm, where it stands in `realms`, or [`NOWHERE`]. Numbers are given out
    /// one after the other, so this is a short list and no map.
    places: Box<[u16]>,
}

impl InternalRoutes {
    /// The routes to `networks` and, through them, of `routes` (destination and next hop). A route
    /// whose next hop is in no network of its realm leads nowhere and is left out.
    pub fn new(
        networks: impl Iterator<Item = (RealmId, Cidr, NetworkId)>,
        routes: impl Iterator<Item = (RealmId, Cidr, Ipv4Addr)>,
    ) -> Self {
        let mut entries: HashMap<RealmId, Vec<(Cidr, Hop)>> = HashMap::new();
        for (realm, cidr, network) in networks {
            entries.entry(realm).or_default().push((cidr, (network, None, cidr.length())));
        }
        let connected: HashMap<RealmId, PrefixMap<NetworkId>> = entries
            .iter()
            .map(|(&realm, entries)| {
                (
                    realm,
                    PrefixMap::new(entries.iter().map(|&(cidr, (network, ..))| (cidr, network))),
                )
            })
            .collect();
        // Networks come first in each list, so a route never takes a network's own prefix.
        for (realm, destination, via) in routes {
            if let Some(&network) = connected.get(&realm).and_then(|networks| networks.find(via)) {
                entries
                    .entry(realm)
                    .or_default()
                    .push((destination, (network, Some(via), destination.length())));
            }
        }
        let length = entries.keys().map(|realm| number(*realm) + 1).max().unwrap_or(0);
        let mut places = vec![NOWHERE; length].into_boxed_slice();
        let mut realms = Vec::with_capacity(entries.len());
        for (place, (realm, entries)) in (0..NOWHERE).zip(entries) {
            places[number(realm)] = place;
            realms.push(PrefixMap::new(entries));
        }
        Self { realms, places }
    }

    pub fn find(&self, realm: RealmId, destination: Ipv4Addr) -> Option<InternalRoute> {
        let &(network, via, _) = self.realm(realm)?.find(destination)?;
        Some(InternalRoute { network, next_hop: via.unwrap_or(destination) })
    }

    /// The length of the prefix that leads to `destination`.
    pub fn length(&self, realm: RealmId, destination: Ipv4Addr) -> Option<u8> {
        self.realm(realm)?.find(destination).map(|&(_, _, length)| length)
    }

    #[inline]
    fn realm(&self, realm: RealmId) -> Option<&PrefixMap<Hop>> {
        // There is no realm at the place that is none.
        self.realms.get(usize::from(*self.places.get(number(realm))?))
    }
}

/// The place of a realm without routes.
const NOWHERE: u16 = u16::MAX;

fn number(realm: RealmId) -> usize {
    usize::from(realm.0.get())
}

/// The routes of the public side.
#[derive(Clone, Debug, Default)]
pub(super) struct ExternalRoutes {
    /// The prefixes on each link; a link is an interface and tag.
    links: Vec<PrefixMap<()>>,
    /// The link of each public address.
    link_places: Box<[u32]>,
    segments: PrefixMap<(PortId, u16)>,
    /// The way out for packets without a public address.
    default: Option<ExternalRoute>,
}

impl ExternalRoutes {
    /// The routes by way of `addresses`, the first of which counts where several would do.
    pub fn new(addresses: &[PublicAddress]) -> Self {
        let link = |address: &PublicAddress| (address.port, address.vlan);
        let mut links: Vec<Vec<(Cidr, ())>> = Vec::new();
        let mut places: HashMap<(PortId, u16), usize> = HashMap::new();
        let mut link_places = Vec::with_capacity(addresses.len());
        for address in addresses {
            let place = *places.entry(link(address)).or_insert(links.len());
            if place == links.len() {
                links.push(Vec::new());
            }
            links[place].push((address.segment, ()));
            link_places.push(as_number(place));
        }
        Self {
            links: links.into_iter().map(PrefixMap::new).collect(),
            link_places: link_places.into(),
            segments: PrefixMap::new(
                addresses.iter().map(|address| (address.segment, link(address))),
            ),
            default: addresses.iter().find_map(|address| {
                let next_hop = address.gateway?;
                Some(ExternalRoute { port: address.port, vlan: address.vlan, next_hop })
            }),
        }
    }

    /// The way from `public`, which stands at `place`, to `destination`: what is on any segment of
    /// the link is reached there, all else by the gateway.
    pub fn from(
        &self,
        place: usize,
        public: &PublicAddress,
        destination: Ipv4Addr,
    ) -> Option<ExternalRoute> {
        let (port, vlan) = (public.port, public.vlan);
        let link = self.link_places.get(place).and_then(|link| self.links.get(*link as usize));
        let on_link = link.and_then(|link| link.find(destination)).is_some();
        let next_hop = if on_link { Some(destination) } else { public.gateway };
        next_hop.map(|next_hop| ExternalRoute { port, vlan, next_hop })
    }

    /// The way to `destination` for a packet that keeps its own source.
    pub fn any(&self, destination: Ipv4Addr) -> Option<ExternalRoute> {
        match self.segments.find(destination) {
            Some(&(port, vlan)) => Some(ExternalRoute { port, vlan, next_hop: destination }),
            None => self.default,
        }
    }
}
