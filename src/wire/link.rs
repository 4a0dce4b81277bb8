//! The Ethernet header, with or without an 802.1Q tag: written when a frame leaves.

use crate::flow::Mac;
use crate::frame::FrameBuffer;

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
    todo!()
}
