//! Keys and values of the programs' maps, as the structures in steer.bpf.c have them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::flow::DoubleTag;
use crate::io::xdp::kernel_ports::PageKey;
use crate::io::xdp::steering::Steering;

pub(super) fn double_tag_key(tags: DoubleTag) -> u32 {
    let is_provider = u32::from(tags.outer_type == PROVIDER_VLAN);
    is_provider << 24 | u32::from(tags.outer & 0xfff) << 12 | u32::from(tags.inner & 0xfff)
}

pub(super) fn local_key((vlan, address): (u16, Ipv4Addr)) -> [u8; 8] {
    let ([a, b, c, d], [v, w]) = (address.octets(), vlan.to_ne_bytes());
    [a, b, c, d, v, w, 0, 0]
}

pub(super) fn local_key_ipv6((vlan, address): (u16, Ipv6Addr)) -> [u8; 20] {
    let mut key = [0; 20];
    let (place, rest) = key.split_at_mut(16);
    place.copy_from_slice(&address.octets());
    let [v, w] = vlan.to_ne_bytes();
    rest.copy_from_slice(&[v, w, 0, 0]);
    key
}

pub(super) fn page_key((address, protocol, page): PageKey) -> [u8; 8] {
    let [a, b, c, d] = address.octets();
    [a, b, c, d, protocol.0, page, 0, 0]
}

/// What the program's map says of a tag: `enum owner` in steer.bpf.c.
pub(super) fn owner(steering: &Steering, tag: u16) -> u32 {
    let has_vtep = match tag == 0 && !steering.vteps.is_empty() {
        true => 0x100,
        false => 0,
    };
    has_vtep
        | match (steering.tags.contains(&tag), steering.arp_tags.contains(&tag)) {
            (false, _) if steering.kernel_tags.contains(&tag) => 3,
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
}

/// The EtherType of a provider's tag.
const PROVIDER_VLAN: u16 = 0x88a8;
