//! Limits of what passes by public addresses.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::rules::diagnostic::Place;
use crate::rules::set::{PortRange, is_default};

/// A limit of what passes by a public address, or by some of its ports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressLimit {
    /// Its id, unique among limits of addresses.
    pub id: String,
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// Its ports; none means all that no other limit of the address names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// What may come in, in kilobits per second; zero means no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub inbound_kbit_per_second: u64,
    /// What may go out, in kilobits per second; zero means no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub outbound_kbit_per_second: u64,
    /// Limits with one such name are one limit for all their addresses and ports together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}
