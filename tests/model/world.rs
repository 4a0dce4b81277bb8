//! The rules of the traces, as plain data, and the rule file that says the same to natwerk.

use std::fmt::Write;
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};

/// A prefix: address and length.
pub type Prefix = (Ipv4Addr, u8);

/// An isolation domain; networks of one domain route to each other.
pub type Domain = u8;

/// What a line of a filter matches, and what it then says.
#[derive(Clone, Debug)]
pub struct Line {
    pub allow: bool,
    pub protocol: Option<Protocol>,
    pub ports: Option<(u16, u16)>,
    pub icmp_type: Option<u8>,
    /// The other end: sources of what comes in, destinations of what goes out. Empty: everybody.
    pub ends: Vec<Prefix>,
}

/// A public address.
#[derive(Clone, Debug)]
pub struct Public {
    pub address: Ipv4Addr,
    pub open: bool,
    pub echo: Option<bool>,
    pub firewall: Vec<Line>,
}

/// Who may use a mapping from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filtering {
    Address,
    AddressAndPort,
    Nobody,
}

/// A guest network.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: &'static str,
    pub domain: Domain,
    pub vlan: u16,
    pub cidr: Prefix,
    pub gateway: Ipv4Addr,
    pub mtu: u16,
    pub pool: Vec<Ipv4Addr>,
    pub ports: (u16, u16),
    pub overload: bool,
    pub endpoint_independent: bool,
    pub filtering: Filtering,
    pub hairpinning: bool,
    pub exempt: Vec<Prefix>,
    pub sessions_max: usize,
    pub egress_open: bool,
    pub egress_told: bool,
    pub egress: Vec<Line>,
    /// Ingress and egress list of a tier.
    pub acl: Option<[Vec<Line>; 2]>,
}

/// A port forward; equal ranges map by offset.
#[derive(Clone, Debug)]
pub struct Forward {
    pub public: Ipv4Addr,
    pub protocol: Protocol,
    pub ports: (u16, u16),
    pub network: usize,
    pub guest: Option<Ipv4Addr>,
    pub guest_port: u16,
    pub sources: Vec<Prefix>,
}

/// A static NAT.
#[derive(Clone, Debug)]
pub struct Static {
    pub public: Ipv4Addr,
    pub network: usize,
    pub guest: Option<Ipv4Addr>,
}

/// A load balancer.
#[derive(Clone, Debug)]
pub struct Balancer {
    pub public: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
    pub network: usize,
    pub algorithm: &'static str,
    pub members: Vec<(Endpoint, u16)>,
}

/// All rules.
#[derive(Clone, Debug)]
pub struct World {
    pub publics: Vec<Public>,
    pub networks: Vec<Network>,
    pub forwards: Vec<Forward>,
    pub statics: Vec<Static>,
    pub balancers: Vec<Balancer>,
    /// Public endpoints that the router's own kernel serves.
    pub local: Vec<(Protocol, Endpoint)>,
}

/// Whether `address` lies in `prefix`.
pub fn lies_in(address: Ipv4Addr, prefix: Prefix) -> bool {
    let shift = 32 - u32::from(prefix.1);
    let cut = |address: Ipv4Addr| u64::from(address.to_bits()) >> shift;
    cut(address) == cut(prefix.0)
}

/// The last address of `prefix`.
pub fn broadcast_of(prefix: Prefix) -> Ipv4Addr {
    let hosts = (1_u64 << (32 - u32::from(prefix.1))) - 1;
    Ipv4Addr::from_bits(prefix.0.to_bits() | u32::try_from(hosts).expect("a prefix"))
}

pub const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// A public address of the segment.
pub const fn public(last: u8) -> Ipv4Addr {
    ip(203, 0, 113, last)
}

/// The segment of all public addresses, and the router beyond.
pub const SEGMENT: Prefix = (public(0), 24);
pub const UPSTREAM: Ipv4Addr = public(1);
pub const DOMAINS: [&str; 3] = ["vpc-a", "vpc-b", "vpc-c"];

