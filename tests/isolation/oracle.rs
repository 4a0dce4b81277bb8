//! Who may reach whom, written down as slowly and plainly as it can be said.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, PortId, Protocol};
use natwerk::testing::lab::PUBLIC;

use crate::world::{EXEMPT, FAR, LOCAL_PORT, Network, PUBLICS, World, lies_in};

/// Where addresses mean something: in a domain, or outside.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    Domain(usize),
    Outside,
}

/// A packet somewhere: the ports are ICMP identifiers where it is a query.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    pub place: (PortId, u16),
    pub protocol: Protocol,
    pub source: Endpoint,
    pub destination: Endpoint,
}

type Key = (Side, Protocol, Endpoint, Endpoint);

/// What has been seen to pass, and what may.
pub struct Oracle<'w> {
    world: &'w World,
    /// Packets of known sessions, and what they leave as.
    flows: HashMap<Key, Seen>,
    /// Public endpoints that guests' packets left from.
    mappings: HashMap<(Protocol, Endpoint), (usize, Endpoint)>,
}

fn is_public(address: Ipv4Addr) -> bool {
    PUBLICS.iter().any(|public| public.1 == address)
}

impl<'w> Oracle<'w> {
    pub fn new(world: &'w World) -> Self {
        Self { world, flows: HashMap::new(), mappings: HashMap::new() }
    }

    pub fn side(&self, place: (PortId, u16)) -> Option<Side> {
        if place.0 == PUBLIC {
            let known = PUBLICS.iter().any(|public| public.0 == place.1);
            return known.then_some(Side::Outside);
        }
        self.network_at(place).map(|network| Side::Domain(network.domain))
    }

