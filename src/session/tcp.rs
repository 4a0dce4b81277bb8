//! TCP as seen from the middle: what each direction has shown, and which segments to believe.

use crate::wire::segment::Segment;

/// What one direction of a TCP connection has shown. Packed into an entry (56 bits at most).
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
    /// `65535 << peer_window_shift`.
    pub peer_window_shift: u8,
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

/// Judges `segment` of the direction `own`, whose other direction is given by `peer` when needed.
#[must_use]
pub fn judge(segment: &Segment, own: TcpState, peer: impl FnOnce() -> TcpState) -> Judgement {
    todo!()
}
