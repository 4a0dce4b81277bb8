//! Filters: ordered rules compiled so that the first match is found without a scan.
//!
//! A rule is a set of boxes in three dimensions: destination prefixes, source prefixes, and
//! services. A service is a 24-bit number, the protocol above the port (or above ICMP type and
//! code), so that protocol, port range and ICMP message are one interval.
//!
//! The filter is a tree of three levels, one per dimension. A level groups its rules by prefix: a
//! node is a prefix with the next level of the rules written for just this prefix, and a link to
//! the prefix around it. A probe finds its innermost prefix by one search and follows the links
//! outward; the last level maps the service straight to the first rule that takes it. Each node
//! knows the earliest rule in and around it, so the walk ends as soon as nothing earlier can come.
//! Rules are compiled in their number, whatever they overlap: memory is linear in the
//! sources times destinations that rules name.

use std::net::Ipv4Addr;

use crate::flow::{Protocol, RuleId};
use crate::policy::intervals::{Intervals, NOTHING, Span, paint};
use crate::policy::prefixes::nest;
use crate::rules::set::{Action, Cidr, Match};

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
    /// Whose rule it was: of a default, the number of the network's or address's default, or
    /// [`RuleId::DEFAULT`] where it has none.
    pub rule: RuleId,
}

/// A rule for a filter.
#[derive(Clone, Copy, Debug)]
pub struct FilterRule<'a> {
    /// What it decides.
    pub decided: Decided,
    /// The transport part. Ports match only protocols with ports (ICMP has none here), an ICMP
    /// type or code matches only ICMP.
    pub matches: Match,
    /// Sources; empty means all.
    pub sources: &'a [Cidr],
    /// Destinations; empty means all.
    pub destinations: &'a [Cidr],
}

/// Ordered rules with a default behind them.
#[derive(Clone, Debug)]
pub struct Filter {
    default: Decided,
    rules: Box<[Decided]>,
    nodes: Box<[Node]>,
    intervals: Intervals,
    destinations: Span,
}

/// A prefix of a level.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The next level of the rules at this prefix.
    next: Span,
    /// The node of the prefix around this one.
    around: u32,
    /// The earliest rule at this prefix.
    first: u32,
    /// The earliest rule at this prefix and those around it.
    first_around: u32,
}

impl Filter {
    /// The filter of `rules` in their order, with `default` behind them.
    #[must_use]
    pub fn new(rules: &[FilterRule<'_>], default: Decided) -> Self {
        let mut builder = Builder::default();
        let pieces = pieces(rules);
        let destinations = builder.level(&pieces, Level::Destination);
        builder.intervals.shrink();
        Self {
            default,
            rules: rules.iter().map(|rule| rule.decided).collect(),
            nodes: builder.nodes.into(),
            intervals: builder.intervals,
            destinations,
        }
    }

    /// The first match, or the default.
    #[must_use]
    pub fn decide(&self, probe: &Probe) -> Decided {
        let service = service(probe);
        let mut earliest = NOTHING;
        let mut outer = self.node(self.destinations, probe.destination);
        while let Some(destination) = outer.filter(|node| node.first_around < earliest) {
            let mut inner = match destination.first < earliest {
                true => self.node(destination.next, probe.source),
                false => None,
            };
            while let Some(source) = inner.filter(|node| node.first_around < earliest) {
                if source.first < earliest {
                    earliest = earliest.min(self.intervals.find(source.next, service));
                }
                inner = self.nodes.get(source.around as usize);
            }
            outer = self.nodes.get(destination.around as usize);
        }
        self.rules.get(earliest as usize).copied().unwrap_or(self.default)
    }

    /// What happens to what no rule matches.
    #[must_use]
    pub const fn default_decision(&self) -> Decided {
        self.default
    }

    /// How many rules.
    #[must_use]
    pub const fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.rules)
            + size_of_val(&*self.nodes)
            + self.intervals.bytes()
    }

    /// The innermost node that `address` is in.
    fn node(&self, level: Span, address: Ipv4Addr) -> Option<&Node> {
        self.nodes.get(self.intervals.find(level, address.to_bits()) as usize)
    }
}

