//! Real clients through the running engine: what a STUN client says of the NAT, transfers across
//! links of unequal MTU, SIP calls with `rport`, tunnels of WireGuard and IPsec. Needs root, and each client to be installed.
#![cfg(feature = "af-xdp")]

mod common;

use common::router::{CONFIG, LONG, Router, Running, installed};
use common::{Namespace, eventually};

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                  "source_nat": ["203.0.113.10"], "nat": {"filtering_type": "FILTERING"}}]
}"#;

/// A guest, the router, and the internet with two servers' addresses.
struct Lab {
    router: Router,
    guest: Namespace,
    internet: Namespace,
}

impl Lab {
    /// A lab whose engine runs, if this test can run here and `client` is installed.
    fn start(client: &str, filtering: &str) -> Option<(Self, Running)> {
        if !installed(&[client]) {
            return None;
        }
        let router = Router::new(&format!("manage_addresses = true\n{CONFIG}"))?;
        let (guest, internet) = router.between()?;
        for server in ["198.51.100.9", "198.51.100.10"] {
            internet.run(&format!("ip address add {server}/32 dev lo"));
        }
        router.write("rules.json", &RULES.replace("FILTERING", filtering));
        let engine = router.start();
        Some((Self { router, guest, internet }, engine))
    }

    /// Whether a command in `namespace` succeeds, and what it said.
    fn done(&self, namespace: &Namespace, command: &str) -> (bool, String) {
        let output = self.router.command(namespace, command).output().expect(command);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Tries a command in the guest until it succeeds; returns what it said.
    fn guest_does(&self, command: &str) -> String {
        let mut said = String::new();
        let works = eventually(LONG, || {
            let (done, output) = self.done(&self.guest, command);
            said = output;
            done
        });
        assert!(works, "{command}: {said}");
        said
    }
}

/// What coturn's client finds out about a NAT that filters so (RFC 5780).
fn discovered(filtering: &str) -> Option<String> {
    let (lab, _engine) = Lab::start("turnutils_natdiscovery", filtering)?;
    let server = "turnserver -n --no-auth --no-cli --no-tls --no-dtls \
                  -L 198.51.100.9 -L 198.51.100.10 --log-file stdout --pidfile turn.pid \
                  --userdb turn.db";
    let _server = lab.router.background(&lab.internet, server);
    let mut said = String::new();
    eventually(LONG, || {
        said = lab.done(&lab.guest, "timeout 30 turnutils_natdiscovery -m -f 198.51.100.9").1;
        said.contains("Mapping!") && said.contains("Filtering!")
    });
    Some(said)
}

#[test]
fn rfc5780_a_stun_client_finds_the_nat_that_is_configured() {
    for (filtering, words) in [
        ("address-and-port-dependent", "Address and Port Dependent Filtering!"),
        ("address-dependent", "Address Dependent Filtering!"),
        ("endpoint-independent", "Endpoint Independent Filtering!"),
    ] {
        let Some(said) = discovered(filtering) else { return };
        assert!(said.contains("Endpoint Independent Mapping!"), "{filtering}: {said}");
        assert!(said.contains(&format!("NAT with {words}")), "{filtering}: {said}");
    }
}

#[test]
fn iperf3_fills_links_of_unequal_mtu_by_path_mtu_discovery() {
    let Some((lab, _engine)) = Lab::start("iperf3", "address-and-port-dependent") else { return };
    lab.router.namespace.run("ip link set eth2 mtu 1300");
    // The far end does not know: its segments and its MSS are for 1,500 bytes.
    let _server = lab.router.background(&lab.internet, "iperf3 -s -B 198.51.100.9");
    let said = lab.guest_does("timeout 20 iperf3 -c 198.51.100.9 -n 4M --json");
    assert!(said.contains("\"sum_received\""), "{said}");
    let route = lab.guest.run("ip route get 198.51.100.9");
    assert!(route.contains("mtu 1300"), "the guest was told: {route}");
    // Datagrams larger than the link leave in fragments and arrive whole.
    let said = lab.guest_does("timeout 20 iperf3 -u -c 198.51.100.9 -n 200K -l 4000 --json");
    assert!(said.contains("\"sum\""), "{said}");
}

/// Some forty fragments each.
#[test]
fn datagrams_of_60_kb_and_pings_in_fragments_pass_both_ways() {
    let Some((lab, _engine)) = Lab::start("iperf3", "address-and-port-dependent") else { return };
    // The reply comes back in as many pieces.
    for size in [2000, 8000, 60_000] {
        lab.guest_does(&format!("ping -c1 -W2 -s {size} 198.51.100.9"));
    }
    let _server = lab.router.background(&lab.internet, "iperf3 -s -B 198.51.100.9");
    for direction in ["", "-R"] {
        let send = format!(
            "timeout 20 iperf3 -u -c 198.51.100.9 -b 5M -n 600K -l 60000 {direction} --json"
        );
        let all_came = || {
            let said: String = lab.done(&lab.guest, &send).1.split_whitespace().collect();
            let (_, sum) = said.rsplit_once("\"sum_received\":").unwrap_or_default();
            // Eleven were sent; the last may still be on its way when iperf3 asks.
            let enough = ["\"packets\":10,", "\"packets\":11,"].iter().any(|it| sum.contains(it));
            enough && sum.contains("\"lost_packets\":0,")
        };
        assert!(eventually(LONG, all_came), "{direction}: {}", lab.done(&lab.guest, &send).1);
    }
}

#[test]
fn sip_calls_with_rport_pass_without_a_gateway() {
    let Some((lab, _engine)) = Lab::start("sipp", "address-and-port-dependent") else { return };
    let _server = lab.router.background(&lab.internet, "sipp -sn uas -i 198.51.100.9 -nostdin");
    // sipp's own caller, with `rport` (RFC 3581) in every Via.
    let (_, scenario) = lab.done(&lab.guest, "sipp -sd uac");
    let start = scenario.find("<?xml").expect("a scenario");
    let scenario = scenario[start..].replace(";branch=[branch]", ";rport;branch=[branch]");
    assert!(scenario.contains(";rport;"), "{scenario}");
    lab.router.write("caller.xml", &scenario);
    let caller = "timeout 30 sipp -sf caller.xml 198.51.100.9 -i 10.1.1.5 -m 20 -r 20 -d 100 \
                  -nostdin -timeout 15";
    let said = lab.guest_does(caller);
    assert!(said.contains("Successful call"), "{said}");
}

/// Makes a WireGuard interface in `namespace` with `address`, and returns its public key.
fn tunnel_end(lab: &Lab, namespace: &Namespace, name: &str, address: &str) -> (Running, String) {
    let end = lab.router.background(namespace, &format!("wireguard-go -f {name}"));
    assert!(eventually(LONG, || lab.done(namespace, &format!("wg show {name}")).0), "no {name}");
    let private = namespace.run("wg genkey");
    let file = lab.router.write(&format!("{name}.key"), &private);
    namespace.run(&format!("wg set {name} private-key {}", file.display()));
    namespace.run(&format!("ip address add {address} dev {name}"));
    namespace.run(&format!("ip link set {name} mtu 1420 up"));
    let key = namespace.run(&format!("wg show {name} public-key")).trim().to_owned();
    (end, key)
}

#[test]
fn a_wireguard_tunnel_passes_and_survives_a_restart() {
    let filtering = "address-and-port-dependent";
    let Some((lab, engine)) = Lab::start("wireguard-go", filtering) else { return };
    // Their control sockets are in one folder, whatever the namespace.
    let [near, far] = ["a", "b"].map(|end| format!("nw{end}{}", std::process::id()));
    let (_near, near_key) = tunnel_end(&lab, &lab.guest, &near, "10.99.0.1/24");
    let (_far, far_key) = tunnel_end(&lab, &lab.internet, &far, "10.99.0.2/24");
    let peer = format!("peer {near_key} allowed-ips 10.99.0.1/32");
    lab.internet.run(&format!("wg set {far} listen-port 51820 {peer}"));
    let peer = format!("peer {far_key} allowed-ips 10.99.0.2/32 endpoint 198.51.100.9:51820");
    lab.guest.run(&format!("wg set {near} {peer}"));
    lab.guest_does("ping -c1 -W1 10.99.0.2");
    let endpoint = || lab.internet.run(&format!("wg show {far} endpoints"));
    let before = endpoint();
    assert!(before.contains("203.0.113.10:"), "the far end sees the public address: {before}");
    // Full packets, both ways, through the tunnel.
    let _server = lab.router.background(&lab.internet, "iperf3 -s -B 10.99.0.2");
    for direction in ["", "-R"] {
        lab.guest_does(&format!("timeout 20 iperf3 -c 10.99.0.2 -n 2M {direction} --json"));
    }
    // Killed and started anew: the far end speaks first, and its packets find the session.
    engine.end("-KILL");
    let _engine = lab.router.start();
    assert!(eventually(LONG, || lab.internet.succeeds("ping -c1 -W1 10.99.0.1")));
    assert_eq!(endpoint(), before, "the same mapping as before");
}

const CHARON: &str = r#"charon {
  load = random nonce aes sha1 sha2 hmac kdf gmp kernel-libipsec kernel-netlink socket-default vici
  plugins { vici { socket = unix://FOLDER/SIDE.vici } }
}"#;

const CONNECTION: &str = r#"connections { tunnel {
  remote_addrs = PEER
  proposals = aes128-sha256-modp2048
  local { auth = psk
    id = SIDE }
  remote { auth = psk }
  children { net { local_ts = LOCAL
    remote_ts = REMOTE
    esp_proposals = aes128-sha256 } }
} }
secrets { ike { secret = "of this test" } }"#;

