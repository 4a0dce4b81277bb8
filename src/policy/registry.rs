//! Numbers for rules and realms that stay the same for the same rule across reloads, so that
//! counters go on and sessions stay in their realm.
//!
//! A number outlives its rule: sessions and counters may name it for a while, and a rule that comes
//! back finds its own counter. It is given to another rule only [`REST`] policies later.
//! The registry belongs beside the session table: a process that adopts sessions needs the realms
//! they were made in ([`Registry::save`], [`Registry::restore`]).

use std::collections::VecDeque;
use std::fmt::Write;
use std::num::NonZeroU16;
use std::sync::Arc;

use ahash::{HashMap, HashMapExt, HashSet, HashSetExt};
use serde::{Deserialize, Serialize, Serializer};

use crate::flow::{RealmId, RuleId};
use crate::nat::limits::{EndpointLimit, GuestCount, NetworkLimits, Rate, Rates};
use crate::rules::diagnostic::Place;

/// What kind of rule a number is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// What happens to what no entry of an ACL matches.
    AclDefault,
    /// An entry of a network ACL.
    AclEntry,
    /// An egress rule.
    Egress,
    /// What happens to what no egress rule of a network matches.
    EgressDefault,
    /// A firewall rule.
    Firewall,
    /// What happens to what no firewall rule of an address matches.
    FirewallDefault,
    /// What happens to what no entry of an interface's filter matches.
    InterfaceDefault,
    /// An entry of an interface's filter.
    InterfaceFilter,
    /// An IPv6 firewall rule.
    Ipv6Firewall,
    /// What happens to what no IPv6 firewall rule of a network matches.
    Ipv6FirewallDefault,
    /// A load balancer.
    LoadBalancer,
    /// A policy route.
    PolicyRoute,
    /// A port forward.
    PortForward,
    /// The source NAT of a network.
    SourceNat,
    /// A static NAT.
    StaticNat,
}

impl RuleKind {
    /// The name of the kind, for people and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AclDefault => "acl-default",
            Self::AclEntry => "acl-entry",
            Self::Egress => "egress",
            Self::EgressDefault => "egress-default",
            Self::Firewall => "firewall",
            Self::FirewallDefault => "firewall-default",
            Self::InterfaceDefault => "interface-default",
            Self::InterfaceFilter => "interface-filter",
            Self::Ipv6Firewall => "ipv6-firewall",
            Self::Ipv6FirewallDefault => "ipv6-firewall-default",
            Self::LoadBalancer => "load-balancer",
            Self::PolicyRoute => "policy-route",
            Self::PortForward => "port-forward",
            Self::SourceNat => "source-nat",
            Self::StaticNat => "static-nat",
        }
    }
}

/// What people see of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleInfo {
    /// Its number, which sessions and counters carry.
    pub rule: RuleId,
    /// Its kind.
    pub kind: RuleKind,
    /// Its id in the rule file; `kind:owner` for what has none.
    pub id: String,
    /// The network or public address it belongs to.
    pub owner: Arc<str>,
    /// What it says, in few words.
    pub text: String,
    /// Where it was written.
    pub place: Place,
}

/// The numbers given out so far.
#[derive(Clone, Debug)]
pub struct Registry {
    round: u64,
    rules: Numbers,
    realms: Numbers,
    /// Tags that stand in for two, and for VXLAN networks. No session names them, so they are not kept.
    double_tagged: Numbers,
    vxlan: Numbers,
    /// Room to put a key together in.
    key: String,
    /// How many workers share the limits.
    workers: usize,
    /// What networks with limits have used, by name.
    limits: HashMap<String, Arc<NetworkLimits>>,
    /// The same of public endpoints.
    endpoint_limits: HashMap<String, Arc<EndpointLimit>>,
}

