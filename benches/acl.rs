//! What filters cost: a decision by the number of rules, and compiling them.
//!
//! `cargo bench --bench acl`. Each decision waits for the one before, as a new session's would, so
//! the figures are latencies. `scan` is the same rules read one after the other.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use natwerk::config::{
    ChecksumMode, Config, Interface, OnRuleRemoval, Role, Sessions, Workers, XdpMode,
};
use natwerk::flow::{Generation, Protocol, RuleId};
use natwerk::policy::compile::compile;
use natwerk::policy::filter::{Decided, Filter, FilterRule, Probe};
use natwerk::policy::registry::Registry;
use natwerk::rules::diagnostic::Place;
use natwerk::rules::set::{Action, Cidr, FirewallRule, Match, PortRange, PublicIp, RuleSet};
use natwerk::session::timeout::Timeouts;

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn address(&mut self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.next() as u32)
    }

    /// Mostly /24 and /32, as tenants write them, with wide prefixes around some of them.
    fn cidr(&mut self) -> Cidr {
        // A thousand sites of a /12 each, so that prefixes nest.
        let site = (self.below(1000) as u32) << 20;
        let address = Ipv4Addr::from_bits(site | self.next() as u32 & 0x000f_ffff);
        let length = match self.below(10) {
            0 => 12 + self.below(4) as u8,
            1 => 16 + self.below(8) as u8,
            2..=5 => 24,
            6 => 25 + self.below(7) as u8,
            _ => 32,
        };
        Cidr::containing(address, length)
    }

    fn matches(&mut self) -> Match {
        let all = Match { protocol: None, ports: None, icmp_type: None, icmp_code: None };
        let ports = match self.below(4) {
            0 => None,
            1 => {
                let first = 1 + self.below(60_000) as u16;
                PortRange::new(first, first + self.below(2_000) as u16).ok()
            }
            _ => {
                let port = 1 + self.below(10_000) as u16;
                PortRange::new(port, port).ok()
            }
        };
        match self.below(10) {
            0 => Match { protocol: Some(Protocol::ICMP), icmp_type: Some(8), ..all },
            1 => Match { protocol: Some(Protocol::GRE), ..all },
            2..=4 => Match { protocol: Some(Protocol::UDP), ports, ..all },
            _ => Match { protocol: Some(Protocol::TCP), ports, ..all },
        }
    }
}

/// Which addresses rules name.
#[derive(Clone, Copy)]
enum Shape {
    /// Sources, as firewalls and ingress ACLs do; one in twenty is for all.
    Firewall,
    /// Both, each in three of four rules.
    Mixed,
    /// Ports alone.
    Ports,
}

struct Rule {
    matches: Match,
    sources: Vec<Cidr>,
    destinations: Vec<Cidr>,
}

fn rules(shape: Shape, count: usize) -> Vec<Rule> {
    let mut numbers = Numbers(count as u64);
    let rule = |_| {
        let (sources, destinations) = match shape {
            Shape::Firewall => (numbers.below(20) != 0, false),
            Shape::Mixed => (numbers.below(4) != 0, numbers.below(4) != 0),
            Shape::Ports => (false, false),
        };
        let mut matches = numbers.matches();
        if !sources && !destinations && matches.ports.is_none() {
            // A rule for everything would end the list.
            matches.protocol = Some(Protocol::TCP);
            (matches.ports, matches.icmp_type) = (PortRange::new(7, 7).ok(), None);
        }
        Rule {
            matches,
            sources: (0..u64::from(sources)).map(|_| numbers.cidr()).collect(),
            destinations: (0..u64::from(destinations)).map(|_| numbers.cidr()).collect(),
        }
    };
    (0..count).map(rule).collect()
}

fn filter(rules: &[Rule]) -> Filter {
    let rules: Vec<FilterRule<'_>> = (1..)
        .zip(rules)
        .map(|(id, rule)| FilterRule {
            decided: Decided { action: Action::Allow, rule: RuleId(id) },
            matches: rule.matches,
            sources: &rule.sources,
            destinations: &rule.destinations,
        })
        .collect();
    Filter::new(&rules, Decided { action: Action::Deny, rule: RuleId::DEFAULT })
}

/// Probes of which half are made to match some rule.
fn probes(rules: &[Rule]) -> Vec<Probe> {
    let mut numbers = Numbers(42);
    let probe = |place| {
        let mut probe = Probe {
            protocol: if numbers.below(3) == 0 { Protocol::UDP } else { Protocol::TCP },
            source: numbers.address(),
            destination: numbers.address(),
            port: 1 + numbers.below(10_000) as u16,
            icmp: (8, 0),
        };
        if place % 2 == 0 && !rules.is_empty() {
            let rule = &rules[numbers.below(rules.len() as u64) as usize];
            probe.protocol = rule.matches.protocol.unwrap_or(probe.protocol);
            probe.port = rule.matches.ports.map_or(probe.port, |ports| ports.last());
            probe.source = rule.sources.first().map_or(probe.source, Cidr::last);
            probe.destination = rule.destinations.first().map_or(probe.destination, Cidr::last);
        }
        probe
    };
    (0..PROBE_COUNT).map(probe).collect()
}

