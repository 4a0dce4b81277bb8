//! What must be so before anything is started: rights, interfaces, queues, nobody else.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::config::Config;
use crate::flow::PortId;
use crate::io::xdp::device::Device;

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The process may not do what it must.
    #[error(
        "natwerk run lacks {lacking}; start it as root, or through its systemd unit, which grants them"
    )]
    Capabilities {
        /// The capabilities that are missing.
        lacking: String,
    },
    /// The interface does not exist or cannot be asked about.
    #[error(
        "interface {interface}: {error}; `ip link` shows what there is, the configuration lists what natwerk uses"
    )]
    Interface {
        /// The interface.
        interface: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The interface is down.
    #[error("interface {0} is down: ip link set dev {0} up")]
    InterfaceDown(String),
    /// There are more workers than an interface has queues.
    #[error(
        "{workers} workers need {workers} queues of {interface}, which has {queues}: ethtool -L {interface} combined {workers}, or set workers.count = {queues}"
    )]
    Queues {
        /// The workers wanted.
        workers: usize,
        /// The interface.
        interface: String,
        /// The queues it has.
        queues: u32,
    },
    /// Another instance runs on the same state.
    #[error(
        "another natwerk runs with state_dir {0}; stop it first, or give this one another state_dir"
    )]
    SecondInstance(PathBuf),
    /// The folder for the state cannot be used.
    #[error("state_dir {path} cannot be used: {error}")]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Checks that the process has the capabilities that sockets and the program take.
///
/// # Errors
/// With those that it lacks.
pub fn capabilities() -> Result<(), CheckError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lacking = lacking(effective(&status));
    if lacking.is_empty() {
        return Ok(());
    }
    Err(CheckError::Capabilities { lacking: lacking.join(", ") })
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Without the line everything is tried; the kernel will tell.
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX)
}

fn lacking(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective >> bit & 1 != 0;
    let is_admin = has(CAP_SYS_ADMIN);
    let needed = [
        ("CAP_NET_ADMIN", has(12)),
        ("CAP_NET_RAW", has(13)),
        ("CAP_BPF", has(39) || is_admin),
        ("CAP_PERFMON", has(38) || is_admin),
    ];
    needed.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
}

/// The devices of the configured interfaces, in order.
///
/// # Errors
/// When one does not exist or is down.
pub fn devices(config: &Config) -> Result<Vec<(PortId, Device)>, CheckError> {
    let numbered = (0u8..=u8::MAX).zip(&config.interfaces);
    let device = |(number, interface): (u8, &crate::config::Interface)| {
        let fault = |error| CheckError::Interface { interface: interface.name.clone(), error };
        let device = Device::find(&interface.name).map_err(fault)?;
        if !device.is_up {
            return Err(CheckError::InterfaceDown(device.name));
        }
        Ok((PortId(number), device))
    };
    numbered.map(device).collect()
}

/// How many workers there will be: as configured, or as many as every interface has queues for and
/// there are processors to run them.
///
/// # Errors
/// When more are configured than an interface has queues.
pub fn worker_count(
    config: &Config,
    devices: &[(PortId, Device)],
    processors: usize,
) -> Result<usize, CheckError> {
    let queues = |device: &Device| usize::try_from(device.queues.sockets_max()).unwrap_or(1);
    let scarce = devices.iter().map(|(_, device)| device).min_by_key(|device| queues(device));
    let Some(scarce) = scarce else { return Ok(1) };
    match config.workers.count {
        Some(workers) if workers > queues(scarce) => Err(CheckError::Queues {
            workers,
            interface: scarce.name.clone(),
            queues: scarce.queues.sockets_max(),
        }),
        Some(workers) => Ok(workers.max(1)),
        None => Ok(queues(scarce).min(processors).max(1)),
    }
}

/// The right to use a state folder. It ends with the process, however that ends.
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the folder if need be, and takes it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn take(state_dir: &Path) -> Result<Self, CheckError> {
        let fault = |error| CheckError::StateDir { path: state_dir.to_owned(), error };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o750).create(state_dir).map_err(fault)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(state_dir.join("lock"))
            .map_err(fault)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(CheckError::SecondInstance(state_dir.to_owned()))
            }
            Err(error) => Err(fault(error.into())),
        }
    }
}

const CAP_SYS_ADMIN: u32 = 21;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workers;
    use crate::io::xdp::device::Queues;

    fn device(name: &str, queues: u32) -> (PortId, Device) {
        let queues = Queues { receive: queues, transmit: queues };
        let device = Device {
            name: name.into(),
            index: 2,
            mtu: 1500,
            is_up: true,
            queues,
            strips_tags: false,
            is_veth: false,
        };
        (PortId(0), device)
    }

    fn workers(count: Option<usize>) -> Config {
        Config { workers: Workers { count, ..Workers::default() }, ..Config::default() }
    }

    #[test]
    fn workers_are_as_many_as_the_scarcest_interface_has_queues() {
        let devices = [device("a", 4), device("b", 2)];
        let count = |wanted, processors| worker_count(&workers(wanted), &devices, processors);
        assert_eq!(count(None, 8).expect("enough"), 2);
        assert_eq!(count(None, 1).expect("enough"), 1);
        assert_eq!(count(Some(1), 8).expect("enough"), 1);
        let said = count(Some(3), 8).expect_err("too few").to_string();
        assert!(said.contains("ethtool -L b combined 3"), "{said}");
    }

    #[test]
    fn missing_capabilities_are_named() {
        let status = |bits: u64| format!("Name:\tx\nCapEff:\t{bits:016x}\nSeccomp:\t0\n");
        let names = |bits| lacking(effective(&status(bits)));
        assert_eq!(names(u64::MAX), Vec::<&str>::new());
        assert_eq!(names(1 << 12 | 1 << 13 | 1 << CAP_SYS_ADMIN), Vec::<&str>::new());
        assert_eq!(names(1 << 13 | 1 << 39), ["CAP_NET_ADMIN", "CAP_PERFMON"]);
    }

    #[test]
    fn one_state_folder_has_one_process_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made/here");
        let first = StateLock::take(&path).expect("free");
        let said = StateLock::take(&path).err().expect("taken").to_string();
        assert!(said.contains("another natwerk"), "{said}");
        drop(first);
        assert!(StateLock::take(&path).is_ok());
    }

    #[test]
    fn an_interface_that_does_not_exist_is_named() {
        let config = Config {
            interfaces: vec![crate::config::Interface {
                name: "no-such-one".into(),
                role: crate::config::Role::Guest,
                checksum: crate::config::ChecksumMode::default(),
                kernel_vlans: Vec::new(),
            }],
            ..Config::default()
        };
        let said = devices(&config).expect_err("none").to_string();
        assert!(said.contains("no-such-one"), "{said}");
    }
}
