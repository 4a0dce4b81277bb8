//! VPCs of CloudStack: private gateways that stand in for the tiers, and the firewall of public addresses (4.23).

mod cloudstack {
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod packets;
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::path::Path;

use cloudstack::packets::check;
use cloudstack::router::{Router, acl, config, firewall, forward_of, static_nat};
use natwerk::flow::Endpoint;
use natwerk::rules;
use natwerk::testing::lab::Lab;
use natwerk::testing::packets::Packet;
use natwerk::verdict::Verdict;

/// Sends the packets of `table` through `router`.
fn packets(router: &Router, table: &str) {
    let rules = router.load().rules;
    let json = rules::to_json(&rules).expect("JSON");
    check(table, &json, &config(&rules), Path::new("the test"));
}

const EVERYTHING: &str = r#"{"type":"all","cidr":"0.0.0.0/0","allowed":true}"#;

/// A VPC with a private gateway on eth4: 172.16.9.2, with 172.20.0.0/16 behind its next hop.
fn with_private_gateway(source_nat: bool) -> Router {
    let gateway = format!(
        r#"{{"ip_address":[{{"public_ip":"172.16.9.2","source_nat":{source_nat},"add":true,
           "gateway":"172.16.9.1","netmask":"255.255.255.0","nic_dev_id":4,"nw_type":"Public",
           "is_private_gateway":true}}],"type":"ips"}}"#
    );
    let route = r#"{"routes":[{"revoke":false,"ip_address":"172.16.9.2","gateway":"172.16.9.1",
        "network":"172.20.0.0/16"}],"type":"staticroutes"}"#;
    Router::vpc()
        .send(&acl("eth2", EVERYTHING, EVERYTHING))
        .send(&gateway)
        .send(&acl("eth4", EVERYTHING, EVERYTHING))
        .send(route)
        .send(&static_nat("203.0.113.21", "10.2.1.20", false))
}

#[test]
fn what_enters_the_private_network_comes_from_the_gateways_address() {
    let router = with_private_gateway(true);
    let loaded = router.load();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    packets(
        &router,
        "eth2 tcp 10.2.1.10:4000 > 172.16.9.7:443 : to eth4 172.16.9.2:4000 > 172.16.9.7:443
         eth4 tcp-ack 172.16.9.7:443 > 172.16.9.2:4000 : to eth2 172.16.9.7:443 > 10.2.1.10:4000
         eth2 tcp 10.2.1.10:4000 > 172.20.1.1:80 : to eth4 172.16.9.2:4000 > 172.20.1.1:80 # behind it
         eth4 tcp-ack 172.20.1.1:80 > 172.16.9.2:4000 : to eth2 172.20.1.1:80 > 10.2.1.10:4000
         eth2 ping 10.2.1.10 > 172.16.9.7 : to eth4 172.16.9.2 > 172.16.9.7
         eth4 pong 172.16.9.7 > 172.16.9.2 : to eth2 172.16.9.7 > 10.2.1.10
         eth2 tcp 10.2.1.20:4001 > 172.16.9.7:80 : to eth4 172.16.9.2:4001 > 172.16.9.7:80 # static NAT, too
         eth2 tcp 10.2.1.20:4001 > 198.51.100.9:80 : to eth1 203.0.113.21:4001 > 198.51.100.9:80
         eth2 tcp 10.2.1.10:4000 > 198.51.100.9:80 : to eth1 203.0.113.20:4000 > 198.51.100.9:80",
    );
}

#[test]
fn what_comes_from_the_private_network_is_not_translated_and_the_gateway_stays_the_router() {
    packets(
        &with_private_gateway(true),
        "eth4 tcp 172.20.1.1:4000 > 10.2.1.10:22 : to eth2 172.20.1.1:4000 > 10.2.1.10:22
         eth2 tcp-ack 10.2.1.10:22 > 172.20.1.1:4000 : to eth4 10.2.1.10:22 > 172.20.1.1:4000
         eth4 ping 172.16.9.7 > 172.16.9.2 : answered
         eth4 tcp 172.16.9.7:4000 > 172.16.9.2:22 : kernel
         eth4 tcp 172.16.9.7:443 > 172.16.9.2:40000 : kernel # nobody's answer
         eth4 tcp 172.16.9.7:4000 > 198.51.100.9:80 : drop no_source_nat",
    );
    packets(
        &with_private_gateway(false),
        "eth2 tcp 10.2.1.10:4000 > 172.16.9.7:443 : to eth4 10.2.1.10:4000 > 172.16.9.7:443",
    );
}

#[test]
fn the_lists_are_asked_before_the_gateway_stands_in() {
    let closed =
        r#"{"type":"tcp","first_port":443,"last_port":443,"cidr":"10.2.1.10/32","allowed":true}"#;
    packets(
        &with_private_gateway(true).send(&acl("eth4", closed, "")),
        "eth2 tcp 10.2.1.10:4000 > 172.16.9.7:443 : to eth4 172.16.9.2:4000 > 172.16.9.7:443
         eth2 tcp 10.2.1.10:4001 > 172.16.9.7:80 : drop acl_denied
         eth2 tcp 10.2.1.11:4002 > 172.16.9.7:443 : drop acl_denied",
    );
}

