//! Plain packets that the fast path did not follow, most of them the first ones of sessions: what its looks
//! found out serves to open the session, and it then does what the session says (the general way, to a SYN).
//!
//! Guests' first packets of one group are taken one step after the other together: what the rules say
//! of each, an external port for each, next hops for each, and then each session is put into the table.
//! What a step needs from memory comes while the others are at the step before.

use std::array::from_fn;
use std::mem::take;

use crate::flow::{FlowKey, Protocol, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::nat::mappings::Place;
use crate::next_hop::NextHopId;
use crate::pipeline::batch::Slot;
use crate::pipeline::decide::{Plan, Question, Source, Target};
use crate::pipeline::fast::{Glance, Moment, fast};
use crate::pipeline::look::{GROUP, Group};
use crate::pipeline::open::{Asked, Opening, Refused, choose_target, guest_limits, session_of};
use crate::pipeline::slow::decided;
use crate::pipeline::{Context, Pipeline};
use crate::policy::Attachment;
use crate::session::table::Places;
use crate::verdict::{DropReason, Verdict};

/// Guests' first packets of a group, which open sessions together.
struct Newcomers<'f, 'c, F> {
    packets: [Option<Newcomer<'f, 'c, F>>; GROUP],
    count: usize,
    /// One bit of 64 for each one's hash.
    marks: u64,
}

/// A packet that a session is opened for.
struct Newcomer<'f, 'c, F> {
    slot: &'f mut Slot<F>,
    glance: Glance,
    attachment: Attachment,
    key: FlowKey,
    plan: Plan<'c>,
    /// Where the mappings of its source stand.
    mapping: Option<Place>,
    /// What it got so far.
    opening: Option<Opening>,
    hops: Option<[NextHopId; 2]>,
}

impl<F> Newcomers<'_, '_, F> {
    fn new() -> Self {
        Self { packets: from_fn(|_| None), count: 0, marks: 0 }
    }

    /// Whether one of them may be of the same session.
    fn has(&self, glance: &Glance) -> bool {
        let waiting = self.packets.get(..self.count).unwrap_or_default();
        self.marks & mark(glance) != 0
            && waiting.iter().flatten().any(|packet| packet.glance.hash() == glance.hash())
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// The last look at a group of frames, from the one on that is at `first` and did not go the fast path.
    #[inline(never)]
    pub(super) fn finish_others<S: FrameSource<Frame = F>>(
        &mut self,
        slots: &mut [Slot<F>],
        group: &Group,
        first: usize,
        moment: &Moment<'_>,
        next_look: &mut usize,
        context: &mut Context<'_, F, S>,
    ) {
        let mut newcomers = Newcomers::new();
        let slots = slots.get_mut(first..).unwrap_or_default();
        let glances = group.glances.get(first..).unwrap_or_default();
        let mut was_tried = true;
        for (slot, glance) in slots.iter_mut().zip(glances) {
            // Who had no session at the second look has none that the fast path would find.
            let may_be_fast = !was_tried && glance.is_plain() && !glance.was_nowhere();
            was_tried = false;
            if may_be_fast && self.goes_fast(slot, glance, moment) {
                continue;
            }
            if let Some(slot) = self.join(slot, glance, &mut newcomers, context) {
                self.open_all(&mut newcomers, moment, context);
                slot.verdict = self.general(slot, glance, moment, next_look, context);
            }
        }
        self.open_all(&mut newcomers, moment, context);
    }

    /// Has a packet that the fast path did not follow join `newcomers`, or gives it its verdict. Returns its
    /// slot, and did nothing, if it is for others to say what becomes of it.
    #[inline(never)]
    fn join<'f, 'c, S: FrameSource<Frame = F>>(
        &mut self,
        slot: &'f mut Slot<F>,
        glance: &Glance,
        newcomers: &mut Newcomers<'f, 'c, F>,
        context: &mut Context<'c, F, S>,
    ) -> Option<&'f mut Slot<F>> {
        let (shared, policy) = (context.shared, context.policy);
        if !glance.is_plain() || newcomers.has(glance) || glance.has_session(&shared.sessions) {
            return Some(slot);
        }
        let port = slot.port;
        let Some(frame) = slot.frame.as_mut() else { return Some(slot) };
        let origin = glance.origin(frame.bytes(), port, policy);
        let Some((attachment, key)) = origin else { return Some(slot) };
        let question = Question::new(policy, key, attachment.network(), (0, 0));
        // What is said of packets to public addresses depends on sessions, which may be on their way.
        let is_outbound = matches!(key.realm, Realm::Internal(_))
            && (question.to_stranger || policy.public_address(key.destination.address).is_none());
        let Some(tcp_flags) = glance.packet().tcp_flags(frame.bytes()).filter(|_| is_outbound)
        else {
            return Some(slot);
        };
        match decided(&question, attachment, tcp_flags, context) {
            // Who answers from inside may do so in the same group, and find the session.
            Ok(Plan { target: Target::Balanced(_) | Target::Guest { .. }, .. }) => {
                return Some(slot);
            }
            Ok(plan) => {
                let mapping = match plan.source {
                    Source::Gateway(_) | Source::Pool(_) => {
                        Some(shared.mappings.prefetch(key.realm, key.protocol, key.source))
                    }
                    Source::Keep | Source::Static(_) => None,
                };
                // There are as many places as frames in a group.
                if let Some(place) = newcomers.packets.get_mut(newcomers.count) {
                    let glance = *glance;
                    let (opening, hops) = (None, None);
                    *place = Some(Newcomer {
                        slot,
                        glance,
                        attachment,
                        key,
                        plan,
                        mapping,
                        opening,
                        hops,
                    });
                    newcomers.count += 1;
                    newcomers.marks |= mark(&glance);
                }
            }
            Err(unopened) => {
                let ready = glance.ready(frame.bytes(), port, policy);
                let Some(ready) = ready else { return Some(slot) };
                slot.verdict = self.unopened(frame, port, &ready, unopened, context);
                self.count(slot.verdict);
            }
        }
        None
    }

    /// Opens the sessions of all newcomers, whose packets then go the fast path. Nobody waits after that.
    #[inline(never)]
    fn open_all<S: FrameSource<Frame = F>>(
        &mut self,
        newcomers: &mut Newcomers<'_, '_, F>,
        moment: &Moment<'_>,
        context: &mut Context<'_, F, S>,
    ) {
        let count = take(&mut newcomers.count);
        newcomers.marks = 0;
        if count == 0 {
            return;
        }
        let packets = newcomers.packets.get_mut(..count).unwrap_or_default();
        for packet in packets.iter_mut().flatten() {
            packet.opening = self.bound(packet, context);
        }
        for packet in packets.iter_mut().flatten() {
            packet.hops = self.with_next_hops(packet, context);
        }
        let mut places = context.shared.sessions.places(count as u32);
        for packet in packets.iter_mut().flatten() {
            self.enter(packet, &mut places, moment, context);
        }
    }

    /// Counts the packet's guest and gives it an external endpoint. None if it may not have one: the
    /// packet has its verdict then.
    fn bound<S: FrameSource<Frame = F>>(
        &mut self,
        packet: &mut Newcomer<'_, '_, F>,
        context: &mut Context<'_, F, S>,
    ) -> Option<Opening> {
        let Newcomer { attachment, key, plan, mapping, .. } = packet;
        let (shared, policy) = (context.shared, context.policy);
        let asked = Asked::first(guest_limits(*attachment, policy), *mapping);
        let opening = choose_target(plan, key, shared, policy)
            .and_then(|target| self.translate(key, plan, target, asked, context));
        match opening {
            Ok(opening) => Some(opening),
            Err(reason) => {
                self.turn_away(packet, reason, context);
                None
            }
        }
    }

    /// Finds the session's next hops. None if there is none: the packet has its verdict then.
    fn with_next_hops<S: FrameSource<Frame = F>>(
        &mut self,
        packet: &mut Newcomer<'_, '_, F>,
        context: &mut Context<'_, F, S>,
    ) -> Option<[NextHopId; 2]> {
        let opening = packet.opening.as_ref()?;
        match self.hops_of(&packet.key, &packet.plan, opening, context) {
            Ok(hops) => Some(hops),
            Err(reason) => {
                give_back(packet, opening, context);
                self.turn_away(packet, reason, context);
                None
            }
        }
    }

    /// Puts the session into one of these places of the table, and has the packet forwarded.
    fn enter<S: FrameSource<Frame = F>>(
        &mut self,
        packet: &mut Newcomer<'_, '_, F>,
        places: &mut Places<'_>,
        moment: &Moment<'_>,
        context: &mut Context<'_, F, S>,
    ) {
        let (Some(opening), Some(hops)) = (&packet.opening, packet.hops) else { return };
        let session = session_of(&packet.key, &packet.plan, opening, hops, context.policy);
        let keys = [packet.glance.keyed(), opening.keyed()];
        let place = match self.remember(&session, keys, &packet.plan, places, context) {
            Ok(place) => place,
            Err(refused) => {
                give_back(packet, opening, context);
                match refused {
                    Refused::Because(reason) => self.turn_away(packet, reason, context),
                    // Another session has one of the keys. What then, they know who take one packet
                    // after the other.
                    Refused::Taken => {
                        let Newcomer { slot, glance, .. } = packet;
                        slot.verdict = self.general(slot, glance, moment, &mut 0, context);
                    }
                }
                return;
            }
        };
        let Newcomer { slot, glance, key, plan, .. } = packet;
        glance.stands_at(place);
        self.opened(glance.packet().length, plan, context);
        if !glance.packet().is_untagged()
            && let Some(frame) = &slot.frame
            && let Some(ready) = glance.ready(frame.bytes(), slot.port, context.policy)
        {
            self.learn_sender(frame, slot.port, &ready, context);
        }
        let verdict = self.pass_on(slot, glance, key, moment, context);
        slot.verdict = verdict;
        self.count(verdict);
    }

    /// Gives a packet whose session was not opened its verdict.
    fn turn_away<S: FrameSource<Frame = F>>(
        &mut self,
        packet: &mut Newcomer<'_, '_, F>,
        reason: DropReason,
        context: &mut Context<'_, F, S>,
    ) {
        let Newcomer { slot, glance, plan, .. } = packet;
        let Some(frame) = &slot.frame else { return };
        let ready = glance.ready(frame.bytes(), slot.port, context.policy);
        let verdict = match &ready {
            Some(ready) => self.not_opened(frame, slot.port, ready, (reason, plan), context),
            None => Verdict::Drop(reason),
        };
        slot.verdict = verdict;
        self.count(verdict);
    }

    /// What becomes of a plain packet that the fast path did not follow. None, and nothing was changed, if
    /// nothing hangs where it came in.
    pub(super) fn plain<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Slot<F>,
        glance: Glance,
        moment: &Moment<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Option<Verdict> {
        let port = slot.port;
        let frame = slot.frame.as_mut()?;
        let ready = glance.ready(frame.bytes(), port, context.policy)?;
        let key = ready.packet.key(ready.realm);
        if let Some(found) = glance.session(&key, &context.shared.sessions) {
            // Opened since, by another packet of the batch: this one may go the fast path too.
            if glance.was_nowhere() && self.goes_fast(slot, &glance.at(found.index), moment) {
                return Some(slot.verdict);
            }
            return Some(self.forward_known(&mut slot.frame, port, &ready, &key, &found, context));
        }
        Some(match self.settled(frame, port, &ready, &key, context) {
            Ok(place) => {
                let glance = place.map_or(glance, |place| glance.at(place));
                self.pass_on(slot, &glance, &key, moment, context)
            }
            Err(verdict) => verdict,
        })
    }

    /// The fast path, apart from where nearly all go it.
    #[inline(never)]
    fn goes_fast(&mut self, slot: &mut Slot<F>, glance: &Glance, moment: &Moment<'_>) -> bool {
        fast(slot, glance, moment, &mut self.tally)
    }

    /// Does what the session of a packet says that was opened just now.
    #[inline(always)]
    fn pass_on<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Slot<F>,
        glance: &Glance,
        key: &FlowKey,
        moment: &Moment<'_>,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        // What opens a connection does not go on with it, which is all that the fast path follows.
        let may_be_fast = glance.packet().protocol() != Protocol::TCP;
        if may_be_fast && self.goes_fast(slot, glance, moment) {
            return slot.verdict;
        }
        let frame = slot.frame.as_ref();
        let ready = frame.and_then(|it| glance.ready(it.bytes(), slot.port, context.policy));
        let Some(ready) = ready else { return Verdict::Drop(DropReason::Truncated) };
        match glance.session(key, &context.shared.sessions) {
            Some(found) => self.apply(&mut slot.frame, slot.port, &ready, &found, context),
            // It was ended already, by who knows other rules.
            None => Verdict::Drop(DropReason::SessionTableFull),
        }
    }
}

/// The bit of [`Newcomers::marks`] that a packet has.
#[inline(always)]
const fn mark(glance: &Glance) -> u64 {
    1 << (glance.hash().0 % 64)
}

/// Takes back what a packet's session was given that does not come to be.
fn give_back<F, S>(packet: &Newcomer<'_, '_, F>, opening: &Opening, context: &Context<'_, F, S>) {
    opening.release(packet.key.protocol, context.shared, context.now);
    context.shared.leave_guest(&packet.key, opening.shown(&packet.plan));
}
