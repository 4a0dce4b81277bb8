//! A described packet to the bytes of its frame, by etherparse.

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, SingleVlanHeader, TcpHeader, UdpHeader,
    VlanId,
};

use crate::cli::packet_text::{Icmp, PacketText, PacketTextError};
use crate::flow::{Mac, Protocol};

/// The frame of `packet`, tagged unless `vlan` is zero.
pub(super) fn frame(
    packet: &PacketText,
    from: Mac,
    to: Mac,
    vlan: u16,
) -> Result<Vec<u8>, PacketTextError> {
    let tag = VlanId::try_new(vlan).ok().filter(|_| vlan != 0);
    let ether_type = if tag.is_some() { EtherType::VLAN_TAGGED_FRAME } else { EtherType::IPV4 };
    let ethernet = Ethernet2Header { source: from.0, destination: to.0, ether_type };
    let mut frame = ethernet.to_bytes().to_vec();
    if let Some(vlan_id) = tag {
        let header =
            SingleVlanHeader { vlan_id, ether_type: EtherType::IPV4, ..Default::default() };
        frame.extend_from_slice(&header.to_bytes());
    }
    frame.extend_from_slice(&ipv4(packet)?);
    Ok(frame)
}

/// The IPv4 packet.
fn ipv4(packet: &PacketText) -> Result<Vec<u8>, PacketTextError> {
    let shortest = Ipv4Header::MIN_LEN_U16 + transport_length(packet)?;
    let length = packet.length.unwrap_or(shortest);
    if length < shortest {
        return Err(PacketTextError::TooShort { least: shortest });
    }
    let mut header = Ipv4Header {
        total_len: length,
        identification: 1,
        dont_fragment: packet.dont_fragment,
        time_to_live: packet.ttl,
        protocol: IpNumber(packet.protocol.0),
        source: packet.source.address.octets(),
        destination: packet.destination.address.octets(),
        ..Default::default()
    };
    let payload = vec![0; usize::from(length - shortest)];
    let transport = transport(packet, &header, &payload)?;
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(&transport);
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// The length of the transport header, a quoted packet included.
fn transport_length(packet: &PacketText) -> Result<u16, PacketTextError> {
    Ok(match packet.protocol {
        Protocol::ICMP => 8 + u16::try_from(quote(&packet.icmp)?.len()).unwrap_or(u16::MAX),
        Protocol::TCP => 20,
        Protocol::DCCP | Protocol::SCTP => 12,
        _ => UdpHeader::LEN_U16,
    })
}

fn transport(
    packet: &PacketText,
    ip: &Ipv4Header,
    payload: &[u8],
) -> Result<Vec<u8>, PacketTextError> {
    Ok(match packet.protocol {
        Protocol::ICMP => icmp(&packet.icmp, payload)?,
        Protocol::TCP => tcp(packet, ip, payload),
        Protocol::UDP => udp(packet, ip, payload),
        protocol if protocol.has_ports() => other_with_ports(packet, ip, payload),
        _ => vec![0; usize::from(transport_length(packet)?)],
    })
}

fn tcp(packet: &PacketText, ip: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let flag = |bit: u8| packet.tcp_flags & bit != 0;
    let mut header = TcpHeader {
        source_port: packet.source.port,
        destination_port: packet.destination.port,
        sequence_number: 1,
        acknowledgment_number: u32::from(flag(0x10)),
        fin: flag(0x01),
        syn: flag(0x02),
        rst: flag(0x04),
        psh: flag(0x08),
        ack: flag(0x10),
        urg: flag(0x20),
        ece: flag(0x40),
        cwr: flag(0x80),
        window_size: u16::MAX,
        ..Default::default()
    };
    // The payload is at most 65,535 bytes, so a sum can always be had.
    header.checksum = header.calc_checksum_ipv4(ip, payload).unwrap_or_default();
    header.to_bytes().to_vec()
}

fn udp(packet: &PacketText, ip: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let length = UdpHeader::LEN_U16 + u16::try_from(payload.len()).unwrap_or_default();
    let mut header = UdpHeader {
        source_port: packet.source.port,
        destination_port: packet.destination.port,
        length,
        checksum: 0,
    };
    header.checksum = header.calc_checksum_ipv4(ip, payload).unwrap_or_default();
    header.to_bytes().to_vec()
}

/// SCTP, DCCP and UDP-Lite: ports first, then what little the shortest header must say.
fn other_with_ports(packet: &PacketText, ip: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; if packet.protocol == Protocol::UDP_LITE { 8 } else { 12 }];
    header[..2].copy_from_slice(&packet.source.port.to_be_bytes());
    header[2..4].copy_from_slice(&packet.destination.port.to_be_bytes());
    let pseudo = Sum16BitWords::new()
        .add_slice(&ip.source)
        .add_slice(&ip.destination)
        .add_2bytes([0, packet.protocol.0])
        .add_2bytes((ip.total_len - Ipv4Header::MIN_LEN_U16).to_be_bytes());
    match packet.protocol {
        // The checksum covers everything (RFC 3828, section 3.1: coverage 0; RFC 4340, 9.1).
        Protocol::UDP_LITE | Protocol::DCCP => {
            if packet.protocol == Protocol::DCCP {
                header[4] = 3; // Data offset in words.
            }
            let sum = pseudo.add_slice(&header).add_slice(payload);
            header[6..8].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        }
        // CRC32c, stored with its lowest byte first (RFC 9260, appendix A).
        _ => {
            let sum = crc32c(header.iter().chain(payload).copied());
            header[8..12].copy_from_slice(&sum.to_le_bytes());
        }
    }
    header
}

