//! One direction of a session: a cache line, or two for IPv6.
//!
//! Eight words, read by anybody, in two halves with one rule each:
//!
//! | word | bits, highest first | written by |
//! |---|---|---|
//! | 0 | key: source address 32, destination address 32 | whoever holds the shard's lock |
//! | 1 | key: source port 16, destination port 16, realm 16, protocol 8; version 8 | the same |
//! | 2 | new source address 32, new destination address 32 | the same |
//! | 3 | new source port 16, new destination port 16, partner 27, kind 3, initiator 1, holds 1 | the same |
//! | 4 | next hop 24, rule 24, generation 16 | the same |
//! | 5 | last seen 32, highest sequence number plus one 32 | the worker that receives the direction |
//! | 6 | packets 44, TCP flags 4, peer's window shift 4, own window shift 4, unused 8 | the same |
//! | 7 | bytes 64 | the same |
//!
//! Words 0 to 4 say what the session *is*. They change only under the lock of the entry's shard,
//! and a reader takes them for one session's only if the version was settled and the same before
//! and after. (IPv6 has its addresses in words 0, 8, 9 and 2, see [`Shape`].) Words 5 to 7 say what it *saw*: plain loads and stores of one writer. That worker may
//! be late: when it found an entry that is removed and taken by another session before it stores,
//! the new session starts with the old one's counts. It can never spoil where packets go.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::flow::{Family, FlowKey, Generation, RuleId};
use crate::next_hop::NextHopId;
use crate::session::fuse::step;
use crate::session::shape::{PackedKey, Shape};
use crate::time::Coarse;

/// A session about to be remembered.
///
/// Both directions follow from the two keys: a packet of `initiator` leaves as the reverse of
/// `responder`, and the other way round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewSession<A: Family = Ipv4Addr> {
    /// The key of packets in the direction of the first packet, as they arrive.
    pub initiator: FlowKey<A>,
    /// The key of packets in the other direction, as they arrive.
    pub responder: FlowKey<A>,
    /// Where packets of the initiator's direction go.
    pub initiator_next_hop: NextHopId,
    /// Where packets of the responder's direction go.
    pub responder_next_hop: NextHopId,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// The policy it was decided under.
    pub generation: Generation,
    /// What kind of translation it is.
    pub kind: SessionKind,
    /// Whether it holds a reference on the mapping at the public endpoint that its source became.
    pub source_mapped: bool,
    /// Whether it holds a reference on the mapping at the public endpoint that it was sent to.
    pub target_mapped: bool,
}

/// How a session is translated; with the keys it says everything.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum SessionKind {
    /// Inbound to a public endpoint served by a port forward, load balancer, static NAT or mapping.
    Inbound,
    /// From a guest with a source of its pool, through a public endpoint, to a guest: twice NAT.
    Hairpin,
    /// Between networks of one realm, or exempt from NAT: nothing changes but link addresses.
    Routed,
    /// Outbound through source NAT with a mapping.
    SourceNat,
    /// Outbound through static NAT.
    StaticNat,
    /// As [`Self::Hairpin`], from a guest with static NAT or without any.
    HairpinStatic,
}

impl SessionKind {
    const fn from_raw(raw: u64) -> Option<Self> {
        match raw {
            0 => Some(Self::Inbound),
            1 => Some(Self::Hairpin),
            2 => Some(Self::Routed),
            3 => Some(Self::SourceNat),
            4 => Some(Self::StaticNat),
            5 => Some(Self::HairpinStatic),
            _ => None,
        }
    }
}

/// Place of an entry in the table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EntryIndex(pub u32);

impl EntryIndex {
    /// No place: above all that there are.
    pub const NONE: Self = Self(u32::MAX);

    /// The place in the array of entries.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// Entries that a partner's place can name.
pub const SLOTS_MAX: u32 = 1 << PARTNER_BITS;

/// One direction, as it lies in memory. Every pattern of bits is a valid value.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Entry<A: Shape = Ipv4Addr> {
    words: A::Words,
}

