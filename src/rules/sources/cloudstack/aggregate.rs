//! Aggregate files (`VR-<uuid>.cfg`): the command files of a router's start, one after the other.
//!
//! Sections stand in tags on lines of their own; what is inside is taken as it is, not as the shell of today's
//! script would expand it.

/// A part of an aggregate file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'t> {
    /// A command file.
    File {
        /// Its path on the router.
        path: &'t str,
        /// Where its content starts.
        start: usize,
        /// Its content.
        content: &'t str,
    },
    /// A section that is not closed; it starts here and cannot be trusted.
    Unclosed(usize),
    /// The version, and where it stands.
    Version(&'t str, usize),
}

/// The parts of an aggregate file that matter here; scripts do not.
#[must_use]
pub fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut open: Option<Section> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, word) = (at, line.trim());
        at += line.len();
        match (&open, word) {
            (Some(section), _) if word == section.tag.end() => {
                parts.extend(section.part(text, start));
                open = None;
            }
            // What is inside cannot start so: JSON stands on one line, in braces.
            (section, "<file>" | "<script>" | "<version>") => {
                parts.extend(section.as_ref().map(|section| Part::Unclosed(section.start)));
                open = Some(Section { tag: Tag::of(word), start, content: at });
            }
            _ => {}
        }
    }
    parts.extend(open.map(|section| Part::Unclosed(section.start)));
    parts
}

/// The only version there is.
pub const VERSION: &str = "1";

/// A section that is open.
struct Section {
    tag: Tag,
    start: usize,
    content: usize,
}

#[derive(Clone, Copy)]
enum Tag {
    File,
    Script,
    Version,
}

impl Tag {
    fn of(word: &str) -> Self {
        match word {
            "<file>" => Self::File,
            "<version>" => Self::Version,
            _ => Self::Script,
        }
    }

    const fn end(self) -> &'static str {
        match self {
            Self::File => "</file>",
            Self::Script => "</script>",
            Self::Version => "</version>",
        }
    }
}

impl Section {
    fn part<'t>(&self, text: &'t str, end: usize) -> Option<Part<'t>> {
        let inside = text.get(self.content..end)?;
        match self.tag {
            Tag::File => {
                let (path, content) = inside.split_once('\n').unwrap_or((inside, ""));
                let start = end.checked_sub(content.len())?;
                Some(Part::File { path: path.trim(), start, content })
            }
            Tag::Script => None,
            Tag::Version => Some(Part::Version(inside.trim(), self.content)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#comment\n<version>\n1\n</version>\n<file>\n/a/b.json.1\n{\n}\n</file>\n<script>\nx\n</script>\n";

    #[test]
    fn a_file_is_what_stands_between_its_tags() {
        let parts = parts(TEXT);
        let [Part::Version("1", _), Part::File { path, start, content }] = parts.as_slice() else {
            panic!("{parts:?}")
        };
        assert_eq!((*path, *content), ("/a/b.json.1", "{\n}\n"));
        assert_eq!(&TEXT[*start..][..content.len()], *content);
    }

    #[test]
    fn a_section_that_is_not_closed_costs_itself_alone() {
        let text = TEXT.replacen("</file>\n", "", 1);
        let twice = format!("{text}{TEXT}");
        let found = parts(&twice);
        assert!(matches!(found[1], Part::Unclosed(at) if twice[at..].starts_with("<file>")));
        assert!(matches!(found[3], Part::File { .. }), "{found:?}");
        assert_eq!(parts("<file>\n/a\n"), [Part::Unclosed(0)]);
    }
}
