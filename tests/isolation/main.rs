//! Isolation: on random topologies no packet arrives where it must not, whoever sent it.
//!
//! The oracle knows who may reach whom, and which packets belong to which session; it says nothing
//! of what must pass (tests/model does), so each kind of passage is counted: a router that drops
//! everything fails too.

mod found;
mod oracle;
mod wire;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;

use natwerk::flow::{Endpoint, PortId, Protocol};
use natwerk::testing::lab::{GUEST, Lab, Outcome, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::verdict::{DropReason, Verdict};
use natwerk::wire::parse::{Fragment, Kind, parse};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestError, TestRunner};

use oracle::{Oracle, Seen, Side, same_place};
use world::{ADDRESSES, PORTS, World, lies_in};

/// What somebody sends.
#[derive(Clone, Debug)]
enum Step {
    /// An answer to something that left, perhaps from somewhere else.
    Answer { to: Index, from: Option<Index> },
    /// An ICMP error about something that left, perhaps from somewhere else.
    Error { about: Index, from: Option<Index> },
    /// Two fragments of a datagram, the later one perhaps from somewhere else, perhaps before.
    Fragments { ends: Ends, from: Option<Index>, identification: u8, late_first: bool },
    /// A first packet, or another one of its session.
    Packet { ends: Ends, kind: u8 },
}

/// Where a packet comes from and goes to.
#[derive(Clone, Debug)]
struct Ends {
    from: Index,
    /// None for a guest of where it comes from.
    source: Option<Index>,
    guest: u8,
    destination: Index,
    ports: (u8, u8),
}

fn ends() -> impl Strategy<Value = Ends> {
    (
        any::<Index>(),
        prop::option::weighted(0.3, any::<Index>()),
        0..3_u8,
        any::<Index>(),
        (0..2_u8, 0..4_u8),
    )
        .prop_map(|(from, source, guest, destination, ports)| Ends {
            from,
            source,
            guest: [5, 6, 9][usize::from(guest)],
            destination,
            ports,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let elsewhere = || prop::option::weighted(0.3, any::<Index>());
    prop_oneof![
        6 => (ends(), 0..4_u8).prop_map(|(ends, kind)| Step::Packet { ends, kind }),
        3 => (any::<Index>(), elsewhere()).prop_map(|(to, from)| Step::Answer { to, from }),
        1 => (any::<Index>(), elsewhere()).prop_map(|(about, from)| Step::Error { about, from }),
        1 => (ends(), elsewhere(), 0..3_u8, any::<bool>()).prop_map(
            |(ends, from, identification, late_first)| {
                Step::Fragments { ends, from, identification, late_first }
            }
        ),
    ]
}

/// What was sent in, by the number at the end of it.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// An error about a packet that went the other way.
    Error {
        place: (PortId, u16),
        quoted: Seen,
    },
    Fragment {
        seen: Seen,
        identification: u16,
        is_first: bool,
    },
    Packet {
        seen: Seen,
        icmp_type: u8,
    },
}

/// How often something passed.
type Tally = BTreeMap<&'static str, u32>;

struct Trial<'w> {
    world: &'w World,
    lab: Lab,
    oracle: Oracle<'w>,
    sent: Vec<Sent>,
    /// What left as packets of sessions.
    left: Vec<(Seen, u8)>,
    /// First fragments that passed: what came, its identification, what left.
    firsts: Vec<(Seen, u16, Seen)>,
    tally: &'w RefCell<Tally>,
}

