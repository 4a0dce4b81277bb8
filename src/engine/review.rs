//! What becomes of the sessions after a reload: the workers' sweep looks at each under the rules in force,
//! and the engine waits until it has, without being in anybody's way.

use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::engine::handle::ReloadReport;
use crate::engine::reload::Outcome;
use crate::engine::run::Engine;
use crate::flow::Generation;
use crate::session::shape::Shape;
use crate::session::table::Table;
use crate::telemetry::counters::Ended;

/// A review that is on.
pub(super) struct Review {
    /// What is known of the reload.
    report: ReloadReport,
    /// When the rules were read.
    started: Instant,
    /// Sessions that rules had ended before.
    removed_before: u64,
    /// How far it is known to have come, in the table of each family.
    seen: [Progress; 2],
    /// Who is to be answered.
    replies: Vec<Sender<Outcome>>,
}

/// How far a table is known to be looked at.
#[derive(Default)]
struct Progress {
    cursor: u32,
    slots: u32,
}

impl Review {
    /// The review of rules that have just come in force.
    pub fn new(report: ReloadReport, started: Instant, removed_before: u64) -> Self {
        let (seen, replies) = (Default::default(), Vec::new());
        Self { report, started, removed_before, seen, replies }
    }
}

impl Engine {
    /// When to look how far the review has come, if one is on.
    pub(super) fn review_due(&self) -> Option<Instant> {
        self.review.as_ref().map(|_| Instant::now() + LOOK_EVERY)
    }

    /// Answers somebody when the review that is on is over.
    pub(super) fn answer_after_review(&mut self, reply: Sender<Outcome>) {
        if let Some(review) = &mut self.review {
            review.replies.push(reply);
        }
    }

    /// Looks how far the review has come, and ends it when every session was looked at.
    pub(super) fn look_at_review(&mut self) {
        let Some(review) = &mut self.review else { return };
        let generation = review.report.generation;
        let [ipv4, ipv6] = &mut review.seen;
        let is_over = ipv4.is_over(&self.shared.sessions, generation)
            && ipv6.is_over(&self.shared.sessions_ipv6, generation);
        if is_over || review.started.elapsed() > PATIENCE {
            self.conclude_review();
        }
    }

    /// Ends the review that is on, if any, and tells what it found.
    pub(super) fn conclude_review(&mut self) {
        let Some(review) = self.review.take() else { return };
        let Review { mut report, started, removed_before, replies, .. } = review;
        report.sessions_ended = self.sessions_removed().saturating_sub(removed_before);
        report.duration = started.elapsed();
        self.tell(&report);
        let is_told = replies.iter().filter(|reply| reply.send(Ok(report.clone())).is_ok()).count();
        self.untold = (is_told == 0).then(|| (Instant::now(), report));
    }

    /// The sessions that rules have ended so far.
    pub(super) fn sessions_removed(&self) -> u64 {
        let workers = self.handle.workers();
        workers.iter().map(|worker| worker.counters.totals().ended(Ended::Removed)).sum()
    }
}

impl Progress {
    /// Whether no session of another generation is left, as far as one look can tell.
    fn is_over<A: Shape>(&mut self, sessions: &Table<A>, generation: Generation) -> bool {
        while self.slots < sessions.slots() {
            let mut next = self.cursor;
            let mut is_stale = false;
            sessions.walk(&mut next, SLOTS_PER_STEP, |view| {
                is_stale |= view.session.generation != generation;
            });
            if is_stale {
                return false;
            }
            self.cursor = next;
            self.slots = self.slots.saturating_add(SLOTS_PER_STEP);
        }
        true
    }
}

/// How often it is looked at how far a review has come.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The longest wait for the sweep, which takes half a second.
const PATIENCE: Duration = Duration::from_millis(1500);
const SLOTS_PER_STEP: u32 = 8192;
