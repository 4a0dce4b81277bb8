//! The bags translated: which networks, public addresses and rules they come to.
//!
//! What needs an address, NIC or network that is not there is pending; what is there is in force whatever
//! became of the rest.

use std::net::Ipv4Addr;

use super::Options;
use super::addresses::Address;
use super::bags::Bags;
use super::command_line::RouterKind;
use super::record::Notes;
use crate::rules::diagnostic::Place;
use crate::rules::set::{Cidr, PublicIp, RuleSet};
use crate::rules::sources::Pending;

/// A translation in the making.
pub struct Translator<'a> {
    /// What is translated.
    pub bags: &'a Bags,
    /// What was chosen where versions differ.
    pub options: &'a Options,
    /// What kind of router it is.
    pub kind: RouterKind,
    /// The realm of all its networks.
    pub domain: String,
    /// The rules so far.
    pub set: RuleSet,
    /// The public addresses among them, which every rule asks for.
    in_force: ahash::HashSet<Ipv4Addr>,
    /// What waits.
    pub pending: Vec<Pending>,
    /// What is to be said.
    pub notes: &'a mut Notes,
}

/// Translates `bags`.
pub fn translate(bags: &Bags, options: &Options, notes: &mut Notes) -> (RuleSet, Vec<Pending>) {
    let line = &bags.command_line;
    let mut translator = Translator {
        bags,
        options,
        kind: line.kind(!bags.tiers.is_empty()),
        // Always one: a second network must not move the first into another realm.
        domain: line.value("name").unwrap_or("router").to_owned(),
        set: RuleSet::default(),
        in_force: ahash::HashSet::default(),
        pending: Vec::new(),
        notes,
    };
    match translator.kind {
        RouterKind::Services => translator.say_that_nothing_is_forwarded(),
        RouterKind::Isolated | RouterKind::Vpc => translator.everything(),
    }
    (translator.set, translator.pending)
}

impl<'a> Translator<'a> {
    fn everything(&mut self) {
        self.public_ips();
        match self.kind {
            RouterKind::Vpc => self.vpc_networks(),
            RouterKind::Isolated | RouterKind::Services => self.guest_networks(),
        }
        self.source_nat();
        self.ipv6_networks();
        match self.kind {
            RouterKind::Vpc => {
                self.vpc_firewall();
                self.acls();
            }
            RouterKind::Isolated | RouterKind::Services => self.firewall(),
        }
        self.forwarding();
        self.listeners();
        self.static_routes();
        self.vpns();
    }

    fn say_that_nothing_is_forwarded(&mut self) {
        let line = &self.bags.command_line;
        let Some((kind, place)) = line.value("type").zip(line.place("type")) else { return };
        let what = format!("a router of the type \"{kind}\" forwards nothing");
        self.notes.warn(place.clone(), what, "its services stay with its kernel");
    }

    /// Whether networks are routed, not translated.
    pub fn is_routed(&self) -> bool {
        self.bags.command_line.is_routed()
    }

    fn public_ips(&mut self) {
        if !self.bags.command_line.has_public_network() {
            return;
        }
        // The router answers pings itself where no firewall of the address is asked.
        let echo_reply = (self.kind == RouterKind::Vpc || self.is_routed()).then_some(true);
        for address in self.bags.public_addresses() {
            if let Some(waits_for) = &address.device.waits_for {
                self.wait(format!("public address {}", address.address), &address.place, waits_for);
                continue;
            }
            self.in_force.insert(address.address);
            self.set.public_ips.push(PublicIp {
                address: address.address,
                prefix_len: address.length,
                interface: address.device.name.clone(),
                vlan: 0,
                gateway: address.gateway,
                ingress_default: crate::rules::set::Action::Deny,
                firewall_before_acl: false,
                echo_reply,
                place: address.place.clone(),
            });
        }
    }

    /// The address that guests without one of their own leave with: of an isolated network the router's first
    /// public one, of a VPC the one that was chosen.
    fn source_nat(&mut self) {
        let line = &self.bags.command_line;
        if self.is_routed() || !line.has_public_network() {
            return;
        }
        let in_use = |address: Ipv4Addr| self.has_public_ip(address).then_some(address);
        let chosen = || {
            let chosen = self.bags.public_addresses().filter(|address| address.source_nat);
            chosen.map(|address| address.address).find_map(in_use)
        };
        let source = match self.kind {
            RouterKind::Vpc => chosen().or_else(|| line.address("source_nat_ip").and_then(in_use)),
            RouterKind::Isolated | RouterKind::Services => {
                line.address("eth2ip").and_then(in_use).or_else(chosen)
            }
        };
        let gateways: Vec<&str> =
            self.private_gateways().map(|it| it.device.name.as_str()).collect();
        let (mut waiting, mut networks) = (Vec::new(), std::mem::take(&mut self.set.networks));
        for network in networks.iter_mut().filter(|it| !gateways.contains(&it.name.as_str())) {
            match source {
                Some(source) => network.source_nat = vec![source],
                None => waiting.push((network.name.clone(), network.place.clone())),
            }
        }
        self.set.networks = networks;
        for (name, place) in waiting {
            self.wait(format!("source NAT of network \"{name}\""), &place, "a source NAT address");
        }
    }

    /// The private gateways in use.
    pub fn private_gateways(&self) -> impl Iterator<Item = &'a Address> + use<'a> {
        let addresses = self.bags.all_addresses();
        addresses.filter(|address| address.add && address.is_private_gateway)
    }

    /// Whether `address` is a public address in force.
    pub fn has_public_ip(&self, address: Ipv4Addr) -> bool {
        self.in_force.contains(&address)
    }

    /// The name of the network that `guest` is in.
    pub fn network_of(&self, guest: Ipv4Addr) -> Option<&str> {
        let network = self.set.networks.iter().find(|network| network.cidr.contains(guest));
        network.map(|network| network.name.as_str())
    }

    /// The network that a rule on a public address leads to; if either is not there, the rule waits.
    pub fn target(
        &mut self,
        what: impl Fn() -> String,
        place: &Place,
        public_ip: Ipv4Addr,
        guest: Ipv4Addr,
    ) -> Option<String> {
        if !self.has_public_ip(public_ip) {
            self.wait(what(), place, &format!("public address {public_ip}"));
            return None;
        }
        let network = self.network_of(guest).map(str::to_owned);
        if network.is_none() {
            self.wait(what(), place, &format!("a network with {guest}"));
        }
        network
    }

    /// Notes that something waits.
    pub fn wait(&mut self, what: String, place: &Place, waits_for: &str) {
        let waits_for = waits_for.to_owned();
        self.pending.push(Pending { what, place: place.clone(), waits_for });
    }
}

/// A list of prefixes without the one that is everything.
pub fn without_any(mut prefixes: Vec<Cidr>) -> Vec<Cidr> {
    if prefixes.contains(&Cidr::ANY) {
        prefixes.clear();
    }
    prefixes
}
