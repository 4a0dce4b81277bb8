//! From paths to checked rules: the files, read in order, merged, and checked as one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check;
use super::diagnostic::{Diagnostic, Place, Severity};
use super::native::{self, Draft};
use super::reader::Format;
use super::set::RuleSet;
use super::source::{SIZE_MAX, Source};
use super::sources::{self, ControlPlane, Nics, Pending, Translation, fault_of_file as fault};
use crate::config::Config;

/// Rules that were read and found good.
#[derive(Debug)]
pub struct Loaded {
    /// The rules.
    pub rules: RuleSet,
    /// What is odd about them, but no reason to refuse them: also the faults of control planes'
    /// entries, each of which costs its entry alone, and what is pending.
    pub warnings: Vec<Diagnostic>,
    /// Rules of control planes that wait for something.
    pub pending: Vec<Pending>,
    /// Whether a control plane's file that holds state cannot be read, so that rules may be missing that
    /// were there.
    pub is_torn: bool,
    /// The files they came from, in order.
    pub files: Vec<PathBuf>,
}

/// Reads and checks the rules in `paths`: files, or folders whose files are merged in name order.
/// With a configuration, interfaces are checked against it.
///
/// # Errors
/// Every fault of every file, in the order of the files, warnings included.
pub fn load(paths: &[String], config: Option<&Config>) -> Result<Loaded, Vec<Diagnostic>> {
    load_with_nics(paths, config, &Nics::default())
}

/// [`load`] for paths of control planes too (`cloudstack:PATH`, `zstack:PATH`), which name NICs by MAC: `nics`
/// are the machine's, for folders that do not list them.
///
/// # Errors
/// Every fault of every native file; those of control planes' entries only if nothing of theirs can
/// be read.
pub fn load_with_nics(
    paths: &[String],
    config: Option<&Config>,
    nics: &Nics,
) -> Result<Loaded, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let options = config.map(|config| config.sources.clone()).unwrap_or_default();
    let mut translations = Vec::new();
    let mut native = Vec::new();
    for path in paths {
        match ControlPlane::of_path(path) {
            None => native.push(Path::new(path)),
            Some((plane, root)) => match plane.translate(root, nics, &options) {
                Ok(translation) => translations.push(translation),
                Err(found) => faults.extend(found),
            },
        }
    }
    let files = gather(&native, &mut faults);
    let sources = read_all(&files, &mut faults);
    load_sources(sources, translations, faults, config)
}

/// Reads and checks the rules in `text`, as if it were the file `name`.
///
/// # Errors
/// Every fault, in order, warnings included.
pub fn load_text(
    name: &str,
    text: &str,
    config: Option<&Config>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let sources = vec![Source::new(name, text.to_owned())];
    let loaded = load_sources(sources, Vec::new(), Vec::new(), config)?;
    Ok(Loaded { files: Vec::new(), ..loaded })
}

/// Checks what a control plane's texts came to, as [`load_with_nics`] does what its files came to.
///
/// # Errors
/// Never: faults cost their entries alone.
pub fn load_translation(translation: Translation) -> Result<Loaded, Vec<Diagnostic>> {
    load_sources(Vec::new(), vec![translation], Vec::new(), None)
}

fn load_sources(
    mut sources: Vec<Source>,
    mut translations: Vec<Translation>,
    mut faults: Vec<Diagnostic>,
    config: Option<&Config>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let mut draft = Draft::default();
    // What an unreadable file would have defined nobody knows.
    draft.unread.any_address = has_errors(&faults);
    draft.unread.any_network = has_errors(&faults);
    for (index, source) in (0..).zip(&sources) {
        faults.extend(native::read(source, format_of(source), index, &mut draft));
    }
    draft.unread.any_rule = has_errors(&faults);
    // Behind the native files: what was written first keeps a port that two claim.
    let mut translated: HashSet<Arc<str>> = HashSet::new();
    for translation in &mut translations {
        translated.extend(translation.sources.iter().map(|source| Arc::clone(source.file())));
        sources.append(&mut translation.sources);
        sources::append(&mut draft.set, std::mem::take(&mut translation.set));
    }
    let (mut tolerated, found) =
        sources::settle(&mut draft, &translated, |draft| check::check(draft, &sources, config));
    faults.extend(found);
    if has_errors(&faults) {
        sort(&mut faults, &sources);
        return Err(faults);
    }
    let is_torn = translations.iter().any(|translation| translation.is_torn);
    let mut pending = Vec::new();
    for translation in translations {
        tolerated.extend(translation.faults);
        tolerated.extend(translation.pending.iter().map(Pending::warning));
        pending.extend(translation.pending);
    }
    faults.append(&mut tolerated);
    sort(&mut faults, &sources);
    let files = sources.iter().map(|source| PathBuf::from(&**source.file())).collect();
    Ok(Loaded { rules: draft.set, warnings: faults, pending, is_torn, files })
}

fn has_errors(faults: &[Diagnostic]) -> bool {
    faults.iter().any(|fault| fault.severity == Severity::Error)
}

