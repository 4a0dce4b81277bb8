//! VXLAN (RFC 7348): Ethernet frames inside UDP, opened and closed.

use std::net::Ipv4Addr;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flow::{Mac, Protocol};
use crate::frame::FrameBuffer;
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::header::{EthernetHeader, Ipv4Header, UdpHeader, ether_type, view, view_mut};
use crate::wire::parse::{self, Fragment, LINK_LENGTH};

/// What is in front of the inner frame: Ethernet, IPv4, UDP and VXLAN headers.
pub const OUTER_LENGTH: u16 = 50;
/// How much smaller the inner network's MTU is than the link's: all that, but the inner Ethernet
/// header takes the outer one's room.
pub const OVERHEAD: u16 = OUTER_LENGTH;
/// The UDP port (section 5).
pub const PORT: u16 = 4789;
/// The largest VXLAN network identifier.
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// What the outer headers of a sound VXLAN packet say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// The VTEP that sent it.
    pub remote: Ipv4Addr,
    /// The VTEP that it is for.
    pub local: Ipv4Addr,
    /// The network.
    pub vni: u32,
    /// Where the inner frame begins, in bytes from the start of the outer one.
    pub inner: u16,
    /// One past its last byte.
    pub end: u16,
}

/// What a VXLAN packet is sent with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// The next hop's link address.
    pub destination: Mac,
    /// Our own on the underlay.
    pub source: Mac,
    /// Our VTEP.
    pub local: Ipv4Addr,
    /// The other one.
    pub remote: Ipv4Addr,
    /// The network.
    pub vni: u32,
}

/// Flags and network identifier (section 5).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct VxlanHeader {
    /// The flag I (8 bits) and reserved bits (24).
    flags: U32,
    /// The identifier (24 bits) and reserved bits (8).
    identifier: U32,
}

#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Outer {
    ethernet: EthernetHeader,
    ipv4: Ipv4Header,
    udp: UdpHeader,
    vxlan: VxlanHeader,
}

/// Who an untagged frame is for, if it looks like VXLAN: UDP to its port.
#[must_use]
pub fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    let ethernet: &EthernetHeader = view(frame, 0)?;
    let header: &Ipv4Header = view(frame, LINK_LENGTH)?;
    if ethernet.ether_type.get() != ether_type::IPV4 || header.protocol != Protocol::UDP.0 {
        return None;
    }
    let udp: &UdpHeader = view(frame, LINK_LENGTH + header.header_length())?;
    (udp.destination_port.get() == PORT).then(|| Ipv4Addr::from_bits(header.destination.get()))
}

/// Reads the outer headers of a VXLAN packet. The outer UDP checksum is not looked at, be it zero or
/// not (section 4.1.1 leaves that to us); the inner packet has its own.
///
/// # Errors
/// What is wrong with them. Reserved bits must be zero, as extensions give them other meanings, and
/// what is inside must be a whole, untagged Ethernet frame (section 6.1).
pub fn open(frame: &[u8]) -> Result<Opened, DropReason> {
    let outer = parse::parse(frame)?;
    let is_vxlan = outer.protocol == Protocol::UDP && outer.destination.port == PORT;
    if !is_vxlan || outer.fragment != Fragment::Whole || outer.vlan != 0 {
        return Err(DropReason::VxlanMalformed);
    }
    let start = outer.transport + UDP_LENGTH;
    let header: &VxlanHeader = view(frame, start).ok_or(DropReason::VxlanMalformed)?;
    let identifier = header.identifier.get();
    if header.flags.get() != FLAG_IDENTIFIER || identifier & 0xff != 0 {
        return Err(DropReason::VxlanMalformed);
    }
    let inner = start + VXLAN_LENGTH;
    let inside = frame.get(usize::from(inner)..usize::from(outer.end));
    let ethernet: Option<&EthernetHeader> = inside.and_then(|inside| view(inside, 0));
    match ethernet.map(|ethernet| ethernet.ether_type.get()) {
        None | Some(ether_type::VLAN | ether_type::PROVIDER_VLAN) => {
            Err(DropReason::VxlanMalformed)
        }
        Some(_) => Ok(Opened {
            remote: outer.source.address,
            local: outer.destination.address,
            vni: identifier >> 8,
            inner,
            end: outer.end,
        }),
    }
}

