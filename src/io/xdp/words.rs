//! Memory that a BPF program and this process share: an array map, mapped.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// The words of an array map that was made with `BPF_F_MMAPABLE`.
pub struct MapWords {
    map: MmapRaw,
    count: usize,
}

impl MapWords {
    /// The first `count` words of the map.
    ///
    /// # Errors
    /// When the kernel does not map so many.
    pub fn of(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let map =
            MmapOptions::new().len(count * size_of::<AtomicU64>()).map_raw(map.as_raw_fd())?;
        Ok(Self { map, count })
    }
}

impl AsRef<[AtomicU64]> for MapWords {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping starts at a page, is as long as these words, and lives as long as
        // `self`; this process has them only as atomics, and the program's loads and stores are whole
        // words as well.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.count) }
    }
}
