//! The packets of a bench: which sessions there are, how their frames look before translation, and
//! how they must look after it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cli::bench::frames::{Ends, Frame, Segment, TAG, TCP_HEADERS};
use crate::cli::bench::world::{GUEST, PUBLIC, neighbor_mac, router_mac};
use crate::cli::bench::{Arguments, Carried};
use crate::flow::{Endpoint, Mac, PortId};
use crate::wire::segment::flags;

/// The first guest.
pub const FIRST_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 0);
/// The router among guests.
pub const GUEST_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The upstream router.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The first public address.
pub const FIRST_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
/// The first remote.
const FIRST_REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);

/// The sequence number of every SYN.
const FIRST_SEQUENCE: u32 = 0xffff_0000;

/// Sessions of one guest, as in FD.io's CSIT.
const SESSIONS_PER_GUEST: u32 = 63;

/// All sessions. Session `i` is of guest `i / 63`; its outbound packets are of one worker and its
/// inbound packets of that or another one, as receive-side scaling would have it.
pub struct Traffic {
    sessions: u32,
    workers: u32,
    length: usize,
    is_tcp: bool,
    /// How many networks the guests are dealt to, if those are under tags.
    networks: Option<u16>,
    /// The external endpoint of each session once it is known: address and port.
    external: Vec<AtomicU64>,
}

/// A packet to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// The session.
    pub session: u32,
    /// Whether it comes from the guest.
    pub outbound: bool,
    /// What it is of a TCP connection; UDP has no such thing.
    pub stage: Stage,
}

/// What a packet is of a TCP connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The guest's SYN.
    Opens,
    /// The remote's SYN-ACK.
    Answers,
    /// An acknowledgement with data, so many bytes after the sender's first.
    Goes(u32),
}

impl Packet {
    /// The rest of a TCP handshake whose SYN is this packet.
    pub const fn answers(self) -> [Self; 2] {
        [
            Self { outbound: false, stage: Stage::Answers, ..self },
            Self { outbound: true, stage: Stage::Goes(0), ..self },
        ]
    }
}

