//! Where CloudStack's files are looked for, aggregates with faults, and routers with several public sides.

mod cloudstack {
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod packets;
    #[allow(dead_code, reason = "other tests use more of it")]
    pub mod router;
}

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use cloudstack::packets::check;
use cloudstack::router::{
    ISOLATED, Router, VPC, acl, addresses, config, firewall, forward, forward_of, static_nat, tier,
};
use natwerk::config::Config;
use natwerk::rules::sources::{ControlPlane, Nics};
use natwerk::rules::{self, Loaded};

const SAMPLES: &str = "tests/samples/cloudstack";
const OPEN: &str = r#""0.0.0.0/0""#;

fn load(root: &Path, config: Option<&Config>) -> Loaded {
    let path = format!("cloudstack:{}", root.display());
    rules::load_with_nics(&[path], config, &Nics::default()).expect("something usable")
}

fn packets(loaded: &Loaded, table: &str) {
    let json = rules::to_json(&loaded.rules).expect("JSON");
    check(table, &json, &config(&loaded.rules), Path::new("the test"));
}

/// Writes files into `folder`, each a second younger than the one before.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (age, (name, text)) in (0..).zip(files) {
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        let file = File::options().write(true).open(&path).expect("open");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age)).expect("set");
    }
}

#[test]
fn without_a_recorded_order_files_count_by_when_they_were_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let both = addresses(&[("203.0.113.10", 2, true), ("203.0.113.11", 2, false)]);
    let (one, other) = (
        forward("tcp", "22:22", "10.1.1.5", "22:22", false),
        forward("tcp", "22:22", "10.1.1.6", "22:22", false),
    );
    let files = [("z.json.1", &*both), ("y.json.2", &*one), ("a.json.3", &*other)];
    write(folder.path(), &files);
    fs::write(folder.path().join("cmdline"), ISOLATED).expect("written");
    // A folder of command files is as good as one that has them in `cache`.
    let guest = |loaded: &Loaded| loaded.rules.port_forwards[0].guest_ip.expect("one").octets()[3];
    assert_eq!(guest(&load(folder.path(), None)), 6);
    write(folder.path(), &[files[0], files[2], files[1]]);
    assert_eq!(guest(&load(folder.path(), None)), 5);
}

#[test]
fn command_files_may_land_elsewhere_and_come_on_top_of_the_bags() {
    let bags = Path::new(SAMPLES).join("01-isolated-basic/observed/databags");
    let landing = tempfile::tempdir().expect("a folder");
    let mut choice = Config::default();
    choice.sources.cloudstack.command_files = Some(landing.path().to_owned());
    assert_eq!(
        load(&bags, Some(&choice)).rules.port_forwards.len(),
        0,
        "no interface is configured"
    );
    let loaded = load(&bags, None);
    choice.interfaces = config(&loaded.rules).interfaces;
    let before = load(&bags, Some(&choice)).rules.port_forwards.len();
    let revoke = forward("tcp", "22:22", "10.1.1.50", "22:22", true);
    write(landing.path(), &[("forwarding_rules.json.1", &revoke)]);
    assert_eq!(load(&bags, Some(&choice)).rules.port_forwards.len(), before - 1);
    let looked_at = ControlPlane::CloudStack.looks_at(&bags, &choice.sources);
    assert!(looked_at.contains(&landing.path().to_owned()), "{looked_at:?}");
}

