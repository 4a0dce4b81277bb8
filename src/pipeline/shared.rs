//! What all workers share: the session table, mappings, guests, next hops, the policy in force.

use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;

use crate::config::{ChecksumMode, Config, OnRuleRemoval, Role};
use crate::flow::{Endpoint, Family, FlowKey, Protocol, Realm, RuleId};
use crate::nat::guests::{GuestLimits, Guests, Shows};
use crate::nat::health::Health;
use crate::nat::identifications::Identifications;
use crate::nat::mappings::Mappings;
use crate::nat::path_mtus::PathMtus;
use crate::next_hop::NextHops;
use crate::pipeline::contacts::Contacts;
use crate::policy::publish::Published;
use crate::policy::{Policy, Service};
use crate::session::entry::{NewSession, SessionKind};
use crate::session::table::{SessionView, Table};
use crate::session::timeout::Timeouts;
use crate::shortcut::{Key, Passed, Shortcuts};
use crate::telemetry::address_counters::{AddressCounters, AddressTotals};
use crate::telemetry::counters::RuleCounters;
use crate::telemetry::events::{Change, Events};
use crate::time::Tick;
use crate::verdict::DropReason;

/// The state of the dataplane. Everything in it may be used by all workers at once.
pub struct Shared {
    /// What we remember of sessions.
    pub sessions: Table,
    /// The same of IPv6.
    pub sessions_ipv6: Table<Ipv6Addr>,
    /// External endpoints and who has them.
    pub mappings: Mappings,
    /// Identifications of datagrams in fragments.
    pub(super) identifications: Identifications,
    /// What public addresses were told of paths.
    pub(super) path_mtus: PathMtus,
    /// What guests use.
    pub guests: Arc<Guests>,
    /// Where frames go next.
    pub next_hops: Arc<NextHops>,
    /// The policy in force.
    pub policy: Published,
    /// What rules counted beside the sessions that live now.
    pub rules: RuleCounters,
    /// What passed by public addresses in sessions that ended.
    pub addresses: AddressCounters,
    /// What balancers remember.
    pub balance: BalanceState,
    /// Remotes that guests with address-dependent filtering have sent to.
    pub contacts: Contacts,
    /// What was written down for the XDP programs, where they read such.
    pub shortcuts: ArcSwapOption<Shortcuts>,
    /// What the NAT did, for a collector, if there is one.
    pub events: Option<Events>,
    /// The part of the configuration that workers read.
    pub settings: Settings,
    /// Where the next share of the sweep begins.
    pub(super) sweep_cursor: AtomicU32,
}

/// The part of the configuration that workers read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Each interface's side and checksum mode, by [`crate::flow::PortId`].
    pub ports: Vec<(Role, ChecksumMode)>,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// What becomes of sessions whose rule is taken away.
    pub on_rule_removal: OnRuleRemoval,
    /// Whether events are exported, and if so, whether all sessions are.
    pub events: Option<bool>,
    /// ICMP errors that a worker may send per second; zero means no limit.
    pub icmp_errors_per_second: u32,
    /// How many workers there are.
    pub workers: usize,
    /// Keys the hashes that need not be stable.
    pub seed: [u64; 4],
}

impl Settings {
    /// What workers read of `config`.
    #[must_use]
    pub fn new(config: &Config, workers: usize, seed: [u64; 4]) -> Self {
        let ports = &config.interfaces;
        Self {
            ports: ports.iter().map(|interface| (interface.role, interface.checksum)).collect(),
            timeouts: config.timeouts.clone(),
            on_rule_removal: config.sessions.on_rule_removal,
            events: config.events.as_ref().map(|events| events.sessions),
            icmp_errors_per_second: config.icmp_errors_per_second,
            workers,
            seed,
        }
    }
}

impl Shared {
    /// The state around the session tables; nothing else is remembered yet.
    #[must_use]
    pub fn new(
        sessions: Table,
        sessions_ipv6: Table<Ipv6Addr>,
        next_hops: Arc<NextHops>,
        policy: Published,
        settings: Settings,
    ) -> Self {
        let capacity = usize::try_from(sessions.sessions_max()).unwrap_or(usize::MAX);
        let mappings = Mappings::new(capacity, settings.seed);
        Self {
            guests: Arc::clone(mappings.guests()),
            mappings,
            identifications: Identifications::new(settings.seed),
            path_mtus: PathMtus::new(settings.seed),
            sessions,
            sessions_ipv6,
            next_hops,
            policy,
            rules: RuleCounters::default(),
            addresses: AddressCounters::default(),
            balance: BalanceState::default(),
            contacts: Contacts::default(),
            shortcuts: ArcSwapOption::empty(),
            events: settings.events.map(Events::new),
            settings,
            sweep_cursor: AtomicU32::new(0),
        }
    }