impl Traffic {
    /// The sessions that `arguments` asks for.
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            sessions: arguments.sessions,
            is_tcp: arguments.protocol == Carried::Tcp,
            workers: u32::from(arguments.workers),
            // What RFC 2544 counts, less the checksum sequence that no program sees.
            length: usize::from(arguments.size) - 4,
            networks: arguments.networks,
            external: (0..arguments.sessions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether the sessions are TCP connections.
    pub const fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// How many guests there are.
    pub const fn guests(&self) -> u32 {
        self.sessions.div_ceil(SESSIONS_PER_GUEST)
    }

    /// The tag of a guest's network, and the guest's address in it.
    pub fn guest(&self, number: u32) -> (u16, Ipv4Addr) {
        let networks = u32::from(self.networks.unwrap_or(1));
        let place = u16::try_from(number % networks).unwrap_or(0);
        let vlan = self.networks.map_or(0, |_| tag(place));
        (vlan, Ipv4Addr::from_bits(FIRST_GUEST.to_bits() + number / networks))
    }

    /// Bytes of a frame without a tag.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether frames get or lose a tag on their way.
    pub const fn is_tagged(&self) -> bool {
        self.networks.is_some()
    }

    /// Bytes of the frame of `packet` as it comes in.
    pub const fn length_of(&self, packet: Packet) -> usize {
        self.length_among(packet.outbound)
    }

    const fn length_among(&self, are_guests: bool) -> usize {
        if are_guests && self.is_tagged() { self.length + TAG } else { self.length }
    }

    /// The sessions whose first packets `worker` gets.
    pub fn created_by(&self, worker: u32) -> impl Iterator<Item = Packet> + use<> {
        let step = usize::try_from(self.workers).unwrap_or(1);
        (worker..self.sessions).step_by(step).map(|session| Packet {
            session,
            outbound: true,
            stage: Stage::Opens,
        })
    }

    /// A random packet among those that `worker` gets, the `number`th of them.
    pub fn random(&self, worker: u32, number: u32, random: &mut Random) -> Packet {
        let stage = Stage::Goes(number);
        loop {
            let number = random.next();
            let (high, low) = (number >> 32, number & 0xffff_ffff);
            let session = u32::try_from((low * u64::from(self.sessions)) >> 32).unwrap_or(0);
            let packet = Packet { session, outbound: high & 1 == 0, stage };
            let owner = if packet.outbound { session } else { session / SESSIONS_PER_GUEST };
            if owner % self.workers == worker {
                return packet;
            }
            // With fewer guests than workers nobody sends inbound packets to some of them.
            if self.guests() < self.workers && session % self.workers == worker {
                return Packet { session, outbound: true, stage };
            }
        }
    }

    /// Where a packet comes in.
    pub const fn port(packet: Packet) -> PortId {
        if packet.outbound { GUEST } else { PUBLIC }
    }

    /// Writes the frame of `packet` as it comes in. `frame` is [`Self::length_of`] it bytes long.
    pub fn write(&self, packet: Packet, frame: &mut [u8]) {
        let (source, destination) = self.before(packet);
        let port = Self::port(packet);
        let from = if packet.outbound { source.address } else { GATEWAY };
        let stations = (neighbor_mac(from), router_mac(port));
        self.frame(packet, packet.outbound, stations, (source, destination), 64).write(frame);
    }

    /// Remembers the external endpoint that a session's first packet left with.
    ///
    /// Returns false if the packet was not translated as it should be.
    #[must_use]
    pub fn learn(&self, packet: Packet, frame: &[u8]) -> bool {
        let Some(source) = endpoint(frame, 26, 34) else { return false };
        let words = u64::from(source.address.to_bits()) << 16 | u64::from(source.port);
        let Some(external) =
            usize::try_from(packet.session).ok().and_then(|at| self.external.get(at))
        else {
            return false;
        };
        external.store(words, Ordering::Relaxed);
        source.address >= FIRST_PUBLIC && self.is_translated(packet, frame)
    }

    /// Whether `frame` is the packet as it must leave, byte by byte.
    #[must_use]
    pub fn is_translated(&self, packet: Packet, frame: &[u8]) -> bool {
        let guest = self.internal(packet.session);
        let (external, remote) = (self.external(packet.session), remote(packet.session));
        let (ends, to, port) = match packet.outbound {
            true => ((external, remote), GATEWAY, PUBLIC),
            false => ((remote, guest), guest.address, GUEST),
        };
        let mut expected = vec![0; self.length_among(!packet.outbound)];
        let stations = (router_mac(port), neighbor_mac(to));
        self.frame(packet, !packet.outbound, stations, ends, 63).write(&mut expected);
        expected == frame
    }

    fn frame(
        &self,
        packet: Packet,
        is_among_guests: bool,
        (from, to): (Mac, Mac),
        (source, destination): Ends,
        ttl: u8,
    ) -> Frame {
        let data = u32::try_from(self.length.saturating_sub(TCP_HEADERS)).unwrap_or(0);
        // Both sides begin at the same number; a SYN takes one, and its data as much as any.
        let [opens, goes] = [FIRST_SEQUENCE, FIRST_SEQUENCE + 1 + data];
        let segment = match packet.stage {
            _ if !self.is_tcp => None,
            Stage::Opens => {
                Some(Segment { flags: flags::SYN, sequence: opens, acknowledgement: 0 })
            }
            Stage::Answers => {
                let flags = flags::SYN | flags::ACK;
                Some(Segment { flags, sequence: opens, acknowledgement: goes })
            }
            Stage::Goes(offset) => {
                let sequence = goes.wrapping_add(offset);
                Some(Segment { flags: flags::ACK, sequence, acknowledgement: goes })
            }
        };
        let (guests_tag, _) = self.guest(packet.session / SESSIONS_PER_GUEST);
        let vlan = if is_among_guests { guests_tag } else { 0 };
        Frame { from, to, vlan, source, destination, ttl, segment }
    }

    fn before(&self, packet: Packet) -> (Endpoint, Endpoint) {
        let remote = remote(packet.session);
        match packet.outbound {
            true => (self.internal(packet.session), remote),
            false => (remote, self.external(packet.session)),
        }
    }

    fn internal(&self, session: u32) -> Endpoint {
        let guest = session / SESSIONS_PER_GUEST;
        // Where an operating system begins to give out ports differs from guest to guest.
        let first = 20_000 + guest.wrapping_mul(2_654_435_761) % 40_000;
        let port = first + session % SESSIONS_PER_GUEST;
        Endpoint::new(self.guest(guest).1, u16::try_from(port).unwrap_or(u16::MAX))
    }

    fn external(&self, session: u32) -> Endpoint {
        let words = usize::try_from(session).ok().and_then(|at| self.external.get(at));
        let words = words.map_or(0, |words| words.load(Ordering::Relaxed));
        let [_, _, a, b, c, d, e, f] = words.to_be_bytes();
        Endpoint::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f]))
    }
}

