//! Egress rules, firewall rules and network ACLs.

use super::addresses::{ACTION, ACTIONS};
use super::{Draft, NAME};
use crate::flow::Protocol;
use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::set::{
    AclDirection, AclEntry, Action, EgressRule, FirewallRule, Match, NetworkAcl,
};
use crate::rules::tree::Node;

/// `egress_rules[]`.
pub static EGRESS_RULE: Section = Section {
    name: "an egress rule",
    about: "Lets guests of a network out, or stops them; the first match in order decides.",
    fields: &[
        required("id", NAME, "The rule's id, unique among egress rules."),
        required("network", NAME, "The network it belongs to."),
        required("action", ACTION, "What it does with what it matches."),
        optional("protocol", Kind::ProtocolOrAll, "\"all\"", PROTOCOL_ABOUT),
        optional("ports", Kind::Ports, "", "The destination ports; left out, all."),
        optional("icmp_type", ICMP, "-1", ICMP_TYPE_ABOUT),
        optional("icmp_code", ICMP, "-1", ICMP_CODE_ABOUT),
        optional(
            "sources",
            Kind::List(&Kind::AnyCidr),
            "[]",
            "The guests it is about; empty, all.",
        ),
        optional("destinations", Kind::List(&Kind::AnyCidr), "[]", "The destinations; empty, all."),
    ],
};

/// `firewall_rules[]`.
pub static FIREWALL_RULE: Section = Section {
    name: "a firewall rule",
    about: "Opens or closes a public address, by public port, before translation.",
    fields: &[
        required("id", NAME, "The rule's id, unique among firewall rules."),
        required("public_ip", Kind::Address, "The public address it belongs to."),
        optional("action", ACTION, "\"allow\"", "What it does with what it matches."),
        optional("protocol", Kind::ProtocolOrAll, "\"all\"", PROTOCOL_ABOUT),
        optional("ports", Kind::Ports, "", "The public ports; left out, all."),
        optional("icmp_type", ICMP, "-1", ICMP_TYPE_ABOUT),
        optional("icmp_code", ICMP, "-1", ICMP_CODE_ABOUT),
        optional("sources", Kind::List(&Kind::Cidr), "[]", "Who it is about; empty, everybody."),
    ],
};

/// `network_acls[]`.
pub static NETWORK_ACL: Section = Section {
    name: "a network ACL",
    about: "What may enter or leave a network: the first match by number, then deny.",
    fields: &[
        required("network", NAME, "The network it governs."),
        required("direction", Kind::Choice(&["egress", "ingress"]), "Which way it looks."),
        required("entries", Kind::List(&Kind::Table(&ACL_ENTRY)), "Its entries; may be empty."),
    ],
};

/// `network_acls[].entries[]`.
pub static ACL_ENTRY: Section = Section {
    name: "an ACL entry",
    about: "Allows or denies what it matches.",
    fields: &[
        required("number", Kind::Integer(0, 0xffff_ffff), "Its number, unique in its ACL."),
        required("action", ACTION, "What it does with what it matches."),
        optional("protocol", Kind::ProtocolOrAll, "\"all\"", PROTOCOL_ABOUT),
        optional("ports", Kind::Ports, "", "The destination ports; left out, all."),
        optional("icmp_type", ICMP, "-1", ICMP_TYPE_ABOUT),
        optional("icmp_code", ICMP, "-1", ICMP_CODE_ABOUT),
        optional(
            "guests",
            Kind::List(&Kind::AnyCidr),
            "[]",
            "The guests it is about: the destination of an ingress entry, the source of an egress entry.",
        ),
        optional(
            "cidr",
            Kind::CidrOrCidrs,
            "[]",
            "The other end: the source of an ingress entry, the destination of an egress entry; left out, all.",
        ),
    ],
};

pub(super) const PROTOCOL_ABOUT: &str =
    "The protocol, by name or number; \"all\" matches every protocol.";
pub(super) const ICMP_TYPE_ABOUT: &str = "The ICMP type; -1 matches every type.";
pub(super) const ICMP_CODE_ABOUT: &str = "The ICMP code; -1 matches every code.";
pub(super) const ICMP: Kind = Kind::Integer(-1, 255);

const DIRECTIONS: [(&str, AclDirection); 2] =
    [("egress", AclDirection::Egress), ("ingress", AclDirection::Ingress)];

pub(super) fn read_egress_rules(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &EGRESS_RULE, faults) else { continue };
        if let Some(rule) = egress_rule(&fields, faults) {
            draft.set.egress_rules.push(rule);
            draft.spots.egress_rules.push(draft.file, fields.places());
        }
    }
}

