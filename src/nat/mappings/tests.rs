//! What the mappings promise, and a slow model that they must agree with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::{ops::RangeInclusive, time::Duration};

use proptest::prelude::*;

use super::*;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const A: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 11);
const SEED: [u64; 4] = [11, 22, 33, 44];

fn pool(ports: RangeInclusive<u16>) -> Pool {
    Pool {
        addresses: vec![PoolAddress { address: PUBLIC, reserved: Vec::new() }],
        ports,
        mapping: MappingBehavior::EndpointIndependent,
        overload: false,
        hold: Duration::ZERO,
    }
}

fn realm() -> Realm {
    Realm::from_raw(1)
}

fn request(pool: &Pool, protocol: Protocol, guest: Ipv4Addr, port: u16) -> BindRequest<'_> {
    let (internal, limits) = (Endpoint::new(guest, port), MappingLimits::default());
    BindRequest::new((realm(), protocol, internal), pool, limits)
}

fn at(seconds: u64) -> Tick {
    Tick::from_ms(seconds * 1000)
}

/// Binds a UDP endpoint at second `seconds` where nothing is shared.
fn bind(mappings: &Mappings, pool: &Pool, guest: Ipv4Addr, port: u16, seconds: u64) -> Option<u16> {
    let request = request(pool, Protocol::UDP, guest, port);
    let bound = mappings.bind(&request, at(seconds), |_| panic!("nothing is shared"));
    bound.ok().map(|bound| bound.external.port)
}

fn release(mappings: &Mappings, port: u16, seconds: u64) {
    mappings.release(Protocol::UDP, Endpoint::new(PUBLIC, port), at(seconds));
}

#[test]
fn a_port_is_kept_where_it_is_free_and_an_endpoint_keeps_its_mapping() {
    let (mappings, pool) = (Mappings::new(100, SEED), pool(1..=65535));
    assert_eq!(bind(&mappings, &pool, A, 5060, 0), Some(5060));
    assert_eq!(bind(&mappings, &pool, A, 5060, 1), Some(5060));
    let other = bind(&mappings, &pool, B, 5060, 2).expect("a port");
    assert_ne!(other, 5060);
    assert_eq!(bind(&mappings, &pool, B, 5060, 3), Some(other));
    let mapping = mappings.find(Protocol::UDP, Endpoint::new(PUBLIC, 5060)).expect("live");
    assert_eq!((mapping.internal, mapping.sessions), (Endpoint::new(A, 5060), 2));
    assert!(mappings.find(Protocol::TCP, Endpoint::new(PUBLIC, 5060)).is_none());
}

#[test]
fn a_mapping_lives_as_long_as_a_session_uses_it() {
    let (mappings, pool) = (Mappings::new(100, SEED), pool(1..=65535));
    let external = Endpoint::new(PUBLIC, 5060);
    bind(&mappings, &pool, A, 5060, 0);
    assert!(mappings.hold(Protocol::UDP, external));
    release(&mappings, 5060, 1);
    assert!(mappings.find(Protocol::UDP, external).is_some());
    release(&mappings, 5060, 1);
    assert!(mappings.find(Protocol::UDP, external).is_none());
    assert!(!mappings.hold(Protocol::UDP, external));
    release(&mappings, 5060, 1);
    let usage = mappings.usage(PUBLIC, Protocol::UDP);
    assert_eq!(usage, PortUsage { live: 0, resting: 1, overloaded: 0 });
}

#[test]
fn edge_ports_and_identifiers_work() {
    let (mappings, pool) = (Mappings::new(100, SEED), pool(1..=65535));
    for port in [1, 1023, 1024, 65535] {
        assert_eq!(bind(&mappings, &pool, A, port, 0), Some(port));
        let other = bind(&mappings, &pool, B, port, 0).expect("a port");
        assert_eq!((other % 2, other < 1024), (port % 2, port < 1024));
    }
    for identifier in [0, 65535] {
        let request = request(&pool, Protocol::ICMP, A, identifier);
        let bound = mappings.bind(&request, at(0), |_| true).expect("an identifier");
        assert_eq!(bound.external.port, identifier);
    }
    assert_ne!(bind(&mappings, &pool, A, 0, 0), Some(0));
}

