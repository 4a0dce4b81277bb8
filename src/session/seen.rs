//! What one direction of a session saw: words 5 to 7 of its entry, plain loads and stores of the one
//! worker that receives it (see [`crate::session::entry`]).

use std::sync::atomic::Ordering;

use crate::session::entry::Entry;
use crate::session::shape::Shape;
use crate::session::table::DirectionView;
use crate::session::tcp::{self, TcpState};
use crate::time::Coarse;

/// When a packet last came, and the highest sequence number plus one: word 5.
#[derive(Clone, Copy)]
pub struct Seen(u64);

impl Seen {
    /// When a packet last came.
    #[inline]
    #[must_use]
    pub const fn last(self) -> Coarse {
        Coarse::from_raw((self.0 >> 32) as u32)
    }
}

impl<A: Shape> Entry<A> {
    /// What was seen last, to be given to who counts the next packet.
    #[inline]
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen(self.word(5).load(Ordering::Relaxed))
    }

    /// Counts a packet of `bytes` bytes that came at `now`. Only the direction's worker calls it.
    #[inline]
    pub fn touch(&self, Seen(seen): Seen, bytes: u16, now: Coarse) {
        // The clock moves every 128 ms, so most packets of a busy session leave this word alone.
        if seen >> 32 != u64::from(now.as_raw()) {
            self.word(5)
                .store(u64::from(now.as_raw()) << 32 | seen & 0xffff_ffff, Ordering::Relaxed);
        }
        let packets = self.word(6).load(Ordering::Relaxed);
        self.word(6).store(packets.wrapping_add(PACKET), Ordering::Relaxed);
        let total = self.word(7).load(Ordering::Relaxed);
        self.word(7).store(total.wrapping_add(u64::from(bytes)), Ordering::Relaxed);
    }

    /// Counts a segment of `bytes` bytes that came at `now`, opens and ends nothing, and whose last
    /// sequence number is the one before `end`. Returns false, and counts nothing, if this direction
    /// has not acknowledged the other's SYN: what [`tcp::judge`] says then depends on more.
    #[inline(always)]
    #[must_use]
    pub fn touch_established(&self, Seen(seen): Seen, bytes: u16, now: Coarse, end: u32) -> bool {
        let bits = self.word(6).load(Ordering::Relaxed);
        if bits & TCP_ACKNOWLEDGED == 0 {
            return false;
        }
        let next = tcp::advanced_to(end, seen as u32, (bits >> 12 & 0xf) as u8);
        let changed = u64::from(now.as_raw()) << 32 | u64::from(next);
        if changed != seen {
            self.word(5).store(changed, Ordering::Relaxed);
        }
        self.word(6).store(bits.wrapping_add(PACKET), Ordering::Relaxed);
        let total = self.word(7).load(Ordering::Relaxed);
        self.word(7).store(total.wrapping_add(u64::from(bytes)), Ordering::Relaxed);
        true
    }

    /// Counts packets that took a shortcut, the last of them at `last`; of TCP's, `sequence_next` is the
    /// number behind the last one's. Only the direction's worker calls it.
    pub fn touch_many(&self, packets: u64, bytes: u64, last: Coarse, sequence_next: Option<u32>) {
        let seen = self.word(5).load(Ordering::Relaxed);
        let own = seen as u32;
        let next = sequence_next.map_or(own, |next| tcp::later(own, next));
        let last = last.max(Seen(seen).last());
        self.word(5).store(u64::from(last.as_raw()) << 32 | u64::from(next), Ordering::Relaxed);
        let before = self.word(6).load(Ordering::Relaxed);
        self.word(6).store(before.wrapping_add(packets.wrapping_mul(PACKET)), Ordering::Relaxed);
        let total = self.word(7).load(Ordering::Relaxed);
        self.word(7).store(total.wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Whether this packet of the direction, counted already, is one to make a shortcut at: not the first,
    /// as many sessions have no other, and not each. However many of its packets are counted together, which ones they
    /// are is not a matter of what that number divides by.
    #[inline(always)]
    #[must_use]
    pub fn is_worth_a_shortcut(&self) -> bool {
        let before = (self.word(6).load(Ordering::Relaxed) / PACKET).wrapping_sub(1);
        before.count_ones() % 2 == 1
    }

    /// When a packet of this direction last came.
    #[inline]
    #[must_use]
    pub fn last_seen(&self) -> Coarse {
        self.seen().last()
    }

    /// Sees to it that the last packet did not come after `now`.
    pub fn seen_by(&self, now: Coarse) {
        if self.last_seen() > now {
            let sequence = self.word(5).load(Ordering::Relaxed) & 0xffff_ffff;
            self.word(5).store(u64::from(now.as_raw()) << 32 | sequence, Ordering::Relaxed);
        }
    }

    /// What this direction has shown of TCP.
    #[inline]
    #[must_use]
    pub fn tcp(&self) -> TcpState {
        let bits = self.word(6).load(Ordering::Relaxed);
        TcpState {
            sequence_next: self.word(5).load(Ordering::Relaxed) as u32,
            syn: bits & TCP_SYN != 0,
            acknowledged: bits & TCP_ACKNOWLEDGED != 0,
            fin: bits & TCP_FIN != 0,
            rst: bits & TCP_RST != 0,
            peer_window_shift: (bits >> 12 & 0xf) as u8,
            window_shift: (bits >> 8 & 0xf) as u8,
        }
    }

    /// Stores what this direction has shown of TCP. Only the direction's worker calls it.
    #[inline]
    pub fn set_tcp(&self, state: TcpState) {
        let seen = self.word(5).load(Ordering::Relaxed);
        if seen as u32 != state.sequence_next {
            self.word(5)
                .store(seen >> 32 << 32 | u64::from(state.sequence_next), Ordering::Relaxed);
        }
        let bits = self.word(6).load(Ordering::Relaxed);
        let changed = bits & !TCP_MASK | tcp_bits(state);
        if changed != bits {
            self.word(6).store(changed, Ordering::Relaxed);
        }
    }

    /// What this direction saw.
    #[must_use]
    pub fn direction(&self) -> DirectionView {
        DirectionView {
            packets: self.word(6).load(Ordering::Relaxed) >> 20,
            bytes: self.word(7).load(Ordering::Relaxed),
            last_seen: self.last_seen(),
            tcp: self.tcp(),
        }
    }
}

fn tcp_bits(state: TcpState) -> u64 {
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    flag(state.syn, TCP_SYN)
        | flag(state.acknowledged, TCP_ACKNOWLEDGED)
        | flag(state.fin, TCP_FIN)
        | flag(state.rst, TCP_RST)
        | (u64::from(state.peer_window_shift) & 0xf) << 12
        | (u64::from(state.window_shift) & 0xf) << 8
}

const PACKET: u64 = 1 << 20;
const TCP_SYN: u64 = 1 << 19;
const TCP_ACKNOWLEDGED: u64 = 1 << 18;
const TCP_FIN: u64 = 1 << 17;
const TCP_RST: u64 = 1 << 16;
const TCP_MASK: u64 = 0xfff << 8;
