//! What serves public addresses: port forwards, static NATs, load balancers, the router itself;
//! and the static routes.

use std::num::NonZeroU16;

use super::{Draft, NAME};
use crate::flow::Protocol;
use crate::rules::fields::{Field, Kind, Presence, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::set::{
    Algorithm, HealthCheck, LoadBalancer, LocalService, Member, PortForward, Route, StaticNat,
};
use crate::rules::tree::Node;

/// `port_forwards[]`.
pub static PORT_FORWARD: Section = Section {
    name: "a port forward",
    about: "Public ports that lead to a guest. It opens nothing: the firewall does.",
    fields: &[
        required("id", NAME, "The rule's id, unique among port forwards."),
        required("public_ip", Kind::Address, "The public address."),
        required("protocol", Kind::Transport, "\"tcp\" or \"udp\"."),
        required("public_ports", Kind::Ports, "The public port or range."),
        required("network", NAME, "The guest's network."),
        GUEST,
        required(
            "guest_ports",
            Kind::Ports,
            "The guest's ports: a range of the same size, or one port for all.",
        ),
        optional(
            "sources",
            Kind::List(&Kind::Cidr),
            "[]",
            "Who may use it; empty, everybody the firewall lets in.",
        ),
    ],
};

/// `static_nats[]`.
pub static STATIC_NAT: Section = Section {
    name: "a static NAT",
    about: "A public address that belongs to one guest, in both directions.",
    fields: &[
        required("id", NAME, "The rule's id, unique among static NATs."),
        required("public_ip", Kind::Address, "The public address."),
        required("network", NAME, "The guest's network."),
        GUEST,
    ],
};

/// `load_balancers[]`.
pub static LOAD_BALANCER: Section = Section {
    name: "a load balancer",
    about: "A public port that leads to several guests.",
    fields: &[
        required("id", NAME, "The rule's id, unique among load balancers."),
        required("public_ip", Kind::Address, "The public address."),
        required("protocol", Kind::Transport, "\"tcp\" or \"udp\"."),
        required("public_port", Kind::Port, "The public port."),
        required("network", NAME, "The members' network."),
        optional(
            "algorithm",
            Kind::Choice(&["least-connections", "round-robin", "source"]),
            "\"round-robin\"",
            "How a member is chosen; \"source\" keeps a client at its member.",
        ),
        required("members", Kind::List(&Kind::Table(&MEMBER)), "The members; may be empty."),
        optional(
            "health_check",
            Kind::Table(&HEALTH_CHECK),
            "",
            "How members are checked; left out, they are taken to be well.",
        ),
        optional(
            "sources",
            Kind::List(&Kind::Cidr),
            "[]",
            "Who may use it; empty, everybody the firewall lets in.",
        ),
    ],
};

/// `load_balancers[].health_check`.
pub static HEALTH_CHECK: Section = Section {
    name: "a health check",
    about: "The router connects to each member over TCP, now and then, and takes out who does not answer.",
    fields: &[
        optional("interval_seconds", SECONDS, "5", "Seconds between two checks of a member."),
        optional("timeout_seconds", SECONDS, "2", "Seconds that a member has for its answer."),
        optional("healthy_after", TIMES, "2", "Successes on end that bring a member back."),
        optional("unhealthy_after", TIMES, "3", "Failures on end that take it out."),
        optional("port", Kind::Port, "", "The port that is connected to; left out, the member's."),
    ],
};

const SECONDS: Kind = Kind::Integer(1, 3600);
const TIMES: Kind = Kind::Integer(1, 100);

/// `load_balancers[].members[]`.
pub static MEMBER: Section = Section {
    name: "a member",
    about: "A guest behind a load balancer.",
    fields: &[
        required("guest_ip", Kind::Address, "The guest's address."),
        required("guest_port", Kind::Port, "The guest's port."),
        optional("weight", Kind::Integer(0, 256), "1", "Its share; 0 drains it."),
    ],
};

/// `routes[]`.
pub static ROUTE: Section = Section {
    name: "a route",
    about: "A static route inside a domain.",
    fields: &[
        required("domain", NAME, "The domain, or the name of a network that has none."),
        required("destination", Kind::Cidr, "What it leads to."),
        required("via", Kind::Address, "The next hop, in one of the domain's networks."),
    ],
};

/// `local_services[]`.
pub static LOCAL_SERVICE: Section = Section {
    name: "a local service",
    about: "A service of the router's own kernel on a public address.",
    fields: &[
        required("address", Kind::Address, "The public address."),
        required("protocol", Kind::Protocol, "The protocol, by name or number."),
        optional(
            "ports",
            Kind::Ports,
            "",
            "Its port or ports; required if the protocol has ports.",
        ),
        optional("sources", Kind::List(&Kind::Cidr), "[]", "Who may use it; left out, everybody."),
    ],
};

const GUEST: Field = Field {
    name: "guest_ip",
    kind: Kind::AddressOrNull,
    presence: Presence::RequiredOrNull,
    about: "The guest's address; null while there is none: nothing is forwarded then.",
};

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("least-connections", Algorithm::LeastConnections),
    ("round-robin", Algorithm::RoundRobin),
    ("source", Algorithm::Source),
];

