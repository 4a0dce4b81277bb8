//! How shortcuts may leave by a device. Whether it takes frames that an XDP program redirects to it is asked of the
//! kernel's family `netdev` of generic netlink (Linux 6.3).

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::io::xdp::attach::exchange;
use crate::io::xdp::device::Device;

/// How packets and frames may leave by a device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ways {
    /// It takes frames that an XDP program redirects to it. A veth does while XDP or GRO is on at its other end,
    /// other devices mostly while they have a program.
    pub takes_frames: bool,
    /// It is a veth whose other end is in another network namespace and has no XDP program, so that packets may be
    /// handed to that end at once.
    pub is_passage: bool,
}

impl Ways {
    /// Those of `device` now. `features` is none if the kernel has nobody to ask.
    #[must_use]
    pub fn of(device: &Device, features: Option<&Features>) -> Self {
        Self {
            takes_frames: features.is_some_and(|it| it.takes_redirected(device.index)),
            // Large packets are not sent to an end with an XDP program.
            is_passage: device.is_veth && device.sends_large() && leads_elsewhere(device.index),
        }
    }
}

/// Whether the other end of a veth is in another network namespace.
fn leads_elsewhere(device: u32) -> bool {
    let mut question = LinkMessage::default();
    question.header.index = device;
    let reply = exchange(RouteNetlinkMessage::GetLink(question), NLM_F_REQUEST);
    let Ok(Some(RouteNetlinkMessage::NewLink(link))) = reply else { return false };
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
}

/// Asks the kernel what devices can do.
pub struct Features {
    socket: Socket,
    family: u16,
}

impl Features {
    /// Finds whom to ask.
    ///
    /// # Errors
    /// When this kernel has nobody, being older than 6.3.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let answer = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
        let family = value(&answer, CTRL_ATTR_FAMILY_ID).and_then(|id| Some(*id.first_chunk()?));
        let family = family.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { socket, family: u16::from_ne_bytes(family) })
    }

    #[must_use]
    fn takes_redirected(&self, device: u32) -> bool {
        let device = attribute(NETDEV_A_DEV_IFINDEX, &device.to_ne_bytes());
        let answer = ask(&self.socket, self.family, NETDEV_CMD_DEV_GET, &device);
        let features = answer.ok().and_then(|answer| {
            let features = value(&answer, NETDEV_A_DEV_XDP_FEATURES)?;
            Some(u64::from_ne_bytes(*features.first_chunk()?))
        });
        features.is_some_and(|features| features & NETDEV_XDP_ACT_NDO_XMIT != 0)
    }
}

/// Sends one request and returns the attributes of its answer.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADERS + attributes.len()).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(HEADERS + attributes.len());
    request.extend(length.to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Nobody else asks by this socket: neither a number nor a sender is needed.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..).and_then(|rest| rest.first_chunk()).copied().map(u16::from_ne_bytes);
    if kind != Some(family) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(answer.get(HEADERS..).unwrap_or_default().to_vec())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of this kind.
fn value(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let [a, b, c, d] = *attributes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

// linux/netlink.h, linux/genetlink.h and linux/netdev.h.
/// A netlink header and a generic one.
const HEADERS: usize = 16 + 4;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others() {
        let both = [attribute(7, b"abc"), attribute(9, &[1, 2])].concat();
        assert_eq!((value(&both, 7), value(&both, 9)), (Some(&b"abc"[..]), Some(&[1, 2][..])));
        assert_eq!((value(&both, 8), value(&[4, 0, 1], 1)), (None, None));
        assert_eq!(value(&[3, 0, 1, 0, 0, 0, 0, 0], 2), None, "no attribute is so short");
    }

    #[test]
    fn the_loopback_device_takes_no_frames() {
        let Ok(features) = Features::new() else {
            println!("skipped: this kernel has no family netdev of generic netlink");
            return;
        };
        assert!(!features.takes_redirected(1));
        assert!(!features.takes_redirected(u32::MAX));
    }
}
