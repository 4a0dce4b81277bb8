//! What one guest may use: sessions, and new sessions per second (RFC 6888, REQ-4).

use std::net::Ipv4Addr;

use crate::flow::Realm;
use crate::time::Tick;
use crate::verdict::DropReason;

/// What a guest may use. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GuestLimits {
    /// Concurrent sessions.
    pub sessions: u32,
    /// New sessions per second, with a burst of one second's worth.
    pub new_sessions_per_second: u32,
}

/// Every guest's present use, shared by the workers.
pub struct Guests {
    _private: (),
}

impl Guests {
    /// Nobody uses anything yet.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Self {
        todo!()
    }

    /// Counts one more session of a guest.
    ///
    /// # Errors
    /// [`DropReason::SessionLimit`] or [`DropReason::RateLimited`]; nothing is counted then.
    pub fn enter(
        &self,
        realm: Realm,
        guest: Ipv4Addr,
        limits: GuestLimits,
        now: Tick,
    ) -> Result<(), DropReason> {
        todo!()
    }

    /// Counts one session less.
    pub fn leave(&self, realm: Realm, guest: Ipv4Addr) {
        todo!()
    }

    /// Sessions a guest has now.
    #[must_use]
    pub fn sessions(&self, realm: Realm, guest: Ipv4Addr) -> u32 {
        todo!()
    }
}
