//! Reads `natwerk.toml`: all of its faults in one run.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::fields::{CONFIG, INTERFACE, YEAR};
use super::{
    ChecksumMode, Config, EventExport, Hook, Interface, OnRuleRemoval, OnStop, Role, Sessions,
    Workers, XdpMode,
};
use crate::rules::diagnostic::Diagnostic;
use crate::rules::fields::Section;
use crate::rules::from_toml;
use crate::rules::load::read_source;
use crate::rules::native::RULE_FILE;
use crate::rules::reader::{Faults, Fields, Format};
use crate::rules::scalars::{integer, plain_text, port};
use crate::rules::set::Action;
use crate::rules::source::Source;
use crate::rules::sources;
use crate::rules::tree::{Node, Value};
use crate::session::timeout::Timeouts;

/// More than any router of a cloud has; VLANs carry more networks on fewer.
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
        sources: sources::Options {
            cloudstack: fields
                .table("cloudstack", faults)
                .map_or(default.sources.cloudstack, |fields| cloudstack(&fields, folder, faults)),
        },
        workers: fields
            .table("workers", faults)
            .map_or(default.workers, |fields| workers(&fields, faults)),
        sessions: fields
            .table("sessions", faults)
            .map_or(default.sessions, |fields| sessions(&fields, faults)),
        timeouts: fields
            .table("timeouts", faults)
            .map_or(default.timeouts, |fields| timeouts(&fields, faults)),
        events: fields.table("events", faults).and_then(|fields| events(&fields, faults)),
        icmp_errors_per_second: fields
            .table("icmp", faults)
            .and_then(|fields| fields.integer("errors_per_second", faults))
            .unwrap_or(default.icmp_errors_per_second),
    }
}

fn events(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<EventExport> {
    let sessions = fields.boolean("sessions", faults).unwrap_or(false);
    Some(EventExport { collector: fields.socket("collector", faults)?, sessions })
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
        let kernel_vlans = fields.list("kernel_vlans", faults).iter();
        let kernel_vlans = kernel_vlans
            .filter_map(|node| u16::try_from(integer(node, 1, 4094, faults)?).ok())
            .collect();
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
            interfaces.push(Interface { name: name.to_owned(), role, checksum, kernel_vlans });
        }
    }
    interfaces
}

fn cloudstack(
    fields: &Fields<'_, '_>,
    folder: &Path,
    faults: &mut Faults<'_>,
) -> sources::cloudstack::Options {
    use sources::cloudstack::LoadBalancing;

    let actions = [("allow", Action::Allow), ("deny", Action::Deny)];
    let balancers = [("auto", LoadBalancing::Auto), ("haproxy", LoadBalancing::Haproxy)];
    sources::cloudstack::Options {
        unmatched_vpc_egress: fields
            .choice("unmatched_vpc_egress", &actions, faults)
            .unwrap_or_default(),
        load_balancing: fields.choice("load_balancing", &balancers, faults).unwrap_or_default(),
        command_files: fields.text("command_files", faults).map(|path| folder.join(path)),
    }
}

