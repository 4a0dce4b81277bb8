//! The listening side of the control socket.
//!
//! One thread accepts, one more serves each client, and there are few of either. A client that does
//! not read holds its own thread only, and for [`CLIENT_PATIENCE`] at most.

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::requests::Request;

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request` by writing to `reply`: once, or several times for a long answer.
    ///
    /// # Errors
    /// A [`Refusal`] that the client is told.
    fn handle(&self, request: Request, reply: &mut Reply<'_>) -> Result<(), Refusal>;
}

/// Why a request was not done.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// A sentence.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// More lines to show, such as the faults of a rule file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Whether what was given is at fault (arguments, rules), not the running of it.
    #[serde(default)]
    pub bad_input: bool,
}

impl Refusal {
    /// A refusal with a sentence and what to do about it.
    #[must_use]
    pub fn new(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { error: error.into(), hint: hint.into(), ..Self::default() }
    }

    /// The same, because what was given is at fault.
    #[must_use]
    pub fn bad_input(self) -> Self {
        Self { bad_input: true, ..self }
    }
}

/// The client went away or does not read: nothing can be told to it.
impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::new(format!("the client does not take the reply: {error}"), "")
    }
}

/// A line of a reply.
#[derive(Debug, Deserialize, Serialize)]
pub struct Line {
    /// Whether the request was done.
    pub ok: bool,
    /// Whether another line follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The answer.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Why there is none.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// Where a handler writes its answer.
pub struct Reply<'s> {
    out: BufWriter<&'s UnixStream>,
}

impl Reply<'_> {
    /// Writes a part of an answer; more follows.
    ///
    /// # Errors
    /// When the client does not take it.
    pub fn part(&mut self, data: impl Serialize) -> Result<(), Refusal> {
        self.data(data, true)
    }

    /// Writes the answer, or the last part of it.
    ///
    /// # Errors
    /// When the client does not take it.
    pub fn done(&mut self, data: impl Serialize) -> Result<(), Refusal> {
        self.data(data, false)
    }

    fn data(&mut self, data: impl Serialize, more: bool) -> Result<(), Refusal> {
        let data = serde_json::to_value(data)
            .map_err(|error| Refusal::new(format!("the answer cannot be written: {error}"), ""))?;
        Ok(self.line(&Line { ok: true, more, data, refusal: None })?)
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another instance listens there.
    #[error(
        "another natwerk listens at {0} — stop it first, or give this one another control_socket"
    )]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("{0} exists and is not a socket — remove it, or choose another control_socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen at {path}: {error} — check that its folder can be written to")]
    System {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The control socket, open. Dropping it closes and removes it.
pub struct Server {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens the socket at `path`, readable and writable by its owner and group, and answers from
    /// now on. A socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// When something is in the way.
    pub fn start<H: Handler>(path: &Path, handler: Arc<H>) -> Result<Self, ListenError> {
        let system = |error| ListenError::System { path: path.to_owned(), error };
        make_way(path)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(system)?;
        }
        // Under its own name the socket never has other permissions than these.
        let new = path.with_extension(format!("new.{}", std::process::id()));
        let listener = UnixListener::bind(&new).map_err(system)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o660)).map_err(system)?;
        fs::rename(&new, path).map_err(system)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &handler, &stop))
            .map_err(system)?;
        Ok(Self { path: path.to_owned(), stopping, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // The accepting thread sleeps in `accept`: this wakes it.
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Clients served at once; more are told to come back.
const CLIENTS_MAX: usize = 16;

/// How long a client may leave a reply unread, or a connection unused.
const CLIENT_PATIENCE: Duration = Duration::from_secs(300);

/// The longest request in bytes.
const REQUEST_MAX: u64 = 64 * 1024;

/// Removes the socket of a dead process.
fn make_way(path: &Path) -> Result<(), ListenError> {
    use std::os::unix::fs::FileTypeExt;

    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| ListenError::System { path: path.to_owned(), error }),
        Err(error) => Err(ListenError::System { path: path.to_owned(), error }),
    }
}

fn accept<H: Handler>(listener: &UnixListener, handler: &Arc<H>, stopping: &AtomicBool) {
    let clients = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = client else {
            // Out of descriptors, most likely: leave the others time to close theirs.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let place = Place::take(&clients);
        let handler = Arc::clone(handler);
        let serve = move || {
            // A client that cannot be served any more needs no other answer than the closed socket.
            let _ = match place {
                Some(_place) => serve(&stream, handler.as_ref()),
                None => turn_away(&stream),
            };
        };
        let _ = thread::Builder::new().name("control-client".to_owned()).spawn(serve);
    }
}

/// The right to be one of [`CLIENTS_MAX`] clients.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(clients));
        (clients.fetch_add(1, Ordering::AcqRel) < CLIENTS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn turn_away(stream: &UnixStream) -> io::Result<()> {
    let error = format!("{CLIENTS_MAX} clients are being served already");
    refuse(stream, Refusal::new(error, "try again when one of them is done"))
}

fn refuse(stream: &UnixStream, refusal: Refusal) -> io::Result<()> {
    let line = Line { ok: false, more: false, data: Value::Null, refusal: Some(refusal) };
    Reply { out: BufWriter::new(stream) }.line(&line)
}

fn serve<H: Handler>(stream: &UnixStream, handler: &H) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = Vec::new();
        (&mut reader).take(REQUEST_MAX).read_until(b'\n', &mut request)?;
        if request.is_empty() {
            return Ok(());
        }
        if !request.ends_with(b"\n") && u64::try_from(request.len()) == Ok(REQUEST_MAX) {
            let error = format!("a request is at most {REQUEST_MAX} bytes long");
            return refuse(stream, Refusal::new(error, "ask for less").bad_input());
        }
        let answered = match serde_json::from_slice(&request) {
            Ok(request) => handler.handle(request, &mut Reply { out: BufWriter::new(stream) }),
            Err(error) => Err(Refusal::new(
                format!("the request is not understood: {error}"),
                "send one JSON object a line, such as {\"command\":\"show_stats\"}",
            )
            .bad_input()),
        };
        if let Err(refusal) = answered {
            refuse(stream, refusal)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers everything with numbers, in two parts; refuses to reload.
    struct Numbers;

    impl Handler for Numbers {
        fn handle(&self, request: Request, reply: &mut Reply<'_>) -> Result<(), Refusal> {
            if request == Request::Reload {
                return Err(Refusal::new("no", "stop asking").bad_input());
            }
            reply.part([1, 2])?;
            reply.done([3])
        }
    }

    fn ask(path: &Path, text: &str) -> Vec<String> {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        BufReader::new(stream).lines().map(Result::unwrap).collect()
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_long_answer_comes_in_parts_and_the_last_one_says_so() {
        let folder = folder();
        let path = folder.path().join("control.sock");
        let _server = Server::start(&path, Arc::new(Numbers)).unwrap();
        let lines = ask(&path, "{\"command\":\"show_stats\"}\n");
        let expected = [r#"{"ok":true,"more":true,"data":[1,2]}"#, r#"{"ok":true,"data":[3]}"#];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_refusal_says_why_and_the_connection_goes_on() {
        let folder = folder();
        let path = folder.path().join("control.sock");
        let _server = Server::start(&path, Arc::new(Numbers)).unwrap();
        let lines = ask(&path, "{\"command\":\"reload\"}\nnonsense\n{\"command\":\"show_stats\"}");
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], r#"{"ok":false,"error":"no","hint":"stop asking","bad_input":true}"#);
        assert!(lines[1].starts_with(r#"{"ok":false,"error":"the request is not understood:"#));
        assert!(lines[3].contains("[3]"));
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let folder = folder();
        let path = folder.path().join("control.sock");
        let _server = Server::start(&path, Arc::new(Numbers)).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&vec![b'x'; usize::try_from(REQUEST_MAX).unwrap()]).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("at most 65536 bytes"), "{line}");
    }

    #[test]
    fn the_socket_belongs_to_owner_and_group_and_goes_with_the_server() {
        let folder = folder();
        let path = folder.path().join("deeper").join("control.sock");
        let server = Server::start(&path, Arc::new(Numbers)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_instance_is_told_and_a_dead_one_is_replaced() {
        let folder = folder();
        let path = folder.path().join("control.sock");
        // A listener that goes away leaves its socket file behind.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _server = Server::start(&path, Arc::new(Numbers)).unwrap();
        let error = Server::start(&path, Arc::new(Numbers)).err().unwrap();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        assert_eq!(ask(&path, "{\"command\":\"show_stats\"}\n").len(), 2);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        let error = Server::start(&path, Arc::new(Numbers)).err().unwrap();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn one_client_too_many_is_turned_away() {
        let folder = folder();
        let path = folder.path().join("control.sock");
        let _server = Server::start(&path, Arc::new(Numbers)).unwrap();
        let idle: Vec<_> = (0..CLIENTS_MAX).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut line = String::new();
        BufReader::new(UnixStream::connect(&path).unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("served already"), "{line}");
        drop(idle);
    }
}
