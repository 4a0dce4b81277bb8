//! RFC 6888: carrier-grade NAT; RFC 6056: the choice of ports.

use std::collections::BTreeSet;

use crate::{Net, external_port};

/// Shows R-012.
#[test]
fn rfc6888_req_3_a_pool_need_not_be_contiguous_and_is_used_alone() {
    let pool = ["203.0.113.16", "203.0.113.18", "203.0.113.22"];
    let rules = format!(r#""source_nat": ["{}"]"#, pool.join("\", \""));
    let mut net = Net::new().changed(r#""source_nat": ["203.0.113.16"]"#, &rules);
    let seen: BTreeSet<String> = (5..69)
        .map(|guest| {
            let out = net.guest(&format!("udp 10.1.4.{guest}:4000 > 198.51.100.9:53 vlan=300"));
            let source = out.split(' ').nth(2).and_then(|source| source.split_once(':'));
            source.expect("a source").0.to_owned()
        })
        .collect();
    assert_eq!(seen, pool.map(str::to_owned).into());
}

/// Shows R-022 R-025 R-026.
#[test]
fn rfc6888_req_11_out_of_ports_the_new_flow_is_told_and_the_old_ones_live() {
    let mut net = Net::new();
    for guest in [5, 6, 7] {
        let out = net.guest(&format!("udp 10.1.7.{guest}:9 > 198.51.100.9:53 vlan=700"));
        assert!((5000..=5002).contains(&external_port(&out)), "{out}");
    }
    let told = net.guest("udp 10.1.7.8:9 > 198.51.100.9:53 vlan=700");
    assert!(told.starts_with("drop no_port + guest: icmp 10.1.7.1 > 10.1.7.8"), "{told}");
    assert!(told.contains("unreachable code=13"), "{told}");
    for port in 5000..=5002 {
        let back = net.public(&format!("udp 198.51.100.9:53 > 203.0.113.21:{port}"));
        assert!(back.starts_with("guest: udp"), "{back}");
    }
    net.seconds(302 + 121);
    let out = net.guest("udp 10.1.7.8:9 > 198.51.100.9:53 vlan=700");
    assert!(out.starts_with("public: udp"), "freed ports serve again: {out}");
}

/// Shows R-008.
#[test]
fn rfc7857_3_ports_are_shared_between_different_remotes_once_none_is_free() {
    let mut net = Net::new()
        .changed(r#""port_range": "5000-5002", "overload": false"#, r#""port_range": "5000-5002""#);
    let mut answers = BTreeSet::new();
    for remote in 1..=200 {
        let guest = 5 + remote % 40;
        let out = net.guest(&format!("udp 10.1.7.{guest}:9 > 198.51.100.{remote}:53 vlan=700"));
        let port = external_port(&out);
        let back = net.public(&format!("udp 198.51.100.{remote}:53 > 203.0.113.21:{port}"));
        assert!(back.ends_with(&format!("> 10.1.7.{guest}:9 vlan=700")), "{back}");
        answers.insert((remote, port));
    }
    assert_eq!(answers.len(), 200);
}

/// Shows R-027.
#[test]
fn rfc6888_req_8_a_freed_port_rests_two_minutes_but_for_its_own_guest() {
    let mut net = Net::new().changed("5000-5002", "5000-5000");
    net.guest("udp 10.1.7.5:9 > 198.51.100.9:7000 vlan=700");
    net.seconds(302);
    assert_eq!(net.sessions(), 0);
    let other = net.guest("udp 10.1.7.6:9 > 198.51.100.9:7000 vlan=700");
    assert!(other.starts_with("drop no_port"), "{other}");
    let own = net.guest("udp 10.1.7.5:10 > 198.51.100.9:7000 vlan=700");
    assert_eq!(external_port(&own), 5000);
}

/// Shows R-024.
#[test]
fn rfc6888_req_15_the_next_port_cannot_be_foretold() {
    let mut net = Net::new();
    let ports: Vec<u16> = (8..56)
        .map(|guest| external_port(&net.guest(&format!("udp 10.1.1.{guest}:4000 > 192.0.2.1:53"))))
        .collect();
    let chosen = &ports[1..];
    let near = chosen.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 8).count();
    assert!(near <= 8, "{near} neighbours are near each other");
    let span = chosen.iter().max().expect("many") - chosen.iter().min().expect("many");
    assert!(span > 8000, "they span {span}");
}

/// Shows R-030 R-143 R-145.
#[test]
fn rfc6888_req_4_a_guest_over_its_limit_is_told_and_others_are_spared() {
    let mut net = Net::new();
    for port in [4000, 4001] {
        let out = net.guest(&format!("udp 10.1.8.5:{port} > 198.51.100.9:53 vlan=800"));
        assert!(out.starts_with("public: udp"), "{out}");
    }
    let told = net.guest("udp 10.1.8.5:4002 > 198.51.100.9:53 vlan=800");
    assert!(told.starts_with("drop session_limit + guest: icmp"), "{told}");
    assert!(told.contains("unreachable code=13"), "{told}");
    let other = net.guest("udp 10.1.8.6:4000 > 198.51.100.9:53 vlan=800");
    assert!(other.starts_with("public: udp"), "{other}");
    net.seconds(302);
    let again = net.guest("udp 10.1.8.5:4002 > 198.51.100.9:53 vlan=800");
    assert!(again.starts_with("public: udp"), "{again}");
}

/// Shows R-030 R-143 R-145.
#[test]
fn rfc6888_req_4_ports_of_each_protocol_and_mappings_are_limited_too() {
    let limits = r#""limits": {"ports_per_guest": 2, "mappings_per_guest": 3}"#;
    let mut net = Net::new().changed(r#""limits": {"sessions_per_guest": 2}"#, limits);
    let udp = |guest: u8, port: u16, remote: u8| {
        format!("udp 10.1.8.{guest}:{port} > 198.51.100.{remote}:53 vlan=800")
    };
    for (port, remote) in [(4000, 1), (4001, 1), (4000, 2), (4000, 3), (4001, 9)] {
        let out = net.guest(&udp(5, port, remote));
        assert!(out.starts_with("public: udp"), "a mapping serves many sessions: {out}");
    }
    let told = net.guest(&udp(5, 4002, 1));
    assert!(told.starts_with("drop port_limit + guest: icmp"), "{told}");
    assert!(told.contains("unreachable code=13"), "{told}");
    let tcp = |port| format!("tcp 10.1.8.5:{port} > 198.51.100.9:80 vlan=800");
    let out = net.guest(&tcp(4000));
    assert!(out.starts_with("public: tcp"), "another protocol: {out}");
    assert!(net.guest(&tcp(4001)).starts_with("drop port_limit"), "three mappings in all");
    assert!(net.guest(&udp(6, 4002, 1)).starts_with("public: udp"), "another guest");
    net.seconds(302);
    assert!(net.guest(&udp(5, 4002, 1)).starts_with("public: udp"), "they count down");
}

/// The flood wants every port, session and datagram in fragments that there is.
///
/// Shows R-143.
#[test]
fn rfc6888_req_4_a_flooding_guest_takes_no_session_and_no_connection_from_another() {
    let limits = r#""limits": {"sessions_per_guest": 200, "ports_per_guest": 100}"#;
    let mut net = Net::new().changed(
        r#""limits": {"sessions_per_guest": 2}, "nat": {"#,
        &format!(r#"{limits}, "nat": {{"port_range": "10000-10299", "overload": false, "#),
    );
    let line = |port: u16| format!("udp 10.1.8.6:{port} > 198.51.100.9:53 vlan=800");
    let held: Vec<(u16, u16)> =
        (4000..4050).map(|port| (port, external_port(&net.guest(&line(port))))).collect();
    for flood in 0..6000_u16 {
        let (port, remote) = (1024 + flood, 1 + flood % 250);
        net.guest(&format!("udp 10.1.8.5:{port} > 198.51.100.{remote}:53 vlan=800"));
        net.guest(&format!("tcp 10.1.8.5:{port} > 198.51.100.{remote}:80 vlan=800"));
        net.guest(&format!(
            "icmp 10.1.8.5 > 198.51.100.{remote} echo-request ident={port} vlan=800"
        ));
        net.guest(&format!(
            "udp 10.1.8.5:{port} > 198.51.100.9:53 len=92 id={flood} nodf part=40-80 vlan=800"
        ));
        if flood % 500 == 0 {
            // Time for each flood to be counted anew; too little for a session to end.
            net.seconds(1);
        }
    }
    for (port, external) in held {
        assert_eq!(external_port(&net.guest(&line(port))), external);
        let back = net.public(&format!("udp 198.51.100.9:53 > 203.0.113.21:{external}"));
        assert_eq!(back, format!("guest: udp 198.51.100.9:53 > 10.1.8.6:{port} vlan=800"));
    }
    for port in 5000..5050 {
        assert!(net.guest(&line(port)).starts_with("public: udp"), "new connection {port}");
        let tcp = net.guest(&format!("tcp 10.1.8.6:{port} > 198.51.100.9:80 vlan=800"));
        assert!(tcp.starts_with("public: tcp"), "{tcp}");
    }
}

/// Shows R-143.
#[test]
fn rfc6888_req_5_new_sessions_of_a_guest_are_limited_by_the_second() {
    let limits = r#""limits": {"sessions_per_guest": 0, "new_sessions_per_second": 5}"#;
    let mut net = Net::new().changed(r#""limits": {"sessions_per_guest": 2}"#, limits);
    let opened = |net: &mut Net, from: u16| {
        let ports = from..from + 20;
        let lines = ports.map(|port| format!("udp 10.1.8.5:{port} > 198.51.100.9:53 vlan=800"));
        lines.filter(|line| net.guest(line).starts_with("public: ")).count()
    };
    assert_eq!(opened(&mut net, 4000), 5);
    net.seconds(1);
    assert_eq!(opened(&mut net, 5000), 5);
}

/// Shows R-015.
#[test]
fn rfc6888_req_6_translation_can_be_switched_off_for_destinations() {
    let mut net = Net::new();
    let out = net.guest("udp 10.1.1.5:4000 > 100.64.0.1:53");
    assert_eq!(out, "public: udp 10.1.1.5:4000 > 100.64.0.1:53");
    let back = net.public("udp 100.64.0.1:53 > 10.1.1.5:4000");
    assert_eq!(back, "guest: udp 100.64.0.1:53 > 10.1.1.5:4000");
}

/// Shows R-029.
#[test]
fn cve_2021_3773_no_mapping_takes_an_endpoint_that_a_rule_serves() {
    let mut net = Net::new();
    let out = net.guest("udp 10.1.1.8:53 > 198.51.100.9:9");
    assert_ne!(external_port(&out), 53);
    let heard = net.public("udp 198.51.100.9:9 > 203.0.113.10:53");
    assert_eq!(heard, "guest: udp 198.51.100.9:9 > 10.1.1.5:53");
}

/// Shows R-028.
#[test]
fn edge_ports_and_identifiers() {
    let mut net = Net::new();
    assert!(net.guest("udp 10.1.1.5:0 > 198.51.100.9:53").starts_with("drop "));
    for port in [1, 1023, 1024, 65_535] {
        let out = net.guest(&format!("udp 10.1.1.5:{port} > 198.51.100.9:53"));
        assert_eq!(external_port(&out), port);
        let back = net.public(&format!("udp 198.51.100.9:53 > 203.0.113.10:{port}"));
        assert!(back.ends_with(&format!("10.1.1.5:{port}")), "{back}");
    }
    for identifier in [0, 65_535] {
        let out =
            net.guest(&format!("icmp 10.1.1.5 > 198.51.100.9 echo-request ident={identifier}"));
        assert!(out.starts_with("public: icmp 203.0.113.10 > 198.51.100.9 echo-request"), "{out}");
    }
}

/// Shows R-143.
#[test]
fn rfc6888_req_4_a_limit_counts_the_sessions_that_the_process_before_left() {
    let line =
        |guest: u8, port: u16| format!("udp 10.1.8.{guest}:{port} > 198.51.100.9:53 vlan=800");
    let mut before = Net::new();
    let external = [4000, 4001].map(|port| external_port(&before.guest(&line(5, port))));
    let mut net = Net::new();
    // The engine begins with a generation that no session has.
    net.lab.reload(crate::RULES);
    let tables = (&before.lab.shared.sessions, &net.lab.shared.sessions);
    tables.0.walk(&mut 0, tables.0.slots(), |view| {
        tables.1.insert(&view.session, before.lab.now()).expect("an empty table");
    });
    // As a process does that finds another one's table after a `kill -9`.
    assert_eq!(net.lab.shared.adopt(&net.lab.shared.policy.load(), net.lab.now()), 2);
    let told = net.guest(&line(5, 4002));
    assert!(told.starts_with("drop session_limit + guest: icmp"), "{told}");
    for (port, external) in [4000, 4001].into_iter().zip(external) {
        assert_eq!(external_port(&net.guest(&line(5, port))), external);
        let back = net.public(&format!("udp 198.51.100.9:53 > 203.0.113.21:{external}"));
        assert_eq!(back, format!("guest: udp 198.51.100.9:53 > 10.1.8.5:{port} vlan=800"));
    }
    let other = net.guest(&line(6, 4000));
    assert!(other.starts_with("public: udp"), "{other}");
}
