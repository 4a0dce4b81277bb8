//! How a network's source NAT behaves.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::rules::set::{Cidr, PortRange};

/// NAT behaviour of a network; names follow RFC 8512 where it has one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NatOptions {
    /// `mapping-type`.
    #[serde(rename = "mapping_type")]
    pub mapping: MappingType,
    /// `filtering-type`.
    #[serde(rename = "filtering_type")]
    pub filtering: FilteringBehavior,
    /// External ports that may be given out.
    #[serde(rename = "port_range")]
    pub ports: PortRange,
    /// Whether ports are shared between remotes once none is free.
    pub overload: bool,
    /// `hold-down-timeout`; none means the configuration's.
    #[serde(
        rename = "hold_down_timeout",
        serialize_with = "seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub hold: Option<Duration>,
    /// Whether guests reach each other through public addresses.
    pub hairpinning: bool,
    /// Whether what other networks of the domain open into this one, or behind its routes, leaves with the
    /// router's address in it.
    #[serde(skip_serializing_if = "crate::rules::set::is_default")]
    pub gateway_source_nat: bool,
    /// Whether GRE of PPTP is told apart by call id.
    #[serde(skip_serializing_if = "crate::rules::set::is_default")]
    pub pptp: bool,
    /// Destinations that are not translated.
    #[serde(rename = "exempt_destinations", skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<Cidr>,
    /// Destinations that the router's own kernel reaches.
    #[serde(rename = "kernel_destinations", skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<Cidr>,
}

impl Default for NatOptions {
    fn default() -> Self {
        Self {
            mapping: MappingType::EndpointIndependent,
            filtering: FilteringBehavior::AddressAndPortDependent,
            ports: PortRange::ALL,
            overload: true,
            hold: None,
            hairpinning: true,
            gateway_source_nat: false,
            pptp: false,
            exempt: Vec::new(),
            kernel: Vec::new(),
        }
    }
}

/// RFC 4787, section 4.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingType {
    /// `edm`.
    AddressAndPortDependent,
    /// `eim`.
    EndpointIndependent,
}

/// Who may send inbound through a mapping (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilteringBehavior {
    /// Only endpoints the guest has sent to.
    AddressAndPortDependent,
    /// Any port of addresses the guest has sent to.
    AddressDependent,
    /// Anybody.
    EndpointIndependent,
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs()).serialize(serializer)
}
