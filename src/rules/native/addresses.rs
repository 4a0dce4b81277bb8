//! Public addresses and guest networks.

use std::time::Duration;

use super::encapsulation::{OUTER_TAG, VXLAN, outer_tag, vxlan};
use super::ipv6::{NETWORK_IPV6, network_ipv6};
use super::{Draft, NAME};
use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::scalars::address;
use crate::rules::set::{
    Action, FilteringBehavior, Limits, MappingType, MssClamp, NatOptions, Network, PublicIp,
};
use crate::rules::tree::Node;

/// `public_ips[]`.
pub static PUBLIC_IP: Section = Section {
    name: "a public address",
    about: "An address of the public side that is the router's.",
    fields: &[
        required("address", Kind::Address, "The address."),
        required("prefix_len", Kind::Integer(0, 32), "The prefix length of its segment."),
        required("interface", NAME, "The public interface it is on."),
        optional("vlan", VLAN, "0", "The VLAN it is on; 0 for untagged."),
        optional("gateway", Kind::Address, "", "The upstream router, if anything lies beyond."),
        optional(
            "ingress_default",
            ACTION,
            "\"deny\"",
            "What happens to what no firewall rule matches.",
        ),
        optional(
            "firewall_before_acl",
            Kind::Boolean,
            "false",
            "Whether its firewall rules are asked before the ACL of a network behind it, too; else a network's \
             ACL decides alone.",
        ),
        optional(
            "echo_reply",
            Kind::Boolean,
            "",
            "Whether the router answers pings to it; left out, the firewall rules decide.",
        ),
    ],
};

/// `networks[]`.
pub static NETWORK: Section = Section {
    name: "a network",
    about: "A guest network.",
    fields: &[
        required("name", NAME, "The network's name, unique."),
        required("interface", NAME, "The guest interface it is on."),
        optional("vlan", VLAN, "0", "The VLAN it is on; 0 for untagged."),
        optional(
            "outer_tag",
            Kind::Table(&OUTER_TAG),
            "",
            "The tag in front of \"vlan\", if there are two.",
        ),
        optional("vxlan", Kind::Table(&VXLAN), "", "Of a network inside VXLAN: where it is."),
        required("cidr", Kind::Cidr, "The network's prefix."),
        required("gateway", Kind::Address, "The router's address in the network."),
        optional("ipv6", Kind::Table(&NETWORK_IPV6), "", "Its IPv6 side, if it has one."),
        optional("mtu", Kind::Integer(576, 9216), "", "Its MTU; left out, the interface's."),
        optional(
            "domain",
            NAME,
            "",
            "Networks of one domain route to each other; left out, the network is a domain of its own.",
        ),
        optional(
            "source_nat",
            Kind::List(&Kind::Address),
            "[]",
            "The public addresses that guests leave with; without any the network is routed.",
        ),
        optional(
            "egress_default",
            ACTION,
            "\"allow\"",
            "What happens to what no egress rule matches. Without rules guests may go out.",
        ),
        optional(
            "egress_reject",
            Kind::Boolean,
            "false",
            "Whether guests are told of refused packets (ICMP 3/13) rather than met with silence.",
        ),
        optional("nat", Kind::Table(&NAT), "{}", "How source NAT behaves."),
        optional("limits", Kind::Table(&LIMITS), "{}", "What its guests may use."),
        optional(
            "mss_clamp",
            Kind::IntegerOr(64, 65495, "path-mtu"),
            "",
            "The largest TCP MSS let through, or \"path-mtu\"; left out, segments are not touched.",
        ),
        optional(
            "anti_spoofing",
            Kind::Boolean,
            "true",
            "Whether packets from sources outside the network are dropped.",
        ),
    ],
};

