//! How many mappings a guest has, and how many it may have (RFC 6888, REQ-4). Each mapping takes one
//! external port of one protocol. Who has how many, [`crate::nat::guests`] knows.

use crate::flow::Protocol;

/// What a guest may have. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MappingLimits {
    /// Mappings, over all protocols.
    pub mappings: u32,
    /// External ports of each protocol.
    pub ports: u32,
}

/// What a guest has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MappingCounts {
    /// Mappings, over all protocols.
    pub mappings: u32,
    /// External ports of each protocol, by [`class`].
    ports: [u32; CLASSES],
}

impl MappingCounts {
    /// External ports of `protocol`. SCTP, DCCP and UDP-Lite are counted together.
    #[must_use]
    pub fn ports(&self, protocol: Protocol) -> u32 {
        self.ports[class(protocol)]
    }

    /// Whether `limits` allow one more mapping of `protocol`.
    #[must_use]
    pub fn may_grow(&self, protocol: Protocol, limits: MappingLimits) -> bool {
        let has_room = |count, limit| limit == 0 || count < limit;
        has_room(self.mappings, limits.mappings) && has_room(self.ports(protocol), limits.ports)
    }

    /// Counts one mapping more.
    pub fn grow(&mut self, protocol: Protocol) {
        self.mappings += 1;
        self.ports[class(protocol)] += 1;
    }

    /// Counts one mapping less.
    pub fn shrink(&mut self, protocol: Protocol) {
        let ports = &mut self.ports[class(protocol)];
        *ports = ports.saturating_sub(1);
        self.mappings = self.mappings.saturating_sub(1);
    }
}

/// Protocols that are counted apart.
const CLASSES: usize = 4;

const fn class(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 0,
        Protocol::UDP => 1,
        Protocol::ICMP => 2,
        _ => 3,
    }
}
