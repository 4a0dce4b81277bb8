//! Frames, and the pool of frame memory that one worker owns.
//!
//! Every chunk of a pool is in exactly one of three places: free, in hand (there is a [`Frame`] of
//! it), or lent (it lies in a ring, for the kernel to read or write). A dropped `Frame` is free
//! again, whoever drops it and why, so no path can lose one; and the memory lives as long as the
//! last frame of it. Free chunks are reused last-in first-out, which keeps the memory in use small
//! and near.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

use memmap2::MmapMut;

use crate::frame::{FrameBuffer, FrameSource};

/// Bytes in front of a frame's usual start: what the kernel keeps in front of received frames, and as
/// much as two tags take. A frame then has its headers in one cache line up to TCP's checksum, with a
/// tag too, and gets its tags within it: a line before, which nobody asked for, would have to come from
/// memory.
pub const HEADROOM: usize = KERNEL_HEADROOM + 8;
/// What the kernel keeps in front of received frames (`XDP_PACKET_HEADROOM`).
pub const KERNEL_HEADROOM: usize = 256;

/// What keeps frame memory mapped. Held, never looked at.
pub(super) enum Memory {
    /// Ordinary memory.
    Mapped(#[expect(dead_code, reason = "held, never looked at")] MmapMut),
    /// Memory that is registered with the kernel.
    #[cfg(feature = "af-xdp")]
    Umem(#[expect(dead_code, reason = "held, never looked at")] xsk_rs::Umem),
}

/// The frame memory of one worker. Cheap to clone: every clone is the same pool.
#[derive(Clone)]
pub struct FramePool {
    chunks: Rc<Chunks>,
}

/// The chunks of a pool and where each one is.
struct Chunks {
    base: NonNull<u8>,
    chunk_size: usize,
    free: RefCell<Vec<u32>>,
    lent: Box<[Cell<bool>]>,
    lent_count: Cell<usize>,
    _memory: Memory,
}

/// The sole right to use one chunk of frame memory.
///
/// Not `Clone`: a chunk belongs to whoever holds its `Frame`, or to the kernel while it is lent.
/// That ownership is what makes reading and writing it safe.
pub struct Frame {
    chunks: Rc<Chunks>,
    start: NonNull<u8>,
    length: u32,
    index: u32,
}

/// Where the chunks of a pool are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Whereabouts {
    /// Free.
    pub free: usize,
    /// Held as a [`Frame`] by somebody.
    pub in_hand: usize,
    /// In a ring.
    pub lent: usize,
}

impl FramePool {
    /// A pool of `count` chunks of `chunk_size` bytes (a power of two, more than [`HEADROOM`]) in
    /// ordinary memory.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn in_memory(count: u32, chunk_size: usize) -> std::io::Result<Self> {
        assert!(chunk_size.is_power_of_two(), "chunks are found by their number");
        let length = chunk_size * usize::try_from(count).unwrap_or(usize::MAX);
        let mut memory = MmapMut::map_anon(length.max(1))?;
        // Huge pages are a gift: without them everything works the same.
        let _ = memory.advise(memmap2::Advice::HugePage);
        let base = NonNull::from(&mut memory[..]).cast();
        // SAFETY: the mapping was made here, holds `count` chunks, is reached through this pool
        // alone from now on, and stays as long as the pool holds `memory`.
        Ok(unsafe { Self::new(base, chunk_size, count, Memory::Mapped(memory)) })
    }

