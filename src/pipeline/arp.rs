//! ARP where the kernel has no interface for it: tagged networks. natwerk answers for their
//! gateways and learns their guests' link addresses (RFC 826).

use crate::flow::PortId;
use crate::frame::{FrameBuffer, FrameSource};
use crate::next_hop::{Neighbor, Resolution};
use crate::pipeline::{Context, Pipeline, Ready};
use crate::policy::Attachment;
use crate::verdict::{DropReason, HostReason, Verdict};
use crate::wire;
use crate::wire::arp::{Arp, ArpOperation};

impl<F: FrameBuffer> Pipeline<F> {
    /// A frame that is no sound IPv4: ARP, or nothing for us.
    #[cold]
    pub(super) fn unparsed<S: FrameSource<Frame = F>>(
        &mut self,
        slot: &mut Option<F>,
        port: PortId,
        reason: DropReason,
        context: &mut Context<'_, F, S>,
    ) -> Verdict {
        let Some(frame) = slot.as_mut().filter(|_| reason == DropReason::NotForwardable) else {
            return Verdict::Drop(reason);
        };
        let Some(arp) = wire::arp::parse(frame.bytes()) else { return Verdict::Drop(reason) };
        if arp.vlan == 0 {
            return Verdict::Host(HostReason::ArpForKernel);
        }
        match context.policy.attachment(port, arp.vlan) {
            Some(Attachment::Guest(first)) => {
                let own = context.policy.guest_network(port, arp.vlan, arp.sender);
                let network = context.policy.network(own.unwrap_or(first));
                // Nobody else is the gateway, and nobody speaks from outside the network
                // (ARP claims); who has no address yet may ask whether one is free (RFC 5227,
                // section 2.1.1).
                let is_inside = network.cidr.contains(arp.sender) || arp.is_probe();
                if !is_inside || arp.sender == network.gateway {
                    return Verdict::Drop(DropReason::SourceSpoofed);
                }
                self.learn(port, &arp, context);
                self.reply(frame, port, &arp, arp.target == network.gateway, context)
            }
            Some(Attachment::Public) => {
                if context.policy.public_address(arp.sender).is_some() {
                    return Verdict::Drop(DropReason::SourceSpoofed);
                }
                self.learn(port, &arp, context);
                let ours = context.policy.public_address(arp.target).is_some();
                self.reply(frame, port, &arp, ours, context)
            }
            None => Verdict::Drop(DropReason::UnknownVlan),
        }
    }

    /// Remembers where a neighbour is, if anybody sends to it.
    fn learn<S>(&self, port: PortId, arp: &Arp, context: &Context<'_, F, S>) {
        if arp.sender_mac.is_group() || arp.sender.is_unspecified() {
            return;
        }
        let neighbor = Neighbor { port, vlan: arp.vlan, address: arp.sender.into() };
        context.shared.next_hops.set(neighbor, Resolution::Reachable(arp.sender_mac));
    }

    /// Remembers where the guest is that just opened a session from a tagged network, if nobody
    /// has asked for it in vain or with success: its reply need not wait for ARP.
    pub(super) fn learn_sender<S>(
        &self,
        frame: &F,
        port: PortId,
        ready: &Ready,
        context: &Context<'_, F, S>,
    ) {
        let Attachment::Guest(id) = ready.attachment else { return };
        let network = context.policy.network(id);
        let (vlan, address) = (ready.packet.vlan, ready.packet.source.address);
        if vlan == 0 || !network.cidr.contains(address) || address == network.gateway {
            return;
        }
        let next_hops = &context.shared.next_hops;
        let neighbor = Neighbor { port, vlan, address: address.into() };
        let is_pending = next_hops
            .find(neighbor)
            .is_some_and(|hop| next_hops.link(hop).destination == Resolution::Pending);
        if is_pending && let Some((_, sender)) = wire::parse::macs(frame.bytes()) {
            next_hops.set(neighbor, Resolution::Reachable(sender));
        }
    }

    fn reply<S>(
        &self,
        frame: &mut F,
        port: PortId,
        arp: &Arp,
        ours: bool,
        context: &Context<'_, F, S>,
    ) -> Verdict {
        if arp.operation != ArpOperation::Request || !ours {
            return Verdict::Drop(DropReason::NotForwardable);
        }
        let mac = context.shared.next_hops.source_mac(port);
        let reply = Arp {
            vlan: arp.vlan,
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender: arp.target,
            target_mac: arp.sender_mac,
            target: arp.sender,
        };
        match wire::arp::write(frame.bytes_mut(), mac, arp.sender_mac, &reply) {
            Some(length) if frame.set_length(length) => {
                self.counters.forwarded(port, length);
                Verdict::Forward(port)
            }
            Some(_) | None => Verdict::Drop(DropReason::Truncated),
        }
    }
}
