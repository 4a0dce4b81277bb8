//! Frames as one line of text and back, byte by byte, with none of natwerk's own readers.

#[path = "text_ipv6.rs"]
mod ipv6;

use std::fmt::Write;
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::packets::{Packet, checksum, wrong_checksums};

/// The frame that a line describes: `udp 10.1.1.5:4000 > 198.51.100.9:53 ttl=1 data=hello`.
pub fn frame(line: &str) -> Vec<u8> {
    if let Some(bytes) = line.strip_prefix("hex ") {
        return unhex(bytes);
    }
    if let Some(rest) = line.strip_prefix("arp ") {
        return arp(rest);
    }
    if ipv6::is_one(line) {
        return ipv6::frame(line);
    }
    let mut words = Words::new(line);
    let mut packet = packet(&mut words);
    if let Some(part) = words.take("part") {
        let (start, end) = part.split_once('-').expect("part=FROM-TO");
        let (start, end): (usize, usize) = (number(start), number(end));
        let more = end < packet.transport.len();
        packet.transport = packet.transport[start..end.min(packet.transport.len())].to_vec();
        let offset = u16::try_from(start / 8).expect("a short datagram");
        packet.flags_offset = offset | if more { 0x2000 } else { 0 };
    }
    if let Some(count) = words.take("padding") {
        packet.padding = vec![0xee; number(&count)];
    }
    words.all_used();
    packet.frame()
}

/// What a frame says, in the same words. Checksums that are wrong are said so.
pub fn line(frame: &[u8]) -> String {
    let mut text = String::new();
    let (tag, ether_type, rest) = match (be16(frame, 12), frame) {
        (0x8100, _) => (Some(be16(frame, 14)), be16(frame, 16), &frame[18..]),
        (ether_type, _) => (None, ether_type, &frame[14..]),
    };
    match ether_type {
        0x0800 => describe(rest, &mut text),
        0x0806 => describe_arp(rest, &mut text),
        0x86dd => ipv6::describe(rest, &mut text),
        other => write!(text, "ethertype {other:#06x}").expect("text"),
    }
    if let Some(tag) = tag {
        write!(text, " vlan={tag}").expect("text");
    }
    text
}

fn describe(packet: &[u8], text: &mut String) {
    let header = usize::from(packet[0] & 15) * 4;
    let length = usize::from(be16(packet, 2));
    let (protocol, flags) = (Protocol(packet[9]), be16(packet, 6));
    let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let transport = &packet[header..length.min(packet.len())];
    let [source, destination] = [12, 16].map(|at| {
        Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]).to_string()
    });
    let has_ports = protocol != Protocol::ICMP && protocol.has_ports() && offset == 0;
    write!(text, "{protocol} ").expect("text");
    if has_ports {
        let (from, to) = (be16(transport, 0), be16(transport, 2));
        write!(text, "{source}:{from} > {destination}:{to}").expect("text");
    } else {
        write!(text, "{source} > {destination}").expect("text");
    }
    let mut word = |word: String| write!(text, " {word}").expect("text");
    if flags & 0x4000 == 0 {
        word("nodf".into());
    }
    if more || offset > 0 {
        word(format!("piece={offset}-{}{}", offset + transport.len(), if more { "+" } else { "" }));
    }
    if packet[8] != 64 {
        word(format!("ttl={}", packet[8]));
    }
    if packet[1] != 0 {
        word(format!("tos={}", packet[1]));
    }
    if be16(packet, 4) != 1 {
        word(format!("id={}", be16(packet, 4)));
    }
    if header > 20 {
        word(format!("options={}", hex(&packet[20..header])));
    }
    match protocol {
        _ if offset > 0 => {}
        Protocol::TCP if transport.len() >= 20 => describe_tcp(transport, &mut word),
        Protocol::UDP if transport.len() >= 8 => {
            if be16(transport, 6) == 0 {
                word("sum=zero".into());
            }
            describe_data(&transport[8..], &mut word);
        }
        Protocol::ICMP => describe_icmp(transport, &mut word),
        _ => word(format!("bytes={}", transport.len())),
    }
    // A quote need not hold all of the packet it quotes.
    let wrong = wrong_checksums(packet);
    if !wrong.is_empty() {
        word(format!("WRONG={}", wrong.join(",")));
    }
}

