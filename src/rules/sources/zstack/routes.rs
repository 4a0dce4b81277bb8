//! Static routes: through a guest, by a router beside a public address, or to nowhere.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nics::{Category, Nic};
use super::reader::{Object, cidr, quoted};
use super::state::{Call, Origin, State};
use super::vips::Vip;
use crate::rules::set::Cidr;

/// A static route.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    /// The next hop; none drops.
    pub via: Option<Ipv4Addr>,
    /// Where it came from.
    #[serde(skip)]
    pub origin: Origin,
}

/// `/syncroutes`: exactly these.
pub fn sync(state: &mut State, call: &mut Call<'_>) {
    call.know(&["routes"]);
    if call.body.find("routes").is_none() {
        return;
    }
    let mut routes: BTreeMap<Cidr, (i64, StaticRoute)> = BTreeMap::new();
    for node in call.entries("routes") {
        let Some(object) = Object::open(node, "a route", &FIELDS, &mut call.notes) else {
            continue;
        };
        let Some((destination, distance, route)) = read(state, &object, call) else { continue };
        // Of two routes to one destination the nearer counts.
        match routes.get(&destination) {
            Some((nearer, _)) if *nearer <= distance => {}
            _ => {
                routes.insert(destination, (distance, route));
            }
        }
    }
    state.routes = routes.into_iter().map(|(to, (_, route))| (to, route)).collect();
}

fn read(
    state: &State,
    object: &Object<'_>,
    call: &mut Call<'_>,
) -> Option<(Cidr, i64, StaticRoute)> {
    let notes = &mut call.notes;
    let text = object.required_text("destination", notes);
    let target = object.address_or_none("target", notes);
    let distance = object.integer("distance", notes);
    let (text, target, distance) = (text?, target?, distance?);
    let Some(destination) = cidr(text) else {
        let what = format!("destination {} is not an IPv4 prefix", quoted(text));
        notes.error(object.place_of("destination"), what, "send a prefix such as 172.20.0.0/16");
        return None;
    };
    if let Some(via) = target
        && !is_reachable(state, via)
    {
        let what = format!("the route to {destination} leads to {via}, which is on no NIC");
        notes.error(object.place_of("target"), what, "send a next hop on a NIC's segment");
        return None;
    }
    Some((destination, distance, StaticRoute { via: target, origin: call.origin(object) }))
}

impl StaticRoute {
    /// Whether it leads through a guest.
    pub fn is_inside(&self, state: &State) -> bool {
        let mut private = state.nics.values().filter(|nic| nic.category == Category::Private);
        self.via.is_some_and(|via| {
            private.any(|nic| nic.segment().is_some_and(|segment| segment.contains(via)))
        })
    }
}

/// Whether a next hop is on a segment of the router.
fn is_reachable(state: &State, via: Ipv4Addr) -> bool {
    let of_nic = |nic: &Nic| {
        nic.gateway == Some(via) || nic.segment().is_some_and(|segment| segment.contains(via))
    };
    let of_vip = |(address, vip): (&Ipv4Addr, &Vip)| {
        vip.gateway == Some(via) || Cidr::containing(*address, vip.length).contains(via)
    };
    state.nics.values().any(of_nic) || state.vips.iter().any(of_vip)
}

/// `/getroutes`: the static routes, in words.
pub fn list(state: &State, call: &mut Call<'_>) {
    let lines = state.routes.iter().map(|(to, route)| match route.via {
        None => format!("S>* {to} unreachable (blackhole)\n"),
        Some(via) => format!("S>* {to} via {via}\n"),
    });
    call.reply = Some(json!({ "rawRoutes": lines.collect::<String>() }));
}

const FIELDS: [&str; 3] = ["destination", "target", "distance"];
