//! ARP (RFC 826) for IPv4 over Ethernet: read, answered, asked, announced.

use std::net::Ipv4Addr;

use crate::flow::Mac;

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
    todo!()
}

/// Writes a frame that carries `arp` from `source` to `destination`; returns its length (42, or 46
/// with a tag), or none if `buffer` is too small.
pub fn write(buffer: &mut [u8], source: Mac, destination: Mac, arp: &Arp) -> Option<usize> {
    todo!()
}
