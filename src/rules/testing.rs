//! What the tests of this module share.

use super::native::{self, Draft};
use super::reader::Format;
use super::set::RuleSet;
use super::source::Source;

/// The rule file that the documentation shows.
pub fn example() -> &'static str {
    include_str!("../../tests/rules/example.json")
}

/// The rules in a JSON text, which must be well formed.
pub fn parse_json(file: &str, text: &str) -> RuleSet {
    parse(file, text, Format::Json)
}

/// The rules in a text, which must be well formed.
pub fn parse(file: &str, text: &str, format: Format) -> RuleSet {
    let mut draft = Draft::default();
    let faults = native::read(&Source::new(file, text.to_owned()), format, 0, &mut draft);
    assert_eq!(faults, [], "{text}");
    draft.set
}
