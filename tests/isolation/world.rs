//! Random topologies: domains whose networks have the same addresses, public addresses that they
//! share, and the rule file that says so.

use std::fmt::Write;
use std::net::Ipv4Addr;

use natwerk::flow::{PortId, Protocol};
use natwerk::testing::lab::{GUEST, PUBLIC};
use proptest::prelude::*;

use crate::wire;

/// A prefix: address and length.
pub type Prefix = (Ipv4Addr, u8);

/// What a filter lets pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opening {
    Everything,
    Nothing,
    Udp,
}

/// What a network's frames have around them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Around {
    /// A tag, or none in the first network.
    Tag,
    /// Two tags.
    TwoTags,
    /// VXLAN; whether only the listed VTEP takes part.
    Vxlan { is_closed: bool },
}

/// A guest network.
#[derive(Clone, Debug)]
pub struct Network {
    pub domain: usize,
    pub around: Around,
    /// Its tag, or a number above all tags that says where it is: see [`crate::wire`].
    pub vlan: u16,
    pub cidr: Prefix,
    /// Its source-NAT address, by its place in [`PUBLICS`].
    pub pool: Option<usize>,
    pub egress: bool,
    /// Ingress and egress of a tier.
    pub acl: Option<[Opening; 2]>,
    pub hairpinning: bool,
    /// Whether anybody may send through its guests' mappings.
    pub open_mappings: bool,
    /// Whether [`EXEMPT`] is reached without translation.
    pub exempt: bool,
}

/// What leads from a public address to a guest: all of it, or one UDP and TCP port.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its place in [`PUBLICS`].
    pub public: usize,
    /// None for static NAT.
    pub port: Option<u16>,
    pub network: usize,
    pub guest: Ipv4Addr,
}

#[derive(Clone, Debug)]
pub struct World {
    pub networks: Vec<Network>,
    /// Which public addresses are open to everybody.
    pub open: Vec<bool>,
    pub services: Vec<Service>,
    /// Whether each domain has [`FAR`] behind the guest .9 of its first network.
    pub routes: Vec<bool>,
}

pub const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// Public addresses: tag, address, upstream.
pub const PUBLICS: [(u16, Ipv4Addr, Ipv4Addr); 5] = [
    (0, ip(203, 0, 113, 10), ip(203, 0, 113, 1)),
    (0, ip(203, 0, 113, 11), ip(203, 0, 113, 1)),
    (0, ip(203, 0, 113, 12), ip(203, 0, 113, 1)),
    (0, ip(203, 0, 113, 13), ip(203, 0, 113, 1)),
    (77, ip(192, 0, 2, 10), ip(192, 0, 2, 1)),
];
/// The places in [`PUBLICS`] that may become a static NAT's.
const STATIC_PLACES: [usize; 2] = [2, 3];
/// The port that the router's own kernel serves on the first public address.
pub const LOCAL_PORT: u16 = 22;
/// Ports that guests and remotes talk to.
pub const PORTS: [u16; 4] = [53, 80, 4000, LOCAL_PORT];
/// Destinations outside that some networks reach without translation.
pub const EXEMPT: Prefix = (ip(198, 51, 100, 128), 25);
/// A network behind a guest.
pub const FAR: Prefix = (ip(172, 20, 0, 0), 16);
/// The prefixes of networks; the last overlaps all others.
const CIDRS: [Prefix; 4] =
    [(ip(10, 1, 1, 0), 24), (ip(10, 1, 2, 0), 24), (ip(10, 1, 3, 0), 24), (ip(10, 1, 0, 0), 22)];
/// Tags of networks, by number; the first is none.
const TAGS: [u16; 8] = [0, 100, 101, 102, 103, 104, 105, 106];
/// A tag that nothing hangs on.
pub const STRAY_TAG: u16 = 999;
/// Where this and the places behind it are, nothing hangs on this one: what is under two tags, inside
/// VXLAN from the listed VTEP, the same from another one, and under a tag inside VXLAN.
pub const TWO_TAGS: u16 = 5000;
pub const VXLAN: u16 = 6000;
pub const STRANGERS_VXLAN: u16 = 7000;
pub const TAG_IN_VXLAN: u16 = 8000;

/// Every address that somebody might write into a packet.
pub const ADDRESSES: [Ipv4Addr; 20] = [
    ip(10, 1, 1, 1),
    ip(10, 1, 1, 5),
    ip(10, 1, 1, 6),
    ip(10, 1, 1, 9),
    ip(10, 1, 1, 255),
    ip(10, 1, 2, 1),
    ip(10, 1, 2, 5),
    ip(10, 1, 2, 6),
    ip(10, 1, 3, 5),
    ip(10, 1, 0, 1),
    ip(10, 1, 3, 255),
    ip(172, 20, 0, 7),
    ip(203, 0, 113, 10),
    ip(203, 0, 113, 11),
    ip(203, 0, 113, 12),
    ip(203, 0, 113, 13),
    ip(192, 0, 2, 10),
    ip(198, 51, 100, 9),
    ip(198, 51, 100, 130),
    ip(203, 0, 113, 1),
];

