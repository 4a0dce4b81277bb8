//! Which files a path leads to, in the order in which they count.
//!
//! A path is a folder of data bags, or laid out as a router's life was recorded: `cmdline`, `nics.txt`, `cache/` and the
//! order of arrival in `sequence.txt`. Without that order, command files count by when they were written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::rules::diagnostic::Diagnostic;
use crate::rules::load::read_source;
use crate::rules::source::Source;
use crate::rules::sources::fault_of_file;

/// The files of a router.
#[derive(Debug, Default)]
pub struct Files {
    /// The list of NICs, if there is one.
    pub nics: Option<Source>,
    /// The order of arrival, if it was recorded.
    pub sequence: Option<Source>,
    /// What is merged, in order.
    pub inputs: Vec<Input>,
    /// Files that cannot be read.
    pub faults: Vec<Diagnostic>,
    /// Whether a data bag cannot be read, so that rules that were there may be missing.
    pub is_torn: bool,
}

/// A file to be merged.
#[derive(Debug)]
pub struct Input {
    /// What it is.
    pub role: Role,
    /// The file.
    pub source: Source,
}

/// What a file is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// Several command files in one.
    Aggregate,
    /// A data bag of this name.
    Bag(String),
    /// A command file.
    Command,
    /// The command line as the hypervisor gave it.
    CommandLine,
}

/// Where bags are on a router, and where its command files land.
const BAGS: &str = "/etc/cloudstack";
const COMMAND_FILES: &str = "/var/cache/cloud";

/// The folders in which files of `root` are looked for.
#[must_use]
pub fn folders(root: &Path, command_files: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = vec![root.to_owned(), root.join("cache")];
    match command_files {
        Some(folder) => folders.push(folder.to_owned()),
        None if root == Path::new(BAGS) => folders.push(COMMAND_FILES.into()),
        None => {}
    }
    folders
}

/// The files that `root` leads to.
#[must_use]
pub fn gather(root: &Path, command_files: Option<&Path>) -> Files {
    let mut files = Files::default();
    if root.is_file() {
        // One command or aggregate file alone.
        let role = role_of(&name(root)).unwrap_or(Role::Command);
        files.read(root, role);
        return files;
    }
    let folders = folders(root, command_files);
    let mut found: BTreeMap<PathBuf, Role> = BTreeMap::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        match fs::read_dir(folder) {
            Ok(entries) => {
                let paths =
                    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
                found.extend(paths.filter_map(|path| Some((path.clone(), role_of(&name(&path))?))));
            }
            Err(error) => {
                files.faults.push(fault_of_file(
                    folder,
                    format!("cannot read it: {error}"),
                    "check it",
                ));
            }
        }
    }
    files.nics = read_if_there(&root.join("nics.txt"), &mut files.faults);
    for (path, role) in &found {
        if matches!(role, Role::Bag(_)) {
            files.read(path, role.clone());
        }
    }
    files.read_command_line(root, &mut found);
    match read_if_there(&root.join("sequence.txt"), &mut files.faults) {
        Some(sequence) => {
            files.read_sequence(root, &sequence);
            files.sequence = Some(sequence);
        }
        None => files.read_by_time(&found),
    }
    files
}

impl Files {
    /// The command line counts before everything else.
    fn read_command_line(&mut self, root: &Path, found: &mut BTreeMap<PathBuf, Role>) {
        if root.join("cmdline").is_file() {
            self.read(&root.join("cmdline"), Role::CommandLine);
        }
        let first: Vec<PathBuf> =
            found.keys().filter(|path| name(path).starts_with("cmd_line.json")).cloned().collect();
        for path in first {
            found.remove(&path);
            self.read(&path, Role::Command);
        }
    }

    /// The files that a recorded order of arrival names.
    fn read_sequence(&mut self, root: &Path, sequence: &Source) {
        for (number, line) in (1_u32..).zip(sequence.text().lines()) {
            let line = line.trim();
            let (name, role) = match line.strip_prefix('@') {
                Some(rest) => match rest.split_once(char::is_whitespace) {
                    Some(("agg", name)) => (name.trim(), Role::Aggregate),
                    // Looks at the state, and elections of redundant routers.
                    Some(_) | None => continue,
                },
                None if line.is_empty() || line.starts_with('#') => continue,
                None if line.starts_with("cmd_line.json") => continue,
                None => (line, Role::Command),
            };
            let places = [root.join("cache").join(name), root.join(name)];
            match places.iter().find(|path| path.is_file()) {
                Some(path) => self.read(path, role),
                None => {
                    let mut fault = fault_of_file(
                        Path::new(&**sequence.file()),
                        format!("{name} is not there"),
                        "what it would have said is not in force",
                    );
                    fault.place.line = number;
                    self.faults.push(fault);
                }
            }
        }
    }