impl Trial<'_> {
    fn count(&self, what: &'static str) {
        *self.tally.borrow_mut().entry(what).or_default() += 1;
    }

    fn place(&self, index: &Index) -> (PortId, u16) {
        *index.get(&self.world.places())
    }

    /// The place and addresses that `ends` describes.
    fn resolve(&self, ends: &Ends) -> ((PortId, u16), Endpoint, Endpoint) {
        let place = self.place(&ends.from);
        let network =
            self.world.networks.iter().find(|own| place.0 == GUEST && own.vlan == place.1);
        let source = match (&ends.source, network) {
            (Some(any), _) => *any.get(&ADDRESSES),
            (None, Some(network)) => network.guest(ends.guest),
            (None, None) if place.0 == GUEST => ADDRESSES[if ends.guest == 5 { 1 } else { 2 }],
            (None, None) => ADDRESSES[if ends.guest == 5 { 18 } else { 17 }],
        };
        let destination = *ends.destination.get(&ADDRESSES);
        let source_port = 4000 + u16::from(ends.ports.0);
        let port = PORTS[usize::from(ends.ports.1)];
        (place, Endpoint::new(source, source_port), Endpoint::new(destination, port))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Packet { ends, kind } => {
                let (place, source, destination) = self.resolve(ends);
                let (protocol, flags) = match kind {
                    0 => (Protocol::ICMP, 8),
                    1 => (Protocol::TCP, SYN),
                    _ => (Protocol::UDP, 0),
                };
                self.packet(place, protocol, source, destination, flags)
            }
            Step::Answer { to, from } => {
                if self.left.is_empty() {
                    return Ok(());
                }
                let (seen, flags) = *to.get(&self.left);
                let place = from.as_ref().map_or(seen.place, |from| self.place(from));
                let flags = match seen.protocol {
                    Protocol::ICMP => 0,
                    _ => flags | ACK,
                };
                self.packet(place, seen.protocol, seen.destination, seen.source, flags)
            }
            Step::Error { about, from } => {
                if self.left.is_empty() {
                    return Ok(());
                }
                let (quoted, _) = *about.get(&self.left);
                let place = from.as_ref().map_or(quoted.place, |from| self.place(from));
                self.error(place, quoted)
            }
            Step::Fragments { ends, from, identification, late_first } => {
                let (place, source, destination) = self.resolve(ends);
                let later = from.as_ref().map_or(place, |from| self.place(from));
                let identification = 100 + u16::from(*identification);
                let seen = |place| Seen { place, protocol: Protocol::UDP, source, destination };
                let mut order = [(seen(place), true), (seen(later), false)];
                if *late_first {
                    order.reverse();
                }
                for (seen, is_first) in order {
                    self.fragment(seen, identification, is_first)?;
                }
                Ok(())
            }
        }
    }

    /// The number that the next packet ends with.
    fn number(&self) -> [u8; 4] {
        u32::try_from(self.sent.len()).expect("few packets").to_be_bytes()
    }

    fn packet(
        &mut self,
        place: (PortId, u16),
        protocol: Protocol,
        source: Endpoint,
        destination: Endpoint,
        flags: u8,
    ) -> Result<(), String> {
        let number = self.number();
        let (mut source, mut destination) = (source, destination);
        let packet = match protocol {
            Protocol::TCP => Packet::tcp(source, destination, flags, &[], &number),
            Protocol::UDP => Packet::udp(source, destination, &number),
            _ => {
                (source.port, destination.port) = match flags {
                    0 => (destination.port, destination.port),
                    _ => (source.port, source.port),
                };
                Packet::echo(source.address, destination.address, flags, source.port, &number)
            }
        };
        let seen = Seen { place, protocol, source, destination };
        self.sent.push(Sent::Packet { seen, icmp_type: flags });
        self.send(place, packet)
    }

    fn error(&mut self, place: (PortId, u16), quoted: Seen) -> Result<(), String> {
        let number = self.number();
        let (source, destination) = (quoted.source, quoted.destination);
        let inner = match quoted.protocol {
            Protocol::TCP => Packet::tcp(source, destination, SYN, &[], &number),
            Protocol::UDP => Packet::udp(source, destination, &number),
            _ => Packet::echo(source.address, destination.address, 8, source.port, &number),
        };
        let (unreachable, port) = ((3, 3), [0; 4]);
        let from = destination.address;
        let packet = Packet::icmp(from, source.address, unreachable, port, &inner.bytes());
        self.sent.push(Sent::Error { place, quoted });
        self.send(place, packet)
    }

    fn fragment(&mut self, seen: Seen, identification: u16, is_first: bool) -> Result<(), String> {
        let mut packet = Packet::udp(seen.source, seen.destination, &[7; 32]);
        // The header and sixteen bytes come first.
        let rest = packet.transport.split_off(24);
        if !is_first {
            packet.transport = rest;
        }
        packet.flags_offset = if is_first { 0x2000 } else { 3 };
        packet.identification = identification;
        let number = self.number();
        let place = packet.transport.len() - 4;
        packet.transport[place..].copy_from_slice(&number);
        self.sent.push(Sent::Fragment { seen, identification, is_first });
        self.send(seen.place, packet)
    }

    fn send(&mut self, place: (PortId, u16), packet: Packet) -> Result<(), String> {
        let outcome = self.lab.send_raw(place.0, &wire::wrap(self.world, &packet, place));
        self.judge(&outcome)
    }

    fn judge(&mut self, outcome: &Outcome) -> Result<(), String> {
        if outcome.verdict == Verdict::Drop(DropReason::SourceSpoofed) {
            self.count("spoofed");
        }
        for (_, frame) in &outcome.host {
            let (_, sent, _) = self.cause(PUBLIC, frame)?;
            let said = match sent {
                Sent::Packet { seen, icmp_type } => {
                    self.count("to the router");
                    let is_reply = seen.protocol == Protocol::ICMP && icmp_type == 0;
                    self.oracle.may_reach_router(&seen, is_reply)
                }
                Sent::Fragment { seen, .. } => self.oracle.may_reach_router(&seen, false),
                Sent::Error { .. } => Err("an error reached the router"),
            };
            said.map_err(|why| format!("{why}: {sent:?}"))?;
        }
        for (port, frame) in &outcome.sent {
            let (out, sent, frame) = self.cause(*port, frame)?;
            match out.place.1 {
                ..world::TWO_TAGS => {}
                world::TWO_TAGS..world::VXLAN => self.count("under two tags"),
                _ => self.count("inside VXLAN"),
            }
            self.judge_one(&frame, out, sent)
                .map_err(|why| format!("{why}: {sent:?} as {out:?}"))?;
        }
        Ok(())
    }

    /// What a frame is, and what was sent in because of which it is here.
    fn cause(&self, port: PortId, frame: &[u8]) -> Result<(Seen, Sent, Vec<u8>), String> {
        let (place, frame) = wire::unwrap(self.world, port, frame)?;
        let parsed = parse(&frame).map_err(|reason| format!("{reason:?}: {frame:?}"))?;
        let end = usize::from(parsed.end);
        let number = frame[end - 4..end].try_into().expect("four bytes");
        let number = u32::from_be_bytes(number) as usize;
        let sent = *self.sent.get(number).ok_or("a frame without a cause")?;
        let seen = Seen {
            place,
            protocol: parsed.protocol,
            source: parsed.source,
            destination: parsed.destination,
        };
        Ok((seen, sent, frame))
    }

    fn judge_one(&mut self, frame: &[u8], out: Seen, sent: Sent) -> Result<(), &'static str> {
        let parsed = parse(frame).map_err(|_| "unsound")?;
        let transport = &frame[usize::from(parsed.transport)..];
        if let Kind::IcmpError = parsed.kind {
            return self.judge_error(transport, out, sent);
        }
        match sent {
            Sent::Packet { seen, icmp_type: 8 }
                if seen.protocol == Protocol::ICMP && transport[0] == 0 =>
            {
                self.count("echo answered");
                let back = (seen.destination, seen.source) == (out.source, out.destination);
                if seen.place != out.place || !back {
                    return Err("an echo reply went astray");
                }
                self.oracle.may_answer_echo(&seen)
            }
            Sent::Packet { seen, icmp_type } => {
                self.oracle.passes(seen, out)?;
                self.left.push((out, icmp_type));
                self.count(passage(&self.oracle, &seen, &out));
                Ok(())
            }
            Sent::Fragment { seen, identification, is_first: true } => {
                self.oracle.passes(seen, out)?;
                self.firsts.push((seen, identification, out));
                self.count("first fragment");
                Ok(())
            }
            Sent::Fragment { seen, identification, is_first: false } => {
                if parsed.fragment != Fragment::Later {
                    return Err("a later fragment became something else");
                }
                self.judge_later(seen, identification, out)
            }
            Sent::Error { .. } => Err("an error became something else"),
        }
    }

    /// A later fragment goes where a first one of its own side went.
    fn judge_later(&self, seen: Seen, number: u16, out: Seen) -> Result<(), &'static str> {
        self.count("later fragment");
        let side = self.oracle.side(seen.place);
        let followed = self.firsts.iter().any(|&(first, identification, left)| {
            let addresses = |seen: Seen| (seen.source.address, seen.destination.address);
            self.oracle.side(first.place) == side
                && identification == number
                && addresses(first) == addresses(seen)
                && left.place == out.place
                && addresses(left) == addresses(out)
        });
        followed.then_some(()).ok_or("a later fragment followed a stranger")
    }

    /// An ICMP error: the router's own goes back to where its cause came from, others go where the
    /// quoted packet's session says.
    fn judge_error(&self, message: &[u8], out: Seen, sent: Sent) -> Result<(), &'static str> {
        let (place, quoted) = match sent {
            Sent::Packet { seen, .. } | Sent::Fragment { seen, .. } => {
                self.count("error of the router");
                let back =
                    seen.place == out.place && seen.source.address == out.destination.address;
                return back.then_some(()).ok_or("the router's error went astray");
            }
            Sent::Error { place, quoted } => (place, quoted),
        };
        self.count("error passed");
        let side = self.oracle.side(place).ok_or("an error from a tag of no network")?;
        let key = (side, quoted.protocol, quoted.destination, quoted.source);
        let session = self.oracle.leaves_as(key).ok_or("an error about no session")?;
        let inner = quote(message, quoted.protocol).ok_or("no quote")?;
        let told = same_place(&session, out.place)
            && inner == (session.destination, session.source)
            && out.destination.address == session.destination.address;
        told.then_some(()).ok_or("an error was told to a stranger")
    }
}

