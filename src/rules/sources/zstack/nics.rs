//! NICs: those of the boot information, and what is configured on them later. ZStack names them by MAC, never by device.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::reader::{Notes, Object, quoted};
use super::snats;
use super::state::{Call, Origin, State};
use crate::flow::Mac;
use crate::rules::set::Cidr;

/// A NIC.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// What the kernel calls it.
    pub interface: String,
    /// Which side it is on.
    pub category: Category,
    /// Its address and the length of its prefix; none while it has only IPv6 addresses.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The upstream router.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the default route leaves by it.
    pub is_default_route: bool,
    /// Its MTU, if it was said.
    pub mtu: Option<u16>,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// Which side a NIC is on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// The management server's; it may be the public one as well.
    Management,
    /// Guests'.
    Private,
    /// The public side.
    Public,
}

impl Nic {
    /// Its segment.
    pub fn segment(&self) -> Option<Cidr> {
        let (address, length) = self.address?;
        Some(Cidr::containing(address, length))
    }
}

/// Takes over the NICs of the boot information.
pub fn boot(state: &mut State, call: &mut Call<'_>) {
    call.know(&BOOT_FIELDS);
    if let Some(node) = call.body.find("managementNic")
        && let Some(object) = Object::open(node, "managementNic", &NIC_FIELDS, &mut call.notes)
        && let Some((mac, nic)) = read(state, &object, Some(Category::Management), call)
    {
        state.boot_nics.insert(mac);
        state.nics.insert(mac, nic);
    }
    for node in call.entries("additionalNics") {
        if let Some(object) = Object::open(node, "a NIC", &NIC_FIELDS, &mut call.notes)
            && let Some((mac, nic)) = read(state, &object, None, call)
        {
            state.boot_nics.insert(mac);
            state.nics.insert(mac, nic);
        }
    }
}

/// `/configurenic`: addresses and MTU of NICs.
pub fn configure(state: &mut State, call: &mut Call<'_>) {
    call.know(&["nics"]);
    for node in call.entries("nics") {
        if let Some(object) = Object::open(node, "a NIC", &NIC_FIELDS, &mut call.notes)
            && let Some((mac, nic)) = read(state, &object, None, call)
        {
            insert(state, mac, nic);
        }
    }
}

fn insert(state: &mut State, mac: Mac, nic: Nic) {
    state.removed_nics.remove(&mac);
    if nic.is_default_route {
        state.nics.values_mut().for_each(|nic| nic.is_default_route = false);
    }
    state.nics.insert(mac, nic);
}

/// `/removenic`.
pub fn remove(state: &mut State, call: &mut Call<'_>) {
    call.know(&["nics"]);
    for node in call.entries("nics") {
        let Some(object) = Object::open(node, "a NIC", &NIC_FIELDS, &mut call.notes) else {
            continue;
        };
        let Some(mac) = object.mac("mac", &mut call.notes) else { continue };
        state.nics.remove(&mac);
        if state.boot_nics.contains(&mac) {
            state.removed_nics.insert(mac);
        }
    }
}

/// `/configurenicdefaultaction`: what a NIC's lists do with what none of their rules matches. That concerns what is
/// new and forwarded only behind the rule that accepts it all, so it changes nothing here; only the words are checked.
pub fn set_default_action(state: &mut State, call: &mut Call<'_>) {
    call.know(&["nics"]);
    for node in call.entries("nics") {
        let Some(object) = Object::open(node, "a NIC", &NIC_FIELDS, &mut call.notes) else {
            continue;
        };
        if let Some(mac) = object.mac("mac", &mut call.notes) {
            known(state, mac, &object, "mac", &mut call.notes);
        }
        check_action(&object, &mut call.notes);
    }
}

/// `/changeDefaultNic`: the default route and source NAT move to another NIC.
pub fn change_default(state: &mut State, call: &mut Call<'_>) {
    call.know(&["newNic", "snats"]);
    let Some(node) = call.body.find("newNic") else {
        call.notes.error(call.body.at(), "the command lacks newNic", "send it");
        return;
    };
    let Some(object) = Object::open(node, "newNic", &NIC_FIELDS, &mut call.notes) else { return };
    let Some((mac, nic)) = read(state, &object, None, call) else { return };
    insert(state, mac, Nic { is_default_route: true, ..nic });
    snats::replace(state, call);
}

/// The NIC that `object` describes.
fn read(
    state: &State,
    object: &Object<'_>,
    category: Option<Category>,
    call: &mut Call<'_>,
) -> Option<(Mac, Nic)> {
    let notes = &mut call.notes;
    let mac = object.mac("mac", notes);
    let before = mac.and_then(|mac| state.nics.get(&mac));
    let category = category.or_else(|| category_of(object, before, notes));
    let is_default_route = object.boolean("isDefaultRoute", notes);
    let mtu = object.integer("mtu", notes).and_then(|mtu| {
        let fits = u16::try_from(mtu).ok().filter(|mtu| *mtu == 0 || *mtu >= MTU_MIN);
        if fits.is_none() {
            let what = format!("mtu {mtu} is none that natwerk does");
            notes.error(object.place_of("mtu"), what, "send 576 to 65535");
        }
        fits
    });
    check_action(object, notes);
    let address = address(object, notes);
    let mac = mac?;
    let interface = state
        .machine
        .name(mac)
        .map(str::to_owned)
        .or_else(|| before.map(|nic| nic.interface.clone()))
        .or_else(|| Some(object.text("deviceName", notes)?.to_owned()))
        .filter(|name| is_interface(name));
    let Some(interface) = interface else {
        unknown(mac, object, "mac", notes);
        return None;
    };
    let (address, gateway) = address?;
    let nic = Nic {
        interface,
        category: category?,
        address,
        gateway,
        is_default_route: is_default_route?,
        mtu: Some(mtu?).filter(|mtu| *mtu > 0),
        origin: call.origin(object),
    };
    Some((mac, nic))
}

