//! `natwerk reload`: makes the running engine read its rules again.

use crate::cli::output::{self, Outcome};
use crate::cli::{Common, ask, tables};
use crate::control::requests::Request;
use crate::control::rows::ReloadRow;

/// Does it, and says what changed. Faulty rules are printed and change nothing.
///
/// # Errors
/// When the engine does not run, or refuses the rules.
pub fn run(common: &Common) -> Outcome {
    let report = ask::connect(common)?.ask::<ReloadRow>(&Request::Reload)?;
    match common.json {
        true => output::print_json(&report),
        false => output::print_bytes(tables::reload(&report).as_bytes()),
    }
}
