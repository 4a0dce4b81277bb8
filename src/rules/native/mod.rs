//! The native rule file: its fields, and how they become rules.

mod address_limits;
mod addresses;
mod encapsulation;
mod filters;
mod interface_filters;
mod ipv6;
mod policy_routes;
mod services;

use std::collections::HashSet;
use std::net::Ipv4Addr;

pub use address_limits::ADDRESS_LIMIT;
pub use addresses::{NETWORK, PUBLIC_IP};
pub use filters::{EGRESS_RULE, FIREWALL_RULE, NETWORK_ACL};
pub use interface_filters::INTERFACE_FILTER;
pub use ipv6::{IPV6_FIREWALL_RULE, IPV6_ROUTE, PUBLIC_IPV6};
pub use policy_routes::POLICY_ROUTE;
pub use services::{LOAD_BALANCER, LOCAL_SERVICE, MEMBER, PORT_FORWARD, ROUTE, STATIC_NAT};

use super::fields::{Kind, Section, optional, required};
use super::reader::{Faults, Fields, Format};
use super::set::RuleSet;
use super::source::Source;
use super::spots::SectionSpots;
use super::tree::Node;
use super::{from_json, from_toml};
use crate::rules::diagnostic::Diagnostic;

/// The rule file itself.
pub static RULE_FILE: Section = Section {
    name: "the rule file",
    about: "What a natwerk router forwards, translates and filters.",
    fields: &[
        optional("$schema", Kind::Text(1024), "", "Where the schema lies, for editors."),
        required("version", Kind::Integer(1, 1), "The version of this format: 1."),
        optional("public_ips", Kind::List(&Kind::Table(&PUBLIC_IP)), "[]", "Public addresses."),
        optional(
            "public_ipv6",
            Kind::List(&Kind::Table(&PUBLIC_IPV6)),
            "[]",
            "The router's IPv6 addresses on the public side.",
        ),
        optional(
            "address_limits",
            Kind::List(&Kind::Table(&ADDRESS_LIMIT)),
            "[]",
            "What may pass by public addresses and their ports.",
        ),
        optional("networks", Kind::List(&Kind::Table(&NETWORK)), "[]", "Guest networks."),
        optional(
            "egress_rules",
            Kind::List(&Kind::Table(&EGRESS_RULE)),
            "[]",
            "What guests may reach; the first rule of the network that matches decides.",
        ),
        optional(
            "firewall_rules",
            Kind::List(&Kind::Table(&FIREWALL_RULE)),
            "[]",
            "Who may reach a public address, before translation.",
        ),
        optional(
            "ipv6_firewall_rules",
            Kind::List(&Kind::Table(&IPV6_FIREWALL_RULE)),
            "[]",
            "Who may open IPv6 sessions to guests.",
        ),
        optional(
            "ipv6_routes",
            Kind::List(&Kind::Table(&IPV6_ROUTE)),
            "[]",
            "Static routes to IPv6 prefixes behind guests.",
        ),
        optional(
            "interface_filters",
            Kind::List(&Kind::Table(&INTERFACE_FILTER)),
            "[]",
            "What may be forwarded through an interface.",
        ),
        optional(
            "port_forwards",
            Kind::List(&Kind::Table(&PORT_FORWARD)),
            "[]",
            "Public ports that lead to a guest.",
        ),
        optional(
            "static_nats",
            Kind::List(&Kind::Table(&STATIC_NAT)),
            "[]",
            "Public addresses that belong to one guest.",
        ),
        optional(
            "load_balancers",
            Kind::List(&Kind::Table(&LOAD_BALANCER)),
            "[]",
            "Public ports that lead to several guests.",
        ),
        optional(
            "network_acls",
            Kind::List(&Kind::Table(&NETWORK_ACL)),
            "[]",
            "What may enter and leave a network, instead of egress and firewall rules.",
        ),
        optional(
            "routes",
            Kind::List(&Kind::Table(&ROUTE)),
            "[]",
            "Static routes inside a domain.",
        ),
        optional(
            "policy_routes",
            Kind::List(&Kind::Table(&POLICY_ROUTE)),
            "[]",
            "Routes of their own for some of what guests send, in order.",
        ),
        optional(
            "local_services",
            Kind::List(&Kind::Table(&LOCAL_SERVICE)),
            "[]",
            "Services of the router's own kernel on public addresses.",
        ),
    ],
};

/// A domain or network name, an id, an interface.
const NAME: Kind = Kind::Text(128);

