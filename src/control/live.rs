//! What a running engine knows of one packet: the session it belongs to, and the next hop it would go to.

use std::net::Ipv4Addr;

use crate::control::requests::LiveQuestion;
use crate::control::rows::{LiveRow, NeighborRow};
use crate::control::server::Refusal;
use crate::control::{sessions, workers};
use crate::engine::handle::EngineHandle;
use crate::flow::{Endpoint, FlowKey, PortId, Protocol, Realm};
use crate::next_hop::{Neighbor, Resolution};
use crate::pipeline::decide::{Decider, Decision, Question, Source, Target};
use crate::pipeline::plan;
use crate::pipeline::shared::Shared;
use crate::policy::{Attachment, Policy};
use crate::time::Tick;

/// What is known of the packet of `question`.
///
/// # Errors
/// When the engine has no such interface.
pub fn answer(
    question: &LiveQuestion,
    engine: &EngineHandle,
    shared: &Shared,
    now: Tick,
) -> Result<LiveRow, Refusal> {
    let policy = shared.policy.load();
    let mut row = LiveRow { generation: policy.generation().0, ..LiveRow::default() };
    let port = port(question, engine)?;
    let place = match &question.encapsulation {
        None => Some((port, question.vlan)),
        Some(name) => policy.encapsulations().named(port, name),
    };
    let Some((port, vlan)) = place else { return Ok(row) };
    let source = question.source.0;
    let network = match policy.attachment(port, vlan) {
        None => return Ok(row),
        Some(Attachment::Public) => None,
        Some(Attachment::Guest(first)) => {
            Some(policy.guest_network(port, vlan, source).unwrap_or(first))
        }
    };
    let realm = network.map_or(Realm::External, |id| Realm::Internal(policy.network(id).realm));
    let endpoint = |(address, port): (Ipv4Addr, u16)| Endpoint::new(address, port);
    let key = FlowKey {
        realm,
        protocol: Protocol(question.protocol),
        source: endpoint(question.source),
        destination: endpoint(question.destination),
    };
    let hop = match shared.sessions.find(&key, shared.sessions.hash(&key)) {
        Some(found) => {
            let timeouts = &shared.settings.timeouts;
            let view = shared.sessions.view(found.index);
            row.session = view.map(|view| sessions::row(&view, &policy, timeouts, now));
            Some(shared.next_hops.neighbor(found.next_hop))
        }
        None => {
            let question = Question::new(&policy, key, network, question.icmp);
            next_hop(&question, shared, &policy)
        }
    };
    row.next_hop = hop.map(|hop| neighbor(hop, engine, shared));
    Ok(row)
}

fn port(question: &LiveQuestion, engine: &EngineHandle) -> Result<PortId, Refusal> {
    let interfaces = &engine.config().interfaces;
    let found = (0..=u8::MAX).zip(interfaces).find(|(_, it)| it.name == question.interface);
    found.map(|(place, _)| PortId(place)).ok_or_else(|| {
        let names: Vec<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let what = format!("the running engine has no interface `{}`", question.interface);
        Refusal::new(what, format!("it has {}", names.join(", "))).bad_input()
    })
}

/// Where a new session would go, if the rules let it be opened and do not choose among members first.
fn next_hop(question: &Question, shared: &Shared, policy: &Policy) -> Option<Neighbor> {
    let decider = Decider::new(policy, shared);
    let Decision::Open(plan) = decider.decide(question, &mut ()) else { return None };
    if let Some(way) = plan.way {
        return plan::neighbor(way, policy);
    }
    match plan.target {
        Target::Balanced(_) => None,
        Target::External(remote) => {
            let public = match plan.source {
                Source::Keep => None,
                Source::Gateway(_) | Source::Pool(_) => {
                    Some(plan.source.pool(policy)?.addresses.first()?.address)
                }
                Source::Static(public) => Some(public),
            };
            let route = policy.external_route(public, remote.address)?;
            Some(Neighbor { port: route.port, vlan: route.vlan, address: route.next_hop.into() })
        }
        Target::Guest { network, guest } => {
            let realm = policy.network(network).realm;
            let route = policy.internal_route(realm, guest.address)?;
            let network = policy.network(route.network);
            Some(Neighbor {
                port: network.port,
                vlan: network.vlan,
                address: route.next_hop.into(),
            })
        }
    }
}

fn neighbor(hop: Neighbor, engine: &EngineHandle, shared: &Shared) -> NeighborRow {
    // Looking must not make it known.
    let known = shared.next_hops.find(hop).map(|id| shared.next_hops.resolution(id));
    let (state, mac) = match known {
        None => ("unknown", None),
        Some(Resolution::Failed) => ("failed", None),
        Some(Resolution::Pending) => ("pending", None),
        Some(Resolution::Reachable(mac)) => ("reachable", Some(mac.to_string())),
    };
    let policy = shared.policy.load();
    let (vlan, encapsulation) = policy.encapsulations().describe(hop.port, hop.vlan);
    NeighborRow {
        address: hop.address.to_string(),
        interface: workers::port_name(hop.port, engine.config()),
        vlan,
        encapsulation,
        state: state.to_owned(),
        mac,
    }
}
