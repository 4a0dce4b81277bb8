//! IPv6 in the packet language of `explain` and `trace`, both ways: a line to a frame, a frame to a
//! line.
//!
//! ```text
//! tcp [2001:db8:1::5]:40000 > [2001:db8:51::9]:443 [syn]
//! udp [2001:db8:1::5]:5000 > [2001:db8:51::9]:53 ttl 1 length 1400
//! icmpv6 2001:db8:1::5 > 2001:db8:51::9 echo-request id 7
//! ```

use std::fmt::Write;
use std::net::{Ipv6Addr, SocketAddrV6};

use etherparse::PacketBuilder;

use crate::cli::frame_text::flags;
use crate::cli::packet_text::{PacketTextError as Fault, TCP_FLAGS};
use crate::flow::{Mac, Protocol};
use crate::wire::ipv6::errors::quote;
use crate::wire::ipv6::{ECHO_REPLY, ECHO_REQUEST, Parsed, parse};
use crate::wire::parse::{Fragment, Kind};

/// The frame that `text` describes: Ethernet from one address to the other, tagged unless `vlan` is
/// zero. None if its source is no IPv6 address.
pub fn frame(text: &str, from: Mac, to: Mac, vlan: u16) -> Option<Result<Vec<u8>, Fault>> {
    let source = text.split_whitespace().nth(1)?;
    let is_ipv6 = source.starts_with('[') || source.matches(':').count() > 1;
    is_ipv6.then(|| built(text, from, to, vlan))
}

/// What the words behind the endpoints say.
struct Words {
    tcp_flags: u8,
    icmp_type: u8,
    identifier: u16,
    hop_limit: u8,
    length: Option<u16>,
}

fn built(text: &str, from: Mac, to: Mac, vlan: u16) -> Result<Vec<u8>, Fault> {
    let mut words = text.split_whitespace();
    let protocol = words.next().ok_or(Fault::Ends("a protocol"))?;
    let source = words.next().ok_or(Fault::Ends("a source"))?;
    if words.next() != Some(">") {
        return Err(Fault::Separator);
    }
    let destination = words.next().ok_or(Fault::Ends("a destination"))?;
    let rest = rest(words)?;
    let with_ports = matches!(protocol, "tcp" | "udp");
    let (source, destination) = (endpoint(source, with_ports)?, endpoint(destination, with_ports)?);
    let header = match protocol {
        "tcp" => 60,
        "udp" | "icmpv6" => 48,
        other => return Err(Fault::Protocol(other.to_owned())),
    };
    let length = rest.length.unwrap_or(header);
    let payload = length.checked_sub(header).ok_or(Fault::TooShort { least: header })?;
    let payload = vec![0; usize::from(payload)];

    let ethernet = PacketBuilder::ethernet2(from.0, to.0);
    let addresses = (source.ip().octets(), destination.ip().octets());
    let tag = (vlan != 0).then(|| vlan.try_into().unwrap_or_default());
    let ip = match tag {
        Some(tag) => ethernet.single_vlan(tag).ipv6(addresses.0, addresses.1, rest.hop_limit),
        None => ethernet.ipv6(addresses.0, addresses.1, rest.hop_limit),
    };
    let mut frame = Vec::new();
    let written = match protocol {
        "tcp" => {
            let flag = |bit: u8| rest.tcp_flags & bit != 0;
            let mut tcp = ip.tcp(source.port(), destination.port(), 1, u16::MAX);
            for (is_set, set) in [
                (flag(0x01), SetFlag::Fin),
                (flag(0x02), SetFlag::Syn),
                (flag(0x04), SetFlag::Rst),
                (flag(0x08), SetFlag::Psh),
                (flag(0x10), SetFlag::Ack),
            ] {
                if is_set {
                    tcp = match set {
                        SetFlag::Ack => tcp.ack(1),
                        SetFlag::Fin => tcp.fin(),
                        SetFlag::Psh => tcp.psh(),
                        SetFlag::Rst => tcp.rst(),
                        SetFlag::Syn => tcp.syn(),
                    };
                }
            }
            tcp.write(&mut frame, &payload)
        }
        "udp" => ip.udp(source.port(), destination.port()).write(&mut frame, &payload),
        _ if rest.icmp_type == ECHO_REPLY => {
            ip.icmpv6_echo_reply(rest.identifier, 1).write(&mut frame, &payload)
        }
        _ => ip.icmpv6_echo_request(rest.identifier, 1).write(&mut frame, &payload),
    };
    // What cannot be written is too long for its own length field.
    written.map_err(|_| Fault::TooShort { least: header })?;
    Ok(frame)
}

