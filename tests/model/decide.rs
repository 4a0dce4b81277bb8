//! What the rules say of a first packet.

use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};

use crate::nat::{Flow, How, Nat, Side};
use crate::world::{Filtering, Line, Network, Public, SEGMENT, broadcast_of, lies_in};

/// What the rules say.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It is dropped; whether the sender hears of it.
    Drop {
        told: bool,
    },
    Echo,
    Host,
    Open(Plan),
}

/// A session to open.
#[derive(Clone, Debug)]
pub struct Plan {
    pub how: How,
    pub source: Source,
    pub side: Side,
    /// Who may get it: one, or a balancer's members with their weights.
    pub targets: Vec<(Endpoint, u16)>,
    /// Whether it comes through a dynamic mapping.
    pub through: bool,
}

/// What becomes of the source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    Kept,
    /// A public endpoint of this network's pool.
    Pool(usize),
    Static(Ipv4Addr),
}

const DROP: Decision = Decision::Drop { told: false };
pub const ECHO_REQUEST: u8 = 8;

/// Whether an ICMP message of this type answers a query.
pub fn answers(icmp_type: u8) -> Option<u8> {
    match icmp_type {
        0 => Some(8),
        14 => Some(13),
        18 => Some(17),
        _ => None,
    }
}

/// Whether a line of a filter matches.
fn matches(line: &Line, protocol: Protocol, icmp: u8, port: u16, end: Ipv4Addr) -> bool {
    line.protocol.is_none_or(|named| named == protocol)
        && line.ports.is_none_or(|(first, last)| (first..=last).contains(&port))
        && line.icmp_type.is_none_or(|named| named == icmp)
        && (line.ends.is_empty() || line.ends.iter().any(|prefix| lies_in(end, *prefix)))
}

/// What the first line that matches says.
fn first_match(
    lines: &[Line],
    default: bool,
    (protocol, icmp, port, end): (Protocol, u8, u16, Ipv4Addr),
) -> bool {
    let line = lines.iter().find(|line| matches(line, protocol, icmp, port, end));
    line.map_or(default, |line| line.allow)
}

impl Nat {
    /// Whether the addresses of a first packet are acceptable (RFC 1812, section 5.3.7; BCP 38).
    pub fn admits(&self, flow: &Flow, network: Option<usize>) -> bool {
        let (source, destination) = (flow.source.address, flow.destination.address);
        let nobody = |address: Ipv4Addr| matches!(address.octets()[0], 0 | 127 | 224..=255);
        let broadcast =
            |side, address| match side {
                Side::Inside(domain) => self.world.networks.iter().any(|network| {
                    network.domain == domain && broadcast_of(network.cidr) == address
                }),
                Side::Outside => broadcast_of(SEGMENT) == address,
            };
        if nobody(source)
            || nobody(destination)
            || source == destination
            || broadcast(flow.side, source)
            || broadcast(flow.side, destination)
            || broadcast(Side::Outside, destination)
        {
            return false;
        }
        match network {
            Some(network) => {
                let network = &self.world.networks[network];
                lies_in(source, network.cidr) && source != network.gateway
            }
            None => self.world.public(source).is_none() && !self.is_guests(source),
        }
    }

    /// What the rules say of a first packet; `icmp` is its type, zero for other protocols.
    pub fn decide(&self, flow: &Flow, network: Option<usize>, icmp: u8) -> Decision {
        if flow.protocol == Protocol::ICMP && answers(icmp).is_some() {
            let ours = self.world.public(flow.destination.address).is_some();
            return if flow.side == Side::Outside && ours { Decision::Host } else { DROP };
        }
        match (flow.side, network) {
            (Side::Inside(domain), Some(network)) => self.guest_packet(flow, domain, network, icmp),
            _ => match self.world.public(flow.destination.address) {
                Some(public) => self.to_public(flow, None, icmp, public),
                // Guest networks that are translated are not reached under their own addresses.
                None => DROP,
            },
        }
    }

