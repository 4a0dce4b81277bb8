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
            gate: Shared::new(2),
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
        let [.., exit, m, n] = word(2).to_ne_bytes();
        let station = word(3).to_ne_bytes();
        if plain.length > u16::from_ne_bytes([m, n]) || frame[..6] != station[..6] {
            return None;
        }
        if plain.protocol() == Protocol::TCP {
            let (end, next) = (plain.sequence_end(frame)?, word(11) as u32);
            let window = (word(7) >> 32) as u32;
            if end.wrapping_sub(next) <= window {
                self.slots.0[slot + 11].store(end.into(), Ordering::Relaxed);
            }
        }
        let stations = [word(6).to_ne_bytes(), word(7).to_ne_bytes()].concat();
        let stations = [&stations[..6], &stations[6..12]];
        let stations = stations.map(|it| Mac(it.try_into().expect("six bytes")));
        let [a, b, c, d, ..] = word(5).to_ne_bytes();
        let mut after = frame.to_vec();
        let ports = u32::from_be_bytes([a, b, c, d]);
        assert!(plain.rewrite_untagged(
            &mut after,
            LinkWords::new(stations),
            u64::from_be(word(4)),
            ports
        ));
        after.truncate(plain.end().into());
        self.slots.0[slot + 8].fetch_add(1, Ordering::Relaxed);
        self.slots.0[slot + 9].fetch_add(plain.length.into(), Ordering::Relaxed);
        self.slots.0[slot + 10].store(ns, Ordering::Relaxed);
        Some((PortId(exit), after))
    }
}