pub(super) fn read_port_forwards(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &PORT_FORWARD, faults) else { continue };
        if let Some(rule) = port_forward(&fields, faults) {
            draft.set.port_forwards.push(rule);
            draft.spots.port_forwards.push(draft.file, fields.places());
        }
    }
}

fn port_forward(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<PortForward> {
    let id = fields.text("id", faults);
    let public_ip = fields.address("public_ip", faults);
    let protocol = fields.protocol("protocol", faults);
    let public_ports = fields.ports("public_ports", faults);
    let network = fields.text("network", faults);
    let guest_ip = fields.address_or_null("guest_ip", faults);
    let guest_ports = fields.ports("guest_ports", faults);
    let sources = fields.cidrs("sources", faults);
    let (public_ports, guest_ports) = (public_ports?, guest_ports?);
    if guest_ports.count() != 1 && guest_ports.count() != public_ports.count() {
        faults.error(
            fields.place_of("guest_ports"),
            format!(
                "{} public ports ({public_ports}) but {} guest ports ({guest_ports})",
                public_ports.count(),
                guest_ports.count()
            ),
            "make the ranges equally long, or name one guest port for all",
        );
        return None;
    }
    Some(PortForward {
        id: id?.to_owned(),
        public_ip: public_ip?,
        protocol: protocol?,
        public_ports,
        network: network?.to_owned(),
        guest_ip: guest_ip?,
        guest_ports,
        sources,
        place: faults.source().place(fields.at),
    })
}

pub(super) fn read_static_nats(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &STATIC_NAT, faults) else { continue };
        if let Some(rule) = static_nat(&fields, faults) {
            draft.set.static_nats.push(rule);
            draft.spots.static_nats.push(draft.file, fields.places());
        }
    }
}

fn static_nat(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<StaticNat> {
    let id = fields.text("id", faults);
    let public_ip = fields.address("public_ip", faults);
    let network = fields.text("network", faults);
    let guest_ip = fields.address_or_null("guest_ip", faults);
    Some(StaticNat {
        id: id?.to_owned(),
        public_ip: public_ip?,
        network: network?.to_owned(),
        guest_ip: guest_ip?,
        place: faults.source().place(fields.at),
    })
}

pub(super) fn read_load_balancers(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &LOAD_BALANCER, faults) else { continue };
        let members: Vec<(Member, Fields<'_, '_>)> = fields
            .list("members", faults)
            .iter()
            .filter_map(|node| {
                let fields = Fields::open(node, &MEMBER, faults)?;
                Some((member(&fields, faults)?, fields))
            })
            .collect();
        if let Some(rule) = load_balancer(&fields, &members, faults) {
            draft.set.load_balancers.push(rule);
            draft.spots.load_balancers.push(draft.file, fields.places());
            for (_, fields) in &members {
                draft.spots.members.push(draft.file, fields.places());
            }
        }
    }
}

