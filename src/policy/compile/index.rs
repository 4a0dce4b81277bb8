//! The rules sorted by what they belong to, so that compiling never searches a list.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::config::{Config, Role};
use crate::flow::{NetworkId, PortId};
use crate::policy::attachments::NETWORK_MAX;
use crate::policy::ipv6::PublicIpv6;
use crate::rules::set::{
    AclDirection, AclEntry, Cidr, EgressRule, FirewallRule, Ipv6FirewallRule, LoadBalancer,
    LocalService, Network, PortForward, PublicIp, RuleSet, StaticNat,
};

/// The rules by network and by public address. What names an interface, network or address that
/// is not there is left out: checking has told people, or it is pending.
pub(super) struct Index<'a> {
    pub networks: Vec<NetworkRules<'a>>,
    pub addresses: Vec<AddressRules<'a>>,
    network_ids: HashMap<&'a str, NetworkId>,
    address_places: HashMap<Ipv4Addr, usize>,
    /// Interfaces of the public side.
    pub public_ports: Vec<PortId>,
    /// The router's public IPv6 addresses.
    pub public_ipv6: Vec<PublicIpv6>,
}

/// A network and what belongs to it.
pub(super) struct NetworkRules<'a> {
    pub network: &'a Network,
    pub port: PortId,
    pub egress: Vec<&'a EgressRule>,
    pub ipv6_firewall: Vec<&'a Ipv6FirewallRule>,
    /// The entries of its egress and ingress ACL by number; none unless it is a VPC tier.
    pub acl: Option<Acl<'a>>,
    /// Whether a static NAT leads into it.
    pub has_static_nat: bool,
}

/// What governs a VPC tier.
#[derive(Default)]
pub(super) struct Acl<'a> {
    pub egress: Vec<&'a AclEntry>,
    pub ingress: Vec<&'a AclEntry>,
}

