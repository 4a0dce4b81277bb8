//! JSON and TOML as one tree in which everything knows where it was written.

use std::borrow::Cow;

/// A value and the offset of its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<'t> {
    /// Where it starts.
    pub at: u32,
    /// What it is.
    pub value: Value<'t>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'t> {
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// An array.
    List(Vec<Node<'t>>),
    /// JSON's null.
    Null,
    /// A number that is no [`Value::Integer`]: with a fraction, or too large.
    Number,
    /// An object or table, in the order of the file where the format keeps it.
    Table(Vec<Entry<'t>>),
    /// A string.
    Text(Cow<'t, str>),
    /// TOML's date and time.
    Time,
}

/// A key of a table with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'t> {
    /// The key.
    pub key: Cow<'t, str>,
    /// Where the key starts.
    pub key_at: u32,
    /// The value.
    pub node: Node<'t>,
}

/// A fault of the text itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SyntaxFault {
    /// Where it is.
    pub at: u32,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// What became of a text.
#[derive(Debug)]
pub struct Parsed<'t> {
    /// What could be made out; none if nothing could.
    pub root: Option<Node<'t>>,
    /// Everything that is wrong with the text.
    pub faults: Vec<SyntaxFault>,
    /// Whether the tree has everything that the text has, faults or not.
    pub whole: bool,
}

impl Node<'_> {
    /// What people call such a value.
    #[must_use]
    pub fn description(&self) -> &'static str {
        match &self.value {
            Value::Boolean(_) => "a boolean",
            Value::Integer(_) | Value::Number => "a number",
            Value::List(_) => "a list",
            Value::Null => "null",
            Value::Table(_) => "a table of fields",
            Value::Text(_) => "a string",
            Value::Time => "a date",
        }
    }

    /// The same node, free of the text it was read from.
    #[must_use]
    pub fn into_owned(self) -> Node<'static> {
        let value = match self.value {
            Value::Boolean(value) => Value::Boolean(value),
            Value::Integer(value) => Value::Integer(value),
            Value::List(nodes) => Value::List(nodes.into_iter().map(Node::into_owned).collect()),
            Value::Null => Value::Null,
            Value::Number => Value::Number,
            Value::Table(entries) => Value::Table(
                entries
                    .into_iter()
                    .map(|entry| Entry {
                        key: Cow::Owned(entry.key.into_owned()),
                        key_at: entry.key_at,
                        node: entry.node.into_owned(),
                    })
                    .collect(),
            ),
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Time => Value::Time,
        };
        Node { at: self.at, value }
    }
}

/// A byte offset as the tree keeps it.
#[must_use]
pub fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
