//! The table against a plain map, against other threads, and at its limits.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::flow::{Endpoint, Protocol};
use crate::session::entry::SessionKind;
use crate::testing::sessions::{SEED, session};
use crate::wire::checksum::ChecksumDelta;

fn table(sessions_max: u32) -> Table {
    Table::in_memory(sessions_max, SEED)
}

fn find<'t>(table: &'t Table, key: &FlowKey) -> Option<Found<'t>> {
    table.find(key, table.hash(key))
}

fn index_of(table: &Table, session: &NewSession) -> EntryIndex {
    find(table, &session.initiator).expect("is there").index
}

fn remove(table: &Table, session: &NewSession) -> Option<SessionView> {
    table.remove(find(table, &session.initiator)?.index, &session.initiator)
}

/// Every session that a whole walk sees, in steps of `step` slots.
fn walked(table: &Table, step: u32) -> Vec<SessionView> {
    let (mut cursor, mut seen) = (0, Vec::new());
    loop {
        let share = step.min(table.slots() - cursor);
        if table.walk(&mut cursor, share, |view| seen.push(view)) {
            assert_eq!(cursor, 0);
            return seen;
        }
    }
}

/// Asserts that what a direction is told to do follows from the session.
fn assert_translates(table: &Table, session: &NewSession) {
    for (key, other, next_hop, is_initiator) in [
        (session.initiator, session.responder, session.initiator_next_hop, true),
        (session.responder, session.initiator, session.responder_next_hop, false),
    ] {
        let found = find(table, &key).expect("both directions are there");
        assert_eq!(found.rewrite.source, other.destination);
        assert_eq!(found.rewrite.destination, other.source);
        let words = |source: Endpoint, destination: Endpoint| {
            let [a, b, c, d] = source.address.octets();
            let [e, f, g, h] = destination.address.octets();
            [[a, b], [c, d], [e, f], [g, h]].map(u16::from_be_bytes)
        };
        assert_eq!(
            found.rewrite.address_delta,
            ChecksumDelta::between(
                words(key.source, key.destination),
                words(other.destination, other.source)
            )
        );
        assert_eq!(found.next_hop, next_hop);
        assert_eq!(found.generation, session.generation);
        assert_eq!(found.kind(), session.kind);
        assert_eq!(found.is_initiator(), is_initiator);
        assert_eq!(table.view(found.index).expect("has a view").session, *session);
        assert!(table.at(found.index, &key).is_some());
        assert!(table.at(found.index, &other).is_none());
    }
}

#[test]
fn both_directions_are_found_and_leave_as_the_reverse_of_each_other() {
    let table = table(100);
    for kind in [
        SessionKind::Inbound,
        SessionKind::Hairpin,
        SessionKind::Routed,
        SessionKind::SourceNat,
        SessionKind::StaticNat,
        SessionKind::HairpinStatic,
    ] {
        let session = NewSession { kind, ..session(kind as u32 + 1, Protocol::TCP) };
        let index = table.insert(&session, Tick::from_ms(1280)).expect("there is room");
        assert_eq!(table.view(index).expect("is there").index, index);
        assert_translates(&table, &session);
    }
}

