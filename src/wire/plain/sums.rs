//! One's complement sums of words as they lie in memory: a sum of numbers of sixteen bits says the same
//! whichever of its bytes is taken for the higher one (RFC 1071, section 2).

use zerocopy::network_endian::U16;

/// What a change of a packet adds to its checksum's complement, as two numbers of sixteen bits, in the
/// order of bytes that the checksum has in memory.
#[derive(Clone, Copy)]
pub(super) struct Change(u32);

impl Change {
    /// What `sum`, of old words' complements and new words, comes to.
    #[inline(always)]
    pub const fn of(sum: u64) -> Self {
        // Turned by half its length, a sum has each half above the other's carry.
        Self((sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32)
    }

    /// With two more numbers.
    #[inline(always)]
    pub const fn and(self, other: u32) -> Self {
        let (sum, carry) = self.0.overflowing_add(other);
        Self(sum.wrapping_add(carry as u32))
    }

    /// What it makes of a checksum, with one more number.
    #[inline(always)]
    fn applied(self, checksum: U16, other: u16) -> u16 {
        let complement = !u16::from_ne_bytes(checksum.to_bytes());
        let Self(sum) = self.and(u32::from(complement).wrapping_add(other.into()));
        !((sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16)
    }

    /// Changes a checksum.
    #[inline(always)]
    pub fn update(self, checksum: &mut U16) {
        *checksum = U16::from_bytes(self.applied(*checksum, 0).to_ne_bytes());
    }

    /// The same of a header whose time to live became one less.
    #[inline(always)]
    pub fn update_one_hop_on(self, checksum: &mut U16) {
        *checksum = U16::from_bytes(self.applied(*checksum, TTL_CHANGE).to_ne_bytes());
    }

    /// Changes UDP's: zero, for none, stays zero, and a computed zero is sent as all ones (RFC 768).
    #[inline(always)]
    pub fn update_udp(self, checksum: &mut U16) {
        if checksum.get() != 0 {
            let changed = match self.applied(*checksum, 0) {
                0 => u16::MAX,
                changed => changed,
            };
            *checksum = U16::from_bytes(changed.to_ne_bytes());
        }
    }
}

/// The one's complement sum of both, each taken as four numbers of sixteen bits (RFC 1071, section 2).
#[inline(always)]
pub(super) const fn plus(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u64)
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
/// What one hop less to live adds to a checksum: `~m + m'`, with `m' = m - 0x100` (RFC 1624).
const TTL_CHANGE: u16 = 0xfeff_u16.to_be();