/// Whether `address` lies in `prefix`.
pub fn lies_in(address: Ipv4Addr, prefix: Prefix) -> bool {
    let shift = 32 - u32::from(prefix.1);
    address.to_bits() >> shift == prefix.0.to_bits() >> shift
}

impl Network {
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.cidr.0.to_bits() + 1)
    }

    /// A guest that it has whatever its prefix is.
    pub fn guest(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.cidr.0.to_bits() + u32::from(last))
    }
}

impl Opening {
    pub fn lets(self, protocol: Protocol) -> bool {
        match self {
            Self::Everything => true,
            Self::Nothing => false,
            Self::Udp => protocol == Protocol::UDP,
        }
    }
}

impl World {
    /// Where something hangs, or might: interface and tag.
    pub fn places(&self) -> Vec<(PortId, u16)> {
        let guests = self.networks.iter().map(|network| (GUEST, network.vlan));
        let others = [(GUEST, STRAY_TAG), (PUBLIC, 0), (PUBLIC, 77), (PUBLIC, STRAY_TAG)];
        guests.chain(others).chain(self.strays()).collect()
    }

    /// Where something only might hang: two tags, identifiers, VTEPs and tags inside VXLAN that no network has,
    /// one tag of those who have two, and the tags that stand in for others within natwerk.
    fn strays(&self) -> impl Iterator<Item = (PortId, u16)> {
        let around = |kind: fn(Around) -> bool| {
            self.networks.iter().filter(move |network| kind(network.around))
        };
        let double = around(|around| around == Around::TwoTags);
        let double = double.flat_map(|network| {
            let (_, outer, inner) = wire::two_tags(network.vlan);
            [TWO_TAGS, outer, inner, 1]
        });
        let inside = around(|around| matches!(around, Around::Vxlan { .. }));
        let inside = inside.flat_map(|network| [VXLAN, TAG_IN_VXLAN + (network.vlan - VXLAN), 1]);
        let closed = around(|around| around == Around::Vxlan { is_closed: true });
        let strangers = closed.map(|network| STRANGERS_VXLAN + (network.vlan - VXLAN));
        double.chain(inside).chain(strangers).map(|number| (GUEST, number))
    }

    /// The rule file.
    pub fn json(&self) -> String {
        let mut networks = Vec::new();
        let mut acls = Vec::new();
        for (index, network) in self.networks.iter().enumerate() {
            networks.push(network_json(index, network));
            let Some(acl) = network.acl else { continue };
            for (direction, opening) in ["ingress", "egress"].into_iter().zip(acl) {
                let entry = |protocol| {
                    format!(
                        r#"{{"number": 1, "action": "allow", "protocol": "{protocol}", "cidr": "0.0.0.0/0"}}"#
                    )
                };
                let entries = match opening {
                    Opening::Everything => entry("all"),
                    Opening::Nothing => String::new(),
                    Opening::Udp => entry("udp"),
                };
                acls.push(format!(
                    r#"{{"network": "n{index}", "direction": "{direction}", "entries": [{entries}]}}"#
                ));
            }
        }
        let publics = PUBLICS.iter().zip(&self.open).map(|(&(vlan, address, gateway), open)| {
            let default = if *open { "allow" } else { "deny" };
            format!(
                r#"{{"address": "{address}", "prefix_len": 24, "interface": "eth2", "vlan": {vlan},
                    "gateway": "{gateway}", "ingress_default": "{default}"}}"#
            )
        });
        let (forwards, statics) = self.services_json();
        let routes = self.routes.iter().enumerate().filter(|(_, has)| **has).map(|(domain, _)| {
            let first = self.networks.iter().find(|network| network.domain == domain);
            let via = first.expect("every domain has a network").guest(9);
            format!(r#"{{"domain": "d{domain}", "destination": "172.20.0.0/16", "via": "{via}"}}"#)
        });
        let list = |items: Vec<String>| items.join(",\n  ");
        format!(
            r#"{{"version": 1,
 "public_ips": [{}],
 "networks": [{}],
 "network_acls": [{}],
 "port_forwards": [{}],
 "static_nats": [{}],
 "routes": [{}],
 "local_services": [{{"address": "{}", "protocol": "tcp", "ports": "{LOCAL_PORT}"}}]}}"#,
            list(publics.collect()),
            list(networks),
            list(acls),
            list(forwards),
            list(statics),
            list(routes.collect()),
            PUBLICS[0].1,
        )
    }

    fn services_json(&self) -> (Vec<String>, Vec<String>) {
        let (mut forwards, mut statics) = (Vec::new(), Vec::new());
        for (index, service) in self.services.iter().enumerate() {
            let (public, network) = (PUBLICS[service.public].1, service.network);
            let ends = format!(
                r#""public_ip": "{public}", "network": "n{network}", "guest_ip": "{}""#,
                service.guest
            );
            let Some(port) = service.port else {
                statics.push(format!(r#"{{"id": "s{index}", {ends}}}"#));
                continue;
            };
            for protocol in ["tcp", "udp"] {
                forwards.push(format!(
                    r#"{{"id": "{protocol}{index}", "protocol": "{protocol}", {ends},
                        "public_ports": "{port}", "guest_ports": "{port}"}}"#
                ));
            }
        }
        (forwards, statics)
    }
}

