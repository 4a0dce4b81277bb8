//! `natwerk.toml`: how the engine runs. What it forwards stands in the rule files.

mod fields;
mod read;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::rules::diagnostic::Diagnostic;
use crate::rules::sources;
use crate::session::timeout::Timeouts;

pub use read::looks_like_one;

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
    /// How control planes' files are read where their versions differ.
    pub sources: sources::Options,
    /// The interfaces, in order; a [`crate::flow::PortId`] is an index into this list.
    pub interfaces: Vec<Interface>,
    /// The workers.
    pub workers: Workers,
    /// The session table.
    pub sessions: Sessions,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Where NAT events go, if anywhere.
    pub events: Option<EventExport>,
    /// ICMP errors that natwerk may send per second and worker; zero means no limit.
    pub icmp_errors_per_second: u32,
}

/// The JSON Schema of the configuration, for editors.
#[must_use]
pub fn schema() -> serde_json::Value {
    crate::rules::schema::document(&fields::CONFIG, "natwerk.toml")
}

impl Config {
    /// Reads the file `path`. Relative paths of rules start at its folder.
    ///
    /// # Errors
    /// Every fault of the file, in order.
    pub fn load(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        read::load(path)
    }
}

impl Default for Config {
    /// What holds without a word in the file; a real configuration also has interfaces and rules.
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            state_dir: "/run/natwerk".into(),
            control_socket: "/run/natwerk/control.sock".into(),
            metrics_listen: None,
            manage_addresses: false,
            sources: sources::Options::default(),
            interfaces: Vec::new(),
            workers: Workers::default(),
            sessions: Sessions::default(),
            timeouts: Timeouts::default(),
            events: None,
            icmp_errors_per_second: 1000,
        }
    }
}

/// Where NAT events go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventExport {
    /// The IPFIX collector.
    pub collector: SocketAddr,
    /// Whether every session is told of, with its destination.
    pub sessions: bool,
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
    /// VLANs whose frames are the kernel's, beside those that it has VLAN interfaces for.
    pub kernel_vlans: Vec<u16>,
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
    /// Where packets of veths are taken.
    pub hook: Hook,
    /// Whether a worker never sleeps.
    pub spin: bool,
    /// Frames of memory per worker; a power of two.
    pub frames: u32,
    /// Shortcuts that there may be on each interface: a power of two, or zero for none. None means as the
    /// session table is large.
    pub shortcuts: Option<u32>,
    /// What is left on the interfaces when the engine is stopped.
    pub on_stop: OnStop,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: None,
            mode: XdpMode::Auto,
            hook: Hook::Auto,
            spin: false,
            frames: 16384,
            shortcuts: None,
            on_stop: OnStop::Release,
        }
    }
}

/// Where packets of veths are taken, if there are shortcuts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hook {
    /// By the kernel's traffic control, but by XDP while most of them come as frames.
    #[default]
    Auto,
    /// By XDP, as on other interfaces.
    Xdp,
    /// By the kernel's traffic control.
    Tc,
}

/// What is left on the interfaces when the engine is stopped by a signal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnStop {
    /// The programs stay: what was for the dataplane is dropped until the next start, so that the
    /// kernel does not answer for it.
    Hold,
    /// Nothing: all frames are the kernel's.
    #[default]
    Release,
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
    /// Sessions the table of IPv6 holds.
    pub max_ipv6: u32,
    /// Sessions one guest may have; zero means no limit.
    pub per_guest: u32,
    /// External ports of each protocol that one guest may have; zero means no limit.
    pub ports_per_guest: u32,
    /// What becomes of sessions whose rule is taken away.
    pub on_rule_removal: OnRuleRemoval,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            max: 1 << 20,
            max_ipv6: 1 << 16,
            per_guest: 1 << 16,
            ports_per_guest: 1 << 15,
            on_rule_removal: OnRuleRemoval::End,
        }
    }
}

/// What becomes of sessions that the new rules would not create.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnRuleRemoval {
    /// They end within a second.
    #[default]
    End,
    /// They live until they are idle (CloudStack's habit).
    Keep,
    /// They live on if only filters would refuse them: a firewall, an ACL, egress rules. Those whose
    /// forward, static NAT or balancer is gone end.
    KeepFiltered,
}
