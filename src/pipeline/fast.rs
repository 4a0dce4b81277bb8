//! The fast path: a plain packet of a session that is known, current and leads somewhere. It reads
//! three cache lines (frame, index word, entry), all of them asked for one pass before.
//!
//! Every question here has "no" for an answer that costs nothing but time: the packet then goes the
//! general way ([`Pipeline::forward`]), which does the same to the packets that both take.

use crate::flow::{PortId, Protocol};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::NextHops;
use crate::pipeline::batch::Slot;
use crate::pipeline::look::attached;
use crate::pipeline::sweep::Shortest;
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::Policy;
use crate::session::entry::EntryIndex;
use crate::session::shape::PackedKey;
use crate::session::table::{Hash, Table};
use crate::telemetry::tally::Tally;
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::wire::plain::Plain;

/// A plain packet with what the lookup needs. The default is none.
#[derive(Clone, Copy, Default)]
pub(super) struct Glance {
    packet: Plain,
    hash: Hash,
    /// Where its entry most likely stands.
    place: Option<EntryIndex>,
}

impl Glance {
    /// First pass over a frame: what it is, if it is plain, and the hash of its key, whose place in
    /// the index it asks for.
    #[inline(always)]
    pub(super) fn new(
        frame: &[u8],
        port: PortId,
        policy: &Policy,
        next_hops: &NextHops,
        sessions: &Table,
    ) -> Option<Self> {
        let mut packet = Plain::read(frame)?;
        if wire::parse::destination_station(frame)? != next_hops.source_mac(port).as_bits() {
            return None;
        }
        packet.set_realm(policy.realm_of(port, packet.vlan, packet.source())?);
        let hash = sessions.hash_packed(&PackedKey::from_words(packet.key_words()));
        sessions.prefetch_index(hash);
        Some(Self { packet, hash, place: None })
    }

    /// Whether there is a plain packet at all.
    #[inline]
    pub(super) const fn is_plain(&self) -> bool {
        self.packet.length != 0
    }

    /// What the general way would know of the packet; none if nothing hangs where it came in.
    pub(super) fn ready(&self, frame: &[u8], port: PortId, policy: &Policy) -> Option<Ready> {
        let packet = self.packet.parsed(frame)?;
        let source = packet.source.address;
        let (realm, attachment) = attached(policy, port, packet.vlan, source)?;
        Some(Ready { packet, realm, attachment, hash: self.hash })
    }

    /// Whether there is a session for it, in force or not.
    pub(super) fn has_session(&self, sessions: &Table) -> bool {
        let key = PackedKey::from_words(self.packet.key_words());
        sessions.entry_of(&key, self.hash, self.place).is_some()
    }

    /// The same with the place where its entry stands.
    pub(super) const fn at(self, place: EntryIndex) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Second pass: finds the place of its entry and asks for that.
    #[inline]
    pub(super) fn find_place(&mut self, sessions: &Table) {
        self.place = sessions.prefetch_likely(self.hash);
        if self.place.is_none() {
            sessions.prefetch_vacant(self.hash);
        }
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// The last pass: does what the packet's session says. None, and nothing was changed, if the
    /// packet has to go the general way.
    #[inline(always)]
    pub(super) fn fast<S: FrameSource<Frame = F>>(
        slot: &mut Slot<F>,
        glance: &Glance,
        shortest: &Shortest,
        tally: &mut Tally,
        context: &Context<'_, F, S>,
    ) -> Option<Verdict> {
        let Glance { packet, hash, place } = glance;
        let frame = slot.frame.as_mut()?;
        let key = PackedKey::from_words(packet.key_words());
        let (entry, session) = context.shared.sessions.entry_of(&key, *hash, *place)?;
        let now = context.now.coarse();
        let is_tcp = packet.protocol() == Protocol::TCP;
        if session.generation() != context.policy.generation()
            || now.since(entry.last_seen()) >= if is_tcp { shortest.tcp } else { shortest.udp }
            || session.next_hop().is_watched()
        {
            return None;
        }
        let way = context.shared.next_hops.way(session.next_hop())?;
        if packet.length > way.mtu {
            return None;
        }
        if is_tcp {
            let end = packet.sequence_end(frame.bytes())?;
            if !entry.touch_established(packet.length, now, end) {
                return None;
            }
        } else {
            entry.touch(packet.length, now);
        }
        let (addresses, ports) = session.leaves_as();
        packet.rewrite(frame.bytes_mut(), addresses, ports);
        // Ethernet padding ends here: it is no part of the packet (RFC 894).
        frame.truncate(packet.end());
        tally.crossed(slot.port, way.port, packet.length);
        let Some(network) =
            wire::link::write_stations(frame, packet.network, way.stations, way.vlan)
        else {
            return Some(Verdict::Drop(DropReason::OutOfFrames));
        };
        tally.forwarded(way.port, usize::from(network) + usize::from(packet.length));
        Some(Verdict::Forward(way.port))
    }
}
