//! Values that JSON writes as text, read back: prefixes, ports, protocols, MACs.

use std::net::Ipv4Addr;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::flow::{Mac, Protocol};
use crate::rules::scalars::PROTOCOLS;
use crate::rules::set::{Cidr, PortRange};
use crate::rules::sources::nics::parse_mac;

impl<'de> Deserialize<'de> for Cidr<Ipv4Addr> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a prefix such as 10.1.1.0/24", |text| text.parse().ok())
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a port or range such as 8000-8010", |text| text.parse().ok())
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a protocol's name or number", protocol)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a MAC such as fa:16:3e:00:00:01", parse_mac)
    }
}

/// A protocol, or none where the text is `all`.
///
/// # Errors
/// When it is neither.
pub fn protocol_or_all<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Protocol>, D::Error> {
    read(deserializer, "a protocol's name or number, or all", |text| match text {
        "all" => Some(None),
        text => protocol(text).map(Some),
    })
}

fn protocol(text: &str) -> Option<Protocol> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol);
    named.or_else(|| text.parse().ok().map(Protocol))
}

fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &expected))
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::*;
    use crate::rules::set::Match;

    fn comes_back<T: Debug + DeserializeOwned + PartialEq + Serialize>(value: &T) {
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    }

    #[test]
    fn what_is_written_as_text_is_read_back() {
        comes_back(&Mac([0xfa, 0x16, 0x3e, 0, 0, 1]));
        comes_back(&"10.1.1.0/24".parse::<Cidr>().unwrap());
        comes_back(&PortRange::new(80, 80).unwrap());
        comes_back(&PortRange::new(80, 90).unwrap());
        for number in 0..=255 {
            comes_back(&Protocol(number));
            let protocol = Some(Protocol(number)).filter(|protocol| protocol.0 > 0);
            comes_back(&Match { protocol, ports: None, icmp_type: Some(number), icmp_code: None });
        }
    }

    #[test]
    fn text_that_says_something_else_is_refused_with_it() {
        let error = serde_json::from_str::<Cidr>("\"10.1.1.1/24\"").unwrap_err().to_string();
        assert!(error.contains("\"10.1.1.1/24\", expected a prefix"), "{error}");
        assert!(serde_json::from_str::<Mac>("\"fa:16\"").is_err());
        assert!(serde_json::from_str::<PortRange>("\"90-80\"").is_err());
        assert!(serde_json::from_str::<Protocol>("\"all\"").is_err());
    }
}