#[test]
fn counters_and_tcp_state_are_those_of_the_direction() {
    let table = table(10);
    let session = session(1, Protocol::TCP);
    let index = table.insert(&session, Tick::from_ms(1280)).expect("there is room");
    let state = TcpState {
        sequence_next: u32::MAX,
        syn: true,
        acknowledged: true,
        fin: true,
        rst: true,
        peer_window_shift: 14,
        window_shift: 9,
    };
    let responder = find(&table, &session.responder).expect("is there");
    assert_eq!(responder.last_seen, Coarse::from_raw(10));
    responder.set_tcp(state);
    responder.touch(u16::MAX, Coarse::from_raw(77));
    responder.touch(1, Coarse::from_raw(78));
    responder.count(1);
    let initiator = table.at(index, &session.initiator).expect("is there");
    assert_eq!(initiator.peer_tcp(), state);
    assert_eq!(initiator.tcp(), TcpState::default());
    assert_eq!(responder.tcp(), state);
    let view = table.view(responder.index).expect("is there");
    assert_eq!((view.responder.packets, view.responder.bytes), (3, 65_537));
    assert_eq!(view.responder.last_seen, Coarse::from_raw(78));
    assert_eq!(view.responder.tcp, state);
    assert_eq!((view.initiator.packets, view.initiator.bytes), (0, 0));
    responder.set_tcp(TcpState::default());
    assert_eq!(table.view(index).expect("is there").responder.packets, 3);
    // A new session in the same place starts anew.
    table.remove(index, &session.initiator).expect("was there");
    let index = table.insert(&session, Tick::ZERO).expect("there is room");
    let view = table.view(index).expect("is there");
    assert_eq!((view.responder.packets, view.responder.tcp), (0, TcpState::default()));
}

#[test]
fn a_session_is_forgotten_once_and_for_its_own_key_only() {
    let table = table(10);
    let (one, two) = (session(1, Protocol::UDP), session(2, Protocol::UDP));
    let index = table.insert(&one, Tick::ZERO).expect("there is room");
    let responder = find(&table, &one.responder).expect("is there").index;
    assert!(table.remove(index, &two.initiator).is_none());
    assert!(table.remove(responder, &one.responder).is_none());
    let view = table.remove(responder, &one.initiator).expect("either direction will do");
    assert_eq!(view.session, one);
    assert!(table.remove(index, &one.initiator).is_none());
    assert!(table.view(index).is_none() && table.view(responder).is_none());
    assert!(!table.contains(&one.initiator) && !table.contains(&one.responder));
    assert!(table.is_empty());
}

#[test]
fn no_two_sessions_share_a_key() {
    let table = table(10);
    let first = session(1, Protocol::UDP);
    table.insert(&first, Tick::ZERO).expect("there is room");
    let other = session(2, Protocol::UDP);
    for clash in [
        first,
        NewSession { initiator: first.initiator, ..other },
        NewSession { responder: first.responder, ..other },
        NewSession { initiator: first.responder, ..other },
        NewSession { responder: other.initiator, ..other },
    ] {
        assert_eq!(table.insert(&clash, Tick::ZERO), Err(InsertError::Exists));
    }
    assert_eq!(table.len(), 1);
    assert_translates(&table, &first);
}

#[test]
fn confirming_changes_what_was_decided_and_nothing_else() {
    let table = table(10);
    let before = session(1, Protocol::UDP);
    let index = table.insert(&before, Tick::ZERO).expect("there is room");
    let view = table.view(index).expect("is there");
    let after = NewSession {
        rule: RuleId(0xff_fffe),
        generation: Generation(777),
        initiator_next_hop: NextHopId(5),
        responder_next_hop: NextHopId(0xff_ffff),
        ..before
    };
    let next_hops = [after.initiator_next_hop, after.responder_next_hop];
    table.confirm(&view, after.generation, after.rule, next_hops);
    assert_translates(&table, &after);
    remove(&table, &after).expect("was there");
    table.confirm(&view, after.generation, after.rule, next_hops);
    table.insert(&before, Tick::ZERO).expect("there is room");
    assert_translates(&table, &before);
}

#[test]
fn a_table_of_any_size_holds_exactly_as_many_as_it_may() {
    for sessions_max in [1, 2, 3, 7, 50, 511, 512, 513, 1000, 1024, 5000, 20_000] {
        let table = table(sessions_max);
        for number in 0..sessions_max {
            let inserted = table.insert(&session(number, Protocol::UDP), Tick::ZERO);
            assert!(inserted.is_ok(), "session {number} of {sessions_max}: {inserted:?}");
        }
        let one_more = session(sessions_max, Protocol::UDP);
        assert_eq!(table.insert(&one_more, Tick::ZERO), Err(InsertError::Full));
        assert_eq!(table.len(), sessions_max);
        remove(&table, &session(sessions_max / 2, Protocol::UDP)).expect("was there");
        table.insert(&one_more, Tick::ZERO).expect("there is room again");
        assert_eq!(walked(&table, 100).len(), sessions_max as usize);
    }
}

