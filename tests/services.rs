//! The router's own services beside the running engine: real programs in namespaces. Needs root;
//! says so and passes when it is not, or when a program is missing.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use common::router::{CONFIG, LONG, Router, Running, installed};
use common::tagged::{GATEWAY, TaggedGuest};
use common::{Namespace, cable, eventually};
use natwerk::flow::Endpoint;
use natwerk::wire::arp::ArpOperation;
use natwerk::wire::parse::parse;

fn pings(namespace: &Namespace, address: &str) -> bool {
    namespace.succeeds(&format!("ping -c1 -W1 {address}"))
}

fn connects(namespace: &Namespace, address: &str, port: u16) -> bool {
    namespace.succeeds(&format!("nc -z -w1 {address} {port}"))
}

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "echo_reply": true}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24",
                  "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"],
                  "egress_default": "allow"}],
    "local_services": [
        {"address": "203.0.113.10", "protocol": "tcp", "ports": "22"},
        {"address": "203.0.113.10", "protocol": "tcp", "ports": "80"},
        {"address": "203.0.113.10", "protocol": "tcp", "ports": "2222",
         "sources": ["203.0.113.128/25"]}]
}"#;

const HAPROXY: &str = "
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend public
    bind 203.0.113.10:80
    default_backend guests
backend guests
    server guest 10.1.1.50:8080
";

/// A real sshd on every address of the router.
fn sshd(router: &Router) -> Running {
    fs::create_dir_all("/run/sshd").expect("where sshd drops its privileges");
    let key = router.path("host_key");
    let mut making = Command::new("ssh-keygen");
    making.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    assert!(making.status().expect("ssh-keygen").success());
    router.write("sshd_config", "Port 22\nPidFile none\n");
    let command = format!("/usr/sbin/sshd -D -e -f sshd_config -h {}", key.display());
    router.background(&router.namespace, &command)
}

/// What udhcpc calls with what it was given.
const LEASED: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip address add \"$ip/$mask\" dev \"$interface\"
ip route add default via \"$router\"
echo \"$dns\" >FOLDER/dns
";

/// A router with kernel addresses, a guest without any, and an internet.
fn lab() -> Option<(Router, Namespace, Namespace)> {
    let router = Router::new(CONFIG)?;
    let (guest, internet) = (Namespace::new("guest")?, Namespace::new("internet")?);
    cable((&router.namespace, "eth0"), (&guest, "g0"));
    cable((&router.namespace, "eth2"), (&internet, "i0"));
    router.namespace.run("ip address add 10.1.1.1/24 dev eth0");
    router.namespace.run("ip address add 203.0.113.10/24 dev eth2");
    internet.run("ip address add 203.0.113.1/24 dev i0");
    router.write("rules.json", RULES);
    Some((router, guest, internet))
}