fn describe_tcp(transport: &[u8], word: &mut impl FnMut(String)) {
    let names: Vec<&str> =
        FLAGS.iter().filter(|(bit, _)| transport[13] & bit != 0).map(|(_, name)| *name).collect();
    word(format!("flags={}", names.join(",")));
    let sequence = u32::from(be16(transport, 4)) << 16 | u32::from(be16(transport, 6));
    let acknowledgement = u32::from(be16(transport, 8)) << 16 | u32::from(be16(transport, 10));
    if sequence != 1000 {
        word(format!("seq={sequence}"));
    }
    if acknowledgement != 2000 {
        word(format!("ack={acknowledgement}"));
    }
    let header = usize::from(transport[12] >> 4) * 4;
    if let Some([2, 4, high, low]) = transport.get(20..24).filter(|_| header == 24) {
        word(format!("mss={}", u16::from(*high) << 8 | u16::from(*low)));
    }
    describe_data(transport.get(header..).unwrap_or_default(), word);
}

fn describe_icmp(transport: &[u8], word: &mut impl FnMut(String)) {
    let (icmp_type, code) = (transport[0], transport[1]);
    match ICMP_NAMES.iter().find(|(number, _)| *number == icmp_type) {
        Some((_, name)) => word((*name).into()),
        None => word(format!("type={icmp_type}")),
    }
    if code != 0 {
        word(format!("code={code}"));
    }
    if !matches!(icmp_type, 3 | 4 | 5 | 11 | 12) {
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

fn describe_data(data: &[u8], word: &mut impl FnMut(String)) {
    if data.is_empty() {
    } else if data.len() > 4 && data == filler(data.len()) {
        word(format!("len={}", data.len()));
    } else if data.iter().all(|byte| byte.is_ascii_alphanumeric()) {
        word(format!("data={}", String::from_utf8_lossy(data)));
    } else {
        word(format!("bytes={}", data.len()));
    }
}

fn describe_arp(bytes: &[u8], text: &mut String) {
    let operation = if be16(bytes, 6) == 1 { "request" } else { "reply" };
    let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    let (sender, target) = (address(14), address(24));
    write!(text, "arp {operation} {sender} {} > {target}", hex(&bytes[8..14])).expect("text");
}

/// `arp request 10.1.1.5 > 10.1.1.1 vlan=100`, from the sender's MAC of the lab.
fn arp(line: &str) -> Vec<u8> {
    let mut words = Words::new(line);
    let operation = words.next();
    let sender: Ipv4Addr = words.next().parse().expect("an address");
    assert_eq!(words.next(), ">");
    let target: Ipv4Addr = words.next().parse().expect("an address");
    let vlan: u16 = number(&words.take("vlan").unwrap_or_else(|| "0".into()));
    words.all_used();
    let mut frame = vec![0xff; 6];
    let [_, low] = [0, u8::from(operation == "request")];
    let mac = [2, 9, 9, 9, 9, 1];
    frame.extend_from_slice(&mac);
    if vlan > 0 {
        frame.extend_from_slice(&[0x81, 0]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2 - low]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

fn packet(words: &mut Words) -> Packet {
    let name = words.next();
    let (source, arrow, destination) = (words.next(), words.next(), words.next());
    assert_eq!(arrow, ">", "SOURCE > DESTINATION");
    let data = words.data();
    let mut packet = match name.as_str() {
        "tcp" => tcp(words, &source, &destination, &data),
        "udp" => Packet::udp(at(&source), at(&destination), &data),
        "icmp" => icmp(words, &source, &destination, &data),
        "sctp" => ported(Protocol::SCTP, &source, &destination, &data),
        "dccp" => ported(Protocol::DCCP, &source, &destination, &data),
        "udplite" => ported(Protocol::UDP_LITE, &source, &destination, &data),
        "gre" => plain(Protocol::GRE, &source, &destination, data),
        "esp" => plain(Protocol::ESP, &source, &destination, data),
        other => panic!("no protocol {other}"),
    };
    if words.flag("nodf") {
        packet.flags_offset = 0;
    }
    for (key, field) in [("ttl", &mut packet.ttl), ("tos", &mut packet.tos)] {
        if let Some(value) = words.take(key) {
            *field = number(&value);
        }
    }
    if let Some(value) = words.take("id") {
        packet.identification = number(&value);
    }
    if let Some(value) = words.take("vlan") {
        packet.tag = Some(number(&value));
    }
    if let Some(value) = words.take("options") {
        packet.options = unhex(&value);
    }
    if let Some(kind) = words.take("sum") {
        set_checksum(&mut packet, &kind);
    }
    packet
}

fn tcp(words: &mut Words, source: &str, destination: &str, data: &[u8]) -> Packet {
    let bits = words.take("flags").unwrap_or_else(|| "syn".into());
    let bits = bits.split(',').filter(|name| !name.is_empty()).fold(0, |bits, name| {
        bits | FLAGS.iter().find(|(_, known)| *known == name).expect("a flag").0
    });
    let options = words.take("mss").map_or(Vec::new(), |mss| {
        let [high, low] = number::<u16>(&mss).to_be_bytes();
        vec![2, 4, high, low]
    });
    let mut packet = Packet::tcp(at(source), at(destination), bits, &options, data);
    for (key, place) in [("seq", 4), ("ack", 8)] {
        if let Some(value) = words.take(key) {
            let value: u32 = number(&value);
            packet.transport[place..place + 4].copy_from_slice(&value.to_be_bytes());
        }
    }
    packet.with_transport_checksum()
}

fn icmp(words: &mut Words, source: &str, destination: &str, data: &[u8]) -> Packet {
    let name = words.next();
    let icmp_type = match name.strip_prefix("type=") {
        Some(value) => number(value),
        None => ICMP_NAMES.iter().find(|(_, known)| *known == name).expect("an ICMP type").0,
    };
    let code = words.take("code").map_or(0, |code| number(&code));
    let ident: u16 = words.take("ident").map_or(0, |ident| number(&ident));
    let mtu: u16 = words.take("mtu").map_or(0, |mtu| number(&mtu));
    let mut data = data.to_vec();
    if let Some(quote) = words.quote.take() {
        let mut inner = Words::new(&quote);
        let cut = inner.take("cut").map_or(usize::MAX, |cut| number(&cut));
        let damaged = inner.flag("damaged");
        let mut bytes = packet(&mut inner).bytes();
        inner.all_used();
        bytes.truncate(cut);
        bytes[10] ^= if damaged { 0xff } else { 0 };
        data = bytes;
    }
    let ([a, b], [c, d]) = (ident.to_be_bytes(), mtu.to_be_bytes());
    let (source, destination) = (address(source), address(destination));
    Packet::icmp(source, destination, (icmp_type, code), [a, b, c, d], &data)
}

fn ported(protocol: Protocol, source: &str, destination: &str, data: &[u8]) -> Packet {
    Packet::with_ports(protocol, at(source), at(destination), data)
}

fn plain(protocol: Protocol, source: &str, destination: &str, data: Vec<u8>) -> Packet {
    Packet::new(protocol, address(source), address(destination), data)
}

/// `zero`: none; `bad`: wrong; `partial`: what a sending kernel leaves to its device.
fn set_checksum(packet: &mut Packet, kind: &str) {
    let place = if packet.protocol == Protocol::TCP { 16 } else { 6 };
    let sum = match kind {
        "zero" => 0,
        "bad" => 0x1111,
        "partial" => {
            let mut covered = packet.source.octets().to_vec();
            covered.extend_from_slice(&packet.destination.octets());
            covered.extend_from_slice(&[0, packet.protocol.0]);
            let length = u16::try_from(packet.transport.len()).expect("a short packet");
            covered.extend_from_slice(&length.to_be_bytes());
            !checksum(&covered)
        }
        other => panic!("no checksum {other}"),
    };
    packet.transport[place..place + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The words of a line, some of them `key=value`, and a quote in brackets.
struct Words {
    words: Vec<String>,
    quote: Option<String>,
}

impl Words {
    fn new(line: &str) -> Self {
        let (plain, quote) = match line.split_once(" about [") {
            Some((before, rest)) => {
                let (quote, after) = rest.rsplit_once(']').expect("a closing bracket");
                (format!("{before}{after}"), Some(quote.to_owned()))
            }
            None => (line.to_owned(), None),
        };
        Self { words: plain.split_whitespace().map(str::to_owned).collect(), quote }
    }

    fn next(&mut self) -> String {
        self.words.remove(0)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let place = self
            .words
            .iter()
            .position(|word| word.split_once('=').is_some_and(|(found, _)| found == key))?;
        self.words.remove(place).split_once('=').map(|(_, value)| value.to_owned())
    }

    fn flag(&mut self, name: &str) -> bool {
        let place = self.words.iter().position(|word| word == name);
        place.map(|place| self.words.remove(place)).is_some()
    }

    fn data(&mut self) -> Vec<u8> {
        match (self.take("data"), self.take("len")) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(length)) => filler(number(&length)),
            (None, None) => Vec::new(),
        }
    }

    fn all_used(&self) {
        assert!(self.words.is_empty() && self.quote.is_none(), "not understood: {:?}", self.words);
    }
}

/// The filler of `len=N`.
fn filler(length: usize) -> Vec<u8> {
    (0..length).map(|place| u8::try_from(place * 7 % 251).expect("a byte")).collect()
}

fn at(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address:port");
    Endpoint::new(address.parse().expect("an address"), number(port))
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number here"))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16);
    digits.chunks(2).map(|two| pair(two).expect("two digits")).collect()
}

const FLAGS: [(u8, &str); 6] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg")];

const ICMP_NAMES: [(u8, &str); 9] = [
    (0, "echo-reply"),
    (3, "unreachable"),
    (4, "source-quench"),
    (5, "redirect"),
    (8, "echo-request"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
    (13, "timestamp"),
    (14, "timestamp-reply"),
];
