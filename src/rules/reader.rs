//! Reads typed values out of the tree and notes every fault on the way.
//!
//! A reading function returns `None` after it has noted why. Callers read all fields of a table
//! before they look at any result, so that one run finds all faults.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use super::diagnostic::{Diagnostic, Severity};
use super::fields::{FIELDS_MAX, Field, Kind, Presence, Section, nearest};
use super::set::{Cidr, CidrError, PortRange, PortRangeError};
use super::source::Source;
use super::tree::{Node, Parsed, Value};
use super::values::number;
use crate::flow::Protocol;

/// The faults of one file.
#[derive(Debug)]
pub struct Faults<'s> {
    source: &'s Source,
    list: Vec<Diagnostic>,
    format: Format,
    /// With faults of syntax the tree may lack entries that the file has.
    tree_is_whole: bool,
    /// Where the text itself is at fault: what is wrong with a value there is no news.
    syntax_faults: Vec<u32>,
    /// The field being read.
    field: &'static str,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// JSON.
    Json,
    /// TOML.
    Toml,
}

impl<'s> Faults<'s> {
    /// The faults of the text `source` itself; those of what it says are still to be found.
    #[must_use]
    pub fn of_syntax(source: &'s Source, format: Format, parsed: &Parsed<'_>) -> Self {
        let mut faults = Self {
            source,
            list: Vec::new(),
            format,
            tree_is_whole: parsed.whole,
            syntax_faults: Vec::new(),
            field: "",
        };
        for fault in &parsed.faults {
            faults.error(fault.at, &*fault.what, fault.hint);
            // A handful is enough: beyond, nobody reads on.
            if faults.syntax_faults.len() < 64 {
                faults.syntax_faults.push(fault.at);
            }
        }
        faults
    }

    /// Notes an error at the offset `at`.
    pub fn error(&mut self, at: u32, what: impl Into<String>, hint: impl Into<String>) {
        if self.syntax_faults.contains(&at) {
            return;
        }
        self.list.push(Diagnostic {
            severity: Severity::Error,
            place: self.source.place(at),
            what: what.into(),
            hint: hint.into(),
        });
    }

    /// Notes an error of a value of the field being read.
    pub fn value_error(&mut self, node: &Node<'_>, what: impl Display, hint: impl Into<String>) {
        self.error(node.at, format!("{}: {what}", self.field), hint);
    }

    /// The file.
    #[must_use]
    pub fn source(&self) -> &'s Source {
        self.source
    }

    /// What was noted.
    #[must_use]
    pub fn into_list(self) -> Vec<Diagnostic> {
        self.list
    }
}

/// A table being read: its nodes by the fields of its section.
#[derive(Debug)]
pub struct Fields<'a, 't> {
    section: &'static Section,
    slots: [Option<&'a Node<'t>>; FIELDS_MAX],
    /// Where the table starts.
    pub at: u32,
}

impl<'a, 't> Fields<'a, 't> {
    /// Opens `node` as a `section`; notes unknown, repeated and missing fields.
    pub fn open(
        node: &'a Node<'t>,
        section: &'static Section,
        faults: &mut Faults<'_>,
    ) -> Option<Self> {
        const { assert!(FIELDS_MAX <= 16, "slots are copied around") };
        let Value::Table(entries) = &node.value else {
            let what = format!("{} is {}, not a table of fields", section.name, node.description());
            let hint = match faults.format {
                Format::Json => "write it as an object: {\"field\": value}",
                Format::Toml => "write it as a table: { field = value }",
            };
            faults.error(node.at, what, hint);
            return None;
        };
        let mut fields = Self { section, slots: [None; FIELDS_MAX], at: node.at };
        for entry in entries {
            let slot = section.position(&entry.key);
            match slot.and_then(|position| fields.slots.get_mut(position)) {
                Some(slot @ None) => *slot = Some(&entry.node),
                Some(Some(_)) => faults.error(
                    entry.key_at,
                    format!("field \"{}\" is there twice", entry.key),
                    "delete one of the two",
                ),
                None => unknown_field(&entry.key, entry.key_at, section, faults),
            }
        }
        fields.note_missing(faults);
        Some(fields)
    }

    /// Where the value of `name` starts, or the table if it was left out.
    #[must_use]
    pub fn place_of(&self, name: &str) -> u32 {
        self.slot(name).map_or(self.at, |(_, node)| node.at)
    }

