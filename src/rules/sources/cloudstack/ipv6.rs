//! IPv6: routed, never translated, with a firewall or the ACLs of its own.

use std::net::Ipv6Addr;

use super::addresses::TierIpv6;
use super::command_line::RouterKind;
use super::firewall::FirewallEntry;
use super::translate::Translator;
use super::values::{Ends, Families};
use crate::rules::diagnostic::Place;
use crate::rules::set::{Action, Cidr, Ipv6FirewallRule, Match, NetworkIpv6, PublicIpv6};

impl Translator<'_> {
    /// Gives networks their IPv6 side, and the router its addresses on the public one.
    pub fn ipv6_networks(&mut self) {
        match self.kind {
            RouterKind::Vpc => self.ipv6_tiers(),
            RouterKind::Isolated | RouterKind::Services => self.ipv6_of_command_line(),
        }
    }

    fn ipv6_of_command_line(&mut self) {
        let line = &self.bags.command_line;
        let address = |key: &str| line.value(key).and_then(|text| text.parse::<Ipv6Addr>().ok());
        let length = |key: &str| line.value(key).and_then(|text| text.parse::<u8>().ok());
        if let Some(own) = address("eth0ip6")
            && let Some(network) = self.set.networks.first_mut()
        {
            let length = length("guestcidr6size").or(length("eth0ip6prelen")).unwrap_or(64);
            let gateway = address("guestgw6").unwrap_or(own);
            network.ipv6 = Some(NetworkIpv6 { cidr: Cidr::containing(own, length), gateway });
        }
        if let (Some(own), Some(place)) = (address("eth2ip6"), line.place("eth2ip6")) {
            let interface = self.set.public_ips.first().map(|ip| ip.interface.clone());
            let place = place.clone();
            self.set.public_ipv6.push(PublicIpv6 {
                address: own,
                prefix_len: length("eth2ip6prelen").unwrap_or(64),
                interface: interface.unwrap_or_else(|| "eth2".to_owned()),
                vlan: 0,
                gateway: address("ip6gateway"),
                place,
            });
        }
    }

    fn ipv6_tiers(&mut self) {
        let bags = self.bags;
        for (name, tier) in &bags.tiers {
            let Some(TierIpv6 { network: ipv6, public }) = tier.ipv6 else { continue };
            if let Some(network) =
                self.set.networks.iter_mut().find(|network| network.name == *name)
            {
                network.ipv6 = Some(ipv6);
            }
            if let Some((address, prefix_len, gateway)) = public {
                self.public_ipv6(address, prefix_len, gateway, &tier.place);
            }
        }
    }

    /// Tiers share the router's public side: each says its own address there, or the same.
    fn public_ipv6(
        &mut self,
        address: Ipv6Addr,
        prefix_len: u8,
        gateway: Option<Ipv6Addr>,
        place: &Place,
    ) {
        if self.set.public_ipv6.iter().any(|known| known.address == address) {
            return;
        }
        let Some(interface) = self.set.public_ips.first().map(|ip| ip.interface.clone()) else {
            self.wait(
                format!("public address {address}"),
                place,
                "a public address of IPv4 on its NIC",
            );
            return;
        };
        let place = place.clone();
        let public = PublicIpv6 { address, prefix_len, interface, vlan: 0, gateway, place };
        self.set.public_ipv6.push(public);
    }

    /// The IPv6 firewall of an isolated network: ingress rules, and egress rules that end in its own policy.
    pub fn ipv6_firewall(&mut self) {
        let entries: Vec<&FirewallEntry> = self.bags.ipv6_firewall.values().collect();
        let dual = self.set.networks.iter().find(|network| network.ipv6.is_some());
        let Some((name, place)) = dual.map(|network| (network.name.clone(), network.place.clone()))
        else {
            for entry in entries {
                let what = format!("IPv6 firewall rule {}", entry.id);
                self.wait(what, &entry.place, "a network with IPv6");
            }
            return;
        };
        for entry in entries.iter().filter(|entry| !entry.is_default()) {
            match entry.is_egress {
                true => {
                    let id = format!("ipv6 {}", entry.id);
                    self.push_egress_rule(id, &name, entry, Families::Ipv6OfBoth);
                }
                false => self.ipv6_firewall_rule(&name, entry),
            }
        }
        // What no rule matches is not IPv4's affair: it has a policy of its own, closed until it came.
        let default = entries.iter().find(|entry| entry.is_default());
        let action = default.map_or(Action::Deny, |entry| entry.egress_policy);
        let any = Ends { has_v6: true, ..Ends::default() };
        self.push_egress_rule(
            "ipv6".to_owned(),
            &name,
            &FirewallEntry {
                id: 0,
                public_ip: None,
                is_egress: true,
                // An entry does the opposite of the policy that it carries.
                egress_policy: match action {
                    Action::Allow => Action::Deny,
                    Action::Deny => Action::Allow,
                },
                matches: Match { protocol: None, ports: None, icmp_type: None, icmp_code: None },
                sources: any.clone(),
                destinations: any,
                place: default.map_or(place, |entry| entry.place.clone()),
            },
            Families::Ipv6OfBoth,
        );
    }

    fn ipv6_firewall_rule(&mut self, network: &str, entry: &FirewallEntry) {
        if !entry.sources.has_v6 || !entry.destinations.has_v6 {
            return;
        }
        self.set.ipv6_firewall_rules.push(Ipv6FirewallRule {
            id: entry.id.to_string(),
            network: network.to_owned(),
            action: Action::Allow,
            matches: entry.matches,
            sources: entry.sources.v6.clone(),
            destinations: entry.destinations.v6.clone(),
            place: entry.place.clone(),
        });
    }
}
