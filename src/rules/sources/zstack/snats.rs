//! Source NAT of private networks. One that is off is remembered as such: its network is routed untranslated, while one
//! of which nothing was said stays closed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nics;
use super::reader::{Notes, Object};
use super::state::{Call, Origin, State};
use crate::flow::Mac;

/// The private NIC and the public one.
pub type SnatKey = (Mac, Mac);

/// Source NAT of a private network towards a public NIC.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Snat {
    /// The address that guests leave with.
    pub public: Ipv4Addr,
    /// Whether it is on.
    pub is_on: bool,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// `/syncsnat`: exactly these.
pub fn sync(state: &mut State, call: &mut Call<'_>) {
    call.know(&["snats", "enable"]);
    let is_enabled = call.body.boolean("enable", &mut call.notes);
    if call.body.find("snats").is_none() {
        return;
    }
    replace(state, call);
    if is_enabled != Some(true) {
        state.snats.values_mut().for_each(|snat| snat.is_on = false);
    }
}

/// Replaces all by those of the list `snats`.
pub fn replace(state: &mut State, call: &mut Call<'_>) {
    let mut snats = BTreeMap::new();
    for node in call.entries("snats") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        let is_on = object.boolean("state", &mut call.notes);
        if let Some((key, snat)) = read(state, &object, call) {
            snats.insert(key, Snat { is_on: is_on == Some(true), ..snat });
        }
    }
    state.snats = snats;
}

/// `/setsnatservicestate`: these are on or off.
pub fn set_service(state: &mut State, call: &mut Call<'_>) {
    call.know(&["snats", "enabled"]);
    let is_on = call.body.boolean("enabled", &mut call.notes) == Some(true);
    for node in call.entries("snats") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some((key, snat)) = read(state, &object, call) {
            state.snats.insert(key, Snat { is_on, ..snat });
        }
    }
    call.reply = Some(json!({ "serviceStatus": if is_on { "enable" } else { "disable" } }));
}

/// `/setsnat`, which older servers send: this one is on.
pub fn set(state: &mut State, call: &mut Call<'_>) {
    call.know(&["snat"]);
    let Some(node) = call.body.find("snat") else {
        call.notes.error(call.body.at(), "the command lacks snat", "send it");
        return;
    };
    let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { return };
    if let Some((key, snat)) = read(state, &object, call) {
        state.snats.insert(key, snat);
    }
}

/// `/removesnat`.
pub fn remove(state: &mut State, call: &mut Call<'_>) {
    call.know(&["natInfo"]);
    for node in call.entries("natInfo") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        let private = object.mac("privateNicMac", &mut call.notes);
        let public = object.mac("publicNicMac", &mut call.notes);
        if let Some(key) = private.zip(public) {
            state.snats.remove(&key);
        }
    }
}

fn read(state: &State, object: &Object<'_>, call: &mut Call<'_>) -> Option<(SnatKey, Snat)> {
    let notes = &mut call.notes;
    let public_nic = nics::on_side(state, object, "publicNicMac", false, notes);
    let private_nic = nics::on_side(state, object, "privateNicMac", true, notes);
    let public = object.address("publicIp", notes);
    let length = object.netmask("snatNetmask", notes);
    let network = object.address("privateNicIp", notes);
    object.address_or_none("privateGatewayIp", notes);
    let (private_mac, nic) = private_nic?;
    check_network(nic, (network?, length?), object, notes);
    let key = (private_mac, public_nic?.0);
    Some((key, Snat { public: public?, is_on: true, origin: call.origin(object) }))
}

/// What is translated is the NIC's network, whatever else the entry says.
fn check_network(
    nic: &nics::Nic,
    (address, length): (Ipv4Addr, u8),
    object: &Object<'_>,
    notes: &mut Notes,
) {
    let Some(segment) = nic.segment() else { return };
    if length != segment.length() || !segment.contains(address) {
        let what =
            format!("source NAT of {address}/{length}, but NIC {} has {segment}", nic.interface);
        let hint = "the NIC's network is translated: configure the NIC as it should be";
        notes.warning(object.place_of("snatNetmask"), what, hint);
    }
}

const NAME: &str = "a source NAT";

const FIELDS: [&str; 7] = [
    "publicNicMac",
    "publicIp",
    "privateNicMac",
    "privateNicIp",
    "privateGatewayIp",
    "snatNetmask",
    "state",
];
