//! The router that is measured: one network of many guests or many networks of few, enough public
//! addresses, and rules that new sessions are held against.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::bench::Arguments;
use crate::cli::bench::traffic::{FIRST_GUEST, FIRST_PUBLIC, GATEWAY, GUEST_GATEWAY, Traffic, tag};
use crate::cli::output::Failure;
use crate::config::{ChecksumMode, Config, Interface, Role};
use crate::flow::{Mac, PortId, Protocol};
use crate::next_hop::{Neighbor, NextHops, Resolution};
use crate::pipeline::shared::{Settings, Shared};
use crate::policy::compile::compile;
use crate::policy::publish::Published;
use crate::policy::registry::Registry;
use crate::rules::diagnostic::Place;
use crate::rules::set::{
    Action, Cidr, EgressRule, Limits, Match, NatOptions, Network, PortRange, Prefixes, PublicIp,
    RuleSet,
};
use crate::session::table::Table;

/// The interface of guests.
pub const GUEST: PortId = PortId(0);
/// The public interface.
pub const PUBLIC: PortId = PortId(1);

/// Everything that workers measure together.
pub struct World {
    /// The router.
    pub shared: Arc<Shared>,
    /// Its packets.
    pub traffic: Traffic,
    /// How long the rules took to compile.
    pub compile_time: Duration,
}

/// Sessions that share a public address. Half its ports: neither an easy search nor a hopeless one.
const SESSIONS_PER_ADDRESS: u32 = 32_768;

/// Always the same, so that runs can be compared.
const SEED: [u64; 4] = [0x6e61, 0x7477, 0x6572, 0x6b21];

impl World {
    /// A router for the sessions that `arguments` asks for; none of them is there yet.
    ///
    /// # Errors
    /// When there are more than addresses for them.
    pub fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let traffic = Traffic::new(arguments);
        let config = config(arguments.sessions);
        let rules = rules(arguments)?;
        let next_hops = Arc::new(next_hops(&traffic));
        let started = Instant::now();
        let published = Published::new(crate::policy::Policy::empty());
        let generation = published.next_generation();
        let policy = compile(&rules, &config, &mut Registry::new(), generation);
        let compile_time = started.elapsed();
        published.swap(policy);
        let table = Table::in_memory(arguments.sessions, SEED);
        let settings = Settings::new(&config, usize::from(arguments.workers), SEED);
        let wide = Table::in_memory(config.sessions.max_ipv6, SEED);
        let shared = Arc::new(Shared::new(table, wide, next_hops, published, settings));
        Ok(Self { shared, traffic, compile_time })
    }

    /// Bytes of memory that the session table and the mappings take.
    pub fn memory_bytes(&self) -> (u64, u64) {
        let mappings = u64::try_from(self.shared.mappings.memory_bytes()).unwrap_or(u64::MAX);
        (self.shared.sessions.memory_bytes(), mappings)
    }
}

fn config(sessions: u32) -> Config {
    let interface = |name: &str, role| Interface {
        name: name.to_owned(),
        role,
        checksum: ChecksumMode::DetectPartial,
        kernel_vlans: Vec::new(),
    };
    let mut config = Config {
        interfaces: vec![interface("guest", Role::Guest), interface("public", Role::Public)],
        ..Config::default()
    };
    config.sessions.max = sessions;
    config
}

