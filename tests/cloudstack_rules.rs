//! What CloudStack's router gets wrong, and what must wait, be told or be merged, one by one.

mod cloudstack {
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod packets;
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::path::Path;

use cloudstack::packets::check;
use cloudstack::router::{
    EGRESS_ALLOWED, ISOLATED, Router, VPC, acl, addresses, config, firewall, forward, forward_of,
    static_nat, tier,
};
use natwerk::config::Config;
use natwerk::rules;
use natwerk::rules::sources::cloudstack::LoadBalancing;
use proptest::prelude::*;

/// Sends the packets of `table` through `router`.
fn packets(router: &Router, table: &str) {
    let rules = router.load().rules;
    let json = rules::to_json(&rules).expect("JSON");
    check(table, &json, &config(&rules), Path::new("the test"));
}

fn said(router: &Router) -> Vec<String> {
    router.comes_to().1
}

const OPEN: &str = r#""0.0.0.0/0""#;

/// By a public address no packet gets out of a tier that its list holds back.
#[test]
fn the_egress_list_of_a_tier_also_holds_for_public_addresses() {
    let egress = r#"{"type":"tcp","first_port":22,"last_port":22,"cidr":"0.0.0.0/0","allowed":false},
        {"type":"all","cidr":"0.0.0.0/0","allowed":true}"#;
    let open = r#"{"type":"all","cidr":"0.0.0.0/0","allowed":true}"#;
    let router = Router::vpc()
        .send(&acl("eth2", open, egress))
        .send(&acl("eth3", open, open))
        .send(&forward_of("203.0.113.21", "tcp", "22:22", ("10.2.2.9", "22:22"), "", false))
        .send(&forward_of("203.0.113.21", "tcp", "80:80", ("10.2.2.9", "80:80"), "", false));
    packets(
        &router,
        "eth2 tcp 10.2.1.9:5000 > 203.0.113.21:22 : drop acl_denied
         eth2 tcp 10.2.1.9:5000 > 203.0.113.21:80 : to eth3 203.0.113.20:5000 > 10.2.2.9:80
         eth3 tcp 10.2.2.8:5001 > 203.0.113.21:22 : to eth3 203.0.113.20:5001 > 10.2.2.9:22",
    );
}

#[test]
fn an_entry_that_is_bad_when_it_is_sent_again_leaves_the_good_one() {
    let router = Router::isolated()
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", false))
        .send(&forward("tcp", "22:22", "10.1.1.500", "22:22", false));
    let loaded = router.load();
    assert_eq!(loaded.rules.port_forwards[0].guest_ip, Some([10, 1, 1, 5].into()));
}

#[test]
fn static_nat_takes_its_address_whole_and_leaves_it_empty() {
    let router = Router::isolated()
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", false))
        .send(&static_nat("203.0.113.11", "10.1.1.6", false));
    let rules = router.load().rules;
    assert_eq!((rules.port_forwards.len(), rules.static_nats.len()), (0, 1));
    let empty = router.send(&static_nat("203.0.113.11", "10.1.1.6", true));
    let rules = empty.load().rules;
    assert_eq!((rules.port_forwards.len(), rules.static_nats.len()), (0, 0));
}

#[test]
fn the_last_of_several_forwards_of_a_port_is_revoked_and_others_have_their_own_sources() {
    let at = |sources: &str, guest: &str, revoke| {
        forward_of("203.0.113.11", "tcp", "22:22", (guest, "22:22"), sources, revoke)
    };
    let router = Router::isolated().send(&at("192.0.2.0/24", "10.1.1.5", false)).send(&at(
        "198.51.100.0/24",
        "10.1.1.6",
        false,
    ));
    packets(
        &router.clone().send(&firewall(1, "203.0.113.11", "tcp", (22, 22), OPEN, false)),
        "eth2 tcp 192.0.2.5:5000 > 203.0.113.11:22 : to eth0 192.0.2.5:5000 > 10.1.1.5:22
         eth2 tcp 198.51.100.5:5000 > 203.0.113.11:22 : to eth0 198.51.100.5:5000 > 10.1.1.6:22
         eth2 tcp 8.8.8.8:5000 > 203.0.113.11:22 : drop firewall_denied",
    );
    let third = router.clone().send(&at("198.51.100.0/25,8.8.8.8/32", "10.1.1.7", false));
    assert!(said(&third)[0].contains("already claimed"), "{:?}", said(&third));
    let one = router.send(&at("198.51.100.0/24", "10.1.1.6", true));
    assert_eq!(said(&one), Vec::<String>::new());
    assert_eq!(one.load().rules.port_forwards[0].guest_ip, Some([10, 1, 1, 5].into()));
}

#[test]
fn a_released_address_and_what_was_on_it_are_gone_until_it_comes_back() {
    let release = addresses(&[("203.0.113.11", 2, false)]).replace("\"add\":true", "\"add\":false");
    let router = Router::isolated()
        .send(&forward("tcp", "22:22", "10.1.1.5", "22:22", false))
        .send(&firewall(1, "203.0.113.11", "tcp", (22, 22), OPEN, false))
        .send(&release);
    let loaded = router.load();
    assert_eq!((loaded.rules.public_ips.len(), loaded.pending.len()), (1, 2));
    let back = router.send(&addresses(&[("203.0.113.11", 2, false)]));
    assert_eq!(back.load().pending, []);
}

#[test]
fn a_second_subnet_of_the_guest_network_meets_the_first_and_goes_out() {
    let deny =
        EGRESS_ALLOWED.replace("\"default_egress_policy\":true", "\"default_egress_policy\":false");
    let alias = r#"{"aliases":[{"revoke":false,"ip_address":"10.1.2.1","netmask":"255.255.255.0","count":1}],
        "type":"ipaliases"}"#;
    let router = Router::isolated().send(alias);
    packets(
        &router,
        "eth0 tcp 10.1.2.9:5000 > 198.51.100.5:80 : to eth2 203.0.113.10:5000 > 198.51.100.5:80
         eth0 tcp 10.1.1.9:5002 > 198.51.100.5:80 : to eth2 203.0.113.10:5002 > 198.51.100.5:80
         eth0 tcp 10.1.1.9:5001 > 10.1.2.9:80 : to eth0 10.1.1.9:5001 > 10.1.2.9:80
         eth0 ping 10.1.2.9 > 10.1.2.1 : answered
         eth0 tcp 10.1.3.9:5000 > 198.51.100.5:80 : drop source_spoofed",
    );
    let closed = Router::isolated().send(alias).send(&deny);
    packets(
        &closed,
        "eth0 tcp 10.1.2.9:5000 > 198.51.100.5:80 : drop egress_denied
         eth0 tcp 10.1.1.9:5001 > 10.1.2.9:80 : to eth0 10.1.1.9:5001 > 10.1.2.9:80",
    );
}