    /// Command files by when they were written; of those written at once, in the order in which a router is
    /// set up.
    fn read_by_time(&mut self, found: &BTreeMap<PathBuf, Role>) {
        let commands = found.iter().filter(|(_, role)| !matches!(role, Role::Bag(_)));
        let mut commands: Vec<(SystemTime, usize, &PathBuf, &Role)> = commands
            .map(|(path, role)| {
                let written = fs::metadata(path).and_then(|file| file.modified());
                (written.unwrap_or(SystemTime::UNIX_EPOCH), rank(&name(path)), path, role)
            })
            .collect();
        commands.sort_by(|one, other| (one.0, one.1, one.2).cmp(&(other.0, other.1, other.2)));
        for (_, _, path, role) in commands {
            self.read(path, role.clone());
        }
    }

    fn read(&mut self, path: &Path, role: Role) {
        match read_source(path) {
            Ok(source) => self.inputs.push(Input { role, source }),
            Err(fault) => {
                self.is_torn |= matches!(role, Role::Bag(_));
                self.faults.push(*fault);
            }
        }
    }
}

fn read_if_there(path: &Path, faults: &mut Vec<Diagnostic>) -> Option<Source> {
    if !path.is_file() {
        return None;
    }
    read_source(path).map_err(|fault| faults.push(*fault)).ok()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a file of this name is; none if it is none of CloudStack's.
fn role_of(name: &str) -> Option<Role> {
    if name.starts_with('.') {
        return None;
    }
    if name.starts_with("VR-") && name.ends_with(".cfg") {
        return Some(Role::Aggregate);
    }
    match name.split_once(".json") {
        Some(("cmd_line", "")) => Some(Role::Command),
        Some((bag, "")) if !bag.is_empty() => Some(Role::Bag(bag.to_owned())),
        Some((command, uuid))
            if !command.is_empty() && uuid.starts_with('.') && !is_leftover(uuid) =>
        {
            Some(Role::Command)
        }
        Some(_) | None => None,
    }
}

/// Whether it ends like what editors, packagers and half-written copies leave.
fn is_leftover(ending: &str) -> bool {
    [".gz", ".bak", ".swp", ".tmp", ".orig", ".new", ".old", "~"]
        .iter()
        .any(|end| ending.ends_with(end))
}

/// The order in which a router is set up.
fn rank(name: &str) -> usize {
    const ORDER: [&str; 9] = [
        "VR-",
        "ip_associations",
        "guest_network",
        "ip_aliases",
        "firewall_rules",
        "network_acl",
        "static_routes",
        "staticnat_rules",
        "forwarding_rules",
    ];
    ORDER.iter().position(|start| name.starts_with(start)).unwrap_or(ORDER.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_files_are() {
        assert_eq!(role_of("ips.json"), Some(Role::Bag("ips".to_owned())));
        assert_eq!(role_of("forwarding_rules.json.1234"), Some(Role::Command));
        assert_eq!(role_of("VR-1.cfg"), Some(Role::Aggregate));
        for other in [
            "nics.txt",
            ".ips.json",
            "ips.json.bak",
            "ips.json~",
            "forwarding_rules.json.1.gz",
            "cmdline",
            ".json.1",
        ] {
            assert_eq!(role_of(other), None, "{other}");
        }
    }

    #[test]
    fn files_written_at_once_count_in_the_order_of_a_start() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "forwarding_rules.json.1",
            "ip_associations.json.9",
            "staticnat_rules.json.5",
            "ips.json",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
            let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        let files = gather(folder.path(), None);
        let order: Vec<_> = files.inputs.iter().map(|input| input.source.text()).collect();
        assert_eq!(
            order,
            [
                "ips.json",
                "ip_associations.json.9",
                "staticnat_rules.json.5",
                "forwarding_rules.json.1"
            ]
        );
    }

    #[test]
    fn a_file_that_the_order_names_and_that_is_not_there_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("sequence.txt"),
            "# first\nforwarding_rules.json.1\n@snap x\n",
        )
        .unwrap();
        let files = gather(folder.path(), None);
        assert_eq!(files.faults[0].place.line, 2);
        assert!(files.faults[0].what.contains("is not there"));
    }
}
