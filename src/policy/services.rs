//! What serves the ports of public addresses.

use std::net::Ipv4Addr;

use ahash::HashMap;

use crate::flow::{Endpoint, NetworkId, Protocol, RuleId};
use crate::policy::intervals::{Intervals, Span, paint};
use crate::policy::{Balancer, Service};
use crate::rules::set::{Cidr, PortRange};

/// Every service of every public address.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    addresses: HashMap<Ipv4Addr, (Span, Option<StaticService>)>,
    intervals: Intervals,
    items: Vec<Item>,
}

/// The static NAT of a public address.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaticService {
    pub rule: RuleId,
    pub network: NetworkId,
    pub guest: Option<Ipv4Addr>,
}

/// A port forward.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    pub rule: RuleId,
    pub network: NetworkId,
    pub guest: Option<Ipv4Addr>,
    pub public_ports: PortRange,
    pub guest_ports: PortRange,
    pub sources: Vec<Cidr>,
    /// Others of the same ports, each for sources of its own.
    pub others: Vec<Forward>,
}

impl Forward {
    /// The forward of these ports that `source` may use; of those it may not, the first.
    fn for_source(&self, source: Ipv4Addr) -> &Self {
        let is_for = |forward: &&Self| {
            forward.sources.is_empty() || forward.sources.iter().any(|cidr| cidr.contains(source))
        };
        match is_for(&self) {
            true => self,
            false => self.others.iter().find(is_for).unwrap_or(self),
        }
    }

    /// The guest's endpoint for a public port of this forward.
    fn guest(&self, port: u16) -> Option<Endpoint> {
        let offset = match self.guest_ports.count() == self.public_ports.count() {
            true => port.saturating_sub(self.public_ports.first()),
            false => 0,
        };
        let port = self.guest_ports.first().saturating_add(offset);
        self.guest.map(|address| Endpoint::new(address, port))
    }
}

/// What serves a range of ports.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Balancer(Balancer),
    Local(Vec<Cidr>),
    PortForward(Forward),
}

/// A range of ports of a protocol; no range is every port, and protocols without ports.
pub(super) type Ports = (Protocol, Option<PortRange>);

impl Services {
    /// Sets the services of `address`. Items that come first win where ranges overlap.
    pub fn insert(
        &mut self,
        address: Ipv4Addr,
        static_service: Option<StaticService>,
        items: Vec<(Ports, Item)>,
    ) {
        let mut pieces = Vec::with_capacity(items.len());
        for ((protocol, ports), item) in together(items) {
            let number = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
            let (first, last) = ports.map_or((0, u16::MAX), |ports| (ports.first(), ports.last()));
            pieces.push((key(protocol, first), key(protocol, last), number));
            self.items.push(item);
        }
        let span = self.intervals.push(&paint(&pieces));
        self.addresses.insert(address, (span, static_service));
    }

    /// What serves `port` of `public` for `source`.
    pub fn find(
        &self,
        public: Ipv4Addr,
        protocol: Protocol,
        port: u16,
        source: Ipv4Addr,
    ) -> Service<'_> {
        let Some(&(span, static_service)) = self.addresses.get(&public) else {
            return Service::Nothing;
        };
        let item = self.intervals.find(span, key(protocol, port));
        match (self.items.get(item as usize), static_service) {
            (Some(Item::Local(sources)), _) => Service::Local { sources },
            (_, Some(StaticService { rule, network, guest })) => {
                Service::StaticNat { rule, network, guest }
            }
            (Some(Item::Balancer(balancer)), None) => Service::Balancer(balancer),
            (Some(Item::PortForward(first)), None) => {
                let forward = first.for_source(source);
                Service::PortForward {
                    rule: forward.rule,
                    network: forward.network,
                    guest: forward.guest(port),
                    sources: &forward.sources,
                }
            }
            (None, None) => Service::Nothing,
        }
    }

    /// Every balancer.
    pub fn balancers(&self) -> impl Iterator<Item = &Balancer> {
        self.items.iter().filter_map(|item| match item {
            Item::Balancer(balancer) => Some(balancer),
            Item::Local(_) | Item::PortForward(_) => None,
        })
    }
}

/// Puts forwards of the same ports behind the first of them: which one serves, the source says.
fn together(items: Vec<(Ports, Item)>) -> Vec<(Ports, Item)> {
    let mut firsts: HashMap<Ports, usize> = HashMap::default();
    let mut kept: Vec<(Ports, Item)> = Vec::with_capacity(items.len());
    for (ports, item) in items {
        let first = firsts.get(&ports).and_then(|&place| kept.get_mut(place));
        match (first, item) {
            (Some((_, Item::PortForward(first))), Item::PortForward(forward)) => {
                first.others.push(forward);
            }
            (_, item) => {
                if matches!(item, Item::PortForward(_)) {
                    firsts.insert(ports, kept.len());
                }
                kept.push((ports, item));
            }
        }
    }
    kept
}

fn key(protocol: Protocol, port: u16) -> u32 {
    u32::from(protocol.0) << 16 | u32::from(port)
}
