//! The traffic generator, both ends, over a cable between two namespaces.

#![cfg(feature = "af-xdp")]

mod common;

use std::process::{Command, Stdio};

use serde_json::Value;

use common::{Namespace, cable};

const NATWERK: &str = env!("CARGO_BIN_EXE_natwerk");

/// `natwerk generate` in a namespace.
fn generate(namespace: &Namespace, arguments: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), NATWERK, "generate"]);
    command.args(arguments.split_whitespace()).arg("--json").stdout(Stdio::piped());
    command
}

/// What arrives of what is sent with `options`.
fn arrived(purpose: &str, options: &str) -> Option<Value> {
    let near = Namespace::new(&format!("{purpose}-n"))?;
    let far = Namespace::new(&format!("{purpose}-f"))?;
    cable((&near, "n0"), (&far, "f0"));
    // So that its end of the cable takes frames that no socket sent.
    far.run("ethtool -K f0 gro on");
    let receiver = generate(&far, "receive --interface f0 --expect-source 10.0.0.1 --seconds 4")
        .spawn()
        .expect("a receiver");
    // It has begun when its program is on the interface.
    assert!(common::eventually(std::time::Duration::from_secs(3), || {
        far.run("ip link show dev f0").contains("xdp")
    }));
    let to = "--router-mac 02:00:00:00:00:09 --destination 10.0.0.9 --first-source 10.0.0.1";
    let sent = generate(&near, &format!("send --interface n0 {to} {options}")).output();
    let sent = sent.expect("a sender");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let received = receiver.wait_with_output().expect("it ends by itself");
    assert!(received.status.success());
    Some(serde_json::from_slice(&received.stdout).expect("JSON"))
}

#[test]
fn what_is_sent_arrives_and_is_right() {
    let Some(report) = arrived("udp", "--ports 63 --count 2000 --rate 4000") else { return };
    assert_eq!(report["packets"], 2000);
    assert_eq!(report["bytes"], 2000 * 60);
    assert_eq!(report["wrong_source"], 0);
    assert_eq!(report["wrong_checksum"], 0);
    assert!(report["latency_us"].is_array());
}

#[test]
fn other_sources_are_counted_as_wrong() {
    let options = "--protocol tcp --size 200 --hosts 2 --in-order --count 1000 --rate 4000";
    let Some(report) = arrived("tcp", options) else { return };
    assert_eq!(report["packets"], 1000);
    assert_eq!(report["wrong_source"], 500);
    assert_eq!(report["wrong_checksum"], 0);
}

#[test]
fn a_bare_forward_carries_every_packet() {
    let Some(client) = Namespace::new("fwd-c") else { return };
    let Some(router) = Namespace::new("fwd-r") else { return };
    let Some(server) = Namespace::new("fwd-s") else { return };
    cable((&client, "c0"), (&router, "r0"));
    cable((&router, "r1"), (&server, "s0"));
    let to = "forward --from r0 --to r1 --to-mac 02:00:00:00:00:04 --own-mac 02:00:00:00:00:03";
    let forward = generate(&router, &format!("{to} --seconds 6")).spawn().expect("a forwarder");
    let receiver = generate(&server, "receive --interface s0 --seconds 5").spawn().expect("one");
    for (namespace, device) in [(&router, "r0"), (&router, "r1"), (&server, "s0")] {
        assert!(common::eventually(std::time::Duration::from_secs(3), || {
            namespace.run(&format!("ip link show dev {device}")).contains("xdp")
        }));
    }
    let to = "--router-mac 02:00:00:00:00:01 --destination 10.0.0.9 --first-source 10.0.0.1";
    let sent = generate(&client, &format!("send --interface c0 {to} --count 1000 --rate 4000"));
    assert!({ sent }.status().expect("a sender").success());
    let received = receiver.wait_with_output().expect("it ends by itself").stdout;
    let received: Value = serde_json::from_slice(&received).expect("JSON");
    assert_eq!(
        (received["packets"].as_u64(), received["wrong_checksum"].as_u64()),
        (Some(1000), Some(0))
    );
    let told = String::from_utf8(forward.wait_with_output().expect("it ends").stdout).unwrap();
    assert!(told.contains("\"packets\":1000") || told.contains("\"packets\": 1000"), "{told}");
}
