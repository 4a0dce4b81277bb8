//! What a control plane wrote, read field by field: unknown fields are told and passed over, the first
//! wrong value makes an entry faulty.
//!
//! Absent, null and empty text mean the same: nothing was said.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::fields::nearest;
use crate::rules::scalars::shown;
use crate::rules::source::Source;
use crate::rules::tree::{Entry, Node, Value};

/// What was read, or why its entry is faulty.
pub type Read<T> = Result<T, Box<Diagnostic>>;

/// JSON inside a source: all of it, or what stands in one section.
#[derive(Clone, Copy, Debug)]
pub struct Text<'s> {
    /// The source.
    pub source: &'s Source,
    /// Where in it the JSON starts.
    pub start: u32,
}

/// An object.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a, 't> {
    what: &'static str,
    entries: &'a [Entry<'t>],
    at: u32,
    text: Text<'a>,
}

/// Faults and warnings of all files.
#[derive(Debug, Default)]
pub struct Notes {
    /// What was noted.
    pub list: Vec<Diagnostic>,
    /// Unknown fields that were told already: a thousand entries of one kind have the same.
    told: HashSet<(&'static str, String)>,
}

impl Notes {
    /// Notes why an entry is faulty and returns what was read of it.
    pub fn keep<T>(&mut self, read: Read<T>) -> Option<T> {
        read.map_err(|fault| self.list.push(*fault)).ok()
    }

    /// Notes a warning.
    pub fn warn(&mut self, place: Place, what: impl Into<String>, hint: impl Into<String>) {
        let (what, hint) = (what.into(), hint.into());
        self.list.push(Diagnostic { severity: Severity::Warning, place, what, hint });
    }

    /// Warns once of every field of `record` that is none of `known`.
    pub fn unknown_fields(&mut self, record: &Record<'_, '_>, known: &[&str]) {
        for entry in record.entries {
            let name = entry.key.as_ref();
            if known.contains(&name) || !self.told.insert((record.what, name.to_owned())) {
                continue;
            }
            let what = format!("{} has a field \"{}\" that is not known", record.what, shown(name));
            let hint = nearest(name, known.iter().copied()).map_or_else(
                || "it is passed over".to_owned(),
                |near| format!("it is passed over; \"{near}\" is known"),
            );
            self.warn(record.text.place(entry.key_at), what, hint);
        }
    }
}

impl Text<'_> {
    /// The place of the byte at offset `at` of the JSON.
    #[must_use]
    pub fn place(&self, at: u32) -> Place {
        self.source.place(self.start.saturating_add(at))
    }
}

impl<'a, 't> Record<'a, 't> {
    /// The object `node`, which people call `what`.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(node: &'a Node<'t>, what: &'static str, text: Text<'a>) -> Read<Self> {
        match &node.value {
            Value::Table(entries) => Ok(Self { what, entries, at: node.at, text }),
            _ => Err(fault(
                text.place(node.at),
                format!("{what} is {}, not an object", node.description()),
            )),
        }
    }

    /// Its place.
    #[must_use]
    pub fn place(&self) -> Place {
        self.text.place(self.at)
    }

    /// The place of a field, or its own.
    #[must_use]
    pub fn place_of(&self, name: &str) -> Place {
        self.field(name).map_or_else(|| self.place(), |node| self.text.place(node.at))
    }

    /// The text it is in.
    #[must_use]
    pub fn text_of(&self) -> Text<'a> {
        self.text
    }

    /// All its fields.
    #[must_use]
    pub fn entries(&self) -> &'a [Entry<'t>] {
        self.entries
    }

    /// The value of a field; of one that is there twice the last, as Python reads it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a Node<'t>> {
        let found = self.entries.iter().rev().find(|entry| entry.key == name)?;
        let is_nothing = match &found.node.value {
            Value::Null => true,
            Value::Text(text) => text.trim().is_empty(),
            _ => false,
        };
        (!is_nothing).then_some(&found.node)
    }

    /// A fault of the field `name`.
    #[must_use]
    pub fn wrong(&self, name: &str, what: impl std::fmt::Display) -> Box<Diagnostic> {
        fault(self.place_of(name), format!("{name}: {what}"))
    }

    fn wrong_type<T>(&self, name: &str, node: &Node<'_>, expected: &str) -> Read<T> {
        Err(self.wrong(name, format!("{} where {expected} belongs", node.description())))
    }

    /// What must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn must<T>(&self, name: &str, value: Option<T>) -> Read<T> {
        value.ok_or_else(|| fault(self.place(), format!("{} lacks \"{name}\"", self.what)))
    }

    /// Text, or a number as text.
    ///
    /// # Errors
    /// When it is neither.
    pub fn text(&self, name: &str) -> Read<Option<Cow<'a, str>>> {
        match self.field(name).map(|node| (node, &node.value)) {
            None => Ok(None),
            Some((_, Value::Text(text))) => Ok(Some(text.trim().into())),
            Some((_, Value::Integer(number))) => Ok(Some(number.to_string().into())),
            Some((node, _)) => self.wrong_type(name, node, "a string"),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// When it is none.
    pub fn boolean(&self, name: &str) -> Read<Option<bool>> {
        match self.field(name).map(|node| (node, &node.value)) {
            None => Ok(None),
            Some((_, Value::Boolean(value))) => Ok(Some(*value)),
            Some((node, _)) => self.wrong_type(name, node, "true or false"),
        }
    }

    /// A number within bounds, or text that is one.
    ///
    /// # Errors
    /// When it is none, or out of bounds.
    pub fn integer(&self, name: &str, low: i64, high: i64) -> Read<Option<i64>> {
        let Some(node) = self.field(name) else { return Ok(None) };
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) => text.trim().parse().ok(),
            _ => return self.wrong_type(name, node, "a number"),
        };
        match number.filter(|number| (low..=high).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, format!("not a number from {low} to {high}"))),
        }
    }

    /// An IPv4 address.
    ///
    /// # Errors
    /// When it is none.
    pub fn address(&self, name: &str) -> Read<Option<Ipv4Addr>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(self.wrong(name, format!("\"{}\" is not an IPv4 address", shown(&text)))),
        }
    }

    /// The elements of a list; none if it is not there.
    ///
    /// # Errors
    /// When it is no list.
    pub fn list(&self, name: &str) -> Read<&'a [Node<'t>]> {
        match self.field(name).map(|node| (node, &node.value)) {
            None => Ok(&[]),
            Some((_, Value::List(elements))) => Ok(elements),
            Some((node, _)) => self.wrong_type(name, node, "a list"),
        }
    }
}

/// The fault of an entry.
#[must_use]
pub fn fault(place: Place, what: impl Into<String>) -> Box<Diagnostic> {
    let hint = "the entry is left out, all others hold: correct it in CloudStack".to_owned();
    Box::new(Diagnostic { severity: Severity::Error, place, what: what.into(), hint })
}
