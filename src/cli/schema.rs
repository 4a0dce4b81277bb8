//! `natwerk schema`: the JSON Schema of the rule file, or of the configuration.

use clap::ValueEnum;

use crate::cli::output::{self, Outcome};
use crate::{config, rules};

/// Whose schema is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The file whose schema is printed.
    #[arg(value_enum, default_value = "rules")]
    pub of: Of,
}

/// A kind of file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Of {
    /// `natwerk.toml`.
    Config,
    /// Native rule files.
    Rules,
}

/// Prints the schema.
///
/// # Errors
/// When standard output does not take it.
pub fn run(args: &Args) -> Outcome {
    output::print_json(&match args.of {
        Of::Config => config::schema(),
        Of::Rules => rules::schema::rule_file(),
    })
}
