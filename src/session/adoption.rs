//! Taking over the sessions of the process before: after an upgrade, a restart or a `kill -9`.
//!
//! The region's file holds no pointers, and everything in it is checked before it is used. What
//! stands in a place that follows from its key, with a partner that says the same of it, is a
//! session; all else is what a process left that died in the middle of a change, and goes. The
//! index is built anew from the sessions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use rustix::time::ClockId;

use crate::session::entry::{EntryIndex, Identity};
use crate::session::hash::Hasher;
use crate::session::header::{self, Header, HeaderError, OPEN, OWNER, STATE};
use crate::session::index::{GROUP_SLOTS, Index, Layout};
use crate::session::region::Region;
use crate::session::shape::Shape;
use crate::session::table::Table;
use crate::time::{Coarse, Tick};

/// The name of a region's file in the state directory. Beside it lie its lock and, while it is
/// made, a new one: the same name ending in `.lock` and `.new`.
pub const REGION_FILE: &str = "sessions.region";
/// The same for the sessions of IPv6.
pub const REGION_FILE_IPV6: &str = "sessions-ipv6.region";

/// What was found when a region was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Adoption {
    /// Sessions of the process before.
    Adopted {
        /// How many live on.
        sessions: u32,
        /// Entries and index groups that were left half-changed and are mended now.
        repaired: u32,
        /// Sessions that a smaller table has no room for.
        dropped: u32,
        /// Whether the process before put the region away, and did not just die.
        closed: bool,
    },
    /// There was no region.
    Fresh,
    /// There was one of an earlier boot; its sessions are over, as their times mean nothing now.
    Rebooted,
}

/// Why a region cannot be used. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Another process has it.
    #[error(
        "{path}: another natwerk{owner} uses these sessions; stop it first, or give this one a state_dir of its own"
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// ` (process N)`, if it is known.
        owner: String,
    },
    /// The file is something else.
    #[error("{path}: not a session region of natwerk; move it away and start again")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A region of another natwerk.
    #[error(
        "{path}: written by a natwerk that keeps sessions in another way; start that one again, or move the file away and start without its sessions"
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
    },
    /// More sessions than a table can have, or none.
    #[error("sessions.max is {0}; it must be from 1 to {max}", max = Layout::SESSIONS_MAX)]
    SessionsMax(u32),
    /// The file is damaged.
    #[error("{path}: damaged ({what}); move it away and start without its sessions")]
    Torn {
        /// The file.
        path: PathBuf,
        /// In what way.
        what: String,
    },
}

/// When this process opens a region.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// Which boot it is.
    pub boot: u128,
    /// What time it is in that boot.
    pub now: Coarse,
}

impl<A: Shape> Table<A> {
    /// The table in the file at `path`, for `sessions_max` sessions: the one that is there, with all
    /// its sessions, or a new one. A new one hashes with `seed`; one that is there keeps its own.
    ///
    /// # Errors
    /// When another process has it, or the file is damaged, foreign or out of reach. The file is
    /// left as it is then.
    pub fn open(
        path: &Path,
        sessions_max: u32,
        seed: [u64; 4],
    ) -> Result<(Self, Adoption), RegionError> {
        let present = Present::read().map_err(failed("read the boot's identity", path))?;
        Self::open_at(path, sessions_max, seed, present)
    }

    /// The same, at a given time of a given boot.
    ///
    /// # Errors
    /// The same.
    pub fn open_at(
        path: &Path,
        sessions_max: u32,
        seed: [u64; 4],
        present: Present,
    ) -> Result<(Self, Adoption), RegionError> {
        if !(1..=Layout::SESSIONS_MAX).contains(&sessions_max) {
            return Err(RegionError::SessionsMax(sessions_max));
        }
        let layout = Layout::new(sessions_max);
        let lock = lock(path)?;
        match read_header::<A>(path)? {
            Some(former) if former.boot == present.boot => {
                adopt(path, lock, &former, layout, present)
            }
            former => {
                let region = create(path, lock, layout, seed, present.boot)?;
                publish(path)?;
                let adoption = former.map_or(Adoption::Fresh, |_| Adoption::Rebooted);
                Ok((Self::over(region, seed, 0), adoption))
            }
        }
    }
}

