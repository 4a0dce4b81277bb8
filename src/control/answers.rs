//! What the engine answers to each request.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::control::census::Census;
use crate::control::listing::{Listing, ROWS_PER_PART, visit};
use crate::control::requests::{MappingFilter, Request, SessionFilter};
use crate::control::rows::{
    CountRow, MappingRow, NeighborRow, NetworkRow, PolicyRow, ReloadRow, RuleRow, Stats,
};
use crate::control::server::{Handler, Refusal, Reply};
use crate::control::sessions::{self, Wanted};
use crate::control::{addresses, balancers, config, live, pools, watch, workers};
use crate::engine::handle::{EngineHandle, ReloadError, ReloadReport};
use crate::flow::{Protocol, Realm};
use crate::nat::mappings::Mapping;
use crate::next_hop::Resolution;
use crate::pipeline::shared::Shared;
use crate::policy::Policy;
use crate::rules;
use crate::time::Tick;

/// Answers for a running engine.
pub struct Answers {
    engine: EngineHandle,
    shared: Arc<Shared>,
    flushed: AtomicU64,
}

/// The kind of rules that are not in force yet.
const PENDING: &str = "pending";

impl Handler for Answers {
    fn handle(&self, request: Request, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        match request {
            Request::Explain(question) => {
                reply.done(live::answer(&question, &self.engine, &self.shared, monotonic())?)
            }
            Request::Reload => reply.done(self.reload()?),
            Request::SessionsFlush => reply.done(self.end(&SessionFilter::default())?),
            Request::SessionsKill(filter) if !filter.narrows() => {
                Err(Refusal::new("a condition is needed", "use sessions_flush to end all")
                    .bad_input())
            }
            Request::SessionsKill(filter) => reply.done(self.end(&filter)?),
            Request::ShowAddresses => reply.done(self.addresses()),
            Request::ShowBalancers => {
                reply.done(balancers::rows(&self.engine.rules(), &self.shared))
            }
            Request::ShowConfig => reply.done(config::json(self.engine.config())),
            Request::ShowDrops => reply.done(workers::drops(&workers::totals(&self.engine))),
            Request::ShowMappings(filter) => self.mappings(&filter, reply),
            Request::ShowNeighbors => reply.done(self.neighbors()),
            Request::ShowNative => reply.done(rules::to_value(&self.engine.rules())),
            Request::ShowNetworks => reply.done(self.networks()),
            Request::ShowPolicy => reply.done(self.policy()),
            Request::ShowPools => reply.done(self.pools()),
            Request::ShowRules => reply.done(self.rules()),
            Request::ShowSessions(filter) => self.sessions(&filter, reply),
            Request::ShowStats => reply.done(self.stats()),
            Request::ShowWorkers => reply.done(workers::rows(&self.engine)),
            Request::Watch(filter) => watch::run(&filter, &self.engine, &self.shared, reply),
        }
    }
}

impl Answers {
    /// Answers for `engine`.
    #[must_use]
    pub fn new(engine: EngineHandle, shared: Arc<Shared>) -> Self {
        Self { engine, shared, flushed: AtomicU64::new(0) }
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// What the workers share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn reload(&self) -> Result<ReloadRow, Refusal> {
        match self.engine.reload() {
            Ok(report) => Ok(reload_row(&report)),
            Err(error @ ReloadError::Stopping) => {
                Err(Refusal::new(error.to_string(), "start it again"))
            }
            Err(ref error @ ReloadError::Refused { ref diagnostics }) => Err(Refusal {
                details: diagnostics.iter().map(ToString::to_string).collect(),
                ..Refusal::new(error.to_string(), "mend them and reload again").bad_input()
            }),
        }
    }

    /// Ends the sessions that `filter` means.
    fn end(&self, filter: &SessionFilter) -> Result<CountRow, Refusal> {
        let policy = self.shared.policy.load();
        let wanted = Wanted::new(filter, &policy)?;
        let now = monotonic();
        let mut count = 0;
        let shared = &self.shared;
        visit(&shared.sessions, filter, |view| {
            let is_meant = wanted.matches(&view);
            let key = &view.session.initiator;
            if let Some(last) = is_meant.then(|| shared.sessions.remove(view.index, key)).flatten()
            {
                shared.settle(&last, now);
                count += 1;
            }
            Ok(())
        })?;
        visit(&shared.sessions_ipv6, filter, |view| {
            let (is_meant, key) = (wanted.matches(&view), &view.session.initiator);
            let last = is_meant.then(|| shared.sessions_ipv6.remove(view.index, key));
            if let Some(last) = last.flatten() {
                shared.settle_ipv6(&last);
                count += 1;
            }
            Ok(())
        })?;
        self.flushed.fetch_add(count, Ordering::Relaxed);
        Ok(CountRow { count })
    }

