//! Packets made and judged the slow way, byte by byte, with none of `wire`'s code.

use std::net::Ipv4Addr;

use crate::flow::{Endpoint, Protocol};

/// An IPv4 packet in the making; its checksums come out right.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The tag's control field; none for an untagged frame.
    pub tag: Option<u16>,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub identification: u16,
    /// Flags and offset, as the header holds them.
    pub flags_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// IP options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Protocol.
    pub protocol: Protocol,
    /// From whom.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// Transport header and data.
    pub transport: Vec<u8>,
    /// What the link pads the frame with.
    pub padding: Vec<u8>,
}

impl Packet {
    /// A packet that carries `transport` as it is.
    #[must_use]
    pub fn new(
        protocol: Protocol,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        transport: Vec<u8>,
    ) -> Self {
        Self {
            tag: None,
            tos: 0,
            identification: 1,
            flags_offset: 0x4000,
            ttl: 64,
            options: Vec::new(),
            protocol,
            source,
            destination,
            transport,
            padding: Vec::new(),
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: Endpoint, destination: Endpoint, data: &[u8]) -> Self {
        let mut transport = ports(source, destination);
        transport.extend_from_slice(&length_of(8 + data.len()).to_be_bytes());
        transport.extend_from_slice(&[0, 0]);
        transport.extend_from_slice(data);
        Self::new(Protocol::UDP, source.address, destination.address, transport)
            .with_transport_checksum()
    }

    /// A TCP segment, sequence number 1000, window 1024. `options` is a multiple of four bytes.
    #[must_use]
    pub fn tcp(
        source: Endpoint,
        destination: Endpoint,
        flags: u8,
        options: &[u8],
        data: &[u8],
    ) -> Self {
        let mut transport = ports(source, destination);
        transport.extend_from_slice(&1000_u32.to_be_bytes());
        transport.extend_from_slice(&2000_u32.to_be_bytes());
        let words = u8::try_from(5 + options.len() / 4).expect("short options");
        transport.extend_from_slice(&[words << 4, flags, 4, 0, 0, 0, 0, 0]);
        transport.extend_from_slice(options);
        transport.extend_from_slice(data);
        Self::new(Protocol::TCP, source.address, destination.address, transport)
            .with_transport_checksum()
    }

    /// An ICMP message: `rest` is the second word of its header.
    #[must_use]
    pub fn icmp(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        (icmp_type, code): (u8, u8),
        rest: [u8; 4],
        data: &[u8],
    ) -> Self {
        let mut transport = vec![icmp_type, code, 0, 0];
        transport.extend_from_slice(&rest);
        transport.extend_from_slice(data);
        Self::new(Protocol::ICMP, source, destination, transport).with_transport_checksum()
    }

    /// An echo request, or a reply for type 0.
    #[must_use]
    pub fn echo(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        icmp_type: u8,
        identifier: u16,
        data: &[u8],
    ) -> Self {
        let [high, low] = identifier.to_be_bytes();
        Self::icmp(source, destination, (icmp_type, 0), [high, low, 0, 1], data)
    }

    /// A DCCP, SCTP or UDP-Lite packet.
    #[must_use]
    pub fn with_ports(
        protocol: Protocol,
        source: Endpoint,
        destination: Endpoint,
        data: &[u8],
    ) -> Self {
        let mut transport = ports(source, destination);
        transport.extend_from_slice(match protocol {
            // Checksum over everything; header of three words, the whole covered.
            Protocol::DCCP => &[3, 0, 0, 0, 0x40, 0, 0, 1][..],
            Protocol::SCTP => &[0, 0, 0, 7, 0, 0, 0, 0][..],
            Protocol::UDP_LITE => &[0, 0, 0, 0][..],
            _ => panic!("{protocol} has a constructor of its own or no ports"),
        });
        transport.extend_from_slice(data);
        Self::new(protocol, source.address, destination.address, transport)
            .with_transport_checksum()
    }

    /// The same packet with its transport checksum computed anew.
    #[must_use]
    pub fn with_transport_checksum(mut self) -> Self {
        let Some((offset, length)) = checksum_place(self.protocol) else { return self };
        self.transport[offset..offset + length].fill(0);
        let checksum =
            transport_checksum(self.protocol, self.source, self.destination, &self.transport);
        self.transport[offset..offset + length].copy_from_slice(&checksum[..length]);
        self
    }

    /// The packet from its IPv4 header on, without padding.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let header_length = 20 + self.options.len();
        let words = u8::try_from(header_length / 4).expect("short options");
        let mut bytes = vec![0x40 | words, self.tos];
        bytes.extend_from_slice(&length_of(header_length + self.transport.len()).to_be_bytes());
        bytes.extend_from_slice(&self.identification.to_be_bytes());
        bytes.extend_from_slice(&self.flags_offset.to_be_bytes());
        bytes.extend_from_slice(&[self.ttl, self.protocol.0, 0, 0]);
        bytes.extend_from_slice(&self.source.octets());
        bytes.extend_from_slice(&self.destination.octets());
        bytes.extend_from_slice(&self.options);
        let checksum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend_from_slice(&self.transport);
        bytes
    }

