//! Talking to the running engine from a subcommand.

use std::path::PathBuf;

use crate::cli::Common;
use crate::cli::output::Failure;
use crate::control::client::{AskError, Client};

/// Where the control socket is unless said otherwise.
pub const DEFAULT_SOCKET: &str = "/run/natwerk/control.sock";

/// A connection to the engine that `--socket` names, or the configuration.
///
/// # Errors
/// When nobody listens there.
pub fn connect(common: &Common) -> Result<Client, Failure> {
    Ok(Client::connect(&socket(common))?)
}

/// `--socket`, else what the configuration says, else the default. Only this one line of the
/// configuration matters here, so its other faults do not.
#[must_use]
pub fn socket(common: &Common) -> PathBuf {
    if let Some(socket) = &common.socket {
        return socket.clone();
    }
    let text = std::fs::read_to_string(&common.config).unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let named = table.get("control_socket").and_then(toml::Value::as_str);
    PathBuf::from(named.unwrap_or(DEFAULT_SOCKET))
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let AskError::Refused(refusal) = error else { return Self::failed(error.to_string()) };
        for detail in &refusal.details {
            eprintln!("{detail}");
        }
        let failure = match refusal.bad_input {
            true => Self::refused(refusal.error),
            false => Self::failed(refusal.error),
        };
        if refusal.hint.is_empty() { failure } else { failure.hint(refusal.hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(config: &str, socket: Option<&str>) -> Common {
        Common { config: config.into(), socket: socket.map(PathBuf::from), json: false }
    }

    #[test]
    fn the_socket_is_the_one_that_was_said_last() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("natwerk.toml");
        let config = config.to_str().unwrap();
        assert_eq!(socket(&common(config, None)), PathBuf::from(DEFAULT_SOCKET));
        std::fs::write(config, "control_socket = \"/run/x.sock\"\n").unwrap();
        assert_eq!(socket(&common(config, None)), PathBuf::from("/run/x.sock"));
        assert_eq!(socket(&common(config, Some("/run/y.sock"))), PathBuf::from("/run/y.sock"));
    }
}
