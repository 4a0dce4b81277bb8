//! Every fault that rule files and configurations can have, with its place and its words.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use natwerk::config::{Config, Interface, Role};
use natwerk::rules;
use natwerk::rules::diagnostic::Diagnostic;

const GROUND: &str = r#"{
"version": 1,
"public_ips": [
  {"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
  {"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
  {"address": "203.0.113.12", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}],
"networks": [
  {"name": "web", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
   "domain": "vpc-1", "source_nat": ["203.0.113.10"]},
  {"name": "db", "interface": "eth0", "vlan": 200, "cidr": "10.1.2.0/24", "gateway": "10.1.2.1",
   "domain": "vpc-1"}],
"#;

/// One case of a table of faults.
struct Case<'a> {
    title: &'a str,
    /// The file, without marks.
    text: String,
    /// Line and column of each mark.
    places: Vec<(u32, u32)>,
    /// What is reported there.
    expected: Vec<&'a str>,
}

fn cases(table: &str) -> Vec<Case<'_>> {
    table.split("\n## ").skip(1).map(case).collect()
}

fn case(text: &str) -> Case<'_> {
    let (title, rest) = text.split_once('\n').expect("a title");
    let (body, faults) = rest.split_at(rest.find("=> ").expect("a fault"));
    let marked = match body.starts_with('"') || body.starts_with("▲\"") {
        true => format!("{GROUND}{body}}}\n"),
        false => body.to_owned(),
    };
    let (mut text, mut places, mut line, mut column) = (String::new(), Vec::new(), 1, 1);
    for character in marked.chars() {
        match character {
            '▲' => {
                places.push((line, column));
                continue;
            }
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        text.push(character);
    }
    let expected = faults.lines().map(|line| line.trim_start_matches("=> ")).collect();
    Case { title, text, places, expected }
}

/// Holds the reports of all cases against the table, and shows what is said instead.
fn hold(table: &str, report: impl Fn(&Case<'_>) -> Vec<Diagnostic>) -> usize {
    let cases = cases(table);
    let mut differences = String::new();
    for case in &cases {
        let found = report(case);
        let places: Vec<_> = found.iter().map(|f| (f.place.line, f.place.column)).collect();
        let said: Vec<String> = found
            .iter()
            .map(|fault| {
                let place = format!("{}: ", fault.place);
                fault.to_string().strip_prefix(&place).expect("the place in front").to_owned()
            })
            .collect();
        if places != case.places || said != case.expected {
            let _ = writeln!(differences, "## {}\n{places:?} at {:?}", case.title, case.places);
            said.iter().for_each(|said| differences.push_str(&format!("=> {said}\n")));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    cases.len()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file");
    path.to_str().expect("a name").to_owned()
}

#[test]
fn every_fault_of_rule_files_is_told_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let interface = |name: &str, role| Interface {
        name: name.to_owned(),
        role,
        checksum: natwerk::config::ChecksumMode::DetectPartial,
        kernel_vlans: Vec::new(),
    };
    let config = Config {
        interfaces: vec![interface("eth0", Role::Guest), interface("eth2", Role::Public)],
        ..Config::default()
    };
    let count = hold(include_str!("rules/faults.txt"), |case| {
        let name = if case.title.starts_with("toml") { "rules.toml" } else { "rules.json" };
        let file = write(folder.path(), name, &case.text);
        let config = case.title.ends_with("config").then_some(&config);
        let mut found = match rules::load(std::slice::from_ref(&file), config) {
            Ok(loaded) => loaded.warnings,
            Err(faults) => faults,
        };
        // Messages name other places too: by the name of the file, not by where the test put it.
        for fault in &mut found {
            fault.what = fault.what.replace(&file, name);
        }
        found
    });
    assert!(count >= 60, "{count} cases");
}

#[test]
fn every_fault_of_configurations_is_told_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    hold(include_str!("rules/config_faults.txt"), |case| {
        let file = write(folder.path(), "natwerk.toml", &case.text);
        let mut found = Config::load(Path::new(&file)).err().unwrap_or_default();
        for fault in &mut found {
            fault.what = fault.what.replace(&file, "natwerk.toml");
        }
        found
    });
}
