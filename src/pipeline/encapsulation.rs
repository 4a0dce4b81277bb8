//! Networks under two tags and inside VXLAN: the first step of their frames' way, and the last.
//!
//! Between the two they are frames under one tag, the stand-in, on a side of the interface of their
//! own ([`PortId::double_tagged`], [`PortId::vxlan`]): nothing else in the pipeline knows of them.

use std::net::Ipv4Addr;

use crate::flow::PortId;
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::{Neighbor, NextHopId, Resolution};
use crate::pipeline::batch::Slot;
use crate::pipeline::waiting::Fate;
use crate::pipeline::{Context, Pipeline};
use crate::policy::Policy;
use crate::rules::set::Vxlan;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::wire::vxlan::Envelope;

/// What came of closing a frame.
enum Closed {
    /// It is ready for this interface.
    Ready(PortId),
    /// It has to wait for the way to its VTEP.
    Waits(NextHopId),
    /// It is dropped.
    Dropped(DropReason),
}

/// Room for frames that go to several VTEPs, and for those VTEPs.
pub(super) struct Replicas<F> {
    frames: Vec<(PortId, F)>,
    remotes: Vec<Ipv4Addr>,
}

impl<F> Replicas<F> {
    pub(super) fn new() -> Self {
        Self { frames: Vec::with_capacity(REMOTES_MAX), remotes: Vec::with_capacity(REMOTES_MAX) }
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// Takes off what received frames have more than one tag, and moves them to their sides. Those
    /// that are refused have their verdict at once, and may stand opened in their slots.
    pub(super) fn open_capsules(&mut self, slots: &mut [Slot<F>], policy: &Policy, now: Tick) {
        for slot in slots {
            let length = |slot: &Slot<F>| slot.frame.as_ref().map_or(0, |it| it.bytes().len());
            let (port, before) = (slot.port, length(slot));
            slot.verdict = match self.open_capsule(slot, policy, now) {
                Ok(()) => Verdict::Hold,
                Err(reason) => Verdict::Drop(reason),
            };
            // The rest counts with what is inside.
            let taken_off = before.saturating_sub(length(slot));
            self.counters.received_many(port, 0, taken_off as u64);
        }
    }

    fn open_capsule(
        &self,
        slot: &mut Slot<F>,
        policy: &Policy,
        now: Tick,
    ) -> Result<(), DropReason> {
        let Slot { frame: Some(frame), port, .. } = slot else { return Ok(()) };
        let encapsulations = policy.encapsulations();
        if let Some(tags) = wire::tags::double_tag(frame.bytes()) {
            let stand_in = encapsulations.of_tags(*port, tags).ok_or(DropReason::UnknownVlan)?;
            wire::tags::pop_outer(frame, stand_in).ok_or(DropReason::Truncated)?;
            *port = port.double_tagged();
            return Ok(());
        }
        match wire::vxlan::destination(frame.bytes()) {
            Some(local) if encapsulations.is_vtep(*port, local) => {}
            Some(_) | None => return Ok(()),
        }
        if !self.is_for_us(frame.bytes(), *port) {
            return Err(DropReason::MacNotOurs);
        }
        let opened = wire::vxlan::open(frame.bytes())?;
        let stand_in = encapsulations.of_vni(*port, opened.vni);
        let vxlan = stand_in.and_then(|stand_in| Some((stand_in, encapsulations.vxlan(stand_in)?)));
        let (stand_in, vxlan) = vxlan
            .filter(|(_, vxlan)| vxlan.local == opened.local)
            .ok_or(DropReason::VxlanUnknownVni)?;
        if !may_take_part(vxlan, opened.remote) {
            return Err(DropReason::VxlanUnknownRemote);
        }
        let is_opened = frame.set_length(usize::from(opened.end))
            && frame.trim_front(usize::from(opened.inner))
            && wire::tags::push(frame, stand_in).is_some();
        if !is_opened {
            return Err(DropReason::VxlanMalformed);
        }
        if let Some((_, station)) = wire::parse::macs(frame.bytes())
            && station != self.shared.next_hops.source_mac(*port)
        {
            self.shared.next_hops.stations().heard(stand_in, station, opened.remote, now);
        }
        *port = port.vxlan();
        Ok(())
    }

    /// Puts on all frames that leave by a side what they have on the wire.
    pub(super) fn close_capsules<S: FrameSource<Frame = F>>(
        &mut self,
        slots: &mut [Slot<F>],
        context: &mut Context<'_, F, S>,
    ) {
        self.tally.settle_sides(&self.counters);
        for slot in slots {
            if let Verdict::Forward(side) = slot.verdict
                && side.is_encapsulated()
            {
                slot.verdict = self.close_one(&mut slot.frame, side, context);
                self.count(slot.verdict);
            } else if let Verdict::Host(reason) = slot.verdict
                && slot.port.is_encapsulated()
            {
                self.counters.not_hosted(reason);
                slot.verdict = Verdict::Drop(DropReason::HostPathMissing);
                self.count(slot.verdict);
            }
        }
        let mut place = 0;
        while let Some((side, _)) = context.extra.get(place) {
            let side = *side;
            if side.is_encapsulated() {
                let (_, frame) = context.extra.remove(place);
                let mut slot = Some(frame);
                let verdict = self.close_one(&mut slot, side, context);
                self.count(verdict);
                match (verdict, slot) {
                    (Verdict::Forward(to), Some(frame)) => {
                        context.extra.insert(place, (to, frame));
                    }
                    (_, Some(frame)) => {
                        context.frames.release(frame);
                        continue;
                    }
                    (_, None) => continue,
                }
            }
            place += 1;
        }
        for (port, frame) in self.replicas.frames.drain(..) {
            if context.extra.len() < context.extra.capacity() {
                self.counters.forwarded(port, frame.bytes().len());
                context.extra.push((port, frame));
            } else {
                context.frames.release(frame);
            }
        }
        while let Some(place) = context.host.iter().position(|(port, ..)| port.is_encapsulated()) {
            let (_, reason, frame) = context.host.remove(place);
            self.counters.not_hosted(reason);
            self.counters.dropped(DropReason::HostPathMissing);
            context.frames.release(frame);
        }
    }

    /// Closes one frame. It was counted as forwarded before, without what is put on here.
    fn close_one<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        side: PortId,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_mut() else { return Verdict::Hold };
        let length = frame.bytes().len();
        match self.closed(frame, side, context) {
            Closed::Ready(port) => {
                let more = frame.bytes().len().saturating_sub(length);
                self.counters.forwarded_many(port, 0, more as u64);
                Verdict::Forward(port)
            }
            Closed::Dropped(reason) => {
                self.counters.not_forwarded(side, length);
                Verdict::Drop(reason)
            }
            Closed::Waits(id) => {
                self.counters.not_forwarded(side, length);
                let link = context.shared.next_hops.link(id);
                self.wait(slot, side, (id, &link), Fate::Close, context)
            }
        }
    }