fn network_json(index: usize, network: &Network) -> String {
    let pool = network.pool.map(|place| format!("\"{}\"", PUBLICS[place].1)).unwrap_or_default();
    let filtering =
        if network.open_mappings { "endpoint-independent" } else { "address-and-port-dependent" };
    let mut text = format!(
        r#"{{"name": "n{index}", "interface": "eth0", {}, "domain": "d{}",
            "cidr": "{}/{}", "gateway": "{}", "source_nat": [{pool}], "egress_default": "{}",
            "nat": {{"hairpinning": {}, "filtering_type": "{filtering}""#,
        wire::json(network),
        network.domain,
        network.cidr.0,
        network.cidr.1,
        network.gateway(),
        if network.egress { "allow" } else { "deny" },
        network.hairpinning,
    );
    if network.exempt {
        let _ = write!(text, r#", "exempt_destinations": ["{}/{}"]"#, EXEMPT.0, EXEMPT.1);
    }
    text.push_str("}}");
    text
}

fn opening() -> impl Strategy<Value = Opening> {
    prop_oneof![Just(Opening::Everything), Just(Opening::Nothing), Just(Opening::Udp)]
}

fn around() -> impl Strategy<Value = Around> {
    let vxlan = any::<bool>().prop_map(|is_closed| Around::Vxlan { is_closed });
    prop_oneof![4 => Just(Around::Tag), 1 => Just(Around::TwoTags), 1 => vxlan]
}

/// A network; its domain, place and prefix are given later.
fn network() -> impl Strategy<Value = Network> {
    let pool = prop_oneof![4 => (0_usize..2).prop_map(Some), 1 => Just(Some(4)), 1 => Just(None)];
    let acl = prop::option::weighted(0.3, [opening(), opening()]);
    let flags = (prop::bool::weighted(0.8), prop::bool::weighted(0.8), any::<bool>());
    (pool, acl, flags, prop::bool::weighted(0.3), around()).prop_map(
        |(pool, acl, (egress, hairpinning, open_mappings), exempt, around)| Network {
            domain: 0,
            around,
            vlan: 0,
            cidr: CIDRS[0],
            pool,
            egress,
            acl,
            hairpinning,
            open_mappings,
            exempt,
        },
    )
}

/// Two or three domains. Those with one network may have the wide prefix, which overlaps all others.
pub fn world() -> impl Strategy<Value = World> {
    let domain = (prop::collection::vec(network(), 1..3), prop::bool::weighted(0.2));
    let service = (0_usize..3, any::<prop::sample::Index>(), 5_u8..7);
    (
        prop::collection::vec(domain, 2..4),
        prop::collection::vec(any::<bool>(), PUBLICS.len()),
        prop::collection::vec(service, 0..4),
        prop::collection::vec((any::<prop::sample::Index>(), 5_u8..7), 0..3),
        prop::collection::vec(any::<bool>(), 3),
    )
        .prop_map(|(domains, open, forwards, statics, mut routes)| {
            routes.truncate(domains.len());
            let mut networks = Vec::new();
            for (domain, (members, wide)) in domains.into_iter().enumerate() {
                let wide = wide && members.len() == 1;
                for (place, member) in members.into_iter().enumerate() {
                    let number = networks.len();
                    let above = u16::try_from(number).expect("few networks") + 1;
                    let vlan = match member.around {
                        Around::Tag => TAGS[number],
                        Around::TwoTags => TWO_TAGS + above,
                        Around::Vxlan { .. } => VXLAN + above,
                    };
                    let cidr = CIDRS[if wide { 3 } else { place }];
                    networks.push(Network { domain, vlan, cidr, ..member });
                }
            }
            let mut services = Vec::new();
            for (number, (public, network, last)) in forwards.into_iter().enumerate() {
                let network = network.index(networks.len());
                let (guest, port) = (networks[network].guest(last), PORTS[number % 3]);
                // One forward a port, and none on static NATs' addresses.
                let public = if STATIC_PLACES.contains(&public) { 0 } else { public };
                services.push(Service { public, port: Some(port), network, guest });
                if number == 2 {
                    break;
                }
            }
            for (public, (network, last)) in STATIC_PLACES.into_iter().zip(statics) {
                let network = network.index(networks.len());
                let guest = networks[network].guest(last);
                // One static NAT a guest.
                let domain = |network: usize| networks[network].domain;
                let taken = services.iter().any(|other: &Service| {
                    other.port.is_none()
                        && (domain(other.network), other.guest) == (domain(network), guest)
                });
                if !taken {
                    services.push(Service { public, port: None, network, guest });
                }
            }
            World { networks, open, services, routes }
        })
}