    fn sessions(&self, filter: &SessionFilter, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let policy = self.shared.policy.load();
        let wanted = Wanted::new(filter, &policy)?;
        let timeouts = &self.shared.settings.timeouts;
        let now = monotonic();
        let mut listing = Listing { filter, count: 0, rows: Vec::new(), reply };
        visit(&self.shared.sessions, filter, |view| {
            listing.take(&wanted, &view, || sessions::row(&view, &policy, timeouts, now))
        })?;
        visit(&self.shared.sessions_ipv6, filter, |view| {
            listing.take(&wanted, &view, || sessions::row(&view, &policy, timeouts, now))
        })?;
        let Listing { count, rows, reply, .. } = listing;
        if filter.count { reply.done(CountRow { count }) } else { reply.done(rows) }
    }

    fn mappings(&self, filter: &MappingFilter, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let limit = filter.limit.and_then(|limit| usize::try_from(limit).ok());
        let mut found: Vec<(Protocol, Mapping)> = Vec::new();
        self.shared.mappings.for_each(|protocol, mapping| {
            let matches = filter.protocol.is_none_or(|wanted| protocol == Protocol(wanted))
                && filter.guest.is_none_or(|guest| guest.matches(mapping.internal))
                && filter.public.is_none_or(|public| public.matches(mapping.external));
            if matches {
                found.push((protocol, *mapping));
            }
        });
        if filter.count {
            return reply.done(CountRow { count: found.len() as u64 });
        }
        found.sort_by_key(|(protocol, mapping)| {
            (mapping.external.address, *protocol, mapping.external.port)
        });
        found.truncate(limit.unwrap_or(usize::MAX));
        let policy = self.shared.policy.load();
        for part in found.chunks(ROWS_PER_PART) {
            let rows: Vec<_> = part
                .iter()
                .map(|(protocol, mapping)| mapping_row(*protocol, mapping, &policy))
                .collect();
            reply.part(rows)?;
        }
        reply.done(Vec::<MappingRow>::new())
    }

    fn neighbors(&self) -> Vec<NeighborRow> {
        let policy = self.shared.policy.load();
        let mut all = self.shared.next_hops.all();
        all.sort_by_key(|(_, hop, _)| (hop.port, hop.vlan, hop.address));
        let row = |(_, hop, resolution): &(_, crate::next_hop::Neighbor, Resolution)| {
            let (state, mac) = match resolution {
                Resolution::Failed => ("failed", None),
                Resolution::Pending => ("pending", None),
                Resolution::Reachable(mac) => ("reachable", Some(mac.to_string())),
            };
            let (vlan, encapsulation) = policy.encapsulations().describe(hop.port, hop.vlan);
            NeighborRow {
                address: hop.address.to_string(),
                interface: workers::port_name(hop.port, self.engine.config()),
                vlan,
                encapsulation,
                state: state.to_owned(),
                mac,
            }
        };
        all.iter().map(row).collect()
    }

    /// The packets beyond the limits of each network that has any.
    pub(super) fn rate_exceeded(&self) -> Vec<(String, u64)> {
        let policy = self.shared.policy.load();
        let exceeded = policy.networks().iter().filter_map(|network| {
            Some((network.name.clone(), network.rate_limits.as_ref()?.refused()))
        });
        exceeded.collect()
    }

    fn networks(&self) -> Vec<NetworkRow> {
        let policy = self.shared.policy.load();
        let census = Census::take(&self.shared.sessions, &self.shared.sessions_ipv6, &policy);
        let summary = policy.summary();
        let mut rows = Vec::with_capacity(summary.networks.len());
        for (id, network) in (0..).map(crate::flow::NetworkId).zip(summary.networks) {
            let pool = network.pool.map(|pool| pool.addresses).unwrap_or_default();
            let limits = policy.network(id).rate_limits.as_ref();
            let port = crate::flow::PortId(network.port);
            let (vlan, encapsulation) = policy.encapsulations().describe(port, network.vlan);
            rows.push(NetworkRow {
                name: network.name,
                domain: network.domain,
                interface: workers::port_name(port, self.engine.config()),
                vlan,
                encapsulation,
                cidr: network.cidr,
                gateway: network.gateway,
                ipv6_cidr: network.ipv6_cidr,
                ipv6_gateway: network.ipv6_gateway,
                mtu: network.mtu,
                source_nat: pool.into_iter().map(|address| address.address).collect(),
                egress: if network.tier { "acl" } else { network.egress_default }.to_owned(),
                sessions: census.network(id),
                rate_exceeded: limits.map(|limits| limits.refused()),
            });
        }
        rows
    }

