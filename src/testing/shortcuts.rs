//! What the XDP program does with shortcuts, in memory: `src/io/xdp/shortcut.bpf.h` once more, by whole packets.
//! `tests/shortcuts.rs` holds the program itself against the same fast path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::{LinkWords, Mac, PortId, Protocol};
use crate::shortcut::{Memory, Table, WORDS};
use crate::time::Tick;
use crate::wire::plain::Plain;

/// The program of one interface.
pub struct Emulated {
    slots: Shared,
    tags: Shared,
    gate: Shared,
}

#[derive(Clone)]
struct Shared(Arc<[AtomicU64]>);

impl AsRef<[AtomicU64]> for Shared {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Shared {
    fn new(words: usize) -> Self {
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn load(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }
}

impl Emulated {
    /// A program without shortcuts, with room for eight times `1 << bits`.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self {
            slots: Shared::new((WORDS * 8) << bits),
            tags: Shared::new(1 << bits),
            gate: Shared::new(3),
        }
    }

    /// The table that it reads.
    #[must_use]
    pub fn table(&self, bits: u32) -> Table {
        let Self { slots, tags, gate } = self;
        let memory = Memory {
            slots: Box::new(slots.clone()),
            tags: Box::new(tags.clone()),
            gate: Box::new(gate.clone()),
        };
        Table::new(memory, [1, 2], bits)
    }

    /// Where a frame goes by a shortcut, and what it is then; none if it takes none.
    #[must_use]
    pub fn pass(&self, frame: &[u8], now: Tick) -> Option<(PortId, Vec<u8>)> {
        let ns = now.as_ms() * 1_000_000;
        let (epoch, until) = (self.gate.load(0), self.gate.load(1));
        let plain = Plain::read(frame)?;
        if epoch == 0 || ns > until {
            return None;
        }
        let [addresses, rest] = plain.key_words();
        let ports = ((rest >> 32) as u32).to_be_bytes();
        let is_it = |slot: &usize| {
            let word = |index: usize| self.slots.load(slot + index);
            let its = word(2).to_ne_bytes();
            word(0) >> 32 == epoch
                && u64::from_be(word(1)) == addresses
                && its[..4] == ports
                && its[4] == plain.protocol().0
        };
        let slot = (0..self.slots.0.len()).step_by(WORDS).find(is_it)?;
        let word = |index: usize| self.slots.load(slot + index);
        let [.., exit, window_shift, _] = word(2).to_ne_bytes();
        let station = self.gate.load(2).to_ne_bytes();
        if plain.length > word(0) as u16 || frame[..6] != station[..6] {
            return None;
        }
        let mut next = word(7) as u32;
        if plain.protocol() == Protocol::TCP {
            let end = plain.sequence_end(frame)?;
            if end.wrapping_sub(next) <= 65_535 << window_shift {
                next = end;
            }
        }
        let bytes = [word(4).to_ne_bytes(), word(5).to_ne_bytes()].concat();
        let (ports, stations) = bytes.split_at(4);
        let stations = [&stations[..6], &stations[6..]];
        let stations = stations.map(|it| Mac(it.try_into().expect("six bytes")));
        let link_words = LinkWords::new(stations);
        let mut after = frame.to_vec();
        let ports = u32::from_be_bytes(ports.try_into().expect("four bytes"));
        assert!(plain.rewrite_untagged(&mut after, link_words, u64::from_be(word(3)), ports));
        after.truncate(plain.end().into());
        let passed = (1 << 37) + u64::from(plain.length);
        self.slots.0[slot + 6].fetch_add(passed, Ordering::Relaxed);
        let seen = (ns >> 24) << 48 | u64::from(next);
        self.slots.0[slot + 7].store(seen, Ordering::Relaxed);
        Some((PortId(exit), after))
    }
}
