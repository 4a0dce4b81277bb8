//! Where the slow path tells what it did, if somebody wants to know. See [`crate::telemetry::events`].

use crate::flow::{Endpoint, FlowKey, Protocol, Realm};
use crate::nat::mappings::{BindRequest, MappingLimits};
use crate::pipeline::shared::{Shared, shares_port};
use crate::policy::{Attachment, Policy};
use crate::session::entry::{NewSession, SessionKind};
use crate::telemetry::events::{Change, Happened, Quota};
use crate::time::Tick;
use crate::verdict::DropReason;

impl Shared {
    /// Tells of a new mapping.
    pub(super) fn mapping_made(&self, request: &BindRequest<'_>, external: Endpoint, now: Tick) {
        if let Some(events) = &self.events {
            let BindRequest { realm, protocol, internal, .. } = *request;
            let change = Change::Created;
            events.push(now, Happened::Mapping { change, realm, protocol, internal, external });
        }
    }

    /// Gives a reference on a mapping back, and tells if the mapping ended with it.
    pub(super) fn release_mapping(&self, protocol: Protocol, external: Endpoint, now: Tick) {
        let ended = self.mappings.release(protocol, external, now);
        if let (Some(events), Some((realm, internal))) = (&self.events, ended) {
            let change = Change::Deleted;
            events.push(now, Happened::Mapping { change, realm, protocol, internal, external });
        }
    }

    /// Tells that a session began or ended.
    pub(super) fn session_changed(&self, session: &NewSession, change: Change, now: Tick) {
        let Some(events) = &self.events else { return };
        let (from, to) = (&session.initiator, &session.responder);
        // Where a port is shared nothing but the session says whose a packet was.
        let wanted = match session.kind {
            SessionKind::Routed => false,
            SessionKind::Hairpin
            | SessionKind::HairpinStatic
            | SessionKind::Inbound
            | SessionKind::SourceNat
            | SessionKind::StaticNat => events.sessions || shares_port(session),
        };
        if wanted {
            let from_inside = from.realm != Realm::External;
            let what = Happened::Session {
                change,
                realm: if from_inside { from.realm } else { to.realm },
                from_inside,
                protocol: from.protocol,
                before: (from.source, from.destination),
                after: (to.destination, to.source),
            };
            events.push(now, what);
        }
    }

    /// Tells why a guest's session was not opened, if that is of interest.
    pub(super) fn session_refused(
        &self,
        reason: DropReason,
        key: &FlowKey,
        attachment: Attachment,
        policy: &Policy,
        now: Tick,
    ) {
        let (Some(events), Attachment::Guest(id)) = (&self.events, attachment) else { return };
        let network = policy.network(id);
        let (realm, guest) = (key.realm, key.source.address);
        let of_guest =
            |limit| Some(Happened::QuotaExceeded { quota: Quota::Guest, limit, realm, guest });
        let what = match reason {
            DropReason::NoPort => network.pool.as_ref().and_then(|pool| {
                let wanted = (realm, key.protocol, key.source);
                let request = BindRequest {
                    paired: self.guests.shown(realm, guest, pool),
                    ..BindRequest::new(wanted, pool, MappingLimits::default())
                };
                let public = self.mappings.paired_address(&request)?;
                Some(Happened::PortsExhausted { protocol: key.protocol, public })
            }),
            DropReason::PortLimit => {
                let MappingLimits { mappings, ports } = network.mapping_limits;
                let has = self.mappings.of_guest(realm, guest);
                of_guest(if mappings > 0 && has.mappings >= mappings { mappings } else { ports })
            }
            DropReason::SessionLimit => of_guest(network.limits.sessions),
            DropReason::SessionTableFull => {
                let limit = self.sessions.sessions_max();
                Some(Happened::QuotaExceeded { quota: Quota::Sessions, limit, realm, guest })
            }
            _ => None,
        };
        if let Some(what) = what {
            events.push(now, what);
        }
    }
}
