//! One worker's shortcuts: which it makes, and what passes by them, counted on their sessions.
//!
//! The worker of a direction makes its shortcut, and looks after it until nothing passes by it any more:
//! nobody else writes what the direction's entry saw. Whoever ends a session ends its shortcuts too
//! ([`Shared::settle`]).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::flow::{Endpoint, FlowKey, Generation, PortId, Protocol, Realm};
use crate::frame::FrameBuffer;
use crate::pipeline::batch::Slot;
use crate::pipeline::fast::Moment;
use crate::pipeline::look::Group;
use crate::pipeline::shared::Shared;
use crate::pipeline::{Look, Pipeline, Ready};
use crate::policy::Policy;
use crate::session::entry::EntryIndex;
use crate::session::hash::Hash;
use crate::session::shape::PackedKey;
use crate::session::table::Found;
use crate::session::tcp::TcpState;
use crate::session::timeout::{Timeouts, shortest};
use crate::shortcut::{Account, Direction, Epoch, Key, Passed, Place, Shortcuts, Tenant};
use crate::telemetry::counters::WorkerCounters;
use crate::time::{Coarse, Tick};
use crate::verdict::Verdict;
use crate::wire::parse::{Fragment, Kind, LINK_LENGTH};

/// Whether there can be shortcuts with these timeouts.
///
/// # Errors
/// When a session might end while packets pass by its shortcut, with what to do about it.
pub fn suit(timeouts: &Timeouts) -> Result<(), String> {
    let least = Coarse::units(TIMEOUT_MIN);
    let shortest = [Protocol::TCP, Protocol::UDP].map(|protocol| shortest(timeouts, protocol));
    if shortest.iter().all(|timeout| *timeout >= least) {
        return Ok(());
    }
    Err(format!(
        "a session may end after less than {} s by [timeouts]; raise the shortest of TCP and UDP, or set workers.shortcuts = 0",
        TIMEOUT_MIN.as_secs()
    ))
}

/// The shortcuts of one worker.
pub(super) struct Own {
    all: Arc<Shortcuts>,
    /// A bit for each place in which it has one, by interface.
    places: Vec<(PortId, Box<[u64]>)>,
    /// What shortcuts went by when it looked last: the policy, and where neighbours were.
    went_by: (Generation, u64),
    /// When it last looked after them, and the words of bits that are due, in thousandths.
    last: Tick,
    due_milli: u64,
    /// The next word to look at, of all interfaces' one after the other.
    cursor: usize,
}

/// What packets of a batch ask shortcuts for: no more than a batch has packets.
pub(super) struct Wishes {
    /// None if nobody hears them.
    epoch: Option<Epoch>,
    wishes: Vec<Wish>,
}

/// A shortcut for what comes in on a port.
pub(super) struct Wish(PortId, Direction, Tenant);

impl Wish {
    /// A shortcut for packets like one that came in on `port` without a tag, of the session with its key, if the
    /// program could do to them what is to be done.
    pub(super) fn of(
        port: PortId,
        [addresses, rest]: [u64; 2],
        (hash, likely): (Hash, EntryIndex),
        generation: Generation,
        shared: &Shared,
    ) -> Option<Self> {
        let packed = PackedKey::<Ipv4Addr>::from_words([addresses, rest]);
        let (entry, session) = shared.sessions.entry_of(packed, hash, likely)?;
        let is_of_fast_path =
            session.generation() == generation && !session.next_hop().is_watched();
        if !entry.is_worth_a_shortcut() || !is_of_fast_path {
            return None;
        }
        let way = shared.next_hops.way(session.next_hop())?;
        let protocol = Protocol((rest >> 8) as u8);
        let key = Key { addresses, ports: (rest >> 32) as u32, protocol };
        let (is_tcp, tcp) = (protocol == Protocol::TCP, entry.tcp());
        // The program knows no tags, and no sides.
        let is_bare = !port.is_encapsulated() && !way.port().is_encapsulated();
        if way.vlan() != 0 || !is_bare || (is_tcp && !tcp.acknowledged) {
            return None;
        }
        let direction = Direction {
            key,
            station: shared.next_hops.source_mac(port),
            exit: way.port(),
            mtu: way.mtu(),
            leaves_as: session.leaves_as(),
            stations: way.link_words().addresses(),
            sequence_next: if is_tcp { tcp.sequence_next } else { 0 },
            window_shift: if is_tcp { tcp.peer_window_shift } else { 0 },
        };
        Some(Self(port, direction, Tenant { realm: (rest >> 16) as u16, entry: likely.0 }))
    }

