//! Fragments without reassembly: later fragments follow the first one's session, in any order, in
//! bounded memory (RFC 4787, REQ-14; RFC 1858; RFC 3128; RFC 6864).
//!
//! Of each datagram the spans seen are remembered, so that no byte is forwarded twice: a duplicate is
//! dropped and does no harm, an overlap ends the datagram (RFC 5722, applied to IPv4). Datagrams
//! stand in three lists by age: those that wait for their first fragment, the open ones, and those
//! seen whole, kept a moment longer for their duplicates. Who fills the table makes room himself: a
//! source with more than its share loses its own oldest datagram, otherwise the oldest of all goes.

mod age_list;
mod spans;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ahash::RandomState;

use crate::flow::{Family, Protocol, Realm};
use crate::time::Tick;
use crate::verdict::DropReason;
use age_list::{Ends, Links, NONE};
use spans::{Coverage, Misfit, Spans};
use waiting::{Chain, Waiting};

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DatagramKey<A: Family = Ipv4Addr> {
    /// Where it is seen.
    pub realm: Realm,
    /// The source address.
    pub source: A,
    /// The destination address.
    pub destination: A,
    /// The IP protocol.
    pub protocol: Protocol,
    /// The identification.
    pub identification: u32,
}

/// The part of a datagram that a fragment carries, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// Its first byte.
    pub start: u16,
    /// One past its last byte.
    pub end: u32,
    /// Whether more follow.
    pub more: bool,
}

/// What to do with a fragment.
#[derive(Debug)]
pub enum Step<P> {
    /// Drop it, and why.
    Drop(DropReason),
    /// It is (or follows) a judged first fragment: do `plan` to it.
    Follow(P),
    /// It is the first one and nobody has judged its datagram yet: the caller decides, then calls
    /// [`Fragments::judged`].
    Judge,
    /// It came before the first one and must wait: the caller hands it over with [`Fragments::keep`].
    Wait,
}

/// The datagrams in fragments that one worker knows; `P` is what the first fragment's judgement
/// says to do with the others, `F` a frame that waits.
pub struct Fragments<P, F, A: Family = Ipv4Addr> {
    places: HashMap<DatagramKey<A>, u32, RandomState>,
    datagrams: Box<[Datagram<P, A>]>,
    spans: Spans,
    /// The lists of all datagrams, by class.
    ages: [Ends; CLASSES],
    age_links: Links,
    sources: HashMap<SourceKey<A>, SourceUse, RandomState>,
    source_links: Links,
    /// Places without a datagram.
    free: Ends,
    waiting: Waiting<F>,
    waiting_count: u32,
    waiting_max: u32,
    /// Frames of datagrams that ended before their time; [`Fragments::expire`] hands them over.
    orphans: Chain,
    timeout: Duration,
}

type SourceKey<A> = (Realm, A);

/// The datagrams of one source.
#[derive(Clone, Copy)]
struct SourceUse {
    /// By class.
    ages: [Ends; CLASSES],
    datagrams: u32,
    frames: u32,
}

struct Datagram<P, A: Family> {
    key: DatagramKey<A>,
    judgement: Judgement<P>,
    class: Class,
    /// When it came into its class.
    since: Tick,
    coverage: Coverage,
    frames: Chain,
}

enum Judgement<P> {
    Follow(P),
    Pending,
    Refused(DropReason),
}

/// Which list a datagram stands in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    /// Judged, and more may come.
    Open,
    /// Nobody has judged it yet.
    Waiting,
    /// All of it was seen and forwarded.
    Whole,
}

const CLASSES: usize = 3;
/// How long a datagram that was seen whole is kept for duplicates. A sender that comes round to its
/// identification again sooner starts anew with its first fragment.
const WHOLE_KEPT: Duration = Duration::from_millis(250);
/// A source that has this part of the room is the one to make room.
const SHARE: usize = 16;
/// Datagrams looked at for one whose waiting frames may go.
const VICTIMS_MAX: usize = 8;