    /// Where each field's value starts; the table itself for fields that were left out.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        self.section.fields.iter().zip(&self.slots).map(|(_, slot)| slot.map_or(self.at, |n| n.at))
    }

    /// Whether `name` is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.slot(name).is_some()
    }

    /// An address.
    pub fn address(&self, name: &str, faults: &mut Faults<'_>) -> Option<Ipv4Addr> {
        self.node(name, faults).and_then(|(_, node)| address(node, faults))
    }

    /// An address that may be null: `Some(None)` then, or where TOML leaves it out.
    pub fn address_or_null(&self, name: &str, faults: &mut Faults<'_>) -> Option<Option<Ipv4Addr>> {
        match self.node(name, faults) {
            None | Some((_, Node { value: Value::Null, .. })) => Some(None),
            Some((_, node)) => address(node, faults).map(Some),
        }
    }

    /// A boolean.
    pub fn boolean(&self, name: &str, faults: &mut Faults<'_>) -> Option<bool> {
        let (_, node) = self.node(name, faults)?;
        match node.value {
            Value::Boolean(value) => Some(value),
            _ => wrong_type(node, "true or false", faults),
        }
    }

    /// One of the words of the field's kind, as what it stands for. `meanings` has the same words.
    pub fn choice<T: Copy>(
        &self,
        name: &str,
        meanings: &[(&str, T)],
        faults: &mut Faults<'_>,
    ) -> Option<T> {
        let (_, node) = self.node(name, faults)?;
        let words = || meanings.iter().map(|&(word, _)| word);
        let text = text(node, faults)?;
        let found = meanings.iter().find(|&&(word, _)| word == text);
        if found.is_none() {
            let all = list_of_words(words());
            let hint = nearest(text, words())
                .map_or_else(|| format!("write {all}"), |near| format!("did you mean \"{near}\"?"));
            faults.value_error(node, format!("\"{}\" is not {all}", shown(text)), hint);
        }
        found.map(|&(_, meaning)| meaning)
    }

    /// A prefix.
    pub fn cidr(&self, name: &str, faults: &mut Faults<'_>) -> Option<Cidr> {
        self.node(name, faults).and_then(|(_, node)| cidr(node, faults))
    }

    /// Prefixes, one or a list; none if it was left out.
    pub fn cidrs(&self, name: &str, faults: &mut Faults<'_>) -> Vec<Cidr> {
        match self.node(name, faults) {
            None => Vec::new(),
            Some((Kind::CidrOrCidrs, node @ Node { value: Value::Text(_), .. })) => {
                cidr(node, faults).into_iter().collect()
            }
            Some((_, node)) => {
                elements(node, "a list of prefixes such as [\"10.1.0.0/16\"]", faults)
                    .iter()
                    .filter_map(|node| cidr(node, faults))
                    .collect()
            }
        }
    }

    /// A whole number within the bounds of the field's kind.
    pub fn integer<T: TryFrom<i64>>(&self, name: &str, faults: &mut Faults<'_>) -> Option<T> {
        let (kind, node) = self.node(name, faults)?;
        let (Kind::Integer(low, high) | Kind::IntegerOr(low, high, _)) = kind else { return None };
        integer(node, low, high, faults).and_then(|value| T::try_from(value).ok())
    }

    /// A whole number within the bounds of the field's kind; `Some(None)` for its word.
    pub fn integer_or<T: TryFrom<i64>>(
        &self,
        name: &str,
        faults: &mut Faults<'_>,
    ) -> Option<Option<T>> {
        let (kind, node) = self.node(name, faults)?;
        let Kind::IntegerOr(low, high, word) = kind else { return None };
        match &node.value {
            Value::Text(text) if text == word => Some(None),
            Value::Integer(_) | Value::Number => {
                integer(node, low, high, faults).and_then(|value| T::try_from(value).ok()).map(Some)
            }
            Value::Text(text) => {
                let what = format!("\"{}\" is neither \"{word}\" nor a number", shown(text));
                faults.value_error(node, what, format!("write \"{word}\" or {low} to {high}"));
                None
            }
            _ => wrong_type(node, &format!("\"{word}\" or a number"), faults),
        }
    }

    /// The elements of a list; none if it was left out.
    pub fn list(&self, name: &str, faults: &mut Faults<'_>) -> &'a [Node<'t>] {
        match self.node(name, faults) {
            None => &[],
            Some((_, node)) => elements(node, "a list: [ … ]", faults),
        }
    }

    /// A port.
    pub fn port(&self, name: &str, faults: &mut Faults<'_>) -> Option<NonZeroU16> {
        self.node(name, faults).and_then(|(_, node)| port(node, faults))
    }

    /// A port or range.
    pub fn ports(&self, name: &str, faults: &mut Faults<'_>) -> Option<PortRange> {
        self.node(name, faults).and_then(|(_, node)| ports(node, faults))
    }

    /// A protocol; `Some(None)` for `all`.
    pub fn protocol_or_all(&self, name: &str, faults: &mut Faults<'_>) -> Option<Option<Protocol>> {
        let (_, node) = self.node(name, faults)?;
        match &node.value {
            Value::Text(text) if text == "all" => Some(None),
            _ => protocol(node, &PROTOCOLS_AND_ALL, faults).map(Some),
        }
    }

    /// A protocol.
    pub fn protocol(&self, name: &str, faults: &mut Faults<'_>) -> Option<Protocol> {
        let (kind, node) = self.node(name, faults)?;
        match kind {
            Kind::Transport => {
                self.choice(name, &[("tcp", Protocol::TCP), ("udp", Protocol::UDP)], faults)
            }
            _ => protocol(node, &PROTOCOLS, faults),
        }
    }

    /// A socket address.
    pub fn socket(&self, name: &str, faults: &mut Faults<'_>) -> Option<SocketAddr> {
        let (_, node) = self.node(name, faults)?;
        let text = text(node, faults)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let what = format!("\"{}\" is not an address and port", shown(text));
            faults.value_error(node, what, "write it like \"127.0.0.1:9478\"");
        }
        parsed
    }

    /// A table of another section, opened.
    pub fn table(&self, name: &str, faults: &mut Faults<'_>) -> Option<Self> {
        let (kind, node) = self.node(name, faults)?;
        let Kind::Table(section) = kind else { return None };
        Fields::open(node, section, faults)
    }

    /// Text.
    pub fn text(&self, name: &str, faults: &mut Faults<'_>) -> Option<&'a str> {
        let (kind, node) = self.node(name, faults)?;
        let Kind::Text(length_max) = kind else { return None };
        plain_text(node, length_max, faults)
    }

    /// The node of a field and what it should be; faults from here on are about it.
    pub fn node(&self, name: &str, faults: &mut Faults<'_>) -> Option<(Kind, &'a Node<'t>)> {
        let field = self.section.fields.get(self.section.position(name)?)?;
        faults.field = field.name;
        self.slot(name)
    }

    fn slot(&self, name: &str) -> Option<(Kind, &'a Node<'t>)> {
        let position = self.section.position(name);
        debug_assert!(position.is_some(), "{} has no field {name}", self.section.name);
        let field = self.section.fields.get(position?)?;
        let node = self.slots.get(position?).copied().flatten()?;
        Some((field.kind, node))
    }

    fn note_missing(&self, faults: &mut Faults<'_>) {
        if !faults.tree_is_whole {
            return;
        }
        for (field, slot) in self.section.fields.iter().zip(&self.slots) {
            let missing = match field.presence {
                Presence::Optional(_) => false,
                Presence::Required => slot.is_none(),
                Presence::RequiredOrNull => slot.is_none() && faults.format == Format::Json,
            };
            if missing {
                let what = format!("{} lacks the field \"{}\"", self.section.name, field.name);
                faults.error(self.at, what, missing_hint(field));
            }
        }
    }
}