fn egress_rule(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<EgressRule> {
    let id = fields.text("id", faults);
    let network = fields.text("network", faults);
    let action = fields.choice("action", &ACTIONS, faults);
    let matches = matches(fields, faults);
    let sources = fields.prefixes("sources", faults);
    let destinations = fields.prefixes("destinations", faults);
    Some(EgressRule {
        id: id?.to_owned(),
        network: network?.to_owned(),
        action: action?,
        matches: matches?,
        sources,
        destinations,
        place: faults.source().place(fields.at),
    })
}

pub(super) fn read_firewall_rules(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &FIREWALL_RULE, faults) else { continue };
        if let Some(rule) = firewall_rule(&fields, faults) {
            draft.set.firewall_rules.push(rule);
            draft.spots.firewall_rules.push(draft.file, fields.places());
        }
    }
}

fn firewall_rule(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<FirewallRule> {
    let id = fields.text("id", faults);
    let public_ip = fields.address("public_ip", faults);
    let action = fields.choice("action", &ACTIONS, faults);
    let matches = matches(fields, faults);
    let sources = fields.cidrs("sources", faults);
    Some(FirewallRule {
        id: id?.to_owned(),
        public_ip: public_ip?,
        action: action.unwrap_or(Action::Allow),
        matches: matches?,
        sources,
        place: faults.source().place(fields.at),
    })
}

pub(super) fn read_network_acls(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &NETWORK_ACL, faults) else { continue };
        let network = fields.text("network", faults);
        let direction = fields.choice("direction", &DIRECTIONS, faults);
        let mut entries: Vec<AclEntry> = fields
            .list("entries", faults)
            .iter()
            .filter_map(|node| acl_entry(node, faults))
            .collect();
        entries.sort_by_key(|entry| entry.number);
        let (Some(network), Some(direction)) = (network, direction) else { continue };
        draft.set.network_acls.push(NetworkAcl {
            network: network.to_owned(),
            direction,
            entries,
            place: faults.source().place(fields.at),
        });
        draft.spots.network_acls.push(draft.file, fields.places());
    }
}

fn acl_entry(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<AclEntry> {
    let fields = Fields::open(node, &ACL_ENTRY, faults)?;
    let number = fields.integer("number", faults);
    let action = fields.choice("action", &ACTIONS, faults);
    let matches = matches(&fields, faults);
    let guests = fields.prefixes("guests", faults);
    let cidrs = fields.prefixes("cidr", faults);
    Some(AclEntry {
        number: number?,
        action: action?,
        matches: matches?,
        guests,
        cidrs,
        place: faults.source().place(fields.at),
    })
}

/// The transport part; ports and ICMP types must suit the protocol.
pub(super) fn matches(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<Match> {
    let protocol = match fields.protocol_or_all("protocol", faults) {
        None if fields.has("protocol") => None,
        None => Some(None),
        Some(protocol) => Some(protocol),
    };
    let ports = fields.ports("ports", faults);
    let icmp_type =
        fields.integer::<i16>("icmp_type", faults).and_then(|value| u8::try_from(value).ok());
    let icmp_code =
        fields.integer::<i16>("icmp_code", faults).and_then(|value| u8::try_from(value).ok());
    // Without a readable protocol nothing can be said about what suits it.
    let protocol = protocol?;
    let with_ports = protocol.is_some_and(|protocol| protocol.has_ports() && !protocol.is_icmp());
    if fields.has("ports") && !with_ports {
        let what = match protocol {
            None => "ports without a protocol that has ports".to_owned(),
            Some(protocol) => format!("protocol {protocol} has no ports"),
        };
        faults.error(
            fields.place_of("ports"),
            what,
            "name the protocol, such as \"tcp\" or \"udp\", or leave the ports out",
        );
        return None;
    }
    for (name, value) in [("icmp_type", icmp_type), ("icmp_code", icmp_code)] {
        if value.is_some() && !protocol.is_some_and(Protocol::is_icmp) {
            let what = format!("\"{name}\" without protocol icmp");
            faults.error(
                fields.place_of(name),
                what,
                "set \"protocol\" to \"icmp\" or \"icmpv6\", or leave it out",
            );
            return None;
        }
    }
    if icmp_code.is_some() && icmp_type.is_none() {
        faults.error(
            fields.place_of("icmp_code"),
            "\"icmp_code\" without \"icmp_type\"",
            "a code means something only with its type: add \"icmp_type\", or leave the code out",
        );
        return None;
    }
    Some(Match { protocol, ports, icmp_type, icmp_code })
}
