//! Which ports a pool address may give out, and in what order they are preferred.

use std::ops::RangeInclusive;

use super::{Pool, PoolAddress};
use crate::flow::Protocol;

/// Ports below this one are well known and stay among themselves (RFC 4787, REQ-3a).
const WELL_KNOWN_END: u16 = 1024;

/// Ports in a word of the occupancy bitmap.
pub(super) const WORD_PORTS: u16 = 64;

/// The ports that one pool address may give out for one protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed<'p> {
    protocol: Protocol,
    first: u16,
    last: u16,
    reserved: &'p [(Protocol, RangeInclusive<u16>)],
}

/// Which ports of a range are wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Parity {
    /// Even and odd ones.
    Any,
    /// Even ones.
    Even,
    /// Odd ones.
    Odd,
}

impl Parity {
    /// The parity of a port.
    pub(super) const fn of(port: u16) -> Self {
        if port & 1 == 0 { Self::Even } else { Self::Odd }
    }

    /// `port`, or its neighbour within the pair `2n, 2n + 1` that has this parity.
    pub(super) const fn nearest(self, port: u16) -> u16 {
        match self {
            Self::Any => port,
            Self::Even => port & !1,
            Self::Odd => port | 1,
        }
    }

    /// The places of such ports in a word of 64.
    pub(super) const fn bits(self) -> u64 {
        match self {
            Self::Any => u64::MAX,
            Self::Even => 0x5555_5555_5555_5555,
            Self::Odd => 0xaaaa_aaaa_aaaa_aaaa,
        }
    }
}

/// One round of a search: a range that is not empty, and the parity wanted in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pass {
    /// The first port.
    pub(super) first: u16,
    /// The last port.
    pub(super) last: u16,
    /// The parity.
    pub(super) parity: Parity,
}

impl Pass {
    fn new(first: u16, last: u16, parity: Parity) -> Option<Self> {
        (first <= last).then_some(Self { first, last, parity })
    }

    /// Whether `port` is in the range, whatever its parity.
    pub(super) const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// A port of the range, evenly chosen by `random`; its parity is not looked at.
    pub(super) fn port(&self, random: u32) -> u16 {
        let count = u64::from(self.last - self.first) + 1;
        // The product's high half is below `count`, so the sum stays in the range.
        self.first + ((u64::from(random) * count) >> 32) as u16
    }

    /// The port of the wanted parity that `random` chooses. It may be the neighbour of the range's end.
    pub(super) fn drawn(&self, random: u64) -> u16 {
        self.parity.nearest(self.port(random as u32))
    }
}

impl<'p> Allowed<'p> {
    /// What `address` of `pool` may give out.
    pub(super) fn new(pool: &Pool, address: &'p PoolAddress, protocol: Protocol) -> Self {
        debug_assert!(
            address.reserved.is_sorted_by_key(|(protocol, ports)| (protocol.0, *ports.start())),
            "reserved ports stand in order of protocol and port"
        );
        let first = match (protocol, *pool.ports.start()) {
            // A query identifier is no port: zero is as good as any other (RFC 5508, REQ-1).
            (Protocol::ICMP, 0 | 1) => 0,
            (_, first) => first.max(1),
        };
        Self { protocol, first, last: *pool.ports.end(), reserved: &address.reserved }
    }

    /// Whether `port` may be given out.
    pub(super) fn contains(&self, port: u16) -> bool {
        self.first <= port
            && port <= self.last
            && self.reserved_from(port).next().is_none_or(|ports| *ports.start() > port)
    }

    /// The first and the last word with a port of the range.
    pub(super) const fn words(&self) -> (u16, u16) {
        (self.first / WORD_PORTS, self.last / WORD_PORTS)
    }

    /// The rounds of a search for something like `wanted`, best first.
    pub(super) fn passes(&self, wanted: u16) -> [Option<Pass>; 4] {
        let whole = |parity| Pass::new(self.first, self.last, parity);
        if self.protocol == Protocol::ICMP {
            // Identifiers have neither classes nor parity.
            return [whole(Parity::Any), None, None, None];
        }
        let parity = Parity::of(wanted);
        let class = |parity| {
            if wanted < WELL_KNOWN_END {
                Pass::new(self.first, self.last.min(WELL_KNOWN_END - 1), parity)
            } else {
                Pass::new(self.first.max(WELL_KNOWN_END), self.last, parity)
            }
        };
        // Without a well-known port left, a high one serves. The other way round some servers would
        // take the guest for privileged, so only a pool without any high port does that.
        let beyond = wanted < WELL_KNOWN_END || class(Parity::Any).is_none();
        [
            class(parity),
            class(Parity::Any),
            whole(parity).filter(|_| beyond),
            whole(Parity::Any).filter(|_| beyond),
        ]
    }