/// The flags that a line can set.
#[derive(Clone, Copy)]
enum SetFlag {
    Ack,
    Fin,
    Psh,
    Rst,
    Syn,
}

fn rest<'w>(mut words: impl Iterator<Item = &'w str>) -> Result<Words, Fault> {
    let mut rest = Words {
        tcp_flags: 0x02,
        icmp_type: ECHO_REQUEST,
        identifier: 1,
        hop_limit: 64,
        length: None,
    };
    while let Some(word) = words.next() {
        match word {
            "echo-request" => rest.icmp_type = ECHO_REQUEST,
            "echo-reply" => rest.icmp_type = ECHO_REPLY,
            "id" => rest.identifier = number("id", words.next())?,
            "ttl" => rest.hop_limit = number("ttl", words.next())?,
            "length" => rest.length = Some(number("length", words.next())?),
            word => {
                let list = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let list = list.ok_or_else(|| Fault::Word(word.to_owned()))?;
                rest.tcp_flags = 0;
                for name in list.split(',') {
                    let known = TCP_FLAGS.iter().find(|(flag, _)| *flag == name);
                    let (_, bit) = known.ok_or_else(|| Fault::Word(name.to_owned()))?;
                    rest.tcp_flags |= bit;
                }
            }
        }
    }
    Ok(rest)
}

fn number<T: std::str::FromStr>(word: &'static str, value: Option<&str>) -> Result<T, Fault> {
    let value = value.ok_or(Fault::Ends("a number"))?;
    value.parse().map_err(|_| Fault::Number { word, value: value.to_owned() })
}

fn endpoint(text: &str, with_port: bool) -> Result<SocketAddrV6, Fault> {
    let address =
        |text: &str| text.parse::<Ipv6Addr>().map_err(|_| Fault::Ipv6Address(text.to_owned()));
    match (text.parse::<SocketAddrV6>(), with_port) {
        (Ok(endpoint), true) => Ok(endpoint),
        (Ok(_), false) => Err(Fault::PortWithout(text.to_owned())),
        (Err(_), true) => Err(Fault::NeedsPort(address(text).map(|_| text.to_owned())?)),
        (Err(_), false) => Ok(SocketAddrV6::new(address(text)?, 0, 0, 0)),
    }
}

/// What `frame` is, if it is IPv6.
#[must_use]
pub fn describe(frame: &[u8]) -> Option<String> {
    Some(match parse(frame)? {
        Ok(packet) => line(frame, &packet),
        Err(reason) => format!("{} bytes of broken IPv6 ({})", frame.len(), reason.name()),
    })
}

/// The VLAN of a frame that carries sound IPv6.
#[must_use]
pub fn vlan(frame: &[u8]) -> Option<u16> {
    parse(frame)?.ok().map(|packet| packet.vlan)
}

