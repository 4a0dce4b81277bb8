//! Headers as they lie on the wire: unaligned views, in network order, without copies.
//!
//! A view says nothing about whether the values make sense; [`super::parse`] judges them.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// EtherTypes that natwerk knows.
pub mod ether_type {
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A provider's VLAN tag (IEEE 802.1ad).
    pub const PROVIDER_VLAN: u16 = 0x88a8;
}

/// The Ethernet II header.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// To whom.
    pub destination: [u8; 6],
    /// From whom.
    pub source: [u8; 6],
    /// What follows.
    pub ether_type: U16,
}

/// The four bytes of an 802.1Q tag from behind its own EtherType on.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1 bit), VLAN identifier (12 bits).
    pub control: U16,
    /// What follows.
    pub ether_type: U16,
}

/// The IPv4 header without its options (RFC 791, section 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4 bits) and header length in words of four bytes (4 bits).
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Header and payload, in bytes.
    pub total_length: U16,
    /// Ties fragments together.
    pub identification: U16,
    /// Reserved, DF and MF (3 bits), and the fragment offset in units of eight bytes (13 bits).
    pub flags_offset: U16,
    /// Time to live.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: u8,
    /// Over the header with its options.
    pub checksum: U16,
    /// From whom.
    pub source: U32,
    /// To whom.
    pub destination: U32,
}

impl Ipv4Header {
    /// DF in `flags_offset`.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// MF in `flags_offset`.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The offset in `flags_offset`.
    pub const OFFSET_MASK: u16 = 0x1fff;

    /// The length of the header with its options as it claims, in bytes: 0 to 60.
    #[must_use]
    pub const fn header_length(&self) -> u16 {
        ((self.version_ihl & 0x0f) as u16) << 2
    }

    /// The version as it claims.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Where in the datagram the payload belongs, in bytes: 0 to 65,528.
    #[must_use]
    pub fn fragment_offset(&self) -> u16 {
        (self.flags_offset.get() & Self::OFFSET_MASK) << 3
    }

    /// Whether more fragments follow.
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.flags_offset.get() & Self::MORE_FRAGMENTS != 0
    }

    /// The word that time to live and protocol share, for checksum updates.
    #[must_use]
    pub fn ttl_word(&self) -> u16 {
        u16::from_be_bytes([self.ttl, self.protocol])
    }
}

/// The TCP header without its options (RFC 9293, section 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// From whom.
    pub source_port: U16,
    /// To whom.
    pub destination_port: U16,
    /// The first byte's number.
    pub sequence: U32,
    /// The next byte's number that is expected.
    pub acknowledgement: U32,
    /// Header length in words of four bytes (4 bits), reserved (4 bits).
    pub data_offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// How much more may come, unscaled.
    pub window: U16,
    /// Over pseudo-header, header and data.
    pub checksum: U16,
    /// Where urgent data ends.
    pub urgent: U16,
}

impl TcpHeader {
    /// The length of the header with its options as it claims, in bytes: 0 to 60.
    #[must_use]
    pub const fn header_length(&self) -> u16 {
        ((self.data_offset >> 4) as u16) << 2
    }
}

/// The UDP header (RFC 768); UDP-Lite's is alike, with a coverage in place of the length (RFC 3828).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// From whom.
    pub source_port: U16,
    /// To whom.
    pub destination_port: U16,
    /// Header and data, in bytes.
    pub length: U16,
    /// Over pseudo-header, header and data; zero for none.
    pub checksum: U16,
}

/// The first eight bytes of an ICMP message (RFC 792).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// What it is.
    pub icmp_type: u8,
    /// What exactly.
    pub code: u8,
    /// Over the whole message, without pseudo-header.
    pub checksum: U16,
    /// The identifier of a query. Of an error: a zero and the quote's length in words (RFC 4884).
    pub identifier: U16,
    /// The sequence number of a query; of "fragmentation needed" the MTU.
    pub sequence: U16,
}

/// The SCTP common header (RFC 9260, section 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    /// From whom.
    pub source_port: U16,
    /// To whom.
    pub destination_port: U16,
    /// The receiver's proof that this is its association.
    pub verification_tag: U32,
    /// The CRC32c of the packet, lowest byte first.
    pub checksum: [u8; 4],
}

/// The header at `offset`, if the bytes reach so far.
#[inline]
#[must_use]
pub(crate) fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    bytes: &[u8],
    offset: u16,
) -> Option<&T> {
    let (header, _) = T::ref_from_prefix(bytes.get(usize::from(offset)..)?).ok()?;
    Some(header)
}

/// The header at `offset`, to be changed.
#[inline]
#[must_use]
pub(crate) fn view_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(
    bytes: &mut [u8],
    offset: u16,
) -> Option<&mut T> {
    let (header, _) = T::mut_from_prefix(bytes.get_mut(usize::from(offset)..)?).ok()?;
    Some(header)
}