/// A consistent copy of what one direction is (words 0 to 4 of one session).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity<A: Shape = Ipv4Addr> {
    key: PackedKey<A>,
    translated: A::Translated,
    traits: Traits,
    decision: u64,
}

/// What is fixed for the life of a session besides keys and addresses: word 3.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Traits(u64);

impl<A: Shape> Entry<A> {
    /// What this entry is, if it holds `key`.
    #[inline]
    #[must_use]
    pub fn identity_of(&self, key: &PackedKey<A>) -> Option<Identity<A>> {
        let version = self.word(1).load(Ordering::Acquire);
        let is_it = (version ^ key.rest) & !COUNT_MASK == OCCUPIED;
        if !is_it || !A::has(&self.words, key.addresses) {
            return None;
        }
        self.copy(version, *key)
    }

    /// Whether it is, as far as one look tells, the direction of a session's first packet.
    #[inline]
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        self.traits().is_initiator()
    }

    /// Whether the session whose initiator's direction this is was decided under `generation`, was
    /// refreshed no earlier than `since`, and so needs no other look: for the sweep, which comes again.
    #[inline]
    #[must_use]
    pub fn is_settled(&self, generation: Generation, since: Coarse) -> bool {
        self.word(4).load(Ordering::Relaxed) as u16 == generation.0
            && self.last_seen() >= since
            && match self.traits().kind() {
                // What comes from outside may not count as a refresh.
                Some(SessionKind::Inbound) | None => false,
                Some(
                    SessionKind::Hairpin
                    | SessionKind::HairpinStatic
                    | SessionKind::Routed
                    | SessionKind::SourceNat
                    | SessionKind::StaticNat,
                ) => true,
            }
    }

    /// Where packets of whatever session it holds go.
    #[inline]
    #[must_use]
    pub fn next_hop(&self) -> NextHopId {
        next_hop(self.word(4).load(Ordering::Relaxed))
    }

    fn traits(&self) -> Traits {
        Traits(self.word(3).load(Ordering::Relaxed))
    }

    /// Whether this entry holds `key`. The caller holds the shard's lock, so that nothing changes.
    #[must_use]
    pub fn has(&self, key: &PackedKey<A>) -> bool {
        self.word(1).load(Ordering::Relaxed) & !COUNT_MASK == key.rest | OCCUPIED
            && A::has(&self.words, key.addresses)
    }

    /// What this entry is, if it holds a session.
    #[must_use]
    pub fn identity(&self) -> Option<Identity<A>> {
        let version = self.word(1).load(Ordering::Acquire);
        if version & (OCCUPIED | BUSY) != OCCUPIED {
            return None;
        }
        let key = PackedKey { addresses: A::load(&self.words), rest: version & !VERSION_MASK };
        self.copy(version, key)
    }

    /// Whether the entry holds nothing and nobody is about to change that.
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        self.word(1).load(Ordering::Relaxed) & (OCCUPIED | BUSY) == 0
    }

    /// Makes this entry one direction of a session. The caller holds the shard's lock.
    pub fn fill(&self, identity: &Identity<A>, now: Coarse) {
        let PackedKey { addresses, rest } = identity.key;
        let count = self.word(1).load(Ordering::Relaxed).wrapping_add(COUNT_STEP) & COUNT_MASK;
        self.store(1, rest | count | BUSY);
        fence(Ordering::Release);
        A::store(&self.words, addresses);
        A::store_translated(&self.words, identity.translated);
        self.store(3, identity.traits.0);
        self.store(4, identity.decision);
        self.store(5, u64::from(now.as_raw()) << 32);
        self.store(6, 0);
        self.store(7, 0);
        step();
        self.word(1).store(rest | count | OCCUPIED, Ordering::Release);
    }

    /// Fills this entry with all that another one holds, counters included. For moving a session
    /// to a new region, which nobody else sees yet.
    pub fn fill_from(&self, identity: &Identity<A>, other: &Self) {
        self.fill(identity, other.last_seen());
        for word in 5..8 {
            self.store(word, other.word(word).load(Ordering::Relaxed));
        }
    }

    /// Empties this entry. The caller holds the shard's lock.
    pub fn vacate(&self) {
        step();
        let count = self.word(1).load(Ordering::Relaxed) & COUNT_MASK;
        self.word(1).store(count, Ordering::Release);
    }

    /// Changes what was decided of this entry, all of it at once. The caller holds the shard's lock.
    pub fn decide(&self, next_hop: NextHopId, rule: RuleId, generation: Generation) {
        self.store(4, decision(next_hop, rule, generation));
    }

    /// What it is besides `key`, which was read after `version`, if it still is the same.
    #[inline]
    fn copy(&self, version: u64, key: PackedKey<A>) -> Option<Identity<A>> {
        let word = |index: usize| self.word(index).load(Ordering::Relaxed);
        let identity = Identity {
            key,
            translated: A::load_translated(&self.words),
            traits: Traits(word(3)),
            decision: word(4),
        };
        fence(Ordering::Acquire);
        (word(1) == version).then_some(identity)
    }

    fn store(&self, word: usize, value: u64) {
        step();
        self.word(word).store(value, Ordering::Relaxed);
    }

    /// Every shape has at least eight words, so there always is one.
    #[inline]
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        &self.words.as_ref()[index]
    }
}

