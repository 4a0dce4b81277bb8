//! The first packet of a session, if it is plain: what the fast path's looks found out serves to open the
//! session, and the fast path itself then does what the session says.

use crate::frame::{FrameBuffer, FrameSource};
use crate::pipeline::batch::Slot;
use crate::pipeline::fast::{Glance, Moment, fast};
use crate::pipeline::{Context, Pipeline};
use crate::verdict::{DropReason, Verdict};

impl<F: FrameBuffer> Pipeline<F> {
    /// What becomes of a plain packet that has no session yet. None, and nothing was changed, if it has
    /// one that the fast path did not follow.
    pub(super) fn first<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Slot<F>,
        glance: Glance,
        moment: &Moment,
        context: &mut Context<'_, F, S>,
    ) -> Option<Verdict> {
        if glance.has_session(&context.shared.sessions) {
            return None;
        }
        let port = slot.port;
        let frame = slot.frame.as_mut()?;
        let ready = glance.ready(frame.bytes(), port, context.policy)?;
        let key = ready.packet.key(ready.realm);
        let place = match self.settled(frame, port, &ready, &key, context) {
            Ok(place) => place,
            Err(verdict) => return Some(verdict),
        };
        let glance = place.map_or(glance, |place| glance.at(place));
        if fast(slot, &glance, moment, &mut self.tally, context.shared) {
            return Some(slot.verdict);
        }
        let found = context.shared.sessions.find(&key, ready.hash);
        Some(match found {
            Some(found) => self.apply(&mut slot.frame, port, &ready, &found, context),
            // It was ended already, by who knows other rules.
            None => Verdict::Drop(DropReason::SessionTableFull),
        })
    }
}
