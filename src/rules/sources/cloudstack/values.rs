//! Values as CloudStack writes them: netmasks, `lo:hi` ports, prefixes of both families in one list.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::record::{Read, Record};
use crate::flow::{Family, Protocol};
use crate::rules::scalars::{PROTOCOLS, shown};
use crate::rules::set::{Cidr, Match, PortRange, Prefixes};
use crate::rules::tree::Value;

/// The prefixes of a list, of both families.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ends {
    /// The IPv4 ones; none if any address is meant, or only IPv6 ones.
    pub v4: Vec<Cidr>,
    /// The IPv6 ones; none if any address is meant, or only IPv4 ones.
    pub v6: Vec<Cidr<Ipv6Addr>>,
    /// Whether any IPv4 address at all is meant.
    pub has_v4: bool,
    /// Whether any IPv6 address at all is meant.
    pub has_v6: bool,
}

impl Ends {
    /// Adds the prefixes in `text`, with commas between them.
    fn add(&mut self, text: &str) -> Result<(), String> {
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.contains(':').then(|| ipv6_prefix(word)).flatten() {
                Some(cidr) => self.v6.push(cidr),
                None => self.v4.push(cidr(word)?),
            }
        }
        Ok(())
    }

    /// What was added is all there is: nothing is anything.
    fn settled(mut self) -> Self {
        let is_any = self.v4.is_empty() && self.v6.is_empty();
        self.has_v4 = is_any || !self.v4.is_empty();
        self.has_v6 = is_any || !self.v6.is_empty();
        settle(&mut self.v4);
        settle(&mut self.v6);
        self
    }

    /// What a rule says of them in a network: of a network of IPv4 alone, any is nothing; in one of both
    /// families it is told apart. None if nothing of it concerns `families`.
    #[must_use]
    pub fn prefixes(&self, families: Families) -> Option<Prefixes> {
        let v4 = || if self.v4.is_empty() { vec![Cidr::ANY] } else { self.v4.clone() };
        let v6 = || if self.v6.is_empty() { vec![Cidr::ANY] } else { self.v6.clone() };
        let is_any = self.v4.is_empty() && self.v6.is_empty();
        match families {
            Families::Both if self.has_v4 && self.has_v6 && is_any => Some(Prefixes::default()),
            Families::Both => Some(Prefixes {
                ipv4: if self.has_v4 { v4() } else { Vec::new() },
                ipv6: if self.has_v6 { v6() } else { Vec::new() },
            }),
            Families::Ipv4 => self.has_v4.then(|| self.v4.clone().into()),
            Families::Ipv4OfBoth => self.has_v4.then(|| v4().into()),
            Families::Ipv6OfBoth => self.has_v6.then(|| Prefixes { ipv4: Vec::new(), ipv6: v6() }),
        }
    }

    /// The prefixes of a field: a list of them, or text with commas. Nothing is anything.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn read(record: &Record<'_, '_>, name: &str) -> Read<Self> {
        let mut ends = Self::default();
        let wrong = |what| record.wrong(name, what);
        match record.field(name).map(|node| &node.value) {
            Some(Value::List(nodes)) => {
                for node in nodes {
                    let Value::Text(text) = &node.value else {
                        return Err(wrong(format!("{} is no prefix", node.description())));
                    };
                    ends.add(text).map_err(wrong)?;
                }
            }
            _ => ends.add(&record.text(name)?.unwrap_or_default()).map_err(wrong)?,
        }
        Ok(ends.settled())
    }
}

/// The families that a rule is about, in a network that has them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Families {
    /// Both.
    Both,
    /// IPv4, and the network has nothing else.
    Ipv4,
    /// IPv4 alone of both.
    Ipv4OfBoth,
    /// IPv6 alone of both.
    Ipv6OfBoth,
}

/// Drops what is there twice, and everything where one prefix is anything.
fn settle<A: Family>(prefixes: &mut Vec<Cidr<A>>) {
    if prefixes.contains(&Cidr::ANY) {
        prefixes.clear();
    }
    if prefixes.len() > 1 {
        let mut seen = ahash::HashSet::default();
        prefixes.retain(|cidr| seen.insert(*cidr));
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

/// The IPv6 prefix `text`; bits behind its length are dropped.
#[must_use]
pub fn ipv6_prefix(text: &str) -> Option<Cidr<Ipv6Addr>> {
    let (address, length) = text.split_once('/').unwrap_or((text, "128"));
    let length = length.parse::<u8>().ok().filter(|length| *length <= 128)?;
    Some(Cidr::containing(address.parse().ok()?, length))
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
        Some(protocol) if protocol.is_icmp() => {
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

    fn ends(text: &str) -> Result<Ends, String> {
        let mut ends = Ends::default();
        ends.add(text)?;
        Ok(ends.settled())
    }

    #[test]
    fn a_list_without_prefixes_is_anything_and_one_of_the_other_family_is_nothing() {
        let any = ends("").unwrap();
        assert!(any.v4.is_empty() && any.has_v4 && any.has_v6);
        let v6 = ends("2001:db8::/32").unwrap();
        assert!(!v6.has_v4 && v6.has_v6);
        let both = ends("0.0.0.0/0, ::/0").unwrap();
        assert!(both.v4.is_empty() && both.has_v4 && both.has_v6);
        let one = ends("10.1.1.5/24,,10.1.1.7/24").unwrap();
        assert_eq!(one.v4, ["10.1.1.0/24".parse().unwrap()]);
        assert!(ends("not-a-cidr").is_err());
        assert!(ends("10.0.0.0/33").is_err());
    }

    #[test]
    fn in_a_network_of_both_families_any_is_told_apart() {
        let any = ends("").unwrap();
        assert_eq!(any.prefixes(Families::Ipv4), Some(Prefixes::default()));
        assert_eq!(any.prefixes(Families::Both), Some(Prefixes::default()));
        let everything: Prefixes = vec![Cidr::ANY].into();
        assert_eq!(any.prefixes(Families::Ipv4OfBoth), Some(everything.clone()));
        let v4 = ends("0.0.0.0/0").unwrap();
        assert_eq!(v4.prefixes(Families::Both), Some(everything));
        assert_eq!(v4.prefixes(Families::Ipv6OfBoth), None);
    }
}
