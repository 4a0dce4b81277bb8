//! `natwerk cloudstack`: what CloudStack's management server asks a virtual router over SSH, answered by the
//! running engine in the words of the scripts that it replaces.

mod kernel_tcp;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::output::{self, Failure, Outcome};
use crate::cli::{Common, ask};
use crate::control::requests::Request;
use crate::control::rows::{InterfaceRow, Workers};
use crate::rules;
use crate::rules::set::{PortForward, PortRange, RuleSet, StaticNat};

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum What {
    /// The NAT rules in force as `iptables-save` would print them, for the health check.
    IptablesSave,
    /// Bytes out and in by each public interface, as `netusage.sh` and `vpc_netusage.sh` print them.
    Netusage(Usage),
}

/// The flags of `netusage.sh` and `vpc_netusage.sh`.
#[derive(Debug, Args)]
pub struct Usage {
    /// Print the counters: what happens anyway.
    #[arg(short = 'g')]
    get: bool,
    /// Only the interface with this address of the router.
    #[arg(short = 'l', value_name = "ADDRESS")]
    address: Option<Ipv4Addr>,
    /// Create the counters: those of the router's own TCP, which are the kernel's.
    #[arg(short = 'c', conflicts_with = "get")]
    create: bool,
    /// Print the counters of the VPN: the kernel has those.
    #[arg(short = 'n', conflicts_with = "get")]
    vpn: bool,
    /// The VPC's prefix: everything that is forwarded is in it or goes to it.
    #[arg(short = 'v', value_name = "CIDR")]
    vpc: Option<String>,
    /// Delete the counters: those of the router's own TCP.
    #[arg(short = 'd', conflicts_with = "get")]
    delete: bool,
}

/// Asks, and prints the answer.
///
/// # Errors
/// When the engine does not answer, or has no such address.
pub fn run(what: &What, common: &Common) -> Outcome {
    match what {
        What::IptablesSave => {
            let rules = rules_in_force(common)?;
            output::print_bytes(iptables_save(&rules).as_bytes())
        }
        What::Netusage(usage) => netusage(usage, common),
    }
}

fn rules_in_force(common: &Common) -> Result<RuleSet, Failure> {
    let native = ask::connect(common)?.ask::<Value>(&Request::ShowNative)?;
    let loaded = rules::load_text("the engine's rules.json", &native.to_string(), None);
    let loaded = loaded.map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        Failure::failed(format!("the engine's rules are those of another version: {first}"))
    })?;
    Ok(loaded.rules)
}

/// The table `nat` that would do what `rules` say.
#[must_use]
pub fn iptables_save(rules: &RuleSet) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (chain, has_interface) in [("PREROUTING", true), ("OUTPUT", false)] {
        for nat in &rules.static_nats {
            lines.extend(static_nat(chain, nat));
        }
        for forward in &rules.port_forwards {
            // One line for each interface it may come in by, as the router's scripts write them.
            let network = rules.networks.iter().find(|network| network.name == forward.network);
            let public = rules.public_ips.iter().find(|public| public.address == forward.public_ip);
            let interfaces = [
                public.map(|public| public.interface.as_str()),
                network.map(|network| network.interface.as_str()),
            ];
            match has_interface {
                true => lines.extend(
                    interfaces
                        .into_iter()
                        .flatten()
                        .filter_map(|on| port_forward(chain, forward, on)),
                ),
                false => lines.extend(port_forward(chain, forward, "")),
            }
        }
    }
    // The health check of VPCs looked for what older scripts wrote for each port forward, and still may.
    let is_tier = |name: &str| rules.network_acls.iter().any(|acl| acl.network == name);
    lines.extend(
        rules.port_forwards.iter().filter(|it| is_tier(&it.network)).filter_map(postrouting),
    );
    for nat in &rules.static_nats {
        let public = rules.public_ips.iter().find(|public| public.address == nat.public_ip);
        if let (Some(guest), Some(public)) = (nat.guest_ip, public) {
            lines.push(format!(
                "-A POSTROUTING -s {guest}/32 -o {} -j SNAT --to-source {}",
                public.interface, nat.public_ip
            ));
        }
    }
    let mut sources: Vec<(&str, Ipv4Addr)> = Vec::new();
    for source in rules.networks.iter().flat_map(|network| &network.source_nat) {
        let Some(public) = rules.public_ips.iter().find(|public| public.address == *source) else {
            continue;
        };
        if !sources.contains(&(public.interface.as_str(), *source)) {
            sources.push((&public.interface, *source));
        }
    }
    lines.extend(
        sources
            .iter()
            .map(|(on, source)| format!("-A POSTROUTING -o {on} -j SNAT --to-source {source}")),
    );
    let mut text = String::from(
        "# What natwerk does, as iptables would say it. The kernel has none of these rules.\n*nat\n",
    );
    for chain in ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"] {
        // Writing to memory cannot fail.
        let _ = writeln!(text, ":{chain} ACCEPT [0:0]");
    }
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str("COMMIT\n");
    text
}

