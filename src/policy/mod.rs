//! What the machine reads: the rules compiled into immutable tables, swapped whole.
//!
//! A [`Policy`] answers the questions of `pipeline::decide` and nothing else. Look-ups allocate
//! nothing and take time that does not grow with the number of rules (a logarithm at most).

pub mod address_limits;
mod attachments;
pub mod compile;
pub mod encapsulation;
pub mod filter;
mod intervals;
pub mod ipv6;
mod known;
mod prefixes;
pub mod publish;
pub mod registry;
mod routes;
#[cfg(test)]
pub(crate) mod samples;
mod services;
mod strangers;
pub mod summary;
pub mod ways;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ahash::{HashMap, HashSet};

use crate::flow::{Endpoint, Generation, NetworkId, PortId, Protocol, Realm, RealmId, RuleId};
use crate::nat::guests::GuestLimits;
use crate::nat::limits::NetworkLimits;
use crate::nat::mappings::{MappingLimits, Pool};
use crate::rules::set::{Algorithm, Cidr, FilteringBehavior, HealthCheck, MssClamp};
use address_limits::AddressLimits;
use attachments::Attachments;
use encapsulation::Encapsulations;
use filter::Filter;
use ipv6::{NetworkIpv6, PolicyIpv6};
use known::{Broadcasts, PublicPlaces};
use prefixes::PrefixMap;
use registry::RuleInfo;
use routes::{ExternalRoutes, InternalRoutes};
use services::Services;
use strangers::Strangers;
use ways::Steering;

pub use attachments::Untagged;

/// The compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    generation: Generation,
    networks: Vec<Network>,
    /// Whether some network asks for PPTP.
    follows_calls: bool,
    /// Whether some network filters by address.
    filters_by_address: bool,
    /// Whether some network clamps the MSS.
    clamps_mss: bool,
    public_addresses: Vec<PublicAddress>,
    rules: Vec<RuleInfo>,
    /// Where each rule stands in `rules`.
    rule_places: HashMap<RuleId, usize>,
    attachments: Attachments,
    /// Where each address stands in `public_addresses`.
    public_places: PublicPlaces,
    services: Services,
    address_limits: HashMap<Ipv4Addr, AddressLimits>,
    static_sources: HashMap<(RealmId, Ipv4Addr), StaticSource>,
    internal_routes: InternalRoutes,
    external_routes: ExternalRoutes,
    steering: HashMap<NetworkId, Vec<Steering>>,
    routed_networks: PrefixMap<NetworkId>,
    guest_prefixes: PrefixMap<()>,
    ipv6: PolicyIpv6,
    interface_filters: HashMap<(PortId, u16, InterfacePass), InterfaceFilter>,
    broadcasts: Broadcasts,
    strangers: Strangers,
    encapsulations: Arc<Encapsulations>,
}

/// What hangs on an interface under a tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attachment {
    /// A guest network.
    Guest(NetworkId),
    /// The public side.
    Public,
}

