//! What can be asked over the control socket.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use crate::telemetry::address_match::AddressMatch;

/// A request: one line of JSON, told apart by its `command`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// What is known of one packet.
    Explain(LiveQuestion),
    /// Reads the rules again.
    Reload,
    /// Ends every session.
    SessionsFlush,
    /// Ends the sessions that match; at least one condition is needed.
    SessionsKill(SessionFilter),
    /// Public addresses with what passed by them.
    ShowAddresses,
    /// Load balancers' members.
    ShowBalancers,
    /// The configuration in force.
    ShowConfig,
    /// Frames not forwarded, by reason.
    ShowDrops,
    /// Live mappings.
    ShowMappings(MappingFilter),
    /// Next hops and their link addresses.
    ShowNeighbors,
    /// The rules in force as a native rule file.
    ShowNative,
    /// Guest networks.
    ShowNetworks,
    /// The compiled rules in short.
    ShowPolicy,
    /// Public addresses and how full they are.
    ShowPools,
    /// Rules with what they carried.
    ShowRules,
    /// Sessions.
    ShowSessions(SessionFilter),
    /// The engine in numbers.
    ShowStats,
    /// Workers, interfaces and what they count.
    ShowWorkers,
    /// Frames as they pass, until enough were seen or the client goes away.
    Watch(WatchFilter),
}

/// One packet, as it comes in.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LiveQuestion {
    /// The interface it comes in by.
    pub interface: String,
    /// The VLAN it comes in by; zero for untagged.
    pub vlan: u16,
    /// Both VLANs if it has two, as `200.100`, or its VNI, as `VNI 5001`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Its source; the port of an ICMP query is its identifier.
    pub source: (Ipv4Addr, u16),
    /// Its destination.
    pub destination: (Ipv4Addr, u16),
    /// ICMP type and code; zeros for other protocols.
    pub icmp: (u8, u8),
}

/// Which frames. Every condition that is given must hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchFilter {
    /// The interface they came in by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The IP protocol's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The source as it came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<AddressMatch>,
    /// The destination as it came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<AddressMatch>,
    /// Either of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<AddressMatch>,
    /// Only frames that were dropped.
    pub drops: bool,
    /// Only frames that were dropped for the reason of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// No more than this many; none means without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// No longer than this; none means without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Which sessions. Every condition that is given must hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionFilter {
    /// The guest: an address, a prefix, or an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<AddressMatch>,
    /// The public endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<AddressMatch>,
    /// The remote endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<AddressMatch>,
    /// The IP protocol's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The id of the rule that allowed it, or `kind:id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The name of the guest's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The session's own key, as `show sessions` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// No more than this many; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Only how many there are.
    pub count: bool,
}

impl SessionFilter {
    /// Whether any condition narrows it.
    #[must_use]
    pub fn narrows(&self) -> bool {
        let all = Self { limit: self.limit, count: self.count, ..Self::default() };
        *self != all
    }
}

/// Which mappings. Every condition that is given must hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MappingFilter {
    /// The guest: an address, a prefix, or an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<AddressMatch>,
    /// The public endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<AddressMatch>,
    /// The IP protocol's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// No more than this many; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Only how many there are.
    pub count: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, serde_json::Error> {
        serde_json::from_str(line)
    }

    #[test]
    fn a_request_is_told_by_its_command() {
        assert_eq!(parse(r#"{"command":"reload"}"#).unwrap(), Request::Reload);
        let line = r#"{"command":"show_sessions","guest":"10.1.1.0/24","limit":5}"#;
        let guest = Some("10.1.1.0/24".parse().unwrap());
        let filter = SessionFilter { guest, limit: Some(5), ..Default::default() };
        assert_eq!(parse(line).unwrap(), Request::ShowSessions(filter));
    }

    #[test]
    fn a_request_survives_its_line() {
        let filter = SessionFilter {
            remote: Some("198.51.100.9:443".parse().unwrap()),
            protocol: Some(6),
            count: true,
            ..Default::default()
        };
        let request = Request::SessionsKill(filter);
        assert_eq!(parse(&serde_json::to_string(&request).unwrap()).unwrap(), request);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(parse(r#"{"command":"sing"}"#).is_err());
        assert!(parse(r#"{"command":"show_sessions","geust":"10.1.1.5"}"#).is_err());
        assert!(parse(r#"{"command":"show_sessions","guest":"10.1.1"}"#).is_err());
        assert!(parse(r#"{"guest":"10.1.1.5"}"#).is_err());
        assert!(parse("[]").is_err());
    }

    #[test]
    fn a_limit_or_a_count_does_not_narrow() {
        assert!(!SessionFilter { limit: Some(1), count: true, ..Default::default() }.narrows());
        assert!(SessionFilter { protocol: Some(6), ..Default::default() }.narrows());
    }
}