/// Starts an IKE daemon in `namespace` that does ESP by itself, through a TUN device, and has
/// `local` for the tunnel to `remote`.
fn ike_end(lab: &Lab, namespace: &Namespace, side: &str, ends: [&str; 2], peer: &str) -> Running {
    let [local, remote] = ends;
    namespace.run(&format!("ip address add {local} dev lo"));
    let settings = lab.router.write(&format!("{side}.conf"), &CHARON.replace("SIDE", side));
    let connection = CONNECTION.replace("LOCAL", local).replace("REMOTE", remote);
    let connection = connection.replace("SIDE", side).replace("PEER", peer);
    let connection = lab.router.write(&format!("{side}.swanctl"), &connection);
    // Two of them on one machine must not see each other's files in /run.
    let start = format!(
        "mount -t tmpfs none /run\nexport STRONGSWAN_CONF={}\nexec /usr/lib/ipsec/charon\n",
        settings.display()
    );
    let start = lab.router.write(&format!("{side}.sh"), &start);
    let daemon = lab.router.background(namespace, &format!("sh {}", start.display()));
    let load = format!("--load-all --file {}", connection.display());
    assert!(eventually(LONG, || lab.done(namespace, &swanctl(lab, side, &load)).0), "{side}");
    daemon
}

fn swanctl(lab: &Lab, side: &str, what: &str) -> String {
    let socket = lab.router.path(&format!("{side}.vici"));
    format!("timeout 20 swanctl {what} --uri unix://{}", socket.display())
}