impl<P: Clone, F, A: Family> Fragments<P, F, A> {
    /// Room for `datagrams_max` datagrams and `frames_max` waiting frames, all allocated now.
    ///
    /// Up to `frames_max` further frames are held from the moment their datagram gave way until the
    /// next [`Self::expire`].
    #[must_use]
    pub fn new(datagrams_max: usize, frames_max: usize, timeout: Duration, seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        let hasher = RandomState::with_seeds(a, b, c, d);
        let datagram = || Datagram {
            key: DatagramKey {
                realm: Realm::External,
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                protocol: Protocol(0),
                identification: 0,
            },
            judgement: Judgement::Pending,
            class: Class::Waiting,
            since: Tick::ZERO,
            coverage: Coverage::default(),
            frames: Chain::EMPTY,
        };
        let mut age_links = Links::new(datagrams_max);
        let mut free = Ends::EMPTY;
        let places = u32::try_from(datagrams_max).unwrap_or(NONE);
        (0..places).for_each(|place| age_links.append(&mut free, place));
        let waiting_max = u32::try_from(frames_max).unwrap_or(NONE / 2).min(NONE / 2);
        Self {
            // Twice the room, so that the maps clean up in place and never grow.
            places: HashMap::with_capacity_and_hasher(datagrams_max * 2, hasher.clone()),
            datagrams: (0..datagrams_max).map(|_| datagram()).collect(),
            spans: Spans::new(datagrams_max),
            ages: [Ends::EMPTY; CLASSES],
            age_links,
            sources: HashMap::with_capacity_and_hasher(datagrams_max * 2, hasher),
            source_links: Links::new(datagrams_max),
            free,
            waiting: Waiting::new(waiting_max * 2),
            waiting_count: 0,
            waiting_max,
            orphans: Chain::EMPTY,
            timeout,
        }
    }

    /// What to do with the fragment `span` of `key`.
    pub fn step(&mut self, key: &DatagramKey<A>, span: Span, now: Tick) -> Step<P> {
        let known = self.find(key, span, now);
        if spans::is_bad(key.protocol, span) {
            // Nothing good comes of the rest of it.
            if let Some(place) = known {
                self.refuse(place, DropReason::FragmentBad, now);
            }
            return Step::Drop(DropReason::FragmentBad);
        }
        let Some(place) = known.or_else(|| self.admit(key, now)) else {
            return Step::Drop(DropReason::FragmentTableFull);
        };
        let datagram = &mut self.datagrams[place as usize];
        if let Judgement::Refused(reason) = datagram.judgement {
            return Step::Drop(reason);
        }
        let refusal = match self.spans.add(place, &mut datagram.coverage, span) {
            Ok(()) => return self.accepted(place, span, now),
            Err(Misfit::Duplicate) => return Step::Drop(DropReason::FragmentOverlap),
            Err(Misfit::Overlap) => DropReason::FragmentOverlap,
            Err(Misfit::TooMany) => DropReason::FragmentTableFull,
        };
        if datagram.class != Class::Whole {
            self.refuse(place, refusal, now);
        }
        Step::Drop(refusal)
    }

    /// The first fragment's judgement: a plan for all of them, or a reason to drop them all.
    /// `release` gets the frames that waited, in the order they came, with that plan to follow.
    pub fn judged(
        &mut self,
        key: &DatagramKey<A>,
        plan: Result<P, DropReason>,
        now: Tick,
        release: impl FnMut(F),
    ) {
        let Some(&place) = self.places.get(key) else { return };
        let frames = self.take_frames(place);
        let datagram = &mut self.datagrams[place as usize];
        datagram.judgement = match plan {
            Ok(plan) => Judgement::Follow(plan),
            Err(reason) => Judgement::Refused(reason),
        };
        let is_complete = datagram.coverage.is_complete();
        self.enter(place, if is_complete { Class::Whole } else { Class::Open }, now);
        self.waiting.release(frames, release);
    }

