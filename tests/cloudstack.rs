//! Every sample of CloudStack's files: the rules they come to, what is said of them, and packets through the
//! real pipeline.

mod cloudstack {
    pub mod packets;
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use natwerk::rules::set::RuleSet;
use natwerk::rules::sources::Nics;
use natwerk::rules::{self, Loaded};

const FOLDER: &str = "tests/samples/cloudstack";

fn samples() -> Vec<PathBuf> {
    let entries = fs::read_dir(FOLDER).expect("samples");
    let mut samples: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a sample").path()).filter(|path| path.is_dir()).collect();
    samples.sort();
    assert_eq!(samples.len(), 20);
    samples
}

fn load(root: &Path) -> Loaded {
    let path = format!("cloudstack:{}", root.display());
    rules::load_with_nics(&[path], None, &Nics::default())
        .unwrap_or_else(|faults| panic!("{}: {faults:?}", root.display()))
}

fn json(rules: &RuleSet) -> String {
    rules::to_json(rules).expect("rules can be written")
}

/// Compares with what is kept, or keeps it.
fn compare(path: &Path, found: &str) {
    if std::env::var_os("NATWERK_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, found).expect("written");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, expected, "{} (NATWERK_BLESS=1 writes it anew)", path.display());
}

#[test]
fn every_sample_comes_to_the_rules_that_are_kept() {
    for sample in samples() {
        compare(&sample.join("expected/rules.json"), &json(&load(&sample).rules));
    }
}

#[test]
fn every_sample_has_the_diagnostics_that_are_kept() {
    for sample in samples() {
        let loaded = load(&sample);
        let mut text = String::new();
        for fault in &loaded.warnings {
            writeln!(text, "{fault}").expect("memory");
        }
        compare(&sample.join("expected/diagnostics.txt"), &text);
    }
}

#[test]
fn what_is_converted_is_a_sound_native_file_in_both_formats() {
    for sample in samples() {
        let rules = load(&sample).rules;
        let toml = rules::to_toml(&rules).expect("rules can be written");
        for (name, text) in [("x.json", json(&rules)), ("x.toml", toml)] {
            let again = rules::load_text(name, &text, None)
                .unwrap_or_else(|faults| panic!("{}: {faults:?}", sample.display()));
            assert_eq!(json(&again.rules), json(&rules), "{}", sample.display());
        }
    }
}

/// The bags that the router's scripts made of the same files say the same, also midway. Their faults are the
/// exceptions: entries that are stored before they are checked, and a firewall rule that is not
/// replaced when it is sent again.
#[test]
fn merging_comes_to_what_the_routers_scripts_merged() {
    let mut compared = 0;
    for sample in samples() {
        let faulty = sample.ends_with("14-malformed");
        let observed = sample.join("observed");
        if !faulty {
            assert_eq!(
                json(&load(&observed.join("databags")).rules),
                json(&load(&sample).rules),
                "{}",
                sample.display()
            );
            compared += 1;
        }
        let sequence = fs::read_to_string(sample.join("sequence.txt")).expect("a sequence");
        for (line, snap) in sequence
            .lines()
            .enumerate()
            .filter_map(|(line, text)| Some((line, text.strip_prefix("@snap ")?)))
        {
            let bags = observed.join(snap).join("databags");
            if !bags.is_dir() || snap == "snap-06-fw-id-kept" {
                continue;
            }
            let copy = tempfile::tempdir().expect("a folder");
            let until: Vec<&str> = sequence.lines().take(line).collect();
            fs::write(copy.path().join("sequence.txt"), until.join("\n")).expect("written");
            for name in ["cmdline", "nics.txt"] {
                fs::copy(sample.join(name), copy.path().join(name)).expect("copied");
            }
            let cache = fs::canonicalize(sample.join("cache")).expect("a cache");
            std::os::unix::fs::symlink(cache, copy.path().join("cache")).expect("linked");
            let (midway, observed) = (load(copy.path()).rules, load(&bags).rules);
            assert_eq!(json(&observed), json(&midway), "{} {snap}", sample.display());
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared} comparisons");
}

/// The steps of the malformed sample: whether each was to be accepted.
#[test]
fn each_malformed_file_is_told_by_name_and_the_good_ones_are_not() {
    let sample = Path::new(FOLDER).join("14-malformed");
    let verdicts = fs::read_to_string(sample.join("verdicts.tsv")).expect("verdicts");
    let said: Vec<String> = load(&sample).warnings.iter().map(ToString::to_string).collect();
    for line in verdicts.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let (step, file, verdict) = (columns[0], columns[1], columns[6]);
        let about: Vec<_> = said.iter().filter(|fault| fault.contains(file)).collect();
        // The address never comes, so the rule is told to wait; others that wait were revoked since.
        let waits = step == "22";
        let is_refused =
            ["reject", "report", "accept only"].iter().any(|it| verdict.starts_with(it));
        let expected = is_refused || waits;
        assert_eq!(!about.is_empty(), expected, "step {step}: {verdict}: {about:?}");
        let is_error = about.iter().any(|fault| fault.contains(": error: "));
        assert_eq!(is_error, expected && !waits && step != "7", "step {step}: {about:?}");
    }
}

#[test]
fn packets_pass_and_do_not_pass_as_the_routers_rules_meant() {
    let mut count = 0;
    for sample in samples() {
        let path = sample.join("expected/packets.txt");
        let Ok(table) = fs::read_to_string(&path) else { continue };
        let rules = load(&sample).rules;
        count += cloudstack::packets::check(
            &table,
            &json(&rules),
            &cloudstack::router::config(&rules),
            &path,
        );
    }
    assert!(count > 120, "{count} packets");
}
