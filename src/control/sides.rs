//! Who is who in a session: guests, public endpoints, remotes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::flow::{Endpoint, Family, NetworkId, Realm, RealmId};
use crate::policy::Policy;
use crate::session::entry::{NewSession, SessionKind};
use crate::session::shape::Shape;

/// The endpoints of a session by what they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sides<A: Family = Ipv4Addr> {
    /// Guests with their realms: two when they talk to each other.
    pub guests: [Option<(RealmId, Endpoint<A>)>; 2],
    /// Public endpoints: two for a hairpin.
    pub publics: [Option<Endpoint<A>>; 2],
    /// The other end, as the initiating side names it.
    pub remote: Endpoint<A>,
}

impl<A: Located> Sides<A> {
    /// The sides of `session`.
    #[must_use]
    pub fn of(session: &NewSession<A>) -> Self {
        let (initiator, responder) = (&session.initiator, &session.responder);
        let guest = |realm, endpoint| match realm {
            Realm::Internal(realm) => Some((realm, endpoint)),
            Realm::External => None,
        };
        let from = guest(initiator.realm, initiator.source);
        let to = guest(responder.realm, responder.source);
        let publics = match session.kind {
            SessionKind::Hairpin | SessionKind::HairpinStatic => {
                [Some(initiator.destination), Some(responder.destination)]
            }
            SessionKind::Inbound => [Some(initiator.destination), None],
            SessionKind::Routed => [None, None],
            SessionKind::SourceNat | SessionKind::StaticNat => [Some(responder.destination), None],
        };
        let remote = if from.is_some() { initiator.destination } else { initiator.source };
        Self { guests: [from, to], publics, remote }
    }

    /// The networks of its guests, each once.
    pub fn networks(&self, policy: &Policy) -> impl Iterator<Item = NetworkId> + use<A> {
        let [first, second] = self.guests.map(|guest| {
            let (realm, endpoint) = guest?;
            A::network(policy, realm, endpoint.address)
        });
        first.into_iter().chain(second.filter(|network| first != Some(*network)))
    }
}

/// A family whose guests the rules can place.
pub trait Located: Shape {
    /// What session keys of this family begin with.
    const KEY_PREFIX: &'static str;

    /// The network of `realm` that a guest is in, or behind.
    fn network(policy: &Policy, realm: RealmId, guest: Self) -> Option<NetworkId>;
}

impl Located for Ipv4Addr {
    const KEY_PREFIX: &'static str = "";

    fn network(policy: &Policy, realm: RealmId, guest: Self) -> Option<NetworkId> {
        Some(policy.internal_route(realm, guest)?.network)
    }
}

impl Located for Ipv6Addr {
    const KEY_PREFIX: &'static str = "v6-";

    fn network(policy: &Policy, _realm: RealmId, guest: Self) -> Option<NetworkId> {
        policy.ipv6().network(guest)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::flow::{FlowKey, Generation, Protocol, RuleId};
    use crate::next_hop::NextHopId;

    const REALM: RealmId = RealmId(NonZeroU16::MIN);

    fn endpoint(last: u8, port: u16) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(10, 1, 1, last), port)
    }

    fn session(kind: SessionKind, realms: [Realm; 2], ends: [Endpoint; 4]) -> NewSession {
        let key = |realm, source, destination| FlowKey {
            realm,
            protocol: Protocol::TCP,
            source,
            destination,
        };
        NewSession {
            initiator: key(realms[0], ends[0], ends[1]),
            responder: key(realms[1], ends[2], ends[3]),
            initiator_next_hop: NextHopId(0),
            responder_next_hop: NextHopId(0),
            rule: RuleId::DEFAULT,
            generation: Generation(1),
            kind,
            source_mapped: false,
            target_mapped: false,
        }
    }

    #[test]
    fn an_outbound_session_has_its_guest_first() {
        let [guest, remote, public] = [endpoint(5, 40000), endpoint(9, 443), endpoint(10, 40000)];
        let realms = [Realm::Internal(REALM), Realm::External];
        let sides =
            Sides::of(&session(SessionKind::SourceNat, realms, [guest, remote, remote, public]));
        assert_eq!(sides.guests, [Some((REALM, guest)), None]);
        assert_eq!((sides.publics, sides.remote), ([Some(public), None], remote));
    }

    #[test]
    fn an_inbound_session_has_its_guest_behind() {
        let [remote, public, guest] = [endpoint(9, 5555), endpoint(11, 2222), endpoint(5, 22)];
        let realms = [Realm::External, Realm::Internal(REALM)];
        let sides =
            Sides::of(&session(SessionKind::Inbound, realms, [remote, public, guest, remote]));
        assert_eq!(sides.guests, [None, Some((REALM, guest))]);
        assert_eq!((sides.publics, sides.remote), ([Some(public), None], remote));
    }

    #[test]
    fn a_hairpin_has_two_of_each() {
        let ends = [endpoint(5, 1), endpoint(11, 2), endpoint(6, 3), endpoint(10, 4)];
        let realms = [Realm::Internal(REALM); 2];
        let sides = Sides::of(&session(SessionKind::Hairpin, realms, ends));
        assert_eq!(sides.guests, [Some((REALM, ends[0])), Some((REALM, ends[2]))]);
        assert_eq!(sides.publics, [Some(ends[1]), Some(ends[3])]);
    }
}
