//! `RuleSet` to `Policy`.
//!
//! Rules are sorted by what they belong to ([`index`]), then each network and each public address
//! is compiled on its own, and last the tables that span them are built. The work grows with the
//! number of rules, not with rules times networks.

mod address_limits;
mod addresses;
mod filters;
mod index;
mod interfaces;
mod networks;
mod text;
mod ways;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ahash::HashMap;

use crate::config::Config;
use crate::flow::{Generation, NetworkId, PortId, Realm, RealmId, RuleId};
use crate::policy::attachments::{Attached, Attachments};
use crate::policy::encapsulation::{self, Encapsulations};
use crate::policy::ipv6::PolicyIpv6;
use crate::policy::known::{Broadcasts, PublicPlaces};
use crate::policy::prefixes::PrefixMap;
use crate::policy::registry::{Registry, RuleInfo, RuleKind};
use crate::policy::routes::{ExternalRoutes, InternalRoutes};
use crate::policy::services::Services;
use crate::policy::strangers::Strangers;
use crate::policy::{Network, Policy, PublicAddress, StaticSource};
use crate::rules::diagnostic::Place;
use crate::rules::set::{Cidr, FilteringBehavior, RuleSet};
use index::Index;

/// What the rules do not say and the host knows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CompileOptions {
    /// The ports that the kernel gives to the router's own connections
    /// (`net.ipv4.ip_local_port_range`): never given to guests.
    pub kernel_ports: Option<RangeInclusive<u16>>,
    /// The addresses that the kernel makes connections from; none means any.
    pub kernel_addresses: Option<Vec<Ipv4Addr>>,
}

/// The policy that `rules` say. The numbers of rules and realms come from `registry`.
#[must_use]
pub fn compile(
    rules: &RuleSet,
    config: &Config,
    registry: &mut Registry,
    generation: Generation,
) -> Policy {
    compile_with(rules, config, &CompileOptions::default(), registry, generation)
}

/// [`compile`] with what the host knows.
#[must_use]
pub fn compile_with(
    rules: &RuleSet,
    config: &Config,
    options: &CompileOptions,
    registry: &mut Registry,
    generation: Generation,
) -> Policy {
    registry.begin();
    let index = Index::new(rules, config);
    let realms = realms(&index, registry);
    let mut compiler = Compiler {
        config,
        options,
        index: &index,
        registry,
        realms: &realms,
        rules: Vec::new(),
        static_sources: HashMap::default(),
    };
    let mut networks: Vec<Network> = index
        .networks
        .iter()
        .zip(&realms)
        .map(|(network, realm)| compiler.network(network, *realm))
        .collect();
    let encapsulations = encapsulate(&index, &mut networks, compiler.registry);
    mark_siblings(&mut networks);
    let mut services = Services::default();
    let public_addresses: Vec<PublicAddress> = index
        .addresses
        .iter()
        .map(|address| compiler.public_address(address, &mut services))
        .collect();
    let interface_filters = compiler.interface_filters(rules);
    let address_limits = compiler.address_limits(rules);
    let steering = compiler.steering(rules, &mut networks, &public_addresses);
    let (rule_infos, static_sources) = (compiler.rules, compiler.static_sources);
    let routes = named_routes(rules, &networks);
    let broadcasts = broadcasts(&networks, &public_addresses);
    let destinations: Vec<_> = routes.iter().map(|(realm, cidr, _)| (*realm, *cidr)).collect();
    let is_steered = |id| steering.contains_key(&id);
    let strangers = Strangers::new(&networks, &public_addresses, &destinations, is_steered);
    let prefixes: Vec<_> = (0..)
        .zip(&networks)
        .filter_map(|(id, network)| {
            network.ipv6.as_ref().map(|ipv6| (NetworkId(id), ipv6.cidr, ipv6.gateway))
        })
        .collect();
    Policy {
        generation,
        ipv6: PolicyIpv6::new(
            index.public_ipv6.clone(),
            &prefixes,
            rules.ipv6_routes.iter().map(|route| (route.destination, route.via)),
        ),
        attachments: attachments(&index, &networks, &public_addresses),
        internal_routes: InternalRoutes::new(by_id(&networks), routes.into_iter()),
        interface_filters,
        address_limits,
        steering,
        encapsulations: Arc::new(encapsulations),
        external_routes: ExternalRoutes::new(&public_addresses),
        routed_networks: routed_networks(&index),
        guest_prefixes: PrefixMap::new(networks.iter().map(|network| (network.cidr, ()))),
        broadcasts: Broadcasts::new(&broadcasts),
        strangers,
        public_places: PublicPlaces::new(public_addresses.iter().map(|public| public.address)),
        rule_places: places(rule_infos.iter().map(|info| info.rule)),
        rules: rule_infos,
        follows_calls: networks.iter().any(|network| network.pptp),
        filters_by_address: networks
            .iter()
            .any(|network| network.filtering == FilteringBehavior::AddressDependent),
        clamps_mss: networks.iter().any(|network| network.mss_clamp.is_some()),
        networks,
        public_addresses,
        services,
        static_sources,
    }
}

const BYTES_PER_KBIT: u64 = 1000 / 8;

/// What compiling networks and addresses shares.
struct Compiler<'a> {
    config: &'a Config,
    options: &'a CompileOptions,
    index: &'a Index<'a>,
    registry: &'a mut Registry,
    /// The realm of each network.
    realms: &'a [RealmId],
    rules: Vec<RuleInfo>,
    static_sources: HashMap<(RealmId, Ipv4Addr), StaticSource>,
}

