//! Addresses outside that no rule names: where nearly every new session of a guest goes. One search says so,
//! and then all the others, each of which would find nothing, need not be made.

use std::net::Ipv4Addr;

use ahash::{HashMap, HashMapExt};

use crate::flow::{NetworkId, RealmId};
use crate::policy::prefixes::PrefixMap;
use crate::policy::{ExternalRoute, InternalRoute, Network, Policy, PublicAddress};
use crate::rules::set::Cidr;

/// What tells strangers from addresses that something is to be asked about.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    /// Every prefix that is said something of, but for those that hold all addresses.
    known: PrefixMap<()>,
    /// By number of the network.
    networks: Box<[Outlook]>,
}

/// What one network's guests have around them.
#[derive(Clone, Copy, Debug)]
struct Outlook {
    /// Whether they have strangers: nothing but the destination's prefix says where their packets go, and no
    /// prefix that holds all addresses says anything of them.
    has_strangers: bool,
    /// Whether every address of the network's prefix is reached there itself.
    is_undivided: bool,
}

impl Strangers {
    /// Those of a policy with these networks, public addresses and routes in realms. Whether policy routes
    /// steer what a network sends, `is_steered` says.
    pub fn new(
        networks: &[Network],
        public_addresses: &[PublicAddress],
        routes: &[(RealmId, Cidr)],
        is_steered: impl Fn(NetworkId) -> bool,
    ) -> Self {
        let special = SPECIAL.map(|(address, length)| Cidr::containing(address, length));
        let of_network = |network: &Network| {
            let exceptions = network.kernel.iter().chain(&network.exempt).copied();
            exceptions.chain([network.cidr]).collect::<Vec<_>>()
        };
        let of_public =
            |public: &PublicAddress| [public.segment, Cidr::containing(public.address, 32)];
        let known = special
            .into_iter()
            .chain(networks.iter().flat_map(of_network))
            .chain(public_addresses.iter().flat_map(of_public))
            .chain(routes.iter().map(|(_, destination)| *destination))
            .filter(|cidr| cidr.length() > 0);
        let realms = prefixes_of_realms(networks, routes);
        let outlook = |(number, network): (u16, &Network)| {
            let in_realm = realms.get(&network.realm).map_or(&[][..], Vec::as_slice);
            let mut all = in_realm.iter().copied().chain(of_network(network));
            // The first one that is equal to it or within it, beside itself, would stand behind it.
            let behind = in_realm.partition_point(|cidr| *cidr < network.cidr) + 1;
            let next = in_realm.get(behind);
            Outlook {
                has_strangers: !is_steered(NetworkId(number)) && all.all(|cidr| cidr.length() > 0),
                is_undivided: next.is_none_or(|next| !network.cidr.contains(next.first())),
            }
        };
        Self {
            known: PrefixMap::new(known.map(|cidr| (cidr, ()))),
            networks: (0..).zip(networks).map(outlook).collect(),
        }
    }

    fn outlook(&self, network: NetworkId) -> Option<&Outlook> {
        self.networks.get(usize::from(network.0))
    }
}

impl Policy {
    /// Whether `address` is nobody's that the rules know, for guests of `network`: it is no martian and no
    /// broadcast address, it lies neither in a network or behind a route nor on a segment outside, and neither
    /// the kernel nor a policy route nor an exemption from NAT takes what goes there.
    #[must_use]
    #[inline(always)]
    pub fn is_stranger_to(&self, network: NetworkId, address: Ipv4Addr) -> bool {
        let has_strangers = self.strangers.outlook(network).is_some_and(|it| it.has_strangers);
        has_strangers && self.strangers.known.find(address).is_none()
    }

    /// Where a packet from `public` to a stranger leaves: what [`Self::external_route`] says.
    #[must_use]
    #[inline(always)]
    pub fn route_to_stranger(&self, public: Ipv4Addr) -> Option<ExternalRoute> {
        let PublicAddress { port, vlan, gateway, .. } = *self.public_address(public)?;
        Some(ExternalRoute { port, vlan, next_hop: gateway? })
    }