#[test]
fn chosen_ports_are_hard_to_guess() {
    let (mappings, mut pool) = (Mappings::new(100, SEED), pool(1..=65535));
    // The kernel's own range must not pile them up behind its end.
    pool.addresses[0].reserved = vec![(Protocol::UDP, 32768..=60999)];
    let ports: Vec<u16> = (20..68)
        .filter_map(|host| bind(&mappings, &pool, Ipv4Addr::new(10, 1, 1, host), 23406, 0))
        .collect();
    let distinct: HashSet<_> = ports.iter().collect();
    assert_eq!(distinct.len(), 48);
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 8).count();
    assert!(near <= 8, "{near} of 47 neighbours are near each other");
    let span = ports.iter().max().expect("ports") - ports.iter().min().expect("ports");
    assert!(span > 8000, "{span}");
    let other_seed = Mappings::new(100, [5, 6, 7, 8]);
    bind(&other_seed, &pool, A, 23406, 0);
    let (one, other) = (bind(&mappings, &pool, A, 23406, 0), bind(&other_seed, &pool, B, 23406, 0));
    assert_ne!(one, other);
}

#[test]
fn a_freed_port_rests_before_another_guest_gets_it() {
    let pool = Pool { hold: Duration::from_secs(4), ..pool(40000..=40001) };
    let mappings = Mappings::new(100, SEED);
    assert_eq!(bind(&mappings, &pool, A, 40000, 10), Some(40000));
    release(&mappings, 40000, 11);
    assert_eq!(bind(&mappings, &pool, B, 40000, 12), Some(40001));
    assert_eq!(bind(&mappings, &pool, B, 7, 14), None, "the other port still rests");
    assert_eq!(bind(&mappings, &pool, A, 9, 14), Some(40000), "its own guest may have it");
    release(&mappings, 40000, 15);
    assert_eq!(bind(&mappings, &pool, B, 7, 20), Some(40000));
}

#[test]
fn the_port_freed_last_is_the_last_choice_of_others() {
    let mappings = Mappings::new(100, SEED);
    let pool = pool(40000..=40003);
    for port in 40000..=40003 {
        assert_eq!(bind(&mappings, &pool, A, port, 0), Some(port));
    }
    for port in [40001, 40003, 40000, 40002] {
        release(&mappings, port, 1);
    }
    for port in 1..=3 {
        assert_ne!(bind(&mappings, &pool, B, 40002, 2 + port).expect("a port"), 40002);
        let request = request(&pool, Protocol::UDP, B, 40002 + port as u16);
        assert!(mappings.bind(&request, at(3), |_| true).is_ok());
        if mappings.usage(PUBLIC, Protocol::UDP).live == 3 {
            break;
        }
    }
    assert_eq!(bind(&mappings, &pool, Ipv4Addr::new(10, 1, 1, 12), 7, 9), Some(40002));
}

#[test]
fn four_ports_serve_four_endpoints_and_a_freed_one_serves_again() {
    let (mappings, pool) = (Mappings::new(100, SEED), pool(40000..=40003));
    let ports: HashSet<_> =
        (0..4).map(|n| bind(&mappings, &pool, A, 20000 + n, 0).expect("a port")).collect();
    assert_eq!(ports.len(), 4);
    assert_eq!(bind(&mappings, &pool, B, 20000, 1), None);
    let tcp = mappings.bind(&request(&pool, Protocol::TCP, B, 20000), at(1), |_| true);
    assert!(tcp.is_ok(), "TCP has ports of its own");
    for port in ports {
        release(&mappings, port, 2);
    }
    assert!(bind(&mappings, &pool, B, 20000, 3).is_some());
}

