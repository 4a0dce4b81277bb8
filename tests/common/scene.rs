//! A program whose frames come in by one interface and may leave by another, and packets for it.

use natwerk::flow::{Endpoint, LinkWords, Mac, PortId};
use natwerk::io::xdp::device::Device;
use natwerk::io::xdp::features::Ways;
use natwerk::io::xdp::feeder::Feeder;
use natwerk::io::xdp::program::{Program, ShortcutMemory, ShortcutRoom};
use natwerk::io::xdp::steering::Steering;
use natwerk::shortcut::{Direction, Key, Memory, Place, Shortcuts, Table, Tenant};
use natwerk::testing::packets::Packet;
use natwerk::wire::plain::Plain;
use natwerk::wire::segment::flags;
use natwerk::worker;
use proptest::prelude::*;

pub const HERE: PortId = PortId(0);
pub const OUT: PortId = PortId(1);
const TENANT: Tenant = Tenant { realm: 0, entry: 7 };

/// No socket is bound.
pub struct Scene {
    pub program: Program,
    pub shortcuts: Shortcuts,
    feeder: Option<Feeder>,
}

impl Scene {
    /// Room for eight times `1 << bits` shortcuts, which lead to `b0`.
    pub fn new(bits: u32, takes_frames: bool) -> Self {
        let room = ShortcutRoom { bits, seeds: [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321] };
        let mut program = Program::load(1, Some(room)).expect("loaded").pop().expect("one");
        program.apply(&Steering { tags: [0].into(), ..Steering::default() }).expect("applied");
        let out = Device::find("b0").expect("the device").index;
        let ways = Ways { takes_frames, is_passage: false };
        program.set_exit(OUT.0, out, ways).expect("set");
        let ShortcutMemory { slots, tags, gate } = program.take_shortcuts().expect("its memory");
        let (slots, tags, gate) = (Box::new(slots), Box::new(tags), Box::new(gate));
        let table = Table::new(Memory { slots, tags, gate }, room.seeds, bits);
        let shortcuts = Shortcuts::new(vec![Some(table), None]);
        Self { program, shortcuts, feeder: None }
    }

    /// The same with the feeder of `a0`, so that packets are taken at its traffic control.
    pub fn fed(mut self) -> Self {
        let feeder = Feeder::make(&Device::find("a0").expect("the device")).expect("made");
        self.program.feed(&feeder).expect("fed");
        Self { feeder: Some(feeder), ..self }
    }

    pub fn is_fed(&self) -> bool {
        self.feeder.is_some()
    }

    pub fn make(&self, direction: &Direction) -> Option<Place> {
        let (epoch, now) = (self.shortcuts.epoch().expect("an epoch"), worker::now());
        // As workers do all the time: the program believes nothing for long.
        self.shortcuts.tell(now);
        self.shortcuts.make(HERE, direction, TENANT, epoch, now)
    }

    pub fn vacate(&self, place: Place) {
        self.shortcuts.vacate(self.shortcuts.table(HERE).expect("a table"), place);
    }
}

/// A shortcut for packets like `packet`, to somewhere else.
pub fn direction(packet: &Packet, to: [Endpoint; 2]) -> Direction {
    let frame = packet.frame();
    let plain = Plain::read(&frame).expect("a plain packet");
    let [addresses, rest] = plain.key_words();
    let key = Key { addresses, ports: (rest >> 32) as u32, protocol: plain.protocol() };
    let bits = to.map(|it| u64::from(it.address.to_bits()));
    let ports = to.map(|it| u32::from(it.port));
    Direction {
        key,
        station: Mac(*frame.first_chunk().expect("a frame")),
        exit: OUT,
        mtu: 1500,
        leaves_as: (bits[0] << 32 | bits[1], ports[0] << 16 | ports[1]),
        stations: [Mac([2, 1, 2, 3, 4, 5]), Mac([6, 7, 8, 9, 10, 11])],
        sequence_next: 0,
        window_shift: 0,
    }
}

/// What the fast path makes of a frame.
pub fn rewritten(frame: &[u8], direction: &Direction) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let plain = Plain::read(&frame).expect("a plain packet");
    let (addresses, ports) = direction.leaves_as;
    let stations = LinkWords::new(direction.stations);
    frame.truncate(plain.end().into());
    assert!(plain.rewrite_untagged(&mut frame, stations, addresses, ports));
    frame
}

/// Plain packets, and where they are to lead.
pub fn packets() -> impl Strategy<Value = (Packet, [Endpoint; 2])> {
    let endpoint = || (any::<[u8; 4]>(), 1..=u16::MAX);
    let endpoint =
        move || endpoint().prop_map(|(address, port)| Endpoint::new(address.into(), port));
    let payload = proptest::collection::vec(any::<u8>(), 0..64);
    let both =
        (endpoint(), endpoint(), any::<bool>(), any::<bool>(), payload, any::<u8>(), 0..9usize);
    let packet = both.prop_map(|(from, to, is_tcp, pushes, payload, ttl, padding)| {
        let push = if pushes { flags::PSH } else { 0 };
        let packet = match is_tcp {
            true => Packet::tcp(from, to, flags::ACK | push, &[], &payload),
            false => Packet::udp(from, to, &payload),
        };
        Packet { ttl: ttl.max(2), padding: vec![0xee; padding], ..packet }
    });
    (packet, [endpoint(), endpoint()])
}
