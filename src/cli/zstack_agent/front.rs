//! The HTTP side: which commands there are, and what is answered before they are carried out.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tiny_http::{Request, Response, Server};

use super::callback::Target;
use super::{Task, metrics};
use crate::rules::diagnostic::Place;
use crate::rules::sources::zstack::state::State;

/// One of the threads that take requests.
pub struct Front {
    /// Where they come from.
    pub server: Arc<Server>,
    /// Where commands go.
    pub queue: SyncSender<Task>,
    /// Where the VIPs are recorded.
    pub folder: PathBuf,
    /// Where the engine tells what passed by them.
    pub socket: PathBuf,
}

/// Commands that are answered at once, in the response.
const SYNCHRONOUS: [&str; 4] = ["/echo", "/appliancevm/echo", "/type", "/test"];
/// Bytes of a body.
const BODY_MAX: u64 = 64 << 20;

/// A status and a text.
type Said = (u16, String);

impl Front {
    /// Takes requests until the server is unblocked.
    pub fn run(&self) {
        while let Ok(mut request) = self.server.recv() {
            let (status, text) = self.answer(&mut request);
            // Whoever went away does not want it.
            let _ = request.respond(Response::from_string(text).with_status_code(status));
        }
    }

    fn answer(&self, request: &mut Request) -> Said {
        let path = request.url().split('?').next().unwrap_or_default().to_owned();
        if path == "/metrics" {
            return match metrics::scrape(&self.folder, &self.socket) {
                Ok(text) => (200, text),
                Err(why) => (503, why),
            };
        }
        if !State::knows(&path) {
            return (404, format!("no plugin registered the path[{path}]"));
        }
        let is_synchronous = SYNCHRONOUS.contains(&path.trim_end_matches('/'));
        let target = match Target::of(request.headers()) {
            _ if is_synchronous => None,
            Ok(target) => Some(target),
            Err(missing) => {
                let what = "found in the HTTP header but the plugin registers the path";
                let text = format!("no field '{missing}' {what}[{path}] as an async command");
                return (400, text);
            }
        };
        let body = match body(request) {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        match target {
            None => (200, at_once(&path, &body)),
            Some(callback) => match self.queue.try_send(Task { path, body, callback }) {
                // The acknowledgement: an empty string as JSON.
                Ok(()) => (200, "\"\"".to_owned()),
                Err(_) => (503, "too many commands wait already".to_owned()),
            },
        }
    }
}

fn body(request: &mut Request) -> Result<String, Said> {
    let mut bytes = Vec::new();
    let mut reader = request.as_reader().take(BODY_MAX + 1);
    reader.read_to_end(&mut bytes).map_err(|error| (400, error.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BODY_MAX) {
        return Err((413, format!("the body is larger than {} MiB", BODY_MAX >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| (400, "the body is not UTF-8".to_owned()))?;
    // A command without a body is one without fields.
    Ok(if text.trim().is_empty() { "{}".to_owned() } else { text })
}

/// The answer to a command that changes nothing.
fn at_once(path: &str, body: &str) -> String {
    State::default().apply(path, body, &|_| Place::nowhere()).reply.to_string()
}