#[test]
fn a_guest_keeps_one_address_and_guests_spread_over_all() {
    let address =
        |last| PoolAddress { address: Ipv4Addr::new(203, 0, 113, last), reserved: Vec::new() };
    let mut pool = Pool { addresses: (10..18).map(address).collect(), ..pool(1..=65535) };
    let mappings = Mappings::new(100_000, SEED);
    let bind = |pool: &Pool, guest, protocol, port| {
        let bound = mappings.bind(&request(pool, protocol, guest, port), at(0), |_| true);
        bound.expect("a port").external.address
    };
    let guests = (0..800).map(|number| Ipv4Addr::from_bits(0x0a01_0000 + number));
    let before: HashMap<_, _> =
        guests.map(|guest| (guest, bind(&pool, guest, Protocol::UDP, 53))).collect();
    for (guest, address) in &before {
        for (port, protocol) in [Protocol::TCP, Protocol::ICMP, Protocol::UDP].iter().enumerate() {
            assert_eq!(bind(&pool, *guest, *protocol, 100 + port as u16), *address);
        }
    }
    let mut shares = HashMap::<_, u32>::new();
    before.values().for_each(|address| *shares.entry(*address).or_default() += 1);
    assert_eq!(shares.len(), 8);
    assert!(shares.values().all(|share| (50..200).contains(share)), "{shares:?}");
    let gone = pool.addresses.remove(3).address;
    for (guest, address) in &before {
        let now = bind(&pool, *guest, Protocol::UDP, 53);
        assert!(if *address == gone { now != gone } else { now == *address });
    }
}

#[test]
fn what_a_reload_takes_away_serves_old_sessions_only() {
    let mappings = Mappings::new(100, SEED);
    let before = pool(1..=65535);
    assert_eq!(bind(&mappings, &before, A, 1194, 0), Some(1194));
    let mut reserved = before.clone();
    reserved.addresses[0].reserved = vec![(Protocol::TCP, 1..=65535), (Protocol::UDP, 1194..=1194)];
    let other = bind(&mappings, &reserved, A, 1194, 1).expect("another port");
    assert_ne!(other, 1194);
    assert!(mappings.find(Protocol::UDP, Endpoint::new(PUBLIC, 1194)).is_some());
    assert_eq!(bind(&mappings, &reserved, A, 1194, 2), Some(other));
    let mut moved = before;
    moved.addresses[0].address = Ipv4Addr::new(203, 0, 113, 11);
    let bound = mappings.bind(&request(&moved, Protocol::UDP, A, 1194), at(3), |_| true);
    assert_eq!(bound.expect("a port").external.address, moved.addresses[0].address);
    for port in [1194, other, other] {
        release(&mappings, port, 4);
    }
    assert_eq!(mappings.usage(PUBLIC, Protocol::UDP).live, 0);
}

#[test]
fn a_full_address_carries_half_a_million_sessions_to_distinct_remotes() {
    let mut pool = Pool { overload: true, ..pool(1024..=65535) };
    pool.addresses[0].reserved = vec![(Protocol::UDP, 30000..=30999)];
    let mappings = Mappings::new(70_000, SEED);
    let mut taken = ahash::AHashSet::with_capacity(510_000);
    let mut shared = 0;
    for number in 0..510_000_u32 {
        let guest = Ipv4Addr::from_bits(0x0a00_0000 + number / 40_000);
        let request = request(&pool, Protocol::UDP, guest, (number % 40_000) as u16 + 20_000);
        let remote = number / 3;
        let session = |external: Endpoint| u64::from(remote) << 16 | u64::from(external.port);
        let unused = |external: Endpoint| !taken.contains(&session(external));
        let bound = mappings.bind(&request, at(1), unused).expect("room for all");
        assert!(!(30000..=30999).contains(&bound.external.port), "a forward's port was shared");
        assert!(taken.insert(session(bound.external)), "a collision");
        shared += u32::from(bound.overloaded);
    }
    let usage = mappings.usage(PUBLIC, Protocol::UDP);
    assert_eq!((usage.live, usage.overloaded), (64_512 - 1000, shared));
    assert!(mappings.memory_bytes() < 70_000 * 29, "{}", mappings.memory_bytes());
    for _ in 0..=shared {
        mappings.release_overloaded(Protocol::UDP, Endpoint::new(PUBLIC, 1024));
    }
    assert_eq!(mappings.usage(PUBLIC, Protocol::UDP).overloaded, 0);
}

