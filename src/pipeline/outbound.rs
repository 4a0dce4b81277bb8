//! What the rules say of a packet that a guest sends to the outside, or by way of a policy route.

use std::net::Ipv4Addr;

use crate::flow::{NetworkId, RealmId, RuleId};
use crate::pipeline::decide::{
    Decider, Decision, FilterName, Plan, Question, Refusal, Source, Step, Target, Witness, probe,
    refuse,
};
use crate::policy::Network;
use crate::policy::ways::Way;
use crate::session::entry::SessionKind;
use crate::verdict::{DropReason, HostReason};

/// How a guest's packets to the outside are translated, and by which rule.
pub(super) struct Translation {
    kind: SessionKind,
    pub source: Source,
    rule: RuleId,
}

/// Who is outside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beyond {
    /// A remote whom guests come to under their own addresses.
    Exempt,
    /// One whom the router's own kernel reaches.
    Kernel,
    /// Any other.
    Remote,
}

impl<'p> Decider<'p, '_> {
    /// A packet that a policy route takes.
    pub(super) fn steered(
        &self,
        question: &Question,
        (realm, id): (RealmId, NetworkId),
        (rule, way): (RuleId, &'p Way),
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        witness.saw(Step::PolicyRoute(rule));
        let decision = match way {
            Way::Blackhole => return refuse(DropReason::NoRoute, rule),
            Way::Guest { network, .. } => self.same_realm(question, id, *network, witness),
            Way::Outside { .. } => self.leaves(question, (realm, id), Some(way), witness),
        };
        match decision {
            Decision::Open(plan) => Decision::Open(Plan { rule, way: Some(way), ..plan }),
            decision => decision,
        }
    }

    /// A packet to the outside, by `way` if a policy route says so.
    pub(super) fn leaves(
        &self,
        question: &Question,
        (realm, id): (RealmId, NetworkId),
        way: Option<&'p Way>,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let network = self.policy.network(id);
        let destination = question.key.destination;
        let is_kernels = network.kernel.iter().any(|cidr| cidr.contains(destination.address));
        // Neither link-local addresses (RFC 3927, section 7) nor those of another realm's network leave by
        // the public side.
        let may_leave = !destination.address.is_link_local()
            && self.policy.may_come_from_outside(destination.address);
        if !is_kernels && !may_leave {
            return refuse(DropReason::NoRoute, RuleId::DEFAULT);
        }
        let is_exempt = network.exempt.iter().any(|it| it.contains(destination.address));
        let beyond = match (is_kernels, is_exempt) {
            (true, _) => Beyond::Kernel,
            (false, true) => Beyond::Exempt,
            (false, false) => Beyond::Remote,
        };
        self.passes_egress(question, (realm, id), way, beyond, witness)
    }

    /// A packet to the outside, where nothing is in its way but the rules for what leaves its network.
    #[inline(always)]
    pub(super) fn passes_egress(
        &self,
        question: &Question,
        (realm, id): (RealmId, NetworkId),
        way: Option<&'p Way>,
        beyond: Beyond,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let network = self.policy.network(id);
        witness.saw(Step::Outside);
        let egress = network.egress.decide(&probe(question));
        witness.saw(Step::Filter {
            filter: FilterName::Egress,
            network: Some(id),
            decided: egress,
        });
        if self.stops(egress) {
            return Decision::Refuse(Refusal {
                reason: DropReason::EgressDenied,
                rule: egress.rule,
                tell: network.egress_reject,
            });
        }
        let translation = match beyond {
            Beyond::Kernel => return Decision::Host(HostReason::LocalService),
            Beyond::Exempt => {
                witness.saw(Step::Exempt);
                Translation { kind: SessionKind::Routed, source: Source::Keep, rule: egress.rule }
            }
            Beyond::Remote => self.translation_by(way, realm, id, question.key.source.address),
        };
        if translation.source == Source::Keep && translation.kind != SessionKind::Routed {
            return refuse(DropReason::NoSourceNat, RuleId::DEFAULT);
        }
        Decision::Open(Plan {
            kind: translation.kind,
            rule: translation.rule,
            admitted_by: egress.rule,
            source: translation.source,
            target: Target::External(question.key.destination),
            to_stranger: question.to_stranger,
            through_mapping: false,
            way: None,
        })
    }

    /// What a guest's source becomes on the public side: static NAT beats the pool.
    #[inline(always)]
    pub(super) fn translation(
        &self,
        realm: RealmId,
        id: NetworkId,
        guest: Ipv4Addr,
    ) -> Translation {
        let network: &Network = self.policy.network(id);
        match self.policy.static_source(realm, guest) {
            Some(fixed) => Translation {
                kind: SessionKind::StaticNat,
                source: Source::Static(fixed.public),
                rule: fixed.rule,
            },
            None => Translation {
                kind: SessionKind::SourceNat,
                source: network.pool.as_ref().map_or(Source::Keep, |_| Source::Pool(id)),
                rule: network.source_nat_rule,
            },
        }
    }

    /// The same where a policy route leads out: only addresses on its interface can be answered there.
    #[inline(always)]
    fn translation_by(
        &self,
        way: Option<&Way>,
        realm: RealmId,
        id: NetworkId,
        guest: Ipv4Addr,
    ) -> Translation {
        let translation = self.translation(realm, id, guest);
        let Some(Way::Outside { port, vlan, pool, .. }) = way else { return translation };
        let is_there = |public| {
            let found = self.policy.public_address(public);
            found.is_some_and(|found| (found.port, found.vlan) == (*port, *vlan))
        };
        match translation.source {
            Source::Static(public) if is_there(public) => translation,
            Source::Gateway(_) | Source::Keep | Source::Pool(_) | Source::Static(_) => {
                Translation {
                    kind: SessionKind::SourceNat,
                    source: pool.as_ref().map_or(Source::Keep, |_| Source::Pool(id)),
                    rule: self.policy.network(id).source_nat_rule,
                }
            }
        }
    }
}
