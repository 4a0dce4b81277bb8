//! Fragments without reassembly: later fragments follow the first one's session, in any order, in
//! bounded memory (RFC 4787, REQ-14; RFC 1858; RFC 3128; RFC 6864).

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::flow::{Protocol, Realm};
use crate::time::Tick;
use crate::verdict::DropReason;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DatagramKey {
    /// Where it is seen.
    pub realm: Realm,
    /// The source address.
    pub source: Ipv4Addr,
    /// The destination address.
    pub destination: Ipv4Addr,
    /// The IP protocol.
    pub protocol: Protocol,
    /// The identification.
    pub identification: u16,
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
pub struct Fragments<P, F> {
    _private: std::marker::PhantomData<(P, F)>,
}

impl<P: Clone, F> Fragments<P, F> {
    /// Room for `datagrams_max` datagrams and `frames_max` waiting frames, all allocated now.
    #[must_use]
    pub fn new(datagrams_max: usize, frames_max: usize, timeout: Duration, seed: [u64; 4]) -> Self {
        todo!()
    }

    /// What to do with the fragment `span` of `key`.
    pub fn step(&mut self, key: &DatagramKey, span: Span, now: Tick) -> Step<P> {
        todo!()
    }

    /// The first fragment's judgement: a plan for all of them, or a reason to drop them all.
    /// `release` gets the frames that waited, in the order they came, with that plan to follow.
    pub fn judged(
        &mut self,
        key: &DatagramKey,
        plan: Result<P, DropReason>,
        now: Tick,
        release: impl FnMut(F),
    ) {
        todo!()
    }

    /// Keeps a frame until its first fragment was judged. Gives it back with a reason if there is no
    /// room (the oldest datagram of the same source gives way first).
    ///
    /// # Errors
    /// The frame, and why it cannot wait.
    pub fn keep(&mut self, key: &DatagramKey, frame: F) -> Result<(), (F, DropReason)> {
        todo!()
    }

    /// Forgets datagrams whose time is over; `release` gets the frames that waited in vain.
    pub fn expire(&mut self, now: Tick, release: impl FnMut(F)) {
        todo!()
    }
}
