//! `natwerk check`: everything wrong with a configuration or with rules, in one run.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::output::{self, Failure, Outcome};
use crate::cli::{Common, DEFAULT_CONFIG};
use crate::config::{self, Config};
use crate::host;
use crate::rules::diagnostic::{Diagnostic, Severity};
use crate::rules::{self};

/// What is checked.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rule files, folders of rule files, `cloudstack:PATH`, `zstack:PATH`, or a configuration (then
    /// also the rules it names).
    /// Without any: the configuration of `--config`.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// Prints every fault as `file:line:column: error: what — hint`.
///
/// # Errors
/// With exit code 2 when there are errors; warnings are printed and are none.
pub fn run(args: &Args, common: &Common) -> Outcome {
    let faults = faults(args, common);
    if common.json {
        output::print_json(&faults.iter().map(FaultRow::from).collect::<Vec<_>>())?;
    } else {
        let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
        output::print_bytes(lines.as_bytes())?;
    }
    match faults.iter().any(|fault| fault.severity == Severity::Error) {
        true => Err(Failure::reported(2)),
        false => Ok(()),
    }
}

fn faults(args: &Args, common: &Common) -> Vec<Diagnostic> {
    let (configs, rule_paths): (Vec<&Path>, Vec<&Path>) =
        args.paths.iter().map(PathBuf::as_path).partition(|path| config::looks_like_one(path));
    // The default configuration says nothing about rule files that were named.
    let named = common.config != Path::new(DEFAULT_CONFIG) || args.paths.is_empty();
    let config_path = configs.first().copied().or(named.then_some(common.config.as_path()));
    let mut faults = Vec::new();
    let mut config = None;
    for path in config_path.into_iter().chain(configs.iter().copied().skip(1)) {
        match Config::load(path) {
            Ok(loaded) => config = config.or(Some(loaded)),
            Err(found) => faults.extend(found),
        }
    }
    let mut paths: Vec<String> =
        rule_paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    if paths.is_empty() {
        paths = config.as_ref().map_or_else(Vec::new, |config| config.rules.clone());
    }
    match rules::load_with_nics(&paths, config.as_ref(), &host::nics()) {
        Ok(loaded) => faults.extend(loaded.warnings),
        Err(found) => faults.extend(found),
    }
    faults
}

/// A fault as JSON.
#[derive(Debug, Serialize)]
struct FaultRow<'a> {
    severity: &'static str,
    file: &'a str,
    line: u32,
    column: u32,
    what: &'a str,
    hint: &'a str,
}

impl<'a> From<&'a Diagnostic> for FaultRow<'a> {
    fn from(fault: &'a Diagnostic) -> Self {
        Self {
            severity: match fault.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            file: &fault.place.file,
            line: fault.place.line,
            column: fault.place.column,
            what: &fault.what,
            hint: &fault.hint,
        }
    }
}
