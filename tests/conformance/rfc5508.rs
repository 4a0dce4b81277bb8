//! RFC 5508: NAT behaviour for ICMP.

use natwerk::testing::lab::PUBLIC;
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};

use crate::{Net, at};

const ASK: &str = "udp 10.1.1.5:4000 > 198.51.100.9:53 data=question";

/// Shows R-003.
#[test]
fn rfc5508_req_1_queries_are_translated_by_identifier() {
    let mut net = Net::new();
    net.guest("icmp 10.1.1.8 > 198.51.100.9 echo-request ident=7");
    let out = net.guest("icmp 10.1.1.5 > 198.51.100.9 echo-request ident=7");
    let identifier = out.rsplit_once("ident=").expect("an echo").1.to_owned();
    assert_ne!(identifier, "7");
    let back =
        net.public(&format!("icmp 198.51.100.9 > 203.0.113.10 echo-reply ident={identifier}"));
    assert_eq!(back, "guest: icmp 198.51.100.9 > 10.1.1.5 echo-reply ident=7");
}

/// Shows R-007.
#[test]
fn rfc5508_req_1a_an_identifier_does_not_depend_on_the_remote() {
    let mut net = Net::new();
    net.guest("icmp 10.1.1.8 > 192.0.2.1 echo-request ident=7");
    let out = [9, 10].map(|last| {
        let out = net.guest(&format!("icmp 10.1.1.5 > 198.51.100.{last} echo-request ident=7"));
        out.rsplit_once("ident=").expect("an echo").1.to_owned()
    });
    assert_eq!(out[0], out[1]);
}

/// Shows R-050.
#[test]
fn rfc5508_req_2_a_query_mapping_lives_a_minute() {
    let mut net = Net::new();
    net.guest("icmp 10.1.1.5 > 198.51.100.9 echo-request ident=7");
    net.seconds(60);
    assert_eq!(net.sessions(), 1);
    net.seconds(2);
    assert_eq!(net.sessions(), 0);
}

/// Shows R-050.
#[test]
fn rfc5508_req_2_an_answer_after_58_seconds_still_arrives() {
    let mut net = Net::new();
    let asked = net.guest("icmp 10.1.1.5 > 198.51.100.9 echo-request ident=7");
    assert!(asked.contains("203.0.113.10 > 198.51.100.9 echo-request"), "{asked}");
    let (_, ident) = asked.split_once("ident=").expect("an identifier");
    let ident = ident.split(' ').next().expect("a number");
    net.seconds(58);
    let late = net.public(&format!("icmp 198.51.100.9 > 203.0.113.10 echo-reply ident={ident}"));
    assert!(late.starts_with("guest: icmp 198.51.100.9 > 10.1.1.5 echo-reply ident=7"), "{late}");
}

/// Shows R-073.
#[test]
fn rfc5508_req_4_an_error_from_outside_is_translated_inside_out() {
    let mut net = Net::new();
    net.guest(ASK);
    for code in [0, 1, 3, 10, 13] {
        let heard = net.public(&format!(
            "icmp 198.51.100.9 > 203.0.113.10 unreachable code={code} about [udp 203.0.113.10:4000 > 198.51.100.9:53 ttl=60 data=question]"
        ));
        let code = if code == 0 { String::new() } else { format!(" code={code}") };
        assert_eq!(
            heard,
            format!(
                "guest: icmp 198.51.100.9 > 10.1.1.5 unreachable{code} about [udp 10.1.1.5:4000 > 198.51.100.9:53 ttl=60 data=question]"
            )
        );
    }
}

/// Shows R-074.
#[test]
fn rfc4787_req_12a_errors_of_routers_on_the_way_keep_their_source() {
    let mut net = Net::new();
    net.guest(ASK);
    for router in ["192.0.2.50", "198.51.100.1"] {
        let about = "about [udp 203.0.113.10:4000 > 198.51.100.9:53 data=question ttl=1]";
        let heard = net.public(&format!("icmp {router} > 203.0.113.10 time-exceeded {about}"));
        assert!(heard.starts_with(&format!("guest: icmp {router} > 10.1.1.5 time-exceeded")));
    }
}

/// Shows R-075.
#[test]
fn rfc792_eight_octets_of_the_quoted_transport_are_enough() {
    let mut net = Net::new();
    net.guest(ASK);
    let heard = net.public("icmp 198.51.100.9 > 203.0.113.10 unreachable code=1 about [udp 203.0.113.10:4000 > 198.51.100.9:53 data=question cut=28]");
    assert!(heard.contains("about [udp 10.1.1.5:4000 > 198.51.100.9:53"), "{heard}");
}

/// Shows R-076 R-077.
#[test]
fn rfc5508_req_5_errors_of_guests_and_inner_routers_leave_with_the_public_address() {
    let mut net = Net::new();
    net.public("udp 198.51.100.9:5000 > 203.0.113.11:5003");
    for inner in ["10.1.1.5", "10.1.1.254"] {
        let about = "about [udp 198.51.100.9:5000 > 10.1.1.5:53]";
        let left = net.guest(&format!("icmp {inner} > 198.51.100.9 unreachable code=3 {about}"));
        assert!(left.starts_with("public: icmp 203.0.113.11 > 198.51.100.9 unreachable"), "{left}");
        assert!(left.contains("[udp 198.51.100.9:5000 > 203.0.113.11:5003"), "{left}");
    }
}

