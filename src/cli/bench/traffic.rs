//! The packets of a bench: which sessions there are, how their frames look before translation, and
//! how they must look after it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cli::bench::world::{GUEST, PUBLIC, neighbor_mac, router_mac};
use crate::flow::{Endpoint, Mac, PortId};

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

/// Sessions of one guest, as in FD.io's CSIT.
const SESSIONS_PER_GUEST: u32 = 63;

/// Bytes of the headers: Ethernet, IPv4, UDP.
pub const HEADERS: usize = 42;

/// All sessions. Session `i` is of guest `i / 63`; its outbound packets are of one worker and its
/// inbound packets of that or another one, as receive-side scaling would have it.
pub struct Traffic {
    sessions: u32,
    workers: u32,
    length: usize,
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
}

impl Traffic {
    /// `sessions` sessions of frames that are `size` bytes long, for so many workers.
    pub fn new(sessions: u32, size: u16, workers: u16) -> Self {
        Self {
            sessions,
            workers: u32::from(workers),
            // What RFC 2544 counts, less the checksum sequence that no program sees.
            length: usize::from(size) - 4,
            external: (0..sessions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many guests there are.
    pub const fn guests(&self) -> u32 {
        self.sessions.div_ceil(SESSIONS_PER_GUEST)
    }

    /// A guest's address.
    pub fn guest(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_GUEST.to_bits() + number)
    }

    /// Bytes of a frame.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// The sessions whose first packets `worker` gets.
    pub fn created_by(&self, worker: u32) -> impl Iterator<Item = Packet> + use<> {
        let step = usize::try_from(self.workers).unwrap_or(1);
        (worker..self.sessions).step_by(step).map(|session| Packet { session, outbound: true })
    }

    /// A random packet among those that `worker` gets.
    pub fn random(&self, worker: u32, random: &mut Random) -> Packet {
        loop {
            let number = random.next();
            let (high, low) = (number >> 32, number & 0xffff_ffff);
            let session = u32::try_from((low * u64::from(self.sessions)) >> 32).unwrap_or(0);
            let packet = Packet { session, outbound: high & 1 == 0 };
            let owner = if packet.outbound { session } else { session / SESSIONS_PER_GUEST };
            if owner % self.workers == worker {
                return packet;
            }
            // With fewer guests than workers nobody sends inbound packets to some of them.
            if self.guests() < self.workers && session % self.workers == worker {
                return Packet { session, outbound: true };
            }
        }
    }

    /// Where a packet comes in.
    pub const fn port(packet: Packet) -> PortId {
        if packet.outbound { GUEST } else { PUBLIC }
    }

    /// Writes the frame of `packet` as it comes in. `frame` is [`Self::length`] bytes long.
    pub fn write(&self, packet: Packet, frame: &mut [u8]) {
        let (source, destination) = self.before(packet);
        let port = Self::port(packet);
        let from = if packet.outbound { source.address } else { GATEWAY };
        write_frame(frame, (neighbor_mac(from), router_mac(port)), (source, destination), 64);
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
        let mut expected = vec![0; self.length];
        write_frame(&mut expected, (router_mac(port), neighbor_mac(to)), ends, 63);
        expected == frame
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
        Endpoint::new(self.guest(guest), u16::try_from(port).unwrap_or(u16::MAX))
    }

    fn external(&self, session: u32) -> Endpoint {
        let words = usize::try_from(session).ok().and_then(|at| self.external.get(at));
        let words = words.map_or(0, |words| words.load(Ordering::Relaxed));
        let [_, _, a, b, c, d, e, f] = words.to_be_bytes();
        Endpoint::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f]))
    }
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

/// A UDP frame with both checksums, zeros behind its headers.
fn write_frame(
    frame: &mut [u8],
    (from, to): (Mac, Mac),
    (source, destination): (Endpoint, Endpoint),
    ttl: u8,
) {
    let packet_length = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
    let udp_length = packet_length - 20;
    let Some((headers, payload)) = frame.split_first_chunk_mut::<HEADERS>() else { return };
    payload.fill(0);
    headers[0..6].copy_from_slice(&to.0);
    headers[6..12].copy_from_slice(&from.0);
    headers[12..14].copy_from_slice(&[8, 0]);
    headers[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, ttl, 17]);
    headers[16..18].copy_from_slice(&packet_length.to_be_bytes());
    headers[24..26].fill(0);
    headers[26..30].copy_from_slice(&source.address.octets());
    headers[30..34].copy_from_slice(&destination.address.octets());
    headers[34..36].copy_from_slice(&source.port.to_be_bytes());
    headers[36..38].copy_from_slice(&destination.port.to_be_bytes());
    headers[38..40].copy_from_slice(&udp_length.to_be_bytes());
    headers[40..42].fill(0);
    let addresses = words_sum(&headers[26..34]);
    let sum = !fold(words_sum(&headers[14..26]) + addresses);
    headers[24..26].copy_from_slice(&sum.to_be_bytes());
    // The payload is zeros and adds nothing.
    let sum = !fold(words_sum(&headers[34..42]) + addresses + 17 + u32::from(udp_length));
    let sum = if sum == 0 { u16::MAX } else { sum };
    headers[40..42].copy_from_slice(&sum.to_be_bytes());
}

fn words_sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// A sum of words as one, carries added again.
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX)
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

    #[test]
    fn a_frame_has_right_checksums() {
        let traffic = Traffic::new(1000, 80, 1);
        let mut frame = vec![0xff; traffic.length()];
        for session in [0, 62, 63, 999] {
            traffic.write(Packet { session, outbound: true }, &mut frame);
            let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let (ip, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
                panic!("UDP")
            };
            let sum = udp.to_header().calc_checksum_ipv4(&ip, udp.payload()).unwrap();
            assert_eq!(udp.checksum(), sum);
            assert!(!traffic.is_translated(Packet { session, outbound: true }, &frame));
        }
    }

    #[test]
    fn every_direction_of_every_session_has_one_worker() {
        let traffic = Traffic::new(1000, 64, 3);
        let all: std::collections::HashSet<_> =
            (0..3).flat_map(|worker| traffic.created_by(worker)).map(|it| it.session).collect();
        assert_eq!(all.len(), 1000);
        let mut owners = std::collections::HashMap::new();
        for worker in 0..3 {
            let mut random = Random::new(7);
            for _ in 0..5000 {
                let packet = traffic.random(worker, &mut random);
                let before = owners.insert((packet.session, packet.outbound), worker);
                assert!(before.is_none_or(|before| before == worker));
            }
        }
    }
}
