//! Claims about whole policies: small rule sets, and what the look-ups say of them.

use std::time::Duration;

use super::compile::{CompileOptions, compile, compile_with};
use super::filter::Probe;
use super::registry::{Registry, RuleKind};
use super::samples::{
    acl, balancer, config, egress, firewall, forward, ip, local, network, public_ip, route,
    static_nat,
};
use super::*;
use crate::rules::set::{self, AclDirection, Action, RuleSet};

fn policy(rules: &RuleSet) -> Policy {
    compile(rules, &config(), &mut Registry::new(), Generation(1))
}

fn with_pool(mut network: set::Network, pool: &[&str]) -> set::Network {
    network.source_nat = pool.iter().map(|address| ip(address)).collect();
    network
}

fn in_domain(mut network: set::Network, domain: &str) -> set::Network {
    network.domain = Some(domain.to_owned());
    network
}

/// A web network behind .10, with .11 for forwards, .12 for a static NAT, and a routed network.
fn sample() -> RuleSet {
    RuleSet {
        public_ips: ["203.0.113.10", "203.0.113.11", "203.0.113.12"].map(public_ip).to_vec(),
        networks: vec![
            with_pool(network("web", 100, "10.1.1.0/24"), &["203.0.113.10", "203.0.113.11"]),
            network("lab", 0, "192.0.2.0/25"),
        ],
        egress_rules: vec![egress("e1", "web", "tcp 25", "0.0.0.0/0")],
        firewall_rules: vec![
            firewall("f1", "203.0.113.11", "tcp 2222-2230", "198.51.100.0/24"),
            firewall("f2", "203.0.113.12", "icmp", "0.0.0.0/0"),
        ],
        port_forwards: vec![
            forward("p1", ("203.0.113.11", "2222-2230"), "web", ("10.1.1.5", "22-30")),
            forward("p2", ("203.0.113.11", "9000-9009"), "web", ("10.1.1.6", "80")),
            forward("p3", ("203.0.113.11", "7000"), "web", ("", "70")),
            forward("p4", ("203.0.113.12", "80"), "web", ("10.1.1.7", "80")),
        ],
        static_nats: vec![static_nat("s1", "203.0.113.12", "web", "10.1.1.6")],
        load_balancers: vec![balancer("l1", "203.0.113.11", 443, "web", "10.1.1.5")],
        local_services: vec![local("203.0.113.12", "tcp 8443"), local("203.0.113.10", "50")],
        ..RuleSet::default()
    }
}

fn probe(protocol: Protocol, source: &str, destination: &str, port: u16) -> Probe {
    Probe { protocol, source: ip(source), destination: ip(destination), port, icmp: (8, 0) }
}

#[test]
fn the_empty_policy_knows_nothing() {
    let policy = Policy::empty();
    let address = ip("203.0.113.10");
    assert_eq!(policy.attachment(PortId(0), 0), None);
    assert!(policy.public_address(address).is_none());
    assert!(matches!(policy.service(address, Protocol::TCP, 80), Service::Nothing));
    assert_eq!(policy.external_route(None, address), None);
    assert_eq!(policy.routed_network(address), None);
    assert!(policy.may_come_from_outside(address));
}

#[test]
fn interfaces_and_tags_lead_to_networks_and_the_public_side() {
    let policy = policy(&sample());
    assert_eq!(policy.attachment(PortId(0), 100), Some(Attachment::Guest(NetworkId(0))));
    assert_eq!(policy.attachment(PortId(0), 0), Some(Attachment::Guest(NetworkId(1))));
    assert_eq!(policy.attachment(PortId(0), 101), None);
    assert_eq!(policy.attachment(PortId(1), 0), Some(Attachment::Public));
    assert_eq!(policy.attachment(PortId(1), 5), None);
    assert_eq!(policy.network(NetworkId(0)).name, "web");
    let alone = compile(&RuleSet::default(), &config(), &mut Registry::new(), Generation(1));
    assert_eq!(alone.attachment(PortId(1), 0), Some(Attachment::Public), "by its role");
}

#[test]
fn a_public_address_on_a_tag_makes_the_tag_public() {
    let mut rules = sample();
    rules.public_ips[0].vlan = 7;
    rules.public_ips[0].interface = "eth0".to_owned();
    assert_eq!(policy(&rules).attachment(PortId(0), 7), Some(Attachment::Public));
}

