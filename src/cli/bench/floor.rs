//! The floor: what the memory alone costs. One random cache line of a table of the same size is
//! read and written, batched and prefetched, and the headers of the frame are rewritten at fixed
//! offsets, with incremental checksums.

use memmap2::{Advice, MmapMut};

use crate::cli::bench::frames::{HEADERS, fold};
use crate::cli::bench::traffic::Random;
use crate::cli::output::Failure;
use crate::frame::FrameBuffer;
use crate::prefetch::prefetch;

/// A table of cache lines.
pub struct Floor {
    lines: MmapMut,
}

const LINE: usize = 64;
const BATCH: usize = 64;

impl Floor {
    /// A table of `bytes` bytes, in the same kind of memory as the session table's.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn new(bytes: u64) -> Result<Self, Failure> {
        let error = |error| Failure::failed(format!("no memory for the floor: {error}"));
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).next_multiple_of(LINE);
        let mut lines = MmapMut::map_anon(length).map_err(error)?;
        // Without huge pages it works too.
        let _ = lines.advise(Advice::HugePage);
        lines.fill(1);
        Ok(Self { lines })
    }

    /// Does to every frame what cannot be avoided.
    pub fn pass<F: FrameBuffer>(&mut self, frames: &mut [F], random: &mut Random) -> u64 {
        let count = u64::try_from(self.lines.len() / LINE).unwrap_or(1);
        let mut seen = 0u64;
        for batch in frames.chunks_mut(BATCH) {
            let mut places = [0; BATCH];
            for (place, _) in places.iter_mut().zip(&*batch) {
                let line = ((random.next() >> 32) * count) >> 32;
                *place = usize::try_from(line).unwrap_or(0) * LINE;
                if let Some(line) = self.lines.get(*place) {
                    prefetch(line);
                }
            }
            for (place, frame) in places.iter().zip(batch) {
                let Some(line) = self.lines.get_mut(*place..*place + LINE) else { continue };
                let Some((word, _)) = line.split_first_chunk_mut::<8>() else { continue };
                let count = u64::from_ne_bytes(*word);
                *word = count.wrapping_add(1).to_ne_bytes();
                seen = seen.wrapping_add(count);
                if let Some(headers) = frame.bytes_mut().first_chunk_mut::<HEADERS>() {
                    rewrite(headers, count);
                }
            }
        }
        seen
    }
}

/// New link addresses, source address and port, TTL, and both checksums.
fn rewrite(headers: &mut [u8; HEADERS], entry: u64) {
    let [a, b, c, d, e, f, g, h] = entry.to_be_bytes();
    headers[0..8].copy_from_slice(&[a, b, c, d, e, f, g, h]);
    headers[8..12].copy_from_slice(&[a, b, c, d]);
    let word = |bytes: [u8; 2]| u32::from(u16::from_be_bytes(bytes));
    let old = [[headers[26], headers[27]], [headers[28], headers[29]], [headers[34], headers[35]]];
    let new = [[c, d], [e, f], [g, h]];
    let address = word([!old[0][0], !old[0][1]])
        + word([!old[1][0], !old[1][1]])
        + word(new[0])
        + word(new[1]);
    let port = word([!old[2][0], !old[2][1]]) + word(new[2]);
    headers[26..30].copy_from_slice(&[c, d, e, f]);
    headers[34..36].copy_from_slice(&[g, h]);
    headers[22] = headers[22].wrapping_sub(1);
    // One less in the high byte of a word adds 0xfeff to the complement's sum.
    let ip = !fold(word([!headers[24], !headers[25]]) + address + 0xfeff);
    headers[24..26].copy_from_slice(&ip.to_be_bytes());
    let udp = !fold(word([!headers[40], !headers[41]]) + address + port);
    headers[40..42].copy_from_slice(&udp.to_be_bytes());
}
