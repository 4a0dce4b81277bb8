//! The fuzz body of ZStack's recorded requests.

use crate::rules::source::Source;
use crate::rules::sources::zstack::read_texts;
use crate::rules::sources::zstack::record::Record;
use crate::rules::sources::{Nics, Pending, Translation};
use crate::rules::{Loaded, load_text, load_translation, to_json};

/// Carries out any bytes as recorded requests on a router with two public and two private NICs: every fault has a place
/// inside the text and words, what is left are rules that a native file can say, and what is kept of the state is kept of
/// what it leads to, which are the same rules, and the same ones that wait.
///
/// # Panics
/// When that does not hold.
pub fn zstack(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let lines = text.split('\n').count();
    let (state, translation) = carry_out(text);
    for fault in &translation.faults {
        let line = usize::try_from(fault.place.line).expect("64 bits");
        assert!((1..=lines.max(BOOT.lines().count())).contains(&line), "{fault}");
        assert!(fault.place.column >= 1 && !fault.what.is_empty(), "{fault}");
        assert!(!fault.hint.is_empty() && !fault.to_string().contains('\n'), "{fault}");
    }
    let (rules, pending) = said(translation);
    if let Err(faults) = load_text("again.json", &rules, None) {
        panic!("what was accepted is refused: {faults:?}");
    }
    let recorded = Record::of(&state);
    let (state, again) = carry_out(recorded.to_string());
    assert_eq!(Record::of(&state).to_string(), recorded.to_string(), "{:?}", again.faults);
    assert_eq!(said(again), (rules, pending), "recorded as\n{recorded}");
}

fn carry_out(requests: String) -> (crate::rules::sources::zstack::state::State, Translation) {
    let source = |name: &str, text: String| Some(Source::new(name, text));
    let boot = source("bootstrap-info.json", BOOT.to_owned());
    read_texts(boot, source("requests.jsonl", requests), Nics::default())
}

/// The rules, and what waits for what.
fn said(translation: Translation) -> (String, Vec<String>) {
    let loaded = load_translation(translation).expect("faults cost their entries");
    let Loaded { rules, pending, .. } = loaded;
    let words = |it: &Pending| format!("{} waits for {}", it.what, it.waits_for);
    (to_json(&rules).expect("rules can be written"), pending.iter().map(words).collect())
}

/// The boot information of the router.
const BOOT: &str =
    include_str!("../../tests/samples/zstack/vyos-02-port-forwarding/bootstrap-info.json");

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// The lines of all samples.
    fn lines() -> Vec<String> {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/zstack");
        let mut lines = Vec::new();
        for sample in fs::read_dir(samples).expect("samples") {
            let path = sample.expect("a folder").path().join("requests.jsonl");
            lines.extend(fs::read_to_string(path).expect("requests").lines().map(str::to_owned));
        }
        lines.sort();
        lines
    }

    #[test]
    fn the_kept_corpus_is_carried_out() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/zstack");
        let mut count = 0;
        for entry in fs::read_dir(corpus).expect("a corpus") {
            zstack(&fs::read(entry.expect("a file").path()).expect("bytes"));
            count += 1;
        }
        assert!(count >= 14, "{count} inputs");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_carried_out(data in prop::collection::vec(any::<u8>(), 0..400)) {
            zstack(&data);
        }

        #[test]
        fn requests_in_any_order_are_carried_out(
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..25),
        ) {
            let lines = lines();
            let chosen: Vec<_> = order.iter().map(|at| at.get(&lines).as_str()).collect();
            zstack(chosen.join("\n").as_bytes());
        }

        #[test]
        fn mutilated_requests_are_carried_out(
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12), 0..4),
            bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let lines = lines();
            let chosen: Vec<_> = order.iter().map(|at| at.get(&lines).as_str()).collect();
            let mut data = chosen.join("\n").into_bytes();
            for (at, length) in cuts {
                prop_assume!(!data.is_empty());
                let start = at.index(data.len());
                data.drain(start..(start + length).min(data.len()));
            }
            for (at, byte) in bytes {
                prop_assume!(!data.is_empty());
                let at = at.index(data.len());
                data[at] = byte;
            }
            zstack(&data);
        }
    }
}
