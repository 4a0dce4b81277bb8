//! Entries of a state as they are kept: typed, so that whoever reads them again need not know what else was there when
//! they came. Each has a key; what is taken over replaces what had the same.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::balancers::Listener;
use super::eips::{Eip, FlatEip};
use super::firewall::{ListDefault, ListKey};
use super::firewall_rule::UserRule;
use super::forwards::Forward;
use super::kept_check;
use super::nics::{Nic, is_interface};
use super::policy_routes::{PolicyReference, PolicyRule, PolicySet, TableKey, TableRoute};
use super::reader::{Note, plain};
use super::routes::StaticRoute;
use super::snats::{Snat, SnatKey};
use super::state::{Origin, State};
use super::vip_limits::{LimitKey, VipLimit};
use super::vips::Vip;
use crate::flow::Mac;
use crate::rules::diagnostic::{Place, Severity};
use crate::rules::set::Cidr;
use crate::rules::tree::offset;

/// An entry with its key.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// An elastic address.
    Eip(Ipv4Addr, Eip),
    /// What happens to what no rule of a list matches.
    FirewallDefault(ListKey, ListDefault),
    /// A rule of the user's firewall.
    FirewallRule(ListKey, i64, UserRule),
    /// An elastic address of a flat network.
    FlatEip(Ipv4Addr, FlatEip),
    /// A load balancer's listener.
    Listener(String, Listener),
    /// A NIC.
    Nic(Mac, Nic),
    /// That a set of policy routes hangs on a NIC.
    PolicyReference(usize, PolicyReference),
    /// A policy route.
    PolicyRule((String, i64), PolicyRule),
    /// A set of policy routes.
    PolicySet(String, PolicySet),
    /// A port forward.
    PortForward(String, Forward),
    /// That a NIC of the boot information was removed.
    RemovedNic(Mac),
    /// Source NAT of a private network.
    Snat(SnatKey, Snat),
    /// A static route.
    StaticRoute(Cidr, StaticRoute),
    /// A route of a table.
    TableRoute(TableKey, TableRoute),
    /// A VIP.
    Vip(Ipv4Addr, Vip),
    /// A VIP's bandwidth limit.
    VipLimit(LimitKey, VipLimit),
}

/// Takes over the entry that `body` is, whatever else there is in `state`; `place` places the offsets of the body.
///
/// # Errors
/// With what is wrong with it.
pub fn restore(state: &mut State, body: &str, place: &dyn Fn(u32) -> Place) -> Result<(), Note> {
    let mut kept: Kept = serde_json::from_str(body).map_err(|error| unreadable(body, &error))?;
    if let Some(wrong) = kept_check::wrong_with(&kept) {
        return Err(fault(0, format!("a kept entry cannot be: {wrong}")));
    }
    state.is_told = true;
    kept.came(state.arrives(place(0)));
    kept.put(state);
    Ok(())
}

fn unreadable(body: &str, error: &serde_json::Error) -> Note {
    let lines = body.split_inclusive('\n').take(error.line().saturating_sub(1));
    let column = error.column().saturating_sub(1);
    let at = offset(lines.map(str::len).sum::<usize>().saturating_add(column).min(body.len()));
    let words = error.to_string();
    let words = words.rsplit_once(" at line ").map_or(&*words, |(words, _)| words);
    fault(at, format!("a kept entry cannot be read: {}", plain(words)))
}

fn fault(at: u32, what: String) -> Note {
    let hint = "leave out the line: the server sends what is missing again";
    Note { at, severity: Severity::Error, what, hint }
}

impl Kept {
    /// Puts it into `state`, where another of its key may have been.
    pub fn put(self, state: &mut State) {
        match self {
            Self::Eip(vip, it) => drop(state.eips.insert(vip, it)),
            Self::FirewallDefault(key, it) => {
                state.firewall.entry(key).or_default().default = Some(it);
            }
            Self::FirewallRule(key, number, it) => {
                state.firewall.entry(key).or_default().rules.insert(number, it);
            }
            Self::FlatEip(vip, it) => drop(state.flat_eips.insert(vip, it)),
            Self::Listener(uuid, it) => drop(state.listeners.insert(uuid, it)),
            Self::Nic(mac, it) => {
                // What the kernel calls it may have changed since.
                let name = state.machine.name(mac).filter(|name| is_interface(name));
                let interface = name.map_or(it.interface, str::to_owned);
                state.removed_nics.remove(&mac);
                state.nics.insert(mac, Nic { interface, ..it });
            }
            Self::PolicyReference(number, it) => {
                state.policy_routes.references.insert(number, it);
            }
            Self::PolicyRule(key, it) => drop(state.policy_routes.rules.insert(key, it)),
            Self::PolicySet(name, it) => drop(state.policy_routes.sets.insert(name, it)),
            Self::PortForward(uuid, it) => state.forwards.insert(&uuid, it),
            Self::RemovedNic(mac) => {
                state.nics.remove(&mac);
                state.removed_nics.insert(mac);
            }
            Self::Snat(key, it) => drop(state.snats.insert(key, it)),
            Self::StaticRoute(to, it) => drop(state.routes.insert(to, it)),
            Self::TableRoute(key, it) => drop(state.policy_routes.routes.insert(key, it)),
            Self::Vip(address, it) => drop(state.vips.insert(address, it)),
            Self::VipLimit(key, it) => drop(state.limits.insert(key, it)),
        }
    }