fn line(frame: &[u8], packet: &Parsed) -> String {
    let (source, destination) = (packet.source, packet.destination);
    let ported = packet.protocol.has_ports() && packet.fragment != Fragment::Later;
    let mut line = match ported {
        true => format!("{} {source} > {destination}", packet.protocol),
        false => format!("{} {} > {}", packet.protocol, source.address, destination.address),
    };
    let byte = |at: u16| frame.get(usize::from(packet.transport + at)).copied().unwrap_or(0);
    match (packet.fragment, packet.kind) {
        (Fragment::Later, _) => line.push_str(" later fragment"),
        (_, Kind::Transport) if packet.protocol == Protocol::TCP => {
            let _ = write!(line, " [{}]", flags(packet.tcp_flags));
        }
        (_, Kind::Transport) => {}
        (_, Kind::IcmpQuery { icmp_type }) => {
            let name = if icmp_type == ECHO_REQUEST { "echo-request" } else { "echo-reply" };
            let _ = write!(line, " {name} id {}", source.port);
        }
        (_, Kind::IcmpOther { icmp_type }) => {
            let _ = write!(line, " type {icmp_type} code {}", byte(1));
        }
        (_, Kind::IcmpError) => {
            let _ = match byte(0) {
                1 => write!(line, " unreachable code {}", byte(1)),
                2 => {
                    let mtu = u32::from_be_bytes([byte(4), byte(5), byte(6), byte(7)]);
                    write!(line, " packet-too-big mtu {mtu}")
                }
                3 => write!(line, " time-exceeded"),
                _ => write!(line, " parameter-problem"),
            };
            if let Ok(quote) = quote(frame, packet) {
                let (source, destination) = (quote.source, quote.destination);
                let _ = write!(line, " ({} {source} > {destination})", quote.protocol);
            }
        }
    }
    if packet.fragment == Fragment::First {
        line.push_str(" first fragment");
    }
    let _ = write!(line, " ttl {} length {}", packet.hop_limit, packet.packet_length());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(text: &str, vlan: u16) -> String {
        let frame = frame(text, Mac([2; 6]), Mac([4; 6]), vlan).expect("is IPv6");
        let frame = frame.expect("a packet");
        assert_eq!(super::vlan(&frame), Some(vlan));
        describe(&frame).expect("is IPv6")
    }

    #[test]
    fn a_line_becomes_a_frame_and_a_line_again() {
        for line in [
            "tcp [2001:db8:1::5]:40000 > [2001:db8:51::9]:443 [syn] ttl 64 length 60",
            "tcp [2001:db8:1::5]:40000 > [2001:db8:51::9]:443 [psh,ack] ttl 9 length 100",
            "udp [2001:db8:1::5]:5000 > [2001:db8:51::9]:53 ttl 1 length 1400",
            "icmpv6 2001:db8:1::5 > 2001:db8:51::9 echo-request id 7 ttl 64 length 48",
            "icmpv6 2001:db8:1::5 > 2001:db8:51::9 echo-reply id 7 ttl 64 length 60",
        ] {
            for vlan in [0, 100] {
                assert_eq!(there_and_back(line, vlan), line);
            }
        }
    }

    #[test]
    fn what_is_no_ipv6_is_for_others_and_what_is_wrong_is_told() {
        let built = |text| frame(text, Mac([2; 6]), Mac([4; 6]), 0);
        assert!(built("tcp 10.1.1.5:40000 > 198.51.100.9:443").is_none());
        assert!(built("tcp").is_none());
        for (text, words) in [
            ("tcp 2001:db8::5 > [2001:db8::9]:443", "needs a port"),
            ("udp [2001:db8::5]:1 < [2001:db8::9]:443", "`>`"),
            ("icmpv6 [2001:db8::5]:1 > 2001:db8::9", "has none"),
            ("gre 2001:db8::5 > 2001:db8::9", "not a protocol"),
            ("udp [2001:db8::5]:1 > [2001:db8::9]:2 length 20", "at least 48"),
            ("tcp [2001:db8::5]:1 > [2001:db8::9]:2 [sin]", "not a word"),
            ("icmpv6 2001:db8::5 > 10.1.1.5", "not an IPv6 address"),
        ] {
            let said = built(text).expect("meant as IPv6").expect_err("wrong").to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