/// Puts outer headers in front of the Ethernet frame in `frame`. Returns none, with the frame as it
/// was, if there is no headroom or it is too long.
pub fn close<B: FrameBuffer>(frame: &mut B, envelope: &Envelope) -> Option<()> {
    let inner = u16::try_from(frame.bytes().len()).ok()?;
    let length = inner.checked_add(OUTER_LENGTH - LINK_LENGTH)?;
    let source_port = source_port(frame.bytes());
    if !frame.grow_front(usize::from(OUTER_LENGTH)) {
        return None;
    }
    let outer: &mut Outer = view_mut(frame.bytes_mut(), 0)?;
    *outer = Outer {
        ethernet: EthernetHeader {
            destination: envelope.destination.0,
            source: envelope.source.0,
            ether_type: U16::new(ether_type::IPV4),
        },
        ipv4: Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_length: U16::new(length),
            // A datagram that is never cut needs none (RFC 6864, section 4.1), and a VTEP must not
            // cut its packets (RFC 7348, section 4.3).
            identification: U16::new(0),
            flags_offset: U16::new(Ipv4Header::DONT_FRAGMENT),
            ttl: OUTER_TTL,
            protocol: Protocol::UDP.0,
            checksum: U16::new(0),
            source: U32::new(envelope.local.to_bits()),
            destination: U32::new(envelope.remote.to_bits()),
        },
        udp: UdpHeader {
            source_port: U16::new(source_port),
            destination_port: U16::new(PORT),
            length: U16::new(length - IPV4_LENGTH),
            // Section 5: it should be zero.
            checksum: U16::new(0),
        },
        vxlan: VxlanHeader {
            flags: U32::new(FLAG_IDENTIFIER),
            identifier: U32::new(envelope.vni << 8),
        },
    };
    let checksum = checksum::checksum(outer.ipv4.as_bytes());
    outer.ipv4.checksum.set(checksum);
    Some(())
}

/// The headers of a VXLAN packet from its VXLAN header on, for whoever has a UDP socket.
#[must_use]
pub fn payload(vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = VxlanHeader { flags: U32::new(FLAG_IDENTIFIER), identifier: U32::new(vni << 8) };
    [header.as_bytes(), inner].concat()
}

/// The outer source port: one for each inner flow, from the dynamic range (section 5), so that the
/// underlay spreads flows and keeps the order of each. Fragments of a datagram have no ports that all
/// of them know, so those do not count for any of them.
#[must_use]
pub fn source_port(inner: &[u8]) -> u16 {
    let word = |at: u16| view::<U32>(inner, at).map_or(0, |word| u64::from(word.get()));
    let ethernet: Option<&EthernetHeader> = view(inner, 0);
    let is_ipv4 = ethernet.is_some_and(|it| it.ether_type.get() == ether_type::IPV4);
    let header: Option<&Ipv4Header> = view(inner, LINK_LENGTH).filter(|_| is_ipv4);
    let mixed = match header {
        // Both link addresses.
        None => word(0).wrapping_mul(MULTIPLIER) ^ word(4) << 16 ^ word(8),
        Some(header) => {
            let addresses =
                u64::from(header.source.get()) << 32 | u64::from(header.destination.get());
            let is_whole = !header.more_fragments() && header.fragment_offset() == 0;
            let has_ports = matches!(
                Protocol(header.protocol),
                Protocol::TCP
                    | Protocol::UDP
                    | Protocol::SCTP
                    | Protocol::DCCP
                    | Protocol::UDP_LITE
            );
            let ports = match is_whole && has_ports {
                true => word(LINK_LENGTH + header.header_length()),
                false => 0,
            };
            addresses.wrapping_mul(MULTIPLIER) ^ ports << 8 ^ u64::from(header.protocol)
        }
    };
    let hash = mixed.wrapping_mul(MULTIPLIER) >> 50;
    DYNAMIC_PORTS | (hash as u16 & !DYNAMIC_PORTS)
}

/// The flag I: the identifier is valid.
const FLAG_IDENTIFIER: u32 = 0x0800_0000;
const VXLAN_LENGTH: u16 = 8;
const UDP_LENGTH: u16 = 8;
const IPV4_LENGTH: u16 = 20;
const OUTER_TTL: u8 = 64;
/// 49152 to 65535 (RFC 6335, section 6).
const DYNAMIC_PORTS: u16 = 0xc000;
/// An odd constant whose bits are well mixed (that of the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

