//! Limits of public addresses.

use super::{Draft, NAME};
use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::set::AddressLimit;
use crate::rules::tree::Node;

/// `address_limits[]`.
pub static ADDRESS_LIMIT: Section = Section {
    name: "a limit of an address",
    about: "What may pass by a public address, or by some of its ports, each way, whatever rule it passes by. A \
            packet is held against one limit: its port's, or else its address's.",
    fields: &[
        required("id", NAME, "The limit's id, unique among limits of addresses."),
        required("public_ip", Kind::Address, "The public address."),
        optional("ports", Kind::Ports, "", "Its ports; left out, all that no other limit names."),
        optional("inbound_kbit_per_second", KBIT, "0", "What may come in; 0 for no limit."),
        optional("outbound_kbit_per_second", KBIT, "0", "What may go out; 0 for no limit."),
        optional(
            "shared",
            NAME,
            "",
            "A name: all limits that have it are one, for all their addresses and ports together.",
        ),
    ],
};

const KBIT: Kind = Kind::Integer(0, 1_000_000_000);

pub(super) fn read(nodes: &[Node<'_>], draft: &mut Draft, faults: &mut Faults<'_>) {
    for node in nodes {
        let Some(fields) = Fields::open(node, &ADDRESS_LIMIT, faults) else { continue };
        if let Some(limit) = address_limit(&fields, faults) {
            draft.set.address_limits.push(limit);
            draft.spots.address_limits.push(draft.file, fields.places());
        }
    }
}

fn address_limit(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<AddressLimit> {
    let id = fields.text("id", faults);
    let public_ip = fields.address("public_ip", faults);
    let ports = fields.ports("ports", faults);
    let inbound = fields.integer("inbound_kbit_per_second", faults);
    let outbound = fields.integer("outbound_kbit_per_second", faults);
    let shared = fields.text("shared", faults);
    if fields.has("ports") && ports.is_none() {
        return None;
    }
    Some(AddressLimit {
        id: id?.to_owned(),
        public_ip: public_ip?,
        ports,
        inbound_kbit_per_second: inbound.unwrap_or(0),
        outbound_kbit_per_second: outbound.unwrap_or(0),
        shared: shared.map(str::to_owned),
        place: faults.source().place(fields.at),
    })
}
