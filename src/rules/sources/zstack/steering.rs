//! Policy routes, static routes beyond the public side, and blackholes, as native policy routes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::nics::{Category, Nic};
use super::policy_routes::{PolicyReference, PolicyRule};
use super::routes::StaticRoute;
use super::rules::nic_of;
use super::state::State;
use crate::flow::Mac;
use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::set::{Cidr, Match, PolicyHop, PolicyRoute, PortRange, PublicIp};
use crate::rules::sources::Pending;

/// What is steered, and what waits or is odd about it.
#[derive(Debug, Default)]
pub struct Steered {
    /// The policy routes, in order.
    pub routes: Vec<PolicyRoute>,
    /// Routes whose next hop is nowhere yet.
    pub pending: Vec<Pending>,
    /// What is odd.
    pub faults: Vec<Diagnostic>,
}

/// The policy routes that `state` says, on a router with these public addresses.
pub fn steer(state: &State, addresses: &BTreeMap<Ipv4Addr, PublicIp>) -> Steered {
    let mut steering = Steering { state, addresses, out: Steered::default() };
    for PolicyReference { set, mac, origin } in state.policy_routes.references.values() {
        let is_system = state.policy_routes.sets.get(set).is_some_and(|set| set.is_system);
        if is_system {
            continue;
        }
        match state.nics.get(mac) {
            Some(nic) if nic.category == Category::Private => steering.rules(set, *mac, nic),
            Some(_) => steering.note_public(set, *mac, &origin.place),
            None => steering.out.pending.push(Pending {
                what: format!("rule set {set} on {mac}"),
                place: origin.place.clone(),
                waits_for: nic_of(*mac),
            }),
        }
    }
    let private = state.nics.iter().filter(|(_, nic)| nic.category == Category::Private);
    for (mac, nic) in private {
        steering.static_routes(*mac, nic);
    }
    steering.out
}

struct Steering<'a> {
    state: &'a State,
    addresses: &'a BTreeMap<Ipv4Addr, PublicIp>,
    out: Steered,
}

impl<'a> Steering<'a> {
    /// The rules of a set for what comes in by a private NIC.
    fn rules(&mut self, set: &str, mac: Mac, nic: &Nic) {
        let state = self.state;
        let of_set = |(_, rule): &(&'a (String, i64), &'a PolicyRule)| rule.is_on;
        let rules = state.policy_routes.rules.iter().filter(|((of, _), _)| of == set);
        for ((_, number), rule) in rules.filter(of_set) {
            let of_table = (rule.table, Cidr::ANY)..;
            let routes = state.policy_routes.routes.range(of_table);
            let hops: Vec<PolicyHop> = routes
                .take_while(|((table, _), _)| *table == rule.table)
                .filter_map(|(&(_, to), route)| {
                    self.hop(mac, to, Some(route.via), &route.origin.place)
                })
                .collect();
            if hops.is_empty() || nic.segment().is_none() {
                continue;
            }
            let id = format!("{set}-{number}@{}", nic.interface);
            for (place, matches) in (1..).zip(&rule.matches) {
                let id = if place == 1 { id.clone() } else { format!("{id}.{place}") };
                let route = policy_route((id, nic), *matches, hops.clone(), &rule.origin.place);
                self.out.routes.push(PolicyRoute {
                    sources: rule.sources.clone(),
                    destinations: rule.destinations.clone(),
                    ..route
                });
            }
        }
    }

    /// The static routes that do not lead through guests, for what comes in by a private NIC.
    fn static_routes(&mut self, mac: Mac, nic: &Nic) {
        let state = self.state;
        let beyond = state.routes.iter().filter(|(_, route)| !route.is_inside(state));
        let mut place = None;
        let mut hops = Vec::new();
        for (&to, StaticRoute { via, origin }) in beyond {
            place.get_or_insert(&origin.place);
            hops.extend(self.hop(mac, to, *via, &origin.place));
        }
        if let Some(place) = place.filter(|_| !hops.is_empty() && nic.segment().is_some()) {
            let any = Match { protocol: None, ports: None, icmp_type: None, icmp_code: None };
            let id = format!("routes@{}", nic.interface);
            self.out.routes.push(policy_route((id, nic), (any, None), hops, place));
        }
    }

    /// A hop for what comes in by a private NIC; none, and it waits, while nothing leads to its next hop.
    fn hop(
        &mut self,
        mac: Mac,
        destination: Cidr,
        via: Option<Ipv4Addr>,
        place: &Place,
    ) -> Option<PolicyHop> {
        let Some(via) = via else {
            return Some(PolicyHop { destination, via: None, source_nat: Vec::new() });
        };
        let mut private = self.state.nics.values().filter(|nic| nic.category == Category::Private);
        if private.any(|nic| nic.segment().is_some_and(|segment| segment.contains(via))) {
            return Some(PolicyHop { destination, via: Some(via), source_nat: Vec::new() });
        }
        let beside = self.addresses.values().find(|ip| {
            Cidr::containing(ip.address, ip.prefix_len).contains(via) || ip.gateway == Some(via)
        });
        let Some(beside) = beside else {
            let waiting = Pending {
                what: format!("route to {destination} by {via}"),
                place: place.clone(),
                waits_for: format!("an address beside {via}"),
            };
            if !self.out.pending.contains(&waiting) {
                self.out.pending.push(waiting);
            }
            return None;
        };
        // Source NAT of this network towards the NIC that the next hop is behind.
        let mut snats = self.state.snats.iter().filter(|((private, public), snat)| {
            let nic = self.state.nics.get(public);
            *private == mac && snat.is_on && nic.is_some_and(|it| it.interface == beside.interface)
        });
        let public = snats.find(|(_, snat)| self.addresses.contains_key(&snat.public));
        let source_nat = public.map(|(_, snat)| snat.public).into_iter().collect();
        Some(PolicyHop { destination, via: Some(via), source_nat })
    }

    fn note_public(&mut self, set: &str, mac: Mac, place: &Place) {
        self.out.faults.push(Diagnostic {
            severity: Severity::Warning,
            place: place.clone(),
            what: format!("rule set {set} does nothing on {mac}, which is no private NIC"),
            hint: "natwerk asks policy routes of what guests send; answers go back as they came"
                .to_owned(),
        });
    }
}

fn policy_route(
    (id, nic): (String, &Nic),
    (matches, source_ports): (Match, Option<PortRange>),
    routes: Vec<PolicyHop>,
    place: &Place,
) -> PolicyRoute {
    PolicyRoute {
        id,
        network: nic.interface.clone(),
        matches,
        source_ports,
        sources: Vec::new(),
        destinations: Vec::new(),
        routes,
        place: place.clone(),
    }
}
