//! Rounds that free the next hops nobody sends to any more, before all are taken: a guest that sends to
//! every address of its network, none of which answers, may not have them all for good.
//!
//! Not on a worker: whoever looks after the engine takes one bounded [step](Reclaimer::step) after another.
//! What makes it safe stands in [`crate::next_hop::reclaim`].

use std::time::Duration;

use crate::next_hop::readers::Epoch;
use crate::next_hop::reclaim::{Gone, Noted, Occupancy};
use crate::pipeline::shared::Shared;
use crate::session::shape::Shape;
use crate::session::table::Table;
use crate::time::Tick;

/// The round that is on, if any, and what the last one came to.
pub struct Reclaimer {
    stage: Stage,
    /// Whether next hops that answer are looked at too.
    even_reachable: bool,
    freed: u64,
    /// When the round began.
    began: Tick,
}

enum Stage {
    /// No round is on; none begins before then.
    Resting { until: Tick },
    /// Workers still may open sessions with next hops that they found before they were doubted.
    Doubted { epoch: Epoch },
    /// Looks at sessions, in the table of each family from its cursor on.
    Noting { noted: Noted, cursors: [u32; 2] },
    /// Workers still may send to next hops that are gone.
    Leaving { gone: Gone },
}

/// How a step left things.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// A round is on: the next step is due soon.
    Busy,
    /// A round is over that freed so many.
    Freed(u64),
    /// There is nothing to do.
    Idle,
}

impl Reclaimer {
    /// No round was there yet.
    #[must_use]
    pub const fn new() -> Self {
        let stage = Stage::Resting { until: Tick::ZERO };
        Self { stage, even_reachable: false, freed: 0, began: Tick::ZERO }
    }

    /// Goes on with the round that is on, or begins one if it is needed.
    pub fn step(&mut self, shared: &Shared, now: Tick) -> Progress {
        let hops = &shared.next_hops;
        match &mut self.stage {
            Stage::Resting { until } if now < *until => return Progress::Idle,
            Stage::Resting { .. } => {
                // No network has its share before the table is as full as that.
                if !hops.occupancy().is_high() {
                    return Progress::Idle;
                }
                self.began = now;
                self.stage = Stage::Doubted { epoch: hops.doubt(self.even_reachable) };
            }
            Stage::Doubted { epoch } => {
                if hops.have_passed(*epoch) {
                    self.stage = Stage::Noting { noted: hops.noted(), cursors: [0; 2] };
                }
            }
            Stage::Noting { noted, cursors: [ipv4, ipv6] } => {
                let is_over =
                    note(&shared.sessions, ipv4, noted) && note(&shared.sessions_ipv6, ipv6, noted);
                if is_over {
                    let gone = hops.take_out(noted);
                    self.freed = 0;
                    self.stage = Stage::Leaving { gone };
                }
            }
            Stage::Leaving { gone } => {
                self.freed += hops.free(gone);
                if gone.is_empty() {
                    return self.conclude(&hops.occupancy(), now);
                }
            }
        }
        Progress::Busy
    }

    fn conclude(&mut self, occupancy: &Occupancy, now: Tick) -> Progress {
        let is_in_vain = self.even_reachable && self.freed < occupancy.max / WORTH;
        // Whoever answers may be sent to again. So those are looked at only where the others are too few,
        // and where all are, the next round may be as much in vain: it is not to take all of a thread's time.
        let is_enough = !occupancy.is_high();
        let pause = if is_in_vain && !is_enough { now.since(self.began) * IN_VAIN } else { PAUSE };
        self.even_reachable = !is_enough;
        self.stage = Stage::Resting { until: now.after(pause.max(PAUSE)) };
        Progress::Freed(self.freed)
    }
}

impl Default for Reclaimer {
    fn default() -> Self {
        Self::new()
    }
}

/// Notes the next hops of a share of a table's sessions. Returns whether it came to the end.
fn note<A: Shape>(sessions: &Table<A>, cursor: &mut u32, noted: &mut Noted) -> bool {
    let left = sessions.slots().saturating_sub(*cursor);
    if left == 0 {
        return true;
    }
    let end = *cursor + left.min(SLOTS_PER_STEP);
    let mut place = *cursor;
    sessions.walk(&mut place, left.min(SLOTS_PER_STEP), |view| {
        noted.note(view.session.initiator_next_hop);
        noted.note(view.session.responder_next_hop);
    });
    *cursor = end;
    end == sessions.slots()
}

/// Slots of a table that a step looks at: a millisecond's worth.
const SLOTS_PER_STEP: u32 = 32_768;
/// A round that freed this part of the table was worth it.
const WORTH: u64 = 32;
/// Between a round and the next.
const PAUSE: Duration = Duration::from_millis(250);
/// The same where nothing is to be had, as a multiple of what the round took.
const IN_VAIN: u32 = 4;
