//! The XDP program's shortcuts do to packets what the fast path does, or nothing. Needs root; says so and
//! passes when it is not.
#![cfg(feature = "af-xdp")]

#[path = "common/scene.rs"]
mod scene;
#[path = "common/sums.rs"]
mod sums;
#[path = "common/veth.rs"]
#[expect(dead_code, reason = "made for tests that send frames")]
mod veth;

use natwerk::flow::{Endpoint, Protocol};
use natwerk::shortcut::{Direction, Hold, Passed};
use natwerk::testing::packets::Packet;
use natwerk::time::Tick;
use natwerk::wire::plain::Plain;
use natwerk::wire::segment::flags;
use natwerk::worker;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use scene::{Scene, direction, packets, rewritten};
use sums::{pseudo_header_sum, repair};
use veth::in_namespace;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

const TC_ACT_REDIRECT: u32 = 7;

/// The frame that leaves by a shortcut; none if it went to its socket, which is not there, or to the
/// kernel.
fn passes(scene: &Scene, frame: &[u8]) -> Option<Vec<u8>> {
    if scene.is_fed() {
        let (action, after) = scene.program.try_on_packet(frame).expect("it runs");
        // By its shortcut or by the feeder.
        if action == TC_ACT_REDIRECT {
            return (after != frame).then_some(after);
        }
        assert_eq!(after, frame, "what takes no shortcut is not changed");
        return None;
    }
    let (action, after) = scene.program.try_on(frame).expect("it runs");
    match action {
        XDP_REDIRECT => Some(after),
        XDP_DROP | XDP_PASS => {
            assert!(after.ends_with(frame), "what takes no shortcut is not changed");
            None
        }
        other => panic!("action {other}"),
    }
}

/// Runs a test where XDP takes frames, and where traffic control takes packets.
fn at_both_hooks(bits: u32, test: impl Fn(&Scene) + Sync) {
    in_namespace(1, || {
        test(&Scene::new(bits, true));
        test(&Scene::new(bits, true).fed());
    });
}

/// Whether its checksum alone makes it look like one that the sender leaves to its device. The kernel knows of its
/// packets whether that is so.
fn looks_unfinished(frame: &[u8]) -> bool {
    let at = if frame.get(23) == Some(&6) { 50 } else { 40 };
    let mut other = frame.to_vec();
    other.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x55);
    Plain::read(frame).is_none() && Plain::read(&other).is_some()
}

#[test]
fn a_shortcut_does_what_the_fast_path_does() {
    at_both_hooks(12, |scene| {
        let mut runner = TestRunner::new(Config::with_cases(2000));
        let run = runner.run(&packets(), |(packet, to)| {
            let frame = packet.frame();
            // Checksums that look unfinished are for the pipeline.
            prop_assume!(Plain::read(&frame).is_some());
            let direction = direction(&packet, to);
            prop_assert_eq!(passes(scene, &frame), None);
            let place = scene.make(&direction).expect("there is room");
            let after = passes(scene, &frame);
            let length = u64::from(Plain::read(&frame).map_or(0, |plain| plain.length));
            let passed = scene.shortcuts.end(direction.key);
            scene.vacate(place);
            prop_assert_eq!(after, Some(rewritten(&frame, &direction)));
            prop_assert_eq!(passed, Passed { packets: 1, bytes: length });
            prop_assert_eq!(passes(scene, &frame), None, "it was ended");
            Ok(())
        });
        run.expect("they agree");
    });
}

#[test]
fn nothing_takes_a_shortcut_that_would_not_take_the_fast_path() {
    at_both_hooks(4, |scene| {
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
            prop_assume!(!scene.is_fed() || !looks_unfinished(&frame));
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
            let after = passes(scene, &frame);
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
    at_both_hooks(4, |scene| {
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
            assert_eq!(passes(scene, &frame), Some(rewritten(&frame, &direction)));
            assert_eq!(scene.make(&direction), None, "it is there");
            place
        };
        let place = makes();
        scene.shortcuts.end_epoch();
        assert_eq!(passes(scene, &frame), None);
        // What passed is not lost, nor its place given away before somebody took that.
        assert_eq!(scene.make(&direction), None);
        assert_eq!(scene.shortcuts.end(direction.key).packets, 1);
        scene.vacate(place);

        let place = makes();
        scene.shortcuts.hold(Hold::Watched);
        assert_eq!((passes(scene, &frame), scene.shortcuts.epoch()), (None, None));
        scene.shortcuts.release(Hold::Watched);
        assert_eq!(passes(scene, &frame), None, "who looked may have changed something");
        scene.vacate(place);

        makes();
        let gone = Tick::from_ms(worker::now().as_ms() - 3000);
        scene.shortcuts.tell(gone);
        assert_eq!(passes(scene, &frame), None, "nobody was there for three seconds");
        scene.shortcuts.tell(worker::now());
        assert!(passes(scene, &frame).is_some());
    });
}

#[test]
fn a_segment_that_passes_moves_its_sequence_number_on_within_the_window() {
    at_both_hooks(4, |scene| {
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
        let direction = Direction { sequence_next: 1000, ..direction(&first, [from, to]) };
        let place = scene.make(&direction).expect("there is room");
        for (sequence, data, next) in [
            (1000, &b"data"[..], 1004),
            (1000, b"data", 1004),
            (1004, &[0; 100], 1104),
            // Ahead of what the other side can take, by a byte.
            (1104 + 65_436, &[0; 100], 1104),
            (1104, b"", 1104),
            (1104 + 65_435, &[0; 100], 1104 + 65_535),
        ] {
            assert!(passes(scene, &segment(sequence, data).frame()).is_some());
            assert_eq!(scene.shortcuts.sequence_next(direction.key), Some(next), "{sequence}");
        }
        scene.vacate(place);
        assert_eq!(scene.shortcuts.sequence_next(direction.key), None);
        assert!(scene.shortcuts.is_empty());
    });
}

#[test]
fn only_what_cannot_leave_as_a_frame_is_left_to_the_kernel_to_carry() {
    in_namespace(1, || {
        let from = Endpoint::new([10, 1, 1, 5].into(), 4000);
        let to = Endpoint::new([198, 51, 100, 9].into(), 80);
        let segment = |size| Packet::tcp(from, to, flags::ACK, &[], &vec![1; size]);
        let mut unfinished = segment(0).frame();
        let sum = pseudo_header_sum(&unfinished, 20);
        unfinished[50..52].copy_from_slice(&sum.to_be_bytes());
        let frames = [
            (segment(0).frame(), false),
            (segment(500).frame(), false),
            (segment(1000).frame(), true),
            // So that it does not overtake the one before.
            (segment(500).frame(), true),
            (segment(0).frame(), false),
            (unfinished, true),
        ];
        for takes_frames in [true, false] {
            let scene = Scene::new(4, takes_frames);
            scene.make(&direction(&segment(0), [to, from])).expect("there is room");
            for (number, (frame, is_carried)) in frames.iter().enumerate() {
                let (action, _) = scene.program.try_on(frame).expect("it runs");
                let expected = if *is_carried || !takes_frames { XDP_PASS } else { XDP_REDIRECT };
                assert_eq!(action, expected, "frame {number}, which takes frames: {takes_frames}");
            }
        }
    });
}
