//! Port forwards. A range leads to its range by offset; an allowed prefix limits who may come.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::nics;
use super::reader::{Notes, Object, cidr, quoted};
use super::state::{Call, Origin, State};
use crate::flow::{Mac, Protocol};
use crate::rules::set::{Cidr, PortRange};

/// A port forward.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The VIP.
    pub vip: Ipv4Addr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The VIP's ports.
    pub public_ports: PortRange,
    /// The guest's NIC's network.
    pub private_mac: Mac,
    /// The guest.
    pub guest: Ipv4Addr,
    /// The guest's ports, as many.
    pub guest_ports: PortRange,
    /// Who may come; none for everybody.
    pub allowed: Option<Cidr>,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// All port forwards: by their uuid, and by the ports that they claim.
#[derive(Clone, Debug, Default)]
pub struct Forwards {
    by_uuid: BTreeMap<String, Forward>,
    claims: BTreeMap<Claim, String>,
}

/// The first port of a forward.
type Claim = (Ipv4Addr, Protocol, u16);

impl Forwards {
    /// All, by uuid.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Forward)> {
        self.by_uuid.iter()
    }

    /// The one of this uuid.
    pub fn find(&self, uuid: &str) -> Option<&Forward> {
        self.by_uuid.get(uuid)
    }

    /// The forward other than `uuid` that claims a port of `forward`.
    fn clash(&self, uuid: &str, forward: &Forward) -> Option<&str> {
        let last = (forward.vip, forward.protocol, forward.public_ports.last());
        // Claims do not overlap, so only the two nearest below the last port can reach the first.
        let near = self.claims.range(..=last).rev().take(2);
        let mut others = near.filter(|((vip, protocol, _), other)| {
            *vip == forward.vip && *protocol == forward.protocol && *other != uuid
        });
        let (_, other) = others.next()?;
        let claimed = self.by_uuid.get(other)?.public_ports;
        (claimed.last() >= forward.public_ports.first()).then_some(other.as_str())
    }

    /// Puts `forward` where another of its uuid may have been.
    pub fn insert(&mut self, uuid: &str, forward: Forward) {
        self.remove(uuid);
        let claim = (forward.vip, forward.protocol, forward.public_ports.first());
        self.claims.insert(claim, uuid.to_owned());
        self.by_uuid.insert(uuid.to_owned(), forward);
    }

    /// Takes out the one of this uuid, if there is one.
    pub fn remove(&mut self, uuid: &str) {
        if let Some(forward) = self.by_uuid.remove(uuid) {
            let claim = (forward.vip, forward.protocol, forward.public_ports.first());
            // What was kept is not asked whether it clashes: another may have claimed it since.
            if self.claims.get(&claim).is_some_and(|other| other == uuid) {
                self.claims.remove(&claim);
            }
        }
    }
}

/// `/createportforwarding`: adds, or replaces what has the same uuid.
pub fn create(state: &mut State, call: &mut Call<'_>) {
    call.know(&["rules"]);
    for node in call.entries("rules") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some((uuid, forward)) = read(state, &object, call) {
            add(&mut state.forwards, uuid, forward, &object, &mut call.notes);
        }
    }
}

/// `/revokeportforwarding`: what is not there is gone already.
pub fn revoke(state: &mut State, call: &mut Call<'_>) {
    call.know(&["rules"]);
    for node in call.entries("rules") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some(uuid) = object.required_text("uuid", &mut call.notes) {
            state.forwards.remove(uuid);
        }
    }
}

/// `/syncportforwarding`: exactly these.
pub fn sync(state: &mut State, call: &mut Call<'_>) {
    call.know(&["rules"]);
    // A body without the list says nothing; an empty list says that there are none.
    if call.body.find("rules").is_none() {
        return;
    }
    let mut forwards = Forwards::default();
    for node in call.entries("rules") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some((uuid, forward)) = read(state, &object, call) {
            add(&mut forwards, uuid, forward, &object, &mut call.notes);
        }
    }
    state.forwards = forwards;
}

fn add(
    forwards: &mut Forwards,
    uuid: &str,
    forward: Forward,
    object: &Object<'_>,
    notes: &mut Notes,
) {
    if let Some(other) = forwards.clash(uuid, &forward) {
        let Forward { vip, protocol, public_ports, .. } = &forward;
        let what = format!(
            "{protocol} {vip}:{public_ports} is already claimed by port forward {}",
            quoted(other)
        );
        notes.error(object.place_of("vipPortStart"), what, "use other ports or another VIP");
        return;
    }
    forwards.insert(uuid, forward);
}

