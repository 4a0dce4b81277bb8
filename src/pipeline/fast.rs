//! The fast path: a plain packet of a session that is known, current and leads somewhere. It reads
//! three cache lines (frame, index word, entry), all of them asked for one look before.
//!
//! Every question here has "no" for an answer that costs nothing but time: the packet then goes the
//! general way (`Pipeline::forward`), which does the same to the packets that both take.

use crate::flow::{FlowKey, Generation, LinkWords, PortId, Protocol};
use crate::frame::FrameBuffer;
use crate::next_hop::{Interfaces, NextHops, Way, Ways};
use crate::pipeline::Ready;
use crate::pipeline::batch::Slot;
use crate::pipeline::look::{GROUP, attached};
use crate::pipeline::shared::Shared;
use crate::pipeline::shortcuts::Wish;
use crate::pipeline::sweep::Shortest;
use crate::policy::{Attachment, Policy, Untagged};
use crate::session::entry::EntryIndex;
use crate::session::hash::Hash;
use crate::session::index::Group as Word;
use crate::session::shape::PackedKey;
use crate::session::table::{Found, Keyed, Nearby, Table};
use crate::telemetry::tally::Tally;
use crate::time::{Coarse, Tick};
use crate::verdict::Verdict;
use crate::wire;
use crate::wire::plain::{LENGTH_MIN, Plain};

/// A plain packet with what the lookup needs.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    packet: Plain,
    hash: Hash,
    /// Where in the index its entry is looked for first; [`NO_HOME`] of a frame that is not plain.
    home: u32,
    /// Where its entry most likely stands.
    likely: EntryIndex,
    /// If nowhere: the word that its home had when that was found out.
    word: Word,
}

impl Glance {
    /// Of a frame that is not plain.
    pub(super) const NONE: Self = Self {
        packet: Plain::NONE,
        hash: Hash(0),
        home: NO_HOME,
        likely: EntryIndex::NONE,
        word: Word(0),
    };

    /// First look at a frame: what it is, the realm that it came in from, and the hash of its key, whose
    /// place in the index it asks for. Returns whether it is untagged, plain and to be forwarded; if not, a
    /// [closer look](Self::look_closer) may tell more, or else the glance is to be [forgotten](Self::forget).
    #[inline(always)]
    pub(super) fn look(&mut self, frame: &[u8], port: PortId, moment: &Moment<'_>) -> bool {
        // No plain packet is shorter, and one comparison for all that is read is enough.
        let Some((start, _)) = frame.split_first_chunk::<{ LENGTH_MIN }>() else {
            return false;
        };
        if !start.first_chunk().is_some_and(|&start| moment.interfaces.is_own(port, start)) {
            return false;
        }
        let Some(packet) = Plain::read(frame) else { return false };
        let Some(realm) = moment.untagged.realm(port) else { return false };
        self.find_home(packet, realm, moment.sessions);
        true
    }

    /// The same of a frame that may be tagged, or whose source says what realm it is of.
    pub(super) fn look_closer(
        &mut self,
        frame: &[u8],
        port: PortId,
        moment: &Moment<'_>,
        policy: &Policy,
    ) -> bool {
        if !frame.first_chunk().is_some_and(|&start| moment.interfaces.is_own(port, start)) {
            return false;
        }
        let read = Plain::read_tagged(frame).or_else(|| Some((Plain::read(frame)?, 0)));
        let Some((packet, vlan)) = read else { return false };
        let Some(realm) = policy.realm_of(port, vlan, packet.source()) else { return false };
        self.find_home(packet, realm.as_raw(), moment.sessions);
        true
    }

    /// Becomes that of `packet`, which is of `realm`.
    #[inline(always)]
    fn find_home(&mut self, mut packet: Plain, realm: u16, sessions: Nearby<'_>) {
        packet.set_realm(realm);
        self.packet.become_other(packet);
        let Keyed { hash, home, .. } = sessions.keyed(PackedKey::from_words(packet.key_words()));
        (self.hash, self.home) = (hash, home);
    }

    /// Becomes that of a frame that is not plain.
    #[inline(always)]
    pub(super) const fn forget(&mut self) {
        self.packet.length = 0;
        self.home = NO_HOME;
        self.likely = EntryIndex::NONE;
    }

    /// Whether there is a plain packet at all.
    #[inline(always)]
    pub(super) const fn is_plain(&self) -> bool {
        self.packet.length != 0
    }

