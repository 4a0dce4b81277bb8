//! Our own ARP: asking, announcing, probing, listening, one socket an interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

use super::plan::Segment;
use crate::flow::{Mac, PortId};
use crate::io::packet::PacketSocket;
use crate::next_hop::Neighbor;
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

    /// Asks for `neighbor` from the address `sender`: the station `destination`, or everybody.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn ask(
        &self,
        neighbor: Neighbor,
        sender: Ipv4Addr,
        destination: Option<Mac>,
    ) -> io::Result<()> {
        let IpAddr::V4(address) = neighbor.address else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        self.send(neighbor.vlan, sender, address, destination.unwrap_or(Mac::BROADCAST))
    }

    /// Tells everybody on the link that the address of `segment` is ours (RFC 5227, section 2.3).
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn announce(&self, segment: Segment) -> io::Result<()> {
        self.send(segment.vlan, segment.address, segment.address, Mac::BROADCAST)
    }

    /// Asks whether somebody else has the address of `segment` (RFC 5227, section 2.1.1).
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn probe(&self, segment: Segment) -> io::Result<()> {
        self.send(segment.vlan, Ipv4Addr::UNSPECIFIED, segment.address, Mac::BROADCAST)
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

    fn send(
        &self,
        vlan: u16,
        sender: Ipv4Addr,
        target: Ipv4Addr,
        destination: Mac,
    ) -> io::Result<()> {
        let message = Arp {
            vlan,
            operation: ArpOperation::Request,
            sender_mac: self.mac,
            sender,
            target_mac: Mac::default(),
            target,
        };
        // Ethernet's shortest frame: what is behind the message stays zero.
        let mut frame = [0; FRAME_BYTES];
        let written = arp::write(&mut frame, self.mac, destination, &message).is_some();
        if written { self.socket.send(&frame) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
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