#[test]
fn the_routers_services_are_served_beside_the_dataplane() {
    let programs = ["dnsmasq", "udhcpc", "dig", "haproxy", "curl", "nc", "python3"];
    if !installed(&programs) || !installed(&["sshd", "ssh-keygen", "ssh-keyscan"]) {
        return;
    }
    let Some((router, guest, internet)) = lab() else { return };
    let _engine = router.start();
    let _dnsmasq = router.background(
        &router.namespace,
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-resolv --no-hosts \
          --interface=eth0 --bind-interfaces --dhcp-range=10.1.1.50,10.1.1.50,1h --pid-file= \
          --dhcp-leasefile=leases --address=/service.test/203.0.113.1",
    );

    let script = router.write("leased", LEASED);
    assert!(Command::new("chmod").arg("+x").arg(&script).status().expect("chmod").success());
    let ask = format!("udhcpc -i g0 -n -q -t 3 -T 1 -s {}", script.display());
    assert!(eventually(LONG, || guest.succeeds(&ask)), "{}", router.log());
    assert!(guest.run("ip address show dev g0").contains("10.1.1.50/24"));
    let answer = guest.run("dig +short +tries=3 +time=2 @10.1.1.1 service.test");
    assert_eq!(answer.trim(), "203.0.113.1");

    assert!(eventually(LONG, || pings(&guest, "10.1.1.1")), "{}", router.log());
    assert!(eventually(LONG, || pings(&guest, "203.0.113.1")), "{}", router.log());
    assert!(pings(&guest, "203.0.113.10"), "by hairpinning");
    assert!(pings(&internet, "203.0.113.10"));
    assert!(pings(&router.namespace, "203.0.113.1") && pings(&router.namespace, "10.1.1.50"));

    // What listens on the router is reached where the rules say so, and nowhere else.
    let _sshd = sshd(&router);
    for (from, address) in [(&internet, "203.0.113.10"), (&guest, "10.1.1.1")] {
        let mut scan = from.command(&format!("ssh-keyscan -t ed25519 -T 3 {address}"));
        let mut answer = || String::from_utf8(scan.output().expect("run").stdout).expect("text");
        assert!(eventually(LONG, || answer().contains("ssh-ed25519")), "{}", router.log());
    }
    let listeners: Vec<_> = [2222, 8022]
        .map(|port| {
            router.namespace.enter(|| TcpListener::bind(("0.0.0.0", port)).expect("a listener"))
        })
        .into();
    assert!(!connects(&internet, "203.0.113.10", 8022));
    assert!(!connects(&internet, "203.0.113.10", 2222), "not for this source");
    internet.run("ip address add 203.0.113.200/32 dev i0");
    internet.run("ip route replace 203.0.113.10 dev i0 src 203.0.113.200");
    assert!(eventually(LONG, || connects(&internet, "203.0.113.10", 2222)), "{}", router.log());
    internet.run("ip route delete 203.0.113.10");
    // The kernel has addresses elsewhere, too; guests' frames for them are not the kernel's.
    router.namespace.run("ip address add 10.9.0.2/32 dev lo");
    assert!(connects(&router.namespace, "10.9.0.2", 22));
    assert!(!connects(&guest, "10.9.0.2", 22) && !connects(&guest, "10.9.0.2", 8022));
    drop(listeners);

    // Metadata, where clouds have it: an address of the router's on the guests' interface.
    router.namespace.run("ip address add 169.254.169.254/32 dev eth0");
    let serve = "python3 -m http.server 80 --bind 169.254.169.254";
    let _metadata = router.background(&router.namespace, serve);
    let fetch = "curl -sf -m3 -o /dev/null http://169.254.169.254/rules.json";
    assert!(eventually(LONG, || guest.succeeds(fetch)), "{}", router.log());

    let serve = "python3 -m http.server 8080";
    let _guest_server = router.background(&guest, serve);
    let _internet_server = router.background(&internet, serve);
    let fetch = "curl -sf -m3 -o /dev/null http://203.0.113.1:8080/rules.json";
    assert!(eventually(LONG, || router.namespace.succeeds(fetch)), "{}", router.log());
    assert!(eventually(LONG, || guest.succeeds(fetch)), "{}", router.log());
    router.write("haproxy.cfg", HAPROXY);
    let _haproxy = router.background(&router.namespace, "haproxy -db -f haproxy.cfg");
    let fetch = "curl -sf -m3 -o /dev/null http://203.0.113.10/rules.json";
    assert!(eventually(LONG, || internet.succeeds(fetch)), "{}", router.log());
}

const TAGGED: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "ingress_default": "allow"}],
    "networks": [
        {"name": "one", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"},
        {"name": "two", "interface": "eth0", "vlan": 200, "cidr": "10.1.1.0/24",
         "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"}],
    "port_forwards": [{"id": "p", "public_ip": "203.0.113.10", "protocol": "tcp",
        "public_ports": "8080", "network": "two", "guest_ip": "10.1.1.6", "guest_ports": "8080"}]
}"#;

#[test]
fn natwerk_answers_and_asks_itself_where_the_kernel_has_no_interface() {
    if !installed(&["ethtool", "nc"]) {
        return;
    }
    let Some((router, guest, internet)) = lab() else { return };
    router.write("rules.json", TAGGED);
    let _engine = router.start();
    // Until the driver leaves tags in frames, nothing works; what to do is said.
    let advice = "ethtool -K eth0 rxvlan off";
    assert!(router.log().contains(advice), "{}", router.log());
    let doctor = router.natwerk("doctor").output().expect("run");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains(advice), "{doctor:?}");
    for (namespace, device) in [(&router.namespace, "eth0"), (&guest, "g0")] {
        namespace.run(&format!("ethtool -K {device} rxvlan off txvlan off"));
    }
    // Two tenants with the same address.
    let guests = [100, 200].map(|vlan| TaggedGuest::new(&guest, vlan, 5));
    for guest in &guests {
        let gateway = guest.gateway().unwrap_or_else(|| panic!("no answer\n{}", router.log()));
        assert!(guest.pings(gateway, GATEWAY), "{}", router.log());
        let outside = Ipv4Addr::new(203, 0, 113, 1);
        assert!(eventually(LONG, || guest.pings(gateway, outside)), "{}", router.log());
    }

    // Nobody has heard of this guest yet: natwerk has to ask for it.
    let silent = TaggedGuest::new(&guest, 200, 6);
    let _client = router.background(&internet, "nc -w3 203.0.113.10 8080");
    let asked = silent.hears(|frame| {
        let arp = natwerk::wire::arp::parse(frame)?;
        let wanted = arp.operation == ArpOperation::Request && arp.target == silent.address();
        (wanted && arp.sender == GATEWAY).then_some(arp.sender_mac)
    });
    let gateway = asked.unwrap_or_else(|| panic!("not asked for\n{}", router.log()));
    silent.say(ArpOperation::Reply, GATEWAY, gateway);
    let arrived = silent.hears(|frame| {
        let packet = parse(frame).ok()?;
        (packet.destination == Endpoint::new(silent.address(), 8080)).then_some(())
    });
    assert!(arrived.is_some(), "{}", router.log());
}

