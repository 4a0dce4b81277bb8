//! A chunk of memory that holds one frame, as the pipeline sees it.
//!
//! `io` implements these traits for frame memory shared with the kernel, tests and replays for
//! ordinary memory. The pipeline is generic over them and so knows no ring.

/// One frame, owned by whoever holds it.
pub trait FrameBuffer {
    /// The frame, from the Ethernet header on.
    fn bytes(&self) -> &[u8];
    /// The same, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Moves the start of the frame `count` bytes forward (the frame shrinks at its front).
    /// Returns false, and changes nothing, if the frame is shorter.
    #[must_use]
    fn trim_front(&mut self, count: usize) -> bool;
    /// Moves the start of the frame `count` bytes back into the headroom; the new bytes hold
    /// anything. Returns false, and changes nothing, if there is no room.
    #[must_use]
    fn grow_front(&mut self, count: usize) -> bool;
    /// Makes the frame `length` bytes long; new bytes at its end hold anything. Returns false, and
    /// changes nothing, if the chunk has no room for it.
    #[must_use]
    fn set_length(&mut self, length: usize) -> bool;
    /// Takes what lies behind the first `length` bytes off the frame, if there is any.
    fn truncate(&mut self, length: u16) {
        let length = usize::from(length);
        if length < self.bytes().len() {
            // A frame that shrinks has room.
            let _ = self.set_length(length);
        }
    }
}

/// Where frames come from and go back to. Never blocks, never allocates memory in the engine.
pub trait FrameSource {
    /// The frames of this source.
    type Frame: FrameBuffer;
    /// A frame of length zero with the usual headroom, or none when all are in use.
    fn allocate(&mut self) -> Option<Self::Frame>;
    /// Gives a frame back.
    fn release(&mut self, frame: Self::Frame);
}
