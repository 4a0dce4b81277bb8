//! The fuzz body of CloudStack's files.

use crate::rules::sources::Translation;
use crate::rules::sources::cloudstack::translate_texts;
use crate::rules::{load_text, load_translation, to_json};

/// Takes any bytes as a file of CloudStack's: the first says whether as a command file, an aggregate or one of the bags, and of
/// which kind of router. Every fault has a place inside the text and words, and what is left are rules that a
/// native file can say.
///
/// # Panics
/// When that does not hold.
pub fn cloudstack(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let Some(translation) = translated(*choice, &text) else { return };
    let lines = text.split('\n').count();
    for fault in &translation.faults {
        let line = usize::try_from(fault.place.line).expect("64 bits");
        assert!((1..=lines).contains(&line), "{fault}");
        assert!(fault.place.column >= 1 && !fault.what.is_empty(), "{fault}");
        assert!(!fault.hint.is_empty() && !fault.to_string().contains('\n'), "{fault}");
    }
    let loaded = load_translation(translation).expect("faults cost their entries");
    let json = to_json(&loaded.rules).expect("rules can be written");
    if let Err(faults) = load_text("again.json", &json, None) {
        panic!("what was accepted is refused: {faults:?}\n{json}");
    }
}

fn translated(choice: u8, text: &str) -> Option<Translation> {
    let [isolated, vpc, routed] = ROUTERS;
    let (line, commands) = match choice >> 5 {
        0..=2 => isolated,
        3..=5 => vpc,
        _ => routed,
    };
    let mut commands = commands.to_vec();
    let mut bags = Vec::new();
    match usize::from(choice & 31).checked_sub(2).and_then(|bag| BAGS.get(bag)) {
        Some(bag) => bags.push((*bag, text)),
        None if choice & 1 == 0 => commands.push(("fuzz.json.1", text)),
        None => commands.push(("VR-fuzz.cfg", text)),
    }
    translate_texts(line, &bags, &commands).ok()
}

type Router = (&'static str, &'static [(&'static str, &'static str)]);

/// Routers before the file comes.
const ROUTERS: [Router; 3] = [
    (
        "name=r-1 type=router eth0ip=10.1.1.1 eth0mask=255.255.255.0 eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1",
        &[("ips", PUBLIC)],
    ),
    (
        "name=r-2 type=vpcrouter vpccidr=10.2.0.0/16 source_nat_ip=203.0.113.11",
        &[("ips", PUBLIC), ("tier", TIER)],
    ),
    (
        "name=r-3 type=router is_routed=true eth0ip=10.1.1.1 eth0mask=255.255.255.0 eth2ip=203.0.113.10 eth2mask=255.255.255.0",
        &[("ips", PUBLIC)],
    ),
];

const PUBLIC: &str = r#"{"ip_address":[{"public_ip":"203.0.113.11","source_nat":true,"add":true,"gateway":"203.0.113.1","netmask":"255.255.255.0","nic_dev_id":1,"nw_type":"Public"}],"type":"ips"}"#;
const TIER: &str = r#"{"add":true,"device":"eth2","router_guest_ip":"10.2.1.1","router_guest_netmask":"255.255.255.0","router_guest_gateway":"10.2.1.1","mtu":1500,"type":"guestnetwork"}"#;

const BAGS: [&str; 11] = [
    "cmdline",
    "firewallrules",
    "forwardingrules",
    "guestnetwork",
    "ips",
    "ipv6firewallrules",
    "loadbalancer",
    "networkacl",
    "remoteaccessvpn",
    "site2sitevpn",
    "staticroutes",
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    /// All command files, aggregates and bags of the samples, with the byte that says what they are.
    fn samples() -> Vec<Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/cloudstack");
        let mut files = Vec::new();
        collect(&root, &mut files);
        let seed = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            let bag = BAGS.iter().position(|bag| name == format!("{bag}.json"));
            let choice = match bag {
                Some(bag) => u8::try_from(bag).ok()? + 2,
                None if name.ends_with(".cfg") => 1,
                None if name.contains(".json.") => 0,
                None => return None,
            };
            Some([vec![choice], fs::read(path).ok()?].concat())
        };
        let seeds: Vec<Vec<u8>> = files.iter().filter_map(seed).collect();
        assert!(seeds.len() > 200, "{}", seeds.len());
        seeds
    }

    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("samples") {
            let path = entry.expect("a sample").path();
            if path.is_dir() {
                collect(&path, files);
            } else {
                files.push(path);
            }
        }
        files.sort();
    }

    #[test]
    fn every_file_of_the_samples_is_read_on_every_router() {
        for mut seed in samples() {
            for router in [0, 3 << 5, 6 << 5] {
                seed[0] = seed[0] & 31 | router;
                cloudstack(&seed);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_read_or_told(data in prop::collection::vec(any::<u8>(), 0..300)) {
            cloudstack(&data);
        }

        #[test]
        fn mutilated_samples_are_read_or_told(
            which: prop::sample::Index,
            router in 0_u8..8,
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20), 0..3),
            words in prop::collection::vec((any::<prop::sample::Index>(), word()), 0..4),
        ) {
            let seeds = samples();
            let mut data = which.get(&seeds).clone();
            data[0] = data[0] & 31 | router << 5;
            // The first byte stays; behind the last there is room for a word, too.
            for (at, length) in cuts {
                let start = 1 + at.index(data.len());
                let start = start.min(data.len());
                data.drain(start..(start + length).min(data.len()));
            }
            for (at, word) in words {
                let at = (1 + at.index(data.len())).min(data.len());
                data.splice(at..at, word.bytes());
            }
            cloudstack(&data);
        }
    }

    fn word() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "null",
            "-1",
            "0",
            "65536",
            "\"\"",
            "[]",
            "{}",
            "true",
            ",",
            "\"",
            "0.0.0.0/0",
            "::/0",
            "255",
            ":",
            "</file>\n",
            "<file>\n",
            "\n",
            "\\u0000",
            "é",
        ])
    }
}
