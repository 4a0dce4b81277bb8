//! Descriptors that point anywhere in a chunk.
//!
//! xsk-rs makes descriptors only for the address where the kernel puts received frames, or hands
//! back those that the kernel filled in. A router that adds or takes away a VLAN tag must transmit
//! from four bytes further on, and moving the whole packet instead would cost a copy a frame. So the
//! address and length of a descriptor are written where xsk-rs keeps them. Where that is, its
//! compiler chose: it is found out, and checked, when a port is opened.

use std::ptr;

use xsk_rs::FrameDesc;

/// Where xsk-rs keeps the address and the length in its descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    address: usize,
    length: usize,
}

impl Layout {
    /// Finds out. None if xsk-rs keeps them in a way that is not known here.
    pub(super) fn find() -> Option<Self> {
        let words = (0..size_of::<FrameDesc>()).step_by(size_of::<usize>());
        let shown = |offset: usize| {
            let mut descriptor = FrameDesc::default();
            write(&mut descriptor, offset, PROBE);
            let lengths = *descriptor.lengths();
            (descriptor.addr(), lengths.data(), lengths.headroom(), descriptor.options())
        };
        let address = words.clone().find(|&offset| shown(offset) == (PROBE, 0, 0, 0))?;
        let length = words.clone().find(|&offset| shown(offset) == (0, PROBE, 0, 0))?;
        Some(Self { address, length })
    }

    /// A descriptor of `length` bytes at `address`.
    pub(super) fn descriptor(self, address: u64, length: u32) -> FrameDesc {
        let mut descriptor = FrameDesc::default();
        // xsk-rs builds for 64-bit machines only, so both fit.
        write(&mut descriptor, self.address, address as usize);
        write(&mut descriptor, self.length, length as usize);
        descriptor
    }
}

fn write(descriptor: &mut FrameDesc, offset: usize, value: usize) {
    assert!(offset.is_multiple_of(align_of::<usize>()));
    assert!(offset + size_of::<usize>() <= size_of::<FrameDesc>());
    const { assert!(align_of::<FrameDesc>() == align_of::<usize>()) };
    // SAFETY: the word lies inside the descriptor and is aligned (checked above), the borrow is
    // exclusive, and a descriptor consists of integers and padding, for which all bits are valid.
    unsafe { ptr::from_mut(descriptor).byte_add(offset).cast::<usize>().write(value) }
}

/// A value no field has by itself.
const PROBE: usize = 0x5a5a_1234_8765_a5a5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_what_was_asked_for() {
        let layout = Layout::find().expect("this version of xsk-rs is known");
        let descriptor = layout.descriptor(4096 + 252, 1518);
        assert_eq!(descriptor.addr(), 4096 + 252);
        assert_eq!(descriptor.lengths().data(), 1518);
        assert_eq!(descriptor.lengths().headroom(), 0);
        assert_eq!(descriptor.options(), 0);
    }
}
