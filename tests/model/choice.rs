//! natwerk's own choices, a port or a member: taken over after checking that they were allowed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};

use crate::decide::{Plan, Source};
use crate::nat::{Flow, LATENESS, Mapping, Nat, PORT_HOLD, Rest, Session, Side};
use crate::tcp::Tcp;

/// What natwerk says it chose for a flow.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// The flow that answers.
    pub back: Flow,
    /// Whether the public endpoint of the source stands for this guest alone.
    pub exclusive: bool,
}

/// Asks natwerk what it chose for a flow: none if it opened no session.
pub type Ask<'a> = &'a dyn Fn(&Flow) -> Option<Chosen>;

/// Why a session is not opened; whether the sender hears of it.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    pub told: bool,
}

impl Nat {
    /// Opens a session as `plan` says, with natwerk's choices.
    ///
    /// # Errors
    /// It may not be opened.
    ///
    /// # Panics
    /// When natwerk chose what it must not, or refused without need.
    pub fn open(
        &mut self,
        flow: &Flow,
        plan: &Plan,
        query: u8,
        ask: Ask<'_>,
    ) -> Result<u64, Refused> {
        let serving = plan.targets.iter().any(|(_, weight)| *weight > 0);
        if !serving {
            assert!(ask(flow).is_none(), "a drained member got a session");
            return Err(Refused { told: false });
        }
        if self.is_over_limit(flow) {
            assert!(ask(flow).is_none(), "a guest got a session over its limit");
            return Err(Refused { told: true });
        }
        let Some(chosen) = ask(flow) else {
            return Err(self.refusal(flow, plan));
        };
        // A session that the rules no longer make makes way for the one that needs its place.
        self.living(&chosen.back);
        self.check(flow, plan, &chosen);
        let (protocol, external) = (flow.protocol, chosen.back.destination);
        let pooled = matches!(plan.source, Source::Pool(_)) && protocol.has_ports();
        let holds_source = pooled && chosen.exclusive;
        if let (true, Side::Inside(domain)) = (holds_source, flow.side) {
            let owner = (domain, flow.source);
            let is_spare = !self.is_shared_by_remotes(plan, flow, external);
            let new = Mapping { owner, is_spare, sessions: BTreeSet::new(), left: [0; 2] };
            self.mappings.entry((protocol, external)).or_insert(new);
            self.rests.remove(&(protocol, external));
        }
        Ok(self.insert(Session {
            there: *flow,
            back: chosen.back,
            how: plan.how,
            pooled: matches!(plan.source, Source::Pool(_)),
            holds_source,
            holds_target: plan.through,
            query,
            seen: [self.now; 2],
            packets: [0; 2],
            tcp: [Tcp::default(); 2],
            version: self.version,
        }))
    }

    /// Whether a mapping at `external` is the flow's one for all remotes: its source has no other
    /// that the rules still allow.
    fn is_shared_by_remotes(&self, plan: &Plan, flow: &Flow, external: Endpoint) -> bool {
        let Source::Pool(network) = plan.source else { return false };
        let is_independent = self.world.networks[network].endpoint_independent;
        let mut own = self.own_mappings(flow, network);
        is_independent && own.all(|at| at == external)
    }

    /// The public endpoints that the flow's source has for all remotes.
    fn own_mappings(&self, flow: &Flow, network: usize) -> impl Iterator<Item = Endpoint> + Clone {
        let owner = (flow.side, flow.source);
        let own = move |((protocol, at), mapping): (&(Protocol, Endpoint), &Mapping)| {
            let is_own = (Side::Inside(mapping.owner.0), mapping.owner.1) == owner;
            let is_usable = is_own && !mapping.is_spare && *protocol == flow.protocol;
            (is_usable && self.may_give(network, *protocol, *at)).then_some(*at)
        };
        self.mappings.iter().filter_map(own)
    }

