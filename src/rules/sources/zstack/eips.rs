//! Elastic addresses: a VIP that belongs to one guest, both ways. Flat networks have theirs without a router: each is a
//! translator between the guest's bridge and the public one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::nics::{self, is_interface};
use super::reader::{Notes, Object, quoted};
use super::state::{Call, Origin, State};
use crate::flow::Mac;
use crate::rules::diagnostic::Place;
use crate::rules::set::{Action, Cidr, Limits, NatOptions, Network};

/// An elastic address.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Eip {
    /// The guest's NIC's network.
    pub private_mac: Mac,
    /// The guest.
    pub guest: Ipv4Addr,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// An elastic address of a flat network.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlatEip {
    /// The VIP's segment and upstream router.
    pub segment: (Cidr, Option<Ipv4Addr>),
    /// The bridge of the VIP.
    pub public_bridge: String,
    /// The guest.
    pub guest: Ipv4Addr,
    /// The guest's network and its gateway, which natwerk plays for it.
    pub network: (Cidr, Ipv4Addr),
    /// The bridge of the guest.
    pub bridge: String,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// `/createeip`.
pub fn create(state: &mut State, call: &mut Call<'_>) {
    call.know(&["eip"]);
    let Some(object) = one(call) else { return };
    if let Some((vip, eip)) = read(state, &object, call) {
        state.eips.insert(vip, eip);
    }
}

/// `/removeeip`.
pub fn remove(state: &mut State, call: &mut Call<'_>) {
    call.know(&["eip"]);
    let Some(object) = one(call) else { return };
    if let Some(vip) = object.address("vipIp", &mut call.notes) {
        state.eips.remove(&vip);
    }
}

/// `/synceip`: exactly these.
pub fn sync(state: &mut State, call: &mut Call<'_>) {
    call.know(&["eips"]);
    if call.body.find("eips").is_none() {
        return;
    }
    let mut eips = BTreeMap::new();
    for node in call.entries("eips") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        eips.extend(read(state, &object, call));
    }
    state.eips = eips;
}

fn one<'a>(call: &mut Call<'a>) -> Option<Object<'a>> {
    let Some(node) = call.body.find("eip") else {
        call.notes.error(call.body.at(), "the command lacks eip", "send it");
        return None;
    };
    Object::open(node, NAME, &FIELDS, &mut call.notes)
}

fn read(state: &State, object: &Object<'_>, call: &mut Call<'_>) -> Option<(Ipv4Addr, Eip)> {
    let notes = &mut call.notes;
    let vip = object.address("vipIp", notes);
    let public = nics::on_side(state, object, "publicMac", false, notes);
    let private = nics::on_side(state, object, "privateMac", true, notes);
    let guest = private.and_then(|(_, nic)| nics::guest(nic, object, "guestIp", notes));
    let translate_source = object.boolean("snatInboundTraffic", notes);
    object.boolean("needCleanGuestIp", notes);
    if translate_source? {
        let at = object.place_of("snatInboundTraffic");
        let what = "natwerk does not translate the sources of inbound traffic (snatInboundTraffic)";
        notes.error(at, what, "create the elastic address without it");
        return None;
    }
    public?;
    let eip = Eip { private_mac: private?.0, guest: guest?, origin: call.origin(object) };
    Some((vip?, eip))
}

/// `/flatnetworkprovider/eip/apply` and `batchapply`.
pub fn apply_flat(state: &mut State, call: &mut Call<'_>) {
    for object in flat(call) {
        if object.integer("ipVersion", &mut call.notes) == Some(6) {
            let at = object.place_of("ipVersion");
            call.notes.error(at, "natwerk does not translate IPv6 VIPs", "leave it to the host");
            continue;
        }
        if let Some((vip, eip)) = read_flat(&object, call) {
            state.flat_eips.insert(vip, eip);
        }
    }
}

