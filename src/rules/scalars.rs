//! Values without fields of their own: addresses, prefixes, ports, protocols, numbers and text.
//!
//! Each function returns `None` after it has noted why.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::fields::nearest;
use super::reader::Faults;
use super::set::{AnyCidr, Cidr, CidrError, PortRange, PortRangeError};
use super::tree::{Node, Value};
use super::values::number;
use crate::flow::{Family, Protocol};

/// An address.
pub fn address(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<Ipv4Addr> {
    let text = text(node, faults)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let hint = if text.contains('/') {
            "an address has no prefix length here: leave out the / and what follows"
        } else {
            "write four numbers from 0 to 255, such as 10.1.1.5"
        };
        faults.value_error(node, format!("\"{}\" is not an IPv4 address", shown(text)), hint);
    }
    parsed
}

/// An IPv6 address.
pub fn address_ipv6(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<Ipv6Addr> {
    let text = text(node, faults)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let what = format!("\"{}\" is not an IPv6 address", shown(text));
        faults.value_error(node, what, "write it like 2001:db8:1::5, without a prefix length");
    }
    parsed
}

/// A prefix of either family.
pub fn any_cidr(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<AnyCidr> {
    match text(node, faults)?.contains(':') {
        true => cidr(node, faults).map(AnyCidr::V6),
        false => cidr(node, faults).map(AnyCidr::V4),
    }
}

/// A prefix.
pub fn cidr<A: Family>(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<Cidr<A>> {
    let text = text(node, faults)?;
    match text.parse() {
        Ok(cidr) => Some(cidr),
        Err(CidrError::Malformed) => {
            let what = format!("\"{}\" is not an IPv4 prefix", shown(text));
            faults.value_error(node, what, "write it like 10.1.1.0/24, with a length from 0 to 32");
            None
        }
        Err(CidrError::MalformedIpv6) => {
            let what = format!("\"{}\" is not an IPv6 prefix", shown(text));
            faults.value_error(
                node,
                what,
                "write it like 2001:db8:1::/64, with a length up to 128",
            );
            None
        }
        Err(CidrError::HostBits) => {
            let what = format!("\"{text}\" has bits set behind its prefix length");
            let meant = text.split_once('/').and_then(|(address, length)| {
                Some(Cidr::<A>::containing(address.parse().ok()?, length.parse().ok()?))
            });
            let hint = meant.map_or_else(String::new, |cidr| format!("write {cidr}"));
            faults.value_error(node, what, hint);
            None
        }
    }
}

/// A port.
pub fn port(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<NonZeroU16> {
    let range = ports(node, faults)?;
    if range.count() != 1 {
        faults.value_error(node, format!("{range} is a range"), "name one port");
        return None;
    }
    NonZeroU16::new(range.first())
}

/// A port or range, as a number or text.
pub fn ports(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<PortRange> {
    let parsed = match &node.value {
        Value::Integer(number) => u16::try_from(*number)
            .map_err(|_| PortRangeError::NotAPort)
            .and_then(|p| PortRange::new(p, p)),
        Value::Number => Err(PortRangeError::NotAPort),
        Value::Text(text) => text.parse(),
        _ => return wrong_type(node, "a port or a range of ports", faults),
    };
    let error = match parsed {
        Ok(range) => return Some(range),
        Err(error) => error,
    };
    let what = match &node.value {
        Value::Text(text) => format!("\"{}\" is not a port or range: {error}", shown(text)),
        Value::Integer(number) => format!("{number} is not a port: {error}"),
        _ => format!("not a port: {error}"),
    };
    let hint = match error {
        PortRangeError::Descending => "write the lower port first",
        PortRangeError::NotAPort => "write a port such as 443 or a range such as \"2222-2230\"",
    };
    faults.value_error(node, what, hint);
    None
}

/// The words for protocols.
pub const PROTOCOLS: [(&str, Protocol); 10] = [
    ("ah", Protocol::AH),
    ("dccp", Protocol::DCCP),
    ("esp", Protocol::ESP),
    ("gre", Protocol::GRE),
    ("icmp", Protocol::ICMP),
    ("icmpv6", Protocol::ICMPV6),
    ("sctp", Protocol::SCTP),
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("udplite", Protocol::UDP_LITE),
];

/// The same words for messages where `all` may stand too; it is told apart before.
pub(super) const PROTOCOLS_AND_ALL: [(&str, Protocol); 11] = {
    let mut words = [("all", Protocol(0)); 11];
    let mut index = 0;
    while index < PROTOCOLS.len() {
        words[index + 1] = PROTOCOLS[index];
        index += 1;
    }
    words
};

pub(super) fn protocol(
    node: &Node<'_>,
    words: &[(&str, Protocol)],
    faults: &mut Faults<'_>,
) -> Option<Protocol> {
    match &node.value {
        Value::Integer(_) | Value::Number => {
            integer(node, 0, 255, faults).and_then(|value| u8::try_from(value).ok()).map(Protocol)
        }
        Value::Text(text) => {
            let known =
                words.iter().find(|&&(word, _)| word == text).map(|&(_, protocol)| protocol);
            let known = known.or_else(|| number(text).map(Protocol));
            if known.is_none() {
                let names = || words.iter().map(|&(word, _)| word);
                let hint = nearest(text, names()).map_or_else(
                    || format!("write {}, or a number from 0 to 255", list_of_words(names())),
                    |near| format!("did you mean \"{near}\"?"),
                );
                let what = format!("\"{}\" is not a protocol", shown(text));
                faults.value_error(node, what, hint);
            }
            known
        }
        _ => wrong_type(node, "a protocol's name or number", faults),
    }
}

/// A whole number within bounds.
pub fn integer(node: &Node<'_>, low: i64, high: i64, faults: &mut Faults<'_>) -> Option<i64> {
    match node.value {
        Value::Integer(value) if (low..=high).contains(&value) => Some(value),
        Value::Integer(value) => {
            let what = format!("{value} is out of range");
            let hint = match low == high {
                true => format!("write {low}"),
                false => format!("write a number from {low} to {high}"),
            };
            faults.value_error(node, what, hint);
            None
        }
        Value::Number => {
            let hint = format!("write a whole number from {low} to {high}");
            faults.value_error(node, "not a whole number in range", hint);
            None
        }
        _ => wrong_type(node, "a number", faults),
    }
}

/// The elements of a list.
pub fn elements<'a, 't>(
    node: &'a Node<'t>,
    expected: &str,
    faults: &mut Faults<'_>,
) -> &'a [Node<'t>] {
    match &node.value {
        Value::List(elements) => elements,
        _ => wrong_type(node, expected, faults).unwrap_or_default(),
    }
}

/// Text for people and machines alike: not empty, not endless, on one line.
pub fn plain_text<'a>(
    node: &'a Node<'_>,
    length_max: usize,
    faults: &mut Faults<'_>,
) -> Option<&'a str> {
    let text = text(node, faults)?;
    let (what, hint) = if text.is_empty() {
        ("empty text".to_owned(), "write something, or leave the field out")
    } else if text.len() > length_max {
        (format!("{} bytes of text where {length_max} fit", text.len()), "shorten it")
    } else if text.chars().any(char::is_control) {
        ("text with a control character".to_owned(), "leave out line ends, tabs and the like")
    } else {
        return Some(text);
    };
    faults.value_error(node, what, hint);
    None
}

pub(super) fn text<'a>(node: &'a Node<'_>, faults: &mut Faults<'_>) -> Option<&'a str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => wrong_type(node, "a string", faults),
    }
}

pub(super) fn wrong_type<T>(node: &Node<'_>, expected: &str, faults: &mut Faults<'_>) -> Option<T> {
    let hint = match node.value {
        Value::Integer(_) | Value::Number if expected == "a string" => {
            "put it in double quotes".to_owned()
        }
        Value::Null => "leave the field out to say nothing".to_owned(),
        _ => format!("write {expected}"),
    };
    faults.value_error(node, format!("{} where {expected} belongs", node.description()), hint);
    None
}

/// What was written, cut to what a line of a message can bear.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        shown.push('…');
    }
    shown
}

/// `"a", "b" or "c"`.
pub(super) fn list_of_words<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
