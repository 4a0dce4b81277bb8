//! Sessions as rows, and which of them are meant.

use std::net::IpAddr;

use crate::control::requests::SessionFilter;
use crate::control::rows::{SessionRow, TupleRow};
use crate::control::server::Refusal;
use crate::control::sides::{Located, Sides};
use crate::flow::{Family, FlowKey, NetworkId, Protocol, RuleId};
use crate::policy::Policy;
use crate::session::entry::{EntryIndex, SessionKind};
use crate::session::table::{DirectionView, SessionView};
use crate::session::tcp;
use crate::session::timeout::{self, Timeouts};
use crate::time::Tick;

/// A filter whose names have been looked up in the rules in force.
pub struct Wanted<'f> {
    filter: &'f SessionFilter,
    rules: Option<Vec<RuleId>>,
    networks: Option<Vec<NetworkId>>,
    policy: &'f Policy,
}

impl<'f> Wanted<'f> {
    /// Looks up what `filter` names.
    ///
    /// # Errors
    /// When it names a rule or a network that is not in force.
    pub fn new(filter: &'f SessionFilter, policy: &'f Policy) -> Result<Self, Refusal> {
        let rules = filter.rule.as_deref().map(|name| rules(name, policy)).transpose()?;
        let networks = filter.network.as_deref().map(|name| networks(name, policy)).transpose()?;
        Ok(Self { filter, rules, networks, policy })
    }

    /// Whether a session is meant.
    #[must_use]
    pub fn matches<A: Located>(&self, view: &SessionView<A>) -> bool {
        let filter = self.filter;
        let session = &view.session;
        let sides = Sides::of(session);
        let rule = |rules: &Vec<RuleId>| rules.contains(&session.rule);
        let network = |wanted: &Vec<NetworkId>| {
            sides.networks(self.policy).any(|network| wanted.contains(&network))
        };
        let guest = |guest: crate::control::requests::AddressMatch| {
            sides.guests.iter().flatten().any(|(_, endpoint)| guest.matches(*endpoint))
        };
        filter.protocol.is_none_or(|protocol| session.initiator.protocol == Protocol(protocol))
            && filter.remote.is_none_or(|remote| remote.matches(sides.remote))
            && filter.guest.is_none_or(guest)
            && filter
                .public
                .is_none_or(|public| sides.publics.iter().flatten().any(|end| public.matches(*end)))
            && self.rules.as_ref().is_none_or(rule)
            && self.networks.as_ref().is_none_or(network)
            && filter.key.as_ref().is_none_or(|wanted| *wanted == key(view))
    }
}

/// The rules that a name means: an id of any kind, or `kind:id`.
fn rules(name: &str, policy: &Policy) -> Result<Vec<RuleId>, Refusal> {
    if name == DEFAULT_RULE {
        return Ok(vec![RuleId::DEFAULT]);
    }
    let (kind, id) = name.split_once(':').map_or((None, name), |(kind, id)| (Some(kind), id));
    let kind = kind.map(|kind| kind.replace('_', "-"));
    let named: Vec<_> = policy
        .rules()
        .iter()
        .filter(|info| {
            info.id == name
                || info.id == id && kind.as_deref().is_none_or(|kind| kind == info.kind.as_str())
        })
        .map(|info| info.rule)
        .collect();
    if named.is_empty() {
        let error = format!("no rule has the id `{name}`");
        return Err(Refusal::new(error, "`natwerk show rules` lists them").bad_input());
    }
    Ok(named)
}

fn networks(name: &str, policy: &Policy) -> Result<Vec<NetworkId>, Refusal> {
    let place = policy.networks().iter().position(|network| network.name == name);
    let id = place.and_then(|place| u16::try_from(place).ok()).map(NetworkId);
    id.map(|id| vec![id]).ok_or_else(|| {
        let error = format!("no network has the name `{name}`");
        Refusal::new(error, "`natwerk show networks` lists them").bad_input()
    })
}

/// What sessions that no rule of the rule file decided have for a rule.
const DEFAULT_RULE: &str = "default";

/// A rule as people name it.
#[must_use]
pub fn rule_name(rule: RuleId, policy: &Policy) -> String {
    match policy.rule(rule) {
        // What has no id of its own is called by its kind already.
        Some(info) if info.id.starts_with(info.kind.as_str()) => info.id.clone(),
        Some(info) => format!("{}:{}", info.kind.as_str(), info.id),
        None if rule == RuleId::DEFAULT => DEFAULT_RULE.to_owned(),
        None => format!("#{}", rule.0),
    }
}

