//! The first two looks at a group of frames: what each is, and where its session would be.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::flow::{PortId, Realm};
use crate::frame::FrameBuffer;
use crate::pipeline::batch::Slot;
use crate::pipeline::fast::{Glance, Moment};
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Look, Pipeline};
use crate::policy::{Attachment, Policy};
use crate::prefetch::prefetch_start;
use crate::verdict::{DropReason, Verdict};

/// How many frames go through the looks together. Frames begin at the same place of their chunks, so
/// the headers of few of them fit into the nearest cache at a time.
pub(super) const GROUP: usize = 8;

/// What the first look found out about a group of frames.
pub(super) struct Group {
    /// Of each frame; none of those that are not plain.
    pub(super) glances: [Glance; GROUP],
    /// How many frames there are.
    count: usize,
    /// Where what was found out about those that are not plain stands, in order.
    looks: Range<usize>,
}

impl Group {
    /// No frames.
    const EMPTY: Self = Self { glances: [Glance::NONE; GROUP], count: 0, looks: 0..0 };

    /// Forgets its frames.
    pub(super) fn clear(&mut self) {
        (self.count, self.looks) = (0, 0..0);
    }

    /// Of all that was found out, its own.
    pub(super) fn looks<'l>(&self, all: &'l [Look]) -> &'l [Look] {
        all.get(self.looks.clone()).unwrap_or_default()
    }

    /// Asks for the next hops of the frames' sessions, all of them before the first is read.
    #[inline(never)]
    pub(super) fn find_ways(&self, shared: &Shared) {
        for glance in self.glances.iter().take(self.count) {
            if glance.is_plain() {
                glance.find_way(&shared.sessions, &shared.next_hops);
            }
        }
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// The first look: what each frame is, and where in the index its session would be.
    #[inline(always)]
    pub(super) fn look_at<S>(
        &mut self,
        slots: &[Slot<F>],
        group: &mut Group,
        moment: &Moment<'_>,
        context: &Context<'_, F, S>,
    ) {
        let tally = &mut *self.tally;
        let mut has_others = false;
        for (slot, glance) in slots.iter().zip(&mut group.glances) {
            if let Some(frame) = &slot.frame {
                let (port, bytes) = (slot.port, frame.bytes());
                tally.received(port, bytes.len());
                if !is_refused(slot) && glance.look(bytes, port, moment) {
                    continue;
                }
            }
            glance.forget();
            has_others = true;
        }
        group.count = slots.len();
        let first = self.looks.len();
        // Those later, so that there is no call in the loop above, which would keep registers for it.
        if has_others && look_closer(slots, group, moment, context.policy) {
            self.look_elsewhere(slots, group, context);
        }
        group.looks = first..self.looks.len();
    }

    /// The first look at the frames that the fast path is not for.
    #[cold]
    #[inline(never)]
    fn look_elsewhere<S>(&mut self, slots: &[Slot<F>], group: &Group, context: &Context<'_, F, S>) {
        let Context { shared, policy, .. } = context;
        let others = slots.iter().zip(&group.glances).filter(|(_, glance)| !glance.is_plain());
        for (slot, _) in others {
            let look = self.look(slot, policy).unwrap_or(Look::Nowhere(DropReason::Truncated));
            match &look {
                Look::Ipv4(ready) => shared.sessions.prefetch_index(ready.hash),
                Look::Ipv6(ready) => shared.sessions_ipv6.prefetch_index(ready.hash),
                Look::Nowhere(_) | Look::Refused(_) => {}
            }
            self.looks.push(look);
        }
    }

    /// The second look: asks for the entries of the frames' sessions.
    #[inline(always)]
    pub(super) fn find_places(&self, group: &mut Group, moment: &Moment<'_>, shared: &Shared) {
        let sessions = moment.sessions;
        for glance in group.glances.get_mut(..group.count).unwrap_or_default() {
            glance.find_place(sessions);
        }
        if !group.looks.is_empty() {
            self.find_places_elsewhere(group.looks.clone(), shared);
        }
    }

    #[cold]
    #[inline(never)]
    fn find_places_elsewhere(&self, looks: Range<usize>, shared: &Shared) {
        for look in self.looks.get(looks).into_iter().flatten() {
            match look {
                Look::Ipv4(ready) => shared.sessions.prefetch_entry(ready.hash),
                Look::Ipv6(ready) => shared.sessions_ipv6.prefetch_entry(ready.hash),
                Look::Nowhere(_) | Look::Refused(_) => {}
            }
        }
    }

    /// A look at a frame that the fast path is not for; none if there is no frame.
    #[cold]
    pub(super) fn look(&self, slot: &Slot<F>, policy: &Policy) -> Option<Look> {
        let frame = slot.frame.as_ref()?;
        if let Verdict::Drop(reason) = slot.verdict {
            // What was around it is wrong.
            return Some(Look::Refused(reason));
        }
        Some(match self.look_ipv4(frame, slot.port, policy) {
            Ok(ready) => Look::Ipv4(ready),
            Err(DropReason::NotForwardable) => match self.look_ipv6(frame, slot.port, policy) {
                Some(Ok(ready)) => Look::Ipv6(ready),
                Some(Err(reason)) => Look::Refused(reason),
                None => Look::Nowhere(DropReason::NotForwardable),
            },
            Err(reason) => Look::Nowhere(reason),
        })
    }
}

