//! Requests as they were recorded: one a line, the body a string inside it, so that broken bodies can be kept too.

use crate::rules::diagnostic::{Diagnostic, Place, Severity};
use crate::rules::from_json;
use crate::rules::source::Source;
use crate::rules::sources::zstack::reader::{Notes, Object};
use crate::rules::tree::offset;

/// A request that was recorded.
#[derive(Debug)]
pub struct Recorded {
    /// The path it was sent to.
    pub path: String,
    /// The offset of the path in the file.
    pub path_at: u32,
    /// What was sent.
    pub body: String,
    /// Where the body's bytes lie in the file.
    lies: Lies,
}

/// Where the bytes of a string lie in the text it was written in.
#[derive(Debug, Default)]
struct Lies {
    /// The offset of its first character.
    start: u32,
    /// Behind each escape: the offset in the string, and in the text from `start`.
    behind_escapes: Vec<(u32, u32)>,
}

impl Recorded {
    /// The place in `source`, which it was read from, of the byte at `at` of the body.
    #[must_use]
    pub fn place(&self, source: &Source, at: u32) -> Place {
        source.place(self.lies.find(at))
    }
}

impl Lies {
    /// Of the string whose opening quote is at `quote` of `text`.
    fn of(text: &str, quote: u32) -> Self {
        let start = quote.saturating_add(1);
        let raw = usize::try_from(start).ok().and_then(|start| text.get(start..)).unwrap_or("");
        let mut behind_escapes = Vec::new();
        let (mut inside, mut outside) = (0_usize, 0_usize);
        let mut rest = raw;
        while let Some(next) = rest.find(['\\', '"']) {
            (inside, outside) = (inside + next, outside + next);
            rest = rest.get(next..).unwrap_or_default();
            let Some((decoded, length)) = escape(rest) else { break };
            (inside, outside) = (inside + decoded, outside + length);
            rest = rest.get(length..).unwrap_or_default();
            behind_escapes.push((offset(inside), offset(outside)));
        }
        Self { start, behind_escapes }
    }

    fn find(&self, at: u32) -> u32 {
        let behind = self.behind_escapes.partition_point(|(inside, _)| *inside <= at);
        let known = behind.checked_sub(1).and_then(|index| self.behind_escapes.get(index));
        let (inside, outside) = known.copied().unwrap_or_default();
        self.start.saturating_add(outside).saturating_add(at - inside)
    }
}

/// How many bytes the escape at the start of `text` stands for, and how many it takes; none at the end of the string.
fn escape(text: &str) -> Option<(usize, usize)> {
    let mut characters = text.chars();
    if characters.next()? == '"' {
        return None;
    }
    if characters.next()? != 'u' {
        return Some((1, 2));
    }
    let unit = |at: usize| u32::from_str_radix(text.get(at..at + 4)?, 16).ok();
    let first = unit(2)?;
    let second = text.get(6..8).filter(|start| *start == "\\u").and_then(|_| unit(8));
    match (first, second) {
        (0xd800..=0xdbff, Some(0xdc00..=0xdfff)) => Some((4, 12)),
        _ => Some((char::from_u32(first).map_or(3, char::len_utf8), 6)),
    }
}

/// The requests that `source` records; what is none is noted in `faults`.
#[must_use]
pub fn read(source: &Source, faults: &mut Vec<Diagnostic>) -> Vec<Recorded> {
    let mut requests = Vec::new();
    let mut start = 0;
    for line in source.text().split_inclusive('\n') {
        if !line.trim().is_empty() {
            requests.extend(read_line(source, line, start, faults));
        }
        start += line.len();
    }
    requests
}

/// Whether `source` ends within a line: whoever writes it is not done.
#[must_use]
pub fn is_torn(source: &Source) -> bool {
    let last = source.text().rsplit('\n').next().unwrap_or_default();
    !last.trim().is_empty() && !from_json::parse(last).faults.is_empty()
}

