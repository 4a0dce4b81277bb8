//! `natwerk convert`: rules in another format, as the loaders understand them.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::output::{self, Failure, Outcome};
use crate::rules;

/// What is converted, and how it is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The format the rules are in.
    #[arg(long, value_enum, default_value = "native")]
    pub from: From,
    /// The format they are printed in.
    #[arg(long, value_enum, default_value = "json")]
    pub to: To,
    /// Rule files, or folders of rule files.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// A format that rules are read in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum From {
    /// CloudStack's data bags. Not in this version.
    #[value(name = "cloudstack")]
    CloudStack,
    /// Native rule files, JSON or TOML.
    Native,
    /// ZStack's requests. Not in this version.
    #[value(name = "zstack")]
    ZStack,
}

/// A format that rules are printed in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum To {
    /// JSON.
    Json,
    /// TOML.
    Toml,
}

/// Prints the rules in the other format; faults and warnings go to standard error.
///
/// # Errors
/// With exit code 2 when the rules are faulty or the format is not in this version.
pub fn run(args: &Args) -> Outcome {
    let unsupported = match args.from {
        From::CloudStack => Some("cloudstack"),
        From::Native => None,
        From::ZStack => Some("zstack"),
    };
    if let Some(format) = unsupported {
        return Err(Failure::refused(format!(
            "converting from {format} is not in this version yet"
        ))
        .hint("this version reads native rule files only"));
    }
    let paths: Vec<String> =
        args.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let loaded = match rules::load(&paths, None) {
        Ok(loaded) => loaded,
        Err(faults) => {
            faults.iter().for_each(|fault| eprintln!("{fault}"));
            return Err(Failure::reported(2));
        }
    };
    loaded.warnings.iter().for_each(|fault| eprintln!("{fault}"));
    let text = match args.to {
        To::Json => rules::to_json(&loaded.rules),
        To::Toml => rules::to_toml(&loaded.rules),
    };
    output::print_bytes(text.map_err(|error| Failure::failed(error.to_string()))?.as_bytes())
}
