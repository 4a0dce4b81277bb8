//! What `host` has to know of the rules: where natwerk has addresses, and how large packets may be.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::flow::PortId;
use crate::next_hop::Neighbor;
use crate::policy::Policy;
use crate::policy::encapsulation::Encapsulations;
use crate::rules::set::Cidr;

/// The rules as far as they concern links and addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Every IPv4 address of the router: gateways and public addresses.
    pub segments: Vec<Segment>,
    /// The same of IPv6.
    pub ipv6: Vec<SegmentIpv6>,
    /// The MTU of networks that have one of their own, by interface and tag.
    pub mtus: Vec<(PortId, u16, u16)>,
    /// The upstream routers, each once.
    pub upstreams: Vec<Neighbor>,
    /// Networks under two tags and inside VXLAN.
    pub encapsulations: Arc<Encapsulations>,
}

/// An address of the router, and the stations it can be reached by directly.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Segment {
    /// The interface.
    pub port: PortId,
    /// The tag; zero for none.
    pub vlan: u16,
    /// The router's address.
    pub address: Ipv4Addr,
    /// Who is on the link.
    pub prefix: Cidr,
}

/// An IPv6 address of the router. Its neighbours are the kernel's to find.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SegmentIpv6 {
    /// The interface.
    pub port: PortId,
    /// The tag; zero for none. Under a tag it takes a VLAN interface of the kernel.
    pub vlan: u16,
    /// The router's address.
    pub address: Ipv6Addr,
    /// The length of its prefix.
    pub prefix_length: u8,
}

impl Plan {
    /// What `policy` says.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let gateways = policy.networks().iter().map(|network| Segment {
            port: network.port,
            vlan: network.vlan,
            address: network.gateway,
            prefix: network.cidr,
        });
        let public = policy.public_addresses().iter().map(|public| Segment {
            port: public.port,
            vlan: public.vlan,
            address: public.address,
            prefix: public.segment,
        });
        let mtus = policy
            .networks()
            .iter()
            .filter_map(|network| Some((network.port, network.vlan, network.mtu?)));
        let mut upstreams: Vec<_> = policy
            .public_addresses()
            .iter()
            .filter_map(|public| {
                Some(Neighbor {
                    port: public.port,
                    vlan: public.vlan,
                    address: public.gateway?.into(),
                })
            })
            .collect();
        upstreams.extend(policy.ipv6().addresses().iter().filter_map(|public| {
            Some(Neighbor { port: public.port, vlan: public.vlan, address: public.gateway?.into() })
        }));
        upstreams.sort_unstable_by_key(|hop| (hop.port, hop.vlan, hop.address));
        upstreams.dedup();
        let gateways_ipv6 = policy.networks().iter().filter_map(|network| {
            network.ipv6.as_ref().map(|ipv6| SegmentIpv6 {
                port: network.port,
                vlan: network.vlan,
                address: ipv6.gateway,
                prefix_length: ipv6.cidr.length(),
            })
        });
        let public_ipv6 = policy.ipv6().addresses().iter().map(|public| SegmentIpv6 {
            port: public.port,
            vlan: public.vlan,
            address: public.address,
            prefix_length: public.segment.length(),
        });
        Self {
            segments: gateways.chain(public).collect(),
            ipv6: gateways_ipv6.chain(public_ipv6).collect(),
            mtus: mtus.collect(),
            upstreams,
            encapsulations: Arc::clone(policy.encapsulations()),
        }
    }

    /// The address of ours from which `target` is asked for: one of the prefix it is in.
    #[must_use]
    pub fn sender(&self, port: PortId, vlan: u16, target: Ipv4Addr) -> Option<Ipv4Addr> {
        self.segments
            .iter()
            .find(|segment| {
                (segment.port, segment.vlan) == (port, vlan) && segment.prefix.contains(target)
            })
            .map(|segment| segment.address)
    }

    /// Whether `address` is ours on an interface and tag.
    #[must_use]
    pub fn is_ours(&self, port: PortId, vlan: u16, address: Ipv4Addr) -> bool {
        self.segments.iter().any(|own| (own.port, own.vlan, own.address) == (port, vlan, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_is_ours_on_the_same_link_and_prefix() {
        let segment = |port, vlan, address: [u8; 4]| Segment {
            port: PortId(port),
            vlan,
            address: Ipv4Addr::from(address),
            prefix: Cidr::containing(Ipv4Addr::from(address), 24),
        };
        let segments = vec![
            segment(0, 0, [10, 1, 1, 1]),
            segment(0, 100, [10, 1, 1, 254]),
            segment(1, 0, [203, 0, 113, 10]),
            segment(1, 0, [198, 51, 100, 10]),
        ];
        let plan = Plan { segments, ..Plan::default() };
        for (port, vlan, target, expected) in [
            (0, 0, [10, 1, 1, 5], Some([10, 1, 1, 1])),
            (0, 100, [10, 1, 1, 5], Some([10, 1, 1, 254])),
            (0, 101, [10, 1, 1, 5], None),
            (1, 0, [198, 51, 100, 1], Some([198, 51, 100, 10])),
            (1, 0, [192, 0, 2, 1], None),
        ] {
            let sender = plan.sender(PortId(port), vlan, Ipv4Addr::from(target));
            assert_eq!(sender, expected.map(Ipv4Addr::from), "{port} {vlan} {target:?}");
        }
        assert!(plan.is_ours(PortId(0), 100, Ipv4Addr::new(10, 1, 1, 254)));
        assert!(!plan.is_ours(PortId(0), 0, Ipv4Addr::new(10, 1, 1, 254)));
    }
}
