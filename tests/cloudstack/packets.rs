//! Tables of packets: what comes in where, and what becomes of it.
//!
//! A line is `NIC KIND SOURCE > DESTINATION : OUTCOME`. Kinds are `tcp` (a SYN), `tcp-ack`, `udp`, `ping`, `pong` and `proto-N`.
//! IPv6 addresses stand in brackets, with a port or without. Outcomes are `to NIC SOURCE > DESTINATION`, `drop REASON`, `kernel`
//! and `answered`. Lines are sent in order through one router; `---` starts with a new one.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use natwerk::config::Config;
use natwerk::flow::{Endpoint, PortId, Protocol};
use natwerk::testing::lab::{Lab, Outcome};
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::testing::packets_ipv6;
use natwerk::verdict::Verdict;
use natwerk::wire::ipv6;
use natwerk::wire::parse::parse;

/// Sends the packets of `table` through routers with `rules`. Returns how many.
pub fn check(table: &str, rules: &str, config: &Config, path: &Path) -> usize {
    let router = || Lab::with(rules, |default| *default = config.clone());
    let mut lab = router();
    let mut count = 0;
    let mut wrong = Vec::new();
    for (number, line) in table.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line {
            "" => continue,
            "---" => {
                lab = router();
                continue;
            }
            _ => {}
        }
        let (packet, expected) = line.split_once(" : ").unwrap_or_else(|| panic!("{line}"));
        let (nic, packet) = packet.split_once(' ').expect("a NIC");
        let outcome = lab.send(port(nic, config), frame(packet.trim()));
        let found = described(&outcome, config);
        let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
        if found != expected {
            wrong.push(format!("{}:{}: {line}\n  but: {found}", path.display(), number + 1));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    count
}

fn port(name: &str, config: &Config) -> PortId {
    let place = config.interfaces.iter().position(|interface| interface.name == name);
    let place = place.unwrap_or_else(|| panic!("no rule names {name}"));
    PortId(u8::try_from(place).expect("few interfaces"))
}

fn frame(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, source, ">", destination] = words.as_slice() else { panic!("{text}") };
    if source.starts_with('[') {
        return frame_ipv6(kind, endpoint_ipv6(source), endpoint_ipv6(destination));
    }
    let (source, destination) = (endpoint(source), endpoint(destination));
    let echo = |kind| Packet::echo(source.address, destination.address, kind, 7, b"data");
    match *kind {
        "tcp" => Packet::tcp(source, destination, 0x02, &[], b""),
        "tcp-ack" => Packet::tcp(source, destination, 0x10, &[], b""),
        "udp" => Packet::udp(source, destination, b"data"),
        "ping" => echo(8),
        "pong" => echo(0),
        other => {
            let number = other.strip_prefix("proto-").and_then(|number| number.parse().ok());
            let protocol = Protocol(number.unwrap_or_else(|| panic!("{text}")));
            Packet::new(protocol, source.address, destination.address, vec![0; 16])
        }
    }
    .frame()
}

fn frame_ipv6(kind: &str, source: Endpoint<Ipv6Addr>, destination: Endpoint<Ipv6Addr>) -> Vec<u8> {
    use packets_ipv6::Packet;
    let echo = |kind| Packet::echo(source.address, destination.address, kind, 7);
    match kind {
        "tcp" => Packet::tcp(source, destination, 0x02, b""),
        "tcp-ack" => Packet::tcp(source, destination, 0x10, b""),
        "udp" => Packet::udp(source, destination, b"data"),
        "ping" => echo(128),
        "pong" => echo(129),
        other => panic!("{other} over IPv6"),
    }
    .frame()
}

fn endpoint_ipv6(text: &str) -> Endpoint<Ipv6Addr> {
    let (address, port) = text.trim_start_matches('[').split_once(']').expect("a bracket");
    let port = port.trim_start_matches(':');
    let port = if port.is_empty() { 0 } else { port.parse().expect("a port") };
    Endpoint::new(address.parse().unwrap_or_else(|_| panic!("{text}")), port)
}

fn endpoint(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').unwrap_or((text, "0"));
    let address: Ipv4Addr = address.parse().unwrap_or_else(|_| panic!("{text}"));
    Endpoint::new(address, port.parse().unwrap_or_else(|_| panic!("{text}")))
}

fn described(outcome: &Outcome, config: &Config) -> String {
    match outcome.verdict {
        Verdict::Drop(reason) => format!("drop {}", reason.name()),
        Verdict::Host(_) => "kernel".to_owned(),
        Verdict::Hold => "held".to_owned(),
        Verdict::Forward(to) => {
            let (_, frame) = outcome.sent.first().expect("a frame");
            let nic = &config.interfaces[to.index()].name;
            if let Some(Ok(packet)) = ipv6::parse(frame) {
                let shown = |end: Endpoint<Ipv6Addr>| match packet.protocol {
                    Protocol::TCP | Protocol::UDP => format!("[{}]:{}", end.address, end.port),
                    _ => format!("[{}]", end.address),
                };
                return format!(
                    "to {nic} {} > {}",
                    shown(packet.source),
                    shown(packet.destination)
                );
            }
            let packet = parse(frame).expect("a sound packet");
            assert!(wrong_checksums(&frame[usize::from(packet.network)..]).is_empty());
            let is_pong = packet.protocol == Protocol::ICMP
                && frame.get(usize::from(packet.transport)) == Some(&0)
                && packet.ttl == 64;
            if is_pong {
                return "answered".to_owned();
            }
            let with_port = |end: Endpoint| match packet.protocol {
                Protocol::TCP | Protocol::UDP => format!("{}:{}", end.address, end.port),
                _ => end.address.to_string(),
            };
            format!("to {nic} {} > {}", with_port(packet.source), with_port(packet.destination))
        }
    }
}
