//! Notices when rule files change: written in place, renamed over, swapped behind a link.
//!
//! What is watched are folders, those that the files (and what links lead to) lie in, because a file
//! that is replaced is another file. Anything that happens there counts; whether it made a
//! difference, the contents tell.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::config::Config;
use crate::engine::handle::Sign;
use crate::rules::sources::ControlPlane;

/// Changes that were noticed and not looked at yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Changes {
    /// When the first was noticed.
    pub first: Instant,
    /// When the files are read.
    pub due: Instant,
}

/// Calls back when rule files may have changed. Dropping it ends that.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
}

impl FileWatch {
    /// Watches nothing yet. `changed` is called on a thread of its own, once for each sign, so
    /// often several times for one change.
    ///
    /// # Errors
    /// When the system has no watches left.
    pub fn new(changed: impl Fn(Sign) + Send + 'static) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // What cannot be told apart is better looked at.
            match event.map(|event| event.kind) {
                // Reading is no change.
                Ok(EventKind::Access(access)) if !is_written(access) => {}
                Ok(EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))) => {
                    changed(Sign::Renamed);
                }
                Ok(_) | Err(_) => changed(Sign::Written),
            }
        })?;
        Ok(Self { watcher, folders: BTreeSet::new() })
    }

    /// Watches what the rules of `config` and `files` (found by them) depend on now, and nothing
    /// else. Returns the folders that cannot be watched.
    pub fn watch(&mut self, config: &Config, files: &[PathBuf]) -> Vec<PathBuf> {
        let named = config.rules.iter().flat_map(|path| named_paths(path, config));
        let named = named.chain(files.iter().cloned());
        let folders: BTreeSet<PathBuf> = named.flat_map(|path| folders_of(&path)).collect();
        for gone in self.folders.difference(&folders) {
            // A folder that was removed is not watched any more anyway.
            let _ = self.watcher.unwatch(gone);
        }
        let mut failed = Vec::new();
        for folder in &folders {
            // Again for those known: a folder that was replaced is another folder.
            if self.watcher.watch(folder, RecursiveMode::NonRecursive).is_err() {
                failed.push(folder.clone());
            }
        }
        self.folders = folders;
        failed
    }
}

impl Changes {
    /// The changes so far and one more, of which there was `sign` at `when`.
    #[must_use]
    pub fn noticed(before: Option<Self>, sign: Sign, when: Instant) -> Self {
        let first = before.map_or(when, |changes| changes.first);
        let quiet = match sign {
            Sign::Renamed => RENAMED_QUIET,
            Sign::Written => WRITTEN_QUIET,
        };
        let due = before.map_or(when, |changes| changes.due).max(when + quiet);
        Self { first, due: due.min(first + PATIENCE) }
    }
}

/// What can be seen of the rule files of `config` without reading them: it differs when one of them
/// was written, replaced, added or removed.
pub fn fingerprint(config: &Config) -> u64 {
    let mut seen = DefaultHasher::new();
    for rules in &config.rules {
        let is_foreign = ControlPlane::of_path(rules).is_some();
        for path in named_paths(rules, config) {
            look_at(&path, &mut seen);
            let mut files: Vec<_> =
                path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            // A control plane's files have names of all kinds.
            files.retain(|file| is_foreign || is_rule_file(file));
            files.sort();
            files.iter().for_each(|file| look_at(file, &mut seen));
        }
    }
    seen.finish()
}

fn is_rule_file(file: &Path) -> bool {
    file.extension().is_some_and(|kind| kind == "json" || kind == "toml")
}

/// The files and folders that the rules `path` of `config` are looked for in.
fn named_paths(path: &str, config: &Config) -> Vec<PathBuf> {
    match ControlPlane::of_path(path) {
        None => vec![PathBuf::from(path)],
        Some((plane, root)) => plane.looks_at(root, &config.sources),
    }
}

fn look_at(path: &Path, seen: &mut DefaultHasher) {
    path.hash(seen);
    // A folder changes whenever anything in it does; what counts are the files in it.
    if let Ok(file) = path.metadata()
        && !file.is_dir()
    {
        (file.dev(), file.ino(), file.len()).hash(seen);
        (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()).hash(seen);
    }
}

fn is_written(access: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(access, AccessKind::Close(AccessMode::Write))
}