const _: () = assert!(size_of::<Outer>() == OUTER_LENGTH as usize, "fifty bytes");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Endpoint;
    use crate::io::frame::{Frame, FramePool};
    use crate::io::memory::copied;
    use crate::testing::packets::Packet;

    const ENVELOPE: Envelope = Envelope {
        destination: Mac([2, 0, 0, 0, 0, 1]),
        source: Mac([2, 0, 0, 0, 0, 2]),
        local: Ipv4Addr::new(172, 31, 0, 1),
        remote: Ipv4Addr::new(172, 31, 0, 2),
        vni: 0xab_cdef,
    };

    fn udp(port: u16) -> Packet {
        let one = Endpoint::new([10, 1, 1, 5].into(), port);
        Packet::udp(one, Endpoint::new([198, 51, 100, 9].into(), 53), b"question")
    }

    fn closed(inner: &[u8]) -> Vec<u8> {
        let mut pool = FramePool::in_memory(1, 2048).unwrap();
        let mut frame: Frame = copied(&mut pool, inner).unwrap();
        close(&mut frame, &ENVELOPE).unwrap();
        frame.bytes().to_vec()
    }

    #[test]
    fn what_is_closed_opens_to_the_same() {
        let inner = udp(4000).frame();
        let outer = closed(&inner);
        assert_eq!(outer.len(), inner.len() + 50);
        let opened = open(&outer).unwrap();
        assert_eq!((opened.local, opened.remote), (ENVELOPE.remote, ENVELOPE.local));
        assert_eq!((opened.vni, opened.inner), (ENVELOPE.vni, 50));
        assert_eq!(outer[usize::from(opened.inner)..usize::from(opened.end)], inner);
    }

    #[test]
    fn the_outer_headers_are_those_of_the_rfc() {
        let outer = closed(&udp(4000).frame());
        let sliced = etherparse::SlicedPacket::from_ethernet(&outer).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ipv4)) = sliced.net else { panic!("no IPv4") };
        let header = ipv4.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert!(header.dont_fragment);
        let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
        assert!(udp.source_port() >= 49152);
        assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
    }

    #[test]
    fn flows_spread_and_each_keeps_its_port() {
        let port = |source: u16| source_port(&udp(source).frame());
        assert_eq!(port(4000), port(4000));
        let ports: std::collections::HashSet<u16> = (4000..4100).map(port).collect();
        assert!(ports.len() > 90, "{} ports for 100 flows", ports.len());
    }

    #[test]
    fn every_fragment_of_a_datagram_has_the_same_port() {
        let mut first = udp(4000).frame();
        first[20] = 0x20;
        let mut later = udp(9).frame();
        later[21] = 100;
        assert_eq!(source_port(&first), source_port(&later));
    }

    #[test]
    fn flags_reserved_bits_tags_and_short_frames_are_malformed() {
        let sound = closed(&udp(4000).frame());
        for (at, value) in [(42, 0), (42, 0x0c), (43, 1), (45, 0x80), (49, 1), (62, 0x81)] {
            let mut outer = sound.clone();
            outer[at] = value;
            if at == 62 {
                outer[63] = 0;
            }
            assert_eq!(open(&outer), Err(DropReason::VxlanMalformed), "byte {at}");
        }
        assert_eq!(open(&closed(&[0; 13])), Err(DropReason::VxlanMalformed));
        assert_eq!(open(&closed(&[])), Err(DropReason::VxlanMalformed));
        let mut checked = sound;
        checked[40..42].copy_from_slice(&[0xde, 0xad]);
        assert!(open(&checked).is_ok(), "a checksum that is not zero is no obstacle");
    }

    proptest! {
        #[test]
        fn any_bytes_open_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..110, value: u8) {
            let _ = open(&bytes);
            let mut outer = closed(&udp(1).frame());
            if let Some(byte) = outer.get_mut(at) { *byte = value; }
            if let Ok(opened) = open(&outer) {
                prop_assert!(usize::from(opened.end) <= outer.len());
                prop_assert!(opened.inner + 14 <= opened.end && opened.vni <= VNI_MAX);
            }
        }
    }
}
