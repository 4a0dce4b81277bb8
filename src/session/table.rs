//! The sharded, open-addressed table of session entries.
//!
//! Lookups take no lock: a group word says where a key may be, and an entry's version says whether
//! what was read is one session's. Insert, remove and confirm take the locks of the shards of both
//! keys, the lower one first, and hold them over nothing but the change itself.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use crate::flow::{Family, FlowKey, Generation, RuleId};
use crate::next_hop::NextHopId;
use crate::session::entry::{Entry, EntryIndex, Identity, NewSession};
use crate::session::hash::Hasher;
use crate::session::index::{Group, Index, Layout, NotTaken};
use crate::session::region::Region;
use crate::session::shape::{PackedKey, Shape};
use crate::session::tcp::TcpState;
use crate::time::{Coarse, Tick};

pub use crate::session::found::Found;
pub use crate::session::hash::Hash;
pub use crate::session::nearby::{Keyed, Nearby};

/// The table.
pub struct Table<A: Shape = Ipv4Addr> {
    region: Region<A>,
    hasher: Hasher,
    shards: Box<[Shard]>,
    count: CachePadded<AtomicU32>,
}

/// The right to change the entries of a shard; on a cache line of its own.
type Shard = CachePadded<Mutex<()>>;

/// Why a session was not inserted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertError {
    /// One of its keys is in the table already.
    Exists,
    /// The table holds as many sessions as it may, or the key's shard is full.
    Full,
}

impl From<NotTaken> for InsertError {
    fn from(reason: NotTaken) -> Self {
        match reason {
            NotTaken::Exists => Self::Exists,
            NotTaken::Full => Self::Full,
        }
    }
}

/// Both directions of a session, for the slow path, sweeps and people.
#[derive(Clone, Copy, Debug)]
pub struct SessionView<A: Family = Ipv4Addr> {
    /// The entry of the initiator's direction.
    pub index: EntryIndex,
    /// How it was made.
    pub session: NewSession<A>,
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
    /// Bytes of IP packets forwarded.
    pub bytes: u64,
    /// When the last one came; when the session was made, if none came yet.
    pub last_seen: Coarse,
    /// TCP flags and sequence numbers seen.
    pub tcp: TcpState,
}

/// Places in a table, counted for sessions to come. Those that none came for are given back.
#[derive(Debug)]
pub struct Places<'t> {
    count: &'t AtomicU32,
    left: u32,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.count.fetch_sub(self.left, Ordering::Relaxed);
        }
    }
}

impl<A: Shape> Table<A> {
    /// A table in ordinary memory for `sessions_max` sessions (50 million at most).
    ///
    /// # Panics
    /// When the system has no such memory to give.
    #[must_use]
    pub fn in_memory(sessions_max: u32, seed: [u64; 4]) -> Self {
        match Region::in_memory(Layout::new(sessions_max)) {
            Ok(region) => Self::over(region, seed, 0),
            Err(error) => panic!("no memory for {sessions_max} sessions: {error}"),
        }
    }

    pub(super) fn over(region: Region<A>, seed: [u64; 4], count: u32) -> Self {
        let shards = (0..region.layout().shards).map(|_| Shard::default()).collect();
        Self {
            region,
            hasher: Hasher::new(seed),
            shards,
            count: CachePadded::new(AtomicU32::new(count)),
        }
    }

    /// The memory it lies in.
    #[inline(always)]
    pub(super) const fn region(&self) -> &Region<A> {
        &self.region
    }

    /// The hash of a key.
    #[must_use]
    pub fn hash(&self, key: &FlowKey<A>) -> Hash {
        self.hasher.hash(key)
    }

