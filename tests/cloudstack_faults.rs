//! The faults of CloudStack's router, in the order in which they are listed in docs/cloudstack.md, one test each: what
//! happens here instead. Faults 12 and 13 take time and live sessions: `tests/cloudstack_engine.rs`.

mod cloudstack {
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod packets;
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::path::Path;

use cloudstack::packets::check;
use cloudstack::router::{
    Router, acl, addresses, config, firewall, forward, forward_of, static_nat, tier,
};
use natwerk::rules;
use natwerk::rules::set::Action;

/// Sends the packets of `table` through `router`.
fn packets(router: &Router, table: &str) {
    let rules = router.load().rules;
    let json = rules::to_json(&rules).expect("JSON");
    check(table, &json, &config(&rules), Path::new("the test"));
}

const OPEN: &str = r#""0.0.0.0/0""#;

/// A VPC whose first tier has every port of 203.0.113.21, under this list.
fn forwarded_tier(ingress: &str) -> Router {
    let every_port = ("10.2.1.9", "1:65535");
    Router::vpc().send(&acl("eth2", ingress, "")).send(&forward_of(
        "203.0.113.21",
        "tcp",
        "1:65535",
        every_port,
        "",
        false,
    ))
}

#[test]
fn fault_01_a_forward_that_was_revoked_and_added_again_works() {
    let once = Router::isolated()
        .send(&firewall(1, "203.0.113.11", "tcp", (22, 22), OPEN, false))
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", false))
        .send(&static_nat("203.0.113.12", "10.1.1.6", false))
        .send(&addresses(&[("203.0.113.12", 2, false)]));
    let again = once
        .clone()
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", true))
        .send(&static_nat("203.0.113.12", "10.1.1.6", true))
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", false))
        .send(&static_nat("203.0.113.12", "10.1.1.6", false));
    assert_eq!(once.comes_to(), again.comes_to());
    packets(
        &again,
        "eth2 tcp 198.51.100.5:5000 > 203.0.113.11:22 : to eth0 198.51.100.5:5000 > 10.1.1.5:22
         eth0 tcp 10.1.1.6:5000 > 198.51.100.5:22 : to eth2 203.0.113.12:5000 > 198.51.100.5:22",
    );
}

#[test]
fn fault_02_rules_with_several_prefixes_stay_in_their_place() {
    let ingress = r#"{"type":"tcp","first_port":22,"last_port":22,"cidr":"192.0.2.0/24,198.51.100.0/24","allowed":false},
        {"type":"tcp","first_port":1,"last_port":65535,"cidr":"0.0.0.0/0","allowed":true}"#;
    packets(
        &forwarded_tier(ingress),
        "eth1 tcp 192.0.2.5:5000 > 203.0.113.21:22 : drop acl_denied
         eth1 tcp 198.51.100.5:5000 > 203.0.113.21:22 : drop acl_denied
         eth1 tcp 8.8.8.8:5000 > 203.0.113.21:22 : to eth2 8.8.8.8:5000 > 10.2.1.9:22
         eth1 tcp 198.51.100.5:5000 > 203.0.113.21:443 : to eth2 198.51.100.5:5000 > 10.2.1.9:443",
    );
}

/// Routed VPCs are where the scripts lose such rules.
#[test]
fn fault_03_several_prefixes_and_protocol_numbers_are_obeyed_without_nat_too() {
    let ingress = r#"{"type":"protocol","protocol":47,"cidr":"192.0.2.0/24,198.51.100.0/24","allowed":true},
        {"type":"tcp","first_port":80,"last_port":80,"cidr":"192.0.2.0/24,198.51.100.0/24","allowed":true}"#;
    let mut routed = Router::vpc().send(&acl("eth2", ingress, ""));
    routed.command_line = format!("{} is_routed=true", cloudstack::router::VPC);
    packets(
        &routed,
        "eth1 proto-47 192.0.2.5 > 10.2.1.9 : to eth2 192.0.2.5 > 10.2.1.9
         eth1 proto-47 198.51.100.5 > 10.2.1.9 : to eth2 198.51.100.5 > 10.2.1.9
         eth1 proto-50 192.0.2.5 > 10.2.1.9 : drop acl_denied
         eth1 tcp 198.51.100.5:5000 > 10.2.1.9:80 : to eth2 198.51.100.5:5000 > 10.2.1.9:80
         eth1 tcp 8.8.8.8:5000 > 10.2.1.9:80 : drop acl_denied",
    );
}

#[test]
fn fault_04_a_rule_without_ports_matches_all_of_them() {
    let ingress =
        r#"{"type":"tcp","first_port":0,"last_port":0,"cidr":"192.0.2.0/24","allowed":true}"#;
    packets(
        &forwarded_tier(ingress),
        "eth1 tcp 192.0.2.5:5000 > 203.0.113.21:22 : to eth2 192.0.2.5:5000 > 10.2.1.9:22
         eth1 tcp 192.0.2.5:5000 > 203.0.113.21:65535 : to eth2 192.0.2.5:5000 > 10.2.1.9:65535
         eth1 tcp 198.51.100.5:5000 > 203.0.113.21:22 : drop acl_denied",
    );
}

#[test]
fn fault_05_what_no_entry_of_an_egress_list_matches_is_dropped_unless_the_configuration_says_otherwise()
 {
    let egress =
        r#"{"type":"tcp","first_port":25,"last_port":25,"cidr":"0.0.0.0/0","allowed":false}"#;
    let router = Router::vpc().send(&acl("eth2", "", egress));
    packets(&router, "eth2 tcp 10.2.1.9:5000 > 198.51.100.5:80 : drop egress_denied");
    let mut choice = config(&router.load().rules);
    choice.sources.cloudstack.unmatched_vpc_egress = Action::Allow;
    let open = router.try_load(Some(&choice)).expect("rules").rules;
    check(
        "eth2 tcp 10.2.1.9:5000 > 198.51.100.5:80 : to eth1 203.0.113.20:5000 > 198.51.100.5:80
         eth2 tcp 10.2.1.9:5000 > 198.51.100.5:25 : drop egress_denied",
        &rules::to_json(&open).expect("JSON"),
        &choice,
        Path::new("the test"),
    );
}

/// An isolated network with SSH of 203.0.113.11 forwarded for some.
fn forwarded_for_some() -> Router {
    let to = ("10.1.1.5", "22:22");
    Router::isolated()
        .send(&firewall(1, "203.0.113.11", "tcp", (22, 22), OPEN, false))
        .send(&forward_of("203.0.113.11", "tcp", "22:22", to, "192.0.2.0/24", false))
}

#[test]
fn fault_06_a_forward_lets_in_whom_it_names() {
    packets(
        &forwarded_for_some(),
        "eth2 tcp 192.0.2.5:5000 > 203.0.113.11:22 : to eth0 192.0.2.5:5000 > 10.1.1.5:22
         eth2 tcp 198.51.100.5:5000 > 203.0.113.11:22 : drop firewall_denied",
    );
}

#[test]
fn fault_07_a_forward_opens_its_port_for_its_guest_alone() {
    packets(
        &forwarded_for_some(),
        "eth2 tcp 192.0.2.5:5000 > 10.1.1.6:22 : drop address_not_ours
         eth2 tcp 192.0.2.5:5000 > 10.1.1.5:22 : drop address_not_ours",
    );
}

#[test]
fn fault_08_static_nat_of_a_vpc_is_under_its_tiers_list() {
    let ingress =
        r#"{"type":"tcp","first_port":80,"last_port":80,"cidr":"0.0.0.0/0","allowed":true}"#;
    let vpc = Router::vpc().send(&acl("eth3", ingress, "")).send(&static_nat(
        "203.0.113.21",
        "10.2.2.9",
        false,
    ));
    packets(
        &vpc,
        "eth1 tcp 192.0.2.5:5000 > 203.0.113.21:80 : to eth3 192.0.2.5:5000 > 10.2.2.9:80
         eth1 tcp 192.0.2.5:5000 > 203.0.113.21:81 : drop acl_denied",
    );
}

#[test]
fn fault_09_a_bad_entry_costs_itself() {
    let router = Router::isolated()
        .send(&forward("tcp", "80", "10.1.1.5", "80", false))
        .send(&forward("tcp", "81:81", "10.1.1.500", "81:81", false))
        .send(&firewall(1, "203.0.113.11", "tcp", (22, 22), OPEN, false))
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", false));
    let loaded = router.load();
    assert_eq!((loaded.rules.port_forwards.len(), loaded.warnings.len()), (1, 2));
    packets(
        &router,
        "eth2 tcp 192.0.2.5:5000 > 203.0.113.11:22 : to eth0 192.0.2.5:5000 > 10.1.1.5:22",
    );
}

#[test]
fn fault_10_a_rule_waits_for_its_address() {
    let router = Router::isolated()
        .send(&firewall(2, "203.0.113.99", "tcp", (84, 84), OPEN, false))
        .send(&forward_of("203.0.113.99", "tcp", "84:84", ("10.1.1.5", "84:84"), "", false))
        .send(&forward("tcp", "85:85", "10.9.9.9", "85:85", false));
    let loaded = router.load();
    let pending: Vec<_> = loaded.pending.iter().map(|it| (&*it.what, &*it.waits_for)).collect();
    assert_eq!(
        pending,
        [
            ("firewall rule 2", "public address 203.0.113.99"),
            ("port forward of 203.0.113.11:85", "a network with 10.9.9.9"),
            ("port forward of 203.0.113.99:84", "public address 203.0.113.99"),
        ]
    );
    packets(&router, "eth2 tcp 192.0.2.5:5000 > 203.0.113.99:84 : drop address_not_ours");
    // The address comes: what waited is in force.
    packets(
        &router.send(&addresses(&[("203.0.113.99", 2, false)])),
        "eth2 tcp 192.0.2.5:5000 > 203.0.113.99:84 : to eth0 192.0.2.5:5000 > 10.1.1.5:84",
    );
}

#[test]
fn fault_11_a_firewall_rule_and_a_tier_that_are_sent_again_are_updated() {
    let router = Router::isolated()
        .send(&firewall(1, "203.0.113.11", "tcp", (22, 22), OPEN, false))
        .send(&firewall(1, "203.0.113.11", "tcp", (22, 22), r#""192.0.2.0/24""#, false));
    assert_eq!(router.load().rules.firewall_rules[0].sources, ["192.0.2.0/24".parse().unwrap()]);
    let vpc = Router::vpc().send(&tier("eth2", "10.2.7.1"));
    assert_eq!(vpc.load().rules.networks[0].cidr, "10.2.7.0/24".parse().unwrap());
}

#[test]
fn fault_14_ranges_that_differ_are_refused_and_single_ports_may() {
    for (public, private) in
        [("100:109", "200:209"), ("300:309", "300:304"), ("9:8", "9:8"), ("0:1", "0:1")]
    {
        let router = Router::isolated().send(&forward("tcp", public, "10.1.1.5", private, false));
        let loaded = router.load();
        assert!(loaded.rules.port_forwards.is_empty(), "{public}");
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    }
    let router = Router::isolated().send(&forward("tcp", "2222:2222", "10.1.1.5", "22:22", false));
    assert_eq!(router.load().rules.port_forwards[0].guest_ports.first(), 22);
}
