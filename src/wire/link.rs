//! The Ethernet header, with or without an 802.1Q tag: written when a frame leaves.

use crate::flow::Mac;
use crate::frame::FrameBuffer;
use crate::wire::header::{EthernetHeader, VlanTag, ether_type, view_mut};
use crate::wire::parse::{LINK_LENGTH, LINK_LENGTH_TAGGED, VLAN_MASK};

/// Writes the link header of an outgoing frame: destination, source, and the tag `vlan` unless it
/// is zero; pushes or pops the four tag bytes where the frame's present header differs.
/// `network` is where the IPv4 header begins now. Returns where it begins afterwards, or none if
/// the frame has no headroom.
pub fn write_header<B: FrameBuffer>(
    frame: &mut B,
    network: u16,
    destination: Mac,
    source: Mac,
    vlan: u16,
) -> Option<u16> {
    let length = if vlan == 0 { LINK_LENGTH } else { LINK_LENGTH_TAGGED };
    let moved = match network.checked_sub(length) {
        Some(0) => true,
        Some(excess) => frame.trim_front(usize::from(excess)),
        None => frame.grow_front(usize::from(length - network)),
    };
    if !moved {
        return None;
    }
    write(frame.bytes_mut(), destination, source, vlan)?;
    Some(length)
}

/// Writes the header, with a tag unless `vlan` is zero, over the first bytes of `frame`; returns its
/// length.
pub(crate) fn write(frame: &mut [u8], destination: Mac, source: Mac, vlan: u16) -> Option<u16> {
    let ethernet: &mut EthernetHeader = view_mut(frame, 0)?;
    ethernet.destination = destination.0;
    ethernet.source = source.0;
    if vlan == 0 {
        ethernet.ether_type.set(ether_type::IPV4);
        return Some(LINK_LENGTH);
    }
    ethernet.ether_type.set(ether_type::VLAN);
    let tag: &mut VlanTag = view_mut(frame, LINK_LENGTH)?;
    tag.control.set(vlan & VLAN_MASK);
    tag.ether_type.set(ether_type::IPV4);
    Some(LINK_LENGTH_TAGGED)
}