/// The folders in which something must happen for what `path` means to change.
fn folders_of(path: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if path.is_dir() && !path.is_symlink() {
            folders.push(path.clone());
        }
        let Some(parent) = path.parent() else { break };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        folders.push(parent.to_owned());
        // A folder on the way may be a link itself: Kubernetes swaps those.
        if let Ok(real) = parent.canonicalize() {
            if real != *parent && parent.is_symlink() {
                folders.extend(parent.parent().map(Path::to_owned));
            }
            folders.push(real);
        }
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = parent.join(target);
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// How long files must be left alone before they are read, and how long at most to wait for that. One that was
/// renamed into its place is whole; what is waited for are others that belong to it.
const WRITTEN_QUIET: Duration = Duration::from_millis(50);
const RENAMED_QUIET: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

    fn config(rules: &[&str]) -> Config {
        Config { rules: rules.iter().map(ToString::to_string).collect(), ..Config::default() }
    }

    struct Scene {
        folder: tempfile::TempDir,
        changes: Receiver<Sign>,
        watch: FileWatch,
    }

    impl Scene {
        fn new() -> Self {
            let (sender, changes) = channel();
            let notice = move |sign| {
                let _ = sender.send(sign);
            };
            let watch = FileWatch::new(notice).expect("a watcher");
            Self { folder: tempfile::tempdir().expect("a folder"), changes, watch }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn watch(&mut self, name: &str) {
            let path = self.path(name);
            let config = config(&[path.to_str().expect("a name")]);
            assert_eq!(self.watch.watch(&config, &[]), Vec::<PathBuf>::new());
            while self.changes.try_recv().is_ok() {}
        }

        fn noticed(&self) -> bool {
            let noticed = self.changes.recv_timeout(Duration::from_secs(5)).is_ok();
            // The events of one change come together.
            while self.changes.recv_timeout(Duration::from_millis(50)).is_ok() {}
            noticed
        }
    }

    #[test]
    fn writing_in_place_and_renaming_over_are_noticed_and_reading_is_not() {
        let mut scene = Scene::new();
        fs::write(scene.path("rules.json"), "1").expect("written");
        scene.watch("rules.json");
        fs::write(scene.path("rules.json"), "2").expect("written");
        assert!(scene.noticed());
        fs::write(scene.path("new"), "3").expect("written");
        fs::rename(scene.path("new"), scene.path("rules.json")).expect("renamed");
        assert!(scene.noticed());
        let elsewhere = tempfile::tempdir_in(scene.folder.path()).expect("a folder");
        assert!(scene.noticed());
        fs::write(elsewhere.path().join("new"), "3").expect("written");
        fs::rename(elsewhere.path().join("new"), scene.path("rules.json")).expect("renamed");
        assert_eq!(scene.changes.recv_timeout(Duration::from_secs(5)), Ok(Sign::Renamed));
        assert_eq!(fs::read(scene.path("rules.json")).expect("read"), b"3");
        assert!(scene.changes.recv_timeout(Duration::from_millis(200)).is_err());
    }

    #[test]
    fn what_is_renamed_is_read_sooner_than_what_is_written_and_neither_waits_for_ever() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let renamed = Changes::noticed(None, Sign::Renamed, start);
        assert_eq!(renamed, Changes { first: start, due: at(20) });
        let both = Changes::noticed(Some(renamed), Sign::Written, at(5));
        assert_eq!(both.due, at(55));
        assert_eq!(Changes::noticed(Some(both), Sign::Renamed, at(10)).due, at(55));
        assert_eq!(Changes::noticed(Some(both), Sign::Renamed, at(50)).due, at(70));
        let restless = (0..100).map(|step| at(10 * step));
        let last =
            restless.fold(None, |before, when| Some(Changes::noticed(before, Sign::Written, when)));
        assert_eq!(last, Some(Changes { first: start, due: at(500) }));
    }

    #[test]
    fn a_link_swapped_to_another_folder_is_noticed_and_so_is_what_it_leads_to() {
        let mut scene = Scene::new();
        for version in ["v1", "v2"] {
            fs::create_dir(scene.path(version)).expect("made");
            fs::write(scene.path(version).join("rules.json"), version).expect("written");
        }
        let link = |scene: &Scene, version: &str| {
            std::os::unix::fs::symlink(version, scene.path("next")).expect("linked");
            fs::rename(scene.path("next"), scene.path("data")).expect("swapped");
        };
        link(&scene, "v1");
        std::os::unix::fs::symlink("data/rules.json", scene.path("rules.json")).expect("linked");
        scene.watch("rules.json");
        fs::write(scene.path("v1").join("rules.json"), "changed").expect("written");
        assert!(scene.noticed());
        link(&scene, "v2");
        assert!(scene.noticed());
    }

    #[test]
    fn a_fingerprint_tells_rule_files_from_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = config(&[folder.path().to_str().expect("a name")]);
        let file = |name: &str| folder.path().join(name);
        let empty = fingerprint(&paths);
        fs::write(file("log"), "1").expect("written");
        assert_eq!(fingerprint(&paths), empty);
        fs::write(file("a.json"), "1").expect("written");
        let one = fingerprint(&paths);
        assert_ne!(one, empty);
        assert_eq!(fingerprint(&paths), one);
        fs::write(file("new"), "1").expect("written");
        fs::rename(file("new"), file("a.json")).expect("renamed");
        assert_ne!(fingerprint(&paths), one);
    }

    #[test]
    fn a_new_file_in_a_folder_is_noticed_and_so_is_a_file_that_was_missing() {
        let mut scene = Scene::new();
        fs::create_dir(scene.path("rules.d")).expect("made");
        scene.watch("rules.d");
        fs::write(scene.path("rules.d").join("a.json"), "1").expect("written");
        assert!(scene.noticed());
        scene.watch("missing.json");
        fs::write(scene.path("missing.json"), "1").expect("written");
        assert!(scene.noticed());
    }
}
