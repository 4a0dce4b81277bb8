//! The packet language of `explain` and `trace`: one line of text to one real frame.
//!
//! ```text
//! tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]
//! udp 10.1.1.5:5000 > 8.8.8.8:53 ttl 1 length 1400 df
//! icmp 198.51.100.9 > 203.0.113.12 echo-request id 7
//! icmp 198.51.100.1 > 203.0.113.10 port-unreachable (udp 203.0.113.10:5000 > 8.8.8.8:53)
//! gre 10.1.1.5 > 198.51.100.9
//! 112 10.1.1.5 > 198.51.100.9
//! ```

use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::cli::packet_build;
use crate::flow::{Endpoint, Mac, Protocol};

/// A packet as text describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PacketText {
    /// The IP protocol.
    pub protocol: Protocol,
    /// The source; its port is zero for ICMP and protocols without ports.
    pub source: Endpoint,
    /// The destination, likewise.
    pub destination: Endpoint,
    /// The TCP flags octet.
    pub tcp_flags: u8,
    /// What an ICMP packet is.
    pub icmp: Icmp,
    /// The time to live.
    pub ttl: u8,
    /// Whether it must not be fragmented.
    pub dont_fragment: bool,
    /// The length of the whole IPv4 packet; none means as short as can be.
    pub length: Option<u16>,
}

/// What an ICMP packet is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Icmp {
    /// Its type.
    pub icmp_type: u8,
    /// Its code.
    pub code: u8,
    /// The query identifier.
    pub identifier: u16,
    /// The query's sequence number.
    pub sequence: u16,
    /// The next-hop MTU of "fragmentation needed".
    pub mtu: u16,
    /// The packet that an error quotes.
    pub quote: Option<Box<PacketText>>,
}

/// Why a text is no packet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PacketTextError {
    /// An address was expected.
    #[error("`{0}` is not an IPv4 address")]
    Address(String),
    /// An IPv6 address was expected.
    #[error("`{0}` is not an IPv6 address")]
    Ipv6Address(String),
    /// The text ends too early.
    #[error("the packet ends where {0} was expected")]
    Ends(&'static str),
    /// An address with a port was expected.
    #[error("`{0}` needs a port, as in 10.1.1.5:40000")]
    NeedsPort(String),
    /// Not a number, or too large.
    #[error("`{value}` is not a number that `{word}` can take")]
    Number {
        /// What it was written behind.
        word: &'static str,
        /// What was written.
        value: String,
    },
    /// A port on a protocol that has none.
    #[error("`{0}` has a port, but this protocol has none")]
    PortWithout(String),
    /// Not a protocol.
    #[error(
        "`{0}` is not a protocol: tcp, udp, icmp (IPv6: icmpv6), sctp, dccp, udplite, gre, esp, ah, or a number from 0 to 255"
    )]
    Protocol(String),
    /// An error message without the packet it is about.
    #[error(
        "an ICMP error quotes a packet in parentheses, as in `port-unreachable (udp A:x > B:y)`"
    )]
    Quote,
    /// The two endpoints are not separated by `>`.
    #[error("`>` belongs between source and destination")]
    Separator,
    /// A word nobody knows.
    #[error("`{0}` is not a word of the packet language")]
    Word(String),
    /// The packet would not fit into its length.
    #[error("a packet with these headers is at least {least} bytes long")]
    TooShort {
        /// The shortest it can be.
        least: u16,
    },
}

/// The TCP flags by name.
pub(super) const TCP_FLAGS: [(&str, u8); 8] = [
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ece", 0x40),
    ("cwr", 0x80),
];

/// ICMP messages by name, with type and code.
const ICMP_NAMES: [(&str, u8, u8); 12] = [
    ("echo-reply", 0, 0),
    ("net-unreachable", 3, 0),
    ("host-unreachable", 3, 1),
    ("protocol-unreachable", 3, 2),
    ("port-unreachable", 3, 3),
    ("fragmentation-needed", 3, 4),
    ("admin-prohibited", 3, 13),
    ("echo-request", 8, 0),
    ("ttl-exceeded", 11, 0),
    ("parameter-problem", 12, 0),
    ("timestamp-request", 13, 0),
    ("timestamp-reply", 14, 0),
];

impl PacketText {
    /// The frame: Ethernet from one address to the other, tagged unless `vlan` is zero.
    ///
    /// # Errors
    /// When the text gives a length that is too short.
    pub fn frame(&self, from: Mac, to: Mac, vlan: u16) -> Result<Vec<u8>, PacketTextError> {
        packet_build::frame(self, from, to, vlan)
    }

    /// Whether it is an ICMP error, which quotes another packet.
    #[must_use]
    pub fn is_icmp_error(&self) -> bool {
        self.protocol == Protocol::ICMP && is_icmp_error(self.icmp.icmp_type)
    }
}

