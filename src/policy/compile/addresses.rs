//! Public addresses: their firewall and what they serve.

use std::sync::Arc;

use crate::flow::{Endpoint, NetworkId};
use crate::policy::compile::index::AddressRules;
use crate::policy::compile::{Compiler, text};
use crate::policy::filter::{Decided, Filter, FilterRule};
use crate::policy::registry::RuleKind;
use crate::policy::services::{Forward, Item, Ports, Services, StaticService};
use crate::policy::{Balancer, PublicAddress, StaticSource};
use crate::rules::set::{Cidr, LoadBalancer, Member, PortForward, PortRange, Prefixes, StaticNat};

impl<'a> Compiler<'a> {
    pub(super) fn public_address(
        &mut self,
        rules: &AddressRules<'a>,
        services: &mut Services,
    ) -> PublicAddress {
        let address = rules.address;
        let owner: Arc<str> = address.address.to_string().into();
        let ingress = match rules.leads_to_tiers(self.index) && !address.firewall_before_acl {
            true => None,
            false => Some(self.firewall(&owner, rules)),
        };
        self.services(&owner, rules, services);
        PublicAddress {
            address: address.address,
            segment: Cidr::containing(address.address, address.prefix_len),
            port: rules.port,
            vlan: address.vlan,
            gateway: address.gateway,
            ingress,
            firewall_before_acl: address.firewall_before_acl,
            echo_reply: address.echo_reply,
        }
    }

    fn firewall(&mut self, owner: &Arc<str>, rules: &AddressRules<'a>) -> Filter {
        let mut filter_rules = Vec::with_capacity(rules.firewall.len());
        for rule in &rules.firewall {
            let sources = Prefixes::from(rule.sources.clone());
            let text = text::filter_rule(rule.action, &rule.matches, &sources, Prefixes::NONE);
            let number = self.number(RuleKind::Firewall, &rule.id, owner, text, &rule.place);
            filter_rules.push(FilterRule {
                decided: Decided { action: rule.action, rule: number },
                matches: rule.matches,
                sources: &rule.sources,
                destinations: &[],
            });
        }
        let action = rules.address.ingress_default;
        let place = &rules.address.place;
        let default =
            self.number_default(RuleKind::FirewallDefault, owner, text::default(action), place);
        Filter::new(&filter_rules, Decided { action, rule: default })
    }

    /// Local services come first, then static NAT, then forwards and balancers as written.
    fn services(&mut self, owner: &Arc<str>, rules: &AddressRules<'a>, services: &mut Services) {
        let mut items: Vec<(Ports, Item)> = rules
            .local
            .iter()
            .map(|service| {
                ((service.protocol, service.ports), Item::Local(service.sources.clone()))
            })
            .collect();
        let static_nats: Vec<StaticService> = rules
            .static_nats
            .iter()
            .map(|(network, rule)| self.static_nat(owner, *network, rule))
            .collect();
        for (network, rule) in &rules.forwards {
            items.push(self.forward(owner, *network, rule));
        }
        for (network, rule) in &rules.balancers {
            items.push(self.balancer(owner, *network, rule));
        }
        services.insert(rules.address.address, static_nats.first().copied(), items);
    }

    fn static_nat(
        &mut self,
        owner: &Arc<str>,
        network: NetworkId,
        rule: &StaticNat,
    ) -> StaticService {
        let text = text::static_nat(rule);
        let number = self.number(RuleKind::StaticNat, &rule.id, owner, text, &rule.place);
        if let Some(guest) = rule.guest_ip
            && let Some(realm) = self.realms.get(usize::from(network.0))
        {
            let source = StaticSource { rule: number, public: rule.public_ip };
            self.static_sources.entry((*realm, guest)).or_insert(source);
        }
        StaticService { rule: number, network, guest: rule.guest_ip }
    }

    fn forward(
        &mut self,
        owner: &Arc<str>,
        network: NetworkId,
        rule: &PortForward,
    ) -> (Ports, Item) {
        let text = text::port_forward(rule);
        let number = self.number(RuleKind::PortForward, &rule.id, owner, text, &rule.place);
        let forward = Forward {
            rule: number,
            network,
            guest: rule.guest_ip,
            public_ports: rule.public_ports,
            guest_ports: rule.guest_ports,
            sources: rule.sources.clone(),
            others: Vec::new(),
        };
        ((rule.protocol, Some(rule.public_ports)), Item::PortForward(forward))
    }

    fn balancer(
        &mut self,
        owner: &Arc<str>,
        network: NetworkId,
        rule: &LoadBalancer,
    ) -> (Ports, Item) {
        let text = text::load_balancer(rule);
        let number = self.number(RuleKind::LoadBalancer, &rule.id, owner, text, &rule.place);
        let member = |member: &Member| {
            (Endpoint::new(member.guest_ip, member.guest_port.get()), member.weight)
        };
        let balancer = Balancer {
            rule: number,
            network,
            algorithm: rule.algorithm,
            members: rule.members.iter().map(member).collect(),
            health_check: rule.health_check,
            sources: rule.sources.clone(),
        };
        let port = rule.public_port.get();
        ((rule.protocol, PortRange::new(port, port).ok()), Item::Balancer(balancer))
    }
}
