//! The `natwerk` program: arguments to a subcommand, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    natwerk::cli::main()
}
