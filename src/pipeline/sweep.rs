//! The sweep: every session is looked at now and then, a bounded share at a time, so that expired
//! ones free their room and ones that new rules refuse end within a second.

use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::flow::{Generation, Protocol};
use crate::frame::{FrameBuffer, FrameSource};
use crate::pipeline::batch::Batch;
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Pipeline};
use crate::policy::Policy;
use crate::session::entry::Entry;
use crate::session::index::GROUP_SLOTS;
use crate::session::timeout::{self, Timeouts};
use crate::time::{Coarse, Tick};
use crate::verdict::DropReason;

/// The slots that one call looks at, at the most: some tens of microseconds where none of their
/// sessions needs more than one look.
const SLOTS_PER_CALL: u32 = 146 * SLOTS_PER_STEP;
/// As many times that where so few are taken and no frames came. Each call costs an idle worker a wake.
const EMPTY_MAX: u32 = 8;
/// The slots taken at once: few, as a call cannot stop within a step.
const SLOTS_PER_STEP: u32 = 2 * GROUP_SLOTS;
/// What sessions may need in one call, at the most but for its last step: sixteen of them end or 128
/// are decided again, some tens of microseconds too. A million that expire at once, or that new rules
/// come for, must not hold packets up.
const EFFORT_PER_CALL: u32 = 128;
/// What it takes to look at a whole session, and decide it again if need be, and what to end it: that
/// reads and writes a dozen lines of memory that are not at hand.
const EFFORT_OF_A_LOOK: u32 = 1;
const EFFORT_OF_AN_END: u32 = 8;
/// How long a whole sweep takes when nothing hurries it, in milliseconds, per 65,536 slots.
const SWEEP_MS_PER_64K_SLOTS: u64 = 100;
/// The shortest and the longest time for a whole sweep, in milliseconds.
const SWEEP_MS: (u64, u64) = (500, 4000);
/// The time for a whole sweep after new rules came, in milliseconds.
const REVIEW_MS: u64 = 500;

/// One worker's share of the sweep.
pub(super) struct Sweep {
    /// When it last got its share.
    last: Tick,
    /// The policy that a hurried sweep is about, and the slots still to be looked at under it.
    generation: Generation,
    hurry: u64,
    /// Slots that are due but have not been looked at, in thousandths.
    due_milli: u64,
    /// Whether frames came since.
    is_busy: bool,
    shortest: Shortest,
}

/// What holds for every step of a share.
struct Round {
    /// Of both tables.
    slots: [u32; 2],
    /// Who was seen since is not over.
    since: Coarse,
    now: Tick,
}

/// The shortest times, on the coarse clock, after which sessions may be over.
pub(super) struct Shortest {
    icmp: u32,
    other: u32,
    pub(super) tcp: u32,
    pub(super) udp: u32,
}

impl Shortest {
    /// After this time sessions of some protocol may be over.
    fn of_all(&self) -> u32 {
        self.icmp.min(self.other).min(self.tcp).min(self.udp)
    }
}

impl Sweep {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        let shortest = |protocol| timeout::shortest(timeouts, protocol);
        Self {
            last: Tick::ZERO,
            generation: Generation(0),
            hurry: 0,
            due_milli: 0,
            is_busy: false,
            shortest: Shortest {
                icmp: shortest(Protocol::ICMP),
                other: shortest(Protocol::GRE),
                tcp: shortest(Protocol::TCP),
                udp: shortest(Protocol::UDP),
            },
        }
    }

    /// Notes that a batch of frames was processed.
    pub(super) const fn frames_came(&mut self) {
        self.is_busy = true;
    }

    /// The shortest times after which sessions may be over.
    pub(super) const fn shortest(&self) -> &Shortest {
        &self.shortest
    }

    /// The shortest time, on the coarse clock, after which a session of `protocol` may be over.
    pub(super) const fn shortest_timeout(&self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::TCP => self.shortest.tcp,
            Protocol::UDP => self.shortest.udp,
            Protocol::ICMP | Protocol::ICMPV6 => self.shortest.icmp,
            _ => self.shortest.other,
        }
    }

    /// The slots to look at now.
    fn share(&mut self, shared: &Shared, generation: Generation, now: Tick) -> u32 {
        let slots = u64::from(shared.sessions.slots()) + u64::from(shared.sessions_ipv6.slots());
        let workers = u64::try_from(shared.settings.workers.max(1)).unwrap_or(1);
        if generation != self.generation {
            self.generation = generation;
            self.hurry = slots / workers + u64::from(SLOTS_PER_CALL);
        }
        let pass_ms = if self.hurry > 0 {
            REVIEW_MS
        } else {
            (slots * SWEEP_MS_PER_64K_SLOTS / 65_536).clamp(SWEEP_MS.0, SWEEP_MS.1)
        };
        let passed_ms = u64::try_from(now.since(self.last).as_millis()).unwrap_or(u64::MAX);
        self.last = now;
        // After a long sleep one whole pass is enough.
        let gained = passed_ms.min(pass_ms) * slots * 1000 / pass_ms / workers;
        self.due_milli = (self.due_milli + gained).min(slots * 1000);
        let due = u32::try_from(self.due_milli / 1000).unwrap_or(u32::MAX);
        let is_busy = std::mem::take(&mut self.is_busy);
        let most = if is_busy || due <= SLOTS_PER_CALL {
            SLOTS_PER_CALL
        } else {
            slots_per_idle_call(shared)
        };
        due.min(most)
    }

    /// Notes that `slots` slots were looked at. Returns whether more are due already.
    fn looked_at(&mut self, slots: u32) -> bool {
        self.due_milli = self.due_milli.saturating_sub(u64::from(slots) * 1000);
        self.hurry = self.hurry.saturating_sub(u64::from(slots));
        self.due_milli >= 1000
    }
}

