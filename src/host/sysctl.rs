//! Kernel settings under `/proc/sys/net` that a natwerk router depends on.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::rules::set::PortRange;

/// The ports that the kernel gives to the router's own connections. natwerk gives none of them to
/// guests, and the XDP program passes replies to them to the kernel.
///
/// # Errors
///
/// When the setting cannot be read or makes no sense.
pub fn local_ports() -> io::Result<PortRange> {
    parse_port_range(&read("ip_local_port_range")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "ip_local_port_range"))
}

/// Whether the kernel forwards by itself. On a natwerk router it must not: whatever natwerk does not
/// take, in particular everything while natwerk is not running, would pass untranslated and
/// unfiltered. [`DISABLE_FORWARDING`] is the cure.
///
/// # Errors
///
/// When the setting cannot be read.
pub fn kernel_forwards() -> io::Result<bool> {
    Ok(read("ip_forward")?.trim() != "0")
}

/// The same of IPv6. What an interface's own `forwarding` says does not matter: the kernel forwards
/// only if it does so everywhere.
///
/// # Errors
///
/// When the setting cannot be read; a kernel without IPv6 has none.
pub fn kernel_forwards_ipv6() -> io::Result<bool> {
    Ok(fs::read_to_string(path_ipv6("conf/all/forwarding"))?.trim() != "0")
}

/// The command that keeps the kernel from forwarding.
pub const DISABLE_FORWARDING: &str = "sysctl -w net.ipv4.ip_forward=0";

/// The same of IPv6.
pub const DISABLE_FORWARDING_IPV6: &str = "sysctl -w net.ipv6.conf.all.forwarding=0";

/// Makes the kernel behave on an interface whose addresses natwerk manages.
///
/// # Errors
///
/// When a setting cannot be written.
pub fn prepare_managed(interface: &str) -> io::Result<()> {
    for (name, value) in MANAGED_SETTINGS {
        fs::write(path(&format!("conf/{interface}/{name}")), value)?;
    }
    Ok(())
}

/// Makes the kernel behave as the router on an interface whose IPv6 addresses natwerk manages.
///
/// # Errors
///
/// When a setting cannot be written.
pub fn prepare_managed_ipv6(interface: &str) -> io::Result<()> {
    for (name, value) in MANAGED_SETTINGS_IPV6 {
        fs::write(path_ipv6(&format!("conf/{interface}/{name}")), value)?;
    }
    Ok(())
}

const MANAGED_SETTINGS_IPV6: [(&str, &str); 3] = [
    // A router listens to no other: its addresses and routes come from the rules.
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    // Neighbour advertisements say that this is a router, without which guests forget it as one
    // (RFC 4861, section 7.2.5). It forwards nothing by this: see `kernel_forwards_ipv6`.
    ("forwarding", "1"),
];

const MANAGED_SETTINGS: [(&str, &str); 3] = [
    // Answer for the addresses of this interface only: the gateway of one network is not to be
    // found on another. (2 would also refuse those who ask from a foreign prefix, which upstream
    // routers with several prefixes do.)
    ("arp_ignore", "1"),
    // Ask from an address of the neighbour's own prefix.
    ("arp_announce", "2"),
    // Taking away the first address of a prefix must not take the others with it.
    ("promote_secondaries", "1"),
];

fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(path(name))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4").join(name)
}

fn path_ipv6(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv6").join(name)
}

fn parse_port_range(text: &str) -> Option<PortRange> {
    let mut ports = text.split_ascii_whitespace().map(str::parse);
    let (first, last) = (ports.next()?.ok()?, ports.next()?.ok()?);
    PortRange::new(first, last).ok().filter(|_| ports.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_port_range_is_two_numbers() {
        assert_eq!(parse_port_range("32768\t60999\n"), PortRange::new(32768, 60999).ok());
        for text in ["", "32768", "32768 60999 1", "60999 32768", "a b", "0 1", "1 65536"] {
            assert_eq!(parse_port_range(text), None, "{text}");
        }
    }

    #[test]
    fn this_machine_has_the_settings() {
        assert!(local_ports().is_ok());
        assert!(kernel_forwards().is_ok());
    }
}
