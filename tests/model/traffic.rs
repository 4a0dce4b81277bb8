//! What the traces are made of: new flows, answers, forgeries, fragments, errors, time, reloads.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::packets::Packet;

use crate::change::changed;
use crate::fragments::Piece;
use crate::nat::{Flow, Nat, Session, Side};
use crate::packets::{Arrival, ErrorAbout};
use crate::random::Random;
use crate::tcp::{ACK, FIN, RST, SYN};
use crate::world::{World, ip, public};

/// A step of a trace.
#[derive(Clone, Debug)]
pub enum Step {
    Error(Arrival, ErrorAbout),
    Packet(Arrival, Packet),
    /// Milliseconds go by.
    Pass(u64),
    Piece(Arrival, Piece),
    Reload(Box<World>),
}

impl std::fmt::Display for Step {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(arrival, error) => {
                let about = shown(&error.quoted);
                let (kind, from, length) = (error.kind, error.from, error.length);
                write!(
                    out,
                    "{}: error {kind:?} of {from} about {about}, {length} quoted",
                    arrival.side
                )
            }
            Self::Packet(arrival, packet) => write!(out, "{}: {}", arrival.side, shown(packet)),
            Self::Pass(ms) => write!(out, "{ms} ms go by"),
            Self::Piece(arrival, piece) => {
                let (start, end) = (piece.start, piece.end);
                write!(out, "{}: bytes {start}..{end} of {}", arrival.side, shown(&piece.whole))
            }
            Self::Reload(world) => write!(out, "new rules {}", world.json()),
        }
    }
}

fn shown(packet: &Packet) -> String {
    let (from, to) = crate::packets::endpoints(packet);
    let more = match packet.protocol {
        Protocol::ICMP => format!(" type {}", packet.transport[0]),
        Protocol::TCP => format!(" {:?}", crate::tcp::read(&packet.transport)),
        _ => String::new(),
    };
    format!(
        "{} {from} > {to}{more} ttl {} identification {} flags {:x} {} bytes",
        packet.protocol,
        packet.ttl,
        packet.identification,
        packet.flags_offset,
        packet.transport.len()
    )
}

/// Makes steps.
pub struct Traffic {
    pub random: Random,
    /// Fragments yet to be sent.
    pieces: VecDeque<Step>,
    datagrams: u16,
}

const OUTSIDE: Arrival = Arrival { side: Side::Outside, network: None };