/// Rules as they were read: each is well formed, not yet checked against the others.
#[derive(Debug, Default)]
pub struct Draft {
    /// The rules.
    pub set: RuleSet,
    /// Where their fields stand.
    pub spots: Spots,
    /// What faulty entries would have defined.
    pub unread: Unread,
    /// The file being read: its place in the list of sources.
    file: u32,
}

/// Where the fields of the rules stand.
#[derive(Debug, Default)]
pub struct Spots {
    /// Of `public_ips`.
    pub public_ips: SectionSpots,
    /// Of `public_ipv6`.
    pub public_ipv6: SectionSpots,
    /// Of `address_limits`.
    pub address_limits: SectionSpots,
    /// Of `networks`.
    pub networks: SectionSpots,
    /// Of `egress_rules`.
    pub egress_rules: SectionSpots,
    /// Of `firewall_rules`.
    pub firewall_rules: SectionSpots,
    /// Of `ipv6_firewall_rules`.
    pub ipv6_firewall_rules: SectionSpots,
    /// Of `ipv6_routes`.
    pub ipv6_routes: SectionSpots,
    /// Of `interface_filters`.
    pub interface_filters: SectionSpots,
    /// Of `port_forwards`.
    pub port_forwards: SectionSpots,
    /// Of `static_nats`.
    pub static_nats: SectionSpots,
    /// Of `load_balancers`.
    pub load_balancers: SectionSpots,
    /// Of the `members` of all load balancers, one after the other.
    pub members: SectionSpots,
    /// Of `network_acls`.
    pub network_acls: SectionSpots,
    /// Of `routes`.
    pub routes: SectionSpots,
    /// Of `policy_routes`.
    pub policy_routes: SectionSpots,
    /// Of `local_services`.
    pub local_services: SectionSpots,
}

/// What entries with faults would have defined, so that one fault does not cause others.
#[derive(Debug, Default)]
pub struct Unread {
    /// Their addresses.
    pub addresses: HashSet<Ipv4Addr>,
    /// Their names and domains.
    pub names: HashSet<String>,
    /// Whether there may be addresses nobody knows.
    pub any_address: bool,
    /// Whether there may be networks nobody knows.
    pub any_network: bool,
    /// Whether there may be rules nobody knows.
    pub any_rule: bool,
}

/// Reads one file into `draft`; `file` is its place in the list of sources. Returns its faults.
pub fn read(source: &Source, format: Format, file: u32, draft: &mut Draft) -> Vec<Diagnostic> {
    draft.file = file;
    let parsed = match format {
        Format::Json => from_json::parse(source.text()),
        Format::Toml => from_toml::parse(source.text()),
    };
    let mut faults = Faults::of_syntax(source, format, &parsed);
    // What stands behind a fault of syntax may be lost, definitions included.
    draft.unread.any_address |= !parsed.whole;
    draft.unread.any_network |= !parsed.whole;
    if let Some(root) = &parsed.root {
        read_root(root, draft, &mut faults);
    }
    faults.into_list()
}

fn read_root(root: &Node<'_>, draft: &mut Draft, faults: &mut Faults<'_>) {
    let Some(fields) = Fields::open(root, &RULE_FILE, faults) else {
        draft.unread.any_address = true;
        draft.unread.any_network = true;
        return;
    };
    fields.text("$schema", faults);
    fields.integer::<u8>("version", faults);
    addresses::read_public_ips(fields.list("public_ips", faults), draft, faults);
    ipv6::read_public_ipv6(fields.list("public_ipv6", faults), draft, faults);
    address_limits::read(fields.list("address_limits", faults), draft, faults);
    addresses::read_networks(fields.list("networks", faults), draft, faults);
    filters::read_egress_rules(fields.list("egress_rules", faults), draft, faults);
    filters::read_firewall_rules(fields.list("firewall_rules", faults), draft, faults);
    ipv6::read_firewall_rules(fields.list("ipv6_firewall_rules", faults), draft, faults);
    ipv6::read_routes(fields.list("ipv6_routes", faults), draft, faults);
    interface_filters::read(fields.list("interface_filters", faults), draft, faults);
    services::read_port_forwards(fields.list("port_forwards", faults), draft, faults);
    services::read_static_nats(fields.list("static_nats", faults), draft, faults);
    services::read_load_balancers(fields.list("load_balancers", faults), draft, faults);
    filters::read_network_acls(fields.list("network_acls", faults), draft, faults);
    services::read_routes(fields.list("routes", faults), draft, faults);
    policy_routes::read(fields.list("policy_routes", faults), draft, faults);
    services::read_local_services(fields.list("local_services", faults), draft, faults);
}
