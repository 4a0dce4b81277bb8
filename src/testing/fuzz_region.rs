//! The body of the fuzz target `session_region`: a region whose bytes were changed at will.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::{Generation, Protocol, RuleId};
use crate::next_hop::NextHopId;
use crate::session::adoption::{Present, REGION_FILE};
use crate::session::table::Table;
use crate::testing::sessions::{SEED, session};
use crate::time::{Coarse, Tick};

const PRESENT: Present = Present { boot: 1, now: Coarse::from_raw(1000) };
const SESSIONS_MAX: u32 = 24;

/// Makes a region with some sessions, changes bytes of it as `data` says (place in two bytes, new
/// value in one), opens it, and uses whatever table that gives in every way there is.
///
/// # Panics
/// When the table does not hold together.
pub fn session_region(data: &[u8]) {
    let folder = Folder::new();
    let path = folder.0.join(REGION_FILE);
    let (table, _) =
        Table::open_at(&path, SESSIONS_MAX, SEED, PRESENT).expect("nothing is in the way");
    for number in 0..16 {
        table.insert(&session(number, Protocol::TCP), Tick::ZERO).expect("there is room");
    }
    drop(table);
    change(&path, data);
    // The larger table makes sessions move to a new file.
    let sessions_max = if data.len().is_multiple_of(2) { SESSIONS_MAX } else { 2 * SESSIONS_MAX };
    if let Ok((table, _)) = Table::open_at(&path, sessions_max, SEED, PRESENT) {
        exercise(&table);
    }
}

fn change(path: &PathBuf, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("was made");
    let length = file.metadata().expect("was made").len();
    for [low, high, value] in data.as_chunks::<3>().0 {
        let place = u64::from(u16::from_le_bytes([*low, *high])) % length;
        file.write_all_at(&[*value], place).expect("can be written");
    }
}

fn exercise(table: &Table) {
    let mut views = Vec::new();
    table.walk(&mut 0, u32::MAX, |view| views.push(view));
    assert_eq!(views.len(), table.len() as usize, "each session is seen once");
    for view in &views {
        for key in [view.session.initiator, view.session.responder] {
            let hash = table.hash(&key);
            table.prefetch_index(hash);
            table.prefetch_entry(hash);
            let found = table.find(&key, hash).expect("what is seen is found");
            let again = table.view(found.index).expect("what is found is whole");
            assert_eq!(again.session, view.session);
            assert!(found.last_seen <= PRESENT.now, "no time lies ahead");
            found.set_tcp(found.peer_tcp());
            found.touch(u16::MAX, PRESENT.now);
        }
        table.confirm(view, Generation(1), RuleId(2), [NextHopId(3), NextHopId(4)]);
    }
    for number in 100..100 + table.sessions_max() {
        let _ = table.insert(&session(number, Protocol::UDP), Tick::ZERO);
    }
    assert_eq!(table.len(), table.sessions_max(), "there is room for all");
    let mut removed = 0;
    table.walk(&mut 0, u32::MAX, |view| {
        table.remove(view.index, &view.session.initiator).expect("is removed once");
        removed += 1;
    });
    assert_eq!(removed, table.sessions_max());
    assert!(table.is_empty());
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("natwerk-fuzz-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a place for files");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
