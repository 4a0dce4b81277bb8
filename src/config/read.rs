//! Reads `natwerk.toml`: all of its faults in one run.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::{ChecksumMode, Config, Interface, OnRuleRemoval, Role, Sessions, Workers, XdpMode};
use crate::rules::diagnostic::Diagnostic;
use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::from_toml;
use crate::rules::load::read_source;
use crate::rules::native::RULE_FILE;
use crate::rules::reader::{Faults, Fields, Format, integer, plain_text, port};
use crate::rules::source::Source;
use crate::rules::tree::{Node, Value};
use crate::session::timeout::Timeouts;

/// `natwerk.toml` itself.
pub static CONFIG: Section = Section {
    name: "the configuration",
    about: "How the engine runs. What it forwards stands in the rule files.",
    fields: &[
        required(
            "rules",
            Kind::List(&PATH),
            "Rule files and folders; \"cloudstack:/path\" and \"zstack:/path\" for their own formats.",
        ),
        optional("state_dir", PATH, "\"/run/natwerk\"", "Where the sessions live."),
        optional("control_socket", PATH, "\"/run/natwerk/control.sock\"", "The control socket."),
        optional(
            "metrics_listen",
            Kind::Socket,
            "",
            "Where Prometheus may ask; left out, nowhere.",
        ),
        optional(
            "manage_addresses",
            Kind::Boolean,
            "false",
            "Whether natwerk puts public and gateway addresses on the interfaces and announces them.",
        ),
        required("interface", Kind::List(&Kind::Table(&INTERFACE)), "The interfaces natwerk owns."),
        optional("workers", Kind::Table(&WORKERS), "{}", "The workers."),
        optional("sessions", Kind::Table(&SESSIONS), "{}", "The session table."),
        optional("timeouts", Kind::Table(&TIMEOUTS), "{}", "Idle timeouts, in seconds."),
        optional("icmp", Kind::Table(&ICMP), "{}", "ICMP errors."),
    ],
};

/// `[[interface]]`.
pub static INTERFACE: Section = Section {
    name: "an interface",
    about: "A network interface natwerk owns.",
    fields: &[
        required("name", Kind::Text(INTERFACE_NAME_MAX), "The kernel's name for it."),
        required("role", Kind::Choice(&["guest", "public"]), "Which side it is on."),
        optional(
            "checksum",
            Kind::Choice(&["detect-partial", "incremental"]),
            "\"detect-partial\"",
            "Whether checksums that the sending kernel left to its device are recognised and finished.",
        ),
    ],
};

/// `[workers]`.
pub static WORKERS: Section = Section {
    name: "[workers]",
    about: "How many workers, and how they reach the interfaces.",
    fields: &[
        optional(
            "count",
            Kind::IntegerOr(1, 256, "auto"),
            "\"auto\"",
            "How many; \"auto\" is one per queue pair.",
        ),
        optional(
            "mode",
            Kind::Choice(&["auto", "zero-copy", "copy", "skb"]),
            "\"auto\"",
            "Which AF_XDP mode; \"auto\" is the first that works.",
        ),
        optional("spin", Kind::Boolean, "false", "Whether a worker never sleeps."),
        optional(
            "frames",
            Kind::Integer(1024, 1 << 20),
            "16384",
            "Frames of memory per worker; a power of two.",
        ),
    ],
};

/// `[sessions]`.
pub static SESSIONS: Section = Section {
    name: "[sessions]",
    about: "The session table and what guests may take of it.",
    fields: &[
        optional("max", Kind::Integer(1, 1 << 28), "1048576", "Sessions the table holds."),
        optional(
            "per_guest",
            Kind::Integer(0, 1 << 28),
            "65536",
            "Sessions one guest may have; 0 means no limit.",
        ),
        optional(
            "on_rule_removal",
            Kind::Choice(&["end", "keep"]),
            "\"end\"",
            "What becomes of sessions that the new rules would not create.",
        ),
    ],
};

/// `[timeouts]`.
pub static TIMEOUTS: Section = Section {
    name: "[timeouts]",
    about: "How long sessions may be idle, in seconds.",
    fields: &[
        optional("tcp_established", SECONDS, "7440", "TCP, both SYNs acknowledged."),
        optional("tcp_transitory", SECONDS, "240", "TCP opening, closing, closed or reset."),
        optional("udp", SECONDS, "300", "UDP."),
        optional(
            "udp_single_exchange",
            SECONDS,
            "30",
            "UDP to the single-exchange ports, as long as only one packet went each way.",
        ),
        optional("udp_single_ports", Kind::List(&Kind::Port), "[53]", "The single-exchange ports."),
        optional(
            "udp_ports",
            Kind::PortTable(1, YEAR),
            "{}",
            "UDP by remote port: { \"5060\" = 60 }.",
        ),
        optional("icmp", SECONDS, "60", "ICMP queries."),
        optional("other", SECONDS, "300", "Every other protocol."),
        optional("fragment", SECONDS, "2", "How long fragments of a datagram wait for each other."),
        optional(
            "port_hold",
            Kind::Integer(0, YEAR),
            "120",
            "How long a freed port rests before another guest gets it.",
        ),
        optional(
            "refresh_inbound",
            Kind::Boolean,
            "false",
            "Whether inbound packets keep UDP and ICMP mappings alive.",
        ),
    ],
};

