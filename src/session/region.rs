//! The memory of a table: header, groups and entries in one mapping.
//!
//! All that is shared is atomic words, for which every pattern of bits is a value; so whatever a
//! mapped file holds, reading it is defined, and making sense of it is for those who read.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

use crate::session::entry::Entry;
use crate::session::header::{self, CLOSED, STATE};
use crate::session::index::{Index, Layout};
use crate::session::shape::Shape;

/// The mapped memory of a table.
pub struct Region<A: Shape = Ipv4Addr> {
    start: NonNull<AtomicU64>,
    groups: NonNull<[AtomicU64]>,
    entries: NonNull<[Entry<A>]>,
    layout: Layout,
    // Kept for its `Drop`; all access goes through the pointers above.
    map: MmapRaw,
    // The right to use the file, as long as this is open.
    _lock: Option<File>,
}

// SAFETY: the pointers lead into `map`, which moves with them and stays where it is, and what they
// point to is made of atomics alone.
unsafe impl<A: Shape> Send for Region<A> {}
// SAFETY: the same; shared access is access to atomics.
unsafe impl<A: Shape> Sync for Region<A> {}

impl<A: Shape> Region<A> {
    /// Fresh memory of this process alone, all zeros.
    ///
    /// # Errors
    /// When the system has no memory to give.
    pub fn in_memory(layout: Layout) -> io::Result<Self> {
        let places = Places::new::<A>(layout, PAGE);
        let map: MmapMut = MmapOptions::new().len(places.length).map_anon()?;
        Ok(Self::over(MmapRaw::from(map), layout, places, None))
    }

    /// The memory of a file that is as long as [`Self::file_length`] says. All of it is made
    /// present now: a session never waits for a page, and where there is no room we learn of it
    /// here and not from a SIGBUS.
    ///
    /// # Errors
    /// When it cannot be mapped or there is no room.
    pub fn in_file(layout: Layout, file: &File, lock: Option<File>) -> io::Result<Self> {
        let places = Places::new::<A>(layout, granule(file)?);
        if file.metadata()?.len() < places.length as u64 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let map = MmapOptions::new().len(places.length).map_raw(file)?;
        let region = Self::over(map, layout, places, lock);
        match region.map.advise(Advice::PopulateWrite) {
            Ok(()) => Ok(region),
            // What would be a SIGBUS is EFAULT here.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            // A kernel older than 5.14 cannot; pages then come when they are needed.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(region),
            Err(error) => Err(error),
        }
    }

    /// How long `file` must be for a table of this layout.
    ///
    /// # Errors
    /// When nothing can be learnt of the file.
    pub fn file_length(layout: Layout, file: &File) -> io::Result<u64> {
        Ok(Places::new::<A>(layout, granule(file)?).length as u64)
    }

    fn over(map: MmapRaw, layout: Layout, places: Places, lock: Option<File>) -> Self {
        assert!(map.len() >= places.length, "a mapping is as long as its layout needs");
        // Random lookups in gigabytes miss the TLB every time with small pages. Whether the system
        // has huge ones (for a file: a tmpfs mounted with huge=advise) is its business; without
        // them all works, more slowly.
        let _ = map.advise(Advice::HugePage);
        let start = NonNull::new(map.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: the places lie within the mapping, whose length was checked above.
        let groups = unsafe { start.add(places.groups) };
        // SAFETY: as above.
        let entries = unsafe { start.add(places.entries) };
        let (start, groups, entries) = (start.cast(), groups.cast(), entries.cast::<Entry<A>>());
        assert!(entries.is_aligned(), "a mapping starts at a page");
        let groups = NonNull::slice_from_raw_parts(groups, layout.groups() as usize);
        let entries = NonNull::slice_from_raw_parts(entries, layout.slots() as usize);
        Self { start, groups, entries, layout, map, _lock: lock }
    }

    /// The layout it was made for.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The words of the header.
    #[must_use]
    pub fn header(&self) -> &[AtomicU64] {
        // SAFETY: a mapping starts with the header, at a page, and lives as long as `self`; nobody
        // has these words but as atomics.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), header::WORDS) }
    }

    /// The words of all groups.
    #[inline]
    #[must_use]
    pub fn groups(&self) -> &[AtomicU64] {
        // SAFETY: `over` checked that this many aligned words lie in the mapping, which lives as
        // long as `self`; nobody has them but as atomics.
        unsafe { self.groups.as_ref() }
    }

    /// All entries.
    #[inline]
    #[must_use]
    pub fn entries(&self) -> &[Entry<A>] {
        // SAFETY: as above; an entry is atomic words and aligned.
        unsafe { self.entries.as_ref() }
    }

    /// The index of all entries.
    #[inline]
    #[must_use]
    pub fn index(&self) -> Index<'_> {
        Index { words: self.groups(), layout: self.layout }
    }

    /// Bytes of the mapping.
    #[must_use]
    pub fn length(&self) -> usize {
        self.map.len()
    }
}

impl<A: Shape> Drop for Region<A> {
    fn drop(&mut self) {
        if let Some(state) = self.header().get(STATE) {
            state.store(CLOSED, Ordering::Relaxed);
        }
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
    fn new<A: Shape>(layout: Layout, granule: usize) -> Self {
        let groups = PAGE;
        let words = layout.groups() as usize * size_of::<AtomicU64>();
        let entries = (groups + words).next_multiple_of(PAGE);
        let length = entries + layout.slots() as usize * size_of::<Entry<A>>();
        Self { groups, entries, length: length.next_multiple_of(granule) }
    }
}

/// In what pieces a file's memory comes: huge pages come whole, and a file on hugetlbfs has no other
/// length.
fn granule(file: &File) -> io::Result<usize> {
    Ok(if file.metadata()?.blksize() < HUGE_PAGE as u64 { PAGE } else { HUGE_PAGE })
}

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
const _: () = assert!(header::WORDS * size_of::<AtomicU64>() <= PAGE);