impl World {
    pub fn network_of(&self, domain: Domain, address: Ipv4Addr) -> Option<usize> {
        let inside =
            |network: &&Network| network.domain == domain && lies_in(address, network.cidr);
        self.networks.iter().position(|network| inside(&network))
    }

    pub fn public(&self, address: Ipv4Addr) -> Option<&Public> {
        self.publics.iter().find(|public| public.address == address)
    }

    /// The rules that every trace starts with.
    pub fn start() -> Self {
        let line = |protocol, ports, ends: &[Prefix]| Line {
            allow: true,
            protocol: Some(protocol),
            ports,
            icmp_type: None,
            ends: ends.to_vec(),
        };
        let anybody = [(ip(0, 0, 0, 0), 0)];
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        let all = Line { protocol: None, ..line(tcp, None, &[]) };
        let ping = Line { icmp_type: Some(8), ..line(Protocol::ICMP, None, &anybody) };
        let closed =
            |last| Public { address: public(last), open: false, echo: None, firewall: Vec::new() };
        let publics = vec![
            Public {
                firewall: vec![ping.clone(), line(tcp, Some((8080, 8081)), &anybody)],
                ..closed(10)
            },
            Public {
                firewall: vec![
                    line(
                        tcp,
                        Some((2222, 2230)),
                        &[(ip(198, 51, 100, 0), 24), (ip(10, 1, 0, 0), 16)],
                    ),
                    line(udp, Some((5000, 5003)), &anybody),
                    line(tcp, Some((443, 443)), &anybody),
                ],
                ..closed(11)
            },
            Public { firewall: vec![ping, line(udp, None, &anybody)], ..closed(12) },
            Public { open: true, ..closed(13) },
            closed(14),
            Public { open: true, echo: Some(true), ..closed(15) },
            closed(16),
        ];
        let network = Network {
            name: "web",
            domain: 0,
            vlan: 100,
            cidr: (ip(10, 1, 1, 0), 24),
            gateway: ip(10, 1, 1, 1),
            mtu: 1500,
            pool: vec![public(10)],
            ports: (1, 65535),
            overload: true,
            endpoint_independent: true,
            filtering: Filtering::AddressAndPort,
            hairpinning: true,
            exempt: Vec::new(),
            sessions_max: 40,
            egress_open: true,
            egress_told: false,
            egress: vec![Line { allow: false, ..line(tcp, Some((25, 25)), &anybody) }],
            acl: None,
        };
        let networks = vec![
            network.clone(),
            Network {
                name: "app",
                vlan: 101,
                cidr: (ip(10, 1, 2, 0), 24),
                gateway: ip(10, 1, 2, 1),
                mtu: 1000,
                egress_open: false,
                egress_told: true,
                egress: vec![line(udp, None, &anybody), line(tcp, Some((80, 443)), &anybody)],
                ..network.clone()
            },
            Network {
                name: "tier",
                vlan: 102,
                cidr: (ip(10, 1, 3, 0), 24),
                gateway: ip(10, 1, 3, 1),
                acl: Some([
                    vec![
                        line(tcp, Some((80, 80)), &anybody),
                        line(udp, None, &[(ip(10, 1, 1, 0), 24)]),
                    ],
                    vec![all],
                ]),
                ..network.clone()
            },
            Network {
                name: "wide",
                domain: 1,
                vlan: 200,
                cidr: (ip(10, 1, 0, 0), 22),
                gateway: ip(10, 1, 0, 1),
                pool: vec![public(14), public(15)],
                // On both sides of the edge between two blocks.
                ports: (2042, 2053),
                filtering: Filtering::Nobody,
                ..network.clone()
            },
            Network {
                name: "lone",
                domain: 2,
                vlan: 201,
                pool: vec![public(10)],
                filtering: Filtering::Address,
                exempt: vec![(ip(198, 51, 100, 4), 32)],
                egress: Vec::new(),
                ..network
            },
        ];
        let forward = |public, protocol, ports, network, guest, guest_port| Forward {
            public,
            protocol,
            ports,
            network,
            guest: Some(guest),
            guest_port,
            sources: Vec::new(),
        };
        let forwards = vec![
            forward(public(11), tcp, (2222, 2230), 0, ip(10, 1, 1, 5), 22),
            forward(public(11), udp, (5000, 5003), 1, ip(10, 1, 2, 5), 5000),
            forward(public(10), tcp, (8080, 8081), 3, ip(10, 1, 1, 5), 80),
            forward(public(16), tcp, (80, 80), 2, ip(10, 1, 3, 5), 80),
        ];
        let member = |last, weight| (Endpoint::new(ip(10, 1, 1, last), 8443), weight);
        let balancer = Balancer {
            public: public(11),
            protocol: tcp,
            port: 443,
            network: 0,
            algorithm: "round-robin",
            members: vec![member(5, 1), member(7, 2)],
        };
        Self {
            publics,
            networks,
            forwards,
            statics: vec![
                Static { public: public(12), network: 0, guest: Some(ip(10, 1, 1, 6)) },
                Static { public: public(13), network: 3, guest: Some(ip(10, 1, 1, 6)) },
            ],
            balancers: vec![
                balancer.clone(),
                Balancer {
                    public: public(15),
                    protocol: udp,
                    network: 3,
                    algorithm: "source",
                    ..balancer
                },
            ],
            local: vec![(tcp, Endpoint::new(public(10), 8443))],
        }
    }

