//! JSON text into the tree: strict JSON, but all its faults in one run.
//!
//! The parser stops at the first fault. What people get wrong most (comments, a comma too many or
//! too few) is mended in a copy, byte for byte so that offsets stay true, and the copy is parsed
//! again: what stands behind such a fault is still looked at.

use std::borrow::Cow;

use jsonc_parser::ast::{self, ObjectPropName};
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::plain_json;
use super::tree::{Entry, Node, Parsed, SyntaxFault, Value, offset};

/// More faults of syntax than this are not worth a reader's while.
const MENDS_MAX: usize = 32;

/// The tree of `text` and everything wrong with the text.
#[must_use]
pub fn parse(text: &str) -> Parsed<'_> {
    if let Some(root) = plain_json::parse(text) {
        return Parsed { root: Some(root), faults: Vec::new(), whole: true };
    }
    let mut faults = Vec::new();
    let error = match parse_strict(text, &mut faults) {
        Ok(root) => return Parsed { root, faults, whole: true },
        Err(error) => error,
    };
    let mut bytes = text.as_bytes().to_vec();
    faults.push(fault(&bytes, &error));
    let mut error = error;
    while faults.len() < MENDS_MAX && mend(&mut bytes, &error) {
        // Only ASCII took the place of whole characters, so this cannot fail.
        let Ok(mended) = std::str::from_utf8(&bytes) else { break };
        match parse_strict(mended, &mut faults) {
            Ok(root) => {
                return Parsed { root: root.map(Node::into_owned), faults, whole: true };
            }
            Err(next) => error = next,
        }
        faults.push(fault(&bytes, &error));
    }
    Parsed { root: None, faults, whole: false }
}

/// The tree of `text` up to the first fault that ends it; the others are noted.
fn parse_strict<'t>(
    text: &'t str,
    faults: &mut Vec<SyntaxFault>,
) -> Result<Option<Node<'t>>, ParseError> {
    let options = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let result = parse_to_ast(text, &CollectOptions::default(), &options)?;
    let Some(value) = result.value else {
        faults.push(SyntaxFault {
            at: 0,
            what: "the file is empty".to_owned(),
            hint: "the smallest rule file is {\"version\": 1}",
        });
        return Ok(None);
    };
    Ok(Some(Converter { text, faults }.node(value)))
}

/// Turns the parser's nodes into ours, and refuses the little that the parser lets through.
struct Converter<'t, 'f> {
    text: &'t str,
    faults: &'f mut Vec<SyntaxFault>,
}