    /// Keeps a frame until its first fragment was judged. Gives it back with a reason if there is no
    /// room (the oldest datagram of the same source gives way first).
    ///
    /// # Errors
    /// The frame, and why it cannot wait.
    pub fn keep(&mut self, key: &DatagramKey<A>, frame: F) -> Result<(), (F, DropReason)> {
        let place = self.places.get(key).copied();
        let place = place.filter(|place| self.datagrams[*place as usize].class == Class::Waiting);
        let Some(place) = place else { return Err((frame, DropReason::FragmentTableFull)) };
        if self.waiting_count >= self.waiting_max {
            let Some(victim) = self.victim_with_frames(place) else {
                return Err((frame, DropReason::FragmentTableFull));
            };
            self.forget(victim);
        }
        let datagram = &mut self.datagrams[place as usize];
        let kept = self.waiting.push(&mut datagram.frames, frame);
        kept.map_err(|frame| (frame, DropReason::FragmentTableFull))?;
        self.waiting_count += 1;
        if let Some(source) = self.sources.get_mut(&key.source_key()) {
            source.frames += 1;
        }
        Ok(())
    }

    /// Forgets datagrams whose time is over; `release` gets the frames that waited in vain.
    pub fn expire(&mut self, now: Tick, release: impl FnMut(F)) {
        for class in 0..CLASSES {
            while let Some(place) = self.oldest(&self.ages[class..=class])
                && self.is_over(place, now)
            {
                self.forget(place);
            }
        }
        let orphans = std::mem::replace(&mut self.orphans, Chain::EMPTY);
        self.waiting.release(orphans, release);
    }

    /// The place of a datagram that is still in time.
    fn find(&mut self, key: &DatagramKey<A>, span: Span, now: Tick) -> Option<u32> {
        let place = *self.places.get(key)?;
        // A first fragment after the whole datagram is the first of another one.
        let is_another = self.datagrams[place as usize].class == Class::Whole && span.start == 0;
        if is_another || self.is_over(place, now) {
            self.forget(place);
            return None;
        }
        Some(place)
    }

    /// What to do with a fragment that fits to those before.
    fn accepted(&mut self, place: u32, span: Span, now: Tick) -> Step<P> {
        let datagram = &self.datagrams[place as usize];
        match &datagram.judgement {
            Judgement::Follow(plan) => {
                let step = Step::Follow(plan.clone());
                if datagram.coverage.is_complete() {
                    self.enter(place, Class::Whole, now);
                }
                step
            }
            Judgement::Pending if span.start == 0 => Step::Judge,
            Judgement::Pending => Step::Wait,
            Judgement::Refused(reason) => Step::Drop(*reason),
        }
    }

    /// A place for a new datagram.
    fn admit(&mut self, key: &DatagramKey<A>, now: Tick) -> Option<u32> {
        if self.free.oldest == NONE {
            let victim = self.victim(key)?;
            self.forget(victim);
        }
        let place = self.free.oldest;
        self.age_links.remove(&mut self.free, place);
        self.places.insert(*key, place);
        let datagram = &mut self.datagrams[place as usize];
        datagram.key = *key;
        datagram.judgement = Judgement::Pending;
        datagram.coverage = Coverage::default();
        datagram.frames = Chain::EMPTY;
        let source = self.sources.entry(key.source_key()).or_insert(SourceUse::NONE);
        source.datagrams += 1;
        self.link(place, Class::Waiting, now);
        Some(place)
    }

    /// The datagram that gives way to a new one of `key`.
    fn victim(&self, key: &DatagramKey<A>) -> Option<u32> {
        let share = (self.datagrams.len() / SHARE).max(1);
        let own = self.sources.get(&key.source_key());
        let own = own.filter(|source| source.datagrams as usize >= share);
        let [open, waiting, whole] = own.map_or(self.ages, |source| source.ages);
        self.oldest(&[whole]).or_else(|| self.oldest(&[open, waiting]))
    }

