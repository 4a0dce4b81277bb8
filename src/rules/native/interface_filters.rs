//! Filters of interfaces.

use super::filters::{ICMP, ICMP_CODE_ABOUT, ICMP_TYPE_ABOUT, PROTOCOL_ABOUT, matches};
use super::{Draft, NAME};
use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::set::{FilterAction, InterfaceDirection, InterfaceFilter, InterfaceFilterEntry};
use crate::rules::tree::Node;

/// `interface_filters[]`.
pub static INTERFACE_FILTER: Section = Section {
    name: "an interface filter",
    about: "What may be forwarded that comes in by an interface, or leaves by it: the first match in order. It sees \
            packets as guests do: destinations are translated, sources are not yet.",
    fields: &[
        required("interface", NAME, "The interface."),
        optional("vlan", Kind::Integer(0, 4094), "0", "The VLAN; 0 for untagged."),
        required("direction", Kind::Choice(&["in", "out"]), "Which way it looks."),
        optional("default", ACTION, "\"allow\"", "What happens to what no entry matches."),
        required("entries", Kind::List(&Kind::Table(&INTERFACE_FILTER_ENTRY)), "Its entries."),
    ],
};

/// `interface_filters[].entries[]`.
pub static INTERFACE_FILTER_ENTRY: Section = Section {
    name: "an interface filter entry",
    about: "Allows, denies or rejects what it matches.",
    fields: &[
        required("id", NAME, "The entry's id, unique in its filter."),
        required("action", ACTION, "What it does; \"reject\" tells the sender."),
        optional("protocol", Kind::ProtocolOrAll, "\"all\"", PROTOCOL_ABOUT),
        optional("ports", Kind::Ports, "", "The guest's ports; left out, all."),
        optional("icmp_type", ICMP, "-1", ICMP_TYPE_ABOUT),
        optional("icmp_code", ICMP, "-1", ICMP_CODE_ABOUT),
        optional("sources", Kind::List(&Kind::Cidr), "[]", "Who it is about; empty, everybody."),
        optional("destinations", Kind::List(&Kind::Cidr), "[]", "To whom; empty, to anybody."),
    ],
};

const ACTION: Kind = Kind::Choice(&["allow", "deny", "reject"]);

const ACTIONS: [(&str, FilterAction); 3] = [
    ("allow", FilterAction::Allow),
    ("deny", FilterAction::Deny),
    ("reject", FilterAction::Reject),
];

const DIRECTIONS: [(&str, InterfaceDirection); 2] =
    [("in", InterfaceDirection::In), ("out", InterfaceDirection::Out)];

pub(super) fn read(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &INTERFACE_FILTER, faults) else { continue };
        if let Some(filter) = filter(&fields, faults) {
            draft.set.interface_filters.push(filter);
            draft.spots.interface_filters.push(draft.file, fields.places());
        }
    }
}

fn filter(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<InterfaceFilter> {
    let interface = fields.text("interface", faults);
    let vlan = fields.integer("vlan", faults);
    let direction = fields.choice("direction", &DIRECTIONS, faults);
    let default = fields.choice("default", &ACTIONS, faults);
    let nodes = fields.list("entries", faults);
    let entries = nodes.iter().filter_map(|node| entry(node, faults)).collect();
    Some(InterfaceFilter {
        interface: interface?.to_owned(),
        vlan: vlan.unwrap_or(0),
        direction: direction?,
        default: default.unwrap_or(FilterAction::Allow),
        entries,
        place: faults.source().place(fields.at),
    })
}

fn entry(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<InterfaceFilterEntry> {
    let fields = Fields::open(node, &INTERFACE_FILTER_ENTRY, faults)?;
    let id = fields.text("id", faults);
    let action = fields.choice("action", &ACTIONS, faults);
    let matches = matches(&fields, faults);
    let sources = fields.cidrs("sources", faults);
    let destinations = fields.cidrs("destinations", faults);
    Some(InterfaceFilterEntry {
        id: id?.to_owned(),
        action: action?,
        matches: matches?,
        sources,
        destinations,
        place: faults.source().place(fields.at),
    })
}
