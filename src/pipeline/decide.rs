//! What the rules say of a first packet: a pure function from policy and key to a [`Decision`].
//!
//! It allocates nothing and takes nothing: the slow path acts on a decision, a reload asks whether
//! a session would still be decided the same way, and `natwerk explain` prints the steps.

use crate::flow::{Endpoint, FlowKey, NetworkId, Protocol, Realm, RealmId, RuleId};
use crate::nat::mappings::Mappings;
use crate::pipeline::contacts::Contacts;
use crate::pipeline::outbound::Beyond;
pub use crate::pipeline::plan::{Plan, Source, Target};
use crate::pipeline::queries::{self, ECHO_REQUEST};
use crate::pipeline::shared::Shared;
pub use crate::pipeline::witness::{FilterName, Step, Witness};
use crate::policy::filter::{Decided, Probe};
use crate::policy::{Policy, PublicAddress, Service};
use crate::rules::set::{Action, Cidr, FilteringBehavior};
use crate::session::entry::SessionKind;
use crate::verdict::{DropReason, HostReason};

/// The first packet of a session that may come to be.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Its key in the realm it came from.
    pub key: FlowKey,
    /// The guest network it came from; none from the public side.
    pub network: Option<NetworkId>,
    /// ICMP type and code; zeros for other protocols.
    pub icmp: (u8, u8),
    /// Whether a guest sends to who is a stranger to it: see [`Policy::is_stranger_to`].
    pub(super) to_stranger: bool,
}

impl Question {
    /// The question that a packet of `key` from `network` asks of `policy`.
    #[must_use]
    pub fn new(policy: &Policy, key: FlowKey, network: Option<NetworkId>, icmp: (u8, u8)) -> Self {
        let destination = key.destination.address;
        let to_stranger = network.is_some_and(|it| policy.is_stranger_to(it, destination));
        Self { key, network, icmp, to_stranger }
    }
}

/// What becomes of it.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'p> {
    /// The router answers an echo request to one of its addresses.
    EchoReply,
    /// It is for the router's own kernel.
    Host(HostReason),
    /// A session may be opened.
    Open(Plan<'p>),
    /// It is refused.
    Refuse(Refusal),
}

/// Why a first packet was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The reason.
    pub reason: DropReason,
    /// The rule that refused it, or [`RuleId::DEFAULT`].
    pub rule: RuleId,
    /// Whether the sender is told with ICMP 3/13.
    pub tell: bool,
}

/// Decides a first packet.
pub struct Decider<'p, 'm> {
    /// The rules.
    pub policy: &'p Policy,
    /// The dynamic mappings, which inbound packets may use where filtering lets them.
    pub mappings: &'m Mappings,
    /// Who guests have sent to.
    pub contacts: &'m Contacts,
    /// Whether what filters deny is refused.
    pub filters: Filters,
}

/// What filters have to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filters {
    /// They are for first packets, and this one belongs to a session that one of them once let in.
    Ignored,
    /// What they deny is refused.
    Obeyed,
}

impl<'p, 'm> Decider<'p, 'm> {
    /// One for first packets.
    #[must_use]
    pub const fn new(policy: &'p Policy, shared: &'m Shared) -> Self {
        let (mappings, contacts) = (&shared.mappings, &shared.contacts);
        Self { policy, mappings, contacts, filters: Filters::Obeyed }
    }
}

