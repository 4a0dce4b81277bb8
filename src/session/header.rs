//! The first words of a region's file: who wrote it, and how to read the rest.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::hash::Hasher;
use crate::session::index::Layout;
use crate::session::shape::Shape;

/// What a region says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// How groups and entries are laid out.
    pub layout: Layout,
    /// The secret of the hash.
    pub seed: [u64; 4],
    /// The boot in which its times count.
    pub boot: u128,
    /// The process that had it last.
    pub owner: u32,
    /// Whether that process put it away, and did not just die.
    pub closed: bool,
}

/// Why a file cannot be read as a region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderError {
    /// It was never a region.
    Foreign,
    /// It is a region of a natwerk that laid sessions out in another way.
    OtherFormat,
    /// The header contradicts itself.
    Torn,
}

/// Words of a header.
pub const WORDS: usize = 14;
/// The word that says whether the region is in use.
pub const STATE: usize = 12;
/// The word that says which process has it.
pub const OWNER: usize = 13;
/// The region is in use, or its process died.
pub const OPEN: u64 = 1;
/// The region was put away.
pub const CLOSED: u64 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"natwerk\0");
/// What makes a region readable to another build: change this text whenever the meaning of a word
/// of groups, entries or header changes.
const FORMAT: &[u8] =
    b"1: header magic,format,max,layout,seed4,boot2,check,sum,state,owner; groups 7 tags+passed; \
      entries key+version,key,addresses,ports+partner27+kind3+initiator+holds,\
      next_hop24+rule24+generation16,seen32+sequence32,packets44+tcp4+peer4+own4,bytes";
/// Words that never change while the file exists; the next one is their sum.
const FIXED: usize = 11;

impl Header {
    /// Writes the header of a region in use by `self.owner`.
    pub fn write<A: Shape>(&self, words: &[AtomicU64]) {
        let fixed = self.fixed(format_of::<A>());
        let rest = [sum(&fixed), OPEN, u64::from(self.owner)];
        for (word, value) in words.iter().zip(fixed.into_iter().chain(rest)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Reads a header from the first bytes of a file.
    ///
    /// # Errors
    /// When it is none, or none that this build can go by.
    pub fn read<A: Shape>(bytes: &[u8; WORDS * 8]) -> Result<Self, HeaderError> {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [
            magic,
            format,
            sessions_max,
            layout,
            a,
            b,
            c,
            d,
            high,
            low,
            check,
            total,
            state,
            owner,
        ] = words;
        if magic != MAGIC {
            return Err(HeaderError::Foreign);
        }
        if format != format_of::<A>() {
            return Err(HeaderError::OtherFormat);
        }
        let header = Self {
            layout: Layout {
                sessions_max: u32::try_from(sessions_max).map_err(|_| HeaderError::Torn)?,
                shards: (layout >> 32) as u32,
                shard_groups: layout as u32,
            },
            seed: [a, b, c, d],
            boot: u128::from(high) << 64 | u128::from(low),
            owner: owner as u32,
            closed: state == CLOSED,
        };
        let fixed = header.fixed(format);
        if sum(&fixed) != total || fixed.get(2..10) != words.get(2..10) {
            return Err(HeaderError::Torn);
        }
        // A layout that this build would not choose is as good as one for another number of
        // sessions: they move.
        if Hasher::new(header.seed).check() != check || !header.layout.is_sound() {
            return Err(HeaderError::OtherFormat);
        }
        Ok(header)
    }

    fn fixed(&self, format: u64) -> [u64; FIXED] {
        let [a, b, c, d] = self.seed;
        [
            MAGIC,
            format,
            u64::from(self.layout.sessions_max),
            u64::from(self.layout.shards) << 32 | u64::from(self.layout.shard_groups),
            a,
            b,
            c,
            d,
            (self.boot >> 64) as u64,
            self.boot as u64,
            Hasher::new(self.seed).check(),
        ]
    }
}

/// A sum that notices torn words; it protects from accidents, not from people.
fn sum(words: &[u64]) -> u64 {
    let format = fingerprint(FORMAT, FNV_START);
    let hasher = Hasher::new([format, !format, MAGIC, !MAGIC]);
    words.iter().fold(0, |sum, &word| hasher.hash_words([sum, word]).0)
}

/// What regions of a family are known by.
const fn format_of<A: Shape>() -> u64 {
    fingerprint(A::FORMAT, fingerprint(FORMAT, FNV_START))
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
const fn fingerprint(text: &[u8], start: u64) -> u64 {
    let mut hash = start;
    let mut rest = text;
    while let [first, others @ ..] = rest {
        hash = (hash ^ *first as u64).wrapping_mul(0x0000_0100_0000_01b3);
        rest = others;
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn header() -> Header {
        Header {
            layout: Layout::new(1000),
            seed: [1, 2, 3, 4],
            boot: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
            owner: 77,
            closed: false,
        }
    }

    fn bytes_of(header: &Header) -> [u8; WORDS * 8] {
        let words: [AtomicU64; WORDS] = Default::default();
        header.write::<Ipv4Addr>(&words);
        let mut bytes = [0; WORDS * 8];
        for (place, word) in bytes.chunks_mut(8).zip(&words) {
            place.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_header_survives_its_words() {
        assert_eq!(Header::read::<Ipv4Addr>(&bytes_of(&header())), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_what_never_changes_is_noticed() {
        let bytes = bytes_of(&header());
        for bit in 0..(FIXED + 1) * 64 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read::<Ipv4Addr>(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_region_of_the_other_family_is_of_another_format() {
        assert_eq!(Header::read::<Ipv6Addr>(&bytes_of(&header())), Err(HeaderError::OtherFormat));
    }

    #[test]
    fn zeros_and_other_files_are_foreign() {
        assert_eq!(Header::read::<Ipv4Addr>(&[0; WORDS * 8]), Err(HeaderError::Foreign));
        assert_eq!(Header::read::<Ipv4Addr>(&[b'#'; WORDS * 8]), Err(HeaderError::Foreign));
    }
}
