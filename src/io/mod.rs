//! Where frames come from and go to: rings, captures, ordinary memory.
//!
//! `io` does not know what a packet is. It hands out [`frame::Frame`]s, each the sole right to one
//! chunk of frame memory, and takes them back; what happens in between is not its business.

pub mod connecting;
pub mod frame;
#[cfg(feature = "af-xdp")]
pub mod generator;
#[cfg(feature = "af-xdp")]
pub mod load;
pub mod memory;
pub mod packet;
pub mod pcap;
pub mod tap;
pub mod wait;
#[cfg(feature = "af-xdp")]
pub mod xdp;

use std::os::fd::BorrowedFd;

use crate::flow::PortId;
use crate::frame::FrameBuffer;
use crate::io::frame::FramePool;

/// One queue of one interface, as a worker sees it. Never blocks.
pub trait Port {
    /// The frames it carries.
    type Frame: FrameBuffer;

    /// Appends at most `count` received frames to `frames`; returns how many.
    fn receive(&mut self, frames: &mut Vec<Self::Frame>, count: usize) -> usize;

    /// Takes frames from the front of `frames` as far as there is room, and leaves the others in
    /// their order. Returns how many it took. They leave with the next [`Self::kick`].
    fn transmit(&mut self, frames: &mut Vec<Self::Frame>) -> usize;

    /// Makes the other side look at what was transmitted, if it waits to be told.
    fn kick(&mut self);

    /// Takes back the memory of frames that have left and offers free memory for those to come.
    fn refill(&mut self);

    /// What to wait on until a frame comes; none if there is nothing to wait on.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Frames that were lost before they got here, as far as the other side tells. May be slow.
    fn losses(&self) -> Losses {
        Losses::default()
    }
}

/// The frame memory and ports of one worker.
pub struct Lane<P> {
    /// Where its frames come from.
    pub pool: FramePool,
    /// Its ports. The first one of an interface is the one to transmit on.
    pub ports: Vec<LanePort<P>>,
}

/// A port of a lane.
pub struct LanePort<P> {
    /// The interface.
    pub port: PortId,
    /// The queue.
    pub queue: u32,
    /// What frames come through.
    pub socket: P,
}

/// Frames that a port lost without anybody seeing them, since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Losses {
    /// The receive ring was full.
    pub receive_ring_full: u64,
    /// No memory was offered to receive into.
    pub fill_ring_empty: u64,
    /// Other reasons, such as being longer than a chunk.
    pub receive_dropped: u64,
    /// Descriptors of ours that were refused.
    pub transmit_invalid: u64,
}