fn rules(arguments: &Arguments) -> Result<RuleSet, Failure> {
    let networks = arguments.networks.unwrap_or(1);
    let sessions = arguments.sessions.div_ceil(networks.into());
    let each = sessions.div_ceil(SESSIONS_PER_ADDRESS);
    let place = Place { file: Arc::from("bench"), line: 1, column: 1 };
    let address = |number| Ipv4Addr::from_bits(FIRST_PUBLIC.to_bits() + number);
    let public_ip = |number| PublicIp {
        address: address(number),
        prefix_len: 15,
        interface: "public".to_owned(),
        vlan: 0,
        gateway: Some(GATEWAY),
        ingress_default: Action::Deny,
        firewall_before_acl: false,
        echo_reply: None,
        place: place.clone(),
    };
    let own = |number: u16| u32::from(number) * each..(u32::from(number) + 1) * each;
    let network = |number| Network {
        vlan: arguments.networks.map_or(0, |_| tag(number)),
        source_nat: own(number).map(address).collect(),
        ..network(number, &place)
    };
    let egress_rules = (0..arguments.acl_rules).map(|number| {
        let network = u64::from(number) * u64::from(networks) / u64::from(arguments.acl_rules);
        egress_rule(number, network, &place)
    });
    Ok(RuleSet {
        public_ips: (0..u32::from(networks) * each).map(public_ip).collect(),
        networks: (0..networks).map(network).collect(),
        egress_rules: egress_rules.collect::<Result<_, _>>()?,
        ..RuleSet::default()
    })
}

/// A network without a tag or public addresses.
fn network(number: u16, place: &Place) -> Network {
    Network {
        name: format!("guests{number}"),
        interface: "guest".to_owned(),
        vlan: 0,
        outer_tag: None,
        vxlan: None,
        cidr: Cidr::containing(FIRST_GUEST, 8),
        ipv6: None,
        gateway: GUEST_GATEWAY,
        mtu: None,
        domain: None,
        source_nat: Vec::new(),
        egress_default: Action::Allow,
        egress_reject: false,
        nat: NatOptions::default(),
        limits: Limits::default(),
        mss_clamp: None,
        anti_spoofing: true,
        place: place.clone(),
    }
}

/// Rules of several shapes, as they come in practice; none matches what the bench sends.
fn egress_rule(number: u32, network: u64, place: &Place) -> Result<EgressRule, Failure> {
    let address = Ipv4Addr::from_bits(0x5000_0000 + number.wrapping_mul(0x0001_3579) % 0x1000_0000);
    let first = u16::try_from(number % 60_000 + 1).unwrap_or(1);
    let (protocol, ports, length) = match number % 4 {
        0 => (Some(Protocol::TCP), Some((first, first)), 24),
        1 => (Some(Protocol::UDP), Some((first, first + 10)), 32),
        2 => (Some(Protocol::TCP), None, 28),
        _ => (None, None, 30),
    };
    let ports = ports.map(|(first, last)| PortRange::new(first, last)).transpose();
    let ports = ports.map_err(|error| Failure::failed(error.to_string()))?;
    Ok(EgressRule {
        id: format!("e{number}"),
        network: format!("guests{network}"),
        action: Action::Deny,
        matches: Match { protocol, ports, icmp_type: None, icmp_code: None },
        sources: Prefixes::default(),
        destinations: vec![Cidr::containing(address, length)].into(),
        place: place.clone(),
    })
}

/// The gateway and every guest, all of them known.
fn next_hops(traffic: &Traffic) -> NextHops {
    let guests = traffic.guests();
    // One network gets no more than eight ninths.
    let capacity = usize::try_from(guests).unwrap_or(usize::MAX).saturating_add(64) / 8 * 9;
    let hops = NextHops::new(capacity);
    for port in [GUEST, PUBLIC] {
        hops.set_interface(port, router_mac(port), 1500);
    }
    let gateway = Neighbor { port: PUBLIC, vlan: 0, address: GATEWAY.into() };
    let guest = |number| {
        let (vlan, address) = traffic.guest(number);
        Neighbor { port: GUEST, vlan, address: address.into() }
    };
    for neighbor in std::iter::once(gateway).chain((0..guests).map(guest)) {
        hops.id(neighbor);
        if let IpAddr::V4(address) = neighbor.address {
            hops.set(neighbor, Resolution::Reachable(neighbor_mac(address)));
        }
    }
    hops.take_wanted();
    hops
}

/// The router's own address on an interface.
pub const fn router_mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0])
}

/// The address of a neighbour.
pub const fn neighbor_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([2, 1, a, b, c, d])
}
