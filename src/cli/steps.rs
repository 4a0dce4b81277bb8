//! What natwerk looks at on a packet's way, as sentences.

use crate::cli::steps_ipv6;
use crate::config::Config;
use crate::control::sessions::rule_name;
use crate::control::workers::port_name;
use crate::flow::{NetworkId, PortId, Protocol, Realm, RuleId};
use crate::pipeline::decide::{Decider, Decision, FilterName, Question, Step};
use crate::pipeline::shared::Shared;
use crate::policy::{Attachment, Policy, Service};
use crate::rules::set::Action;
use crate::verdict::{DropReason, Verdict};
use crate::wire::parse::{self, Kind, Parsed};

/// What can be said of a packet before it is processed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Before {
    /// Where it comes from.
    pub(super) arrival: Vec<String>,
    /// What the rules, or its session, say of it.
    pub(super) decision: Vec<String>,
    /// Why the rules refuse it, if they do.
    pub(super) refused: Option<DropReason>,
}

/// Looks at a packet as the pipeline will.
#[must_use]
pub fn before(
    shared: &Shared,
    policy: &Policy,
    config: &Config,
    port: PortId,
    frame: &[u8],
) -> Before {
    let mut before = Before::default();
    let Ok(packet) = parse::parse(frame) else {
        return steps_ipv6::before(shared, policy, config, port, frame);
    };
    let network = match policy.attachment(port, packet.vlan) {
        None => return before,
        Some(Attachment::Public) => None,
        Some(Attachment::Guest(first)) => {
            let source = packet.source.address;
            Some(policy.guest_network(port, packet.vlan, source).unwrap_or(first))
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
            let (cidr, domain) = (network.cidr, &network.domain);
            let called = &network.name;
            before.arrival.push(format!("{name} has network {called} ({cidr}, domain {domain})"));
            Realm::Internal(network.realm)
        }
    };
    let key = packet.key(realm);
    let hash = shared.sessions.hash(&key);
    if let Some(found) = shared.sessions.find(&key, hash) {
        let rule = shared.sessions.view(found.index).map(|view| view.session.rule);
        let rule = rule_name(rule.unwrap_or(RuleId::DEFAULT), policy);
        before.decision.push(format!("it belongs to a session that {rule} allowed"));
        return before;
    }
    if matches!(packet.kind, Kind::Transport | Kind::IcmpQuery { .. }) {
        let question = Question::new(policy, key, network, icmp(frame, &packet));
        decide(&mut before, shared, policy, question);
    }
    before
}

/// The steps that were really taken, given what became of the packet: one that is dropped for what
/// it is never comes to the rules.
#[must_use]
pub fn taken(before: Before, verdict: &Verdict) -> Vec<String> {
    let mut steps = before.arrival;
    let decided = match verdict {
        Verdict::Drop(reason) => before.refused == Some(*reason) || follows_a_decision(*reason),
        Verdict::Forward(_) | Verdict::Hold | Verdict::Host(_) => true,
    };
    if decided {
        steps.extend(before.decision);
    }
    steps
}

/// Whether a packet is dropped for this reason only after the rules let it pass.
fn follows_a_decision(reason: DropReason) -> bool {
    use DropReason as R;
    matches!(
        reason,
        R::NoPort
            | R::NoRoute
            | R::MtuExceeded
            | R::NeighborQueueFull
            | R::NeighborUnreachable
            | R::AddressRateExceeded
            | R::EndpointsTaken
            | R::PortLimit
            | R::ProtocolUnsupported
            | R::RateLimited
            | R::SessionLimit
            | R::SessionTableFull
            | R::ForwardDetached
            | R::OutOfFrames
    )
}

/// ICMP type and code of a packet; zeros if it is none.
#[must_use]
pub fn icmp(frame: &[u8], packet: &Parsed) -> (u8, u8) {
    let start = usize::from(packet.transport);
    match (packet.protocol, frame.get(start), frame.get(start + 1)) {
        (Protocol::ICMP, Some(icmp_type), Some(code)) => (*icmp_type, *code),
        _ => (0, 0),
    }
}

fn decide(before: &mut Before, shared: &Shared, policy: &Policy, question: Question) {
    let mut witness: Vec<Step<'_>> = Vec::new();
    let decider = Decider::new(policy, shared);
    let decision = decider.decide(&question, &mut witness);
    before.decision.extend(witness.iter().map(|step| sentence(step, policy)));
    match decision {
        Decision::EchoReply => before.decision.push("the router answers itself".to_owned()),
        Decision::Host(_) => before.decision.push("it is for the router's own kernel".to_owned()),
        Decision::Open(plan) if plan.is_detached() => {
            before.refused = Some(DropReason::ForwardDetached);
        }
        Decision::Open(plan) => {
            let rule = rule_name(plan.rule, policy);
            before.decision.push(format!("a session is opened under {rule}"));
        }
        Decision::Refuse(refusal) => before.refused = Some(refusal.reason),
    }
}

pub(super) fn sentence(step: &Step<'_>, policy: &Policy) -> String {
    let called = |id: NetworkId| policy.network(id).name.clone();
    match step {
        Step::Exempt => "the destination is exempt from translation".to_owned(),
        Step::Filter { filter, network, decided } => {
            let of = network.map(|id| format!(" of {}", called(id))).unwrap_or_default();
            let filter = match filter {
                FilterName::AclIngress => "ingress ACL",
                FilterName::Egress => "egress rules",
                FilterName::Firewall => "firewall",
                FilterName::InterfaceIn => "filter of the interface it came in by",
                FilterName::InterfaceOut => "filter of the interface it leaves by",
                FilterName::Ipv6Firewall => "IPv6 firewall",
            };
            let action = match decided.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            };
            format!("{filter}{of}: {action}, by {}", cited(decided.rule, policy))
        }
        Step::Mapping(external) => format!("a mapping stands at {external}"),
        Step::Outside => "the destination lies outside: it leaves by the public side".to_owned(),
        Step::PolicyRoute(rule) => format!("it goes the way of {}", cited(*rule, policy)),
        Step::Public(address) => format!("{address} is a public address of this router"),
        Step::SameRealm(network) => format!("the destination is in network {}", called(*network)),
        Step::Service(service) => match service {
            Service::Balancer(balancer) => {
                format!("served by {}", cited(balancer.rule, policy))
            }
            Service::Local { .. } => "served by the router's own kernel".to_owned(),
            Service::Nothing => "no rule serves this port".to_owned(),
            Service::PortForward { rule, .. } | Service::StaticNat { rule, .. } => {
                format!("served by {}", cited(*rule, policy))
            }
        },
    }
}

/// A rule with what it says and where it stands.
fn cited(rule: RuleId, policy: &Policy) -> String {
    match policy.rule(rule) {
        Some(info) => format!("{} `{}` at {}", rule_name(rule, policy), info.text, info.place),
        None => rule_name(rule, policy),
    }
}