    fn is_over_limit(&self, flow: &Flow) -> bool {
        let Side::Inside(domain) = flow.side else { return false };
        let network = self.world.network_of(domain, flow.source.address).expect("admitted");
        let most = self.world.networks[network].sessions_max;
        self.sessions_of(flow.side, flow.source.address) >= most
    }

    /// natwerk opened no session: it must have had to.
    fn refusal(&self, flow: &Flow, plan: &Plan) -> Refused {
        let Source::Pool(network) = plan.source else {
            let sources: Vec<Endpoint> = match plan.source {
                Source::Static(public) => vec![Endpoint::new(public, flow.source.port)],
                Source::Kept | Source::Pool(_) => vec![flow.source],
            };
            let taken = plan.targets.iter().any(|(target, _)| {
                sources.iter().any(|source| self.is_taken(flow, plan.side, *target, *source))
            });
            assert!(taken, "a session was refused that could be opened: {flow:?} {plan:?}");
            return Refused { told: false };
        };
        if !flow.protocol.has_ports() {
            let taken = self.usable(network).iter().any(|address| {
                let public = Endpoint::new(*address, 0);
                plan.targets
                    .iter()
                    .any(|(target, _)| self.is_taken(flow, plan.side, *target, public))
            });
            assert!(taken, "a protocol without ports was refused: {flow:?}");
            return Refused { told: false };
        }
        let free = plan.targets.iter().find_map(|(target, _)| {
            let addresses = self.usable(network);
            // Of several addresses the guest has one, which may be the full one.
            let known = self.shown(flow, network).first().copied();
            let mut free = addresses
                .iter()
                .filter(|address| known.is_none_or(|k| k == **address))
                .map(|address| self.free_port(flow, network, *address, (plan.side, *target)));
            let first = free.next()?;
            free.fold(first, |all, one| all.and(one))
        });
        assert!(free.is_none(), "{flow:?} was refused, but {free:?} is free");
        Refused { told: true }
    }

    /// An endpoint of `address` that the flow could surely have had.
    fn free_port(
        &self,
        flow: &Flow,
        network: usize,
        address: Ipv4Addr,
        (side, target): (Side, Endpoint),
    ) -> Option<Endpoint> {
        let rules = &self.world.networks[network];
        self.range(network, flow.protocol)
            .filter(|port| (*port >= 1024) == (flow.source.port >= 1024) || rules.ports.0 >= 1024)
            .map(|port| Endpoint::new(address, port))
            .find(|external| {
                self.may_give(network, flow.protocol, *external)
                    && !self.is_taken(flow, side, target, *external)
                    && (rules.overload || self.is_free(flow, *external))
            })
    }

    /// Whether nobody has a public endpoint and the flow's guest may surely have it.
    fn is_free(&self, flow: &Flow, external: Endpoint) -> bool {
        let key = (flow.protocol, external);
        let rests = self.rests.get(&key).is_some_and(|rest| {
            !self.is_guest(flow, rest.guest) && self.now <= rest.freed[1] + PORT_HOLD + LATENESS
        });
        !self.mappings.contains_key(&key) && !rests
    }

    /// Whether another session has the key of the packets that would answer.
    fn is_taken(&self, flow: &Flow, side: Side, target: Endpoint, external: Endpoint) -> bool {
        let back = answering(flow, side, target, external);
        self.flows.contains_key(&back) || back == *flow
    }

    fn check(&self, flow: &Flow, plan: &Plan, chosen: &Chosen) {
        let (target, external) = (chosen.back.source, chosen.back.destination);
        let queries = flow.protocol == Protocol::ICMP;
        let serves = |(member, weight): &(Endpoint, u16)| {
            *weight > 0
                && member.address == target.address
                && (queries || member.port == target.port)
        };
        assert!(plan.targets.iter().any(serves), "{target} is no target of {plan:?}");
        assert_eq!(chosen.back, answering(flow, plan.side, target, external));
        assert!(!self.flows.contains_key(&chosen.back), "two sessions share {:?}", chosen.back);
        match plan.source {
            Source::Kept => assert_eq!(external, flow.source),
            Source::Static(public) => {
                assert_eq!(external, Endpoint::new(public, flow.source.port));
            }
            Source::Pool(network) if flow.protocol.has_ports() => {
                self.check_port(flow, network, chosen);
            }
            Source::Pool(network) => {
                assert!(self.usable(network).contains(&external.address));
                self.check_pairing(flow, network, external.address);
            }
        }
    }