    /// Second look: finds the place of its entry and asks for that, or for the one that a new session
    /// would take. What is not plain stands nowhere.
    #[inline(always)]
    pub(super) fn find_place(&mut self, sessions: Nearby<'_>) {
        match sessions.prefetch_likely(self.hash, self.home) {
            Ok(place) => self.likely = place,
            Err(word) => (self.likely, self.word) = (EntryIndex::NONE, word),
        }
    }

    /// Between the second look and the last: asks for what its session's next hop is, where there are so
    /// many next hops that it is not near.
    #[inline(always)]
    pub(super) fn find_way(&self, sessions: &Table, next_hops: &NextHops) {
        if let Some(hop) = sessions.nearby().next_hop_at(self.likely) {
            next_hops.prefetch(hop);
        }
    }

    /// What came in there, where the packet is plain, and its key; none if nothing hangs there.
    #[inline(always)]
    pub(super) fn origin(
        &self,
        frame: &[u8],
        port: PortId,
        policy: &Policy,
    ) -> Option<(Attachment, FlowKey)> {
        let attachment =
            policy.attachment_of(port, self.packet.vlan(frame)?, self.packet.source())?;
        // Its realm was found out where its hash was.
        Some((attachment, FlowKey::from_words(self.packet.key_words())))
    }

    /// The plain packet.
    pub(super) const fn packet(&self) -> &Plain {
        &self.packet
    }

    /// What the general way would know of the packet; none if nothing hangs where it came in.
    pub(super) fn ready(&self, frame: &[u8], port: PortId, policy: &Policy) -> Option<Ready> {
        let packet = self.packet.parsed(frame)?;
        let source = packet.source.address;
        let (realm, attachment) = attached(policy, port, packet.vlan, source)?;
        Some(Ready { packet, realm, attachment, hash: self.hash })
    }

    /// Whether there is a session for it, in force or not.
    #[inline(always)]
    pub(super) fn has_session(&self, sessions: &Table) -> bool {
        let is_nowhere = self.was_nowhere() && sessions.is_unchanged(self.home, self.word);
        !is_nowhere && self.is_found(sessions)
    }

    #[inline(never)]
    fn is_found(&self, sessions: &Table) -> bool {
        sessions.holds(&self.packed_key(), self.hash)
    }

    /// Whether there was no session for it at the second look.
    pub(super) fn was_nowhere(&self) -> bool {
        self.likely == EntryIndex::NONE
    }

    /// Its key.
    pub(super) const fn packed_key(&self) -> PackedKey {
        PackedKey::from_words(self.packet.key_words())
    }

    /// The same with what the table makes of it.
    pub(super) const fn keyed(&self) -> Keyed {
        Keyed { key: self.packed_key(), hash: self.hash, home: self.home }
    }

    /// The hash of its key.
    pub(super) const fn hash(&self) -> Hash {
        self.hash
    }

    /// The session of its key: where it most likely stands, or anywhere else.
    pub(super) fn session<'t>(&self, key: &FlowKey, sessions: &'t Table) -> Option<Found<'t>> {
        sessions.at(self.likely, key).or_else(|| sessions.find(key, self.hash))
    }

    /// What its packets that come later on `port` may do without a look at them, if that is time now.
    pub(super) fn wish(&self, port: PortId, moment: &Moment, shared: &Shared) -> Option<Wish> {
        let packet = self.packet.is_untagged().then(|| self.packet.key_words())?;
        Wish::of(port, packet, (self.hash, self.likely), moment.generation, shared)
    }

    /// Notes the place where its entry stands.
    pub(super) const fn stands_at(&mut self, place: EntryIndex) {
        self.likely = place;
    }

    /// The same with the place where its entry stands.
    pub(super) const fn at(self, place: EntryIndex) -> Self {
        Self { likely: place, ..self }
    }
}

/// Above all groups that there are.
const NO_HOME: u32 = u32::MAX;

/// What holds for every packet of a batch.
pub(super) struct Moment<'b> {
    pub(super) generation: Generation,
    now: Coarse,
    /// What was seen since is not expired.
    since: Coarse,
    pub(super) sessions: Nearby<'b>,
    ways: Ways<'b>,
    interfaces: Interfaces<'b>,
    untagged: &'b Untagged,
}

