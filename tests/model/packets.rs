//! What becomes of one packet: found or opened session, translated bytes, or why not.

use std::net::Ipv4Addr;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::testing::packets::Packet;

use crate::choice::Ask;
use crate::decide::{Decision, answers};
use crate::nat::{Flow, How, Nat, Side};
use crate::tcp::{self, Effect};
use crate::world::lies_in;

/// Where a packet comes from.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub side: Side,
    /// The guest network it comes from.
    pub network: Option<usize>,
}

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub enum Fate {
    Drop,
    /// It is dropped and its sender gets an ICMP error of this type and code.
    Error(u8, u8),
    /// natwerk answers the echo request.
    Echo,
    Held,
    Host,
    Send(Send),
}

/// Packets that leave.
#[derive(Clone, Debug)]
pub struct Send {
    pub side: Side,
    pub packets: Vec<Packet>,
    /// Whether they get another identification, one for all of the datagram.
    pub renumbered: Option<Renumbering>,
}

/// Which identification a fragment gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renumbering {
    /// A new one: its datagram begins.
    New,
    /// That of its datagram.
    Same,
    /// A new one for all pieces of a packet that is cut here.
    Whole,
}

/// An ICMP error in the making: about a packet, from somebody on its way.
#[derive(Clone, Debug)]
pub struct ErrorAbout {
    pub kind: (u8, u8),
    pub from: Ipv4Addr,
    pub quoted: Packet,
    /// How much of the quoted packet is there.
    pub length: usize,
}

impl ErrorAbout {
    pub fn packet(&self) -> Packet {
        let bytes = self.quoted.bytes();
        let quoted = &bytes[..self.length.min(bytes.len())];
        Packet::icmp(self.from, self.quoted.source, self.kind, [0, 0, 5, 0], quoted)
    }
}

/// The endpoints of a packet: an ICMP query's identifier is both ports.
pub fn endpoints(packet: &Packet) -> (Endpoint, Endpoint) {
    let port = |at: usize| u16::from_be_bytes([packet.transport[at], packet.transport[at + 1]]);
    let ports = match packet.protocol {
        Protocol::ICMP => (port(4), port(4)),
        protocol if protocol.has_ports() => (port(0), port(2)),
        _ => (0, 0),
    };
    (Endpoint::new(packet.source, ports.0), Endpoint::new(packet.destination, ports.1))
}

/// The packet with other endpoints, every checksum computed anew.
pub fn readdressed(packet: &Packet, source: Endpoint, destination: Endpoint) -> Packet {
    let mut new = packet.clone();
    (new.source, new.destination) = (source.address, destination.address);
    match packet.protocol {
        Protocol::ICMP => new.transport[4..6].copy_from_slice(&source.port.to_be_bytes()),
        protocol if protocol.has_ports() => {
            new.transport[0..2].copy_from_slice(&source.port.to_be_bytes());
            new.transport[2..4].copy_from_slice(&destination.port.to_be_bytes());
        }
        _ => return new,
    }
    // A datagram without a checksum stays without (RFC 4787 has nothing to add to RFC 3022, 4.1).
    let unchecked = packet.protocol == Protocol::UDP && packet.transport[6..8] == [0, 0];
    if unchecked { new } else { new.with_transport_checksum() }
}

/// The packet as it leaves: other endpoints, one hop on.
pub fn translated(packet: &Packet, source: Endpoint, destination: Endpoint) -> Packet {
    Packet { ttl: packet.ttl - 1, ..readdressed(packet, source, destination) }
}

impl Nat {
    /// What becomes of a whole packet.
    pub fn packet(&mut self, arrival: Arrival, packet: &Packet, ask: Ask<'_>) -> Fate {
        let (id, direction) = match self.first_packet(arrival, packet, ask, false) {
            Ok(found) => found,
            Err(fate) => return fate,
        };
        if packet.ttl <= 1 {
            return Fate::Error(11, 0);
        }
        let session = self.sessions[&id].clone();
        let (side, source, destination) = session.out(direction);
        let (_, _, mtu) = self.link(side, destination.address);
        let bytes = packet.bytes().len();
        if bytes > usize::from(mtu) && packet.flags_offset & 0x4000 != 0 {
            return Fate::Error(3, 4);
        }
        if packet.protocol == Protocol::TCP {
            let segment = tcp::read(&packet.transport);
            let both = &mut self.sessions.get_mut(&id).expect("a session").tcp;
            match tcp::follow(both, direction, &segment) {
                Effect::Counts => self.touch(id, direction),
                Effect::Nothing => {}
                Effect::Opens => {
                    self.end(id, [self.now; 2]);
                    return self.packet(arrival, packet, ask);
                }
            }
        } else {
            self.touch(id, direction);
        }
        let packets = vec![translated(packet, source, destination)];
        let is_cut = bytes > usize::from(mtu);
        let renumbered = (is_cut && direction == 0 && session.pooled).then_some(Renumbering::Whole);
        Fate::Send(Send { side, packets, renumbered })
    }

