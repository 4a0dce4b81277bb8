//! The command line: one definition of every subcommand, and one module for each that has a body.
//!
//! A subcommand returns a [`output::Failure`] or nothing; only [`main`] turns that into an exit code and a
//! sentence. Exit codes: 0 done, 1 failed while running, 2 bad arguments, configuration or rules.

pub mod address_table;
mod ask;
pub mod bench;
pub mod check;
pub mod cloudstack;
pub mod convert;
pub mod doctor;
pub mod explain;
pub mod frame_text;
#[cfg(feature = "af-xdp")]
pub mod generate;
pub mod listing;
pub mod offline;
pub mod output;
mod packet_build;
pub mod packet_ipv6;
pub mod packet_text;
mod place;
pub mod reload;
pub mod replay;
mod reply;
pub mod run;
pub mod schema;
pub mod sessions;
pub mod show;
mod stats_table;
pub mod steps;
pub mod steps_ipv6;
pub mod tables;
pub mod top;
pub mod trace;
pub mod zstack_agent;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use output::Outcome;

/// A NAT engine for cloud virtual routers, on AF_XDP.
#[derive(Debug, Parser)]
#[command(name = "natwerk", version, disable_help_subcommand = true)]
struct Program {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand understands.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The control socket of the running engine [default: the configuration's `control_socket`].
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Where the configuration is unless said otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/natwerk/natwerk.toml";

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what the pipeline costs on this machine, in memory.
    Bench(bench::Arguments),
    /// Write frames of the running engine, and what became of them, to a pcapng file.
    Capture(trace::CaptureArguments),
    /// Check a configuration or rules: prints every fault, with its place and what to do.
    Check(check::Args),
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Answer what CloudStack's management server asks its virtual routers.
    #[command(name = "cloudstack", subcommand)]
    CloudStack(cloudstack::What),
    /// Print rules in another format.
    Convert(convert::Args),
    /// Look at the machine and the configuration for what would make trouble.
    Doctor,
    /// Say what would happen to a packet, step by step, without a network.
    Explain(explain::Arguments),
    /// Generate traffic to measure with, or count what arrives of it.
    #[cfg(feature = "af-xdp")]
    #[command(subcommand)]
    Generate(generate::End),
    /// Generate traffic to measure with. Not in a build without the feature `af-xdp`.
    #[cfg(not(feature = "af-xdp"))]
    Generate(NotYet),
    /// Make the running engine read its rules again.
    Reload,
    /// Run captures through the pipeline, with their own clock and without root.
    Replay(replay::Arguments),
    /// Run the engine in the foreground.
    Run,
    /// Print the JSON Schema of rule files, or of the configuration.
    Schema(schema::Args),
    /// End sessions of the running engine.
    #[command(subcommand)]
    Sessions(sessions::Act),
    /// Look into the running engine.
    #[command(subcommand)]
    Show(show::What),
    /// Watch what the running engine does.
    Top(top::Arguments),
    /// Print frames of the running engine as they pass, and what becomes of them.
    Trace(trace::Conditions),
    /// Serve ZStack's management server: its commands become rules of the running engine.
    #[command(name = "zstack-agent")]
    ZStackAgent(zstack_agent::Arguments),
}

/// The arguments of a subcommand that this version does not have.
#[cfg(not(feature = "af-xdp"))]
#[derive(Debug, Args)]
struct NotYet {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

/// Runs the subcommand that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    // Clap prints usage errors itself and exits with 2.
    let program = Program::parse();
    output::exit_code(run(&program.command, &program.common))
}

fn run(command: &Command, common: &Common) -> Outcome {
    match command {
        Command::Bench(arguments) => bench::run(arguments, common),
        Command::Capture(arguments) => trace::capture(arguments, common),
        Command::Check(args) => check::run(args, common),
        Command::Completions { shell } => completions(*shell),
        Command::CloudStack(what) => cloudstack::run(what, common),
        Command::Convert(args) => convert::run(args),
        Command::Doctor => doctor::run(common),
        Command::Explain(arguments) => explain::run(arguments, common),
        #[cfg(feature = "af-xdp")]
        Command::Generate(end) => generate::run(end, common),
        #[cfg(not(feature = "af-xdp"))]
        Command::Generate(_) => Err(not_yet("generate")),
        Command::Reload => reload::run(common),
        Command::Replay(arguments) => replay::run(arguments, common),
        Command::Run => run::run(common),
        Command::Schema(args) => schema::run(args),
        Command::Sessions(act) => sessions::run(act, common),
        Command::Show(what) => show::run(what, common),
        Command::Top(arguments) => top::run(arguments, common),
        Command::Trace(conditions) => trace::trace(conditions, common),
        Command::ZStackAgent(arguments) => zstack_agent::run(arguments, common),
    }
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Program::command(), "natwerk", &mut script);
    output::print_bytes(&script)
}

#[cfg(not(feature = "af-xdp"))]
fn not_yet(subcommand: &str) -> output::Failure {
    output::Failure::failed(format!("this build of natwerk does not have `{subcommand}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Program::command().debug_assert();
    }
}
