//! Route netlink, blocking and without a runtime: ask, list, follow.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A socket to ask the kernel and to change what it has.
pub struct Requests {
    socket: Socket,
    sequence_number: u32,
}

impl Requests {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence_number: 0 })
    }

    /// Has the kernel carry out `message`, and waits until it has.
    ///
    /// # Errors
    ///
    /// What the kernel answered.
    pub fn carry_out(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(|_| {})
    }

    /// Everything the kernel has of one kind. `message` is the kind's `Get` message.
    ///
    /// # Errors
    ///
    /// What the kernel answered.
    pub fn list(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut list = Vec::new();
        self.answers(|message| list.push(message))?;
        Ok(list)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence_number = self.sequence_number.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence_number;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// Reads until the last answer to the last request.
    fn answers(&self, mut take: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            for message in messages(&receive(&self.socket)?) {
                if message.header.sequence_number != self.sequence_number {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => take(message),
                    _ => {}
                }
            }
        }
    }
}

/// A socket on which the kernel tells what changes.
pub struct Events {
    socket: Socket,
}

impl Events {
    /// Follows links, neighbours, addresses and IPv4 routes. Never blocks.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // A burst that does not fit is an error that makes us list all again, so rather have room.
        socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// What has changed since the last call: at most one datagram of it, empty if nothing.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when events were lost: everything has to be listed again.
    pub fn read(&self) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        match receive(&self.socket) {
            Ok(bytes) => Ok(Some(
                messages(&bytes)
                    .filter_map(|message| match message.payload {
                        NetlinkPayload::InnerMessage(message) => Some(message),
                        _ => None,
                    })
                    .collect(),
            )),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The lists that a view is made of, in an order in which each refers to what came before.
#[must_use]
pub fn list_requests() -> [RouteNetlinkMessage; 6] {
    let addresses = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
        let mut address = AddressMessage::default();
        address.header.family = family;
        RouteNetlinkMessage::GetAddress(address)
    });
    let neighbors = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
        let mut neighbor = NeighbourMessage::default();
        neighbor.header.family = family;
        RouteNetlinkMessage::GetNeighbour(neighbor)
    });
    let ([ipv4, ipv6], [neighbors, neighbors_ipv6]) = (addresses, neighbors);
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    [
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        ipv4,
        ipv6,
        RouteNetlinkMessage::GetRoute(route),
        neighbors,
        neighbors_ipv6,
    ]
}

/// Every sound message of a datagram; one that cannot be read is passed over.
fn messages(bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let length = rest.get(..4)?.try_into().map(u32::from_ne_bytes).ok()?;
            let length = usize::try_from(length).ok()?;
            if length < HEADER_BYTES {
                return None;
            }
            let message = rest.get(..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            match NetlinkMessage::deserialize(message) {
                Ok(message) => return Some(message),
                Err(error) => {
                    tracing::debug!(%error, "a netlink message that we do not understand")
                }
            }
        }
    })
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES);
        match socket.recv(&mut bytes, 0) {
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const HEADER_BYTES: usize = 16;
/// The kernel never puts more into one datagram of a list than this.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// A share of address changes with their routes fits many times over; it is used only as needed.
const RECEIVE_BUFFER_BYTES: u32 = 16 * 1024 * 1024;
/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`,
/// `RTNLGRP_IPV6_IFADDR`.
const GROUPS: [u32; 5] = [1, 3, 5, 7, 9];

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(messages: &[RouteNetlinkMessage]) -> Vec<u8> {
        let mut datagram = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message.clone());
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            datagram.extend_from_slice(&bytes);
        }
        datagram
    }

    #[test]
    fn a_datagram_is_read_message_by_message() {
        let requests = list_requests();
        let read: Vec<_> = messages(&datagram(&requests)).map(|message| message.payload).collect();
        assert_eq!(read, requests.map(NetlinkPayload::InnerMessage));
    }

    #[test]
    fn no_bytes_make_the_reader_hang_or_panic() {
        let whole = datagram(&list_requests());
        for end in 0..whole.len() {
            assert!(messages(&whole[..end]).count() <= 6);
        }
        for length in [0_u32, 1, 15, u32::MAX] {
            let mut broken = whole.clone();
            broken[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&broken).count(), 0);
        }
    }

    #[test]
    fn the_kernel_lists_the_loopback_interface() {
        let mut requests = Requests::open().expect("netlink");
        let [links, ..] = list_requests();
        let links = requests.list(links).expect("a list");
        assert!(links.iter().any(|message| matches!(
            message,
            RouteNetlinkMessage::NewLink(link) if link.header.index == 1
        )));
    }
}