/// Why a saved registry is refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A number is given twice or out of range.
    #[error("the number {0} is given twice or out of range")]
    BadNumber(u32),
    /// It is not what [`Registry::save`] writes.
    #[error("not a saved registry: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// No numbers given out.
    #[must_use]
    pub fn new() -> Self {
        Self {
            round: 0,
            rules: Numbers::new(RULE_MAX),
            realms: Numbers::new(u16::MAX.into()),
            double_tagged: Numbers::new(STAND_IN_MAX),
            vxlan: Numbers::new(STAND_IN_MAX),
            key: String::new(),
            workers: 1,
            limits: HashMap::new(),
            endpoint_limits: HashMap::new(),
        }
    }

    /// The registry that [`Self::save`] wrote.
    ///
    /// # Errors
    /// When `text` is something else or contradicts itself.
    pub fn restore(text: &str) -> Result<Self, RegistryError> {
        let saved: Saved = serde_json::from_str(text)?;
        Ok(Self {
            round: 0,
            rules: Numbers::restore(saved.rules, RULE_MAX)?,
            realms: Numbers::restore(saved.realms, u16::MAX.into())?,
            double_tagged: Numbers::new(STAND_IN_MAX),
            vxlan: Numbers::new(STAND_IN_MAX),
            key: String::new(),
            workers: 1,
            limits: HashMap::new(),
            endpoint_limits: HashMap::new(),
        })
    }

    /// Says how many workers the limits that it makes from now on are for.
    pub const fn set_workers(&mut self, workers: usize) {
        self.workers = workers;
    }

    /// The limits of the network `name`: the same as before as long as `rates` stay.
    pub fn rate_limits(
        &mut self,
        name: &str,
        rates: Rates,
        guests: GuestCount,
    ) -> Arc<NetworkLimits> {
        if let Some(limits) = self.limits.get(name).filter(|limits| limits.rates() == rates) {
            return Arc::clone(limits);
        }
        // Those of networks that no policy has any more.
        self.limits.retain(|_, limits| Arc::strong_count(limits) > 1);
        let limits = Arc::new(NetworkLimits::new(rates, guests, self.workers));
        self.limits.insert(name.to_owned(), Arc::clone(&limits));
        limits
    }

    /// The limit `name` of public endpoints: the same as before as long as its rate stays.
    pub fn endpoint_limit(&mut self, name: &str, rate: Rate) -> Arc<EndpointLimit> {
        if let Some(limit) = self.endpoint_limits.get(name).filter(|limit| limit.rate() == rate) {
            return Arc::clone(limit);
        }
        self.endpoint_limits.retain(|_, limit| Arc::strong_count(limit) > 1);
        let limit = Arc::new(EndpointLimit::new(rate, self.workers));
        self.endpoint_limits.insert(name.to_owned(), Arc::clone(&limit));
        limit
    }

    /// Every number in use or at rest, as text for [`Self::restore`].
    #[must_use]
    pub fn save(&self) -> String {
        let saving = Saving { rules: &self.rules, realms: &self.realms };
        serde_json::to_string(&saving).unwrap_or_default()
    }

    /// Begins a new policy: what is not asked for from now on was taken away.
    pub fn begin(&mut self) {
        self.round += 1;
        self.rules.retire(self.round);
        self.realms.retire(self.round);
        self.double_tagged.retire(self.round);
        self.vxlan.retire(self.round);
    }

    /// The tag that stands in for the two tags of a network; none if all 4,094 are taken.
    pub fn double_tagged(&mut self, name: &str) -> Option<u16> {
        u16::try_from(self.double_tagged.number(name, self.round)?).ok()
    }

    /// The tag that stands in for a VXLAN network; none if all 4,094 are taken.
    pub fn vxlan(&mut self, name: &str) -> Option<u16> {
        u16::try_from(self.vxlan.number(name, self.round)?).ok()
    }

    /// The number of the rule `id` of its kind; [`RuleId::DEFAULT`] in the unlikely case that all
    /// sixteen million are taken.
    pub fn rule(&mut self, kind: RuleKind, id: &str) -> RuleId {
        self.key.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.key, "{}:{id}", kind.as_str());
        self.rules.number(&self.key, self.round).map_or(RuleId::DEFAULT, RuleId)
    }

    /// The number of the realm `name`; none if all 65,535 are taken.
    pub fn realm(&mut self, name: &str) -> Option<RealmId> {
        let number = self.realms.number(name, self.round)?;
        u16::try_from(number).ok().and_then(NonZeroU16::new).map(RealmId)
    }
}

/// A registry as it is kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    rules: HashMap<String, u32>,
    realms: HashMap<String, u32>,
}

/// The same as it is written: a hundred thousand names are not copied for it.
#[derive(Serialize)]
struct Saving<'a> {
    rules: &'a Numbers,
    realms: &'a Numbers,
}

/// Numbers from one to `max` for names.
#[derive(Clone, Debug)]
struct Numbers {
    known: HashMap<String, Known>,
    free: VecDeque<u32>,
    next: u32,
    max: u32,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    number: u32,
    last_round: u64,
}

impl Numbers {
    fn new(max: u32) -> Self {
        Self { known: HashMap::new(), free: VecDeque::new(), next: 1, max }
    }

    fn restore(saved: HashMap<String, u32>, max: u32) -> Result<Self, RegistryError> {
        let mut numbers = Self::new(max);
        let mut seen = HashSet::with_capacity(saved.len());
        for (name, number) in saved {
            if number == 0 || number > max || !seen.insert(number) {
                return Err(RegistryError::BadNumber(number));
            }
            numbers.next = numbers.next.max(number + 1);
            numbers.known.insert(name, Known { number, last_round: 0 });
        }
        numbers.free = (1..numbers.next).filter(|number| !seen.contains(number)).collect();
        Ok(numbers)
    }

