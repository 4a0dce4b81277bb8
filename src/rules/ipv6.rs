//! What the rules say of IPv6: prefixes of both families, the public side's addresses, a network's
//! prefix, and who may come in. There is no NAT: guests have public addresses of their own.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::flow::Family;
use crate::rules::diagnostic::Place;
use crate::rules::set::{Action, Cidr, Match, is_default};

/// Prefixes that a filter rule is about; none at all means everything, of both families.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prefixes {
    /// Those of IPv4.
    pub ipv4: Vec<Cidr>,
    /// Those of IPv6.
    pub ipv6: Vec<Cidr<Ipv6Addr>>,
}

/// A family whose prefixes are told apart from the other's.
pub trait FamilyPrefixes: Family {
    /// Those of this family.
    fn of(prefixes: &Prefixes) -> &[Cidr<Self>];
}

impl FamilyPrefixes for Ipv4Addr {
    fn of(prefixes: &Prefixes) -> &[Cidr] {
        &prefixes.ipv4
    }
}

impl FamilyPrefixes for Ipv6Addr {
    fn of(prefixes: &Prefixes) -> &[Cidr<Self>] {
        &prefixes.ipv6
    }
}

impl Prefixes {
    /// None: everything, of both families.
    pub const NONE: &'static Self = &Self { ipv4: Vec::new(), ipv6: Vec::new() };

    /// The prefixes of one family; an empty list means all of it. None if the rule is about the
    /// other family alone.
    #[must_use]
    pub fn family<A: FamilyPrefixes>(&self) -> Option<&[Cidr<A>]> {
        let own = A::of(self);
        (!own.is_empty() || self.is_empty()).then_some(own)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    /// Adds a prefix of either family.
    pub fn push(&mut self, prefix: AnyCidr) {
        match prefix {
            AnyCidr::V4(cidr) => self.ipv4.push(cidr),
            AnyCidr::V6(cidr) => self.ipv6.push(cidr),
        }
    }

    /// All of them, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = AnyCidr> {
        let ipv4 = self.ipv4.iter().copied().map(AnyCidr::V4);
        ipv4.chain(self.ipv6.iter().copied().map(AnyCidr::V6))
    }
}

impl From<Vec<Cidr>> for Prefixes {
    fn from(ipv4: Vec<Cidr>) -> Self {
        Self { ipv4, ipv6: Vec::new() }
    }
}

impl FromIterator<AnyCidr> for Prefixes {
    fn from_iter<I: IntoIterator<Item = AnyCidr>>(all: I) -> Self {
        let mut prefixes = Self::default();
        all.into_iter().for_each(|prefix| prefixes.push(prefix));
        prefixes
    }
}

impl Serialize for Prefixes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnyCidr {
    /// Of IPv4.
    V4(Cidr),
    /// Of IPv6.
    V6(Cidr<Ipv6Addr>),
}

impl std::fmt::Display for AnyCidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(cidr) => cidr.fmt(f),
            Self::V6(cidr) => cidr.fmt(f),
        }
    }
}

impl Serialize for AnyCidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An IPv6 address of the router on the public side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublicIpv6 {
    /// The address.
    pub address: Ipv6Addr,
    /// The length of the segment's prefix.
    pub prefix_len: u8,
    /// The interface it is on.
    pub interface: String,
    /// The VLAN it is on; zero for untagged.
    #[serde(skip_serializing_if = "is_default")]
    pub vlan: u16,
    /// The upstream router; none if nothing lies beyond the segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv6Addr>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// The IPv6 side of a guest network: always routed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct NetworkIpv6 {
    /// Its prefix, which no other network has a part of.
    pub cidr: Cidr<Ipv6Addr>,
    /// The router's address in it.
    pub gateway: Ipv6Addr,
}

/// Who may open IPv6 sessions to the guests of a network; behind the last rule is deny.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ipv6FirewallRule {
    /// Its id, unique among IPv6 firewall rules.
    pub id: String,
    /// The network it belongs to.
    pub network: String,
    /// What it does; `allow` unless written otherwise.
    pub action: Action,
    /// The transport part.
    #[serde(flatten)]
    pub matches: Match,
    /// Sources; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr<Ipv6Addr>>,
    /// Guests; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Cidr<Ipv6Addr>>,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// A static route to prefixes behind a guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ipv6Route {
    /// What it leads to.
    pub destination: Cidr<Ipv6Addr>,
    /// The next hop, in the prefix of a network: the destination belongs to that network.
    pub via: Ipv6Addr,
    /// Where it was written.
    #[serde(skip)]
    pub place: Place,
}

/// What an address can never be, for a router or a guest (RFC 4291, section 2.4; RFC 6890).
pub(crate) fn unusable(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("the loopback address")
    } else if address.is_multicast() {
        Some("a multicast address (ff00::/8)")
    } else if address.is_unicast_link_local() {
        Some("a link-local address (fe80::/10)")
    } else if address.to_ipv4().is_some() {
        Some("an IPv4 address written as IPv6")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> AnyCidr {
        AnyCidr::V4(text.parse().unwrap())
    }

    fn v6(text: &str) -> AnyCidr {
        AnyCidr::V6(text.parse().unwrap())
    }

    #[test]
    fn a_rule_is_about_both_families_or_those_it_names() {
        let none = Prefixes::default();
        assert_eq!(none.family::<Ipv4Addr>(), Some(&[][..]));
        assert_eq!(none.family::<Ipv6Addr>(), Some(&[][..]));
        let four: Prefixes = [v4("10.0.0.0/8")].into_iter().collect();
        assert_eq!(four.family::<Ipv4Addr>().map(<[_]>::len), Some(1));
        assert_eq!(four.family::<Ipv6Addr>(), None);
        let both: Prefixes = [v6("2001:db8::/32"), v4("10.0.0.0/8")].into_iter().collect();
        assert_eq!(both.family::<Ipv6Addr>().map(<[_]>::len), Some(1));
        assert_eq!(both.iter().collect::<Vec<_>>(), [v4("10.0.0.0/8"), v6("2001:db8::/32")]);
    }

    #[test]
    fn what_no_router_or_guest_can_have_is_known() {
        for text in ["::", "::1", "ff02::1", "fe80::1", "::ffff:10.0.0.1", "::10.0.0.1"] {
            assert!(unusable(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["2001:db8::1", "fd00::1"] {
            assert_eq!(unusable(text.parse().unwrap()), None, "{text}");
        }
    }
}