    /// The rule file.
    pub fn json(&self) -> String {
        let publics = list(&self.publics, |_, public| {
            let echo =
                public.echo.map_or(String::new(), |echo| format!(r#", "echo_reply": {echo}"#));
            format!(
                r#"{{"address": "{}", "prefix_len": 24, "interface": "eth2", "gateway": "{UPSTREAM}",
                    "ingress_default": "{}"{echo}}}"#,
                public.address,
                action(public.open)
            )
        });
        let egress: Vec<_> = self.networks.iter().filter(|network| network.acl.is_none()).collect();
        let lines = |id: &str, owner: String, lines: &[Line], ends: &str| {
            list(lines, |number, line| {
                format!(r#"{{"id": "{id}{number}", {owner}, {}}}"#, line.json(ends))
            })
        };
        let egress = join(egress.iter().map(|network| {
            lines(
                &format!("e-{}-", network.name),
                format!(r#""network": "{}""#, network.name),
                &network.egress,
                "destinations",
            )
        }));
        let firewall = join(self.publics.iter().map(|public| {
            lines(
                &format!("f-{}-", public.address),
                format!(r#""public_ip": "{}""#, public.address),
                &public.firewall,
                "sources",
            )
        }));
        format!(
            r#"{{"version": 1, "public_ips": [{publics}], "networks": [{}], "egress_rules": [{egress}],
                "firewall_rules": [{firewall}], "port_forwards": [{}], "static_nats": [{}],
                "load_balancers": [{}], "network_acls": [{}], "local_services": [{}]}}"#,
            list(&self.networks, |_, network| network.json()),
            list(&self.forwards, |id, forward| self.forward_json(id, forward)),
            list(&self.statics, |id, rule| format!(
                r#"{{"id": "s{id}", "public_ip": "{}", "network": "{}", "guest_ip": {}}}"#,
                rule.public,
                self.networks[rule.network].name,
                or_null(rule.guest)
            )),
            list(&self.balancers, |id, rule| self.balancer_json(id, rule)),
            join(self.networks.iter().map(Network::acl_json)),
            list(&self.local, |_, (protocol, at)| format!(
                r#"{{"address": "{}", "protocol": "{}", "ports": "{}"}}"#,
                at.address, protocol.0, at.port
            )),
        )
    }

    fn forward_json(&self, id: usize, forward: &Forward) -> String {
        let (first, last) = forward.ports;
        let guest_last = forward.guest_port + (last - first);
        format!(
            r#"{{"id": "p{id}", "public_ip": "{}", "protocol": "{}", "public_ports": "{first}-{last}",
                "network": "{}", "guest_ip": {}, "guest_ports": "{}-{guest_last}", "sources": [{}]}}"#,
            forward.public,
            transport(forward.protocol),
            self.networks[forward.network].name,
            or_null(forward.guest),
            forward.guest_port,
            prefixes(&forward.sources),
        )
    }

    fn balancer_json(&self, id: usize, rule: &Balancer) -> String {
        let members = list(&rule.members, |_, (member, weight)| {
            format!(
                r#"{{"guest_ip": "{}", "guest_port": {}, "weight": {weight}}}"#,
                member.address, member.port
            )
        });
        format!(
            r#"{{"id": "l{id}", "public_ip": "{}", "protocol": "{}", "public_port": {}, "network": "{}",
                "algorithm": "{}", "members": [{members}]}}"#,
            rule.public,
            transport(rule.protocol),
            rule.port,
            self.networks[rule.network].name,
            rule.algorithm,
        )
    }
}

