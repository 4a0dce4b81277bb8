//! What a cloud's virtual router does besides: services of public addresses, filters, tenants, changes.

use crate::{Net, external_port};

/// Shows R-122.
#[test]
fn rfc3022_2_1_static_nat_goes_both_ways_and_keeps_ports() {
    let mut net = Net::new();
    net.guest("tcp 10.1.1.8:4001 > 198.51.100.9:443");
    let out = net.guest("tcp 10.1.1.6:4001 > 198.51.100.9:443");
    assert_eq!(out, "public: tcp 203.0.113.12:4001 > 198.51.100.9:443 flags=syn");
    let heard = net.public("icmp 198.51.100.9 > 203.0.113.12 echo-request ident=7");
    assert_eq!(heard, "guest: icmp 198.51.100.9 > 10.1.1.6 echo-request ident=7");
}

/// Shows R-116.
#[test]
fn static_nat_carries_any_protocol() {
    let mut net = Net::new();
    for protocol in ["gre", "esp"] {
        let out = net.guest(&format!("{protocol} 10.1.1.6 > 198.51.100.9 data=abcd"));
        assert!(
            out.starts_with(&format!("public: {protocol} 203.0.113.12 > 198.51.100.9")),
            "{out}"
        );
        let back = net.public(&format!("{protocol} 198.51.100.9 > 203.0.113.12 data=abcd"));
        assert!(back.starts_with(&format!("guest: {protocol} 198.51.100.9 > 10.1.1.6")), "{back}");
    }
}

/// Shows R-115.
#[test]
fn protocols_without_ports_pass_by_address_and_are_never_misdelivered() {
    let mut net = Net::new();
    for protocol in ["gre", "esp"] {
        let out = net.guest(&format!("{protocol} 10.1.1.5 > 198.51.100.9 data=abcd"));
        assert!(
            out.starts_with(&format!("public: {protocol} 203.0.113.10 > 198.51.100.9")),
            "{out}"
        );
        let second = net.guest(&format!("{protocol} 10.1.1.8 > 198.51.100.9 data=abcd"));
        assert_eq!(second, "drop protocol_unsupported");
        let back = net.public(&format!("{protocol} 198.51.100.9 > 203.0.113.10 data=abcd"));
        assert!(back.starts_with(&format!("guest: {protocol} 198.51.100.9 > 10.1.1.5")), "{back}");
    }
}

/// Checksums are judged for every frame that is told: a wrong one would say so.
///
/// Shows R-118 R-119 R-120.
#[test]
fn sctp_dccp_and_udp_lite_leave_with_right_checksums() {
    let mut net = Net::new();
    for protocol in ["sctp", "dccp", "udplite"] {
        net.guest(&format!("{protocol} 10.1.1.8:4000 > 198.51.100.9:53 data=abcd"));
        let out = net.guest(&format!("{protocol} 10.1.1.5:4000 > 198.51.100.9:53 data=abcd"));
        assert!(out.starts_with("public: ") && !out.contains("WRONG"), "{out}");
        let port = external_port(&out);
        let back =
            net.public(&format!("{protocol} 198.51.100.9:53 > 203.0.113.10:{port} data=abcd"));
        assert!(back.contains("> 10.1.1.5:4000") && !back.contains("WRONG"), "{back}");
    }
}

/// Shows R-121.
#[test]
fn rfc3947_two_ike_hosts_reach_one_peer() {
    let mut net = Net::new();
    for port in [500, 4500] {
        let ports = [5, 8].map(|guest| {
            external_port(&net.guest(&format!("udp 10.1.1.{guest}:{port} > 198.51.100.9:{port}")))
        });
        assert_ne!(ports[0], ports[1]);
        let back = net.public(&format!("udp 198.51.100.9:{port} > 203.0.113.10:{}", ports[1]));
        assert!(back.ends_with(&format!("> 10.1.1.8:{port}")), "{back}");
    }
}