/// Shows R-082.
#[test]
fn rfc5508_req_4_errors_about_nothing_known_are_dropped() {
    let mut net = Net::new();
    let about = "about [udp 198.51.100.9:53 > 10.1.1.5:4000]";
    let left = net.guest(&format!("icmp 10.1.1.5 > 198.51.100.9 unreachable code=3 {about}"));
    assert_eq!(left, "drop icmp_error_unmatched");
    let about = "about [udp 203.0.113.10:4000 > 198.51.100.9:53]";
    let heard = net.public(&format!("icmp 198.51.100.9 > 203.0.113.10 unreachable code=3 {about}"));
    assert!(!heard.contains("guest: "), "{heard}");
}

/// Shows R-057.
#[test]
fn rfc5508_req_6_errors_refresh_nothing() {
    let mut net = Net::new();
    net.public("udp 198.51.100.9:5000 > 203.0.113.11:5003");
    for _ in 0..4 {
        net.seconds(90);
        net.guest("icmp 10.1.1.5 > 198.51.100.9 unreachable code=3 about [udp 198.51.100.9:5000 > 10.1.1.5:53]");
    }
    assert_eq!(net.sessions(), 0);
}

/// Shows R-042.
#[test]
fn rfc5508_req_7_a_hairpinned_error_names_no_guest_to_another() {
    let mut net = Net::new();
    net.guest("udp 10.1.1.8:4002 > 203.0.113.12:7");
    let heard = net.guest("icmp 10.1.1.6 > 203.0.113.10 unreachable code=3 about [udp 203.0.113.10:4002 > 10.1.1.6:7]");
    assert!(heard.starts_with("guest: icmp 203.0.113.12 > 10.1.1.8 unreachable code=3"), "{heard}");
    assert!(heard.contains("about [udp 10.1.1.8:4002 > 203.0.113.12:7"), "{heard}");
}

/// Shows R-084.
#[test]
fn rfc5508_req_10b_timestamps_are_translated() {
    let mut net = Net::new();
    let out = net.guest("icmp 10.1.1.5 > 198.51.100.9 type=13 ident=7");
    assert!(out.starts_with("public: icmp 203.0.113.10 > 198.51.100.9"), "{out}");
    let back = net.public("icmp 198.51.100.9 > 203.0.113.10 type=14 ident=7");
    assert!(back.starts_with("guest: icmp 198.51.100.9 > 10.1.1.5"), "{back}");
}

/// Shows R-086.
#[test]
fn rfc5508_req_10_redirects_and_their_like_reach_no_guest() {
    let mut net = Net::new();
    net.guest(ASK);
    for icmp_type in [4, 5] {
        let about = "about [udp 203.0.113.10:4000 > 198.51.100.9:53 data=question]";
        let heard =
            net.public(&format!("icmp 198.51.100.9 > 203.0.113.10 type={icmp_type} {about}"));
        assert_eq!(heard, "drop icmp_refused");
    }
    assert_eq!(net.public("icmp 198.51.100.9 > 203.0.113.10 type=9"), "drop icmp_refused");
}

/// Shows R-088.
#[test]
fn rfc5508_unsolicited_replies_and_requests_on_a_query_mapping_reach_no_guest() {
    let mut net = Net::new();
    net.guest("icmp 10.1.1.5 > 198.51.100.9 echo-request ident=7");
    for line in ["echo-reply ident=8", "echo-request ident=7"] {
        let heard = net.public(&format!("icmp 198.51.100.9 > 203.0.113.10 {line}"));
        assert!(!heard.contains("guest: "), "{heard}");
    }
    // Not even where filtering is endpoint-independent.
    net.guest("icmp 10.1.4.5 > 198.51.100.9 echo-request ident=7 vlan=300");
    for icmp_type in [8, 13, 17] {
        let line = format!("icmp 192.0.2.1 > 203.0.113.16 type={icmp_type} ident=7");
        assert!(net.public(&line).starts_with("drop "), "{line}");
    }
}

/// Shows R-105.
#[test]
fn rfc5382_req_9_a_path_mtu_reaches_the_guest() {
    let mut net = Net::new();
    net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:80 seq=100");
    let heard = net.public("icmp 198.51.100.1 > 203.0.113.10 unreachable code=4 mtu=1280 about [tcp 203.0.113.10:4000 > 198.51.100.9:80 seq=100]");
    assert!(heard.starts_with("guest: icmp 198.51.100.1 > 10.1.1.5 unreachable code=4 mtu=1280"));
}

