//! The fuzz body of frames under two tags and inside VXLAN.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::flow::Endpoint;
use crate::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use crate::testing::packets::Packet;
use crate::wire::{parse, tags, vxlan};

/// Whatever is inside VXLAN or behind two tags, and whatever is around it: every frame that leaves is
/// whole, has on the wire what its network has, and no frame is lost. The first byte of each step says
/// what is around the bytes that follow, the second how many they are.
pub fn capsule(data: &[u8]) {
    let mut lab = Lab::new(RULES);
    let mut rest = data;
    while let [kind, length, more @ ..] = rest {
        let (inside, behind) = more.split_at(usize::from(*length).min(more.len()));
        rest = behind;
        let outcome = match kind % 4 {
            0 => lab.send(GUEST, inside.to_vec()),
            1 => lab.send_raw(GUEST, &within(inside, kind / 4)),
            2 => lab.send(GUEST, twice(inside)),
            _ => lab.send(PUBLIC, inside.to_vec()),
        };
        judge(&outcome);
        assert!(outcome.host.iter().all(|(port, _)| !port.is_encapsulated()));
    }
    judge(&lab.pass(Duration::from_secs(60)));
    assert_eq!(lab.frames_in_hand(), 0, "a frame is lost");
}

/// A sound outer packet, but for a bit of its VXLAN header if `flip` says so.
fn within(inside: &[u8], flip: u8) -> Vec<u8> {
    let vni = if flip & 1 == 0 { 5001 } else { 5002 };
    let mut inner = inside.to_vec();
    if let Some(addresses) = inner.get_mut(..6) {
        addresses.copy_from_slice(&Lab::router_mac(GUEST).0);
    }
    let mut data = vxlan::payload(vni, &inner);
    if flip & 2 != 0 {
        data[usize::from(flip >> 3)] ^= 1 << (flip >> 2 & 7);
    }
    let mut frame =
        Packet::udp(Endpoint::new(REMOTE, 50_000), Endpoint::new(LOCAL, vxlan::PORT), &data)
            .frame();
    frame[..6].copy_from_slice(&Lab::router_mac(GUEST).0);
    frame
}

fn twice(inside: &[u8]) -> Vec<u8> {
    let (addresses, packet) = inside.split_at(inside.len().min(12));
    [addresses, &[0x88, 0xa8, 0, 200, 0x81, 0, 0, 100], packet].concat()
}

fn judge(outcome: &Outcome) {
    for (port, frame) in &outcome.sent {
        if *port == PUBLIC {
            parse::parse(frame).expect("a sound packet");
            continue;
        }
        assert_eq!(*port, GUEST, "every side is closed");
        let Some(tags) = tags::double_tag(frame) else {
            let opened = vxlan::open(frame).expect("VXLAN");
            assert_eq!((opened.local, opened.vni), (REMOTE, 5001));
            continue;
        };
        assert_eq!((tags.outer, tags.inner), (200, 100));
    }
}

const LOCAL: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);

const RULES: &str = r#"{"version": 1,
  "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1",
                  "ingress_default": "allow"}],
  "networks": [
    {"name": "twice", "interface": "eth0", "vlan": 100, "outer_tag": {"vlan": 200}, "cidr": "10.1.1.0/24",
     "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"]},
    {"name": "inside", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
     "source_nat": ["203.0.113.10"],
     "vxlan": {"vni": 5001, "local": "172.31.0.1", "prefix_len": 24, "learning": false, "remotes": ["172.31.0.2"]}}]}"#;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of a guest of both networks.
    fn packet() -> impl Strategy<Value = Vec<u8>> {
        (0u8..20, any::<[u8; 4]>(), 1u16..9, 0usize..60).prop_map(|(last, to, port, length)| {
            let to = if to[0] % 2 == 0 { [10, 1, 1, to[3] % 9] } else { [198, 51, 100, to[3] % 9] };
            let source = Endpoint::new([10, 1, 1, last].into(), port);
            Packet::udp(source, Endpoint::new(to.into(), 53), &vec![7; length]).frame()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_keep_every_promise(data in prop::collection::vec(any::<u8>(), 0..400)) {
            capsule(&data);
        }

        #[test]
        fn sound_packets_with_changed_bytes_keep_every_promise(
            steps in prop::collection::vec((any::<u8>(), packet(), 0usize..100, any::<u8>()), 1..8),
        ) {
            let mut data = Vec::new();
            for (kind, mut inside, at, value) in steps {
                if let Some(byte) = inside.get_mut(at) { *byte = value; }
                data.extend([kind, u8::try_from(inside.len()).unwrap()]);
                data.extend(inside);
            }
            capsule(&data);
        }
    }
}