impl Identity {
    /// The addresses and ports that its packets leave with, the source's in the higher half of each.
    #[inline]
    #[must_use]
    pub const fn leaves_as(&self) -> (u64, u32) {
        (self.translated, (self.traits.0 >> 32) as u32)
    }
}

impl<A: Shape> Identity<A> {
    /// Both directions of a session whose keys these are, packed, and whose entries will stand at
    /// these places.
    #[must_use]
    pub fn pair(
        session: &NewSession<A>,
        [from, to]: [PackedKey<A>; 2],
        [initiator, responder]: [EntryIndex; 2],
    ) -> [Self; 2] {
        let one = |key: PackedKey<A>, other: PackedKey<A>, next_hop, partner, is_initiator| {
            let PackedKey { addresses, rest } = other.reversed();
            Self {
                key,
                translated: A::translated(addresses),
                traits: Traits::new(rest, partner, session, is_initiator),
                decision: decision(next_hop, session.rule, session.generation),
            }
        };
        [
            one(from, to, session.initiator_next_hop, responder, true),
            one(to, from, session.responder_next_hop, initiator, false),
        ]
    }

    /// The session whose initiator's direction is `self` and whose other direction is `responder`.
    /// None if the bits name no kind of session.
    #[must_use]
    pub fn session(&self, responder: &Self) -> Option<NewSession<A>> {
        Some(NewSession {
            initiator: self.key(),
            responder: responder.key(),
            initiator_next_hop: self.next_hop(),
            responder_next_hop: responder.next_hop(),
            rule: self.rule(),
            generation: self.generation(),
            kind: self.traits.kind()?,
            source_mapped: self.traits.holds_mapping(),
            target_mapped: responder.traits.holds_mapping(),
        })
    }

    /// Whether `self` at `index` and `other` are the two directions of one session: each leads to
    /// the other, and each leaves as the reverse of what the other receives.
    #[must_use]
    pub fn is_partner(&self, index: EntryIndex, other: &Self) -> bool {
        let leaves_as = |one: &Self, key: PackedKey<A>| {
            let reverse = key.reversed();
            A::after(one.key.addresses, one.translated) == reverse.addresses
                && one.traits.0 >> 32 == reverse.rest >> 32
        };
        other.traits.partner() == index
            && self.traits.is_initiator() != other.traits.is_initiator()
            && self.traits.kind() == other.traits.kind()
            && self.key().protocol == other.key().protocol
            && leaves_as(self, other.key)
            && leaves_as(other, self.key)
    }

