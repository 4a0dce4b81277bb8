//! `natwerk check`, `schema` and `convert` as people call them.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

const EXAMPLE: &str = include_str!("rules/example.json");

const CONFIG: &str = r#"rules = ["rules.json"]
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
"#;

/// What a call gave: exit code, standard output, standard error.
fn natwerk(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("natwerk")
        .expect("the program")
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("a process");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

#[test]
fn good_rules_exit_with_zero_and_their_warnings_are_printed() {
    let folder = folder(&[("rules.json", EXAMPLE)]);
    let (exit, out, err) = natwerk(folder.path(), &["check", "rules.json"]);
    assert_eq!((exit, &*err), (0, ""));
    assert!(out.starts_with("rules.json:13:48: warning: firewall rule \"f1\" has no effect"));
    assert_eq!(out.lines().count(), 1);
}

#[test]
fn every_fault_is_a_line_and_the_exit_code_is_two() {
    let text = EXAMPLE.replace("10.1.1.5", "10.2.1.5").replace("\"via\"", "\"vai\"");
    let folder = folder(&[("rules.json", &text)]);
    let (exit, out, err) = natwerk(folder.path(), &["check", "rules.json"]);
    assert_eq!((exit, &*err), (2, ""));
    let errors: Vec<_> = out.lines().filter(|line| line.contains(": error: ")).collect();
    assert_eq!(errors.len(), 4, "{out}");
    assert_eq!(
        errors[0],
        "rules.json:16:52: error: guest 10.2.1.5 is not in 10.1.1.0/24 of network \"web\" — \
         name a guest's address in 10.1.1.0/24, or another network"
    );
}

#[test]
fn faults_as_json_are_an_array() {
    let folder = folder(&[("rules.json", "{\"version\": 1,\n \"network\": []}")]);
    let (exit, out, _) = natwerk(folder.path(), &["check", "--json", "rules.json"]);
    assert_eq!(exit, 2);
    let faults: Value = serde_json::from_str(&out).expect("JSON");
    let expected = serde_json::json!([{
        "severity": "error", "file": "rules.json", "line": 2, "column": 2,
        "what": "the rule file has no field \"network\"", "hint": "did you mean \"networks\"?",
    }]);
    assert_eq!(faults, expected);
    let good = natwerk(folder.path(), &["check", "--json", "."]);
    assert_eq!(good.0, 2, "the folder has the same faults");
}

#[test]
fn a_configuration_is_checked_with_the_rules_it_names() {
    let rules = EXAMPLE.replace("\"eth0\"", "\"eth1\"");
    let folder = folder(&[("rules.json", &rules), ("natwerk.toml", CONFIG)]);
    for arguments in [&["check", "natwerk.toml"][..], &["check", "--config", "natwerk.toml"]] {
        let (exit, out, _) = natwerk(folder.path(), arguments);
        assert_eq!(exit, 2, "{out}");
        assert!(
            out.contains("rules.json:9:34: error: interface eth1 is not in the configuration"),
            "{out}"
        );
    }
    let (exit, out, _) = natwerk(folder.path(), &["check", "rules.json"]);
    assert_eq!(exit, 0, "without a configuration nothing is known of interfaces: {out}");
    let both = ["check", "--config", "natwerk.toml", "rules.json"];
    assert_eq!(natwerk(folder.path(), &both).0, 2);
}

#[test]
fn faults_of_the_configuration_and_of_rules_are_told_in_one_run() {
    let config = CONFIG.replace("public", "outside");
    let folder = folder(&[("rules.json", "{}"), ("natwerk.toml", &config)]);
    let (exit, out, _) = natwerk(folder.path(), &["check", "natwerk.toml", "rules.json"]);
    assert_eq!(exit, 2);
    assert!(out.contains("natwerk.toml:4:8: error: role: \"outside\""), "{out}");
    assert!(out.contains("rules.json:1:1: error: the rule file lacks the field"), "{out}");
}

#[test]
fn files_that_are_not_there_are_a_fault_like_others() {
    let folder = folder(&[]);
    for arguments in [&["check", "gone.json"][..], &["check", "--config", "gone.toml"]] {
        let (exit, out, err) = natwerk(folder.path(), arguments);
        assert_eq!((exit, &*err), (2, ""));
        assert!(out.contains(":1:1: error: cannot read it: No such file"), "{out}");
    }
}

#[test]
fn schemas_are_json() {
    let folder = folder(&[]);
    for arguments in [&["schema"][..], &["schema", "rules"], &["schema", "config"]] {
        let (exit, out, _) = natwerk(folder.path(), arguments);
        assert_eq!(exit, 0);
        let schema: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
}

#[test]
fn converted_there_and_back_rules_are_the_same() {
    let folder = folder(&[("rules.json", EXAMPLE)]);
    let (exit, toml, _) = natwerk(folder.path(), &["convert", "--to", "toml", "rules.json"]);
    assert_eq!(exit, 0);
    fs::write(folder.path().join("again.toml"), &toml).expect("a file");
    let (_, one, _) = natwerk(folder.path(), &["convert", "rules.json"]);
    let (_, other, _) = natwerk(folder.path(), &["convert", "--to", "json", "again.toml"]);
    assert_eq!(one, other);
    assert!(one.contains("\"version\": 1"));
}

/// Folders as they are recorded: a command line, NICs, command files and their order.
#[test]
fn every_recorded_folder_of_a_control_plane_is_converted_whatever_its_faults() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for (plane, faulty) in [("cloudstack", "14-malformed"), ("zstack", "own-13-malformed")] {
        let folders = fs::read_dir(samples.join(plane)).expect("samples");
        let folders = folders.map(|entry| entry.expect("a sample").path());
        for sample in folders.filter(|path| path.is_dir()) {
            let path = sample.to_str().expect("a name");
            for to in ["json", "toml"] {
                let arguments = ["convert", "--from", plane, path, "--to", to];
                let (exit, out, err) = natwerk(&samples, &arguments);
                assert_eq!(exit, 0, "{path}: {err}");
                let again = folder(&[(&format!("rules.{to}"), &out)]);
                let (exit, _, said) = natwerk(again.path(), &["check", &format!("rules.{to}")]);
                assert_eq!(exit, 0, "{path}: {said}");
                if sample.ends_with(faulty) {
                    let places = err.lines().filter(|line| line.contains(": error: ")).count();
                    assert!(places > 3 && err.contains(path), "{err}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_converted_is_refused_with_a_sentence() {
    let folder = folder(&[("rules.json", "{}")]);
    let (exit, out, err) = natwerk(folder.path(), &["convert", "rules.json"]);
    assert_eq!((exit, &*out), (2, ""));
    assert!(err.starts_with("rules.json:1:1: error: "), "{err}");
    let (exit, out, err) = natwerk(folder.path(), &["convert", "--from", "cloudstack", "gone"]);
    assert_eq!((exit, &*out), (2, ""));
    assert!(err.starts_with("gone:1:1: error: "), "{err}");
    // Where nothing at all can be read nothing is printed; one line that can makes do.
    for (plane, file, request) in [
        ("cloudstack", "ips.json", ""),
        ("zstack", "requests.jsonl", "{\"path\": \"/createvip\", \"body\": \"{}\"}\n"),
    ] {
        let folder = self::folder(&[(file, "{\"broken\": ")]);
        let arguments = ["convert", "--from", plane, "."];
        let (exit, out, err) = natwerk(folder.path(), &arguments);
        assert_eq!((exit, &*out), (2, ""), "{err}");
        assert!(err.contains(&format!("{file}:1:")), "{err}");
        if !request.is_empty() {
            let folder = self::folder(&[(file, &format!("broken\n{request}"))]);
            let (exit, out, err) = natwerk(folder.path(), &arguments);
            assert_eq!((exit, out.contains("\"version\": 1")), (0, true), "{err}");
            assert!(err.contains(&format!("{file}:1:1: error: ")), "{err}");
        }
    }
}
