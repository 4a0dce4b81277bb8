//! IPv6: the public side's addresses, a network's prefix, and who may come in.

use super::addresses::{ACTION, ACTIONS, VLAN};
use super::filters::{ICMP, ICMP_CODE_ABOUT, ICMP_TYPE_ABOUT, PROTOCOL_ABOUT, matches};
use super::{Draft, NAME};
use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::set::{Action, Ipv6FirewallRule, Ipv6Route, NetworkIpv6, PublicIpv6};
use crate::rules::tree::Node;

/// `public_ipv6[]`.
pub static PUBLIC_IPV6: Section = Section {
    name: "a public IPv6 address",
    about: "An IPv6 address of the router on the public side.",
    fields: &[
        required("address", Kind::AddressIpv6, "The address."),
        required("prefix_len", Kind::Integer(1, 128), "The prefix length of its segment."),
        required("interface", NAME, "The public interface it is on."),
        optional("vlan", VLAN, "0", "The VLAN it is on; 0 for untagged."),
        optional("gateway", Kind::AddressIpv6, "", "The upstream router; it may be link-local."),
    ],
};

/// `networks[].ipv6`.
pub static NETWORK_IPV6: Section = Section {
    name: "ipv6",
    about: "The IPv6 side of a network: routed, never translated.",
    fields: &[
        required("cidr", Kind::CidrIpv6, "The network's prefix, no part of any other network's."),
        required("gateway", Kind::AddressIpv6, "The router's address in the network."),
    ],
};

/// `ipv6_firewall_rules[]`.
pub static IPV6_FIREWALL_RULE: Section = Section {
    name: "an IPv6 firewall rule",
    about: "Lets IPv6 sessions in to guests, or stops them; the first match in order decides, then deny.",
    fields: &[
        required("id", NAME, "The rule's id, unique among IPv6 firewall rules."),
        required("network", NAME, "The network it belongs to."),
        optional("action", ACTION, "\"allow\"", "What it does with what it matches."),
        optional("protocol", Kind::ProtocolOrAll, "\"all\"", PROTOCOL_ABOUT),
        optional("ports", Kind::Ports, "", "The destination ports; left out, all."),
        optional("icmp_type", ICMP, "-1", ICMP_TYPE_ABOUT),
        optional("icmp_code", ICMP, "-1", ICMP_CODE_ABOUT),
        optional("sources", Kind::List(&Kind::CidrIpv6), "[]", "Who it is about; empty, all."),
        optional("destinations", Kind::List(&Kind::CidrIpv6), "[]", "The guests; empty, all."),
    ],
};

/// `ipv6_routes[]`.
pub static IPV6_ROUTE: Section = Section {
    name: "an IPv6 route",
    about: "A static route to what lies behind a guest.",
    fields: &[
        required("destination", Kind::CidrIpv6, "What it leads to."),
        required("via", Kind::AddressIpv6, "The next hop, in the prefix of a network."),
    ],
};

pub(super) fn read_public_ipv6(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &PUBLIC_IPV6, faults) else { continue };
        if let Some(address) = public_ipv6(&fields, faults) {
            draft.set.public_ipv6.push(address);
            draft.spots.public_ipv6.push(draft.file, fields.places());
        }
    }
}

fn public_ipv6(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<PublicIpv6> {
    let address = fields.address_ipv6("address", faults);
    let prefix_len = fields.integer("prefix_len", faults);
    let interface = fields.text("interface", faults);
    let vlan = fields.integer("vlan", faults);
    let gateway = fields.address_ipv6("gateway", faults);
    Some(PublicIpv6 {
        address: address?,
        prefix_len: prefix_len?,
        interface: interface?.to_owned(),
        vlan: vlan.unwrap_or(0),
        gateway,
        place: faults.source().place(fields.at),
    })
}

pub(super) fn network_ipv6(
    fields: &Fields<'_, '_>,
    faults: &mut Faults<'_>,
) -> Option<NetworkIpv6> {
    let cidr = fields.cidr("cidr", faults);
    let gateway = fields.address_ipv6("gateway", faults);
    Some(NetworkIpv6 { cidr: cidr?, gateway: gateway? })
}

pub(super) fn read_routes(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &IPV6_ROUTE, faults) else { continue };
        let destination = fields.cidr("destination", faults);
        let via = fields.address_ipv6("via", faults);
        let (Some(destination), Some(via)) = (destination, via) else { continue };
        let place = faults.source().place(fields.at);
        draft.set.ipv6_routes.push(Ipv6Route { destination, via, place });
        draft.spots.ipv6_routes.push(draft.file, fields.places());
    }
}

pub(super) fn read_firewall_rules(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &IPV6_FIREWALL_RULE, faults) else { continue };
        if let Some(rule) = firewall_rule(&fields, faults) {
            draft.set.ipv6_firewall_rules.push(rule);
            draft.spots.ipv6_firewall_rules.push(draft.file, fields.places());
        }
    }
}

fn firewall_rule(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<Ipv6FirewallRule> {
    let id = fields.text("id", faults);
    let network = fields.text("network", faults);
    let action = fields.choice("action", &ACTIONS, faults);
    let matches = matches(fields, faults);
    let sources = fields.cidrs("sources", faults);
    let destinations = fields.cidrs("destinations", faults);
    Some(Ipv6FirewallRule {
        id: id?.to_owned(),
        network: network?.to_owned(),
        action: action.unwrap_or(Action::Allow),
        matches: matches?,
        sources,
        destinations,
        place: faults.source().place(fields.at),
    })
}