    /// Makes of what has its key in `state` what it was in `before`.
    pub fn put_back(&self, state: &mut State, before: &State) {
        let (policies, known_policies) = (&mut state.policy_routes, &before.policy_routes);
        match self {
            Self::Eip(vip, _) => put_back(&mut state.eips, &before.eips, vip),
            Self::FirewallDefault(key, _) => {
                let known = before.firewall.get(key).and_then(|list| list.default.clone());
                state.firewall.entry(*key).or_default().default = known;
            }
            Self::FirewallRule(key, number, _) => {
                let list = before.firewall.get(key).cloned().unwrap_or_default();
                let rules = &mut state.firewall.entry(*key).or_default().rules;
                put_back(rules, &list.rules, number);
            }
            Self::FlatEip(vip, _) => put_back(&mut state.flat_eips, &before.flat_eips, vip),
            Self::Listener(uuid, _) => put_back(&mut state.listeners, &before.listeners, uuid),
            Self::Nic(mac, nic) => {
                put_back_nic(state, before, *mac);
                // The one that it took the default route from has it again.
                if nic.is_default_route {
                    for (mac, nic) in &mut state.nics {
                        let known = before.nics.get(mac);
                        nic.is_default_route = known.is_some_and(|known| known.is_default_route);
                    }
                }
            }
            Self::RemovedNic(mac) => put_back_nic(state, before, *mac),
            Self::PolicyReference(number, _) => {
                put_back(&mut policies.references, &known_policies.references, number);
            }
            Self::PolicyRule(key, _) => put_back(&mut policies.rules, &known_policies.rules, key),
            Self::PolicySet(name, _) => put_back(&mut policies.sets, &known_policies.sets, name),
            Self::PortForward(uuid, _) => match before.forwards.find(uuid) {
                Some(known) => state.forwards.insert(uuid, known.clone()),
                None => state.forwards.remove(uuid),
            },
            Self::Snat(key, _) => put_back(&mut state.snats, &before.snats, key),
            Self::StaticRoute(to, _) => put_back(&mut state.routes, &before.routes, to),
            Self::TableRoute(key, _) => put_back(&mut policies.routes, &known_policies.routes, key),
            Self::Vip(address, _) => put_back(&mut state.vips, &before.vips, address),
            Self::VipLimit(key, _) => put_back(&mut state.limits, &before.limits, key),
        }
    }

    /// How many entries came before it; that a NIC is gone matters to none.
    pub fn arrival(&self) -> u64 {
        self.origin().map_or(0, |origin| origin.arrival)
    }

    fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Eip(_, it) => Some(&it.origin),
            Self::FirewallDefault(_, it) => Some(&it.origin),
            Self::FirewallRule(_, _, it) => Some(&it.origin),
            Self::FlatEip(_, it) => Some(&it.origin),
            Self::Listener(_, it) => Some(&it.origin),
            Self::Nic(_, it) => Some(&it.origin),
            Self::PolicyReference(_, it) => Some(&it.origin),
            Self::PolicyRule(_, it) => Some(&it.origin),
            Self::PolicySet(_, it) => Some(&it.origin),
            Self::PortForward(_, it) => Some(&it.origin),
            Self::RemovedNic(_) => None,
            Self::Snat(_, it) => Some(&it.origin),
            Self::StaticRoute(_, it) => Some(&it.origin),
            Self::TableRoute(_, it) => Some(&it.origin),
            Self::Vip(_, it) => Some(&it.origin),
            Self::VipLimit(_, it) => Some(&it.origin),
        }
    }

    fn came(&mut self, from: Origin) {
        match self {
            Self::Eip(_, it) => it.origin = from,
            Self::FirewallDefault(_, it) => it.origin = from,
            Self::FirewallRule(_, _, it) => it.origin = from,
            Self::FlatEip(_, it) => it.origin = from,
            Self::Listener(_, it) => it.origin = from,
            Self::Nic(_, it) => it.origin = from,
            Self::PolicyReference(_, it) => it.origin = from,
            Self::PolicyRule(_, it) => it.origin = from,
            Self::PolicySet(_, it) => it.origin = from,
            Self::PortForward(_, it) => it.origin = from,
            Self::RemovedNic(_) => {}
            Self::Snat(_, it) => it.origin = from,
            Self::StaticRoute(_, it) => it.origin = from,
            Self::TableRoute(_, it) => it.origin = from,
            Self::Vip(_, it) => it.origin = from,
            Self::VipLimit(_, it) => it.origin = from,
        }
    }
}

fn put_back_nic(state: &mut State, before: &State, mac: Mac) {
    put_back(&mut state.nics, &before.nics, &mac);
    match before.removed_nics.contains(&mac) {
        true => state.removed_nics.insert(mac),
        false => state.removed_nics.remove(&mac),
    };
}

fn put_back<K: Clone + Ord, V: Clone>(
    entries: &mut BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
    key: &K,
) {
    match before.get(key) {
        Some(known) => drop(entries.insert(key.clone(), known.clone())),
        None => drop(entries.remove(key)),
    }
}
