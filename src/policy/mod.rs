//! What the machine reads: the rules compiled into immutable tables, swapped whole.
//!
//! A [`Policy`] answers the questions of `pipeline::decide` and nothing else. Look-ups allocate
//! nothing and take time that does not grow with the number of rules (a logarithm at most).

pub mod compile;
pub mod filter;
pub mod publish;
pub mod registry;

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::flow::{Endpoint, Generation, NetworkId, PortId, Protocol, Realm, RealmId, RuleId};
use crate::nat::guests::GuestLimits;
use crate::nat::mappings::Pool;
use crate::rules::set::{Algorithm, Cidr, FilteringBehavior, MssClamp};
use filter::{Decided, Filter, Probe};

/// The compiled rules.
pub struct Policy {
    _private: (),
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
    /// Its interface.
    pub port: PortId,
    /// Its tag; zero for untagged.
    pub vlan: u16,
    /// Its prefix.
    pub cidr: Cidr,
    /// The router's address in it.
    pub gateway: Ipv4Addr,
    /// Its MTU, if smaller than the interface's.
    pub mtu: Option<u16>,
    /// Source NAT; none for a routed network.
    pub pool: Option<Pool>,
    /// Who may send inbound through a mapping.
    pub filtering: FilteringBehavior,
    /// Whether its guests reach public endpoints of the router.
    pub hairpinning: bool,
    /// Destinations that are not translated.
    pub exempt: Vec<Cidr>,
    /// Whether sources outside it are dropped.
    pub anti_spoofing: bool,
    /// MSS clamping.
    pub mss_clamp: Option<MssClamp>,
    /// What one guest may use.
    pub limits: GuestLimits,
    /// Egress: its ACL, or its egress rules with their default.
    pub egress: Filter,
    /// Whether refused egress is told with ICMP 3/13.
    pub egress_reject: bool,
    /// Ingress ACL, if it is a VPC tier.
    pub ingress_acl: Option<Filter>,
    /// Bandwidth each way in bytes per second; zero for no limit.
    pub bytes_per_second: u64,
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
    /// Whether the router answers echo requests, if the rules say; else the firewall decides.
    pub echo_reply: Option<bool>,
}

/// What serves a public endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Service<'p> {
    /// A load balancer.
    Balancer(&'p Balancer),
    /// The router's own kernel.
    Local,
    /// Nothing but mappings, if any.
    Nothing,
    /// A port forward; no guest while it is detached.
    PortForward { rule: RuleId, network: NetworkId, guest: Option<Endpoint>, sources: &'p [Cidr] },
    /// Static NAT; no guest while it is detached.
    StaticNat { rule: RuleId, network: NetworkId, guest: Option<Ipv4Addr> },
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
    /// Who may use it; empty means everybody.
    pub sources: Vec<Cidr>,
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
        todo!()
    }

    /// Its number.
    #[must_use]
    pub fn generation(&self) -> Generation {
        todo!()
    }

    /// What hangs on `port` under `vlan`.
    #[must_use]
    pub fn attachment(&self, port: PortId, vlan: u16) -> Option<Attachment> {
        todo!()
    }

    /// A network. Ids come from this policy only.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> &Network {
        todo!()
    }

    /// All networks.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        todo!()
    }

    /// All public addresses.
    #[must_use]
    pub fn public_addresses(&self) -> &[PublicAddress] {
        todo!()
    }

    /// The public address `address`, if it is ours.
    #[must_use]
    pub fn public_address(&self, address: Ipv4Addr) -> Option<&PublicAddress> {
        todo!()
    }

    /// What serves `port` of `public` (the identifier for ICMP, zero without ports). Static NAT
    /// beats port forwards and balancers, and both beat source NAT; local services beat all.
    #[must_use]
    pub fn service(&self, public: Ipv4Addr, protocol: Protocol, port: u16) -> Service<'_> {
        todo!()
    }

    /// The static NAT of a guest.
    #[must_use]
    pub fn static_source(&self, realm: RealmId, guest: Ipv4Addr) -> Option<StaticSource> {
        todo!()
    }

    /// Where `destination` lies inside a realm: in one of its networks, or behind a static route.
    #[must_use]
    pub fn internal_route(&self, realm: RealmId, destination: Ipv4Addr) -> Option<InternalRoute> {
        todo!()
    }

    /// Where a packet from `public` to `destination` leaves. `public` none (no NAT): by any public
    /// address's segment and gateway.
    #[must_use]
    pub fn external_route(
        &self,
        public: Option<Ipv4Addr>,
        destination: Ipv4Addr,
    ) -> Option<ExternalRoute> {
        todo!()
    }

    /// The routed network (without NAT) of any realm that `destination` is in.
    #[must_use]
    pub fn routed_network(&self, destination: Ipv4Addr) -> Option<NetworkId> {
        todo!()
    }

    /// Whether a source may come from the public side: it is neither one of our public addresses
    /// nor inside a guest network.
    #[must_use]
    pub fn may_come_from_outside(&self, source: Ipv4Addr) -> bool {
        todo!()
    }

    /// Whether `address` is a broadcast address of a network or public segment we know.
    #[must_use]
    pub fn is_directed_broadcast(&self, address: Ipv4Addr) -> bool {
        todo!()
    }
}