fn static_nat(chain: &str, nat: &StaticNat) -> Option<String> {
    let guest = nat.guest_ip?;
    Some(format!("-A {chain} -d {}/32 -j DNAT --to-destination {guest}", nat.public_ip))
}

/// Ports as iptables writes them.
fn ports(ports: PortRange, between: char) -> String {
    match ports.count() {
        1 => ports.first().to_string(),
        _ => format!("{}{between}{}", ports.first(), ports.last()),
    }
}

fn postrouting(forward: &PortForward) -> Option<String> {
    let (guest, protocol) = (forward.guest_ip?, forward.protocol);
    Some(format!(
        "-A POSTROUTING -d {}/32 -p {protocol} -m {protocol} --dport {} -j SNAT --to-source {guest}:{}",
        forward.public_ip,
        ports(forward.public_ports, ':'),
        ports(forward.guest_ports, '-'),
    ))
}

fn port_forward(chain: &str, forward: &PortForward, interface: &str) -> Option<String> {
    let guest = forward.guest_ip?;
    let interface = match interface {
        "" => String::new(),
        interface => format!(" -i {interface}"),
    };
    let source = match forward.sources.as_slice() {
        [] => String::new(),
        [only] => format!(" -s {only}"),
        several => {
            let list: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!(" -s {}", list.join(","))
        }
    };
    let protocol = forward.protocol;
    Some(format!(
        "-A {chain}{source} -d {}/32{interface} -p {protocol} -m {protocol} --dport {} -j DNAT --to-destination {guest}:{}",
        forward.public_ip,
        ports(forward.public_ports, ':'),
        ports(forward.guest_ports, '-'),
    ))
}

fn netusage(usage: &Usage, common: &Common) -> Outcome {
    if usage.vpn {
        return Ok(());
    }
    if usage.delete {
        tell(kernel_tcp::forget());
        return Ok(());
    }
    let workers = ask::connect(common)?.ask::<Workers>(&Request::ShowWorkers)?;
    let interface = match usage.address {
        None => None,
        Some(address) => Some(interface_of(address, &rules_in_force(common)?)?),
    };
    let rows: Vec<&InterfaceRow> = workers
        .interfaces
        .iter()
        .filter(|row| match &interface {
            None => row.role == "public",
            Some(name) => row.name == *name,
        })
        .collect();
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let kernels = tell(kernel_tcp::read(&names)).unwrap_or_default();
    match usage.create {
        true => Ok(()),
        false => output::print_bytes(counters(&rows, &kernels).as_bytes()),
    }
}

/// Says on standard error what went wrong with the kernel's counters; the others are worth printing all the same.
fn tell<T>(outcome: std::io::Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            eprintln!("the router's own TCP is not counted: nft: {error}");
            None
        }
    }
}

/// The interface that has an address of the router: a public one, or a private gateway's.
fn interface_of(address: Ipv4Addr, rules: &RuleSet) -> Result<String, Failure> {
    let public = rules.public_ips.iter().find(|public| public.address == address);
    let gateway = rules.networks.iter().find(|network| network.gateway == address);
    let interface = public
        .map(|public| &public.interface)
        .or_else(|| gateway.map(|network| &network.interface));
    interface.cloned().ok_or_else(|| Failure::failed(format!("no interface has {address}")))
}