/// The slots that a call may look at for which nobody waits. They may all be of the fuller table.
fn slots_per_idle_call(shared: &Shared) -> u32 {
    let slots_of_taken = |slots: u32, sessions: u32| slots / sessions.saturating_mul(2).max(1);
    let (ipv4, ipv6) = (&shared.sessions, &shared.sessions_ipv6);
    let least = slots_of_taken(ipv4.slots(), ipv4.len());
    let least = least.min(slots_of_taken(ipv6.slots(), ipv6.len()));
    SLOTS_PER_CALL * least.clamp(1, EMPTY_MAX)
}

impl<F: FrameBuffer> Pipeline<F> {
    /// Work that is due without a frame: a share of the sweep, frames that waited long enough.
    /// Call it after each batch and when there is nothing to receive. Returns whether more is due
    /// already, so that a worker does not go to sleep over it.
    pub fn idle<S: FrameSource<Frame = F>>(
        &mut self,
        batch: &mut Batch<F>,
        frames: &mut S,
        now: Tick,
    ) -> bool {
        // Between batches nobody holds the id of a next hop, but for frames that wait: they go their
        // way from the start, whoever is behind that id when it is resolved.
        if let Some(epoch) = self.hop_reader.due() {
            self.hop_reader.pass(epoch);
        }
        let policy = self.policy.current();
        let shared = Rc::clone(&self.shared);
        let Batch { extra, host, .. } = batch;
        let mut context = Context { shared: &shared, policy: &policy, extra, host, frames, now };
        self.release_waiting(&mut context);
        self.tally.settle_rules(&shared.rules);
        if !policy.encapsulations().is_empty() {
            self.close_capsules(&mut [], &mut context);
        }
        let Self { fragments, fragments_ipv6, counters, .. } = self;
        let mut give_up = |(_, frame)| {
            counters.dropped(DropReason::FragmentTimeout);
            context.frames.release(frame);
        };
        fragments.expire(now, &mut give_up);
        fragments_ipv6.expire(now, &mut give_up);

        let share = self.sweep.share(&shared, policy.generation(), now);
        let round = Round {
            slots: [shared.sessions.slots(), shared.sessions_ipv6.slots()],
            since: now.coarse().before(self.sweep.shortest.of_all()),
            now,
        };
        let (mut looked, mut effort) = (0, 0);
        while looked < share && effort < EFFORT_PER_CALL {
            let step = (share - looked).min(SLOTS_PER_STEP);
            effort += self.sweep_step(step, &round, &shared, &policy);
            looked += step;
        }
        let is_more = self.sweep.looked_at(looked);
        self.look_after_shortcuts(&shared, &policy, now) || is_more
    }

    /// Looks at the next `slots` slots. Returns what effort their sessions took.
    fn sweep_step(&mut self, slots: u32, round: &Round, shared: &Shared, policy: &Policy) -> u32 {
        // One table lies behind the other; a step that crosses an end goes on in the next.
        let Round { slots: [first, second], since, now } = *round;
        let mut place = shared.sweep_cursor.fetch_add(slots, Ordering::Relaxed) % (first + second);
        let (mut left, mut effort) = (slots, 0);
        let effort_of = |lives_on| if lives_on { EFFORT_OF_A_LOOK } else { EFFORT_OF_AN_END };
        while left > 0 {
            let (count, mut cursor) = match place.checked_sub(first) {
                None => (left.min(first - place), place),
                Some(place) => (left.min(second - place), place),
            };
            if place < first {
                let passes = |entry: &Entry| entry.is_settled(policy.generation(), since);
                shared.sessions.walk_unless(passes, &mut cursor, count, |view| {
                    effort += effort_of(self.review(&view, shared, policy, now));
                });
            } else {
                let passes = |entry: &Entry<Ipv6Addr>| entry.is_settled(policy.generation(), since);
                shared.sessions_ipv6.walk_unless(passes, &mut cursor, count, |view| {
                    effort += effort_of(self.review_ipv6(&view, shared, policy, now));
                });
            }
            left -= count;
            place = if place + count < first + second { place + count } else { 0 };
        }
        effort
    }
}
