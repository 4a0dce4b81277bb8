//! Load-balancer listeners for TCP and UDP. HTTP is not ours: whoever asks for it is told.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::forwards::uuid;
use super::listener_check;
use super::nics::Category;
use super::reader::{Notes, Object, cidr, quoted};
use super::state::{Call, Origin, State};
use crate::flow::{Mac, Protocol};
use crate::rules::set::{Algorithm, Cidr, HealthCheck, Member};

/// A listener.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The VIP.
    pub vip: Ipv4Addr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The VIP's port.
    pub port: NonZeroU16,
    /// The members' NIC; none while there is no member.
    pub private_mac: Option<Mac>,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// The members.
    pub members: Vec<Member>,
    /// How members are checked, if they are.
    pub health_check: Option<HealthCheck>,
    /// Who may come, or who may not.
    pub access: Access,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// Who may use a listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Everybody else.
    AllBut(Vec<Cidr>),
    /// Nobody else.
    Only(Vec<Cidr>),
}

/// `/lb/refresh`: adds, or replaces what has the same uuid.
pub fn refresh(state: &mut State, call: &mut Call<'_>) {
    call.know(&["lbs", "enableHaproxyLog"]);
    for node in call.entries("lbs") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some((uuid, listener)) = read(state, &object, call) {
            state.listeners.insert(uuid.to_owned(), listener);
        }
    }
}

/// `/lb/delete`.
pub fn delete(state: &mut State, call: &mut Call<'_>) {
    call.know(&["lbs", "enableHaproxyLog"]);
    for node in call.entries("lbs") {
        let Some(object) = Object::open(node, NAME, &FIELDS, &mut call.notes) else { continue };
        if let Some(uuid) = object.required_text("listenerUuid", &mut call.notes) {
            state.listeners.remove(uuid);
        }
    }
}

fn read<'a>(
    state: &State,
    object: &Object<'a>,
    call: &mut Call<'_>,
) -> Option<(&'a str, Listener)> {
    let notes = &mut call.notes;
    let uuid = uuid(object, "listenerUuid", notes);
    let protocol = protocol(object, notes)?;
    let vip = object.address("vip", notes);
    let port = object.port("loadBalancerPort", notes).and_then(NonZeroU16::new);
    let guest_port = object.port("instancePort", notes).and_then(NonZeroU16::new);
    let parameters = parameters(object, notes);
    let weights = weights(object, &parameters, notes);
    let access = access(&parameters, notes);
    if object.list("redirectRules", notes).is_some_and(|rules| !rules.is_empty()) {
        let at = object.place_of("redirectRules");
        notes.error(at, "natwerk does not redirect by HTTP host or path", HTTP_HINT);
        return None;
    }
    for name in ["connectionIdleTimeout", "maxConnection"] {
        if let Some((at, _)) = parameter(&parameters, name) {
            let what = format!("{name} does nothing: natwerk has one for all rules");
            notes.warning(at, what, "see timeouts and sessions in the configuration");
        }
    }
    let algorithm = algorithm(&parameters, notes);
    let health_check = listener_check::read(&parameters, protocol, notes);
    let members = addresses(object, notes)?;
    let private_mac = network_of(state, &members, object, notes)?;
    let (guest_port, algorithm, weights) = (guest_port?, algorithm?, weights?);
    let is_weighted = algorithm.1;
    let weight = |guest| weights.get(&guest).copied().filter(|_| is_weighted).unwrap_or(1);
    let members = members
        .into_iter()
        .map(|guest_ip| Member { guest_ip, guest_port, weight: weight(guest_ip) })
        .collect();
    let listener = Listener {
        vip: vip?,
        protocol,
        port: port?,
        private_mac,
        algorithm: algorithm.0,
        members,
        health_check: health_check?,
        access: access?,
        origin: call.origin(object),
    };
    Some((uuid?, listener))
}

fn protocol(object: &Object<'_>, notes: &mut Notes) -> Option<Protocol> {
    match object.required_text("mode", notes)? {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        mode @ ("http" | "https") => {
            let what = format!("natwerk does not balance {mode}");
            notes.error(object.place_of("mode"), what, HTTP_HINT);
            None
        }
        other => {
            let what = format!("mode {} is neither tcp nor udp", quoted(other));
            notes.error(object.place_of("mode"), what, HTTP_HINT);
            None
        }
    }
}

/// The parameters, which are written `name::value`; one may occur several times.
pub type Parameters<'a> = Vec<(u32, &'a str, &'a str)>;