/// `networks[].nat`.
pub static NAT: Section = Section {
    name: "nat",
    about: "How source NAT behaves; names follow RFC 8512.",
    fields: &[
        optional(
            "mapping_type",
            Kind::Choice(&["endpoint-independent", "address-and-port-dependent"]),
            "\"endpoint-independent\"",
            "Whether a guest's port keeps one public port for all remotes (RFC 4787, section 4.1).",
        ),
        optional(
            "filtering_type",
            Kind::Choice(&[
                "endpoint-independent",
                "address-dependent",
                "address-and-port-dependent",
            ]),
            "\"address-and-port-dependent\"",
            "Who may send back to a public port (RFC 4787, section 5).",
        ),
        optional("port_range", Kind::Ports, "\"1-65535\"", "Public ports that may be given out."),
        optional(
            "overload",
            Kind::Boolean,
            "true",
            "Whether ports are shared between remotes once none is free.",
        ),
        optional(
            "hold_down_timeout",
            Kind::Integer(0, 86_400),
            "",
            "Seconds a freed port rests before another guest gets it; left out, the configuration's port_hold.",
        ),
        optional(
            "hairpinning",
            Kind::Boolean,
            "true",
            "Whether guests reach each other through public addresses.",
        ),
        optional(
            "gateway_source_nat",
            Kind::Boolean,
            "false",
            "Whether sessions that other networks of the domain open into this one, or behind its routes, come from \
             the router's address in it (`gateway`), as from a private gateway whose other side has no route back.",
        ),
        optional(
            "pptp",
            Kind::Boolean,
            "false",
            "Whether GRE of PPTP is told apart by call id, so that several guests may call one server: replies on \
             control connections to port 1723 are read, never changed.",
        ),
        optional(
            "exempt_destinations",
            Kind::List(&Kind::Cidr),
            "[]",
            "Destinations that are not translated.",
        ),
        optional(
            "kernel_destinations",
            Kind::List(&Kind::Cidr),
            "[]",
            "Destinations that the router's own kernel reaches, as those behind its VPNs: packets to them \
             go to it untranslated, if egress lets them.",
        ),
    ],
};

/// `networks[].limits`.
pub static LIMITS: Section = Section {
    name: "limits",
    about: "What the guests of a network may use; 0 means no limit.",
    fields: &[
        optional(
            "sessions_per_guest",
            Kind::Integer(0, 0xffff_ffff),
            "",
            "Concurrent sessions of one guest; left out, the configuration's.",
        ),
        optional(
            "ports_per_guest",
            Kind::Integer(0, 0xffff_ffff),
            "",
            "External ports of each protocol that one guest may have; left out, the configuration's.",
        ),
        optional(
            "mappings_per_guest",
            Kind::Integer(0, 0xffff_ffff),
            "0",
            "Mappings of one guest, over all protocols.",
        ),
        optional(
            "new_sessions_per_second",
            Kind::Integer(0, 0xffff_ffff),
            "0",
            "New sessions of one guest per second.",
        ),
        optional(
            "bandwidth_kbit_per_second",
            Kind::Integer(0, 1_000_000_000_000),
            "0",
            "Bandwidth of the whole network, each way.",
        ),
        optional(
            "packets_per_second",
            Kind::Integer(0, 1_000_000_000),
            "0",
            "Packets of the whole network, each way.",
        ),
        optional(
            "guest_bandwidth_kbit_per_second",
            Kind::Integer(0, 1_000_000_000_000),
            "0",
            "Bandwidth of one guest, each way.",
        ),
        optional(
            "guest_packets_per_second",
            Kind::Integer(0, 1_000_000_000),
            "0",
            "Packets of one guest, each way.",
        ),
    ],
};

pub(super) const ACTION: Kind = Kind::Choice(&["allow", "deny"]);
pub(super) const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("deny", Action::Deny)];

pub(super) const VLAN: Kind = Kind::Integer(0, 4094);

const MAPPINGS: [(&str, MappingType); 2] = [
    ("endpoint-independent", MappingType::EndpointIndependent),
    ("address-and-port-dependent", MappingType::AddressAndPortDependent),
];

const FILTERINGS: [(&str, FilteringBehavior); 3] = [
    ("endpoint-independent", FilteringBehavior::EndpointIndependent),
    ("address-dependent", FilteringBehavior::AddressDependent),
    ("address-and-port-dependent", FilteringBehavior::AddressAndPortDependent),
];

pub(super) fn read_public_ips(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        match Fields::open(node, &PUBLIC_IP, faults) {
            Some(fields) => read_public_ip(&fields, draft, faults),
            None => draft.unread.any_address = true,
        }
    }
}

fn read_public_ip(fields: &Fields<'_, '_>, draft: &mut Draft, faults: &mut Faults<'_>) {
    let address = fields.address("address", faults);
    let prefix_len = fields.integer("prefix_len", faults);
    let interface = fields.text("interface", faults);
    let vlan = fields.integer("vlan", faults);
    let gateway = fields.address("gateway", faults);
    let ingress_default = fields.choice("ingress_default", &ACTIONS, faults);
    let firewall_before_acl = fields.boolean("firewall_before_acl", faults);
    let echo_reply = fields.boolean("echo_reply", faults);
    let Some(address) = address else {
        draft.unread.any_address = true;
        return;
    };
    let (Some(prefix_len), Some(interface)) = (prefix_len, interface) else {
        draft.unread.addresses.insert(address);
        return;
    };
    draft.set.public_ips.push(PublicIp {
        address,
        prefix_len,
        interface: interface.to_owned(),
        vlan: vlan.unwrap_or(0),
        gateway,
        ingress_default: ingress_default.unwrap_or(Action::Deny),
        firewall_before_acl: firewall_before_acl.unwrap_or(false),
        echo_reply,
        place: faults.source().place(fields.at),
    });
    draft.spots.public_ips.push(draft.file, fields.places());
}