impl<'p> Decider<'p, '_> {
    /// Whether what a filter decided stops the packet.
    pub(super) fn stops(&self, decided: Decided) -> bool {
        decided.action == Action::Deny && self.filters == Filters::Obeyed
    }

    /// What the rules say of `question`.
    #[inline(always)]
    pub fn decide(&self, question: &Question, witness: &mut impl Witness<'p>) -> Decision<'p> {
        let is_query = question.key.protocol == Protocol::ICMP;
        if is_query && queries::request_of(question.icmp.0).is_some() {
            return self.unasked_reply(question);
        }
        let decision = match (question.key.realm, question.network) {
            (Realm::Internal(realm), Some(network)) if question.to_stranger => {
                self.passes_egress(question, (realm, network), None, Beyond::Remote, witness)
            }
            (Realm::Internal(realm), Some(network)) => {
                self.guest_packet(question, realm, network, witness)
            }
            (Realm::External, _) | (Realm::Internal(_), None) => {
                self.outside_packet(question, witness)
            }
        };
        match decision {
            Decision::Open(plan) if self.policy.filters_interfaces() => {
                self.passage(question, plan, witness)
            }
            decision => decision,
        }
    }

    /// A reply that belongs to no session opens none. From outside it may answer the router's own
    /// ping.
    fn unasked_reply(&self, question: &Question) -> Decision<'p> {
        match question.key.realm {
            Realm::External
                if self.policy.public_address(question.key.destination.address).is_some() =>
            {
                Decision::Host(HostReason::RouterOwnTraffic)
            }
            Realm::External | Realm::Internal(_) => {
                refuse(DropReason::IcmpRefused, RuleId::DEFAULT)
            }
        }
    }

    fn guest_packet(
        &self,
        question: &Question,
        realm: RealmId,
        id: NetworkId,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let network = self.policy.network(id);
        let destination = question.key.destination;
        if let Some(public) = self.policy.public_address(destination.address) {
            witness.saw(Step::Public(public.address));
            if !network.hairpinning {
                return refuse(DropReason::ExternalHairpinLoop, RuleId::DEFAULT);
            }
            // The ACL of a tier is about everything that leaves it, by whatever address.
            if network.ingress_acl.is_some() {
                let decided = network.egress.decide(&probe(question));
                let filter = FilterName::Egress;
                witness.saw(Step::Filter { filter, network: Some(id), decided });
                if self.stops(decided) {
                    return refuse(DropReason::AclDenied, decided.rule);
                }
            }
            return self.public_endpoint(question, public, witness);
        }
        let route = self.policy.internal_route(realm, destination.address);
        if route.is_some_and(|it| destination.address == self.policy.network(it.network).gateway) {
            return to_gateway(question);
        }
        if !network.kernel.iter().any(|cidr| cidr.contains(destination.address)) {
            let port = question.key.source.port;
            let way = self.policy.policy_way(id, realm, &probe(question), port);
            if let Some(way) = way {
                return self.steered(question, (realm, id), way, witness);
            }
        }
        if let Some(route) = route {
            return self.same_realm(question, id, route.network, witness);
        }
        self.leaves(question, (realm, id), None, witness)
    }

    /// A packet between two networks of a realm, or within one: routed under both ACLs.
    pub(super) fn same_realm(
        &self,
        question: &Question,
        from: NetworkId,
        to: NetworkId,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        witness.saw(Step::SameRealm(to));
        let target = Target::Guest { network: to, guest: question.key.destination };
        if from == to {
            return routed(RuleId::DEFAULT, RuleId::DEFAULT, target);
        }
        let probe = probe(question);
        let egress = self.policy.network(from).egress.decide(&probe);
        witness.saw(Step::Filter {
            filter: FilterName::Egress,
            network: Some(from),
            decided: egress,
        });
        if self.stops(egress) {
            return refuse(DropReason::AclDenied, egress.rule);
        }
        let mut rule = egress.rule;
        if let Some(acl) = &self.policy.network(to).ingress_acl {
            let ingress = acl.decide(&probe);
            witness.saw(Step::Filter {
                filter: FilterName::AclIngress,
                network: Some(to),
                decided: ingress,
            });
            if self.stops(ingress) {
                return refuse(DropReason::AclDenied, ingress.rule);
            }
            rule = ingress.rule;
        }
        let entered = self.policy.network(to);
        match entered.gateway_pool {
            None => routed(rule, egress.rule, target),
            Some(_) => {
                let rules = (entered.source_nat_rule, rule);
                Decision::Open(Plan::new(
                    SessionKind::SourceNat,
                    rules,
                    Source::Gateway(to),
                    target,
                ))
            }
        }
    }

    fn outside_packet(&self, question: &Question, witness: &mut impl Witness<'p>) -> Decision<'p> {
        let destination = question.key.destination;
        if let Some(public) = self.policy.public_address(destination.address) {
            witness.saw(Step::Public(public.address));
            return self.public_endpoint(question, public, witness);
        }
        let Some(id) = self.policy.routed_network(destination.address) else {
            return refuse(DropReason::AddressNotOurs, RuleId::DEFAULT);
        };
        // A network that is not translated towards this remote is reached under its own address,
        // if its ACL opens it; without an ACL nothing does (FLT-06).
        let network = self.policy.network(id);
        let remote = question.key.source.address;
        // The gateway is the router, which nobody outside reaches by an inside address.
        let reachable = destination.address != network.gateway
            && network.exempt.iter().any(|exempt| exempt.contains(remote));
        let Some(acl) = network.ingress_acl.as_ref().filter(|_| reachable) else {
            return refuse(DropReason::AddressNotOurs, RuleId::DEFAULT);
        };
        let decided = acl.decide(&probe(question));
        witness.saw(Step::Filter { filter: FilterName::AclIngress, network: Some(id), decided });
        if self.stops(decided) {
            return refuse(DropReason::AclDenied, decided.rule);
        }
        routed(decided.rule, decided.rule, Target::Guest { network: id, guest: destination })
    }

    /// A packet to one of our public addresses, from outside or from a guest.
    fn public_endpoint(
        &self,
        question: &Question,
        public: &'p PublicAddress,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let key = &question.key;
        let (port, source) = (key.destination.port, key.source.address);
        let service = self.policy.service_for(public.address, key.protocol, port, source);
        witness.saw(Step::Service(service));
        match service {
            Service::Local { sources } => welcome(sources, question, RuleId::DEFAULT)
                .map_or_else(Decision::Refuse, |()| Decision::Host(HostReason::LocalService)),
            Service::Nothing => self.unserved(question, public, witness),
            Service::StaticNat { rule, network, guest } => {
                let guest = guest.map(|address| Endpoint::new(address, key.destination.port));
                self.served(question, public, (rule, network, guest), &[], witness)
            }
            Service::PortForward { rule, network, guest, sources } => {
                self.served(question, public, (rule, network, guest), sources, witness)
            }
            Service::Balancer(balancer) => {
                let admitted =
                    self.admission(question, public, balancer.network, None, witness).and_then(
                        |by| welcome(&balancer.sources, question, balancer.rule).map(|()| by),
                    );
                match admitted {
                    Err(refusal) => Decision::Refuse(refusal),
                    Ok(by) => {
                        self.inbound(question, (balancer.rule, by), Target::Balanced(balancer))
                    }
                }
            }
        }
    }

    fn served(
        &self,
        question: &Question,
        public: &'p PublicAddress,
        (rule, network, guest): (RuleId, NetworkId, Option<Endpoint>),
        sources: &[Cidr],
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let admitted = self
            .admission(question, public, network, guest, witness)
            .and_then(|by| welcome(sources, question, rule).map(|()| by));
        match (admitted, guest) {
            (Err(refusal), _) => Decision::Refuse(refusal),
            (Ok(_), None) => refuse(DropReason::ForwardDetached, rule),
            (Ok(by), Some(guest)) => {
                self.inbound(question, (rule, by), Target::Guest { network, guest })
            }
        }
    }

    /// The rule of the public address's firewall, or of the ACL of the tier behind it, that lets
    /// the packet in.
    fn admission(
        &self,
        question: &Question,
        public: &'p PublicAddress,
        network: NetworkId,
        guest: Option<Endpoint>,
        witness: &mut impl Witness<'p>,
    ) -> Result<RuleId, Refusal> {
        let tier = self.policy.network(network).ingress_acl.as_ref();
        if let (Some(_), Some(firewall), true) = (tier, &public.ingress, public.firewall_before_acl)
        {
            let decided = firewall.decide(&probe(question));
            witness.saw(Step::Filter { filter: FilterName::Firewall, network: None, decided });
            if self.stops(decided) {
                return Err(refusal(DropReason::FirewallDenied, decided.rule));
            }
        }
        let (filter, name, reason, probe) = match (tier, &public.ingress) {
            (Some(acl), _) => {
                // A tier's ACL sees the packet as the tier will: translated.
                let mut probe = probe(question);
                if let Some(guest) = guest {
                    probe.destination = guest.address;
                    probe.port = guest.port;
                }
                (acl, FilterName::AclIngress, DropReason::AclDenied, probe)
            }
            (None, Some(firewall)) => {
                (firewall, FilterName::Firewall, DropReason::FirewallDenied, probe(question))
            }
            (None, None) => return Err(refusal(DropReason::FirewallDenied, RuleId::DEFAULT)),
        };
        let decided = filter.decide(&probe);
        witness.saw(Step::Filter { filter: name, network: tier.map(|_| network), decided });
        if self.stops(decided) { Err(refusal(reason, decided.rule)) } else { Ok(decided.rule) }
    }

    /// A public endpoint that no rule serves: a mapping, an echo request, or nothing.
    fn unserved(
        &self,
        question: &Question,
        public: &'p PublicAddress,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let key = &question.key;
        let is_echo_request = key.protocol == Protocol::ICMP && question.icmp.0 == ECHO_REQUEST;
        if let Some(decision) = self.through_mapping(question, witness) {
            return decision;
        }
        let filtered = public.ingress.as_ref().map(|firewall| firewall.decide(&probe(question)));
        if let Some(decided) = filtered {
            let filter = FilterName::Firewall;
            witness.saw(Step::Filter { filter, network: None, decided });
        }
        let allowed = filtered.is_some_and(|decided| decided.action == Action::Allow);
        if is_echo_request && public.echo_reply.unwrap_or(allowed) {
            return Decision::EchoReply;
        }
        match (key.realm, filtered) {
            (Realm::Internal(_), _) => refuse(DropReason::ExternalHairpinLoop, RuleId::DEFAULT),
            (Realm::External, Some(decided)) if !allowed => {
                refuse(DropReason::FirewallDenied, decided.rule)
            }
            (Realm::External, _) => refuse(DropReason::FirewallDenied, RuleId::DEFAULT),
        }
    }

    /// A dynamic mapping at the public endpoint, where filtering lets this remote use it
    /// (RFC 4787, REQ-8); none of an ICMP query's (RFC 5508).
    fn through_mapping(
        &self,
        question: &Question,
        witness: &mut impl Witness<'p>,
    ) -> Option<Decision<'p>> {
        let key = &question.key;
        let of_ports = key.protocol != Protocol::ICMP;
        let mapping = self.mappings.find(key.protocol, key.destination).filter(|_| of_ports)?;
        let Realm::Internal(realm) = mapping.realm else { return None };
        let route = self.policy.internal_route(realm, mapping.internal.address)?;
        let network = self.policy.network(route.network);
        let lets_in = match network.filtering {
            FilteringBehavior::EndpointIndependent => true,
            FilteringBehavior::AddressDependent => {
                self.contacts.knows(key.protocol, key.destination, key.realm, key.source.address)
            }
            FilteringBehavior::AddressAndPortDependent => false,
        };
        if !lets_in {
            return None;
        }
        witness.saw(Step::Mapping(mapping.internal));
        let target = Target::Guest { network: route.network, guest: mapping.internal };
        let rules = (network.source_nat_rule, RuleId::DEFAULT);
        match self.inbound(question, rules, target) {
            Decision::Open(plan) => Some(Decision::Open(Plan { through_mapping: true, ..plan })),
            decision => Some(decision),
        }
    }

    /// A session into a guest: from outside as it is, from another guest with an external source
    /// (RFC 4787, REQ-9a).
    fn inbound(
        &self,
        question: &Question,
        rules: (RuleId, RuleId),
        target: Target<'p>,
    ) -> Decision<'p> {
        let (kind, source) = match (question.key.realm, question.network) {
            (Realm::Internal(realm), Some(network)) => {
                let guest = question.key.source.address;
                let source = self.translation(realm, network, guest).source;
                if source == Source::Keep && target.realm(self.policy) != Some(realm) {
                    // In another realm the guest's own address would be somebody else's.
                    return refuse(DropReason::NoSourceNat, RuleId::DEFAULT);
                }
                let kind = match source {
                    Source::Gateway(_) | Source::Pool(_) => SessionKind::Hairpin,
                    Source::Keep | Source::Static(_) => SessionKind::HairpinStatic,
                };
                (kind, source)
            }
            (Realm::External, _) | (Realm::Internal(_), None) => {
                (SessionKind::Inbound, Source::Keep)
            }
        };
        Decision::Open(Plan::new(kind, rules, source, target))
    }
}

