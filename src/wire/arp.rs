//! ARP (RFC 826) for IPv4 over Ethernet: read, answered, asked, announced.

use std::net::Ipv4Addr;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::Mac;
use crate::wire::header::{EthernetHeader, VlanTag, ether_type, view, view_mut};
use crate::wire::link;
use crate::wire::parse::{LINK_LENGTH, LINK_LENGTH_TAGGED, VLAN_MASK};

/// An ARP message, sound in all its fixed fields.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arp {
    /// The VLAN it came on; zero for none.
    pub vlan: u16,
    /// Request or reply.
    pub operation: ArpOperation,
    /// Who speaks.
    pub sender_mac: Mac,
    /// Who speaks.
    pub sender: Ipv4Addr,
    /// Who is meant.
    pub target_mac: Mac,
    /// Who is meant.
    pub target: Ipv4Addr,
}

/// What an ARP message does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ArpOperation {
    /// Operation 2.
    Reply,
    /// Operation 1.
    Request,
}

/// The ARP message in a frame, or none if it is anything else or unsound.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Arp> {
    let ethernet: &EthernetHeader = view(frame, 0)?;
    let (vlan, offset) = match ethernet.ether_type.get() {
        ether_type::ARP => (0, LINK_LENGTH),
        ether_type::VLAN => {
            let tag: &VlanTag = view(frame, LINK_LENGTH)?;
            if tag.ether_type.get() != ether_type::ARP {
                return None;
            }
            (tag.control.get() & VLAN_MASK, LINK_LENGTH_TAGGED)
        }
        _ => return None,
    };
    let body: &Body = view(frame, offset)?;
    if body.prefix != Body::PREFIX {
        return None;
    }
    let operation = match body.operation.get() {
        1 => ArpOperation::Request,
        2 => ArpOperation::Reply,
        _ => return None,
    };
    Some(Arp {
        vlan,
        operation,
        sender_mac: Mac(body.sender_mac),
        sender: body.sender.into(),
        target_mac: Mac(body.target_mac),
        target: body.target.into(),
    })
}

/// Writes a frame that carries `arp` from `source` to `destination`; returns its length (42, or 46
/// with a tag), or none if `buffer` is too small.
pub fn write(buffer: &mut [u8], source: Mac, destination: Mac, arp: &Arp) -> Option<usize> {
    let offset = link::write(buffer, destination, source, arp.vlan)?;
    // The EtherType is the header's last field, tag or no tag.
    let ether_type: &mut U16 = view_mut(buffer, offset - 2)?;
    ether_type.set(ether_type::ARP);
    let body: &mut Body = view_mut(buffer, offset)?;
    *body = Body {
        prefix: Body::PREFIX,
        operation: U16::new(match arp.operation {
            ArpOperation::Reply => 2,
            ArpOperation::Request => 1,
        }),
        sender_mac: arp.sender_mac.0,
        sender: arp.sender.octets(),
        target_mac: arp.target_mac.0,
        target: arp.target.octets(),
    };
    Some(usize::from(offset) + size_of::<Body>())
}

/// An ARP message behind the link header.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Body {
    prefix: [u8; 6],
    operation: U16,
    sender_mac: [u8; 6],
    sender: [u8; 4],
    target_mac: [u8; 6],
    target: [u8; 4],
}

impl Body {
    /// Hardware type Ethernet, protocol type IPv4, addresses of six and four bytes.
    const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];
}
