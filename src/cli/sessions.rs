//! `natwerk sessions`: ends sessions of the running engine.

use clap::{Args, Subcommand};

use crate::cli::output::{self, Failure, Outcome};
use crate::cli::show::SessionConditions;
use crate::cli::{Common, ask};
use crate::control::requests::{Request, SessionFilter};
use crate::control::rows::CountRow;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Act {
    /// End every session.
    Flush,
    /// End the sessions that match, or the one whose key is given.
    Kill(KillArguments),
}

/// Which sessions to end.
#[derive(Clone, Debug, Args)]
pub struct KillArguments {
    /// The key of a session, as `show sessions` prints it.
    key: Option<String>,
    #[command(flatten)]
    conditions: SessionConditions,
}

/// Does it.
///
/// # Errors
/// When the engine does not run, or `kill` was given no condition.
pub fn run(act: &Act, common: &Common) -> Outcome {
    let request = match act {
        Act::Flush => Request::SessionsFlush,
        Act::Kill(arguments) => {
            let filter =
                SessionFilter { key: arguments.key.clone(), ..arguments.conditions.filter() };
            if !filter.narrows() {
                return Err(Failure::refused("`sessions kill` needs a key or a condition")
                    .hint("to end every session, say `natwerk sessions flush`"));
            }
            Request::SessionsKill(filter)
        }
    };
    let answer = ask::connect(common)?.ask::<CountRow>(&request)?;
    match common.json {
        true => output::print_json(&answer),
        false => output::print_line(&format!("{} sessions ended", answer.count)),
    }
}