/// A guest network, compiled.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its realm.
    pub realm: RealmId,
    /// The name of its realm: its `domain`, or its own name without one.
    pub domain: String,
    /// Its interface.
    pub port: PortId,
    /// Its tag; zero for untagged.
    pub vlan: u16,
    /// Its prefix.
    pub cidr: Cidr,
    /// The router's address in it.
    pub gateway: Ipv4Addr,
    /// Its IPv6 side, if it has one.
    pub ipv6: Option<NetworkIpv6>,
    /// Its MTU, if smaller than the interface's.
    pub mtu: Option<u16>,
    /// Source NAT; none for a routed network.
    pub pool: Option<Pool>,
    /// What other networks of the realm become when they open sessions into this one: the router's address
    /// in it, if they are translated.
    pub gateway_pool: Option<Pool>,
    /// What counts its source NAT, and the traffic of a routed network.
    pub source_nat_rule: RuleId,
    /// Who may send inbound through a mapping.
    pub filtering: FilteringBehavior,
    /// Whether its guests reach public endpoints of the router.
    pub hairpinning: bool,
    /// Whether GRE of PPTP is told apart by call id.
    pub pptp: bool,
    /// Destinations that are not translated.
    pub exempt: Vec<Cidr>,
    /// Destinations that the router's own kernel reaches.
    pub kernel: Vec<Cidr>,
    /// Whether sources outside it are dropped.
    pub anti_spoofing: bool,
    /// Whether its realm has other networks, so that a source tells nothing of where it came from.
    pub has_siblings: bool,
    /// What guests of it forward for other networks, as policy routes say.
    pub transit: Vec<Cidr>,
    /// MSS clamping.
    pub mss_clamp: Option<MssClamp>,
    /// What one guest may use.
    pub limits: GuestLimits,
    /// External endpoints each guest may have.
    pub mapping_limits: MappingLimits,
    /// Egress: its ACL, or its egress rules with their default.
    pub egress: Filter,
    /// Whether refused egress is told with ICMP 3/13.
    pub egress_reject: bool,
    /// Ingress ACL, if it is a VPC tier.
    pub ingress_acl: Option<Filter>,
    /// What it and its guests may send and receive per second, if that is limited.
    pub rate_limits: Option<Arc<NetworkLimits>>,
}

/// A public address, compiled.
#[derive(Clone, Debug)]
pub struct PublicAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Its segment.
    pub segment: Cidr,
    /// Its interface.
    pub port: PortId,
    /// Its tag; zero for untagged.
    pub vlan: u16,
    /// The upstream router.
    pub gateway: Option<Ipv4Addr>,
    /// The ingress firewall: rules by public port and source, default included. None when every
    /// rule on it leads into VPC tiers, whose ACLs govern instead.
    pub ingress: Option<Filter>,
    /// Whether the firewall is asked before the ACL of a tier, too.
    pub firewall_before_acl: bool,
    /// Whether the router answers echo requests, if the rules say; else the firewall decides.
    pub echo_reply: Option<bool>,
}

/// What serves a public endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Service<'p> {
    /// A load balancer.
    Balancer(&'p Balancer),
    /// The router's own kernel.
    Local {
        /// Who may use it; empty means everybody.
        sources: &'p [Cidr],
    },
    /// Nothing but mappings, if any.
    Nothing,
    /// A port forward; no guest while it is detached.
    PortForward {
        /// Its rule.
        rule: RuleId,
        /// The guest's network.
        network: NetworkId,
        /// The guest's endpoint for the port that was asked for.
        guest: Option<Endpoint>,
        /// Who may use it; empty means everybody.
        sources: &'p [Cidr],
    },
    /// Static NAT; no guest while it is detached.
    StaticNat {
        /// Its rule.
        rule: RuleId,
        /// The guest's network.
        network: NetworkId,
        /// The guest.
        guest: Option<Ipv4Addr>,
    },
}

/// A load balancer, compiled.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// Its rule.
    pub rule: RuleId,
    /// The members' network.
    pub network: NetworkId,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// Members with their weights.
    pub members: Vec<(Endpoint, u16)>,
    /// How they are checked, if they are.
    pub health_check: Option<HealthCheck>,
    /// Who may use it; empty means everybody.
    pub sources: Vec<Cidr>,
}

/// A filter of an interface, compiled.
#[derive(Clone, Debug)]
pub struct InterfaceFilter {
    /// Its entries, with its default.
    pub filter: Filter,
    /// The rules that tell the sender what they refuse.
    pub tells: HashSet<RuleId>,
}

/// How a packet passes an interface.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum InterfacePass {
    /// It comes in.
    In,
    /// It leaves.
    Out,
}

/// A static NAT seen from the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StaticSource {
    /// Its rule.
    pub rule: RuleId,
    /// The public address the guest leaves with.
    pub public: Ipv4Addr,
}

