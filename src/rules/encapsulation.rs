//! How a network is reached that is not untagged or under one tag: two tags, or VXLAN.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::rules::values::Cidr;

/// The tag in front of a network's own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct OuterTag {
    /// Its VLAN.
    pub vlan: u16,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: TagKind,
}

/// The type of an outer tag.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize)]
pub enum TagKind {
    /// A customer's tag, as the inner one.
    #[serde(rename = "802.1q")]
    Customer,
    /// A provider's (IEEE 802.1ad).
    #[default]
    #[serde(rename = "802.1ad")]
    Provider,
}

/// A network inside VXLAN (RFC 7348), of which natwerk is the gateway.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Vxlan {
    /// Its identifier.
    pub vni: u32,
    /// natwerk's own VTEP address.
    pub local: Ipv4Addr,
    /// The length of the prefix that its VTEPs without a router in between are in.
    pub prefix_len: u8,
    /// The router to the other VTEPs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// VTEPs that get what is for all, or for a station that nobody knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<Ipv4Addr>,
    /// Whether VTEPs that are not listed may take part.
    pub learning: bool,
}

impl TagKind {
    /// The EtherType.
    #[must_use]
    pub const fn ether_type(self) -> u16 {
        match self {
            Self::Customer => 0x8100,
            Self::Provider => 0x88a8,
        }
    }
}

impl Vxlan {
    /// Who packets to the VTEP `remote` are sent to; none if nobody leads there.
    #[must_use]
    pub fn next_hop(&self, remote: Ipv4Addr) -> Option<Ipv4Addr> {
        match Cidr::containing(self.local, self.prefix_len).contains(remote) {
            true => Some(remote),
            false => self.gateway,
        }
    }
}
