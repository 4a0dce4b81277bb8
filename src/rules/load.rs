//! From paths to checked rules: the files, read in order, merged, and checked as one.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use super::check;
use super::diagnostic::{Diagnostic, Place, Severity};
use super::native::{self, Draft};
use super::reader::Format;
use super::set::RuleSet;
use super::source::{SIZE_MAX, Source};
use crate::config::Config;

/// Rules that were read and found good.
#[derive(Debug)]
pub struct Loaded {
    /// The rules.
    pub rules: RuleSet,
    /// What is odd about them, but no reason to refuse them.
    pub warnings: Vec<Diagnostic>,
    /// The files they came from, in order.
    pub files: Vec<PathBuf>,
    /// A digest of the files' contents: the same files give the same digest.
    pub digest: u64,
}

/// Reads and checks the rules in `paths`: files, or folders whose files are merged in name order.
/// With a configuration, interfaces are checked against it.
///
/// # Errors
/// Every fault of every file, in the order of the files, warnings included.
pub fn load(paths: &[String], config: Option<&Config>) -> Result<Loaded, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let files = gather(paths, &mut faults);
    let sources = read_all(&files, &mut faults);
    let mut draft = Draft::default();
    // What an unreadable file would have defined nobody knows.
    draft.unread.any_address = !faults.is_empty();
    draft.unread.any_network = !faults.is_empty();
    let mut digest = DefaultHasher::new();
    for (index, source) in (0..).zip(&sources) {
        digest.write_usize(source.text().len());
        digest.write(source.text().as_bytes());
        faults.extend(native::read(source, format_of(source), index, &mut draft));
    }
    draft.unread.any_rule = !faults.is_empty();
    faults.extend(check::check(&draft, &sources, config));
    sort(&mut faults, &files);
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(faults);
    }
    Ok(Loaded { rules: draft.set, warnings: faults, files, digest: digest.finish() })
}

/// The rule files that `paths` lead to, each once.
fn gather(paths: &[String], faults: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        match path.split_once(':') {
            Some((source @ ("cloudstack" | "zstack"), _)) => faults.push(fault(
                Path::new(path),
                format!("{source} rules are not in this version yet"),
                "convert the rules to a native file (see `natwerk schema`)",
            )),
            _ => gather_path(Path::new(path), &mut files, faults),
        }
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.clone())));
    files
}

fn gather_path(path: &Path, files: &mut Vec<PathBuf>, faults: &mut Vec<Diagnostic>) {
    if !path.is_dir() {
        files.push(path.to_owned());
        return;
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            faults.push(unreadable(path, &error));
            return;
        }
    };
    let mut found: Vec<PathBuf> = entries
        .iter()
        .filter(|entry| is_rule_file_name(&entry.file_name().to_string_lossy()))
        .map(fs::DirEntry::path)
        .filter(|path| !path.is_dir())
        .collect();
    found.sort();
    if found.is_empty() {
        faults.push(Diagnostic {
            severity: Severity::Warning,
            ..fault(
                path,
                "no rule files in this folder".to_owned(),
                "put files named *.json or *.toml there",
            )
        });
    }
    files.append(&mut found);
}

/// Whether a file in a folder holds rules: not hidden, no editor's backup or lock, JSON or TOML.
fn is_rule_file_name(name: &str) -> bool {
    let hidden = name.starts_with(['.', '#', '~', '_']);
    !hidden && (name.ends_with(".json") || name.ends_with(".toml"))
}

fn read_all(files: &[PathBuf], faults: &mut Vec<Diagnostic>) -> Vec<Source> {
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        match read_source(file) {
            Ok(source) => sources.push(source),
            Err(found) => faults.push(*found),
        }
    }
    sources
}

/// The text of `file`, or why it is none.
pub(crate) fn read_source(file: &Path) -> Result<Source, Box<Diagnostic>> {
    let too_large = || {
        let what = format!("the file is larger than {} MiB", SIZE_MAX >> 20);
        Box::new(fault(file, what, "split it into several files in a folder"))
    };
    let length = fs::metadata(file).map_err(|error| Box::new(unreadable(file, &error)))?.len();
    if length > SIZE_MAX {
        return Err(too_large());
    }
    let bytes = fs::read(file).map_err(|error| Box::new(unreadable(file, &error)))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > SIZE_MAX) {
        return Err(too_large());
    }
    let name = file.display().to_string();
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            // A byte order mark is not part of the text.
            if text.starts_with('\u{feff}') {
                text.remove(0);
            }
            Ok(Source::new(&name, text))
        }
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let source = Source::new(&name, text);
            let place = source.place(u32::try_from(valid).unwrap_or(u32::MAX));
            let what = "the file is not UTF-8 text".to_owned();
            let hint = "save it as UTF-8".to_owned();
            Err(Box::new(Diagnostic { severity: Severity::Error, place, what, hint }))
        }
    }
}

/// How `source` is written: by its name, else by its first character.
fn format_of(source: &Source) -> Format {
    let file = Path::new(&**source.file());
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Format::Json,
        Some("toml") => Format::Toml,
        _ if source.text().trim_start().starts_with('{') => Format::Json,
        _ => Format::Toml,
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who may read it",
        _ => "check the file",
    };
    fault(path, format!("cannot read it: {error}"), hint)
}

/// A fault of a whole file.
fn fault(path: &Path, what: String, hint: &str) -> Diagnostic {
    let place = Place { file: path.display().to_string().into(), line: 1, column: 1 };
    Diagnostic { severity: Severity::Error, place, what, hint: hint.to_owned() }
}

/// Sorts by file, in the order they were read, then by line and column.
fn sort(faults: &mut [Diagnostic], files: &[PathBuf]) {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let order = |place: &Place| names.iter().position(|name| **name == *place.file);
    faults.sort_by_cached_key(|fault| {
        let Place { line, column, .. } = fault.place;
        (order(&fault.place), line, column)
    });
}
