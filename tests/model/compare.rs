//! Whether natwerk did to a packet what the model says, byte by byte.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use natwerk::flow::{Mac, PortId, Protocol};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::verdict::{DropReason, Verdict};

use crate::nat::{Nat, Side};
use crate::packets::{Arrival, Fate, Renumbering, Send};

/// A packet that was sent to natwerk.
pub struct Sent<'s> {
    pub port: PortId,
    pub frame: &'s [u8],
    pub packet: &'s Packet,
}

/// The identifications that datagrams in fragments got.
pub type Renumbered = HashMap<(Ipv4Addr, Ipv4Addr, Protocol, u16), u16>;

type Frames = [(PortId, Vec<u8>)];

impl Nat {
    /// The frame of a packet from a guest network or the public side, from its sender's own link
    /// address to the router's.
    pub fn frame(&self, arrival: &Arrival, packet: &Packet) -> Vec<u8> {
        let tag = arrival.network.map(|network| self.world.networks[network].vlan);
        let tag = tag.filter(|vlan| *vlan != 0);
        let mut frame = Packet { tag, ..packet.clone() }.frame();
        frame[0..6].copy_from_slice(&Lab::router_mac(side_port(arrival.side)).0);
        frame[6..12].copy_from_slice(&Lab::neighbor_mac(packet.source).0);
        frame
    }
}

/// Whether `outcome` is what the model says.
pub fn agree(
    nat: &Nat,
    sent: &Sent<'_>,
    fate: &Fate,
    outcome: &Outcome,
    renumbered: &mut Renumbered,
) -> Result<(), String> {
    let Outcome { verdict, sent: left, host } = outcome;
    let quiet = left.is_empty() && host.is_empty();
    match (fate, verdict) {
        (Fate::Drop, Verdict::Drop(_)) | (Fate::Held, Verdict::Hold) if quiet => Ok(()),
        (Fate::Error(icmp_type, code), Verdict::Drop(_)) if host.is_empty() => {
            error_is_right(sent, (*icmp_type, *code), left)
        }
        (Fate::Echo, Verdict::Forward(port)) if *port == sent.port && host.is_empty() => {
            echo_is_right(sent, left)
        }
        (Fate::Host, Verdict::Host(_)) if left.is_empty() => {
            // With the fragments that waited for it.
            let same = host
                .iter()
                .any(|(port, frame)| *port == sent.port && frame[12..] == sent.frame[12..]);
            if same {
                Ok(())
            } else {
                Err("the kernel did not get the packet as it was".to_owned())
            }
        }
        // The kernel has not heard that the path is narrow; natwerk may have forgotten, too.
        (Fate::Host, Verdict::Drop(DropReason::MtuExceeded)) if quiet => {
            if nat.narrow.contains(&(sent.packet.destination, sent.packet.source)) {
                Ok(())
            } else {
                Err("nobody told that the path is narrow".to_owned())
            }
        }
        (Fate::Send(send), Verdict::Forward(port)) if host.is_empty() => {
            if *port == side_port(send.side) {
                packets_are_right(nat, send, left, renumbered)
            } else {
                Err("it leaves by the wrong interface".to_owned())
            }
        }
        _ => Err("another verdict".to_owned()),
    }
}

pub fn side_port(side: Side) -> PortId {
    if side == Side::Outside { PUBLIC } else { GUEST }
}

/// The network header of a frame and what precedes it: addresses and tag.
fn network(frame: &[u8]) -> (Mac, Mac, u16, &[u8]) {
    let mac = |at: usize| Mac(frame[at..at + 6].try_into().expect("six bytes"));
    let (tag, start) = match frame[12..14] {
        [0x81, 0x00] => (u16::from_be_bytes([frame[14], frame[15]]), 18),
        _ => (0, 14),
    };
    (mac(0), mac(6), tag, &frame[start..])
}

