//! What subcommands print, and what their failures become.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// What a subcommand comes to.
pub type Outcome = Result<(), Failure>;

/// Why a subcommand was not done: a sentence, what to do about it, and the exit code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    exit: u8,
    what: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// It failed while running: exit code 1.
    #[must_use]
    pub fn failed(what: impl Into<String>) -> Self {
        Self { exit: 1, what: Some(what.into()), hint: None }
    }

    /// Arguments, configuration or rules are bad: exit code 2.
    #[must_use]
    pub fn refused(what: impl Into<String>) -> Self {
        Self { exit: 2, what: Some(what.into()), hint: None }
    }

    /// Everything was said already; only the exit code is left.
    #[must_use]
    pub const fn reported(exit: u8) -> Self {
        Self { exit, what: None, hint: None }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.what, &self.hint) {
            (None, _) => Ok(()),
            (Some(what), None) => f.write_str(what),
            (Some(what), Some(hint)) => write!(f, "{what} — {hint}"),
        }
    }
}

/// Writing to standard output fails when nobody reads it any more (`natwerk show sessions | head`):
/// then there is nothing left to do, and nothing to complain about.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::reported(0),
            _ => Self::failed(error.to_string()),
        }
    }
}

/// The exit code of an outcome; its sentence goes to standard error.
#[must_use]
pub fn exit_code(outcome: Outcome) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    if failure.what.is_some() {
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(io::stderr(), "natwerk: {failure}");
    }
    ExitCode::from(failure.exit)
}

/// Prints bytes as they are.
///
/// # Errors
/// When standard output does not take them.
pub fn print_bytes(bytes: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Prints a line.
///
/// # Errors
/// When standard output does not take it.
pub fn print_line(line: &str) -> Outcome {
    print_bytes(format!("{line}\n").as_bytes())
}

/// Prints a value as indented JSON.
///
/// # Errors
/// When standard output does not take it.
pub fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot print JSON: {error}")))?;
    print_line(&text)
}

/// A column of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Column {
    /// Numbers, aligned at the right.
    Number(&'static str),
    /// Words, aligned at the left.
    Word(&'static str),
}

/// A table as text: no borders, two spaces between columns, no trailing spaces.
#[must_use]
pub fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Number(name) | Column::Word(name) => *name,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        let Some(shape) = table.column_mut(index) else { continue };
        shape.set_padding((0, 2));
        if let Column::Number(_) = column {
            shape.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A count with its magnitude: `999`, `1.2k`, `15.3M`, `2.0G`.
#[must_use]
pub fn magnitude(count: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let unit = UNITS.iter().find(|(size, _)| count >= *size);
    let Some((size, letter)) = unit else { return count.to_string() };
    format!("{}.{}{letter}", count / size, count % size / (size / 10))
}

/// A duration in whole seconds as people write it: `45s`, `2m05s`, `2h04m`, `3d07h`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_and_numbers_end_at_the_right() {
        let columns = [Column::Word("REASON"), Column::Number("FRAMES"), Column::Word("MEANING")];
        let rows = [
            vec!["no_port".to_owned(), "7".to_owned(), "None is free.".to_owned()],
            vec!["ttl_expired".to_owned(), "1234567".to_owned(), "It ran out.".to_owned()],
        ];
        let expected = "\
REASON        FRAMES  MEANING
no_port            7  None is free.
ttl_expired  1234567  It ran out.
";
        assert_eq!(table(&columns, rows), expected);
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(table(&[Column::Word("A"), Column::Number("B")], []), "A  B\n");
    }

    #[test]
    fn magnitudes_keep_one_digit_behind_the_point() {
        let texts = [0, 999, 1_000, 1_299, 15_300_000, 2_000_000_000].map(magnitude);
        assert_eq!(texts, ["0", "999", "1.0k", "1.2k", "15.3M", "2.0G"]);
    }

    #[test]
    fn durations_read_as_people_write_them() {
        let texts = [0, 59, 60, 125, 7_440, 284_400].map(duration);
        assert_eq!(texts, ["0s", "59s", "1m00s", "2m05s", "2h04m", "3d07h"]);
    }

    #[test]
    fn a_failure_says_what_and_what_to_do() {
        let failure = Failure::refused("no such file").hint("name another");
        assert_eq!(failure.to_string(), "no such file — name another");
        assert_eq!(failure.exit(), 2);
        assert_eq!(Failure::failed("it broke").exit(), 1);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit(), 0);
    }
}