    /// The reserved ports of `word`, as bits; and the next word that may have others.
    pub(super) fn reserved_in_word(&self, word: u16) -> (u64, u16) {
        let (start, end) = (word * WORD_PORTS, word * WORD_PORTS + (WORD_PORTS - 1));
        let mut reserved = 0;
        let mut next = word + 1;
        for ports in self.reserved_from(start) {
            if *ports.start() > end {
                break;
            }
            reserved |= bits_between(word, *ports.start(), *ports.end());
            // A long range is stepped over at once.
            next = next.max(ports.end() / WORD_PORTS);
        }
        (reserved, next)
    }

    /// Reserved ranges of the protocol that end at `port` or later.
    fn reserved_from(&self, port: u16) -> impl Iterator<Item = &'p RangeInclusive<u16>> {
        let from = self.reserved.partition_point(|(protocol, ports)| {
            (protocol.0, *ports.end()) < (self.protocol.0, port)
        });
        let protocol = self.protocol;
        self.reserved
            .iter()
            .skip(from)
            .take_while(move |(other, _)| *other == protocol)
            .map(|(_, ports)| ports)
    }
}

/// The ports `first..=last` of `word`, as bits.
pub(super) const fn bits_between(word: u16, first: u16, last: u16) -> u64 {
    let (start, end) = (word * WORD_PORTS, word * WORD_PORTS + (WORD_PORTS - 1));
    if first > end || last < start || first > last {
        return 0;
    }
    let from = if first > start { u64::MAX << (first - start) } else { u64::MAX };
    let to = if last < end { u64::MAX >> (end - last) } else { u64::MAX };
    from & to
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::nat::mappings::MappingBehavior;

    fn pool(ports: RangeInclusive<u16>) -> Pool {
        Pool {
            addresses: Vec::new(),
            ports,
            mapping: MappingBehavior::EndpointIndependent,
            overload: false,
            hold: Duration::ZERO,
        }
    }

    fn address(reserved: &[(Protocol, RangeInclusive<u16>)]) -> PoolAddress {
        PoolAddress { address: Ipv4Addr::new(203, 0, 113, 10), reserved: reserved.to_vec() }
    }

    #[test]
    fn identifiers_may_be_zero_and_ports_may_not() {
        let address = address(&[]);
        let all = pool(1..=65535);
        assert!(Allowed::new(&all, &address, Protocol::ICMP).contains(0));
        assert!(Allowed::new(&all, &address, Protocol::ICMP).contains(65535));
        assert!(!Allowed::new(&all, &address, Protocol::UDP).contains(0));
        assert!(!Allowed::new(&pool(30000..=30999), &address, Protocol::ICMP).contains(0));
    }

    #[test]
    fn a_high_port_becomes_a_well_known_one_only_if_the_pool_has_no_other() {
        let address = address(&[]);
        let all = pool(1..=65535);
        let high = Allowed::new(&all, &address, Protocol::UDP).passes(5060);
        assert!(high.iter().flatten().all(|pass| pass.first == 1024));
        let low = Allowed::new(&all, &address, Protocol::UDP).passes(500);
        assert_eq!(low[0], Pass::new(1, 1023, Parity::Even));
        assert_eq!(low[3], Pass::new(1, 65535, Parity::Any));
        let narrow = Allowed::new(&pool(1..=100), &address, Protocol::UDP).passes(5061);
        assert_eq!(
            narrow,
            [None, None, Pass::new(1, 100, Parity::Odd), Pass::new(1, 100, Parity::Any)]
        );
    }

    proptest! {
        #[test]
        fn words_say_the_same_as_a_look_at_each_port(
            cuts in proptest::collection::btree_set(0u16..2000, 0..40),
            word in 0u16..32,
            first in 0u16..2000,
            length in 0u16..2000,
        ) {
            let mut reserved = vec![(Protocol::TCP, 0..=65535)];
            let cuts: Vec<u16> = cuts.into_iter().collect();
            let ranges = cuts.chunks_exact(2).map(|pair| (Protocol::UDP, pair[0]..=pair[1] - 1));
            reserved.extend(ranges);
            reserved.push((Protocol::SCTP, 0..=65535));
            let address = address(&reserved);
            let all = pool(1..=65535);
            let allowed = Allowed::new(&all, &address, Protocol::UDP);
            let (bits, next) = allowed.reserved_in_word(word);
            let last = first + length;
            for bit in 0..64 {
                let port = word * 64 + bit;
                let listed = reserved.iter().any(|(protocol, ports)| {
                    *protocol == Protocol::UDP && ports.contains(&port)
                });
                prop_assert_eq!(bits >> bit & 1 == 1, listed);
                prop_assert_eq!(allowed.contains(port), port != 0 && !listed);
                let is_between = bits_between(word, first, last) >> bit & 1 == 1;
                prop_assert_eq!(is_between, (first..=last).contains(&port));
            }
            for skipped in word + 1..next {
                prop_assert_eq!(allowed.reserved_in_word(skipped).0, u64::MAX);
            }
        }
    }
}
