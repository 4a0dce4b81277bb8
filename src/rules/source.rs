//! A file that people wrote, and where its bytes lie for people.

use std::sync::Arc;

use super::diagnostic::Place;

/// A file's text with the index that turns byte offsets into lines and columns.
///
/// A place costs a binary search and at most [`MARK_EVERY`] bytes of counting, also in a file
/// that is one line of megabytes.
#[derive(Debug)]
pub struct Source {
    file: Arc<str>,
    text: String,
    /// The offset at which each line starts.
    lines: Vec<u32>,
    /// How many characters start before each multiple of [`MARK_EVERY`] bytes; empty for text in
    /// ASCII, where that is how many bytes there are.
    marks: Vec<u32>,
}

/// A file larger than this is not a rule file: offsets must fit in 32 bits.
pub const SIZE_MAX: u64 = 512 << 20;

const MARK_EVERY: usize = 256;

impl Source {
    /// The source `text`, named `file`. The text is at most [`SIZE_MAX`] bytes.
    #[must_use]
    pub fn new(file: &str, text: String) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        // Searching for text is several times as fast as looking at each byte.
        let breaks = text.match_indices('\n');
        let lines =
            std::iter::once(0).chain(breaks.map(|(at, _)| offset(at.saturating_add(1)))).collect();
        let mut marks = Vec::new();
        let mut before = 0_u32;
        if !text.is_ascii() {
            marks.push(0);
            for block in text.as_bytes().chunks(MARK_EVERY) {
                before = before.saturating_add(characters_starting_in(block));
                marks.push(before);
            }
        }
        Self { file: file.into(), text, lines, marks }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file, as it was named.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// The place of the byte at offset `at`.
    #[must_use]
    pub fn place(&self, at: u32) -> Place {
        let line = self.lines.partition_point(|&start| start <= at);
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied();
        let column = self.characters_before(at) - self.characters_before(start.unwrap_or(0));
        Place {
            file: Arc::clone(&self.file),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: column.saturating_add(1),
        }
    }

    /// How many characters start before the byte at offset `at`.
    fn characters_before(&self, at: u32) -> u32 {
        if self.marks.is_empty() {
            return at.min(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        }
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.text.len());
        let block = at / MARK_EVERY;
        let rest = self.text.as_bytes().get(block * MARK_EVERY..at).unwrap_or_default();
        self.marks.get(block).copied().unwrap_or(0) + characters_starting_in(rest)
    }
}

/// How many characters of UTF-8 text start in `bytes`: all but the continuation bytes.
fn characters_starting_in(bytes: &[u8]) -> u32 {
    let count = bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_what_counting_from_the_start_gives(text in "(\n|a|ü|€|😀|\\PC{0,40}){0,200}") {
            let source = Source::new("f", text.clone());
            let (mut line, mut column) = (1, 1);
            for (at, character) in text.char_indices() {
                let place = source.place(u32::try_from(at).unwrap());
                prop_assert_eq!((place.line, place.column), (line, column));
                (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
            }
        }
    }

    #[test]
    fn offsets_behind_the_end_are_the_end() {
        let source = Source::new("f", "a\nbc".to_owned());
        assert_eq!(source.place(99).to_string(), "f:2:3");
        assert_eq!(Source::new("f", String::new()).place(0).to_string(), "f:1:1");
    }
}