impl Present {
    /// The present, from the system.
    fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.trim().chars().filter(|&digit| digit != '-').collect();
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        let time = rustix::time::clock_gettime(ClockId::Monotonic);
        let ms = time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000;
        Ok(Self { boot, now: Tick::from_ms(ms).coarse() })
    }
}

fn adopt<A: Shape>(
    path: &Path,
    lock: File,
    former: &Header,
    layout: Layout,
    present: Present,
) -> Result<(Table<A>, Adoption), RegionError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed("open it for writing", path))?;
    let length = file.metadata().map_err(failed("look at it", path))?.len();
    let expected = Region::<A>::file_length(former.layout, &file);
    let expected = expected.map_err(failed("look at it", path))?;
    if length < expected {
        let what = format!("{length} bytes long, and {expected} are missing or more");
        return Err(RegionError::Torn { path: path.into(), what });
    }
    let hasher = Hasher::new(former.seed);
    if former.layout == layout {
        let region = Region::in_file(layout, &file, Some(lock)).map_err(failed("map it", path))?;
        claim(&region);
        let Repair { sessions, mended } = repair(&region, &hasher, present.now);
        let closed = former.closed;
        let adoption = Adoption::Adopted { sessions, repaired: mended, dropped: 0, closed };
        return Ok((Table::over(region, former.seed, sessions), adoption));
    }
    let old = Region::<A>::in_file(former.layout, &file, None).map_err(failed("map it", path))?;
    let Repair { sessions: found, mended } = repair(&old, &hasher, present.now);
    let new = create(path, lock, layout, former.seed, present.boot)?;
    let sessions = move_sessions(&old, &new, &hasher);
    publish(path)?;
    let dropped = found - sessions;
    let adoption = Adoption::Adopted { sessions, repaired: mended, dropped, closed: former.closed };
    Ok((Table::over(new, former.seed, sessions), adoption))
}

/// What a repair found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Repair {
    /// Whole sessions.
    sessions: u32,
    /// Entries emptied and groups changed.
    mended: u32,
}

/// Keeps the sessions that are whole, empties every other entry, and builds the index anew.
fn repair<A: Shape>(region: &Region<A>, hasher: &Hasher, now: Coarse) -> Repair {
    let layout = region.layout();
    let words: Vec<AtomicU64> = (0..layout.groups()).map(|_| AtomicU64::new(0)).collect();
    let index = Index { words: &words, layout };
    let mut repair = Repair { sessions: 0, mended: 0 };
    for (place, entry) in (0..).map(EntryIndex).zip(region.entries()) {
        let Some(one) = entry.identity().filter(|one| one.traits().is_initiator()) else {
            continue;
        };
        if restore(region, index, hasher, place, &one) {
            repair.sessions += 1;
        }
    }
    for (place, entry) in (0..).zip(region.entries()) {
        if index.group(place / GROUP_SLOTS).tag(place % GROUP_SLOTS) != 0 {
            entry.seen_by(now);
        } else if !entry.is_vacant() {
            entry.vacate();
            repair.mended += 1;
        }
    }
    for (word, right) in region.groups().iter().zip(&words) {
        let right = right.load(Ordering::Relaxed);
        if word.load(Ordering::Relaxed) != right {
            word.store(right, Ordering::Relaxed);
            repair.mended += 1;
        }
    }
    repair
}

/// Notes the session whose initiator's entry is `one` at `place`, if it is whole and nobody else
/// has its keys.
fn restore<A: Shape>(
    region: &Region<A>,
    index: Index<'_>,
    hasher: &Hasher,
    place: EntryIndex,
    one: &Identity<A>,
) -> bool {
    let partner = one.traits().partner();
    let entries = region.entries();
    let Some(other) = entries.get(partner.as_usize()).and_then(|entry| entry.identity()) else {
        return false;
    };
    if !one.is_partner(place, &other) || one.traits().kind().is_none() {
        return false;
    }
    let sides = [(place, one), (partner, &other)];
    let free = sides.iter().all(|(place, side)| {
        let key = side.packed_key();
        let hash = key.hash(hasher);
        let look = |at: EntryIndex| entries.get(at.as_usize())?.identity_of(&key);
        index.admits(hash, *place) && index.search(hash, look).is_none()
    });
    if free && one.packed_key() != other.packed_key() {
        for (place, side) in sides {
            index.restore(side.packed_key().hash(hasher), place);
        }
        return true;
    }
    false
}

