//! The steps on the way to a decision, for whoever wants to see them: `natwerk explain` and traces.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, NetworkId, RuleId};
use crate::policy::Service;
use crate::policy::filter::Decided;

/// A step on the way to a decision, for people to read.
#[derive(Clone, Copy, Debug)]
pub enum Step<'p> {
    /// A filter was asked.
    Filter {
        /// Which filter.
        filter: FilterName,
        /// Whose, if it is a network's.
        network: Option<NetworkId>,
        /// What it said.
        decided: Decided,
    },
    /// A policy route takes it.
    PolicyRoute(RuleId),
    /// The destination is a public address of the router.
    Public(Ipv4Addr),
    /// This serves the public endpoint.
    Service(Service<'p>),
    /// A dynamic mapping stands at the public endpoint.
    Mapping(Endpoint),
    /// The destination lies in this network of the same realm.
    SameRealm(NetworkId),
    /// The destination lies outside: it leaves by the public side.
    Outside,
    /// The destination is exempt from translation.
    Exempt,
}

/// Which filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FilterName {
    /// A tier's ingress ACL.
    AclIngress,
    /// A network's egress rules or egress ACL.
    Egress,
    /// A public address's firewall.
    Firewall,
    /// The filter of the interface that it came in by.
    InterfaceIn,
    /// The filter of the interface that it leaves by.
    InterfaceOut,
    /// A network's IPv6 firewall.
    Ipv6Firewall,
}

/// Whoever wants to see the steps.
pub trait Witness<'p> {
    /// A step was taken.
    fn saw(&mut self, step: Step<'p>);
}

impl<'p> Witness<'p> for () {
    fn saw(&mut self, _: Step<'p>) {}
}

impl<'p> Witness<'p> for Vec<Step<'p>> {
    fn saw(&mut self, step: Step<'p>) {
        self.push(step);
    }
}
