//! TCP as a session's packets show it.

use crate::frame::FrameBuffer;
use crate::pipeline::{Context, Pipeline};
use crate::session::table::Found;
use crate::session::tcp::{self, Judgement};
use crate::wire::parse::Parsed;
use crate::wire::segment::{self, Segment, flags};

/// What TCP tracking says of a segment.
pub(super) enum Tracked {
    /// It counts and keeps the session alive.
    Counts,
    /// It passes without changing anything (RFC 5961: not believed, not cut).
    Passes,
    /// It opens a new connection on a closed session.
    Reopens,
}

impl<F: FrameBuffer> Pipeline<F> {
    /// Follows the TCP state of a session; clamps the MSS of SYNs.
    pub(super) fn track<S>(
        &self,
        frame: &mut F,
        packet: &Parsed,
        found: &Found<'_>,
        context: &Context<'_, F, S>,
    ) -> Tracked {
        let seen: Segment = segment::segment(frame.bytes(), packet.transport, packet.end);
        let before = found.tcp();
        let own = self.own_tcp(found, packet.source, packet.destination);
        match tcp::judge(&seen, own, || self.peer_tcp(found)) {
            Judgement::Believe(state) => {
                if state != before {
                    found.set_tcp(state);
                }
                if seen.flags & flags::SYN != 0 {
                    self.give_up_shortcuts(packet.source, packet.destination);
                    if context.policy.clamps_mss() {
                        self.clamp_mss(frame, packet, found, context.policy);
                    }
                }
                Tracked::Counts
            }
            Judgement::Doubt => Tracked::Passes,
            Judgement::Reopen => Tracked::Reopens,
        }
    }
}
