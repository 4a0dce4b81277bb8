//! Services as numbers: protocol, port and ICMP message in one dimension.

use crate::flow::{Family, Protocol};
use crate::policy::filter::Probe;
use crate::rules::set::Match;

/// The number of what a probe asks for, as [`services`] numbers them.
pub(super) fn service<A: Family>(probe: &Probe<A>) -> u32 {
    let [port, icmp] = DETAIL_MASKS[usize::from(probe.protocol.0)];
    let message = u16::from_be_bytes([probe.icmp.0, probe.icmp.1]);
    u32::from(probe.protocol.0) << 16 | u32::from(probe.port & port | message & icmp)
}

/// The first and last numbers of the services a rule is about.
pub(super) fn services<A: Family>(matches: &Match) -> Vec<(u32, u32)> {
    // An ICMP message is one of the rule's family: types have other meanings in the other.
    let of_family = Protocol(A::ICMP);
    let within = |protocol: Protocol, first: u16, last: u16| {
        let base = u32::from(protocol.0) << 16;
        (base | u32::from(first), base | u32::from(last))
    };
    let icmp = |kind: u8, code: u8| u16::from_be_bytes([kind, code]);
    match (matches.protocol, matches.ports, matches.icmp_type, matches.icmp_code) {
        (None, None, None, None) => vec![(0, 0x00ff_ffff)],
        (Some(protocol), None, None, None) => vec![within(protocol, 0, u16::MAX)],
        (protocol, Some(ports), None, None) => WITH_PORTS
            .into_iter()
            .filter(|with_ports| protocol.is_none_or(|protocol| protocol == *with_ports))
            .map(|protocol| within(protocol, ports.first(), ports.last()))
            .collect(),
        (protocol, None, Some(kind), code) if protocol.is_none_or(|it| it == of_family) => {
            vec![within(
                of_family,
                icmp(kind, code.unwrap_or(0)),
                icmp(kind, code.unwrap_or(u8::MAX)),
            )]
        }
        (protocol, None, None, Some(code)) if protocol.is_none_or(|it| it == of_family) => (0
            ..=u8::MAX)
            .map(|kind| within(of_family, icmp(kind, code), icmp(kind, code)))
            .collect(),
        // Ports together with an ICMP message, or that of a protocol that is not ICMP.
        (_, _, Some(_), _) | (_, _, _, Some(_)) => Vec::new(),
    }
}

/// By protocol: which bits of the port and of the ICMP message belong to its service. A table,
/// because a branch on the protocol of a new session is often mispredicted.
const DETAIL_MASKS: [[u16; 2]; 256] = {
    let mut masks = [[0, 0]; 256];
    let mut number = 0;
    while number < WITH_PORTS.len() {
        masks[WITH_PORTS[number].0 as usize] = [u16::MAX, 0];
        number += 1;
    }
    masks[Protocol::ICMP.0 as usize] = [0, u16::MAX];
    masks[Protocol::ICMPV6.0 as usize] = [0, u16::MAX];
    masks
};

/// Protocols whose ports a rule may name. An ICMP identifier is no port to a filter.
const WITH_PORTS: [Protocol; 5] =
    [Protocol::TCP, Protocol::UDP, Protocol::DCCP, Protocol::SCTP, Protocol::UDP_LITE];