/// Copies the sessions of a repaired region to an empty one, as many as it takes. Returns how many.
fn move_sessions<A: Shape>(old: &Region<A>, new: &Region<A>, hasher: &Hasher) -> u32 {
    let (index, entries) = (new.index(), new.entries());
    let mut sessions = 0;
    for entry in old.entries() {
        let Some(one) = entry.identity().filter(|one| one.traits().is_initiator()) else {
            continue;
        };
        let partner = old.entries().get(one.traits().partner().as_usize());
        let Some((partner, other)) = partner.and_then(|entry| Some((entry, entry.identity()?)))
        else {
            continue;
        };
        if sessions == new.layout().sessions_max {
            break;
        }
        let hashes = [one, other].map(|side| side.packed_key().hash(hasher));
        let Some(here) = index.take(hashes[0]) else { continue };
        let Some(there) = index.take(hashes[1]) else {
            index.give_back(hashes[0], here);
            continue;
        };
        for (place, identity, from) in
            [(here, one.with_partner(there), entry), (there, other.with_partner(here), partner)]
        {
            if let Some(entry) = entries.get(place.as_usize()) {
                entry.fill_from(&identity, from);
            }
        }
        sessions += 1;
    }
    sessions
}

/// The right to use the region at `path`, as long as the file is open. The kernel takes it back
/// from a process that dies.
fn lock(path: &Path) -> Result<File, RegionError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make its folder", path))?;
    }
    let lock_path = path.with_extension("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("open it", &lock_path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let known =
                file.read_to_string(&mut text).is_ok() && text.trim().parse::<u32>().is_ok();
            let owner = if known { format!(" (process {})", text.trim()) } else { String::new() };
            return Err(RegionError::Busy { path: path.into(), owner });
        }
        Err(error) => return Err(failed("lock it", &lock_path)(error.into())),
    }
    // The number is for people who meet the lock; nothing depends on it.
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed("write to it", &lock_path))?;
    Ok(file)
}

fn read_header<A: Shape>(path: &Path) -> Result<Option<Header>, RegionError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open it", path)(error)),
    };
    let foreign = || RegionError::Foreign { path: path.into() };
    let is_file = file.metadata().map_err(failed("look at it", path))?.is_file();
    let mut bytes = [0; header::WORDS * 8];
    if !is_file {
        return Err(foreign());
    }
    match file.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(foreign()),
        Err(error) => return Err(failed("read it", path)(error)),
    }
    match Header::read::<A>(&bytes) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderError::Foreign) => Err(foreign()),
        Err(HeaderError::OtherFormat) => Err(RegionError::OtherFormat { path: path.into() }),
        Err(HeaderError::Torn) => {
            let what = String::from("its header contradicts itself");
            Err(RegionError::Torn { path: path.into(), what })
        }
    }
}

/// A new region beside `path`, empty, with its header written.
fn create<A: Shape>(
    path: &Path,
    lock: File,
    layout: Layout,
    seed: [u64; 4],
    boot: u128,
) -> Result<Region<A>, RegionError> {
    let new_path = path.with_extension("new");
    let file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new_path)
        .map_err(failed("make it", &new_path))?;
    let sized = Region::<A>::file_length(layout, &file).and_then(|length| file.set_len(length));
    match sized.and_then(|()| Region::in_file(layout, &file, Some(lock))) {
        Ok(region) => {
            Header { layout, seed, boot, owner: std::process::id(), closed: false }
                .write::<A>(region.header());
            Ok(region)
        }
        Err(error) => {
            // What failed is told; whether the useless file could be removed changes nothing.
            let _ = fs::remove_file(&new_path);
            Err(failed("give it its size", &new_path)(error))
        }
    }
}

/// Puts the new region in the place of the old one, if there was one.
fn publish(path: &Path) -> Result<(), RegionError> {
    fs::rename(path.with_extension("new"), path).map_err(failed("put a new one there", path))
}

/// Notes in the header that this process has the region now.
fn claim<A: Shape>(region: &Region<A>) {
    let values = [(STATE, OPEN), (OWNER, u64::from(std::process::id()))];
    for (word, value) in values {
        if let Some(word) = region.header().get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegionError {
    let path = path.to_path_buf();
    move |source| RegionError::Io { path, action, source }
}

#[cfg(test)]
mod tests;