    fn closed<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        side: PortId,
        context: &mut Context<'_, F, S>,
    ) -> Closed {
        let encapsulations = context.policy.encapsulations();
        let Some(stand_in) = wire::tags::tag(frame.bytes()) else {
            return Closed::Dropped(DropReason::UnknownVlan);
        };
        if !side.is_vxlan() {
            let tags = encapsulations.tags(stand_in);
            return match tags.and_then(|tags| wire::tags::push_outer(frame, &tags)) {
                Some(()) => Closed::Ready(side.interface()),
                None => Closed::Dropped(DropReason::UnknownVlan),
            };
        }
        let Some(vxlan) = encapsulations.vxlan(stand_in) else {
            return Closed::Dropped(DropReason::UnknownVlan);
        };
        let stations = context.shared.next_hops.stations();
        let station = wire::parse::macs(frame.bytes()).map(|(destination, _)| destination);
        let known = station.and_then(|station| stations.find(stand_in, station, context.now));
        if wire::tags::pop(frame).is_none() {
            return Closed::Dropped(DropReason::Truncated);
        }
        let closed = match known.filter(|remote| may_take_part(vxlan, *remote)) {
            Some(remote) => send_to(frame, remote, vxlan, side.interface(), context),
            None => self.replicate(frame, (stand_in, vxlan), side.interface(), context),
        };
        if let Closed::Waits(_) = closed
            && wire::tags::push(frame, stand_in).is_none()
        {
            return Closed::Dropped(DropReason::OutOfFrames);
        }
        closed
    }

    /// Sends a frame to every VTEP of its network, as nobody has heard of its station (RFC 7348,
    /// section 4.2, without multicast): the others get copies, the last one the frame itself.
    #[cold]
    fn replicate<S: FrameSource<Frame = F>>(
        &mut self,
        frame: &mut F,
        (stand_in, vxlan): (u16, &Vxlan),
        interface: PortId,
        context: &mut Context<'_, F, S>,
    ) -> Closed {
        let Replicas { frames, remotes } = &mut self.replicas;
        remotes.clear();
        let mut add = |remote: Ipv4Addr| {
            if remotes.len() < REMOTES_MAX && !remotes.contains(&remote) {
                remotes.push(remote);
            }
        };
        vxlan.remotes.iter().copied().for_each(&mut add);
        if vxlan.learning {
            let stations = context.shared.next_hops.stations();
            stations.for_each_remote(stand_in, context.now, &mut add);
        }
        // Copies are not held, so nothing is sent before each VTEP is within reach, or given up.
        let mut pending = None;
        remotes.retain(|remote| match way(*remote, vxlan, interface, context) {
            Some((id, Resolution::Pending)) => {
                context.shared.next_hops.want(id);
                pending = Some(id);
                true
            }
            Some((_, Resolution::Reachable(_))) => true,
            Some((id, Resolution::Failed)) => {
                context.shared.next_hops.want(id);
                false
            }
            None => false,
        });
        if let Some(id) = pending {
            return Closed::Waits(id);
        }
        let Some(last) = remotes.pop() else {
            return Closed::Dropped(DropReason::NeighborUnreachable);
        };
        for remote in remotes.drain(..).take(frames.capacity() - frames.len()) {
            let Some(mut copy) = context.frames.allocate() else { break };
            let is_ready = copy.set_length(frame.bytes().len()) && {
                copy.bytes_mut().copy_from_slice(frame.bytes());
                matches!(send_to(&mut copy, remote, vxlan, interface, context), Closed::Ready(_))
            };
            match is_ready {
                true => frames.push((interface, copy)),
                false => context.frames.release(copy),
            }
        }
        send_to(frame, last, vxlan, interface, context)
    }
}