fn load_balancer(
    fields: &Fields<'_, '_>,
    members: &[(Member, Fields<'_, '_>)],
    faults: &mut Faults<'_>,
) -> Option<LoadBalancer> {
    let id = fields.text("id", faults);
    let public_ip = fields.address("public_ip", faults);
    let protocol = fields.protocol("protocol", faults);
    let public_port = fields.port("public_port", faults);
    let network = fields.text("network", faults);
    let algorithm = fields.choice("algorithm", &ALGORITHMS, faults);
    let health_check = fields.table("health_check", faults);
    let health_check = health_check.map(|fields| read_health_check(&fields, faults));
    let sources = fields.cidrs("sources", faults);
    Some(LoadBalancer {
        id: id?.to_owned(),
        public_ip: public_ip?,
        protocol: protocol?,
        public_port: public_port?,
        network: network?.to_owned(),
        algorithm: algorithm.unwrap_or(Algorithm::RoundRobin),
        members: members.iter().map(|&(member, _)| member).collect(),
        health_check,
        sources,
        place: faults.source().place(fields.at),
    })
}

fn read_health_check(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> HealthCheck {
    let mut number = |name, default| {
        let read = fields.integer(name, faults).and_then(NonZeroU16::new);
        read.or_else(|| NonZeroU16::new(default)).unwrap_or(NonZeroU16::MIN)
    };
    let [interval, timeout, healthy, unhealthy] = HealthCheck::DEFAULTS;
    HealthCheck {
        interval_seconds: number("interval_seconds", interval),
        timeout_seconds: number("timeout_seconds", timeout),
        healthy_after: number("healthy_after", healthy),
        unhealthy_after: number("unhealthy_after", unhealthy),
        port: fields.port("port", faults),
    }
}

fn member(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<Member> {
    let guest_ip = fields.address("guest_ip", faults);
    let guest_port = fields.port("guest_port", faults);
    let weight = fields.integer("weight", faults);
    Some(Member { guest_ip: guest_ip?, guest_port: guest_port?, weight: weight.unwrap_or(1) })
}

pub(super) fn read_routes(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &ROUTE, faults) else { continue };
        let domain = fields.text("domain", faults);
        let destination = fields.cidr("destination", faults);
        let via = fields.address("via", faults);
        let (Some(domain), Some(destination), Some(via)) = (domain, destination, via) else {
            continue;
        };
        let place = faults.source().place(fields.at);
        draft.set.routes.push(Route { domain: domain.to_owned(), destination, via, place });
        draft.spots.routes.push(draft.file, fields.places());
    }
}

pub(super) fn read_local_services(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &LOCAL_SERVICE, faults) else { continue };
        if let Some(service) = local_service(&fields, faults) {
            draft.set.local_services.push(service);
            draft.spots.local_services.push(draft.file, fields.places());
        }
    }
}

fn local_service(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<LocalService> {
    let address = fields.address("address", faults);
    let protocol = fields.protocol("protocol", faults);
    let ports = fields.ports("ports", faults);
    let sources = fields.cidrs("sources", faults);
    let (address, protocol) = (address?, protocol?);
    let with_ports = protocol.has_ports() && protocol != Protocol::ICMP;
    match (with_ports, fields.has("ports")) {
        (true, false) => {
            faults.error(
                fields.at,
                format!("a local service of protocol {protocol} lacks the field \"ports\""),
                "add its port or range; \"1-65535\" is every port",
            );
            None
        }
        (false, true) => {
            faults.error(
                fields.place_of("ports"),
                format!("protocol {protocol} has no ports"),
                "leave the ports out",
            );
            None
        }
        (true, true) if ports.is_none() => None,
        (true, true) | (false, false) => {
            let place = faults.source().place(fields.at);
            Some(LocalService { address, protocol, ports, sources, place })
        }
    }
}
