//! JSON without faults into the tree, in one pass and several times as fast as the parser that finds faults.
//!
//! What is read again at every reload is nearly always well formed. Whatever here is not certain to be (a fault,
//! deep nesting, half of a surrogate pair) gives up, and [`super::from_json`] asks the other parser, whose words
//! people read. So this one has no words, and the two agree on every text that both read.

use std::borrow::Cow;

use super::tree::{Entry, Node, Value, offset};

/// The tree of `text`; none if it is anything but plain JSON.
#[must_use]
pub fn parse(text: &str) -> Option<Node<'_>> {
    let mut reader = Reader { text, at: 0, depth: 0, entries: Vec::new(), nodes: Vec::new() };
    reader.skip_blanks();
    let root = reader.node()?;
    reader.skip_blanks();
    (reader.at == text.len()).then_some(root)
}

/// Deeper than any rules are.
const DEPTH_MAX: usize = 64;

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    /// The entries of the objects that are open, and the elements of the lists: each is moved to where it stays
    /// once its number is known.
    entries: Vec<Entry<'t>>,
    nodes: Vec<Node<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.next(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Passes over `byte` if it is next.
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// What stands between two places, of which each is before an ASCII character.
    fn between(&self, start: usize, end: usize) -> Option<&'t str> {
        self.text.get(start..end)
    }

    fn node(&mut self) -> Option<Node<'t>> {
        let at = offset(self.at);
        let value = match self.next()? {
            b'"' => Value::Text(self.string()?),
            b'{' => Value::Table(self.nested(Self::table)?),
            b'[' => Value::List(self.nested(Self::list)?),
            b't' => self.word("true", Value::Boolean(true))?,
            b'f' => self.word("false", Value::Boolean(false))?,
            b'n' => self.word("null", Value::Null)?,
            _ => self.number()?,
        };
        Some(Node { at, value })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        self.at += 1;
        let value = (self.depth <= DEPTH_MAX).then(|| read(self))?;
        self.depth -= 1;
        value
    }

    fn table(&mut self) -> Option<Vec<Entry<'t>>> {
        let start = self.entries.len();
        self.skip_blanks();
        if self.take(b'}').is_some() {
            return Some(Vec::new());
        }
        loop {
            let key_at = offset(self.at);
            let key = self.string()?;
            self.skip_blanks();
            self.take(b':')?;
            self.skip_blanks();
            let node = self.node()?;
            self.entries.push(Entry { key, key_at, node });
            self.skip_blanks();
            if self.take(b'}').is_some() {
                return Some(self.entries.drain(start..).collect());
            }
            self.take(b',')?;
            self.skip_blanks();
        }
    }

    fn list(&mut self) -> Option<Vec<Node<'t>>> {
        let start = self.nodes.len();
        self.skip_blanks();
        if self.take(b']').is_some() {
            return Some(Vec::new());
        }
        loop {
            let node = self.node()?;
            self.nodes.push(node);
            self.skip_blanks();
            if self.take(b']').is_some() {
                return Some(self.nodes.drain(start..).collect());
            }
            self.take(b',')?;
            self.skip_blanks();
        }
    }

    fn word(&mut self, word: &str, value: Value<'t>) -> Option<Value<'t>> {
        let rest = self.text.as_bytes().get(self.at..)?;
        rest.starts_with(word.as_bytes()).then(|| self.at += word.len())?;
        Some(value)
    }

    fn string(&mut self) -> Option<Cow<'t, str>> {
        self.take(b'"')?;
        let start = self.at;
        match self.pass_plain()? {
            b'"' => {
                let text = self.between(start, self.at)?;
                self.at += 1;
                Some(Cow::Borrowed(text))
            }
            _ => self.escaped_string(start).map(Cow::Owned),
        }
    }

    /// Passes over what stands for itself in a string. Returns the quote or backslash that ends it.
    fn pass_plain(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let length = rest.iter().position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\')?;
        self.at += length;
        self.next().filter(|&byte| byte >= b' ')
    }

    /// A string of which all up to the first backslash was passed over.
    fn escaped_string(&mut self, mut start: usize) -> Option<String> {
        let mut text = String::new();
        loop {
            let end = self.pass_plain()?;
            text.push_str(self.between(start, self.at)?);
            self.at += 1;
            if end == b'"' {
                return Some(text);
            }
            text.push(self.escape()?);
            start = self.at;
        }
    }

    /// The character that an escape stands for, behind its backslash.
    fn escape(&mut self) -> Option<char> {
        let kind = self.next()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let digits = self.between(self.at, self.at + 4)?;
                let are_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                self.at += 4;
                // None for half of a surrogate pair.
                are_hex
                    .then(|| u32::from_str_radix(digits, 16).ok())
                    .flatten()
                    .map(char::from_u32)??
            }
            _ => return None,
        })
    }

    fn number(&mut self) -> Option<Value<'t>> {
        let start = self.at;
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        } else if matches!(self.next(), Some(b'0'..=b'9')) {
            return None;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if self.take(b'e').or_else(|| self.take(b'E')).is_some() {
            let _ = self.take(b'-').or_else(|| self.take(b'+'));
            self.digits()?;
        }
        Some(self.between(start, self.at)?.parse().map_or(Value::Number, Value::Integer))
    }

    /// Passes over one digit or more.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.next(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}