    /// A pool over `memory`, which starts at `base`.
    ///
    /// # Safety
    /// `base` must be the start of `count * chunk_size` bytes that are mapped, zeroed or otherwise
    /// initialised, for as long as `memory` is held, and that nobody else reads or writes but the
    /// kernel, and it only those chunks that were lent to it.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        chunk_size: usize,
        count: u32,
        memory: Memory,
    ) -> Self {
        assert!(chunk_size > HEADROOM, "a chunk must have room behind its headroom");
        let chunks = Chunks {
            base,
            chunk_size,
            // The first chunk is the last in the list, so it is the first to be used.
            free: RefCell::new((0..count).rev().collect()),
            lent: (0..count).map(|_| Cell::new(false)).collect(),
            lent_count: Cell::new(0),
            _memory: memory,
        };
        Self { chunks: Rc::new(chunks) }
    }

    /// How many chunks there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.chunks.lent.len()
    }

    /// The longest frame that a chunk holds behind the usual headroom.
    #[must_use]
    pub fn frame_length_max(&self) -> usize {
        self.chunks.chunk_size - HEADROOM
    }

    /// Where the chunks are now.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        let free = self.chunks.free.borrow().len();
        let lent = self.chunks.lent_count.get();
        Whereabouts { free, in_hand: self.count() - free - lent, lent }
    }

    #[cfg(any(test, feature = "af-xdp"))]
    /// Lends a free chunk to the kernel, to receive into. Returns its address: the offset of the
    /// usual start of a frame in it.
    pub(super) fn lend_free(&self) -> Option<u64> {
        let index = self.chunks.free.borrow_mut().pop()?;
        self.chunks.lend(index);
        Some(self.chunks.offset(index) + HEADROOM as u64)
    }

    #[cfg(any(test, feature = "af-xdp"))]
    /// Takes back a chunk that the kernel is done with, by any address in it. Addresses that were
    /// never lent are ignored: the kernel's word is checked, not trusted.
    pub(super) fn take_back(&self, address: u64) -> bool {
        let Some(index) = self.chunks.reclaim(address) else { return false };
        self.chunks.free.borrow_mut().push(index);
        true
    }

    #[cfg(any(test, feature = "af-xdp"))]
    /// The frame of `length` bytes that the kernel put at `address` of a lent chunk. None, and
    /// nothing changes, if the chunk was not lent or the frame does not lie inside it.
    pub(super) fn receive(&self, address: u64, length: u32) -> Option<Frame> {
        let within = usize::try_from(address).ok()? & (self.chunks.chunk_size - 1);
        if within + usize::try_from(length).ok()? > self.chunks.chunk_size {
            return None;
        }
        let index = self.chunks.reclaim(address)?;
        // SAFETY: `within` is less than a chunk, and the chunk at `index` is part of the memory.
        let start = unsafe { self.chunks.start(index).add(within) };
        Some(Frame { chunks: Rc::clone(&self.chunks), start, length, index })
    }
}

impl FrameSource for FramePool {
    type Frame = Frame;

    fn allocate(&mut self) -> Option<Frame> {
        let index = self.chunks.free.borrow_mut().pop()?;
        // SAFETY: a chunk is larger than its headroom.
        let start = unsafe { self.chunks.start(index).add(HEADROOM) };
        Some(Frame { chunks: Rc::clone(&self.chunks), start, length: 0, index })
    }

    fn release(&mut self, frame: Frame) {
        drop(frame);
    }
}

impl Chunks {
    /// Where the chunk at `index`, which is one of ours, starts.
    fn start(&self, index: u32) -> NonNull<u8> {
        // SAFETY: indexes come from the free list or from `reclaim`, so they are below the count,
        // and the memory holds that many chunks.
        unsafe { self.base.add(index as usize * self.chunk_size) }
    }

    #[cfg(any(test, feature = "af-xdp"))]
    fn offset(&self, index: u32) -> u64 {
        u64::from(index) * self.chunk_size as u64
    }

    #[cfg(any(test, feature = "af-xdp"))]
    fn lend(&self, index: u32) {
        self.lent[index as usize].set(true);
        self.lent_count.set(self.lent_count.get() + 1);
    }

    #[cfg(any(test, feature = "af-xdp"))]
    /// The chunk that `address` is in, lent until now.
    fn reclaim(&self, address: u64) -> Option<u32> {
        let index = usize::try_from(address).ok()? / self.chunk_size;
        if !self.lent.get(index)?.replace(false) {
            return None;
        }
        self.lent_count.set(self.lent_count.get() - 1);
        u32::try_from(index).ok()
    }
}

impl Frame {
    #[cfg(any(test, feature = "af-xdp"))]
    /// Lends the chunk to the kernel, to transmit from. Returns the frame's address and length.
    pub(super) fn lend(self) -> (u64, u32) {
        let within = self.start.as_ptr().addr() - self.chunks.start(self.index).as_ptr().addr();
        let (address, length) = (self.chunks.offset(self.index) + within as u64, self.length);
        self.chunks.lend(self.index);
        // The chunk is the kernel's now: dropping must not free it, but the count of frames that
        // keep the memory must go down all the same.
        let frame = std::mem::ManuallyDrop::new(self);
        // SAFETY: `frame` is never used again, so its `Rc` is moved out, not copied.
        drop(unsafe { std::ptr::read(&raw const frame.chunks) });
        (address, length)
    }

    /// Bytes between the start of the chunk and the start of the frame.
    fn room_in_front(&self) -> usize {
        self.start.as_ptr().addr() - self.chunks.start(self.index).as_ptr().addr()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.chunks.free.borrow_mut().push(self.index);
    }
}