const VRRP: &str = "
global_defs {
    vrrp_garp_master_delay 1
    script_user root
}
vrrp_sync_group both {
    group {
        inside
        outside
    }
}
vrrp_instance inside {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority PRIORITY
    advert_int 0.2
    version 3
    virtual_ipaddress {
        10.1.1.1/24 dev eth0
    }
}
vrrp_instance outside {
    state BACKUP
    interface eth2
    virtual_router_id 52
    priority PRIORITY
    advert_int 0.2
    version 3
    virtual_ipaddress {
        203.0.113.10/24 dev eth2
    }
}
";

#[test]
fn two_routers_hand_their_addresses_over_by_vrrp() {
    if !installed(&["keepalived"]) {
        return;
    }
    let Some(switch) = Namespace::new("switch") else { return };
    let [guest, internet] = ["guest", "internet"].map(Namespace::new);
    let (Some(guest), Some(internet)) = (guest, internet) else { return };
    for bridge in ["inside", "outside"] {
        switch.run(&format!("ip link add {bridge} type bridge"));
        switch.run(&format!("ip link set {bridge} up"));
    }
    let plug = |namespace: &Namespace, name: &str, port: &str, bridge: &str| {
        cable((namespace, name), (&switch, port));
        switch.run(&format!("ip link set {port} master {bridge}"));
    };
    plug(&guest, "g0", "guest", "inside");
    plug(&internet, "i0", "internet", "outside");
    guest.run("ip address add 10.1.1.5/24 dev g0");
    guest.run("ip route add default via 10.1.1.1");
    internet.run("ip address add 203.0.113.1/24 dev i0");
    let mut routers = Vec::new();
    for (number, priority) in [(2, 150), (3, 100)] {
        let Some(router) = Router::new(CONFIG) else { return };
        plug(&router.namespace, "eth0", &format!("inside{number}"), "inside");
        plug(&router.namespace, "eth2", &format!("outside{number}"), "outside");
        router.namespace.run(&format!("ip address add 10.1.1.{number}/24 dev eth0"));
        router.namespace.run(&format!("ip address add 203.0.113.{number}/24 dev eth2"));
        router.write("rules.json", RULES);
        let engine = router.start();
        router.write("vrrp", &VRRP.replace("PRIORITY", &priority.to_string()));
        let keepalived = "keepalived --dont-fork --log-console -f FOLDER/vrrp -p FOLDER/pid \
                          -r FOLDER/vrrp.pid -c FOLDER/check.pid";
        let folder = router.path("");
        let keepalived = keepalived.replace("FOLDER", folder.to_str().expect("a name"));
        let keepalived = router.background(&router.namespace, &keepalived);
        routers.push((router, engine, keepalived));
    }
    let has_addresses = |router: &Router| {
        let shown = router.namespace.run("ip -4 address");
        (shown.contains("10.1.1.1/24"), shown.contains("203.0.113.10/24"))
    };
    let (backup, first) = (routers.pop().expect("two"), routers.pop().expect("two"));
    let log = || fs::read_to_string(first.0.path("programs")).unwrap_or_default();
    assert!(eventually(LONG, || has_addresses(&first.0) == (true, true)), "{}", log());
    assert!(eventually(LONG, || has_addresses(&backup.0) == (false, false)), "{}", log());
    assert!(eventually(LONG, || pings(&guest, "203.0.113.1")), "{}", first.0.log());

    // The first router dies with everything on it.
    drop(first);
    assert!(eventually(LONG, || has_addresses(&backup.0) == (true, true)));
    assert!(eventually(LONG, || pings(&guest, "203.0.113.1")), "{}", backup.0.log());
    assert!(pings(&guest, "10.1.1.1"));
}