    /// The datagram, other than the one at `place`, whose waiting frames give way to one of it.
    fn victim_with_frames(&self, place: u32) -> Option<u32> {
        let share = (self.waiting_max as usize / SHARE).max(1);
        let waiting = Class::Waiting as usize;
        let may_go =
            |other: &u32| *other != place && self.datagrams[*other as usize].frames.count > 0;
        let own = self.sources.get(&self.datagrams[place as usize].key.source_key());
        match own.filter(|source| source.frames as usize >= share) {
            Some(source) => {
                self.source_links.iter(source.ages[waiting]).take(VICTIMS_MAX).find(may_go)
            }
            None => self.age_links.iter(self.ages[waiting]).take(VICTIMS_MAX).find(may_go),
        }
    }

    /// Drops what waits of a datagram and all that will come of it.
    fn refuse(&mut self, place: u32, reason: DropReason, now: Tick) {
        let frames = self.take_frames(place);
        self.waiting.concatenate(&mut self.orphans, frames);
        self.datagrams[place as usize].judgement = Judgement::Refused(reason);
        self.enter(place, Class::Open, now);
    }

    fn forget(&mut self, place: u32) {
        let frames = self.take_frames(place);
        self.waiting.concatenate(&mut self.orphans, frames);
        self.unlink(place);
        let key = self.datagrams[place as usize].key;
        self.places.remove(&key);
        if let Some(source) = self.sources.get_mut(&key.source_key()) {
            source.datagrams -= 1;
            if source.datagrams == 0 {
                self.sources.remove(&key.source_key());
            }
        }
        self.age_links.append(&mut self.free, place);
    }

    fn take_frames(&mut self, place: u32) -> Chain {
        let datagram = &mut self.datagrams[place as usize];
        let frames = std::mem::replace(&mut datagram.frames, Chain::EMPTY);
        self.waiting_count -= frames.count;
        if let Some(source) = self.sources.get_mut(&datagram.key.source_key()) {
            source.frames -= frames.count;
        }
        frames
    }

    fn enter(&mut self, place: u32, class: Class, now: Tick) {
        self.unlink(place);
        self.link(place, class, now);
    }

    fn link(&mut self, place: u32, class: Class, now: Tick) {
        let datagram = &mut self.datagrams[place as usize];
        (datagram.class, datagram.since) = (class, now);
        self.age_links.append(&mut self.ages[class as usize], place);
        if let Some(source) = self.sources.get_mut(&datagram.key.source_key()) {
            self.source_links.append(&mut source.ages[class as usize], place);
        }
    }

    fn unlink(&mut self, place: u32) {
        let datagram = &self.datagrams[place as usize];
        let class = datagram.class as usize;
        self.age_links.remove(&mut self.ages[class], place);
        if let Some(source) = self.sources.get_mut(&datagram.key.source_key()) {
            self.source_links.remove(&mut source.ages[class], place);
        }
    }

    /// The place at the oldest end of all these lists.
    fn oldest(&self, lists: &[Ends]) -> Option<u32> {
        let places = lists.iter().map(|ends| ends.oldest).filter(|place| *place != NONE);
        places.min_by_key(|place| self.datagrams[*place as usize].since)
    }

    fn is_over(&self, place: u32, now: Tick) -> bool {
        let datagram = &self.datagrams[place as usize];
        let kept = match datagram.class {
            Class::Open | Class::Waiting => self.timeout,
            Class::Whole => self.timeout.min(WHOLE_KEPT),
        };
        now.since(datagram.since) > kept
    }
}

impl SourceUse {
    const NONE: Self = Self { ages: [Ends::EMPTY; CLASSES], datagrams: 0, frames: 0 };
}

impl<A: Family> DatagramKey<A> {
    const fn source_key(&self) -> SourceKey<A> {
        (self.realm, self.source)
    }
}