/// The number of what a probe asks for, as [`services`] numbers them.
fn service(probe: &Probe) -> u32 {
    let detail = match probe.protocol {
        Protocol::ICMP => u16::from_be_bytes([probe.icmp.0, probe.icmp.1]),
        protocol if protocol.has_ports() => probe.port,
        _ => 0,
    };
    u32::from(probe.protocol.0) << 16 | u32::from(detail)
}

/// The first and last numbers of the services a rule is about.
fn services(matches: &Match) -> Vec<(u32, u32)> {
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
        (None | Some(Protocol::ICMP), None, Some(kind), code) => vec![within(
            Protocol::ICMP,
            icmp(kind, code.unwrap_or(0)),
            icmp(kind, code.unwrap_or(u8::MAX)),
        )],
        (None | Some(Protocol::ICMP), None, None, Some(code)) => (0..=u8::MAX)
            .map(|kind| within(Protocol::ICMP, icmp(kind, code), icmp(kind, code)))
            .collect(),
        // Ports together with an ICMP message, or that of a protocol that is not ICMP.
        (_, _, Some(_), _) | (_, _, _, Some(_)) => Vec::new(),
    }
}

/// A box of a rule.
#[derive(Clone, Copy, Debug)]
struct Piece {
    rule: u32,
    destination: Cidr,
    source: Cidr,
    service: (u32, u32),
}

fn pieces(rules: &[FilterRule<'_>]) -> Vec<Piece> {
    let or_any = |cidrs: &[Cidr]| match cidrs {
        [] => vec![Cidr::ANY],
        _ => cidrs.to_vec(),
    };
    let mut pieces = Vec::with_capacity(rules.len());
    for (rule, filter_rule) in (0..).zip(rules) {
        let services = services(&filter_rule.matches);
        let sources = or_any(filter_rule.sources);
        for destination in or_any(filter_rule.destinations) {
            for &source in &sources {
                pieces.extend(services.iter().map(|&service| Piece {
                    rule,
                    destination,
                    source,
                    service,
                }));
            }
        }
    }
    pieces
}

/// A dimension, from the outside in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Level {
    Destination,
    Source,
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    intervals: Intervals,
}

impl Builder {
    /// Adds a level and those below it. Pieces come in the order of their rules.
    fn level(&mut self, pieces: &[Piece], level: Level) -> Span {
        let prefix = |piece: &Piece| match level {
            Level::Destination => piece.destination,
            Level::Source => piece.source,
        };
        let mut pieces = pieces.to_vec();
        pieces.sort_by_key(prefix);
        let groups: Vec<&[Piece]> = pieces.chunk_by(|a, b| prefix(a) == prefix(b)).collect();
        let prefixes: Vec<Cidr> =
            groups.iter().filter_map(|group| group.first()).map(prefix).collect();
        let nesting = nest(&prefixes);

        let first_node = self.nodes.len();
        let node_of = |place: u32| match place {
            NOTHING => NOTHING,
            place => u32::try_from(first_node + place as usize).unwrap_or(NOTHING),
        };
        // Nodes of a level lie side by side, so they come before the levels below them.
        for (group, &parent) in groups.iter().zip(&nesting.parents) {
            let first = group.first().map_or(NOTHING, |piece| piece.rule);
            let around = node_of(parent);
            let first_around =
                self.nodes.get(around as usize).map_or(first, |node| node.first_around.min(first));
            self.nodes.push(Node { next: Span::default(), around, first, first_around });
        }
        for (place, group) in groups.iter().enumerate() {
            self.nodes[first_node + place].next = match level {
                Level::Destination => self.level(group, Level::Source),
                Level::Source => self.services(group),
            };
        }
        let intervals: Vec<(u32, u32)> =
            nesting.intervals.iter().map(|&(start, place)| (start, node_of(place))).collect();
        self.intervals.push(&intervals)
    }

