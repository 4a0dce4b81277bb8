//! Addresses as people name them in conditions.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::flow::{Endpoint, Family};
use crate::rules::set::AnyCidr;

/// `10.1.1.5`, `10.1.1.0/24`, or `10.1.1.5:40000`; of IPv6 `2001:db8::5`, `2001:db8::/64`, or
/// `[2001:db8::5]:40000`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressMatch {
    prefix: AnyCidr,
    port: Option<u16>,
}

/// Not an address, a prefix, or an endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not an address such as 10.1.1.5, 10.1.1.0/24 or 10.1.1.5:40000")]
pub struct AddressMatchError(String);

impl AddressMatch {
    /// Whether an endpoint is meant.
    #[must_use]
    pub fn matches<A: Family>(&self, endpoint: Endpoint<A>) -> bool {
        let is_inside = match (self.prefix, endpoint.address.into()) {
            (AnyCidr::V4(cidr), IpAddr::V4(address)) => cidr.contains(address),
            (AnyCidr::V6(cidr), IpAddr::V6(address)) => cidr.contains(address),
            (AnyCidr::V4(_), IpAddr::V6(_)) | (AnyCidr::V6(_), IpAddr::V4(_)) => false,
        };
        is_inside && self.port.is_none_or(|port| port == endpoint.port)
    }
}

impl FromStr for AddressMatch {
    type Err = AddressMatchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AddressMatchError(text.to_owned());
        let number = |port: &str| port.parse().map(Some).map_err(|_| error());
        // A second colon is IPv6's own; with a port its address stands in brackets.
        let is_ipv6 = text.starts_with('[') || text.matches(':').count() > 1;
        let (address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            Some((address, port)) => (address, number(port)?),
            None if is_ipv6 => (text, None),
            None => match text.split_once(':') {
                Some((address, port)) => (address, number(port)?),
                None => (text, None),
            },
        };
        let prefix = match is_ipv6 {
            true => address.parse().map(AnyCidr::V6),
            false => address.parse().map(AnyCidr::V4),
        };
        let prefix = prefix.map_err(|_| error())?;
        Ok(Self { prefix, port })
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
        match (self.prefix, self.port) {
            (AnyCidr::V4(cidr), _) if cidr.length() == 32 => write!(f, "{}", cidr.first())?,
            (AnyCidr::V6(cidr), None) if cidr.length() == 128 => write!(f, "{}", cidr.first())?,
            (AnyCidr::V6(cidr), Some(_)) if cidr.length() == 128 => {
                write!(f, "[{}]", cidr.first())?;
            }
            (AnyCidr::V6(cidr), Some(_)) => write!(f, "[{cidr}]")?,
            (prefix, _) => write!(f, "{prefix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

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

    #[test]
    fn an_ipv6_address_matches_what_it_covers() {
        let address: Ipv6Addr = "2001:db8:1::5".parse().unwrap();
        let endpoint = Endpoint::new(address, 40000);
        let matches = |text: &str| text.parse::<AddressMatch>().unwrap().matches(endpoint);
        assert!(matches("2001:db8:1::5") && matches("2001:db8::/32"));
        assert!(matches("[2001:db8:1::5]:40000") && matches("[2001:db8::/32]:40000"));
        assert!(!matches("2001:db8:1::6") && !matches("[2001:db8:1::5]:40001"));
        assert!(!matches("10.1.1.0/24"));
        for text in ["2001:db8:1::5", "2001:db8::/32", "[2001:db8:1::5]:1", "[2001:db8::/32]:1"] {
            assert_eq!(text.parse::<AddressMatch>().unwrap().to_string(), text);
        }
        for text in ["2001:db8", "[2001:db8::1", "2001:db8::1]:5", "1:2:3"] {
            assert!(text.parse::<AddressMatch>().is_err(), "{text}");
        }
    }
}
