//! TCP connections that the router's kernel is asked to make by one interface, without waiting for them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

/// A connection on its way.
pub struct Connecting {
    descriptor: OwnedFd,
}

impl Connecting {
    /// Begins to connect to `to`, by the interface `interface` and no other.
    ///
    /// # Errors
    /// As the kernel says: no such interface, no way there.
    pub fn begin(interface: &str, to: SocketAddrV4) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let descriptor = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        bind_to_device(&descriptor, interface)?;
        match net::connect(&descriptor, &SocketAddr::V4(to)) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(Self { descriptor }),
            Err(error) => Err(error.into()),
        }
    }

    /// The address that the kernel connects from.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn source(&self) -> io::Result<Ipv4Addr> {
        match SocketAddr::try_from(net::getsockname(&self.descriptor)?) {
            Ok(SocketAddr::V4(address)) => Ok(*address.ip()),
            Ok(SocketAddr::V6(_)) | Err(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// What came of it, once the descriptor may be written to.
    ///
    /// # Errors
    /// Why it is no connection.
    pub fn outcome(&self) -> io::Result<()> {
        net::sockopt::socket_error(&self.descriptor)?.map_err(io::Error::from)
    }
}

impl AsFd for Connecting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn bind_to_device(socket: &OwnedFd, interface: &str) -> io::Result<()> {
    let length = libc::socklen_t::try_from(interface.len()).map_err(io::Error::other)?;
    // SAFETY: pointer and length are those of a string that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn what_listens_is_reached_and_what_does_not_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!() };
        let outcome = |to| {
            let connecting = Connecting::begin("lo", to)?;
            assert_eq!(connecting.source().unwrap(), Ipv4Addr::LOCALHOST);
            poll(&mut [PollFd::new(&connecting, PollFlags::OUT)], None).unwrap();
            connecting.outcome()
        };
        outcome(address).unwrap();
        drop(listener);
        assert_eq!(outcome(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(Connecting::begin("no-such-nic", address).is_err());
    }
}
