//! IPv6 packets made the slow way, byte by byte, with none of `wire`'s code.

use std::net::Ipv6Addr;

use crate::flow::{Endpoint, Protocol};
use crate::testing::packets::checksum;

/// An IPv6 packet in the making; its checksums come out right.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The tag's control field; none for an untagged frame.
    pub tag: Option<u16>,
    /// Hop limit.
    pub hop_limit: u8,
    /// Extension headers in order: each its number, and its bytes from behind the first one on.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The protocol behind them.
    pub protocol: Protocol,
    /// From whom.
    pub source: Ipv6Addr,
    /// To whom.
    pub destination: Ipv6Addr,
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
        source: Ipv6Addr,
        destination: Ipv6Addr,
        transport: Vec<u8>,
    ) -> Self {
        Self {
            tag: None,
            hop_limit: 64,
            extensions: Vec::new(),
            protocol,
            source,
            destination,
            transport,
            padding: Vec::new(),
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: Endpoint<Ipv6Addr>, destination: Endpoint<Ipv6Addr>, data: &[u8]) -> Self {
        let length = u16::try_from(8 + data.len()).expect("a datagram");
        let mut transport = ports(source.port, destination.port);
        transport.extend(length.to_be_bytes());
        transport.extend([0, 0]);
        transport.extend(data);
        Self::new(Protocol::UDP, source.address, destination.address, transport).summed(6)
    }

    /// A TCP segment without options: sequence number 1000, acknowledgement 2000.
    #[must_use]
    pub fn tcp(
        source: Endpoint<Ipv6Addr>,
        destination: Endpoint<Ipv6Addr>,
        flags: u8,
        data: &[u8],
    ) -> Self {
        let mut transport = ports(source.port, destination.port);
        transport.extend(1000_u32.to_be_bytes());
        transport.extend(2000_u32.to_be_bytes());
        transport.extend([0x50, flags, 4, 0, 0, 0, 0, 0]);
        transport.extend(data);
        Self::new(Protocol::TCP, source.address, destination.address, transport).summed(16)
    }

    /// An ICMPv6 message; `rest` stands behind the checksum.
    #[must_use]
    pub fn icmp(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        icmp_type: u8,
        code: u8,
        rest: &[u8],
    ) -> Self {
        let transport = [&[icmp_type, code, 0, 0], rest].concat();
        Self::new(Protocol::ICMPV6, source, destination, transport).summed(2)
    }

    /// An echo request (128) or reply (129).
    #[must_use]
    pub fn echo(source: Ipv6Addr, destination: Ipv6Addr, icmp_type: u8, identifier: u16) -> Self {
        let [high, low] = identifier.to_be_bytes();
        Self::icmp(source, destination, icmp_type, 0, &[high, low, 0, 1, b'p', b'i', b'n', b'g'])
    }

    /// The part of this packet's transport from `start` on, `length` bytes, as a fragment.
    #[must_use]
    pub fn fragment(&self, identification: u32, start: usize, length: usize) -> Self {
        let end = (start + length).min(self.transport.len());
        let more = u16::from(end < self.transport.len());
        let offset = u16::try_from(start).expect("in a datagram") | more;
        let mut header = vec![0];
        header.extend(offset.to_be_bytes());
        header.extend(identification.to_be_bytes());
        let mut fragment = self.clone();
        fragment.extensions.push((44, header));
        fragment.transport = self.transport[start..end].to_vec();
        fragment
    }

    /// The packet's bytes, from its IPv6 header on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut chain = Vec::new();
        for (place, (_, rest)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(place + 1);
            chain.push(next.map_or(self.protocol.0, |(number, _)| *number));
            chain.extend(rest);
        }
        let first = self.extensions.first().map_or(self.protocol.0, |(number, _)| *number);
        let length = u16::try_from(chain.len() + self.transport.len()).expect("a packet");
        let [high, low] = length.to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, high, low, first, self.hop_limit];
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(chain);
        bytes.extend(&self.transport);
        bytes
    }

    /// The packet in an Ethernet frame, with link addresses that nobody has.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 9, 8];
        if let Some(tag) = self.tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([0x86, 0xdd]);
        frame.extend(self.bytes());
        frame.extend(&self.padding);
        frame
    }

    /// Whether a packet's transport checksum is right.
    #[must_use]
    pub fn sums_up(&self) -> bool {
        checksum(&self.summed_bytes()) == 0
    }

    fn summed(mut self, place: usize) -> Self {
        let sum = match checksum(&self.summed_bytes()) {
            0 => 0xffff,
            sum => sum,
        };
        self.transport[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// The pseudo-header and the transport part.
    fn summed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.source.octets().to_vec();
        bytes.extend(self.destination.octets());
        bytes.extend(u32::try_from(self.transport.len()).expect("a packet").to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol.0]);
        bytes.extend(&self.transport);
        bytes
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}