impl FromStr for PacketText {
    type Err = PacketTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, quote) = split_quote(text)?;
        let spaced = text.replace('>', " > ").replace('[', " [").replace([',', '+'], " ");
        let mut words = spaced.split_whitespace();
        let protocol = protocol(words.next().ok_or(PacketTextError::Ends("a protocol"))?)?;
        let source = words.next().ok_or(PacketTextError::Ends("the source"))?;
        let source = endpoint(source, protocol)?;
        if words.next() != Some(">") {
            return Err(PacketTextError::Separator);
        }
        let destination = words.next().ok_or(PacketTextError::Ends("the destination"))?;
        let mut packet = Self {
            protocol,
            source,
            destination: endpoint(destination, protocol)?,
            tcp_flags: 0,
            icmp: Icmp {
                icmp_type: 8,
                code: 0,
                identifier: 1,
                sequence: 1,
                mtu: 1280,
                quote: None,
            },
            ttl: 64,
            dont_fragment: false,
            length: None,
        };
        packet.read_options(words)?;
        if packet.protocol == Protocol::TCP && packet.tcp_flags == 0 && !text.contains('[') {
            packet.tcp_flags = 0x02;
        }
        packet.icmp.quote = quote.map(|quote| quote.parse().map(Box::new)).transpose()?;
        if packet.is_icmp_error() && packet.icmp.quote.is_none() {
            return Err(PacketTextError::Quote);
        }
        Ok(packet)
    }
}

impl PacketText {
    fn read_options<'w>(
        &mut self,
        mut words: impl Iterator<Item = &'w str>,
    ) -> Result<(), PacketTextError> {
        while let Some(word) = words.next() {
            let lower = word.to_ascii_lowercase();
            let mut value = |word| words.next().ok_or(PacketTextError::Ends(word));
            match lower.as_str() {
                "code" => self.icmp.code = number("code", value("a code")?)?,
                "df" => self.dont_fragment = true,
                "id" => self.icmp.identifier = number("id", value("an identifier")?)?,
                "length" => self.length = Some(number("length", value("a length")?)?),
                "mtu" => self.icmp.mtu = number("mtu", value("an MTU")?)?,
                "seq" => self.icmp.sequence = number("seq", value("a sequence number")?)?,
                "ttl" => self.ttl = number("ttl", value("a time to live")?)?,
                "type" => self.icmp.icmp_type = number("type", value("a type")?)?,
                "[]" | "[" | "]" => {}
                other => self.read_name(other)?,
            }
        }
        Ok(())
    }

    /// A TCP flag, or the name of an ICMP message.
    fn read_name(&mut self, word: &str) -> Result<(), PacketTextError> {
        let unknown = || PacketTextError::Word(word.to_owned());
        if self.protocol == Protocol::TCP {
            let name = word.trim_matches(['[', ']']);
            let flag = TCP_FLAGS.iter().find(|(known, _)| *known == name);
            self.tcp_flags |= flag.ok_or_else(unknown)?.1;
            return Ok(());
        }
        let named = ICMP_NAMES.iter().find(|(known, _, _)| *known == word);
        let named = named.filter(|_| self.protocol == Protocol::ICMP);
        let (_, icmp_type, code) = named.ok_or_else(unknown)?;
        (self.icmp.icmp_type, self.icmp.code) = (*icmp_type, *code);
        Ok(())
    }
}

/// A protocol by name or number.
///
/// # Errors
/// When it is neither.
pub fn protocol(word: &str) -> Result<Protocol, PacketTextError> {
    Ok(match word.to_ascii_lowercase().as_str() {
        "ah" => Protocol::AH,
        "dccp" => Protocol::DCCP,
        "esp" => Protocol::ESP,
        "gre" => Protocol::GRE,
        "icmp" => Protocol::ICMP,
        "sctp" => Protocol::SCTP,
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "udplite" => Protocol::UDP_LITE,
        number => match number.parse() {
            Ok(number) => Protocol(number),
            Err(_) => return Err(PacketTextError::Protocol(word.to_owned())),
        },
    })
}

/// An ICMP message by name, or by numbers if it has none.
pub(super) fn icmp_name(icmp_type: u8, code: u8) -> String {
    let named = ICMP_NAMES.iter().find(|(_, a, b)| (*a, *b) == (icmp_type, code));
    named.map_or_else(|| format!("type {icmp_type} code {code}"), |(name, _, _)| (*name).to_owned())
}

fn is_icmp_error(icmp_type: u8) -> bool {
    matches!(icmp_type, 3 | 4 | 5 | 11 | 12)
}

/// The text without the packet quoted in parentheses, and that packet's text.
fn split_quote(text: &str) -> Result<(String, Option<&str>), PacketTextError> {
    let Some((before, rest)) = text.split_once('(') else { return Ok((text.to_owned(), None)) };
    let (quote, after) = rest.rsplit_once(')').ok_or(PacketTextError::Quote)?;
    Ok((format!("{before} {after}"), Some(quote)))
}

