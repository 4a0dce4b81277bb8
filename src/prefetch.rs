//! Safe functions around one intrinsic.

/// Asks the processor to bring the cache line of `target` near. Never faults and changes nothing.
#[inline(always)]
pub fn prefetch<T>(target: &T) {
    ask_for(std::ptr::from_ref(target).cast());
}

/// The same of the thing at `place` of `things`, without a look at how many there are: where there is none,
/// nothing of use is asked for.
#[inline(always)]
pub fn prefetch_at<T>(things: &[T], place: usize) {
    ask_for(things.as_ptr().wrapping_add(place).cast());
}

/// The same of the first line of `bytes`, and only into the second nearest cache: for lines of which
/// the nearest one holds few at a time.
#[inline(always)]
pub fn prefetch_start(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as in `ask_for`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Where things lie that may be asked for by who may not look at them: an address, and nothing more.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    start: usize,
    each: usize,
}

impl Lines {
    /// Where `things` lie, for as long as they lie there.
    pub fn of<T>(things: &[T]) -> Self {
        Self { start: things.as_ptr().addr(), each: size_of::<T>() }
    }

    /// Asks for the thing at `place`.
    pub fn prefetch(self, place: usize) {
        let address = self.start.wrapping_add(place.wrapping_mul(self.each));
        ask_for(std::ptr::without_provenance(address));
    }
}

#[inline(always)]
fn ask_for(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it reads nothing architecturally and cannot fault, wherever
        // it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
