//! A router with a thousand networks, ten thousand public addresses and a hundred thousand rules:
//! that it starts and that traffic passes, on AF_XDP. How long it takes is not asked here; that says
//! `scripts/scale.py start`. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::router::{CONFIG, LONG, Router, installed, output};
use common::tagged::{GATEWAY, TaggedGuest};
use common::{Namespace, cable, eventually};

const NETWORKS: u16 = 1000;

/// The first public address of the network with this tag: what its guests leave with.
fn source_nat(vlan: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([100, 64, 1, 0]) + 10 * u32::from(vlan - 1))
}

#[test]
fn a_thousand_networks_start_and_each_leaves_by_its_own_address() {
    if !installed(&["ethtool", "python3", "tcpdump"]) {
        return;
    }
    let Some(router) = Router::new(&format!("manage_addresses = true\n{CONFIG}")) else { return };
    let (Some(guest), Some(internet)) = (Namespace::new("guest"), Namespace::new("internet"))
    else {
        return;
    };
    cable((&router.namespace, "eth0"), (&guest, "g0"));
    cable((&router.namespace, "eth2"), (&internet, "i0"));
    for (namespace, device) in [(&router.namespace, "eth0"), (&guest, "g0")] {
        namespace.run(&format!("ethtool -K {device} rxvlan off txvlan off"));
    }
    internet.run("ip address add 100.64.0.1/12 dev i0");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/scale.py");
    let mut generator = std::process::Command::new("python3");
    router.write("rules.json", &output(generator.args([script, "rules", &NETWORKS.to_string()])));
    let _engine = router.start();

    let outside = Ipv4Addr::new(100, 64, 0, 1);
    let _seen = router.background(&internet, "tcpdump -nli i0 icmp[icmptype] == icmp-echo");
    for vlan in [1, 2, NETWORKS / 2, NETWORKS] {
        let guest = TaggedGuest::new(&guest, vlan, 5);
        let gateway = guest.gateway().unwrap_or_else(|| panic!("no answer\n{}", router.log()));
        let passes = eventually(LONG, || guest.pings(gateway, outside));
        assert!(passes, "network {vlan}\n{}", router.log());
        assert!(guest.pings(gateway, GATEWAY), "network {vlan}\n{}", router.log());
        let from = format!("{} > {outside}: ICMP echo request", source_nat(vlan));
        // Whoever watches may not have been there for the first one.
        let is_seen = || {
            guest.pings(gateway, outside);
            std::fs::read_to_string(router.path("programs")).is_ok_and(|seen| seen.contains(&from))
        };
        assert!(eventually(LONG, is_seen), "{from}");
    }
    let networks = router.says("show networks --json");
    assert_eq!(networks.matches("\"cidr\"").count(), usize::from(NETWORKS));
    let count = || router.namespace.run("ip -4 -o address show dev eth2").lines().count();
    assert!(eventually(Duration::from_secs(120), || count() == 10 * usize::from(NETWORKS)));
}