/// Shows R-123 R-126.
#[test]
fn a_public_address_is_closed_until_a_rule_opens_it() {
    let mut net = Net::new();
    assert!(net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222").starts_with("guest: tcp"));
    for line in [
        "tcp 192.0.2.9:5000 > 203.0.113.11:2222",
        "tcp 198.51.100.9:5000 > 203.0.113.11:2231",
        "udp 198.51.100.9:5000 > 203.0.113.11:2222",
        "tcp 198.51.100.9:5000 > 203.0.113.10:2222",
    ] {
        assert_eq!(net.public(line), "drop firewall_denied", "{line}");
    }
}

/// Shows R-124 R-125.
#[test]
fn port_forwards_map_ranges_by_offset_and_restore_replies() {
    let mut net = Net::new();
    for offset in 0..=8 {
        let (public, guest) = (2222 + offset, 22 + offset);
        let heard = net.public(&format!("tcp 198.51.100.9:5000 > 203.0.113.11:{public}"));
        assert_eq!(heard, format!("guest: tcp 198.51.100.9:5000 > 10.1.1.5:{guest} flags=syn"));
        let line = format!("tcp 10.1.1.5:{guest} > 198.51.100.9:5000 flags=syn,ack ack=1001");
        let back = net.guest(&line);
        assert!(
            back.starts_with(&format!("public: tcp 203.0.113.11:{public} > 198.51.100.9:5000"))
        );
    }
}

/// Shows R-127.
#[test]
fn a_forward_may_name_who_uses_it() {
    let mut net = Net::new();
    assert!(net.public("udp 198.51.100.9:5000 > 203.0.113.11:5010").starts_with("guest: udp"));
    assert_eq!(net.public("udp 198.51.100.10:5000 > 203.0.113.11:5010"), "drop firewall_denied");
}

/// Shows R-128.
#[test]
fn a_forward_may_share_the_source_nat_address() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.8:4000 > 198.51.100.9:53");
    let heard = net.public("udp 198.51.100.9:5000 > 203.0.113.10:53");
    assert_eq!(heard, "guest: udp 198.51.100.9:5000 > 10.1.1.5:53");
}

/// Shows R-129.
#[test]
fn a_balancer_spreads_clients_and_keeps_their_connections() {
    let mut net = Net::new();
    let mut shares = [0, 0];
    for port in 5000..5020 {
        let line = format!("tcp 198.51.100.9:{port} > 203.0.113.11:443");
        let heard = net.public(&line);
        assert_eq!(net.public(&line), heard, "a connection stays with its member");
        shares[usize::from(heard.contains("10.1.1.9:8443"))] += 1;
    }
    assert_eq!(shares, [10, 10]);
}

/// Shows R-130 R-136.
#[test]
fn the_same_rules_again_disturb_nothing() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53");
    for _ in 0..20 {
        net.change("", "");
        assert!(net.public("udp 198.51.100.9:53 > 203.0.113.10:4000").starts_with("guest: udp"));
    }
    net.seconds(2);
    assert_eq!(net.sessions(), 1);
}

