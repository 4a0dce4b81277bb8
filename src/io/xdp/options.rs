//! The options of AF_XDP's sockets that xsk-rs has no function for.

use std::io;
use std::os::fd::RawFd;

/// The value of a socket's option of AF_XDP.
///
/// # Errors
/// What the kernel says.
pub(super) fn option(socket: RawFd, name: libc::c_int) -> io::Result<u32> {
    let mut value = 0u32;
    // Four, which fits.
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: both pointers are to variables of the right size that outlive the call.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_XDP, name, (&raw mut value).cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Sets a socket's option of AF_XDP.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_option(socket: RawFd, name: libc::c_int, value: u32) -> io::Result<()> {
    // Four, which fits.
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer is to a variable of the length given that outlives the call.
    let result =
        unsafe { libc::setsockopt(socket, libc::SOL_XDP, name, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Frames that one wakeup may send in copy mode. (linux/if_xdp.h; Debian 12's headers lack it.)
pub(super) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// What a socket got.
pub(super) const XDP_OPTIONS: libc::c_int = 8;
/// In that: it receives without a copy.
pub(super) const XDP_OPTIONS_ZEROCOPY: u32 = 1;
