//! Looks after load balancers' members: connects to each over TCP, now and then, and takes out who does not answer.
//!
//! One thread, connections that nobody waits for. The router's kernel makes them, by the members' interface; where
//! it has no address in their network it cannot tell, and the member is left in and said to be unknown.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::flow::{Endpoint, Generation, RuleId};
use crate::io::connecting::Connecting;
use crate::nat::health::{Health, MemberHealth, MemberState};
use crate::pipeline::shared::Shared;
use crate::policy::Policy;
use crate::rules::set::{Cidr, HealthCheck};

/// The thread that checks members. It ends when this is dropped.
pub(super) struct HealthChecks {
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HealthChecks {
    /// Starts to check the members of the policy in force, whichever that is.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(shared: Arc<Shared>, config: Arc<Config>) -> io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopping);
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            let mut checker = Checker { shared, config, generation: None, members: HashMap::new() };
            while !stop.load(Ordering::Relaxed) {
                checker.follow_policy();
                checker.look();
            }
        })?;
        Ok(Self { is_stopping, thread: Some(thread) })
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Checker {
    shared: Arc<Shared>,
    config: Arc<Config>,
    /// The policy that `members` are of.
    generation: Option<Generation>,
    members: HashMap<(RuleId, Endpoint), Member>,
}

/// A member that is checked.
struct Member {
    target: Target,
    record: Record,
    /// When the next check begins.
    due: Instant,
    /// The check under way, and when it has failed.
    under_way: Option<(Connecting, Instant)>,
}

/// How a member is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target {
    interface: String,
    network: Cidr,
    to: SocketAddrV4,
    check: HealthCheck,
}

impl Checker {
    /// Takes up the members of a new policy; who stays keeps what is known of it.
    fn follow_policy(&mut self) {
        let policy = self.shared.policy.load();
        if self.generation == Some(policy.generation()) {
            return;
        }
        self.generation = Some(policy.generation());
        let targets = targets(&policy, &self.config);
        self.members.retain(|key, member| targets.get(key) == Some(&member.target));
        let now = Instant::now();
        for (key, target) in targets {
            let new = || Member { target, record: Record::default(), due: now, under_way: None };
            self.members.entry(key).or_insert_with(new);
        }
        let members = &self.members;
        health(&self.shared).retain(|rule, member| members.contains_key(&(rule, member)));
    }

    /// Begins what is due, waits a while, and notes what came of what was under way.
    fn look(&mut self) {
        let now = Instant::now();
        for (key, member) in &mut self.members {
            if member.under_way.is_none() && member.due <= now {
                member.begin(now, *key, health(&self.shared));
            }
        }
        let under_way: Vec<_> = self
            .members
            .iter()
            .filter_map(|(key, member)| {
                member.under_way.as_ref().map(|(connecting, _)| (*key, connecting))
            })
            .collect();
        let mut descriptors: Vec<PollFd<'_>> = under_way
            .iter()
            .map(|(_, connecting)| PollFd::new(*connecting, PollFlags::OUT))
            .collect();
        // Interrupted or not, the next look finds what is left.
        let _ = poll(&mut descriptors, Some(&LOOK_EVERY));
        let is_done = |descriptor: &PollFd<'_>| !descriptor.revents().is_empty();
        let done: Vec<_> = under_way
            .iter()
            .zip(&descriptors)
            .filter(|(_, descriptor)| is_done(descriptor))
            .map(|((key, connecting), _)| (*key, connecting.outcome()))
            .collect();
        for (key, outcome) in done {
            if let Some(member) = self.members.get_mut(&key) {
                member.finish(
                    outcome.map_err(|error| error.to_string()),
                    key,
                    health(&self.shared),
                );
            }
        }
        let now = Instant::now();
        for (key, member) in &mut self.members {
            if member.under_way.as_ref().is_some_and(|(_, until)| *until <= now) {
                member.finish(Err("no answer in time".to_owned()), *key, health(&self.shared));
            }
        }
    }
}