/// A public address and what belongs to it.
pub(super) struct AddressRules<'a> {
    pub address: &'a PublicIp,
    pub port: PortId,
    pub firewall: Vec<&'a FirewallRule>,
    pub forwards: Vec<(NetworkId, &'a PortForward)>,
    pub balancers: Vec<(NetworkId, &'a LoadBalancer)>,
    pub static_nats: Vec<(NetworkId, &'a StaticNat)>,
    pub local: Vec<&'a LocalService>,
    /// The networks whose pool it is in.
    pub pool_of: Vec<NetworkId>,
}

impl<'a> Index<'a> {
    pub fn new(rules: &'a RuleSet, config: &'a Config) -> Self {
        let ports: HashMap<&str, PortId> = (0..=u8::MAX)
            .zip(&config.interfaces)
            .map(|(place, interface)| (interface.name.as_str(), PortId(place)))
            .collect();
        let mut index = Self {
            networks: Vec::with_capacity(rules.networks.len()),
            addresses: Vec::with_capacity(rules.public_ips.len()),
            network_ids: HashMap::with_capacity(rules.networks.len()),
            address_places: HashMap::with_capacity(rules.public_ips.len()),
            public_ports: (0..=u8::MAX)
                .zip(&config.interfaces)
                .filter(|(_, interface)| interface.role == Role::Public)
                .map(|(place, _)| PortId(place))
                .collect(),
            public_ipv6: rules
                .public_ipv6
                .iter()
                .filter_map(|public| {
                    Some(PublicIpv6 {
                        address: public.address,
                        segment: Cidr::containing(public.address, public.prefix_len),
                        port: *ports.get(public.interface.as_str())?,
                        vlan: public.vlan,
                        gateway: public.gateway,
                    })
                })
                .collect(),
        };
        index.add_addresses(&rules.public_ips, &ports);
        index.add_networks(&rules.networks, &ports);
        index.add_network_rules(rules);
        index.add_address_rules(rules);
        index
    }

    fn add_addresses(&mut self, addresses: &'a [PublicIp], ports: &HashMap<&str, PortId>) {
        for address in addresses {
            let Some(&port) = ports.get(address.interface.as_str()) else { continue };
            if self.address_places.contains_key(&address.address) {
                continue;
            }
            self.address_places.insert(address.address, self.addresses.len());
            self.addresses.push(AddressRules {
                address,
                port,
                firewall: Vec::new(),
                forwards: Vec::new(),
                balancers: Vec::new(),
                static_nats: Vec::new(),
                local: Vec::new(),
                pool_of: Vec::new(),
            });
        }
    }

    fn add_networks(&mut self, networks: &'a [Network], ports: &HashMap<&str, PortId>) {
        for network in networks {
            let Some(&port) = ports.get(network.interface.as_str()) else { continue };
            let Ok(place) = u16::try_from(self.networks.len()) else { return };
            if place >= NETWORK_MAX || self.network_ids.contains_key(network.name.as_str()) {
                continue;
            }
            self.network_ids.insert(&network.name, NetworkId(place));
            self.networks.push(NetworkRules {
                network,
                port,
                egress: Vec::new(),
                ipv6_firewall: Vec::new(),
                acl: None,
                has_static_nat: false,
            });
            for address in &network.source_nat {
                if let Some(address) = self.address_mut(*address) {
                    address.pool_of.push(NetworkId(place));
                }
            }
        }
    }

    fn add_network_rules(&mut self, rules: &'a RuleSet) {
        for rule in &rules.egress_rules {
            if let Some(network) = self.network_mut(&rule.network) {
                network.egress.push(rule);
            }
        }
        for rule in &rules.ipv6_firewall_rules {
            if let Some(network) = self.network_mut(&rule.network) {
                network.ipv6_firewall.push(rule);
            }
        }
        for list in &rules.network_acls {
            let Some(network) = self.network_mut(&list.network) else { continue };
            let acl = network.acl.get_or_insert_default();
            let entries = match list.direction {
                AclDirection::Egress => &mut acl.egress,
                AclDirection::Ingress => &mut acl.ingress,
            };
            entries.extend(&list.entries);
            entries.sort_by_key(|entry| entry.number);
        }
    }

    fn add_address_rules(&mut self, rules: &'a RuleSet) {
        for rule in &rules.firewall_rules {
            if let Some(address) = self.address_mut(rule.public_ip) {
                address.firewall.push(rule);
            }
        }
        for rule in &rules.static_nats {
            let Some(network) = self.network_id(&rule.network) else { continue };
            if let Some(address) = self.address_mut(rule.public_ip) {
                address.static_nats.push((network, rule));
            }
            if let Some(network) = self.network_mut(&rule.network) {
                network.has_static_nat = true;
            }
        }
        for rule in &rules.port_forwards {
            let Some(network) = self.network_id(&rule.network) else { continue };
            if let Some(address) = self.address_mut(rule.public_ip) {
                address.forwards.push((network, rule));
            }
        }
        for rule in &rules.load_balancers {
            let Some(network) = self.network_id(&rule.network) else { continue };
            if let Some(address) = self.address_mut(rule.public_ip) {
                address.balancers.push((network, rule));
            }
        }
        for service in &rules.local_services {
            if let Some(address) = self.address_mut(service.address) {
                address.local.push(service);
            }
        }
    }

    /// The rules of a public address.
    pub fn address(&self, address: Ipv4Addr) -> Option<&AddressRules<'a>> {
        self.addresses.get(*self.address_places.get(&address)?)
    }

    /// Whether a network is a VPC tier.
    pub fn is_tier(&self, network: NetworkId) -> bool {
        self.networks.get(usize::from(network.0)).is_some_and(|network| network.acl.is_some())
    }

    pub fn network_id(&self, name: &str) -> Option<NetworkId> {
        self.network_ids.get(name).copied()
    }

    fn network_mut(&mut self, name: &str) -> Option<&mut NetworkRules<'a>> {
        self.networks.get_mut(usize::from(self.network_ids.get(name)?.0))
    }

    fn address_mut(&mut self, address: Ipv4Addr) -> Option<&mut AddressRules<'a>> {
        self.addresses.get_mut(*self.address_places.get(&address)?)
    }
}

impl AddressRules<'_> {
    /// Whether everything that goes through this address leads into VPC tiers, whose ACLs govern
    /// instead of the firewall.
    pub fn leads_to_tiers(&self, index: &Index<'_>) -> bool {
        let mut networks = (self.forwards.iter().map(|(network, _)| *network))
            .chain(self.balancers.iter().map(|(network, _)| *network))
            .chain(self.static_nats.iter().map(|(network, _)| *network))
            .chain(self.pool_of.iter().copied())
            .peekable();
        networks.peek().is_some() && networks.all(|network| index.is_tier(network))
    }
}