fn endpoint(word: &str, protocol: Protocol) -> Result<Endpoint, PacketTextError> {
    let has_ports = protocol.has_ports() && protocol != Protocol::ICMP;
    let (address, port) = match word.split_once(':') {
        None if has_ports => return Err(PacketTextError::NeedsPort(word.to_owned())),
        None => (word, 0),
        Some(_) if !has_ports => return Err(PacketTextError::PortWithout(word.to_owned())),
        Some((address, port)) => (address, number("port", port)?),
    };
    let address: Ipv4Addr =
        address.parse().map_err(|_| PacketTextError::Address(address.to_owned()))?;
    Ok(Endpoint::new(address, port))
}

fn number<N: FromStr>(word: &'static str, value: &str) -> Result<N, PacketTextError> {
    value.parse().map_err(|_| PacketTextError::Number { word, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> PacketTextError {
        text.parse::<PacketText>().unwrap_err()
    }

    #[test]
    fn a_tcp_packet_has_ports_and_flags() {
        let packet: PacketText = "tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn,ack]".parse().unwrap();
        assert_eq!(packet.source, Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), 40000));
        assert_eq!(packet.destination, Endpoint::new(Ipv4Addr::new(198, 51, 100, 9), 443));
        assert_eq!(packet.tcp_flags, 0x12);
    }

    #[test]
    fn a_tcp_packet_without_flags_opens_a_connection_and_with_none_has_none() {
        assert_eq!("tcp 1.2.3.4:1>5.6.7.8:2".parse::<PacketText>().unwrap().tcp_flags, 0x02);
        assert_eq!("tcp 1.2.3.4:1 > 5.6.7.8:2 []".parse::<PacketText>().unwrap().tcp_flags, 0);
    }

    #[test]
    fn an_icmp_packet_has_no_ports_and_asks_for_an_echo() {
        let packet: PacketText =
            "icmp 198.51.100.9 > 203.0.113.12 echo-request id 7".parse().unwrap();
        assert_eq!((packet.icmp.icmp_type, packet.icmp.code), (8, 0));
        assert_eq!(packet.icmp.identifier, 7);
        assert_eq!(packet.source.port, 0);
    }

    #[test]
    fn an_icmp_error_quotes_its_packet() {
        let packet: PacketText =
            "icmp 1.1.1.1 > 2.2.2.2 fragmentation-needed mtu 1400 (udp 2.2.2.2:5 > 3.3.3.3:53) ttl 9"
                .parse()
                .unwrap();
        let quote = packet.icmp.quote.unwrap();
        assert_eq!((packet.icmp.icmp_type, packet.icmp.code, packet.icmp.mtu), (3, 4, 1400));
        assert_eq!((quote.protocol, quote.destination.port), (Protocol::UDP, 53));
        assert_eq!(packet.ttl, 9);
    }

    #[test]
    fn a_protocol_may_be_a_number() {
        assert_eq!("112 1.2.3.4 > 5.6.7.8".parse::<PacketText>().unwrap().protocol, Protocol(112));
        assert_eq!("gre 1.2.3.4 > 5.6.7.8".parse::<PacketText>().unwrap().protocol, Protocol::GRE);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(error(""), PacketTextError::Ends("a protocol"));
        assert_eq!(error("tpc 1.2.3.4:1 > 1.1.1.1:1"), PacketTextError::Protocol("tpc".into()));
        assert_eq!(error("300 1.2.3.4 > 1.1.1.1"), PacketTextError::Protocol("300".into()));
        assert_eq!(error("tcp 1.2.3.4 > 1.1.1.1:1"), PacketTextError::NeedsPort("1.2.3.4".into()));
        assert_eq!(
            error("gre 1.2.3.4:1 > 1.1.1.1"),
            PacketTextError::PortWithout("1.2.3.4:1".into())
        );
        assert_eq!(error("udp 1.2.3.4:1 1.1.1.1:1"), PacketTextError::Separator);
        assert_eq!(error("udp 1.2.3.4:1 >"), PacketTextError::Ends("the destination"));
        assert_eq!(error("udp 1.2.3:1 > 1.1.1.1:1"), PacketTextError::Address("1.2.3".into()));
        assert_eq!(error("tcp 1.2.3.4:1 > 1.1.1.1:1 [sin]"), PacketTextError::Word("[sin]".into()));
        assert_eq!(error("udp 1.2.3.4:1 > 1.1.1.1:1 syn"), PacketTextError::Word("syn".into()));
        assert_eq!(error("icmp 1.2.3.4 > 1.1.1.1 port-unreachable"), PacketTextError::Quote);
        assert_eq!(error("icmp 1.2.3.4 > 1.1.1.1 ttl-exceeded (udp"), PacketTextError::Quote);
        let ports = error("udp 1.2.3.4:70000 > 1.1.1.1:1");
        assert_eq!(ports, PacketTextError::Number { word: "port", value: "70000".into() });
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
            let _ = text.parse::<PacketText>();
        }
    }
}