/// What names a session: its place and a digest of what is there, so that an old key never means
/// a new session in the same place.
#[must_use]
pub fn key<A: Located>(view: &SessionView<A>) -> String {
    let digest = |key: &FlowKey<A>| {
        let ends =
            [key.source.address, key.destination.address].map(|address| match address.into() {
                IpAddr::V4(address) => u64::from(address.to_bits()),
                IpAddr::V6(address) => {
                    let bits = address.to_bits();
                    (bits >> 64) as u64 ^ (bits as u64).rotate_left(7)
                }
            });
        let addresses = ends[0] << 32 ^ ends[0] >> 32 ^ ends[1];
        (addresses ^ key.rest().rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let both = digest(&view.session.initiator) ^ digest(&view.session.responder).rotate_left(32);
    format!("{}{:x}-{:08x}", A::KEY_PREFIX, view.index.0, both >> 32)
}

/// The place that a key names, if it names one of this family.
#[must_use]
pub fn place<A: Located>(key: &str) -> Option<EntryIndex> {
    let (index, _) = key.strip_prefix(A::KEY_PREFIX)?.split_once('-')?;
    u32::from_str_radix(index, 16).ok().map(EntryIndex)
}

/// A session as people see it.
#[must_use]
pub fn row<A: Located>(
    view: &SessionView<A>,
    policy: &Policy,
    timeouts: &Timeouts,
    now: Tick,
) -> SessionRow {
    let session = &view.session;
    let last_seen = view.initiator.last_seen.max(view.responder.last_seen);
    let refreshed = timeout::refreshed(timeouts, view);
    let left = timeout::idle_limit(timeouts, view).saturating_sub(now.since(refreshed.tick()));
    let network = Sides::of(session).networks(policy).next();
    SessionRow {
        key: key(view),
        protocol: session.initiator.protocol.to_string(),
        kind: kind(session.kind).to_owned(),
        state: state(view).to_owned(),
        network: network.map(|id| policy.network(id).name.clone()).unwrap_or_default(),
        initiator: tuple(&session.initiator, &view.initiator),
        responder: tuple(&session.responder, &view.responder),
        idle_s: now.since(last_seen.tick()).as_secs(),
        expires_s: left.as_secs(),
        rule: rule_name(session.rule, policy),
    }
}

fn tuple<A: Family>(key: &FlowKey<A>, seen: &DirectionView) -> TupleRow {
    TupleRow {
        source: key.source.to_string(),
        destination: key.destination.to_string(),
        packets: seen.packets,
        bytes: seen.bytes,
    }
}

/// The stable name of a kind of session.
#[must_use]
pub const fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Hairpin | SessionKind::HairpinStatic => "hairpin",
        SessionKind::Inbound => "inbound",
        SessionKind::Routed => "routed",
        SessionKind::SourceNat => "source_nat",
        SessionKind::StaticNat => "static_nat",
    }
}

