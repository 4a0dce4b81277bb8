//! The Ethernet header, with or without an 802.1Q tag: written when a frame leaves.

use crate::flow::Mac;
use crate::frame::FrameBuffer;
use crate::wire::header::{EthernetHeader, VlanTag, ether_type, view_mut};
use crate::wire::parse::{LINK_LENGTH, LINK_LENGTH_TAGGED, VLAN_MASK};

/// Writes the link header of an outgoing frame: destination, source, and the tag `vlan` unless it
/// is zero; pushes or pops the four tag bytes where the frame's present header differs.
/// `network` is where the IP header begins now. Returns where it begins afterwards, or none if
/// the frame has no headroom.
#[inline]
pub fn write_header<B: FrameBuffer>(
    frame: &mut B,
    network: u16,
    destination: Mac,
    source: Mac,
    vlan: u16,
) -> Option<u16> {
    write_header_of(ether_type::IPV4, frame, network, destination, source, vlan)
}

/// [`write_header`] of a frame that carries something else than IPv4.
pub fn write_header_of<B: FrameBuffer>(
    carried: u16,
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
    write_of(carried, frame.bytes_mut(), destination, source, vlan)?;
    Some(length)
}

/// Writes the header, with a tag unless `vlan` is zero, over the first bytes of `frame`; returns its
/// length.
#[inline]
pub(crate) fn write(frame: &mut [u8], destination: Mac, source: Mac, vlan: u16) -> Option<u16> {
    write_of(ether_type::IPV4, frame, destination, source, vlan)
}

fn write_of(
    carried: u16,
    frame: &mut [u8],
    destination: Mac,
    source: Mac,
    vlan: u16,
) -> Option<u16> {
    let ethernet: &mut EthernetHeader = view_mut(frame, 0)?;
    ethernet.destination = destination.0;
    ethernet.source = source.0;
    if vlan == 0 {
        ethernet.ether_type.set(carried);
        return Some(LINK_LENGTH);
    }
    ethernet.ether_type.set(ether_type::VLAN);
    let tag: &mut VlanTag = view_mut(frame, LINK_LENGTH)?;
    tag.control.set(vlan & VLAN_MASK);
    tag.ether_type.set(carried);
    Some(LINK_LENGTH_TAGGED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packets::Packet;
    use crate::wire::parse::{macs, parse};

    const OURS: Mac = Mac([2, 0, 0, 0, 9, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 9, 2]);

    /// A frame with some headroom.
    struct Chunk {
        bytes: Vec<u8>,
        start: usize,
    }

    impl FrameBuffer for Chunk {
        fn bytes(&self) -> &[u8] {
            &self.bytes[self.start..]
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.bytes[self.start..]
        }

        fn trim_front(&mut self, count: usize) -> bool {
            let fits = count <= self.bytes().len();
            self.start += if fits { count } else { 0 };
            fits
        }

        fn grow_front(&mut self, count: usize) -> bool {
            let fits = count <= self.start;
            self.start -= if fits { count } else { 0 };
            fits
        }

        fn set_length(&mut self, length: usize) -> bool {
            self.bytes.resize(self.start + length, 0);
            true
        }
    }

    fn chunk(frame: &[u8], headroom: usize) -> Chunk {
        Chunk { bytes: [&vec![0xee; headroom], frame].concat(), start: headroom }
    }

    fn packet(tag: Option<u16>) -> Packet {
        let here = std::net::Ipv4Addr::LOCALHOST;
        Packet { tag, ..Packet::echo(here, here, 8, 1, b"payload") }
    }

    #[test]
    fn tags_are_kept_pushed_popped_and_changed() {
        for from in [None, Some(0), Some(7), Some(0xe007)] {
            for to in [0, 7, 4094] {
                let mut frame = chunk(&packet(from).frame(), 4);
                let network = if from.is_some() { 18 } else { 14 };
                let now = write_header(&mut frame, network, THEIRS, OURS, to).unwrap();
                let parsed = parse(frame.bytes()).unwrap();
                assert_eq!((parsed.network, parsed.vlan), (now, to), "{from:?} to {to}");
                assert_eq!(macs(frame.bytes()), Some((THEIRS, OURS)));
                assert_eq!(frame.bytes()[usize::from(now)..], packet(None).bytes());
            }
        }
    }

    #[test]
    fn a_tag_without_headroom_is_refused() {
        let mut frame = chunk(&packet(None).frame(), 3);
        assert_eq!(write_header(&mut frame, 14, THEIRS, OURS, 7), None);
        assert_eq!(frame.bytes(), packet(None).frame());
    }

    #[test]
    fn a_frame_shorter_than_its_header_is_refused() {
        assert_eq!(write_header(&mut chunk(&[0; 13], 0), 14, THEIRS, OURS, 0), None);
        assert_eq!(write_header(&mut chunk(&[0; 3], 0), 18, THEIRS, OURS, 0), None);
    }
}
