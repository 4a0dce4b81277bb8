//! Policy routes: ways that some of what guests send takes instead of those by destination.

use std::net::Ipv4Addr;

use crate::flow::{NetworkId, PortId, RealmId, RuleId};
use crate::nat::mappings::Pool;
use crate::policy::filter::Probe;
use crate::policy::prefixes::PrefixMap;
use crate::policy::{Network, Policy};
use crate::rules::set::{Cidr, Match, PolicyRoute, PortRange};

/// Where a policy route sends what it takes.
#[derive(Clone, Debug)]
pub enum Way {
    /// Nowhere.
    Blackhole,
    /// To a guest that forwards.
    Guest {
        /// Its network.
        network: NetworkId,
        /// The guest.
        via: Ipv4Addr,
    },
    /// Out by the public side.
    Outside {
        /// The interface.
        port: PortId,
        /// The tag; zero for untagged.
        vlan: u16,
        /// The upstream router.
        via: Ipv4Addr,
        /// What guests leave with; none if they have no address there.
        pool: Option<Pool>,
    },
}

/// A policy route of a network, compiled.
#[derive(Clone, Debug)]
pub(super) struct Steering {
    rule: RuleId,
    matches: Match,
    source_ports: Option<PortRange>,
    sources: Vec<Cidr>,
    destinations: Vec<Cidr>,
    /// The ways by destination, each with the length of its prefix.
    ways: PrefixMap<(u8, Way)>,
}

impl Steering {
    pub fn new(
        rule: RuleId,
        route: &PolicyRoute,
        ways: impl IntoIterator<Item = (Cidr, Way)>,
    ) -> Self {
        let with_length = |(cidr, way): (Cidr, Way)| (cidr, (cidr.length(), way));
        Self {
            rule,
            matches: route.matches,
            source_ports: route.source_ports,
            sources: route.sources.clone(),
            destinations: route.destinations.clone(),
            ways: PrefixMap::new(ways.into_iter().map(with_length)),
        }
    }

    fn takes(&self, probe: &Probe, source_port: u16) -> bool {
        let Match { protocol, ports, icmp_type, icmp_code } = self.matches;
        let within = |cidrs: &[Cidr], address| {
            cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(address))
        };
        let covers = |ports: Option<PortRange>, port: u16| {
            ports.is_none_or(|ports| (ports.first()..=ports.last()).contains(&port))
        };
        protocol.is_none_or(|protocol| protocol == probe.protocol)
            && covers(ports, probe.port)
            && covers(self.source_ports, source_port)
            && icmp_type.is_none_or(|kind| kind == probe.icmp.0)
            && icmp_code.is_none_or(|code| code == probe.icmp.1)
            && within(&self.sources, probe.source)
            && within(&self.destinations, probe.destination)
    }
}

impl Policy {
    /// What guests leave with who go the way of a policy route, with their networks.
    pub fn way_pools(&self) -> impl Iterator<Item = (&Network, &Pool)> {
        let networks = (0..).map(NetworkId).zip(&self.networks);
        let steered = networks.flat_map(|(id, network)| {
            let routes = self.steering.get(&id).map_or(&[][..], Vec::as_slice);
            routes.iter().map(move |route| (network, route))
        });
        let ways = steered
            .flat_map(|(network, route)| route.ways.values().map(move |(_, way)| (network, way)));
        ways.filter_map(|(network, way)| match way {
            Way::Outside { pool, .. } => Some((network, pool.as_ref()?)),
            Way::Blackhole | Way::Guest { .. } => None,
        })
    }

    /// The way that a policy route of `network` gives a session from `source_port`, and the policy
    /// route: the first one that matches and has a route to the destination, unless the realm has a
    /// longer one. They are asked one after the other: there are few, and only new sessions ask.
    #[must_use]
    pub fn policy_way(
        &self,
        network: NetworkId,
        realm: RealmId,
        probe: &Probe,
        source_port: u16,
    ) -> Option<(RuleId, &Way)> {
        let steering = self.steering.get(&network)?;
        let inside = self.internal_routes.length(realm, probe.destination).unwrap_or(0);
        let mut taking = steering.iter().filter(|steering| steering.takes(probe, source_port));
        taking.find_map(|steering| {
            let (length, way) = steering.ways.find(probe.destination)?;
            (*length >= inside).then_some((steering.rule, way))
        })
    }
}