    fn services(&mut self, pieces: &[Piece]) -> Span {
        let pieces: Vec<(u32, u32, u32)> =
            pieces.iter().map(|piece| (piece.service.0, piece.service.1, piece.rule)).collect();
        self.intervals.push(&paint(&pieces))
    }
}

/// Protocols whose ports a rule may name. An ICMP identifier is no port to a filter.
const WITH_PORTS: [Protocol; 5] =
    [Protocol::TCP, Protocol::UDP, Protocol::DCCP, Protocol::SCTP, Protocol::UDP_LITE];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::set::PortRange;

    #[derive(Clone, Debug)]
    struct Written {
        action: Action,
        matches: Match,
        sources: Vec<Cidr>,
        destinations: Vec<Cidr>,
    }

    /// The rules read one after the other, as a person would.
    fn scan(rules: &[Written], probe: &Probe) -> Option<usize> {
        let ported = probe.protocol.has_ports() && probe.protocol != Protocol::ICMP;
        rules.iter().position(|rule| {
            let matches = &rule.matches;
            let inside = |cidrs: &[Cidr], address| {
                cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(address))
            };
            let icmp = probe.protocol == Protocol::ICMP;
            matches.protocol.is_none_or(|protocol| protocol == probe.protocol)
                && matches.ports.is_none_or(|ports| ported && ports.contains(probe.port))
                && matches.icmp_type.is_none_or(|kind| icmp && kind == probe.icmp.0)
                && matches.icmp_code.is_none_or(|code| icmp && code == probe.icmp.1)
                && inside(&rule.sources, probe.source)
                && inside(&rule.destinations, probe.destination)
        })
    }

    fn default() -> Decided {
        Decided { action: Action::Deny, rule: RuleId(999_999) }
    }

    fn filter(rules: &[Written]) -> Filter {
        let rules: Vec<FilterRule<'_>> = (1..)
            .zip(rules)
            .map(|(id, rule)| FilterRule {
                decided: Decided { action: rule.action, rule: RuleId(id) },
                matches: rule.matches,
                sources: &rule.sources,
                destinations: &rule.destinations,
            })
            .collect();
        Filter::new(&rules, default())
    }

    fn expected(rules: &[Written], probe: &Probe) -> Decided {
        scan(rules, probe).map_or(default(), |place| Decided {
            action: rules[place].action,
            rule: RuleId(u32::try_from(place).unwrap() + 1),
        })
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![
            4 => Just(Protocol::TCP),
            3 => Just(Protocol::UDP),
            3 => Just(Protocol::ICMP),
            1 => Just(Protocol::SCTP),
            1 => Just(Protocol::GRE),
            1 => any::<u8>().prop_map(Protocol),
        ]
    }

    fn address() -> impl Strategy<Value = Ipv4Addr> {
        prop_oneof![
            6 => (0_u32..1024).prop_map(|low| Ipv4Addr::from_bits(0x0a01_0000 | low)),
            1 => any::<u32>().prop_map(Ipv4Addr::from_bits),
            1 => Just(Ipv4Addr::BROADCAST),
            1 => Just(Ipv4Addr::UNSPECIFIED),
        ]
    }

    fn cidr() -> impl Strategy<Value = Cidr> {
        let length = prop_oneof![1 => 0_u8..=32, 4 => 20_u8..=32];
        (address(), length).prop_map(|(address, length)| Cidr::containing(address, length))
    }

    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![4 => 1_u16..60, 1 => 65530_u16..=65535, 1 => 1_u16..=65535]
    }

    fn matches() -> impl Strategy<Value = Match> {
        let ports = (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap());
        let detail = prop_oneof![
            2 => Just((None, None, None)),
            4 => ports.prop_map(|ports| (Some(ports), None, None)),
            2 => (0_u8..4, prop::option::of(0_u8..4))
                .prop_map(|(kind, code)| (None, Some(kind), code)),
            1 => (0_u8..4).prop_map(|code| (None, None, Some(code))),
        ];
        (prop::option::weighted(0.8, protocol()), detail).prop_map(
            |(protocol, (ports, icmp_type, icmp_code))| Match {
                protocol,
                ports,
                icmp_type,
                icmp_code,
            },
        )
    }

    fn written() -> impl Strategy<Value = Written> {
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
        let cidrs = || prop::collection::vec(cidr(), 0..4);
        (action, matches(), cidrs(), cidrs()).prop_map(
            |(action, matches, sources, destinations)| Written {
                action,
                matches,
                sources,
                destinations,
            },
        )
    }

    fn probe() -> impl Strategy<Value = Probe> {
        let port = prop_oneof![8 => port(), 1 => Just(0)];
        (protocol(), address(), address(), port, (0_u8..5, 0_u8..5)).prop_map(
            |(protocol, source, destination, port, icmp)| Probe {
                protocol,
                source,
                destination,
                port,
                icmp,
            },
        )
    }

    /// Probes at the edges of a rule: just inside and just outside.
    fn edges(rule: &Written) -> Vec<Probe> {
        let around = |cidrs: &[Cidr]| -> Vec<Ipv4Addr> {
            let cidr = cidrs.first().copied().unwrap_or(Cidr::ANY);
            let (first, last) = (cidr.first().to_bits(), cidr.last().to_bits());
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(Ipv4Addr::from_bits)
                .to_vec()
        };
        let ports = rule.matches.ports.unwrap_or(PortRange::ALL);
        let mut probes = Vec::new();
        for source in around(&rule.sources) {
            for destination in around(&rule.destinations) {
                for port in
                    [ports.first() - 1, ports.first(), ports.last(), ports.last().wrapping_add(1)]
                {
                    probes.push(Probe {
                        protocol: rule.matches.protocol.unwrap_or(Protocol::UDP),
                        source,
                        destination,
                        port,
                        icmp: (
                            rule.matches.icmp_type.unwrap_or(3),
                            rule.matches.icmp_code.unwrap_or(1),
                        ),
                    });
                }
            }
        }
        probes
    }

    proptest! {
        #[test]
        fn a_filter_decides_as_a_scan_does(
            rules in prop::collection::vec(written(), 0..60),
            probes in prop::collection::vec(probe(), 100),
        ) {
            let filter = filter(&rules);
            for probe in rules.iter().flat_map(edges).chain(probes) {
                prop_assert_eq!(filter.decide(&probe), expected(&rules, &probe), "{:?}", probe);
            }
        }
    }

    #[test]
    fn an_empty_filter_is_its_default() {
        let probe = Probe {
            protocol: Protocol::TCP,
            source: Ipv4Addr::BROADCAST,
            destination: Ipv4Addr::UNSPECIFIED,
            port: 0,
            icmp: (0, 0),
        };
        assert_eq!(filter(&[]).decide(&probe), default());
    }

    #[test]
    fn ports_match_nothing_without_ports() {
        let rule = Written {
            action: Action::Allow,
            matches: Match {
                protocol: None,
                ports: Some(PortRange::ALL),
                icmp_type: None,
                icmp_code: None,
            },
            sources: Vec::new(),
            destinations: Vec::new(),
        };
        let filter = filter(&[rule]);
        let decide = |protocol| {
            let address = Ipv4Addr::LOCALHOST;
            let probe =
                Probe { protocol, source: address, destination: address, port: 80, icmp: (8, 0) };
            filter.decide(&probe).action
        };
        assert_eq!(decide(Protocol::TCP), Action::Allow);
        assert_eq!(decide(Protocol::SCTP), Action::Allow);
        assert_eq!(decide(Protocol::GRE), Action::Deny);
        assert_eq!(decide(Protocol::ICMP), Action::Deny);
    }
}