#[test]
fn an_adopted_mapping_is_the_same_as_before() {
    let (mappings, pool) = (Mappings::new(100, SEED), pool(1..=65535));
    let (internal, external) = (Endpoint::new(A, 7000), Endpoint::new(PUBLIC, 9000));
    assert!(mappings.adopt(realm(), Protocol::UDP, internal, external));
    assert!(mappings.adopt(realm(), Protocol::UDP, internal, external));
    assert!(!mappings.adopt(realm(), Protocol::UDP, Endpoint::new(B, 7000), external));
    mappings.adopt_overloaded(Protocol::UDP, external);
    mappings.release_overloaded(Protocol::UDP, external);
    assert_eq!(bind(&mappings, &pool, A, 7000, 0), Some(9000));
    let mut seen = Vec::new();
    mappings.for_each(|protocol, mapping| seen.push((protocol, *mapping)));
    let mapping = Mapping { realm: realm(), internal, external, sessions: 3 };
    assert_eq!(seen, [(Protocol::UDP, mapping)]);
    (0..3).for_each(|_| release(&mappings, 9000, 1));
    assert_eq!(bind(&mappings, &pool, A, 7000, 2), Some(7000));
}

#[test]
fn workers_that_bind_and_release_at_once_never_share_a_port() {
    let mappings = Mappings::new(4000, SEED);
    let pool = pool(40000..=40999);
    let owners = parking_lot::Mutex::new(HashMap::<u16, (Endpoint, u32)>::new());
    std::thread::scope(|scope| {
        for worker in 0..4_u16 {
            let (mappings, pool, owners) = (&mappings, &pool, &owners);
            scope.spawn(move || {
                let give_back = |external, round| {
                    let mut owners = owners.lock();
                    owners.entry(external).and_modify(|(_, count)| *count -= 1);
                    release(mappings, external, round);
                };
                let mut held = Vec::new();
                for round in 0..20_000_u64 {
                    let guest = Ipv4Addr::from_bits(0x0a01_0000 + (round % 7) as u32);
                    let port = 40000 + ((round * 31 + u64::from(worker) * 7) % 200) as u16;
                    if let Some(external) = bind(mappings, pool, guest, port, round) {
                        let internal = Endpoint::new(guest, port);
                        let mut owners = owners.lock();
                        let (owner, count) = owners.entry(external).or_insert((internal, 0));
                        assert!(*count == 0 || *owner == internal);
                        (*owner, *count) = (internal, *count + 1);
                        held.push(external);
                    }
                    if held.len() > 40 {
                        give_back(held.swap_remove((round % 40) as usize), round);
                    }
                }
                held.into_iter().for_each(|external| give_back(external, 30_000));
            });
        }
    });
    assert_eq!(mappings.usage(PUBLIC, Protocol::UDP).live, 0);
}

/// A session of the model.
#[derive(Clone, Copy, Debug)]
struct Session {
    internal: Endpoint,
    remote: u8,
    bound: Bound,
}

/// Everything that is so, in the plainest form.
struct Model {
    pool: Pool,
    sessions: Vec<Session>,
    freed: BTreeMap<u16, (Ipv4Addr, Tick)>,
}

