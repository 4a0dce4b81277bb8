//! Small rule sets for tests, written in few words.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::config::{
    ChecksumMode, Config, Hook, Interface, OnRuleRemoval, Role, Sessions, Workers, XdpMode,
};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::{
    AclDirection, AclEntry, Action, Algorithm, EgressRule, FirewallRule, Limits, LoadBalancer,
    LocalService, Match, Member, NatOptions, Network, NetworkAcl, PortForward, Prefixes, PublicIp,
    Route, StaticNat,
};
use crate::session::timeout::Timeouts;

/// `eth0` for guests (port 0) and `eth2` for the public side (port 1).
pub(crate) fn config() -> Config {
    let interface = |name: &str, role| Interface {
        name: name.to_owned(),
        role,
        checksum: ChecksumMode::DetectPartial,
        kernel_vlans: Vec::new(),
    };
    Config {
        rules: Vec::new(),
        state_dir: "/run/natwerk".into(),
        control_socket: "/run/natwerk/control.sock".into(),
        metrics_listen: None,
        manage_addresses: false,
        sources: crate::rules::sources::Options::default(),
        interfaces: vec![interface("eth0", Role::Guest), interface("eth2", Role::Public)],
        workers: Workers {
            count: None,
            mode: XdpMode::Auto,
            hook: Hook::default(),
            spin: false,
            frames: 4096,
            shortcuts: None,
            on_stop: crate::config::OnStop::Release,
        },
        sessions: Sessions {
            max: 1024,
            max_ipv6: 1024,
            per_guest: 77,
            ports_per_guest: 78,
            on_rule_removal: OnRuleRemoval::End,
        },
        timeouts: Timeouts::default(),
        events: None,
        icmp_errors_per_second: 0,
    }
}

pub(crate) fn place() -> Place {
    Place { file: Arc::from("rules.json"), line: 1, column: 1 }
}

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// `tcp 80-90`, `udp`, `icmp`, `all`.
pub(crate) fn matching(text: &str) -> Match {
    let (protocol, ports) = text.split_once(' ').unwrap_or((text, ""));
    let protocol = match protocol {
        "all" => None,
        "icmp" => Some(Protocol::ICMP),
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        number => Some(Protocol(number.parse().unwrap())),
    };
    let ports = (!ports.is_empty()).then(|| ports.parse().unwrap());
    Match { protocol, ports, icmp_type: None, icmp_code: None }
}

/// A /24 on `eth2` with a gateway at `.1`.
pub(crate) fn public_ip(address: &str) -> PublicIp {
    let address = ip(address);
    let [a, b, c, _] = address.octets();
    PublicIp {
        address,
        prefix_len: 24,
        interface: "eth2".to_owned(),
        vlan: 0,
        gateway: Some(Ipv4Addr::new(a, b, c, 1)),
        ingress_default: Action::Deny,
        firewall_before_acl: false,
        echo_reply: None,
        place: place(),
    }
}

/// A network on `eth0`, allowed out, without source NAT.
pub(crate) fn network(name: &str, vlan: u16, cidr: &str) -> Network {
    let cidr: crate::rules::set::Cidr = cidr.parse().unwrap();
    Network {
        name: name.to_owned(),
        interface: "eth0".to_owned(),
        vlan,
        outer_tag: None,
        vxlan: None,
        cidr,
        gateway: Ipv4Addr::from_bits(cidr.first().to_bits() + 1),
        ipv6: None,
        mtu: None,
        domain: None,
        source_nat: Vec::new(),
        egress_default: Action::Allow,
        egress_reject: false,
        nat: NatOptions::default(),
        limits: Limits::default(),
        mss_clamp: None,
        anti_spoofing: true,
        place: place(),
    }
}

pub(crate) fn egress(id: &str, network: &str, matches: &str, destination: &str) -> EgressRule {
    EgressRule {
        id: id.to_owned(),
        network: network.to_owned(),
        action: Action::Deny,
        matches: matching(matches),
        sources: Prefixes::default(),
        destinations: vec![destination.parse().unwrap()].into(),
        place: place(),
    }
}

pub(crate) fn firewall(id: &str, public: &str, matches: &str, source: &str) -> FirewallRule {
    FirewallRule {
        id: id.to_owned(),
        public_ip: ip(public),
        action: Action::Allow,
        matches: matching(matches),
        sources: vec![source.parse().unwrap()],
        place: place(),
    }
}

pub(crate) fn forward(
    id: &str,
    public: (&str, &str),
    network: &str,
    guest: (&str, &str),
) -> PortForward {
    PortForward {
        id: id.to_owned(),
        public_ip: ip(public.0),
        protocol: Protocol::TCP,
        public_ports: public.1.parse().unwrap(),
        network: network.to_owned(),
        guest_ip: guest.0.parse().ok(),
        guest_ports: guest.1.parse().unwrap(),
        sources: Vec::new(),
        place: place(),
    }
}

pub(crate) fn static_nat(id: &str, public: &str, network: &str, guest: &str) -> StaticNat {
    StaticNat {
        id: id.to_owned(),
        public_ip: ip(public),
        network: network.to_owned(),
        guest_ip: guest.parse().ok(),
        place: place(),
    }
}

pub(crate) fn balancer(
    id: &str,
    public: &str,
    port: u16,
    network: &str,
    member: &str,
) -> LoadBalancer {
    LoadBalancer {
        health_check: None,
        id: id.to_owned(),
        public_ip: ip(public),
        protocol: Protocol::TCP,
        public_port: NonZeroU16::new(port).unwrap(),
        network: network.to_owned(),
        algorithm: Algorithm::RoundRobin,
        members: vec![Member {
            guest_ip: ip(member),
            guest_port: NonZeroU16::new(8000).unwrap(),
            weight: 1,
        }],
        sources: Vec::new(),
        place: place(),
    }
}

/// Entries are action, transport and cidr, numbered by tens.
pub(crate) fn acl(
    network: &str,
    direction: AclDirection,
    entries: &[(Action, &str, &str)],
) -> NetworkAcl {
    let entry = |(number, &(action, matches, cidr)): (u32, &(Action, &str, &str))| AclEntry {
        number,
        action,
        matches: matching(matches),
        guests: Prefixes::default(),
        cidrs: vec![cidr.parse().unwrap()].into(),
        place: place(),
    };
    NetworkAcl {
        network: network.to_owned(),
        direction,
        entries: (1..).map(|number| number * 10).zip(entries).map(entry).collect(),
        place: place(),
    }
}

pub(crate) fn route(domain: &str, destination: &str, via: &str) -> Route {
    Route {
        domain: domain.to_owned(),
        destination: destination.parse().unwrap(),
        via: ip(via),
        place: place(),
    }
}

pub(crate) fn local(address: &str, matches: &str) -> LocalService {
    let matches = matching(matches);
    LocalService {
        address: ip(address),
        protocol: matches.protocol.unwrap(),
        ports: matches.ports,
        sources: Vec::new(),
        place: place(),
    }
}
