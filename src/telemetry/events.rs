//! What the NAT did that an operator may have to account for: mappings, sessions, guests over their
//! limits, addresses without free ports (RFC 8158, section 4).
//!
//! Workers put events into a queue of fixed size and never wait: when it is full, the event is lost
//! and counted. Refusals come as fast as whoever is refused sends, so only some of each kind are told
//! each second.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::flow::{Endpoint, Protocol, Realm};
use crate::time::Tick;

/// What happened, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// When.
    pub at: Tick,
    /// What.
    pub what: Happened,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Happened {
    /// A guest's endpoint got or lost an external one.
    Mapping {
        /// Which of both.
        change: Change,
        /// The guest's realm.
        realm: Realm,
        /// The protocol.
        protocol: Protocol,
        /// The guest's endpoint.
        internal: Endpoint,
        /// The public endpoint.
        external: Endpoint,
    },
    /// An address has no free port for a guest that asked.
    PortsExhausted {
        /// The protocol.
        protocol: Protocol,
        /// The public address.
        public: Ipv4Addr,
    },
    /// A guest asked for more than it may have, or all together for more than there is room for.
    QuotaExceeded {
        /// Of what.
        quota: Quota,
        /// How many there may be.
        limit: u32,
        /// The guest's realm.
        realm: Realm,
        /// The guest.
        guest: Ipv4Addr,
    },
    /// A translated session began or ended.
    Session {
        /// Which of both.
        change: Change,
        /// The guest's realm.
        realm: Realm,
        /// Whether the guest began it.
        from_inside: bool,
        /// The protocol.
        protocol: Protocol,
        /// The source and the destination of the first packet as it came in.
        before: (Endpoint, Endpoint),
        /// The same as it left.
        after: (Endpoint, Endpoint),
    },
}

/// Something came to be, or to an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It came to be.
    Created,
    /// It came to an end.
    Deleted,
}

/// What there may only be so many of (RFC 8158, section 5.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quota {
    /// Sessions or external ports of one guest.
    Guest,
    /// Sessions of all.
    Sessions,
}

/// The place where workers leave events and whoever exports them takes them.
pub struct Events {
    queue: ArrayQueue<Event>,
    /// Whether every session is told, not only those that nothing else would tell of.
    pub sessions: bool,
    lost: AtomicU64,
    exported: AtomicU64,
    withheld: AtomicU64,
    ports_exhausted: PerSecond,
    quota_exceeded: PerSecond,
}

/// How events fare.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EventCounts {
    /// Given to the network.
    pub exported: u64,
    /// Lost, as the queue was full or the collector could not be sent to.
    pub lost: u64,
    /// Refusals beyond those told of in a second.
    pub withheld: u64,
}

impl Events {
    /// An empty queue.
    #[must_use]
    pub fn new(sessions: bool) -> Self {
        Self {
            queue: ArrayQueue::new(QUEUE_EVENTS),
            sessions,
            lost: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            ports_exhausted: PerSecond::default(),
            quota_exceeded: PerSecond::default(),
        }
    }

    /// Leaves an event, if there is room.
    pub fn push(&self, at: Tick, what: Happened) {
        let limit = match what {
            Happened::Mapping { .. } | Happened::Session { .. } => None,
            Happened::PortsExhausted { .. } => Some(&self.ports_exhausted),
            Happened::QuotaExceeded { .. } => Some(&self.quota_exceeded),
        };
        if limit.is_some_and(|limit| !limit.take(at)) {
            self.withheld.fetch_add(1, Ordering::Relaxed);
        } else if self.queue.push(Event { at, what }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest event.
    #[must_use]
    pub fn pop(&self) -> Option<Event> {
        self.queue.pop()
    }

    /// Counts events that were given to the network, or could not be.
    pub fn count(&self, exported: u64, lost: u64) {
        self.exported.fetch_add(exported, Ordering::Relaxed);
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// How events fared until now.
    #[must_use]
    pub fn counts(&self) -> EventCounts {
        EventCounts {
            exported: self.exported.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            withheld: self.withheld.load(Ordering::Relaxed),
        }
    }
}

/// So many in a second, over all workers: the second and how many in one word.
#[derive(Default)]
struct PerSecond(AtomicU64);

impl PerSecond {
    fn take(&self, at: Tick) -> bool {
        let second = at.as_ms() / 1000;
        let next = |word: u64| {
            let count = if word >> 8 == second { word & 0xff } else { 0 };
            (count < REFUSALS_PER_SECOND).then_some(second << 8 | (count + 1))
        };
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// Events that wait to be exported: some tenths of a second of a flood, in about 4 MB.
const QUEUE_EVENTS: usize = 1 << 16;
/// Refusals of one kind told of in a second.
const REFUSALS_PER_SECOND: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted() -> Happened {
        let public = Ipv4Addr::new(203, 0, 113, 10);
        Happened::PortsExhausted { protocol: Protocol::UDP, public }
    }

    fn mapped(port: u16) -> Happened {
        let endpoint = Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), port);
        Happened::Mapping {
            change: Change::Created,
            realm: Realm::from_raw(1),
            protocol: Protocol::UDP,
            internal: endpoint,
            external: endpoint,
        }
    }

    #[test]
    fn what_does_not_fit_is_lost_and_counted() {
        let events = Events::new(false);
        let more = 10;
        for number in 0..QUEUE_EVENTS + more {
            events.push(Tick::ZERO, mapped(number as u16));
        }
        assert_eq!(events.counts().lost, more as u64);
        let first = Event { at: Tick::ZERO, what: mapped(0) };
        assert_eq!(events.pop(), Some(first), "the oldest are kept");
        assert_eq!(std::iter::from_fn(|| events.pop()).count(), QUEUE_EVENTS - 1);
    }

    #[test]
    fn refusals_are_told_some_times_a_second_and_the_rest_counted() {
        let events = Events::new(false);
        for ms in 5000..7000 {
            events.push(Tick::from_ms(ms), exhausted());
        }
        assert_eq!(std::iter::from_fn(|| events.pop()).count(), 20);
        assert_eq!(events.counts().withheld, 1980);
        events.push(Tick::from_ms(6999), mapped(1));
        assert!(events.pop().is_some(), "what did happen is told");
    }
}