impl Network {
    fn json(&self) -> String {
        let filtering = match self.filtering {
            Filtering::Address => "address-dependent",
            Filtering::AddressAndPort => "address-and-port-dependent",
            Filtering::Nobody => "endpoint-independent",
        };
        let mapping = match self.endpoint_independent {
            true => "endpoint-independent",
            false => "address-and-port-dependent",
        };
        let pool = list(&self.pool, |_, address| format!(r#""{address}""#));
        let egress = match self.acl {
            Some(_) => String::new(),
            None => format!(
                r#""egress_default": "{}", "egress_reject": {}, "#,
                action(self.egress_open),
                self.egress_told
            ),
        };
        format!(
            r#"{{"name": "{}", "interface": "eth0", "vlan": {}, "cidr": "{}/{}", "gateway": "{}", "mtu": {},
                "domain": "{}", "source_nat": [{pool}], {egress}"limits": {{"sessions_per_guest": {}}},
                "nat": {{"mapping_type": "{mapping}", "filtering_type": "{filtering}", "overload": {},
                         "port_range": "{}-{}", "hairpinning": {}, "exempt_destinations": [{}]}}}}"#,
            self.name,
            self.vlan,
            self.cidr.0,
            self.cidr.1,
            self.gateway,
            self.mtu,
            DOMAINS[usize::from(self.domain)],
            self.sessions_max,
            self.overload,
            self.ports.0,
            self.ports.1,
            self.hairpinning,
            prefixes(&self.exempt),
        )
    }

    fn acl_json(&self) -> String {
        let Some(lists) = &self.acl else { return String::new() };
        join(["ingress", "egress"].iter().zip(lists).map(|(direction, lines)| {
            let entries = list(lines, |number, line| {
                format!(r#"{{"number": {}, {}}}"#, number * 10, line.json("cidr"))
            });
            format!(
                r#"{{"network": "{}", "direction": "{direction}", "entries": [{entries}]}}"#,
                self.name
            )
        }))
    }
}

impl Line {
    fn json(&self, ends: &str) -> String {
        let mut text = format!(r#""action": "{}""#, action(self.allow));
        if let Some(protocol) = self.protocol {
            let _ = write!(text, r#", "protocol": "{}""#, protocol.0);
        }
        if let Some((first, last)) = self.ports {
            let _ = write!(text, r#", "ports": "{first}-{last}""#);
        }
        if let Some(icmp_type) = self.icmp_type {
            let _ = write!(text, r#", "icmp_type": {icmp_type}"#);
        }
        let _ = write!(text, r#", "{ends}": [{}]"#, prefixes(&self.ends));
        text
    }
}

fn list<T>(items: &[T], text: impl Fn(usize, &T) -> String) -> String {
    join(items.iter().enumerate().map(|(number, item)| text(number, item)))
}

/// What is not empty, with commas.
fn join(texts: impl Iterator<Item = String>) -> String {
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

fn prefixes(prefixes: &[Prefix]) -> String {
    list(prefixes, |_, (address, length)| format!(r#""{address}/{length}""#))
}

fn action(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn or_null(address: Option<Ipv4Addr>) -> String {
    address.map_or("null".to_owned(), |address| format!(r#""{address}""#))
}

fn transport(protocol: Protocol) -> &'static str {
    if protocol == Protocol::TCP { "tcp" } else { "udp" }
}
