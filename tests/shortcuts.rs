//! The XDP program's shortcuts do to packets what the fast path does, or nothing. Needs root; says so and
//! passes when it is not.
#![cfg(feature = "af-xdp")]

#[path = "common/veth.rs"]
#[expect(dead_code, reason = "made for tests that send frames")]
mod veth;

use natwerk::flow::{Endpoint, Mac, PortId, Protocol};
use natwerk::io::xdp::device::Device;
use natwerk::io::xdp::program::{Program, ShortcutMemory, ShortcutRoom};
use natwerk::io::xdp::steering::Steering;
use natwerk::shortcut::{Direction, Hold, Key, Memory, Passed, Place, Shortcuts, Table, Tenant};
use natwerk::testing::packets::Packet;
use natwerk::time::Tick;
use natwerk::wire::plain::Plain;
use natwerk::wire::segment::flags;
use natwerk::worker;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use veth::in_namespace;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const HERE: PortId = PortId(0);
const OUT: PortId = PortId(1);
const TENANT: Tenant = Tenant { realm: 0, entry: 7 };

/// A program whose frames come in by one interface and may leave by the other; no socket is bound.
struct Scene {
    program: Program,
    shortcuts: Shortcuts,
}

impl Scene {
    fn new(bits: u32) -> Self {
        let room = ShortcutRoom { bits, seeds: [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321] };
        let mut program = Program::load(1, Some(room)).expect("loaded").pop().expect("one");
        program.apply(&Steering { tags: [0].into(), ..Steering::default() }).expect("applied");
        program.set_exit(OUT.0, Device::find("b0").expect("the device").index).expect("set");
        let ShortcutMemory { slots, tags, gate } = program.take_shortcuts().expect("its memory");
        let (slots, tags, gate) = (Box::new(slots), Box::new(tags), Box::new(gate));
        let table = Table::new(Memory { slots, tags, gate }, room.seeds, bits);
        let shortcuts = Shortcuts::new(vec![Some(table), None]);
        shortcuts.set_exit(OUT, true);
        shortcuts.tell(worker::now());
        Self { program, shortcuts }
    }

    fn make(&self, direction: &Direction) -> Option<Place> {
        let epoch = self.shortcuts.epoch().expect("an epoch");
        self.shortcuts.make(HERE, direction, TENANT, epoch, worker::now())
    }

    fn vacate(&self, place: Place) {
        self.shortcuts.vacate(self.shortcuts.table(HERE).expect("a table"), place);
    }

    /// The frame that leaves by a shortcut; none if it went to its socket, which is not there, or to the
    /// kernel.
    fn passes(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (action, after) = self.program.try_on(frame).expect("it runs");
        match action {
            XDP_REDIRECT => Some(after),
            XDP_DROP | XDP_PASS => {
                assert_eq!(after, frame, "what takes no shortcut is not changed");
                None
            }
            other => panic!("action {other}"),
        }
    }
}

/// A shortcut for packets like `packet`, to somewhere else.
fn direction(packet: &Packet, to: [Endpoint; 2]) -> Direction {
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
        window: 65_535,
    }
}

/// What the fast path makes of a frame.
fn rewritten(frame: &[u8], direction: &Direction) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let plain = Plain::read(&frame).expect("a plain packet");
    let (addresses, ports) = direction.leaves_as;
    let stations = direction.stations.map(Mac::as_bits);
    frame.truncate(plain.end().into());
    assert!(plain.rewrite_untagged(&mut frame, stations, addresses, ports));
    frame
}