/// Closes an untagged frame for `remote`.
fn send_to<F: FrameBuffer, S>(
    frame: &mut F,
    remote: Ipv4Addr,
    vxlan: &Vxlan,
    interface: PortId,
    context: &Context<'_, F, S>,
) -> Closed {
    let Some((id, resolution)) = way(remote, vxlan, interface, context) else {
        return Closed::Dropped(DropReason::NeighborUnreachable);
    };
    match resolution {
        Resolution::Reachable(destination) => {
            let source = context.shared.next_hops.source_mac(interface);
            let (local, vni) = (vxlan.local, vxlan.vni);
            let envelope = Envelope { destination, source, local, remote, vni };
            match wire::vxlan::close(frame, &envelope) {
                Some(()) => Closed::Ready(interface),
                None => Closed::Dropped(DropReason::OutOfFrames),
            }
        }
        Resolution::Pending => Closed::Waits(id),
        Resolution::Failed => {
            context.shared.next_hops.want(id);
            Closed::Dropped(DropReason::NeighborUnreachable)
        }
    }
}

/// The next hop towards a VTEP, and how far its resolution has come.
fn way<F, S>(
    remote: Ipv4Addr,
    vxlan: &Vxlan,
    interface: PortId,
    context: &Context<'_, F, S>,
) -> Option<(NextHopId, Resolution)> {
    let address = vxlan.next_hop(remote)?.into();
    let next_hops = &context.shared.next_hops;
    let id = next_hops.id(Neighbor { port: interface, vlan: 0, address })?;
    Some((id, next_hops.link(id).destination))
}

/// Whether frames from and to a VTEP belong to the network.
fn may_take_part(vxlan: &Vxlan, remote: Ipv4Addr) -> bool {
    remote != vxlan.local && (vxlan.learning || vxlan.remotes.contains(&remote))
}

/// VTEPs that get a frame whose station nobody has heard of.
const REMOTES_MAX: usize = 256;
