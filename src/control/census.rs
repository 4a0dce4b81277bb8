//! One walk over all sessions, for everything that is counted per rule and per network.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use crate::control::sides::{Located, Sides};
use crate::flow::{NetworkId, RuleId};
use crate::policy::Policy;
use crate::session::shape::Shape;
use crate::session::table::{SessionView, Table};
use crate::telemetry::counters::{RuleCounters, RuleTotals};

/// What live sessions come to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Census {
    /// By the rule that allowed them.
    rules: HashMap<RuleId, Tally>,
    /// By the network of their guests: how many.
    networks: HashMap<NetworkId, u64>,
}

/// Some sessions, added up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How many.
    pub sessions: u64,
    /// What they carried, both ways.
    pub carried: RuleTotals,
}

/// Slots that are looked at before others may run: some hundred microseconds.
pub const SLOTS_PER_STEP: u32 = 16 * 1024;

/// Visits every session, a bounded share of the table at a time; after each share `pause` says
/// whether to go on. Readers take no lock, so workers are not held up.
pub fn walk<A: Shape, E>(
    table: &Table<A>,
    mut visit: impl FnMut(SessionView<A>),
    mut pause: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    let slots = table.slots();
    let (mut cursor, mut seen) = (0, 0);
    while seen < slots {
        let share = SLOTS_PER_STEP.min(slots - seen);
        table.walk(&mut cursor, share, &mut visit);
        seen += share;
        pause()?;
        std::thread::yield_now();
    }
    Ok(())
}

impl Census {
    /// Counts what lives now.
    #[must_use]
    pub fn take(table: &Table, table_ipv6: &Table<Ipv6Addr>, policy: &Policy) -> Self {
        let mut census = Self::default();
        census.count_all(table, policy);
        census.count_all(table_ipv6, policy);
        census
    }

    fn count_all<A: Located>(&mut self, table: &Table<A>, policy: &Policy) {
        let goes_on = || Ok::<(), std::convert::Infallible>(());
        let Ok(()) = walk(table, |view| self.count(&view, policy), goes_on);
    }

    fn count<A: Located>(&mut self, view: &SessionView<A>, policy: &Policy) {
        let tally = self.rules.entry(view.session.rule).or_default();
        tally.sessions += 1;
        tally.carried.packets += view.initiator.packets + view.responder.packets;
        tally.carried.bytes += view.initiator.bytes + view.responder.bytes;
        for network in Sides::of(&view.session).networks(policy) {
            *self.networks.entry(network).or_default() += 1;
        }
    }

    /// What a rule carried: its live sessions, those that ended, and what it refused.
    #[must_use]
    pub fn rule(&self, rule: RuleId, counters: &RuleCounters) -> Tally {
        let live = self.rules.get(&rule).copied().unwrap_or_default();
        let ended = counters.totals(rule);
        Tally {
            sessions: live.sessions,
            carried: RuleTotals {
                packets: live.carried.packets + ended.packets,
                bytes: live.carried.bytes + ended.bytes,
            },
        }
    }

    /// Live sessions of a network's guests.
    #[must_use]
    pub fn network(&self, network: NetworkId) -> u64 {
        self.networks.get(&network).copied().unwrap_or_default()
    }
}
