//! `natwerk convert`: rules in another format, as the loaders understand them.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::output::{self, Failure, Outcome};
use crate::{host, rules};

/// What is converted, and how it is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The format the rules are in.
    #[arg(long, value_enum, default_value = "native")]
    pub from: From,
    /// The format they are printed in.
    #[arg(long, value_enum, default_value = "json")]
    pub to: To,
    /// Rule files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// A format that rules are read in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum From {
    /// CloudStack's data bags and command files.
    #[value(name = "cloudstack")]
    CloudStack,
    /// Native rule files, JSON or TOML.
    Native,
    /// ZStack's requests.
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
/// With exit code 2 when native rules are faulty, or nothing of a control plane's can be read: a fault
/// there costs its entry alone.
pub fn run(args: &Args) -> Outcome {
    let prefix = match args.from {
        From::CloudStack => "cloudstack:",
        From::Native => "",
        From::ZStack => "zstack:",
    };
    let paths: Vec<String> =
        args.paths.iter().map(|path| format!("{prefix}{}", path.display())).collect();
    let loaded = match rules::load_with_nics(&paths, None, &host::nics()) {
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