#[test]
fn sessions_through_the_gateway_outlive_a_reload_and_end_with_its_source_nat() {
    let native = |router: &Router| rules::to_json(&router.load().rules).expect("JSON");
    let router = with_private_gateway(true);
    let config = config(&router.load().rules);
    let port = |name: &str| {
        let place = config.interfaces.iter().position(|it| it.name == name).expect("it");
        natwerk::flow::PortId(u8::try_from(place).expect("few"))
    };
    let mut lab = Lab::with(&native(&router), |default| *default = config.clone());
    let at = |address: [u8; 4], port| Endpoint::new(address.into(), port);
    let (guest, remote) = (at([10, 2, 1, 10], 4000), at([172, 16, 9, 7], 53));
    lab.send(port("eth2"), Packet::udp(guest, remote, b"?").frame());
    let answer = Packet::udp(remote, at([172, 16, 9, 2], 4000), b"!").frame();
    let other = firewall(9, "203.0.113.20", "tcp", (9, 9), r#""0.0.0.0/0""#, false);
    lab.reload(&native(&router.clone().send(&other)));
    assert_eq!(lab.send(port("eth4"), answer.clone()).verdict, Verdict::Forward(port("eth2")));
    lab.reload(&native(&with_private_gateway(false)));
    assert!(matches!(lab.send(port("eth4"), answer).verdict, Verdict::Host(_)));
    assert_eq!(lab.shared.sessions.len(), 0);
}

const OPEN: &str = r#""0.0.0.0/0""#;

/// A VPC with SSH of 203.0.113.21 and HTTP of both addresses forwarded into a tier that takes everything.
fn with_forwards() -> Router {
    let of = |address, port| forward_of(address, "tcp", port, ("10.2.1.9", port), "", false);
    Router::vpc()
        .send(&acl("eth2", EVERYTHING, EVERYTHING))
        .send(&of("203.0.113.21", "22:22"))
        .send(&of("203.0.113.21", "80:80"))
        .send(&of("203.0.113.20", "80:80"))
}

#[test]
fn an_address_of_a_vpc_that_firewall_rules_name_is_closed_to_everything_else() {
    let some = r#""192.0.2.0/24""#;
    let router = with_forwards().send(&firewall(1, "203.0.113.21", "tcp", (22, 22), some, false));
    packets(
        &router,
        "eth1 tcp 192.0.2.5:5000 > 203.0.113.21:22 : to eth2 192.0.2.5:5000 > 10.2.1.9:22
         eth1 tcp 198.51.100.5:5000 > 203.0.113.21:22 : drop firewall_denied
         eth1 tcp 192.0.2.5:5000 > 203.0.113.21:80 : drop firewall_denied
         eth1 ping 192.0.2.5 > 203.0.113.21 : drop firewall_denied
         eth2 tcp 10.2.1.8:5000 > 203.0.113.21:22 : drop firewall_denied # guests, too
         eth1 tcp 192.0.2.5:5000 > 203.0.113.20:80 : to eth2 192.0.2.5:5000 > 10.2.1.9:80
         eth1 ping 192.0.2.5 > 203.0.113.20 : answered",
    );
    // Without the rule the tier's list decides alone, as before 4.23.
    packets(
        &router.send(&firewall(1, "203.0.113.21", "tcp", (22, 22), some, true)),
        "eth1 tcp 198.51.100.5:5000 > 203.0.113.21:22 : to eth2 198.51.100.5:5000 > 10.2.1.9:22",
    );
}

#[test]
fn the_list_of_the_tier_is_asked_after_the_firewall_of_the_address() {
    let ingress =
        r#"{"type":"tcp","first_port":80,"last_port":80,"cidr":"0.0.0.0/0","allowed":true}"#;
    packets(
        &with_forwards()
            .send(&firewall(1, "203.0.113.21", "tcp", (1, 65535), OPEN, false))
            .send(&static_nat("203.0.113.20", "10.2.1.7", false))
            .send(&firewall(2, "203.0.113.20", "tcp", (443, 443), OPEN, false))
            .send(&acl("eth2", ingress, EVERYTHING)),
        "eth1 tcp 192.0.2.5:5000 > 203.0.113.21:80 : to eth2 192.0.2.5:5000 > 10.2.1.9:80
         eth1 tcp 192.0.2.5:5000 > 203.0.113.21:22 : drop acl_denied
         eth1 tcp 192.0.2.5:5000 > 203.0.113.20:443 : drop acl_denied
         eth1 tcp 192.0.2.5:5000 > 203.0.113.20:80 : drop firewall_denied",
    );
}

#[test]
fn egress_rules_of_a_vpcs_firewall_are_told_and_its_rules_wait_for_their_address() {
    let egress = firewall(3, "", "tcp", (25, 25), OPEN, false).replace("Ingress", "Egress");
    let router = with_forwards().send(&egress).send(&firewall(
        4,
        "203.0.113.99",
        "tcp",
        (22, 22),
        OPEN,
        false,
    ));
    let loaded = router.load();
    assert_eq!(loaded.rules.firewall_rules, []);
    assert_eq!(loaded.pending[0].waits_for, "public address 203.0.113.99");
    let said: Vec<_> = loaded.warnings.iter().map(|fault| fault.what.as_str()).collect();
    assert!(said.iter().any(|it| it.contains("what guests send")), "{said:?}");
}
