//! What external endpoints may be given out, and how they are chosen.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::flow::Protocol;

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