impl<'b> Moment<'b> {
    /// The moment `now` under `policy`.
    pub(super) fn new(
        policy: &'b Policy,
        now: Tick,
        shortest: &Shortest,
        shared: &'b Shared,
    ) -> Self {
        let now = now.coarse();
        // What has been idle for a shorter time than the shortest.
        let since = now.before(shortest.tcp.min(shortest.udp).saturating_sub(1));
        Self {
            generation: policy.generation(),
            now,
            since,
            sessions: shared.sessions.nearby(),
            ways: shared.next_hops.ways(),
            interfaces: shared.next_hops.interfaces(),
            untagged: policy.untagged(),
        }
    }
}

/// The last look at a group's frames, up to the first that has to go the general way. Returns how many went.
#[inline(always)]
pub(super) fn fast_all<F: FrameBuffer>(
    slots: &mut [Slot<F>],
    glances: &[Glance; GROUP],
    moment: &Moment<'_>,
    tally: &mut Tally,
) -> usize {
    let mut count = 0_usize;
    for (slot, glance) in slots.iter_mut().zip(glances) {
        if !fast(slot, glance, moment, tally) {
            break;
        }
        count = count.wrapping_add(1);
    }
    count
}

/// The last look: does what the packet's session says. Returns false, and changes nothing of the packet, if
/// it has to go the general way. (A packet whose frame has no room for a tag was counted by then.)
#[inline(always)]
pub(super) fn fast<F: FrameBuffer>(
    slot: &mut Slot<F>,
    glance: &Glance,
    moment: &Moment<'_>,
    tally: &mut Tally,
) -> bool {
    let Slot { frame: Some(frame), port, verdict } = slot else { return false };
    // What is not plain stands nowhere.
    let Glance { packet, likely, .. } = glance;
    let (key, sessions) = (glance.packed_key(), moment.sessions);
    // Not `or_else`, which would have what it captures written down for each packet.
    let found = match sessions.entry_at(key, *likely) {
        None => sessions.entry_elsewhere(key, glance.hash, *likely),
        found => found,
    };
    let Some((entry, session)) = found else { return false };
    let seen = entry.seen();
    if session.generation() != moment.generation || seen.last() < moment.since {
        return false;
    }
    // Who is watched has none.
    let Some(way) = moment.ways.to(session.next_hop()) else { return false };
    if packet.length > way.mtu() {
        return false;
    }
    // Written down twice, so that who is known to be TCP or not is not asked again.
    let is_done = if packet.protocol() == Protocol::TCP {
        let Some(end) = packet.sequence_end(frame.bytes()) else { return false };
        if !entry.touch_established(seen, packet.length, moment.now, end) {
            return false;
        }
        rewrite(frame, packet, way, session.leaves_as())
    } else {
        entry.touch(seen, packet.length, moment.now);
        rewrite(frame, packet, way, session.leaves_as())
    };
    if !is_done {
        return false;
    }
    let out = way.port();
    tally.crossed(*port, out, packet.length);
    tally.forwarded(out, frame.bytes().len());
    *verdict = Verdict::Forward(out);
    true
}

/// Makes the packet one that leaves so, this way. Returns false, and changes nothing of it, if the frame
/// has no room for a tag.
#[inline(always)]
fn rewrite<F: FrameBuffer>(
    frame: &mut F,
    packet: &Plain,
    way: Way,
    (addresses, ports): (u64, u32),
) -> bool {
    // Ethernet padding ends here: it is no part of the packet (RFC 894).
    frame.truncate(packet.end());
    let bytes = frame.bytes_mut();
    let is_done =
        way.is_untagged() && packet.rewrite_untagged(bytes, way.link_words(), addresses, ports);
    if is_done {
        return true;
    }
    // Word by word: as a whole the way would be written down first, for each packet.
    let LinkWords([destination, source]) = way.link_words();
    rewrite_tagged(frame, packet, way.vlan(), [destination, source], (addresses, ports))
}

#[inline(never)]
fn rewrite_tagged<F: FrameBuffer>(
    frame: &mut F,
    packet: &Plain,
    vlan: u16,
    link_words: [u64; 2],
    (addresses, ports): (u64, u32),
) -> bool {
    let [destination, source] = LinkWords(link_words).addresses();
    match wire::link::write_header(frame, packet.network, destination, source, vlan) {
        Some(network) => {
            packet.moved_to(network).rewrite(frame.bytes_mut(), addresses, ports);
            true
        }
        None => false,
    }
}