fn category_of(object: &Object<'_>, before: Option<&Nic>, notes: &mut Notes) -> Option<Category> {
    if let Some(Nic { category: Category::Management, .. }) = before {
        return Some(Category::Management);
    }
    match object.text("category", notes)? {
        "Public" => Some(Category::Public),
        "Private" => Some(Category::Private),
        "" if before.is_some() => before.map(|nic| nic.category),
        other => {
            let what = format!("category {} is neither Public nor Private", quoted(other));
            notes.error(object.place_of("category"), what, "send one of the two");
            None
        }
    }
}

/// The address with its prefix's length, and the gateway.
#[expect(clippy::type_complexity, reason = "two values that belong together once")]
fn address(
    object: &Object<'_>,
    notes: &mut Notes,
) -> Option<(Option<(Ipv4Addr, u8)>, Option<Ipv4Addr>)> {
    if let Some("") = object.text("ip", notes) {
        return Some((None, None));
    }
    let address = object.address("ip", notes);
    let length = object.netmask("netmask", notes);
    let gateway = object.address_or_none("gateway", notes);
    Some((Some((address?, length?)), gateway?))
}

fn check_action(object: &Object<'_>, notes: &mut Notes) {
    let Some(action) = object.text("firewallDefaultAction", notes) else { return };
    if !["", "accept", "drop", "reject"].iter().any(|known| known.eq_ignore_ascii_case(action)) {
        let what = format!("firewallDefaultAction {} is no action", quoted(action));
        let at = object.place_of("firewallDefaultAction");
        notes.error(at, what, "send accept, drop or reject");
    }
}

/// The NIC with this MAC; notes if there is none.
pub fn known<'s>(
    state: &'s State,
    mac: Mac,
    object: &Object<'_>,
    field: &str,
    notes: &mut Notes,
) -> Option<&'s Nic> {
    let nic = state.nics.get(&mac);
    if nic.is_none() {
        unknown(mac, object, field, notes);
    }
    nic
}

/// The NIC that `field` names and whether it is of the side `private`; notes if not.
pub fn on_side<'s>(
    state: &'s State,
    object: &Object<'_>,
    field: &str,
    is_private: bool,
    notes: &mut Notes,
) -> Option<(Mac, &'s Nic)> {
    let mac = object.mac(field, notes)?;
    let nic = known(state, mac, object, field, notes)?;
    if (nic.category == Category::Private) != is_private {
        let side = if is_private { "private" } else { "public" };
        let what = format!("{field} {mac} is no {side} NIC");
        notes.error(object.place_of(field), what, "send the MAC of a NIC of that side");
        return None;
    }
    Some((mac, nic))
}

/// An address of a guest behind `nic`; notes if it cannot be.
pub fn guest(nic: &Nic, object: &Object<'_>, field: &str, notes: &mut Notes) -> Option<Ipv4Addr> {
    let address = object.address(field, notes)?;
    let wrong = match (nic.segment(), nic.address) {
        (Some(segment), _) if !segment.contains(address) => Some(format!("is not in {segment}")),
        (Some(_), Some((own, _))) if own == address => Some("is the router's own".to_owned()),
        _ => None,
    };
    if let Some(wrong) = wrong {
        let what = format!("{field} {address} {wrong} (NIC {})", nic.interface);
        notes.error(object.place_of(field), what, "send the address of a guest of that NIC");
        return None;
    }
    Some(address)
}

fn unknown(mac: Mac, object: &Object<'_>, field: &str, notes: &mut Notes) {
    let what = format!("{} names the NIC {mac}, which this router does not have", object.name);
    notes.error(object.place_of(field), what, "attach the NIC first, or send another MAC");
}

/// What `field` calls a rule or something like it; notes if it cannot be called that.
pub fn name<'a>(object: &Object<'a>, field: &str, notes: &mut Notes) -> Option<&'a str> {
    let text = object.required_text(field, notes)?;
    if !is_name(text) {
        let what = format!("{field} {} is no name", quoted(text));
        notes.error(object.place_of(field), what, "send up to 64 bytes on one line");
        return None;
    }
    Some(text)
}

/// Whether `name` may name a rule, or something like it.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control)
}

/// Whether `name` may name an interface.
pub fn is_interface(name: &str) -> bool {
    is_name(name) && name.len() <= INTERFACE_MAX
}

/// Bytes of a name: the id of a native rule has room for two, and a number.
const NAME_MAX: usize = 64;
/// Bytes of an interface's name: the kernel's `IFNAMSIZ`, without the zero behind it.
const INTERFACE_MAX: usize = 15;
/// The smallest MTU of a native network, which is what every host takes (RFC 791).
pub const MTU_MIN: u16 = 576;

/// The fields of a NIC.
pub const NIC_FIELDS: [&str; 18] = [
    "deviceName",
    "mac",
    "ip",
    "netmask",
    "gateway",
    "isDefaultRoute",
    "category",
    "l2type",
    "l2Type",
    "physicalInterface",
    "vni",
    "mtu",
    "ip6",
    "prefixLength",
    "gateway6",
    "addressMode",
    "firewallDefaultAction",
    "state",
];

/// The fields of the boot information.
const BOOT_FIELDS: [&str; 14] = [
    "managementNic",
    "additionalNics",
    "publicKey",
    "sshPort",
    "uuid",
    "managementNodeIp",
    "managementNodeCidr",
    "haStatus",
    "applianceVmSubType",
    "SkipVyosIptables",
    "EnableVyosCmd",
    "ConfigTcForVipQos",
    "vyosPassword",
    "abnormalFileMaxSize",
];
