//! Real clients through the running engine: what a STUN client says of the NAT, transfers across
//! links of unequal MTU, SIP calls with `rport`. Needs root, and each client to be installed.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Namespace, cable, eventually};

const CONFIG: &str = r#"
rules = ["FOLDER/rules.json"]
state_dir = "FOLDER/state"
control_socket = "FOLDER/control.sock"
manage_addresses = true
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
[workers]
frames = 4096
[sessions]
max = 4096
max_ipv6 = 64
"#;

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                  "source_nat": ["203.0.113.10"], "nat": {"filtering_type": "FILTERING"}}]
}"#;

const LONG: Duration = Duration::from_secs(20);

/// A guest, the router, and the internet with two servers' addresses.
struct Lab {
    router: Namespace,
    guest: Namespace,
    internet: Namespace,
    folder: tempfile::TempDir,
}

impl Lab {
    /// A lab whose engine runs, if this test can run here and `client` is installed.
    fn start(client: &str, filtering: &str) -> Option<(Self, Running)> {
        if Command::new(client).stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("skipped: {client} is not installed");
            return None;
        }
        let [router, guest, internet] = ["rc", "gc", "ic"].map(Namespace::new);
        let (router, guest, internet) = (router?, guest?, internet?);
        cable((&router, "eth0"), (&guest, "g0"));
        cable((&router, "eth2"), (&internet, "i0"));
        for (namespace, command) in [
            (&guest, "ip address add 10.1.1.5/24 dev g0"),
            (&guest, "ip route add default via 10.1.1.1"),
            (&internet, "ip address add 203.0.113.1/24 dev i0"),
            (&internet, "ip address add 198.51.100.9/32 dev lo"),
            (&internet, "ip address add 198.51.100.10/32 dev lo"),
        ] {
            namespace.run(command);
        }
        let lab = Self { router, guest, internet, folder: tempfile::tempdir().expect("a folder") };
        let folder = lab.folder.path().to_str().expect("a name");
        let text = CONFIG.replace("FOLDER", folder);
        fs::write(lab.path("natwerk.toml"), text).expect("written");
        fs::write(lab.path("rules.json"), RULES.replace("FILTERING", filtering)).expect("written");
        let mut engine = lab
            .command(&lab.router, &format!("{} run", env!("CARGO_BIN_EXE_natwerk")))
            .arg("--config")
            .arg(lab.path("natwerk.toml"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(lab.path("log")).expect("a log"))
            .spawn()
            .expect("started");
        let mut line = String::new();
        let output = engine.stdout.take().expect("its output");
        let running = Running(engine);
        BufReader::new(output).read_line(&mut line).expect("read");
        let log = fs::read_to_string(lab.path("log")).unwrap_or_default();
        assert!(line.starts_with("ready "), "{line:?}\n{log}");
        Some((lab, running))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, namespace: &Namespace, command: &str) -> Command {
        let mut process = Command::new("ip");
        process.args(["netns", "exec", namespace.name()]).args(command.split_whitespace());
        process.current_dir(self.folder.path());
        process
    }

    /// A server in `namespace`, until it is dropped.
    fn serve(&self, namespace: &Namespace, command: &str) -> Running {
        let mut server = self.command(namespace, command);
        Running(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect(command))
    }

    /// Whether a command in `namespace` succeeds, and what it said.
    fn done(&self, namespace: &Namespace, command: &str) -> (bool, String) {
        let output = self.command(namespace, command).output().expect(command);
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

/// A process that a failed test does not leave behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What coturn's client finds out about a NAT that filters so (RFC 5780).
fn discovered(filtering: &str) -> Option<String> {
    let (lab, _engine) = Lab::start("turnutils_natdiscovery", filtering)?;
    let server = "turnserver -n --no-auth --no-cli --no-tls --no-dtls \
                  -L 198.51.100.9 -L 198.51.100.10 --log-file stdout --pidfile turn.pid \
                  --userdb turn.db";
    let _server = lab.serve(&lab.internet, server);
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
    lab.router.run("ip link set eth2 mtu 1300");
    // The far end does not know: its segments and its MSS are for 1,500 bytes.
    let _server = lab.serve(&lab.internet, "iperf3 -s -B 198.51.100.9");
    let said = lab.guest_does("timeout 20 iperf3 -c 198.51.100.9 -n 4M --json");
    assert!(said.contains("\"sum_received\""), "{said}");
    let route = lab.guest.run("ip route get 198.51.100.9");
    assert!(route.contains("mtu 1300"), "the guest was told: {route}");
    // Datagrams larger than the link leave in fragments and arrive whole.
    let said = lab.guest_does("timeout 20 iperf3 -u -c 198.51.100.9 -n 200K -l 4000 --json");
    assert!(said.contains("\"sum\""), "{said}");
}

#[test]
fn sip_calls_with_rport_pass_without_a_gateway() {
    let Some((lab, _engine)) = Lab::start("sipp", "address-and-port-dependent") else { return };
    let _server = lab.serve(&lab.internet, "sipp -sn uas -i 198.51.100.9 -nostdin");
    // sipp's own caller, with `rport` (RFC 3581) in every Via.
    let (_, scenario) = lab.done(&lab.guest, "sipp -sd uac");
    let start = scenario.find("<?xml").expect("a scenario");
    let scenario = scenario[start..].replace(";branch=[branch]", ";rport;branch=[branch]");
    assert!(scenario.contains(";rport;"), "{scenario}");
    fs::write(lab.path("caller.xml"), scenario).expect("written");
    let caller = "timeout 30 sipp -sf caller.xml 198.51.100.9 -i 10.1.1.5 -m 20 -r 20 -d 100 \
                  -nostdin -timeout 15";
    let said = lab.guest_does(caller);
    assert!(said.contains("Successful call"), "{said}");
}
