//! What may pass by public addresses and their ports.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::nat::limits::EndpointLimit;
use crate::policy::Policy;
use crate::rules::set::PortRange;

/// Which way a packet passes a public address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passing {
    /// From the public side.
    In,
    /// To the public side.
    Out,
}

/// The limits of a public address.
#[derive(Clone, Debug, Default)]
pub struct AddressLimits {
    /// Those of ports, ascending; none overlap.
    pub(super) ports: Vec<(PortRange, BothWays)>,
    /// That of all other ports.
    pub(super) rest: BothWays,
}

/// A limit for each way.
#[derive(Clone, Debug, Default)]
pub struct BothWays {
    /// What may come in.
    pub inbound: Option<Arc<EndpointLimit>>,
    /// What may go out.
    pub outbound: Option<Arc<EndpointLimit>>,
}

impl AddressLimits {
    /// The limit that a packet at `port` is held against: its port's, or else the address's.
    #[must_use]
    pub fn find(&self, passing: Passing, port: u16) -> Option<&EndpointLimit> {
        let behind = self.ports.partition_point(|(ports, _)| ports.first() <= port);
        let of_port = behind.checked_sub(1).and_then(|place| self.ports.get(place));
        let of_port = of_port.filter(|(ports, _)| port <= ports.last());
        let of_port = of_port.and_then(|(_, limits)| limits.of(passing));
        of_port.or_else(|| self.rest.of(passing))
    }

    /// Packets that were refused: a limit that is shared tells of all who share it.
    #[must_use]
    pub fn refused(&self, passing: Passing) -> u64 {
        let all = self.ports.iter().map(|(_, limits)| limits).chain([&self.rest]);
        all.filter_map(|limits| limits.of(passing)).map(EndpointLimit::refused).sum()
    }
}

impl BothWays {
    fn of(&self, passing: Passing) -> Option<&EndpointLimit> {
        match passing {
            Passing::In => self.inbound.as_deref(),
            Passing::Out => self.outbound.as_deref(),
        }
    }
}

impl Policy {
    /// The limits of a public address, if it has some.
    #[must_use]
    pub fn address_limits(&self, address: Ipv4Addr) -> Option<&AddressLimits> {
        self.address_limits.get(&address)
    }
}
