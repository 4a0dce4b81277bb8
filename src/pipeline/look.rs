//! The first two looks at a frame: what it is, and where its session would be.

use std::net::Ipv4Addr;

use crate::flow::{PortId, Realm};
use crate::frame::FrameBuffer;
use crate::pipeline::batch::Slot;
use crate::pipeline::fast::Glance;
use crate::pipeline::shared::Shared;
use crate::pipeline::{Context, Look, Pipeline};
use crate::policy::{Attachment, Policy};
use crate::prefetch::prefetch;
use crate::verdict::{DropReason, Verdict};

impl<F: FrameBuffer> Pipeline<F> {
    /// The first look at a frame: what it is, and where in the index its session would be.
    #[inline(always)]
    pub(super) fn look_at<S>(&mut self, slot: &Slot<F>, context: &Context<'_, F, S>) {
        let Context { shared, policy, .. } = context;
        let glance = slot.frame.as_ref().and_then(|frame| {
            let bytes = frame.bytes();
            self.tally.received(slot.port, bytes.len());
            Glance::new(bytes, slot.port, policy, &shared.next_hops, &shared.sessions)
        });
        if glance.is_none() {
            let look = self.look(slot, policy).unwrap_or(Look::Nowhere(DropReason::Truncated));
            match &look {
                Look::Ipv4(ready) => shared.sessions.prefetch_index(ready.hash),
                Look::Ipv6(ready) => shared.sessions_ipv6.prefetch_index(ready.hash),
                Look::Nowhere(_) | Look::Refused(_) => {}
            }
            self.looks.push(look);
        }
        self.glances.push(glance.unwrap_or_default());
    }

    /// The second look at a frame that the fast path is not for: asks for its session's entry.
    #[cold]
    pub(super) fn find_place(&self, place: usize, shared: &Shared) {
        match self.looks.get(place) {
            Some(Look::Ipv4(ready)) => shared.sessions.prefetch_entry(ready.hash),
            Some(Look::Ipv6(ready)) => shared.sessions_ipv6.prefetch_entry(ready.hash),
            Some(Look::Nowhere(_) | Look::Refused(_)) | None => {}
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

/// Asks for the line of a frame's headers.
#[inline]
pub(super) fn prefetch_header<F: FrameBuffer>(slot: &Slot<F>) {
    if let Some(header) = slot.frame.as_ref().and_then(|frame| frame.bytes().first()) {
        prefetch(header);
    }
}