    /// The same for a packet that is not plain, most likely for its unfinished checksum.
    fn of_other(
        port: PortId,
        look: &Look,
        generation: Generation,
        shared: &Shared,
    ) -> Option<Self> {
        let Look::Ipv4(Ready { packet, realm, hash, .. }) = look else { return None };
        let is_bare = packet.network == LINK_LENGTH && packet.fragment == Fragment::Whole;
        let is_followed = matches!(packet.protocol, Protocol::TCP | Protocol::UDP);
        if !is_bare || !is_followed || packet.kind != Kind::Transport {
            return None;
        }
        let key = packet.key(*realm);
        let found = shared.sessions.find(&key, *hash)?;
        Self::of(port, key.words(), (*hash, found.index), generation, shared)
    }
}

impl Wishes {
    /// Room for so many.
    pub(super) fn new(room: usize) -> Self {
        Self { epoch: None, wishes: Vec::with_capacity(room) }
    }

    /// Whether anybody hears them.
    #[inline(always)]
    pub(super) const fn are_heard(&self) -> bool {
        self.epoch.is_some()
    }

    /// Hears those of a group whose frames went their way.
    #[inline(never)]
    pub(super) fn hear<F>(
        &mut self,
        slots: &[Slot<F>],
        group: &Group,
        looks: &[Look],
        moment: &Moment,
        shared: &Shared,
    ) {
        let mut looks = looks.iter();
        for (slot, glance) in slots.iter().zip(&group.glances) {
            let look = if glance.is_plain() { None } else { looks.next() };
            let is_forwarded = matches!(slot.verdict, Verdict::Forward(_));
            if !is_forwarded || self.wishes.len() == self.wishes.capacity() {
                continue;
            }
            self.wishes.extend(match look {
                None => glance.wish(slot.port, moment, shared),
                Some(look) => Wish::of_other(slot.port, look, moment.generation, shared),
            });
        }
    }
}

impl Own {
    /// No shortcut of `all` yet.
    pub(super) fn new(all: Arc<Shortcuts>) -> Self {
        let bits = |places: usize| vec![0; places.div_ceil(64)].into_boxed_slice();
        let places = all.tables().map(|(port, table)| (port, bits(table.places()))).collect();
        Self { all, places, went_by: (Generation(0), 0), last: Tick::ZERO, due_milli: 0, cursor: 0 }
    }

    fn words(&self) -> usize {
        self.places.iter().map(|(_, words)| words.len()).sum()
    }

    /// Ends the epoch if what shortcuts went by has changed.
    fn notice(&mut self, shared: &Shared, policy: &Policy) {
        let goes_by = (policy.generation(), shared.next_hops.moves());
        if goes_by != self.went_by {
            self.went_by = goes_by;
            self.all.end_epoch();
            // Those of the former one are to make room.
            self.due_milli = self.words() as u64 * 1000;
        }
    }

    fn make(&mut self, Wish(entrance, direction, tenant): Wish, epoch: Epoch, now: Tick) {
        let made = self.all.make(entrance, &direction, tenant, epoch, now);
        let Some(Place(place)) = made else { return };
        let words = self.places.iter_mut().find(|(port, _)| *port == entrance);
        if let Some(word) = words.and_then(|(_, words)| words.get_mut(place as usize / 64)) {
            *word |= 1 << (place % 64);
        }
    }

    /// The words of bits that are due.
    fn share(&mut self, now: Tick) -> usize {
        let words = self.words() as u64;
        let pass_ms = (words * 64 * PASS_MS_PER_64K / 65_536).clamp(PASS_MS.0, PASS_MS.1);
        let passed_ms = u64::try_from(now.since(self.last).as_millis()).unwrap_or(u64::MAX);
        self.last = now;
        let gained = passed_ms.min(pass_ms) * words * 1000 / pass_ms;
        self.due_milli = (self.due_milli + gained).min(words * 1000);
        usize::try_from(self.due_milli / 1000).unwrap_or(usize::MAX)
    }

