//! `natwerk doctor`: looks at the machine and the configuration before they make trouble.
//!
//! It changes nothing and sends nothing. What it reads of the machine is under `/proc` and `/sys`,
//! beside `ethtool -k` where that is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::cli::Common;
use crate::cli::output::{self, Column, Failure, Outcome};
use crate::config::{ChecksumMode, Config, Interface};
use crate::host;
use crate::rules;
use crate::rules::set::RuleSet;

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub hint: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// natwerk will not run like this.
    Bad,
    /// As it should be.
    Good,
    /// natwerk will run, but not as well as it could.
    Odd,
}

/// Looks at everything.
///
/// # Errors
/// With exit code 1 when something is bad; with 2 when it is the configuration or the rules.
pub fn run(common: &Common) -> Outcome {
    let machine = Machine { proc: "/proc".into(), sys: "/sys".into() };
    let (mut findings, config, rules) = configuration(&common.config);
    let faulty = findings.iter().any(|finding| finding.state == State::Bad);
    findings.extend(machine.kernel());
    findings.push(machine.capabilities());
    findings.push(machine.forwarding());
    findings.push(machine.huge_pages());
    if let Some(config) = &config {
        for interface in &config.interfaces {
            let features = features(&interface.name);
            findings.extend(machine.interface(interface, &features, rules.as_ref()));
        }
        findings.extend(machine.queues(config));
        findings.push(state_dir(config));
    }
    match common.json {
        true => output::print_json(&findings)?,
        false => output::print_bytes(table(&findings).as_bytes())?,
    }
    match (faulty, findings.iter().any(|finding| finding.state == State::Bad)) {
        (true, _) => Err(Failure::reported(2)),
        (false, true) => Err(Failure::reported(1)),
        (false, false) => Ok(()),
    }
}

fn table(findings: &[Finding]) -> String {
    let columns = [Column::Word("STATE"), Column::Word("CHECK"), Column::Word("FOUND")];
    let rows = findings.iter().map(|finding| {
        let state = match finding.state {
            State::Bad => "BAD",
            State::Good => "good",
            State::Odd => "odd",
        };
        let found = match finding.hint.as_str() {
            "" => finding.what.clone(),
            hint => format!("{} — {hint}", finding.what),
        };
        vec![state.to_owned(), finding.check.clone(), found]
    });
    output::table(&columns, rows)
}

/// The configuration and the rules that it names.
fn configuration(path: &Path) -> (Vec<Finding>, Option<Config>, Option<RuleSet>) {
    let shown = path.display();
    let hint = "`natwerk check` shows every fault";
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(faults) => {
            let what =
                format!("{shown} has {} faults, the first: {}", faults.len(), faults[0].what);
            return (vec![bad("configuration", what, hint)], None, None);
        }
    };
    let mut findings = vec![good("configuration", format!("{shown} is sound"))];
    match rules::load_with_nics(&config.rules, Some(&config), &host::nics()) {
        Ok(loaded) => {
            let what = format!("{} files, {} warnings", loaded.files.len(), loaded.warnings.len());
            findings.push(good("rules", what));
            (findings, Some(config), Some(loaded.rules))
        }
        Err(faults) => {
            let what = format!("{} faults, the first: {}", faults.len(), faults[0].what);
            findings.push(bad("rules", what, hint));
            (findings, Some(config), None)
        }
    }
}

fn state_dir(config: &Config) -> Finding {
    let check = "state folder";
    let path = &config.state_dir;
    let shown = path.display();
    // The nearest folder that exists is the one that matters: the others are made at the start.
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        Ok(()) => good(check, format!("{shown} can be written to")),
        Err(_) => bad(
            check,
            format!("{shown} cannot be written to"),
            "run as root, or choose another state_dir",
        ),
    }
}

/// Where the kernel tells of itself.
struct Machine {
    proc: PathBuf,
    sys: PathBuf,
}

/// What XDP and AF_XDP need, by bit number (`capabilities(7)`).
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// The largest MTU whose frames fit into a chunk of 2,048 bytes: 256 are the kernel's, 14 are the
/// Ethernet header, 8 two VLAN tags.
const MTU_MAX: u32 = 2048 - 256 - 14 - 8;

impl Machine {
    fn kernel(&self) -> Vec<Finding> {
        let check = "kernel";
        let release = self.read(&self.proc.join("sys/kernel/osrelease"));
        let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
        let version = (numbers.next().flatten(), numbers.next().flatten());
        vec![match version {
            (Some(major), Some(minor)) if (major, minor) >= (5, 10) => good(check, release),
            (Some(_), Some(_)) => {
                bad(check, format!("{release} is too old"), "use Linux 5.10 or later")
            }
            _ => odd(
                check,
                format!("`{release}` is no version that is known"),
                "use Linux 5.10 or later",
            ),
        }]
    }

