//! Long lists: printed as they come, so that a million sessions need no memory for a million.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::output::{Failure, Outcome};
use crate::cli::{Common, ask};
use crate::control::requests::Request;

/// A column of a list: its name, its width, and whether it holds numbers.
pub type Column = (&'static str, usize, Align);

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Asks for a list and prints it while it comes: a table, or a JSON array with one row a line.
///
/// # Errors
/// When the engine does not answer, or nobody takes the output.
pub fn print<T: DeserializeOwned + Serialize, const N: usize>(
    common: &Common,
    request: &Request,
    columns: &[Column; N],
    cells: impl Fn(&T) -> [String; N],
) -> Outcome {
    let mut client = ask::connect(common)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut separator = "[\n";
    // Only an answer has a header: what is refused prints nothing.
    let mut header = (!common.json).then(|| columns.map(|(name, _, _)| name.to_owned()));
    client.ask_in_parts(request, |rows: Vec<T>| {
        if let Some(names) = header.take() {
            writeln!(out, "{}", line(columns, &names))?;
        }
        for row in &rows {
            if common.json {
                out.write_all(separator.as_bytes())?;
                serde_json::to_writer(&mut out, row).map_err(io::Error::from)?;
                separator = ",\n";
            } else {
                writeln!(out, "{}", line(columns, &cells(row)))?;
            }
        }
        Ok::<(), Failure>(out.flush()?)
    })?;
    if common.json {
        let end: &[u8] = if separator == "[\n" { b"[]\n" } else { b"\n]\n" };
        out.write_all(end)?;
    }
    Ok(out.flush()?)
}

/// A row as a line; a cell that is too long pushes the others to the right.
fn line<const N: usize>(columns: &[Column; N], cells: &[String; N]) -> String {
    let mut line = String::new();
    for ((_, width, align), cell) in columns.iter().zip(cells) {
        let cell = match align {
            Align::Left => format!("{cell:<width$}  "),
            Align::Right => format!("{cell:>width$}  "),
        };
        line.push_str(&cell);
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_columns() {
        let columns =
            [("PROTO", 5, Align::Left), ("BYTES", 7, Align::Right), ("RULE", 4, Align::Left)];
        let cells = ["tcp", "1500", "r1"].map(str::to_owned);
        assert_eq!(line(&columns, &cells), "tcp       1500  r1");
        let cells = ["udplite", "1", ""].map(str::to_owned);
        assert_eq!(line(&columns, &cells), "udplite        1");
    }
}
