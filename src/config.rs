//! `natwerk.toml`: how the engine runs. What it forwards stands in the rule files.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::session::timeout::Timeouts;

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rule files and folders, in order; `cloudstack:` and `zstack:` prefixes name other formats.
    pub rules: Vec<String>,
    /// Where the session region lives.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Where Prometheus may ask, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether natwerk puts public and gateway addresses on the interfaces and announces them.
    pub manage_addresses: bool,
    /// The interfaces, in order; a [`crate::flow::PortId`] is an index into this list.
    pub interfaces: Vec<Interface>,
    /// The workers.
    pub workers: Workers,
    /// The session table.
    pub sessions: Sessions,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// ICMP errors that natwerk may send per second and worker; zero means no limit.
    pub icmp_errors_per_second: u32,
}

/// A network interface natwerk owns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// The kernel's name for it.
    pub name: String,
    /// Which side it is on.
    pub role: Role,
    /// What to do about transport checksums that the sender left unfinished.
    pub checksum: ChecksumMode,
}

/// Which side an interface is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Guest networks.
    Guest,
    /// The public side.
    Public,
}

/// What to do about transport checksums on receipt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ChecksumMode {
    /// Recognise checksums that the sending kernel left to its device, and finish them.
    #[default]
    DetectPartial,
    /// Believe every checksum.
    Incremental,
}

/// How many workers, and how they reach the interfaces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workers {
    /// How many; none means one per queue pair.
    pub count: Option<usize>,
    /// Which AF_XDP mode.
    pub mode: XdpMode,
    /// Whether a worker never sleeps.
    pub spin: bool,
    /// Frames of memory per worker; a power of two.
    pub frames: u32,
}

/// Which AF_XDP mode to bind with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum XdpMode {
    /// Zero-copy, then copy, then skb: the first that works.
    #[default]
    Auto,
    /// The driver's XDP, frames copied.
    Copy,
    /// The generic XDP of any device.
    Skb,
    /// The driver's XDP, frames not copied.
    ZeroCopy,
}

/// The session table and what guests may take of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sessions {
    /// Sessions the table holds.
    pub max: u32,
    /// Sessions one guest may have; zero means no limit.
    pub per_guest: u32,
    /// What becomes of sessions whose rule is taken away.
    pub on_rule_removal: OnRuleRemoval,
}

/// What becomes of sessions that the new rules would not create.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnRuleRemoval {
    /// They end within a second.
    #[default]
    End,
    /// They live until they are idle (CloudStack's habit).
    Keep,
}
