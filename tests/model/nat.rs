//! The slow NAT: what it remembers, and how that begins and ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};

use crate::fragments::Datagrams;
use crate::tcp::{self, Tcp};
use crate::world::{DOMAINS, Domain, Filtering, World};

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    Inside(Domain),
    Outside,
}

impl std::fmt::Display for Side {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inside(domain) => write!(out, "{}", DOMAINS[usize::from(*domain)]),
            Self::Outside => write!(out, "outside"),
        }
    }
}

/// What packets of one direction of a session have in common, as they arrive. The identifier of an
/// ICMP query stands in both ports.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Flow {
    pub side: Side,
    pub protocol: Protocol,
    pub source: Endpoint,
    pub destination: Endpoint,
}

/// How a session is translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    Hairpin,
    Inbound,
    Routed,
    SourceNat,
    StaticNat,
}

/// A session. The flow there begins it, the flow back answers it; each leaves as the other's reverse.
#[derive(Clone, Debug)]
pub struct Session {
    pub there: Flow,
    pub back: Flow,
    pub how: How,
    /// Whether its source became one of a pool.
    pub pooled: bool,
    /// Whether it holds the mapping at the public endpoint its source became.
    pub holds_source: bool,
    /// Whether it holds the mapping at the public endpoint it was sent to.
    pub holds_target: bool,
    /// The type of the ICMP query it was opened for.
    pub query: u8,
    /// By direction: when the last packet that counts came, how many, and what TCP showed.
    pub seen: [u64; 2],
    pub packets: [u64; 2],
    pub tcp: [Tcp; 2],
    /// The rules it was last judged under.
    pub version: u64,
}

/// A public endpoint that stands for an internal one.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub owner: (Domain, Endpoint),
    /// Whether it was made for one remote alone: because the owner's first one had a conflict there,
    /// or under rules that map by remote.
    pub is_spare: bool,
    pub sessions: BTreeSet<u64>,
    /// When the last session that left it did so.
    pub left: [u64; 2],
}

/// A public endpoint that nobody has any more: it rests before another guest gets it.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    pub guest: (Domain, Ipv4Addr),
    /// It was freed in this span of time: natwerk may take a moment to see that a session is over.
    pub freed: [u64; 2],
}

/// The slow NAT.
pub struct Nat {
    pub world: World,
    pub version: u64,
    pub now: u64,
    pub sessions: BTreeMap<u64, Session>,
    pub flows: HashMap<Flow, (u64, usize)>,
    pub mappings: HashMap<(Protocol, Endpoint), Mapping>,
    pub rests: HashMap<(Protocol, Endpoint), Rest>,
    pub datagrams: Datagrams,
    /// Public addresses and remotes that a path between was told to be narrow of.
    pub narrow: HashSet<(Ipv4Addr, Ipv4Addr)>,
    sessions_made: u64,
}

/// Idle times in milliseconds; natwerk is configured with the same.
pub const TCP_ESTABLISHED: u64 = 40_000;
pub const TCP_TRANSITORY: u64 = 8_000;
pub const UDP: u64 = 14_000;
pub const UDP_SINGLE: u64 = 5_000;
pub const ICMP: u64 = 6_000;
pub const OTHER: u64 = 10_000;
pub const PORT_HOLD: u64 = 9_000;
/// How late a session may end: two units of the coarse clock and a whole sweep.
pub const LATENESS: u64 = 1_200;

impl Nat {
    pub fn new(world: World, now: u64) -> Self {
        Self {
            world,
            version: 0,
            now,
            sessions: BTreeMap::new(),
            flows: HashMap::new(),
            mappings: HashMap::new(),
            rests: HashMap::new(),
            datagrams: Datagrams::default(),
            narrow: HashSet::new(),
            sessions_made: 0,
        }
    }

    /// The living session of a flow and the flow's direction in it.
    pub fn living(&mut self, flow: &Flow) -> Option<(u64, usize)> {
        let &(id, direction) = self.flows.get(flow)?;
        if self.sessions[&id].version == self.version || self.still_allowed(id) {
            return Some((id, direction));
        }
        self.end(id, [self.now; 2]);
        None
    }

    pub fn insert(&mut self, session: Session) -> u64 {
        self.sessions_made += 1;
        let id = self.sessions_made;
        let protocol = session.there.protocol;
        for (holds, at) in [
            (session.holds_source, session.back.destination),
            (session.holds_target, session.there.destination),
        ] {
            if holds {
                let mapping = self.mappings.get_mut(&(protocol, at)).expect("a mapping to hold");
                mapping.sessions.insert(id);
            }
        }
        self.flows.insert(session.there, (id, 0));
        self.flows.insert(session.back, (id, 1));
        self.sessions.insert(id, session);
        id
    }