/// Four numbers an interface, each behind a colon: out and in of what is forwarded, and out and in of the
/// router's own TCP, which the kernel sends and receives without natwerk.
fn counters(rows: &[&InterfaceRow], kernels: &BTreeMap<String, kernel_tcp::Bytes>) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        let (out, back) = kernels.get(&row.name).copied().unwrap_or_default();
        let _ = write!(text, "{}:{}:{out}:{back}:", row.crossed_out_bytes, row.crossed_in_bytes);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `iptables_check.py` looks for in one line.
    fn has_line(text: &str, pieces: &[&str]) -> bool {
        text.lines().any(|line| pieces.iter().all(|piece| line.contains(piece)))
    }

    fn rules() -> RuleSet {
        let sample =
            include_str!("../../tests/samples/cloudstack/01-isolated-basic/expected/rules.json");
        rules::load_text("rules.json", sample, None).expect("good").rules
    }

    #[test]
    fn the_health_check_finds_every_port_forward() {
        let rules = rules();
        assert_eq!(rules.port_forwards.len(), 5);
        let text = iptables_save(&rules);
        for (public, port, guest) in [
            ("203.0.113.11", "22", "10.1.1.50:22"),
            ("203.0.113.11", "8080", "10.1.1.51:80"),
            ("203.0.113.11", "60000:60010", "10.1.1.52:60000-60010"),
            ("203.0.113.11", "7000:7005", "10.1.1.150:7000-7005"),
            ("203.0.113.11", "3389", "10.1.1.53:3389"),
        ] {
            for chain in ["PREROUTING", "OUTPUT"] {
                let pieces = [
                    chain.to_owned(),
                    format!("-d {public}"),
                    format!("--dport {port}"),
                    format!("--to-destination {guest}"),
                ];
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                assert!(has_line(&text, &pieces), "{pieces:?} in\n{text}");
            }
        }
    }

    #[test]
    fn the_older_health_check_finds_port_forwards_of_a_vpc() {
        let sample =
            include_str!("../../tests/samples/cloudstack/05-vpc-tiers-acl/expected/rules.json");
        let vpc = rules::load_text("rules.json", sample, None).expect("good").rules;
        let text = iptables_save(&vpc);
        assert!(!vpc.port_forwards.is_empty());
        for forward in &vpc.port_forwards {
            let guest = forward.guest_ip.expect("a guest");
            let (from, to) = (forward.public_ports.first(), forward.guest_ports.first());
            let pieces = [
                "POSTROUTING".to_owned(),
                format!("-d {}", forward.public_ip),
                format!("--dport {from}"),
                format!("--to-source {guest}:{to}"),
            ];
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert!(has_line(&text, &pieces), "{pieces:?} in\n{text}");
        }
        assert!(
            !iptables_save(&rules()).contains("--to-source 10."),
            "isolated networks have none"
        );
    }

    #[test]
    fn the_lines_are_those_that_the_router_had() {
        let observed = include_str!(
            "../../tests/samples/cloudstack/01-isolated-basic/observed/iptables-save.txt"
        );
        let text = iptables_save(&rules());
        let ours: Vec<&str> = text.lines().filter(|line| line.contains("DNAT")).collect();
        assert_eq!(ours.len(), 15);
        for line in ours {
            assert!(observed.lines().any(|known| known == line), "{line}");
        }
    }

    #[test]
    fn usage_is_four_numbers_an_interface() {
        let row = InterfaceRow {
            name: "eth2".to_owned(),
            role: "public".to_owned(),
            mode: "copy".to_owned(),
            hook: "xdp".to_owned(),
            queues: 1,
            received_packets: 0,
            received_bytes: 0,
            transmitted_packets: 0,
            transmitted_bytes: 0,
            crossed_in_bytes: 7,
            crossed_out_bytes: 5,
            kernel: std::collections::BTreeMap::new(),
        };
        let kernels = [("eth3".to_owned(), (1, 2))].into();
        let other = InterfaceRow { name: "eth3".to_owned(), ..row.clone() };
        assert_eq!(counters(&[&row, &other], &kernels), "5:7:0:0:5:7:1:2:");
        assert_eq!(interface_of(Ipv4Addr::new(203, 0, 113, 11), &rules()).expect("known"), "eth2");
        assert!(interface_of(Ipv4Addr::new(192, 0, 2, 1), &rules()).is_err());
    }
}
