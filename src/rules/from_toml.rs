//! TOML text into the tree.

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::tree::{Entry, Node, Parsed, SyntaxFault, Value, offset};

/// The tree of `text` and everything wrong with the text.
#[must_use]
pub fn parse(text: &str) -> Parsed<'_> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let faults: Vec<SyntaxFault> = errors
        .iter()
        .map(|error| SyntaxFault {
            at: offset(error.span().map_or(0, |span| span.start)),
            what: error.message().replace('\n', " "),
            hint: "see https://toml.io for what TOML allows here",
        })
        .collect();
    let at = offset(root.span().start);
    let whole = errors.is_empty();
    Parsed { root: Some(Node { at, value: table(root.into_inner()) }), faults, whole }
}

fn table(entries: DeTable<'_>) -> Value<'_> {
    let mut entries: Vec<_> = entries
        .into_iter()
        .map(|(key, value)| {
            let key_at = offset(key.span().start);
            Entry { key: key.into_inner(), key_at, node: node(value) }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_at);
    Value::Table(entries)
}

fn node(value: Spanned<DeValue<'_>>) -> Node<'_> {
    let at = offset(value.span().start);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text),
        DeValue::Integer(number) => integer(&number),
        DeValue::Float(_) => Value::Number,
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Time,
        DeValue::Array(nodes) => Value::List(nodes.into_iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Node { at, value }
}

fn integer(number: &DeInteger<'_>) -> Value<'static> {
    i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Number, Value::Integer)
}