    fn network_at(&self, (port, vlan): (PortId, u16)) -> Option<&'w Network> {
        self.world.networks.iter().find(|network| port != PUBLIC && network.vlan == vlan)
    }

    /// The network of a domain that an address is in or behind.
    fn network_of(&self, domain: usize, address: Ipv4Addr) -> Option<&'w Network> {
        let mut own = self.world.networks.iter().filter(|network| network.domain == domain);
        let first = own.clone().next()?;
        if self.world.routes[domain] && lies_in(address, FAR) {
            return Some(first);
        }
        own.find(|network| lies_in(address, network.cidr))
    }

    /// Whether the packet that left as `out` may do so, and remembers it. The words say why not.
    pub fn passes(&mut self, seen: Seen, out: Seen) -> Result<(), &'static str> {
        let from = self.side(seen.place).ok_or("it came in by a tag of no network")?;
        let to = self.side(out.place).ok_or("it left by a tag of no network")?;
        if let Side::Domain(domain) = from {
            self.is_at_home(&seen, domain)?;
        }
        let key = (from, seen.protocol, seen.source, seen.destination);
        match self.flows.get(&key) {
            Some(known) if leaves_alike(known, &out) => return Ok(()),
            Some(_) => return Err("it left as another session's packet"),
            None => {}
        }
        self.may_open(&seen, from, &out, to)?;
        if self.flows.insert(key, out).is_some() {
            return Err("it took another session's place");
        }
        // Both ends of an ICMP query have its identifier.
        let answer = (to, out.protocol, out.destination, out.source);
        let answered = Seen {
            place: seen.place,
            protocol: seen.protocol,
            source: seen.destination,
            destination: seen.source,
        };
        match self.flows.insert(answer, answered) {
            Some(other) if !leaves_alike(&other, &answered) => {
                return Err("its answers have another session's key");
            }
            Some(_) | None => {}
        }
        if let (Side::Domain(domain), true) = (from, is_public(out.source.address)) {
            self.mappings.insert((out.protocol, out.source), (domain, seen.source));
        }
        Ok(())
    }

    /// What the packets of a session leave as.
    pub fn leaves_as(&self, key: Key) -> Option<Seen> {
        self.flows.get(&key).copied()
    }

    /// Whether the router's own kernel may be handed a packet.
    pub fn may_reach_router(&self, seen: &Seen, is_echo_reply: bool) -> Result<(), &'static str> {
        let from = self.side(seen.place).ok_or("it came in by a tag of no network")?;
        let Endpoint { address, port } = seen.destination;
        let serves = (address, seen.protocol, port) == (PUBLICS[0].1, Protocol::TCP, LOCAL_PORT);
        match from {
            Side::Domain(domain) => {
                self.is_at_home(seen, domain)?;
                let own = self.world.networks.iter().filter(|network| network.domain == domain);
                let is_gateway = own.into_iter().any(|network| network.gateway() == address);
                let hairpins = self.network_at(seen.place).is_some_and(|own| own.hairpinning);
                let allowed = is_gateway || serves && hairpins;
                allowed.then_some(()).ok_or("a guest reached the router where it must not")
            }
            Side::Outside => {
                let answers = is_echo_reply && is_public(address);
                (serves || answers).then_some(()).ok_or("an outsider reached the router")
            }
        }
    }

    /// Whether natwerk may answer an echo request itself.
    pub fn may_answer_echo(&self, seen: &Seen) -> Result<(), &'static str> {
        match self.side(seen.place).ok_or("it came in by a tag of no network")? {
            Side::Domain(domain) => {
                self.is_at_home(seen, domain)?;
                let mut own = self.world.networks.iter().filter(|own| own.domain == domain);
                let address = seen.destination.address;
                let ours = is_public(address) || own.any(|own| own.gateway() == address);
                ours.then_some(()).ok_or("another domain's gateway answered")
            }
            Side::Outside => is_public(seen.destination.address)
                .then_some(())
                .ok_or("a gateway answered outside"),
        }
    }

    fn is_at_home(&self, seen: &Seen, domain: usize) -> Result<(), &'static str> {
        let network = self.network_at(seen.place).ok_or("no network")?;
        let source = seen.source.address;
        if source == network.gateway() || is_public(source) {
            return Err("the source is the router's own");
        }
        let home = self.network_of(domain, source);
        let at_home = home.is_some_and(|home| home.vlan == network.vlan);
        at_home.then_some(()).ok_or("the source is not at home there")
    }

    fn may_open(&self, seen: &Seen, from: Side, out: &Seen, to: Side) -> Result<(), &'static str> {
        let towards = seen.destination.address;
        match (from, to) {
            (Side::Domain(here), Side::Domain(there)) if is_public(towards) => {
                let network = self.network_at(seen.place).ok_or("no network")?;
                if !network.hairpinning {
                    return Err("its network does not hairpin");
                }
                let sources = self.outward(network, seen.source.address);
                let hidden = sources.contains(&out.source.address);
                let plain = here == there && sources.is_empty() && out.source == seen.source;
                if !hidden && !plain {
                    return Err("a guest's own address is seen in another domain");
                }
                self.is_served(seen, out, there)
            }
            (Side::Domain(here), Side::Domain(there)) => {
                if here != there {
                    return Err("it went into another domain");
                }
                if (seen.source, seen.destination) != (out.source, out.destination) {
                    return Err("it was translated within its domain");
                }
                self.is_routed(seen, out, here)
            }
            (Side::Domain(here), Side::Outside) => self.goes_out(seen, out, here),
            (Side::Outside, Side::Domain(there)) => self.comes_in(seen, out, there),
            (Side::Outside, Side::Outside) => Err("the router relays between outsiders"),
        }
    }

    fn is_routed(&self, seen: &Seen, out: &Seen, domain: usize) -> Result<(), &'static str> {
        let from = self.network_at(seen.place).ok_or("no network")?;
        let to = self.network_of(domain, seen.destination.address).ok_or("no route")?;
        if to.vlan != out.place.1 {
            return Err("it left by another network");
        }
        if from.vlan == to.vlan {
            return Ok(());
        }
        let egress = sends(from, seen.protocol);
        let ingress = to.acl.is_none_or(|[ingress, _]| ingress.lets(seen.protocol));
        (egress && ingress).then_some(()).ok_or("a tier's list refuses it")
    }

    fn goes_out(&self, seen: &Seen, out: &Seen, domain: usize) -> Result<(), &'static str> {
        let network = self.network_at(seen.place).ok_or("no network")?;
        let towards = seen.destination.address;
        let is_inside = self.network_of(domain, towards).is_some()
            || self.world.networks.iter().any(|network| lies_in(towards, network.cidr));
        if is_inside || is_public(towards) {
            return Err("what is inside left to the outside");
        }
        if !sends(network, seen.protocol) {
            return Err("its network's egress refuses it");
        }
        if !same(seen.protocol, seen.destination, out.destination) {
            return Err("its destination changed");
        }
        let bare = network.exempt && lies_in(towards, EXEMPT);
        let hidden = self.outward(network, seen.source.address).contains(&out.source.address);
        match (bare, hidden) {
            (true, _) if out.source == seen.source => Ok(()),
            (false, true) => Ok(()),
            _ => Err("it left with a source that is not its own"),
        }
    }

    fn comes_in(&self, seen: &Seen, out: &Seen, domain: usize) -> Result<(), &'static str> {
        let source = seen.source.address;
        let is_inside =
            |address| self.world.networks.iter().any(|network| lies_in(address, network.cidr));
        if is_public(source) || is_inside(source) {
            return Err("an outsider spoke with an inside address");
        }
        if out.source != seen.source {
            return Err("an outsider's address changed");
        }
        if is_public(seen.destination.address) {
            return self.is_served(seen, out, domain);
        }
        let network = self.network_of(domain, seen.destination.address).ok_or("no network")?;
        let opened = network.acl.is_some_and(|[ingress, _]| ingress.lets(seen.protocol));
        let bare = network.exempt && lies_in(source, EXEMPT);
        let unchanged = out.destination == seen.destination;
        (opened && bare && unchanged).then_some(()).ok_or("it came in without a public address")
    }

    /// Whether what is sent to a public endpoint may arrive in `domain` as `out`.
    fn is_served(&self, seen: &Seen, out: &Seen, domain: usize) -> Result<(), &'static str> {
        let Endpoint { address, port } = seen.destination;
        let public = PUBLICS.iter().position(|public| public.1 == address).ok_or("not public")?;
        for service in self.world.services.iter().filter(|service| service.public == public) {
            let network = &self.world.networks[service.network];
            let ported = matches!(seen.protocol, Protocol::TCP | Protocol::UDP);
            let asked = service.port.is_none_or(|own| ported && own == port);
            let arrives = (network.domain, network.vlan) == (domain, out.place.1)
                && same(seen.protocol, out.destination, Endpoint::new(service.guest, port));
            let opened = match network.acl {
                Some([ingress, _]) => ingress.lets(seen.protocol),
                None => self.world.open[public],
            };
            if asked && arrives && opened {
                return Ok(());
            }
        }
        let mapped = self.mappings.get(&(seen.protocol, seen.destination));
        let through = mapped.is_some_and(|&(own, internal)| {
            let network = self.network_of(own, internal.address);
            own == domain
                && internal == out.destination
                && network.is_some_and(|own| own.open_mappings && own.vlan == out.place.1)
        });
        through.then_some(()).ok_or("nothing leads there from that public address")
    }

    /// The public addresses that a guest leaves with.
    fn outward(&self, network: &Network, guest: Ipv4Addr) -> Vec<Ipv4Addr> {
        let fixed = self.world.services.iter().find(|service| {
            service.port.is_none()
                && service.guest == guest
                && self.world.networks[service.network].domain == network.domain
        });
        let place = fixed.map(|fixed| fixed.public).or(network.pool);
        place.map(|place| PUBLICS[place].1).into_iter().collect()
    }
}

/// The same endpoint; an ICMP identifier stands at both ends and changes with the source.
fn same(protocol: Protocol, one: Endpoint, other: Endpoint) -> bool {
    one.address == other.address && (protocol == Protocol::ICMP || one.port == other.port)
}

/// Whether a network's guests may send this anywhere but to each other.
fn sends(network: &Network, protocol: Protocol) -> bool {
    network.acl.map_or(network.egress, |[_, egress]| egress.lets(protocol))
}

/// The same packet at the same place.
fn leaves_alike(one: &Seen, other: &Seen) -> bool {
    let alike = (one.protocol, one.source, one.destination)
        == (other.protocol, other.source, other.destination);
    alike && same_place(one, other.place)
}

/// Whether `place` is where a packet leaves. Outside, that goes by our address on it: an answer may
/// leave elsewhere than where the question came in.
pub fn same_place(leaving: &Seen, place: (PortId, u16)) -> bool {
    let own = PUBLICS.iter().find(|public| public.1 == leaving.source.address);
    match own {
        Some(&(tag, _, _)) if leaving.place.0 == PUBLIC => place == (PUBLIC, tag),
        None if leaving.place.0 == PUBLIC => place.0 == PUBLIC,
        Some(_) | None => place == leaving.place,
    }
}
