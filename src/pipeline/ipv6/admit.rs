//! IPv6 addresses that no first packet may carry (RFC 4291; RFC 6092, REC-1 to REC-5; BCP 38).

use std::net::Ipv6Addr;

use crate::policy::{Attachment, Policy};
use crate::verdict::DropReason;

/// Judges the addresses of a first packet that came by `attachment`.
///
/// # Errors
/// Why it must be dropped.
pub fn admit(
    attachment: Attachment,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    policy: &Policy,
) -> Result<(), DropReason> {
    if never_forwarded(source) || never_forwarded(destination) || source == destination {
        return Err(DropReason::MartianAddress);
    }
    let spoofed = match attachment {
        // Neither the router nor its guests speak from outside.
        Attachment::Public => {
            policy.ipv6().is_own(source) || policy.ipv6().network(source).is_some()
        }
        Attachment::Guest(id) => {
            let network = policy.network(id);
            let at_home = policy.ipv6().network(source) == Some(id);
            policy.ipv6().is_own(source) || network.anti_spoofing && !at_home
        }
    };
    if spoofed { Err(DropReason::SourceSpoofed) } else { Ok(()) }
}

/// Unspecified, loopback, multicast, link-local, and IPv4 written as IPv6.
fn never_forwarded(address: Ipv6Addr) -> bool {
    address.is_multicast()
        || address.is_unicast_link_local()
        // `::`, `::1`, `::a.b.c.d` and `::ffff:a.b.c.d`.
        || matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn martians_are_never_forwarded() {
        for martian in [
            "::",
            "::1",
            "ff02::1",
            "ff0e::5",
            "fe80::1",
            "febf::1",
            "::ffff:10.1.1.5",
            "::10.1.1.5",
        ] {
            assert!(never_forwarded(martian.parse().unwrap()), "{martian}");
        }
        for sound in ["2001:db8::1", "fd00::1", "fec0::1", "64:ff9b::10.1.1.5"] {
            assert!(!never_forwarded(sound.parse().unwrap()), "{sound}");
        }
    }
}
