//! VIPs: the public addresses beside the NICs' own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::nics;
use super::reader::Object;
use super::state::{Call, Origin, State};
use crate::flow::Mac;

/// A VIP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// The NIC it is on.
    pub mac: Mac,
    /// The length of its prefix.
    pub length: u8,
    /// The upstream router of its segment.
    pub gateway: Option<Ipv4Addr>,
    /// What the server calls it; empty if it did not say.
    pub uuid: String,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// `/createvip`; with `syncVip`, what is not listed goes.
pub fn create(state: &mut State, call: &mut Call<'_>) {
    call.know(&["syncVip", "rebuildVip", "vips", "nicIps"]);
    let is_sync = call.body.boolean("syncVip", &mut call.notes) == Some(true);
    let mut listed = BTreeSet::new();
    for node in call.entries("vips") {
        let Some(object) = Object::open(node, "a VIP", &VIP_FIELDS, &mut call.notes) else {
            continue;
        };
        if let Some((address, vip)) = read(state, &object, call) {
            listed.insert(address);
            state.vips.insert(address, vip);
        }
    }
    if is_sync {
        state.vips.retain(|address, _| listed.contains(address));
    }
    for node in call.entries("nicIps") {
        set_nic_address(
            state,
            Object::open(node, "a NIC's address", &NIC_IP_FIELDS, &mut call.notes),
            call,
        );
    }
}

/// A NIC's own address, which may change.
fn set_nic_address(state: &mut State, object: Option<Object<'_>>, call: &mut Call<'_>) {
    let Some(object) = object else { return };
    let notes = &mut call.notes;
    let mac = object.mac("ownerEthernetMac", notes);
    let address = object.address("ip", notes);
    let length = object.netmask("netmask", notes);
    let (Some(mac), Some(address), Some(length)) = (mac, address, length) else { return };
    if nics::known(state, mac, &object, "ownerEthernetMac", notes).is_some()
        && let Some(nic) = state.nics.get_mut(&mac)
    {
        nic.address = Some((address, length));
    }
}

fn read(state: &State, object: &Object<'_>, call: &mut Call<'_>) -> Option<(Ipv4Addr, Vip)> {
    let notes = &mut call.notes;
    if object.text("ip", notes) == Some("") && object.text("ip6", notes) != Some("") {
        let at = object.place_of("ip6");
        notes.error(at, "natwerk does not translate IPv6 VIPs", "leave it to the kernel");
        return None;
    }
    let address = object.address("ip", notes);
    let length = object.netmask("netmask", notes);
    let gateway = object.address_or_none("gateway", notes);
    let nic = nics::on_side(state, object, "ownerEthernetMac", false, notes);
    let uuid = object.text("vipUuid", notes);
    let (address, length, gateway, (mac, _)) = (address?, length?, gateway?, nic?);
    let uuid = uuid?.to_owned();
    Some((address, Vip { mac, length, gateway, uuid, origin: call.origin(object) }))
}

/// `/removevip`. Its rules stay and wait for it; its limits go with it.
pub fn remove(state: &mut State, call: &mut Call<'_>) {
    call.know(&["syncVip", "rebuildVip", "vips", "nicIps"]);
    for node in call.entries("vips") {
        let Some(object) = Object::open(node, "a VIP", &VIP_FIELDS, &mut call.notes) else {
            continue;
        };
        if object.text("ip", &mut call.notes) == Some("") {
            continue;
        }
        if let Some(address) = object.address("ip", &mut call.notes) {
            state.vips.remove(&address);
            state.limits.retain(|(vip, _), _| *vip != address);
        }
    }
}

/// The fields of a VIP.
const VIP_FIELDS: [&str; 11] = [
    "ip",
    "netmask",
    "gateway",
    "ip6",
    "prefixLength",
    "gateway6",
    "ownerEthernetMac",
    "vipUuid",
    "isSystem",
    "addressMode",
    "category",
];

const NIC_IP_FIELDS: [&str; 5] = ["ip", "netmask", "ownerEthernetMac", "ip6", "prefixLength"];
