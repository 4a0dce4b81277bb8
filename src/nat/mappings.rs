//! Mappings of internal endpoints to external ones, and the allocation of external ports
//! (RFC 4787 sections 4.1-4.3, RFC 6056, RFC 6888).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::flow::{Endpoint, Protocol, Realm};
use crate::time::Tick;

/// Where a network's external endpoints come from. Part of the policy, immutable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// The public addresses, at least one. Paired pooling: a guest keeps one of them (RFC 4787, REQ-2).
    pub addresses: Vec<PoolAddress>,
    /// The ports that may be given out; 1-65535 unless the rule file narrows it.
    pub ports: RangeInclusive<u16>,
    /// Whether one internal endpoint has one external endpoint for all remotes.
    pub mapping: MappingBehavior,
    /// Whether ports may be shared between different remotes once none is free.
    pub overload: bool,
    /// How long a freed port rests before another guest gets it.
    pub hold: Duration,
}

/// A public address of a pool, with the ports that are never given out on it: those of port
/// forwards, load balancers, local services and the kernel's own range (CVE-2021-3773).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Reserved ports by protocol, ascending and not overlapping.
    pub reserved: Vec<(Protocol, RangeInclusive<u16>)>,
}

/// RFC 4787, section 4.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MappingBehavior {
    /// A new external endpoint may be chosen for each remote endpoint.
    AddressAndPortDependent,
    /// The same external endpoint for all remotes.
    EndpointIndependent,
}

/// Who wants an external endpoint, for what.
#[derive(Clone, Copy, Debug)]
pub struct BindRequest<'a> {
    /// The guest's realm.
    pub realm: Realm,
    /// TCP, UDP, ICMP (ports are identifiers), SCTP, DCCP or UDP-Lite.
    pub protocol: Protocol,
    /// The guest's endpoint.
    pub internal: Endpoint,
    /// Where from.
    pub pool: &'a Pool,
}

/// An external endpoint given to an internal one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// The guest's realm.
    pub realm: Realm,
    /// The guest's endpoint.
    pub internal: Endpoint,
    /// The public endpoint.
    pub external: Endpoint,
    /// Sessions that use it now.
    pub sessions: u32,
}

/// What a request got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bound {
    /// The external endpoint.
    pub external: Endpoint,
    /// Whether the endpoint is shared with other guests' sessions to other remotes: nothing inbound
    /// may rely on it, and it holds no reference.
    pub overloaded: bool,
}

/// No external port is free.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortsExhausted;

/// All mappings of all pool addresses, shared by the workers.
pub struct Mappings {
    _private: (),
}

impl Mappings {
    /// No mappings; room for `capacity`. `seed` keys the hash and the choice of ports.
    #[must_use]
    pub fn new(capacity: usize, seed: [u64; 4]) -> Self {
        todo!()
    }

    /// The external endpoint for a new session of `request.internal`: its present mapping, or a new
    /// one. Takes one reference (unless overloaded). `unused` says whether the external endpoint
    /// carries no session to the remote in question yet; it is asked only for overloading.
    ///
    /// # Errors
    /// When no port is free after a bounded search.
    pub fn bind(
        &self,
        request: &BindRequest<'_>,
        now: Tick,
        unused: impl Fn(Endpoint) -> bool,
    ) -> Result<Bound, PortsExhausted> {
        todo!()
    }

    /// The mapping at an external endpoint, live references only.
    #[must_use]
    pub fn find(&self, protocol: Protocol, external: Endpoint) -> Option<Mapping> {
        todo!()
    }

    /// Takes one more reference on the mapping at `external` for another session (an inbound one).
    /// Returns false if it is gone.
    pub fn hold(&self, protocol: Protocol, external: Endpoint) -> bool {
        todo!()
    }

    /// Gives one reference back; the last one frees the port, which then rests.
    pub fn release(&self, protocol: Protocol, external: Endpoint, now: Tick) {
        todo!()
    }

    /// Takes a reference on a mapping that an adopted session has, making it if need be.
    pub fn adopt(&self, realm: Realm, protocol: Protocol, internal: Endpoint, external: Endpoint) {
        todo!()
    }

    /// Every live mapping, for people to look at.
    pub fn for_each(&self, visit: impl FnMut(Protocol, &Mapping)) {
        todo!()
    }

    /// Ports in use on a public address: live, and resting.
    #[must_use]
    pub fn usage(&self, address: Ipv4Addr, protocol: Protocol) -> PortUsage {
        todo!()
    }
}

/// How full a public address is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortUsage {
    /// Ports with live mappings.
    pub live: u32,
    /// Ports that rest.
    pub resting: u32,
    /// Sessions that share ports because none was free.
    pub overloaded: u32,
}
