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

/// `rules` as a native TOML file.
///
/// # Errors
/// Never for rules that were read; the writer's own failures otherwise.
pub fn to_toml(rules: &RuleSet) -> Result<String, WriteError> {
    Ok(toml::to_string(&RuleFile { version: 1, rules })?)
}
