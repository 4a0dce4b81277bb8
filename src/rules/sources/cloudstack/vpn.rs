//! VPNs that end on the router (`site_2_site_vpn.json`, `remote_access_vpn.json`): the kernel encrypts, natwerk keeps
//! its hands off what goes through them.

use std::net::Ipv4Addr;

use super::record::{Read, Record};
use super::values::Ends;
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::Cidr;

/// A tunnel to another site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteToSite {
    /// The router's end.
    pub local: Ipv4Addr,
    /// The networks on this side; none is all.
    pub local_networks: Vec<Cidr>,
    /// The networks on the other side.
    pub peer_networks: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// The way in for single users.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteAccess {
    /// The router's end.
    pub server: Ipv4Addr,
    /// The users' addresses.
    pub users: Vec<Cidr>,
    /// Where it was written.
    pub place: Place,
}

/// What the router's end of a tunnel speaks.
pub const SITE_TO_SITE_ENDS: [(Protocol, Option<u16>); 3] =
    [(Protocol::UDP, Some(500)), (Protocol::UDP, Some(4500)), (Protocol::ESP, None)];

/// What the way in for single users speaks.
pub const REMOTE_ACCESS_ENDS: [(Protocol, Option<u16>); 5] = [
    (Protocol::UDP, Some(500)),
    (Protocol::UDP, Some(4500)),
    (Protocol::UDP, Some(1701)),
    (Protocol::ESP, None),
    (Protocol::AH, None),
];

/// The fields of a tunnel.
pub const SITE_FIELDS: &[&str] = &[
    "create",
    "delete_from_processed_cache",
    "dpd",
    "encap",
    "esp_lifetime",
    "esp_policy",
    "ike_lifetime",
    "ike_policy",
    "ike_version",
    "ipsec_psk",
    "local_guest_cidr",
    "local_public_gateway",
    "local_public_ip",
    "passive",
    "peer_gateway_ip",
    "peer_guest_cidr_list",
    "split_connections",
    "type",
];

/// The fields of the way in.
pub const REMOTE_FIELDS: &[&str] = &[
    "create",
    "delete_from_processed_cache",
    "ip_range",
    "local_cidr",
    "local_ip",
    "preshared_key",
    "public_interface",
    "type",
    "vpn_server_ip",
];

impl SiteToSite {
    /// Reads a tunnel and its key; none if it is taken away.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read(record: &Record<'_, '_>) -> Read<(String, Option<Self>)> {
        let peer = record.text("peer_gateway_ip")?;
        let peer = record.must("peer_gateway_ip", peer)?;
        if record.boolean("create")? == Some(false) {
            return Ok((peer.into_owned(), None));
        }
        let local = record.address("local_public_ip")?;
        record.must("peer_guest_cidr_list", record.field("peer_guest_cidr_list"))?;
        let tunnel = Self {
            local: record.must("local_public_ip", local)?,
            local_networks: Ends::read(record, "local_guest_cidr")?.v4,
            peer_networks: Ends::read(record, "peer_guest_cidr_list")?.v4,
            place: record.place(),
        };
        Ok((peer.into_owned(), Some(tunnel)))
    }
}

impl RemoteAccess {
    /// Reads the way in and its key; none if it is taken away.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read(record: &Record<'_, '_>) -> Read<(String, Option<Self>)> {
        let key = record.text("vpn_server_ip")?;
        let key = record.must("vpn_server_ip", key)?;
        if record.boolean("create")? == Some(false) {
            return Ok((key.into_owned(), None));
        }
        let server = record.address("vpn_server_ip")?;
        let range = record.text("ip_range")?;
        let range = record.must("ip_range", range)?;
        let (first, last) = range.split_once('-').unwrap_or((&range, &range));
        let (first, last) = (first.trim().parse(), last.trim().parse());
        let (Ok(first), Ok(last)) = (first, last) else {
            return Err(record.wrong("ip_range", "not a range of addresses"));
        };
        let way_in = Self {
            server: record.must("vpn_server_ip", server)?,
            users: prefixes_of_range(first, last),
            place: record.place(),
        };
        Ok((key.into_owned(), Some(way_in)))
    }
}

/// The fewest prefixes that are exactly the addresses from `first` to `last`.
fn prefixes_of_range(first: Ipv4Addr, last: Ipv4Addr) -> Vec<Cidr> {
    let mut prefixes = Vec::new();
    let (mut next, last) = (u64::from(first.to_bits()), u64::from(last.to_bits()));
    while next <= last {
        let bits = u32::try_from(next).unwrap_or(u32::MAX);
        // As wide as the start allows and the end leaves room for.
        let mut size_bits = bits.trailing_zeros().min(32);
        while next + (1_u64 << size_bits) - 1 > last {
            size_bits -= 1;
        }
        let length = u8::try_from(32 - size_bits).unwrap_or(32);
        prefixes.push(Cidr::containing(Ipv4Addr::from_bits(bits), length));
        next += 1_u64 << size_bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prefixes_of_a_range_have_its_addresses_and_no_others(first: u32, more in 0_u32..2000, probe in 0_u32..4000) {
            let last = first.saturating_add(more);
            let prefixes = prefixes_of_range(first.into(), last.into());
            let probe = first.wrapping_sub(1000).wrapping_add(probe);
            let inside = (first..=last).contains(&probe);
            prop_assert_eq!(prefixes.iter().filter(|cidr| cidr.contains(probe.into())).count(), usize::from(inside));
        }
    }

    #[test]
    fn a_range_may_be_everything_or_upside_down() {
        let (low, high) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        assert_eq!(prefixes_of_range(low, high), [Cidr::ANY]);
        assert_eq!(prefixes_of_range(high, low), []);
    }
}