#[test]
fn places_are_taken_once_and_given_back_unless_a_session_came() {
    let table = table(3);
    let insert = |number, places: &mut Places<'_>| {
        let session = session(number, Protocol::UDP);
        let keys = [session.initiator, session.responder];
        let keys = keys.map(|key| table.nearby().keyed(PackedKey::new(&key)));
        table.insert_keyed(&session, keys, Tick::ZERO, places)
    };
    let (mut two, mut rest) = (table.places(2), table.places(2));
    assert_eq!(insert(0, &mut rest).map(|_| ()), Ok(()));
    assert_eq!(insert(1, &mut rest), Err(InsertError::Full), "there was one more, not two");
    assert_eq!(insert(1, &mut two).map(|_| ()), Ok(()));
    assert_eq!(insert(1, &mut two), Err(InsertError::Exists));
    assert_eq!(table.len(), 3, "the last place is one session's to be");
    drop((two, rest));
    assert_eq!(table.len(), 2);
    table.insert(&session(2, Protocol::UDP), Tick::ZERO).expect("it was given back");
    assert_eq!(table.insert(&session(3, Protocol::UDP), Tick::ZERO), Err(InsertError::Full));
    assert_eq!(table.len(), 3);
}

#[test]
fn a_hundred_thousand_sessions_fit_and_come_and_go() {
    let table = table(100_000);
    assert!(table.memory_bytes() < 165 * 100_000 + (2 << 20) + 256 * 128);
    for number in 0..100_000 {
        table.insert(&session(number, Protocol::UDP), Tick::ZERO).expect("there is room");
    }
    // The whole table is replaced three times, so that counts of passing keys wear out if they do.
    for number in 100_000..400_000 {
        let old = session(number - 100_000, Protocol::UDP);
        assert_eq!(remove(&table, &old).expect("was there").session, old);
        table.insert(&session(number, Protocol::UDP), Tick::ZERO).expect("there is room");
    }
    for number in 300_000..400_000 {
        let session = session(number, Protocol::UDP);
        assert!(table.contains(&session.initiator) && table.contains(&session.responder));
        remove(&table, &session).expect("was there");
    }
    assert!(table.is_empty());
    assert!(table.region.groups().iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

#[test]
fn a_walk_passes_by_what_is_settled() {
    let (table, mut expected) = (table(200), HashSet::new());
    let since = Tick::from_ms(100_000).coarse();
    for number in 0..200_u32 {
        let kind = [SessionKind::SourceNat, SessionKind::Routed, SessionKind::Inbound];
        let new = NewSession {
            generation: Generation(7 + u16::from(number % 4 == 0)),
            kind: kind[number as usize % 3],
            ..session(number, Protocol::UDP)
        };
        let late = number % 5 == 0;
        let seen = Tick::from_ms(if late { 99_000 } else { 100_000 });
        table.insert(&new, seen).expect("there is room");
        // What was seen too long ago, was decided by other rules, or may be kept alive by its other
        // direction alone, is to be looked at.
        if late || new.generation != Generation(7) || new.kind == SessionKind::Inbound {
            expected.insert(new.initiator);
        }
    }
    let (mut seen, passes) =
        (HashSet::new(), |entry: &Entry| entry.is_settled(Generation(7), since));
    table.walk_unless(passes, &mut 0, table.slots(), |view| {
        assert!(seen.insert(view.session.initiator), "once");
    });
    assert_eq!(seen, expected);
}

#[test]
fn a_walk_looks_at_no_more_than_it_may() {
    let table = table(64);
    for number in 0..64 {
        table.insert(&session(number, Protocol::UDP), Tick::ZERO).expect("there is room");
    }
    for step in [1, 2, 3, 6, 7, 8, 13, 1000] {
        let seen: HashSet<_> =
            walked(&table, step).iter().map(|view| view.session.initiator).collect();
        assert_eq!(seen.len(), 64, "in steps of {step}");
    }
    let mut count = 0;
    assert!(!table.walk(&mut 0, 0, |_| count += 1));
    table.walk(&mut 3, 1, |_| count += 1);
    assert!(count <= 1);
    // A cursor from a larger table begins anew; more slots than there are make one round.
    let mut cursor = 4_000_000_000;
    assert!(table.walk(&mut cursor, u32::MAX, |_| count += 1));
    assert!((64..=65).contains(&count));
}

#[derive(Clone, Debug)]
enum Operation {
    Confirm(u32, u16),
    Insert(u32),
    InsertWithResponderOf(u32, u32),
    Remove(u32),
    Touch(u32, u16),
}

fn operation() -> impl Strategy<Value = Operation> {
    let number = 0..40_u32;
    prop_oneof![
        (number.clone(), any::<u16>()).prop_map(|(n, g)| Operation::Confirm(n, g)),
        number.clone().prop_map(Operation::Insert),
        number.clone().prop_map(Operation::Insert),
        (number.clone(), number.clone()).prop_map(|(a, b)| Operation::InsertWithResponderOf(a, b)),
        number.clone().prop_map(Operation::Remove),
        (number, any::<u16>()).prop_map(|(n, b)| Operation::Touch(n, b)),
    ]
}

proptest! {
    #[test]
    fn a_key_that_comes_changes_the_word_of_its_home(
        numbers in prop::collection::vec(0_u32..60, 1..100),
    ) {
        let table = table(40);
        for number in numbers {
            let session = session(number, Protocol::UDP);
            let hash = table.hash(&session.initiator);
            let home = table.nearby().prefetch_home(hash);
            // Where there is a tag like it somebody has to look whose it is.
            let Err(word) = table.nearby().prefetch_likely(hash, home) else { continue };
            prop_assert!(table.is_unchanged(home, word) && !table.contains(&session.initiator));
            if table.insert(&session, Tick::ZERO).is_ok() {
                prop_assert!(!table.is_unchanged(home, word));
            }
        }
    }

    #[test]
    fn it_behaves_like_a_map(operations in prop::collection::vec(operation(), 1..200)) {
        let table = table(20);
        let mut sessions: HashMap<FlowKey, (NewSession, u64)> = HashMap::new();
        for operation in operations {
            let of = |number| session(number, Protocol::UDP);
            match operation {
                Operation::Confirm(number, generation) => {
                    let Some((known, _)) = sessions.get_mut(&of(number).initiator) else { continue };
                    let view = table.view(index_of(&table, known)).expect("is there");
                    known.generation = Generation(generation);
                    let next_hops = [known.initiator_next_hop, known.responder_next_hop];
                    table.confirm(&view, known.generation, known.rule, next_hops);
                }
                Operation::Insert(number) => insert(&table, &mut sessions, of(number))?,
                Operation::InsertWithResponderOf(number, other) => {
                    let responder = of(other).responder;
                    insert(&table, &mut sessions, NewSession { responder, ..of(number) })?;
                }
                Operation::Remove(number) => {
                    let removed = remove(&table, &of(number)).map(|view| view.session);
                    let expected = sessions.remove(&of(number).initiator);
                    prop_assert_eq!(removed, expected.map(|(session, _)| session));
                }
                Operation::Touch(number, bytes) => {
                    let found = find(&table, &of(number).initiator);
                    let known = sessions.get_mut(&of(number).initiator);
                    prop_assert_eq!(found.is_some(), known.is_some());
                    if let (Some(found), Some((_, total))) = (found, known) {
                        found.touch(bytes, Coarse::default());
                        *total += u64::from(bytes);
                    }
                }
            }
            prop_assert_eq!(table.len() as usize, sessions.len());
        }
        for (session, bytes) in sessions.values() {
            assert_translates(&table, session);
            let view = table.view(index_of(&table, session)).expect("is there");
            prop_assert_eq!(view.initiator.bytes, *bytes);
        }
        let seen: HashSet<_> = walked(&table, 5).iter().map(|view| view.session.initiator).collect();
        prop_assert_eq!(seen, sessions.keys().copied().collect());
    }
}

fn insert(
    table: &Table,
    sessions: &mut HashMap<FlowKey, (NewSession, u64)>,
    session: NewSession,
) -> Result<(), TestCaseError> {
    let clashes = sessions.values().any(|(other, _)| {
        other.initiator == session.initiator || other.responder == session.responder
    });
    let expected = match (sessions.len() as u32 == table.sessions_max(), clashes) {
        (true, _) => Err(InsertError::Full),
        (false, true) => Err(InsertError::Exists),
        (false, false) => Ok(()),
    };
    prop_assert_eq!(table.insert(&session, Tick::ZERO).map(drop), expected);
    if expected.is_ok() {
        sessions.insert(session.initiator, (session, 0));
    }
    Ok(())
}

#[test]
fn of_racing_inserts_one_wins_and_of_racing_removals_too() {
    let table = table(4096);
    let (inserted, removed) = (AtomicU32::new(0), AtomicU32::new(0));
    let rounds = 20;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    for number in 0..2000 {
                        let session = session(number, Protocol::UDP);
                        match table.insert(&session, Tick::ZERO) {
                            Ok(_) => inserted.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                assert_eq!(error, InsertError::Exists);
                                0
                            }
                        };
                    }
                    for number in 0..2000 {
                        if remove(&table, &session(number, Protocol::UDP)).is_some() {
                            removed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    for number in 0..2000 {
        if remove(&table, &session(number, Protocol::UDP)).is_some() {
            removed.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert_eq!(inserted.load(Ordering::Relaxed), removed.load(Ordering::Relaxed));
    assert!(table.is_empty());
    assert!(table.region.groups().iter().all(|word| word.load(Ordering::Relaxed) == 0));
    assert!(table.region.entries().iter().all(Entry::is_vacant));
}

/// A tiny table, so that slots change hands all the time, and readers who check that whatever they
/// get belongs to one session.
#[test]
fn readers_never_see_a_mix_of_two_sessions() {
    let table = table(24);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..60_000_u32 {
                let number = round.wrapping_mul(0x9e37_79b9) >> 26;
                let session = session(number, Protocol::UDP);
                if table.insert(&session, Tick::ZERO).is_err() {
                    remove(&table, &session);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        for reader in 0..2 {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                let mut number = reader;
                while !done.load(Ordering::Relaxed) {
                    number = (number + 1) % 64;
                    let expected = session(number, Protocol::UDP);
                    let keys = [expected.initiator, expected.responder];
                    for (key, other) in [(keys[0], keys[1]), (keys[1], keys[0])] {
                        let Some(found) = find(table, &key) else { continue };
                        assert_eq!(found.rewrite.source, other.destination);
                        assert_eq!(found.rewrite.destination, other.source);
                        assert_eq!(found.generation, expected.generation);
                        assert_eq!(found.is_initiator(), key == expected.initiator);
                        if let Some(view) = table.view(found.index) {
                            let whole =
                                session(u32::from(view.session.generation.0), Protocol::UDP);
                            assert_eq!(view.session, whole);
                        }
                    }
                    table.walk(&mut 0, u32::MAX, |view| {
                        let whole = session(u32::from(view.session.generation.0), Protocol::UDP);
                        assert_eq!(view.session, whole);
                    });
                }
            });
        }
        writer.join().expect("the writer is well");
    });
}