    fn check_port(&self, flow: &Flow, network: usize, chosen: &Chosen) {
        let (protocol, external) = (flow.protocol, chosen.back.destination);
        assert!(self.may_give(network, protocol, external), "{external} is not the pool's");
        let rules = &self.world.networks[network];
        if rules.endpoint_independent {
            // RFC 4787, REQ-1: one internal endpoint, one external endpoint, but where another
            // session has that one for the same remote.
            let mut own = self.own_mappings(flow, network);
            if own.clone().any(|at| at == external) {
                return;
            }
            let usable =
                own.find(|at| !self.is_taken(flow, chosen.back.side, chosen.back.source, *at));
            assert!(usable.is_none(), "{flow:?} got {external} and has {usable:?}");
        }
        self.check_pairing(flow, network, external.address);
        if chosen.exclusive {
            self.check_exclusive(flow, network, chosen);
        } else {
            assert!(self.world.networks[network].overload, "no ports are shared here");
            self.assert_none_free(flow, network, chosen, "it shares a port");
        }
    }

    /// A port of its own: it was free, and the best there was.
    fn check_exclusive(&self, flow: &Flow, network: usize, chosen: &Chosen) {
        let (protocol, external) = (flow.protocol, chosen.back.destination);
        let holder = self.mappings.get(&(protocol, external));
        assert!(holder.is_none(), "{external} of {flow:?} is {holder:?}'s");
        if let Some(rest) = self.rests.get(&(protocol, external)) {
            // RFC 6888, REQ-8: the same guest may have it back at once.
            let rested = self.now >= rest.freed[0] + PORT_HOLD;
            assert!(rested || self.is_guest(flow, rest.guest), "{external} still rests: {rest:?}");
        }
        let own = Endpoint::new(external.address, flow.source.port);
        if external == own {
            return;
        }
        assert!(
            !self.is_best(flow, network, chosen, own),
            "{flow:?} got {external} though its own port was free"
        );
        let is_port = protocol != Protocol::ICMP;
        let same_parity = external.port % 2 == flow.source.port % 2;
        if is_port && !same_parity {
            // RFC 4787, REQ-4.
            let better = self.range(network, protocol).find(|port| {
                let like = port % 2 == flow.source.port % 2 && *port >= 1024;
                let at = Endpoint::new(external.address, *port);
                like && flow.source.port >= 1024
                    && !self.rests.contains_key(&(protocol, at))
                    && self.is_best(flow, network, chosen, at)
            });
            assert!(better.is_none(), "{flow:?} got {external} though {better:?} was free");
        }
        if is_port && flow.source.port >= 1024 && external.port < 1024 {
            // RFC 4787, REQ-3a.
            self.assert_none_free(flow, network, chosen, "it got a well-known port");
        }
    }

    /// Whether `external` was free in every sense, also never used of late.
    fn is_best(&self, flow: &Flow, network: usize, chosen: &Chosen, external: Endpoint) -> bool {
        let rests = self.rests.get(&(flow.protocol, external)).is_some_and(|rest| {
            self.now <= rest.freed[1] + PORT_HOLD + LATENESS && !self.is_guest(flow, rest.guest)
        });
        self.may_give(network, flow.protocol, external)
            && !self.mappings.contains_key(&(flow.protocol, external))
            && !rests
            && !self.may_be_freed_last(flow.protocol, external)
            && !self.is_taken(flow, chosen.back.side, chosen.back.source, external)
    }

