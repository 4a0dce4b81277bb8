//! Who guests have sent to through which mapping: what address-dependent filtering asks (RFC 4787,
//! section 5). The session table cannot tell, because its keys hold the remote's port.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::flow::{Endpoint, FlowKey, Protocol, Realm};
use crate::pipeline::admit::network_of;
use crate::policy::Policy;
use crate::rules::set::FilteringBehavior;
use crate::session::entry::NewSession;

/// The live sessions of guests with address-dependent filtering, by remote.
///
/// Only those sessions are kept, and rules may change which they are while a session lives. So each
/// stands here by its own remote port: one that never entered takes nothing away when it leaves.
#[derive(Default)]
pub struct Contacts {
    sessions: DashMap<(Contact, u16), (), ahash::RandomState>,
    /// How many sessions there are of each contact.
    counts: DashMap<Contact, u32, ahash::RandomState>,
    /// Contacts in the map, so that an empty map costs one load.
    count: AtomicUsize,
}

/// A mapping's external endpoint, and who may send to it from where.
type Contact = (Protocol, Endpoint, Realm, Ipv4Addr);

impl Contacts {
    /// Whether a live session goes from the mapping at `external` to `remote` in `realm`.
    #[must_use]
    pub fn knows(
        &self,
        protocol: Protocol,
        external: Endpoint,
        realm: Realm,
        remote: Ipv4Addr,
    ) -> bool {
        self.counts.contains_key(&(protocol, external, realm, remote))
    }

    /// Notes a session if its guest's network filters by address and the guest has its external
    /// endpoint alone. Returns whether it did.
    #[inline(always)]
    pub(super) fn enter_if_asked(&self, session: &NewSession, policy: &Policy) -> bool {
        let key = &session.initiator;
        let is_asked = policy.filters_by_address()
            && session.source_mapped
            && network_of(policy, key.realm, key.source.address).is_some_and(|network| {
                policy.network(network).filtering == FilteringBehavior::AddressDependent
            });
        if is_asked {
            self.enter(session);
        }
        is_asked
    }

    fn enter(&self, session: &NewSession) {
        let (contact, port) = contact(&session.responder);
        if self.sessions.insert((contact, port), ()).is_some() {
            return;
        }
        let mut sessions = self.counts.entry(contact).or_default();
        if *sessions == 0 {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        *sessions += 1;
    }

    pub(super) fn leave(&self, session: &NewSession) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (contact, port) = contact(&session.responder);
        if self.sessions.remove(&(contact, port)).is_none() {
            return;
        }
        let last = |_: &Contact, sessions: &mut u32| {
            *sessions = sessions.saturating_sub(1);
            *sessions == 0
        };
        if self.counts.remove_if_mut(&contact, last).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn contact(responder: &FlowKey) -> (Contact, u16) {
    let FlowKey { realm, protocol, source, destination } = *responder;
    ((protocol, destination, realm, source.address), source.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sessions::session;

    #[test]
    fn a_session_that_never_entered_takes_nothing_away() {
        let contacts = Contacts::default();
        let one = session(1, Protocol::UDP);
        let mut other = one;
        other.responder.source.port += 1;
        let knows = || {
            let FlowKey { realm, protocol, source, destination } = one.responder;
            contacts.knows(protocol, destination, realm, source.address)
        };
        contacts.enter(&one);
        contacts.leave(&other);
        assert!(knows());
        contacts.enter(&other);
        contacts.leave(&one);
        assert!(knows());
        contacts.leave(&other);
        assert!(!knows());
        assert!(contacts.sessions.is_empty() && contacts.counts.is_empty());
        assert!(contacts.count.load(Ordering::Relaxed) == 0);
    }
}
