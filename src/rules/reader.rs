//! Reads typed values out of the tree and notes every fault on the way.
//!
//! A reading function returns `None` after it has noted why. Callers read all fields of a table
//! before they look at any result, so that one run finds all faults.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use super::diagnostic::{Diagnostic, Severity};
use super::fields::{FIELDS_MAX, Field, Kind, Presence, Section, nearest};
use super::scalars;
use super::set::{Cidr, PortRange, Prefixes};
use super::source::Source;
use super::tree::{Node, Parsed, Value};
use crate::flow::{Family, Protocol};

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
        const { assert!(FIELDS_MAX <= 20, "slots are copied around") };
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
        self.node(name, faults).and_then(|(_, node)| scalars::address(node, faults))
    }

    /// An IPv6 address.
    pub fn address_ipv6(&self, name: &str, faults: &mut Faults<'_>) -> Option<Ipv6Addr> {
        self.node(name, faults).and_then(|(_, node)| scalars::address_ipv6(node, faults))
    }

    /// An address that may be null: `Some(None)` then, or where TOML leaves it out.
    pub fn address_or_null(&self, name: &str, faults: &mut Faults<'_>) -> Option<Option<Ipv4Addr>> {
        match self.node(name, faults) {
            None | Some((_, Node { value: Value::Null, .. })) => Some(None),
            Some((_, node)) => scalars::address(node, faults).map(Some),
        }
    }

    /// A boolean.
    pub fn boolean(&self, name: &str, faults: &mut Faults<'_>) -> Option<bool> {
        let (_, node) = self.node(name, faults)?;
        match node.value {
            Value::Boolean(value) => Some(value),
            _ => scalars::wrong_type(node, "true or false", faults),
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
        let text = scalars::text(node, faults)?;
        let found = meanings.iter().find(|&&(word, _)| word == text);
        if found.is_none() {
            let all = scalars::list_of_words(words());
            let hint = nearest(text, words())
                .map_or_else(|| format!("write {all}"), |near| format!("did you mean \"{near}\"?"));
            faults.value_error(node, format!("\"{}\" is not {all}", scalars::shown(text)), hint);
        }
        found.map(|&(_, meaning)| meaning)
    }

    /// A prefix.
    pub fn cidr<A: Family>(&self, name: &str, faults: &mut Faults<'_>) -> Option<Cidr<A>> {
        self.node(name, faults).and_then(|(_, node)| scalars::cidr(node, faults))
    }

    /// Prefixes of either family, one or a list; none if it was left out.
    pub fn prefixes(&self, name: &str, faults: &mut Faults<'_>) -> Prefixes {
        match self.node(name, faults) {
            None => Prefixes::default(),
            Some((Kind::CidrOrCidrs, node @ Node { value: Value::Text(_), .. })) => {
                scalars::any_cidr(node, faults).into_iter().collect()
            }
            Some((_, node)) => {
                scalars::elements(node, "a list of prefixes such as [\"10.1.0.0/16\"]", faults)
                    .iter()
                    .filter_map(|node| scalars::any_cidr(node, faults))
                    .collect()
            }
        }
    }

    /// A list of prefixes of one family; none if it was left out.
    pub fn cidrs<A: Family>(&self, name: &str, faults: &mut Faults<'_>) -> Vec<Cidr<A>> {
        match self.node(name, faults) {
            None => Vec::new(),
            Some((_, node)) => {
                scalars::elements(node, "a list of prefixes such as [\"10.1.0.0/16\"]", faults)
                    .iter()
                    .filter_map(|node| scalars::cidr(node, faults))
                    .collect()
            }
        }
    }

    /// A whole number within the bounds of the field's kind.
    pub fn integer<T: TryFrom<i64>>(&self, name: &str, faults: &mut Faults<'_>) -> Option<T> {
        let (kind, node) = self.node(name, faults)?;
        let (Kind::Integer(low, high) | Kind::IntegerOr(low, high, _)) = kind else { return None };
        scalars::integer(node, low, high, faults).and_then(|value| T::try_from(value).ok())
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
            Value::Integer(_) | Value::Number => scalars::integer(node, low, high, faults)
                .and_then(|value| T::try_from(value).ok())
                .map(Some),
            Value::Text(text) => {
                let what =
                    format!("\"{}\" is neither \"{word}\" nor a number", scalars::shown(text));
                faults.value_error(node, what, format!("write \"{word}\" or {low} to {high}"));
                None
            }
            _ => scalars::wrong_type(node, &format!("\"{word}\" or a number"), faults),
        }
    }

    /// The elements of a list; none if it was left out.
    pub fn list(&self, name: &str, faults: &mut Faults<'_>) -> &'a [Node<'t>] {
        match self.node(name, faults) {
            None => &[],
            Some((_, node)) => scalars::elements(node, "a list: [ … ]", faults),
        }
    }

    /// A port.
    pub fn port(&self, name: &str, faults: &mut Faults<'_>) -> Option<NonZeroU16> {
        self.node(name, faults).and_then(|(_, node)| scalars::port(node, faults))
    }

    /// A port or range.
    pub fn ports(&self, name: &str, faults: &mut Faults<'_>) -> Option<PortRange> {
        self.node(name, faults).and_then(|(_, node)| scalars::ports(node, faults))
    }

    /// A protocol; `Some(None)` for `all`.
    pub fn protocol_or_all(&self, name: &str, faults: &mut Faults<'_>) -> Option<Option<Protocol>> {
        let (_, node) = self.node(name, faults)?;
        match &node.value {
            Value::Text(text) if text == "all" => Some(None),
            _ => scalars::protocol(node, &scalars::PROTOCOLS_AND_ALL, faults).map(Some),
        }
    }

    /// A protocol.
    pub fn protocol(&self, name: &str, faults: &mut Faults<'_>) -> Option<Protocol> {
        let (kind, node) = self.node(name, faults)?;
        match kind {
            Kind::Transport => {
                self.choice(name, &[("tcp", Protocol::TCP), ("udp", Protocol::UDP)], faults)
            }
            _ => scalars::protocol(node, &scalars::PROTOCOLS, faults),
        }
    }

    /// A socket address.
    pub fn socket(&self, name: &str, faults: &mut Faults<'_>) -> Option<SocketAddr> {
        let (_, node) = self.node(name, faults)?;
        let text = scalars::text(node, faults)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let what = format!("\"{}\" is not an address and port", scalars::shown(text));
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
        scalars::plain_text(node, length_max, faults)
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
    let what = format!("{} has no field \"{}\"", section.name, scalars::shown(key));
    faults.error(at, what, hint);
}