impl FrameBuffer for Frame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: these bytes are inside the chunk (whoever set start and length saw to it), the
        // memory is mapped and initialised as long as `chunks` lives, and the chunk is ours alone;
        // the borrow of `self` keeps it so.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length as usize) }
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let Some(length) = u32::try_from(count).ok().and_then(|n| self.length.checked_sub(n))
        else {
            return false;
        };
        // SAFETY: the frame is at least `count` bytes long, so the new start is in the chunk or
        // one past its end.
        self.start = unsafe { self.start.add(count) };
        self.length = length;
        true
    }

    fn grow_front(&mut self, count: usize) -> bool {
        if count > self.room_in_front() {
            return false;
        }
        // SAFETY: there are that many bytes between the start of the chunk and the frame.
        self.start = unsafe { self.start.sub(count) };
        // No more than a chunk, whose size fits.
        self.length += count as u32;
        true
    }

    #[inline]
    fn set_length(&mut self, length: usize) -> bool {
        let room = self.chunks.chunk_size - self.room_in_front();
        match u32::try_from(length) {
            Ok(wanted) if length <= room => {
                self.length = wanted;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn truncate(&mut self, length: u16) {
        self.length = self.length.min(length.into());
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("index", &self.index).field("length", &self.length).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(count: u32) -> FramePool {
        FramePool::in_memory(count, 2048).expect("memory")
    }

    #[test]
    fn the_chunk_freed_last_is_used_first() {
        let mut pool = pool(4);
        let first = pool.allocate().expect("a frame");
        let second = pool.allocate().expect("a frame");
        let index = first.index;
        drop(second);
        drop(first);
        assert_eq!(pool.allocate().expect("a frame").index, index);
    }

    #[test]
    fn an_empty_pool_gives_nothing_and_recovers() {
        let mut pool = pool(1);
        let frame = pool.allocate().expect("a frame");
        assert!(pool.allocate().is_none());
        pool.release(frame);
        assert!(pool.allocate().is_some());
    }

    #[test]
    fn the_memory_outlives_the_pool() {
        let mut pool = pool(1);
        let mut frame = pool.allocate().expect("a frame");
        drop(pool);
        assert!(frame.set_length(100));
        frame.bytes_mut().fill(7);
        assert_eq!(frame.bytes(), [7; 100]);
    }

    #[test]
    fn only_what_was_lent_can_come_back() {
        let pool = pool(2);
        let address = pool.lend_free().expect("a chunk");
        assert!(pool.receive(address + 2048, 60).is_none(), "the other chunk was not lent");
        assert!(pool.receive(1 << 40, 60).is_none(), "no chunk is there");
        assert!(pool.receive(address, 2048).is_none(), "longer than the chunk");
        let frame = pool.receive(address, 60).expect("the frame");
        assert!(pool.receive(address, 60).is_none(), "it came back already");
        assert!(!pool.take_back(address), "it came back already");
        assert_eq!(pool.whereabouts(), Whereabouts { free: 1, in_hand: 1, lent: 0 });
        drop(frame);
        assert_eq!(pool.whereabouts(), Whereabouts { free: 2, in_hand: 0, lent: 0 });
    }

    #[test]
    fn a_lent_frame_says_where_it_starts() {
        let mut pool = pool(2);
        let _first = pool.allocate().expect("a frame");
        let mut frame = pool.allocate().expect("a frame");
        assert!(frame.set_length(100) && frame.grow_front(4));
        let index = u64::from(frame.index);
        assert_eq!(frame.lend(), (index * 2048 + HEADROOM as u64 - 4, 104));
        assert!(pool.take_back(index * 2048 + 252));
    }

    proptest! {
        #[test]
        fn a_frame_stays_inside_its_chunk(steps in prop::collection::vec((0u8..3, 0usize..5000), 0..40)) {
            let mut pool = pool(3);
            let _below = pool.allocate();
            let mut frame = pool.allocate().expect("a frame");
            let (mut start, mut length) = (HEADROOM, 0);
            for (step, count) in steps {
                match step {
                    0 => if frame.trim_front(count) { start += count; length -= count },
                    1 => if frame.grow_front(count) { start -= count; length += count },
                    _ => if frame.set_length(count) { length = count },
                }
                prop_assert!(start + length <= 2048);
                prop_assert_eq!(frame.bytes().len(), length);
                prop_assert_eq!(frame.room_in_front(), start);
                frame.bytes_mut().fill(1);
            }
        }

        #[test]
        fn every_chunk_is_in_one_place(steps in prop::collection::vec(0u8..5, 0..200)) {
            let mut pool = pool(8);
            let mut in_hand = Vec::new();
            let mut lent = Vec::new();
            for step in steps {
                match step {
                    0 => in_hand.extend(pool.allocate()),
                    1 => drop(in_hand.pop()),
                    2 => lent.extend(pool.lend_free()),
                    3 => if let Some(frame) = in_hand.pop() { lent.push(Frame::lend(frame).0) },
                    _ => if let Some(address) = lent.pop() {
                        in_hand.extend(pool.receive(address, 60));
                    },
                }
                let expected = Whereabouts {
                    free: 8 - in_hand.len() - lent.len(), in_hand: in_hand.len(), lent: lent.len(),
                };
                prop_assert_eq!(pool.whereabouts(), expected);
            }
        }
    }
}
