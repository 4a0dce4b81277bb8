//! RFC 7857: updates to NAT behaviour; RFC 6864: identifications.

use natwerk::testing::packets::{Packet, wrong_checksums};

use crate::{Net, at};

/// Shows R-011 R-014.
#[test]
fn rfc7857_4_and_5_protocols_share_the_address_and_not_the_mappings() {
    let mut net = Net::new();
    let udp = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:443");
    let tcp = net.guest("tcp 10.1.1.5:4000 > 198.51.100.9:443");
    let echo = net.guest("icmp 10.1.1.5 > 198.51.100.9 echo-request ident=4000");
    assert_eq!(udp, "public: udp 203.0.113.10:4000 > 198.51.100.9:443");
    assert_eq!(tcp, "public: tcp 203.0.113.10:4000 > 198.51.100.9:443 flags=syn");
    assert_eq!(echo, "public: icmp 203.0.113.10 > 198.51.100.9 echo-request ident=4000");
    assert_eq!(net.sessions(), 3);
}

/// Shows R-098.
#[test]
fn rfc7857_11_two_guests_with_one_identification_do_not_mix() {
    let mut net = Net::new();
    let identification = |told: &str| {
        let rest = told.split_once(" id=").expect(told).1;
        rest.split(' ').next().expect("a number").to_owned()
    };
    let first = |net: &mut Net, guest: u8| {
        net.guest(&format!(
            "udp 10.1.1.{guest}:4000 > 198.51.100.9:53 len=92 id=500 nodf part=0-40"
        ))
    };
    let (one, other) = (first(&mut net, 5), first(&mut net, 8));
    assert_ne!(identification(&one), identification(&other));
    let later = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id=500 nodf part=40-100");
    assert_eq!(identification(&later), identification(&one));
}

/// A packet that natwerk itself cuts is one of fragments from then on.
///
/// Shows R-016 R-098.
#[test]
fn rfc6864_5_3_1_what_is_cut_here_of_two_guests_does_not_mix() {
    let mut net = Net::new();
    let mut identification = |guest: u8, port: u16| {
        let told = net
            .guest(&format!("udp 10.1.1.{guest}:{port} > 203.0.113.22:9000 len=1300 nodf id=77"));
        let pieces: Vec<&str> = told.split(" + ").collect();
        assert_eq!(pieces.len(), 3, "{told}");
        let of = |piece: &str| {
            let rest = piece.split_once(" id=").expect(piece).1;
            rest.split(' ').next().expect("a number").to_owned()
        };
        let first = of(pieces[0]);
        assert!(pieces.iter().all(|piece| of(piece) == first), "{told}");
        first
    };
    let (one, other) = (identification(5, 4000), identification(8, 4000));
    assert_ne!(one, other, "both are from 203.0.113.10 to one guest");
    assert_ne!(identification(5, 4000), one, "the next datagram");
}

/// Shows R-016.
#[test]
fn rfc1812_5_3_2_type_of_service_and_df_survive() {
    let mut net = Net::new();
    for tos in [184, 186, 3, 1] {
        let out = net.guest(&format!("udp 10.1.1.5:4000 > 198.51.100.9:53 tos={tos}"));
        assert!(out.contains(&format!("tos={tos}")) && !out.contains("nodf"), "{out}");
    }
}

/// Shows R-069.
#[test]
fn rfc3022_4_1_a_zero_checksum_stays_zero() {
    let mut net = Net::new();
    let out = net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53 data=x sum=zero");
    assert_eq!(out, "public: udp 203.0.113.10:4000 > 198.51.100.9:53 sum=zero data=x");
}

/// The second datagram's data are steered so that its checksum comes out as zero.
///
/// Shows R-017 R-070.
#[test]
fn rfc768_a_computed_zero_is_sent_as_ones() {
    let mut net = Net::new();
    let ends = (at("10.1.1.5:4000"), at("198.51.100.9:53"));
    let first = net.sent(&Packet::udp(ends.0, ends.1, &[0, 0]));
    let steered = net.sent(&Packet::udp(ends.0, ends.1, &first[40..42]));
    assert_eq!(steered[40..42], [0xff, 0xff]);
    assert!(wrong_checksums(&steered[14..]).is_empty());
}

/// Shows R-072.
#[test]
fn rfc3022_4_2_a_wrong_checksum_is_never_repaired() {
    let mut net = Net::new();
    let mut packet = Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), b"hello");
    packet.transport[6] ^= 0x11;
    packet.transport[7] ^= 0x05;
    assert_eq!(wrong_checksums(&net.sent(&packet)[14..]), ["transport"]);
}

/// Shows R-093.
#[test]
fn rfc4787_req_14a_a_flood_of_fragments_hurts_nobody_else() {
    let mut net = Net::new();
    for id in 1..3000 {
        net.guest(&format!("udp 10.1.1.8:4000 > 198.51.100.9:53 len=92 id={id} nodf part=40-80"));
    }
    assert!(net.guest("udp 10.1.1.5:4000 > 198.51.100.9:53").starts_with("public: udp"));
    let line = "udp 10.1.1.5:4000 > 198.51.100.9:53 len=92 id=500 nodf part=";
    assert_eq!(net.guest(&format!("{line}40-100")), "hold");
    let both = net.guest(&format!("{line}0-40"));
    assert_eq!(both.matches("public: udp").count(), 2, "{both}");
    net.seconds(3);
    assert_eq!(net.lab.frames_in_hand(), 0);
}
