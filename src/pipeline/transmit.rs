//! The last step of a frame's way: cut it if it must be, and write the link header.

use crate::flow::{Mac, PortId};
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::Link;
use crate::pipeline::admit::network_of;
use crate::pipeline::{Context, Pipeline};
use crate::policy::Policy;
use crate::rules::set::MssClamp;
use crate::session::table::Found;
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::wire::parse::Parsed;

impl<F: FrameBuffer> Pipeline<F> {
    /// Sends a rewritten packet, which came in on `from`, to `destination` over `link`.
    pub(super) fn transmit<S: FrameSource<Frame = F>>(
        &self,
        from: PortId,
        frame: &mut F,
        packet: &Parsed,
        link: &Link,
        destination: Mac,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        self.counters.crossed(from, link.port, packet.packet_length());
        if packet.packet_length() > link.mtu {
            return self.cut(frame, packet, link, destination, context);
        }
        // Ethernet padding ends here: it is no part of the packet (RFC 894).
        if !frame.set_length(usize::from(packet.end)) {
            return Verdict::Drop(DropReason::Truncated);
        }
        self.send(frame, packet.network, link, destination)
    }

    fn send(&self, frame: &mut F, network: u16, link: &Link, destination: Mac) -> Verdict {
        if wire::link::write_header(frame, network, destination, link.source, link.vlan).is_none() {
            return Verdict::Drop(DropReason::OutOfFrames);
        }
        self.counters.forwarded(link.port, frame.bytes().len());
        Verdict::Forward(link.port)
    }

    /// Cuts a packet that is too long for the link into fragments (RFC 791, section 3.2): the first
    /// stays in its frame, the others get frames of their own, in order.
    #[cold]
    pub(super) fn cut<S: FrameSource<Frame = F>>(
        &self,
        frame: &mut F,
        packet: &Parsed,
        link: &Link,
        destination: Mac,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let bytes = frame.bytes();
        let Some(original) = bytes.get(usize::from(packet.network)..usize::from(packet.end)) else {
            return Verdict::Drop(DropReason::Truncated);
        };
        let first_extra = context.extra.len();
        let complete = wire::fragment::split(original, link.mtu, |header, payload| {
            let length = ETHERNET_HEADER + header.len() + payload.len();
            let Some(mut piece) = context.frames.allocate() else { return false };
            let sent = context.extra.len() < context.extra.capacity()
                && piece.set_length(length)
                && fill(piece.bytes_mut(), header, payload)
                && matches!(self.send(&mut piece, 14, link, destination), Verdict::Forward(_));
            if sent {
                context.extra.push((link.port, piece));
            } else {
                context.frames.release(piece);
            }
            sent
        });
        if !complete {
            // Half a datagram is of no use to anybody.
            for (to, piece) in context.extra.drain(first_extra..) {
                self.counters.not_forwarded(to, piece.bytes().len());
                context.frames.release(piece);
            }
            return Verdict::Drop(DropReason::OutOfFrames);
        }
        // The first fragment takes the place of the whole packet, so that its frame is not lost;
        // the others are in line behind it.
        if first_extra >= context.extra.len() {
            return Verdict::Drop(DropReason::FragmentBad);
        }
        let (port, first) = context.extra.remove(first_extra);
        context.frames.release(std::mem::replace(frame, first));
        Verdict::Forward(port)
    }

    /// Lowers the MSS of a SYN where the guest's network says so.
    #[cold]
    pub(super) fn clamp_mss(
        &self,
        frame: &mut F,
        packet: &Parsed,
        found: &Found<'_>,
        policy: &Policy,
    ) {
        let Some(view) = self.shared.sessions.view(found.index) else { return };
        let session = &view.session;
        let mtu = [session.initiator_next_hop, session.responder_next_hop]
            .map(|hop| self.shared.next_hops.link(hop).mtu)
            .into_iter()
            .min()
            .unwrap_or(u16::MAX);
        let guests = [
            (session.initiator.realm, session.initiator.source.address),
            (session.responder.realm, session.responder.source.address),
        ];
        let clamps = guests.into_iter().filter_map(|(realm, guest)| {
            let network = policy.network(network_of(policy, realm, guest)?);
            Some(match network.mss_clamp? {
                MssClamp::To(mss) => mss,
                MssClamp::PathMtu => mtu.saturating_sub(IPV4_AND_TCP_HEADER),
            })
        });
        if let Some(mss) = clamps.min() {
            wire::segment::clamp_mss(frame.bytes_mut(), packet.transport, packet.end, mss);
        }
    }
}

/// An untagged Ethernet header.
const ETHERNET_HEADER: usize = 14;
/// Both headers without options.
const IPV4_AND_TCP_HEADER: u16 = 40;

fn fill(bytes: &mut [u8], header: &[u8], payload: &[u8]) -> bool {
    let Some((link, rest)) = bytes.split_at_mut_checked(ETHERNET_HEADER) else { return false };
    let Some((start, end)) = rest.split_at_mut_checked(header.len()) else { return false };
    if end.len() != payload.len() {
        return false;
    }
    // `write_header` fills in the addresses; what matters here is that no tag is seen.
    link.fill(0);
    link[12..].copy_from_slice(&[0x08, 0x00]);
    start.copy_from_slice(header);
    end.copy_from_slice(payload);
    true
}