/// Shows R-131 R-132.
#[test]
fn a_removed_forward_is_closed_at_once_and_its_sessions_end() {
    let mut net = Net::new();
    net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222");
    net.change(r#""public_ports": "2222-2230""#, r#""public_ports": "3222-3230""#);
    assert_eq!(net.public("tcp 198.51.100.9:5001 > 203.0.113.11:2222"), "drop firewall_denied");
    net.seconds(1);
    assert_eq!(net.sessions(), 0);
}

/// Shows R-133.
#[test]
fn a_rebound_forward_leads_to_the_new_guest_alone() {
    let mut net = Net::new();
    let line = "tcp 198.51.100.9:5000 > 203.0.113.11:2222";
    assert!(net.public(line).contains("> 10.1.1.5:22"));
    net.change(
        r#""guest_ip": "10.1.1.5", "guest_ports": "22-30""#,
        r#""guest_ip": "10.1.1.9", "guest_ports": "22-30""#,
    );
    assert_eq!(net.public(&format!("{line} flags=ack")), "drop tcp_no_session");
    assert!(net.public(line).contains("> 10.1.1.9:22"));
}

/// Shows R-134.
#[test]
fn new_flows_use_a_changed_source_nat_address_and_old_ones_are_whole_or_gone() {
    let mut net = Net::new();
    net.guest("udp 10.1.4.5:4000 > 198.51.100.9:53 vlan=300");
    net.change(r#""source_nat": ["203.0.113.16"]"#, r#""source_nat": ["203.0.113.18"]"#);
    let new = net.guest("udp 10.1.4.6:4000 > 198.51.100.9:53 vlan=300");
    assert_eq!(new, "public: udp 203.0.113.18:4000 > 198.51.100.9:53");
    assert_eq!(net.public("udp 198.51.100.9:53 > 203.0.113.16:4000"), "drop firewall_denied");
}

/// Shows R-137.
#[test]
fn a_withdrawn_firewall_rule_refuses_new_clients() {
    let mut net = Net::new();
    assert!(net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222").starts_with("guest: "));
    net.change(r#""ports": "2222-2230", "sources""#, r#""ports": "1", "sources""#);
    assert_eq!(net.public("tcp 198.51.100.9:5001 > 203.0.113.11:2222"), "drop firewall_denied");
}

/// A forward lets its sessions go with it all the same; so do a static NAT and a balancer.
///
/// Shows R-132 R-137.
#[test]
fn withdrawn_filters_may_leave_what_they_let_in() {
    let mut net = Net::new();
    net.lab = natwerk::testing::lab::Lab::with(crate::RULES, |config| {
        config.sessions.on_rule_removal = natwerk::config::OnRuleRemoval::KeepFiltered;
    });
    let (inbound, balanced) = ("198.51.100.9:5000 > 203.0.113.11:", "198.51.100.9:5002 > ");
    assert!(net.public(&format!("tcp {inbound}2222")).starts_with("guest: "));
    assert!(net.public(&format!("tcp {balanced}203.0.113.11:443")).starts_with("guest: "));
    assert!(net.guest("tcp 10.1.3.5:4000 > 198.51.100.9:443 vlan=200").starts_with("public: "));
    assert!(net.guest("tcp 10.2.1.5:4000 > 10.2.2.5:3306 vlan=501").starts_with("guest: "));
    net.change(r#""ports": "2222-2230", "sources""#, r#""ports": "1", "sources""#);
    net.change(
        r#""protocol": "tcp", "ports": "443", "sources": ["0.0.0.0/0"]"#,
        r#""protocol": "esp""#,
    );
    net.change(
        r#""action": "allow", "protocol": "tcp", "ports": "443", "destinations""#,
        r#""action": "deny", "protocol": "tcp", "ports": "443", "destinations""#,
    );
    net.change(r#""ports": "3306", "cidr""#, r#""ports": "1", "cidr""#);
    assert_eq!(net.public("tcp 198.51.100.9:5001 > 203.0.113.11:2222"), "drop firewall_denied");
    assert_eq!(net.guest("tcp 10.2.1.5:4001 > 10.2.2.5:3306 vlan=501"), "drop acl_denied");
    assert!(
        net.guest("tcp 10.1.3.5:4001 > 198.51.100.9:443 vlan=200")
            .starts_with("drop egress_denied")
    );
    assert!(net.public(&format!("tcp {inbound}2222")).starts_with("guest: "));
    assert!(net.public(&format!("tcp {balanced}203.0.113.11:443")).starts_with("guest: "));
    assert!(net.guest("tcp 10.1.3.5:4000 > 198.51.100.9:443 vlan=200").starts_with("public: "));
    assert!(net.guest("tcp 10.2.1.5:4000 > 10.2.2.5:3306 vlan=501").starts_with("guest: "));
    // The forward is bound to another guest, the balancer has other members.
    net.change(
        r#""guest_ip": "10.1.1.5", "guest_ports": "22-30""#,
        r#""guest_ip": "10.1.1.8", "guest_ports": "22-30""#,
    );
    net.change(r#"{"guest_ip": "10.1.1.8", "guest_port": 8443}, {"guest_ip": "10.1.1.9", "guest_port": 8443}"#, r#"{"guest_ip": "10.1.1.7", "guest_port": 8443}"#);
    assert_eq!(net.public(&format!("tcp {inbound}2222")), "drop firewall_denied");
    assert_eq!(net.public(&format!("tcp {balanced}203.0.113.11:443")), "drop firewall_denied");
}

/// Shows R-138 R-140.
#[test]
fn the_first_egress_rule_that_matches_decides() {
    let mut net = Net::new();
    assert_eq!(net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:25"), "drop egress_denied");
    assert!(net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:26").starts_with("public: "));
    assert!(net.guest("tcp 10.1.3.5:4000 > 198.51.100.9:443 vlan=200").starts_with("public: "));
    let told = net.guest("tcp 10.1.3.5:4000 > 192.0.2.9:443 vlan=200");
    assert!(told.starts_with("drop egress_denied + guest: icmp"), "{told}");
}

/// Shows R-141.
#[test]
fn egress_rules_do_not_stop_replies_of_forwards() {
    let deny = r#""egress_default": "deny", "nat": {"exempt"#;
    let mut net = Net::new().changed(r#""nat": {"exempt"#, deny);
    net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222");
    let back = net.guest("tcp 10.1.1.5:22 > 198.51.100.9:5000 flags=syn,ack ack=1001");
    assert!(back.starts_with("public: tcp 203.0.113.11:2222"), "{back}");
}

/// Shows R-142.
#[test]
fn what_is_denied_takes_no_session_and_no_quota() {
    let mut net = Net::new();
    for port in 4000..4040 {
        net.guest(&format!("tcp 10.1.3.5:{port} > 192.0.2.9:443 vlan=200"));
    }
    assert_eq!(net.sessions(), 0);
}

/// Shows R-144 R-145.
#[test]
fn a_full_table_refuses_the_new_and_keeps_the_old() {
    let mut net = Net::new();
    net.lab = natwerk::testing::lab::Lab::with(crate::RULES, |config| config.sessions.max = 50);
    for port in 4000..4050 {
        assert!(
            net.guest(&format!("udp 10.1.1.5:{port} > 198.51.100.9:53")).starts_with("public: ")
        );
    }
    let refused = net.guest("udp 10.1.1.8:4000 > 198.51.100.9:53");
    assert!(
        refused.starts_with("drop session_table_full + guest: icmp 10.1.1.1 > 10.1.1.8"),
        "{refused}"
    );
    let stranger = net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222");
    assert_eq!(stranger, "drop session_table_full");
    for port in 4000..4050 {
        let back = net.public(&format!("udp 198.51.100.9:53 > 203.0.113.10:{port}"));
        assert!(back.starts_with("guest: "), "{back}");
    }
}

/// Shows R-146.
#[test]
fn tenants_addresses_may_overlap() {
    let mut net = Net::new();
    let one = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53");
    let other = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 vlan=600");
    assert_eq!(one, "public: udp 203.0.113.10:4000 > 198.51.100.9:53");
    assert_eq!(other, "public: udp 203.0.113.19:4000 > 198.51.100.9:53");
    let back = net.public("udp 198.51.100.9:53 > 203.0.113.19:4000");
    assert_eq!(back, "guest: udp 198.51.100.9:53 > 10.1.1.5:4000 vlan=600");
}

/// Shows R-147.
#[test]
fn networks_are_isolated_unless_an_acl_lets_tiers_talk() {
    let mut net = Net::new();
    assert!(net.guest("tcp 10.1.1.5:4000 > 10.1.4.5:22").starts_with("drop "));
    let tiers = net.guest("tcp 10.2.1.5:4000 > 10.2.2.5:3306 vlan=501");
    assert_eq!(tiers, "guest: tcp 10.2.1.5:4000 > 10.2.2.5:3306 flags=syn vlan=502");
    assert_eq!(net.guest("tcp 10.2.1.5:4000 > 10.2.2.5:22 vlan=501"), "drop acl_denied");
}

/// Shows R-152.
#[test]
fn unknown_tags_are_rejected() {
    let mut net = Net::new();
    assert_eq!(net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 vlan=4000"), "drop unknown_vlan");
    assert!(net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 vlan=0").starts_with("public: "));
}

/// Shows R-106.
#[test]
fn the_mss_is_lowered_and_never_added_or_raised() {
    let mut net = Net::new();
    for (offered, left) in [("mss=1460", " mss=560"), ("mss=500", " mss=500"), ("", "")] {
        let out = net.guest(&format!("tcp 10.1.9.5:4000 > 198.51.100.9:80 vlan=900 {offered}"));
        let mss = out.split_once(" mss=").map_or(String::new(), |(_, mss)| {
            format!(" mss={}", mss.split(' ').next().expect("a number"))
        });
        assert_eq!(mss, left, "{out}");
        assert!(!out.contains("WRONG"), "{out}");
    }
}