/// `/flatnetworkprovider/eip/delete` and `batchdelete`.
pub fn delete_flat(state: &mut State, call: &mut Call<'_>) {
    for object in flat(call) {
        if object.integer("ipVersion", &mut call.notes) == Some(6) {
            continue;
        }
        if let Some(vip) = object.address("vip", &mut call.notes) {
            state.flat_eips.remove(&vip);
        }
    }
}

/// The elastic addresses of a command that names one or several.
fn flat<'a>(call: &mut Call<'a>) -> Vec<Object<'a>> {
    call.know(&["eip", "eips"]);
    let one = call.body.find("eip").into_iter();
    let nodes = one.chain(call.entries("eips"));
    nodes.filter_map(|node| Object::open(node, NAME, &FLAT_FIELDS, &mut call.notes)).collect()
}

fn read_flat(object: &Object<'_>, call: &mut Call<'_>) -> Option<(Ipv4Addr, FlatEip)> {
    let notes = &mut call.notes;
    let vip = object.address("vip", notes);
    let vip_length = object.netmask("vipNetmask", notes);
    let vip_gateway = object.address_or_none("vipGateway", notes);
    let guest = object.address("nicIp", notes);
    let length = object.netmask("nicNetmask", notes);
    let gateway = object.address("nicGateway", notes);
    let bridge = bridge(object, "vmBridgeName", notes);
    let public_bridge = bridge_of_vip(object, notes);
    let (vip, guest, gateway) = (vip?, guest?, gateway?);
    let network = Cidr::containing(guest, length?);
    if !network.contains(gateway) || guest == gateway {
        let what = format!("nicGateway {gateway} is no gateway of {guest} in {network}");
        notes.error(object.place_of("nicGateway"), what, "send the gateway of the guest's network");
        return None;
    }
    let eip = FlatEip {
        segment: (Cidr::containing(vip, vip_length?), vip_gateway?),
        public_bridge: public_bridge?.to_owned(),
        guest,
        network: (network, gateway),
        bridge: bridge?.to_owned(),
        origin: call.origin(object),
    };
    Some((vip, eip))
}

fn bridge_of_vip<'a>(object: &Object<'a>, notes: &mut Notes) -> Option<&'a str> {
    bridge(object, "publicBridgeName", notes)
}

fn bridge<'a>(object: &Object<'a>, field: &str, notes: &mut Notes) -> Option<&'a str> {
    let name = object.required_text(field, notes)?;
    if !is_interface(name) {
        let what = format!("{field} {} names no interface", quoted(name));
        notes.error(object.place_of(field), what, "send the name of a bridge");
        return None;
    }
    Some(name)
}

/// The guests' network of a flat network's addresses.
pub fn flat_network(name: &str, cidr: Cidr, gateway: Ipv4Addr, place: &Place) -> Network {
    Network {
        name: name.to_owned(),
        interface: name.to_owned(),
        vlan: 0,
        outer_tag: None,
        vxlan: None,
        cidr,
        gateway,
        mtu: None,
        domain: None,
        source_nat: Vec::new(),
        egress_default: Action::Allow,
        egress_reject: false,
        nat: NatOptions::default(),
        limits: Limits::default(),
        ipv6: None,
        mss_clamp: None,
        anti_spoofing: true,
        place: place.clone(),
    }
}

const NAME: &str = "an elastic address";

const FIELDS: [&str; 7] = [
    "vipIp",
    "privateMac",
    "guestIp",
    "publicMac",
    "snatInboundTraffic",
    "needCleanGuestIp",
    "eipUuid",
];

const FLAT_FIELDS: [&str; 21] = [
    "eipUuid",
    "vipUuid",
    "vmUuid",
    "nicUuid",
    "ipVersion",
    "vip",
    "vipNetmask",
    "vipGateway",
    "vipPrefixLen",
    "nicIp",
    "nicMac",
    "nicGateway",
    "nicNetmask",
    "nicPrefixLen",
    "nicName",
    "vmBridgeName",
    "publicBridgeName",
    "skipArpCheck",
    "addfdb",
    "physicalNic",
    "vmSystemTags",
];
