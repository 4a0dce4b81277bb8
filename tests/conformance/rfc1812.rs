//! RFC 1812: routers.

use natwerk::testing::lab::{GUEST, Lab};

use crate::Net;

/// Shows R-099.
#[test]
fn rfc1812_5_3_1_the_time_to_live_goes_down_by_one() {
    let mut net = Net::new();
    for ttl in [255, 64, 3, 2] {
        let out = net.guest(&format!("udp 10.1.1.5:4000 > 198.51.100.9:53 ttl={ttl}"));
        let left = if ttl == 64 { String::new() } else { format!(" ttl={}", ttl - 1) };
        assert_eq!(out, format!("public: udp 203.0.113.10:4000 > 198.51.100.9:53{left}"));
    }
    assert_eq!(net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 ttl=0"), "drop ttl_expired");
}

/// Shows R-100.
#[test]
fn rfc1812_4_3_2_4_a_guest_hears_of_exceeded_time_from_its_gateway() {
    let mut net = Net::new();
    let told = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 ttl=1");
    assert!(told.starts_with("drop ttl_expired + guest: icmp 10.1.1.1 > 10.1.1.5"), "{told}");
    assert!(told.contains("about [udp 10.1.1.5:4000 > 198.51.100.9:53 ttl=1"), "{told}");
}

/// Shows R-101 R-103.
#[test]
fn rfc5508_7_2_what_is_told_outside_names_public_addresses_only() {
    let mut net = Net::new();
    let told = net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222 ttl=1");
    assert!(told.contains("+ public: icmp 203.0.113.11 > 198.51.100.9"), "{told}");
    assert!(told.contains("about [tcp 198.51.100.9:5000 > 203.0.113.11:2222"), "{told}");
    let told = net.public("udp 198.51.100.9:5000 > 203.0.113.22:9000 len=1000");
    assert!(told.contains("about [udp 198.51.100.9:5000 > 203.0.113.22:9000"), "{told}");
    assert!(!told.contains("10.1."), "{told}");
}

/// Shows R-085.
#[test]
fn rfc1812_4_3_2_7_no_error_about_errors_and_later_fragments() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id=500 nodf part=0-40");
    let later =
        net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id=500 nodf part=40-100 ttl=1");
    assert_eq!(later, "drop ttl_expired");
    net.public("udp 198.51.100.9:5000 > 203.0.113.11:5003");
    let error = net.guest("icmp 10.1.1.5 > 198.51.100.9 unreachable code=3 ttl=1 about [udp 198.51.100.9:5000 > 10.1.1.5:53]");
    assert_eq!(error, "drop ttl_expired");
}

/// Shows R-114.
#[test]
fn rfc3927_7_link_local_addresses_do_not_pass_the_router() {
    let unspoofed = r#""anti_spoofing": false, "nat": {"exempt"#;
    let mut net = Net::new().changed(r#""nat": {"exempt"#, unspoofed);
    let dropped = net.guest("udp 169.254.7.7:4000 > 198.51.100.9:53");
    assert_eq!(dropped, "drop martian_address");
    assert_eq!(net.guest("udp 10.1.1.5:4000 > 169.254.7.7:53"), "drop no_route");
    let heard = net.public("udp 169.254.7.7:4000 > 203.0.113.13:53");
    assert_eq!(heard, "drop martian_address");
}

/// Shows R-113.
#[test]
fn bcp38_guests_do_not_spoof_and_the_outside_has_no_inner_source() {
    let mut net = Net::new();
    for source in ["10.9.9.9", "198.51.100.9", "203.0.113.10", "10.1.1.1", "10.1.4.5"] {
        let out = net.guest(&format!("udp {source}:4000 > 198.51.100.10:53"));
        assert_eq!(out, "drop source_spoofed", "{source}");
    }
    for source in ["10.1.1.5", "203.0.113.10", "203.0.113.12"] {
        let heard = net.public(&format!("udp {source}:4000 > 203.0.113.13:53"));
        assert_eq!(heard, "drop source_spoofed", "{source}");
    }
    assert_eq!(net.public("udp 203.0.113.13:53 > 203.0.113.13:53"), "drop martian_address");
}

/// Shows R-114.
#[test]
fn rfc1812_5_3_7_martians_are_dropped() {
    let mut net = Net::new();
    for destination in
        ["127.0.0.1", "0.1.2.3", "224.0.0.5", "240.0.0.1", "255.255.255.255", "10.1.1.255"]
    {
        let out = net.guest(&format!("udp 10.1.1.5:4000 > {destination}:53"));
        assert_eq!(out, "drop martian_address", "{destination}");
    }
    for source in ["127.0.0.1", "0.1.2.3", "240.0.0.1", "203.0.113.255"] {
        let heard = net.public(&format!("udp {source}:53 > 203.0.113.13:53"));
        assert_eq!(heard, "drop martian_address", "{source}");
    }
}

/// Shows R-094 R-097.
#[test]
fn rfc5722_overlaps_do_not_pass_and_duplicates_do_no_harm() {
    let mut net = Net::new();
    let mut piece = |part: &str, id: u16| {
        net.guest(&format!("udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id={id} nodf part={part}"))
    };
    for part in ["0-40", "40-80"] {
        assert!(piece(part, 1).starts_with("public: udp"));
    }
    assert_eq!(piece("40-80", 1), "drop fragment_overlap");
    assert!(piece("80-100", 1).starts_with("public: udp"));
    assert!(piece("0-40", 2).starts_with("public: udp"));
    for part in ["32-80", "80-100"] {
        assert_eq!(piece(part, 2), "drop fragment_overlap");
    }
}

/// Shows R-095.
#[test]
fn rfc1858_a_tiny_first_fragment_hides_nothing() {
    let mut net = Net::new();
    let tiny = net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:25 id=9 nodf len=40 part=0-16");
    assert_eq!(tiny, "drop fragment_bad");
    let rewriting = net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:80 id=9 nodf len=40 part=8-40");
    assert_eq!(rewriting, "drop fragment_bad");
}

/// Shows R-096.
#[test]
fn later_fragments_share_the_verdict_of_the_first() {
    let mut net = Net::new();
    let line = "tcp 10.1.1.5:4000 > 198.51.100.9:25 id=9 nodf len=80 part=";
    assert_eq!(net.guest(&format!("{line}64-100")), "hold");
    assert_eq!(net.guest(&format!("{line}0-40")), "drop egress_denied");
    assert_eq!(net.guest(&format!("{line}40-64")), "drop egress_denied");
}

/// Shows R-102 R-104.
#[test]
fn what_fits_inside_and_not_outside_is_told_or_cut() {
    let mut net = Net::new();
    net.lab.shared.next_hops.set_interface(GUEST, Lab::router_mac(GUEST), 1800);
    let told = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 len=1700");
    assert!(told.starts_with("drop mtu_exceeded + guest: icmp 10.1.1.1 > 10.1.1.5"), "{told}");
    assert!(told.contains("mtu=1500 about [udp 10.1.1.5:4000 > 198.51.100.9:53 "), "{told}");
    let cut = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 len=1700 nodf");
    assert_eq!(cut.matches("public: udp 203.0.113.10").count(), 2, "{cut}");
}
