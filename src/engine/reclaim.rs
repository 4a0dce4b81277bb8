//! When the engine takes the steps that free next hops nobody sends to any more.

use std::time::{Duration, Instant};

use crate::engine::run::Engine;
use crate::pipeline::reclaim::Progress;
use crate::worker;

impl Engine {
    /// Takes a step if one is due.
    pub(super) fn reclaim_next_hops(&mut self) {
        if Instant::now() < self.reclaim_due {
            return;
        }
        let wait = match self.reclaimer.step(&self.shared, worker::now()) {
            Progress::Busy => STEP_EVERY,
            Progress::Idle => LOOK_EVERY,
            Progress::Freed(count) => {
                tracing::debug!(count, "next hops that nobody needs are free again");
                LOOK_EVERY
            }
        };
        self.reclaim_due = Instant::now() + wait;
    }
}

/// Between two steps of a round: the engine has other things to do.
const STEP_EVERY: Duration = Duration::from_millis(2);
/// How often it is looked whether a round is needed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
