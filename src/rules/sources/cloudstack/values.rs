//! Values as CloudStack writes them: netmasks, `lo:hi` ports, prefixes of both families in one list.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::record::{Read, Record};
use crate::flow::Protocol;
use crate::rules::scalars::{PROTOCOLS, shown};
use crate::rules::set::{Cidr, Match, PortRange};
use crate::rules::tree::Value;

/// The prefixes of a list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prefixes {
    /// The IPv4 ones; none if any address is meant, or only IPv6 ones.
    pub v4: Vec<Cidr>,
    /// Whether any IPv4 address at all is meant.
    pub has_v4: bool,
    /// Whether any IPv6 address is meant.
    pub has_v6: bool,
}

impl Prefixes {
    /// The prefixes in `words`: of no words, anything.
    fn of<'w>(words: impl Iterator<Item = &'w str>) -> Result<Self, String> {
        let mut prefixes = Self::default();
        let mut is_any = false;
        for word in words.map(str::trim).filter(|word| !word.is_empty()) {
            if is_v6_prefix(word) {
                prefixes.has_v6 = true;
                continue;
            }
            let cidr = cidr(word)?;
            prefixes.has_v4 = true;
            is_any |= cidr == Cidr::ANY;
            if !prefixes.v4.contains(&cidr) {
                prefixes.v4.push(cidr);
            }
        }
        if !prefixes.has_v4 && !prefixes.has_v6 {
            return Ok(Self { v4: Vec::new(), has_v4: true, has_v6: true });
        }
        if is_any {
            prefixes.v4.clear();
        }
        Ok(prefixes)
    }

    /// The prefixes of a field: a list of them, or text with commas. Nothing is anything.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn read(record: &Record<'_, '_>, name: &str) -> Read<Self> {
        let words: Vec<String> = match record.field(name).map(|node| &node.value) {
            Some(Value::List(nodes)) => {
                let words = nodes.iter().map(|node| match &node.value {
                    Value::Text(text) => Ok(text.to_string()),
                    _ => Err(record.wrong(name, format!("{} is no prefix", node.description()))),
                });
                words.collect::<Read<_>>()?
            }
            _ => record.text(name)?.into_iter().collect(),
        };
        Self::of(words.iter().flat_map(|word| word.split(',')))
            .map_err(|what| record.wrong(name, what))
    }
}

/// The IPv4 prefix `text`; bits behind its length are dropped, as the kernel does.
///
/// # Errors
/// With what is wrong with it.
pub fn cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || format!("\"{}\" is not a prefix such as 10.1.1.0/24", shown(text));
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let length = length.parse::<u8>().ok().filter(|length| *length <= 32).ok_or_else(wrong)?;
    Ok(Cidr::containing(address, length))
}

fn is_v6_prefix(text: &str) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "128"));
    let length = length.parse::<u8>().is_ok_and(|length| length <= 128);
    address.parse::<Ipv6Addr>().is_ok() && length
}

/// A prefix length that is written as a netmask or as a number.
///
/// # Errors
/// When it is neither, or a netmask with a hole.
pub fn prefix_length(record: &Record<'_, '_>, name: &str) -> Read<u8> {
    let text = record.text(name)?;
    let text = record.must(name, text)?;
    if let Some(length) = text.parse::<u8>().ok().filter(|length| *length <= 32) {
        return Ok(length);
    }
    let mask = text.parse::<Ipv4Addr>().ok().map(|mask| mask.to_bits());
    match mask.filter(|mask| mask.leading_ones() + mask.trailing_zeros() >= 32) {
        Some(mask) => Ok(u8::try_from(mask.leading_ones()).unwrap_or(32)),
        None => Err(record.wrong(name, format!("\"{}\" is not a netmask", shown(&text)))),
    }
}