impl Traffic {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), pieces: VecDeque::new(), datagrams: 0 }
    }

    /// The next step. Fragments of a datagram come before time goes on.
    pub fn next(&mut self, nat: &Nat) -> Step {
        if !self.pieces.is_empty() && self.random.chance(60) {
            return self.pieces.pop_front().expect("not empty");
        }
        match self.random.below(1000) {
            0..300 => self.outbound(nat),
            300..640 => self.within(nat).unwrap_or_else(|| self.outbound(nat)),
            640..760 => self.inbound(nat),
            760..830 => self.hairpin(nat),
            830..870 => self.neighborly(nat),
            870..920 => self.about(nat).unwrap_or_else(|| self.outbound(nat)),
            920..960 => {
                self.cut(nat);
                self.pieces.pop_front().unwrap_or_else(|| self.outbound(nat))
            }
            960..985 => self.strange(nat),
            985..997 => {
                // What is left of a datagram is lost.
                self.pieces.clear();
                Step::Pass(self.random.pick(&[2_500, 3_000, 5_000, 9_000, 20_000, 60_000]))
            }
            _ => Step::Reload(Box::new(changed(&nat.world, &mut self.random))),
        }
    }

    fn guest(&mut self, nat: &Nat) -> (Arrival, Ipv4Addr) {
        let network = self.random.below(nat.world.networks.len());
        let rules = &nat.world.networks[network];
        let [a, b, c, _] = rules.gateway.octets();
        let guest = match rules.vlan {
            200 => self.random.pick(&[
                ip(10, 1, 1, 5),
                ip(10, 1, 1, 6),
                ip(10, 1, 1, 255),
                ip(10, 1, 3, 9),
            ]),
            _ => ip(a, b, c, self.random.pick(&[5, 6, 7])),
        };
        (Arrival { side: Side::Inside(rules.domain), network: Some(network) }, guest)
    }

    fn peer(&mut self) -> Endpoint {
        let peers = [1, 2, 3, 4].map(|last| ip(198, 51, 100, last));
        let address = if self.random.chance(5) { public(77) } else { self.random.pick(&peers) };
        Endpoint::new(address, self.random.pick(&[53, 53, 80, 443, 7000, 7001, 25]))
    }

    fn guest_port(&mut self) -> u16 {
        self.random.pick(&[4000, 4001, 4002, 4003, 500, 2001, 2002, 5060, 22, 80])
    }

    fn outbound(&mut self, nat: &Nat) -> Step {
        let (arrival, guest) = self.guest(nat);
        let source = Endpoint::new(guest, self.guest_port());
        let peer = self.peer();
        Step::Packet(arrival, self.opening(source, peer))
    }

    fn inbound(&mut self, nat: &Nat) -> Step {
        let peer = self.peer();
        let mut to = Endpoint::new(
            public(self.random.pick(&[10, 11, 12, 13, 14, 15, 16, 99])),
            self.random.pick(&[22, 80, 443, 2222, 2230, 2231, 5000, 5003, 8080, 8443, 4000, 4001]),
        );
        if self.random.chance(30)
            && let Some(mapped) = self.mapped(nat)
        {
            to = mapped;
        }
        Step::Packet(OUTSIDE, self.opening(peer, to))
    }

    fn hairpin(&mut self, nat: &Nat) -> Step {
        let (arrival, guest) = self.guest(nat);
        let source = Endpoint::new(guest, self.guest_port());
        let Step::Packet(_, packet) = self.inbound(nat) else { unreachable!("a packet") };
        let (_, to) = crate::packets::endpoints(&packet);
        Step::Packet(arrival, self.opening(source, to))
    }

    /// To another network of any domain, or the gateway.
    fn neighborly(&mut self, nat: &Nat) -> Step {
        let (arrival, guest) = self.guest(nat);
        let source = Endpoint::new(guest, self.guest_port());
        let (_, other) = self.guest(nat);
        let gateway = nat.world.networks[0].gateway;
        let address = if self.random.chance(10) { gateway } else { other };
        let to = Endpoint::new(address, self.random.pick(&[80, 53, 22, 4000]));
        Step::Packet(arrival, self.opening(source, to))
    }

    /// An endpoint that some mapping has.
    fn mapped(&mut self, nat: &Nat) -> Option<Endpoint> {
        let mut all: Vec<Endpoint> = nat.mappings.keys().map(|(_, endpoint)| *endpoint).collect();
        all.sort();
        (!all.is_empty()).then(|| self.random.pick(&all))
    }

    /// The first packet of a flow.
    fn opening(&mut self, source: Endpoint, to: Endpoint) -> Packet {
        let length = self.random.pick(&[0, 3, 20, 20, 40, 1100]);
        let data: Vec<u8> = (0..length).map(|_| self.random.word().to_le_bytes()[0]).collect();
        let mut packet = match self.random.below(20) {
            0..8 => Packet::udp(source, to, &data),
            8..14 => {
                let flags = self.random.pick(&[SYN, SYN, SYN, SYN, SYN, SYN, ACK, SYN | ACK, RST]);
                let sequence = self.random.word().to_le_bytes();
                self.tcp(
                    source,
                    to,
                    flags,
                    (u32::from_le_bytes([sequence[0], sequence[1], 3, 4]), 0),
                    &[],
                )
            }
            14..17 => {
                let kind = self.random.pick(&[8, 8, 8, 13, 0, 14]);
                let [high, low] = source.port.to_be_bytes();
                Packet::icmp(source.address, to.address, (kind, 0), [high, low, 0, 1], &data)
            }
            17 => Packet::new(Protocol::GRE, source.address, to.address, data),
            18 => Packet::with_ports(Protocol::SCTP, source, to, &data),
            _ => Packet::with_ports(Protocol::UDP_LITE, source, to, &data),
        };
        if packet.protocol == Protocol::UDP && self.random.chance(10) {
            packet.transport[6..8].fill(0);
        }
        self.dressed(packet)
    }

    /// The packet with what headers may have besides.
    fn dressed(&mut self, mut packet: Packet) -> Packet {
        packet.tos = self.random.pick(&[0, 0, 0xb8, 3]);
        packet.identification = self.random.word().to_le_bytes()[0].into();
        packet.flags_offset = self.random.pick(&[0x4000, 0x4000, 0]);
        packet.ttl = if self.random.chance(2) { 1 } else { self.random.pick(&[2, 64, 255]) };
        if self.random.chance(10) {
            packet.padding = vec![0; 6];
        }
        packet
    }

    fn tcp(
        &mut self,
        from: Endpoint,
        to: Endpoint,
        flags: u8,
        numbers: (u32, u32),
        data: &[u8],
    ) -> Packet {
        let mut packet = Packet::tcp(from, to, flags, &[], data);
        packet.transport[4..8].copy_from_slice(&numbers.0.to_be_bytes());
        packet.transport[8..12].copy_from_slice(&numbers.1.to_be_bytes());
        packet.with_transport_checksum()
    }

    fn some_session<'n>(&mut self, nat: &'n Nat) -> Option<(&'n Session, usize)> {
        let count = nat.sessions.len();
        let session = (count > 0).then(|| nat.sessions.values().nth(self.random.below(count)));
        Some((session??, self.random.below(2)))
    }

    /// Where packets of a flow come from.
    fn arrival(nat: &Nat, flow: &Flow) -> Option<Arrival> {
        let network = match flow.side {
            Side::Outside => None,
            Side::Inside(domain) => Some(nat.world.network_of(domain, flow.source.address)?),
        };
        Some(Arrival { side: flow.side, network })
    }

    /// A packet of a session there is.
    fn within(&mut self, nat: &Nat) -> Option<Step> {
        let (session, direction) = self.some_session(nat)?;
        let flow = *session.flow(direction);
        let arrival = Self::arrival(nat, &flow)?;
        let packet = self.packet_of(session, direction);
        let packet = self.dressed(packet);
        Some(Step::Packet(arrival, packet))
    }

    fn packet_of(&mut self, session: &Session, direction: usize) -> Packet {
        let flow = *session.flow(direction);
        let (source, to) = (flow.source, flow.destination);
        let data = [7; 30];
        match flow.protocol {
            Protocol::TCP => self.segment_of(session, direction),
            Protocol::UDP => Packet::udp(source, to, &data),
            Protocol::ICMP => {
                let reply = match session.query {
                    8 => 0,
                    request => request + 1,
                };
                let right = if direction == 0 { session.query } else { reply };
                let kind =
                    if self.random.chance(8) { self.random.pick(&[0, 8, 13, 14]) } else { right };
                let [high, low] = source.port.to_be_bytes();
                Packet::icmp(source.address, to.address, (kind, 0), [high, low, 0, 2], &data)
            }
            protocol if protocol.has_ports() => Packet::with_ports(protocol, source, to, &data),
            protocol => Packet::new(protocol, source.address, to.address, data.to_vec()),
        }
    }

    /// A segment that its sender might send now, or a forger.
    fn segment_of(&mut self, session: &Session, direction: usize) -> Packet {
        let flow = *session.flow(direction);
        let (own, peer) = (session.tcp[direction], session.tcp[1 - direction]);
        let data = [7; 30];
        let far = 0x1000_0000;
        let next = own.next;
        let (flags, sequence, data): (u8, u32, &[u8]) = match (own.syn, self.random.below(20)) {
            (false, 0..15) if direction == 1 => (SYN | ACK, 77_000, &[]),
            (false, 15) => (RST | ACK, 0, &[]),
            (_, 0..10) => (ACK, next, &data),
            (_, 10) => (ACK, next.wrapping_sub(30), &data),
            (_, 11 | 12) => (FIN | ACK, next, &[]),
            (_, 13) => (RST, next, &[]),
            (_, 14) => (RST, next.wrapping_add(far), &[]),
            (_, 15) => (FIN | ACK, next.wrapping_add(far), &[]),
            (_, 16) => (SYN, next.wrapping_sub(1), &[]),
            (_, 17) => (SYN, next.wrapping_add(far), &[]),
            (_, 18) => (RST, next.wrapping_add(1), &[]),
            _ => (ACK, next, &[]),
        };
        self.tcp(flow.source, flow.destination, flags, (sequence, peer.next), data)
    }

    /// An ICMP error about a packet of a session, as its receiver or a router on its way saw it.
    fn about(&mut self, nat: &Nat) -> Option<Step> {
        let (session, direction) = self.some_session(nat)?;
        let (side, source, to) = session.out(direction);
        // The quoted packet went out in `direction`; the error comes the other way.
        let arrival = Self::arrival(nat, session.flow(1 - direction))?;
        assert_eq!(arrival.side, side);
        let sent = self.packet_of(session, direction);
        let mut quoted = crate::packets::readdressed(&sent, source, to);
        if let (Protocol::TCP, true) = (sent.protocol, self.random.chance(60)) {
            let sequence = session.tcp[direction].next.wrapping_sub(1);
            quoted.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            quoted = quoted.with_transport_checksum();
        }
        let from = match (self.random.chance(40), side) {
            (true, Side::Outside) => ip(192, 0, 2, 66),
            _ => to.address,
        };
        let kind = self.random.pick(&[(3, 3), (3, 1), (3, 4), (11, 0), (12, 0)]);
        let length = self.random.pick(&[28, 36, 40, 1000]);
        Some(Step::Error(arrival, ErrorAbout { kind, from, quoted, length }))
    }

    /// A large datagram in pieces, in any order; sometimes one is lost, or comes twice.
    fn cut(&mut self, nat: &Nat) {
        let step = match self.random.below(3) {
            0 => self.outbound(nat),
            1 => self.inbound(nat),
            _ => self.within(nat).unwrap_or_else(|| self.outbound(nat)),
        };
        let Step::Packet(arrival, packet) = step else { return };
        if !matches!(packet.protocol, Protocol::UDP | Protocol::ICMP) {
            return;
        }
        let (source, to) = crate::packets::endpoints(&packet);
        let data: Vec<u8> =
            (0..self.random.pick(&[90, 400, 1200])).map(|i: u32| i.to_le_bytes()[0]).collect();
        let mut whole = match packet.protocol {
            Protocol::UDP => Packet::udp(source, to, &data),
            _ => {
                let rest = packet.transport[4..8].try_into().expect("four bytes");
                let kind = (packet.transport[0], 0);
                Packet::icmp(source.address, to.address, kind, rest, &data)
            }
        };
        (whole.flags_offset, whole.ttl) = (0, 64);
        // No two datagrams are under way under one name.
        self.datagrams = self.datagrams.wrapping_add(1);
        whole.identification = self.datagrams;
        let end = whole.transport.len();
        let step = self.random.pick(&[40, 64, 200]).min(end.div_ceil(2).next_multiple_of(8));
        let mut pieces: Vec<Piece> = (0..end)
            .step_by(step)
            .map(|start| Piece { whole: whole.clone(), start, end: end.min(start + step) })
            .collect();
        match self.random.below(10) {
            0 => {
                pieces.remove(self.random.below(pieces.len()));
            }
            1 => pieces.push(pieces[self.random.below(pieces.len())].clone()),
            _ => {}
        }
        while !pieces.is_empty() {
            let at = if self.random.chance(50) { 0 } else { self.random.below(pieces.len()) };
            self.pieces.push_back(Step::Piece(arrival, pieces.remove(at)));
        }
    }

    /// Addresses that nobody has, or not there.
    fn strange(&mut self, nat: &Nat) -> Step {
        let (arrival, guest) = self.guest(nat);
        let odd = [
            ip(127, 0, 0, 1),
            ip(224, 0, 0, 5),
            ip(10, 1, 1, 255),
            ip(10, 1, 3, 255),
            ip(10, 1, 2, 255),
            ip(255, 255, 255, 255),
            ip(0, 0, 0, 0),
            ip(10, 9, 9, 9),
            public(255),
            public(12),
            ip(10, 1, 1, 5),
            ip(10, 1, 1, 1),
        ];
        let port = self.guest_port();
        let odd = Endpoint::new(self.random.pick(&odd), 53);
        let (peer, guest) = (self.peer(), Endpoint::new(guest, port));
        match self.random.below(4) {
            0 => Step::Packet(arrival, self.opening(odd, peer)),
            1 => Step::Packet(arrival, self.opening(guest, odd)),
            2 => Step::Packet(OUTSIDE, self.opening(odd, Endpoint::new(public(13), 80))),
            _ => Step::Packet(OUTSIDE, self.opening(peer, odd)),
        }
    }
}
