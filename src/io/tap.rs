//! A TAP interface: frames written to it are received by the kernel.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// The descriptor of a TAP interface, which goes away with it.
pub struct Tap {
    device: File,
}

impl Tap {
    /// Makes the interface `name`, without packet information before its frames.
    ///
    /// # Errors
    ///
    /// As the kernel says: `EPERM` without `CAP_NET_ADMIN`, `EBUSY` when another process has an
    /// interface of this name, `ENOENT` without `/dev/net/tun`.
    pub fn open(name: &str) -> io::Result<Self> {
        // SAFETY: an all-zero `ifreq` is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // One byte stays zero: the name ends there.
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: this request takes an `ifreq`, and `request` is one that outlives the call.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { device })
    }

    /// Hands a frame to the kernel, which receives it as if it had come in by this interface.
    ///
    /// # Errors
    ///
    /// As the kernel says: `EIO` while the interface is down, `EINVAL` for less than a header.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        let written = (&self.device).write(frame)?;
        if written == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
