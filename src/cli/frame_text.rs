//! A frame as a line in the packet language: the other way round than `packet_text`.

use std::fmt::Write;

use crate::cli::packet_ipv6;
use crate::cli::packet_text::{TCP_FLAGS, icmp_name};
use crate::flow::Protocol;
use crate::wire::parse::{self, Fragment, Kind, Parsed};
use crate::wire::{arp, icmp};

/// What `frame` is, such as `tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn] ttl 64 length 40`.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    if let Some(arp) = arp::parse(frame) {
        return format!("arp of {} for {}", arp.sender, arp.target);
    }
    if let Some(line) = packet_ipv6::describe(frame) {
        return line;
    }
    match parse::parse(frame) {
        Ok(packet) => packet_line(frame, &packet),
        Err(reason) => format!("{} bytes that are no packet ({})", frame.len(), reason.name()),
    }
}

fn packet_line(frame: &[u8], packet: &Parsed) -> String {
    let (source, destination) = (packet.source, packet.destination);
    // The packet language has the identifier of an ICMP query behind its name.
    let ported = packet.protocol.has_ports()
        && packet.protocol != Protocol::ICMP
        && packet.fragment != Fragment::Later;
    let mut line = match ported {
        true => format!("{} {source} > {destination}", packet.protocol),
        false => format!("{} {} > {}", packet.protocol, source.address, destination.address),
    };
    let byte = |offset: u16| frame.get(usize::from(packet.transport + offset)).copied();
    match (packet.fragment, packet.kind) {
        (Fragment::Later, _) => line.push_str(" later fragment"),
        (_, Kind::Transport) if packet.protocol == Protocol::TCP => {
            let _ = write!(line, " [{}]", flags(packet.tcp_flags));
        }
        (_, Kind::Transport) => {}
        (_, Kind::IcmpQuery { icmp_type }) => {
            let _ = write!(line, " {} id {}", icmp_name(icmp_type, 0), source.port);
        }
        (_, Kind::IcmpOther { icmp_type }) => {
            let _ = write!(line, " {}", icmp_name(icmp_type, byte(1).unwrap_or(0)));
        }
        (_, Kind::IcmpError) => {
            let code = byte(1).unwrap_or(0);
            let icmp_type = byte(0).unwrap_or(0);
            let _ = write!(line, " {}", icmp_name(icmp_type, code));
            if let (3, 4, Some(high), Some(low)) = (icmp_type, code, byte(6), byte(7)) {
                let _ = write!(line, " mtu {}", u16::from_be_bytes([high, low]));
            }
            if let Ok(quote) = icmp::quote(frame, packet) {
                let (source, destination) = (quote.source, quote.destination);
                let _ = write!(line, " ({} {source} > {destination})", quote.protocol);
            }
        }
    }
    if packet.fragment == Fragment::First {
        line.push_str(" first fragment");
    }
    let _ = write!(line, " ttl {} length {}", packet.ttl, packet.packet_length());
    if packet.dont_fragment {
        line.push_str(" df");
    }
    line
}

pub(super) fn flags(octet: u8) -> String {
    let names: Vec<_> =
        TCP_FLAGS.iter().filter(|(_, bit)| octet & bit != 0).map(|(name, _)| *name).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::packet_text::PacketText;
    use crate::flow::Mac;

    /// A text, by way of a frame.
    fn again(text: &str) -> String {
        let packet: PacketText = text.parse().unwrap();
        describe(&packet.frame(Mac([2; 6]), Mac([4; 6]), 7).unwrap())
    }

    #[test]
    fn a_packet_reads_as_it_was_written() {
        for text in [
            "tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn] ttl 64 length 40",
            "tcp 10.1.1.5:40000 > 198.51.100.9:443 [fin,ack] ttl 64 length 40 df",
            "udp 10.1.1.5:5000 > 198.51.100.9:53 ttl 3 length 100",
            "icmp 198.51.100.9 > 203.0.113.12 echo-request id 7 ttl 64 length 28",
            "gre 10.1.1.5 > 198.51.100.9 ttl 64 length 28",
            "112 10.1.1.5 > 198.51.100.9 ttl 64 length 28",
            "icmp 1.1.1.1 > 2.2.2.2 fragmentation-needed mtu 1400 (udp 2.2.2.2:5 > 3.3.3.3:53) ttl 64 length 56",
        ] {
            assert_eq!(again(text), text);
            assert_eq!(again(&again(text)), text);
        }
    }

    #[test]
    fn what_is_no_packet_is_said_to_be_none() {
        assert_eq!(describe(&[0; 5]), "5 bytes that are no packet (truncated)");
    }
}
