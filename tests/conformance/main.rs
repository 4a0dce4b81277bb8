//! One test for each requirement that the pipeline can show by itself, named for where it stands. The
//! line `Shows R-…` above a test names the rows of docs/conformance.md; `scripts/conformance.py` links
//! them. Packets are written as in `tests/golden`, and its rules are those of these tests too.

#[path = "../golden/text.rs"]
#[allow(dead_code)]
mod text;

mod cloud;
mod packets;
mod rfc1812;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc6888;
mod rfc7857;
mod router;

use std::time::Duration;

use natwerk::flow::{Endpoint, PortId};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::Verdict;

const RULES: &str = include_str!("../golden/rules.json");

/// A router under the golden rules, or a change of them.
struct Net {
    lab: Lab,
    rules: String,
}

impl Net {
    fn new() -> Self {
        Self { lab: Lab::new(RULES), rules: RULES.to_owned() }
    }

    /// With `old` replaced by `new` in the rules, now or in the middle of things.
    fn changed(mut self, old: &str, new: &str) -> Self {
        self.change(old, new);
        self
    }

    fn change(&mut self, old: &str, new: &str) {
        assert!(self.rules.contains(old), "{old} is not in the rules");
        self.rules = self.rules.replace(old, new);
        self.lab.reload(&self.rules);
    }

    /// A packet from a guest, and what became of it: where it left and how, or why not. A time to
    /// live of 63 goes without saying.
    fn guest(&mut self, line: &str) -> String {
        let outcome = self.lab.send(GUEST, text::frame(line));
        told(&outcome)
    }

    /// The same from outside.
    fn public(&mut self, line: &str) -> String {
        let outcome = self.lab.send(PUBLIC, text::frame(line));
        told(&outcome)
    }

    /// The frame that leaves when a guest sends `packet`.
    fn sent(&mut self, packet: &Packet) -> Vec<u8> {
        let outcome = self.lab.send(GUEST, packet.frame());
        let [(_, frame)] = outcome.sent.as_slice() else { panic!("{outcome:?}") };
        frame.clone()
    }

    fn seconds(&mut self, seconds: u64) {
        self.lab.pass(Duration::from_secs(seconds));
    }

    fn sessions(&self) -> u32 {
        self.lab.shared.sessions.len()
    }
}

fn told(outcome: &Outcome) -> String {
    let mut parts = Vec::new();
    match outcome.verdict {
        Verdict::Drop(reason) => parts.push(format!("drop {}", reason.name())),
        Verdict::Forward(_) => {}
        Verdict::Hold => parts.push("hold".to_owned()),
        Verdict::Host(reason) => parts.push(format!("host {}", reason.name())),
    }
    for (port, frame) in &outcome.sent {
        let port: &PortId = port;
        let name = if *port == PUBLIC { "public" } else { "guest" };
        parts.push(format!("{name}: {}", text::line(frame).replace(" ttl=63", "")));
    }
    parts.join(" + ")
}

fn at(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address:port");
    Endpoint::new(address.parse().expect("an address"), port.parse().expect("a port"))
}

/// The external port of the one packet that left by the public side.
fn external_port(told: &str) -> u16 {
    let source = told.split(' ').nth(2).expect(told);
    let (_, port) = source.split_once(':').expect(told);
    port.parse().expect(told)
}