/// Ports in the form `lo:hi`.
///
/// # Errors
/// When it has another form or is no range.
pub fn colon_ports(record: &Record<'_, '_>, name: &str) -> Read<PortRange> {
    let text = record.text(name)?;
    let text = record.must(name, text)?;
    let Some((first, last)) = text.split_once(':') else {
        return Err(record.wrong(name, format!("\"{}\" is not in the form lo:hi", shown(&text))));
    };
    let port = |text: &str| text.parse::<u16>().ok();
    match (port(first), port(last)) {
        (Some(first), Some(last)) => PortRange::new(first, last)
            .map_err(|error| record.wrong(name, format!("\"{}\": {error}", shown(&text)))),
        _ => Err(record.wrong(name, format!("\"{}\" is not a range of ports", shown(&text)))),
    }
}

/// Two ports, of which 0 to 0 or nothing means all.
///
/// # Errors
/// When they are no range.
pub fn ports_or_all(
    record: &Record<'_, '_>,
    name: &str,
    ports: Option<(i64, i64)>,
) -> Read<Option<PortRange>> {
    let Some((first, last)) = ports else { return Ok(None) };
    if matches!((first, last), (0, 0) | (0, 65_535)) {
        return Ok(None);
    }
    match (u16::try_from(first), u16::try_from(last)) {
        (Ok(first), Ok(last)) => PortRange::new(first, last)
            .map(Some)
            .map_err(|error| record.wrong(name, format!("{first} to {last}: {error}"))),
        _ => Err(record.wrong(name, format!("{first} to {last} are no ports"))),
    }
}

/// What an entry with a protocol matches: its own ports, or an ICMP type and code of which −1 is any.
///
/// # Errors
/// When protocol, type or code are none.
pub fn matches(
    record: &Record<'_, '_>,
    protocol: Option<Protocol>,
    ports: Option<PortRange>,
) -> Read<Match> {
    let mut matches = Match { protocol, ports: None, icmp_type: None, icmp_code: None };
    match protocol {
        Some(Protocol::ICMP) => {
            let byte = |value: Option<i64>| value.and_then(|value| u8::try_from(value).ok());
            matches.icmp_type = byte(record.integer("icmp_type", -1, 255)?);
            matches.icmp_code = byte(record.integer("icmp_code", -1, 255)?);
            // A code means something only with its type.
            if matches.icmp_type.is_none() {
                matches.icmp_code = None;
            }
        }
        Some(protocol) if protocol.has_ports() => matches.ports = ports,
        Some(_) | None => {}
    }
    Ok(matches)
}

/// The protocol of a field; none for `all`.
///
/// # Errors
/// When it names none.
pub fn protocol(record: &Record<'_, '_>, name: &str) -> Read<Option<Protocol>> {
    let text = record.text(name)?;
    let text = record.must(name, text)?.to_lowercase();
    if matches!(text.as_str(), "all" | "any") {
        return Ok(None);
    }
    let known = PROTOCOLS.iter().find(|(word, _)| *word == text).map(|(_, protocol)| *protocol);
    match known.or_else(|| text.parse().ok().map(Protocol)) {
        Some(protocol) => Ok(Some(protocol)),
        None => Err(record.wrong(name, format!("\"{}\" is not a protocol", shown(&text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_prefixes_is_anything_and_one_of_the_other_family_is_nothing() {
        let any = Prefixes::of([].into_iter()).unwrap();
        assert!(any.v4.is_empty() && any.has_v4 && any.has_v6);
        let v6 = Prefixes::of(["2001:db8::/32"].into_iter()).unwrap();
        assert!(!v6.has_v4 && v6.has_v6);
        let both = Prefixes::of(["0.0.0.0/0", "::/0"].into_iter()).unwrap();
        assert!(both.v4.is_empty() && both.has_v4 && both.has_v6);
        let one = Prefixes::of(["10.1.1.5/24", "10.1.1.7/24"].into_iter()).unwrap();
        assert_eq!(one.v4, ["10.1.1.0/24".parse().unwrap()]);
        assert!(Prefixes::of(["not-a-cidr"].into_iter()).is_err());
        assert!(Prefixes::of(["10.0.0.0/33"].into_iter()).is_err());
    }
}