#[test]
fn a_forward_maps_ports_by_offset_or_all_to_one() {
    let policy = policy(&sample());
    let guest = |port| match policy.service(ip("203.0.113.11"), Protocol::TCP, port) {
        Service::PortForward { guest, .. } => guest.map(|guest| guest.to_string()),
        _ => None,
    };
    assert_eq!(guest(2222).as_deref(), Some("10.1.1.5:22"));
    assert_eq!(guest(2230).as_deref(), Some("10.1.1.5:30"));
    assert_eq!(guest(9000).as_deref(), Some("10.1.1.6:80"));
    assert_eq!(guest(9009).as_deref(), Some("10.1.1.6:80"));
    for port in [0, 2221, 2231, 8999, 9010, 65535] {
        assert!(matches!(
            policy.service(ip("203.0.113.11"), Protocol::TCP, port),
            Service::Nothing
        ));
    }
    let detached = policy.service(ip("203.0.113.11"), Protocol::TCP, 7000);
    assert!(matches!(detached, Service::PortForward { guest: None, .. }));
    let other = policy.service(ip("203.0.113.11"), Protocol::UDP, 2222);
    assert!(matches!(other, Service::Nothing));
}

#[test]
fn local_services_beat_static_nat_which_beats_forwards() {
    let policy = policy(&sample());
    let public = ip("203.0.113.12");
    assert!(matches!(policy.service(public, Protocol::TCP, 8443), Service::Local { .. }));
    for (protocol, port) in [(Protocol::TCP, 80), (Protocol::ICMP, 99), (Protocol::GRE, 0)] {
        let service = policy.service(public, protocol, port);
        let Service::StaticNat { guest, .. } = service else { panic!("{service:?}") };
        assert_eq!(guest, Some(ip("10.1.1.6")));
    }
    assert!(matches!(policy.service(ip("203.0.113.10"), Protocol::ESP, 0), Service::Local { .. }));
    let balanced = policy.service(ip("203.0.113.11"), Protocol::TCP, 443);
    let Service::Balancer(balancer) = balanced else { panic!("{balanced:?}") };
    assert_eq!(balancer.members, [(Endpoint::new(ip("10.1.1.5"), 8000), 1)]);
    assert_eq!(policy.balancers().count(), 1);
}

#[test]
fn a_guest_with_static_nat_leaves_with_its_address() {
    let policy = policy(&sample());
    let realm = policy.network(NetworkId(0)).realm;
    let source = policy.static_source(realm, ip("10.1.1.6")).unwrap();
    assert_eq!(source.public, ip("203.0.113.12"));
    assert_eq!(policy.rule(source.rule).unwrap().id, "s1");
    assert_eq!(policy.static_source(realm, ip("10.1.1.5")), None);
    assert_eq!(policy.static_source(policy.network(NetworkId(1)).realm, ip("10.1.1.6")), None);
}

#[test]
fn a_realm_routes_between_its_networks_and_by_static_routes() {
    let rules = RuleSet {
        networks: vec![
            in_domain(network("a", 1, "10.1.1.0/24"), "vpc"),
            in_domain(network("b", 2, "10.1.2.0/24"), "vpc"),
            network("vpc", 3, "10.1.1.0/24"),
        ],
        routes: vec![
            route("vpc", "172.20.0.0/16", "10.1.2.254"),
            route("vpc", "172.20.9.0/24", "10.1.1.254"),
            route("vpc", "10.1.1.0/24", "10.1.2.254"),
            route("vpc", "172.21.0.0/16", "10.9.9.9"),
        ],
        ..RuleSet::default()
    };
    let policy = policy(&rules);
    let [realm, other] = [0, 2].map(|id| policy.network(NetworkId(id)).realm);
    assert_eq!(policy.network(NetworkId(1)).realm, realm);
    assert_ne!(realm, other, "a network and a domain of the same name are two realms");
    let lies = |destination: &str| {
        policy
            .internal_route(realm, ip(destination))
            .map(|route| (route.network.0, route.next_hop.to_string()))
    };
    assert_eq!(lies("10.1.1.7"), Some((0, "10.1.1.7".to_owned())), "connected before routed");
    assert_eq!(lies("10.1.2.7"), Some((1, "10.1.2.7".to_owned())));
    assert_eq!(lies("172.20.1.1"), Some((1, "10.1.2.254".to_owned())));
    assert_eq!(lies("172.20.9.1"), Some((0, "10.1.1.254".to_owned())), "the longest prefix");
    assert_eq!(lies("172.21.0.1"), None, "its next hop is nowhere");
    assert_eq!(lies("8.8.8.8"), None);
    assert_eq!(policy.internal_route(other, ip("10.1.2.7")), None);
}

