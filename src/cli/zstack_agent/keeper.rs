//! What the router has been told, kept on disk, and put in force by the engine.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::output::Failure;
use crate::config::Config;
use crate::control::client::Client;
use crate::control::requests::Request;
use crate::control::rows::ReloadRow;
use crate::host;
use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::load_with_nics;
use crate::rules::sources::zstack::kept::Kept;
use crate::rules::sources::zstack::record::Record;
use crate::rules::sources::zstack::state::{Answer, State};
use crate::rules::sources::zstack::{self, BOOT, REQUESTS};

/// What the router has been told.
pub struct Keeper {
    config: Config,
    folder: PathBuf,
    socket: PathBuf,
    state: State,
    /// What `state` is on disk.
    recorded: Record,
}

impl Keeper {
    /// Takes up what `folder` holds; the boot information in `boot` is copied there if it exists.
    ///
    /// # Errors
    /// When the folder cannot be written or read.
    pub fn open(
        config: Config,
        folder: PathBuf,
        boot: &Path,
        socket: PathBuf,
    ) -> Result<Self, Failure> {
        let trouble = |error: io::Error| Failure::failed(format!("{}: {error}", folder.display()));
        fs::create_dir_all(&folder).map_err(trouble)?;
        if let Ok(text) = fs::read(boot)
            && fs::read(folder.join(BOOT)).ok().as_ref() != Some(&text)
        {
            replace(&folder.join(BOOT), &text).map_err(trouble)?;
        }
        if !folder.join(REQUESTS).exists() {
            replace(&folder.join(REQUESTS), b"").map_err(trouble)?;
        }
        let (state, translation) = zstack::read(&folder, &host::nics())
            .map_err(|faults| super::super::offline::faulty(&faults))?;
        for fault in &translation.faults {
            eprintln!("{fault}");
        }
        let recorded = Record::of(&state);
        Ok(Self { config, folder, socket, state, recorded })
    }

    /// The address of the management NIC.
    pub fn management_address(&self) -> Option<Ipv4Addr> {
        self.state.management_address()
    }

    /// The folder that it keeps, and the engine's socket.
    pub fn sources(&self) -> (PathBuf, PathBuf) {
        (self.folder.clone(), self.socket.clone())
    }

    /// Carries out a command: when this returns, what it asked for is in force, or the answer says why not.
    pub fn carry_out(&mut self, path: &str, body: &str) -> serde_json::Value {
        let mut state = self.state.clone();
        // NICs come and go while we run.
        state.machine = host::nics();
        let answer = state.apply(path, body, &|_| Place::nowhere());
        let recorded = Record::of(&state).behind(&self.recorded);
        if recorded == self.recorded {
            self.state = state;
            return self.with_health(answer.reply);
        }
        match self.put_in_force(state, recorded) {
            Ok(left_out) if left_out.is_empty() => answer.reply,
            Ok(left_out) => failure(&answer, &left_out),
            Err(why) => failure(&answer, &[why]),
        }
    }

    /// A reply that says how the router is says whether the engine runs.
    fn with_health(&self, mut reply: serde_json::Value) -> serde_json::Value {
        if reply.get("healthy").is_some()
            && let Err(error) = Client::connect(&self.socket)
        {
            reply["healthy"] = json!(false);
            reply["healthDetail"] = json!(error.to_string());
        }
        reply
    }

    /// Writes `recorded` down and has the engine read it. Returns what was left out of it: entries that do not go
    /// together with the others, or with the configuration.
    fn put_in_force(
        &mut self,
        mut state: State,
        mut recorded: Record,
    ) -> Result<Vec<String>, String> {
        let file = self.folder.join(REQUESTS);
        let trouble = |error: io::Error| format!("{}: {error}", file.display());
        let mut left_out = Vec::new();
        loop {
            replace(&file, recorded.to_string().as_bytes()).map_err(trouble)?;
            let faults = self.new_faults(&recorded);
            if faults.is_empty() {
                break;
            }
            // An entry that is refused stays what it was. That may meet another new one, which is refused in its turn:
            // every round has fewer that are new.
            for (kept, fault) in faults {
                kept.put_back(&mut state, &self.state);
                left_out.push(format!("{} — {}", fault.what, fault.hint));
            }
            recorded = Record::of(&state).behind(&self.recorded);
        }
        let reloaded = Client::connect(&self.socket)
            .and_then(|mut client| client.ask::<ReloadRow>(&Request::Reload));
        if let Err(error) = reloaded {
            // Nothing changed, so nothing may change when the engine comes back.
            replace(&file, self.recorded.to_string().as_bytes()).map_err(trouble)?;
            return Err(error.to_string());
        }
        (self.state, self.recorded) = (state, recorded);
        Ok(left_out)
    }

    /// The entries of `recorded` that were not there before and are at fault, with what is wrong with them. What
    /// was there before is never refused: others may be why it is at fault, and it waits until they are not.
    fn new_faults<'r>(&self, recorded: &'r Record) -> Vec<(&'r Kept, Diagnostic)> {
        let loaded = load_with_nics(&self.config.rules, Some(&self.config), &host::nics());
        let faults = loaded.map_or_else(|faults| faults, |loaded| loaded.warnings);
        let file = self.folder.join(REQUESTS).display().to_string();
        let new = recorded.since(&self.recorded);
        let is_ours =
            |fault: &Diagnostic| fault.severity == Severity::Error && *fault.place.file == *file;
        let faults = faults.into_iter().filter(is_ours);
        faults.filter_map(|fault| Some((*new.get(&fault.place.line)?, fault))).collect()
    }
}

/// The answer to a command that was not done, or not wholly.
fn failure(answer: &Answer, reasons: &[String]) -> serde_json::Value {
    let before = answer.reply.get("error").and_then(serde_json::Value::as_str).unwrap_or_default();
    let mut errors: Vec<&str> = reasons.iter().map(String::as_str).collect();
    if !before.is_empty() {
        errors.insert(0, before);
    }
    json!({ "success": false, "error": errors.join("; ") })
}

/// Writes a file so that it is whole at any time, also after a power cut.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
