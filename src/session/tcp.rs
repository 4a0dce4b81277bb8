//! TCP as seen from the middle: what each direction has shown, and which segments to believe.
//!
//! Believing is about state, not about passing: nearly every segment of a session is forwarded, and
//! what an attacker could have made up changes nothing (RFC 5961, RFC 7857 2.3, CONFORMANCE A6).
//! We know what each direction has sent at most, so a blind sender must guess it: exactly for a
//! reset, to within a window, and with a fitting acknowledgement, for a FIN.
//!
//! Plain segments are never doubted once their direction's SYN was seen. They keep a session alive
//! and little more, and doubting them would cut long connections for the sake of a forger who
//! gains nothing.

use crate::wire::segment::{Segment, flags};

/// What one direction of a TCP connection has shown. Packed into an entry (44 bits).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TcpState {
    /// The highest sequence number it has sent, plus one (its SND.NXT as seen here).
    pub sequence_next: u32,
    /// Whether a SYN of this direction was believed.
    pub syn: bool,
    /// Whether it acknowledged the other's SYN.
    pub acknowledged: bool,
    /// Whether a FIN of this direction was believed.
    pub fin: bool,
    /// Whether an RST of this direction was believed.
    pub rst: bool,
    /// How far ahead of `sequence_next` it may send: the other side's largest possible window is
    /// `65535 << peer_window_shift`. Zero until it acknowledged the other's SYN.
    pub peer_window_shift: u8,
    /// The window scale that this direction's SYN offered: how far ahead the other side may send.
    pub window_shift: u8,
}

/// What to do with a segment of a known session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// Forward it; the direction's state becomes this.
    Believe(TcpState),
    /// Forward it, but let it change nothing and refresh nothing (RFC 5961; off-path RSTs).
    Doubt,
    /// A new SYN on a closed session: the caller ends the old session and opens a new one.
    Reopen,
}

/// Judges `segment` of the direction `own`, whose other direction is given by `peer` when needed:
/// for SYN, FIN and RST, and until the handshake is done.
///
/// The first segment of a session is judged like any other, with both states at their default:
/// a SYN is believed, anything else doubted.
#[must_use]
pub fn judge(segment: &Segment, own: TcpState, peer: impl FnOnce() -> TcpState) -> Judgement {
    if segment.flags & (flags::SYN | flags::FIN | flags::RST) == 0 && own.acknowledged {
        return Judgement::Believe(advanced(segment, own));
    }
    judge_rare(segment, own, peer())
}

/// Whether both directions' SYNs are acknowledged and the connection has not ended. One FIN does
/// not end it: a half-closed connection is established for timing (RFC 7857, section 2.1).
#[must_use]
pub const fn is_established(one: TcpState, two: TcpState) -> bool {
    is_synchronised(one) && is_synchronised(two) && !is_closed(one, two)
}

/// Whether the connection has ended: both FINs or an RST were believed.
#[must_use]
pub const fn is_closed(one: TcpState, two: TcpState) -> bool {
    one.rst || two.rst || (one.fin && two.fin)
}

/// Whether an ICMP error that quotes a segment with this sequence number can be about something
/// that the direction `own` sent and has not yet had acknowledged (RFC 5927, section 4.1).
#[must_use]
pub const fn plausible_quote(sequence: u32, own: TcpState) -> bool {
    own.syn && own.sequence_next.wrapping_sub(sequence) <= window(own.peer_window_shift)
}

fn judge_rare(segment: &Segment, own: TcpState, peer: TcpState) -> Judgement {
    let only = segment.flags & (flags::SYN | flags::FIN | flags::RST);
    match only {
        0 => judge_plain(segment, own, peer),
        flags::FIN => judge_fin(segment, own, peer),
        flags::RST => judge_rst(segment, own, peer),
        flags::SYN => judge_syn(segment, own, peer),
        // Flags that contradict each other mean nothing.
        _ => Judgement::Doubt,
    }
}

/// A segment of a direction that has not acknowledged the other's SYN so far.
fn judge_plain(segment: &Segment, own: TcpState, peer: TcpState) -> Judgement {
    if !own.syn {
        // A challenge ACK for an old connection on the same ports (RFC 5961, section 4).
        return Judgement::Doubt;
    }
    if own.acknowledged || !acknowledges_all(segment, peer) {
        return Judgement::Believe(advanced(segment, own));
    }
    // Who knows the other's sequence number is no blind forger, so where this segment stands is
    // true, whatever a forged SYN before it said.
    let sequence_next = segment.sequence.wrapping_add(segment.length);
    Judgement::Believe(TcpState { sequence_next, ..own }.with_acknowledged(peer))
}

