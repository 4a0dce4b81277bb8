//! The filters of the two interfaces that a new session passes. They see it as a guest does: its destination is
//! translated, its source is not yet. What a balancer hands out does not pass them, as little as what a proxy on
//! the router would open.

use crate::flow::PortId;
use crate::pipeline::decide::{
    Decider, Decision, FilterName, Plan, Question, Refusal, Source, Step, Target, Witness,
};
use crate::policy::InterfacePass;
use crate::policy::filter::Probe;
use crate::policy::ways::Way;
use crate::verdict::DropReason;

impl<'p> Decider<'p, '_> {
    /// `plan`, unless an interface's filter refuses it.
    pub(super) fn passage(
        &self,
        question: &Question,
        plan: Plan<'p>,
        witness: &mut impl Witness<'p>,
    ) -> Decision<'p> {
        let (destination, out) = match plan.target {
            Target::Balanced(_) => return Decision::Open(plan),
            Target::External(remote) => (remote, self.way_out(&plan, remote.address)),
            Target::Guest { network, guest } => {
                let network = self.policy.network(network);
                (guest, Some((network.port, network.vlan)))
            }
        };
        let probe = Probe {
            protocol: question.key.protocol,
            source: question.key.source.address,
            destination: destination.address,
            port: destination.port,
            icmp: question.icmp,
        };
        let passes = [(self.way_in(question), InterfacePass::In), (out, InterfacePass::Out)];
        for (way, pass) in passes {
            let Some((port, vlan)) = way else { continue };
            let Some(interface) = self.policy.interface_filter(port, vlan, pass) else { continue };
            let decided = interface.filter.decide(&probe);
            let filter = match pass {
                InterfacePass::In => FilterName::InterfaceIn,
                InterfacePass::Out => FilterName::InterfaceOut,
            };
            witness.saw(Step::Filter { filter, network: None, decided });
            if self.stops(decided) {
                return Decision::Refuse(Refusal {
                    reason: DropReason::FirewallDenied,
                    rule: decided.rule,
                    tell: interface.tells.contains(&decided.rule),
                });
            }
        }
        Decision::Open(plan)
    }

    /// The interface and VLAN that a first packet came in by. From the public side it is that of the address it is
    /// for, or of the way back to its sender.
    fn way_in(&self, question: &Question) -> Option<(PortId, u16)> {
        if let Some(network) = question.network {
            let network = self.policy.network(network);
            return Some((network.port, network.vlan));
        }
        let key = &question.key;
        match self.policy.public_address(key.destination.address) {
            Some(public) => Some((public.port, public.vlan)),
            None => {
                let route = self.policy.external_route(None, key.source.address)?;
                Some((route.port, route.vlan))
            }
        }
    }

    /// The interface and VLAN that a session to `remote` leaves by.
    fn way_out(&self, plan: &Plan<'p>, remote: std::net::Ipv4Addr) -> Option<(PortId, u16)> {
        if let Some(Way::Outside { port, vlan, .. }) = plan.way {
            return Some((*port, *vlan));
        }
        let public = match plan.source {
            Source::Keep => None,
            Source::Gateway(_) | Source::Pool(_) => {
                Some(plan.pool(self.policy)?.addresses.first()?.address)
            }
            Source::Static(public) => Some(public),
        };
        let route = self.policy.external_route(public, remote)?;
        Some((route.port, route.vlan))
    }
}