impl Model {
    fn live(&self) -> HashMap<u16, (Endpoint, u32)> {
        let mut live = HashMap::new();
        for session in self.sessions.iter().filter(|session| !session.bound.overloaded) {
            let (owner, count) =
                live.entry(session.bound.external.port).or_insert((session.internal, 0));
            assert_eq!(*owner, session.internal, "a port of two owners");
            *count += 1;
        }
        live
    }

    fn is_allowed(&self, port: u16) -> bool {
        let reserved = &self.pool.addresses[0].reserved;
        self.pool.ports.contains(&port) && !reserved.iter().any(|(_, ports)| ports.contains(&port))
    }

    fn unused(&self, external: Endpoint, remote: u8) -> bool {
        let is_it = |s: &&Session| s.bound.external == external && s.remote == remote;
        !self.sessions.iter().any(|session| is_it(&session))
    }

    /// Ports that `guest` could have at `now`.
    fn available(&self, guest: Ipv4Addr, now: Tick) -> Vec<u16> {
        let live = self.live();
        let suits = |port: &u16| {
            self.freed.get(port).is_none_or(|(last, freed)| {
                *last == guest || now.since(*freed) >= self.pool.hold + Duration::from_millis(256)
            })
        };
        let ports = self.pool.ports.clone().filter(|port| self.is_allowed(*port));
        ports.filter(|port| !live.contains_key(port)).filter(suits).collect()
    }

    fn check(&self, internal: Endpoint, remote: u8, now: Tick, got: Result<Bound, BindError>) {
        let own: Vec<_> = self
            .sessions
            .iter()
            .filter(|s| s.internal == internal && !s.bound.overloaded)
            .filter(|s| self.is_allowed(s.bound.external.port))
            .map(|s| s.bound.external)
            .collect();
        let available = self.available(internal.address, now);
        let class = |port: u16| port < 1024;
        let reachable = |port: &&u16| class(internal.port) || !class(**port);
        let independent = self.pool.mapping == MappingBehavior::EndpointIndependent;
        let is_narrow = !self.pool.ports.clone().any(|port| !class(port));
        let open: Vec<u16> =
            available.iter().filter(|p| is_narrow || reachable(p)).copied().collect();
        let Ok(bound) = got else {
            let open = open.iter().any(|p| self.unused(Endpoint::new(PUBLIC, *p), remote));
            assert!(
                !independent || own.is_empty() || self.is_shared(),
                "a live mapping was not used"
            );
            assert!(!open || self.is_shared(), "refused although a port was to be had");
            return;
        };
        let port = bound.external.port;
        assert!(self.is_allowed(port), "{port} may not be given out");
        assert!(self.unused(bound.external, remote), "a collision");
        if bound.overloaded {
            assert!(self.pool.overload && (open.is_empty() || self.is_shared()));
            return;
        }
        if independent && !own.is_empty() && !self.is_shared() {
            // Reloads may have left an endpoint two.
            assert!(own.contains(&bound.external), "the mapping changed (RFC 4787, REQ-1)");
            return;
        }
        if independent && own.contains(&bound.external) {
            return;
        }
        assert!(!self.live().contains_key(&port), "the port is another's");
        if let Some((last, freed)) = self.freed.get(&port) {
            assert!(*last == internal.address || now.since(*freed) >= self.pool.hold);
        }
        let fresh = |port: &&u16| !self.freed.contains_key(port);
        if available.iter().filter(fresh).any(|port| *port == internal.port) && !self.is_shared() {
            assert_eq!(port, internal.port, "the port was free");
        }
        let alike = |p: u16| class(p) == class(internal.port) && p % 2 == internal.port % 2;
        if available.iter().filter(fresh).any(|port| alike(*port)) && !self.is_shared() {
            assert!(alike(port), "{} became {port}", internal.port);
        }
    }

    fn is_shared(&self) -> bool {
        self.sessions.iter().any(|session| session.bound.overloaded)
    }
}

