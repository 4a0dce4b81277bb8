//! Sessions that follow from a number.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, FlowKey, Generation, Protocol, Realm, RuleId};
use crate::next_hop::NextHopId;
use crate::session::entry::{NewSession, SessionKind};

/// A seed for tables.
pub const SEED: [u64; 4] = [1, 2, 3, 4];

/// A source-NAT session that follows from `number` alone, each of its fields.
pub fn session(number: u32, protocol: Protocol) -> NewSession {
    let guest =
        Endpoint::new(Ipv4Addr::from_bits(0x0a01_0000 | number & 0xffff), (number >> 3) as u16 | 1);
    let remote = Endpoint::new(Ipv4Addr::from_bits(0xc633_0000 | number >> 8 & 0xffff), 443);
    let external =
        Endpoint::new(Ipv4Addr::from_bits(0xcb00_7100 | number >> 16 & 0xff), number as u16);
    let realm = Realm::from_raw((number % 5 + 1) as u16);
    NewSession {
        initiator: FlowKey { realm, protocol, source: guest, destination: remote },
        responder: FlowKey {
            realm: Realm::External,
            protocol,
            source: remote,
            destination: external,
        },
        initiator_next_hop: NextHopId(number & 0xff_ffff),
        responder_next_hop: NextHopId(!number & 0xff_ffff),
        rule: RuleId(number.wrapping_mul(7) & 0xff_ffff),
        generation: Generation(number as u16),
        kind: SessionKind::SourceNat,
        source_mapped: number.is_multiple_of(2),
        target_mapped: number.is_multiple_of(3),
    }
}
