//! Policy routes.

use super::filters::{ICMP, ICMP_CODE_ABOUT, ICMP_TYPE_ABOUT, PROTOCOL_ABOUT, matches};
use super::{Draft, NAME};
use crate::rules::fields::{Field, Kind, Presence, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::scalars::address;
use crate::rules::set::{Cidr, PolicyHop, PolicyRoute};
use crate::rules::tree::Node;

/// `policy_routes[]`.
pub static POLICY_ROUTE: Section = Section {
    name: "a policy route",
    about: "Routes of its own for some of the sessions that guests open: the first policy route of their network that \
            matches and has a route to the destination. Answers go back where the session came from, whatever it says.",
    fields: &[
        required("id", NAME, "The rule's id, unique among policy routes."),
        required("network", NAME, "The network whose guests it is about."),
        optional("protocol", Kind::ProtocolOrAll, "\"all\"", PROTOCOL_ABOUT),
        optional("ports", Kind::Ports, "", "Destination ports; left out, all."),
        optional("source_ports", Kind::Ports, "", "The guests' own ports; left out, all."),
        optional("icmp_type", ICMP, "-1", ICMP_TYPE_ABOUT),
        optional("icmp_code", ICMP, "-1", ICMP_CODE_ABOUT),
        optional("sources", Kind::List(&Kind::Cidr), "[]", "Guests it is about; empty, all."),
        optional("destinations", Kind::List(&Kind::Cidr), "[]", "Destinations; empty, all."),
        required("routes", Kind::List(&Kind::Table(&POLICY_HOP)), "Its routes."),
    ],
};

/// `policy_routes[].routes[]`.
pub static POLICY_HOP: Section = Section {
    name: "a route of a policy route",
    about: "Where a prefix is reached. The domain's own networks and routes go before a shorter prefix than theirs.",
    fields: &[
        optional("destination", Kind::Cidr, "\"0.0.0.0/0\"", "What it leads to."),
        Field {
            name: "via",
            kind: Kind::AddressOrNull,
            presence: Presence::RequiredOrNull,
            about: "The next hop: a guest of the domain that forwards, or a router on the segment of a public \
                    address; null drops.",
        },
        optional(
            "source_nat",
            Kind::List(&Kind::Address),
            "[]",
            "The public addresses that guests leave with; empty, those of their network that are on the next hop's \
             interface.",
        ),
    ],
};

pub(super) fn read(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &POLICY_ROUTE, faults) else { continue };
        if let Some(rule) = policy_route(&fields, faults) {
            draft.set.policy_routes.push(rule);
            draft.spots.policy_routes.push(draft.file, fields.places());
        }
    }
}

fn policy_route(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<PolicyRoute> {
    let id = fields.text("id", faults);
    let network = fields.text("network", faults);
    let matches = matches(fields, faults);
    let source_ports = fields.ports("source_ports", faults);
    let sources = fields.cidrs("sources", faults);
    let destinations = fields.cidrs("destinations", faults);
    let nodes = fields.list("routes", faults);
    let routes = nodes.iter().filter_map(|node| hop(node, faults)).collect();
    let matches = matches?;
    let has_ports = matches.protocol.is_some_and(|it| it.has_ports() && !it.is_icmp());
    if fields.has("source_ports") && !has_ports {
        let what = "source ports without a protocol that has ports";
        let hint = "name the protocol, such as \"tcp\" or \"udp\", or leave the ports out";
        faults.error(fields.place_of("source_ports"), what, hint);
        return None;
    }
    Some(PolicyRoute {
        id: id?.to_owned(),
        network: network?.to_owned(),
        matches,
        source_ports,
        sources,
        destinations,
        routes,
        place: faults.source().place(fields.at),
    })
}

fn hop(node: &Node<'_>, faults: &mut Faults<'_>) -> Option<PolicyHop> {
    let fields = Fields::open(node, &POLICY_HOP, faults)?;
    let destination = fields.cidr("destination", faults);
    let via = fields.address_or_null("via", faults);
    let pool = fields.list("source_nat", faults);
    let source_nat = pool.iter().filter_map(|node| address(node, faults)).collect();
    let destination = match destination {
        None if fields.has("destination") => return None,
        None => Cidr::ANY,
        Some(destination) => destination,
    };
    Some(PolicyHop { destination, via: via?, source_nat })
}