fn missing_hint(field: &Field) -> String {
    let about = field.about.trim_end_matches('.');
    let mut letters = about.chars();
    let first = letters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    format!("add it: {first}{}", letters.as_str())
}

fn unknown_field(key: &str, at: u32, section: &Section, faults: &mut Faults<'_>) {
    let names = || section.fields.iter().map(|field| field.name);
    let hint = nearest(key, names()).map_or_else(
        || format!("it has {}", names().collect::<Vec<_>>().join(", ")),
        |near| format!("did you mean \"{near}\"?"),
    );
    let what = format!("{} has no field \"{}\"", section.name, shown(key));
    faults.error(at, what, hint);
}

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

/// A prefix.
pub fn cidr(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<Cidr> {
    let text = text(node, faults)?;
    match text.parse() {
        Ok(cidr) => Some(cidr),
        Err(CidrError::Malformed) => {
            let what = format!("\"{}\" is not an IPv4 prefix", shown(text));
            faults.value_error(node, what, "write it like 10.1.1.0/24, with a length from 0 to 32");
            None
        }
        Err(CidrError::HostBits) => {
            let what = format!("\"{text}\" has bits set behind its prefix length");
            let meant = text.split_once('/').and_then(|(address, length)| {
                Some(Cidr::containing(address.parse().ok()?, length.parse().ok()?))
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
pub const PROTOCOLS: [(&str, Protocol); 9] = [
    ("ah", Protocol::AH),
    ("dccp", Protocol::DCCP),
    ("esp", Protocol::ESP),
    ("gre", Protocol::GRE),
    ("icmp", Protocol::ICMP),
    ("sctp", Protocol::SCTP),
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("udplite", Protocol::UDP_LITE),
];

/// The same words for messages where `all` may stand too; it is told apart before.
const PROTOCOLS_AND_ALL: [(&str, Protocol); 10] = {
    let mut words = [("all", Protocol(0)); 10];
    let mut index = 0;
    while index < PROTOCOLS.len() {
        words[index + 1] = PROTOCOLS[index];
        index += 1;
    }
    words
};

fn protocol(
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

fn text<'a>(node: &'a Node<'_>, faults: &mut Faults<'_>) -> Option<&'a str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => wrong_type(node, "a string", faults),
    }
}

fn wrong_type<T>(node: &Node<'_>, expected: &str, faults: &mut Faults<'_>) -> Option<T> {
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
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        shown.push('…');
    }
    shown
}

/// `"a", "b" or "c"`.
fn list_of_words<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
