//! Filters: ordered rules compiled so that the first match is found without a scan.

use std::net::Ipv4Addr;

use crate::flow::{Protocol, RuleId};
use crate::rules::set::Action;

/// What a filter looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    /// The protocol.
    pub protocol: Protocol,
    /// The source address.
    pub source: Ipv4Addr,
    /// The destination address.
    pub destination: Ipv4Addr,
    /// The destination port; ignored for protocols without ports.
    pub port: u16,
    /// ICMP type and code; ignored for other protocols.
    pub icmp: (u8, u8),
}

/// What a filter decided, and which rule did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decided {
    /// What to do.
    pub action: Action,
    /// Whose rule it was; [`RuleId::DEFAULT`] when none matched.
    pub rule: RuleId,
}

/// Ordered rules with a default behind them.
#[derive(Clone, Debug)]
pub struct Filter {
    _private: (),
}

impl Filter {
    /// The first match, or the default.
    #[must_use]
    pub fn decide(&self, probe: &Probe) -> Decided {
        todo!()
    }
}
