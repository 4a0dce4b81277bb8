//! What stands in a program's way, in words for people.

use std::io;

use aya::maps::MapError;

/// Why the program is not on an interface, or does not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFault {
    /// Another program holds the hook.
    #[error(
        "{interface} has another XDP program (id {id}, {name:?}); if it is not needed, take it off: ip link set dev {interface} xdp off"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The program's number.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The device cannot run the program in this mode.
    #[error("{interface} cannot run XDP programs in {mode} mode: {error}")]
    Mode {
        /// The interface.
        interface: String,
        /// `driver` or `skb`.
        mode: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel does not take the program.
    #[error("the kernel refuses natwerk's XDP program: {0}{hint}", hint = hint(.0))]
    Refused(String),
    /// The kernel does not take the program that does shortcuts to its own packets.
    #[error(
        "the kernel refuses natwerk's program for its traffic control (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF): {0}{hint}",
        hint = hint(.0)
    )]
    Carry(String),
    /// A map cannot be changed.
    #[error("the XDP program's maps cannot be changed: {0}")]
    Map(#[from] MapError),
    /// The memory of shortcuts cannot be shared.
    #[error("the memory for shortcuts cannot be had: {0}; set workers.shortcuts to less, or to 0")]
    Shortcuts(io::Error),
}

fn hint(said: &str) -> &'static str {
    if said.contains("Operation not permitted") || said.contains("EPERM") {
        "; it takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    } else {
        ""
    }
}
