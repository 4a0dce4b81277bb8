//! One direction of a session: a cache line.

use crate::flow::{FlowKey, Generation, RuleId};
use crate::next_hop::NextHopId;

/// A session about to be remembered.
///
/// Both directions follow from the two keys: a packet of `initiator` leaves as the reverse of
/// `responder`, and the other way round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewSession {
    /// The key of packets in the direction of the first packet, as they arrive.
    pub initiator: FlowKey,
    /// The key of packets in the other direction, as they arrive.
    pub responder: FlowKey,
    /// Where packets of the initiator's direction go.
    pub initiator_next_hop: NextHopId,
    /// Where packets of the responder's direction go.
    pub responder_next_hop: NextHopId,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// The policy it was decided under.
    pub generation: Generation,
    /// What kind of translation it is.
    pub kind: SessionKind,
    /// Whether a mapping's reference must be given back when it ends.
    pub mapped: bool,
}

/// How a session is translated; with the keys it says everything.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum SessionKind {
    /// Inbound to a public endpoint served by a port forward, load balancer, static NAT or mapping.
    Inbound,
    /// From a guest, through a public endpoint, to a guest: twice NAT.
    Hairpin,
    /// Between networks of one realm, or exempt from NAT: nothing changes but link addresses.
    Routed,
    /// Outbound through source NAT with a mapping.
    SourceNat,
    /// Outbound through static NAT.
    StaticNat,
}

/// Place of an entry in the table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EntryIndex(pub u32);
