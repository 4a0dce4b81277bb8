//! The IPv6 side of a policy: which network an address is in, what may pass, and the way out.
//!
//! IPv6 addresses of guests are public: a prefix belongs to one network of one realm, whoever asks.

use std::net::Ipv6Addr;

use ahash::HashSet;

use crate::flow::{NetworkId, PortId};
use crate::policy::filter::Filter;
use crate::policy::prefixes::PrefixMap;
use crate::rules::set::Cidr;

/// The IPv6 side of a guest network, compiled.
#[derive(Clone, Debug)]
pub struct NetworkIpv6 {
    /// Its prefix.
    pub cidr: Cidr<Ipv6Addr>,
    /// The router's address in it.
    pub gateway: Ipv6Addr,
    /// What may leave it: its ACL, or its egress rules with their default.
    pub egress: Filter<Ipv6Addr>,
    /// What may enter it: its ACL, or its IPv6 firewall rules with deny behind them.
    pub ingress: Filter<Ipv6Addr>,
}

/// A public IPv6 address of the router.
#[derive(Clone, Copy, Debug)]
pub struct PublicIpv6 {
    /// The address.
    pub address: Ipv6Addr,
    /// Its segment.
    pub segment: Cidr<Ipv6Addr>,
    /// Its interface.
    pub port: PortId,
    /// Its tag; zero for untagged.
    pub vlan: u16,
    /// The upstream router.
    pub gateway: Option<Ipv6Addr>,
}

/// Where an IPv6 packet to the public side goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteIpv6 {
    /// The interface.
    pub port: PortId,
    /// The tag; zero for untagged.
    pub vlan: u16,
    /// The next hop: the destination itself if it is on the segment, or the gateway.
    pub next_hop: Ipv6Addr,
}

/// What spans networks.
#[derive(Clone, Debug, Default)]
pub struct PolicyIpv6 {
    addresses: Vec<PublicIpv6>,
    own: HashSet<Ipv6Addr>,
    /// The network that addresses are in or behind, and what they are behind.
    networks: PrefixMap<(NetworkId, Option<Ipv6Addr>), Ipv6Addr>,
    segments: PrefixMap<(PortId, u16), Ipv6Addr>,
    default: Option<RouteIpv6>,
}

impl PolicyIpv6 {
    /// The public side's `addresses`, the guests' `networks`, and through these the `routes` (destination
    /// and next hop). A route whose next hop is in no network leads nowhere and is left out.
    pub(super) fn new(
        addresses: Vec<PublicIpv6>,
        networks: &[(NetworkId, Cidr<Ipv6Addr>, Ipv6Addr)],
        routes: impl Iterator<Item = (Cidr<Ipv6Addr>, Ipv6Addr)>,
    ) -> Self {
        let connected = PrefixMap::new(networks.iter().map(|&(id, cidr, _)| (cidr, id)));
        let behind = routes.filter_map(|(destination, via)| {
            Some((destination, (*connected.find(via)?, Some(via))))
        });
        // Networks come first, so a route never takes a network's own prefix.
        let own = networks.iter().map(|&(id, cidr, _)| (cidr, (id, None)));
        let ways = PrefixMap::new(own.chain(behind));
        let gateways = networks.iter().map(|(_, _, gateway)| *gateway);
        Self {
            own: addresses.iter().map(|public| public.address).chain(gateways).collect(),
            networks: ways,
            segments: PrefixMap::new(
                addresses.iter().map(|public| (public.segment, (public.port, public.vlan))),
            ),
            default: addresses.iter().find_map(|public| {
                let next_hop = public.gateway?;
                Some(RouteIpv6 { port: public.port, vlan: public.vlan, next_hop })
            }),
            addresses,
        }
    }

    /// The router's addresses on the public side.
    #[must_use]
    pub fn addresses(&self) -> &[PublicIpv6] {
        &self.addresses
    }

    /// Whether `address` is one of the router's, on either side.
    #[must_use]
    pub fn is_own(&self, address: Ipv6Addr) -> bool {
        self.own.contains(&address)
    }

    /// The guest network that `address` is in, or behind.
    #[must_use]
    pub fn network(&self, address: Ipv6Addr) -> Option<NetworkId> {
        self.networks.find(address).map(|&(id, _)| id)
    }

    /// The next hop of `address` in its guest network: itself, or what it is behind.
    #[must_use]
    pub fn internal_hop(&self, address: Ipv6Addr) -> Ipv6Addr {
        self.networks.find(address).and_then(|&(_, via)| via).unwrap_or(address)
    }

    /// The way to `destination` on the public side.
    #[must_use]
    pub fn external_route(&self, destination: Ipv6Addr) -> Option<RouteIpv6> {
        match self.segments.find(destination) {
            Some(&(port, vlan)) => Some(RouteIpv6 { port, vlan, next_hop: destination }),
            None => self.default,
        }
    }

    /// The address that the router speaks from on `port` under `vlan` of the public side.
    #[must_use]
    pub fn speaker(&self, port: PortId, vlan: u16) -> Option<Ipv6Addr> {
        let here = |public: &&PublicIpv6| (public.port, public.vlan) == (port, vlan);
        let found = self.addresses.iter().find(here).or(self.addresses.first());
        found.map(|public| public.address)
    }
}