fn scan(rules: &[Rule], probe: &Probe) -> Option<usize> {
    let inside = |cidrs: &[Cidr], address| {
        cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(address))
    };
    rules.iter().position(|rule| {
        rule.matches.protocol.is_none_or(|protocol| protocol == probe.protocol)
            && rule.matches.ports.is_none_or(|ports| ports.contains(probe.port))
            && rule.matches.icmp_type.is_none_or(|kind| kind == probe.icmp.0)
            && inside(&rule.sources, probe.source)
            && inside(&rule.destinations, probe.destination)
    })
}

fn classify(criterion: &mut Criterion) {
    let shapes = [("firewall", Shape::Firewall), ("mixed", Shape::Mixed), ("ports", Shape::Ports)];
    for (name, shape) in shapes {
        let mut group = criterion.benchmark_group(format!("classify/{name}"));
        for count in [0, 10, 100, 1_000, 10_000, 100_000] {
            let rules = rules(shape, count);
            let probes = probes(&rules);
            let filter = filter(&rules);
            println!("{name}/{count}: {} bytes", filter.bytes());
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                let mut place = 0;
                bencher.iter(|| {
                    let decided = filter.decide(black_box(&probes[place % PROBE_COUNT]));
                    // No rule has this bit: the next probe is known when this one is decided.
                    place += 1 + (black_box(decided.rule.0) >> 31) as usize;
                });
            });
        }
        for count in [10, 1_000] {
            let rules = rules(shape, count);
            let probes = probes(&rules);
            group.bench_function(BenchmarkId::new("scan", count), |bencher| {
                let mut place = 0;
                bencher.iter(|| {
                    let found = scan(&rules, black_box(&probes[place % PROBE_COUNT]));
                    place += 1 + black_box(found.unwrap_or(0)) / usize::MAX;
                });
            });
        }
        group.finish();
    }
}

/// `count` firewall rules over as many as a thousand addresses.
fn rule_set(count: usize) -> RuleSet {
    let place = Place { file: Arc::from("bench"), line: 1, column: 1 };
    let addresses = count.min(1_000);
    let address = |place: usize| Ipv4Addr::from_bits(0xcb00_0000 + (place % addresses) as u32);
    let public_ip = |number| PublicIp {
        address: address(number),
        prefix_len: 20,
        interface: "eth2".to_owned(),
        vlan: 0,
        gateway: None,
        ingress_default: Action::Deny,
        firewall_before_acl: false,
        echo_reply: None,
        place: place.clone(),
    };
    let rule = |(number, rule): (usize, Rule)| FirewallRule {
        id: format!("f{number}"),
        public_ip: address(number),
        action: Action::Allow,
        matches: rule.matches,
        sources: rule.sources,
        place: place.clone(),
    };
    RuleSet {
        public_ips: (0..addresses).map(public_ip).collect(),
        firewall_rules: rules(Shape::Firewall, count).into_iter().enumerate().map(rule).collect(),
        ..RuleSet::default()
    }
}

fn config() -> Config {
    Config {
        rules: Vec::new(),
        state_dir: "/run/natwerk".into(),
        control_socket: "/run/natwerk/control.sock".into(),
        metrics_listen: None,
        manage_addresses: false,
        sources: natwerk::rules::sources::Options::default(),
        interfaces: vec![Interface {
            name: "eth2".to_owned(),
            role: Role::Public,
            checksum: ChecksumMode::DetectPartial,
            kernel_vlans: Vec::new(),
        }],
        workers: Workers {
            count: None,
            mode: XdpMode::Auto,
            hook: natwerk::config::Hook::Auto,
            spin: false,
            frames: 4096,
            shortcuts: None,
            on_stop: natwerk::config::OnStop::Release,
        },
        sessions: Sessions {
            max: 1024,
            max_ipv6: 1024,
            per_guest: 0,
            ports_per_guest: 0,
            on_rule_removal: OnRuleRemoval::End,
        },
        timeouts: Timeouts::default(),
        events: None,
        icmp_errors_per_second: 0,
    }
}

fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    let config = config();
    for count in [100, 1_000, 10_000, 100_000] {
        let rules = rule_set(count);
        // Reloads find their numbers; the first compilation makes them.
        let mut registry = Registry::new();
        let policy = compile(&rules, &config, &mut registry, Generation(1));
        println!("compile/{count}: {} bytes of filters", policy.filter_bytes());
        group.bench_function(BenchmarkId::new("first", count), |bencher| {
            bencher.iter(|| compile(&rules, &config, &mut Registry::new(), Generation(1)));
        });
        group.bench_function(BenchmarkId::new("reload", count), |bencher| {
            bencher.iter(|| compile(&rules, &config, &mut registry, Generation(2)));
        });
        let one_filter = self::rules(Shape::Mixed, count);
        group.bench_function(BenchmarkId::new("one mixed filter", count), |bencher| {
            bencher.iter(|| filter(&one_filter));
        });
    }
    group.finish();
}

const PROBE_COUNT: usize = 8192;

criterion_group!(benches, classify, compiling);
criterion_main!(benches);
