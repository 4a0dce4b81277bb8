//! How long reading and checking rules takes: part of a reload's 200 ms.

use std::fmt::Write as _;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// A rule file with `count` rules: a fifth each of egress rules, firewall rules, port forwards,
/// load balancers and ACL entries, over 64 networks.
fn rule_file(count: usize) -> String {
    let fifth = count / 5;
    let mut addresses = Vec::new();
    let mut networks = Vec::new();
    for index in 0..64 {
        addresses.push(format!(
            r#"{{"address": "203.0.113.{}", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}}"#,
            index + 10
        ));
        networks.push(format!(
            r#"{{"name": "net-{index}", "interface": "eth0", "vlan": {}, "cidr": "10.{index}.0.0/16", "gateway": "10.{index}.0.1", "domain": "vpc-{}", "source_nat": ["203.0.113.{}"]}}"#,
            index + 1, index / 8, index + 10
        ));
    }
    let list =
        |rule: &dyn Fn(usize) -> String| (0..fifth).map(rule).collect::<Vec<_>>().join(",\n");
    let guest = |index: usize| {
        format!("10.{}.{}.{}", index % 64, index / 64 / 200 % 200, index / 64 % 200 + 5)
    };
    let public = |index: usize| format!("203.0.113.{}", index % 64 + 10);
    let egress = list(&|i| {
        format!(
            r#"{{"id": "e{i}", "network": "net-{}", "action": "deny", "protocol": "tcp", "ports": "{}", "destinations": ["198.51.{}.0/24"]}}"#,
            i % 64,
            i % 60000 + 1,
            i % 256
        )
    });
    let firewall = list(&|i| {
        format!(
            r#"{{"id": "f{i}", "public_ip": "{}", "protocol": "tcp", "ports": "{}", "sources": ["198.51.100.0/24", "192.0.2.0/24"]}}"#,
            public(i),
            i / 64 + 1
        )
    });
    let forwards = list(&|i| {
        format!(
            r#"{{"id": "p{i}", "public_ip": "{}", "protocol": "tcp", "public_ports": "{}", "network": "net-{}", "guest_ip": "{}", "guest_ports": "22"}}"#,
            public(i),
            i / 64 + 1,
            i % 64,
            guest(i)
        )
    });
    let balancers = list(&|i| {
        format!(
            r#"{{"id": "l{i}", "public_ip": "{}", "protocol": "udp", "public_port": {}, "network": "net-{}", "algorithm": "source", "members": [{{"guest_ip": "{}", "guest_port": 8443, "weight": 1}}]}}"#,
            public(i),
            i / 64 + 1,
            i % 64,
            guest(i)
        )
    });
    let entries = list(&|i| {
        format!(
            r#"{{"number": {i}, "action": "allow", "protocol": "tcp", "ports": "{}", "cidr": "10.{}.0.0/24"}}"#,
            i % 60000 + 1,
            i / 60000
        )
    });
    let mut text = String::from("{\"version\": 1");
    for (name, list) in [
        ("public_ips", addresses.join(",\n")),
        ("networks", networks.join(",\n")),
        ("egress_rules", egress),
        ("firewall_rules", firewall),
        ("port_forwards", forwards),
        ("load_balancers", balancers),
    ] {
        let _ = write!(text, ",\n\"{name}\": [\n{list}\n]");
    }
    let _ = write!(
        text,
        ",\n\"network_acls\": [{{\"network\": \"net-0\", \"direction\": \"egress\", \"entries\": [\n{entries}\n]}}]}}\n"
    );
    text
}

fn load(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for count in [100, 1_000, 10_000, 100_000] {
        let path = folder.path().join(format!("{count}.json"));
        std::fs::write(&path, rule_file(count)).expect("a rule file");
        let paths = [path.to_str().expect("a name").to_owned()];
        let loaded =
            natwerk::rules::load(&paths, None).unwrap_or_else(|faults| panic!("{}", faults[0]));
        let toml = folder.path().join(format!("{count}.toml"));
        std::fs::write(&toml, natwerk::rules::to_toml(&loaded.rules).expect("TOML"))
            .expect("a file");
        let toml = [toml.to_str().expect("a name").to_owned()];
        group.bench_function(BenchmarkId::new("json", count), |bencher| {
            bencher.iter(|| natwerk::rules::load(&paths, None).expect("rules"));
        });
        group.bench_function(BenchmarkId::new("toml", count), |bencher| {
            bencher.iter(|| natwerk::rules::load(&toml, None).expect("rules"));
        });
        group.bench_function(BenchmarkId::new("diff", count), |bencher| {
            bencher.iter(|| natwerk::rules::diff(&loaded.rules, &loaded.rules));
        });
    }
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