/// Shows R-079 R-080 R-081.
#[test]
fn rfc5508_req_3_wrong_checksums_of_the_error_and_the_quoted_header_drop_it_others_do_not() {
    let mut net = Net::new();
    net.guest(ASK);
    let quoted = Packet::udp(at("203.0.113.10:4000"), at("198.51.100.9:53"), b"question").bytes();
    let (from, to) = (at("198.51.100.9:0").address, at("203.0.113.10:0").address);
    let mut verdict = |quoted: &[u8], flip: usize| {
        let mut error = Packet::icmp(from, to, (3, 3), [0; 4], quoted);
        error.transport[2] ^= u8::try_from(flip).expect("small");
        net.lab.send(PUBLIC, error.frame()).verdict
    };
    let flipped = |at: usize| {
        let mut bytes = quoted.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    assert!(matches!(verdict(&quoted, 0), Verdict::Forward(_)));
    assert_eq!(verdict(&quoted, 1), Verdict::Drop(DropReason::BadChecksum));
    assert_eq!(verdict(&flipped(10), 0), Verdict::Drop(DropReason::BadIcmpQuote));
    assert!(matches!(verdict(&flipped(26), 0), Verdict::Forward(_)));
}

/// The first step of ReDAN (NDSS 2025): a NAT that keeps no path MTU for what it says itself is told from a host.
///
/// Shows R-036 R-105.
#[test]
fn rfc1191_what_the_router_says_itself_follows_the_paths_that_guests_were_told_of() {
    let mut net = Net::new();
    let long = "icmp 198.51.100.9 > 203.0.113.10 echo-request ident=7 len=1172";
    assert!(
        net.public(long).starts_with("public: icmp 203.0.113.10 > 198.51.100.9 echo-reply ident=7")
    );
    net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 len=1172");
    let told = "icmp 198.51.100.1 > 203.0.113.10 unreachable code=4 mtu=800 about [udp 203.0.113.10:4000 > 198.51.100.9:53 len=1172 cut=28]";
    assert!(net.public(told).starts_with("guest: icmp 198.51.100.1 > 10.1.1.5"));
    // In pieces, with DF or without it, and under an identification of its own.
    for dont_fragment in ["", " nodf"] {
        let frame = crate::text::frame(&format!("{long}{dont_fragment}"));
        let outcome = net.lab.send(PUBLIC, frame.clone());
        let pieces: Vec<&[u8]> = outcome.sent.iter().map(|(_, piece)| &piece[14..]).collect();
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [796, 424]);
        let offsets = pieces.iter().map(|piece| u16::from_be_bytes([piece[6], piece[7]]));
        assert_eq!(offsets.collect::<Vec<_>>(), [0x2000, 776 / 8]);
        assert_eq!(pieces[0][4..6], pieces[1][4..6]);
        let whole = [&pieces[0][20..], &pieces[1][20..]].concat();
        assert_eq!((whole[0], natwerk::testing::packets::checksum(&whole)), (0, 0));
        assert_eq!(whole[4..], frame[14 + 20 + 4..]);
    }
    // Short ones, and those of others, are answered in one piece; the kernel would not know.
    let short = net.public("icmp 198.51.100.9 > 203.0.113.10 echo-request ident=7 data=short");
    assert_eq!(short, "public: icmp 203.0.113.10 > 198.51.100.9 echo-reply ident=7 data=short");
    let other = net.public(&long.replace("198.51.100.9", "198.51.100.8"));
    assert!(other.starts_with("public: icmp 203.0.113.10 > 198.51.100.8 echo-reply"), "{other}");
    let part = format!("{long} nodf id=9 part=0-800");
    assert_eq!(net.public(&part), "drop mtu_exceeded");
    assert_eq!(net.public(&part.replace("198.51.100.9", "198.51.100.8")), "host echo_for_router");
    net.seconds(601);
    assert!(net.public(long).starts_with("public: icmp 203.0.113.10 > 198.51.100.9 echo-reply"));
}

/// Without the check an error to any public address of ours reached the guest that another one stands for.
///
/// Shows R-082.
#[test]
fn rfc5508_req_4_an_error_goes_to_who_sent_what_it_quotes() {
    let mut net = Net::new();
    net.guest(ASK);
    let about = "about [udp 203.0.113.10:4000 > 198.51.100.9:53 data=question]";
    for stray in ["203.0.113.11", "203.0.113.13"] {
        let heard = net.public(&format!("icmp 192.0.2.50 > {stray} time-exceeded {about}"));
        assert_eq!(heard, "host router_own_traffic", "{stray}");
    }
    net.public("udp 198.51.100.9:5000 > 203.0.113.11:5003");
    let about = "about [udp 198.51.100.9:5000 > 10.1.1.5:53]";
    let told = net.guest(&format!("icmp 10.1.1.5 > 198.51.100.8 unreachable code=3 {about}"));
    assert_eq!(told, "drop icmp_error_unmatched");
    let told = net.guest(&format!("icmp 10.1.1.5 > 198.51.100.9 unreachable code=3 {about}"));
    assert!(told.starts_with("public: icmp 203.0.113.11 > 198.51.100.9 unreachable"), "{told}");
}