#[test]
fn packets_leave_by_the_segment_or_the_gateway() {
    let mut rules = sample();
    rules.public_ips.push(public_ip("198.51.100.20"));
    let mut tagged = public_ip("192.88.99.5");
    (tagged.vlan, tagged.gateway) = (9, None);
    rules.public_ips.push(tagged);
    let policy = policy(&rules);
    let way = |public: Option<&str>, destination: &str| {
        policy
            .external_route(public.map(ip), ip(destination))
            .map(|route| (route.vlan, route.next_hop.to_string()))
    };
    let on = |vlan, next_hop: &str| Some((vlan, next_hop.to_owned()));
    assert_eq!(way(Some("203.0.113.10"), "203.0.113.77"), on(0, "203.0.113.77"));
    assert_eq!(way(Some("203.0.113.10"), "8.8.8.8"), on(0, "203.0.113.1"));
    assert_eq!(way(Some("203.0.113.10"), "198.51.100.7"), on(0, "198.51.100.7"), "same link");
    assert_eq!(way(Some("203.0.113.10"), "192.88.99.7"), on(0, "203.0.113.1"), "another link");
    assert_eq!(way(Some("198.51.100.20"), "8.8.8.8"), on(0, "198.51.100.1"));
    assert_eq!(way(Some("192.88.99.5"), "192.88.99.9"), on(9, "192.88.99.9"));
    assert_eq!(way(Some("192.88.99.5"), "8.8.8.8"), None, "nothing lies beyond");
    assert_eq!(way(Some("203.0.113.99"), "8.8.8.8"), None, "not ours");
    assert_eq!(way(None, "8.8.8.8"), on(0, "203.0.113.1"));
    assert_eq!(way(None, "192.88.99.9"), on(9, "192.88.99.9"));
}

#[test]
fn sources_from_outside_are_neither_ours_nor_a_guests() {
    let policy = policy(&sample());
    for (source, may) in [
        ("203.0.113.10", false),
        ("203.0.113.77", true),
        ("10.1.1.0", false),
        ("10.1.1.255", false),
        ("10.1.2.0", true),
        ("192.0.2.127", false),
        ("192.0.2.128", true),
    ] {
        assert_eq!(policy.may_come_from_outside(ip(source)), may, "{source}");
    }
}

#[test]
fn broadcast_addresses_are_known_by_realm() {
    let mut rules = sample();
    rules.networks.push(network("point", 7, "10.7.7.0/31"));
    rules.networks.push(network("wide", 8, "10.1.0.0/16"));
    let policy = policy(&rules);
    let realm = |id| Realm::Internal(policy.network(NetworkId(id)).realm);
    let [web, lab, point, wide] = [0, 1, 2, 3].map(realm);
    for (realm, address, is_broadcast) in [
        (web, "10.1.1.255", true),
        (web, "10.1.1.254", false),
        (web, "10.1.1.0", false),
        (web, "10.1.255.255", false),
        (lab, "192.0.2.127", true),
        (point, "10.7.7.1", false),
        (wide, "10.1.1.255", false),
        (wide, "10.1.255.255", true),
        (Realm::External, "203.0.113.255", true),
        (Realm::External, "10.1.1.255", false),
    ] {
        assert_eq!(policy.is_broadcast_in(realm, ip(address)), is_broadcast, "{address}");
    }
}

#[test]
fn only_a_network_without_translation_is_routed() {
    let policy = policy(&sample());
    assert_eq!(policy.routed_network(ip("192.0.2.5")), Some(NetworkId(1)));
    assert_eq!(policy.routed_network(ip("10.1.1.5")), None);
    let mut rules = sample();
    rules.static_nats.push(static_nat("s2", "203.0.113.10", "lab", "192.0.2.5"));
    assert_eq!(self::policy(&rules).routed_network(ip("192.0.2.5")), None);
}

#[test]
fn a_pool_reserves_what_services_need() {
    let policy = policy(&sample());
    let pool = policy.network(NetworkId(0)).pool.as_ref().unwrap();
    let (tcp, esp) = (Protocol::TCP, Protocol::ESP);
    assert_eq!(pool.addresses[0].address, ip("203.0.113.10"));
    assert_eq!(pool.addresses[0].reserved, [], "{esp} has no ports");
    assert_eq!(
        pool.addresses[1].reserved,
        [(tcp, 443..=443), (tcp, 2222..=2230), (tcp, 7000..=7000), (tcp, 9000..=9009)]
    );
    assert_eq!(pool.ports, 1..=u16::MAX);
    assert_eq!(pool.hold, Duration::from_secs(120));
    assert!(policy.network(NetworkId(1)).pool.is_none());
}

