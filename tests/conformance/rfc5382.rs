//! RFC 5382: NAT behaviour for TCP; with RFC 5961 and RFC 6146 where they say more.

use crate::{Net, external_port};

const OUT: &str = "tcp 10.1.1.5:4000 > 198.51.100.9:80";
const BACK: &str = "tcp 198.51.100.9:80 > 203.0.113.10:4000";

/// A connection, established: the guest's next number is 101, the other's 501.
fn established() -> Net {
    let mut net = Net::new();
    net.guest(&format!("{OUT} seq=100"));
    net.public(&format!("{BACK} flags=syn,ack seq=500 ack=101"));
    net.guest(&format!("{OUT} flags=ack seq=101 ack=501"));
    net
}

fn passes(told: &str) -> bool {
    told.starts_with("guest: tcp") || told.starts_with("public: tcp")
}

/// Shows R-005.
#[test]
fn rfc5382_req_1_one_internal_endpoint_has_one_external_endpoint() {
    let mut net = Net::new();
    net.guest("tcp 10.1.1.8:4000 > 192.0.2.1:80");
    let remotes = ["198.51.100.9:80", "198.51.100.9:443", "198.51.100.10:80"];
    let ports =
        remotes.map(|remote| external_port(&net.guest(&format!("tcp 10.1.1.5:4000 > {remote}"))));
    assert!(ports.iter().all(|port| *port == ports[0] && *port != 4000), "{ports:?}");
}

/// Shows R-002 R-053.
#[test]
fn rfc5382_req_2_a_connection_is_translated_as_a_whole() {
    let mut net = established();
    let data = net.guest(&format!("{OUT} flags=psh,ack seq=101 ack=501 data=get"));
    assert_eq!(
        data,
        "public: tcp 203.0.113.10:4000 > 198.51.100.9:80 flags=psh,ack seq=101 ack=501 data=get"
    );
    assert!(passes(&net.public(&format!("{BACK} flags=fin,ack seq=501 ack=104"))));
    assert!(passes(&net.guest(&format!("{OUT} flags=fin,ack seq=104 ack=502"))));
    assert!(passes(&net.public(&format!("{BACK} flags=ack seq=502 ack=105"))));
    assert!(passes(&net.guest(&format!("{OUT} flags=rst seq=105"))));
}

/// Shows R-060.
#[test]
fn rfc5382_req_2a_simultaneous_open() {
    let mut net = Net::new();
    net.guest(&format!("{OUT} seq=100"));
    assert!(passes(&net.public(&format!("{BACK} seq=500"))));
    assert!(passes(&net.guest(&format!("{OUT} flags=syn,ack seq=100 ack=501"))));
    assert!(passes(&net.public(&format!("{BACK} flags=syn,ack seq=500 ack=101"))));
    net.seconds(300);
    assert!(passes(&net.guest(&format!("{OUT} flags=ack seq=101 ack=501 data=x"))));
}

/// Shows R-061.
#[test]
fn rfc5382_req_4_an_unsolicited_syn_is_met_with_silence() {
    let mut net = Net::new();
    assert_eq!(net.public(BACK), "drop firewall_denied");
    net.guest(&format!("{OUT} seq=100"));
    assert!(passes(&net.public(&format!("{BACK} seq=500"))));
    assert_eq!(net.public("tcp 198.51.100.10:80 > 203.0.113.10:4000"), "drop firewall_denied");
}

/// Shows R-051.
#[test]
fn rfc5382_req_5_established_lives_two_hours_and_transitory_four_minutes() {
    let mut net = established();
    net.guest("tcp 10.1.1.8:4001 > 198.51.100.9:80 seq=100");
    net.seconds(239);
    assert_eq!(net.sessions(), 2);
    net.seconds(3);
    assert_eq!(net.sessions(), 1);
    net.seconds(7_190);
    assert!(passes(&net.public(&format!("{BACK} flags=ack seq=501 ack=101"))));
    net.seconds(7_443);
    assert_eq!(net.sessions(), 0);
}

/// Shows R-052.
#[test]
fn rfc7857_2_3_an_accepted_reset_leaves_the_transitory_time() {
    let mut net = established();
    assert!(passes(&net.public(&format!("{BACK} flags=rst seq=501"))));
    net.seconds(230);
    assert!(passes(&net.guest(&format!("{OUT} flags=ack seq=101 ack=501 data=x"))));
    net.seconds(245);
    assert_eq!(net.sessions(), 0);
}

/// Shows R-054 R-056.
#[test]
fn rfc5382_5_a_closed_connection_serves_retransmissions_and_a_new_syn_opens_it_anew() {
    let mut net = established();
    net.guest(&format!("{OUT} flags=fin,ack seq=101 ack=501"));
    net.public(&format!("{BACK} flags=fin,ack seq=501 ack=102"));
    assert!(passes(&net.public(&format!("{BACK} flags=fin,ack seq=501 ack=102"))));
    assert!(passes(&net.guest(&format!("{OUT} seq=9000"))));
    net.public(&format!("{BACK} flags=syn,ack seq=7000 ack=9001"));
    net.guest(&format!("{OUT} flags=ack seq=9001 ack=7001"));
    net.seconds(1000);
    assert_eq!(net.sessions(), 1, "it is established again");
}

/// Shows R-055.
#[test]
fn rfc7857_2_1_a_half_closed_connection_is_established() {
    let mut net = established();
    net.guest(&format!("{OUT} flags=fin,ack seq=101 ack=501"));
    net.public(&format!("{BACK} flags=ack seq=501 ack=102"));
    net.seconds(3600);
    assert!(passes(&net.public(&format!("{BACK} flags=ack seq=501 ack=102 data=rest"))));
}