impl Member {
    fn begin(&mut self, now: Instant, key: (RuleId, Endpoint), health: &Health) {
        let check = self.target.check;
        self.due = now + Duration::from_secs(u64::from(check.interval_seconds.get()));
        let connecting = Connecting::begin(&self.target.interface, self.target.to);
        let source = connecting.as_ref().ok().and_then(|connecting| connecting.source().ok());
        match (connecting, source) {
            (Ok(connecting), Some(source)) if self.target.network.contains(source) => {
                let timeout = Duration::from_secs(u64::from(check.timeout_seconds.get()));
                self.under_way = Some((connecting, now + timeout));
            }
            (Ok(_), _) => {
                let Target { interface, network, .. } = &self.target;
                let why = format!("the router's kernel has no address in {network} on {interface}");
                self.record = Record::default();
                health.set(key.0, key.1, MemberHealth { state: MemberState::Unknown, why });
            }
            // The neighbour is known not to answer: that is the member's fault.
            (Err(error), _) if error.kind() == io::ErrorKind::HostUnreachable => {
                self.finish(Err(error.to_string()), key, health);
            }
            (Err(error), _) => {
                let why = format!("{}: {error}", self.target.interface);
                self.record = Record::default();
                health.set(key.0, key.1, MemberHealth { state: MemberState::Unknown, why });
            }
        }
    }

    fn finish(&mut self, outcome: Result<(), String>, key: (RuleId, Endpoint), health: &Health) {
        self.under_way = None;
        let why = outcome.clone().err().unwrap_or_default();
        let before = self.record.state;
        self.record.note(outcome.is_ok(), &self.target.check);
        if before != self.record.state {
            let (member, state) = (key.1, self.record.state.as_str());
            tracing::info!(%member, state, why, "a member's health has changed");
        }
        health.set(key.0, key.1, MemberHealth { state: self.record.state, why });
    }
}

/// What checks of a member said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Record {
    state: MemberState,
    /// Checks on end that spoke against it.
    against: u16,
}

impl Default for Record {
    fn default() -> Self {
        Self { state: MemberState::Unknown, against: 0 }
    }
}

impl Record {
    fn note(&mut self, is_success: bool, check: &HealthCheck) {
        let (other, needed) = match (self.state, is_success) {
            (MemberState::Unknown, true) => (MemberState::Up, 1),
            (MemberState::Down, true) => (MemberState::Up, check.healthy_after.get()),
            (MemberState::Up | MemberState::Unknown, false) => {
                (MemberState::Down, check.unhealthy_after.get())
            }
            (MemberState::Up, true) | (MemberState::Down, false) => {
                self.against = 0;
                return;
            }
        };
        self.against = self.against.saturating_add(1);
        if self.against >= needed {
            *self = Self { state: other, against: 0 };
        }
    }
}

/// The members that `policy` wants checked.
fn targets(policy: &Policy, config: &Config) -> HashMap<(RuleId, Endpoint), Target> {
    let mut targets = HashMap::new();
    for balancer in policy.balancers() {
        let Some(check) = balancer.health_check else { continue };
        let network = policy.network(balancer.network);
        let Some(interface) = config.interfaces.get(network.port.index()) else { continue };
        let interface = match network.vlan {
            0 => interface.name.clone(),
            // As the kernel's VLAN interfaces are called by everybody's tools.
            vlan => format!("{}.{vlan}", interface.name),
        };
        for (member, _) in &balancer.members {
            let port = check.port.map_or(member.port, std::num::NonZeroU16::get);
            let target = Target {
                interface: interface.clone(),
                network: network.cidr,
                to: SocketAddrV4::new(member.address, port),
                check,
            };
            targets.insert((balancer.rule, *member), target);
        }
    }
    targets
}

fn health(shared: &Shared) -> &Health {
    &shared.balance.health
}

/// How often a new policy and what is due are looked for.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;

    fn check(healthy: u16, unhealthy: u16) -> HealthCheck {
        let number = |value| NonZeroU16::new(value).unwrap();
        HealthCheck {
            interval_seconds: number(1),
            timeout_seconds: number(1),
            healthy_after: number(healthy),
            unhealthy_after: number(unhealthy),
            port: None,
        }
    }

    proptest! {
        #[test]
        fn a_member_goes_after_so_many_failures_on_end_and_comes_back_after_so_many_successes(
            healthy in 1_u16..4, unhealthy in 1_u16..4,
            outcomes in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let check = check(healthy, unhealthy);
            let mut record = Record::default();
            let mut is_down = false;
            for (at, outcome) in outcomes.iter().enumerate() {
                record.note(*outcome, &check);
                // The slow way: the last so many outcomes are all alike.
                let last = |count: u16, value: bool| {
                    let count = usize::from(count);
                    at + 1 >= count && outcomes[at + 1 - count..=at].iter().all(|it| *it == value)
                };
                if !is_down && last(unhealthy, false) {
                    is_down = true;
                } else if is_down && last(healthy, true) {
                    is_down = false;
                }
                prop_assert_eq!(record.state == MemberState::Down, is_down);
            }
        }
    }
}
