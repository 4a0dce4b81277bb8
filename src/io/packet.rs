//! An `AF_PACKET` socket: whole frames of one EtherType on one interface, past the kernel's network layer.
//!
//! Slow and simple beside AF_XDP: it serves for the few frames a second that `host` sends itself.

use std::io;
use std::mem::{self, MaybeUninit};
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
    /// Whether it came with a VLAN tag, which the kernel took out of the bytes.
    pub is_tagged: bool,
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
        socket.set_option(libc::PACKET_AUXDATA)?;
        socket.set_option(libc::PACKET_IGNORE_OUTGOING)?;
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
        let mut control = [0_u64; 16];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: an all-zero `msghdr` is a valid one, without buffers.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        // SAFETY: every pointer in `message` is to a buffer of the length beside it, all of which
        // outlive the call.
        let length = unsafe { libc::recvmsg(self.descriptor.as_raw_fd(), &raw mut message, 0) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        };
        Ok(Some(Received { length: length.min(buffer.len()), is_tagged: is_tagged(&message) }))
    }

    fn set_option(&self, option: libc::c_int) -> io::Result<()> {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(mem::size_of_val(&on)).unwrap_or(0);
        // SAFETY: the option is an integer, and pointer and length are those of one.
        let result = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                length,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn bind(&self, interface_index: u32, ethertype: u16) -> io::Result<()> {
        // SAFETY: an all-zero `sockaddr_ll` is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = libc::c_int::try_from(interface_index)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        let length = libc::socklen_t::try_from(mem::size_of_val(&address)).unwrap_or(0);
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

/// What the kernel says beside a frame of its tag.
fn is_tagged(message: &libc::msghdr) -> bool {
    // SAFETY: `recvmsg` filled in `message`; its control buffer lives in the caller.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return false;
    }
    // SAFETY: not null, so it points into the control buffer, which is aligned for it.
    let header = unsafe { &*header };
    let is_auxiliary =
        header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA;
    if !is_auxiliary || header.cmsg_len < mem::size_of::<libc::tpacket_auxdata>() {
        return false;
    }
    // SAFETY: the kernel wrote a `tpacket_auxdata` behind this header; it need not be aligned.
    let auxiliary =
        unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
    auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0
}
