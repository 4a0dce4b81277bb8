//! The fuzz body of the pipeline: frames, time, rule changes and neighbours in any order.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::flow::{Endpoint, PortId, Protocol, Realm};
use crate::rules::{self, set::RuleSet};
use crate::session::entry::SessionKind;
use crate::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use crate::testing::packets::{Packet, wrong_checksums};
use crate::verdict::Verdict;
use crate::wire::parse::{Fragment, Kind, parse};

/// Does what `data` says, step by step, and looks after each whether all promises hold: nothing
/// panics, no frame is lost, nothing passes from one domain to another but by a public address,
/// what is forwarded is sound, and sessions, mappings and counts agree.
///
/// # Panics
/// When a promise is broken.
pub fn pipeline(data: &[u8]) {
    let mut world = World::new();
    let mut bytes = Bytes(data);
    for _ in 0..STEPS_MAX {
        let Some(step) = bytes.next() else { break };
        world.step(step, &mut bytes);
        world.compare();
    }
    world.finish();
}

/// More steps than this in one input tell nothing new.
const STEPS_MAX: usize = 400;
/// So few that the table is full now and then.
const SESSIONS_MAX: u32 = 48;

/// What is left of the input; zeros behind its end.
struct Bytes<'d>(&'d [u8]);

impl<'d> Bytes<'d> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::from(self.byte()) % items.len()]
    }

    fn take(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// The router and what it sent last.
struct World {
    lab: Lab,
    last: Option<(PortId, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        let mut lab = Lab::with(RULES, |config| {
            config.sessions.max = SESSIONS_MAX;
            config.icmp_errors_per_second = 10;
            // Short, so that little time must go by.
            let timeouts = &mut config.timeouts;
            timeouts.tcp_established = Duration::from_secs(9);
            timeouts.tcp_transitory = Duration::from_secs(3);
            timeouts.udp = Duration::from_secs(5);
            timeouts.udp_single_exchange = Duration::from_secs(1);
            timeouts.icmp = Duration::from_secs(2);
            timeouts.other = Duration::from_secs(4);
        });
        lab.put(&rule_sets()[0]);
        Self { lab, last: None }
    }

    fn step(&mut self, step: u8, bytes: &mut Bytes<'_>) {
        match step % 8 {
            0..3 => {
                let (port, packet) = sound_packet(bytes);
                let outcome = self.lab.send(port, packet.frame());
                self.judge(&outcome);
            }
            3 => {
                let (port, packet) = sound_packet(bytes);
                let mut frame = packet.frame();
                // Whoever changes bytes takes the mark of the domain off too.
                frame.truncate(frame.len() - MARK_LENGTH);
                for _ in 0..bytes.byte() % 4 {
                    let at = usize::from(bytes.byte()) % frame.len();
                    frame[at] = bytes.byte();
                }
                let outcome = self.lab.send(port, frame);
                self.judge(&outcome);
            }
            4 => {
                let length = bytes.byte();
                let port = bytes.pick(&[PUBLIC, GUEST]);
                let frame = bytes.take(length.into()).to_vec();
                let outcome = self.lab.send(port, frame);
                self.judge(&outcome);
            }
            5 => {
                let ms = bytes.pick(&[10, 300, 1_100, 2_100, 5_300, 10_000]);
                let outcome = self.lab.pass(Duration::from_millis(ms));
                self.judge(&outcome);
            }
            6 => self.change(bytes),
            _ => self.answer(bytes),
        }
    }

    /// Other rules, or other neighbours.
    fn change(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 8 {
            0 => self.lab.answers = false,
            1 => self.lab.answers = true,
            2 => self.lab.give_up_neighbors(),
            number => {
                let sets = rule_sets();
                self.lab.put(&sets[usize::from(number) % sets.len()]);
            }
        }
    }

    /// An answer to what left last, or an ICMP error about it.
    fn answer(&mut self, bytes: &mut Bytes<'_>) {
        let Some((port, frame)) = &self.last else { return };
        let Ok(parsed) = parse(frame) else { return };
        if parsed.fragment != Fragment::Whole {
            return;
        }
        let tag = (parsed.vlan != 0).then_some(parsed.vlan);
        let (from, to) = (parsed.destination, parsed.source);
        let choice = bytes.byte();
        let mut packet = match (parsed.protocol, parsed.kind) {
            _ if choice.is_multiple_of(4) => {
                let quoted = &frame[usize::from(parsed.network)..usize::from(parsed.end)];
                let kind = bytes.pick(&[(3, 1), (3, 4), (11, 0), (12, 0), (5, 1)]);
                Packet::icmp(from.address, to.address, kind, [0, 0, 5, 0], quoted)
            }
            (Protocol::UDP, _) => Packet::udp(from, to, &mark_of(*port, tag)),
            (Protocol::TCP, _) => {
                let flags = bytes.pick(&[0x12, 0x10, 0x11, 0x04, 0x02]);
                Packet::tcp(from, to, flags, &[], &mark_of(*port, tag))
            }
            (_, Kind::IcmpQuery { .. }) => {
                Packet::echo(from.address, to.address, 0, from.port, &mark_of(*port, tag))
            }
            (Protocol::DCCP | Protocol::SCTP | Protocol::UDP_LITE, _) => {
                Packet::with_ports(parsed.protocol, from, to, &mark_of(*port, tag))
            }
            (protocol, _) => {
                let data = frame[usize::from(parsed.transport)..usize::from(parsed.end)].to_vec();
                Packet::new(protocol, from.address, to.address, data)
            }
        };
        (packet.tag, packet.ttl) = (tag, TTL);
        let port = *port;
        let outcome = self.lab.send(port, packet.frame());
        self.judge(&outcome);
    }

    fn judge(&mut self, outcome: &Outcome) {
        for (port, frame) in &outcome.sent {
            self.judge_frame(*port, frame);
        }
        if let (Verdict::Forward(port), [(first, _), ..]) = (outcome.verdict, &outcome.sent[..]) {
            assert_eq!(port, *first, "the verdict names the interface");
        }
        self.last = outcome.sent.last().cloned().or(self.last.take());
    }

    fn judge_frame(&self, port: PortId, frame: &[u8]) {
        // What is no IPv4 is ARP, answered.
        let network = match (frame.get(12..14), frame.get(16..18)) {
            (Some([8, 0]), _) => 14,
            (Some([0x81, 0]), Some([8, 0])) => 18,
            _ => return,
        };
        let packet = &frame[network..];
        let wrong = wrong_checksums(packet);
        assert!(!wrong.contains(&"ipv4"), "a wrong header left: {packet:02x?}");
        assert!(frame.len() <= network + 1500, "longer than any link takes");
        let Some(mark) = frame.len().checked_sub(MARK_LENGTH).map(|at| &frame[at..]) else {
            return;
        };
        let marked = DOMAINS.iter().position(|name| mark == mark_named(name));
        let Some(from) = marked else { return };
        assert!(wrong.is_empty(), "{wrong:?}: {packet:02x?}");
        let is_icmp_error = packet[9] == 1 && !matches!(packet[20], 0 | 8);
        let answered = packet[9] == 1 && packet[20] == 0 && packet[8] == 64;
        let fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
        let passed = [TTL - 1, 1].contains(&packet[8]);
        assert!(passed || is_icmp_error || answered || fragment, "its time to live: {packet:02x?}");
        let tag = u16::from_be_bytes([frame[14], frame[15]]) * u16::from(network == 18);
        let to = domain_of(port, tag);
        let source = Ipv4Addr::from([packet[12], packet[13], packet[14], packet[15]]);
        let is_shown = self.lab.shared.policy.load().public_address(source).is_some();
        let same = from == to || is_icmp_error;
        assert!(same || from == OUTSIDE || is_shown, "{} in {}", DOMAINS[from], DOMAINS[to]);
    }

    /// Sessions hold what mappings and guests count, no more and no less.
    fn compare(&self) {
        let shared = &self.lab.shared;
        let mut mappings: HashMap<(Protocol, Endpoint), (Realm, Endpoint, u32)> = HashMap::new();
        let mut guests: HashMap<(Realm, Ipv4Addr), u32> = HashMap::new();
        let (mut sessions, mut sharing) = (0, 0);
        shared.sessions.walk(&mut 0, u32::MAX, |view| {
            let session = &view.session;
            let (there, back) = (&session.initiator, &session.responder);
            sessions += 1;
            for (is_held, at, realm, owner) in [
                (session.source_mapped, back.destination, there.realm, there.source),
                (session.target_mapped, there.destination, back.realm, back.source),
            ] {
                if is_held {
                    let held = mappings.entry((there.protocol, at)).or_insert((realm, owner, 0));
                    assert_eq!((held.0, held.1), (realm, owner), "{at} stands for two");
                    held.2 += 1;
                }
            }
            let pooled = matches!(session.kind, SessionKind::Hairpin | SessionKind::SourceNat);
            sharing += u32::from(pooled && !session.source_mapped && there.protocol.has_ports());
            if there.realm != Realm::External {
                *guests.entry((there.realm, there.source.address)).or_default() += 1;
            }
        });
        assert_eq!(sessions, shared.sessions.len());
        for ((protocol, at), held) in &mappings {
            let found = shared.mappings.find(*protocol, *at).expect("a mapping that is held");
            assert_eq!((found.realm, found.internal, found.sessions), *held);
        }
        for ((realm, guest), count) in guests {
            assert_eq!(shared.guests.sessions(realm, guest), count, "sessions of {guest}");
        }
        let (mut live, mut overloaded) = (0, 0);
        for last in 10..16 {
            for protocol in PORTED {
                let usage = shared.mappings.usage(Ipv4Addr::new(203, 0, 113, last), protocol);
                live += usage.live;
                overloaded += usage.overloaded;
            }
        }
        assert_eq!((live as usize, overloaded), (mappings.len(), sharing));
    }

    /// When all is over nothing is left.
    fn finish(mut self) {
        self.lab.pass(Duration::from_secs(8));
        assert_eq!(self.lab.frames_in_hand(), 0, "frames were lost");
    }
}

/// A sound packet from some network or from outside, with its domain's mark at its end.
fn sound_packet(bytes: &mut Bytes<'_>) -> (PortId, Packet) {
    let vlan = bytes.pick(&[0, 0, 100, 101, 200, 300]);
    let port = if vlan == 0 { PUBLIC } else { GUEST };
    let tag = (vlan != 0).then_some(vlan);
    let guests = [[10, 1, 1, 5], [10, 1, 1, 6], [10, 1, 2, 5], [10, 1, 1, 7]];
    let remotes = [[198, 51, 100, 9], [198, 51, 100, 10], [203, 0, 113, 77]];
    let publics = [10, 11, 12, 13, 14, 15].map(|last| [203, 0, 113, last]);
    let ports = [53, 80, 443, 2000, 2001, 4000, 5000, 22];
    let own = if vlan == 0 { bytes.pick(&remotes) } else { bytes.pick(&guests) };
    let other = match bytes.byte() % 4 {
        0 | 1 if vlan != 0 => bytes.pick(&remotes),
        3 => bytes.pick(&guests),
        _ => bytes.pick(&publics),
    };
    let from = Endpoint::new(own.into(), bytes.pick(&ports));
    let to = Endpoint::new(other.into(), bytes.pick(&ports));
    let mut data = vec![7; bytes.pick(&[0, 0, 16, 1100])];
    data.extend_from_slice(&mark_of(port, tag));
    let mut packet = match bytes.byte() % 8 {
        0..3 => Packet::udp(from, to, &data),
        3 | 4 => Packet::tcp(from, to, bytes.pick(&[2, 2, 0x10, 0x11, 4]), &[], &data),
        5 => Packet::echo(from.address, to.address, bytes.pick(&[8, 8, 0, 13]), from.port, &data),
        6 => Packet::with_ports(bytes.pick(&[Protocol::SCTP, Protocol::UDP_LITE]), from, to, &data),
        _ => Packet::new(Protocol::GRE, from.address, to.address, data),
    };
    packet.tag = tag;
    packet.ttl = TTL;
    packet.flags_offset = bytes.pick(&[0x4000, 0]);
    if bytes.byte().is_multiple_of(4) && packet.transport.len() > 24 {
        // A piece of it: the first, or another.
        let cut = (packet.transport.len() / 16).max(2) * 8;
        let cut = cut.min((packet.transport.len() - 1) / 8 * 8);
        let later = bytes.byte() & 1 != 0;
        packet.identification = u16::from(bytes.byte() % 4);
        if later {
            packet.transport.drain(..cut);
            packet.flags_offset = u16::try_from(cut / 8).expect("short");
        } else {
            packet.transport.truncate(cut);
            packet.flags_offset = 0x2000;
        }
    }
    (port, packet)
}

/// The time to live of sound packets.
const TTL: u8 = 61;
/// Who is who; the public side is none of the domains.
const DOMAINS: [&str; 4] = ["vpc-one", "vpc-two", "routed!", "outside"];
const OUTSIDE: usize = 3;
const MARK_LENGTH: usize = 8;
const PORTED: [Protocol; 6] = [
    Protocol::ICMP,
    Protocol::TCP,
    Protocol::UDP,
    Protocol::DCCP,
    Protocol::SCTP,
    Protocol::UDP_LITE,
];

fn domain_of(port: PortId, vlan: u16) -> usize {
    match (port, vlan) {
        (PUBLIC, _) => OUTSIDE,
        (_, 100 | 101) => 0,
        (_, 200) => 1,
        _ => 2,
    }
}

fn mark_named(name: &str) -> [u8; MARK_LENGTH] {
    let mut mark = [b'#'; MARK_LENGTH];
    mark[1..].copy_from_slice(name.as_bytes());
    mark
}

/// The mark of packets that come in by `port` with this tag.
fn mark_of(port: PortId, tag: Option<u16>) -> [u8; MARK_LENGTH] {
    mark_named(DOMAINS[domain_of(port, tag.unwrap_or(0))])
}

/// The rules, and the same with changes.
fn rule_sets() -> &'static [RuleSet] {
    static SETS: OnceLock<Vec<RuleSet>> = OnceLock::new();
    SETS.get_or_init(|| {
        let changes: [(&str, &str); 6] = [
            ("", ""),
            ("\"10.1.1.5\", \"guest_ports\"", "\"10.1.1.6\", \"guest_ports\""),
            ("\"port_range\": \"2000-2003\"", "\"port_range\": \"2001-2001\", \"overload\": false"),
            ("address-dependent", "address-and-port-dependent"),
            (
                "\"egress_default\": \"allow\"",
                "\"egress_default\": \"deny\", \"egress_reject\": true",
            ),
            ("\"ingress_default\": \"allow\"", "\"ingress_default\": \"deny\""),
        ];
        let read = |(old, new): (&str, &str)| {
            let text = if old.is_empty() { RULES.to_owned() } else { RULES.replace(old, new) };
            assert!(old.is_empty() || text != RULES, "{old} changes nothing");
            rules::load_text("fuzz.json", &text, None).expect("sound rules").rules
        };
        changes.map(read).to_vec()
    })
}