fn packets() -> impl Strategy<Value = (Packet, [Endpoint; 2])> {
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

#[test]
fn a_shortcut_does_what_the_fast_path_does() {
    in_namespace(1, || {
        let scene = Scene::new(12);
        let mut runner = TestRunner::new(Config::with_cases(2000));
        let run = runner.run(&packets(), |(packet, to)| {
            let frame = packet.frame();
            // Checksums that look unfinished are for the pipeline.
            prop_assume!(Plain::read(&frame).is_some());
            let direction = direction(&packet, to);
            prop_assert_eq!(scene.passes(&frame), None);
            let place = scene.make(&direction).expect("there is room");
            let after = scene.passes(&frame);
            let length = u64::from(Plain::read(&frame).map_or(0, |plain| plain.length));
            let passed = scene.shortcuts.end(direction.key);
            scene.vacate(place);
            prop_assert_eq!(after, Some(rewritten(&frame, &direction)));
            prop_assert_eq!(passed, Passed { packets: 1, bytes: length });
            prop_assert_eq!(scene.passes(&frame), None, "it was ended");
            Ok(())
        });
        run.expect("they agree");
    });
}

/// Makes the checksum of the IPv4 header right.
fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let words =
        frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn nothing_takes_a_shortcut_that_would_not_take_the_fast_path() {
    in_namespace(1, || {
        let scene = Scene::new(4);
        let mut runner = TestRunner::new(Config::with_cases(4000));
        // Some bytes are others, most of them of the headers.
        let bytes = proptest::collection::vec((0..56usize, any::<u8>()), 0..3);
        let all = (packets(), bytes, any::<bool>());
        let run = runner.run(&all, |((packet, to), bytes, repaired)| {
            let mut frame = packet.frame();
            prop_assume!(Plain::read(&frame).is_some());
            let direction = Direction { mtu: 60, ..direction(&packet, to) };
            let place = scene.make(&direction).expect("there is room");
            for (place, value) in bytes {
                if let Some(byte) = frame.get_mut(place) {
                    *byte = value;
                }
            }
            if repaired {
                repair(&mut frame);
            }
            let plain = Plain::read(&frame).filter(|plain| {
                let [addresses, rest] = plain.key_words();
                let goes_on = || plain.sequence_end(&frame).is_some();
                addresses == direction.key.addresses
                    && (rest >> 32) as u32 == direction.key.ports
                    && plain.protocol() == direction.key.protocol
                    && frame.starts_with(&direction.station.0)
                    && plain.length <= direction.mtu
                    && (plain.protocol() != Protocol::TCP || goes_on())
            });
            let after = scene.passes(&frame);
            let _ = scene.shortcuts.end(direction.key);
            scene.vacate(place);
            prop_assert_eq!(after, plain.map(|_| rewritten(&frame, &direction)));
            Ok(())
        });
        run.expect("they agree");
    });
}

#[test]
fn no_shortcut_is_true_after_its_epoch_nor_when_nobody_is_there() {
    in_namespace(1, || {
        let scene = Scene::new(4);
        let packet = Packet::udp(
            Endpoint::new([10, 1, 1, 5].into(), 4000),
            Endpoint::new([198, 51, 100, 9].into(), 53),
            b"a question",
        );
        let frame = packet.frame();
        let out =
            [Endpoint::new([203, 0, 113, 1].into(), 4000), Endpoint::new([1, 1, 1, 1].into(), 53)];
        let direction = direction(&packet, out);
        let makes = || {
            let place = scene.make(&direction).expect("there is room");
            assert_eq!(scene.passes(&frame), Some(rewritten(&frame, &direction)));
            assert_eq!(scene.make(&direction), None, "it is there");
            place
        };
        let place = makes();
        scene.shortcuts.end_epoch();
        assert_eq!(scene.passes(&frame), None);
        // What passed is not lost, nor its place given away before somebody took that.
        assert_eq!(scene.make(&direction), None);
        assert_eq!(scene.shortcuts.end(direction.key).packets, 1);
        scene.vacate(place);

        let place = makes();
        scene.shortcuts.hold(Hold::Watched);
        assert_eq!((scene.passes(&frame), scene.shortcuts.epoch()), (None, None));
        scene.shortcuts.release(Hold::Watched);
        assert_eq!(scene.passes(&frame), None, "who looked may have changed something");
        scene.vacate(place);

        let place = makes();
        scene.shortcuts.set_exit(OUT, false);
        assert_eq!(scene.passes(&frame), None);
        scene.vacate(place);
        assert_eq!(scene.make(&direction), None, "it leads nowhere");
        scene.shortcuts.set_exit(OUT, true);

        makes();
        let gone = Tick::from_ms(worker::now().as_ms() - 3000);
        scene.shortcuts.tell(gone);
        assert_eq!(scene.passes(&frame), None, "nobody was there for three seconds");
        scene.shortcuts.tell(worker::now());
        assert!(scene.passes(&frame).is_some());
    });
}

#[test]
fn a_segment_that_passes_moves_its_sequence_number_on_within_the_window() {
    in_namespace(1, || {
        let scene = Scene::new(4);
        let (from, to) = (
            Endpoint::new([10, 1, 1, 5].into(), 4000),
            Endpoint::new([198, 51, 100, 9].into(), 80),
        );
        let segment = |sequence: u32, data: &[u8]| {
            let mut packet = Packet::tcp(from, to, flags::ACK, &[], data);
            packet.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            packet.with_transport_checksum()
        };
        let first = segment(1000, b"data");
        let direction =
            Direction { sequence_next: 1000, window: 100, ..direction(&first, [from, to]) };
        let place = scene.make(&direction).expect("there is room");
        for (sequence, data, next) in [
            (1000, &b"data"[..], 1004),
            (1000, b"data", 1004),
            (1004, &[0; 100], 1104),
            // Ahead of what the other side can take.
            (1105, &[0; 100], 1104),
            (1104, b"", 1104),
        ] {
            assert!(scene.passes(&segment(sequence, data).frame()).is_some());
            assert_eq!(scene.shortcuts.sequence_next(direction.key), Some(next), "{sequence}");
        }
        scene.vacate(place);
        assert_eq!(scene.shortcuts.sequence_next(direction.key), None);
        assert!(scene.shortcuts.is_empty());
    });
}