fn read<'a>(state: &State, object: &Object<'a>, call: &mut Call<'_>) -> Option<(&'a str, Forward)> {
    let notes = &mut call.notes;
    let uuid = uuid(object, "uuid", notes);
    let vip = object.address("vipIp", notes);
    let protocol = protocol(object, notes);
    let public_ports = ports(object, "vipPortStart", "vipPortEnd", notes);
    let guest_ports = ports(object, "privatePortStart", "privatePortEnd", notes);
    let public = nics::on_side(state, object, "publicMac", false, notes);
    let private = nics::on_side(state, object, "privateMac", true, notes);
    let guest = private.and_then(|(_, nic)| nics::guest(nic, object, "privateIp", notes));
    let allowed = allowed(object, notes);
    if object.boolean("snatInboundTraffic", notes) == Some(true) {
        let at = object.place_of("snatInboundTraffic");
        notes.warning(at, "snatInboundTraffic does nothing for port forwards", SNAT_HINT);
    }
    let (public_ports, guest_ports) = (public_ports?, guest_ports?);
    if public_ports.count() != guest_ports.count() {
        let what = format!(
            "{} public ports ({public_ports}) but {} private ports ({guest_ports})",
            public_ports.count(),
            guest_ports.count()
        );
        notes.error(object.place_of("privatePortStart"), what, "make the ranges equally long");
        return None;
    }
    public?;
    let forward = Forward {
        vip: vip?,
        protocol: protocol?,
        public_ports,
        private_mac: private?.0,
        guest: guest?,
        guest_ports,
        allowed: allowed?,
        origin: call.origin(object),
    };
    Some((uuid?, forward))
}

/// A rule's uuid.
pub fn uuid<'a>(object: &Object<'a>, field: &str, notes: &mut Notes) -> Option<&'a str> {
    let uuid = object.required_text(field, notes)?;
    if !nics::is_name(uuid) {
        let what = format!("{field} {} is no uuid", quoted(uuid));
        notes.error(object.place_of(field), what, "send 32 hexadecimal digits");
        return None;
    }
    Some(uuid)
}

/// TCP or UDP. ZStack's own router takes everything that is not TCP for UDP.
fn protocol(object: &Object<'_>, notes: &mut Notes) -> Option<Protocol> {
    let text = object.required_text("protocolType", notes)?;
    let found = [("TCP", Protocol::TCP), ("UDP", Protocol::UDP)]
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    if found.is_none() {
        let what = format!("protocolType {} is neither TCP nor UDP", quoted(text));
        notes.error(object.place_of("protocolType"), what, "forward ports of TCP or UDP");
    }
    found.map(|(_, protocol)| protocol)
}

fn ports(object: &Object<'_>, first: &str, last: &str, notes: &mut Notes) -> Option<PortRange> {
    let (low, high) = (object.port(first, notes), object.port(last, notes));
    let (low, high) = (low?, high?);
    let range = PortRange::new(low, high).ok();
    if range.is_none() {
        let what = format!("{first} {low} is above {last} {high}");
        notes.error(object.place_of(first), what, "send the lower port first");
    }
    range
}

/// Who may come: everybody if nothing is said.
fn allowed(object: &Object<'_>, notes: &mut Notes) -> Option<Option<Cidr>> {
    let text = object.text("allowedCidr", notes)?;
    if text.is_empty() {
        return Some(None);
    }
    let Some(cidr) = cidr(text) else {
        let what = format!("allowedCidr {} is not an IPv4 prefix", quoted(text));
        notes.error(object.place_of("allowedCidr"), what, "send a prefix such as 192.0.2.0/24");
        return None;
    };
    Some(Some(cidr).filter(|cidr| *cidr != Cidr::ANY))
}

const NAME: &str = "a port forward";

const SNAT_HINT: &str = "guests see clients' own addresses, as behind ZStack's current router";

const FIELDS: [&str; 12] = [
    "uuid",
    "vipPortStart",
    "vipPortEnd",
    "privatePortStart",
    "privatePortEnd",
    "protocolType",
    "vipIp",
    "publicMac",
    "privateIp",
    "privateMac",
    "allowedCidr",
    "snatInboundTraffic",
];
