//! The asking side of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::control::requests::Request;
use crate::control::server::{Line, Refusal};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection broke.
    #[error("the connection to natwerk at {path} broke: {error}")]
    Broken {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Nobody listens.
    #[error(
        "natwerk does not run: nothing listens at {0} — start it, or name its socket with --socket"
    )]
    NotRunning(PathBuf),
    /// The user may not.
    #[error("{0} may not be opened — be root, or a member of the socket's group")]
    Permission(PathBuf),
    /// The engine said no.
    #[error("{}", .0.error)]
    Refused(Refusal),
    /// The engine is of another version, most likely.
    #[error(
        "natwerk's answer is not understood: {0} — is the running version the same as this one?"
    )]
    Strange(String),
}

/// A connection to a running engine.
pub struct Client {
    path: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the engine whose socket is at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, AskError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                AskError::NotRunning(path.to_owned())
            }
            ErrorKind::PermissionDenied => AskError::Permission(path.to_owned()),
            _ => AskError::Broken { path: path.to_owned(), error },
        })?;
        let client = Self { path: path.to_owned(), reader: BufReader::new(stream) };
        let patience = client.reader.get_ref().set_read_timeout(Some(ANSWER_PATIENCE));
        patience.map_err(|error| client.broken(error))?;
        Ok(client)
    }

    /// Asks, and gets the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, AskError> {
        let mut answer = None;
        self.ask_in_parts(request, |part| {
            answer = Some(part);
            Ok::<(), AskError>(())
        })?;
        answer.ok_or_else(|| AskError::Strange("it is empty".to_owned()))
    }

    /// Asks, and hands each part of the answer to `take`.
    ///
    /// # Errors
    /// When there is none, or `take` fails.
    pub fn ask_in_parts<T: DeserializeOwned, E: From<AskError>>(
        &mut self,
        request: &Request,
        mut take: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(request)?;
        loop {
            let line = self.line()?;
            if !line.ok {
                return Err(AskError::Refused(line.refusal.unwrap_or_default()).into());
            }
            let part = serde_json::from_value(line.data)
                .map_err(|error| AskError::Strange(error.to_string()))?;
            take(part)?;
            if !line.more {
                return Ok(());
            }
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), AskError> {
        let mut text =
            serde_json::to_vec(request).map_err(|error| AskError::Strange(error.to_string()))?;
        text.push(b'\n');
        self.reader.get_mut().write_all(&text).map_err(|error| self.broken(error))
    }

    fn line(&mut self) -> Result<Line, AskError> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => Err(self.broken(ErrorKind::UnexpectedEof.into())),
            Ok(_) => {
                serde_json::from_str(&text).map_err(|error| AskError::Strange(error.to_string()))
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    fn broken(&self, error: std::io::Error) -> AskError {
        AskError::Broken { path: self.path.clone(), error }
    }
}

/// How long an answer may take: a reload of a very large rule set is the longest.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::server::{Handler, Reply, Server};

    struct Fake;

    impl Handler for Fake {
        fn handle(&self, request: Request, reply: &mut Reply<'_>) -> Result<(), Refusal> {
            match request {
                Request::Reload => Err(Refusal::new("no", "hint").bad_input()),
                Request::ShowConfig => reply.done("text"),
                _ => {
                    reply.part([1, 2])?;
                    reply.done([3])
                }
            }
        }
    }

    #[test]
    fn a_client_gets_answers_parts_and_refusals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let _server = Server::start(&path, Arc::new(Fake)).unwrap();
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.ask::<String>(&Request::ShowConfig).unwrap(), "text");
        let mut numbers = Vec::new();
        let took = client.ask_in_parts(&Request::ShowDrops, |part: Vec<u8>| {
            numbers.extend(part);
            Ok::<(), AskError>(())
        });
        assert!(took.is_ok() && numbers == [1, 2, 3]);
        let Err(AskError::Refused(refusal)) = client.ask::<String>(&Request::Reload) else {
            panic!("not refused")
        };
        assert!(refusal.bad_input && refusal.hint == "hint");
        assert!(matches!(client.ask::<u8>(&Request::ShowConfig), Err(AskError::Strange(_))));
    }

    #[test]
    fn an_engine_that_does_not_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        assert!(matches!(Client::connect(&path).err(), Some(AskError::NotRunning(_))));
    }
}