    fn number(&mut self, name: &str, round: u64) -> Option<u32> {
        if let Some(known) = self.known.get_mut(name) {
            known.last_round = round;
            return Some(known.number);
        }
        let number = if self.next <= self.max {
            self.next += 1;
            self.next - 1
        } else {
            self.free.pop_front().or_else(|| self.evict(round))?
        };
        self.known.insert(name.to_owned(), Known { number, last_round: round });
        Some(number)
    }

    /// Takes the number that has rested longest, when there is no other.
    fn evict(&mut self, round: u64) -> Option<u32> {
        let resting = self.known.iter().filter(|(_, known)| known.last_round < round);
        let name = resting.min_by_key(|(_, known)| known.last_round)?.0.clone();
        self.known.remove(&name).map(|known| known.number)
    }

    fn retire(&mut self, round: u64) {
        let free = &mut self.free;
        self.known.retain(|_, known| {
            let stays = known.last_round + REST >= round;
            if !stays {
                free.push_back(known.number);
            }
            stays
        });
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.known.iter().map(|(name, known)| (name, known.number)))
    }
}

/// The largest number of a rule: 24 bits.
const RULE_MAX: u32 = (1 << 24) - 1;

/// The largest VLAN identifier.
const STAND_IN_MAX: u32 = 4094;

/// For how many policies a number rests before another rule may get it. Sessions are decided
/// anew within a second of a policy, so this is long.
const REST: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_keeps_its_number_across_reloads() {
        let mut registry = Registry::new();
        registry.begin();
        let first = registry.rule(RuleKind::Egress, "e1");
        let other_kind = registry.rule(RuleKind::Firewall, "e1");
        assert_eq!(first, RuleId(1));
        assert_ne!(first, other_kind);
        registry.begin();
        registry.rule(RuleKind::Egress, "e0");
        assert_eq!(registry.rule(RuleKind::Egress, "e1"), first);
    }

    #[test]
    fn a_number_rests_before_another_rule_gets_it() {
        let mut numbers = Numbers::new(3);
        assert_eq!(numbers.number("a", 1), Some(1));
        assert_eq!(numbers.number("b", 1), Some(2));
        for round in 2..=1 + REST {
            numbers.retire(round);
            assert_eq!(numbers.number("b", round), Some(2));
            assert!(numbers.free.is_empty());
        }
        numbers.retire(2 + REST);
        assert_eq!(numbers.free, [1]);
        assert_eq!(numbers.number("c", 2 + REST), Some(3));
        assert_eq!(numbers.number("d", 2 + REST), Some(1));
    }

    #[test]
    fn the_longest_rest_ends_first_when_numbers_run_out() {
        let mut numbers = Numbers::new(2);
        assert_eq!(numbers.number("a", 1), Some(1));
        assert_eq!(numbers.number("b", 2), Some(2));
        assert_eq!(numbers.number("c", 3), Some(1));
        assert_eq!(numbers.number("d", 3), Some(2));
        assert_eq!(numbers.number("e", 3), None, "all are in use");
    }

    #[test]
    fn fresh_numbers_come_before_rested_ones() {
        let mut numbers = Numbers::new(3);
        numbers.number("a", 1);
        numbers.retire(2 + REST);
        assert_eq!(numbers.number("b", 2 + REST), Some(2));
    }

    #[test]
    fn a_saved_registry_gives_the_same_numbers() {
        let mut registry = Registry::new();
        registry.begin();
        let rules = ["a", "b", "c"].map(|id| registry.rule(RuleKind::PortForward, id));
        let realm = registry.realm("domain:vpc").unwrap();
        let mut restored = Registry::restore(&registry.save()).unwrap();
        restored.begin();
        assert_eq!(restored.rule(RuleKind::PortForward, "c"), rules[2]);
        assert_eq!(restored.rule(RuleKind::PortForward, "a"), rules[0]);
        assert_eq!(restored.rule(RuleKind::PortForward, "d"), RuleId(4));
        assert_eq!(restored.realm("domain:vpc"), Some(realm));
    }

    #[test]
    fn a_registry_that_contradicts_itself_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"rules":{"a":1,"b":1},"realms":{}}"#,
            r#"{"rules":{"a":0},"realms":{}}"#,
            r#"{"rules":{"a":16777216},"realms":{}}"#,
            r#"{"rules":{},"realms":{"a":65536}}"#,
        ] {
            assert!(Registry::restore(text).is_err(), "{text}");
        }
    }
}