    /// Looks after the shortcuts that are due. Returns whether more are.
    fn look_after(&mut self, shared: &Shared, counters: &WorkerCounters, now: Tick) -> bool {
        if self.all.is_empty() {
            self.due_milli = 0;
            return false;
        }
        let (share, words) = (self.share(now), self.words().max(1));
        let mut effort = 0;
        for _ in 0..share {
            if effort >= EFFORT_PER_CALL {
                break;
            }
            let has_any = self.look_at_word(self.cursor, shared, counters, Ending::Idle);
            effort += if has_any { EFFORT_OF_A_WORD } else { 1 };
            self.cursor = (self.cursor + 1) % words;
            self.due_milli -= 1000;
        }
        self.due_milli >= 1000
    }

    /// Looks at the shortcuts in a word of bits, and gives some up. Returns whether there were any.
    fn look_at_word(
        &mut self,
        mut word: usize,
        shared: &Shared,
        counters: &WorkerCounters,
        ending: Ending,
    ) -> bool {
        for (port, words) in &mut self.places {
            let Some(bits) = words.get_mut(word) else {
                word -= words.len();
                continue;
            };
            if *bits == 0 {
                return false;
            }
            let Some(table) = self.all.table(*port) else { return false };
            let place = |bit| Place(word as u32 * 64 + bit);
            // What lies elsewhere is asked for, all of it, before the first is read.
            ones(*bits).for_each(|bit| table.prefetch(place(bit)));
            for tenant in ones(*bits).filter_map(|bit| table.tenant(place(bit))) {
                shared.sessions.prefetch_at(EntryIndex(tenant.entry));
            }
            for bit in ones(*bits) {
                let at = (*port, place(bit));
                if !look_at(&self.all, at, shared, counters, (self.last, ending)) {
                    *bits &= !(1 << bit);
                }
            }
            return true;
        }
        false
    }

    /// Gives all of them up.
    pub(super) fn give_up(&mut self, shared: &Shared, counters: &WorkerCounters) {
        for word in 0..self.words() {
            self.look_at_word(word, shared, counters, Ending::All);
        }
    }
}

/// Which shortcuts that are looked at are given up.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Ending {
    /// All.
    All,
    /// Those that nothing passes by any more, and that are true no more.
    Idle,
}

/// Counts what passed by a shortcut on its session. Returns whether there still is a shortcut.
fn look_at(
    all: &Shortcuts,
    (entrance, place): (PortId, Place),
    shared: &Shared,
    counters: &WorkerCounters,
    (now, ending): (Tick, Ending),
) -> bool {
    let Some(table) = all.table(entrance) else { return false };
    let Some(account) = table.account(place, now) else { return false };
    let is_used = now.since(account.last) < IDLE && all.is_true(table, place);
    let stays = ending == Ending::Idle && is_used;
    let mut passed = table.take_passed(place);
    if !stays {
        table.end(place);
        passed = passed.and(table.take_passed(place));
    }
    let on_interfaces = passed.and(table.take_settled(place));
    if on_interfaces.packets > 0 {
        count_on_interfaces([entrance, account.exit], on_interfaces, counters);
    }
    if passed.packets > 0 {
        count_on_session(&account, passed, shared);
    }
    if !stays {
        all.vacate(table, place);
    }
    stays
}

fn count_on_interfaces([from, to]: [PortId; 2], passed: Passed, counters: &WorkerCounters) {
    let Passed { packets, bytes } = passed;
    let frames = bytes + packets * u64::from(LINK_LENGTH);
    counters.received_many(from, packets, frames);
    counters.forwarded_many(to, packets, frames);
    if from != to {
        counters.crossed_many(from, bytes, 0);
        counters.crossed_many(to, 0, bytes);
    }
}

fn count_on_session(account: &Account, Passed { packets, bytes }: Passed, shared: &Shared) {
    let key = PackedKey::<Ipv4Addr>::from_words(account.key.in_realm(account.tenant.realm));
    let hash = key.hash(shared.sessions.hasher());
    let likely = EntryIndex(account.tenant.entry);
    // Whoever ends the session counts what has passed by then.
    if let Some((entry, session)) = shared.sessions.entry_of(key, hash, likely) {
        let is_tcp = account.key.protocol == Protocol::TCP;
        let sequence_next = is_tcp.then_some(account.sequence_next);
        entry.touch_many(packets, bytes, account.last.coarse(), sequence_next);
        // It was used.
        let _ = shared.next_hops.link(session.next_hop());
    }
}

