//! The way to the dataplane's sockets that is no interface's own driver: a veth pair, for an interface whose packets
//! are taken at the kernel's traffic control (`carry.bpf.h`). They go in at one end and come out at the other as
//! frames, cut to size, with finished checksums and with their tags, because the end that they go in by offers the
//! kernel to do none of that.

use std::fs;
use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::io::xdp::attach::exchange;
use crate::io::xdp::device::{Device, Queues};
use crate::io::xdp::offloads;

/// A feeder. Dropping it takes both ends away, and what waits between them.
#[derive(Debug)]
pub struct Feeder {
    /// Where packets go in.
    near: String,
    near_index: u32,
    /// Where frames come out.
    far: Device,
}

impl Feeder {
    /// Removes the feeder of `device` that a former natwerk left.
    pub fn remove_former(device: &Device) {
        remove(&near(device));
    }

    /// Makes the feeder of `device`, with a queue for each of its own.
    ///
    /// # Errors
    /// What the kernel says, `ENOTSUP` where it does not let the end leave everything to it, `EMSGSIZE` if frames of
    /// `device` are too large.
    pub fn make(device: &Device) -> io::Result<Self> {
        if device.mtu + TAGS > MTU {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let (near, far) = (near(device), format!("nwx{}", device.index));
        make(device, &near, &far)?;
        // Made: from here on it is removed again if anything goes wrong.
        let mut feeder = Self { far: Device::find(&far)?, near_index: 0, near };
        let near = Device::find(&feeder.near)?;
        feeder.near_index = near.index;
        let queues = device.queues.receive;
        feeder.far.queues = Queues { receive: queues, transmit: queues };
        for feature in LEFT_TO_THE_KERNEL {
            offloads::set(&near.name, feature, false)?;
        }
        for name in [&near.name, &feeder.far.name] {
            // The kernel is to say nothing of its own on it. Without IPv6 there is no such file.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
            change(RouteNetlinkMessage::SetLink(switched_on(name)), 0)?;
        }
        Ok(feeder)
    }

    /// The kernel's number of the end that packets go in by.
    #[must_use]
    pub const fn near(&self) -> u32 {
        self.near_index
    }

    /// The end that frames come out of.
    #[must_use]
    pub const fn far(&self) -> &Device {
        &self.far
    }

    /// Whether somebody removed it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        Device::index_of(&self.near) != Some(self.near_index)
    }

    /// Packets that were dropped since it was made, because more came than were taken out.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_dropped", self.near);
        fs::read_to_string(path).ok().and_then(|told| told.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        remove(&self.near);
    }
}

/// The name of the end of a device's feeder that packets go in by.
fn near(device: &Device) -> String {
    format!("nwf{}", device.index)
}

/// Removes a pair, if it is there.
fn remove(name: &str) {
    let Some(index) = Device::index_of(name) else { return };
    let mut message = LinkMessage::default();
    message.header.index = index;
    if let Err(error) = change(RouteNetlinkMessage::DelLink(message), 0) {
        tracing::warn!("{name} cannot be removed: {error}");
    }
}

fn make(device: &Device, near: &str, far: &str) -> io::Result<()> {
    let end = |name: &str| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(MTU),
            LinkAttribute::NumTxQueues(device.queues.receive),
            LinkAttribute::NumRxQueues(device.queues.receive),
        ];
        message
    };
    let mut message = end(near);
    let peer = InfoData::Veth(InfoVeth::Peer(end(far)));
    let kind = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(peer)];
    message.attributes.push(LinkAttribute::LinkInfo(kind));
    change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn switched_on(name: &str) -> LinkMessage {
    let flags = LinkFlags::Up | LinkFlags::Noarp;
    let mut message = LinkMessage::default();
    message.header.flags = flags;
    message.header.change_mask = flags;
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}

fn change(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).map(|_| ())
}

/// What a veth would leave undone: see `ethtool -k`.
const LEFT_TO_THE_KERNEL: [&str; 3] =
    ["tx-checksum-ip-generic", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];
/// Bytes of two tags.
const TAGS: u32 = 8;
/// What a veth takes at most if its other end has an XDP program.
const MTU: u32 = 3500;