#[test]
fn nics_go_by_mac_and_what_is_on_one_that_is_not_there_waits() {
    let at = |mac: &str, device: u8| {
        addresses(&[("203.0.113.30", device, false)])
            .replace("\"nw_type\"", &format!("\"vif_mac_address\":\"{mac}\",\"nw_type\""))
    };
    let mut router = Router::isolated();
    router.nics =
        Some("eth0 02:00:00:00:00:01\neth2 02:00:00:00:00:02\nens9 02:00:00:00:00:03\n".to_owned());
    let renamed = router.clone().send(&at("02:00:00:00:00:03", 2)).load();
    let found =
        renamed.rules.public_ips.iter().find(|ip| ip.address.octets()[3] == 30).expect("it");
    assert_eq!(found.interface, "ens9");
    let waits = router.send(&at("02:00:00:00:00:09", 7)).load();
    assert_eq!(waits.pending[0].waits_for, "the NIC 02:00:00:00:00:09");
}

#[test]
fn plain_tcp_balancing_is_done_here_and_the_rest_is_left_to_haproxy() {
    let balancer = |lines: &str| {
        format!(
            r#"{{"rules":[{{"configuration":["defaults","\tmode tcp","listen a","\tbind 203.0.113.11:80",{lines}
               "\tserver a0 10.1.1.80:8080 check","\tserver a1 10.1.1.81:8080 check weight 3"],
               "add_rules":["203.0.113.11:80:"],"stat_rules":[""]}}],"type":"loadbalancer"}}"#
        )
    };
    let opened = firewall(1, "203.0.113.11", "tcp", (80, 80), r#""192.0.2.0/24""#, false);
    let router = Router::isolated().send(&opened).send(&balancer(r#""\tbalance source","#));
    let loaded = router.load();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let weights: Vec<_> =
        loaded.rules.load_balancers[0].members.iter().map(|it| it.weight).collect();
    assert_eq!(weights, [1, 3]);
    let check = loaded.rules.load_balancers[0].health_check.expect("as haproxy checks");
    assert_eq!((check.interval_seconds.get(), check.unhealthy_after.get()), (2, 3));
    packets(&router, "eth2 tcp 198.51.100.5:5000 > 203.0.113.11:80 : drop firewall_denied");
    // haproxy's port is open to whom the firewall lets in.
    let cookies = Router::isolated().send(&opened).send(&balancer(r#""\tcookie lb1 insert","#));
    assert!(said(&cookies)[0].contains("cookie lb1 insert"), "{:?}", said(&cookies));
    packets(
        &cookies,
        "eth2 tcp 192.0.2.5:5000 > 203.0.113.11:80 : kernel
         eth2 tcp 198.51.100.5:5000 > 203.0.113.11:80 : drop firewall_denied",
    );
    let mut choice = config(&router.load().rules);
    choice.sources.cloudstack.load_balancing = LoadBalancing::Haproxy;
    let left = router.try_load(Some(&choice)).expect("rules").rules;
    assert_eq!((left.load_balancers.len(), left.local_services.len()), (0, 1));
}

#[test]
fn a_torn_bag_is_told_and_says_that_rules_may_be_missing() {
    let good = r#"{"203.0.113.11": [], "id": "forwardingrules"}"#;
    let bag = |text: &str| Router::isolated().bag("forwardingrules", text);
    assert!(!bag(good).load().is_torn);
    for torn in ["", "{\"203.0.113.11\": [", "[]"] {
        let loaded = bag(torn).load();
        assert!(loaded.is_torn && loaded.warnings.len() == 1, "{torn}: {:?}", loaded.warnings);
    }
    // A command file that is torn was never in force.
    assert!(!Router::isolated().send("{\"rules\":[").load().is_torn);
}

#[test]
fn unknown_fields_types_and_bags_are_told_by_name_once() {
    let newer = forward("tcp", "22:22", "10.1.1.5", "22:22", false)
        .replace("{\"revoke\"", "{\"vpn\":1,\"revoke\"");
    let router = Router::isolated()
        .send(&newer)
        .send(&newer)
        .send(r#"{"rules":[],"type":"holograms"}"#)
        .bag("teleports", r#"{"id":"teleports"}"#);
    let said = said(&router);
    assert_eq!(said.len(), 3, "{said:?}");
    for name in ["\"vpn\"", "\"holograms\"", "\"teleports\""] {
        assert!(said.iter().any(|it| it.contains(name)), "{name} in {said:?}");
    }
    assert_eq!(router.load().rules.port_forwards.len(), 1);
}

#[test]
fn nothing_usable_is_refused_and_something_usable_is_not() {
    assert!(Router::default().try_load(None).is_err());
    assert!(Router::default().send("{").try_load(None).is_err());
    assert!(Router::new(ISOLATED).send("{").try_load(None).is_ok());
    assert!(Router::new(VPC).try_load(Some(&Config::default())).is_ok());
}

#[test]
fn lists_of_both_families_are_told_apart_where_a_tier_has_both() {
    let dual = tier("eth2", "10.2.1.1").replace(
        "\"mtu\"",
        r#""router_guest_ip6":"2001:db8:71::1","router_guest_ip6_gateway":"2001:db8:71::1",
           "router_guest_ip6_cidr":"2001:db8:71::/64","router_ip6":"2001:db8:ff::20",
           "router_ip6_gateway":"2001:db8:ff::1","router_ip6_cidr":"2001:db8:ff::/64","mtu""#,
    );
    let ingress = r#"{"type":"icmp","icmp_type":8,"icmp_code":-1,"cidr":"0.0.0.0/0","allowed":true},
        {"type":"icmp","icmp_type":128,"icmp_code":-1,"cidr":"::/0","allowed":true},
        {"type":"tcp","first_port":80,"last_port":80,"cidr":"192.0.2.0/24,2001:db8:9::/48","allowed":true},
        {"type":"tcp","first_port":81,"last_port":81,"cidr":"0.0.0.0/0,::/0","allowed":true}"#;
    let router =
        Router::vpc().send(&dual).send(&acl("eth2", ingress, "")).send(&acl("eth3", ingress, ""));
    let loaded = router.load();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.rules.public_ipv6[0].interface, "eth1");
    let said = |network: &str| {
        let acl = loaded.rules.network_acls.iter().find(|acl| acl.network == network).expect("it");
        let entries = acl.entries.iter().map(|entry| {
            let cidrs: Vec<String> = entry.cidrs.iter().map(|cidr| cidr.to_string()).collect();
            format!("{} {}", entry.matches.protocol.expect("one"), cidrs.join(","))
        });
        entries.collect::<Vec<_>>()
    };
    assert_eq!(
        said("eth2"),
        ["icmp 0.0.0.0/0", "icmpv6 ::/0", "tcp 192.0.2.0/24,2001:db8:9::/48", "tcp "]
    );
    // A tier of IPv4 alone has no use for the rest.
    assert_eq!(said("eth3"), ["icmp ", "tcp 192.0.2.0/24", "tcp "]);
}

/// Commands that do not depend on each other's order: each has a key of its own.
fn commands() -> Vec<String> {
    let mut commands = vec![
        addresses(&[("203.0.113.10", 2, true)]),
        addresses(&[("203.0.113.11", 2, false), ("203.0.113.12", 2, false)]),
        EGRESS_ALLOWED.to_owned(),
        static_nat("203.0.113.12", "10.1.1.6", false),
    ];
    for number in 1..8_u16 {
        let port = 20 + number;
        commands.push(firewall(
            u32::from(number),
            "203.0.113.11",
            "tcp",
            (port, port),
            OPEN,
            false,
        ));
        let ports = format!("{port}:{port}");
        commands.push(forward("tcp", &ports, "10.1.1.5", &ports, false));
    }
    commands
}

fn router(commands: &[String]) -> Router {
    Router { command_line: ISOLATED.to_owned(), commands: commands.to_vec(), ..Router::default() }
}

/// Rules without regard to the order of those that the policy looks up by key.
fn sorted(router: &Router) -> RuleLists {
    let rules = router.load().rules;
    let mut lists: RuleLists =
        serde_json::from_str(&rules::to_json(&rules).expect("JSON")).expect("JSON");
    for list in lists.values_mut().filter_map(serde_json::Value::as_array_mut) {
        list.sort_by_key(ToString::to_string);
    }
    lists
}

type RuleLists = serde_json::Map<String, serde_json::Value>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn commands_with_keys_of_their_own_may_come_in_any_order(order in Just(commands()).prop_shuffle()) {
        prop_assert_eq!(sorted(&router(&order)), sorted(&router(&commands())));
    }

    #[test]
    fn what_is_sent_again_changes_nothing(again in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut all = commands();
        let once = router(&all).comes_to().0;
        // A source NAT address goes to the front, others to the back: their order says nothing.
        all.extend(again.iter().map(|index| index.get(&commands()).clone()));
        let twice = router(&all);
        prop_assert_eq!(sorted(&twice), sorted(&router(&commands())), "{}", once);
    }

    #[test]
    fn what_is_added_and_revoked_was_never_there(added in prop::collection::vec((1_u16..60, any::<bool>()), 1..8)) {
        let mut all = commands();
        let before = router(&all).comes_to();
        for (number, is_forward) in &added {
            let ports = format!("{0}:{0}", 1000 + number);
            all.push(match is_forward {
                true => forward("udp", &ports, "10.1.1.9", &ports, false),
                false => firewall(1000 + u32::from(*number), "203.0.113.11", "udp", (*number, *number), OPEN, false),
            });
        }
        for (number, is_forward) in added.iter().rev() {
            let ports = format!("{0}:{0}", 1000 + number);
            all.push(match is_forward {
                true => forward("udp", &ports, "10.1.1.9", &ports, true),
                false => firewall(1000 + u32::from(*number), "203.0.113.11", "udp", (*number, *number), OPEN, true),
            });
        }
        prop_assert_eq!(router(&all).comes_to(), before);
    }
}
