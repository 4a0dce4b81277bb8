//! Ports in ordinary memory: for tests, benches and replays.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use crate::frame::{FrameBuffer, FrameSource};
use crate::io::Port;
use crate::io::frame::{Frame, FramePool};

/// A port whose frames come from a queue and go to another.
pub struct MemoryPort {
    pool: FramePool,
    received: VecDeque<Frame>,
    transmitted: VecDeque<Frame>,
    room: usize,
}

impl MemoryPort {
    /// A port over `pool` that holds at most `room` transmitted frames at a time.
    #[must_use]
    pub fn new(pool: FramePool, room: usize) -> Self {
        Self {
            pool,
            received: VecDeque::with_capacity(room),
            transmitted: VecDeque::with_capacity(room),
            room,
        }
    }

    /// Makes a frame of `bytes` arrive. Returns false if no chunk is free or it is too long.
    pub fn arrive(&mut self, bytes: &[u8]) -> bool {
        let Some(frame) = copied(&mut self.pool, bytes) else { return false };
        self.received.push_back(frame);
        true
    }

    /// The oldest frame that was transmitted.
    pub fn leave(&mut self) -> Option<Frame> {
        self.transmitted.pop_front()
    }

    /// How many transmitted frames wait to be taken.
    #[must_use]
    pub fn transmitted(&self) -> usize {
        self.transmitted.len()
    }
}

/// A frame of `pool` that holds a copy of `bytes`; none if there is no room for it.
pub fn copied<S: FrameSource>(pool: &mut S, bytes: &[u8]) -> Option<S::Frame> {
    let mut frame = pool.allocate()?;
    if !frame.set_length(bytes.len()) {
        pool.release(frame);
        return None;
    }
    frame.bytes_mut().copy_from_slice(bytes);
    Some(frame)
}

impl Port for MemoryPort {
    type Frame = Frame;

    fn receive(&mut self, frames: &mut Vec<Frame>, count: usize) -> usize {
        let count = count.min(self.received.len());
        frames.extend(self.received.drain(..count));
        count
    }

    fn transmit(&mut self, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len().min(self.room.saturating_sub(self.transmitted.len()));
        self.transmitted.extend(frames.drain(..count));
        count
    }

    fn kick(&mut self) {}

    fn refill(&mut self) {}

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::frame::HEADROOM;

    #[test]
    fn a_full_port_takes_what_fits_and_leaves_the_rest_in_order() {
        let mut pool = FramePool::in_memory(8, 2048).expect("memory");
        let mut port = MemoryPort::new(pool.clone(), 2);
        let mut frames: Vec<_> =
            (1u8..=3).filter_map(|number| copied(&mut pool, &[number; 60])).collect();
        assert_eq!(port.transmit(&mut frames), 2);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].bytes()[0], 3);
        assert_eq!(port.leave().expect("a frame").bytes()[0], 1);
        assert_eq!(port.transmit(&mut frames), 1);
    }

    #[test]
    fn what_is_too_long_for_a_chunk_does_not_arrive_and_costs_nothing() {
        let pool = FramePool::in_memory(1, 2048).expect("memory");
        let mut port = MemoryPort::new(pool.clone(), 2);
        assert!(!port.arrive(&[0; 2048 - HEADROOM + 1]));
        assert_eq!(pool.whereabouts().free, 1);
        assert!(port.arrive(&[0; 2048 - HEADROOM]));
    }
}
