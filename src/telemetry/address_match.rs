//! Addresses as people name them in conditions.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::flow::Endpoint;
use crate::rules::set::Cidr;

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
}
