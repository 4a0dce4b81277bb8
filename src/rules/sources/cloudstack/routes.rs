//! Static routes of a VPC (`static_routes.json`, bag `staticroutes`).

use std::net::Ipv4Addr;

use super::record::{Read, Record};
use crate::rules::diagnostic::Place;
use crate::rules::set::Cidr;

/// A static route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteEntry {
    /// What it leads to.
    pub destination: Cidr,
    /// The next hop.
    pub gateway: Ipv4Addr,
    /// The private gateway's own address; none for a route by next hop alone.
    pub private_gateway: Option<Ipv4Addr>,
    /// Whether it was withdrawn; it stays in the bag.
    pub revoked: bool,
    /// Where it was written.
    pub place: Place,
}

/// The fields of a route.
pub const ROUTE_FIELDS: &[&str] = &["gateway", "ip_address", "network", "revoke"];

impl RouteEntry {
    /// Reads a route, and what tells it from others.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read(record: &Record<'_, '_>) -> Read<(String, Self)> {
        let revoke = record.boolean("revoke")?;
        let network = record.text("network")?;
        let network = record.must("network", network)?;
        let destination =
            super::values::cidr(&network).map_err(|what| record.wrong("network", what))?;
        let gateway = record.address("gateway")?;
        let route = Self {
            destination,
            gateway: record.must("gateway", gateway)?,
            private_gateway: record.address("ip_address")?,
            revoked: record.must("revoke", revoke)?,
            place: record.place(),
        };
        Ok((network.into_owned(), route))
    }
}
