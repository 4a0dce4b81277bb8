//! The JSON Schema of the native rule file, made from the very tables that the reader obeys.

use serde_json::{Map, Value, json};

use super::fields::{Field, Kind, Presence, Section};
use super::native::RULE_FILE;
use super::reader::PROTOCOLS;

/// The schema of the native rule file.
#[must_use]
pub fn rule_file() -> Value {
    document(&RULE_FILE, "natwerk rule file")
}

/// The schema of the file whose fields `section` lists.
#[must_use]
pub(crate) fn document(section: &'static Section, title: &str) -> Value {
    let mut definitions = Map::new();
    let mut schema = object(section, &mut definitions);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!(title));
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(schema)
}

/// The schema of one kind of object; what it refers to goes into `definitions`.
fn object(section: &'static Section, definitions: &mut Map<String, Value>) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in section.fields {
        if field.presence == Presence::Required || field.presence == Presence::RequiredOrNull {
            required.push(json!(field.name));
        }
        properties.insert(field.name.to_owned(), property(field, definitions));
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("description".to_owned(), json!(section.about));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.insert("required".to_owned(), Value::Array(required));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

fn property(field: &Field, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = value(field.kind, definitions);
    let Some(object) = schema.as_object_mut() else { return schema };
    object.insert("description".to_owned(), json!(field.about));
    if let Presence::Optional(default) = field.presence
        && let Ok(default) = serde_json::from_str::<Value>(default)
    {
        object.insert("default".to_owned(), default);
    }
    schema
}

fn value(kind: Kind, definitions: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Address => address(),
        Kind::AddressOrNull => json!({ "anyOf": [address(), { "type": "null" }] }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Cidr => cidr(),
        Kind::CidrOrCidrs => json!({ "anyOf": [cidr(), { "type": "array", "items": cidr() }] }),
        Kind::Integer(low, high) => integer(low, high),
        Kind::IntegerOr(low, high, word) => {
            json!({ "anyOf": [integer(low, high), { "const": word }] })
        }
        Kind::List(kind) => json!({ "type": "array", "items": value(*kind, definitions) }),
        Kind::Port => json!({ "anyOf": [integer(1, 65535), port_text(false)] }),
        Kind::PortTable(low, high) => json!({
            "type": "object",
            "patternProperties": { format!("^{PORT}$"): integer(low, high) },
            "additionalProperties": false,
        }),
        Kind::Ports => json!({ "anyOf": [integer(1, 65535), port_text(true)] }),
        Kind::Protocol => protocol(&[]),
        Kind::ProtocolOrAll => protocol(&["all"]),
        Kind::Socket => json!({ "type": "string", "minLength": 1 }),
        Kind::Table(section) => {
            let name = section.name.trim_start_matches("a ").trim_start_matches("an ");
            let name = name.trim_matches(['[', ']']).to_lowercase().replace(' ', "_");
            if !definitions.contains_key(&name) {
                // A place is taken first: sections may refer to each other.
                definitions.insert(name.clone(), Value::Null);
                let schema = object(section, definitions);
                definitions.insert(name.clone(), Value::Object(schema));
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
        // The reader counts bytes, the schema characters: it can be no stricter.
        Kind::Text(length_max) => json!({
            "type": "string",
            "minLength": 1,
            "maxLength": length_max,
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        }),
        Kind::Transport => json!({ "enum": ["tcp", "udp"] }),
    }
}

/// A number from 0 to 255, of an address.
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

/// A number from 1 to 65535.
const PORT: &str =
    "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})";

fn address() -> Value {
    json!({
        "type": "string",
        "format": "ipv4",
        "pattern": format!("^({OCTET}\\.){{3}}{OCTET}$"),
        "examples": ["10.1.1.5"],
    })
}

fn cidr() -> Value {
    json!({
        "type": "string",
        "pattern": format!("^({OCTET}\\.){{3}}{OCTET}(/(3[0-2]|[12]?[0-9]))?$"),
        "examples": ["10.1.1.0/24"],
    })
}

fn integer(low: i64, high: i64) -> Value {
    if low == high {
        return json!({ "const": low });
    }
    json!({ "type": "integer", "minimum": low, "maximum": high })
}

fn port_text(range: bool) -> Value {
    let more = if range { format!("(-{PORT})?") } else { String::new() };
    let example = if range { "2222-2230" } else { "443" };
    json!({ "type": "string", "pattern": format!("^{PORT}{more}$"), "examples": [example] })
}

fn protocol(more: &[&str]) -> Value {
    let words: Vec<&str> =
        more.iter().copied().chain(PROTOCOLS.iter().map(|&(word, _)| word)).collect();
    json!({ "anyOf": [
        { "enum": words },
        integer(0, 255),
        { "type": "string", "pattern": format!("^{OCTET}$") },
    ] })
}
