//! Guest networks: of an isolated router, the tiers of a VPC, and its private gateways.

use std::net::Ipv4Addr;

use super::addresses::{Address, MTU, Side};
use super::translate::Translator;
use crate::rules::diagnostic::Place;
use crate::rules::set::{
    Action, Cidr, EgressRule, Limits, Match, NatOptions, Network, Prefixes, Route,
};

impl Translator<'_> {
    /// The networks of an isolated router: one for each address it has on its guest side.
    pub fn guest_networks(&mut self) {
        let guests = self.bags.all_addresses().filter(|it| it.add && it.side == Side::Guest);
        let guests: Vec<&Address> = guests.collect();
        let mtu = self.bags.command_line.value("privateMtu").and_then(|mtu| mtu.parse().ok());
        let mtu = mtu.filter(|mtu| MTU.contains(mtu));
        for address in &guests {
            let cidr = address.segment();
            let of_device = self.set.networks.iter().any(|it| it.interface == address.device.name);
            let name = match of_device {
                false => address.device.name.clone(),
                true => format!("{}-{}", address.device.name, address.address),
            };
            if let Some(waits_for) = &address.device.waits_for {
                self.wait(format!("network \"{name}\""), &address.place, waits_for);
                continue;
            }
            let gateway = self.virtual_gateway(cidr).unwrap_or(address.address);
            let network = self.network(name, &address.device.name, (cidr, gateway), &address.place);
            self.set.networks.push(Network { mtu, ..network });
        }
        self.let_networks_of_one_router_meet();
    }

    /// The gateway that redundant routers share.
    fn virtual_gateway(&self, cidr: Cidr) -> Option<Ipv4Addr> {
        let line = &self.bags.command_line;
        let gateway = line.address("guestgw").filter(|_| line.is_on("redundant_router"));
        gateway.filter(|gateway| cidr.contains(*gateway))
    }

    /// Egress rules are about what leaves by the public side: between its own networks a router forwards.
    fn let_networks_of_one_router_meet(&mut self) {
        let networks = self.set.networks.clone();
        for (from, to) in networks.iter().flat_map(|from| networks.iter().map(move |to| (from, to)))
        {
            if from.name == to.name {
                continue;
            }
            self.set.egress_rules.push(EgressRule {
                id: format!("{} to {}", from.name, to.name),
                network: from.name.clone(),
                action: Action::Allow,
                matches: Match { protocol: None, ports: None, icmp_type: None, icmp_code: None },
                sources: Prefixes::default(),
                destinations: vec![to.cidr].into(),
                place: to.place.clone(),
            });
        }
    }

    /// The tiers of a VPC and its private gateways.
    pub fn vpc_networks(&mut self) {
        let bags = self.bags;
        for tier in bags.tiers.values() {
            let name = tier.device.name.clone();
            if let Some(waits_for) = &tier.device.waits_for {
                self.wait(format!("network \"{name}\""), &tier.place, waits_for);
                continue;
            }
            let network = self.network(name.clone(), &name, (tier.cidr, tier.gateway), &tier.place);
            self.set.networks.push(Network { mtu: tier.mtu, ..network });
        }
        for address in self.private_gateways() {
            let name = address.device.name.clone();
            if let Some(waits_for) = &address.device.waits_for {
                self.wait(format!("private gateway \"{name}\""), &address.place, waits_for);
                continue;
            }
            let place = (address.segment(), address.address);
            let mut network = self.network(name.clone(), &name, place, &address.place);
            network.nat.gateway_source_nat = address.source_nat;
            // What lies behind its next hop comes from it, too.
            self.set.networks.push(Network { anti_spoofing: false, ..network });
        }
    }

    fn network(
        &self,
        name: String,
        interface: &str,
        (cidr, gateway): (Cidr, Ipv4Addr),
        place: &Place,
    ) -> Network {
        let mut nat = NatOptions::default();
        if self.is_routed() {
            nat.exempt = vec![Cidr::ANY];
        }
        // Without a public side there is nothing to guard it from.
        let is_open = !self.bags.command_line.has_public_network();
        Network {
            name,
            interface: interface.to_owned(),
            vlan: 0,
            outer_tag: None,
            vxlan: None,
            cidr,
            gateway,
            mtu: None,
            ipv6: None,
            domain: Some(self.domain.clone()),
            source_nat: Vec::new(),
            egress_default: if is_open { Action::Allow } else { Action::Deny },
            egress_reject: false,
            nat,
            limits: Limits::default(),
            mss_clamp: None,
            anti_spoofing: true,
            place: place.clone(),
        }
    }

    /// Static routes: through a private gateway, or to a next hop in a tier.
    pub fn static_routes(&mut self) {
        let bags = self.bags;
        for route in bags.routes.values().filter(|route| !route.revoked) {
            let what = || format!("static route to {} via {}", route.destination, route.gateway);
            if self.network_of(route.gateway).is_some() {
                self.set.routes.push(Route {
                    domain: self.domain.clone(),
                    destination: route.destination,
                    via: route.gateway,
                    place: route.place.clone(),
                });
                continue;
            }
            let is_public = bags.public_addresses().any(|it| it.segment().contains(route.gateway));
            if is_public {
                let what =
                    format!("{} leads to the public side, which has its own gateway", what());
                self.notes.warn(route.place.clone(), what, "it is not in force");
            } else {
                self.wait(what(), &route.place, &format!("a network with {}", route.gateway));
            }
        }
    }
}
