//! Up to 64 frames on their way through the pipeline, and what became of them.

use crate::flow::PortId;
use crate::verdict::{HostReason, Verdict};

/// The most frames a batch holds.
pub const BATCH_MAX: usize = 64;

/// A frame in a batch.
pub struct Slot<F> {
    /// The frame; none once the pipeline keeps it ([`Verdict::Hold`]).
    pub frame: Option<F>,
    /// Where it came in.
    pub port: PortId,
    /// What becomes of it; meaningless before the batch was processed.
    pub verdict: Verdict,
}

/// Frames in, verdicts out. Allocated once; [`Batch::clear`] keeps the memory.
pub struct Batch<F> {
    /// The frames received, at most [`BATCH_MAX`].
    pub slots: Vec<Slot<F>>,
    /// Frames to transmit beside them: made by natwerk itself, or released from waiting.
    pub extra: Vec<(PortId, F)>,
    /// Frames for the router's own kernel that were released from waiting.
    pub host: Vec<(PortId, HostReason, F)>,
}

impl<F> Batch<F> {
    /// An empty batch with room for everything one round of the pipeline can put into it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Vec::with_capacity(BATCH_MAX),
            extra: Vec::with_capacity(EXTRA_MAX),
            host: Vec::with_capacity(BATCH_MAX),
        }
    }

    /// Adds a received frame.
    pub fn push(&mut self, port: PortId, frame: F) {
        self.slots.push(Slot { frame: Some(frame), port, verdict: Verdict::Hold });
    }

    /// Whether a batch has no room for another received frame.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.slots.len() >= BATCH_MAX
    }

    /// Forgets everything; frames that are still inside are dropped.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.extra.clear();
        self.host.clear();
    }
}

impl<F> Default for Batch<F> {
    fn default() -> Self {
        Self::new()
    }
}

/// A jumbo datagram cut for a small link makes many frames; more than this in one batch are dropped.
const EXTRA_MAX: usize = 1024;
