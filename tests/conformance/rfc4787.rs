//! RFC 4787: NAT behaviour for UDP.

use std::collections::BTreeSet;

use crate::{Net, external_port};

/// Shows R-001.
#[test]
fn rfc3022_4_a_guest_leaves_with_the_public_source_and_hears_the_reply() {
    let mut net = Net::new();
    let out = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 data=hello");
    assert_eq!(out, "public: udp 203.0.113.10:4000 > 198.51.100.9:53 data=hello");
    let back = net.public("udp 198.51.100.9:53 > 203.0.113.10:4000 data=hi");
    assert_eq!(back, "guest: udp 198.51.100.9:53 > 10.1.1.5:4000 data=hi");
}

/// Shows R-004 R-158.
#[test]
fn rfc4787_req_1_one_internal_endpoint_has_one_external_endpoint() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.8:4000 > 192.0.2.1:53");
    for remote in ["198.51.100.9:53", "198.51.100.9:54", "198.51.100.10:53", "192.0.2.1:53"] {
        let out = net.guest(&format!("udp 10.1.1.5:5000 > {remote}"));
        assert_eq!(out, format!("public: udp 203.0.113.10:5000 > {remote}"));
    }
}

/// Shows R-006.
#[test]
fn rfc4787_req_1_holds_where_another_guest_conflicts_at_a_later_destination() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53");
    let first = external_port(&net.guest("udp 10.1.1.8:4000 > 198.51.100.10:53"));
    let second = external_port(&net.guest("udp 10.1.1.8:4000 > 198.51.100.9:53"));
    assert_ne!(first, 4000);
    assert_eq!(first, second);
}