fn workers(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Workers {
    let default = Workers::default();
    let modes = [
        ("auto", XdpMode::Auto),
        ("zero-copy", XdpMode::ZeroCopy),
        ("copy", XdpMode::Copy),
        ("skb", XdpMode::Skb),
    ];
    let hooks = [("auto", Hook::Auto), ("xdp", Hook::Xdp), ("tc", Hook::Tc)];
    let stops = [("release", OnStop::Release), ("hold", OnStop::Hold)];
    let frames: Option<u32> = fields.integer("frames", faults);
    let shortcuts: Option<u32> = fields.integer_or("shortcuts", faults).flatten();
    for (name, number) in [("frames", frames), ("shortcuts", shortcuts)] {
        if let Some(odd) = number.filter(|number| *number != 0 && !number.is_power_of_two()) {
            let what = format!("{odd} is not a power of two");
            let hint = format!("write {}", odd.next_power_of_two());
            faults.error(fields.place_of(name), what, hint);
        }
    }
    Workers {
        count: fields.integer_or("count", faults).flatten(),
        mode: fields.choice("mode", &modes, faults).unwrap_or(default.mode),
        hook: fields.choice("hook", &hooks, faults).unwrap_or(default.hook),
        spin: fields.boolean("spin", faults).unwrap_or(default.spin),
        frames: frames.unwrap_or(default.frames),
        shortcuts: shortcuts.or(default.shortcuts),
        on_stop: fields.choice("on_stop", &stops, faults).unwrap_or(default.on_stop),
    }
}

fn sessions(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Sessions {
    let default = Sessions::default();
    let meanings = [
        ("end", OnRuleRemoval::End),
        ("keep", OnRuleRemoval::Keep),
        ("keep-filtered", OnRuleRemoval::KeepFiltered),
    ];
    Sessions {
        max: fields.integer("max", faults).unwrap_or(default.max),
        max_ipv6: fields.integer("max_ipv6", faults).unwrap_or(default.max_ipv6),
        per_guest: fields.integer("per_guest", faults).unwrap_or(default.per_guest),
        ports_per_guest: fields
            .integer("ports_per_guest", faults)
            .unwrap_or(default.ports_per_guest),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Config, Vec<Diagnostic>> {
        read(&Source::new("natwerk.toml", text.to_owned()), Path::new("/etc/natwerk"))
    }

    const SHORTEST: &str = "rules = []\n[[interface]]\nname = \"eth0\"\nrole = \"guest\"\n";

    #[test]
    fn what_is_left_out_is_as_documented() {
        let config = read_text(SHORTEST).unwrap();
        let interface = Interface {
            name: "eth0".to_owned(),
            role: Role::Guest,
            checksum: ChecksumMode::DetectPartial,
            kernel_vlans: Vec::new(),
        };
        assert_eq!(config, Config { interfaces: vec![interface], ..Config::default() });
        assert_eq!(config.sessions.max, 1_048_576);
        assert_eq!(config.sessions.per_guest, 65_536);
        assert_eq!(config.state_dir, Path::new("/run/natwerk"));
        assert_eq!(config.control_socket, Path::new("/run/natwerk/control.sock"));
        assert_eq!(config.icmp_errors_per_second, 1000);
    }

    #[test]
    fn empty_tables_are_as_good_as_none() {
        let text = format!("{SHORTEST}[workers]\n[sessions]\n[timeouts]\n[icmp]\n");
        assert_eq!(read_text(&text), read_text(SHORTEST));
    }

    #[test]
    fn everything_that_can_be_said_is_heard() {
        let text = r#"
            rules = ["rules.json", "/srv/rules", "cloudstack:bags"]
            state_dir = "/var/lib/natwerk"
            control_socket = "/tmp/control.sock"
            metrics_listen = "127.0.0.1:9478"
            manage_addresses = true
            [[interface]]
            name = "eth2"
            role = "public"
            checksum = "incremental"
            kernel_vlans = [7, 4094]
            [workers]
            count = 4
            mode = "zero-copy"
            hook = "xdp"
            spin = true
            frames = 8192
            shortcuts = 1024
            on_stop = "hold"
            [sessions]
            max = 1000
            per_guest = 0
            ports_per_guest = 9
            on_rule_removal = "keep"
            [timeouts]
            tcp_established = 1
            tcp_transitory = 2
            udp = 3
            udp_single_exchange = 4
            udp_single_ports = [53, "123"]
            udp_ports = { "5060" = 60, "500" = 50 }
            icmp = 5
            other = 6
            fragment = 7
            port_hold = 0
            refresh_inbound = true
            [icmp]
            errors_per_second = 0
            [events]
            collector = "192.0.2.9:4739"
            sessions = true
            [cloudstack]
            command_files = "commands"
            unmatched_vpc_egress = "allow"
            load_balancing = "haproxy"
        "#;
        let seconds = Duration::from_secs;
        let expected = Config {
            rules: ["/etc/natwerk/rules.json", "/srv/rules", "cloudstack:/etc/natwerk/bags"]
                .map(str::to_owned)
                .to_vec(),
            state_dir: "/var/lib/natwerk".into(),
            control_socket: "/tmp/control.sock".into(),
            metrics_listen: Some("127.0.0.1:9478".parse().unwrap()),
            manage_addresses: true,
            interfaces: vec![Interface {
                name: "eth2".to_owned(),
                role: Role::Public,
                checksum: ChecksumMode::Incremental,
                kernel_vlans: vec![7, 4094],
            }],
            workers: Workers {
                count: Some(4),
                mode: XdpMode::ZeroCopy,
                hook: Hook::Xdp,
                spin: true,
                frames: 8192,
                shortcuts: Some(1024),
                on_stop: OnStop::Hold,
            },
            sessions: Sessions {
                max: 1000,
                max_ipv6: 1 << 16,
                per_guest: 0,
                ports_per_guest: 9,
                on_rule_removal: OnRuleRemoval::Keep,
            },
            timeouts: Timeouts {
                tcp_established: seconds(1),
                tcp_transitory: seconds(2),
                udp: seconds(3),
                udp_single_exchange: seconds(4),
                udp_single_ports: vec![53, 123],
                udp_ports: vec![(5060, seconds(60)), (500, seconds(50))],
                icmp: seconds(5),
                other: seconds(6),
                fragment: seconds(7),
                port_hold: seconds(0),
                refresh_inbound: true,
            },
            events: Some(EventExport {
                collector: "192.0.2.9:4739".parse().unwrap(),
                sessions: true,
            }),
            icmp_errors_per_second: 0,
            sources: sources::Options {
                cloudstack: sources::cloudstack::Options {
                    unmatched_vpc_egress: Action::Allow,
                    load_balancing: sources::cloudstack::LoadBalancing::Haproxy,
                    command_files: Some("/etc/natwerk/commands".into()),
                },
            },
        };
        assert_eq!(read_text(text), Ok(expected));
    }

    #[test]
    fn the_word_auto_is_one_worker_per_queue_pair() {
        let config = read_text(&format!("{SHORTEST}[workers]\ncount = \"auto\"\n")).unwrap();
        assert_eq!(config.workers.count, None);
    }

    #[test]
    fn more_interfaces_than_there_are_port_numbers_are_refused() {
        let one = |index| format!("[[interface]]\nname = \"eth{index}\"\nrole = \"guest\"\n");
        let text = |count| format!("rules = []\n{}", (0..count).map(one).collect::<String>());
        assert!(read_text(&text(INTERFACES_MAX)).is_ok());
        let faults = read_text(&text(INTERFACES_MAX + 1)).unwrap_err();
        assert_eq!(faults[0].what, "33 interfaces where 32 are possible");
    }

    #[test]
    fn the_documented_defaults_are_the_ones_that_hold() {
        let schema = crate::config::schema();
        let default = |section: &str, field: &str| {
            schema["$defs"][section]["properties"][field]["default"].clone()
        };
        let (workers, sessions) = (Workers::default(), Sessions::default());
        assert_eq!(default("workers", "frames"), workers.frames);
        assert_eq!(default("sessions", "max"), sessions.max);
        assert_eq!(default("sessions", "per_guest"), sessions.per_guest);
        assert_eq!(default("sessions", "ports_per_guest"), sessions.ports_per_guest);
        let timeouts = Timeouts::default();
        for (field, value) in [
            ("tcp_established", timeouts.tcp_established),
            ("tcp_transitory", timeouts.tcp_transitory),
            ("udp", timeouts.udp),
            ("udp_single_exchange", timeouts.udp_single_exchange),
            ("icmp", timeouts.icmp),
            ("other", timeouts.other),
            ("fragment", timeouts.fragment),
            ("port_hold", timeouts.port_hold),
        ] {
            assert_eq!(default("timeouts", field), value.as_secs(), "{field}");
        }
        assert_eq!(default("icmp", "errors_per_second"), Config::default().icmp_errors_per_second);
    }
}