/// Who sent what to whom, in the packet that an ICMP error quotes.
fn quote(message: &[u8], protocol: Protocol) -> Option<(Endpoint, Endpoint)> {
    let inner = message.get(8..36)?;
    let word = |place: usize| u16::from_be_bytes([inner[place], inner[place + 1]]);
    let address = |place: usize| <[u8; 4]>::try_from(&inner[place..place + 4]).ok();
    let ports =
        if protocol == Protocol::ICMP { (word(24), word(24)) } else { (word(20), word(22)) };
    let source = Endpoint::new(address(12)?.into(), ports.0);
    Some((source, Endpoint::new(address(16)?.into(), ports.1)))
}

fn passage(oracle: &Oracle<'_>, seen: &Seen, out: &Seen) -> &'static str {
    match (oracle.side(seen.place), oracle.side(out.place)) {
        (Some(Side::Domain(_)), Some(Side::Outside)) => "out",
        (Some(Side::Outside), _) => "in",
        (Some(Side::Domain(one)), Some(Side::Domain(other))) if one != other => "between domains",
        _ if lies_in(out.destination.address, world::FAR) => "behind a guest",
        _ => "within a domain",
    }
}

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Every kind of passage, and how often it must have been seen at least.
const KINDS: [(&str, u32); 13] = [
    ("behind a guest", 10),
    ("between domains", 20),
    ("echo answered", 20),
    ("error passed", 20),
    ("first fragment", 20),
    ("in", 50),
    ("inside VXLAN", 50),
    ("later fragment", 20),
    ("out", 200),
    ("spoofed", 100),
    ("to the router", 20),
    ("under two tags", 50),
    ("within a domain", 50),
];

#[test]
fn nothing_arrives_where_it_must_not() {
    let tally = RefCell::new(Tally::new());
    let cases = std::env::var("NATWERK_ISOLATION_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok()).unwrap_or(200);
    let mut runner = TestRunner::new_with_rng(
        Config { cases, failure_persistence: None, ..Config::default() },
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    let trial = |(world, steps): (World, Vec<Step>)| {
        let mut trial = Trial {
            lab: Lab::new(&world.json()),
            oracle: Oracle::new(&world),
            world: &world,
            sent: Vec::new(),
            left: Vec::new(),
            firsts: Vec::new(),
            tally: &tally,
        };
        for step in &steps {
            trial.step(step).map_err(TestCaseError::fail)?;
        }
        Ok(())
    };
    let result = runner.run(&(world::world(), prop::collection::vec(step(), 1..120)), trial);
    if let Err(TestError::Fail(why, (world, steps))) = result {
        panic!("{why}\n{}\n{steps:#?}", world.json());
    }
    result.expect("enough topologies");
    let tally = tally.into_inner();
    println!("{tally:?}");
    for (kind, least) in KINDS {
        assert!(tally.get(kind).copied().unwrap_or(0) >= least, "{kind}: {tally:?}");
    }
}