    fn capabilities(&self) -> Finding {
        let check = "capabilities";
        let status = self.read(&self.proc.join("self/status"));
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
        let missing: Vec<_> = CAPABILITIES
            .iter()
            .filter(|(_, bit)| bits >> bit & 1 == 0)
            .map(|(name, _)| *name)
            .collect();
        if missing.is_empty() {
            return good(check, "all that XDP needs");
        }
        bad(check, format!("{} missing", missing.join(", ")), "run as root, or grant them")
    }

    fn forwarding(&self) -> Finding {
        let check = "kernel forwarding";
        let on = |name: &str| self.read(&self.proc.join("sys/net").join(name)) == "1";
        if on("ipv4/ip_forward") {
            return odd(
                check,
                "on: when natwerk does not run, the kernel forwards packets untranslated",
                "sysctl -w net.ipv4.ip_forward=0",
            );
        }
        if on("ipv6/conf/all/forwarding") {
            return odd(
                check,
                "on for IPv6: when natwerk does not run, the kernel forwards packets unfiltered",
                "sysctl -w net.ipv6.conf.all.forwarding=0",
            );
        }
        good(check, "off: nothing leaks when natwerk does not run")
    }

    fn huge_pages(&self) -> Finding {
        let check = "huge pages";
        let modes = self.read(&self.sys.join("kernel/mm/transparent_hugepage/enabled"));
        if modes.contains("[never]") {
            let hint = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
            return odd(check, "off: look-ups among many sessions take longer", hint);
        }
        good(check, if modes.is_empty() { "unknown".to_owned() } else { modes })
    }

    fn interface(
        &self,
        interface: &Interface,
        features: &str,
        rules: Option<&RuleSet>,
    ) -> Vec<Finding> {
        let name = &interface.name;
        let folder = self.sys.join("class/net").join(name);
        let check = format!("interface {name}");
        if !folder.exists() {
            return vec![bad(&check, "it does not exist", "`ip link` shows those that do")];
        }
        let number = |file: &str| self.read(&folder.join(file)).parse::<u32>().ok();
        let mtu = number("mtu").unwrap_or_default();
        let mut findings = Vec::new();
        if mtu > MTU_MAX {
            findings.push(bad(
                &check,
                format!("its MTU is {mtu}, and {MTU_MAX} is the most that a frame's memory holds"),
                &format!("ip link set {name} mtu {MTU_MAX}"),
            ));
        }
        if self.read(&folder.join("operstate")) == "down" {
            let hint = format!("ip link set {name} up, and look at its cable");
            findings.push(odd(&check, "it is down", &hint));
        }
        // The other end of a veth is an interface of this machine: its number is another one.
        let is_veth = number("iflink") != number("ifindex") && !folder.join("device").exists();
        if is_veth && interface.checksum == ChecksumMode::Incremental {
            findings.push(odd(
                &check,
                "its peer leaves checksums unfinished, and `checksum` believes them",
                "set checksum = \"detect-partial\", or ethtool -K PEER tx off",
            ));
        }
        findings.extend(offloads(name, &check, features, rules));
        if findings.is_empty() {
            let queues = self.queue_count(name);
            findings.push(good(&check, format!("up, MTU {mtu}, {queues} receive queues")));
        }
        findings
    }