/// The rule files that `paths` lead to, each once.
fn gather(paths: &[&Path], faults: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        gather_path(path, &mut files, faults);
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

/// Sorts by file, in the order they were read, then by line and column. Files that could not be
/// read come first.
fn sort(faults: &mut [Diagnostic], sources: &[Source]) {
    let order: HashMap<&str, usize> =
        sources.iter().zip(0..).map(|(source, index)| (&**source.file(), index)).collect();
    faults.sort_by_cached_key(|fault| {
        let Place { file, line, column } = &fault.place;
        (order.get(&**file).copied(), *line, *column)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::example;

    /// A folder with files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn path(folder: &tempfile::TempDir, name: &str) -> String {
        folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn load_folder(folder: &tempfile::TempDir) -> Result<Loaded, Vec<Diagnostic>> {
        load(&[path(folder, "")], None)
    }

    const NETWORK: &str = r#"{"version": 1, "networks": [
        {"name": "a", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1"}]}"#;

    #[test]
    fn the_files_of_a_folder_are_merged_in_name_order() {
        let rule = |id| {
            format!(
                "version = 1\negress_rules = [{{id = \"{id}\", network = \"a\", action = \"deny\"}}]"
            )
        };
        let folder = folder(&[
            ("20.toml", &rule("second")),
            ("30.json", NETWORK),
            ("10.toml", &rule("first")),
            (".hidden.json", "not rules"),
            ("#30.json#", "not rules"),
            ("30.json~", "not rules"),
            (".#30.json", "not rules"),
            ("30.json.bak", "not rules"),
            ("README.md", "not rules"),
        ]);
        fs::create_dir(folder.path().join("40.json")).unwrap();
        let loaded = load_folder(&folder).unwrap();
        let ids: Vec<_> = loaded.rules.egress_rules.iter().map(|rule| &*rule.id).collect();
        assert_eq!(ids, ["first", "second"]);
        let names: Vec<_> = loaded.files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["10.toml", "20.toml", "30.json"]);
    }

    #[test]
    fn a_clash_between_files_names_both_places() {
        let folder = folder(&[("a.json", NETWORK), ("b.json", NETWORK)]);
        let faults = load_folder(&folder).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].place.to_string(), format!("{}:2:18", path(&folder, "b.json")));
        assert_eq!(
            faults[0].what,
            format!("network \"a\" is already defined at {}:2:9", path(&folder, "a.json"))
        );
    }

    #[test]
    fn a_file_named_twice_is_read_once() {
        let folder = folder(&[("a.json", NETWORK)]);
        let loaded = load(&[path(&folder, "a.json"), path(&folder, "")], None).unwrap();
        assert_eq!(loaded.rules.networks.len(), 1);
    }

    #[test]
    fn faults_of_all_files_are_told_in_one_run() {
        let folder = folder(&[("a.json", "{"), ("b.toml", "x"), ("c.json", NETWORK)]);
        let gone = path(&folder, "gone.json");
        let faults = load(&[path(&folder, ""), gone.clone()], None).unwrap_err();
        let files: Vec<_> = faults.iter().map(|fault| fault.place.file.to_string()).collect();
        assert_eq!(files, [gone, path(&folder, "a.json"), path(&folder, "b.toml")]);
        assert!(faults[0].what.contains("No such file"), "{}", faults[0]);
    }

    #[test]
    fn an_unreadable_file_does_not_make_its_definitions_undefined() {
        let rules = r#"{"version": 1, "static_nats": [
            {"id": "s", "public_ip": "192.0.2.1", "network": "n", "guest_ip": null}]}"#;
        let folder = folder(&[("a.json", rules)]);
        let paths = [path(&folder, "a.json"), path(&folder, "gone.json")];
        let faults = load(&paths, None).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
    }

    #[test]
    fn an_empty_folder_is_odd_and_bytes_that_are_no_text_are_refused() {
        let folder = folder(&[]);
        let loaded = load_folder(&folder).unwrap();
        assert_eq!(loaded.warnings.len(), 1);
        fs::write(folder.path().join("a.json"), b"{\n \xff}").unwrap();
        let faults = load_folder(&folder).unwrap_err();
        assert_eq!((faults[0].place.line, faults[0].place.column), (2, 2));
    }

    #[test]
    fn a_name_without_an_ending_and_a_byte_order_mark_are_no_obstacle() {
        let toml = "\u{feff}version = 1\n";
        let folder = folder(&[("json", NETWORK), ("toml", toml), ("mark.json", "\u{feff}{}")]);
        assert_eq!(load(&[path(&folder, "json")], None).unwrap().rules.networks.len(), 1);
        assert!(load(&[path(&folder, "toml")], None).is_ok());
        let faults = load(&[path(&folder, "mark.json")], None).unwrap_err();
        assert_eq!(faults[0].place.column, 1, "the mark is not a character of the text");
    }

    #[test]
    fn the_example_of_the_documentation_is_good() {
        let loaded = load_text("example.json", example(), None).unwrap();
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert_eq!(loaded.rules.port_forwards[0].public_ports.count(), 9);
    }
}