/// `[icmp]`.
pub static ICMP: Section = Section {
    name: "[icmp]",
    about: "ICMP errors.",
    fields: &[optional(
        "errors_per_second",
        Kind::Integer(0, 0xffff_ffff),
        "1000",
        "ICMP errors that may be sent per second and worker; 0 means no limit.",
    )],
};

const PATH: Kind = Kind::Text(4096);
const YEAR: i64 = 365 * 86_400;
const SECONDS: Kind = Kind::Integer(1, YEAR);

/// The kernel's IFNAMSIZ, without the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
const INTERFACES_MAX: usize = 32;

/// Whether the file `path` is a configuration rather than rules: TOML with fields that only a
/// configuration has.
#[must_use]
pub fn looks_like_one(path: &Path) -> bool {
    if path.extension().is_none_or(|extension| extension != "toml") {
        return false;
    }
    let Ok(source) = read_source(path) else { return false };
    let Some(root) = from_toml::parse(source.text()).root else { return false };
    let Value::Table(entries) = root.value else { return false };
    let count = |section: &Section| {
        entries.iter().filter(|entry| section.position(&entry.key).is_some()).count()
    };
    count(&CONFIG) > count(&RULE_FILE)
}

/// Reads the configuration file `path`.
pub fn load(path: &Path) -> Result<Config, Vec<Diagnostic>> {
    let source = read_source(path).map_err(|fault| vec![*fault])?;
    read(&source, path.parent().unwrap_or(Path::new("")))
}

/// Reads the configuration in `source`; relative rule paths start at `folder`.
pub fn read(source: &Source, folder: &Path) -> Result<Config, Vec<Diagnostic>> {
    let parsed = from_toml::parse(source.text());
    let mut faults = Faults::of_syntax(source, Format::Toml, &parsed);
    let config = parsed.root.and_then(|root| {
        let fields = Fields::open(&root, &CONFIG, &mut faults)?;
        Some(config(&fields, folder, &mut faults))
    });
    let mut list = faults.into_list();
    list.sort_by_key(|fault| (fault.place.line, fault.place.column));
    match config {
        Some(config) if list.is_empty() => Ok(config),
        _ => Err(list),
    }
}

fn config(fields: &Fields<'_, '_>, folder: &Path, faults: &mut Faults<'_>) -> Config {
    let default = Config::default();
    let rules = fields
        .list("rules", faults)
        .iter()
        .filter_map(|node| plain_text(node, 4096, faults))
        .map(|path| rule_path(path, folder))
        .collect();
    let mut path = |name, default| fields.text(name, faults).map_or(default, Into::into);
    let state_dir = path("state_dir", default.state_dir);
    let control_socket = path("control_socket", default.control_socket);
    Config {
        rules,
        state_dir,
        control_socket,
        metrics_listen: fields.socket("metrics_listen", faults),
        manage_addresses: fields.boolean("manage_addresses", faults).unwrap_or(false),
        interfaces: interfaces(fields, faults),
        workers: fields
            .table("workers", faults)
            .map_or(default.workers, |fields| workers(&fields, faults)),
        sessions: fields
            .table("sessions", faults)
            .map_or(default.sessions, |fields| sessions(&fields, faults)),
        timeouts: fields
            .table("timeouts", faults)
            .map_or(default.timeouts, |fields| timeouts(&fields, faults)),
        icmp_errors_per_second: fields
            .table("icmp", faults)
            .and_then(|fields| fields.integer("errors_per_second", faults))
            .unwrap_or(default.icmp_errors_per_second),
    }
}

/// `path`, seen from `folder` if it is relative; a prefix of another format stays in front.
fn rule_path(path: &str, folder: &Path) -> String {
    let (prefix, path) = match path.split_once(':') {
        Some((format @ ("cloudstack" | "zstack"), path)) => (Some(format), path),
        _ => (None, path),
    };
    let path = folder.join(path).to_string_lossy().into_owned();
    prefix.map_or_else(|| path.clone(), |prefix| format!("{prefix}:{path}"))
}