    /// Whether both are the same direction of the same session, whatever was decided of it since.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Self { decision: other.decision, ..*self } == *other
    }

    /// The same direction with its partner at another place.
    #[must_use]
    pub fn with_partner(self, partner: EntryIndex) -> Self {
        Self { traits: self.traits.with_partner(partner), ..self }
    }

    /// The key of its packets.
    #[must_use]
    pub fn key(&self) -> FlowKey<A> {
        self.key.unpacked()
    }

    /// The key of its packets, packed.
    #[must_use]
    pub const fn packed_key(&self) -> PackedKey<A> {
        self.key
    }

    /// What is fixed for its life.
    #[must_use]
    pub const fn traits(&self) -> Traits {
        self.traits
    }

    /// What to do to its packets.
    #[must_use]
    pub fn rewrite(&self) -> A::Rewrite {
        A::rewrite(self.key.addresses, self.translated, self.traits.0)
    }

    /// Where its packets go.
    #[inline]
    #[must_use]
    pub const fn next_hop(&self) -> NextHopId {
        next_hop(self.decision)
    }

    /// The rule that allowed it.
    #[must_use]
    pub const fn rule(&self) -> RuleId {
        RuleId((self.decision >> 16) as u32 & ID_MASK)
    }

    /// The policy it was last decided under.
    #[inline]
    #[must_use]
    pub const fn generation(&self) -> Generation {
        Generation(self.decision as u16)
    }
}

impl Traits {
    fn new<A: Family>(
        ports: u64,
        partner: EntryIndex,
        session: &NewSession<A>,
        initiator: bool,
    ) -> Self {
        let kind = u64::from(session.kind as u8);
        // Each direction's entry tells of its own sender's mapping.
        let holds = if initiator { session.source_mapped } else { session.target_mapped };
        Self(ports >> 32 << 32 | kind << 2 | u64::from(initiator) << 1 | u64::from(holds))
            .with_partner(partner)
    }

    fn with_partner(self, partner: EntryIndex) -> Self {
        Self(self.0 & !(PARTNER_MASK << 5) | (u64::from(partner.0) & PARTNER_MASK) << 5)
    }

    /// Where the entry of the other direction stands.
    #[must_use]
    pub const fn partner(self) -> EntryIndex {
        EntryIndex((self.0 >> 5 & PARTNER_MASK) as u32)
    }

    /// How the session is translated. None if the bits name no kind.
    #[must_use]
    pub const fn kind(self) -> Option<SessionKind> {
        SessionKind::from_raw(self.0 >> 2 & 7)
    }

    /// Whether this is the direction of the session's first packet.
    #[must_use]
    pub const fn is_initiator(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether the session holds a reference on the mapping of whoever sends in this direction.
    #[must_use]
    pub const fn holds_mapping(self) -> bool {
        self.0 & 1 != 0
    }
}

fn decision(next_hop: NextHopId, rule: RuleId, generation: Generation) -> u64 {
    u64::from(next_hop.0 & ID_MASK) << 40
        | u64::from(rule.0 & ID_MASK) << 16
        | u64::from(generation.0)
}

/// The next hop of such a word.
const fn next_hop(decision: u64) -> NextHopId {
    NextHopId((decision >> 40) as u32)
}

/// The line the entry stands on is being written.
const BUSY: u64 = 1;
/// The entry holds one direction of a session.
const OCCUPIED: u64 = 2;
/// Goes up with every session, so that a reader who slept sees that the entry changed hands.
const COUNT_STEP: u64 = 4;
const COUNT_MASK: u64 = 0xfc;
const VERSION_MASK: u64 = 0xff;

const PARTNER_BITS: u32 = 27;
const PARTNER_MASK: u64 = (1 << PARTNER_BITS) - 1;
/// Rules and next hops have 24 bits.
const ID_MASK: u32 = 0xff_ffff;