impl<F: FrameBuffer> Pipeline<F> {
    /// Before a batch: what is wished for from now on must be true in this epoch.
    pub(super) fn hear_wishes(&mut self) {
        self.wishes.epoch = self.shortcuts.as_ref().and_then(|own| own.all.epoch());
    }

    /// After it: makes the shortcuts that were wished for.
    #[inline]
    pub(super) fn grant_wishes(&mut self, now: Tick) {
        if !self.wishes.wishes.is_empty() {
            self.make_shortcuts(now);
        }
    }

    #[cold]
    fn make_shortcuts(&mut self, now: Tick) {
        let (Some(own), Some(epoch)) = (&mut self.shortcuts, self.wishes.epoch) else { return };
        for wish in self.wishes.wishes.drain(..) {
            own.make(wish, epoch, now);
        }
    }

    /// Looks after this worker's shortcuts. Returns whether more of that is due.
    pub(super) fn look_after_shortcuts(
        &mut self,
        shared: &Shared,
        policy: &Policy,
        now: Tick,
    ) -> bool {
        let Some(own) = &mut self.shortcuts else { return false };
        own.notice(shared, policy);
        own.all.tell(now);
        own.look_after(shared, &self.counters, now)
    }

    /// What a session's direction has shown of TCP, shortcuts included.
    pub(super) fn own_tcp(&self, found: &Found<'_>, from: Endpoint, to: Endpoint) -> TcpState {
        found.tcp().caught_up(self.passed_until(from, to))
    }

    /// What the other one has.
    pub(super) fn peer_tcp(&self, found: &Found<'_>) -> TcpState {
        let (from, to) = (found.rewrite.destination, found.rewrite.source);
        found.peer_tcp().caught_up(self.passed_until(from, to))
    }

    /// Gives the shortcuts of a TCP connection's direction up, as what they saw is true of it no more.
    #[cold]
    pub(super) fn give_up_shortcuts(&self, from: Endpoint, to: Endpoint) {
        let Some(own) = self.shortcuts.as_ref() else { return };
        for at in own.all.places(key(from, to)) {
            look_at(&own.all, at, &self.shared, &self.counters, (own.last, Ending::All));
        }
    }

    fn passed_until(&self, from: Endpoint, to: Endpoint) -> Option<u32> {
        self.shortcuts.as_ref()?.all.sequence_next(key(from, to))
    }
}

impl<F> Drop for Pipeline<F> {
    /// What passed by shortcuts is counted, and nobody else's memory is left full of them.
    fn drop(&mut self) {
        if let Some(own) = &mut self.shortcuts {
            own.give_up(&self.shared, &self.counters);
        }
    }
}

/// The key of a TCP connection's direction.
const fn key(source: Endpoint, destination: Endpoint) -> Key {
    // No packet shows its realm, and so no shortcut's key has it.
    let realm = Realm::External;
    Key::of(&FlowKey { realm, protocol: Protocol::TCP, source, destination })
}

/// The numbers of the bits that are set.
fn ones(mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let next = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(next)
    })
}

/// What one call does, in words of bits without any: some tens of microseconds where each bit of a word with some is
/// set, of which it looks at eight. Each call costs an idle worker a wake.
const EFFORT_PER_CALL: u32 = 8 * EFFORT_OF_A_WORD;
const EFFORT_OF_A_WORD: u32 = 64;
/// How long it takes to look at all shortcuts: per 65,536 places, the shortest and the longest time, in
/// milliseconds.
const PASS_MS_PER_64K: u64 = 100;
const PASS_MS: (u64, u64) = (500, 4000);
/// A shortcut by which nothing passed for so long is given up.
const IDLE: Duration = Duration::from_secs(10);
/// No session ends sooner: what passed last may be as old as [`IDLE`] when the next packet comes, which is
/// counted a pass later, and what is given up, one more.
const TIMEOUT_MIN: Duration = Duration::from_secs(20);
const _: () = assert!(TIMEOUT_MIN.as_millis() > IDLE.as_millis() + 2 * PASS_MS.1 as u128);
