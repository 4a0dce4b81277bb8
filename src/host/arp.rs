//! Our own ARP: requests, and what is heard, one socket an interface.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::flow::{Mac, PortId};
use crate::io::packet::PacketSocket;
use crate::wire::arp::{self, Arp, ArpOperation};

/// ARP on one interface. Frames for tagged networks go out through it too; what comes back with a
/// tag is not heard here but by the pipeline.
pub struct ArpSocket {
    port: PortId,
    socket: PacketSocket,
    mac: Mac,
}

impl ArpSocket {
    /// A socket on the interface `interface_index`, which is `port` and has the address `mac`.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn open(port: PortId, interface_index: u32, mac: Mac) -> io::Result<Self> {
        Ok(Self { port, socket: PacketSocket::open(interface_index, ETHERTYPE_ARP)?, mac })
    }

    /// The interface.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Sends `frame` as it is.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame)
    }

    /// The interface's link address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Everything that was said to us or all on the link itself, outside of tags, since the last call.
    pub fn heard(&self) -> Vec<Arp> {
        let mut heard = Vec::new();
        let mut buffer = [0; FRAME_BYTES];
        for _ in 0..HEARD_COUNT_MAX {
            match self.socket.receive(&mut buffer) {
                Ok(Some(received)) if received.is_foreign => {}
                Ok(Some(received)) => {
                    heard.extend(buffer.get(..received.length).and_then(arp::parse));
                }
                Ok(None) => break,
                // The link is down or gone; netlink tells of it.
                Err(_) => {}
            }
        }
        heard
    }
}

/// A request from `sender` for `target`: a probe if the sender is unspecified (RFC 5227, section
/// 2.1.1), an announcement if both are the same (section 2.3).
#[must_use]
pub fn request(
    mac: Mac,
    vlan: u16,
    sender: Ipv4Addr,
    target: Ipv4Addr,
    destination: Mac,
) -> [u8; FRAME_BYTES] {
    let message = Arp {
        vlan,
        operation: ArpOperation::Request,
        sender_mac: mac,
        sender,
        target_mac: Mac::default(),
        target,
    };
    // Ethernet's shortest frame: what is behind the message stays zero, and there is room for it.
    let mut frame = [0; FRAME_BYTES];
    let _ = arp::write(&mut frame, mac, destination, &message);
    frame
}

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const ETHERTYPE_ARP: u16 = 0x0806;
/// The shortest frame without its check sequence; an ARP message fits with room to spare.
const FRAME_BYTES: usize = 60;
/// Messages heard in one go: a flood must not keep the thread from its other work.
const HEARD_COUNT_MAX: usize = 256;
