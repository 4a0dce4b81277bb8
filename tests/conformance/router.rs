//! What the router says itself, and what it hears: echo, ARP, errors about hairpins and services, limits of errors.

use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::verdict::{DropReason, HostReason, Verdict};

use crate::{Net, RULES};

/// Shows R-036.
#[test]
fn rfc1812_4_3_3_6_echo_to_a_public_address_is_answered_by_policy() {
    let mut net = Net::new();
    let heard = net.public("icmp 198.51.100.9 > 203.0.113.10 echo-request ident=7 data=hello");
    assert_eq!(heard, "public: icmp 203.0.113.10 > 198.51.100.9 echo-reply ident=7 data=hello");
    // Not for those whom the firewall does not let, nor where the address says no.
    assert_eq!(
        net.public("icmp 192.0.2.9 > 203.0.113.10 echo-request ident=7"),
        "drop firewall_denied"
    );
    assert_eq!(
        net.public("icmp 198.51.100.9 > 203.0.113.11 echo-request ident=7"),
        "drop firewall_denied"
    );
    // It needs no time to live to spare (RFC 1812, section 5.3.1).
    let last = net.guest("icmp 10.1.4.5 > 10.1.4.1 echo-request ident=7 ttl=1 vlan=300");
    assert_eq!(
        last,
        "guest: icmp 10.1.4.1 > 10.1.4.5 ttl=64 echo-reply ident=7 vlan=300".replace(" ttl=64", "")
    );
}

/// Shows R-044.
#[test]
fn rfc4787_req_14_fragments_of_a_hairpin_pass_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let mut net = Net::new();
        let pieces = ["part=0-400", "part=400-800", "part=800-1008"]
            .map(|part| format!("udp 10.1.1.6:4000 > 203.0.113.11:5003 len=1000 nodf id=7 {part}"));
        let left: Vec<String> = order.iter().map(|at| net.guest(&pieces[*at])).collect();
        let passed = left.join(" + ").matches("guest: udp 203.0.113.12").count();
        assert_eq!(passed, 3, "{left:?}");
    }
}

/// Shows R-059.
#[test]
fn what_expired_makes_room_at_once() {
    let mut net = Net::new();
    net.lab = Lab::with(RULES, |config| config.sessions.max = 16);
    for round in 0..3 {
        for port in 0..16 {
            let out =
                net.guest(&format!("udp 10.1.1.5:{} > 198.51.100.9:53", 4000 + 100 * round + port));
            assert!(out.starts_with("public: "), "{out}");
        }
        assert!(
            net.guest("udp 10.1.1.5:9 > 198.51.100.9:53").starts_with("drop session_table_full")
        );
        net.seconds(301);
    }
}

/// Shows R-087.
#[test]
fn rfc1812_4_3_2_8_errors_are_limited_in_rate() {
    let mut net = Net::new();
    net.lab = Lab::with(RULES, |config| config.icmp_errors_per_second = 10);
    let told = |net: &mut Net| {
        let expiring = "udp 10.1.1.5:4000 > 198.51.100.9:53 ttl=1";
        (0..100).filter(|_| net.guest(expiring).contains(" + guest: icmp")).count()
    };
    assert_eq!(told(&mut net), 10);
    net.seconds(1);
    assert_eq!(told(&mut net), 10);
}

/// Shows R-089 R-139.
#[test]
fn rfc5508_req_4_errors_about_services_reach_their_servers() {
    let mut net = Net::new();
    net.public("tcp 198.51.100.9:5000 > 203.0.113.11:2222");
    net.guest("tcp 10.1.1.5:22 > 198.51.100.9:5000 flags=syn,ack ack=1001");
    let quoted = "tcp 203.0.113.11:2222 > 198.51.100.9:5000 flags=syn,ack ack=1001 cut=28";
    let heard =
        net.public(&format!("icmp 192.0.2.7 > 203.0.113.11 unreachable code=1 about [{quoted}]"));
    assert!(
        heard.starts_with(
            "guest: icmp 192.0.2.7 > 10.1.1.5 unreachable code=1 about [tcp 10.1.1.5:22 > "
        ),
        "{heard}"
    );
    // Of a balancer: to the member that has the connection.
    let balanced = net.public("tcp 198.51.100.9:5000 > 203.0.113.11:443");
    let member = balanced.split(' ').nth(4).expect("a member").to_owned();
    net.guest(&format!("tcp {member} > 198.51.100.9:5000 flags=syn,ack ack=1001"));
    let quoted = "tcp 203.0.113.11:443 > 198.51.100.9:5000 flags=syn,ack ack=1001 cut=28";
    let heard =
        net.public(&format!("icmp 192.0.2.7 > 203.0.113.11 unreachable code=1 about [{quoted}]"));
    assert!(heard.contains(&format!("about [tcp {member} > 198.51.100.9:5000")), "{heard}");
    // Types of queries are the firewall's: s1 lets everything through from one prefix, f0 only pings of f0's address.
    let stamp = "icmp 198.51.100.9 > 203.0.113.10 type=13 ident=7";
    assert!(net.public(stamp).starts_with("drop "));
}

/// Shows R-107.
#[test]
fn rfc4787_req_13_a_hairpin_that_is_too_big_is_told_in_the_guests_words() {
    let mut net = Net::new();
    let told = net.guest("udp 10.1.1.5:4000 > 203.0.113.22:9000 len=1000");
    assert!(told.starts_with("drop mtu_exceeded + guest: icmp 10.1.1.1 > 10.1.1.5"), "{told}");
    assert!(told.contains("mtu=600 about [udp 10.1.1.5:4000 > 203.0.113.22:9000 "), "{told}");
    // What may be cut is cut.
    let cut = net.guest("udp 10.1.1.5:4000 > 203.0.113.22:9000 len=1000 nodf");
    assert_eq!(cut.matches("guest: udp 203.0.113.10").count(), 2, "{cut}");
}

