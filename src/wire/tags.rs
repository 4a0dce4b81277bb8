//! 802.1Q tags in front of a packet: two read, pushed, popped, exchanged for one (IEEE 802.1ad).

use zerocopy::network_endian::U16;

use crate::flow::DoubleTag;
use crate::frame::FrameBuffer;
use crate::wire::header::{VlanTag, ether_type, view, view_mut};
use crate::wire::parse::{LINK_LENGTH, VLAN_MASK};

/// The two tags of a frame, if it has two.
#[must_use]
pub fn double_tag(frame: &[u8]) -> Option<DoubleTag> {
    let outer_type: &U16 = view(frame, LINK_LENGTH - 2)?;
    let outer_type = outer_type.get();
    let outer: &VlanTag = view(frame, LINK_LENGTH)?;
    let inner: &VlanTag = view(frame, LINK_LENGTH + TAG_LENGTH)?;
    let is_double = matches!(outer_type, ether_type::VLAN | ether_type::PROVIDER_VLAN)
        && outer.ether_type.get() == ether_type::VLAN;
    is_double.then(|| DoubleTag {
        outer_type,
        outer: outer.control.get() & VLAN_MASK,
        inner: inner.control.get() & VLAN_MASK,
    })
}

/// The VLAN identifier of a frame's first tag, if it has one.
#[must_use]
pub fn tag(frame: &[u8]) -> Option<u16> {
    let tag_type: &U16 = view(frame, LINK_LENGTH - 2)?;
    let tag: &VlanTag = view(frame, LINK_LENGTH)?;
    (tag_type.get() == ether_type::VLAN).then(|| tag.control.get() & VLAN_MASK)
}

/// Takes the outer tag off and sets the inner VLAN identifier. None, with the frame as it was, if it
/// is too short to have two.
pub fn pop_outer<B: FrameBuffer>(frame: &mut B, vlan: u16) -> Option<()> {
    pop(frame)?;
    let tag: &mut VlanTag = view_mut(frame.bytes_mut(), LINK_LENGTH)?;
    tag.control.set(vlan & VLAN_MASK);
    Some(())
}

/// Puts an outer tag in front of the tag of a frame, and sets the inner VLAN identifier. None if there is no headroom.
pub fn push_outer<B: FrameBuffer>(frame: &mut B, tags: &DoubleTag) -> Option<()> {
    let tag: &mut VlanTag = view_mut(frame.bytes_mut(), LINK_LENGTH)?;
    tag.control.set(tags.inner & VLAN_MASK);
    push_of(frame, tags.outer_type, tags.outer)
}

/// Puts a tag on a frame. None if there is no headroom.
pub fn push<B: FrameBuffer>(frame: &mut B, vlan: u16) -> Option<()> {
    push_of(frame, ether_type::VLAN, vlan)
}

/// Takes the first tag off. None, with the frame as it was, if it is too short to have one.
pub fn pop<B: FrameBuffer>(frame: &mut B) -> Option<()> {
    let bytes = frame.bytes_mut();
    let headers = bytes.get_mut(..usize::from(LINK_LENGTH + TAG_LENGTH))?;
    headers.copy_within(..ADDRESSES_LENGTH, usize::from(TAG_LENGTH));
    frame.trim_front(usize::from(TAG_LENGTH)).then_some(())
}

fn push_of<B: FrameBuffer>(frame: &mut B, tag_type: u16, vlan: u16) -> Option<()> {
    if frame.bytes().len() < ADDRESSES_LENGTH || !frame.grow_front(usize::from(TAG_LENGTH)) {
        return None;
    }
    let bytes = frame.bytes_mut();
    let headers = bytes.get_mut(..usize::from(LINK_LENGTH + TAG_LENGTH))?;
    headers.copy_within(usize::from(TAG_LENGTH)..usize::from(TAG_LENGTH) + ADDRESSES_LENGTH, 0);
    let (_, tag) = headers.split_at_mut_checked(ADDRESSES_LENGTH)?;
    let [a, b, c, d, ..] = tag else { return None };
    [*a, *b] = tag_type.to_be_bytes();
    [*c, *d] = (vlan & VLAN_MASK).to_be_bytes();
    Some(())
}

const TAG_LENGTH: u16 = 4;
/// Destination and source.
const ADDRESSES_LENGTH: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::frame::{Frame, FramePool};
    use crate::io::memory::copied;
    use crate::testing::packets::Packet;

    fn frame(tag: Option<u16>) -> (FramePool, Frame) {
        let here = std::net::Ipv4Addr::LOCALHOST;
        let packet = Packet { tag, ..Packet::echo(here, here, 8, 1, b"payload") };
        let mut pool = FramePool::in_memory(1, 2048).unwrap();
        let frame = copied(&mut pool, &packet.frame()).unwrap();
        (pool, frame)
    }

    #[test]
    fn two_tags_become_one_and_one_two() {
        for outer_type in [ether_type::VLAN, ether_type::PROVIDER_VLAN] {
            let tags = DoubleTag { outer_type, outer: 200, inner: 100 };
            let (_pool, mut tagged) = frame(Some(7));
            let before = tagged.bytes().to_vec();
            push_outer(&mut tagged, &tags).unwrap();
            assert_eq!(double_tag(tagged.bytes()), Some(tags));
            assert_eq!(tagged.bytes().len(), before.len() + 4);
            pop_outer(&mut tagged, 7).unwrap();
            assert_eq!(tagged.bytes(), before);
            assert_eq!(double_tag(tagged.bytes()), None);
        }
    }

    #[test]
    fn a_tag_is_pushed_and_popped() {
        let (_pool, mut untagged) = frame(None);
        let before = untagged.bytes().to_vec();
        push(&mut untagged, 4094).unwrap();
        assert_eq!(untagged.bytes()[12..16], [0x81, 0, 0x0f, 0xfe]);
        pop(&mut untagged).unwrap();
        assert_eq!(untagged.bytes(), before);
    }

    #[test]
    fn short_frames_have_no_tags() {
        let (_pool, mut short) = frame(None);
        for length in 0..22 {
            assert!(short.set_length(length));
            assert_eq!(double_tag(short.bytes()), None);
            if length < 18 {
                assert_eq!(pop(&mut short), None);
                assert_eq!(short.bytes().len(), length);
            }
        }
    }
}
