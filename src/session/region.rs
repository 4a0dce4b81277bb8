//! The memory of a table: groups and entries in one mapping.
//!
//! All that is shared is atomic words, for which every pattern of bits is a value; so whatever a
//! mapped file holds, reading it is defined, and making sense of it is for those who read.

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapMut, MmapOptions};

use crate::session::entry::Entry;
use crate::session::index::Layout;

/// The mapped memory of a table.
pub struct Region {
    groups: NonNull<AtomicU64>,
    entries: NonNull<Entry>,
    layout: Layout,
    length: usize,
    // Kept for its `Drop`; all access goes through the pointers above.
    _map: MmapMut,
}

// SAFETY: the pointers lead into `_map`, which moves with them, and what they point to is made of
// atomics alone.
unsafe impl Send for Region {}
// SAFETY: the same; shared access is access to atomics.
unsafe impl Sync for Region {}

impl Region {
    /// Fresh memory of this process alone, all zeros.
    ///
    /// # Errors
    /// When the system has no memory to give.
    pub fn in_memory(layout: Layout) -> io::Result<Self> {
        let places = Places::new(layout);
        let map = MmapOptions::new().len(places.length).map_anon()?;
        Ok(Self::over(map, layout, places))
    }

    fn over(map: MmapMut, layout: Layout, places: Places) -> Self {
        assert!(map.len() >= places.length, "a mapping is as long as its layout needs");
        // Random lookups in gigabytes miss the TLB every time with small pages. Whether the system
        // has huge ones is its business; without them all works, more slowly.
        let _ = map.advise(Advice::HugePage);
        let start = NonNull::new(map.as_ptr().cast_mut()).unwrap_or(NonNull::dangling());
        // SAFETY: the places lie within the mapping, whose length was checked above.
        let groups = unsafe { start.add(places.groups) };
        // SAFETY: as above.
        let entries = unsafe { start.add(places.entries) };
        let (groups, entries) = (groups.cast(), entries.cast());
        assert!(groups.is_aligned() && entries.is_aligned(), "mappings start at a page");
        Self { groups, entries, layout, length: map.len(), _map: map }
    }

    /// The layout it was made for.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The words of all groups.
    #[must_use]
    pub fn groups(&self) -> &[AtomicU64] {
        // SAFETY: `over` checked that this many aligned words lie in the mapping, which lives as
        // long as `self`; nobody has them but as atomics.
        unsafe { slice::from_raw_parts(self.groups.as_ptr(), self.layout.groups() as usize) }
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        // SAFETY: as above; an entry is eight atomic words, aligned to its size.
        unsafe { slice::from_raw_parts(self.entries.as_ptr(), self.layout.slots() as usize) }
    }

    /// Bytes of the mapping.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }
}

/// Where things lie in a mapping, in bytes from its start.
#[derive(Clone, Copy, Debug)]
struct Places {
    groups: usize,
    entries: usize,
    length: usize,
}

impl Places {
    fn new(layout: Layout) -> Self {
        let groups = HEADER_LENGTH;
        let words = layout.groups() as usize * size_of::<AtomicU64>();
        let entries = (groups + words).next_multiple_of(PAGE);
        let length = entries + layout.slots() as usize * size_of::<Entry>();
        // Huge pages come whole; a file on hugetlbfs has no other length.
        let granule = if length < HUGE_PAGE { PAGE } else { HUGE_PAGE };
        Self { groups, entries, length: length.next_multiple_of(granule) }
    }
}

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
const HEADER_LENGTH: usize = PAGE;