    fn guest_packet(&self, flow: &Flow, domain: u8, from: usize, icmp: u8) -> Decision {
        let network = &self.world.networks[from];
        let remote = flow.destination;
        if let Some(public) = self.world.public(remote.address) {
            if !network.hairpinning {
                return DROP;
            }
            return self.to_public(flow, Some(from), icmp, public);
        }
        if let Some(to) = self.world.network_of(domain, remote.address) {
            let target = &self.world.networks[to];
            let probe = (flow.protocol, icmp, remote.port, flow.source.address);
            let may_enter = || match &target.acl {
                Some([ingress, _]) => first_match(ingress, false, probe),
                None => true,
            };
            return if remote.address == target.gateway {
                let ping = flow.protocol == Protocol::ICMP && icmp == ECHO_REQUEST;
                if ping { Decision::Echo } else { Decision::Host }
            } else if from == to || self.may_leave(flow, network, icmp) && may_enter() {
                routed(Side::Inside(domain), remote)
            } else {
                DROP
            };
        }
        if self.is_guests(remote.address) {
            return DROP;
        }
        if !self.may_leave(flow, network, icmp) {
            return Decision::Drop { told: network.egress_told && network.acl.is_none() };
        }
        if network.exempt.iter().any(|prefix| lies_in(remote.address, *prefix)) {
            return routed(Side::Outside, remote);
        }
        let source = self.translation(domain, from, flow.source.address);
        let how = match source {
            Source::Kept => return DROP,
            Source::Pool(_) => How::SourceNat,
            Source::Static(_) => How::StaticNat,
        };
        let targets = vec![(remote, 1)];
        Decision::Open(Plan { how, source, side: Side::Outside, targets, through: false })
    }

    fn may_leave(&self, flow: &Flow, network: &Network, icmp: u8) -> bool {
        let (lines, default) = match &network.acl {
            Some([_, egress]) => (egress, false),
            None => (&network.egress, network.egress_open),
        };
        let to = flow.destination;
        first_match(lines, default, (flow.protocol, icmp, to.port, to.address))
    }

    /// A packet to one of our public addresses, from outside or from a guest.
    fn to_public(&self, flow: &Flow, from: Option<usize>, icmp: u8, public: &Public) -> Decision {
        let (protocol, to) = (flow.protocol, flow.destination);
        if self.world.local.contains(&(protocol, to)) {
            return Decision::Host;
        }
        let open = |network: usize, port| {
            let end = flow.source.address;
            match &self.world.networks[network].acl {
                Some([ingress, _]) => first_match(ingress, false, (protocol, icmp, port, end)),
                None => first_match(&public.firewall, public.open, (protocol, icmp, to.port, end)),
            }
        };
        if let Some(rule) = self.world.statics.iter().find(|rule| rule.public == to.address) {
            return match rule.guest {
                Some(guest) if open(rule.network, to.port) => {
                    let guest = (Endpoint::new(guest, to.port), 1);
                    self.inward(flow, from, rule.network, vec![guest], false)
                }
                _ => DROP,
            };
        }
        let serves = |ports: (u16, u16), address, named| {
            address == to.address && named == protocol && (ports.0..=ports.1).contains(&to.port)
        };
        let forward =
            self.world.forwards.iter().find(|rule| serves(rule.ports, rule.public, rule.protocol));
        if let Some(rule) = forward {
            let port = rule.guest_port + (to.port - rule.ports.0);
            let welcome = rule.sources.is_empty()
                || rule.sources.iter().any(|prefix| lies_in(flow.source.address, *prefix));
            return match rule.guest {
                Some(guest) if welcome && open(rule.network, port) => {
                    let guest = (Endpoint::new(guest, port), 1);
                    self.inward(flow, from, rule.network, vec![guest], false)
                }
                _ => DROP,
            };
        }
        let balancer = self
            .world
            .balancers
            .iter()
            .find(|rule| serves((rule.port, rule.port), rule.public, rule.protocol));
        if let Some(rule) = balancer {
            return match open(rule.network, to.port) {
                true => self.inward(flow, from, rule.network, rule.members.clone(), false),
                false => DROP,
            };
        }
        self.unserved(flow, from, icmp, public)
    }

    fn unserved(&self, flow: &Flow, from: Option<usize>, icmp: u8, public: &Public) -> Decision {
        let (protocol, to) = (flow.protocol, flow.destination);
        if protocol == Protocol::ICMP && icmp == ECHO_REQUEST {
            let probe = (protocol, icmp, to.port, flow.source.address);
            let allowed = !self.is_tiers_alone(public.address)
                && first_match(&public.firewall, public.open, probe);
            return if public.echo.unwrap_or(allowed) { Decision::Echo } else { DROP };
        }
        if protocol == Protocol::ICMP {
            // Nobody queries a guest through the mapping of its own queries.
            return DROP;
        }
        let Some(mapping) = self.mappings.get(&(protocol, to)) else { return DROP };
        let (domain, owner) = mapping.owner;
        let Some(network) = self.world.network_of(domain, owner.address) else { return DROP };
        let knows = |remote: Ipv4Addr| {
            self.sessions.values().any(|session| {
                let back = &session.back;
                (back.protocol, back.destination) == (protocol, to)
                    && (back.side, back.source.address) == (flow.side, remote)
                    && session.holds_source
            })
        };
        match self.world.networks[network].filtering {
            Filtering::Nobody => {}
            Filtering::Address if knows(flow.source.address) => {}
            Filtering::Address | Filtering::AddressAndPort => return DROP,
        }
        self.inward(flow, from, network, vec![(owner, 1)], true)
    }

