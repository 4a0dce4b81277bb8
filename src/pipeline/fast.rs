//! The fast path: a plain packet of a session that is known, current and leads somewhere. It reads
//! three cache lines (frame, index word, entry), all of them asked for one pass before.
//!
//! Every question here has "no" for an answer that costs nothing but time: the packet then goes the
//! general way ([`Pipeline::forward`]), which does the same to the packets that both take.

use crate::flow::{PortId, Protocol, Realm};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::Resolution;
use crate::pipeline::{Context, Pipeline};
use crate::policy::Policy;
use crate::session::entry::EntryIndex;
use crate::session::shape::PackedKey;
use crate::session::table::Hash;
use crate::session::tcp::{self, Judgement, TcpState};
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::wire::plain::Plain;
use crate::wire::segment;

/// A plain packet with what the lookup needs.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    packet: Plain,
    realm: Realm,
    pub(super) hash: Hash,
    /// Where its entry stands, if it stands where it would most likely.
    pub(super) place: Option<EntryIndex>,
}

impl<F: FrameBuffer> Pipeline<F> {
    /// First pass over a frame: what it is, if it is plain, and the hash of its key.
    #[inline]
    pub(super) fn glance(&self, frame: &F, port: PortId, policy: &Policy) -> Option<Glance> {
        let packet = Plain::read(frame.bytes())?;
        if !self.is_for_us(frame.bytes(), port) {
            return None;
        }
        let realm = policy.realm_of(port, packet.vlan, packet.source())?;
        let hash =
            self.shared.sessions.hash_packed(&PackedKey::from_words(packet.key_words(realm)));
        Some(Glance { packet, realm, hash, place: None })
    }

    /// The last pass: does what the packet's session says. None, and nothing was changed, if the
    /// packet has to go the general way.
    #[inline]
    pub(super) fn fast<S: FrameSource<Frame = F>>(
        &self,
        slot: &mut Option<F>,
        glance: &Glance,
        context: &Context<'_, F, S>,
    ) -> Option<Verdict> {
        let Glance { packet, realm, hash, place } = glance;
        let frame = slot.as_mut()?;
        let key = PackedKey::from_words(packet.key_words(*realm));
        let (entry, session) = context.shared.sessions.entry_of(&key, *hash, *place)?;
        let now = context.now.coarse();
        if session.generation() != context.policy.generation()
            || now.since(entry.last_seen()) >= self.sweep.shortest_timeout(packet.protocol())
        {
            return None;
        }
        if session.next_hop().is_limited() {
            return None;
        }
        let link = context.shared.next_hops.link(session.next_hop());
        let Resolution::Reachable(destination) = link.destination else { return None };
        if packet.length > link.mtu {
            return None;
        }
        if packet.protocol() == Protocol::TCP {
            let own = entry.tcp();
            if !own.acknowledged {
                return None;
            }
            let seen = segment::segment(frame.bytes(), packet.transport(), packet.end());
            let judged = tcp::judge(&seen, own, TcpState::default);
            let Judgement::Believe(state) = judged else { return None };
            if state != own {
                entry.set_tcp(state);
            }
        }
        entry.touch(packet.length, now);
        let (addresses, ports, address_delta) = session.leaves_as();
        packet.rewrite(frame.bytes_mut(), addresses, ports, address_delta);
        // Ethernet padding ends here: it is no part of the packet (RFC 894).
        let sent = frame.set_length(usize::from(packet.end()))
            && wire::link::write_header(frame, packet.network, destination, link.source, link.vlan)
                .is_some();
        if !sent {
            return Some(Verdict::Drop(DropReason::OutOfFrames));
        }
        self.counters.forwarded(link.port, frame.bytes().len());
        Some(Verdict::Forward(link.port))
    }
}