/// Shows R-010.
#[test]
fn rfc4787_req_2_a_guest_keeps_one_address_of_a_pool() {
    let pool = r#""source_nat": ["203.0.113.16", "203.0.113.18", "203.0.113.22"]"#;
    let mut net = Net::new().changed(r#""source_nat": ["203.0.113.16"]"#, pool);
    for guest in 5..25 {
        let mut seen = BTreeSet::new();
        for port in 1..6 {
            let line = format!("udp 10.1.4.{guest}:400{port} > 198.51.100.{port}:53 vlan=300");
            let out = net.guest(&line);
            let source = out.split(' ').nth(2).and_then(|source| source.split_once(':'));
            seen.insert(source.expect("a source").0.to_owned());
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
}

/// Shows R-009.
#[test]
fn rfc4787_req_3_no_two_guests_share_an_external_endpoint_towards_one_remote() {
    let mut net = Net::new();
    let ports: BTreeSet<u16> = (5..105)
        .map(|guest| {
            let guest = if guest == 6 || guest == 7 { guest + 200 } else { guest };
            external_port(&net.guest(&format!("udp 10.1.1.{guest}:4000 > 198.51.100.9:53")))
        })
        .collect();
    assert_eq!(ports.len(), 100);
}

/// Shows R-019.
#[test]
fn rfc4787_req_3a_well_known_ports_stay_below_1024_and_others_above() {
    let mut net = Net::new();
    for port in [67, 500, 1000, 1024, 5060, 50_000] {
        for guest in [5, 8, 9] {
            let out = net.guest(&format!("udp 10.1.1.{guest}:{port} > 198.51.100.9:53"));
            assert_eq!(external_port(&out) < 1024, port < 1024, "{out}");
        }
    }
}

/// Shows R-020.
#[test]
fn rfc4787_req_4_parity_is_kept_on_conflict() {
    let mut net = Net::new();
    for port in [4000, 4001, 600, 601] {
        for guest in 8..20 {
            let out = net.guest(&format!("udp 10.1.1.{guest}:{port} > 198.51.100.9:53"));
            assert_eq!(external_port(&out) % 2, port % 2, "{out}");
        }
    }
}

/// Shows R-018.
#[test]
fn rfc4787_4_2_1_a_free_port_is_preserved() {
    let mut net = Net::new();
    for port in [1025, 33_333, 65_535] {
        let out = net.guest(&format!("udp 10.1.1.5:{port} > 198.51.100.9:53"));
        assert_eq!(external_port(&out), port);
    }
}

/// Shows R-047 R-048.
#[test]
fn rfc4787_req_5_and_6_a_mapping_lives_five_minutes_after_the_last_outbound_packet() {
    let mut net = Net::new();
    let out = "udp 10.1.1.5:4000 > 198.51.100.9:7000";
    let back = "udp 198.51.100.9:7000 > 203.0.113.10:4000";
    net.guest(out);
    net.seconds(200);
    net.guest(out);
    net.seconds(290);
    assert!(net.public(back).starts_with("guest: "));
    net.seconds(12);
    assert_eq!(net.public(back), "drop firewall_denied");
}

/// Shows R-049.
#[test]
fn rfc4787_req_6a_inbound_packets_refresh_only_by_configuration() {
    for refreshes in [false, true] {
        let mut net = Net::new();
        if refreshes {
            net.lab = natwerk::testing::lab::Lab::with(crate::RULES, |config| {
                config.timeouts.refresh_inbound = true;
            });
        }
        net.guest("udp 10.1.1.5:4000 > 198.51.100.9:7000");
        for _ in 0..4 {
            net.seconds(100);
            net.public("udp 198.51.100.9:7000 > 203.0.113.10:4000");
        }
        assert_eq!(net.sessions() > 0, refreshes);
    }
}

/// Shows R-034.
#[test]
fn rfc4787_5_filtering_is_by_address_and_port_unless_the_rules_say_otherwise() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53");
    for stranger in ["198.51.100.9:54", "198.51.100.10:53"] {
        let line = format!("udp {stranger} > 203.0.113.10:4000");
        assert_eq!(net.public(&line), "drop firewall_denied");
    }
    assert!(net.public("udp 198.51.100.9:53 > 203.0.113.10:4000").starts_with("guest: "));
}

/// Shows R-032.
#[test]
fn rfc4787_req_8_endpoint_independent_filtering_lets_everybody_answer() {
    let mut net = Net::new();
    net.guest("udp 10.1.4.5:4000 > 198.51.100.9:53 vlan=300");
    for stranger in ["198.51.100.9:54", "192.0.2.7:7777"] {
        let heard = net.public(&format!("udp {stranger} > 203.0.113.16:4000"));
        assert_eq!(heard, format!("guest: udp {stranger} > 10.1.4.5:4000 vlan=300"));
    }
}

/// Shows R-033.
#[test]
fn rfc4787_req_8_address_dependent_filtering_lets_the_host_answer_from_any_port() {
    let mut net = Net::new();
    net.guest("udp 10.1.8.5:4000 > 198.51.100.9:53 vlan=800");
    let known = net.public("udp 198.51.100.9:9999 > 203.0.113.21:4000");
    assert_eq!(known, "guest: udp 198.51.100.9:9999 > 10.1.8.5:4000 vlan=800");
    assert_eq!(net.public("udp 198.51.100.10:53 > 203.0.113.21:4000"), "drop firewall_denied");
}

/// Shows R-031 R-035.
#[test]
fn rfc4787_5_who_was_not_asked_reaches_no_guest() {
    let mut net = Net::new();
    for line in [
        "udp 198.51.100.9:53 > 203.0.113.10:4000",
        "tcp 198.51.100.9:53 > 203.0.113.10:4000",
        "tcp 198.51.100.9:53 > 203.0.113.10:4000 flags=ack",
        "udp 198.51.100.9:53 > 10.1.1.5:4000",
        "tcp 198.51.100.9:53 > 10.1.1.5:22",
        "icmp 198.51.100.9 > 10.1.1.5 echo-request ident=1",
    ] {
        assert!(net.public(line).starts_with("drop "), "{line}");
    }
    assert_eq!(net.sessions(), 0);
}

/// Shows R-038 R-039.
#[test]
fn rfc4787_req_9_hairpinning_shows_an_external_source() {
    let mut net = Net::new();
    let out = net.guest("tcp 10.1.1.8:4002 > 203.0.113.11:2222");
    assert_eq!(out, "guest: tcp 203.0.113.10:4002 > 10.1.1.5:22 flags=syn");
    let back = net.guest("tcp 10.1.1.5:22 > 203.0.113.10:4002 flags=syn,ack ack=1001");
    assert_eq!(back, "guest: tcp 203.0.113.11:2222 > 10.1.1.8:4002 flags=syn,ack ack=1001");
}

/// Shows R-040 R-043.
#[test]
fn rfc4787_req_9_hairpinning_between_static_guests_and_to_oneself() {
    let mut net = Net::new();
    let out = net.guest("udp 10.1.1.6:4002 > 203.0.113.13:7");
    assert_eq!(out, "guest: udp 203.0.113.12:4002 > 10.1.1.7:7");
    let ping = net.guest("icmp 10.1.1.6 > 203.0.113.13 echo-request ident=44");
    assert_eq!(ping, "guest: icmp 203.0.113.12 > 10.1.1.7 echo-request ident=44");
    let own = net.guest("tcp 10.1.1.5:4002 > 203.0.113.11:2222");
    assert_eq!(own, "guest: tcp 203.0.113.10:4002 > 10.1.1.5:22 flags=syn");
}

/// Shows R-041.
#[test]
fn rfc4787_req_9_hairpinning_to_a_dynamic_mapping() {
    let mut net = Net::new();
    net.guest("udp 10.1.4.5:4000 > 198.51.100.9:53 vlan=300");
    let out = net.guest("udp 10.1.4.6:4001 > 203.0.113.16:4000 vlan=300");
    assert_eq!(out, "guest: udp 203.0.113.16:4001 > 10.1.4.5:4000 vlan=300");
    let back = net.guest("udp 10.1.4.5:4000 > 203.0.113.16:4001 vlan=300");
    assert_eq!(back, "guest: udp 203.0.113.16:4000 > 10.1.4.6:4001 vlan=300");
}

/// Shows R-045.
#[test]
fn rfc4787_req_9_an_endpoint_that_nobody_has_makes_no_loop() {
    let mut net = Net::new();
    let out = net.guest("udp 10.1.1.5:4000 > 203.0.113.10:45454 ttl=200");
    assert_eq!(out, "drop external_hairpin_loop");
}

/// Shows R-046.
#[test]
fn rfc4787_req_9_hairpinning_across_networks() {
    let mut net = Net::new().changed(r#""10.1.1.0/24"]},"#, r#""10.1.1.0/24", "10.1.4.0/24"]},"#);
    let out = net.guest("tcp 10.1.4.5:4002 > 203.0.113.11:2222 vlan=300");
    assert_eq!(out, "guest: tcp 203.0.113.16:4002 > 10.1.1.5:22 flags=syn");
    let back = net.guest("tcp 10.1.1.5:22 > 203.0.113.16:4002 flags=syn,ack ack=1001");
    assert!(back.starts_with("guest: tcp 203.0.113.11:2222 > 10.1.4.5:4002"), "{back}");
}

/// Shows R-037.
#[test]
fn rfc4787_req_10_no_payload_is_touched_or_opens_anything() {
    let mut net = Net::new();
    let out = net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:21 data=REGISTER");
    assert!(out.ends_with("data=REGISTER"), "{out}");
    assert_eq!(net.public("tcp 198.51.100.9:20 > 203.0.113.10:1025"), "drop firewall_denied");
}

/// Shows R-013.
#[test]
fn rfc4787_req_11_a_mapping_does_not_change_while_others_come_and_go() {
    let mut net = Net::new();
    for guest in 8..150 {
        net.guest(&format!("udp 10.1.1.{guest}:4000 > 198.51.100.9:53"));
        let out = net.guest("udp 10.1.1.5:4001 > 198.51.100.9:53");
        assert_eq!(out, "public: udp 203.0.113.10:4001 > 198.51.100.9:53");
    }
}

/// Shows R-058.
#[test]
fn rfc4787_req_12_icmp_ends_no_mapping() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53");
    for code in [0, 1, 2, 3, 10, 13] {
        let about = "about [udp 203.0.113.10:4000 > 198.51.100.9:53]";
        let line = format!("icmp 198.51.100.9 > 203.0.113.10 unreachable code={code} {about}");
        assert!(net.public(&line).starts_with("guest: icmp"), "{line}");
    }
    assert!(net.public("udp 198.51.100.9:53 > 203.0.113.10:4000").starts_with("guest: udp"));
}

/// Shows R-102 R-104.
#[test]
fn rfc4787_req_13_what_is_too_big_is_told_or_cut() {
    let mut net = Net::new();
    let told = net.public("udp 198.51.100.9:5000 > 203.0.113.22:9000 len=1000");
    assert!(told.contains("drop mtu_exceeded + public: icmp 203.0.113.22"), "{told}");
    assert!(told.contains("unreachable code=4 mtu=600"), "{told}");
    let cut = net.public("udp 198.51.100.9:5000 > 203.0.113.22:9000 len=1000 nodf");
    assert_eq!(cut.matches("guest: udp").count(), 2, "{cut}");
}

/// Shows R-090 R-091.
#[test]
fn rfc4787_req_14_fragments_pass_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut net = Net::new();
        let parts = ["0-40", "40-80", "80-100"];
        let mut left = String::new();
        for part in order.map(|number| parts[number]) {
            let line = "udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id=500 nodf part=";
            left += &net.guest(&format!("{line}{part}"));
        }
        assert_eq!(left.matches("public: udp").count(), 3, "{order:?}: {left}");
    }
}

/// Shows R-092.
#[test]
fn rfc4787_req_14a_fragments_without_a_first_one_leave_nothing_behind() {
    let mut net = Net::new();
    let line = "udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id=500 nodf part=";
    for part in ["40-80", "80-100"] {
        assert_eq!(net.guest(&format!("{line}{part}")), "hold");
    }
    net.seconds(3);
    assert_eq!((net.sessions(), net.lab.frames_in_hand()), (0, 0));
}