    /// A session to a guest of `network`: a guest who opens it shows a public source.
    fn inward(
        &self,
        flow: &Flow,
        from: Option<usize>,
        network: usize,
        targets: Vec<(Endpoint, u16)>,
        through: bool,
    ) -> Decision {
        let side = Side::Inside(self.world.networks[network].domain);
        let (how, source) = match (flow.side, from) {
            (Side::Inside(domain), Some(from)) => {
                (How::Hairpin, self.translation(domain, from, flow.source.address))
            }
            _ => (How::Inbound, Source::Kept),
        };
        if source == Source::Kept && flow.side != Side::Outside && flow.side != side {
            // An address of one domain means nothing in another.
            return DROP;
        }
        Decision::Open(Plan { how, source, side, targets, through })
    }

    /// Static NAT beats the pool.
    fn translation(&self, domain: u8, network: usize, guest: Ipv4Addr) -> Source {
        let own = self.world.statics.iter().find(|rule| {
            rule.guest == Some(guest) && self.world.networks[rule.network].domain == domain
        });
        match own {
            Some(rule) => Source::Static(rule.public),
            None if self.world.networks[network].pool.is_empty() => Source::Kept,
            None => Source::Pool(network),
        }
    }

    /// Whether an address is in any guest network.
    fn is_guests(&self, address: Ipv4Addr) -> bool {
        self.world.networks.iter().any(|network| lies_in(address, network.cidr))
    }

    /// Whether tiers alone use a public address: their lists govern it, and no firewall does.
    fn is_tiers_alone(&self, address: Ipv4Addr) -> bool {
        let world = &self.world;
        let forwards = world.forwards.iter().filter(|rule| rule.public == address);
        let balancers = world.balancers.iter().filter(|rule| rule.public == address);
        let statics = world.statics.iter().filter(|rule| rule.public == address);
        let pools = (0..world.networks.len())
            .filter(|network| world.networks[*network].pool.contains(&address));
        let mut users = forwards
            .map(|rule| rule.network)
            .chain(balancers.map(|rule| rule.network))
            .chain(statics.map(|rule| rule.network))
            .chain(pools)
            .peekable();
        users.peek().is_some() && users.all(|network| world.networks[network].acl.is_some())
    }

    /// Whether the rules in force would open a session as it is. If so it is theirs from now on.
    pub fn still_allowed(&mut self, id: u64) -> bool {
        let session = &self.sessions[&id];
        let flow = session.there;
        let network = match flow.side {
            Side::Inside(domain) => self.world.network_of(domain, flow.source.address),
            Side::Outside => None,
        };
        let lost = network.is_none() && flow.side != Side::Outside;
        if lost || !self.admits(&flow, network) {
            return false;
        }
        let Decision::Open(plan) = self.decide(&flow, network, session.query) else { return false };
        let (target, external) = (session.back.source, session.back.destination);
        let queries = flow.protocol == Protocol::ICMP;
        let same_target = plan.side == session.back.side
            && plan.targets.iter().any(|(other, _)| {
                other.address == target.address && (queries || other.port == target.port)
            });
        let same_source = match plan.source {
            Source::Kept => external == flow.source,
            Source::Static(public) => external.address == public,
            Source::Pool(network) => self.may_give(network, flow.protocol, external),
        };
        let same_how =
            plan.how == session.how && session.pooled == matches!(plan.source, Source::Pool(_));
        let same = same_how && same_target && same_source;
        if same {
            let version = self.version;
            self.sessions.get_mut(&id).expect("a session").version = version;
        }
        same
    }
}

fn routed(side: Side, remote: Endpoint) -> Decision {
    let targets = vec![(remote, 1)];
    Decision::Open(Plan { how: How::Routed, source: Source::Kept, side, targets, through: false })
}
