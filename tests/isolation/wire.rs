//! What frames of a place have around them: nothing or one tag, two tags, VXLAN. A place is an interface and a
//! number: a tag, or one of those in [`crate::world`] that stand for more than a tag.

use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, PortId};
use natwerk::testing::lab::{GUEST, Lab};
use natwerk::testing::packets::Packet;
use natwerk::wire::{parse, tags, vxlan};

use crate::world::{Around, Network, STRANGERS_VXLAN, TAG_IN_VXLAN, TWO_TAGS, VXLAN, World, ip};

/// The router's own VTEP, the listed one, and one that is not: where a network lets everybody take part,
/// its guest .6 is behind that.
const LOCAL: Ipv4Addr = ip(172, 31, 0, 1);
const LISTED: Ipv4Addr = ip(172, 31, 0, 2);
const STRANGER: Ipv4Addr = ip(172, 31, 0, 3);

/// The type of the outer tag, the outer and the inner tag of a place. Outside is a tag that others have alone.
pub fn two_tags(number: u16) -> (u16, u16, u16) {
    let place = number - TWO_TAGS;
    let ether_type = if place.is_multiple_of(2) { 0x8100 } else { 0x88a8 };
    (ether_type, 100 + place % 3, 200 + place)
}

/// What a rule file says of a network's place.
pub fn json(network: &Network) -> String {
    match network.around {
        Around::Tag => format!(r#""vlan": {}"#, network.vlan),
        Around::TwoTags => {
            let (ether_type, outer, inner) = two_tags(network.vlan);
            let kind = if ether_type == 0x8100 { "802.1q" } else { "802.1ad" };
            format!(r#""vlan": {inner}, "outer_tag": {{"vlan": {outer}, "type": "{kind}"}}"#)
        }
        Around::Vxlan { is_closed } => format!(
            r#""vxlan": {{"vni": {}, "local": "{LOCAL}", "prefix_len": 24, "remotes": ["{LISTED}"],
                "learning": {}}}"#,
            network.vlan - VXLAN,
            !is_closed
        ),
    }
}

/// The frame of `packet` as it comes in at a place.
pub fn wrap(world: &World, packet: &Packet, (port, number): (PortId, u16)) -> Vec<u8> {
    let frame = |tag: Option<u16>| {
        let mut frame = Packet { tag, ..packet.clone() }.frame();
        frame[0..6].copy_from_slice(&Lab::router_mac(port).0);
        frame[6..12].copy_from_slice(&Lab::neighbor_mac(packet.source).0);
        frame
    };
    match number {
        0 => frame(None),
        1..TWO_TAGS => frame(Some(number)),
        TWO_TAGS..VXLAN => {
            let (ether_type, outer, inner) = two_tags(number);
            let mut frame = frame(Some(inner));
            frame.splice(12..12, [ether_type, outer].map(u16::to_be_bytes).concat());
            frame
        }
        VXLAN..STRANGERS_VXLAN => {
            let is_open = |network: &Network| {
                (network.vlan, network.around) == (number, Around::Vxlan { is_closed: false })
            };
            let is_open = world.networks.iter().any(is_open);
            let is_elsewhere = is_open && packet.source.octets()[3] == 6;
            let remote = if is_elsewhere { STRANGER } else { LISTED };
            within(&frame(None), remote, number - VXLAN)
        }
        STRANGERS_VXLAN..TAG_IN_VXLAN => within(&frame(None), STRANGER, number - STRANGERS_VXLAN),
        TAG_IN_VXLAN.. => within(&frame(Some(1)), LISTED, number - TAG_IN_VXLAN),
    }
}

fn within(inner: &[u8], remote: Ipv4Addr, vni: u16) -> Vec<u8> {
    let data = vxlan::payload(vni.into(), inner);
    let ends = [Endpoint::new(remote, 50_000), Endpoint::new(LOCAL, vxlan::PORT)];
    let mut frame = Packet::udp(ends[0], ends[1], &data).frame();
    frame[0..6].copy_from_slice(&Lab::router_mac(GUEST).0);
    frame
}

/// The place at which a frame leaves, and the frame without what it has there but for one tag.
pub fn unwrap(
    world: &World,
    port: PortId,
    frame: &[u8],
) -> Result<((PortId, u16), Vec<u8>), String> {
    let outer = parse::parse(frame);
    let number = |around: &dyn Fn(&Network) -> bool| {
        let network = world.networks.iter().find(|network| around(network));
        network.map(|network| network.vlan).ok_or_else(|| format!("for nobody: {frame:?}"))
    };
    if let Some(double) = tags::double_tag(frame) {
        let on_wire = (double.outer_type, double.outer, double.inner);
        let number = number(&|network| {
            network.around == Around::TwoTags && two_tags(network.vlan) == on_wire
        })?;
        return Ok(((port, number), [&frame[..12], &frame[20..]].concat()));
    }
    let outer = outer.map_err(|reason| format!("{reason:?}: {frame:?}"))?;
    if port != GUEST || outer.source.address != LOCAL {
        return Ok(((port, outer.vlan), frame.to_vec()));
    }
    let opened = vxlan::open(frame).map_err(|reason| format!("{reason:?}: {frame:?}"))?;
    let number = number(&|network| match network.around {
        Around::Vxlan { is_closed } => {
            let takes_part = opened.local == LISTED || !is_closed && opened.local == STRANGER;
            u32::from(network.vlan - VXLAN) == opened.vni && takes_part
        }
        Around::Tag | Around::TwoTags => false,
    })?;
    let inner = usize::from(opened.inner)..usize::from(opened.end);
    Ok(((port, number), frame[inner].to_vec()))
}
