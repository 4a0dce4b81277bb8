//! The fuzz body of rule files.

use crate::rules::{load_text, to_json, to_toml};

/// Reads any bytes as a rule file, JSON and TOML: every fault has a place inside the text and
/// words, and rules that are accepted survive being written and read again in both formats.
///
/// # Panics
/// When that does not hold.
pub fn rule_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for name in ["fuzz.json", "fuzz.toml"] {
        let loaded = match load_text(name, &text, None) {
            Ok(loaded) => loaded,
            Err(faults) => {
                assert!(!faults.is_empty(), "refused without a word");
                for fault in faults {
                    let line = usize::try_from(fault.place.line).expect("64 bits");
                    let lines = text.split('\n').count();
                    assert!((1..=lines).contains(&line), "{fault}");
                    assert!(fault.place.column >= 1, "{fault}");
                    assert!(!fault.what.is_empty() && !fault.hint.is_empty(), "{fault}");
                    assert!(!fault.to_string().contains('\n'), "{fault}");
                }
                continue;
            }
        };
        let json = to_json(&loaded.rules).expect("rules that were read can be written");
        let toml = to_toml(&loaded.rules).expect("rules that were read can be written");
        let from_json = load_text("again.json", &json, None).expect("what was written is good");
        let from_toml = load_text("again.toml", &toml, None).expect("what was written is good");
        for again in [from_json, from_toml] {
            let diff = crate::rules::diff(&loaded.rules, &again.rules);
            assert!(diff.is_empty(), "{diff:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = include_str!("../../tests/rules/example.json");

    /// Pieces that rule files are made of.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just("\""),
            Just("\"version\": 1"),
            Just("version = 1\n"),
            Just("[[networks]]\n"),
            Just("="),
            Just("\"networks\""),
            Just("\"cidr\": \"10.0.0.0/8\""),
            Just("null"),
            Just("true"),
            Just("0x1f"),
            Just("-1"),
            Just("1e400"),
            Just("\\u0000"),
            Just("//"),
            Just("/*"),
            Just("#"),
            Just("\n"),
            Just("'"),
            Just("\\"),
            Just("é"),
            Just("\u{1f600}"),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..400)) {
            rule_file(&data);
        }

        #[test]
        fn any_pieces_are_read_or_refused(text in pieces()) {
            rule_file(text.as_bytes());
        }

        #[test]
        fn mutilated_rules_are_read_or_refused(
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12), 0..4),
            bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            toml: bool,
        ) {
            let mut data = if toml {
                let rules = load_text("f.json", EXAMPLE, None).expect("good").rules;
                to_toml(&rules).expect("TOML").into_bytes()
            } else {
                EXAMPLE.as_bytes().to_vec()
            };
            for (at, length) in cuts {
                let start = at.index(data.len());
                data.drain(start..(start + length).min(data.len()));
            }
            for (at, byte) in bytes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            rule_file(&data);
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        for text in ["[", "{\"a\":", "a = [", "a.", "[a."] {
            rule_file(text.repeat(100_000).as_bytes());
        }
    }
}