fn error_is_right(sent: &Sent<'_>, kind: (u8, u8), left: &Frames) -> Result<(), String> {
    let [(port, frame)] = left else { return Err("one ICMP error was due".to_owned()) };
    let (_, _, tag, ip) = network(frame);
    let original = sent.packet.bytes();
    let quoted = &ip[28..];
    let right = *port == sent.port
        && tag == network(sent.frame).2
        && ip[9] == 1
        && (ip[20], ip[21]) == kind
        && ip[16..20] == sent.packet.source.octets()
        && *quoted == original[..quoted.len()]
        && quoted.len() == original.len().min(548)
        && wrong_checksums(ip).is_empty();
    if right { Ok(()) } else { Err(format!("a wrong ICMP error, {kind:?} was due")) }
}

fn echo_is_right(sent: &Sent<'_>, left: &Frames) -> Result<(), String> {
    let [(_, frame)] = left else { return Err("one reply was due".to_owned()) };
    let mut reply = sent.packet.clone();
    std::mem::swap(&mut reply.source, &mut reply.destination);
    (reply.ttl, reply.transport[0]) = (64, 0);
    let (_, _, tag, ip) = network(frame);
    let right = tag == network(sent.frame).2 && *ip == reply.with_transport_checksum().bytes();
    if right { Ok(()) } else { Err("a wrong echo reply".to_owned()) }
}

fn packets_are_right(
    nat: &Nat,
    send: &Send,
    left: &Frames,
    renumbered: &mut Renumbered,
) -> Result<(), String> {
    let destination = send.packets[0].destination;
    let (vlan, hop, mtu) = nat.link(send.side, destination);
    for (port, frame) in left {
        let (to, from, tag, ip) = network(frame);
        if *port != side_port(send.side)
            || tag != vlan
            || to != Lab::neighbor_mac(hop)
            || from != Lab::router_mac(*port)
        {
            return Err(format!("a frame goes the wrong way; {hop} on {vlan} was due"));
        }
        if ip.len() > usize::from(mtu) {
            return Err("a packet is longer than its link takes".to_owned());
        }
    }
    let mut left: Vec<&[u8]> = left.iter().map(|(_, frame)| network(frame).3).collect();
    for packet in &send.packets {
        let mut packet = packet.clone();
        if let (Some(renumbering), [first, ..]) = (send.renumbered, left.as_slice()) {
            let name = (packet.source, packet.destination, packet.protocol, packet.identification);
            let got = u16::from_be_bytes([first[4], first[5]]);
            let begins = renumbering == Renumbering::New && packet.flags_offset & 0x1fff == 0;
            if begins && renumbered.insert(name, got) == Some(got) {
                return Err("another datagram has this identification".to_owned());
            }
            packet.identification = match renumbering {
                Renumbering::Whole => got,
                Renumbering::New | Renumbering::Same => {
                    renumbered.get(&name).copied().unwrap_or(got)
                }
            };
        }
        let due = packet.bytes();
        if due.len() > usize::from(mtu) {
            let pieces = std::mem::take(&mut left);
            reassembled(&packet, &pieces)?;
        } else if let Some(at) = left.iter().position(|ip| **ip == due) {
            left.remove(at);
        } else {
            return Err(format!("this was due: {due:02x?}"));
        }
    }
    if left.is_empty() { Ok(()) } else { Err("more packets than were due".to_owned()) }
}

/// Whether the pieces, in order, make up the packet.
fn reassembled(packet: &Packet, pieces: &[&[u8]]) -> Result<(), String> {
    let mut whole = Vec::new();
    for (number, ip) in pieces.iter().enumerate() {
        let last = number + 1 == pieces.len();
        let more = if last { 0 } else { 0x2000 };
        let offset = u16::try_from(whole.len() / 8).expect("short");
        let due =
            Packet { flags_offset: more | offset, transport: ip[20..].to_vec(), ..packet.clone() };
        if **ip != due.bytes() {
            return Err(format!("piece {number} is wrong: {ip:02x?}"));
        }
        whole.extend_from_slice(&ip[20..]);
    }
    if whole == packet.transport { Ok(()) } else { Err("pieces are missing".to_owned()) }
}
