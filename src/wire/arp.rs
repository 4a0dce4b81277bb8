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

impl Arp {
    /// Whether somebody without an address asks if one is free (RFC 5227, section 2.1.1).
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        matches!(self.operation, ArpOperation::Request) && self.sender.is_unspecified()
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn request(vlan: u16) -> Arp {
        Arp {
            vlan,
            operation: ArpOperation::Request,
            sender_mac: OURS,
            sender: Ipv4Addr::new(10, 1, 1, 1),
            target_mac: Mac::default(),
            target: Ipv4Addr::new(10, 1, 1, 5),
        }
    }

    #[test]
    fn a_written_request_is_the_one_of_the_rfc() {
        let mut buffer = [0xff; 60];
        assert_eq!(write(&mut buffer, OURS, Mac::BROADCAST, &request(0)), Some(42));
        let expected = [
            &[0xff; 6][..],
            &OURS.0,
            &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1],
            &OURS.0,
            &[10, 1, 1, 1, 0, 0, 0, 0, 0, 0, 10, 1, 1, 5],
        ]
        .concat();
        assert_eq!(buffer[..42], expected);
    }

    #[test]
    fn etherparse_reads_a_tagged_reply() {
        let reply = Arp { operation: ArpOperation::Reply, target_mac: THEIRS, ..request(100) };
        let mut buffer = [0; 46];
        assert_eq!(write(&mut buffer, OURS, THEIRS, &reply), Some(46));
        let sliced = etherparse::SlicedPacket::from_ethernet(&buffer).unwrap();
        assert_eq!(sliced.vlan_ids()[0].value(), 100);
        let Some(etherparse::NetSlice::Arp(arp)) = sliced.net else { panic!("not ARP") };
        assert_eq!(arp.operation(), etherparse::ArpOperation::REPLY);
        assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&OURS.0[..], &THEIRS.0[..]));
    }

    #[test]
    fn what_is_written_is_read_and_a_small_buffer_is_refused() {
        for vlan in [0, 1, 4094] {
            let mut buffer = [0; 60];
            let length = write(&mut buffer, OURS, THEIRS, &request(vlan)).unwrap();
            assert_eq!(parse(&buffer[..length]), Some(request(vlan)));
            assert_eq!(write(&mut buffer[..length - 1], OURS, THEIRS, &request(vlan)), None);
            assert_eq!(parse(&buffer[..length - 1]), None);
        }
    }

    #[test]
    fn other_hardware_protocols_and_operations_are_not_ours() {
        let mut frame = [0; 42];
        write(&mut frame, OURS, THEIRS, &request(0)).unwrap();
        for (place, value) in [(12, 0x86), (15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3), (20, 1)]
        {
            let mut other = frame;
            other[place] = value;
            assert_eq!(parse(&other), None, "byte {place}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
