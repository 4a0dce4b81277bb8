//! Typed values out of a request's body, read as ZStack's own router reads them: names without regard to case, what is
//! absent or null is empty, what nobody knows is passed over. Other than there, every fault is noted.

use std::net::Ipv4Addr;

use crate::flow::Mac;
use crate::rules::diagnostic::Severity;
use crate::rules::set::Cidr;
use crate::rules::sources::nics::parse_mac;
use crate::rules::tree::{Node, Value};

/// A finding about a body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// The offset in the body.
    pub at: u32,
    /// How bad it is: an error costs the entry it is in.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// The findings about a body.
#[derive(Debug, Default)]
pub struct Notes(Vec<Note>);

impl Notes {
    /// Notes what costs an entry.
    pub fn error(&mut self, at: u32, what: impl Into<String>, hint: &'static str) {
        self.push(at, Severity::Error, what.into(), hint);
    }

    /// Notes what is odd, but costs nothing.
    pub fn warning(&mut self, at: u32, what: impl Into<String>, hint: &'static str) {
        self.push(at, Severity::Warning, what.into(), hint);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Everything that was noted.
    pub fn into_list(self) -> Vec<Note> {
        self.0
    }

    fn push(&mut self, at: u32, severity: Severity, what: String, hint: &'static str) {
        self.0.push(Note { at, severity, what, hint });
    }
}

/// An object of a body.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// The object itself.
    pub node: &'a Node<'a>,
    /// What it is, for messages.
    pub name: &'static str,
}

impl<'a> Object<'a> {
    /// Opens `node` as an object with the fields `known`; notes others.
    pub fn open(
        node: &'a Node<'a>,
        name: &'static str,
        known: &[&str],
        notes: &mut Notes,
    ) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            let what = format!("{name} is {}, not an object", node.description());
            notes.error(node.at, what, "send an object of fields");
            return None;
        };
        for entry in entries {
            if !known.iter().any(|known| known.eq_ignore_ascii_case(&entry.key)) {
                let what = format!("{name} has an unknown field {}", quoted(&entry.key));
                notes.warning(entry.key_at, what, UNKNOWN_HINT);
            }
        }
        Some(Self { node, name })
    }

    /// Where it starts.
    pub const fn at(&self) -> u32 {
        self.node.at
    }

    /// Where the value of `field` starts, or the object if it has none.
    pub fn place_of(&self, field: &str) -> u32 {
        self.find(field).map_or(self.node.at, |node| node.at)
    }

    /// A field that is there and not null. Of several of one name the last counts.
    pub fn find(&self, field: &str) -> Option<&'a Node<'a>> {
        let Value::Table(entries) = &self.node.value else { return None };
        let entry = entries.iter().rev().find(|entry| entry.key.eq_ignore_ascii_case(field))?;
        Some(&entry.node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// A string; absent, it is empty.
    pub fn text(&self, field: &str, notes: &mut Notes) -> Option<&'a str> {
        match self.find(field) {
            None => Some(""),
            Some(Node { value: Value::Text(text), .. }) => Some(text),
            Some(node) => self.wrong(field, node, "a string", notes),
        }
    }

    /// A string that says something.
    pub fn required_text(&self, field: &str, notes: &mut Notes) -> Option<&'a str> {
        let text = self.text(field, notes)?;
        if text.is_empty() {
            let what = format!("{} lacks {field}", self.name);
            notes.error(self.place_of(field), what, "send it");
            return None;
        }
        Some(text)
    }

    /// A whole number; absent, it is zero.
    pub fn integer(&self, field: &str, notes: &mut Notes) -> Option<i64> {
        match self.find(field) {
            None => Some(0),
            Some(Node { value: Value::Integer(number), .. }) => Some(*number),
            Some(node) => self.wrong(field, node, "a whole number", notes),
        }
    }

    /// True or false; absent, it is false.
    pub fn boolean(&self, field: &str, notes: &mut Notes) -> Option<bool> {
        match self.find(field) {
            None => Some(false),
            Some(Node { value: Value::Boolean(value), .. }) => Some(*value),
            Some(node) => self.wrong(field, node, "true or false", notes),
        }
    }

    /// A list; absent, it is empty.
    pub fn list(&self, field: &str, notes: &mut Notes) -> Option<&'a [Node<'a>]> {
        match self.find(field) {
            None => Some(&[]),
            Some(Node { value: Value::List(nodes), .. }) => Some(nodes),
            Some(node) => self.wrong(field, node, "a list", notes),
        }
    }

    /// A list of strings; what is none is noted and left out.
    pub fn texts(&self, field: &str, notes: &mut Notes) -> Option<Vec<(u32, &'a str)>> {
        let mut texts = Vec::new();
        for node in self.list(field, notes)? {
            match &node.value {
                Value::Text(text) => texts.push((node.at, &**text)),
                _ => {
                    self.wrong::<()>(field, node, "a list of strings", notes);
                }
            }
        }
        Some(texts)
    }

    /// An IPv4 address.
    pub fn address(&self, field: &str, notes: &mut Notes) -> Option<Ipv4Addr> {
        let text = self.required_text(field, notes)?;
        let address = text.trim().parse().ok();
        if address.is_none() {
            let what = format!("{field} {} is not an IPv4 address", quoted(text));
            notes.error(self.place_of(field), what, "send an address such as 192.0.2.7");
        }
        address
    }

    /// An IPv4 address, or none if it is absent or empty.
    pub fn address_or_none(&self, field: &str, notes: &mut Notes) -> Option<Option<Ipv4Addr>> {
        if self.text(field, notes)?.is_empty() {
            return Some(None);
        }
        self.address(field, notes).map(Some)
    }

    /// A MAC.
    pub fn mac(&self, field: &str, notes: &mut Notes) -> Option<Mac> {
        let text = self.required_text(field, notes)?;
        let mac = parse_mac(text.trim());
        if mac.is_none() {
            let what = format!("{field} {} is not a MAC", quoted(text));
            notes.error(self.place_of(field), what, "send a MAC such as fa:16:3e:00:00:01");
        }
        mac
    }

    /// The length of the prefix that a netmask says.
    pub fn netmask(&self, field: &str, notes: &mut Notes) -> Option<u8> {
        let mask = self.address(field, notes)?.to_bits();
        let length = mask.leading_ones();
        if mask.checked_shl(length).unwrap_or(0) != 0 {
            let what = format!("{field} {} is not a netmask", std::net::Ipv4Addr::from(mask));
            notes.error(self.place_of(field), what, "a netmask is ones, then zeros");
            return None;
        }
        u8::try_from(length).ok()
    }

    /// A port.
    pub fn port(&self, field: &str, notes: &mut Notes) -> Option<u16> {
        let number = self.integer(field, notes)?;
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            let what = format!("{field} {number} is not a port");
            notes.error(self.place_of(field), what, "ports go from 1 to 65535");
        }
        port
    }

    fn wrong<T>(
        &self,
        field: &str,
        node: &Node<'_>,
        expected: &str,
        notes: &mut Notes,
    ) -> Option<T> {
        let what = format!("{field} of {} is {}, not {expected}", self.name, node.description());
        notes.error(node.at, what, "send the type that ZStack's agents expect");
        None
    }
}

