//! One's complement sums of words as they lie in memory: a sum of numbers of sixteen bits says the same
//! whichever of its bytes is taken for the higher one (RFC 1071, section 2).

use zerocopy::network_endian::U16;

/// What a change of a packet adds to its checksum's complement, in the order of bytes that the checksum has in
/// memory.
#[derive(Clone, Copy)]
pub(super) struct Change(u16);

impl Change {
    /// What one hop less to live comes to: `~m + m'`, with `m' = m - 0x100`.
    pub const ONE_HOP_ON: Self = Self(0xfeff_u16.to_be());

    /// What `sum`, of old words' complements and new words, comes to.
    #[inline(always)]
    pub const fn of(sum: u64) -> Self {
        let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
        Self::of_half(sum.wrapping_add(carry as u32))
    }

    /// The same of a sum of half that length.
    #[inline(always)]
    pub const fn of_half(sum: u32) -> Self {
        let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
        Self(sum.wrapping_add(carry as u16))
    }

    /// What it makes of a checksum: `~(~HC + change)` (RFC 1624, eqn. 3), which is a subtraction that takes
    /// what it borrows from the other end.
    #[inline(always)]
    const fn applied(self, checksum: u16) -> u16 {
        let (difference, borrow) = checksum.overflowing_sub(self.0);
        difference.wrapping_sub(borrow as u16)
    }
}

/// Makes two changes to a checksum.
#[inline(always)]
pub(super) fn update(checksum: &mut U16, changes: [Change; 2]) {
    *checksum = U16::from_bytes(changed(*checksum, changes).to_ne_bytes());
}

/// The same to UDP's: zero, for none, stays zero, and a computed zero is sent as all ones (RFC 768).
#[inline(always)]
pub(super) fn update_udp(checksum: &mut U16, changes: [Change; 2]) {
    if checksum.get() != 0 {
        let changed = match changed(*checksum, changes) {
            0 => u16::MAX,
            changed => changed,
        };
        *checksum = U16::from_bytes(changed.to_ne_bytes());
    }
}

#[inline(always)]
fn changed(checksum: U16, [one, other]: [Change; 2]) -> u16 {
    other.applied(one.applied(u16::from_ne_bytes(checksum.to_bytes())))
}

/// The one's complement sum of both, each taken as four numbers of sixteen bits (RFC 1071, section 2).
#[inline(always)]
pub(super) const fn plus(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u64)
}

/// The same of two numbers each.
#[inline(always)]
pub(super) const fn plus_half(one: u32, other: u32) -> u32 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u32)
}

/// Whether such a sum comes to sixteen ones, or to none: it does if it is a multiple of 0xffff, in
/// whichever order its bytes are. Times the inverse, the multiples are the smallest of all words.
#[inline(always)]
pub(super) const fn is_all_ones(sum: u64) -> bool {
    sum.wrapping_mul(ALL_ONES_INVERSE) <= u64::MAX / ALL_ONES
}

const ALL_ONES: u64 = 0xffff;
/// By which [`ALL_ONES`] becomes one.
const ALL_ONES_INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
const _: () = assert!(ALL_ONES.wrapping_mul(ALL_ONES_INVERSE) == 1);
