//! natwerk against a slow, obviously right NAT, over random traces.
//!
//! The model ([`nat`], [`decide`], [`packets`], [`fragments`], [`tcp`]) is written from RFC 4787, 5382 and
//! 5508 and from what the rules mean, with lists and maps and none of the engine's code. Both get the
//! same steps ([`traffic`]): flows of several guests in domains whose addresses overlap, in every
//! direction and protocol, forgeries, ICMP errors, fragments, time, rule changes ([`change`]), pools
//! with a handful of ports. What natwerk may choose (a port, a member) the model takes over after
//! checking that it was allowed ([`choice`]). Every verdict, every byte that leaves and the way it goes
//! must agree, and after each lapse of time all sessions and mappings.
//!
//! Of every second seed, one network is untagged, and packets take shortcuts where there are any.
//!
//! A run is 20,000 packets for each of several seeds. `NATWERK_MODEL_PACKETS=10000000` makes it so many
//! in all, `NATWERK_MODEL_SEED` the first seed. A trace that fails prints its seed and its last steps.

mod change;
mod choice;
mod compare;
mod decide;
mod fragments;
mod nat;
mod packets;
mod random;
mod tcp;
mod traffic;
mod world;

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use natwerk::flow::{FlowKey, Protocol, Realm};
use natwerk::testing::lab::{Lab, Outcome};
use natwerk::testing::packets::Packet;

use crate::choice::Chosen;
use crate::compare::{Renumbered, side_port};
use crate::nat::{Flow, LATENESS, Nat, Side};
use crate::packets::{Arrival, Fate};
use crate::traffic::{Step, Traffic};
use crate::world::{DOMAINS, Domain, Filtering, World};

/// Packets of a seed, and seeds, unless the environment says otherwise.
const PACKETS: u64 = 20_000;
const SEEDS: u64 = 4;

