//! ICMP queries and their replies: a session carries requests of one type one way and the replies
//! to them the other way, and nothing else (RFC 5508, REQ-1).
//!
//! The type stands where a TCP session keeps its sequence number, which queries have none of.

use crate::flow::Protocol;
use crate::session::table::{Found, SessionView};
use crate::session::tcp::TcpState;

/// Remembers which type of query opened a session.
pub(super) fn remember(found: &Found<'_>, icmp_type: u8) {
    found.set_tcp(TcpState { sequence_next: u32::from(icmp_type), ..TcpState::default() });
}

/// Type and code of the query that a session was opened with, zeros for other protocols. Queries
/// have no codes but zero.
pub(super) fn question(view: &SessionView) -> (u8, u8) {
    match view.session.initiator.protocol {
        Protocol::ICMP => (view.initiator.tcp.sequence_next as u8, 0),
        _ => (0, 0),
    }
}

/// Whether a message of `icmp_type` belongs to the session: it asks what the session was opened
/// for, or answers that, in the right direction. Without this an echo request from outside would
/// reach a guest through the mapping of its own ping.
pub(super) fn belongs(found: &Found<'_>, icmp_type: u8) -> bool {
    match (request_of(icmp_type), found.is_initiator()) {
        (None, true) => found.tcp().sequence_next == u32::from(icmp_type),
        (Some(request), false) => found.peer_tcp().sequence_next == u32::from(request),
        (None, false) | (Some(_), true) => false,
    }
}

/// The request that a message of `icmp_type` answers, if it answers one.
pub(super) const fn request_of(icmp_type: u8) -> Option<u8> {
    match icmp_type {
        ECHO_REPLY => Some(ECHO_REQUEST),
        TIMESTAMP_REPLY => Some(13),
        MASK_REPLY => Some(17),
        _ => None,
    }
}

const ECHO_REPLY: u8 = 0;
pub(super) const ECHO_REQUEST: u8 = 8;
const TIMESTAMP_REPLY: u8 = 14;
const MASK_REPLY: u8 = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_has_its_request_and_requests_answer_nothing() {
        assert_eq!([0, 14, 18].map(request_of), [Some(8), Some(13), Some(17)]);
        assert_eq!([8, 13, 17, 3].map(request_of), [None; 4]);
    }
}
