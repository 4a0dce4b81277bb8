//! How a network is reached that has two tags or is inside VXLAN.

use crate::rules::fields::{Kind, Section, optional, required};
use crate::rules::reader::{Faults, Fields};
use crate::rules::scalars::address;
use crate::rules::set::{OuterTag, TagKind, Vxlan};

/// `networks[].outer_tag`.
pub static OUTER_TAG: Section = Section {
    name: "outer_tag",
    about: "The tag in front of the network's own (QinQ, IEEE 802.1ad).",
    fields: &[
        required("vlan", Kind::Integer(1, 4094), "Its VLAN."),
        optional("type", Kind::Choice(&["802.1ad", "802.1q"]), "\"802.1ad\"", "Its type."),
    ],
};

/// `networks[].vxlan`.
pub static VXLAN: Section = Section {
    name: "vxlan",
    about: "A network inside VXLAN (RFC 7348); its interface is that of the underlay.",
    fields: &[
        required("vni", Kind::Integer(1, 16_777_215), "Its identifier."),
        required(
            "local",
            Kind::Address,
            "natwerk's VTEP address, which the kernel has on the interface, untagged.",
        ),
        required("prefix_len", Kind::Integer(1, 32), "The prefix length of the underlay there."),
        optional("gateway", Kind::Address, "", "The underlay's router to other VTEPs."),
        optional(
            "remotes",
            Kind::List(&Kind::Address),
            "[]",
            "VTEPs that get what is for all stations, or for one that nobody has heard of.",
        ),
        optional(
            "learning",
            Kind::Boolean,
            "true",
            "Whether VTEPs that are not listed may take part; they are learned from what they send.",
        ),
    ],
};

const TAG_KINDS: [(&str, TagKind); 2] =
    [("802.1ad", TagKind::Provider), ("802.1q", TagKind::Customer)];

pub(super) fn outer_tag(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<OuterTag> {
    let vlan = fields.integer("vlan", faults);
    let kind = fields.choice("type", &TAG_KINDS, faults).unwrap_or_default();
    Some(OuterTag { vlan: vlan?, kind })
}

pub(super) fn vxlan(fields: &Fields<'_, '_>, faults: &mut Faults<'_>) -> Option<Vxlan> {
    let vni = fields.integer("vni", faults);
    let local = fields.address("local", faults);
    let prefix_len = fields.integer("prefix_len", faults);
    let gateway = fields.address("gateway", faults);
    let remotes = fields.list("remotes", faults);
    let remotes = remotes.iter().filter_map(|node| address(node, faults)).collect();
    let learning = fields.boolean("learning", faults).unwrap_or(true);
    Some(Vxlan { vni: vni?, local: local?, prefix_len: prefix_len?, gateway, remotes, learning })
}