fn to_gateway<'p>(question: &Question) -> Decision<'p> {
    if question.key.protocol == Protocol::ICMP && question.icmp.0 == ECHO_REQUEST {
        Decision::EchoReply
    } else {
        Decision::Host(HostReason::LocalService)
    }
}

pub(super) fn probe(question: &Question) -> Probe {
    Probe {
        protocol: question.key.protocol,
        source: question.key.source.address,
        destination: question.key.destination.address,
        port: question.key.destination.port,
        icmp: question.icmp,
    }
}

/// Whether a rule's own list of sources lets the packet's in.
fn welcome(sources: &[Cidr], question: &Question, rule: RuleId) -> Result<(), Refusal> {
    let source = question.key.source.address;
    let welcome = sources.is_empty() || sources.iter().any(|cidr| cidr.contains(source));
    if welcome { Ok(()) } else { Err(refusal(DropReason::FirewallDenied, rule)) }
}

const fn refusal(reason: DropReason, rule: RuleId) -> Refusal {
    Refusal { reason, rule, tell: false }
}

pub(super) const fn refuse<'p>(reason: DropReason, rule: RuleId) -> Decision<'p> {
    Decision::Refuse(refusal(reason, rule))
}

const fn routed<'p>(rule: RuleId, admitted_by: RuleId, target: Target<'p>) -> Decision<'p> {
    Decision::Open(Plan::new(SessionKind::Routed, (rule, admitted_by), Source::Keep, target))
}
