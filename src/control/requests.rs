//! What can be asked over the control socket.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::flow::Endpoint;
use crate::rules::set::Cidr;

/// A request: one line of JSON, told apart by its `command`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Reads the rules again.
    Reload,
    /// Ends every session.
    SessionsFlush,
    /// Ends the sessions that match; at least one condition is needed.
    SessionsKill(SessionFilter),
    /// The configuration in force.
    ShowConfig,
    /// Frames not forwarded, by reason.
    ShowDrops,
    /// Live mappings.
    ShowMappings(MappingFilter),
    /// Next hops and their link addresses.
    ShowNeighbors,
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

/// `10.1.1.5`, `10.1.1.0/24`, or `10.1.1.5:40000`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressMatch {
    cidr: Cidr,
    port: Option<u16>,
}

/// Not an address, a prefix, or an endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not an address such as 10.1.1.5, 10.1.1.0/24 or 10.1.1.5:40000")]
pub struct AddressMatchError(String);

impl AddressMatch {
    /// Whether an endpoint is meant.
    #[must_use]
    pub fn matches(&self, endpoint: Endpoint) -> bool {
        self.cidr.contains(endpoint.address) && self.port.is_none_or(|port| port == endpoint.port)
    }
}

impl FromStr for AddressMatch {
    type Err = AddressMatchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AddressMatchError(text.to_owned());
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, Some(port.parse().map_err(|_| error())?)),
            None => (text, None),
        };
        let cidr = match address.split_once('/') {
            Some(_) => address.parse().map_err(|_| error())?,
            None => Cidr::containing(address.parse::<Ipv4Addr>().map_err(|_| error())?, 32),
        };
        Ok(Self { cidr, port })
    }
}

impl TryFrom<String> for AddressMatch {
    type Error = AddressMatchError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressMatch> for String {
    fn from(address: AddressMatch) -> Self {
        address.to_string()
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cidr.length() {
            32 => write!(f, "{}", self.cidr.first())?,
            _ => write!(f, "{}", self.cidr)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
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
    fn an_address_matches_what_it_covers() {
        let endpoint = Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), 40000);
        let matches = |text: &str| text.parse::<AddressMatch>().unwrap().matches(endpoint);
        assert!(matches("10.1.1.5") && matches("10.1.1.0/24") && matches("10.1.1.5:40000"));
        assert!(!matches("10.1.1.6") && !matches("10.1.2.0/24") && !matches("10.1.1.5:40001"));
        for text in ["10.1.1.5", "10.1.1.0/24", "10.1.1.5:40000"] {
            assert_eq!(text.parse::<AddressMatch>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_limit_or_a_count_does_not_narrow() {
        assert!(!SessionFilter { limit: Some(1), count: true, ..Default::default() }.narrows());
        assert!(SessionFilter { protocol: Some(6), ..Default::default() }.narrows());
    }
}