/// One bit after the other: it runs once for each packet that somebody typed.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (POLYNOMIAL * (sum & 1)))
    })
}

fn icmp(icmp: &Icmp, payload: &[u8]) -> Result<Vec<u8>, PacketTextError> {
    let mut bytes = vec![icmp.icmp_type, icmp.code, 0, 0];
    match (icmp.quote.is_some(), icmp.icmp_type, icmp.code) {
        (true, 3, 4) => bytes.extend([[0, 0], icmp.mtu.to_be_bytes()].concat()),
        (true, _, _) => bytes.extend([0; 4]),
        (false, _, _) => {
            bytes.extend([icmp.identifier.to_be_bytes(), icmp.sequence.to_be_bytes()].concat());
        }
    }
    bytes.extend(quote(icmp)?);
    let sum = Sum16BitWords::new().add_slice(&bytes).add_slice(payload).ones_complement();
    // The sum of words in memory order is in memory order too.
    bytes[2..4].copy_from_slice(&sum.to_ne_bytes());
    Ok(bytes)
}

/// The quoted packet: its headers, as a router would quote them.
fn quote(icmp: &Icmp) -> Result<Vec<u8>, PacketTextError> {
    icmp.quote.as_deref().map_or(Ok(Vec::new()), ipv4)
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    const FROM: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const TO: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn build(text: &str, vlan: u16) -> Vec<u8> {
        text.parse::<PacketText>().unwrap().frame(FROM, TO, vlan).unwrap()
    }

    fn ip_header(frame: &[u8], at: usize) -> Ipv4Header {
        let (header, _) = Ipv4Header::from_slice(&frame[at..]).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        header
    }

    #[test]
    fn a_tcp_frame_is_whole_and_its_checksums_are_right() {
        let frame = build("tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]", 100);
        assert_eq!(&frame[12..18], [0x81, 0, 0, 100, 8, 0]);
        let ip = ip_header(&frame, 18);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        assert!(tcp.syn() && !tcp.ack());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (40000, 443));
        let header = tcp.to_header();
        assert_eq!(header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap(), tcp.checksum());
    }

    #[test]
    fn a_udp_frame_is_as_long_as_it_says() {
        let frame = build("udp 10.1.1.5:5000 > 8.8.8.8:53 length 100 df ttl 3", 0);
        assert_eq!(frame.len(), 14 + 100);
        let ip = ip_header(&frame, 14);
        assert_eq!((ip.total_len, ip.time_to_live, ip.dont_fragment), (100, 3, true));
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
        assert_eq!(udp.length(), 80);
        let header = udp.to_header();
        assert_eq!(header.calc_checksum_ipv4(&ip, udp.payload()).unwrap(), udp.checksum());
    }

    #[test]
    fn an_icmp_error_holds_the_packet_it_quotes() {
        let text =
            "icmp 1.1.1.1 > 2.2.2.2 fragmentation-needed mtu 1400 (udp 2.2.2.2:5 > 3.3.3.3:53)";
        let frame = build(text, 0);
        ip_header(&frame, 14);
        assert_eq!(&frame[34..36], [3, 4]);
        assert_eq!(&frame[40..42], 1400_u16.to_be_bytes());
        assert_eq!(ip_header(&frame, 42).destination, [3, 3, 3, 3]);
        assert_eq!(&frame[62..66], [0, 5, 0, 53]);
        assert_eq!(Sum16BitWords::new().add_slice(&frame[34..]).ones_complement(), 0);
    }

    #[test]
    fn an_echo_request_has_identifier_and_sequence() {
        let frame = build("icmp 1.1.1.1 > 2.2.2.2 id 7 seq 9", 0);
        assert_eq!(&frame[34..36], [8, 0]);
        assert_eq!(&frame[38..42], [0, 7, 0, 9]);
        assert_eq!(Sum16BitWords::new().add_slice(&frame[34..]).ones_complement(), 0);
    }

    #[test]
    fn an_sctp_frame_has_the_checksum_of_its_rfc() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let frame = build("sctp 1.1.1.1:5 > 2.2.2.2:6", 0);
        assert_eq!(frame.len(), 14 + 20 + 12);
        assert_eq!(&frame[34..38], [0, 5, 0, 6]);
    }

    #[test]
    fn every_protocol_number_makes_a_sound_ip_packet() {
        for number in 0..=255_u8 {
            let protocol = Protocol(number);
            let ported = protocol.has_ports() && protocol != Protocol::ICMP;
            let port = if ported { ":9" } else { "" };
            let frame = build(&format!("{number} 1.1.1.1{port} > 2.2.2.2{port}"), 0);
            let ip = ip_header(&frame, 14);
            assert_eq!(ip.protocol.0, number);
            assert_eq!(frame.len(), 14 + usize::from(ip.total_len));
        }
    }

    #[test]
    fn a_length_below_the_headers_is_refused() {
        let packet: PacketText = "tcp 1.1.1.1:1 > 2.2.2.2:2 length 39".parse().unwrap();
        let error = packet.frame(FROM, TO, 0).unwrap_err();
        assert_eq!(error, PacketTextError::TooShort { least: 40 });
    }
}