fn interfaces(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Vec<Interface> {
    let nodes = fields.list("interface", faults);
    let at = fields.place_of("interface");
    if fields.has("interface") && nodes.is_empty() {
        faults.error(at, "no interface", "add an [[interface]] with name and role");
    }
    if nodes.len() > INTERFACES_MAX {
        let what = format!("{} interfaces where {INTERFACES_MAX} are possible", nodes.len());
        faults.error(at, what, "use VLANs on fewer interfaces");
    }
    let mut interfaces = Vec::new();
    let mut names: HashMap<&str, u32> = HashMap::new();
    for node in nodes {
        let Some(fields) = Fields::open(node, &INTERFACE, faults) else { continue };
        let name = fields.text("name", faults);
        let roles = [("guest", Role::Guest), ("public", Role::Public)];
        let role = fields.choice("role", &roles, faults);
        let modes = [
            ("detect-partial", ChecksumMode::DetectPartial),
            ("incremental", ChecksumMode::Incremental),
        ];
        let checksum = fields.choice("checksum", &modes, faults).unwrap_or_default();
        let Some(name) = name else { continue };
        let at = fields.place_of("name");
        if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
            let what = format!("\"{name}\" is no name of an interface");
            faults.error(at, what, "leave out slashes, colons and spaces");
        }
        if let Some(&first) = names.get(name) {
            let what =
                format!("interface {name} is already listed at {}", faults.source().place(first));
            faults.error(at, what, "list each interface once");
        }
        names.insert(name, at);
        if let Some(role) = role {
            interfaces.push(Interface { name: name.to_owned(), role, checksum });
        }
    }
    interfaces
}

fn workers(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Workers {
    let default = Workers::default();
    let modes = [
        ("auto", XdpMode::Auto),
        ("zero-copy", XdpMode::ZeroCopy),
        ("copy", XdpMode::Copy),
        ("skb", XdpMode::Skb),
    ];
    let frames: Option<u32> = fields.integer("frames", faults);
    if let Some(frames) = frames.filter(|frames| !frames.is_power_of_two()) {
        let what = format!("{frames} is not a power of two");
        let hint = format!("write {}", frames.next_power_of_two());
        faults.error(fields.place_of("frames"), what, hint);
    }
    Workers {
        count: fields.integer_or("count", faults).flatten(),
        mode: fields.choice("mode", &modes, faults).unwrap_or(default.mode),
        spin: fields.boolean("spin", faults).unwrap_or(default.spin),
        frames: frames.unwrap_or(default.frames),
    }
}

fn sessions(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Sessions {
    let default = Sessions::default();
    let meanings = [("end", OnRuleRemoval::End), ("keep", OnRuleRemoval::Keep)];
    Sessions {
        max: fields.integer("max", faults).unwrap_or(default.max),
        per_guest: fields.integer("per_guest", faults).unwrap_or(default.per_guest),
        on_rule_removal: fields.choice("on_rule_removal", &meanings, faults).unwrap_or_default(),
    }
}

fn timeouts(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Timeouts {
    let default = Timeouts::default();
    let mut seconds = |name, default| {
        let seconds: Option<u32> = fields.integer(name, faults);
        seconds.map_or(default, |seconds| Duration::from_secs(seconds.into()))
    };
    Timeouts {
        tcp_established: seconds("tcp_established", default.tcp_established),
        tcp_transitory: seconds("tcp_transitory", default.tcp_transitory),
        udp: seconds("udp", default.udp),
        udp_single_exchange: seconds("udp_single_exchange", default.udp_single_exchange),
        icmp: seconds("icmp", default.icmp),
        other: seconds("other", default.other),
        fragment: seconds("fragment", default.fragment),
        port_hold: seconds("port_hold", default.port_hold),
        udp_single_ports: if fields.has("udp_single_ports") {
            let nodes = fields.list("udp_single_ports", faults);
            nodes.iter().filter_map(|node| port(node, faults)).map(Into::into).collect()
        } else {
            default.udp_single_ports
        },
        udp_ports: fields
            .node("udp_ports", faults)
            .map_or(default.udp_ports, |(_, node)| port_table(node, faults)),
        refresh_inbound: fields
            .boolean("refresh_inbound", faults)
            .unwrap_or(default.refresh_inbound),
    }
}

fn port_table(node: &Node<'_>, faults: &mut Faults<'_>) -> Vec<(u16, Duration)> {
    let Value::Table(entries) = &node.value else {
        let what = format!("{} where a table of ports belongs", node.description());
        faults.value_error(node, what, "write it like { \"5060\" = 60 }");
        return Vec::new();
    };
    let mut ports: Vec<(u16, Duration)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let seconds = integer(&entry.node, 1, YEAR, faults).and_then(|s| u64::try_from(s).ok());
        let number = entry.key.parse::<u16>().ok().filter(|&port| port != 0);
        if number.is_none() {
            let what = format!("\"{}\" is not a port", entry.key);
            faults.error(entry.key_at, what, "write a number from 1 to 65535");
        }
        let (Some(port), Some(seconds)) = (number, seconds) else { continue };
        if ports.iter().any(|&(other, _)| other == port) {
            faults.error(entry.key_at, format!("port {port} is there twice"), "delete one");
        }
        ports.push((port, Duration::from_secs(seconds)));
    }
    ports
}
