//! The JSON Schema of the native rule file, made from the very tables that the reader obeys.

use serde_json::{Map, Value, json};

use super::fields::{Field, Kind, Presence, Section};
use super::native::RULE_FILE;
use super::scalars::PROTOCOLS;

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
        Kind::AddressIpv6 => address_ipv6(),
        Kind::AddressOrNull => json!({ "anyOf": [address(), { "type": "null" }] }),
        Kind::AnyCidr => any_cidr(),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Cidr => cidr(),
        Kind::CidrIpv6 => cidr_ipv6(),
        Kind::CidrOrCidrs => {
            json!({ "anyOf": [any_cidr(), { "type": "array", "items": any_cidr() }] })
        }
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

fn address_ipv6() -> Value {
    json!({
        "type": "string",
        "format": "ipv6",
        "pattern": "^[0-9a-fA-F:.]{2,45}$",
        "examples": ["2001:db8:1::5"],
    })
}

fn cidr_ipv6() -> Value {
    let length = "(12[0-8]|1[01][0-9]|[1-9]?[0-9])";
    json!({
        "type": "string",
        "pattern": format!("^[0-9a-fA-F:.]{{2,45}}(/{length})?$"),
        "examples": ["2001:db8:1::/64"],
    })
}

fn any_cidr() -> Value {
    json!({ "anyOf": [cidr(), cidr_ipv6()] })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::string::string_regex;

    use super::*;
    use crate::rules::native::{self, Draft};
    use crate::rules::reader::Format;
    use crate::rules::set::{Cidr, CidrError, PortRange, PortRangeError};
    use crate::rules::source::Source;
    use crate::rules::testing::{any_rules, example};
    use crate::rules::write::to_json;

    /// Whether `schema` accepts `value`; strings are not held against patterns.
    fn accepts(schema: &Value, value: &Value, root: &Value) -> bool {
        let Some(schema) = schema.as_object() else { return schema == &json!(true) };
        schema.iter().all(|(keyword, rule)| match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                accepts(&root["$defs"][name], value, root)
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|rule| accepts(rule, value, root)),
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "type" => match rule.as_str().unwrap() {
                "array" => value.is_array(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "null" => value.is_null(),
                "object" => value.is_object(),
                "string" => value.is_string(),
                other => panic!("type {other}"),
            },
            "minimum" => value.as_i64().is_none_or(|value| value >= rule.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|value| value <= rule.as_i64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
            "maxLength" => {
                let most = usize::try_from(rule.as_u64().unwrap()).unwrap();
                value.as_str().is_none_or(|text| text.chars().count() <= most)
            }
            "items" => value.as_array().into_iter().flatten().all(|item| accepts(rule, item, root)),
            "required" => value.as_object().is_none_or(|value| {
                rule.as_array().unwrap().iter().all(|n| value.contains_key(n.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|value| {
                value.iter().all(|(name, value)| {
                    rule.get(name).is_some_and(|rule| accepts(rule, value, root))
                })
            }),
            "additionalProperties" => *rule == json!(false),
            "$defs" | "$schema" | "default" | "description" | "examples" | "format" | "pattern"
            | "title" => true,
            other => panic!("keyword {other}"),
        })
    }

    fn schema_accepts(value: &Value) -> bool {
        static SCHEMA: std::sync::LazyLock<Value> = std::sync::LazyLock::new(rule_file);
        accepts(&SCHEMA, value, &SCHEMA)
    }

    /// The faults of reading alone, before rules are held against each other.
    fn reader_faults(value: &Value) -> Vec<String> {
        let source = Source::new("f", value.to_string());
        let faults = native::read(&source, Format::Json, 0, &mut Draft::default());
        faults.iter().map(ToString::to_string).collect()
    }

    /// An example in which every field of every section occurs.
    fn everything() -> Value {
        let mut all: Value = serde_json::from_str(example()).unwrap();
        let set = |value: &mut Value, more: Value| {
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        };
        all["$schema"] = json!("schema.json");
        all["public_ipv6"] = json!([{ "address": "2001:db8:ff::1", "prefix_len": 64,
            "interface": "eth2", "vlan": 5, "gateway": "2001:db8:ff::fe" }]);
        all["ipv6_routes"] =
            json!([{ "destination": "2001:db8:9::/48", "via": "2001:db8:1::254" }]);
        all["ipv6_firewall_rules"] = json!([
            { "id": "i1", "network": "web", "action": "allow", "protocol": "tcp", "ports": 443,
              "sources": ["2001:db8:5::/48"], "destinations": ["2001:db8:1::5"] },
            { "id": "i2", "network": "web", "protocol": "icmpv6", "icmp_type": 128, "icmp_code": 0 },
        ]);
        all["interface_filters"] = json!([
            { "interface": "eth2", "vlan": 5, "direction": "in", "default": "reject", "entries": [
                { "id": "1", "action": "deny", "protocol": "tcp", "ports": 22,
                  "sources": ["192.0.2.0/24"], "destinations": ["10.1.1.5"] },
                { "id": "2", "action": "allow", "protocol": "icmp", "icmp_type": 8, "icmp_code": 0 },
            ] },
        ]);
        all["address_limits"] = json!([{ "id": "q", "public_ip": "203.0.113.11", "ports": 443, "shared": "s",
            "inbound_kbit_per_second": 1, "outbound_kbit_per_second": 2 }]);
        all["policy_routes"] = json!([
            { "id": "r1", "network": "web", "protocol": "tcp", "ports": 443, "source_ports": "1024-65535",
              "sources": ["10.1.1.5"], "destinations": ["192.0.2.0/24"], "routes": [
                { "destination": "192.0.2.0/25", "via": null },
                { "via": "203.0.113.1", "source_nat": ["203.0.113.10"] },
            ] },
            { "id": "r2", "network": "web", "protocol": "icmp", "icmp_type": 8, "icmp_code": 0, "routes": [] },
        ]);
        let ipv6 = json!({ "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1" });
        set(&mut all["networks"][0], json!({ "ipv6": ipv6 }));
        let ip = json!({ "vlan": 5, "ingress_default": "allow", "firewall_before_acl": true,
            "echo_reply": true });
        set(&mut all["public_ips"][0], ip);
        let nat = json!({
            "mapping_type": "endpoint-independent", "filtering_type": "address-dependent",
            "port_range": "1024-2047", "overload": false, "hold_down_timeout": 1,
            "pptp": true,
            "hairpinning": false, "gateway_source_nat": true, "exempt_destinations": ["192.0.2.0/24"],
            "kernel_destinations": ["192.0.2.0/24"],
        });
        let limits = json!({
            "sessions_per_guest": 1, "new_sessions_per_second": 2, "bandwidth_kbit_per_second": 3,
            "packets_per_second": 4, "guest_bandwidth_kbit_per_second": 5,
            "guest_packets_per_second": 6, "ports_per_guest": 7, "mappings_per_guest": 8,
        });
        let network = json!({
            "egress_reject": true, "nat": nat, "limits": limits, "mss_clamp": 1200,
            "anti_spoofing": false, "outer_tag": { "vlan": 200, "type": "802.1q" },
            "vxlan": { "vni": 5001, "local": "172.31.0.1", "prefix_len": 24,
                "gateway": "172.31.0.254", "remotes": ["172.31.0.2"], "learning": false },
        });
        set(&mut all["networks"][0], network);
        let icmp = json!({ "id": "e2", "protocol": "icmp", "icmp_type": 8, "icmp_code": 0,
            "sources": ["10.1.1.5"], "network": "web", "action": "allow" });
        all["egress_rules"].as_array_mut().unwrap().push(icmp);
        set(&mut all["firewall_rules"][0], json!({ "action": "deny" }));
        set(&mut all["port_forwards"][0], json!({ "sources": ["192.0.2.0/24"] }));
        let check = json!({ "interval_seconds": 1, "timeout_seconds": 2, "healthy_after": 3,
            "unhealthy_after": 4, "port": 80 });
        set(&mut all["load_balancers"][0], json!({ "health_check": check }));
        set(&mut all["load_balancers"][0], json!({ "sources": ["192.0.2.0/24"] }));
        set(&mut all["local_services"][0], json!({ "sources": ["192.0.2.0/24"] }));
        let entry = json!({ "number": 20, "action": "deny", "protocol": "icmp", "icmp_type": -1,
            "icmp_code": -1, "guests": ["10.1.1.5"] });
        all["network_acls"][0]["entries"].as_array_mut().unwrap().push(entry);
        all
    }

    /// The paths to all values inside `value`.
    fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    found.push(format!("{path}/{index}"));
                    paths(item, &format!("{path}/{index}"), found);
                }
            }
            Value::Object(entries) => {
                for (name, entry) in entries {
                    found.push(format!("{path}/{name}"));
                    paths(entry, &format!("{path}/{name}"), found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_field_occurs_in_the_example_of_everything() {
        let all = everything();
        assert_eq!(reader_faults(&all), Vec::<String>::new());
        assert!(schema_accepts(&all));
        let schema = rule_file();
        let mut known: Vec<String> = Vec::new();
        let sections = schema["$defs"].as_object().unwrap().values().chain([&schema]);
        for section in sections {
            known.extend(section["properties"].as_object().unwrap().keys().cloned());
        }
        let mut found = Vec::new();
        paths(&all, "", &mut found);
        for name in known {
            assert!(found.iter().any(|path| path.ends_with(&format!("/{name}"))), "{name}");
        }
    }

    #[test]
    fn reader_and_schema_agree_on_every_value_put_in_every_place() {
        let mut all = everything();
        // One of each kind is enough.
        all["public_ips"].as_array_mut().unwrap().truncate(1);
        let mut places = Vec::new();
        paths(&all, "", &mut places);
        let values = [
            json!(null),
            json!(true),
            json!(-2),
            json!(-1),
            json!(0),
            json!(1),
            json!(25),
            json!(300),
            json!(4095),
            json!(70000),
            json!(99_999_999_999_999_i64),
            json!(1.5),
            json!([]),
            json!({}),
            json!([{}]),
            json!([[]]),
            json!("path-mtu"),
            json!("allow"),
            json!("ingress"),
            json!("source"),
            json!("tcp"),
            json!("all"),
            json!("x".repeat(2000)),
        ];
        for place in &places {
            for value in &values {
                let mut text = all.clone();
                *text.pointer_mut(place).unwrap() = value.clone();
                let faults = reader_faults(&text);
                let accepted = schema_accepts(&text);
                // Patterns and what one field means to another are the reader's alone.
                let more_than_a_schema = faults.iter().any(|fault| {
                    [
                        "is not an IPv4",
                        "is not an IPv6",
                        "is not a port or range",
                        "is not a protocol",
                        "has no ports",
                        "without",
                        "public ports (",
                        "lacks the field \"ports\"",
                        "is a range",
                    ]
                    .iter()
                    .any(|words| fault.contains(words))
                });
                if faults.is_empty() {
                    assert!(accepted, "{place} = {value}: only the schema refuses");
                } else if accepted {
                    let text = value.is_string();
                    assert!(text || more_than_a_schema, "{place} = {value}: {faults:?}");
                }
            }
        }
    }

    #[test]
    fn every_field_is_read() {
        let all = everything();
        let mut places = Vec::new();
        paths(&all, "", &mut places);
        for place in &places {
            let mut text = all.clone();
            // Nothing takes a list of lists.
            *text.pointer_mut(place).unwrap() = json!([[[]]]);
            assert_ne!(reader_faults(&text), Vec::<String>::new(), "{place}");
        }
    }

    #[test]
    fn reader_and_schema_agree_on_fields_left_out_and_fields_nobody_knows() {
        let all = everything();
        let mut places = Vec::new();
        paths(&all, "", &mut places);
        for place in &places {
            let (parent, name) = place.rsplit_once('/').unwrap();
            let mut text = all.clone();
            let Some(object) = text.pointer_mut(parent).unwrap().as_object_mut() else { continue };
            let value = object.remove(name).unwrap();
            let lacking = reader_faults(&text).iter().any(|fault| fault.contains("lacks"));
            // Ports of local services are needed by some protocols only.
            if !place.starts_with("/local_services") {
                assert_eq!(lacking, !schema_accepts(&text), "without {place}");
            }
            text.pointer_mut(parent).unwrap()[format!("{name}x")] = value;
            assert!(!schema_accepts(&text), "{place}x");
            assert!(reader_faults(&text).iter().any(|fault| fault.contains("has no field")));
        }
    }

    #[test]
    fn the_defaults_are_values_of_their_fields() {
        for schema in [rule_file(), crate::config::schema()] {
            let sections = schema["$defs"].as_object().unwrap().values().chain([&schema]);
            for (name, field) in sections.flat_map(|s| s["properties"].as_object().unwrap()) {
                let Some(default) = field.get("default") else { continue };
                // What is required inside is for those who write the table.
                let table = default.as_object().is_some_and(Map::is_empty);
                assert!(table || accepts(field, default, &schema), "{name}: {default}");
            }
        }
    }

    fn pattern(schema: &Value) -> impl Strategy<Value = String> + use<> {
        string_regex(schema["pattern"].as_str().unwrap().trim_matches(['^', '$'])).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn the_schema_accepts_what_is_written(rules in any_rules()) {
            let text: Value = serde_json::from_str(&to_json(&rules).unwrap()).unwrap();
            prop_assert!(schema_accepts(&text), "{}", text);
        }

        #[test]
        fn what_the_patterns_match_the_reader_takes(
            address in pattern(&address()),
            cidr in pattern(&cidr()),
            port in pattern(&port_text(false)),
            ports in pattern(&port_text(true)),
        ) {
            prop_assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{}", address);
            // That bits behind the length are clear, and ranges in order, no pattern can say.
            prop_assert_ne!(cidr.parse::<Cidr>().err(), Some(CidrError::Malformed), "{}", cidr);
            prop_assert!(port.parse::<PortRange>().is_ok_and(|port| port.count() == 1), "{}", port);
            let wrong = ports.parse::<PortRange>().err();
            prop_assert_ne!(wrong, Some(PortRangeError::NotAPort), "{}", ports);
        }
    }
}
