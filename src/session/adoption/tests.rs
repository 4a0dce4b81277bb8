//! What a process leaves, whenever it dies, and what it never was.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::flow::{FlowKey, Generation, Protocol, RuleId};
use crate::next_hop::NextHopId;
use crate::session::entry::NewSession;
use crate::session::fuse::burn;
use crate::session::table::{InsertError, SessionView};
use crate::testing::fuzz_region;
use crate::testing::sessions::{SEED, session};

const PRESENT: Present = Present { boot: 1, now: Coarse::from_raw(1000) };
const OTHER_SEED: [u64; 4] = [9, 9, 9, 9];

fn folder() -> TempDir {
    tempfile::tempdir().expect("a place for files")
}

fn region_in(folder: &TempDir) -> PathBuf {
    folder.path().join(REGION_FILE)
}

fn open(path: &Path, sessions_max: u32) -> Result<(Table, Adoption), RegionError> {
    Table::open_at(path, sessions_max, OTHER_SEED, PRESENT)
}

fn refusal(path: &Path) -> String {
    match open(path, 100) {
        Ok((_, adoption)) => panic!("{adoption:?}"),
        Err(error) => error.to_string(),
    }
}

/// A new table at `path` with these sessions.
fn filled(path: &Path, sessions_max: u32, numbers: std::ops::Range<u32>) -> Table {
    let (table, adoption) =
        Table::open_at(path, sessions_max, SEED, PRESENT).expect("nothing is in the way");
    assert_eq!(adoption, Adoption::Fresh);
    for number in numbers {
        insert(&table, number).expect("there is room");
    }
    table
}

fn insert(table: &Table, number: u32) -> Result<EntryIndex, InsertError> {
    let session = session(number, Protocol::UDP);
    let index = table.insert(&session, Tick::from_ms(100_000))?;
    let found = table.at(index, &session.initiator).expect("was inserted");
    found.touch(number as u16, Coarse::from_raw(900));
    Ok(index)
}

fn remove(table: &Table, session: &NewSession) -> Option<SessionView> {
    let index = table.find(&session.initiator, table.hash(&session.initiator))?.index;
    table.remove(index, &session.initiator)
}

fn sessions_of(table: &Table) -> HashMap<FlowKey, SessionView> {
    let mut seen = HashMap::new();
    table.walk(&mut 0, u32::MAX, |view| {
        seen.insert(view.session.initiator, view);
    });
    assert_eq!(seen.len(), table.len() as usize);
    seen
}

/// Asserts that these sessions are there, whole, as [`insert`] left them.
fn assert_holds(table: &Table, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let expected = session(number, Protocol::UDP);
        for key in [expected.initiator, expected.responder] {
            let found = table.find(&key, table.hash(&key)).expect("is there");
            let view = table.view(found.index).expect("is whole");
            assert_eq!(view.session, expected);
            assert_eq!(view.initiator.bytes, u64::from(number as u16));
            assert_eq!(view.initiator.last_seen, Coarse::from_raw(900));
        }
    }
}