/// The tag of the network at `place`.
pub const fn tag(place: u16) -> u16 {
    place + 1
}

fn remote(session: u32) -> Endpoint {
    let address = Ipv4Addr::from_bits(FIRST_REMOTE.to_bits() + 1 + session % 250);
    Endpoint::new(address, u16::try_from(4000 + session % 997).unwrap_or(4000))
}

/// The endpoint whose address and port stand at these places of a frame.
fn endpoint(frame: &[u8], address: usize, port: usize) -> Option<Endpoint> {
    let address: [u8; 4] = frame.get(address..address + 4)?.try_into().ok()?;
    let port: [u8; 2] = frame.get(port..port + 2)?.try_into().ok()?;
    Some(Endpoint::new(Ipv4Addr::from(address), u16::from_be_bytes(port)))
}

/// xorshift64*: fast, and the same every time.
pub struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packets::wrong_checksums;

    fn traffic(protocol: Carried, workers: u16, networks: Option<u16>) -> Traffic {
        let (sessions, size, acl_rules, seconds, repeatable) = (1000, 80, 0, 0.0, false);
        Traffic::new(&Arguments {
            sessions,
            size,
            workers,
            acl_rules,
            networks,
            seconds,
            protocol,
            repeatable,
            profile: None,
            compare: None,
        })
    }

    #[test]
    fn a_frame_has_right_checksums() {
        for (protocol, networks) in
            [(Carried::Udp, None), (Carried::Tcp, None), (Carried::Udp, Some(3))]
        {
            let traffic = traffic(protocol, 1, networks);
            let network = if traffic.is_tagged() { 18 } else { 14 };
            for session in [0, 62, 63, 999] {
                let packet = Packet { session, outbound: true, stage: Stage::Opens };
                let mut frame = vec![0xff; traffic.length_of(packet)];
                traffic.write(packet, &mut frame);
                assert_eq!(frame.len() - network, 80 - 4 - 14);
                assert_eq!(wrong_checksums(&frame[network..]), Vec::<&str>::new());
                assert!(!traffic.is_translated(packet, &frame));
            }
        }
    }

    #[test]
    fn guests_are_dealt_to_networks_with_the_same_addresses() {
        let traffic = traffic(Carried::Udp, 1, Some(3));
        let guests = [0, 1, 2, 3, 4].map(|number| traffic.guest(number));
        let [first, second] = [FIRST_GUEST, Ipv4Addr::from_bits(FIRST_GUEST.to_bits() + 1)];
        assert_eq!(guests, [(1, first), (2, first), (3, first), (1, second), (2, second)]);
    }

    #[test]
    fn every_direction_of_every_session_has_one_worker() {
        let traffic = traffic(Carried::Udp, 3, None);
        let all: std::collections::HashSet<_> =
            (0..3).flat_map(|worker| traffic.created_by(worker)).map(|it| it.session).collect();
        assert_eq!(all.len(), 1000);
        let mut owners = std::collections::HashMap::new();
        for worker in 0..3 {
            let mut random = Random::new(7);
            for _ in 0..5000 {
                let packet = traffic.random(worker, 0, &mut random);
                let before = owners.insert((packet.session, packet.outbound), worker);
                assert!(before.is_none_or(|before| before == worker));
            }
        }
    }
}
