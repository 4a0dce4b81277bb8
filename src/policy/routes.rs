//! Where packets go inside a realm and on the public side.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashMapExt};

use crate::flow::{NetworkId, PortId, RealmId};
use crate::policy::prefixes::PrefixMap;
use crate::policy::{ExternalRoute, InternalRoute, PublicAddress};
use crate::rules::set::Cidr;

/// A network, the next hop in it if that is not the destination itself, and the prefix's length.
type Hop = (NetworkId, Option<Ipv4Addr>, u8);

/// The routes of every realm.
#[derive(Clone, Debug, Default)]
pub(super) struct InternalRoutes {
    realms: HashMap<RealmId, PrefixMap<Hop>>,
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
        let realms =
            entries.into_iter().map(|(realm, entries)| (realm, PrefixMap::new(entries))).collect();
        Self { realms }
    }

    pub fn find(&self, realm: RealmId, destination: Ipv4Addr) -> Option<InternalRoute> {
        let &(network, via, _) = self.realms.get(&realm)?.find(destination)?;
        Some(InternalRoute { network, next_hop: via.unwrap_or(destination) })
    }

    /// The length of the prefix that leads to `destination`.
    pub fn length(&self, realm: RealmId, destination: Ipv4Addr) -> Option<u8> {
        self.realms.get(&realm)?.find(destination).map(|&(_, _, length)| length)
    }
}

/// The routes of the public side.
#[derive(Clone, Debug, Default)]
pub(super) struct ExternalRoutes {
    /// The prefixes on each link; a link is an interface and tag.
    links: HashMap<(PortId, u16), PrefixMap<()>>,
    segments: PrefixMap<(PortId, u16)>,
    /// The way out for packets without a public address.
    default: Option<ExternalRoute>,
}

impl ExternalRoutes {
    /// The routes by way of `addresses`, the first of which counts where several would do.
    pub fn new(addresses: &[PublicAddress]) -> Self {
        let link = |address: &PublicAddress| (address.port, address.vlan);
        let mut links: HashMap<(PortId, u16), Vec<(Cidr, ())>> = HashMap::new();
        for address in addresses {
            links.entry(link(address)).or_default().push((address.segment, ()));
        }
        Self {
            links: links.into_iter().map(|(link, all)| (link, PrefixMap::new(all))).collect(),
            segments: PrefixMap::new(
                addresses.iter().map(|address| (address.segment, link(address))),
            ),
            default: addresses.iter().find_map(|address| {
                let next_hop = address.gateway?;
                Some(ExternalRoute { port: address.port, vlan: address.vlan, next_hop })
            }),
        }
    }

    /// The way from `public` to `destination`: what is on any segment of the link is reached
    /// there, all else by the gateway.
    pub fn from(&self, public: &PublicAddress, destination: Ipv4Addr) -> Option<ExternalRoute> {
        let (port, vlan) = (public.port, public.vlan);
        let on_link =
            self.links.get(&(port, vlan)).and_then(|link| link.find(destination)).is_some();
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
