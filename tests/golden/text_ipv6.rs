//! IPv6 frames as one line of text and back: `udp [2001:db8:1::5]:4000 > [2001:db8:51::9]:53`,
//! `icmpv6 2001:db8:1::5 > 2001:db8:51::9 echo-request ident=7`.

use std::fmt::Write;
use std::net::Ipv6Addr;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::packets_ipv6::Packet;

use super::{FLAGS, Words, be16, describe_data, describe_tcp, number};

/// Whether a line is about IPv6.
pub fn is_one(line: &str) -> bool {
    let mut words = line.split(' ').skip(1);
    words.next().is_some_and(|source| source.starts_with('[') || source.contains("::"))
}

/// The frame that a line describes.
pub fn frame(line: &str) -> Vec<u8> {
    // Brackets of a quote and those of addresses are told apart by ` about [`.
    let mut words = Words::new(line);
    let mut packet = packet(&mut words);
    if let Some(part) = words.take("part") {
        let (start, end) = part.split_once('-').expect("part=FROM-TO");
        let (start, end): (usize, usize) = (number(start), number(end));
        let identification = words.take("id").map_or(1, |id| number(&id));
        packet = packet.fragment(identification, start, end - start);
    }
    words.all_used();
    packet.frame()
}

fn packet(words: &mut Words) -> Packet {
    let name = words.next();
    let (source, arrow, destination) = (words.next(), words.next(), words.next());
    assert_eq!(arrow, ">", "SOURCE > DESTINATION");
    let data = words.data();
    let mut packet = match name.as_str() {
        "tcp" => {
            let bits = words.take("flags").unwrap_or_else(|| "syn".into());
            let bits = bits.split(',').fold(0, |bits, name| {
                bits | FLAGS.iter().find(|(_, known)| *known == name).expect("a flag").0
            });
            Packet::tcp(at(&source), at(&destination), bits, &data)
        }
        "udp" => Packet::udp(at(&source), at(&destination), &data),
        "icmpv6" => icmp(words, &source, &destination, &data),
        other => panic!("no protocol {other}"),
    };
    if let Some(value) = words.take("hops") {
        packet.hop_limit = number(&value);
    }
    if let Some(value) = words.take("vlan") {
        packet.tag = Some(number(&value));
    }
    packet
}

fn icmp(words: &mut Words, source: &str, destination: &str, data: &[u8]) -> Packet {
    let name = words.next();
    let icmp_type = NAMES.iter().find(|(_, known)| *known == name).expect("an ICMPv6 type").0;
    let code = words.take("code").map_or(0, |code| number(&code));
    let rest = match (words.take("ident"), words.take("mtu")) {
        (Some(ident), _) => {
            let [high, low] = number::<u16>(&ident).to_be_bytes();
            vec![high, low, 0, 1]
        }
        (None, mtu) => mtu.map_or(0_u32, |mtu| number(&mtu)).to_be_bytes().to_vec(),
    };
    let quoted = words.quote.take().map(|quote| {
        let mut inner = Words::new(&quote);
        let bytes = packet(&mut inner).bytes();
        inner.all_used();
        bytes
    });
    let rest = [&rest, quoted.as_deref().unwrap_or(data)].concat();
    Packet::icmp(address(source), address(destination), icmp_type, code, &rest)
}

/// What a packet says, in the same words.
pub fn describe(packet: &[u8], text: &mut String) {
    let [source, destination] = [8, 24].map(|at| {
        let bytes: [u8; 16] = packet[at..at + 16].try_into().expect("an address");
        Ipv6Addr::from(bytes)
    });
    let (mut next, mut start, mut piece) = (packet[6], 40, None);
    if next == FRAGMENT {
        let field = be16(packet, 42);
        let identification = u32::from(be16(packet, 44)) << 16 | u32::from(be16(packet, 46));
        piece = Some((usize::from(field & !7), field & 1 != 0, identification));
        (next, start) = (packet[40], 48);
    }
    let end = (40 + usize::from(be16(packet, 4))).min(packet.len());
    let transport = &packet[start..end];
    let is_first = piece.is_none_or(|(offset, _, _)| offset == 0);
    let protocol = Protocol(next);
    if protocol.has_ports() && protocol != Protocol::ICMPV6 && is_first {
        let (from, to) = (be16(transport, 0), be16(transport, 2));
        write!(text, "{protocol} [{source}]:{from} > [{destination}]:{to}").expect("text");
    } else {
        write!(text, "{protocol} {source} > {destination}").expect("text");
    }
    let mut word = |word: String| write!(text, " {word}").expect("text");
    if let Some((offset, more, identification)) = piece {
        let more = if more { "+" } else { "" };
        word(format!("piece={offset}-{}{more} id={identification}", offset + transport.len()));
    }
    if packet[7] != 64 {
        word(format!("hops={}", packet[7]));
    }
    match protocol {
        _ if !is_first => {}
        Protocol::TCP if transport.len() >= 20 => describe_tcp(transport, &mut word),
        Protocol::UDP if transport.len() >= 8 => describe_data(&transport[8..], &mut word),
        Protocol::ICMPV6 => describe_icmp(transport, &mut word),
        _ => word(format!("bytes={}", transport.len())),
    }
    if piece.is_none() && end == 40 + usize::from(be16(packet, 4)) {
        let whole = Packet::new(protocol, source, destination, transport.to_vec());
        if !whole.sums_up() {
            word("WRONG=transport".into());
        }
    }
}

fn describe_icmp(transport: &[u8], word: &mut impl FnMut(String)) {
    let (icmp_type, code) = (transport[0], transport[1]);
    match NAMES.iter().find(|(number, _)| *number == icmp_type) {
        Some((_, name)) => word((*name).into()),
        None => word(format!("type={icmp_type}")),
    }
    if code != 0 {
        word(format!("code={code}"));
    }
    if icmp_type >= 128 {
        word(format!("ident={}", be16(transport, 4)));
        return describe_data(transport.get(8..).unwrap_or_default(), word);
    }
    if be16(transport, 6) != 0 {
        word(format!("mtu={}", be16(transport, 6)));
    }
    let mut quote = String::new();
    describe(&transport[8..], &mut quote);
    word(format!("about [{quote}]"));
}

fn at(text: &str) -> Endpoint<Ipv6Addr> {
    let (address, port) = text.rsplit_once(':').expect("[address]:port");
    Endpoint::new(self::address(address.trim_matches(['[', ']'])), number(port))
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no IPv6 address"))
}

const FRAGMENT: u8 = 44;

const NAMES: [(u8, &str); 6] = [
    (1, "unreachable"),
    (2, "too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
];
