//! Policy routes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ahash::HashMap;

use crate::flow::NetworkId;
use crate::nat::mappings::Pool;
use crate::policy::compile::{Compiler, text};
use crate::policy::registry::RuleKind;
use crate::policy::ways::{Steering, Way};
use crate::policy::{Network, PublicAddress};
use crate::rules::set::{self, Cidr, PolicyHop, RuleSet};

impl Compiler<'_> {
    /// The policy routes by network. Notes in `networks` what guests there forward for others.
    pub(super) fn steering(
        &mut self,
        rules: &RuleSet,
        networks: &mut [Network],
        addresses: &[PublicAddress],
    ) -> HashMap<NetworkId, Vec<Steering>> {
        let mut steering: HashMap<NetworkId, Vec<Steering>> = HashMap::default();
        for route in &rules.policy_routes {
            let Some(id) = self.index.network_id(&route.network) else { continue };
            let owner: Arc<str> = route.network.as_str().into();
            let text = text::policy_route(route);
            let rule = self.number(RuleKind::PolicyRoute, &route.id, &owner, text, &route.place);
            let ways: Vec<(Cidr, Way)> = route
                .routes
                .iter()
                .filter_map(|hop| Some((hop.destination, self.way(hop, id, networks, addresses)?)))
                .collect();
            for (destination, way) in &ways {
                if let Way::Guest { network, .. } = way
                    && let Some(network) = networks.get_mut(usize::from(network.0))
                {
                    network.transit.push(*destination);
                }
            }
            steering.entry(id).or_default().push(Steering::new(rule, route, ways));
        }
        steering
    }

    /// The way of a hop for the guests of a network; none if its next hop is nowhere.
    fn way(
        &self,
        hop: &PolicyHop,
        id: NetworkId,
        networks: &[Network],
        addresses: &[PublicAddress],
    ) -> Option<Way> {
        let Some(via) = hop.via else { return Some(Way::Blackhole) };
        let own = networks.get(usize::from(id.0))?;
        let inside = (0..).map(NetworkId).zip(networks).find(|(_, network)| {
            network.realm == own.realm && network.cidr.contains(via) && network.gateway != via
        });
        if let Some((network, _)) = inside {
            return Some(Way::Guest { network, via });
        }
        let (port, vlan) = addresses
            .iter()
            .find(|address| address.segment.contains(via) || address.gateway == Some(via))
            .map(|address| (address.port, address.vlan))?;
        let rules = self.index.networks.get(usize::from(id.0))?.network;
        let listed = match hop.source_nat.is_empty() {
            true => &rules.source_nat,
            false => &hop.source_nat,
        };
        let is_there = |wanted: &Ipv4Addr| {
            let mut there = addresses.iter().filter(|it| (it.port, it.vlan) == (port, vlan));
            there.any(|it| it.address == *wanted)
        };
        let pool = self.pool_there(rules, listed.iter().copied().filter(is_there).collect());
        Some(Way::Outside { port, vlan, via, pool })
    }

    /// The pool of a network, made of these addresses instead of its own; none if there are none.
    fn pool_there(&self, network: &set::Network, source_nat: Vec<Ipv4Addr>) -> Option<Pool> {
        self.pool(&set::Network { source_nat, ..network.clone() })
    }
}