/// Where a packet inside a realm goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InternalRoute {
    /// The network it leaves on.
    pub network: NetworkId,
    /// The next hop: the destination itself, or a route's `via`.
    pub next_hop: Ipv4Addr,
}

/// Where a packet to the public side goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExternalRoute {
    /// The interface.
    pub port: PortId,
    /// The tag; zero for untagged.
    pub vlan: u16,
    /// The next hop: the destination itself if it is on the segment, or the gateway.
    pub next_hop: Ipv4Addr,
}

impl Policy {
    /// A policy without rules: everything is dropped.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Its number; zero for the empty policy only.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What hangs on `port` under `vlan`; the first of several networks (see
    /// [`Self::guest_network`]).
    #[must_use]
    pub fn attachment(&self, port: PortId, vlan: u16) -> Option<Attachment> {
        self.attachments.find(port, vlan)
    }

    /// What hangs on `port` under `vlan`; of several networks the one of [`Self::guest_network`].
    #[inline]
    #[must_use]
    pub fn attachment_of(&self, port: PortId, vlan: u16, source: Ipv4Addr) -> Option<Attachment> {
        self.attachments.of_source(port, vlan, source)
    }

    /// The guest network on `port` under `vlan` that `source` belongs to. Where it belongs to none,
    /// the first: anti-spoofing decides there.
    #[must_use]
    pub fn guest_network(&self, port: PortId, vlan: u16, source: Ipv4Addr) -> Option<NetworkId> {
        self.attachments.guest_network(port, vlan, source)
    }

    /// The realm of a packet from `source` on `port` under `vlan`; none also where more has to be
    /// asked: the source might be a guest of another network of the realm.
    #[inline(always)]
    #[must_use]
    pub fn realm_of(&self, port: PortId, vlan: u16, source: Ipv4Addr) -> Option<Realm> {
        match self.attachments.realm(port, vlan) {
            None => self.realm_of_sender(port, vlan, source),
            found => found,
        }
    }

    /// The realms of packets without a tag.
    #[must_use]
    pub fn untagged(&self) -> &Untagged {
        self.attachments.untagged()
    }

    #[inline(never)]
    fn realm_of_sender(&self, port: PortId, vlan: u16, source: Ipv4Addr) -> Option<Realm> {
        match self.attachments.find(port, vlan)? {
            Attachment::Public => Some(Realm::External),
            Attachment::Guest(first) => {
                let id = self.attachments.own_network(first, port, vlan, source);
                let network = self.network(id);
                let is_sure = !network.has_siblings || network.cidr.contains(source);
                is_sure.then_some(Realm::Internal(network.realm))
            }
        }
    }