    /// Every worker serves one queue of each interface.
    fn queues(&self, config: &Config) -> Option<Finding> {
        let check = "queues";
        let counts: Vec<_> = config
            .interfaces
            .iter()
            .map(|interface| (interface.name.as_str(), self.queue_count(&interface.name)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let fewest = counts.iter().map(|(_, count)| *count).min()?;
        let workers = config.workers.count.unwrap_or(fewest);
        let uneven = counts.iter().find(|(_, count)| *count != workers);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Some(match uneven {
            Some((name, count)) => odd(
                check,
                format!("{name} has {count} receive queues for {workers} workers"),
                &format!("ethtool -L {name} combined {workers}"),
            ),
            None if workers > cores => odd(
                check,
                format!("{workers} workers share {cores} processor cores"),
                &format!("set workers.count to {cores} and as many queues"),
            ),
            None => good(check, format!("{workers} on each interface, one per worker")),
        })
    }

    fn queue_count(&self, name: &str) -> usize {
        let folder = self.sys.join("class/net").join(name).join("queues");
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count()
    }

    /// A file's text without the spaces around it; empty if it cannot be read.
    fn read(&self, path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }
}

/// The features of a device as `ethtool -k` lists them; empty where there is no ethtool.
fn features(name: &str) -> String {
    let output = Command::new("ethtool").args(["-k", name]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// What the device does to frames before natwerk sees them.
fn offloads(name: &str, check: &str, features: &str, rules: Option<&RuleSet>) -> Vec<Finding> {
    let is_on = |feature: &str| {
        let line = features.lines().find_map(|line| line.trim().strip_prefix(feature));
        line.is_some_and(|value| value.trim_start_matches(':').trim().starts_with("on"))
    };
    let tagged = rules.is_some_and(|rules| {
        rules.networks.iter().any(|network| network.interface == name && network.vlan != 0)
            || rules.public_ips.iter().any(|public| public.interface == name && public.vlan != 0)
    });
    let mut findings = Vec::new();
    if tagged && is_on("rx-vlan-offload") {
        findings.push(odd(
            check,
            "it may take VLAN tags off frames before XDP sees them",
            &format!("ethtool -K {name} rxvlan off"),
        ));
    }
    if is_on("large-receive-offload") {
        let what = "large-receive-offload joins packets into larger ones than may be forwarded";
        findings.push(bad(check, what, &format!("ethtool -K {name} lro off")));
    }
    if is_on("rx-gro-hw") {
        // virtio's, for one, does it when a program is attached.
        let what = "rx-gro-hw joins packets, unless the driver stops it when natwerk starts";
        findings.push(odd(check, what, &format!("ethtool -K {name} rx-gro-hw off")));
    }
    findings
}

fn good(check: &str, what: impl Into<String>) -> Finding {
    finding(check, State::Good, what, "")
}

fn odd(check: &str, what: impl Into<String>, hint: &str) -> Finding {
    finding(check, State::Odd, what, hint)
}

fn bad(check: &str, what: impl Into<String>, hint: &str) -> Finding {
    finding(check, State::Bad, what, hint)
}

fn finding(check: &str, state: State, what: impl Into<String>, hint: &str) -> Finding {
    Finding { check: check.to_owned(), state, what: what.into(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    /// A machine of files.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine { proc: folder.path().join("proc"), sys: folder.path().join("sys") };
        (folder, machine)
    }

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            role: Role::Guest,
            checksum: ChecksumMode::DetectPartial,
            kernel_vlans: Vec::new(),
        }
    }

    #[test]
    fn an_old_kernel_is_bad() {
        let state = |release: &str| {
            let (_folder, machine) = machine(&[("proc/sys/kernel/osrelease", release)]);
            machine.kernel()[0].state
        };
        assert_eq!(state("6.18.44\n"), State::Good);
        assert_eq!(state("5.10.0-28-amd64\n"), State::Good);
        assert_eq!(state("5.9.1\n"), State::Bad);
        assert_eq!(state("4.19\n"), State::Bad);
        assert_eq!(state("unheard-of\n"), State::Odd);
    }

    #[test]
    fn a_missing_capability_is_named() {
        let finding = |bits: &str| {
            let (_folder, machine) = machine(&[("proc/self/status", bits)]);
            machine.capabilities()
        };
        assert_eq!(finding("Name:\tx\nCapEff:\t000001ffffffffff\n").state, State::Good);
        let without_bpf = finding("CapEff:\t0000017fffffffff\n");
        assert_eq!((without_bpf.state, without_bpf.what.as_str()), (State::Bad, "CAP_BPF missing"));
    }

    #[test]
    fn forwarding_by_the_kernel_is_odd() {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let (_folder, machine) = machine(&[(&format!("proc/sys/net/{setting}"), "1\n")]);
            assert_eq!(machine.forwarding().state, State::Odd, "{setting}");
        }
    }

    #[test]
    fn an_interface_must_exist_and_its_frames_must_fit() {
        let (_folder, machine) = machine(&[
            ("sys/class/net/eth0/mtu", "9000"),
            ("sys/class/net/eth0/operstate", "down"),
        ]);
        let missing = machine.interface(&interface("eth9"), "", None);
        assert_eq!((missing[0].state, missing[0].what.as_str()), (State::Bad, "it does not exist"));
        let found = machine.interface(&interface("eth0"), "", None);
        assert_eq!(
            found.iter().map(|found| found.state).collect::<Vec<_>>(),
            [State::Bad, State::Odd]
        );
    }

    #[test]
    fn queues_that_do_not_fit_the_workers_come_with_the_command_that_mends_them() {
        let (_folder, machine) = machine(&[
            ("sys/class/net/eth0/queues/rx-0/x", ""),
            ("sys/class/net/eth1/queues/rx-0/x", ""),
            ("sys/class/net/eth1/queues/rx-1/x", ""),
        ]);
        let config =
            Config { interfaces: vec![interface("eth0"), interface("eth1")], ..Config::default() };
        let finding = machine.queues(&config).unwrap();
        assert_eq!(
            (finding.state, finding.hint.as_str()),
            (State::Odd, "ethtool -L eth1 combined 1")
        );
    }

    #[test]
    fn offloads_that_change_frames_are_found() {
        let features = "rx-vlan-offload: on\nlarge-receive-offload: off [fixed]\nrx-gro-hw: on\n";
        let found = offloads("eth0", "x", features, None);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].hint, "ethtool -K eth0 rx-gro-hw off");
        assert_eq!(offloads("eth0", "x", "", None), []);
    }
}