fn read_line(
    source: &Source,
    line: &str,
    start: usize,
    faults: &mut Vec<Diagnostic>,
) -> Option<Recorded> {
    let at = |in_line: u32| offset(start).saturating_add(in_line);
    let mut fault = |severity, in_line, what: String, hint: &str| {
        let place = source.place(at(in_line));
        faults.push(Diagnostic { severity, place, what, hint: hint.to_owned() });
    };
    let parsed = from_json::parse(line);
    if let Some(broken) = parsed.faults.first() {
        let what = format!("this line is no recorded request: {}", broken.what);
        fault(Severity::Error, broken.at, what, "write one JSON object a line");
        return None;
    }
    let root = parsed.root?;
    let mut notes = Notes::default();
    let request = Object::open(&root, "a recorded request", &FIELDS, &mut notes);
    let is_request = request.is_some_and(|request| request.find("snap").is_none());
    let read = request.filter(|_| is_request).and_then(|request| {
        let path = request.required_text("path", &mut notes);
        let body = request.text("body", &mut notes);
        Some((request, path?, body?))
    });
    for note in notes.into_list() {
        fault(note.severity, note.at, note.what, note.hint);
    }
    let (request, path, body) = read?;
    let lies = request.find("body").map(|node| Lies::of(source.text(), at(node.at)));
    Some(Recorded {
        path: path.to_owned(),
        path_at: at(request.place_of("path")),
        // A request without a body is one without fields.
        body: if lies.is_some() { body.to_owned() } else { "{}".to_owned() },
        lies: lies.unwrap_or_else(|| Lies { start: at(root.at), ..Lies::default() }),
    })
}

/// The fields of a recorded request.
const FIELDS: [&str; 7] = ["step", "note", "method", "path", "headers", "body", "snap"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The requests of `text`, and its faults.
    fn requests(text: &str) -> (Vec<Recorded>, Vec<String>) {
        let source = Source::new("r", text.to_owned());
        let mut faults = Vec::new();
        let requests = read(&source, &mut faults);
        (requests, faults.iter().map(ToString::to_string).collect())
    }

    proptest! {
        #[test]
        fn every_byte_of_a_body_has_its_place(
            note in "\\PC{0,6}",
            body in "(a|\"|\\\\|\n|é|😀|\u{1}){0,20}",
            ascii: bool,
        ) {
            let note = serde_json::to_string(&note).unwrap();
            let mut written = serde_json::to_string(&body).unwrap();
            if ascii {
                let mut units = [0; 2];
                written = written.chars().map(|character| match character {
                    ' '..='~' => character.to_string(),
                    _ => character.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect(),
                }).collect();
            }
            let text = format!("\n{{\"note\": {note}, \"path\": \"/x\", \"body\": {written}}}\n");
            let source = Source::new("r", text.clone());
            let (requests, faults) = requests(&text);
            prop_assert_eq!(faults, Vec::<String>::new());
            prop_assert_eq!(&requests[0].body, &body);
            for (at, character) in body.char_indices() {
                let place = requests[0].place(&source, u32::try_from(at).unwrap());
                prop_assert_eq!(place.line, 2);
                let column = usize::try_from(place.column).unwrap();
                let rest: String = text.lines().nth(1).unwrap().chars().skip(column - 1).collect();
                let decoded: Vec<char> = serde_json::from_str::<String>(&format!(
                    "\"{}\"", &rest[..rest.len() - 2]
                )).unwrap().chars().collect();
                prop_assert_eq!(decoded[0], character);
            }
        }
    }

    #[test]
    fn lines_that_are_no_requests_cost_themselves_alone() {
        let (requests, faults) = requests(
            "{\"path\": \"/a\", \"body\": \"{}\"}\nno\n\n[1]\n{\"snap\": \"1\"}\n{\"body\": \"\"}\n\
             {\"path\": 5}\n{\"path\": \"/b\", \"colour\": 1}\n",
        );
        let paths: Vec<_> = requests.iter().map(|request| &*request.path).collect();
        assert_eq!(paths, ["/a", "/b"]);
        assert_eq!(requests[1].body, "{}", "a request without a body has no fields");
        let starts: Vec<_> = faults.iter().map(|fault| fault.split(' ').next().unwrap()).collect();
        assert_eq!(starts, ["r:2:1:", "r:4:1:", "r:6:1:", "r:7:10:", "r:8:16:"]);
    }

    #[test]
    fn a_file_that_ends_within_a_line_is_not_whole_yet() {
        let is_torn = |text: &str| is_torn(&Source::new("r", text.to_owned()));
        let line = "{\"path\": \"/a\", \"body\": \"{}\"}";
        for whole in ["", "\n", line, &format!("{line}\n"), "broken\n"] {
            assert!(!is_torn(whole), "{whole}");
        }
        assert!(is_torn(&format!("{line}\n{}", &line[..20])));
    }
}
