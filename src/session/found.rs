//! What a lookup gives the fast path.

use std::net::Ipv4Addr;

use crate::flow::Generation;
use crate::next_hop::NextHopId;
use crate::session::entry::{Entry, EntryIndex, Identity, SessionKind, Traits};
use crate::session::shape::Shape;
use crate::session::table::Table;
use crate::session::tcp::TcpState;
use crate::time::Coarse;

/// A consistent copy of what the fast path needs of one entry, with the right to count on it.
pub struct Found<'t, A: Shape = Ipv4Addr> {
    /// Where it is.
    pub index: EntryIndex,
    /// What to do to the packet.
    pub rewrite: A::Rewrite,
    /// Where it goes.
    pub next_hop: NextHopId,
    /// The policy it was last decided under.
    pub generation: Generation,
    /// When a packet of this direction last came.
    pub last_seen: Coarse,
    traits: Traits,
    entry: &'t Entry<A>,
    table: &'t Table<A>,
}

impl<'t, A: Shape> Found<'t, A> {
    pub(super) fn new(
        index: EntryIndex,
        identity: &Identity<A>,
        entry: &'t Entry<A>,
        table: &'t Table<A>,
    ) -> Self {
        Self {
            index,
            rewrite: identity.rewrite(),
            next_hop: identity.next_hop(),
            generation: identity.generation(),
            last_seen: entry.last_seen(),
            traits: identity.traits(),
            entry,
            table,
        }
    }

    /// Counts a packet of `bytes` bytes and remembers when it came. Only the worker that receives
    /// this direction calls it (one writer an entry).
    pub fn touch(&self, bytes: u16, now: Coarse) {
        self.entry.touch(self.entry.seen(), bytes, now);
    }

    /// Counts a packet of `bytes` bytes without letting it keep the session alive: a segment that
    /// was not believed.
    pub fn count(&self, bytes: u16) {
        let seen = self.entry.seen();
        self.entry.touch(seen, bytes, seen.last());
    }

    /// The TCP state of this direction.
    #[must_use]
    pub fn tcp(&self) -> TcpState {
        self.entry.tcp()
    }

    /// Stores the TCP state of this direction (one writer).
    pub fn set_tcp(&self, state: TcpState) {
        self.entry.set_tcp(state);
    }

    /// The TCP state of the other direction: one more cache line, for the rare segments that need it.
    #[must_use]
    pub fn peer_tcp(&self) -> TcpState {
        self.table.peer_tcp(self.index, self.traits.partner())
    }

    /// How it is translated.
    #[must_use]
    pub fn kind(&self) -> SessionKind {
        // A region is adopted only with kinds that there are.
        self.traits.kind().unwrap_or(SessionKind::Inbound)
    }

    /// Whether this is the direction of the session's first packet.
    #[must_use]
    pub const fn is_initiator(&self) -> bool {
        self.traits.is_initiator()
    }
}
