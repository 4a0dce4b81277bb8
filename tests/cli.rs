//! The program from outside: subcommands, exit codes, sentences.

use assert_cmd::Command;
use serde_json::Value;

/// Every subcommand there must be.
const SUBCOMMANDS: [&str; 18] = [
    "run",
    "check",
    "explain",
    "replay",
    "bench",
    "reload",
    "show",
    "sessions",
    "trace",
    "capture",
    "top",
    "doctor",
    "schema",
    "completions",
    "convert",
    "generate",
    "cloudstack",
    "zstack-agent",
];

const RULES: &str = r#"{"version": 1,
  "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                  "gateway": "203.0.113.1"}],
  "networks": [{"name": "web", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24",
                "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"}]}"#;

struct Done {
    exit: i32,
    out: String,
    errors: String,
}

fn natwerk(arguments: &[&str]) -> Done {
    let output = Command::new(env!("CARGO_BIN_EXE_natwerk")).args(arguments).output().unwrap();
    Done {
        exit: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

fn rules() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.json");
    std::fs::write(&path, RULES).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn every_subcommand_is_there() {
    let help = natwerk(&["--help"]);
    assert_eq!(help.exit, 0);
    for subcommand in &SUBCOMMANDS {
        let listed =
            help.out.lines().any(|line| line.split_whitespace().next() == Some(subcommand));
        assert!(listed, "{subcommand} is not in\n{}", help.out);
        assert_eq!(natwerk(&[subcommand, "--help"]).exit, 0, "{subcommand}");
    }
    let shown = natwerk(&["show", "--help"]).out;
    for what in [
        "sessions",
        "mappings",
        "rules",
        "pools",
        "networks",
        "neighbors",
        "workers",
        "drops",
        "stats",
        "config",
        "policy",
    ] {
        let listed = shown.lines().any(|line| line.split_whitespace().next() == Some(what));
        assert!(listed, "{what}");
    }
}

#[test]
fn bad_arguments_exit_with_2() {
    for arguments in [
        &["sing"][..],
        &["show"],
        &["show", "everything"],
        &["show", "sessions", "--guest", "10.1.1"],
        &["show", "sessions", "--protocol", "tpc"],
        &["sessions", "kill"],
        &["bench", "--sessions", "0"],
        &["bench", "--size", "63"],
        &["bench", "--profile", "csit-h1"],
        &["bench", "--profile", "csit-h1024", "--sessions", "100"],
        &["bench", "--compare", "/nonexistent.json"],
        &["explain", "--in", "eth0"],
        &["capture", "--write", "x.pcap"],
        &["top", "--interval", "0"],
    ] {
        let done = natwerk(arguments);
        assert_eq!(done.exit, 2, "{arguments:?}: {}", done.errors);
        assert!(!done.errors.is_empty() && done.out.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_engine_that_does_not_run_is_one_sentence_and_exit_1() {
    for arguments in [
        &["show", "sessions"][..],
        &["show", "stats", "--json"],
        &["cloudstack", "iptables-save"],
        &["cloudstack", "netusage", "-g", "-l", "203.0.113.10"],
        &["reload"],
        &["sessions", "flush"],
        &["trace"],
        &["top"],
    ] {
        let socket = ["--socket", "/nonexistent/control.sock"];
        let done = natwerk(&[arguments, &socket[..]].concat());
        assert_eq!((done.exit, done.errors.lines().count()), (1, 1), "{arguments:?}");
        assert!(done.errors.contains("/nonexistent/control.sock"), "{}", done.errors);
        assert!(done.out.is_empty());
    }
}

#[test]
fn explain_tells_the_verdict_and_what_leaves() {
    let (_folder, rules) = rules();
    let packet = "tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]";
    let done = natwerk(&["explain", "--rules", &rules, "--in", "eth0.100", packet]);
    assert_eq!(done.exit, 0, "{}", done.errors);
    assert!(done.out.contains("verdict  forward\n"), "{}", done.out);
    assert!(done.out.contains("eth2: tcp 203.0.113.10:40000 > 198.51.100.9:443"), "{}", done.out);

    let done = natwerk(&["explain", "--json", "--rules", &rules, "--in", "eth2", packet]);
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(answer["verdict"], "drop");
    assert!(answer["reason"].is_string() && answer["meaning"].is_string());

    for (interface, packet) in [("eth9", packet), ("eth0.5000", packet), ("eth2", "tcp nonsense")] {
        let done = natwerk(&["explain", "--rules", &rules, "--in", interface, packet]);
        assert_eq!((done.exit, done.errors.lines().count()), (2, 1), "{}", done.errors);
    }
    let done = natwerk(&["explain", "--rules", "/nonexistent", "--in", "eth2", packet]);
    assert_eq!(done.exit, 2);
}

#[test]
fn replay_tells_bad_input_from_trouble() {
    let (folder, _) = rules();
    let config = folder.path().join("natwerk.toml");
    let interfaces = "[[interface]]\nname = \"eth2\"\nrole = \"public\"\n\
                      [[interface]]\nname = \"eth0\"\nrole = \"guest\"\n";
    std::fs::write(&config, format!("rules = [\"rules.json\"]\n{interfaces}")).unwrap();
    let config = config.to_str().unwrap();
    let replay = |config: &str, input: &str| {
        natwerk(&["replay", "--config", config, "--in", input, "--out", "eth2=/dev/null"]).exit
    };
    assert_eq!(replay(config, "eth0=/nonexistent.pcap"), 1);
    assert_eq!(replay(config, "eth9=/nonexistent.pcap"), 2);
    assert_eq!(replay(config, "eth0"), 2);
    assert_eq!(replay("/nonexistent.toml", "eth0=/nonexistent.pcap"), 2);
    assert_eq!(replay(config, &format!("eth0={config}")), 1);
}

#[test]
fn bench_measures_what_it_must() {
    let done = natwerk(&["bench", "--sessions", "100", "--seconds", "0.01", "--json"]);
    assert_eq!(done.exit, 0, "{}", done.errors);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    for field in [
        "ns_per_packet",
        "mpps",
        "new_sessions_per_second",
        "bytes_per_session",
        "floor_ns_per_packet",
    ] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field} in {report}");
    }
}

#[test]
fn bench_compares_itself_with_an_earlier_run() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = folder.path().join("earlier.json");
    let run = |arguments: &[&str]| natwerk(&[&["bench", "--seconds", "0.01"], arguments].concat());
    let first = run(&["--sessions", "100", "--json"]);
    std::fs::write(&earlier, &first.out).unwrap();
    let compare = ["--sessions", "200", "--compare", earlier.to_str().unwrap()];
    let words = run(&compare);
    assert_eq!(words.exit, 0, "{}", words.errors);
    assert!(words.out.contains("not the same measurement: sessions 100 then, 200 now"));
    assert!(words.out.contains("The memory's floor is"), "{}", words.out);
    let report: Value =
        serde_json::from_str(&run(&[&compare[..], &["--json"]].concat()).out).unwrap();
    let first: Value = serde_json::from_str(&first.out).unwrap();
    let compared = report["compared"].as_array().unwrap();
    let packet = compared.iter().find(|it| it["figure"] == "ns_per_packet").unwrap();
    assert_eq!(packet["before"], first["ns_per_packet"]);
    assert_eq!(packet["now"], report["ns_per_packet"]);
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let done = natwerk(&["completions", shell]);
        assert_eq!(done.exit, 0);
        assert!(done.out.contains("zstack-agent"), "{shell}");
    }
}