impl<'t> Converter<'t, '_> {
    fn node(&mut self, value: ast::Value<'t>) -> Node<'t> {
        let range = value.range();
        let value = match value {
            ast::Value::StringLit(text) => Value::Text(self.text(range, text.value)),
            ast::Value::NumberLit(number) => {
                number.value.parse().map_or(Value::Number, Value::Integer)
            }
            ast::Value::BooleanLit(boolean) => Value::Boolean(boolean.value),
            ast::Value::Object(object) => Value::Table(
                object.properties.into_iter().map(|property| self.entry(property)).collect(),
            ),
            ast::Value::Array(array) => {
                Value::List(array.elements.into_iter().map(|element| self.node(element)).collect())
            }
            ast::Value::NullKeyword(_) => Value::Null,
        };
        Node { at: offset(range.start), value }
    }

    fn entry(&mut self, property: ast::ObjectProp<'t>) -> Entry<'t> {
        let range = property.name.range();
        let key = match property.name {
            ObjectPropName::String(text) => self.text(range, text.value),
            ObjectPropName::Word(word) => word.value.into(),
        };
        Entry { key, key_at: offset(range.start), node: self.node(property.value) }
    }

    /// The string at `range`, without control characters that JSON wants escaped.
    fn text(&mut self, range: Range, text: Cow<'t, str>) -> Cow<'t, str> {
        let raw = self.text.as_bytes().get(range.start..range.end).unwrap_or_default();
        let Some(position) = raw.iter().position(|&byte| byte < 0x20) else { return text };
        self.faults.push(SyntaxFault {
            at: offset(range.start.saturating_add(position)),
            what: "a control character inside a string".to_owned(),
            hint: "end the string on its line, or write the character as \\n, \\t or \\u00XX",
        });
        Cow::Owned(text.replace(char::is_control, " "))
    }
}

/// Mends one fault without moving a byte; false if that cannot be done.
fn mend(bytes: &mut [u8], error: &ParseError) -> bool {
    let range = error.range();
    match error.kind() {
        ParseErrorKind::CommentsNotAllowed | ParseErrorKind::TrailingCommasNotAllowed => {
            let Some(wrong) = bytes.get_mut(range.start..range.end) else { return false };
            wrong.fill(b' ');
            range.start < range.end
        }
        ParseErrorKind::ExpectedComma => match bytes.get_mut(range.start) {
            Some(byte) if byte.is_ascii_whitespace() => {
                *byte = b',';
                true
            }
            Some(_) | None => false,
        },
        _ => false,
    }
}

fn fault(text: &[u8], error: &ParseError) -> SyntaxFault {
    use ParseErrorKind as Kind;
    let next = text.get(error.range().start);
    if matches!(error.kind(), Kind::ExpectedComma) && next.is_some_and(u8::is_ascii_digit) {
        // The parser takes 01 for two numbers.
        return SyntaxFault {
            at: offset(error.range().start),
            what: "a digit behind a leading zero".to_owned(),
            hint: "write numbers without leading zeros",
        };
    }
    let what = error.kind().to_string();
    let what = what.trim_end_matches('.');
    let mut letters = what.chars();
    let what = letters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect::<String>());
    let hint = match error.kind() {
        Kind::CommentsNotAllowed => "JSON has no comments: delete it, or write the rules in TOML",
        Kind::TrailingCommasNotAllowed => "delete the comma behind the last entry",
        Kind::ExpectedComma => "put a comma between the entries",
        Kind::ExpectedColonAfterObjectKey => "write \"field\": value",
        Kind::ExpectedStringObjectProperty => "put the field's name in double quotes",
        Kind::SingleQuotedStringsNotAllowed => "use double quotes",
        Kind::UnterminatedArray => "close the list that starts here with ]",
        Kind::UnterminatedObject => "close the object that starts here with }",
        Kind::UnterminatedCommentBlock => "JSON has no comments: delete it",
        Kind::UnexpectedToken | Kind::UnexpectedWord => {
            "put strings in double quotes; the only bare words are true, false and null"
        }
        Kind::MultipleRootJsonValues => "a rule file is one object: delete what stands behind it",
        Kind::String(_) => "check the quotes and backslashes of this string",
        Kind::NestingDepthExceeded => "no rule needs lists and objects this deep",
        _ => "compare with the example in `natwerk schema` and the README",
    };
    SyntaxFault { at: offset(error.range().start), what, hint }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What both parsers make of `text`, if the plain one makes anything of it: the same.
    fn agreed(text: &str) -> Result<bool, TestCaseError> {
        let Some(plain) = plain_json::parse(text) else { return Ok(false) };
        let mut faults = Vec::new();
        let strict = parse_strict(text, &mut faults);
        prop_assert_eq!(strict.map_err(|error| error.to_string()), Ok(Some(plain)));
        prop_assert_eq!(faults, []);
        Ok(true)
    }

    /// Any value, four levels deep.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let number =
            prop_oneof![any::<i64>().prop_map(Into::into), any::<f64>().prop_map(Into::into)];
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            number,
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::hash_map("\\PC{0,8}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Text of the pieces that JSON is made of, and of some that it is not.
    fn pieces() -> impl Strategy<Value = String> {
        let pieces: Vec<&'static str> = vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"é\"",
            "\\",
            "\\n",
            "\\u00e9",
            "\\ud83d\\ude00",
            "\\ud83d",
            "\\u12",
            "\\x",
            "0",
            "-0",
            "01",
            "-",
            "1",
            "12",
            ".5",
            "e",
            "E+1",
            "e-",
            "true",
            "falsey",
            "null",
            "word",
            " ",
            "\n",
            "\t",
            "\u{b}",
            "\u{a0}",
            "\u{1}",
            "//",
            "/**/",
            "'",
            "é",
            "\u{1f600}",
            "9223372036854775807",
            "-9223372036854775809",
        ];
        prop::collection::vec(prop::sample::select(pieces), 0..12)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_well_formed_is_read_without_the_parser_that_finds_faults(value in value(), pretty: bool) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&value),
                false => serde_json::to_string(&value),
            };
            prop_assert!(agreed(&text.expect("text"))?);
        }

        #[test]
        fn the_parsers_agree_on_all_that_both_read(text in pieces()) {
            agreed(&text)?;
            agreed(&format!("[{text}]"))?;
            agreed(&format!("\"{text}\""))?;
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_the_parser_that_finds_faults() {
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        for text in [
            "",
            " ",
            "{",
            "{\"a\"}",
            "[1,]",
            "[01]",
            "[1.]",
            "\"\\ud83d\\ude00\"",
            "1 2",
            "\u{a0}1",
            &deep,
        ] {
            assert_eq!(plain_json::parse(text), None, "{text}");
        }
        assert!(parse(&deep).faults.is_empty());
        assert_eq!(parse("[1,]").faults.len(), 1);
    }
}
