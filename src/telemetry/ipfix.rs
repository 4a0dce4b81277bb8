//! Events as IPFIX messages (RFC 7011) with the templates of RFC 8158, section 5.6.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, Realm};
use crate::telemetry::events::{Change, Happened, Quota};

/// Messages of one observation domain, one after another.
pub struct Messages {
    domain: u32,
    /// Data records sent before, modulo 2^32.
    sequence: u32,
    bytes: Vec<u8>,
    /// Data records in `bytes`.
    records: u32,
}

impl Messages {
    /// An exporter that has sent nothing yet.
    #[must_use]
    pub fn new(domain: u32) -> Self {
        let mut messages = Self { domain, sequence: 0, bytes: Vec::new(), records: 0 };
        messages.clear();
        messages
    }

    /// Adds every template to the message at hand, which must be empty.
    pub fn add_templates(&mut self) {
        let start = self.open_set(TEMPLATE_SET);
        for template in TEMPLATES {
            self.u16(template.id);
            self.u16(u16::try_from(template.fields.len()).unwrap_or_default());
            for (element, length) in template.fields {
                self.u16(*element);
                self.u16(*length);
            }
        }
        self.close_set(start);
    }

    /// Adds what happened `at_ms` milliseconds after 1970. Returns false, and adds nothing, if the
    /// message is full.
    pub fn add(&mut self, at_ms: u64, what: &Happened) -> bool {
        if self.bytes.len() + RECORD_MAX > MESSAGE_MAX {
            return false;
        }
        let start = self.open_set(template_of(what).id);
        self.bytes.extend_from_slice(&at_ms.to_be_bytes());
        self.bytes.push(event_number(what));
        match what {
            Happened::Mapping { realm, protocol, internal, external, .. } => {
                self.realm(*realm);
                self.bytes.push(protocol.0);
                self.translated(*internal, *external);
            }
            Happened::PortsExhausted { protocol, public } => {
                self.address(*public);
                self.bytes.push(protocol.0);
            }
            Happened::QuotaExceeded { quota, limit, realm, guest } => {
                let quota: u32 = match quota {
                    Quota::Sessions => 1,
                    Quota::Guest => 3,
                };
                self.u32(quota);
                self.u32(*limit);
                self.realm(*realm);
                self.address(*guest);
            }
            Happened::Session { realm, from_inside, protocol, before, after, .. } => {
                self.realm(*realm);
                self.bytes.push(if *from_inside { 1 } else { 2 });
                self.bytes.push(protocol.0);
                self.translated(before.0, after.0);
                self.translated(before.1, after.1);
            }
        }
        self.close_set(start);
        self.records += 1;
        true
    }

    /// The message, and how many data records are in it; another one begins. None if it is empty.
    pub fn finish(&mut self, now_seconds: u32, send: impl FnOnce(&[u8])) -> Option<u32> {
        if self.bytes.len() == HEADER_LENGTH {
            return None;
        }
        let length = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        let records = self.records;
        let header =
            [u32::from(VERSION) << 16 | u32::from(length), now_seconds, self.sequence, self.domain];
        for (place, word) in self.bytes.chunks_exact_mut(4).zip(header) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        send(&self.bytes);
        self.sequence = self.sequence.wrapping_add(records);
        self.clear();
        Some(records)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER_LENGTH, 0);
        self.records = 0;
    }

    /// Begins a set; its length comes when it is closed.
    fn open_set(&mut self, id: u16) -> usize {
        let start = self.bytes.len();
        self.u16(id);
        self.u16(0);
        start
    }

    fn close_set(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start + 2..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn realm(&mut self, realm: Realm) {
        self.u32(realm.as_raw().into());
    }

    fn address(&mut self, address: Ipv4Addr) {
        self.bytes.extend_from_slice(&address.octets());
    }

    fn translated(&mut self, before: Endpoint, after: Endpoint) {
        self.address(before.address);
        self.address(after.address);
        self.u16(before.port);
        self.u16(after.port);
    }
}

/// What a record holds: information elements of IANA's registry, with their lengths.
struct Template {
    id: u16,
    fields: &'static [(u16, u16)],
}

/// observationTimeMilliseconds, natEvent.
const TIME: (u16, u16) = (323, 8);
const EVENT: (u16, u16) = (230, 1);
/// ingressVRFID: the guest's realm.
const VRF: (u16, u16) = (234, 4);
const PROTOCOL: (u16, u16) = (4, 1);
/// sourceIPv4Address and postNATSourceIPv4Address, with their ports.
const SOURCE: (u16, u16) = (8, 4);
const POST_SOURCE: (u16, u16) = (225, 4);
const SOURCE_PORT: (u16, u16) = (7, 2);
const POST_SOURCE_PORT: (u16, u16) = (227, 2);
/// destinationIPv4Address and postNATDestinationIPv4Address, with their ports.
const DESTINATION: (u16, u16) = (12, 4);
const POST_DESTINATION: (u16, u16) = (226, 4);
const DESTINATION_PORT: (u16, u16) = (11, 2);
const POST_DESTINATION_PORT: (u16, u16) = (228, 2);
/// natOriginatingAddressRealm: 1 private, 2 public.
const ORIGIN: (u16, u16) = (229, 1);
/// natQuotaExceededEvent, maxSessionEntries, maxEntriesPerUser.
const QUOTA: (u16, u16) = (466, 4);
const SESSIONS_MAX: (u16, u16) = (471, 4);
const GUEST_MAX: (u16, u16) = (473, 4);

