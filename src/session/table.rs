//! The sharded, open-addressed table of session entries.

use crate::flow::{FlowKey, Generation, RuleId};
use crate::next_hop::NextHopId;
use crate::rewrite::Rewrite;
use crate::session::entry::{EntryIndex, NewSession, SessionKind};
use crate::session::tcp::TcpState;
use crate::time::{Coarse, Tick};

/// The table.
pub struct Table {
    _private: (),
}

/// A keyed hash of a flow key, valid for the table that made it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hash(pub u64);

/// Why a session was not inserted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertError {
    /// One of its keys is in the table already.
    Exists,
    /// The table holds as many sessions as it may, or the key's shard is full.
    Full,
}

/// A consistent copy of what the fast path needs of one entry, with the right to count on it.
pub struct Found<'t> {
    /// Where it is.
    pub index: EntryIndex,
    /// What to do to the packet.
    pub rewrite: Rewrite,
    /// Where it goes.
    pub next_hop: NextHopId,
    /// The policy it was last decided under.
    pub generation: Generation,
    /// When a packet of this direction last came.
    pub last_seen: Coarse,
    _table: &'t Table,
}

/// Both directions of a session, for the slow path, sweeps and people.
#[derive(Clone, Copy, Debug)]
pub struct SessionView {
    /// The entry of the initiator's direction.
    pub index: EntryIndex,
    /// How it was made.
    pub session: NewSession,
    /// What the initiator's direction saw.
    pub initiator: DirectionView,
    /// What the responder's direction saw.
    pub responder: DirectionView,
}

/// What one direction of a session saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectionView {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of IPv4 packets forwarded.
    pub bytes: u64,
    /// When the last one came.
    pub last_seen: Coarse,
    /// TCP flags and sequence numbers seen.
    pub tcp: TcpState,
}

impl Table {
    /// A table in ordinary memory for `sessions_max` sessions.
    #[must_use]
    pub fn in_memory(sessions_max: u32, seed: [u64; 4]) -> Self {
        todo!()
    }

    /// The hash of a key.
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> Hash {
        todo!()
    }

    /// Brings the index line of a hash near: first pass of a batch.
    pub fn prefetch_index(&self, hash: Hash) {
        todo!()
    }

    /// Brings the entry that a hash most likely leads to near: second pass of a batch.
    pub fn prefetch_entry(&self, hash: Hash) {
        todo!()
    }

    /// The entry of a key. Lock-free.
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: Hash) -> Option<Found<'_>> {
        todo!()
    }

    /// Whether a key is in the table.
    #[must_use]
    pub fn contains(&self, key: &FlowKey) -> bool {
        todo!()
    }

    /// Remembers a session: both entries, or none.
    ///
    /// # Errors
    /// When a key is taken or there is no room.
    pub fn insert(&self, session: &NewSession, now: Tick) -> Result<EntryIndex, InsertError> {
        todo!()
    }

    /// The session that the entry at `index` (either direction) belongs to, if there is one.
    #[must_use]
    pub fn view(&self, index: EntryIndex) -> Option<SessionView> {
        todo!()
    }

    /// Forgets the session that the entry at `index` belongs to, if its initiator's key still is
    /// `initiator`. Returns its last view: whoever gets it gives back what it held (mapping, guest
    /// count, rule counters), so it is returned once only.
    pub fn remove(&self, index: EntryIndex, initiator: &FlowKey) -> Option<SessionView> {
        todo!()
    }

    /// Marks a session as decided under `generation` by `rule`.
    pub fn confirm(&self, view: &SessionView, generation: Generation, rule: RuleId) {
        todo!()
    }

    /// Visits sessions from `cursor` on: looks at no more than `slots` slots, and moves the cursor;
    /// it wraps at the end of the table. Returns whether it wrapped.
    pub fn walk(&self, cursor: &mut u32, slots: u32, visit: impl FnMut(SessionView)) -> bool {
        todo!()
    }

    /// Slots that a whole walk looks at.
    #[must_use]
    pub fn slots(&self) -> u32 {
        todo!()
    }

    /// Sessions in the table.
    #[must_use]
    pub fn len(&self) -> u32 {
        todo!()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions it may hold.
    #[must_use]
    pub fn sessions_max(&self) -> u32 {
        todo!()
    }

    /// Bytes of memory it takes, indexes included.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        todo!()
    }
}

impl Found<'_> {
    /// Counts a packet of `bytes` bytes and remembers when it came. Only the worker that receives
    /// this direction calls it (one writer an entry).
    pub fn touch(&self, bytes: u16, now: Coarse) {
        todo!()
    }

    /// The TCP state of this direction.
    #[must_use]
    pub fn tcp(&self) -> TcpState {
        todo!()
    }

    /// Stores the TCP state of this direction (one writer).
    pub fn set_tcp(&self, state: TcpState) {
        todo!()
    }

    /// The TCP state of the other direction: one more cache line, for the rare segments that need it.
    #[must_use]
    pub fn peer_tcp(&self) -> TcpState {
        todo!()
    }

    /// How it is translated.
    #[must_use]
    pub fn kind(&self) -> SessionKind {
        todo!()
    }

    /// Whether this is the direction of the session's first packet.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        todo!()
    }
}