    /// The session of a packet and its direction, opened if need be and allowed.
    pub fn first_packet(
        &mut self,
        arrival: Arrival,
        packet: &Packet,
        ask: Ask<'_>,
        in_pieces: bool,
    ) -> Result<(u64, usize), Fate> {
        let (source, destination) = endpoints(packet);
        let protocol = packet.protocol;
        let needs_ports = protocol.has_ports() && protocol != Protocol::ICMP;
        if needs_ports && (source.port == 0 || destination.port == 0) {
            return Err(Fate::Drop);
        }
        let flow = Flow { side: arrival.side, protocol, source, destination };
        // Who speaks in the name of a guest of another tier is no part of that guest's sessions.
        if arrival.network.is_some_and(|at| !lies_in(source.address, self.world.networks[at].cidr))
        {
            return Err(Fate::Drop);
        }
        let icmp = if protocol == Protocol::ICMP { packet.transport[0] } else { 0 };
        let found = match self.living(&flow) {
            Some(found) => found,
            None => (self.begin(&flow, arrival.network, (icmp, packet), ask, in_pieces)?, 0),
        };
        // A session carries one type of query one way and its replies the other way.
        let (id, direction) = found;
        let fits = match answers(icmp) {
            _ if protocol != Protocol::ICMP => true,
            None => direction == 0 && self.sessions[&id].query == icmp,
            Some(request) => direction == 1 && self.sessions[&id].query == request,
        };
        if fits { Ok(found) } else { Err(Fate::Drop) }
    }

    fn begin(
        &mut self,
        flow: &Flow,
        network: Option<usize>,
        (icmp, packet): (u8, &Packet),
        ask: Ask<'_>,
        in_pieces: bool,
    ) -> Result<u64, Fate> {
        if !self.admits(flow, network) {
            return Err(Fate::Drop);
        }
        if flow.protocol == Protocol::TCP {
            let flags = tcp::read(&packet.transport).flags;
            if flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) != tcp::SYN {
                return Err(Fate::Drop);
            }
        }
        let told = |told: bool| {
            let hears = told && network.is_some();
            if hears { Fate::Error(3, 13) } else { Fate::Drop }
        };
        match self.decide(flow, network, icmp) {
            Decision::Drop { told: tell } => Err(told(tell)),
            Decision::Echo if in_pieces => Err(Fate::Host),
            Decision::Echo => Err(Fate::Echo),
            Decision::Host => Err(Fate::Host),
            Decision::Open(plan) => {
                self.open(flow, &plan, icmp, ask).map_err(|refused| told(refused.told))
            }
        }
    }

    /// What becomes of an ICMP error: it is translated inside out (RFC 5508, REQ-4 and REQ-5), and
    /// neither refreshes nor ends the session.
    pub fn error(&mut self, arrival: Arrival, error: &ErrorAbout) -> Fate {
        let quoted = &error.quoted;
        let outer = Flow {
            side: arrival.side,
            protocol: Protocol::ICMP,
            source: Endpoint::new(error.from, 0),
            destination: Endpoint::new(quoted.source, 0),
        };
        if !self.admits(&outer, arrival.network) {
            return Fate::Drop;
        }
        let (source, destination) = endpoints(quoted);
        let flow = Flow {
            side: arrival.side,
            protocol: quoted.protocol,
            source: destination,
            destination: source,
        };
        let Some((id, direction)) = self.living(&flow) else {
            let ours = self.world.public(quoted.source).is_some();
            return if arrival.side == Side::Outside && ours { Fate::Host } else { Fate::Drop };
        };
        let session = &self.sessions[&id];
        if quoted.protocol == Protocol::TCP {
            let sequence = tcp::read(&quoted.transport).sequence;
            if !tcp::is_plausible(&session.tcp[1 - direction], sequence) {
                return Fate::Drop;
            }
        }
        let (side, new_source, new_destination) = session.out(direction);
        if arrival.side == Side::Outside && error.kind == (3, 4) {
            self.narrow.insert((quoted.source, quoted.destination));
        }
        // The quoted packet goes the other way.
        let inner = readdressed(quoted, new_destination, new_source);
        // A router of the guests' side has no name outside: the flow's public address stands for it.
        let hidden = arrival.side != Side::Outside && session.how != How::Routed;
        let from = if hidden || error.from == quoted.destination {
            new_source.address
        } else {
            error.from
        };
        let translated = ErrorAbout { from, quoted: inner, ..error.clone() };
        let packet = Packet { ttl: error.packet().ttl - 1, ..translated.packet() };
        Fate::Send(Send { side, packets: vec![packet], renumbered: None })
    }

    /// The way to `address`: the tag, the next hop, and what fits.
    pub fn link(&self, side: Side, address: Ipv4Addr) -> (u16, Ipv4Addr, u16) {
        match side {
            Side::Inside(domain) => {
                let network = self.world.network_of(domain, address).expect("a guest's network");
                let network = &self.world.networks[network];
                (network.vlan, address, network.mtu)
            }
            Side::Outside => {
                let near = crate::world::lies_in(address, crate::world::SEGMENT);
                (0, if near { address } else { crate::world::UPSTREAM }, 1500)
            }
        }
    }
}