const SESSION: Template = Template {
    id: 256,
    fields: &[
        TIME,
        EVENT,
        VRF,
        ORIGIN,
        PROTOCOL,
        SOURCE,
        POST_SOURCE,
        SOURCE_PORT,
        POST_SOURCE_PORT,
        DESTINATION,
        POST_DESTINATION,
        DESTINATION_PORT,
        POST_DESTINATION_PORT,
    ],
};
const MAPPING: Template = Template {
    id: 257,
    fields: &[TIME, EVENT, VRF, PROTOCOL, SOURCE, POST_SOURCE, SOURCE_PORT, POST_SOURCE_PORT],
};
const PORTS_EXHAUSTED: Template =
    Template { id: 258, fields: &[TIME, EVENT, POST_SOURCE, PROTOCOL] };
const SESSIONS_EXCEEDED: Template =
    Template { id: 259, fields: &[TIME, EVENT, QUOTA, SESSIONS_MAX, VRF, SOURCE] };
const GUEST_EXCEEDED: Template =
    Template { id: 260, fields: &[TIME, EVENT, QUOTA, GUEST_MAX, VRF, SOURCE] };
const TEMPLATES: [&Template; 5] =
    [&SESSION, &MAPPING, &PORTS_EXHAUSTED, &SESSIONS_EXCEEDED, &GUEST_EXCEEDED];

const fn template_of(what: &Happened) -> &'static Template {
    match what {
        Happened::Mapping { .. } => &MAPPING,
        Happened::PortsExhausted { .. } => &PORTS_EXHAUSTED,
        Happened::QuotaExceeded { quota: Quota::Guest, .. } => &GUEST_EXCEEDED,
        Happened::QuotaExceeded { quota: Quota::Sessions, .. } => &SESSIONS_EXCEEDED,
        Happened::Session { .. } => &SESSION,
    }
}

/// The value of natEvent (RFC 8158, section 4.3).
const fn event_number(what: &Happened) -> u8 {
    match what {
        Happened::Mapping { change: Change::Created, .. } => 8,
        Happened::Mapping { change: Change::Deleted, .. } => 9,
        Happened::PortsExhausted { .. } => 12,
        Happened::QuotaExceeded { .. } => 13,
        Happened::Session { change: Change::Created, .. } => 4,
        Happened::Session { change: Change::Deleted, .. } => 5,
    }
}

const VERSION: u16 = 10;
const TEMPLATE_SET: u16 = 2;
const HEADER_LENGTH: usize = 16;
/// Fits every path without fragments that carries IPv6, too.
const MESSAGE_MAX: usize = 1200;
/// The longest record with its set's header.
const RECORD_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;

    fn endpoint(last: u8, port: u16) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(10, 1, 1, last), port)
    }

    fn all() -> Vec<Happened> {
        let (realm, protocol) = (Realm::from_raw(7), Protocol::UDP);
        let change = Change::Created;
        let (internal, external) = (endpoint(5, 4000), endpoint(6, 5000));
        let guest = internal.address;
        vec![
            Happened::Mapping { change, realm, protocol, internal, external },
            Happened::PortsExhausted { protocol, public: guest },
            Happened::QuotaExceeded { quota: Quota::Guest, limit: 9, realm, guest },
            Happened::QuotaExceeded { quota: Quota::Sessions, limit: 9, realm, guest },
            Happened::Session {
                change,
                realm,
                from_inside: true,
                protocol,
                before: (internal, external),
                after: (external, internal),
            },
        ]
    }

    #[test]
    fn every_record_is_as_long_as_its_template_says() {
        for what in all() {
            let mut messages = Messages::new(1);
            assert!(messages.add(1, &what));
            let length: u16 = template_of(&what).fields.iter().map(|(_, length)| length).sum();
            let set = &messages.bytes[HEADER_LENGTH..];
            assert_eq!(set[..2], template_of(&what).id.to_be_bytes());
            assert_eq!(set[2..4], (length + 4).to_be_bytes());
            assert_eq!(set.len(), usize::from(length) + 4);
            assert!(set.len() <= RECORD_MAX, "{what:?}");
        }
    }

    #[test]
    fn a_message_says_how_long_it_is_and_how_many_records_came_before() {
        let mut messages = Messages::new(0x0102_0304);
        messages.add_templates();
        let mut sent = Vec::new();
        assert_eq!(messages.finish(77, |bytes| sent = bytes.to_vec()), Some(0));
        assert_eq!(sent[..2], [0, 10]);
        assert_eq!(usize::from(u16::from_be_bytes([sent[2], sent[3]])), sent.len());
        assert_eq!(sent[4..16], [0, 0, 0, 77, 0, 0, 0, 0, 1, 2, 3, 4]);
        let what = all();
        let fitted = (0..).take_while(|at| messages.add(5, &what[at % what.len()])).count();
        assert!(fitted > 20);
        let records = messages.finish(78, |bytes| sent = bytes.to_vec());
        assert_eq!(records, Some(fitted as u32));
        assert!(sent.len() <= MESSAGE_MAX && sent[8..12] == [0; 4]);
        assert!(messages.add(6, &what[0]));
        messages.finish(79, |bytes| sent = bytes.to_vec());
        assert_eq!(sent[8..12], (fitted as u32).to_be_bytes());
        assert_eq!(messages.finish(80, |_| ()), None, "nothing is not sent");
    }
}
