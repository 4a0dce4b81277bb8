//! What only shows when rules are looked at together: names that lead nowhere, claims that clash,
//! rules that can never match.
//!
//! Errors refuse the rules, warnings do not. Everything here takes time in the order of the number
//! of rules, times a logarithm: a hundred thousand rules are checked within a reload.

mod address_limits;
mod addresses;
mod encapsulation;
mod filters;
mod interface_filters;
mod ipv6;
mod order;
mod policy_routes;
mod services;
mod shadow;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::diagnostic::{Diagnostic, Place, Severity};
use super::fields::Section;
use super::native::{Draft, Unread};
use super::set::{Cidr, Network, PublicIp, RuleSet};
use super::source::Source;
use super::spots::SectionSpots;
use crate::config::Config;

/// Everything wrong or odd about the rules of `draft`.
#[must_use]
pub fn check(draft: &Draft, sources: &[Source], config: Option<&Config>) -> Vec<Diagnostic> {
    let mut checker = Checker::new(draft, sources, config);
    addresses::check_public_ips(&mut checker);
    addresses::check_networks(&mut checker);
    encapsulation::check_encapsulation(&mut checker);
    addresses::check_domains(&mut checker);
    addresses::check_routes(&mut checker);
    address_limits::check_address_limits(&mut checker);
    policy_routes::check_policy_routes(&mut checker);
    services::check_ids(&mut checker);
    services::check_services(&mut checker);
    services::check_claims(&mut checker);
    services::check_static_nats(&mut checker);
    filters::check_filters(&mut checker);
    filters::check_acls(&mut checker);
    order::check_order(&mut checker);
    filters::check_reach(&mut checker);
    interface_filters::check_interface_filters(&mut checker);
    ipv6::check_ipv6(&mut checker);
    addresses::check_ways_out(&mut checker);
    checker.faults
}

/// The rules, what they define, and the faults found so far.
struct Checker<'a> {
    set: &'a RuleSet,
    spots: &'a super::native::Spots,
    unread: &'a Unread,
    sources: &'a [Source],
    config: Option<&'a Config>,
    public_ips: HashMap<Ipv4Addr, &'a PublicIp, ahash::RandomState>,
    networks: HashMap<&'a str, &'a Network, ahash::RandomState>,
    /// The public addresses in order.
    ordered_ips: Vec<&'a PublicIp>,
    faults: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    fn new(draft: &'a Draft, sources: &'a [Source], config: Option<&'a Config>) -> Self {
        let set = &draft.set;
        let mut ordered_ips: Vec<_> = set.public_ips.iter().collect();
        ordered_ips.sort_by_key(|ip| ip.address);
        Self {
            set,
            spots: &draft.spots,
            unread: &draft.unread,
            sources,
            config,
            public_ips: set.public_ips.iter().rev().map(|ip| (ip.address, ip)).collect(),
            networks: set.networks.iter().rev().map(|net| (net.name.as_str(), net)).collect(),
            ordered_ips,
            faults: Vec::new(),
        }
    }

    fn error(&mut self, place: Place, what: String, hint: impl Into<String>) {
        self.faults.push(Diagnostic { severity: Severity::Error, place, what, hint: hint.into() });
    }

    fn warning(&mut self, place: Place, what: String, hint: impl Into<String>) {
        self.faults.push(Diagnostic {
            severity: Severity::Warning,
            place,
            what,
            hint: hint.into(),
        });
    }

    /// The place of a field, or `rule` if nobody noted it.
    fn at(&self, spot: Spot<'_>, name: &str, rule: &Place) -> Place {
        let (spots, section, index) = spot;
        spots.place(self.sources, section, index, name).unwrap_or_else(|| rule.clone())
    }

    /// The lowest public address inside `cidr`.
    fn public_ip_in(&self, cidr: Cidr) -> Option<&'a PublicIp> {
        let index = self.ordered_ips.partition_point(|ip| ip.address < cidr.first());
        self.ordered_ips.get(index).copied().filter(|ip| cidr.contains(ip.address))
    }

    /// Notes a public address that nobody defined.
    fn require_public_ip(&mut self, address: Ipv4Addr, place: impl FnOnce(&Self) -> Place) {
        let defined = self.public_ips.contains_key(&address)
            || self.unread.any_address
            || self.unread.addresses.contains(&address);
        if !defined {
            let what = format!("public address {address} is not defined");
            self.error(place(self), what, "add it to \"public_ips\", or correct it");
        }
    }

    /// The network `name`; notes it if nobody defined it.
    fn require_network(
        &mut self,
        name: &str,
        place: impl FnOnce(&Self) -> Place,
    ) -> Option<&'a Network> {
        let network = self.networks.get(name).copied();
        let defined =
            network.is_some() || self.unread.any_network || self.unread.names.contains(name);
        if !defined {
            let near = super::fields::nearest(name, self.networks.keys().copied());
            let hint = near.map_or_else(
                || "add it to \"networks\", or correct it".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            self.error(place(self), format!("network \"{name}\" is not defined"), hint);
        }
        network
    }
}

/// Which rule of which section, for its places.
type Spot<'a> = (&'a SectionSpots, &'static Section, usize);

/// The realm of a network: its domain, or itself.
fn realm(network: &Network) -> &str {
    network.domain.as_deref().unwrap_or(&network.name)
}

/// What an address can never be, for a router or a guest.
fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets()[0] {
        0 => Some("an address of \"this network\" (0.0.0.0/8)"),
        127 => Some("a loopback address (127.0.0.0/8)"),
        224..=239 => Some("a multicast address (224.0.0.0/4)"),
        240..=255 => Some("a reserved address (240.0.0.0/4)"),
        _ => None,
    }
}
