//! One AF_XDP socket as a [`Port`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use crate::io::frame::{Frame, FramePool};
use crate::io::xdp::descriptor::Layout;
use crate::io::{Losses, Port};

/// An AF_XDP socket, bound to one queue of one device, with its four rings.
pub struct XdpPort {
    pool: FramePool,
    rings: Rings,
    layout: Layout,
    /// Descriptors on their way between a ring and the pool.
    descriptors: Box<[FrameDesc]>,
    /// Chunks that may lie in the fill ring.
    fill_max: u32,
    /// Chunks in the fill and receive rings.
    filled: u32,
    /// How often the kernel found no chunk before any was offered.
    empty_before: u64,
}

/// The rings of a bound socket; may be sent to the thread that will use them.
pub(super) struct Rings {
    pub receive: RxQueue,
    pub transmit: TxQueue,
    pub fill: FillQueue,
    pub completion: CompQueue,
    /// Entries of the transmit ring.
    pub transmit_size: u32,
    /// Frames that one wakeup sends.
    pub frames_per_kick: u32,
}

impl XdpPort {
    /// A port over `rings`, whose frame memory is `pool`. Keeps at most `fill_max` chunks ready to
    /// receive into, from now on.
    pub(super) fn new(pool: FramePool, rings: Rings, layout: Layout, fill_max: u32) -> Self {
        let descriptors = vec![FrameDesc::default(); RING_BATCH].into();
        let mut port =
            Self { pool, rings, layout, descriptors, fill_max, filled: 0, empty_before: 0 };
        port.fill();
        // Drivers look for chunks from the moment a socket is bound, some of them all the time.
        port.empty_before = port.losses().fill_ring_empty;
        port
    }

    /// Takes back the chunks of frames that have left.
    fn complete(&mut self) {
        // The ring holds no more than this many batches, so this ends.
        for _ in 0..=self.rings.transmit_size / RING_BATCH as u32 {
            // SAFETY: the descriptors that come back are of this socket's memory, and are only
            // read here.
            let count = unsafe { self.rings.completion.consume(&mut self.descriptors) };
            for descriptor in &self.descriptors[..count] {
                self.pool.take_back(descriptor.addr() as u64);
            }
            if count < RING_BATCH {
                break;
            }
        }
    }

    /// Offers free chunks to receive into.
    fn fill(&mut self) {
        let mut offered = false;
        while self.filled < self.fill_max {
            let wanted = (self.fill_max - self.filled).min(RING_BATCH as u32);
            let room = self.rings.fill.nb_free(wanted).min(wanted);
            let mut count = 0;
            while count < room as usize
                && let Some(address) = self.pool.lend_free()
            {
                self.descriptors[count] = self.layout.descriptor(address, 0);
                count += 1;
            }
            if count == 0 {
                break;
            }
            let ready = &self.descriptors[..count];
            // SAFETY: the chunks were lent to the kernel just now, so nobody else uses them, and
            // they are of this socket's memory.
            let taken = unsafe { self.rings.fill.produce(ready) };
            for descriptor in &ready[taken..] {
                self.pool.take_back(descriptor.addr() as u64);
            }
            // No more than a batch.
            self.filled += taken as u32;
            offered |= taken > 0;
            if taken < count {
                break;
            }
        }
        if offered && self.rings.fill.needs_wakeup() {
            // What it cannot do now it does at the next frame.
            let _ = self.rings.fill.wakeup(self.rings.receive.fd_mut(), 0);
        }
    }
}

impl Port for XdpPort {
    type Frame = Frame;

    fn receive(&mut self, frames: &mut Vec<Frame>, count: usize) -> usize {
        let most = count.min(RING_BATCH);
        // SAFETY: the descriptors that come back are of this socket's memory, and are only read.
        let count = unsafe { self.rings.receive.consume(&mut self.descriptors[..most]) };
        // No more than a batch.
        self.filled = self.filled.saturating_sub(count as u32);
        for descriptor in &self.descriptors[..count] {
            // A length that does not fit is longer than any chunk, so `receive` refuses it.
            let length = u32::try_from(descriptor.lengths().data()).unwrap_or(u32::MAX);
            let address = descriptor.addr() as u64;
            match self.pool.receive(address, length) {
                Some(frame) => frames.push(frame),
                // Not a frame that can be: the chunk at least is ours again.
                None => drop(self.pool.take_back(address)),
            }
        }
        count
    }

    fn transmit(&mut self, frames: &mut Vec<Frame>) -> usize {
        let mut sent = 0;
        while !frames.is_empty() {
            // A batch at most, so it fits.
            let wanted = frames.len().min(RING_BATCH) as u32;
            let count = self.rings.transmit.nb_free(wanted).min(wanted) as usize;
            for (place, frame) in self.descriptors.iter_mut().zip(frames.drain(..count)) {
                let (address, length) = frame.lend();
                *place = self.layout.descriptor(address, length);
            }
            // SAFETY: the chunks were lent to the kernel just now, so nobody else uses them, and
            // whoever made this port saw to it that its pool is of this socket's memory.
            let taken = unsafe { self.rings.transmit.produce(&self.descriptors[..count]) };
            for descriptor in &self.descriptors[taken..count] {
                self.pool.take_back(descriptor.addr() as u64);
            }
            sent += taken;
            if count < wanted as usize || taken < count {
                break;
            }
        }
        sent
    }

    fn kick(&mut self) {
        let waiting = self.rings.transmit_size - self.rings.transmit.nb_free_exact();
        if waiting == 0 || !self.rings.transmit.needs_wakeup() {
            return;
        }
        // In copy mode a wakeup sends a limited number of frames.
        for _ in 0..waiting.div_ceil(self.rings.frames_per_kick) {
            // "Later" and "the link is down" are no errors here: the frames stay in the ring, and
            // when it is full, others are dropped and counted.
            if self.rings.transmit.wakeup().is_err() {
                break;
            }
        }
    }

    fn refill(&mut self) {
        self.complete();
        self.fill();
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let descriptor = self.rings.receive.fd().as_raw_fd();
        // SAFETY: the socket stays open as long as its rings, which `self` owns.
        Some(unsafe { BorrowedFd::borrow_raw(descriptor) })
    }

    fn losses(&self) -> Losses {
        let statistics = self.rings.receive.fd().xdp_statistics();
        statistics.map_or_else(
            |_: io::Error| Losses::default(),
            |told| Losses {
                receive_ring_full: told.rx_ring_full(),
                fill_ring_empty: told.rx_fill_ring_empty_descs().saturating_sub(self.empty_before),
                receive_dropped: told.rx_dropped(),
                transmit_invalid: told.tx_invalid_descs(),
            },
        )
    }
}

/// Descriptors that go to or come from a ring at a time.
const RING_BATCH: usize = 64;
