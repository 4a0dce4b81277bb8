//! Internet checksums: computed whole, updated incrementally (RFC 1071, RFC 1624).

use crate::wire::parse::Parsed;

/// What a rewrite adds to a checksum.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ChecksumDelta(u16);

/// Whether the TCP or UDP checksum field of a packet is only the pseudo-header's folded sum: the
/// sending kernel left the rest to its device (`CHECKSUM_PARTIAL`).
#[must_use]
pub fn is_partial(frame: &[u8], parsed: &Parsed) -> bool {
    todo!()
}

/// Computes the TCP or UDP checksum of a whole packet anew and writes it.
pub fn complete(frame: &mut [u8], parsed: &Parsed) {
    todo!()
}
