//! What the rules say of a first IPv6 packet. Nothing is translated, so the answer is whether it may
//! pass, by which rules, and where it goes.

use std::net::Ipv6Addr;

use crate::flow::{FlowKey, NetworkId, Protocol, Realm, RuleId};
use crate::pipeline::decide::{FilterName, Refusal, Step, Witness};
use crate::policy::filter::{Decided, Probe};
use crate::policy::ipv6::NetworkIpv6;
use crate::policy::{Network, Policy};
use crate::rules::set::Action;
use crate::verdict::{DropReason, HostReason};
use crate::wire::ipv6::ECHO_REPLY;

/// The first packet of a session that may come to be.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Its key in the realm it came from.
    pub key: FlowKey<Ipv6Addr>,
    /// The guest network it came from; none from the public side.
    pub network: Option<NetworkId>,
    /// ICMPv6 type and code; zeros for other protocols.
    pub icmp: (u8, u8),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It is for the router's own kernel.
    Host(HostReason),
    /// A session may be opened.
    Open(Plan),
    /// It is refused.
    Refuse(Refusal),
}

/// How a session is to be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The rule that the session counts for.
    pub rule: RuleId,
    /// The rule that let its first packet out of the network it came from.
    pub admitted_by: RuleId,
    /// The network it goes to; none for the public side.
    pub target: Option<NetworkId>,
}

/// What the rules say of `question`.
pub fn decide<'p>(
    policy: &'p Policy,
    question: &Question,
    witness: &mut impl Witness<'p>,
) -> Decision {
    let destination = question.key.destination.address;
    let unasked = question.key.protocol == Protocol::ICMPV6 && question.icmp.0 == ECHO_REPLY;
    if policy.ipv6().is_own(destination) {
        return to_router(policy, question);
    }
    if unasked {
        return refuse(DropReason::IcmpRefused, RuleId::DEFAULT);
    }
    let target = policy.ipv6().network(destination);
    let Some(from) = question.network else {
        return match target.and_then(|to| side(policy, to)) {
            Some(to) => entering(question, to, RuleId::DEFAULT, witness),
            None => refuse(DropReason::AddressNotOurs, RuleId::DEFAULT),
        };
    };
    let Some((_, network, ipv6)) = side(policy, from) else {
        return refuse(DropReason::NoRoute, RuleId::DEFAULT);
    };
    witness.saw(target.map_or(Step::Outside, Step::SameRealm));
    if target == Some(from) {
        return open(RuleId::DEFAULT, RuleId::DEFAULT, target);
    }
    let egress = ipv6.egress.decide(&probe(question));
    witness.saw(filter(FilterName::Egress, from, egress));
    if egress.action == Action::Deny {
        let reason = match network.ingress_acl {
            None => DropReason::EgressDenied,
            Some(_) => DropReason::AclDenied,
        };
        let tell = network.egress_reject;
        return Decision::Refuse(Refusal { reason, rule: egress.rule, tell });
    }
    match target.and_then(|to| side(policy, to)) {
        None => open(egress.rule, egress.rule, None),
        // Networks of one realm trust each other, unless an ACL says otherwise.
        Some((to, other, _)) if other.realm == network.realm && other.ingress_acl.is_none() => {
            open(egress.rule, egress.rule, Some(to))
        }
        Some(to) => entering(question, to, egress.rule, witness),
    }
}

/// A packet to the router itself: gateways are for the guests of their realm, public addresses for
/// everybody.
fn to_router(policy: &Policy, question: &Question) -> Decision {
    let destination = question.key.destination.address;
    let is_public = policy.ipv6().addresses().iter().any(|own| own.address == destination);
    let realm = |id| Realm::Internal(policy.network(id).realm);
    let is_near =
        policy.ipv6().network(destination).is_some_and(|id| realm(id) == question.key.realm);
    if is_public || is_near {
        Decision::Host(HostReason::LocalService)
    } else {
        refuse(DropReason::AddressNotOurs, RuleId::DEFAULT)
    }
}

/// A packet into a guest network, past its ACL or firewall.
fn entering<'p>(
    question: &Question,
    (id, network, ipv6): (NetworkId, &Network, &NetworkIpv6),
    admitted_by: RuleId,
    witness: &mut impl Witness<'p>,
) -> Decision {
    let (name, reason) = match network.ingress_acl {
        None => (FilterName::Ipv6Firewall, DropReason::FirewallDenied),
        Some(_) => (FilterName::AclIngress, DropReason::AclDenied),
    };
    let decided = ipv6.ingress.decide(&probe(question));
    witness.saw(filter(name, id, decided));
    match decided.action {
        Action::Allow => open(decided.rule, admitted_by, Some(id)),
        Action::Deny => refuse(reason, decided.rule),
    }
}

/// A network, if it has an IPv6 side.
fn side(policy: &Policy, id: NetworkId) -> Option<(NetworkId, &Network, &NetworkIpv6)> {
    let network = policy.network(id);
    network.ipv6.as_ref().map(|ipv6| (id, network, ipv6))
}

fn probe(question: &Question) -> Probe<Ipv6Addr> {
    Probe {
        protocol: question.key.protocol,
        source: question.key.source.address,
        destination: question.key.destination.address,
        port: question.key.destination.port,
        icmp: question.icmp,
    }
}

const fn filter<'p>(filter: FilterName, network: NetworkId, decided: Decided) -> Step<'p> {
    Step::Filter { filter, network: Some(network), decided }
}

const fn open(rule: RuleId, admitted_by: RuleId, target: Option<NetworkId>) -> Decision {
    Decision::Open(Plan { rule, admitted_by, target })
}

const fn refuse(reason: DropReason, rule: RuleId) -> Decision {
    Decision::Refuse(Refusal { reason, rule, tell: false })
}