/// Shows R-135.
#[test]
fn a_dynamic_guest_becomes_static_and_back() {
    let fixed =
        r#"{"id": "s1", "public_ip": "203.0.113.12", "network": "web", "guest_ip": "10.1.1.6"}"#;
    let other = fixed.replace("10.1.1.6", "10.1.1.9");
    let mut net = Net::new().changed(fixed, &other);
    assert!(
        net.guest("udp 10.1.1.6:4000 > 198.51.100.9:53")
            .starts_with("public: udp 203.0.113.10:4000")
    );
    net.change(&other, fixed);
    assert!(
        net.guest("udp 10.1.1.6:4001 > 198.51.100.9:53")
            .starts_with("public: udp 203.0.113.12:4001")
    );
    assert!(
        net.public("udp 198.51.100.9:5 > 203.0.113.12:80")
            .starts_with("guest: udp 198.51.100.9:5 > 10.1.1.6:80")
    );
    net.change(fixed, &other);
    assert!(
        net.guest("udp 10.1.1.6:4002 > 198.51.100.9:53")
            .starts_with("public: udp 203.0.113.10:4002")
    );
    assert!(!net.public("udp 198.51.100.9:6 > 203.0.113.12:80").contains("10.1.1.6"));
}

/// On untagged links the kernel does it, and natwerk leaves it to it.
///
/// Shows R-148 R-150.
#[test]
fn rfc826_only_own_addresses_are_answered_for_on_their_own_side() {
    let mut net = Net::new();
    for (line, answered) in [
        ("arp request 10.1.4.5 > 10.1.4.1 vlan=300", true),
        ("arp request 0.0.0.0 > 10.1.4.1 vlan=300", true),
        ("arp request 10.1.4.5 > 10.1.4.6 vlan=300", false),
        ("arp request 10.1.4.5 > 10.1.1.1 vlan=300", false),
        ("arp request 10.1.4.5 > 203.0.113.16 vlan=300", false),
        // Claims on the gateway's address, and by who cannot be there.
        ("arp request 10.1.4.1 > 10.1.4.1 vlan=300", false),
        ("arp request 192.0.2.1 > 10.1.4.1 vlan=300", false),
    ] {
        let said = net.guest(line);
        assert_eq!(said.starts_with("guest: arp reply"), answered, "{line}: {said}");
    }
    for (line, answered) in [
        ("arp request 192.0.2.1 > 192.0.2.10 vlan=77", true),
        ("arp request 192.0.2.1 > 192.0.2.11 vlan=77", false),
        ("arp request 192.0.2.1 > 10.1.1.1 vlan=77", false),
        ("arp request 192.0.2.10 > 192.0.2.10 vlan=77", false),
    ] {
        let said = net.public(line);
        assert_eq!(said.starts_with("public: arp reply"), answered, "{line}: {said}");
    }
    let untagged = crate::text::frame("arp request 10.1.1.5 > 10.1.1.1");
    assert_eq!(net.lab.send(GUEST, untagged).verdict, Verdict::Host(HostReason::ArpForKernel));
}

/// Shows R-149.
#[test]
fn rfc1122_2_3_2_a_packet_waits_for_its_neighbor_and_its_sender_hears_when_none_answers() {
    let mut net = Net::new();
    net.lab.answers = false;
    assert_eq!(net.guest("udp 10.1.1.5:4000 > 203.0.113.200:53"), "hold");
    net.lab.answers = true;
    let both = net.guest("udp 10.1.1.8:4000 > 203.0.113.200:53");
    assert_eq!(both.matches("public: udp 203.0.113.10:").count(), 2, "{both}");
    net.lab.answers = false;
    assert_eq!(net.guest("udp 10.1.1.5:4000 > 203.0.113.201:53"), "hold");
    net.lab.give_up_neighbors();
    let sent = net.lab.pass(std::time::Duration::from_millis(200)).sent;
    let [(GUEST, frame)] = sent.as_slice() else { panic!("{sent:?}") };
    let told = crate::text::line(frame);
    assert!(
        told.starts_with("icmp 10.1.1.1 > 10.1.1.5 ") && told.contains("unreachable code=1"),
        "{told}"
    );
}

/// Shows R-153 R-154.
#[test]
fn rfc6092_ipv6_passes_untranslated_behind_a_firewall() {
    let mut net = Net::new();
    let ask = "udp [2001:db8:1::5]:4000 > [2001:db8:51::9]:53";
    assert!(net.guest(ask).starts_with("public: udp [2001:db8:1::5]:4000 > [2001:db8:51::9]:53"));
    assert!(net.public("udp [2001:db8:51::9]:53 > [2001:db8:1::5]:4000").starts_with("guest: "));
    for stranger in [
        "udp [2001:db8:51::a]:53 > [2001:db8:1::5]:4000",
        "tcp [2001:db8:51::9]:5 > [2001:db8:1::5]:22",
    ] {
        assert_eq!(net.public(stranger), "drop firewall_denied");
    }
    assert!(net.public("tcp [2001:db8:51::9]:5 > [2001:db8:1::5]:443").starts_with("guest: "));
    let last = net.guest(&format!("{ask} hops=1"));
    assert!(
        last.contains("guest: icmpv6 2001:db8:1::1 > 2001:db8:1::5 ")
            && last.contains("time-exceeded"),
        "{last}"
    );
    let outcome = net.lab.send(PUBLIC, crate::text::frame("udp [fe80::1]:5 > [2001:db8:1::5]:443"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::MartianAddress));
}