#[derive(Clone, Debug)]
enum Action {
    Bind { guest: u8, port: u16, remote: u8 },
    Release { session: prop::sample::Index },
    Reload { reserved: BTreeSet<u16> },
    Wait { ms: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => (0u8..4, 1000u16..1050, 0u8..6)
            .prop_map(|(guest, port, remote)| Action::Bind { guest, port, remote }),
        3 => any::<prop::sample::Index>().prop_map(|session| Action::Release { session }),
        1 => reserved().prop_map(|reserved| Action::Reload { reserved }),
        2 => (0u64..3000).prop_map(|ms| Action::Wait { ms }),
    ]
}

fn reserved() -> impl Strategy<Value = BTreeSet<u16>> {
    proptest::collection::btree_set(1000u16..1050, 0..8)
}

fn singles(ports: &BTreeSet<u16>) -> Vec<(Protocol, RangeInclusive<u16>)> {
    ports.iter().map(|port| (Protocol::UDP, *port..=*port)).collect()
}

fn any_pool() -> impl Strategy<Value = Pool> {
    (1000u16..1040, 0u16..40, reserved(), any::<[bool; 2]>(), 0u64..3).prop_map(
        |(first, count, reserved, [is_independent, overload], hold)| Pool {
            addresses: vec![PoolAddress { address: PUBLIC, reserved: singles(&reserved) }],
            ports: first..=first + count,
            mapping: if is_independent {
                MappingBehavior::EndpointIndependent
            } else {
                MappingBehavior::AddressAndPortDependent
            },
            overload,
            hold: Duration::from_secs(hold),
        },
    )
}

proptest! {
    #[test]
    fn the_mappings_agree_with_the_model(
        mut pool in any_pool(),
        actions in proptest::collection::vec(action(), 1..300),
        seed in any::<[u64; 4]>(),
    ) {
        let mappings = Mappings::new(300, seed);
        let mut model = Model { pool: pool.clone(), sessions: Vec::new(), freed: BTreeMap::new() };
        let mut now = Tick::from_ms(50);
        for action in actions {
            match action {
                Action::Bind { guest, port, remote } => {
                    let internal = Endpoint::new(Ipv4Addr::new(10, 1, 1, guest), port);
                    let is_it = |s: &Session| s.internal == internal && s.remote == remote;
                    if model.sessions.iter().any(is_it) {
                        continue;
                    }
                    let request = request(&pool, Protocol::UDP, internal.address, port);
                    let bound = mappings.bind(&request, now, |e| model.unused(e, remote));
                    model.check(internal, remote, now, bound);
                    model.sessions.extend(bound.map(|bound| Session { internal, remote, bound }));
                }
                Action::Release { session } => {
                    if model.sessions.is_empty() {
                        continue;
                    }
                    let session = model.sessions.swap_remove(session.index(model.sessions.len()));
                    let external = session.bound.external;
                    if session.bound.overloaded {
                        mappings.release_overloaded(Protocol::UDP, external);
                    } else {
                        mappings.release(Protocol::UDP, external, now);
                        if !model.live().contains_key(&external.port) {
                            model.freed.insert(external.port, (session.internal.address, now));
                        }
                    }
                }
                Action::Reload { reserved } => {
                    pool.addresses[0].reserved = singles(&reserved);
                    model.pool = pool.clone();
                }
                Action::Wait { ms } => now = now.after(Duration::from_millis(ms)),
            }
            let usage = mappings.usage(PUBLIC, Protocol::UDP);
            let shared = model.sessions.iter().filter(|s| s.bound.overloaded).count();
            prop_assert_eq!(usage.overloaded as usize, shared);
        }
        let live = model.live();
        prop_assert_eq!(mappings.usage(PUBLIC, Protocol::UDP).live as usize, live.len());
        for port in 990..1090 {
            let found = mappings.find(Protocol::UDP, Endpoint::new(PUBLIC, port));
            let found = found.map(|mapping| (mapping.internal, mapping.sessions));
            prop_assert_eq!(found, live.get(&port).copied());
        }
    }
}