#[test]
fn every_packet_of_random_traces_is_treated_as_the_slow_nat_would() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first: u64 = number("NATWERK_MODEL_SEED").unwrap_or(1);
    let packets = number("NATWERK_MODEL_PACKETS").unwrap_or(PACKETS * SEEDS);
    let seeds = packets.div_ceil(PACKETS.max(packets / 100));
    let next = AtomicU64::new(first);
    let work = || {
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < first + seeds
        {
            run(seed, packets.div_ceil(seeds));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
}

fn run(seed: u64, packets: u64) {
    let mut trace = Trace::new(seed);
    let mut traffic = Traffic::new(seed);
    let mut sent = 0;
    while sent < packets {
        let step = traffic.next(&trace.nat);
        sent += u64::from(!matches!(step, Step::Pass(_) | Step::Reload(_)));
        trace.step(&step);
    }
    trace.finish();
}

/// Both NATs on their way through a trace.
struct Trace {
    lab: Lab,
    nat: Nat,
    /// What natwerk calls the domains.
    realms: Vec<Realm>,
    renumbered: Renumbered,
    log: Log,
}

/// What is printed of a trace that fails.
struct Log {
    seed: u64,
    steps: u64,
    last: VecDeque<Step>,
}

impl Trace {
    fn new(seed: u64) -> Self {
        let has_shortcuts = seed.is_multiple_of(2);
        let mut world = World::start();
        if has_shortcuts {
            // They are for untagged frames.
            world.networks[0].vlan = 0;
        }
        let lab = Lab::with(&world.json(), |config| {
            let ms = Duration::from_millis;
            config.sessions.max = 4096;
            config.workers.shortcuts = has_shortcuts.then_some(64);
            let timeouts = &mut config.timeouts;
            timeouts.tcp_established = ms(nat::TCP_ESTABLISHED);
            timeouts.tcp_transitory = ms(nat::TCP_TRANSITORY);
            timeouts.udp = ms(nat::UDP);
            timeouts.udp_single_exchange = ms(nat::UDP_SINGLE);
            timeouts.icmp = ms(nat::ICMP);
            timeouts.other = ms(nat::OTHER);
            timeouts.port_hold = ms(nat::PORT_HOLD);
        });
        let nat = Nat::new(world, lab.now().as_ms());
        let log = Log { seed, steps: 0, last: VecDeque::new() };
        let mut trace =
            Self { lab, nat, realms: Vec::new(), renumbered: Renumbered::default(), log };
        trace.learn_realms();
        trace
    }

    fn step(&mut self, step: &Step) {
        self.log.note(step);
        let Self { lab, nat, realms, .. } = self;
        match step {
            Step::Packet(arrival, packet) => {
                // Again and again, where only the first ones go the ordinary way.
                let times = if lab.config.workers.shortcuts.is_some() { 4 } else { 1 };
                for _ in 0..times {
                    self.send(arrival, packet);
                }
            }
            Step::Piece(arrival, piece) => {
                let packet = piece.packet();
                let outcome = lab.send_raw(side_port(arrival.side), &nat.frame(arrival, &packet));
                let fate = nat.piece(*arrival, piece, &|flow| chosen(lab, realms, flow));
                self.judge(arrival, &packet, &fate, &outcome);
            }
            Step::Error(arrival, error) => {
                let packet = error.packet();
                let outcome = lab.send_raw(side_port(arrival.side), &nat.frame(arrival, &packet));
                let fate = nat.error(*arrival, error);
                self.judge(arrival, &packet, &fate, &outcome);
            }
            Step::Pass(ms) => self.pass(*ms),
            Step::Reload(world) => {
                lab.reload(&world.json());
                let filterings = |world: &World| -> Vec<Filtering> {
                    world.networks.iter().map(|network| network.filtering).collect()
                };
                let filters_anew = filterings(world) != filterings(&nat.world);
                nat.world = World::clone(world);
                nat.version += 1;
                self.learn_realms();
                if filters_anew {
                    // Until they are reviewed, sessions from before count as the old rules say.
                    self.pass(2_500);
                }
            }
        }
    }

    fn send(&mut self, arrival: &Arrival, packet: &Packet) {
        let Self { lab, nat, realms, .. } = self;
        let outcome = lab.send_raw(side_port(arrival.side), &nat.frame(arrival, packet));
        let fate = nat.packet(*arrival, packet, &|flow| chosen(lab, realms, flow));
        self.judge(arrival, packet, &fate, &outcome);
    }

    fn judge(&mut self, arrival: &Arrival, packet: &Packet, fate: &Fate, outcome: &Outcome) {
        let frame = self.nat.frame(arrival, packet);
        let sent = compare::Sent { port: side_port(arrival.side), frame: &frame, packet };
        if let Err(what) = compare::agree(&self.nat, &sent, fate, outcome, &mut self.renumbered) {
            panic!("{what}\nthe model says {fate:?}\nnatwerk {outcome:?}");
        }
    }

    /// Lets time pass, a little longer if a session might be over or not.
    fn pass(&mut self, ms: u64) {
        self.lab.pass(Duration::from_millis(ms));
        while self.nat.is_in_doubt(self.lab.now().as_ms()) {
            self.lab.pass(Duration::from_millis(LATENESS / 2));
        }
        let Self { lab, nat, realms, .. } = self;
        nat.sweep(lab.now().as_ms(), &|flow| chosen(lab, realms, flow).is_some());
        self.renumbered.clear();
        self.compare_all();
    }

    /// All that both remember must agree.
    fn compare_all(&self) {
        let (nat, shared) = (&self.nat, &self.lab.shared);
        for session in nat.sessions.values() {
            let seen = chosen(&self.lab, &self.realms, &session.there);
            assert_eq!(seen.map(|seen| seen.back), Some(session.back), "natwerk lost {session:?}");
        }
        let mut over = Vec::new();
        shared.sessions.walk(&mut 0, u32::MAX, |view| {
            let flow = flow_of(&self.realms, &view.session.initiator);
            if !nat.flows.contains_key(&flow) {
                over.push((flow, flow_of(&self.realms, &view.session.responder)));
            }
        });
        assert!(over.is_empty(), "natwerk has sessions that are over: {over:?}");
        for ((protocol, at), mapping) in &nat.mappings {
            let found = shared.mappings.find(*protocol, *at);
            let found =
                found.unwrap_or_else(|| panic!("natwerk lost the mapping {at} {mapping:?}"));
            let owner = (self.realms[usize::from(mapping.owner.0)], mapping.owner.1);
            assert_eq!((found.realm, found.internal), owner, "{at}");
            assert_eq!(found.sessions as usize, mapping.sessions.len(), "sessions of {at}");
        }
        let usages = nat.world.publics.iter().flat_map(|public| {
            PROTOCOLS.map(|protocol| shared.mappings.usage(public.address, protocol))
        });
        let (live, overloaded) = usages.fold((0, 0), |(live, overloaded), usage| {
            (live + usage.live as usize, overloaded + usage.overloaded as usize)
        });
        assert_eq!(live, nat.mappings.len(), "natwerk has mappings that nobody uses");
        let sharing = nat.sessions.values().filter(|session| session.shares_port()).count();
        assert_eq!(overloaded, sharing, "sessions that share a port");
    }

    fn finish(mut self) {
        self.pass(100_000);
        let has_shortcuts = self.lab.config.workers.shortcuts.is_some();
        assert_eq!(self.lab.shortcuts_taken > self.log.steps / 100, has_shortcuts);
        assert!(self.nat.sessions.is_empty() && self.nat.mappings.is_empty());
        let shared = &self.lab.shared;
        for network in &self.nat.world.networks {
            let realm = self.realms[usize::from(network.domain)];
            for last in 0..=255 {
                let [a, b, c, _] = network.gateway.octets();
                assert_eq!(shared.guests.sessions(realm, world::ip(a, b, c, last)), 0);
            }
        }
        assert_eq!(self.lab.frames_in_hand(), 0);
    }

    fn learn_realms(&mut self) {
        let policy = self.lab.shared.policy.load();
        let realm = |name: &&str| {
            let network = policy.networks().iter().find(|network| network.domain == **name);
            Realm::Internal(network.expect("every domain has a network").realm)
        };
        self.realms = DOMAINS.iter().map(realm).collect();
    }
}

/// What natwerk chose for a flow.
fn chosen(lab: &Lab, realms: &[Realm], flow: &Flow) -> Option<Chosen> {
    let key = FlowKey {
        realm: match flow.side {
            Side::Inside(domain) => realms[usize::from(domain)],
            Side::Outside => Realm::External,
        },
        protocol: flow.protocol,
        source: flow.source,
        destination: flow.destination,
    };
    let sessions = &lab.shared.sessions;
    let found = sessions.find(&key, sessions.hash(&key)).filter(|found| found.is_initiator())?;
    let session = sessions.view(found.index)?.session;
    Some(Chosen { back: flow_of(realms, &session.responder), exclusive: session.source_mapped })
}

/// A flow by natwerk's name.
fn flow_of(realms: &[Realm], key: &FlowKey) -> Flow {
    let side = match realms.iter().position(|realm| *realm == key.realm) {
        Some(domain) => Side::Inside(Domain::try_from(domain).expect("few")),
        None => Side::Outside,
    };
    let FlowKey { protocol, source, destination, .. } = *key;
    Flow { side, protocol, source, destination }
}

/// The protocols of the traces that have ports.
const PROTOCOLS: [Protocol; 5] =
    [Protocol::ICMP, Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDP_LITE];

impl Log {
    const KEPT: usize = 16;

    fn note(&mut self, step: &Step) {
        self.steps += 1;
        if self.last.len() == Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(step.clone());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}; the last steps:", self.seed, self.steps);
            for step in &self.last {
                eprintln!("  {step}");
            }
        }
    }
}