fn parameters<'a>(object: &Object<'a>, notes: &mut Notes) -> Parameters<'a> {
    let mut parameters = Vec::new();
    for (at, text) in object.texts("parameters", notes).unwrap_or_default() {
        match text.split_once("::") {
            Some((name, value)) => {
                if !KNOWN_PARAMETERS.contains(&name) {
                    let what = format!("a listener has an unknown parameter {}", quoted(name));
                    notes.warning(at, what, "natwerk passes it over; see whether it matters");
                }
                parameters.push((at, name, value));
            }
            None => {
                let what = format!("parameter {} is not name::value", quoted(text));
                notes.error(at, what, "send name::value");
            }
        }
    }
    parameters
}

pub fn parameter<'a>(parameters: &Parameters<'a>, name: &str) -> Option<(u32, &'a str)> {
    let found = parameters.iter().find(|(_, known, _)| *known == name);
    found.map(|(at, _, value)| (*at, *value))
}

/// The algorithm, and whether weights matter.
fn algorithm(parameters: &Parameters<'_>, notes: &mut Notes) -> Option<(Algorithm, bool)> {
    let (at, name) = parameter(parameters, "balancerAlgorithm").unwrap_or((0, "roundrobin"));
    match name.to_ascii_lowercase().as_str() {
        "roundrobin" => Some((Algorithm::RoundRobin, false)),
        "weightroundrobin" => Some((Algorithm::RoundRobin, true)),
        "leastconn" => Some((Algorithm::LeastConnections, false)),
        "source" => Some((Algorithm::Source, false)),
        _ => {
            let what = format!("balancerAlgorithm {} is not known", quoted(name));
            notes.error(at, what, "send roundrobin, weightroundrobin, leastconn or source");
            None
        }
    }
}

/// Members' weights: those of server groups, and those that parameters name.
fn weights(
    object: &Object<'_>,
    parameters: &Parameters<'_>,
    notes: &mut Notes,
) -> Option<BTreeMap<Ipv4Addr, u16>> {
    let mut weights = BTreeMap::new();
    for (address, weight, at) in servers(object, notes)? {
        weights.insert(address, weight_of(weight, at, notes)?);
    }
    for (at, _, value) in parameters.iter().filter(|(_, name, _)| *name == "balancerWeight") {
        let parsed = value.split_once("::").and_then(|(address, weight)| {
            Some((address.parse::<Ipv4Addr>().ok()?, weight.parse::<i64>().ok()?))
        });
        let Some((address, weight)) = parsed else {
            let what = format!("balancerWeight {} is not address::weight", quoted(value));
            notes.error(*at, what, "send an IPv4 address and a weight");
            return None;
        };
        weights.insert(address, weight_of(weight, *at, notes)?);
    }
    Some(weights)
}

fn weight_of(weight: i64, at: u32, notes: &mut Notes) -> Option<u16> {
    let fits = u16::try_from(weight).ok().filter(|weight| *weight <= WEIGHT_MAX);
    if fits.is_none() {
        notes.error(at, format!("weight {weight} is none"), "weights go from 0 to 256");
    }
    fits
}

/// The servers of all groups with their weights.
fn servers(object: &Object<'_>, notes: &mut Notes) -> Option<Vec<(Ipv4Addr, i64, u32)>> {
    let mut servers = Vec::new();
    for group in object.list("serverGroups", notes)? {
        let group = Object::open(group, "a server group", &GROUP_FIELDS, notes)?;
        for server in group.list("backendServers", notes)? {
            let server = Object::open(server, "a backend server", &SERVER_FIELDS, notes)?;
            let address = server.address("ip", notes);
            let weight = server.integer("weight", notes);
            servers.push((address?, weight?, server.at()));
        }
    }
    Some(servers)
}

/// The members' addresses: those of the server groups, else the NICs'; each once.
fn addresses(object: &Object<'_>, notes: &mut Notes) -> Option<Vec<Ipv4Addr>> {
    let mut addresses: Vec<Ipv4Addr> =
        servers(object, &mut Notes::default())?.into_iter().map(|(address, ..)| address).collect();
    for (at, text) in object.texts("nicIps", notes)? {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                let what = format!("nicIps has {}, which is not an IPv4 address", quoted(text));
                notes.error(at, what, "send IPv4 addresses");
                return None;
            }
        }
    }
    addresses.sort();
    addresses.dedup();
    Some(addresses)
}

/// The NIC that all members are behind.
fn network_of(
    state: &State,
    members: &[Ipv4Addr],
    object: &Object<'_>,
    notes: &mut Notes,
) -> Option<Option<Mac>> {
    let behind = |member: &Ipv4Addr| {
        let mut private = state.nics.iter().filter(|(_, nic)| nic.category == Category::Private);
        let found =
            private.find(|(_, nic)| nic.segment().is_some_and(|segment| segment.contains(*member)));
        found.map(|(mac, _)| *mac)
    };
    let Some((first, others)) = members.split_first() else { return Some(None) };
    let Some(mac) = behind(first) else {
        let what = format!("member {first} is behind no private NIC");
        notes.error(object.at(), what, "send guests of one private network");
        return None;
    };
    if let Some(other) = others.iter().find(|member| behind(member) != Some(mac)) {
        let what = format!("members {first} and {other} are not behind one NIC");
        notes.error(object.at(), what, "send guests of one private network");
        return None;
    }
    Some(Some(mac))
}

