//! Fragments: the first one is judged like a whole packet, the others follow it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use natwerk::flow::Protocol;
use natwerk::testing::packets::Packet;

use crate::choice::Ask;
use crate::nat::{Nat, Side};
use crate::packets::{Arrival, Fate, Renumbering, Send};

/// What the fragments of a datagram have in common.
pub type Name = (Side, Ipv4Addr, Ipv4Addr, Protocol, u16);

/// A fragment: its part of the whole packet's payload, in bytes.
#[derive(Clone, Debug)]
pub struct Piece {
    pub whole: Packet,
    pub start: usize,
    pub end: usize,
}

/// The datagrams under way; time passing ends them all.
#[derive(Default)]
pub struct Datagrams(HashMap<Name, Datagram>);

#[derive(Default)]
struct Datagram {
    plan: Option<Plan>,
    seen: Vec<(usize, usize)>,
    waiting: Vec<Piece>,
}

#[derive(Clone, Copy)]
enum Plan {
    Drop,
    Follow { session: u64, direction: usize },
    Host,
}

impl Piece {
    pub fn is_first(&self) -> bool {
        self.start == 0
    }

    fn is_last(&self) -> bool {
        self.end == self.whole.transport.len()
    }

    /// The piece as a packet of its own.
    pub fn packet(&self) -> Packet {
        let more = if self.is_last() { 0 } else { 0x2000 };
        let offset = u16::try_from(self.start / 8).expect("short");
        let transport = self.whole.transport[self.start..self.end].to_vec();
        Packet { transport, flags_offset: more | offset, ..self.whole.clone() }
    }
}

impl Datagram {
    fn is_whole(&self, length: usize) -> bool {
        self.seen.iter().map(|(start, end)| end - start).sum::<usize>() == length
    }
}

impl Nat {
    /// What becomes of a fragment, and of those that waited for it.
    pub fn piece(&mut self, arrival: Arrival, piece: &Piece, ask: Ask<'_>) -> Fate {
        let packet = &piece.whole;
        let name = (
            arrival.side,
            packet.source,
            packet.destination,
            packet.protocol,
            packet.identification,
        );
        let length = packet.transport.len();
        // After a whole datagram the first fragment begins another one.
        let again = self.datagrams.0.get(&name).is_some_and(|known| known.is_whole(length));
        if again && piece.is_first() {
            self.datagrams.0.remove(&name);
        }
        let known = self.datagrams.0.entry(name).or_default();
        if known.seen.contains(&(piece.start, piece.end)) || matches!(known.plan, Some(Plan::Drop))
        {
            return Fate::Drop;
        }
        known.seen.push((piece.start, piece.end));
        match known.plan {
            None if !piece.is_first() => {
                known.waiting.push(piece.clone());
                Fate::Held
            }
            None => {
                let (plan, fate) = match self.first_packet(arrival, packet, ask, true) {
                    Ok((session, direction)) => (Plan::Follow { session, direction }, Fate::Drop),
                    Err(Fate::Host) => (Plan::Host, Fate::Host),
                    Err(fate) => (Plan::Drop, fate),
                };
                let known = self.datagrams.0.get_mut(&name).expect("just made");
                known.plan = Some(plan);
                let waiting = std::mem::take(&mut known.waiting);
                match plan {
                    Plan::Drop => fate,
                    Plan::Host => Fate::Host,
                    Plan::Follow { session, direction } => self.send_pieces(
                        session,
                        direction,
                        [vec![piece.clone()], waiting].concat(),
                    ),
                }
            }
            Some(Plan::Drop) => Fate::Drop,
            Some(Plan::Host) => Fate::Host,
            Some(Plan::Follow { session, direction }) => {
                let Some(found) = self.sessions.get(&session) else { return Fate::Drop };
                let flow = *found.flow(direction);
                if self.living(&flow).is_none() {
                    return Fate::Drop;
                }
                self.send_pieces(session, direction, vec![piece.clone()])
            }
        }
    }

    fn send_pieces(&mut self, id: u64, direction: usize, pieces: Vec<Piece>) -> Fate {
        let session = self.sessions[&id].clone();
        for _ in &pieces {
            self.touch(id, direction);
        }
        let begins = pieces.iter().any(Piece::is_first);
        let renumbering = if begins { Renumbering::New } else { Renumbering::Same };
        let renumbered = (direction == 0 && session.pooled).then_some(renumbering);
        let (side, source, destination) = session.out(direction);
        let packets = pieces
            .iter()
            .map(|piece| {
                let whole = crate::packets::translated(&piece.whole, source, destination);
                Piece { whole, ..piece.clone() }.packet()
            })
            .collect();
        Fate::Send(Send { side, packets, renumbered })
    }
}
