//! ZStack: the requests that its management server sends to a virtual router, and the native rules they lead to.
//!
//! ```text
//! bootstrap-info.json, requests.jsonl ──recorded──▶ State (state, one module a kind of entry) ──rules──▶ RuleSet
//! ```
//!
//! ZStack keeps no rule files: its router holds in memory what requests told it. A folder of recorded requests is
//! carried out in order; the HTTP front carries out each as it comes and keeps what is in force as typed entries, one a
//! line ([`record`]), which are taken over as they are ([`kept`]).

mod balancers;
mod eips;
mod elsewhere;
mod filters;
mod firewall;
mod firewall_rule;
mod forwards;
pub mod kept;
mod kept_check;
mod listener_check;
mod nics;
mod policy_routes;
mod reader;
pub mod record;
mod recorded;
mod routes;
mod rules;
mod snats;
pub mod state;
mod steering;
mod vip_limits;
mod vips;

use std::path::{Path, PathBuf};

use super::{Nics, Options, Translation, fault_of_file};
use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::load::read_source;
use crate::rules::source::Source;
use reader::Note;
use state::State;

/// What the recorded requests in `root` come to.
///
/// # Errors
/// With every reason when nothing usable can be read.
pub fn translate(
    root: &Path,
    nics: &Nics,
    _options: &Options,
) -> Result<Translation, Vec<Diagnostic>> {
    Ok(read(root, nics)?.1)
}

/// The state that the recorded requests in `root` lead to, and the rules that it says.
///
/// # Errors
/// With every reason when nothing usable can be read.
pub fn read(root: &Path, nics: &Nics) -> Result<(State, Translation), Vec<Diagnostic>> {
    if !root.exists() {
        return Err(vec![fault_of_file(root, "there is no such folder", "check the path")]);
    }
    let [boot_file, list, requests] = files(root);
    let (boot, requests) = (read_source(&boot_file), read_source(&requests));
    if let (Err(boot), Err(requests)) = (&boot, &requests) {
        return Err(vec![(**boot).clone(), (**requests).clone()]);
    }
    let mut unread = Vec::new();
    let mut keep =
        |found: Result<Source, Box<Diagnostic>>| found.map_err(|fault| unread.push(*fault)).ok();
    // Hosts of flat networks have no boot information.
    let boot = if boot_file.exists() { keep(boot) } else { None };
    let requests = keep(requests);
    let (state, mut translation) = read_texts(boot, requests, machine(&list, nics));
    translation.faults.extend(unread);
    let is_faulty = translation.faults.iter().any(|fault| fault.severity == Severity::Error);
    if is_faulty && !state.is_told {
        return Err(translation.faults);
    }
    Ok((state, translation))
}

/// The state that boot information and recorded requests lead to on a machine, and the rules that it says.
#[must_use]
pub fn read_texts(
    boot: Option<Source>,
    requests: Option<Source>,
    machine: Nics,
) -> (State, Translation) {
    let mut state = State::new(machine);
    let mut translation = Translation::default();
    if let Some(source) = boot {
        let notes = state.boot(source.text(), &|at| source.place(at));
        let place = |note: &Note| source.place(note.at);
        translation.faults.extend(notes.iter().map(|note| diagnostic(note, place(note))));
        translation.sources.push(source);
    }
    if let Some(source) = requests {
        carry_out(&mut state, &source, &mut translation.faults);
        translation.is_torn = recorded::is_torn(&source);
        translation.sources.push(source);
    }
    let translated = rules::translate(&state);
    translation.set = translated.set;
    translation.pending = translated.pending;
    translation.faults.extend(translated.faults);
    (state, translation)
}

fn carry_out(state: &mut State, source: &Source, faults: &mut Vec<Diagnostic>) {
    for request in recorded::read(source, faults) {
        let place = |at| request.place(source, at);
        if request.path == record::PATH {
            let restored = kept::restore(state, &request.body, &place);
            faults.extend(restored.err().map(|note| diagnostic(&note, place(note.at))));
            continue;
        }
        let answer = state.apply(&request.path, &request.body, &place);
        faults.extend(answer.notes.iter().map(|note| diagnostic(note, place(note.at))));
        if !answer.path_is_known {
            faults.push(Diagnostic {
                severity: Severity::Warning,
                place: source.place(request.path_at),
                what: format!("unknown request {}", reader::quoted(&request.path)),
                hint: "natwerk passes it over; see whether it matters".to_owned(),
            });
        }
    }
}

/// The NICs that the folder lists, else the machine's.
fn machine(list: &Path, nics: &Nics) -> Nics {
    std::fs::read_to_string(list).map_or_else(|_| nics.clone(), |text| Nics::parse(&text))
}

fn diagnostic(note: &Note, place: Place) -> Diagnostic {
    Diagnostic {
        severity: note.severity,
        place,
        what: note.what.clone(),
        hint: note.hint.to_owned(),
    }
}

/// The files that [`translate`] would look at.
#[must_use]
pub fn looks_at(root: &Path) -> Vec<PathBuf> {
    files(root).into()
}

fn files(root: &Path) -> [PathBuf; 3] {
    [BOOT, "nics.txt", REQUESTS].map(|name| root.join(name))
}

/// The boot information of a router.
pub const BOOT: &str = "bootstrap-info.json";
/// The requests that were recorded, one a line.
pub const REQUESTS: &str = "requests.jsonl";
