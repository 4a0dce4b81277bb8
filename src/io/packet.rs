//! An `AF_PACKET` socket: whole frames of one EtherType on one interface, past the kernel's network layer.
//!
//! Slow and simple beside AF_XDP: it serves for the few frames a second that `host` sends itself.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A socket bound to one interface and one EtherType.
pub struct PacketSocket {
    descriptor: OwnedFd,
}

/// A received frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// Its length, as far as it fitted into the buffer.
    pub length: usize,
    /// Whether it was meant for another station, or came with a VLAN tag of which the kernel has no
    /// interface. (It takes the tag out of the bytes, and leaves no other trace of it.)
    pub is_foreign: bool,
}

impl PacketSocket {
    /// A non-blocking socket for frames of `ethertype` on the interface `interface_index`.
    ///
    /// # Errors
    ///
    /// As the kernel says: without `CAP_NET_RAW`, or when there is no such interface.
    pub fn open(interface_index: u32, ethertype: u16) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol zero: nothing is received before the socket is bound to its interface.
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        let socket = Self { descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } };
        socket.ignore_outgoing()?;
        socket.bind(interface_index, ethertype)?;
        Ok(socket)
    }

    /// Sends one frame, Ethernet header included.
    ///
    /// # Errors
    ///
    /// As the kernel says, `ENETDOWN` or `ENXIO` among them.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a slice that outlives the call.
        let sent = unsafe {
            libc::send(self.descriptor.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame that waits, or none.
    ///
    /// # Errors
    ///
    /// As the kernel says, `ENETDOWN` among them.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut address = zeroed_address();
        let mut address_length = ADDRESS_LENGTH;
        // SAFETY: each pointer is to a buffer of the length beside it, and all outlive the call.
        let length = unsafe {
            libc::recvfrom(
                self.descriptor.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut address).cast(),
                &raw mut address_length,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        };
        let is_foreign = address.sll_pkttype == libc::PACKET_OTHERHOST;
        Ok(Some(Received { length, is_foreign }))
    }

    /// What leaves by the interface is none of ours to receive.
    fn ignore_outgoing(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option is an integer, and pointer and length are those of one.
        let result = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn bind(&self, interface_index: u32, ethertype: u16) -> io::Result<()> {
        let mut address = zeroed_address();
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = libc::c_int::try_from(interface_index)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        let length = ADDRESS_LENGTH;
        // SAFETY: pointer and length are those of a `sockaddr_ll` that outlives the call.
        let result =
            unsafe { libc::bind(self.descriptor.as_raw_fd(), (&raw const address).cast(), length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn zeroed_address() -> libc::sockaddr_ll {
    // SAFETY: a `sockaddr_ll` is made of integers, for which zero is a value.
    unsafe { mem::zeroed() }
}

const ADDRESS_LENGTH: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
