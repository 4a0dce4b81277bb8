//! Why AF_XDP cannot be had, and what to do about it.

use std::io;

use crate::io::xdp::program_fault::ProgramFault;

/// Why not everything could be opened. Nothing is left open then.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Frame memory cannot be registered with the kernel.
    #[error("{frames} frames of memory cannot be registered with the kernel: {error}{hint}", hint = memory_hint(.error))]
    Memory {
        /// How many.
        frames: u32,
        /// What the kernel said.
        error: io::Error,
    },
    /// The MTU is larger than any chunk.
    #[error(
        "{interface} has an MTU of {mtu}, and frames of natwerk hold {most}: ip link set dev {interface} mtu {most}"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that fits.
        most: u32,
    },
    /// The program cannot be loaded, told or attached.
    #[error(transparent)]
    Program(#[from] ProgramFault),
    /// A socket cannot be bound, or does not work.
    #[error("queue {queue} of {interface} cannot be used: {error}{hint}", hint = socket_hint(.error, *zero_copy))]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Whether zero-copy was asked for.
        zero_copy: bool,
        /// What the kernel said.
        error: io::Error,
    },
    /// The descriptors of this version of xsk-rs are not known.
    #[error(
        "this build's xsk-rs keeps its descriptors in a way that natwerk does not know; build natwerk with its Cargo.lock"
    )]
    UnknownDescriptors,
}

fn memory_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => {
            "; the limit on locked memory is too low: set LimitMEMLOCK=infinity, or grant CAP_IPC_LOCK"
        }
        Some(libc::EPERM) => "; it takes root, or CAP_NET_RAW",
        Some(libc::EAFNOSUPPORT) => "; this kernel is built without AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "",
    }
}

fn socket_hint(error: &io::Error, zero_copy: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "; another process has a socket on it (ss --xdp -p shows which)",
        Some(libc::EPERM) => "; it takes root, or CAP_NET_RAW",
        Some(libc::EOPNOTSUPP | libc::EINVAL) if zero_copy => {
            "; its driver has no zero-copy: set workers.mode = \"auto\" or \"copy\""
        }
        Some(libc::EINVAL) => "; there is no such queue",
        _ => "",
    }
}

impl OpenError {
    /// Whether another mode may do better.
    pub(super) fn depends_on_mode(&self) -> bool {
        match self {
            Self::Program(fault) => matches!(fault, ProgramFault::Mode { .. }),
            Self::Socket { error, .. } => {
                !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM | libc::ENODEV))
            }
            Self::Memory { .. } | Self::MtuTooLarge { .. } | Self::UnknownDescriptors => false,
        }
    }
}