    /// Where a packet to a guest of `network` leaves: what [`Self::internal_route`] says.
    #[must_use]
    pub fn route_to_guest(&self, network: NetworkId, guest: Ipv4Addr) -> Option<InternalRoute> {
        let Network { realm, cidr, .. } = self.network(network);
        let is_undivided = self.strangers.outlook(network).is_some_and(|it| it.is_undivided);
        if is_undivided && cidr.contains(guest) {
            return Some(InternalRoute { network, next_hop: guest });
        }
        self.internal_route(*realm, guest)
    }
}

/// What lies in each realm, and behind its routes, in order.
fn prefixes_of_realms(
    networks: &[Network],
    routes: &[(RealmId, Cidr)],
) -> HashMap<RealmId, Vec<Cidr>> {
    let mut realms: HashMap<RealmId, Vec<Cidr>> = HashMap::new();
    let of_networks = networks.iter().map(|network| (network.realm, network.cidr));
    for (realm, cidr) in of_networks.chain(routes.iter().copied()) {
        realms.entry(realm).or_default().push(cidr);
    }
    realms.values_mut().for_each(|cidrs| cidrs.sort_unstable());
    realms
}

/// "This network", loopback, link-local addresses, multicast, class E and limited broadcast.
const SPECIAL: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Generation, Protocol, Realm};
    use crate::policy::compile::compile;
    use crate::policy::filter::Probe;
    use crate::policy::registry::Registry;
    use crate::policy::samples::{config, matching, network, place, public_ip, route};
    use crate::rules::set::{PolicyHop, PolicyRoute, RuleSet};

    /// Prefixes that lie in each other, beside each other and far apart.
    const CIDRS: [&str; 9] = [
        "10.1.0.0/16",
        "10.1.1.0/24",
        "10.1.1.128/25",
        "10.1.1.255/32",
        "10.2.0.0/30",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "192.0.0.0/8",
        "0.0.0.0/0",
    ];

    /// Networks, each with its prefix, its domain, and what it is exempt to, what the kernel takes and where it
    /// is steered to, if anywhere; and routes with their domains. All by place in [`CIDRS`], past its end nothing.
    type Sketch = (Vec<(usize, bool, [usize; 3])>, Vec<(usize, bool)>);

    fn sketch() -> impl Strategy<Value = Sketch> {
        let rarely = || prop_oneof![4 => Just(CIDRS.len()), 1 => 0..CIDRS.len()];
        let network = (0..CIDRS.len() - 1, any::<bool>(), [rarely(), rarely(), rarely()]);
        let networks = prop::collection::vec(network, 1..4);
        (networks, prop::collection::vec((0..CIDRS.len(), any::<bool>()), 0..3))
    }

    fn policy((networks, routes): &Sketch) -> Policy {
        let domain = |is_shared: bool, number: usize| match is_shared {
            true => "shared".to_owned(),
            false => format!("n{number}"),
        };
        let cidr = |place: usize| CIDRS.get(place).map(|cidr| cidr.parse().unwrap());
        let mut rules = RuleSet {
            public_ips: ["203.0.113.10", "192.0.2.77"].map(public_ip).to_vec(),
            ..RuleSet::default()
        };
        for (number, (place_of, is_shared, [exempt, kernel, steered])) in (0..).zip(networks) {
            let name = format!("n{number}");
            let mut network = network(&name, number, CIDRS[*place_of]);
            network.domain = Some(domain(*is_shared, usize::from(number)));
            network.source_nat = vec![public_ip("203.0.113.10").address];
            network.nat.exempt.extend(cidr(*exempt));
            network.nat.kernel.extend(cidr(*kernel));
            rules.networks.push(network);
            let hop = |destination| PolicyHop { destination, via: None, source_nat: Vec::new() };
            rules.policy_routes.extend(cidr(*steered).map(|cidr| PolicyRoute {
                id: format!("w{number}"),
                network: name,
                matches: matching("all"),
                source_ports: None,
                sources: Vec::new(),
                destinations: Vec::new(),
                routes: vec![hop(cidr)],
                place: place(),
            }));
        }
        let named = |(place, is_shared): &(usize, bool)| {
            route(&domain(*is_shared, 0), CIDRS[*place], "10.1.1.3")
        };
        rules.routes = routes.iter().map(named).collect();
        compile(&rules, &config(), &mut Registry::new(), Generation(1))
    }

    /// Where something may begin or end, and a few addresses between.
    fn addresses() -> impl Strategy<Value = Vec<Ipv4Addr>> {
        let edges = CIDRS.into_iter().flat_map(|cidr| {
            let cidr: Cidr = cidr.parse().unwrap();
            let (first, last) = (cidr.first().to_bits(), cidr.last().to_bits());
            [first.wrapping_sub(1), first, first + 3, last, last.wrapping_add(1)]
        });
        let special = [0x7f00_0001, 0xa9fe_0101, 0xe000_0005, u32::MAX, 0xc000_024d];
        let edges: Vec<u32> = edges.chain(special).collect();
        prop::collection::vec(any::<u32>(), 20).prop_map(move |others| {
            edges.iter().copied().chain(others).map(Ipv4Addr::from_bits).collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_is_known_of_a_stranger(sketch in sketch(), addresses in addresses()) {
            let policy = policy(&sketch);
            for (id, network) in (0..).map(NetworkId).zip(policy.networks()) {
                for &address in &addresses {
                    let routes = policy.internal_route(network.realm, address);
                    prop_assert_eq!(policy.route_to_guest(id, address), routes);
                    if !policy.is_stranger_to(id, address) {
                        continue;
                    }
                    let probe = Probe {
                        protocol: Protocol::UDP,
                        source: network.gateway,
                        destination: address,
                        port: 53,
                        icmp: (0, 0),
                    };
                    prop_assert!(routes.is_none());
                    prop_assert!(policy.public_address(address).is_none());
                    prop_assert!(policy.may_come_from_outside(address));
                    prop_assert!(!policy.is_broadcast_in(Realm::External, address));
                    prop_assert!(!policy.is_broadcast_in(Realm::Internal(network.realm), address));
                    prop_assert!(policy.policy_way(id, network.realm, &probe, 7).is_none());
                    let exceptions = network.kernel.iter().chain(&network.exempt);
                    prop_assert!(!exceptions.into_iter().any(|cidr| cidr.contains(address)));
                    prop_assert!(!matches!(address.octets()[0], 0 | 127 | 224..=255));
                    prop_assert!(!address.is_link_local());
                    for public in policy.public_addresses() {
                        let route = policy.external_route(Some(public.address), address);
                        prop_assert_eq!(policy.route_to_stranger(public.address), route);
                    }
                }
            }
        }
    }

    #[test]
    fn guests_have_strangers_unless_something_is_said_of_all_addresses() {
        let web = (1, false, [CIDRS.len(); 3]);
        let stranger = Ipv4Addr::new(198, 51, 101, 9);
        let known = Ipv4Addr::new(10, 2, 0, 1);
        let lab = (4, false, [CIDRS.len(); 3]);
        let usual = policy(&(vec![web, lab], Vec::new()));
        assert!(usual.is_stranger_to(NetworkId(0), stranger));
        assert!(!usual.is_stranger_to(NetworkId(0), known), "another realm's guest");
        let routed = policy(&(vec![web, lab], vec![(8, false)]));
        assert!(!routed.is_stranger_to(NetworkId(0), stranger), "a route takes all");
        assert!(routed.is_stranger_to(NetworkId(1), stranger), "that of another realm does not");
        let steered = policy(&(vec![(1, false, [9, 9, 4]), lab], Vec::new()));
        assert!(!steered.is_stranger_to(NetworkId(0), stranger), "who is asked more");
        assert!(!usual.is_stranger_to(NetworkId(9), stranger), "no network");
    }
}