    /// A network. Ids come from this policy only.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> &Network {
        &self.networks[usize::from(id.0)]
    }

    /// Whether GRE of PPTP is told apart by call id in some network.
    #[must_use]
    pub const fn follows_calls(&self) -> bool {
        self.follows_calls
    }

    /// Whether some network clamps the MSS of TCP.
    #[must_use]
    pub const fn clamps_mss(&self) -> bool {
        self.clamps_mss
    }

    /// Whether some network filters by address, so that it matters whom guests have sent to.
    #[must_use]
    pub const fn filters_by_address(&self) -> bool {
        self.filters_by_address
    }

    /// All networks.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// All public addresses.
    #[must_use]
    pub fn public_addresses(&self) -> &[PublicAddress] {
        &self.public_addresses
    }

    /// The public address `address`, if it is ours.
    #[must_use]
    #[inline]
    pub fn public_address(&self, address: Ipv4Addr) -> Option<&PublicAddress> {
        self.public_addresses.get(self.public_places.find(address)?)
    }

    /// All rules in the order in which people see them: by network, then by public address.
    #[must_use]
    pub fn rules(&self) -> &[RuleInfo] {
        &self.rules
    }

    /// The rule with this number, if this policy has it.
    #[must_use]
    pub fn rule(&self, rule: RuleId) -> Option<&RuleInfo> {
        self.rules.get(*self.rule_places.get(&rule)?)
    }

    /// The filter of an interface and VLAN, if it has one.
    #[must_use]
    pub fn interface_filter(
        &self,
        port: PortId,
        vlan: u16,
        pass: InterfacePass,
    ) -> Option<&InterfaceFilter> {
        self.interface_filters.get(&(port, vlan, pass))
    }

    /// Whether any interface has a filter.
    #[must_use]
    pub fn filters_interfaces(&self) -> bool {
        !self.interface_filters.is_empty()
    }

    /// The networks under two tags and inside VXLAN.
    #[must_use]
    pub const fn encapsulations(&self) -> &Arc<Encapsulations> {
        &self.encapsulations
    }

    /// All load balancers.
    pub fn balancers(&self) -> impl Iterator<Item = &Balancer> {
        self.services.balancers()
    }

    /// What it says of IPv6.
    #[must_use]
    pub const fn ipv6(&self) -> &PolicyIpv6 {
        &self.ipv6
    }

    /// What serves `port` of `public` (the identifier for ICMP, zero without ports). Static NAT
    /// beats port forwards and balancers, and both beat source NAT; local services beat all. Of several
    /// forwards of one port the one that `source` may use serves.
    #[must_use]
    pub fn service_for(
        &self,
        public: Ipv4Addr,
        protocol: Protocol,
        port: u16,
        source: Ipv4Addr,
    ) -> Service<'_> {
        self.services.find(public, protocol, port, source)
    }

    /// What serves `port` of `public` for nobody in particular.
    #[must_use]
    pub fn service(&self, public: Ipv4Addr, protocol: Protocol, port: u16) -> Service<'_> {
        self.service_for(public, protocol, port, Ipv4Addr::UNSPECIFIED)
    }

    /// The static NAT of a guest.
    #[must_use]
    pub fn static_source(&self, realm: RealmId, guest: Ipv4Addr) -> Option<StaticSource> {
        self.static_sources.get(&(realm, guest)).copied()
    }

    /// Where `destination` lies inside a realm: in one of its networks, or behind a static route.
    /// The longest prefix counts; a network's own prefix before a route to the same.
    #[must_use]
    pub fn internal_route(&self, realm: RealmId, destination: Ipv4Addr) -> Option<InternalRoute> {
        self.internal_routes.find(realm, destination)
    }

    /// Where a packet from `public` to `destination` leaves. `public` none (no NAT): by any public
    /// address's segment, else by the first gateway there is.
    #[must_use]
    pub fn external_route(
        &self,
        public: Option<Ipv4Addr>,
        destination: Ipv4Addr,
    ) -> Option<ExternalRoute> {
        match public {
            None => self.external_routes.any(destination),
            Some(public) => {
                let place = self.public_places.find(public)?;
                let public = self.public_addresses.get(place)?;
                self.external_routes.from(place, public, destination)
            }
        }
    }

    /// The routed network (without source NAT and static NAT) of any realm that `destination` is
    /// in.
    #[must_use]
    pub fn routed_network(&self, destination: Ipv4Addr) -> Option<NetworkId> {
        self.routed_networks.find(destination).copied()
    }

    /// Whether a source may come from the public side: it is neither one of our public addresses
    /// nor inside a guest network.
    #[must_use]
    pub fn may_come_from_outside(&self, source: Ipv4Addr) -> bool {
        self.public_places.find(source).is_none() && self.guest_prefixes.find(source).is_none()
    }

    /// Whether `address` is a broadcast address of a network or segment of `realm`. Realms may
    /// overlap: one network's broadcast address is another's guest.
    #[inline]
    #[must_use]
    pub fn is_broadcast_in(&self, realm: Realm, address: Ipv4Addr) -> bool {
        self.broadcasts.contains(realm, address)
    }
}

#[cfg(test)]
mod tests;
