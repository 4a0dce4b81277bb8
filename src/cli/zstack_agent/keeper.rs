//! What the router has been told, kept on disk, and put in force by the engine.

use std::collections::HashSet;
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
use crate::rules::sources::zstack::state::{Answer, State};
use crate::rules::sources::zstack::{self, BOOT, REQUESTS, record};

/// What the router has been told.
pub struct Keeper {
    config: Config,
    folder: PathBuf,
    socket: PathBuf,
    state: State,
    /// What `state` is on disk.
    recorded: String,
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
        let recorded = record::requests(&state);
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
        let nowhere = |_| Place { file: "".into(), line: 1, column: 1 };
        let mut state = self.state.clone();
        // NICs come and go while we run.
        state.machine = host::nics();
        let answer = state.apply(path, body, &nowhere);
        let recorded = record::requests(&state);
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

    /// Writes `recorded` down and has the engine read it. Returns what was left out of it: rules that do not go
    /// together with the others, or with the configuration.
    fn put_in_force(&mut self, state: State, recorded: String) -> Result<Vec<String>, String> {
        let file = self.folder.join(REQUESTS);
        let trouble = |error: io::Error| format!("{}: {error}", file.display());
        replace(&file, recorded.as_bytes()).map_err(trouble)?;
        let faults = self.new_faults(&recorded);
        let (state, recorded) = match faults.is_empty() {
            true => (state, recorded),
            false => self.without(&faults, &recorded, state).map_err(trouble)?,
        };
        let reloaded = Client::connect(&self.socket)
            .and_then(|mut client| client.ask::<ReloadRow>(&Request::Reload));
        if let Err(error) = reloaded {
            // Nothing changed, so nothing may change when the engine comes back.
            replace(&file, self.recorded.as_bytes()).map_err(trouble)?;
            return Err(error.to_string());
        }
        (self.state, self.recorded) = (state, recorded);
        Ok(faults.into_iter().map(|fault| format!("{} — {}", fault.what, fault.hint)).collect())
    }

    /// What is wrong with lines of `recorded` that were not there before.
    fn new_faults(&self, recorded: &str) -> Vec<Diagnostic> {
        let loaded = load_with_nics(&self.config.rules, Some(&self.config), &host::nics());
        let faults = loaded.map_or_else(|faults| faults, |loaded| loaded.warnings);
        let file = self.folder.join(REQUESTS).display().to_string();
        let before: HashSet<&str> = self.recorded.lines().collect();
        let lines: Vec<&str> = recorded.lines().collect();
        let is_new = |fault: &Diagnostic| {
            let index = usize::try_from(fault.place.line).ok().and_then(|line| line.checked_sub(1));
            let line = index.and_then(|index| lines.get(index));
            *fault.place.file == *file && line.is_some_and(|line| !before.contains(line))
        };
        let is_error = |fault: &Diagnostic| fault.severity == Severity::Error;
        faults.into_iter().filter(|fault| is_error(fault) && is_new(fault)).collect()
    }

    /// The state and its record without the lines that are at fault, on disk too.
    fn without(
        &self,
        faults: &[Diagnostic],
        recorded: &str,
        state: State,
    ) -> io::Result<(State, String)> {
        let wrong: HashSet<u32> = faults.iter().map(|fault| fault.place.line).collect();
        let good: String = (1..)
            .zip(recorded.split_inclusive('\n'))
            .filter(|(number, _)| !wrong.contains(number))
            .map(|(_, line)| line)
            .collect();
        replace(&self.folder.join(REQUESTS), good.as_bytes())?;
        let read = zstack::read(&self.folder, &state.machine);
        let uuid = state.uuid.clone();
        let state = read.map_or(state, |(state, _)| State { uuid, ..state });
        Ok((state, good))
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