    /// The frame, from `02:00:00:00:00:01` to `02:00:00:00:00:02`.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if let Some(control) = self.tag {
            frame.extend_from_slice(&[0x81, 0x00]);
            frame.extend_from_slice(&control.to_be_bytes());
        }
        frame.extend_from_slice(&[0x08, 0x00]);
        frame.extend_from_slice(&self.bytes());
        frame.extend_from_slice(&self.padding);
        frame
    }
}

/// Which checksums of the IPv4 packet `packet` are wrong. A transport checksum that cannot be judged
/// (none, a fragment, a protocol without) is not wrong.
#[must_use]
pub fn wrong_checksums(packet: &[u8]) -> Vec<&'static str> {
    let header_length = usize::from(packet[0] & 15) * 4;
    let total_length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let mut wrong = Vec::new();
    if checksum(&packet[..header_length]) != 0 {
        wrong.push("ipv4");
    }
    let protocol = Protocol(packet[9]);
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let Some((offset, length)) = checksum_place(protocol) else { return wrong };
    if fragment || packet.len() < total_length || total_length < header_length + offset + length {
        return wrong;
    }
    let transport = &packet[header_length..total_length];
    let found = &transport[offset..offset + length];
    if protocol == Protocol::UDP && found == [0, 0] {
        return wrong;
    }
    let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let right = match protocol {
        Protocol::SCTP => {
            let mut blank = transport.to_vec();
            blank[offset..offset + length].fill(0);
            crc32c(&blank).to_le_bytes() == found
        }
        // UDP-Lite knows no packet without one (RFC 3828, section 3.1).
        Protocol::UDP_LITE if found == [0, 0] => false,
        // As receivers do: with the checksum in its place, all is zero. Both zeros will do.
        _ => checksum(&covered(protocol, source, destination, transport)) == 0,
    };
    if !right {
        wrong.push("transport");
    }
    wrong
}

/// The checksum of bytes (RFC 1071), two at a time.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carry was added")
}

/// CRC32c, a bit at a time (RFC 9260, appendix A).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// Where a protocol's checksum is in its header, and how long.
fn checksum_place(protocol: Protocol) -> Option<(usize, usize)> {
    match protocol {
        Protocol::DCCP | Protocol::UDP | Protocol::UDP_LITE => Some((6, 2)),
        Protocol::ICMP => Some((2, 2)),
        Protocol::SCTP => Some((8, 4)),
        Protocol::TCP => Some((16, 2)),
        _ => None,
    }
}

/// The checksum that belongs into `transport`, whose checksum field is zero; first bytes count.
fn transport_checksum(
    protocol: Protocol,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    transport: &[u8],
) -> [u8; 4] {
    if protocol == Protocol::SCTP {
        return crc32c(transport).to_le_bytes();
    }
    let checksum = match checksum(&covered(protocol, source, destination, transport)) {
        0 if matches!(protocol, Protocol::UDP | Protocol::UDP_LITE) => 0xffff,
        checksum => checksum,
    };
    let [high, low] = checksum.to_be_bytes();
    [high, low, 0, 0]
}

/// What an internet checksum is computed over: a pseudo-header, but for ICMP, and all of `transport`.
fn covered(
    protocol: Protocol,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    transport: &[u8],
) -> Vec<u8> {
    let mut covered = Vec::new();
    if protocol != Protocol::ICMP {
        covered.extend_from_slice(&source.octets());
        covered.extend_from_slice(&destination.octets());
        covered.extend_from_slice(&[0, protocol.0]);
        covered.extend_from_slice(&length_of(transport.len()).to_be_bytes());
    }
    covered.extend_from_slice(transport);
    covered
}

fn ports(source: Endpoint, destination: Endpoint) -> Vec<u8> {
    [source.port.to_be_bytes(), destination.port.to_be_bytes()].concat()
}

fn length_of(length: usize) -> u16 {
    u16::try_from(length).expect("a packet has at most 65,535 bytes")
}