/// The first look at those that were not untagged plain packets. Returns whether there are some that are not
/// plain at all.
#[inline(never)]
fn look_closer<F: FrameBuffer>(
    slots: &[Slot<F>],
    group: &mut Group,
    moment: &Moment<'_>,
    policy: &Policy,
) -> bool {
    let mut has_others = false;
    for (slot, glance) in slots.iter().zip(&mut group.glances) {
        if glance.is_plain() {
            continue;
        }
        let frame = slot.frame.as_ref().filter(|_| !is_refused(slot));
        has_others |=
            !frame.is_some_and(|it| glance.look_closer(it.bytes(), slot.port, moment, policy));
    }
    has_others
}

/// Whether a frame was refused already: it may look like anything.
#[inline(always)]
const fn is_refused<F>(slot: &Slot<F>) -> bool {
    matches!(slot.verdict, Verdict::Drop(_))
}

/// What hangs where a packet from `source` came in, and its realm; none where nothing does.
#[inline]
pub(super) fn attached(
    policy: &Policy,
    port: PortId,
    vlan: u16,
    source: Ipv4Addr,
) -> Option<(Realm, Attachment)> {
    let attachment = policy.attachment_of(port, vlan, source)?;
    let realm = match attachment {
        Attachment::Public => Realm::External,
        Attachment::Guest(network) => Realm::Internal(policy.network(network).realm),
    };
    Some((realm, attachment))
}

/// The slots of the group with this number; none past the end.
#[inline(always)]
pub(super) fn group<F>(slots: &[Slot<F>], number: usize) -> &[Slot<F>] {
    let rest = slots.get(number.wrapping_mul(GROUP)..).unwrap_or_default();
    rest.get(..GROUP).unwrap_or(rest)
}

/// The same, to be changed.
#[inline(always)]
pub(super) fn group_mut<F>(slots: &mut [Slot<F>], number: usize) -> &mut [Slot<F>] {
    let rest = slots.get_mut(number.wrapping_mul(GROUP)..).unwrap_or_default();
    let count = rest.len().min(GROUP);
    rest.split_at_mut(count).0
}

/// How many groups so many slots make.
#[inline(always)]
pub(super) const fn groups(slots: usize) -> usize {
    slots.div_ceil(GROUP)
}

/// Asks for the lines of a group's headers.
#[inline(always)]
pub(super) fn prefetch_headers<F: FrameBuffer>(slots: &[Slot<F>]) {
    let prefetch = |slot: &Slot<F>| {
        if let Some(frame) = &slot.frame {
            prefetch_start(frame.bytes());
        }
    };
    // Nearly every group is a whole one, and needs no loop.
    if let Ok(slots) = <&[Slot<F>; GROUP]>::try_from(slots) {
        let _ = slots.each_ref().map(prefetch);
    } else {
        slots.iter().for_each(prefetch);
    }
}