fn judge_syn(segment: &Segment, own: TcpState, peer: TcpState) -> Judgement {
    let has_ack = segment.flags & flags::ACK != 0;
    if is_closed(own, peer) {
        return if has_ack { Judgement::Doubt } else { Judgement::Reopen };
    }
    let end = segment.sequence.wrapping_add(segment.length);
    if is_established(own, peer) || (own.acknowledged && !has_ack) {
        // The same SYN again, because its SYN-ACK or the ACK was lost; nothing followed it yet.
        // Any other is a restarted host's or a forger's: who receives it answers with a challenge
        // ACK, and the sender's reset, if it is true, will be exact.
        let again = own.syn && end == own.sequence_next;
        return if again { Judgement::Believe(own) } else { Judgement::Doubt };
    }
    // The first SYN of a direction, or a new attempt before the handshake is done. What followed
    // a SYN stays sent when it is repeated (data with it, RFC 7413).
    let repeated = own.syn && own.sequence_next.wrapping_sub(end) <= window(0);
    let opened = TcpState {
        sequence_next: if repeated { own.sequence_next } else { end },
        syn: true,
        window_shift: segment.window_scale.unwrap_or(0).min(WINDOW_SHIFT_MAX),
        ..TcpState::default()
    };
    if !has_ack {
        // Both directions may send one (simultaneous open, RFC 5382 REQ-2a).
        return Judgement::Believe(opened);
    }
    // A SYN-ACK may leave data of the SYN unacknowledged (RFC 7413, section 4.2).
    let unacknowledged = peer.sequence_next.wrapping_sub(segment.acknowledgement);
    if peer.syn && unacknowledged <= window(0) {
        Judgement::Believe(opened.with_acknowledged(peer))
    } else {
        Judgement::Doubt
    }
}

/// A FIN is believed if its end is where the direction may send, and it acknowledges what the
/// other may still have had under way: a blind sender must guess both.
fn judge_fin(segment: &Segment, own: TcpState, peer: TcpState) -> Judgement {
    let own = if own.syn && !own.acknowledged && acknowledges_all(segment, peer) {
        own.with_acknowledged(peer)
    } else {
        own
    };
    let end = segment.sequence.wrapping_add(segment.length);
    let ahead = end.wrapping_sub(own.sequence_next);
    let unacknowledged = peer.sequence_next.wrapping_sub(segment.acknowledgement);
    let fits = own.syn
        && segment.flags & flags::ACK != 0
        && ahead <= window(own.peer_window_shift)
        && unacknowledged <= window(own.window_shift);
    if fits {
        Judgement::Believe(TcpState { sequence_next: end, fin: true, ..own })
    } else {
        Judgement::Doubt
    }
}

/// An RST is believed if it carries exactly the next sequence number (RFC 5961, section 3.2), or
/// if it refuses a SYN, exactly acknowledged. It then leaves the session its transitory time
/// (RFC 7857, section 2.3); further ones do not prolong that.
fn judge_rst(segment: &Segment, own: TcpState, peer: TcpState) -> Judgement {
    let exact = own.syn && segment.sequence == own.sequence_next;
    let refuses = !own.acknowledged && acknowledges_all(segment, peer);
    if (exact || refuses) && !own.rst {
        Judgement::Believe(TcpState { rst: true, ..own })
    } else {
        Judgement::Doubt
    }
}

/// The state after a plain segment: it goes forward with what was sent, but not past what the
/// other side can take. Retransmissions, keep-alives and forgeries leave it where it is.
fn advanced(segment: &Segment, own: TcpState) -> TcpState {
    let end = segment.sequence.wrapping_add(segment.length);
    let sequence_next = advanced_to(end, own.sequence_next, own.peer_window_shift);
    TcpState { sequence_next, ..own }
}

/// What a direction that has sent all before `sequence_next` has sent after a plain segment that ends
/// before `end`.
#[inline]
#[must_use]
pub const fn advanced_to(end: u32, sequence_next: u32, peer_window_shift: u8) -> u32 {
    let ahead = end.wrapping_sub(sequence_next);
    if ahead <= window(peer_window_shift) { end } else { sequence_next }
}

/// Whether `segment` acknowledges all that the other side has sent, its SYN included. It is exact,
/// so that nobody who did not see the other's SYN establishes a connection.
const fn acknowledges_all(segment: &Segment, peer: TcpState) -> bool {
    segment.flags & flags::ACK != 0 && peer.syn && segment.acknowledgement == peer.sequence_next
}

/// The later of two sequence numbers of one direction.
#[must_use]
pub const fn later(one: u32, other: u32) -> u32 {
    if other.wrapping_sub(one) <= u32::MAX / 2 { other } else { one }
}

const fn is_synchronised(state: TcpState) -> bool {
    state.syn && state.acknowledged
}

/// The largest window that a side with this scale can offer (RFC 7323, section 2.2).
#[inline]
const fn window(shift: u8) -> u32 {
    let shift = if shift > WINDOW_SHIFT_MAX { WINDOW_SHIFT_MAX } else { shift };
    65_535 << shift
}

/// RFC 7323, section 2.3.
const WINDOW_SHIFT_MAX: u8 = 14;

impl TcpState {
    /// The same where `sequence_next` may be later: it passed by a shortcut.
    #[must_use]
    pub fn caught_up(self, sequence_next: Option<u32>) -> Self {
        let own = self.sequence_next;
        Self { sequence_next: sequence_next.map_or(own, |next| later(own, next)), ..self }
    }

    const fn with_acknowledged(self, peer: Self) -> Self {
        Self { acknowledged: true, peer_window_shift: peer.window_shift, ..self }
    }
}

#[cfg(test)]
mod tests;
