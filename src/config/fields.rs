//! The fields of `natwerk.toml`, as tables that the reader obeys and the schema prints.

use crate::rules::fields::{Kind, Section, optional, required};

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
        optional("events", Kind::Table(&EVENTS), "", "Export of NAT events; left out, none."),
        optional("cloudstack", Kind::Table(&CLOUDSTACK), "{}", "How CloudStack's files are read."),
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
        optional(
            "kernel_vlans",
            Kind::List(&Kind::Integer(1, 4094)),
            "[]",
            "VLANs whose frames are the kernel's, beside those that it has VLAN interfaces for; frames \
             under tags that neither it nor the rules know are dropped.",
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
        optional(
            "hook",
            Kind::Choice(&["auto", "xdp", "tc"]),
            "\"auto\"",
            "Where packets of veths are taken, if there are shortcuts: \"tc\" is the kernel's traffic control, which \
             leaves large TCP segments whole; \"auto\" is that, but XDP while most packets come as XDP frames.",
        ),
        optional("spin", Kind::Boolean, "false", "Whether a worker never sleeps."),
        optional(
            "frames",
            Kind::Integer(1024, 1 << 20),
            "16384",
            "Frames of memory per worker; a power of two.",
        ),
        optional(
            "shortcuts",
            Kind::IntegerOr(0, 1 << 24, "auto"),
            "\"auto\"",
            "Flows of each interface that natwerk's programs in the kernel may forward by themselves, at 89 bytes each: a power of \
             two, or 0 for none; \"auto\" is a quarter of `sessions.max`, shared out among the interfaces. In copy mode only.",
        ),
        optional(
            "on_stop",
            Kind::Choice(&["release", "hold"]),
            "\"release\"",
            "Whether a stop gives the interfaces back to the kernel, or drops what was natwerk's until the next start.",
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
            "max_ipv6",
            Kind::Integer(1, 1 << 28),
            "65536",
            "Sessions the table of IPv6 holds; each takes twice the memory.",
        ),
        optional(
            "per_guest",
            Kind::Integer(0, 1 << 28),
            "65536",
            "Sessions one guest may have; 0 means no limit.",
        ),
        optional(
            "ports_per_guest",
            Kind::Integer(0, 1 << 28),
            "32768",
            "External ports of each protocol that one guest may have; 0 means no limit.",
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

/// `[events]`.
pub static EVENTS: Section = Section {
    name: "[events]",
    about: "Export of NAT events (RFC 8158) as IPFIX over UDP: mappings, exhausted ports, exceeded limits.",
    fields: &[
        required("collector", Kind::Socket, "The address and port of the collector."),
        optional(
            "sessions",
            Kind::Boolean,
            "false",
            "Whether every session is told of, which tells guests' destinations.",
        ),
    ],
};

/// `[cloudstack]`.
pub static CLOUDSTACK: Section = Section {
    name: "[cloudstack]",
    about: "How CloudStack's files are read where its versions differ.",
    fields: &[
        optional(
            "command_files",
            PATH,
            "",
            "Where the management server's command files land; left out, beside the data bags, and \
             in /var/cache/cloud for those in /etc/cloudstack.",
        ),
        optional(
            "load_balancing",
            Kind::Choice(&["auto", "haproxy"]),
            "\"auto\"",
            "Who balances load: natwerk what it can and haproxy on the router the rest, or all haproxy.",
        ),
        optional(
            "unmatched_vpc_egress",
            Kind::Choice(&["allow", "deny"]),
            "\"deny\"",
            "What happens to what no entry of a VPC tier's egress list matches; 4.22 allowed it.",
        ),
    ],
};

const PATH: Kind = Kind::Text(4096);
pub(super) const YEAR: i64 = 365 * 86_400;
const SECONDS: Kind = Kind::Integer(1, YEAR);

/// The kernel's IFNAMSIZ, without the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