    /// Rebuilds what is not in the session region from the sessions that a former process left
    /// there. Call it once, with the first policy in force and before the first worker runs.
    /// Returns how many sessions there are.
    pub fn adopt(&self, policy: &Policy, now: Tick) -> u32 {
        let mut cursor = 0;
        let mut count = 0;
        self.sessions.walk(&mut cursor, self.sessions.slots(), |view| {
            let session = &view.session;
            let protocol = session.initiator.protocol;
            if !self.adopt_mappings(session, now) {
                // Another session has the endpoint for another guest: this one cannot stay.
                self.sessions.remove(view.index, &session.initiator);
                return;
            }
            if shares_port(session) {
                self.mappings.adopt_overloaded(protocol, session.responder.destination);
            }
            count += 1;
            let shows = Shows::from(shown(session));
            let unlimited = GuestLimits::default();
            let _unlimited = self.enter_guest(&session.initiator, unlimited, shows, now);
            let public = &session.initiator.destination;
            if let Service::Balancer(_) = policy.service(public.address, protocol, public.port) {
                self.balance.enter(session);
            }
            self.contacts.enter_if_asked(session, policy);
        });
        self.sessions_ipv6.walk(&mut 0, self.sessions_ipv6.slots(), |view| {
            count += 1;
            let initiator = &view.session.initiator;
            let unlimited = GuestLimits::default();
            let _unlimited = self.enter_guest(initiator, unlimited, Shows::Nothing, now);
        });
        count
    }

    /// Takes a reference on each mapping that an adopted session holds. Returns false, and takes
    /// none, if one of them is another guest's.
    fn adopt_mappings(&self, session: &NewSession, now: Tick) -> bool {
        let protocol = session.initiator.protocol;
        let [source, target] = mappings_of(session).map(|mapping| {
            mapping.map(|(realm, internal, external)| {
                self.mappings.adopt(realm, protocol, internal, external).then_some(external)
            })
        });
        match (source, target) {
            (None | Some(Some(_)), None | Some(Some(_))) => true,
            (Some(Some(adopted)), Some(None)) | (Some(None), Some(Some(adopted))) => {
                self.release_mapping(protocol, adopted, now);
                false
            }
            (Some(None), None | Some(None)) | (None, Some(None)) => false,
        }
    }

    /// Counts a new session's guest, if a guest opened it.
    ///
    /// # Errors
    /// When the guest may not have another one.
    pub(super) fn enter_guest<A: Family>(
        &self,
        initiator: &FlowKey<A>,
        limits: GuestLimits,
        shows: Shows<'_>,
        now: Tick,
    ) -> Result<(), DropReason> {
        match initiator.realm {
            Realm::External => Ok(()),
            realm @ Realm::Internal(_) => {
                let guest = initiator.source.address;
                self.guests.enter(realm, guest, limits, shows, now).map(|_| ())
            }
        }
    }

    /// Takes back what [`Self::enter_guest`] counted of a session that shows that address of a pool.
    pub(super) fn leave_guest<A: Family>(&self, initiator: &FlowKey<A>, shown: Option<Ipv4Addr>) {
        if let realm @ Realm::Internal(_) = initiator.realm {
            self.guests.leave(realm, initiator.source.address, shown);
        }
    }

    /// Gives back everything that a session which was removed from the table held.
    pub fn settle(&self, view: &SessionView, now: Tick) {
        let view = &self.end_shortcuts(view);
        let session = &view.session;
        let protocol = session.initiator.protocol;
        for (_, _, external) in mappings_of(session).into_iter().flatten() {
            self.release_mapping(protocol, external, now);
        }
        self.session_changed(session, Change::Deleted, now);
        if shares_port(session) {
            self.mappings.release_overloaded(protocol, session.responder.destination);
        }
        self.leave_guest(&session.initiator, shown(session));
        self.balance.leave(session);
        self.contacts.leave(session);
        if let Some((public, carried)) = carried(view) {
            self.addresses.add(public, carried);
        }
        self.rules.add(
            session.rule,
            view.initiator.packets + view.responder.packets,
            view.initiator.bytes + view.responder.bytes,
        );
    }
}

impl Shared {
    /// Puts `policy` in force. What was written down under the one before is true no more.
    pub fn put_in_force(&self, policy: Policy) {
        self.policy.swap(policy);
        self.shortcuts.load().iter().for_each(|shortcuts| shortcuts.end_epoch());
    }

    /// Makes the shortcuts of a session untrue. Returns its view with what passed by them.
    fn end_shortcuts(&self, view: &SessionView) -> SessionView {
        let mut view = *view;
        if let Some(shortcuts) = &*self.shortcuts.load()
            && !shortcuts.is_empty()
        {
            let SessionView { session, initiator, responder, .. } = &mut view;
            for (key, seen) in [(session.initiator, initiator), (session.responder, responder)] {
                let Passed { packets, bytes } = shortcuts.end(Key::of(&key));
                seen.packets = seen.packets.wrapping_add(packets);
                seen.bytes = seen.bytes.wrapping_add(bytes);
            }
        }
        view
    }