#[test]
fn the_same_file_sent_again_after_it_was_merged_changes_nothing() {
    let sample = Path::new(SAMPLES).join("13-sequences");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(sample.join("observed/databags")).expect("bags") {
        let entry = entry.expect("a bag");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    let before = rules::to_json(&load(folder.path(), None).rules).expect("JSON");
    let last = "ip_associations.json.12b96a1c-d4e1-54b9-a4fb-8af616ed2763";
    fs::copy(sample.join("cache").join(last), folder.path().join(last)).expect("copied");
    assert_eq!(rules::to_json(&load(folder.path(), None).rules).expect("JSON"), before);
}

#[test]
fn an_aggregate_with_an_open_section_loses_that_section_alone() {
    let sample = Path::new(SAMPLES).join("15-aggregate");
    let aggregate = |name: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["cmdline", "nics.txt", name] {
            fs::copy(sample.join(file), folder.path().join(file)).expect("copied");
        }
        let said = |loaded: Loaded| {
            let faults = loaded.warnings.iter().map(|fault| fault.what.clone());
            (faults.collect::<Vec<_>>(), loaded)
        };
        said(load(folder.path(), None))
    };
    let (said, good) = aggregate("VR-3c8b9f52-0d2e-4b17-8f66-1f4d0a4be9b1.cfg");
    assert_eq!(said, Vec::<String>::new());
    let (said, other) = aggregate("VR-bad-version.cfg");
    assert_eq!(said, ["version \"9\" of the file's form is not known"]);
    assert_eq!(rules::to_json(&other.rules).ok(), rules::to_json(&good.rules).ok());
    // Without the addresses, what is on them waits; the rest is in force.
    let (said, open) = aggregate("VR-bad-unclosed-file.cfg");
    assert!(said[0].contains("not closed"), "{said:?}");
    assert!(
        open.pending.iter().any(|it| it.what == "static NAT of 203.0.113.12"),
        "{:?}",
        open.pending
    );
    packets(
        &open,
        "eth0 tcp 10.1.1.70:5000 > 198.51.100.5:80 : to eth2 203.0.113.10:5000 > 198.51.100.5:80",
    );
}

#[test]
fn each_public_side_answers_by_itself_and_source_nat_has_one_address() {
    let second = addresses(&[("192.0.2.20", 3, true), ("192.0.2.21", 3, false)])
        .replace("203.0.113.1\"", "192.0.2.1\"");
    let router = Router::isolated()
        .send(&second)
        .send(&firewall(1, "192.0.2.20", "tcp", (22, 22), OPEN, false))
        .send(&firewall(2, "192.0.2.21", "tcp", (1, 65535), OPEN, false))
        .send(&forward_of("192.0.2.20", "tcp", "22:22", ("10.1.1.5", "22:22"), "", false))
        .send(&static_nat("192.0.2.21", "10.1.1.6", false));
    packets(
        &router.load(),
        "eth3 tcp 198.51.100.5:5000 > 192.0.2.20:22 : to eth0 198.51.100.5:5000 > 10.1.1.5:22
         eth0 tcp-ack 10.1.1.5:22 > 198.51.100.5:5000 : to eth3 192.0.2.20:22 > 198.51.100.5:5000
         eth3 tcp 198.51.100.5:5001 > 192.0.2.21:80 : to eth0 198.51.100.5:5001 > 10.1.1.6:80
         eth0 tcp 10.1.1.6:5002 > 198.51.100.5:80 : to eth3 192.0.2.21:5002 > 198.51.100.5:80
         eth0 tcp 10.1.1.5:5002 > 198.51.100.5:80 : to eth2 203.0.113.10:5002 > 198.51.100.5:80",
    );
}

#[test]
fn a_tier_without_an_acl_sends_and_gets_nothing() {
    let router = Router::vpc().send(&static_nat("203.0.113.21", "10.2.1.9", false));
    packets(
        &router.load(),
        "eth2 tcp 10.2.1.9:5000 > 198.51.100.5:80 : to eth1 203.0.113.21:5000 > 198.51.100.5:80
         eth1 tcp 198.51.100.5:5000 > 203.0.113.21:22 : drop acl_denied
         eth3 tcp 10.2.2.9:5000 > 10.2.1.9:80 : drop acl_denied",
    );
}

#[test]
fn a_tier_that_goes_takes_its_rules_along_until_it_comes_back() {
    let gone = tier("eth2", "10.2.1.1").replace("\"add\":true", "\"add\":false");
    let open = r#"{"type":"all","cidr":"0.0.0.0/0","allowed":true}"#;
    let router = Router::vpc()
        .send(&acl("eth2", open, open))
        .send(&static_nat("203.0.113.21", "10.2.1.9", false))
        .send(&gone);
    let waiting: Vec<_> = router.load().pending.iter().map(|it| it.waits_for.clone()).collect();
    assert_eq!(waiting, ["a network on eth2", "a network with 10.2.1.9"]);
    assert_eq!(router.send(&tier("eth2", "10.2.1.1")).load().pending, []);
    assert_eq!(Router::new(VPC).load().rules.networks, []);
}