/// Asserts that nothing is left in the index when all sessions are gone.
fn assert_empties(table: &Table) {
    for view in sessions_of(table).values() {
        remove(table, &view.session).expect("was there");
    }
    let words = table.region().groups();
    assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

#[test]
fn sessions_outlive_their_process() {
    let folder = folder();
    let path = region_in(&folder);
    drop(filled(&path, 100, 0..80));
    let (table, adoption) = open(&path, 100).expect("is adopted");
    let expected = Adoption::Adopted { sessions: 80, repaired: 0, dropped: 0, closed: true };
    assert_eq!(adoption, expected);
    assert_holds(&table, 0..80);
    for number in 80..100 {
        insert(&table, number).expect("there is room");
    }
    assert_eq!(insert(&table, 100), Err(InsertError::Full));
    assert_empties(&table);
}

#[test]
fn a_table_may_grow_and_shrink() {
    let folder = folder();
    let path = region_in(&folder);
    drop(filled(&path, 100, 0..80));
    let (table, adoption) = open(&path, 10_000).expect("is adopted");
    let expected = Adoption::Adopted { sessions: 80, repaired: 0, dropped: 0, closed: true };
    assert_eq!(adoption, expected);
    assert_holds(&table, 0..80);
    assert_eq!(table.sessions_max(), 10_000);
    drop(table);
    let (table, adoption) = open(&path, 50).expect("is adopted");
    let expected = Adoption::Adopted { sessions: 50, repaired: 0, dropped: 30, closed: true };
    assert_eq!(adoption, expected);
    assert_eq!(insert(&table, 1000), Err(InsertError::Full));
    assert_eq!(sessions_of(&table).len(), 50);
    assert_empties(&table);
    drop(table);
    assert!(!path.with_extension("new").exists());
    let (table, _) = open(&path, 50).expect("is adopted once more");
    assert!(table.is_empty());
}

#[test]
fn times_that_lie_ahead_become_now() {
    let folder = folder();
    let path = region_in(&folder);
    let table = filled(&path, 10, 0..1);
    let key = session(0, Protocol::UDP).initiator;
    table.find(&key, table.hash(&key)).expect("is there").touch(1, Coarse::from_raw(u32::MAX));
    drop(table);
    let (table, _) = open(&path, 10).expect("is adopted");
    let found = table.find(&key, table.hash(&key)).expect("is there");
    assert_eq!(found.last_seen, PRESENT.now);
}

#[test]
fn an_earlier_boot_is_over() {
    let folder = folder();
    let path = region_in(&folder);
    drop(filled(&path, 10, 0..5));
    let later = Present { boot: 2, now: Coarse::from_raw(5) };
    let (table, adoption) = Table::<Ipv4Addr>::open_at(&path, 10, SEED, later).expect("a new one");
    assert_eq!(adoption, Adoption::Rebooted);
    assert!(table.is_empty());
}

#[test]
fn the_system_tells_the_present() {
    let folder = folder();
    let path = region_in(&folder);
    drop(Table::<Ipv4Addr>::open(&path, 10, SEED).expect("nothing is in the way"));
    let (_, adoption) = Table::<Ipv4Addr>::open(&path, 10, SEED).expect("is adopted");
    assert!(matches!(adoption, Adoption::Adopted { sessions: 0, closed: true, .. }));
}

#[test]
fn a_second_instance_is_refused_and_told_by_whom() {
    let folder = folder();
    let path = region_in(&folder);
    let table = filled(&path, 100, 0..3);
    let message = refusal(&path);
    assert!(
        message.contains(&format!("another natwerk (process {})", std::process::id())),
        "{message}"
    );
    assert_holds(&table, 0..3);
    drop(table);
    assert!(open(&path, 100).is_ok());
}

#[test]
fn files_that_are_no_region_are_refused_and_left_alone() {
    let folder = folder();
    let path = region_in(&folder);
    for content in [&b""[..], b"short", &[b'x'; 5000], &[0; 100_000]] {
        fs::write(&path, content).expect("can be written");
        let message = refusal(&path);
        assert!(message.contains("not a session region of natwerk; move it away"), "{message}");
        assert_eq!(fs::read(&path).expect("is there"), content);
    }
    fs::remove_file(&path).expect("is there");
    fs::create_dir(&path).expect("can be made");
    assert!(refusal(&path).contains("not a session region"));
    assert!(matches!(open(&path, 0), Err(RegionError::SessionsMax(0))));
    assert!(matches!(open(&path, u32::MAX), Err(RegionError::SessionsMax(_))));
}

#[test]
fn torn_and_strange_regions_are_refused_and_left_alone() {
    let folder = folder();
    let path = region_in(&folder);
    drop(filled(&path, 100, 0..80));
    let whole = fs::read(&path).expect("is there");
    let mut changed = whole.clone();
    for (byte, expected) in [(20, "contradicts itself"), (9, "in another way"), (90, "contradicts")]
    {
        changed.clone_from(&whole);
        changed[byte] ^= 0x10;
        fs::write(&path, &changed).expect("can be written");
        let message = refusal(&path);
        assert!(message.contains(expected), "byte {byte}: {message}");
        assert_eq!(fs::read(&path).expect("is there"), changed);
    }
    fs::write(&path, &whole[..whole.len() - 4096]).expect("can be written");
    assert!(refusal(&path).contains("damaged"));
    fs::write(&path, &whole).expect("can be written");
    let (table, _) = open(&path, 100).expect("the whole one is good");
    assert_holds(&table, 0..80);
}

/// What a process that dies leaves: a copy of its file, opened by the next.
fn heir(path: &Path, sessions_max: u32) -> (TempDir, Table, Adoption) {
    let folder = folder();
    let copy = region_in(&folder);
    fs::copy(path, &copy).expect("can be copied");
    let (table, adoption) = open(&copy, sessions_max).expect("is adopted");
    (folder, table, adoption)
}

/// Lets `act` die before each of its stores in turn, and looks at what the next process finds.
fn die_everywhere(act: impl Fn(&Table) -> bool, look: impl Fn(&Table, bool)) {
    let folder = folder();
    let path = region_in(&folder);
    for steps in 0.. {
        let _ = fs::remove_file(&path);
        let table = filled(&path, 40, 0..30);
        let outcome = burn(steps, || act(&table));
        for sessions_max in [40, 64] {
            let (_folder, table, adoption) = heir(&path, sessions_max);
            assert!(matches!(adoption, Adoption::Adopted { dropped: 0, closed: false, .. }));
            look(&table, outcome.is_some());
            assert_empties(&table);
        }
        if let Some(done) = outcome {
            assert!(done && steps > 2);
            return;
        }
    }
}

#[test]
fn an_insert_that_dies_leaves_all_or_nothing() {
    die_everywhere(
        |table| insert(table, 30).is_ok(),
        |table, done| {
            assert_holds(table, 0..30);
            let new = session(30, Protocol::UDP);
            let there = table.contains(&new.initiator);
            assert_eq!(there, table.contains(&new.responder));
            assert!(there || !done);
            assert_eq!(table.len(), 30 + u32::from(there));
        },
    );
}

#[test]
fn a_removal_that_dies_leaves_all_or_nothing() {
    die_everywhere(
        |table| remove(table, &session(7, Protocol::UDP)).is_some(),
        |table, done| {
            assert_holds(table, (0..30).filter(|&number| number != 7));
            let old = session(7, Protocol::UDP);
            let there = table.contains(&old.initiator);
            assert_eq!(there, table.contains(&old.responder));
            assert!(!(there && done));
            assert_eq!(table.len(), 29 + u32::from(there));
        },
    );
}

#[test]
fn a_confirmation_that_dies_leaves_the_session() {
    let before = session(7, Protocol::UDP);
    die_everywhere(
        |table| {
            let found = table.find(&before.initiator, table.hash(&before.initiator));
            let view = table.view(found.expect("is there").index).expect("is there");
            table.confirm(&view, Generation(5), RuleId(6), [NextHopId(7), NextHopId(8)]);
            // Enough stores for the loop's sense of a whole run.
            insert(table, 30).is_ok()
        },
        |table, _| {
            let found = table.find(&before.initiator, table.hash(&before.initiator));
            let view = table.view(found.expect("is there").index).expect("is there");
            let after = NewSession {
                generation: Generation(5),
                rule: RuleId(6),
                initiator_next_hop: NextHopId(7),
                ..before
            };
            let hop = view.session.responder_next_hop;
            assert!([before.responder_next_hop, NextHopId(8)].contains(&hop));
            let seen = NewSession { responder_next_hop: before.responder_next_hop, ..view.session };
            assert!(seen == before || seen == after, "{seen:?}");
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_change_of_bytes_leads_out_of_bounds(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_region::session_region(&data);
    }

    /// A process that died anywhere in a random history, with more damage than a crash can do: the
    /// file was copied while words of it changed.
    #[test]
    fn whatever_is_adopted_is_whole(
        numbers in prop::collection::vec(0_u32..60, 1..120),
        words in prop::collection::vec((any::<u16>(), any::<bool>()), 0..40),
    ) {
        let folder = folder();
        let path = region_in(&folder);
        let table = filled(&path, 40, 0..0);
        let mut earlier = fs::read(&path).expect("is there");
        for (step, number) in numbers.iter().enumerate() {
            let session = session(*number, Protocol::UDP);
            if remove(&table, &session).is_none() {
                let _ = insert(&table, *number);
            }
            if step == numbers.len() / 2 {
                earlier = fs::read(&path).expect("is there");
            }
        }
        drop(table);
        // Words of an earlier moment among those of the last one.
        let file = OpenOptions::new().write(true).open(&path).expect("is there");
        for (word, _) in words {
            let place = 4096 + usize::from(word) * 8 % (earlier.len() - 4096);
            file.write_all_at(&earlier[place..place + 8], place as u64).expect("can be written");
        }
        let (table, _) = open(&path, 40).expect("is adopted");
        for view in sessions_of(&table).values() {
            for key in [view.session.initiator, view.session.responder] {
                let found = table.find(&key, table.hash(&key)).expect("is there");
                let again = table.view(found.index).expect("is whole");
                prop_assert_eq!(again.session, view.session);
            }
        }
        assert_empties(&table);
    }
}