const RULES: &str = r#"{
  "version": 1,
  "public_ips": [
    {"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
    {"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1", "ingress_default": "allow"},
    {"address": "203.0.113.12", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1", "ingress_default": "allow"},
    {"address": "203.0.113.13", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1", "ingress_default": "allow"},
    {"address": "203.0.113.14", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1", "echo_reply": true},
    {"address": "203.0.113.15", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}
  ],
  "networks": [
    {"name": "one-a", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24", "gateway": "10.1.1.1", "domain": "one",
     "source_nat": ["203.0.113.10"], "mss_clamp": "path-mtu", "egress_default": "allow"},
    {"name": "one-b", "interface": "eth0", "vlan": 101, "cidr": "10.1.2.0/24", "gateway": "10.1.2.1", "domain": "one", "mtu": 600,
     "source_nat": ["203.0.113.10"], "nat": {"filtering_type": "endpoint-independent"}},
    {"name": "two", "interface": "eth0", "vlan": 200, "cidr": "10.1.0.0/16", "gateway": "10.1.0.1",
     "source_nat": ["203.0.113.14", "203.0.113.15"],
     "nat": {"filtering_type": "address-dependent", "port_range": "2000-2003", "hold_down_timeout": 1},
     "limits": {"sessions_per_guest": 9, "new_sessions_per_second": 20}},
    {"name": "routed", "interface": "eth0", "vlan": 300, "cidr": "10.1.1.0/24", "gateway": "10.1.1.1"}
  ],
  "port_forwards": [
    {"id": "p1", "public_ip": "203.0.113.11", "protocol": "udp", "public_ports": "53", "network": "one-a", "guest_ip": "10.1.1.5", "guest_ports": "53"},
    {"id": "p2", "public_ip": "203.0.113.11", "protocol": "tcp", "public_ports": "80", "network": "two", "guest_ip": "10.1.1.5", "guest_ports": "80"},
    {"id": "p3", "public_ip": "203.0.113.10", "protocol": "udp", "public_ports": "2000", "network": "routed", "guest_ip": "10.1.1.6", "guest_ports": "80"}
  ],
  "static_nats": [
    {"id": "s1", "public_ip": "203.0.113.12", "network": "one-a", "guest_ip": "10.1.1.6"},
    {"id": "s2", "public_ip": "203.0.113.13", "network": "two", "guest_ip": "10.1.1.6"}
  ],
  "load_balancers": [
    {"id": "l1", "public_ip": "203.0.113.11", "protocol": "tcp", "public_port": 443, "network": "one-b", "algorithm": "least-connections",
     "members": [{"guest_ip": "10.1.2.5", "guest_port": 443}, {"guest_ip": "10.1.2.6", "guest_port": 443}]}
  ]
}"#;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_steps_keep_every_promise(data in proptest::collection::vec(any::<u8>(), 0..1500)) {
            pipeline(&data);
        }
    }
}
