//! A small router for this module's tests: one network, one forward, three sessions.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, FlowKey, Generation, Protocol, Realm, RuleId};
use crate::next_hop::NextHopId;
use crate::policy::compile::compile;
use crate::policy::registry::{Registry, RuleKind};
use crate::policy::{Policy, samples};
use crate::rules::set::RuleSet;
use crate::session::entry::{NewSession, SessionKind};
use crate::session::table::Table;
use crate::time::Tick;

/// When the sessions of [`table`] were made.
pub const MADE: Tick = Tick::from_ms(1_280_000);

/// Network `web` 10.1.1.0/24 behind 203.0.113.10; forward `p1` of 203.0.113.11:2222 to its SSH.
pub fn policy() -> Policy {
    let mut network = samples::network("web", 0, "10.1.1.0/24");
    network.source_nat = vec![samples::ip("203.0.113.10")];
    let rules = RuleSet {
        public_ips: vec![samples::public_ip("203.0.113.10"), samples::public_ip("203.0.113.11")],
        networks: vec![network],
        firewall_rules: vec![samples::firewall("f1", "203.0.113.11", "tcp 2222", "0.0.0.0/0")],
        port_forwards: vec![samples::forward(
            "p1",
            ("203.0.113.11", "2222"),
            "web",
            ("10.1.1.5", "22"),
        )],
        ..RuleSet::default()
    };
    compile(&rules, &samples::config(), &mut Registry::new(), Generation(1))
}

/// The rule `p1`.
pub fn forward(policy: &Policy) -> RuleId {
    let info = policy.rules().iter().find(|info| info.kind == RuleKind::PortForward);
    info.map(|info| info.rule).unwrap()
}

/// A TCP and a UDP session of guest 10.1.1.5 to 198.51.100.9, and one of 198.51.100.7 to `p1`.
pub fn table(policy: &Policy) -> Table {
    let table = Table::in_memory(64, [1, 2, 3, 4]);
    let inside = Realm::Internal(policy.networks()[0].realm);
    for (protocol, port) in [(Protocol::TCP, 443), (Protocol::UDP, 53)] {
        let guest = endpoint([10, 1, 1, 5], 40000);
        let remote = endpoint([198, 51, 100, 9], port);
        let public = endpoint([203, 0, 113, 10], 40000);
        let keys =
            (key(inside, protocol, guest, remote), key(Realm::External, protocol, remote, public));
        let session = session(keys, SessionKind::SourceNat, RuleId::DEFAULT);
        table.insert(&session, MADE).unwrap();
    }
    let remote = endpoint([198, 51, 100, 7], 50000);
    let public = endpoint([203, 0, 113, 11], 2222);
    let guest = endpoint([10, 1, 1, 5], 22);
    let keys = (
        key(Realm::External, Protocol::TCP, remote, public),
        key(inside, Protocol::TCP, guest, remote),
    );
    let inserted = table.insert(&session(keys, SessionKind::Inbound, forward(policy)), MADE);
    let index = inserted.unwrap();
    let initiator = keys.0;
    let found = table.find(&initiator, table.hash(&initiator)).unwrap();
    assert_eq!(found.index, index);
    found.touch(60, MADE.coarse());
    table
}

fn endpoint(address: [u8; 4], port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::from(address), port)
}

fn key(realm: Realm, protocol: Protocol, source: Endpoint, destination: Endpoint) -> FlowKey {
    FlowKey { realm, protocol, source, destination }
}

fn session(
    (initiator, responder): (FlowKey, FlowKey),
    kind: SessionKind,
    rule: RuleId,
) -> NewSession {
    NewSession {
        initiator,
        responder,
        initiator_next_hop: NextHopId(0),
        responder_next_hop: NextHopId(0),
        rule,
        generation: Generation(1),
        kind,
        source_mapped: false,
        target_mapped: false,
    }
}
