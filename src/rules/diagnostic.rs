//! Faults in what people write: where, what, and what to do about it.

use std::fmt::{self, Write};
use std::sync::Arc;

/// A place in a file: for people, so lines and columns count from one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl Place {
    /// In no file: where something is that was never written down.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { file: "".into(), line: 1, column: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The rules are refused.
    Error,
    /// The rules are used.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (what, hint) = (OneLine(&self.what), OneLine(&self.hint));
        write!(f, "{}: {severity}: {what} — {hint}", self.place)
    }
}

/// Text on one line, as it may quote what somebody wrote.
struct OneLine<'t>(&'t str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter.is_control() {
            true => write!(f, "{}", letter.escape_default()),
            false => f.write_char(letter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_it_quotes() {
        let finding = Diagnostic {
            severity: Severity::Error,
            place: Place::nowhere(),
            what: "type: \"tcp\n\tüdp\u{1b}\" is no kind".to_owned(),
            hint: "write\r\nanother".to_owned(),
        };
        let said = r#":1:1: error: type: "tcp\n\tüdp\u{1b}" is no kind — write\r\nanother"#;
        assert_eq!(finding.to_string(), said);
    }
}
