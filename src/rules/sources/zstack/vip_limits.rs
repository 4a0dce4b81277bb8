//! Bandwidth limits of VIPs and their ports.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::nics;
use super::reader::Object;
use super::state::{Call, Origin, State};
use crate::rules::set::{AddressLimit, PortRange, PublicIp};
use crate::rules::sources::Pending;

/// Of which VIP, and which of its ports; zero for all others.
pub type LimitKey = (Ipv4Addr, u16);

/// A limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VipLimit {
    /// What may come in and go out, in bits per second; zero means no limit.
    pub bits: [u64; 2],
    /// Limits with one such name are one.
    pub shared: Option<String>,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// `/setvipqos` and `/syncvipqos`: these too. (ZStack's own router keeps what a sync does not list.)
pub fn set(state: &mut State, call: &mut Call<'_>) {
    call.know(&["vipQosSettings"]);
    for node in call.entries("vipQosSettings") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        let notes = &mut call.notes;
        nics::on_side(state, &object, "publicNic", false, notes);
        let key = key(&object, call);
        let notes = &mut call.notes;
        let bits = ["inboundBandwidth", "outboundBandwidth"]
            .map(|field| object.integer(field, notes).map(|bits| u64::try_from(bits).unwrap_or(0)));
        let shared = match object.text("sharedQosUuid", notes) {
            Some("") => Some(None),
            Some(_) => nics::name(&object, "sharedQosUuid", notes).map(Some),
            None => None,
        };
        let ([Some(inbound), Some(outbound)], Some(shared), Some(key)) = (bits, shared, key) else {
            continue;
        };
        let shared = shared.map(str::to_owned);
        let limit = VipLimit { bits: [inbound, outbound], shared, origin: call.origin(&object) };
        state.limits.insert(key, limit);
    }
}

/// `/deletevipqos`.
pub fn delete(state: &mut State, call: &mut Call<'_>) {
    call.know(&["vipQosSettings"]);
    for node in call.entries("vipQosSettings") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some(key) = key(&object, call) {
            state.limits.remove(&key);
        }
    }
}

fn key(object: &Object<'_>, call: &mut Call<'_>) -> Option<LimitKey> {
    let address = object.address("vip", &mut call.notes);
    let port = match object.integer("port", &mut call.notes)? {
        0 => 0,
        _ => object.port("port", &mut call.notes)?,
    };
    Some((address?, port))
}

/// The limits as native ones; those of addresses that are not there wait.
pub fn limits(
    state: &State,
    addresses: &BTreeMap<Ipv4Addr, PublicIp>,
    pending: &mut Vec<Pending>,
) -> Vec<AddressLimit> {
    let mut limits = Vec::new();
    for (&(vip, port), limit) in &state.limits {
        let id = if port == 0 { vip.to_string() } else { format!("{vip}:{port}") };
        if !addresses.contains_key(&vip) {
            pending.push(Pending {
                what: format!("bandwidth limit of {id}"),
                place: limit.origin.place.clone(),
                waits_for: format!("VIP {vip}"),
            });
            continue;
        }
        // The server says a shared limit once for each VIP; while it changes one, the least counts.
        let sharing = state
            .limits
            .values()
            .filter(|other| other.shared.is_some() && other.shared == limit.shared);
        let least = sharing
            .fold(limit.bits, |[one, two], other| [one.min(other.bits[0]), two.min(other.bits[1])]);
        let [inbound, outbound] = least.map(|bits| bits.div_ceil(1000).min(KBIT_MAX));
        limits.push(AddressLimit {
            id,
            public_ip: vip,
            ports: PortRange::new(port, port).ok(),
            inbound_kbit_per_second: inbound,
            outbound_kbit_per_second: outbound,
            shared: limit.shared.clone(),
            place: limit.origin.place.clone(),
        });
    }
    limits
}

const NAME: &str = "a VIP's limit";

/// The largest native limit: no router passes more.
const KBIT_MAX: u64 = 1_000_000_000;

const FIELDS: [&str; 10] = [
    "vip",
    "publicNic",
    "vipUuid",
    "port",
    "inboundBandwidth",
    "outboundBandwidth",
    "type",
    "hasVipQos",
    "sharedQosUuid",
    "update",
];