/// One prefix or address. Bits behind the prefix do not matter: iptables takes them, too.
pub fn cidr(text: &str) -> Option<Cidr> {
    let (address, length) = text.trim().split_once('/').unwrap_or((text.trim(), "32"));
    let length = length.parse().ok().filter(|length| *length <= 32)?;
    Some(Cidr::containing(address.parse().ok()?, length))
}

/// `text` as messages show it: on one line and not endless.
pub fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}

/// `text`, which may quote what others wrote, as messages bear it: on one line and not endless.
pub fn plain(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    let mut characters = text.chars().map(|it| if it.is_control() { ' ' } else { it });
    let mut plain: String = characters.by_ref().take(SHOWN_MAX).collect();
    if characters.next().is_some() {
        plain.push('…');
    }
    plain
}

const UNKNOWN_HINT: &str = "natwerk passes it over; see whether it matters";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::from_json;

    /// What `read` makes of `text`, and what was noted.
    fn with<T>(text: &str, read: impl FnOnce(&Object<'_>, &mut Notes) -> T) -> (T, Vec<String>) {
        let parsed = from_json::parse(text);
        assert_eq!(parsed.faults, []);
        let root = parsed.root.unwrap();
        let mut notes = Notes::default();
        let object = Object::open(&root, "a thing", &["name", "mask", "port"], &mut notes).unwrap();
        let value = read(&object, &mut notes);
        (value, notes.into_list().into_iter().map(|note| note.what).collect())
    }

    #[test]
    fn names_have_no_case_and_null_is_absent() {
        let (text, notes) =
            with(r#"{"NAME": "x"}"#, |object, notes| object.text("name", notes).map(str::to_owned));
        assert_eq!((text.as_deref(), notes), (Some("x"), vec![]));
        let (port, notes) =
            with(r#"{"port": null}"#, |object, notes| object.integer("port", notes));
        assert_eq!((port, notes), (Some(0), vec![]));
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_named() {
        let (name, notes) = with(r#"{"name": 7, "colour": 1}"#, |object, notes| {
            object.text("name", notes).map(str::to_owned)
        });
        assert_eq!(name, None);
        let expected = [
            "a thing has an unknown field \"colour\"",
            "name of a thing is a number, not a string",
        ];
        assert_eq!(notes, expected);
    }

    #[test]
    fn a_netmask_with_a_hole_is_none() {
        for (mask, length) in [
            ("255.255.255.128", Some(25)),
            ("0.0.0.0", Some(0)),
            ("255.255.255.255", Some(32)),
            ("255.0.255.0", None),
            ("0.0.0.255", None),
            ("", None),
        ] {
            let text = format!(r#"{{"mask": "{mask}"}}"#);
            let (found, notes) = with(&text, |object, notes| object.netmask("mask", notes));
            assert_eq!(found, length, "{mask}");
            assert_eq!(notes.is_empty(), length.is_some(), "{mask}");
        }
    }

    #[test]
    fn bits_behind_a_prefix_do_not_matter() {
        assert_eq!(cidr("192.168.10.7/24").unwrap().to_string(), "192.168.10.0/24");
        assert_eq!(cidr("192.0.2.7").unwrap().length(), 32);
        assert_eq!(cidr("192.0.2.7/33"), None);
    }

    #[test]
    fn what_is_quoted_stays_on_its_line_and_ends() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert!(quoted(&"ü".repeat(500)).chars().count() < 70);
        assert_eq!(plain("a\nb"), "a b");
        assert_eq!(plain(&"ü".repeat(500)).chars().count(), 201);
    }
}
