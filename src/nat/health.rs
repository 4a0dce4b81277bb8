//! What the router has found out about load balancers' members. The thread that checks them writes, the slow path asks.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::flow::{Endpoint, RuleId};

/// The members of all balancers that are checked.
#[derive(Debug, Default)]
pub struct Health {
    members: DashMap<(RuleId, Endpoint), MemberHealth, ahash::RandomState>,
    /// Members that are out, so that all being well costs one load.
    out: AtomicUsize,
}

/// What is known of a member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberHealth {
    /// Whether new clients are kept from it.
    pub state: MemberState,
    /// Why, for people.
    pub why: String,
}

/// How a member is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemberState {
    /// It does not answer: new clients go to others.
    Down,
    /// Nobody can tell, so it is left in.
    Unknown,
    /// It answers.
    Up,
}

impl MemberState {
    /// A word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }
}

impl Health {
    /// Whether new clients may go to a member.
    #[must_use]
    pub fn takes(&self, rule: RuleId, member: Endpoint) -> bool {
        self.out.load(Ordering::Relaxed) == 0
            || self
                .members
                .get(&(rule, member))
                .is_none_or(|known| known.state != MemberState::Down)
    }

    /// What is known of a member; none if it is not checked.
    #[must_use]
    pub fn of(&self, rule: RuleId, member: Endpoint) -> Option<MemberHealth> {
        self.members.get(&(rule, member)).map(|known| known.clone())
    }

    /// Notes how a member is. There is one writer.
    pub fn set(&self, rule: RuleId, member: Endpoint, health: MemberHealth) {
        self.members.insert((rule, member), health);
        self.count();
    }

    /// Forgets all members but those that `keep` names.
    pub fn retain(&self, keep: impl Fn(RuleId, Endpoint) -> bool) {
        self.members.retain(|(rule, member), _| keep(*rule, *member));
        self.count();
    }

    fn count(&self) {
        let is_out = |known: &MemberHealth| known.state == MemberState::Down;
        let out = self.members.iter().filter(|known| is_out(known.value())).count();
        self.out.store(out, Ordering::Relaxed);
    }
}
