//! Claims about filters; a scan of the rules as they were written is the reference.

use std::net::Ipv6Addr;

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
    let ported = probe.protocol.has_ports() && !probe.protocol.is_icmp();
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
        |(protocol, (ports, icmp_type, icmp_code))| Match { protocol, ports, icmp_type, icmp_code },
    )
}

fn written() -> impl Strategy<Value = Written> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let cidrs = || prop::collection::vec(cidr(), 0..4);
    (action, matches(), cidrs(), cidrs()).prop_map(|(action, matches, sources, destinations)| {
        Written { action, matches, sources, destinations }
    })
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
        [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(Ipv4Addr::from_bits).to_vec()
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
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_filter_decides_as_a_scan_does(
        rules in prop::collection::vec(written(), 0..60),
        probes in prop::collection::vec(probe(), 100),
    ) {
        let filter = filter(&rules);
        for probe in rules.iter().step_by(7).flat_map(edges).chain(probes) {
            prop_assert_eq!(filter.decide(&probe), expected(&rules, &probe), "{:?}", probe);
        }
    }
}

/// An IPv4 address, somewhere in the middle of an IPv6 one.
fn wide(address: Ipv4Addr) -> Ipv6Addr {
    let [low, high] = [0x7, 0x2001_0db8_0000 << 80];
    Ipv6Addr::from_bits(high | u128::from(address.to_bits()) << 40 | low)
}

fn wide_cidr(cidr: &Cidr) -> Cidr<Ipv6Addr> {
    match *cidr {
        Cidr::ANY => Cidr::ANY,
        cidr => Cidr::containing(wide(cidr.first()), 56 + cidr.length()),
    }
}

/// ICMP's number in the other family.
fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::ICMP => Protocol::ICMPV6,
        Protocol::ICMPV6 => Protocol::ICMP,
        protocol => protocol,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_filter_of_ipv6_decides_as_one_of_ipv4_does(
        rules in prop::collection::vec(written(), 0..60),
        probes in prop::collection::vec(probe(), 100),
    ) {
        let wide_cidrs = |cidrs: &[Cidr]| -> Vec<_> { cidrs.iter().map(wide_cidr).collect() };
        let cidrs: Vec<_> = rules
            .iter()
            .map(|rule| (wide_cidrs(&rule.sources), wide_cidrs(&rule.destinations)))
            .collect();
        let wide_rules: Vec<FilterRule<'_, Ipv6Addr>> = (1..)
            .zip(rules.iter().zip(&cidrs))
            .map(|(id, (rule, (sources, destinations)))| FilterRule {
                decided: Decided { action: rule.action, rule: RuleId(id) },
                matches: Match { protocol: rule.matches.protocol.map(other), ..rule.matches },
                sources,
                destinations,
            })
            .collect();
        let filter = Filter::new(&wide_rules, default());
        for probe in rules.iter().step_by(7).flat_map(edges).chain(probes) {
            let wide_probe = Probe {
                protocol: other(probe.protocol),
                source: wide(probe.source),
                destination: wide(probe.destination),
                port: probe.port,
                icmp: probe.icmp,
            };
            prop_assert_eq!(filter.decide(&wide_probe), expected(&rules, &probe), "{:?}", probe);
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