    /// Ends a session at some time in `freed`.
    pub fn end(&mut self, id: u64, freed: [u64; 2]) {
        let session = self.sessions.remove(&id).expect("a session to end");
        self.flows.remove(&session.there);
        self.flows.remove(&session.back);
        let protocol = session.there.protocol;
        for at in [session.back.destination, session.there.destination] {
            let key = (protocol, at);
            let Some(mapping) = self.mappings.get_mut(&key) else { continue };
            if !mapping.sessions.remove(&id) {
                continue;
            }
            mapping.left = [0, 1].map(|end| mapping.left[end].max(freed[end]));
            if mapping.sessions.is_empty() {
                let (freed, (domain, owner)) = (mapping.left, mapping.owner);
                self.mappings.remove(&key);
                self.rests.insert(key, Rest { guest: (domain, owner.address), freed });
            }
        }
    }

    /// When a session is over if nothing comes any more.
    pub fn end_of(&self, session: &Session) -> u64 {
        let [there, back] = session.seen;
        let protocol = session.there.protocol;
        let refreshed = match session.how {
            // Outbound packets alone keep a mapping alive (RFC 4787, REQ-6).
            _ if protocol == Protocol::TCP => there.max(back),
            How::SourceNat => there,
            How::Inbound if session.holds_target => back,
            How::Hairpin | How::Inbound | How::Routed | How::StaticNat => there.max(back),
        };
        let single = session.packets.iter().all(|count| *count <= 1);
        refreshed
            + match protocol {
                Protocol::TCP if tcp::is_established(&session.tcp) => TCP_ESTABLISHED,
                Protocol::TCP => TCP_TRANSITORY,
                Protocol::UDP if single && session.back.source.port == 53 => UDP_SINGLE,
                Protocol::UDP => UDP,
                Protocol::ICMP => ICMP,
                _ => OTHER,
            }
    }

    /// Whether some session may or may not be over at `now`.
    pub fn is_in_doubt(&self, now: u64) -> bool {
        self.sessions.values().any(|session| {
            let end = self.end_of(session);
            end <= now && now <= end + LATENESS
        })
    }

    /// Time has passed: what is over ends, and what the rules refuse.
    /// `lives` says whether natwerk still has a session.
    pub fn sweep(&mut self, now: u64, lives: &dyn Fn(&Flow) -> bool) {
        let before = std::mem::replace(&mut self.now, now);
        // New rules are in force within the second.
        let stale: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.version != self.version)
            .map(|(id, _)| *id)
            .collect();
        for id in stale {
            let session = &self.sessions[&id];
            if !self.hangs_on_others(id) {
                if !self.still_allowed(id) {
                    self.end(id, [before, before + LATENESS]);
                }
            } else if lives(&session.there) {
                self.sessions.get_mut(&id).expect("a session").version = self.version;
            } else {
                // By the new rules, or in its own time.
                self.end(id, [before, self.end_of(session) + LATENESS]);
            }
        }
        let over: Vec<_> = self
            .sessions
            .iter()
            .map(|(id, session)| (*id, self.end_of(session)))
            .filter(|(_, end)| *end < now)
            .collect();
        for (id, end) in over {
            self.end(id, [end, end + LATENESS]);
        }
        self.datagrams = Datagrams::default();
    }

    /// Whether new rules judge a session by another that they may end in the same moment: the guest's
    /// own to a remote that filtering by address let in.
    fn hangs_on_others(&self, id: u64) -> bool {
        let session = &self.sessions[&id];
        let Side::Inside(domain) = session.back.side else { return false };
        let network = self.world.network_of(domain, session.back.source.address);
        session.holds_target
            && network.is_some_and(|n| self.world.networks[n].filtering == Filtering::Address)
    }

    /// Sessions that a guest has opened.
    pub fn sessions_of(&self, side: Side, guest: Ipv4Addr) -> usize {
        let of_guest = |session: &&Session| {
            session.there.side == side && session.there.source.address == guest
        };
        self.sessions.values().filter(of_guest).count()
    }

    /// A packet that counts went in a direction of a session.
    pub fn touch(&mut self, id: u64, direction: usize) {
        let session = self.sessions.get_mut(&id).expect("a session");
        session.seen[direction] = self.now;
        session.packets[direction] += 1;
    }
}

impl Session {
    pub fn flow(&self, direction: usize) -> &Flow {
        if direction == 0 { &self.there } else { &self.back }
    }

    /// Whether its public port carries sessions of others to other remotes.
    pub fn shares_port(&self) -> bool {
        self.pooled && self.there.protocol.has_ports() && !self.holds_source
    }

    /// How a packet of a direction leaves: the side, its new source and destination.
    pub fn out(&self, direction: usize) -> (Side, Endpoint, Endpoint) {
        let other = self.flow(1 - direction);
        (other.side, other.destination, other.source)
    }
}
