//! The session table against DashMap with ahash, and against the memory it lies in.
//!
//! `cargo bench --bench session_table` gives criterion's figures one after the other.
//! `cargo bench --bench session_table -- --ratios` runs the contenders in turns and prints the
//! medians of their ratios to the first, which is what to trust on a machine that others use too.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use dashmap::DashMap;
use memmap2::{Advice, MmapOptions};
use natwerk::flow::{FlowKey, Protocol};
use natwerk::prefetch::prefetch;
use natwerk::session::entry::{Entry, NewSession};
use natwerk::session::table::{Hash, Table};
use natwerk::testing::sessions::{SEED, session};
use natwerk::time::{Coarse, Tick};

const BATCH: usize = 64;
/// CSIT's session counts.
const SIZES: [u32; 3] = [64_512, 1_032_192, 4_128_768];
/// Packets between two moves of the coarse clock, at ten million a second: in a large table the
/// clock has moved whenever a session is seen again.
const PACKETS_PER_UNIT: usize = 1_280_000;

/// Something that handles one batch each time it is called.
type Contender = (&'static str, Box<dyn FnMut()>);
type Map = DashMap<FlowKey, [u64; 8], ahash::RandomState>;

fn main() {
    if std::env::args().any(|argument| argument == "--ratios") {
        for size in SIZES {
            ratios("lookup", size, &mut lookups(size));
            ratios("new session", size, &mut churns(size));
            ratios("sweep of 64 sessions", size, &mut sweeps(size));
        }
        return;
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    for (what, make) in [
        ("lookup", lookups as fn(u32) -> Vec<Contender>),
        ("new session", churns),
        ("sweep", sweeps),
    ] {
        let mut group = criterion.benchmark_group(what);
        group.throughput(Throughput::Elements(BATCH as u64));
        for size in SIZES {
            for (name, mut run) in make(size) {
                group
                    .bench_function(BenchmarkId::new(name, size), |bencher| bencher.iter(&mut run));
            }
        }
    }
    criterion.final_summary();
}

/// Established packets: one key of either direction in random order, counted.
fn lookups(size: u32) -> Vec<Contender> {
    let table = Rc::new(Table::in_memory(size, SEED));
    let map = Map::default();
    let mut keys = Vec::new();
    for number in 0..size {
        let session = session(number, Protocol::UDP);
        table.insert(&session, Tick::ZERO).expect("there is room");
        map.insert(session.initiator, [0; 8]);
        map.insert(session.responder, [0; 8]);
        keys.push(if number % 2 == 0 { session.initiator } else { session.responder });
    }
    shuffle(&mut keys);
    let keys: Rc<[FlowKey]> = keys.into();
    let (mut first, mut second) = (Turn::default(), Turn::default());
    let (one, two, three) = (Rc::clone(&keys), Rc::clone(&keys), keys);
    let same_table = Rc::clone(&table);
    let mut third = Turn::default();
    vec![
        floor(table.slots() as usize, size as usize),
        (
            "batched",
            Box::new(move || {
                let (place, now) = first.next(one.len());
                lookup_batch(&table, &one[place..place + BATCH], now);
            }),
        ),
        (
            "one at a time",
            Box::new(move || {
                let (place, now) = second.next(two.len());
                for key in &two[place..place + BATCH] {
                    let found = same_table.find(key, same_table.hash(key)).expect("is there");
                    found.touch(64, now);
                    black_box(&found.rewrite);
                }
            }),
        ),
        (
            "dashmap",
            Box::new(move || {
                let (place, now) = third.next(three.len());
                for key in &three[place..place + BATCH] {
                    let mut found = map.get_mut(key).expect("is there");
                    found[0] = u64::from(now.as_raw());
                    found[1] += 64;
                    black_box(found[2]);
                }
            }),
        ),
    ]
}

/// As the pipeline does it: hash and prefetch all, then look all up.
fn lookup_batch(table: &Table, keys: &[FlowKey], now: Coarse) {
    let mut hashes = [Hash::default(); BATCH];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
        table.prefetch_index(*hash);
    }
    for hash in hashes {
        table.prefetch_entry(hash);
    }
    for (key, hash) in keys.iter().zip(hashes) {
        let found = table.find(key, hash).expect("is there");
        found.touch(64, now);
        black_box(&found.rewrite);
    }
}

/// A table that stays full: a new session comes, the oldest goes.
fn churns(size: u32) -> Vec<Contender> {
    let table = Table::in_memory(size, SEED);
    let map = Map::default();
    for number in 0..size - 1 {
        let session = session(number, Protocol::UDP);
        table.insert(&session, Tick::ZERO).expect("there is room");
        insert_into(&map, &session);
    }
    let (mut newest, mut map_newest) = (size - 1, size - 1);
    vec![
        (
            "insert and remove",
            Box::new(move || {
                for _ in 0..BATCH {
                    let new = session(newest, Protocol::UDP);
                    table.insert(&new, Tick::ZERO).expect("there is room");
                    newest = (newest + 1) % NUMBERS;
                    let old = session((newest + NUMBERS - size) % NUMBERS, Protocol::UDP);
                    let index = table
                        .find(&old.initiator, table.hash(&old.initiator))
                        .expect("is there")
                        .index;
                    black_box(table.remove(index, &old.initiator).expect("is there"));
                }
            }),
        ),
        (
            "dashmap insert and remove",
            Box::new(move || {
                for _ in 0..BATCH {
                    insert_into(&map, &session(map_newest, Protocol::UDP));
                    map_newest = (map_newest + 1) % NUMBERS;
                    let old = session((map_newest + NUMBERS - size) % NUMBERS, Protocol::UDP);
                    black_box(map.remove(&old.initiator));
                    black_box(map.remove(&old.responder));
                }
            }),
        ),
    ]
}

/// As the sweep looks at sessions of which none is over: two groups of slots a step.
fn sweeps(size: u32) -> Vec<Contender> {
    const STEP: u32 = 14;
    let table = Table::in_memory(size, SEED);
    for number in 0..size {
        table.insert(&session(number, Protocol::UDP), Tick::ZERO).expect("there is room");
    }
    let (mut cursor, steps) = (0, BATCH as u64 * u64::from(table.slots()) / u64::from(size * STEP));
    vec![(
        "none is over",
        Box::new(move || {
            for _ in 0..steps {
                let passes = |entry: &Entry| entry.last_seen() >= Coarse::default();
                table.walk_unless(passes, &mut cursor, STEP, |view| {
                    black_box(view);
                });
            }
        }),
    )]
}

/// Sessions that differ in every key.
const NUMBERS: u32 = 1 << 24;

fn insert_into(map: &Map, session: &NewSession) {
    map.insert(session.initiator, [0; 8]);
    map.insert(session.responder, [0; 8]);
}

/// The least that a table of this size can cost: one random line read and written, prefetched a
/// batch ahead.
fn floor(lines: usize, count: usize) -> Contender {
    let mut memory = MmapOptions::new().len(lines * 64).map_anon().expect("there is memory");
    let _ = memory.advise(Advice::HugePage);
    memory.fill(1);
    let mut order: Vec<u32> = (0..count).map(|place| (place * lines / count) as u32).collect();
    shuffle(&mut order);
    let mut turn = Turn::default();
    (
        "floor",
        Box::new(move || {
            let (place, now) = turn.next(order.len());
            let places = &order[place..place + BATCH];
            let lines = memory.as_chunks_mut::<64>().0;
            for &place in places {
                prefetch(&lines[place as usize]);
            }
            for &place in places {
                let line = &mut lines[place as usize];
                line[0] = line[0].wrapping_add(now.as_raw() as u8 | 1);
                black_box(line[8]);
            }
        }),
    )
}

/// Whose turn it is: batches in order, and the clock.
#[derive(Default)]
struct Turn {
    next: usize,
    packets: usize,
}

impl Turn {
    fn next(&mut self, length: usize) -> (usize, Coarse) {
        let place = if self.next + BATCH > length { 0 } else { self.next };
        self.next = place + BATCH;
        self.packets += BATCH;
        (place, Coarse::from_raw((self.packets / PACKETS_PER_UNIT) as u32))
    }
}

fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for index in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        items.swap(index, (state >> 33) as usize % (index + 1));
    }
}

/// Runs the contenders in turns and prints nanoseconds each and the ratio to the first.
fn ratios(what: &str, size: u32, contenders: &mut [Contender]) {
    const ROUNDS: usize = 21;
    let batches = 200_000 / BATCH;
    let mut times = vec![Vec::new(); contenders.len()];
    for round in 0..=ROUNDS {
        for ((_, run), times) in contenders.iter_mut().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..batches {
                run();
            }
            // The first round only warms up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e9 / (batches * BATCH) as f64);
            }
        }
    }
    for ((name, _), own) in contenders.iter().zip(&times) {
        let mut ratios: Vec<f64> =
            own.iter().zip(&times[0]).map(|(own, first)| own / first).collect();
        let mut own = own.clone();
        own.sort_by(f64::total_cmp);
        ratios.sort_by(f64::total_cmp);
        println!(
            "{what:<12} {size:>9}  {name:<26} {:>6.1} ns (least {:.1})  {:>5.2}x (from {:.2} to {:.2})",
            own[ROUNDS / 2],
            own[0],
            ratios[ROUNDS / 2],
            ratios[2],
            ratios[ROUNDS - 3],
        );
    }
}
