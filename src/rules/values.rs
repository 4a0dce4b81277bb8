//! Values that prove themselves: holding a prefix or a range of ports is proof that it is one.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use serde::{Serialize, Serializer};

use crate::flow::{Bits, Family};

/// A prefix with no bits set behind its length.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cidr<A: Family = Ipv4Addr> {
    address: A,
    length: u8,
}

/// Why a prefix is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CidrError {
    /// Bits are set behind the prefix length.
    #[error("bits are set behind the prefix length")]
    HostBits,
    /// Not `address/length` at all.
    #[error("not an IPv4 prefix such as 10.1.1.0/24")]
    Malformed,
    /// Not `address/length` at all, where IPv6 was wanted.
    #[error("not an IPv6 prefix such as 2001:db8:1::/64")]
    MalformedIpv6,
}

impl<A: Family> Cidr<A> {
    /// Everything: `0.0.0.0/0`.
    pub const ANY: Self = Self { address: A::UNSPECIFIED, length: 0 };
    /// The length of a prefix that is one address.
    pub const LENGTH_MAX: u8 = <A::Bits as Bits>::COUNT;

    /// The prefix `address/length`.
    ///
    /// # Errors
    /// When the length is over that of an address or bits are set behind it.
    pub fn new(address: A, length: u8) -> Result<Self, CidrError> {
        if length > Self::LENGTH_MAX {
            return Err(Self::malformed());
        }
        let cidr = Self { address, length };
        if address.number() & !cidr.mask() != A::Bits::ZERO {
            return Err(CidrError::HostBits);
        }
        Ok(cidr)
    }

    /// The prefix of `length` bits that `address` is in.
    #[must_use]
    pub fn containing(address: A, length: u8) -> Self {
        let length = length.min(Self::LENGTH_MAX);
        let mask = Self { address, length }.mask();
        Self { address: A::from_number(address.number() & mask), length }
    }

    /// The lowest address.
    #[must_use]
    pub const fn first(&self) -> A {
        self.address
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> A {
        A::from_number(self.address.number() | !self.mask())
    }

    /// The prefix length.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The netmask as bits.
    #[must_use]
    pub fn mask(&self) -> A::Bits {
        A::Bits::mask(self.length)
    }

    /// Whether `address` is inside.
    #[must_use]
    pub fn contains(&self, address: A) -> bool {
        address.number() & self.mask() == self.address.number()
    }

    /// Whether any address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    const fn malformed() -> CidrError {
        match Self::LENGTH_MAX {
            32 => CidrError::Malformed,
            _ => CidrError::MalformedIpv6,
        }
    }
}

impl<A: Family> std::str::FromStr for Cidr<A> {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, number(length)),
            None => (text, Some(Self::LENGTH_MAX)),
        };
        let address = address.parse().map_err(|_| Self::malformed())?;
        Self::new(address, length.ok_or(Self::malformed())?)
    }
}

impl<A: Family> std::fmt::Display for Cidr<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.length))
    }
}

impl<A: Family> Serialize for Cidr<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One or more consecutive ports: not empty, in order, free of port 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// Why a port range is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortRangeError {
    /// The last port is below the first.
    #[error("the last port is below the first")]
    Descending,
    /// Not a number from 1 to 65535.
    #[error("a port is a number from 1 to 65535")]
    NotAPort,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: NonZeroU16::MIN, last: NonZeroU16::MAX };

    /// The ports from `first` to `last`.
    ///
    /// # Errors
    /// When either is zero or they are out of order.
    pub fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        let first = NonZeroU16::new(first).ok_or(PortRangeError::NotAPort)?;
        let last = NonZeroU16::new(last).ok_or(PortRangeError::NotAPort)?;
        if first > last {
            return Err(PortRangeError::Descending);
        }
        Ok(Self { first, last })
    }

    /// The first port.
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first.get()
    }

    /// The last port.
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last.get()
    }

    /// How many ports.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.last.get() as u32 - self.first.get() as u32 + 1
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.first.get() <= port && port <= self.last.get()
    }

    /// Whether any port is in both.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

impl std::str::FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text| number(text).ok_or(PortRangeError::NotAPort);
        Self::new(port(first)?, port(last)?)
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            f.pad(&self.first.to_string())
        } else {
            f.pad(&format!("{}-{}", self.first, self.last))
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Digits as a number: no sign, no leading zeros.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain && !leading_zero { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prefixes_and_ranges_survive_being_written(
            bits: u32,
            bits6: u128,
            length in 0_u8..=32,
            length6 in 0_u8..=128,
            one in 1_u16..,
            other in 1_u16..,
        ) {
            let cidr = Cidr::containing(Ipv4Addr::from_bits(bits), length);
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
            let wide = Cidr::containing(Ipv6Addr::from_bits(bits6), length6);
            prop_assert_eq!(wide.to_string().parse(), Ok(wide));
            let ports = PortRange::new(one.min(other), one.max(other)).unwrap();
            prop_assert_eq!(ports.to_string().parse(), Ok(ports));
        }

        #[test]
        fn overlap_is_a_shared_address(one: u32, other: u32, a in 0_u8..=32, b in 0_u8..=32) {
            let (one, other) = (
                Cidr::containing(Ipv4Addr::from_bits(one), a),
                Cidr::containing(Ipv4Addr::from_bits(other), b),
            );
            let shared = one.first().max(other.first()) <= one.last().min(other.last());
            prop_assert_eq!(one.overlaps(&other), shared);
        }
    }

    #[test]
    fn signs_spaces_and_zeros_are_no_prefixes_and_no_ports() {
        for text in ["10.0.0.0/+8", "10.0.0.0/", "10.0.0.0/08", "/8", "10.0.0/8", "10.0.0.0/33"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed), "{text}");
        }
        for text in ["", "0", "+1", "1-", "-1", "1-2-3", "1 - 2 ", "65536", "01"] {
            assert_eq!(text.parse::<PortRange>(), Err(PortRangeError::NotAPort), "{text}");
        }
        assert_eq!("2-1".parse::<PortRange>(), Err(PortRangeError::Descending));
    }
}