#[test]
fn an_ike_and_esp_tunnel_passes_over_udp_4500() {
    let filtering = "address-and-port-dependent";
    let Some((lab, _engine)) = Lab::start("swanctl", filtering) else { return };
    let (near, far) = ("10.98.0.1/32", "10.98.0.2/32");
    let _far = ike_end(&lab, &lab.internet, "far", [far, near], "%any");
    let _near = ike_end(&lab, &lab.guest, "near", [near, far], "198.51.100.9");
    lab.guest_does(&swanctl(&lab, "near", "--initiate --child net"));
    let (_, said) = lab.done(&lab.internet, &swanctl(&lab, "far", "--list-sas"));
    // The daemons found out themselves that there is a NAT between them.
    assert!(said.contains("203.0.113.10[") && said.contains("TUNNEL-in-UDP"), "{said}");
    lab.guest_does("ping -c1 -W1 -I 10.98.0.1 10.98.0.2");
    assert!(eventually(LONG, || lab.internet.succeeds("ping -c1 -W1 -I 10.98.0.2 10.98.0.1")));
    let _server = lab.router.background(&lab.internet, "iperf3 -s -B 10.98.0.2");
    for direction in ["", "-R"] {
        let send = "timeout 20 iperf3 -c 10.98.0.2 -B 10.98.0.1 -n 1M";
        lab.guest_does(&format!("{send} {direction} --json"));
    }
}