#[test]
fn the_kernels_own_ports_are_reserved_on_its_addresses() {
    let options = CompileOptions {
        kernel_ports: Some(32768..=60999),
        kernel_addresses: Some(vec![ip("203.0.113.10")]),
    };
    let policy = compile_with(&sample(), &config(), &options, &mut Registry::new(), Generation(1));
    let pool = policy.network(NetworkId(0)).pool.as_ref().unwrap();
    let kernel = [(Protocol::TCP, 32768..=60999), (Protocol::UDP, 32768..=60999)];
    assert_eq!(pool.addresses[0].reserved, kernel);
    assert!(!pool.addresses[1].reserved.contains(&kernel[1]));
}

#[test]
fn a_pool_without_a_usable_address_gives_nothing_but_stays_a_pool() {
    let mut rules = sample();
    rules.networks[0].source_nat = vec![ip("203.0.113.12")];
    let policy = policy(&rules);
    let pool = policy.network(NetworkId(0)).pool.as_ref().unwrap();
    assert_eq!(pool.addresses.len(), 1);
    assert!(pool.addresses[0].reserved.contains(&(Protocol::UDP, 0..=u16::MAX)));
    rules.networks[0].source_nat = vec![ip("203.0.113.12"), ip("203.0.113.10")];
    let policy = self::policy(&rules);
    let pool = policy.network(NetworkId(0)).pool.as_ref().unwrap();
    assert_eq!(pool.addresses.len(), 1, "the address of a static NAT is left out");
    assert_eq!(pool.addresses[0].address, ip("203.0.113.10"));
}

#[test]
fn a_firewall_is_closed_until_a_rule_opens_it() {
    let policy = policy(&sample());
    let public = policy.public_address(ip("203.0.113.11")).unwrap();
    let firewall = public.ingress.as_ref().unwrap();
    let decide = |source, port| {
        let decided = firewall.decide(&probe(Protocol::TCP, source, "203.0.113.11", port));
        (decided.action, policy.rule(decided.rule).unwrap().id.as_str())
    };
    assert_eq!(decide("198.51.100.0", 2222), (Action::Allow, "f1"));
    assert_eq!(decide("198.51.100.255", 2230), (Action::Allow, "f1"));
    let closed = (Action::Deny, "firewall-default:203.0.113.11");
    assert_eq!(decide("198.51.101.0", 2222), closed);
    assert_eq!(decide("198.51.100.1", 2221), closed);
    assert_eq!(decide("198.51.100.1", 2231), closed);
}

#[test]
fn egress_follows_its_rules_then_the_default() {
    let policy = policy(&sample());
    let egress = &policy.network(NetworkId(0)).egress;
    let decide = |port| {
        let decided = egress.decide(&probe(Protocol::TCP, "10.1.1.5", "8.8.8.8", port));
        (decided.action, policy.rule(decided.rule).unwrap().id.as_str())
    };
    assert_eq!(decide(25), (Action::Deny, "e1"));
    assert_eq!(decide(26), (Action::Allow, "egress-default:web"));
    assert_eq!(policy.network(NetworkId(0)).limits.sessions, 77, "the configuration's");
}

/// Two tiers; `web` may be reached on port 80 from `10.1.2.0/24` but one host.
fn tiers() -> RuleSet {
    RuleSet {
        public_ips: ["203.0.113.10", "203.0.113.11", "203.0.113.12"].map(public_ip).to_vec(),
        networks: vec![
            with_pool(in_domain(network("web", 1, "10.1.1.0/24"), "vpc"), &["203.0.113.10"]),
            in_domain(network("db", 2, "10.1.2.0/24"), "vpc"),
            network("plain", 3, "10.3.0.0/24"),
        ],
        network_acls: vec![acl(
            "web",
            AclDirection::Ingress,
            &[(Action::Deny, "all", "10.1.2.9/32"), (Action::Allow, "tcp 80", "10.1.2.0/24")],
        )],
        egress_rules: vec![egress("e1", "web", "tcp 80", "0.0.0.0/0")],
        port_forwards: vec![
            forward("p1", ("203.0.113.11", "80"), "web", ("10.1.1.5", "80")),
            forward("p2", ("203.0.113.12", "80"), "web", ("10.1.1.5", "80")),
            forward("p3", ("203.0.113.12", "81"), "plain", ("10.3.0.5", "80")),
        ],
        ..RuleSet::default()
    }
}

