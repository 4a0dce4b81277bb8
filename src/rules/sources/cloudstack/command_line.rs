//! The router's own command line (`cmd_line.json`, bag `cmdline`): what kind of router it is, and its
//! first addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::record::{Record, Text};
use crate::rules::diagnostic::Place;
use crate::rules::tree::Value;

/// The command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommandLine {
    values: BTreeMap<String, (String, Place)>,
}

/// What a router is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouterKind {
    /// An isolated network: firewall and egress rules.
    Isolated,
    /// Services only; it forwards nothing.
    Services,
    /// A VPC: tiers with network ACLs.
    Vpc,
}

impl CommandLine {
    /// The command line as the hypervisor gave it: `key=value` words.
    #[must_use]
    pub fn of_words(text: Text<'_>) -> Self {
        let mut values = BTreeMap::new();
        let whole = text.source.text();
        let mut at = 0;
        for word in whole.split(char::is_whitespace) {
            if let Some((key, value)) = word.split_once('=') {
                let place = text.place(u32::try_from(at).unwrap_or(u32::MAX));
                values.insert(key.to_owned(), (value.to_owned(), place));
            }
            at += word.len() + 1;
        }
        Self { values }
    }

    /// The command line in an object. The router's scripts add values that are no text.
    #[must_use]
    pub fn read(record: &Record<'_, '_>) -> Self {
        let value = |node: &Value<'_>| match node {
            Value::Text(text) => Some(text.to_string()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Boolean(value) => Some(value.to_string()),
            Value::List(_) | Value::Null | Value::Number | Value::Table(_) | Value::Time => None,
        };
        let entries = record.entries().iter().filter_map(|entry| {
            let place = record.text_of().place(entry.node.at);
            Some((entry.key.to_string(), (value(&entry.node.value)?, place)))
        });
        Self { values: entries.collect() }
    }

    /// A value.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The value of a key as an address.
    #[must_use]
    pub fn address(&self, key: &str) -> Option<Ipv4Addr> {
        self.value(key)?.parse().ok()
    }

    /// Where a value was written.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.values.get(key).map(|(_, place)| place)
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, key: &str) -> bool {
        self.value(key)
            .is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1" | "yes"))
    }

    /// What the router is for; without a word of it, a VPC's if it has tiers.
    #[must_use]
    pub fn kind(&self, has_tiers: bool) -> RouterKind {
        match self.value("type") {
            Some("vpcrouter") => RouterKind::Vpc,
            Some("router") => RouterKind::Isolated,
            None if has_tiers => RouterKind::Vpc,
            None => RouterKind::Isolated,
            Some(_) => RouterKind::Services,
        }
    }

    /// Whether networks are routed, not translated.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.is_on("is_routed")
    }

    /// Whether there is a public side.
    #[must_use]
    pub fn has_public_network(&self) -> bool {
        self.value("has_public_network").is_none() || self.is_on("has_public_network")
    }
}
