use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use super::*;
use crate::flow::{Mac, Protocol};

const TENANT: Tenant = Tenant { realm: 7, entry: 1234 };
const HERE: PortId = PortId(0);
const BITS: u32 = 3;
const NOW: Tick = Tick::from_ms(1_000_000_000);

/// Words that a test keeps hold of, as the program does.
#[derive(Clone)]
struct Memory(Arc<[AtomicU64]>);

impl AsRef<[AtomicU64]> for Memory {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn memory(words: usize) -> Memory {
    Memory((0..words).map(|_| AtomicU64::new(0)).collect())
}

/// Shortcuts of one interface, the words of its slots and those of its gate.
fn shortcuts() -> (Shortcuts, Memory, Memory) {
    let (slots, gate) = (memory((WORDS * 8) << BITS), memory(3));
    let words = super::Memory {
        slots: Box::new(slots.clone()),
        tags: Box::new(memory(1 << BITS)),
        gate: Box::new(gate.clone()),
    };
    let shortcuts = Shortcuts::new(vec![Some(Table::new(words, [5, 6], BITS))]);
    (shortcuts, slots, gate)
}

fn direction(number: u32) -> Direction {
    let key = Key { addresses: number.into(), ports: number, protocol: Protocol::TCP };
    Direction {
        key,
        station: Mac([1; 6]),
        exit: HERE,
        mtu: 1500,
        leaves_as: (1, 2),
        stations: [Mac([2; 6]), Mac([3; 6])],
        sequence_next: 100 + number,
        window_shift: 0,
    }
}

fn make(shortcuts: &Shortcuts, number: u32) -> Option<Place> {
    let epoch = shortcuts.epoch().expect("an epoch");
    shortcuts.make(HERE, &direction(number), TENANT, epoch, NOW)
}

/// Counts on a slot as the program does.
fn pass(slots: &Memory, Place(place): Place, packets: u64, bytes: u64) {
    let first = place as usize * WORDS;
    slots.0[first + 6].fetch_add((packets << 37) + bytes, Ordering::Relaxed);
}

#[test]
fn what_was_written_is_found_by_its_key_alone() {
    let (shortcuts, ..) = shortcuts();
    let place = make(&shortcuts, 1).expect("there is room");
    let table = shortcuts.table(HERE).expect("a table");
    let account = table.account(place, NOW).expect("an account");
    let Account { tenant, key, exit, last, sequence_next } = account;
    assert_eq!((tenant, key, exit), (TENANT, direction(1).key, HERE));
    assert_eq!(sequence_next, 101);
    let age = NOW.since(last).as_millis();
    assert!((0..17).contains(&age), "in units of 2^24 ns: {age} ms");
    assert_eq!(shortcuts.sequence_next(direction(1).key), Some(101));
    assert_eq!(shortcuts.sequence_next(direction(2).key), None);
    assert!(shortcuts.is_true(table, place));
    let flow = Key::in_realm(account.key, 7);
    assert_eq!(flow, [1, 1 << 32 | 7 << 16 | 6 << 8]);
}

#[test]
fn when_a_packet_passed_is_known_for_minutes_before_and_after() {
    let (shortcuts, ..) = shortcuts();
    let place = make(&shortcuts, 1).expect("there is room");
    let table = shortcuts.table(HERE).expect("a table");
    let last = |ms| table.account(place, Tick::from_ms(ms)).expect("an account").last;
    let known = last(NOW.as_ms());
    for around in [1_000_000_000 - 540_000, 1_000_000_000 + 540_000] {
        assert_eq!(last(around), known);
    }
}

#[test]
fn a_word_of_eight_that_is_full_takes_no_more_until_one_moves_out() {
    let (shortcuts, ..) = shortcuts();
    let made: Vec<_> = (0..1000).filter_map(|number| make(&shortcuts, number)).collect();
    let places: HashSet<_> = made.iter().map(|place| place.0).collect();
    assert_eq!((made.len(), places.len()), (64, 64), "each place once");
    assert_eq!((shortcuts.len(), shortcuts.capacity()), (64, 64));
    let table = shortcuts.table(HERE).expect("a table");
    let moves_out = table.account(made[0], NOW).expect("an account").key;
    shortcuts.vacate(table, made[0]);
    let again = Direction { key: moves_out, ..direction(0) };
    let epoch = shortcuts.epoch().expect("an epoch");
    assert_eq!(shortcuts.make(HERE, &again, TENANT, epoch, Tick::ZERO), Some(made[0]));
}

#[test]
fn an_epoch_that_is_over_is_never_written() {
    let (shortcuts, slots, gate) = shortcuts();
    let before = shortcuts.epoch().expect("an epoch");
    shortcuts.end_epoch();
    let place = shortcuts.make(HERE, &direction(1), TENANT, before, Tick::ZERO).expect("room");
    let epoch = gate.0[0].load(Ordering::Relaxed);
    assert_ne!(slots.0[place.0 as usize * WORDS].load(Ordering::Relaxed) >> 32, epoch);
    assert!(!shortcuts.is_true(shortcuts.table(HERE).expect("a table"), place));
    shortcuts.hold(Hold::Stopping);
    assert_eq!((gate.0[0].load(Ordering::Relaxed), shortcuts.epoch()), (0, None));
    shortcuts.hold(Hold::Watched);
    shortcuts.release(Hold::Watched);
    assert_eq!(shortcuts.epoch(), None, "the other hold is on");
}

#[test]
fn what_passed_is_told_once_whoever_asks_and_not_to_who_comes_after() {
    let (shortcuts, slots, _) = shortcuts();
    let place = make(&shortcuts, 1).expect("there is room");
    let table = shortcuts.table(HERE).expect("a table");
    pass(&slots, place, 3, 300);
    assert_eq!(table.take_passed(place), Passed { packets: 3, bytes: 300 });
    pass(&slots, place, 2, 200);
    assert_eq!(shortcuts.end(direction(1).key), Passed { packets: 2, bytes: 200 });
    assert_eq!(shortcuts.end(direction(1).key), Passed::default());
    assert_eq!(shortcuts.sequence_next(direction(1).key), None, "the next session has its own");
    assert_eq!(table.take_passed(place), Passed::default());
    assert_eq!(table.take_settled(place), Passed { packets: 2, bytes: 200 });
    assert_eq!(table.take_settled(place), Passed::default());
    // The program was about to count when that ended.
    pass(&slots, place, 1, 100);
    shortcuts.vacate(table, place);
    let next = make(&shortcuts, 1).expect("there is room");
    assert_eq!((next, table.take_passed(next)), (place, Passed::default()));
}

#[test]
fn packets_are_neither_lost_nor_told_twice_while_many_ask() {
    let (shortcuts, slots, _) = shortcuts();
    let place = make(&shortcuts, 1).expect("there is room");
    let table = shortcuts.table(HERE).expect("a table");
    let told = thread::scope(|scope| {
        let ask = || (0..20_000).map(|_| table.take_passed(place).packets).sum::<u64>();
        let asking: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        (0..20_000).for_each(|_| pass(&slots, place, 1, 60));
        asking.into_iter().map(|one| one.join().expect("it asks")).sum::<u64>()
    });
    assert_eq!(told + table.take_passed(place).packets, 20_000);
}

#[test]
fn a_place_is_given_to_one_of_those_who_want_it() {
    let (shortcuts, ..) = shortcuts();
    let made = thread::scope(|scope| {
        let want = |first: u32| {
            let shortcuts = &shortcuts;
            move || (first..first + 500).filter_map(|it| make(shortcuts, it)).collect::<Vec<_>>()
        };
        let wanting = [0, 500, 1000].map(|first| scope.spawn(want(first)));
        wanting.into_iter().flat_map(|one| one.join().expect("it makes")).collect::<Vec<_>>()
    });
    let places: HashSet<_> = made.iter().map(|place| place.0).collect();
    assert_eq!((made.len(), places.len(), shortcuts.len()), (64, 64, 64));
}
