//! `natwerk run`: the engine in the foreground, until it is told to stop.

use crate::cli::Common;
use crate::cli::output::Outcome;

/// Runs the engine. Logs go to standard error; `NATWERK_LOG` filters them, as `debug` or
/// `natwerk::engine=debug` do.
///
/// # Errors
/// With exit code 2 when the configuration or the rules are bad, 1 when it cannot run.
#[cfg(feature = "af-xdp")]
pub fn run(common: &Common) -> Outcome {
    use crate::cli::output::Failure;
    use crate::config::Config;
    use crate::engine;

    start_log();
    let config = Config::load(&common.config).map_err(|faults| {
        let faults: String = faults.iter().map(|fault| format!("\n{fault}")).collect();
        Failure::refused(format!("the configuration is faulty:{faults}"))
    })?;
    let config = match &common.socket {
        Some(socket) => Config { control_socket: socket.clone(), ..config },
        None => config,
    };
    engine::run(config).map_err(|error| match error.exit_code() {
        2 => Failure::refused(error.to_string()),
        _ => Failure::failed(error.to_string()),
    })
}

#[cfg(feature = "af-xdp")]
fn start_log() {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;

    let filter = EnvFilter::try_from_env("NATWERK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Says that this build cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "af-xdp"))]
pub fn run(_common: &Common) -> Outcome {
    use crate::cli::output::Failure;

    Err(Failure::failed("this natwerk was built without AF_XDP")
        .hint("build it with its default features: cargo build --release"))
}
