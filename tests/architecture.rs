//! The sources hold what docs/architecture.md says of them: which module knows which, where `unsafe`
//! may be, what reads clocks and files, and how long a file is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The arrows: each module, and the modules it may use besides itself and [`EVERYWHERE`].
/// `a::b` is one part of a module.
const ARROWS: [(&str, &[&str]); 18] = [
    ("config", &["rules::diagnostic", "rules", "session::timeout"]),
    (
        "control",
        &[
            "config",
            // What the engine promises those who ask it, not the engine.
            "engine::handle",
            "nat",
            "next_hop",
            "pipeline",
            "policy",
            "prefetch",
            "rules",
            "session",
            "shortcut",
            "telemetry",
        ],
    ),
    (
        "engine",
        &[
            "config",
            "control",
            "host",
            "io",
            "nat",
            "next_hop",
            "pipeline",
            "policy",
            "prefetch",
            "rules",
            "session",
            "shortcut",
            "telemetry",
            "worker",
        ],
    ),
    ("frame", &[]),
    // The host path builds its ARP with `wire` and reads segments off the policy.
    ("host", &["config", "io", "next_hop", "policy", "rules", "telemetry", "wire"]),
    ("io", &["config"]),
    ("nat", &["policy::Balancer", "prefetch", "rules::set"]),
    ("next_hop", &["prefetch"]),
    (
        "pipeline",
        &[
            "config",
            "nat",
            "next_hop",
            "policy",
            "prefetch",
            "rewrite",
            "rules::set",
            "session",
            "shortcut",
            "telemetry",
            "wire",
        ],
    ),
    ("policy", &["config", "nat", "rules"]),
    ("prefetch", &[]),
    ("rewrite", &["wire"]),
    ("rules", &["config"]),
    ("session", &["next_hop", "prefetch", "rewrite", "wire"]),
    ("shortcut", &["prefetch"]),
    // Traces and captures say what they saw, and match packets by prefix.
    ("telemetry", &["rules::set", "wire::ipv6", "wire::parse"]),
    ("wire", &[]),
    ("worker", &["io", "pipeline", "telemetry"]),
];

/// The vocabulary.
const EVERYWHERE: [&str; 4] = ["flow", "frame", "time", "verdict"];

/// May use everything, and nothing may use them.
const AT_THE_TOP: [&str; 3] = ["cli", "main", "testing"];

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        if AT_THE_TOP.contains(&module.as_str()) || module == "lib" {
            continue;
        }
        let allowed: &[&str] = match ARROWS.iter().find(|(name, _)| *name == module) {
            Some((_, allowed)) => allowed,
            None if EVERYWHERE.contains(&module.as_str()) => &["flow"],
            None => panic!("{module} has no place in the architecture yet"),
        };
        for (number, line) in source.lines() {
            for used in uses(line) {
                let top = used.split("::").next().unwrap_or_default();
                let is_allowed = top == module
                    || EVERYWHERE.contains(&top)
                    || allowed.iter().any(|allowed| {
                        used == *allowed || used.starts_with(&format!("{allowed}::"))
                    });
                if !is_allowed {
                    wrong.push(format!("{}:{number}: {module} uses {used}", source.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows the architecture does not have:\n{}", wrong.join("\n"));
}

#[test]
fn the_vocabulary_knows_nothing_of_the_machine() {
    for source in sources().iter().filter(|source| EVERYWHERE.contains(&source.module().as_str())) {
        for (number, line) in source.lines() {
            let foreign = uses(line).into_iter().find(|used| !used.starts_with("flow"));
            assert_eq!(foreign, None, "{}:{number}", source.name());
        }
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    for source in sources() {
        let name = source.name();
        let may = name.starts_with("io/")
            || ["prefetch.rs", "session/region.rs"].contains(&name.as_str());
        for (number, line) in source.code_lines() {
            let has = words(line).any(|word| word == "unsafe");
            assert!(may || !has, "{name}:{number}: {line}");
        }
    }
}

#[test]
fn the_core_reads_no_clock_no_file_no_environment_and_no_chance() {
    const CORE: [&str; 8] =
        ["nat", "next_hop", "pipeline", "policy", "rewrite", "session", "shortcut", "wire"];
    const FORBIDDEN: [&str; 12] = [
        "Instant::now",
        "SystemTime",
        "UNIX_EPOCH",
        "clock_gettime",
        "std::env",
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::process",
        "std::thread",
        "getrandom",
        "thread_rng",
    ];
    // They keep the mapped region, whose whole point is to be a file.
    const FILES: [&str; 3] = ["session/region.rs", "session/adoption.rs", "session/header.rs"];
    for source in sources() {
        if !CORE.contains(&source.module().as_str()) || FILES.contains(&source.name().as_str()) {
            continue;
        }
        for (number, line) in source.code_lines() {
            let forbidden = FORBIDDEN.iter().find(|forbidden| line.contains(**forbidden));
            assert_eq!(forbidden, None, "{}:{number}: {line}", source.name());
        }
    }
}

#[test]
fn the_hot_path_calls_nothing_through_a_table() {
    const HOT: [&str; 6] = ["nat", "pipeline", "rewrite", "session", "wire", "worker"];
    for source in sources().iter().filter(|source| HOT.contains(&source.module().as_str())) {
        for (number, line) in source.code_lines() {
            let has = words(line).any(|word| word == "dyn");
            assert!(!has, "{}:{number}: {line}", source.name());
        }
    }
}

#[test]
fn a_file_fits_into_a_head() {
    const LINES_MAX: usize = 500;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&root.join(folder), &mut files);
    }
    for path in files {
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        let count = fs::read_to_string(&path).expect("a readable source").lines().count();
        assert!(count <= LINES_MAX, "{name} has {count} lines");
    }
}

/// A source file without its tests.
struct Source {
    /// Its path from `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The module at the top of `src` that it belongs to.
    fn module(&self) -> String {
        let first = self.path.iter().next().expect("a path").to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Lines without what stands in comments and in texts.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().map(|(number, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (
                number,
                if code.contains('"') { code.split('"').next().unwrap_or_default() } else { code },
            )
        })
    }
}

/// All sources but those that only tests have.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let texts: Vec<(PathBuf, String)> = files
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a readable source")))
        .collect();
    let test_modules: BTreeSet<PathBuf> =
        texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    texts
        .into_iter()
        .filter(|(path, _)| {
            !test_modules
                .iter()
                .any(|module| *path == module.with_extension("rs") || path.starts_with(module))
        })
        .map(|(path, text)| Source {
            path: path.strip_prefix(&root).expect("a path below src").to_owned(),
            text: without_tests(&text).to_owned(),
        })
        .collect()
}

/// The modules that a file declares for tests only, as paths without an extension.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().expect("a file").to_string_lossy();
    let folder = match stem.as_ref() {
        "lib" | "main" | "mod" => path.parent().expect("a folder").to_owned(),
        _ => path.with_extension(""),
    };
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            continue;
        }
        let declared = lines.next().unwrap_or_default().trim();
        if let Some(name) = declared.strip_suffix(';').and_then(|rest| rest.rsplit_once("mod ")) {
            found.push(folder.join(name.1));
        }
    }
    found
}

/// What stands before the tests at the end of a file.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end])
}

/// The paths below `crate::` that a line names, doc links aside.
fn uses(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::")
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|letter| letter.is_alphanumeric() || ['_', ':'].contains(letter))
                .collect::<String>()
                .trim_end_matches(':')
                .to_owned()
        })
        .inspect(|used| assert!(!used.is_empty(), "one module a `use`: {line}"))
        .collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
