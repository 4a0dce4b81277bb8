//! Rules written down as native rule files: what is read back is what was written.

use serde::Serialize;

use super::set::RuleSet;

/// A rule file.
#[derive(Serialize)]
struct RuleFile<'a> {
    version: u8,
    #[serde(flatten)]
    rules: &'a RuleSet,
}

/// Why rules cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The JSON writer's reason.
    #[error("cannot write the rules as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The TOML writer's reason.
    #[error("cannot write the rules as TOML: {0}")]
    Toml(#[from] toml::ser::Error),
}

/// `rules` as a native JSON file.
///
/// # Errors
/// Never for rules that were read; the writer's own failures otherwise.
pub fn to_json(rules: &RuleSet) -> Result<String, WriteError> {
    let mut text = serde_json::to_string_pretty(&RuleFile { version: 1, rules })?;
    text.push('\n');
    Ok(text)
}

/// `rules` as the value of a native JSON file.
#[must_use]
pub fn to_value(rules: &RuleSet) -> serde_json::Value {
    // Every key is text and every number finite, so there is nothing that JSON cannot say.
    serde_json::to_value(RuleFile { version: 1, rules }).unwrap_or_default()
}

/// `rules` as a native TOML file.
///
/// # Errors
/// Never for rules that were read; the writer's own failures otherwise.
pub fn to_toml(rules: &RuleSet) -> Result<String, WriteError> {
    Ok(toml::to_string(&RuleFile { version: 1, rules })?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::reader::Format;
    use crate::rules::testing::{any_rules, example, parse, parse_json, without_places};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn what_is_written_is_read_back(rules in any_rules()) {
            let json = to_json(&rules).unwrap();
            prop_assert_eq!(&without_places(&parse_json("f", &json)), &rules, "{}", json);
            let toml = to_toml(&rules).unwrap();
            prop_assert_eq!(&without_places(&parse("f", &toml, Format::Toml)), &rules, "{}", toml);
        }
    }

    #[test]
    fn the_example_survives_both_formats() {
        let rules = parse_json("f", example());
        let toml = to_toml(&rules).unwrap();
        let again = parse("f", &toml, Format::Toml);
        assert_eq!(without_places(&again), without_places(&rules));
        let json = to_json(&again).unwrap();
        assert_eq!(without_places(&parse_json("f", &json)), without_places(&rules));
    }

    #[test]
    fn what_is_as_by_default_is_not_written() {
        let text = r#"{"version": 1, "networks": [
            {"name": "a", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
             "nat": {"hairpinning": true}, "limits": {}, "anti_spoofing": true}]}"#;
        let json = to_json(&parse_json("f", text)).unwrap();
        for field in ["nat", "limits", "anti_spoofing", "vlan", "egress_reject", "routes"] {
            assert!(!json.contains(&format!("\"{field}\"")), "{json}");
        }
    }
}