    /// Whether an endpoint may be the one of its block of ports that was freed last: others get any other of
    /// the block before it.
    fn may_be_freed_last(&self, protocol: Protocol, external: Endpoint) -> bool {
        let Some(rest) = self.rests.get(&(protocol, external)) else { return false };
        let later = |((of, at), other): (&(Protocol, Endpoint), &Rest)| {
            (*of, at.address) == (protocol, external.address)
                && at.port / BLOCK_PORTS == external.port / BLOCK_PORTS
                && other.freed[0] > rest.freed[1]
        };
        !self.rests.iter().any(later)
    }

    fn assert_none_free(&self, flow: &Flow, network: usize, chosen: &Chosen, what: &str) {
        let address = chosen.back.destination.address;
        let free = self.range(network, flow.protocol).find(|port| {
            let class = (*port >= 1024) == (flow.source.port >= 1024);
            class && self.is_best(flow, network, chosen, Endpoint::new(address, *port))
        });
        assert!(free.is_none(), "{flow:?}: {what}, but {free:?} is free");
    }

    /// RFC 4787, REQ-2: a guest shows one address as long as it has sessions there and its pool has it.
    fn check_pairing(&self, flow: &Flow, network: usize, address: Ipv4Addr) {
        let shown = self.shown(flow, network);
        let is_one = shown.is_empty() || shown.contains(&address);
        assert!(is_one, "{flow:?} shows {address} beside {shown:?}");
    }

    /// The addresses of a network's pool that the guest's sessions show.
    fn shown(&self, flow: &Flow, network: usize) -> Vec<Ipv4Addr> {
        let usable = self.usable(network);
        let is_guests = |session: &&Session| {
            session.pooled
                && (session.there.side, session.there.source.address)
                    == (flow.side, flow.source.address)
        };
        let own = self.sessions.values().filter(is_guests);
        let shown = own.map(|session| session.back.destination.address);
        shown.filter(|address| usable.contains(address)).collect()
    }

    fn is_guest(&self, flow: &Flow, (domain, guest): (u8, Ipv4Addr)) -> bool {
        flow.side == Side::Inside(domain) && flow.source.address == guest
    }

    /// The addresses of a pool that no static NAT has for itself.
    fn usable(&self, network: usize) -> Vec<Ipv4Addr> {
        let is_static =
            |address: &Ipv4Addr| self.world.statics.iter().any(|rule| rule.public == *address);
        let pool = &self.world.networks[network].pool;
        pool.iter().copied().filter(|address| !is_static(address)).collect()
    }

    fn range(&self, network: usize, protocol: Protocol) -> std::ops::RangeInclusive<u16> {
        let (first, last) = self.world.networks[network].ports;
        // An identifier may be zero.
        let first = if protocol == Protocol::ICMP && first == 1 { 0 } else { first };
        first..=last
    }

    /// Whether a pool may give out a public endpoint: in range, and nobody's by rule.
    pub fn may_give(&self, network: usize, protocol: Protocol, external: Endpoint) -> bool {
        if !protocol.has_ports() {
            return self.usable(network).contains(&external.address);
        }
        let world = &self.world;
        let reserved = world.local.contains(&(protocol, external))
            || world.forwards.iter().any(|rule| {
                (rule.public, rule.protocol) == (external.address, protocol)
                    && (rule.ports.0..=rule.ports.1).contains(&external.port)
            })
            || world.balancers.iter().any(|rule| {
                (rule.public, rule.protocol, rule.port)
                    == (external.address, protocol, external.port)
            });
        self.usable(network).contains(&external.address)
            && self.range(network, protocol).contains(&external.port)
            && !reserved
    }
}

/// Ports of an address that natwerk keeps together, with a list of those that rest.
const BLOCK_PORTS: u16 = 1024;

/// The flow that answers `flow` when `target` gets it and its source became `external`.
fn answering(flow: &Flow, side: Side, target: Endpoint, external: Endpoint) -> Flow {
    let port = if flow.protocol == Protocol::ICMP { external.port } else { target.port };
    Flow {
        side,
        protocol: flow.protocol,
        source: Endpoint::new(target.address, port),
        destination: external,
    }
}
