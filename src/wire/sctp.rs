//! SCTP's CRC32c (RFC 9260, appendix A), updated incrementally.
//!
//! A CRC is linear: the CRC of two packets that differ in some bits differs by the remainder of those
//! bits alone. So new ports change it by the remainder of the changed bits, moved to the front of a
//! packet of zeros: no payload is read, the cost does not grow with the packet, and a wrong CRC
//! stays wrong.

/// `checksum`, as it stands in the header, after the first four bytes (the ports) of a packet of
/// `length` bytes changed from `old` to `new`.
#[must_use]
pub fn update(checksum: [u8; 4], old: [u8; 4], new: [u8; 4], length: u16) -> [u8; 4] {
    let mut change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    // Eight powers of x for each byte from the ports' first on.
    for (bit, power) in BYTES_POWERS.iter().enumerate() {
        if length >> bit & 1 != 0 {
            change = multiply(change, *power);
        }
    }
    (u32::from_le_bytes(checksum) ^ change).to_le_bytes()
}

/// The CRC32c polynomial, bits reversed, x^32 left out.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x to the power of zero: polynomials are kept with their lowest power in the highest bit.
const ONE: u32 = 1 << 31;

/// x to the power of 8 * 2^n for each n: what 2^n further bytes multiply a remainder by.
const BYTES_POWERS: [u32; 16] = {
    let mut powers = [ONE >> 8; 16];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = multiply(powers[index - 1], powers[index - 1]);
        index += 1;
    }
    powers
};

/// The product of two polynomials modulo the CRC's.
const fn multiply(mut left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    while left != 0 {
        if left & ONE != 0 {
            product ^= right;
        }
        left <<= 1;
        right = right >> 1 ^ if right & 1 != 0 { POLYNOMIAL } else { 0 };
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CRC32c bit by bit, as appendix A defines it.
    fn crc32c(bytes: &[u8]) -> [u8; 4] {
        let mut crc = !0_u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 };
            }
        }
        (!crc).to_le_bytes()
    }

    #[test]
    fn the_reference_agrees_with_the_published_check_value() {
        assert_eq!(u32::from_le_bytes(crc32c(b"123456789")), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn an_updated_crc_is_the_crc_of_the_changed_packet(
            mut packet in proptest::collection::vec(any::<u8>(), 12..300),
            new: [u8; 4],
        ) {
            let old = [packet[0], packet[1], packet[2], packet[3]];
            packet[8..12].fill(0);
            let before = crc32c(&packet);
            packet[..4].copy_from_slice(&new);
            let length = u16::try_from(packet.len()).unwrap();
            prop_assert_eq!(update(before, old, new, length), crc32c(&packet));
        }
    }
}
