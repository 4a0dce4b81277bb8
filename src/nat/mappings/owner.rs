//! Whose a mapping is, in one word.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, Realm};

/// An internal endpoint in its realm: `address << 32 | port << 16 | realm`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Owner(u64);

/// A guest: an [`Owner`] of whatever port.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Guest(u64);

impl Owner {
    /// The owner of a port that nobody ever had.
    pub(super) const NOBODY: Self = Self(0);

    /// The owner `internal` of `realm`.
    pub(super) fn new(realm: Realm, internal: Endpoint) -> Self {
        Self(
            u64::from(internal.address.to_bits()) << 32
                | u64::from(internal.port) << 16
                | u64::from(realm.as_raw()),
        )
    }

    /// The realm.
    pub(super) const fn realm(self) -> Realm {
        Realm::from_raw(self.0 as u16)
    }

    /// The endpoint.
    pub(super) const fn internal(self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits((self.0 >> 32) as u32), self.port())
    }

    /// The endpoint's port.
    pub(super) const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The guest.
    pub(super) const fn guest(self) -> Guest {
        Guest(self.0 & !0xffff_0000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_gives_back_what_it_was_made_of() {
        let realm = Realm::from_raw(0xbeef);
        let internal = Endpoint::new(Ipv4Addr::new(10, 1, 255, 5), 0xfedc);
        let owner = Owner::new(realm, internal);
        assert_eq!((owner.realm(), owner.internal(), owner.port()), (realm, internal, 0xfedc));
        let other = Owner::new(realm, Endpoint::new(internal.address, 1));
        assert_eq!(owner.guest(), other.guest());
        let elsewhere = Owner::new(Realm::from_raw(1), internal);
        assert_ne!(owner.guest(), elsewhere.guest());
    }
}