    fn policy(&self) -> PolicyRow {
        let policy = self.shared.policy.load();
        let mut rules: BTreeMap<String, usize> = BTreeMap::new();
        for info in policy.rules() {
            *rules.entry(info.kind.as_str().to_owned()).or_default() += 1;
        }
        let domains: HashSet<_> = policy.networks().iter().map(|network| network.realm).collect();
        PolicyRow {
            generation: policy.generation().0,
            public_ips: policy.public_addresses().len(),
            networks: policy.networks().len(),
            domains: domains.len(),
            rules,
            filter_bytes: policy.filter_bytes(),
            pending: self.engine.pending().iter().map(ToString::to_string).collect(),
            last_reload: self.engine.last_reload().as_ref().as_ref().map(reload_row),
        }
    }

    /// What passed by the public addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<crate::control::rows::AddressRow> {
        addresses::rows(&self.shared, self.engine.config())
    }

    /// How full the public addresses are.
    #[must_use]
    pub fn pools(&self) -> Vec<crate::control::rows::PoolRow> {
        pools::rows(&self.shared.policy.load(), &self.shared.mappings)
    }

    /// Every rule with what it carried, and those that wait for something.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleRow> {
        let policy = self.shared.policy.load();
        let census = Census::take(&self.shared.sessions, &self.shared.sessions_ipv6, &policy);
        let row = |info: &crate::policy::registry::RuleInfo| {
            let tally = census.rule(info.rule, &self.shared.rules);
            RuleRow {
                kind: info.kind.as_str().to_owned(),
                id: info.id.clone(),
                owner: info.owner.to_string(),
                text: info.text.clone(),
                place: info.place.to_string(),
                sessions: tally.sessions,
                packets: tally.carried.packets,
                bytes: tally.carried.bytes,
            }
        };
        let waiting = self.engine.pending();
        let waiting = waiting.iter().map(|rule| RuleRow {
            kind: PENDING.to_owned(),
            id: rule.what.clone(),
            owner: String::new(),
            text: format!("waits for {}", rule.waits_for),
            place: rule.place.to_string(),
            sessions: 0,
            packets: 0,
            bytes: 0,
        });
        policy.rules().iter().map(row).chain(waiting).collect()
    }

    /// The engine in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (table, wide) = (&self.shared.sessions, &self.shared.sessions_ipv6);
        let hops = self.shared.next_hops.occupancy();
        let shortcuts = self.shared.shortcuts.load();
        Stats {
            shortcuts: shortcuts.as_ref().map_or(0, |all| all.len().into()),
            shortcuts_max: shortcuts.as_ref().map_or(0, |all| all.capacity()),
            next_hops: hops.used,
            next_hops_max: hops.max,
            next_hops_reclaimed: hops.reclaimed,
            next_hops_refused: hops.refused,
            sessions: table.len().into(),
            sessions_max: table.sessions_max().into(),
            sessions_memory_bytes: table.memory_bytes(),
            sessions_ipv6: wide.len().into(),
            sessions_ipv6_max: wide.sessions_max().into(),
            sessions_ipv6_memory_bytes: wide.memory_bytes(),
            events: self.shared.events.as_ref().map(|events| {
                let counts = events.counts();
                [counts.exported, counts.lost, counts.withheld]
            }),
            generation: self.shared.policy.load().generation().0,
            ..workers::stats(&self.engine, self.flushed.load(Ordering::Relaxed))
        }
    }
}

fn mapping_row(protocol: Protocol, mapping: &Mapping, policy: &Policy) -> MappingRow {
    let domain = match mapping.realm {
        Realm::External => None,
        Realm::Internal(realm) => policy.networks().iter().find(|network| network.realm == realm),
    };
    MappingRow {
        protocol: protocol.to_string(),
        internal: mapping.internal.to_string(),
        external: mapping.external.to_string(),
        domain: domain.map(|network| network.domain.clone()).unwrap_or_default(),
        sessions: mapping.sessions,
    }
}

fn reload_row(report: &ReloadReport) -> ReloadRow {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ReloadRow {
        added: report.added,
        removed: report.removed,
        changed: report.changed,
        sessions_ended: report.sessions_ended,
        generation: report.generation.0,
        waited_ms: ms(report.waited),
        in_force_ms: ms(report.in_force),
        duration_ms: ms(report.duration),
        warnings: report.warnings.iter().map(ToString::to_string).collect(),
    }
}

/// The time on the workers' clock.
fn monotonic() -> Tick {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    Tick::from_ms(u64::try_from(ms).unwrap_or_default())
}