/// Shows R-063.
#[test]
fn rfc6146_3_5_2_2_only_a_syn_opens_a_session() {
    let mut net = Net::new();
    for flags in ["ack", "psh,ack", "fin,ack", "rst", "rst,ack", "syn,ack"] {
        assert_eq!(net.guest(&format!("{OUT} flags={flags}")), "drop tcp_no_session");
        let forwarded = format!("tcp 198.51.100.9:80 > 203.0.113.11:2222 flags={flags}");
        assert_eq!(net.public(&forwarded), "drop tcp_no_session");
    }
    assert_eq!(net.sessions(), 0);
}

/// Shows R-064.
#[test]
fn rfc5382_req_2_retransmissions_of_the_handshake_leave_an_established_connection() {
    let mut net = Net::new();
    for _ in 0..2 {
        assert!(passes(&net.guest(&format!("{OUT} seq=100"))));
    }
    for _ in 0..2 {
        assert!(passes(&net.public(&format!("{BACK} flags=syn,ack seq=500 ack=101"))));
    }
    net.guest(&format!("{OUT} flags=ack seq=101 ack=501"));
    assert!(passes(&net.public(&format!("{BACK} flags=syn,ack seq=500 ack=101"))));
    net.seconds(1000);
    assert!(passes(&net.guest(&format!("{OUT} flags=ack seq=101 ack=501 data=x"))));
}

/// Shows R-065 R-066.
#[test]
fn rfc5382_req_2_nothing_is_cut_for_its_place_in_the_window() {
    let mut net = established();
    for sequence in [101_u32, 60_101, 700_101, 101, 0xffff_fff0, 100] {
        let line = format!("{OUT} flags=ack seq={sequence} ack=501 data=x");
        assert!(passes(&net.guest(&line)), "{line}");
    }
}

/// Shows R-067.
#[test]
fn rfc5961_a_challenge_ack_and_its_reset_pass() {
    let mut net = Net::new();
    net.guest(&format!("{OUT} seq=100"));
    assert!(passes(&net.public(&format!("{BACK} flags=ack seq=77 ack=88"))));
    assert!(passes(&net.guest(&format!("{OUT} flags=rst seq=88"))));
    net.guest(&format!("{OUT} seq=100"));
    net.public(&format!("{BACK} flags=syn,ack seq=500 ack=101"));
    net.guest(&format!("{OUT} flags=ack seq=101 ack=501"));
    net.seconds(1000);
    assert_eq!(net.sessions(), 1);
}

/// Shows R-068.
#[test]
fn impossible_flags_make_no_state() {
    let mut net = Net::new();
    for flags in ["syn,fin", "syn,rst", "syn,rst,fin", "fin,psh,urg", "fin"] {
        assert_eq!(net.guest(&format!("{OUT} flags={flags}")), "drop bad_tcp_flags");
    }
    assert_eq!(net.sessions(), 0);
}

/// A reset that is in the window but not exact, and a blind FIN, leave the connection established.
///
/// Shows R-052.
#[test]
fn rfc5961_3_2_a_reset_is_believed_only_when_exact() {
    let mut net = established();
    net.public(&format!("{BACK} flags=rst seq=502"));
    net.public(&format!("{BACK} flags=fin,ack seq=90000000 ack=101"));
    net.seconds(1000);
    assert!(passes(&net.guest(&format!("{OUT} flags=ack seq=101 ack=501 data=x"))));
    assert_eq!(net.sessions(), 1);
}

/// Nor does a sweep over a range of ports, as that of ReDAN, end any of the connections that it meets.
///
/// Shows R-052.
#[test]
fn rfc5961_3_2_a_sweep_of_forged_resets_ends_no_connection() {
    let mut net = Net::new();
    let guest = |port: u16| format!("tcp 10.1.1.5:{port} > 198.51.100.9:80");
    let remote = |port: u16| format!("tcp 198.51.100.9:80 > 203.0.113.10:{port}");
    let connections: Vec<_> = (4000..4010)
        .map(|port| {
            let external = external_port(&net.guest(&format!("{} seq=100", guest(port))));
            net.public(&format!("{} flags=syn,ack seq=500 ack=101", remote(external)));
            net.guest(&format!("{} flags=ack seq=101 ack=501", guest(port)));
            (port, external)
        })
        .collect();
    for port in 3000..5000_u16 {
        let sequence = u32::from(port).wrapping_mul(1_000_003);
        net.public(&format!("{} flags=rst seq={sequence}", remote(port)));
    }
    net.seconds(1000);
    for (port, external) in connections {
        let data = format!("{} flags=ack seq=501 ack=101 data=x", remote(external));
        assert!(
            net.public(&data)
                .starts_with(&format!("guest: tcp 198.51.100.9:80 > 10.1.1.5:{port} "))
        );
    }
}

/// Shows R-058.
#[test]
fn rfc5382_req_10_icmp_ends_no_connection() {
    let mut net = established();
    let about = "about [tcp 203.0.113.10:4000 > 198.51.100.9:80 seq=100]";
    for code in [1, 2, 3] {
        net.public(&format!("icmp 198.51.100.9 > 203.0.113.10 unreachable code={code} {about}"));
    }
    net.seconds(1000);
    assert!(passes(&net.public(&format!("{BACK} flags=ack seq=501 ack=101 data=x"))));
}