#[test]
fn a_tier_is_governed_by_its_acl_then_denied() {
    let mut rules = tiers();
    let compiled = policy(&rules);
    let web = compiled.network(NetworkId(0));
    let ingress = |source, port| {
        let probe = probe(Protocol::TCP, source, "10.1.1.5", port);
        let decided = web.ingress_acl.as_ref().unwrap().decide(&probe);
        (decided.action, compiled.rule(decided.rule).unwrap().id.as_str())
    };
    assert_eq!(ingress("10.1.2.9", 80), (Action::Deny, "web:ingress:10"));
    assert_eq!(ingress("10.1.2.8", 80), (Action::Allow, "web:ingress:20"));
    assert_eq!(ingress("10.1.3.8", 80), (Action::Deny, "acl-default:web:ingress"));
    let out = probe(Protocol::TCP, "10.1.1.5", "10.1.2.8", 443);
    assert_eq!(web.egress.decide(&out).action, Action::Deny, "no egress list was written");
    assert!(compiled.network(NetworkId(1)).ingress_acl.is_none());

    let list = acl("web", AclDirection::Egress, &[(Action::Allow, "tcp 443", "10.1.2.0/24")]);
    rules.network_acls.push(list);
    let policy = policy(&rules);
    let web = policy.network(NetworkId(0));
    assert_eq!(web.egress.decide(&out).action, Action::Allow);
    let elsewhere = probe(Protocol::TCP, "10.1.2.5", "10.1.3.8", 443);
    assert_eq!(web.egress.decide(&elsewhere).action, Action::Deny, "the cidr is the destination");
}

#[test]
fn an_address_that_leads_only_to_tiers_has_no_firewall() {
    let policy = policy(&tiers());
    let has = |address| policy.public_address(ip(address)).unwrap().ingress.is_some();
    assert!(!has("203.0.113.10"), "source NAT of a tier");
    assert!(!has("203.0.113.11"), "a forward to a tier");
    assert!(has("203.0.113.12"), "one forward leads elsewhere");
}

#[test]
fn every_rule_is_listed_and_keeps_its_number() {
    let mut registry = Registry::new();
    let first = compile(&sample(), &config(), &mut registry, Generation(1));
    let ids: Vec<&str> = first.rules().iter().map(|info| info.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "source-nat:web",
            "e1",
            "egress-default:web",
            "source-nat:lab",
            "egress-default:lab",
            "firewall-default:203.0.113.10",
            "f1",
            "firewall-default:203.0.113.11",
            "p1",
            "p2",
            "p3",
            "l1",
            "f2",
            "firewall-default:203.0.113.12",
            "s1",
            "p4",
        ]
    );
    let mut changed = sample();
    changed.port_forwards.remove(0);
    changed.networks.insert(0, network("new", 200, "10.9.0.0/24"));
    let second = compile(&changed, &config(), &mut registry, Generation(2));
    for info in second.rules() {
        let before =
            first.rules().iter().find(|other| (other.kind, &other.id) == (info.kind, &info.id));
        match before {
            Some(before) => assert_eq!(before.rule, info.rule, "{}", info.id),
            None => assert!(first.rule(info.rule).is_none(), "{} took a used number", info.id),
        }
    }
    assert_eq!(first.network(NetworkId(0)).realm, second.network(NetworkId(1)).realm);
    let info = first.rule(first.network(NetworkId(0)).source_nat_rule).unwrap();
    assert_eq!((info.kind, &*info.owner), (RuleKind::SourceNat, "web"));
}

#[test]
fn what_names_nothing_known_is_left_out() {
    let mut rules = sample();
    rules.networks[0].interface = "eth9".to_owned();
    rules.public_ips[2].interface = "eth9".to_owned();
    let policy = policy(&rules);
    assert_eq!(policy.networks().len(), 1);
    assert_eq!(policy.attachment(PortId(0), 100), None);
    assert!(policy.public_address(ip("203.0.113.12")).is_none());
    let forward = policy.service(ip("203.0.113.11"), Protocol::TCP, 2222);
    assert!(matches!(forward, Service::Nothing));
}

#[test]
fn a_summary_says_what_the_policy_holds() {
    let policy = policy(&sample());
    let summary = serde_json::to_value(policy.summary()).unwrap();
    assert_eq!(summary["networks"][0]["name"], "web");
    assert_eq!(summary["networks"][0]["cidr"], "10.1.1.0/24");
    assert_eq!(summary["networks"][0]["pool"]["addresses"][1]["reserved"][1], "tcp 2222-2230");
    assert_eq!(summary["networks"][1]["pool"], serde_json::Value::Null);
    assert_eq!(summary["public_addresses"][1]["ingress_default"], "deny");
    assert_eq!(summary["rules"][1]["text"], "deny tcp 25 to 0.0.0.0/0");
    assert_eq!(summary["rules"].as_array().unwrap().len(), policy.rules().len());
}