pub(super) fn read_networks(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        match Fields::open(node, &NETWORK, faults) {
            Some(fields) => read_network(&fields, draft, faults),
            None => draft.unread.any_network = true,
        }
    }
}

fn read_network(fields: &Fields<'_, '_>, draft: &mut Draft, faults: &mut Faults<'_>) {
    let name = fields.text("name", faults);
    let interface = fields.text("interface", faults);
    let vlan = fields.integer("vlan", faults);
    let outer_tag = fields.table("outer_tag", faults).and_then(|it| outer_tag(&it, faults));
    let vxlan = fields.table("vxlan", faults).and_then(|it| vxlan(&it, faults));
    let cidr = fields.cidr("cidr", faults);
    let gateway = fields.address("gateway", faults);
    let ipv6 = fields.table("ipv6", faults).and_then(|fields| network_ipv6(&fields, faults));
    let mtu = fields.integer("mtu", faults);
    let domain = fields.text("domain", faults);
    let pool = fields.list("source_nat", faults);
    let source_nat = pool.iter().filter_map(|node| address(node, faults)).collect();
    let egress_default = fields.choice("egress_default", &ACTIONS, faults);
    let egress_reject = fields.boolean("egress_reject", faults);
    let nat = fields.table("nat", faults).map(|fields| nat_options(&fields, faults));
    let limits = fields.table("limits", faults).map(|fields| limits(&fields, faults));
    let mss_clamp = fields.integer_or("mss_clamp", faults);
    let anti_spoofing = fields.boolean("anti_spoofing", faults);
    let Some(name) = name else {
        draft.unread.any_network = true;
        return;
    };
    let (Some(interface), Some(cidr), Some(gateway)) = (interface, cidr, gateway) else {
        draft.unread.names.insert(name.to_owned());
        draft.unread.names.extend(domain.map(str::to_owned));
        return;
    };
    draft.set.networks.push(Network {
        name: name.to_owned(),
        interface: interface.to_owned(),
        vlan: vlan.unwrap_or(0),
        outer_tag,
        vxlan,
        cidr,
        gateway,
        ipv6,
        mtu,
        domain: domain.map(str::to_owned),
        source_nat,
        egress_default: egress_default.unwrap_or(Action::Allow),
        egress_reject: egress_reject.unwrap_or(false),
        nat: nat.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        mss_clamp: mss_clamp.map(|bytes| bytes.map_or(MssClamp::PathMtu, MssClamp::To)),
        anti_spoofing: anti_spoofing.unwrap_or(true),
        place: faults.source().place(fields.at),
    });
    draft.spots.networks.push(draft.file, fields.places());
}

fn nat_options(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> NatOptions {
    let default = NatOptions::default();
    NatOptions {
        mapping: fields.choice("mapping_type", &MAPPINGS, faults).unwrap_or(default.mapping),
        filtering: fields
            .choice("filtering_type", &FILTERINGS, faults)
            .unwrap_or(default.filtering),
        ports: fields.ports("port_range", faults).unwrap_or(default.ports),
        overload: fields.boolean("overload", faults).unwrap_or(default.overload),
        hold: fields.integer("hold_down_timeout", faults).map(|seconds| {
            let seconds: u32 = seconds;
            Duration::from_secs(u64::from(seconds))
        }),
        hairpinning: fields.boolean("hairpinning", faults).unwrap_or(default.hairpinning),
        gateway_source_nat: fields.boolean("gateway_source_nat", faults).unwrap_or(false),
        pptp: fields.boolean("pptp", faults).unwrap_or(default.pptp),
        exempt: fields.cidrs("exempt_destinations", faults),
        kernel: fields.cidrs("kernel_destinations", faults),
    }
}

fn limits(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Limits {
    Limits {
        sessions_per_guest: fields.integer("sessions_per_guest", faults),
        ports_per_guest: fields.integer("ports_per_guest", faults),
        mappings_per_guest: fields.integer("mappings_per_guest", faults).unwrap_or(0),
        new_sessions_per_second: fields.integer("new_sessions_per_second", faults).unwrap_or(0),
        bandwidth_kbit_per_second: fields.integer("bandwidth_kbit_per_second", faults).unwrap_or(0),
        packets_per_second: fields.integer("packets_per_second", faults).unwrap_or(0),
        guest_bandwidth_kbit_per_second: fields
            .integer("guest_bandwidth_kbit_per_second", faults)
            .unwrap_or(0),
        guest_packets_per_second: fields.integer("guest_packets_per_second", faults).unwrap_or(0),
    }
}