    /// Gives back everything that an IPv6 session which was removed from the table held.
    pub fn settle_ipv6(&self, view: &SessionView<Ipv6Addr>) {
        self.leave_guest(&view.session.initiator, None);
        self.rules.add(
            view.session.rule,
            view.initiator.packets + view.responder.packets,
            view.initiator.bytes + view.responder.bytes,
        );
    }
}

/// The public address that a session passes, and what it carried there each way.
#[must_use]
pub fn carried(view: &SessionView) -> Option<(Ipv4Addr, AddressTotals)> {
    let session = &view.session;
    let (address, inbound, outbound) = match session.kind {
        SessionKind::Hairpin | SessionKind::HairpinStatic | SessionKind::Routed => return None,
        SessionKind::Inbound => {
            (session.initiator.destination.address, &view.initiator, &view.responder)
        }
        SessionKind::SourceNat | SessionKind::StaticNat => {
            (session.responder.destination.address, &view.responder, &view.initiator)
        }
    };
    let totals = AddressTotals {
        packets_in: inbound.packets,
        bytes_in: inbound.bytes,
        packets_out: outbound.packets,
        bytes_out: outbound.bytes,
    };
    Some((address, totals))
}

/// The mappings that a session holds references on, its source's and its target's: realm, internal
/// and external endpoint.
fn mappings_of(session: &NewSession) -> [Option<(Realm, Endpoint, Endpoint)>; 2] {
    let (from, to) = (&session.initiator, &session.responder);
    [
        session.source_mapped.then_some((from.realm, from.source, to.destination)),
        session.target_mapped.then_some((to.realm, to.source, from.destination)),
    ]
}

/// Whether a session's external port is shared with sessions to other remotes.
pub(super) fn shares_port(session: &NewSession) -> bool {
    is_pooled(session.kind) && !session.source_mapped && session.initiator.protocol.has_ports()
}

/// The pool address that a session shows.
pub(super) fn shown(session: &NewSession) -> Option<Ipv4Addr> {
    is_pooled(session.kind).then_some(session.responder.destination.address)
}

/// Whether a session's external endpoint came out of a pool.
const fn is_pooled(kind: SessionKind) -> bool {
    match kind {
        SessionKind::Hairpin | SessionKind::SourceNat => true,
        SessionKind::HairpinStatic
        | SessionKind::Inbound
        | SessionKind::Routed
        | SessionKind::StaticNat => false,
    }
}

/// What balancers remember between sessions: whose turn it is, and how many sessions members have.
#[derive(Default)]
pub struct BalanceState {
    turns: DashMap<RuleId, u64, ahash::RandomState>,
    /// How members are, where they are checked.
    pub health: Health,
    sessions: Counts<(Protocol, Endpoint, Endpoint)>,
}

impl BalanceState {
    /// The number of the next session of a balancer.
    pub fn turn(&self, rule: RuleId) -> u64 {
        let mut turn = self.turns.entry(rule).or_default();
        *turn = turn.wrapping_add(1);
        *turn
    }

    /// Sessions that `member` has through the balancer at `public` now.
    #[must_use]
    pub fn sessions(&self, protocol: Protocol, public: Endpoint, member: Endpoint) -> u32 {
        self.sessions.count(&(protocol, public, member))
    }

    pub(super) fn enter(&self, session: &NewSession) {
        self.sessions.enter(Self::key(session));
    }

    fn leave(&self, session: &NewSession) {
        self.sessions.leave(&Self::key(session));
    }

    fn key(session: &NewSession) -> (Protocol, Endpoint, Endpoint) {
        (session.initiator.protocol, session.initiator.destination, session.responder.source)
    }
}

/// Counts of live sessions by some key, kept for the few sessions that need it. Leaving under a key
/// that nobody entered is free: most sessions never did.
struct Counts<K> {
    counts: DashMap<K, u32, ahash::RandomState>,
    /// Keys in the map, so that an empty map costs one load.
    keys: AtomicUsize,
}

impl<K: Eq + Hash> Default for Counts<K> {
    fn default() -> Self {
        Self { counts: DashMap::default(), keys: AtomicUsize::new(0) }
    }
}

impl<K: Eq + Hash> Counts<K> {
    fn count(&self, key: &K) -> u32 {
        self.counts.get(key).map_or(0, |count| *count)
    }

    fn enter(&self, key: K) {
        let mut count = self.counts.entry(key).or_default();
        if *count == 0 {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
        *count += 1;
    }

    fn leave(&self, key: &K) {
        if self.keys.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Rules may have made the session a balancer's while it lived: it may leave and never have
        // entered.
        let last = |_: &K, count: &mut u32| {
            *count = count.saturating_sub(1);
            *count == 0
        };
        if self.counts.remove_if_mut(key, last).is_some() {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