fn access(parameters: &Parameters<'_>, notes: &mut Notes) -> Option<Access> {
    let is_on = parameter(parameters, "accessControlStatus")
        .is_some_and(|(_, status)| status.eq_ignore_ascii_case("enable"));
    if !is_on {
        return Some(Access::AllBut(Vec::new()));
    }
    let mut prefixes = Vec::new();
    for (at, _, value) in parameters.iter().filter(|(_, name, _)| *name == "aclEntry") {
        for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let Some(mut found) = prefixes_of(text) else {
                let what = format!("aclEntry {} is not an IPv4 prefix or range", quoted(text));
                notes.error(*at, what, "send prefixes or ranges of IPv4 addresses");
                return None;
            };
            prefixes.append(&mut found);
        }
    }
    match parameter(parameters, "aclType") {
        Some((_, "black")) => Some(Access::AllBut(prefixes)),
        Some((_, "white")) | None => Some(Access::Only(prefixes)),
        Some((at, other)) => {
            let what = format!("aclType {} is neither black nor white", quoted(other));
            notes.error(at, what, "send one of the two");
            None
        }
    }
}

/// The prefixes that `text` says: an address, a prefix, or a range `first-last`.
pub fn prefixes_of(text: &str) -> Option<Vec<Cidr>> {
    let Some((first, last)) = text.split_once('-') else { return Some(vec![cidr(text)?]) };
    let first: Ipv4Addr = first.trim().parse().ok()?;
    let last: Ipv4Addr = last.trim().parse().ok()?;
    let (mut next, last) = (u64::from(first.to_bits()), u64::from(last.to_bits()));
    if next > last {
        return None;
    }
    let mut prefixes = Vec::new();
    while next <= last {
        // The largest prefix that begins here and does not reach beyond the end.
        let aligned = next.trailing_zeros().min(32);
        let fits = (last - next + 1).ilog2();
        let bits = aligned.min(fits);
        let address = Ipv4Addr::from_bits(u32::try_from(next).ok()?);
        prefixes.push(Cidr::containing(address, u8::try_from(32 - bits).ok()?));
        next += 1 << bits;
    }
    Some(prefixes)
}

const NAME: &str = "a listener";

const HTTP_HINT: &str = "natwerk balances TCP and UDP; leave HTTP to haproxy";

/// haproxy's largest weight, and natwerk's.
const WEIGHT_MAX: u16 = 256;

const FIELDS: [&str; 18] = [
    "lbUuid",
    "listenerUuid",
    "vip",
    "vip6",
    "publicNic",
    "enableFullLog",
    "nicIps",
    "instancePort",
    "loadBalancerPort",
    "mode",
    "parameters",
    "certificateUuid",
    "securityPolicyType",
    "serverGroups",
    "redirectRules",
    "enableStatsLog",
    "httpVersion",
    "tcpProxyProtocol",
];

const GROUP_FIELDS: [&str; 4] = ["name", "serverGroupUuid", "backendServers", "isDefault"];

const SERVER_FIELDS: [&str; 3] = ["ip", "weight", "ipVersion"];

/// Parameters that mean something here, or that ZStack sends for every listener.
const KNOWN_PARAMETERS: [&str; 12] = [
    "accessControlStatus",
    "aclEntry",
    "aclType",
    "balancerAlgorithm",
    "balancerWeight",
    "connectionIdleTimeout",
    "healthCheckInterval",
    "healthCheckTarget",
    "healthCheckTimeout",
    "healthyThreshold",
    "maxConnection",
    "unhealthyThreshold",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_prefixes_of_a_range_hold_its_addresses_and_no_others(
            first in 0_u32..0xffff_ff00, length in 0_u32..200, probe in 0_u32..0xffff_ffff,
        ) {
            let (low, high) = (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(first + length));
            let prefixes = prefixes_of(&format!("{low}-{high}")).unwrap();
            let near = first.wrapping_sub(5).wrapping_add(probe % (length + 10));
            for bits in [probe, near, first, first + length] {
                let address = Ipv4Addr::from_bits(bits);
                let holds = prefixes.iter().filter(|prefix| prefix.contains(address)).count();
                prop_assert_eq!(holds, usize::from((low..=high).contains(&address)));
            }
        }
    }

    #[test]
    fn a_range_of_everything_is_one_prefix() {
        let all = prefixes_of("0.0.0.0-255.255.255.255").unwrap();
        assert_eq!(all, [Cidr::ANY]);
        assert_eq!(prefixes_of("192.0.2.9-192.0.2.1"), None);
        assert_eq!(prefixes_of("192.0.2.9-"), None);
    }
}
