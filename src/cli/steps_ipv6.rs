//! What natwerk looks at on an IPv6 packet's way, as sentences.

use crate::cli::steps::{Before, sentence};
use crate::config::Config;
use crate::control::sessions::rule_name;
use crate::control::workers::port_name;
use crate::flow::{PortId, Protocol, Realm, RuleId};
use crate::pipeline::decide::Step;
use crate::pipeline::ipv6::decide::{Decision, Question, decide};
use crate::pipeline::shared::Shared;
use crate::policy::{Attachment, Policy};
use crate::wire::ipv6::{Parsed, parse};
use crate::wire::parse::Kind;

/// Looks at a packet as the pipeline will; says nothing of what is no sound IPv6.
#[must_use]
pub fn before(
    shared: &Shared,
    policy: &Policy,
    config: &Config,
    port: PortId,
    frame: &[u8],
) -> Before {
    let mut before = Before::default();
    let Some(Ok(packet)) = parse(frame) else { return before };
    let network = match policy.attachment(port, packet.vlan) {
        None => return before,
        Some(Attachment::Public) => None,
        Some(Attachment::Guest(first)) => {
            let own = policy.ipv6().network(packet.source.address);
            let is_here = |id| {
                let network = policy.network(id);
                (network.port, network.vlan) == (port, packet.vlan)
            };
            Some(own.filter(|id| is_here(*id)).unwrap_or(first))
        }
    };
    let name = port_name(port, config);
    let realm = match network {
        None => {
            before.arrival.push(format!("{name} is on the public side"));
            Realm::External
        }
        Some(id) => {
            let network = policy.network(id);
            let prefix = match &network.ipv6 {
                None => "no IPv6".to_owned(),
                Some(ipv6) => ipv6.cidr.to_string(),
            };
            let (called, domain) = (&network.name, &network.domain);
            before.arrival.push(format!("{name} has network {called} ({prefix}, domain {domain})"));
            Realm::Internal(network.realm)
        }
    };
    let key = packet.key(realm);
    let sessions = &shared.sessions_ipv6;
    if let Some(found) = sessions.find(&key, sessions.hash(&key)) {
        let rule = sessions.view(found.index).map_or(RuleId::DEFAULT, |view| view.session.rule);
        let rule = rule_name(rule, policy);
        before.decision.push(format!("it belongs to a session that {rule} allowed"));
        return before;
    }
    if matches!(packet.kind, Kind::Transport | Kind::IcmpQuery { .. }) {
        let question = Question { key, network, icmp: icmp(frame, &packet) };
        say(&mut before, policy, &question);
    }
    before
}

fn say(before: &mut Before, policy: &Policy, question: &Question) {
    let mut witness: Vec<Step<'_>> = Vec::new();
    let decision = decide(policy, question, &mut witness);
    before.decision.extend(witness.iter().map(|step| sentence(step, policy)));
    match decision {
        Decision::Host(_) => before.decision.push("it is for the router's own kernel".to_owned()),
        Decision::Open(plan) => {
            let rule = rule_name(plan.rule, policy);
            before.decision.push(format!("a session is opened under {rule}"));
        }
        Decision::Refuse(refusal) => before.refused = Some(refusal.reason),
    }
}

fn icmp(frame: &[u8], packet: &Parsed) -> (u8, u8) {
    let start = usize::from(packet.transport);
    match (packet.protocol, frame.get(start), frame.get(start + 1)) {
        (Protocol::ICMPV6, Some(icmp_type), Some(code)) => (*icmp_type, *code),
        _ => (0, 0),
    }
}