impl Compiler<'_> {
    /// The number of a rule, which is listed for people from now on.
    fn number(
        &mut self,
        kind: RuleKind,
        id: &str,
        owner: &Arc<str>,
        text: String,
        place: &Place,
    ) -> RuleId {
        let rule = self.registry.rule(kind, id);
        let (id, owner, place) = (id.to_owned(), Arc::clone(owner), place.clone());
        self.rules.push(RuleInfo { rule, kind, id, owner, text, place });
        rule
    }
}

/// The realm of each network. A domain and a network of the same name are two realms.
fn realms(index: &Index<'_>, registry: &mut Registry) -> Vec<RealmId> {
    let mut realms = Vec::with_capacity(index.networks.len());
    for rules in &index.networks {
        let name = match &rules.network.domain {
            None => format!("network:{}", rules.network.name),
            Some(domain) => format!("domain:{domain}"),
        };
        // There are more numbers for realms than networks in a policy.
        let realm = registry.realm(&name).unwrap_or(RealmId(std::num::NonZeroU16::MAX));
        realms.push(realm);
    }
    realms
}

/// Puts networks under two tags and inside VXLAN on their sides, each under its stand-in.
fn encapsulate(
    index: &Index<'_>,
    networks: &mut [Network],
    registry: &mut Registry,
) -> Encapsulations {
    let mut encapsulations = Encapsulations::default();
    for (network, rules) in networks.iter_mut().zip(&index.networks) {
        let (rules, port) = (rules.network, rules.port);
        let stand_in = match (&rules.vxlan, encapsulation::double_tag(rules)) {
            (Some(vxlan), _) => registry.vxlan(&format!("{} {}", port.0, vxlan.vni)),
            (None, Some(tags)) => registry.double_tagged(&format!("{} {tags:?}", port.0)),
            (None, None) => continue,
        };
        // More networks than there are stand-ins are refused when rules are checked; no frame has
        // this tag.
        network.vlan = stand_in.unwrap_or(u16::MAX);
        network.port = encapsulations.add(rules, port, network.vlan);
    }
    encapsulations
}

/// Notes which networks share their realm with others.
fn mark_siblings(networks: &mut [Network]) {
    let mut counts: HashMap<RealmId, usize> = HashMap::default();
    for network in &*networks {
        *counts.entry(network.realm).or_default() += 1;
    }
    for network in networks {
        network.has_siblings = counts.get(&network.realm).is_some_and(|count| *count > 1);
    }
}

fn by_id(networks: &[Network]) -> impl Iterator<Item = (RealmId, Cidr, NetworkId)> {
    (0..).zip(networks).map(|(id, network)| (network.realm, network.cidr, NetworkId(id)))
}

/// The static routes with their realms. A name means a domain before a network without one.
fn named_routes(rules: &RuleSet, networks: &[Network]) -> Vec<(RealmId, Cidr, Ipv4Addr)> {
    let mut realms: HashMap<&str, RealmId> = HashMap::default();
    let shared = |network: &&Network| network.domain != network.name;
    for network in networks.iter().filter(shared).chain(networks) {
        realms.entry(&network.domain).or_insert(network.realm);
    }
    let route = |route: &crate::rules::set::Route| {
        Some((*realms.get(route.domain.as_str())?, route.destination, route.via))
    };
    rules.routes.iter().filter_map(route).collect()
}

fn attachments(
    index: &Index<'_>,
    networks: &[Network],
    public_addresses: &[PublicAddress],
) -> Attachments {
    let mut public: Vec<(PortId, u16)> =
        public_addresses.iter().map(|public| (public.port, public.vlan)).collect();
    public.extend(index.public_ipv6.iter().map(|public| (public.port, public.vlan)));
    public.extend(index.public_ports.iter().map(|&port| (port, 0)));
    let place = |network: &Network| Attached {
        port: network.port,
        vlan: network.vlan,
        cidr: network.cidr,
        realm: (!network.has_siblings).then_some(Realm::Internal(network.realm)),
    };
    Attachments::new(&public, &networks.iter().map(place).collect::<Vec<_>>())
}

fn routed_networks(index: &Index<'_>) -> PrefixMap<NetworkId> {
    let routed = (0..)
        .zip(&index.networks)
        .filter(|(_, rules)| rules.network.source_nat.is_empty() && !rules.has_static_nat);
    PrefixMap::new(routed.map(|(id, rules)| (rules.network.cidr, NetworkId(id))))
}

/// The broadcast addresses of networks and segments; prefixes of 31 and 32 bits have none
/// (RFC 3021).
fn broadcasts(networks: &[Network], public_addresses: &[PublicAddress]) -> Vec<(Realm, Ipv4Addr)> {
    let internal = networks.iter().map(|network| (Realm::Internal(network.realm), network.cidr));
    let external = public_addresses.iter().map(|public| (Realm::External, public.segment));
    internal
        .chain(external)
        .filter(|(_, cidr)| cidr.length() <= 30)
        .map(|(realm, cidr)| (realm, cidr.last()))
        .collect()
}

/// Where each key stands in a list.
fn places<K: Eq + std::hash::Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    keys.enumerate().map(|(place, key)| (key, place)).collect()
}