/// How far a session has come.
fn state<A: Family>(view: &SessionView<A>) -> &'static str {
    let (one, two) = (view.initiator.tcp, view.responder.tcp);
    if view.session.initiator.protocol != Protocol::TCP {
        return if view.responder.packets == 0 { "unreplied" } else { "replied" };
    }
    match () {
        () if one.rst || two.rst => "reset",
        () if one.fin && two.fin => "closed",
        () if one.fin || two.fin => "closing",
        () if tcp::is_established(one, two) => "established",
        () if two.syn => "syn_received",
        () => "syn_sent",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;
    use crate::control::census;
    use crate::control::fixture;
    use crate::session::table::Table;

    /// The protocols and destination ports of the sessions that match.
    fn matching(filter: &SessionFilter) -> Vec<(u8, u16)> {
        let policy = fixture::policy();
        let table = fixture::table(&policy);
        let wanted = Wanted::new(filter, &policy).unwrap();
        let mut found = Vec::new();
        table.walk(&mut 0, table.slots(), |view| {
            if wanted.matches(&view) {
                let key = view.session.initiator;
                found.push((key.protocol.0, key.destination.port));
            }
        });
        found.sort_unstable();
        found
    }

    fn address(text: &str) -> Option<crate::control::requests::AddressMatch> {
        Some(text.parse().unwrap())
    }

    const ALL: [(u8, u16); 3] = [(6, 443), (6, 2222), (17, 53)];

    #[test]
    fn a_filter_without_conditions_means_all_sessions() {
        assert_eq!(matching(&SessionFilter::default()), ALL);
    }

    #[test]
    fn every_condition_narrows() {
        let filter = SessionFilter::default;
        assert_eq!(matching(&SessionFilter { guest: address("10.1.1.5"), ..filter() }), ALL);
        assert_eq!(
            matching(&SessionFilter { guest: address("10.1.1.5:22"), ..filter() }),
            [ALL[1]]
        );
        assert_eq!(
            matching(&SessionFilter { public: address("203.0.113.11"), ..filter() }),
            [ALL[1]]
        );
        assert_eq!(
            matching(&SessionFilter { remote: address("198.51.100.9"), ..filter() }),
            [ALL[0], ALL[2]]
        );
        assert_eq!(matching(&SessionFilter { protocol: Some(17), ..filter() }), [ALL[2]]);
        assert_eq!(matching(&SessionFilter { network: Some("web".into()), ..filter() }), ALL);
        for name in ["p1", "port-forward:p1", "port_forward:p1"] {
            assert_eq!(matching(&SessionFilter { rule: Some(name.into()), ..filter() }), [ALL[1]]);
        }
        let both = SessionFilter { protocol: Some(17), rule: Some("p1".into()), ..filter() };
        assert_eq!(matching(&both), []);
    }

    #[test]
    fn a_name_that_is_not_in_force_is_refused() {
        let policy = fixture::policy();
        let filter = SessionFilter { rule: Some("p9".to_owned()), ..Default::default() };
        assert!(Wanted::new(&filter, &policy).err().unwrap().bad_input);
        let filter = SessionFilter { network: Some("wbe".to_owned()), ..Default::default() };
        assert!(Wanted::new(&filter, &policy).err().unwrap().error.contains("`wbe`"));
    }

    #[test]
    fn a_row_tells_both_tuples_the_rule_and_the_time_left() {
        let policy = fixture::policy();
        let table = fixture::table(&policy);
        let now = fixture::MADE.after(Duration::from_secs(10));
        let mut rows = Vec::new();
        table.walk(&mut 0, table.slots(), |view| {
            rows.push(row(&view, &policy, &Timeouts::default(), now));
        });
        let row = rows.iter().find(|row| row.rule == "port-forward:p1").unwrap();
        assert_eq!((row.protocol.as_str(), row.kind.as_str()), ("tcp", "inbound"));
        assert_eq!((row.state.as_str(), row.network.as_str()), ("syn_sent", "web"));
        assert_eq!(row.initiator.source, "198.51.100.7:50000");
        assert_eq!(row.responder.source, "10.1.1.5:22");
        assert_eq!((row.initiator.packets, row.initiator.bytes), (1, 60));
        assert_eq!((row.idle_s, row.expires_s), (10, 230));
    }

    #[test]
    fn a_key_names_one_session_and_leads_to_its_place() {
        let policy = fixture::policy();
        let table = fixture::table(&policy);
        let mut keys = std::collections::HashSet::new();
        table.walk(&mut 0, table.slots(), |view| {
            let name = key(&view);
            assert_eq!(place::<Ipv4Addr>(&name), Some(view.index));
            assert_eq!(place::<Ipv6Addr>(&name), None);
            keys.insert(name);
        });
        assert_eq!(keys.len(), 3);
        assert_eq!(place::<Ipv4Addr>("nonsense"), None);
        assert_eq!(place::<Ipv6Addr>("v6-1f-0"), Some(EntryIndex(31)));
        assert_eq!(place::<Ipv4Addr>("v6-1f-0"), None);
    }

    #[test]
    fn a_census_counts_rules_and_networks() {
        let policy = fixture::policy();
        let table = fixture::table(&policy);
        let counters = crate::telemetry::counters::RuleCounters::new();
        let forward = fixture::forward(&policy);
        counters.add(forward, 10, 1000);
        let census = census::Census::take(&table, &Table::in_memory(1, [0; 4]), &policy);
        let tally = census.rule(forward, &counters);
        assert_eq!((tally.sessions, tally.carried.packets, tally.carried.bytes), (1, 11, 1060));
        assert_eq!(census.network(NetworkId(0)), 3);
    }
}