    /// What hashes keys.
    #[inline(always)]
    #[must_use]
    pub const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// The entry of a key. Lock-free.
    #[must_use]
    pub fn find(&self, key: &FlowKey<A>, hash: Hash) -> Option<Found<'_, A>> {
        let key = PackedKey::new(key);
        self.index().search(hash, |index| {
            let entry = self.entry(index)?;
            let identity = entry.identity_of(&key)?;
            Some(Found::new(index, &identity, entry, self))
        })
    }

    /// The entry at `index`, if it holds `key`: for who has just inserted or viewed a session, one
    /// comparison instead of a lookup.
    #[must_use]
    pub fn at(&self, index: EntryIndex, key: &FlowKey<A>) -> Option<Found<'_, A>> {
        let entry = self.entry(index)?;
        let identity = entry.identity_of(&PackedKey::new(key))?;
        Some(Found::new(index, &identity, entry, self))
    }

    /// Whether a key is in the table.
    #[must_use]
    pub fn contains(&self, key: &FlowKey<A>) -> bool {
        self.holds(&PackedKey::new(key), self.hash(key))
    }

    /// Remembers a session: both entries, or none.
    ///
    /// A responder's key that is taken means that another session has this external 5-tuple: no
    /// two ever share one, because of two racing inserts exactly one finds it free.
    ///
    /// # Errors
    /// When there is no room, or a key is taken (or both keys are the same). A full table says so
    /// without a look at the keys.
    pub fn insert(&self, session: &NewSession<A>, now: Tick) -> Result<EntryIndex, InsertError> {
        let keys = [session.initiator, session.responder];
        let keys = keys.map(|key| self.nearby().keyed(PackedKey::new(&key)));
        self.insert_keyed(session, keys, now, &mut self.places(1))
    }

    /// The same where the table was asked for the initiator's and the responder's key before, in one of
    /// these places.
    ///
    /// # Errors
    /// Likewise.
    #[inline(always)]
    pub fn insert_keyed(
        &self,
        session: &NewSession<A>,
        keys: [Keyed<A>; 2],
        now: Tick,
        places: &mut Places<'_>,
    ) -> Result<EntryIndex, InsertError> {
        let left = places.left.checked_sub(1).ok_or(InsertError::Full)?;
        let entry = self.insert_reserved(session, keys, now.coarse())?;
        places.left = left;
        Ok(entry)
    }

    /// Places for so many sessions, or as many as there are: they are counted before they are taken, so that
    /// two workers cannot take the last one. All workers write the count, so who opens several sessions asks
    /// once.
    #[must_use]
    pub fn places(&self, count: u32) -> Places<'_> {
        let before = self.count.fetch_add(count, Ordering::Relaxed);
        let left = count.min(self.sessions_max().saturating_sub(before));
        if left < count {
            self.count.fetch_sub(count - left, Ordering::Relaxed);
        }
        Places { count: &self.count, left }
    }

    /// The session that the entry at `index` (either direction) belongs to, if there is one.
    #[must_use]
    pub fn view(&self, index: EntryIndex) -> Option<SessionView<A>> {
        let identity = self.entry(index)?.identity()?;
        self.view_as(index, &identity)
    }

    /// Forgets the session that the entry at `index` belongs to, if its initiator's key still is
    /// `initiator`. Returns its last view: whoever gets it gives back what it held (mapping, guest
    /// count, rule counters), so it is returned once only.
    pub fn remove(&self, index: EntryIndex, initiator: &FlowKey<A>) -> Option<SessionView<A>> {
        let seen = self.view(index).filter(|view| view.session.initiator == *initiator)?;
        let hashes = [self.hash(&seen.session.initiator), self.hash(&seen.session.responder)];
        let _locks = self.lock(hashes);
        // Only now nobody else can be removing it; what was seen before may be gone.
        let view = self.view(seen.index).filter(|view| {
            view.session.initiator == seen.session.initiator
                && view.session.responder == seen.session.responder
        })?;
        let entry = self.entry(view.index)?;
        let responder = entry.identity()?.traits().partner();
        entry.vacate();
        self.entry(responder)?.vacate();
        self.index().give_back(hashes[0], view.index);
        self.index().give_back(hashes[1], responder);
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(view)
    }

    /// Marks a session as decided under `generation` by `rule`, with these next hops for the
    /// initiator's and the responder's packets, if it still is there.
    pub fn confirm(
        &self,
        view: &SessionView<A>,
        generation: Generation,
        rule: RuleId,
        next_hops: [NextHopId; 2],
    ) {
        let NewSession { initiator, responder, .. } = view.session;
        // Under the locks nobody can put another session in its place meanwhile, which would then
        // pass for decided.
        let _locks = self.lock([self.hash(&initiator), self.hash(&responder)]);
        let Some(entry) = self.entry(view.index) else { return };
        let Some(identity) = entry.identity_of(&PackedKey::new(&initiator)) else { return };
        let Some(other) = self.entry(identity.traits().partner()) else { return };
        if other.identity_of(&PackedKey::new(&responder)).is_some() {
            entry.decide(next_hops[0], rule, generation);
            other.decide(next_hops[1], rule, generation);
        }
    }

    /// Slots that a whole walk looks at.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.region.layout().slots()
    }

    /// Sessions in the table.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions it may hold.
    #[must_use]
    pub fn sessions_max(&self) -> u32 {
        self.region.layout().sessions_max
    }

    /// Bytes of memory it takes, indexes included.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let bytes = self.region.length() + self.shards.len() * size_of::<Shard>();
        bytes as u64 + size_of::<Self>() as u64
    }

    /// What the direction at `partner` has shown of TCP, if it is the other one of that at `index`.
    pub(super) fn peer_tcp(&self, index: EntryIndex, partner: EntryIndex) -> TcpState {
        match self.entry(partner).map(|entry| (entry, entry.identity())) {
            Some((entry, Some(identity))) if identity.traits().partner() == index => entry.tcp(),
            _ => TcpState::default(),
        }
    }

    #[inline(always)]
    fn insert_reserved(
        &self,
        session: &NewSession<A>,
        keyed: [Keyed<A>; 2],
        now: Coarse,
    ) -> Result<EntryIndex, InsertError> {
        let (keys, hashes) = (keyed.map(|it| it.key), keyed.map(|it| it.hash));
        if keys[0] == keys[1] {
            return Err(InsertError::Exists);
        }
        let _locks = self.lock(hashes);
        let index = self.index();
        let take = |Keyed { key, hash, home }: &Keyed<A>| {
            let is_it = |place| self.entry(place).is_some_and(|entry| entry.has(key));
            index.take_unless(*hash, *home, is_it)
        };
        let initiator = take(&keyed[0])?;
        let responder = take(&keyed[1]).inspect_err(|_| {
            index.give_back(hashes[0], initiator);
        })?;
        let identities = Identity::pair(session, keys, [initiator, responder]);
        // The responder first: who finds the initiator's entry finds its partner too.
        for (place, identity) in [(responder, identities[1]), (initiator, identities[0])] {
            if let Some(entry) = self.entry(place) {
                entry.fill(&identity, now);
            }
        }
        Ok(initiator)
    }

    pub(super) fn view_as(
        &self,
        index: EntryIndex,
        identity: &Identity<A>,
    ) -> Option<SessionView<A>> {
        let partner = identity.traits().partner();
        let (one, two) = (self.entry(index)?, self.entry(partner)?);
        let other = two.identity()?;
        if !identity.is_partner(index, &other) {
            return None;
        }
        let (place, initiator, responder, from, to) = if identity.traits().is_initiator() {
            (index, identity, &other, one, two)
        } else {
            (partner, &other, identity, two, one)
        };
        let view = SessionView {
            index: place,
            session: initiator.session(responder)?,
            initiator: from.direction(),
            responder: to.direction(),
        };
        // Both entries come and go together: while this one stayed, so did the other.
        one.identity().is_some_and(|now| now.is_same(identity)).then_some(view)
    }

    /// Whether the group of this number has the word it had. If nothing was found in it and behind it for
    /// some key then, there is nothing now: who comes takes a place of the group or passes it by.
    #[inline(always)]
    #[must_use]
    pub fn is_unchanged(&self, group: u32, word: Group) -> bool {
        let words = self.region.groups();
        // A full count of those that passed by does not go up.
        word.passed_by() != u8::MAX
            && words.get(group as usize).is_some_and(|now| Group::load(now) == word)
    }

    /// Whether a packed key with this hash is in the table.
    #[must_use]
    #[inline(always)]
    pub fn holds(&self, key: &PackedKey<A>, hash: Hash) -> bool {
        let look = |index| self.entry(index)?.identity_of(key);
        self.index().search(hash, look).is_some()
    }

    /// Locks the shards of two keys, in their order, or the one they share.
    #[inline(always)]
    fn lock(&self, hashes: [Hash; 2]) -> [Option<MutexGuard<'_, ()>>; 2] {
        let shard = |hash| self.region.layout().shard(hash) as usize;
        let (one, two) = (shard(hashes[0]), shard(hashes[1]));
        let lock = |shard: usize| self.shards.get(shard).map(|shard| shard.lock());
        let lower = lock(one.min(two));
        let higher = if one == two { None } else { lock(one.max(two)) };
        [lower, higher]
    }

    #[inline]
    pub(super) fn index(&self) -> Index<'_> {
        self.region.index()
    }

    #[inline]
    pub(super) fn entry(&self, index: EntryIndex) -> Option<&Entry<A>> {
        self.region.entries().get(index.as_usize())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wide_tests;
