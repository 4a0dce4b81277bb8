//! Where each field of each rule was written, for messages that point at the very value.

use super::diagnostic::Place;
use super::fields::Section;
use super::source::Source;

/// The offsets of the fields of all rules of one section, in the order of the rules.
#[derive(Debug, Default)]
pub struct SectionSpots {
    /// The file of each rule.
    files: Vec<u32>,
    /// For each rule, the offset of each of the section's fields.
    offsets: Vec<u32>,
}

impl SectionSpots {
    /// Adds the offsets of the next rule's fields.
    pub fn push(&mut self, file: u32, offsets: impl Iterator<Item = u32>) {
        self.files.push(file);
        self.offsets.extend(offsets);
    }

    /// The place of the field `name` of the rule at `index`; none if it was never pushed.
    #[must_use]
    pub fn place(
        &self,
        sources: &[Source],
        section: &Section,
        index: usize,
        name: &str,
    ) -> Option<Place> {
        let file = usize::try_from(*self.files.get(index)?).ok()?;
        let field =
            index.checked_mul(section.fields.len())?.checked_add(section.position(name)?)?;
        Some(sources.get(file)?.place(*self.offsets.get(field)?))
    }
}
