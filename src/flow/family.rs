//! Address families: what lets one piece of code serve IPv4 and IPv6, each compiled for itself.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{BitAnd, BitOr, BitXor, Not};
use std::str::FromStr;

/// IPv4 or IPv6, named by its address.
pub trait Family:
    Copy + Debug + Display + Eq + FromStr + Hash + Into<IpAddr> + Ord + Send + Sync + 'static
{
    /// An address as a number.
    type Bits: Bits;
    /// `0.0.0.0` or `::`.
    const UNSPECIFIED: Self;
    /// The protocol number of its ICMP: the query identifier stands in for both ports.
    const ICMP: u8;

    /// The address as a number.
    fn number(self) -> Self::Bits;

    /// The address that [`Self::number`] was made from.
    fn from_number(bits: Self::Bits) -> Self;
}

/// A number as wide as an address.
pub trait Bits:
    BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Copy
    + Debug
    + Default
    + Eq
    + Hash
    + Not<Output = Self>
    + Ord
    + Send
    + Sync
    + 'static
{
    /// How many bits.
    const COUNT: u8;
    /// All bits set.
    const MAX: Self;
    /// No bit set.
    const ZERO: Self;

    /// The `length` highest bits set, [`Self::COUNT`] at the most.
    fn mask(length: u8) -> Self;

    /// One more, unless that is too much.
    fn next(self) -> Option<Self>;

    /// One less, or the highest from zero.
    fn before(self) -> Self;

    /// `self - other`, or zero.
    fn above(self, other: Self) -> Self;

    /// `self + other`, or the highest number.
    fn plus(self, other: Self) -> Self;

    /// The number without its lowest `shift` bits, or `u32::MAX` if that is too much.
    fn shifted(self, shift: u32) -> u32;

    /// The number whose bits from `shift` on are `number`; what does not fit is lost.
    fn placed(number: u32, shift: u32) -> Self;
}

impl Bits for u32 {
    const COUNT: u8 = 32;
    const MAX: Self = Self::MAX;
    const ZERO: Self = 0;

    fn mask(length: u8) -> Self {
        // Sixty-four bits have room for a shift by any length that there is, and need not be asked for it.
        !((u64::from(<Self as Bits>::MAX)).wrapping_shr(length.min(Self::COUNT).into()) as u32)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn before(self) -> Self {
        self.wrapping_sub(1)
    }

    fn above(self, other: Self) -> Self {
        self.saturating_sub(other)
    }

    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }

    fn shifted(self, shift: u32) -> u32 {
        self.checked_shr(shift).unwrap_or(0)
    }

    fn placed(number: u32, shift: u32) -> Self {
        number.checked_shl(shift).unwrap_or(0)
    }
}

impl Bits for u128 {
    const COUNT: u8 = 128;
    const MAX: Self = Self::MAX;
    const ZERO: Self = 0;

    fn mask(length: u8) -> Self {
        let behind = Self::COUNT.saturating_sub(length);
        <Self as Bits>::MAX.checked_shl(u32::from(behind)).unwrap_or(0)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn before(self) -> Self {
        self.wrapping_sub(1)
    }

    fn above(self, other: Self) -> Self {
        self.saturating_sub(other)
    }

    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }

    fn shifted(self, shift: u32) -> u32 {
        u32::try_from(self.checked_shr(shift).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn placed(number: u32, shift: u32) -> Self {
        Self::from(number).checked_shl(shift).unwrap_or(0)
    }
}

impl Family for Ipv4Addr {
    type Bits = u32;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
    const ICMP: u8 = 1;

    fn number(self) -> u32 {
        self.to_bits()
    }

    fn from_number(bits: u32) -> Self {
        Self::from_bits(bits)
    }
}

impl Family for Ipv6Addr {
    type Bits = u128;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
    const ICMP: u8 = 58;

    fn number(self) -> u128 {
        self.to_bits()
    }

    fn from_number(bits: u128) -> Self {
        Self::from_bits(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_as_many_bits_as_it_says() {
        for length in 0..=32 {
            assert_eq!(<u32 as Bits>::mask(length).count_ones(), u32::from(length));
            assert_eq!(<u32 as Bits>::mask(length).leading_ones(), u32::from(length));
        }
        for length in 0..=128 {
            assert_eq!(<u128 as Bits>::mask(length).count_ones(), u32::from(length));
            assert_eq!(<u128 as Bits>::mask(length).leading_ones(), u32::from(length));
        }
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        assert_eq!(Bits::next(u128::MAX), None);
        assert_eq!(u128::MAX.shifted(0), u32::MAX);
        assert_eq!(u128::MAX.shifted(100), (1 << 28) - 1);
        assert_eq!(<u128 as Bits>::placed(5, 126), 1 << 126);
        assert_eq!(<u32 as Bits>::placed(5, 40), 0);
        assert_eq!(3_u32.above(5), 0);
    }
}
