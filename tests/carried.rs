//! What the kernel carries by a shortcut leaves as the fast path would have sent it: the real programs on a
//! real veth, packet by packet. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

#[path = "common/scene.rs"]
#[expect(dead_code, reason = "here a packet is what comes out")]
mod scene;
#[path = "common/sums.rs"]
#[expect(dead_code, reason = "nothing is mangled here")]
mod sums;
#[path = "common/veth.rs"]
#[expect(dead_code, reason = "made for other frames, too")]
mod veth;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use natwerk::flow::Endpoint;
use natwerk::io::xdp::device::Device;
use natwerk::shortcut::{Direction, Passed};
use natwerk::testing::packets::Packet;
use natwerk::wire::checksum::complete;
use natwerk::wire::parse::parse;
use natwerk::wire::plain::Plain;
use natwerk::wire::segment::flags;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use scene::{Scene, direction, packets, rewritten};
use sums::pseudo_header_sum;
use veth::{in_namespace, next, send, tap};

/// Scenes of carried packets: from `a1` by `a0` and `b0` to `b1`, whose far ends these are.
struct Carried {
    scene: Scene,
    from: OwnedFd,
    to: OwnedFd,
}

impl Carried {
    /// By XDP, which has the kernel carry what cannot leave as a frame.
    fn new(takes_frames: bool) -> Self {
        let mut scene = Scene::new(8, takes_frames);
        let device = Device::find("a0").expect("the device");
        scene.program.attach(&device, true).expect("attached");
        Self::carrying(scene, &device)
    }

    /// At the traffic control alone.
    fn without_xdp() -> Self {
        let device = Device::find("a0").expect("the device");
        Self::carrying(Scene::new(8, false).fed(), &device)
    }

    fn carrying(mut scene: Scene, device: &Device) -> Self {
        scene.program.carry(device).expect("carried");
        device.join_segments().expect("joined");
        let from = tap("a1");
        // SAFETY: the option is a number that outlives the call.
        let set = unsafe {
            let on = 1i32;
            let size = size_of::<i32>() as u32;
            let option = libc::PACKET_VNET_HDR;
            libc::setsockopt(
                from.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                size,
            )
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        Self { scene, from, to: tap("b1") }
    }

    /// Sends a frame, and returns what comes out of the other end.
    fn pass(&self, offloads: Offloads, frame: &[u8]) -> Option<Vec<u8>> {
        send(&self.from, &[&offloads.header(frame), frame].concat());
        next(&self.to, |_| true)
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.scene.program.counters();
        counters.iter().find(|(its, _)| *its == name).expect("a counter").1
    }
}

/// What a sender leaves to its device.
#[derive(Clone, Copy)]
enum Offloads {
    Nothing,
    /// The checksum.
    Checksum,
    /// That, and to cut it into TCP segments of so many bytes.
    Segments(u16),
}

impl Offloads {
    /// A `virtio_net_hdr` (linux/virtio_net.h).
    fn header(self, frame: &[u8]) -> [u8; 10] {
        const NEEDS_CHECKSUM: u8 = 1;
        const TCP_OVER_IPV4: u8 = 1;
        let checksum_at: u16 = if frame[23] == 6 { 16 } else { 6 };
        let ([start, _], [offset, _]) = (34u16.to_ne_bytes(), checksum_at.to_ne_bytes());
        match self {
            Self::Nothing => [0; 10],
            Self::Checksum => [NEEDS_CHECKSUM, 0, 0, 0, 0, 0, start, 0, offset, 0],
            Self::Segments(size) => {
                let [a, b] = size.to_ne_bytes();
                [NEEDS_CHECKSUM, TCP_OVER_IPV4, 54, 0, a, b, start, 0, offset, 0]
            }
        }
    }
}

/// The frame as a sender hands it over that leaves the checksum to its device.
fn unfinished(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let at = if frame[23] == 6 { 50 } else { 40 };
    let length = u16::from_be_bytes([frame[16], frame[17]]) - 20;
    let sum = pseudo_header_sum(&frame, length);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A frame of which the receiver's device is to finish the checksum.
fn finished(mut frame: Vec<u8>) -> Vec<u8> {
    let parsed = parse(&frame).expect("sound");
    complete(&mut frame, &parsed);
    frame
}

#[test]
fn what_is_carried_leaves_as_the_fast_path_would_have_sent_it() {
    leaves_as_the_fast_path_would_have_sent_it(|| Carried::new(false));
    leaves_as_the_fast_path_would_have_sent_it(Carried::without_xdp);
}

fn leaves_as_the_fast_path_would_have_sent_it(carried: fn() -> Carried) {
    in_namespace(1, || {
        let carried = carried();
        let mut runner = TestRunner::new(Config::with_cases(500));
        let run = runner.run(&(packets(), any::<bool>()), |((packet, to), is_finished)| {
            let frame = packet.frame();
            prop_assume!(Plain::read(&frame).is_some());
            let direction = direction(&packet, to);
            let place = carried.scene.make(&direction).expect("there is room");
            let after = match is_finished {
                true => carried.pass(Offloads::Nothing, &frame),
                // Nobody pads what he leaves to a device.
                false => {
                    let end = Plain::read(&frame).map_or(0, |plain| usize::from(plain.end()));
                    let sent = unfinished(&frame[..end]);
                    carried.pass(Offloads::Checksum, &sent).map(finished)
                }
            };
            let length = u64::from(Plain::read(&frame).map_or(0, |plain| plain.length));
            let passed = carried.scene.shortcuts.end(direction.key);
            carried.scene.vacate(place);
            let expected = rewritten(&frame, &direction);
            let expected = if is_finished { expected } else { finished(expected) };
            prop_assert_eq!(after, Some(expected));
            prop_assert_eq!(passed, Passed { packets: 1, bytes: length });
            Ok(())
        });
        run.expect("they agree");
        assert_eq!((carried.counter("shortcut"), carried.counter("redirected")), (0, 0));
        assert!(carried.counter("carried") >= 500);
    });
}

#[test]
fn the_segments_of_a_stream_leave_together() {
    leave_together(|| Carried::new(false));
    leave_together(Carried::without_xdp);
}

fn leave_together(carried: fn() -> Carried) {
    const SIZE: u16 = 1400;
    const COUNT: u16 = 8;
    in_namespace(1, || {
        let carried = carried();
        let from = Endpoint::new([10, 1, 1, 5].into(), 4000);
        let to = Endpoint::new([198, 51, 100, 9].into(), 80);
        let data: Vec<u8> = (0..SIZE * COUNT).map(|byte| (byte / 7) as u8).collect();
        let packet = Packet::tcp(from, to, flags::ACK | flags::PSH, &[], &data);
        let frame = packet.frame();
        let out = [Endpoint::new([203, 0, 113, 10].into(), 1024), to];
        let direction = direction(&packet, out);
        let sequence = u32::from_be_bytes(packet.transport[4..8].try_into().expect("four bytes"));
        let direction = Direction { sequence_next: sequence, ..direction };
        carried.scene.make(&direction).expect("there is room");

        let after = carried.pass(Offloads::Segments(SIZE), &unfinished(&frame)).expect("passed");
        assert_eq!(carried.counter("carried"), u64::from(COUNT), "the sender's kernel cut it");
        assert_eq!(after.len(), frame.len(), "and the router's joined it");
        let (before, after) = (finished(rewritten(&frame, &direction)), finished(after));
        assert_eq!(after, before);

        let next = sequence + u32::from(SIZE * COUNT);
        assert_eq!(carried.scene.shortcuts.sequence_next(direction.key), Some(next));
        let passed = carried.scene.shortcuts.end(direction.key);
        let bytes = u64::from(SIZE * COUNT) + u64::from(COUNT) * 40;
        assert_eq!(passed, Passed { packets: COUNT.into(), bytes }, "as the segments they came as");
    });
}

#[test]
fn a_stream_whose_segments_come_alone_leaves_as_frames_for_a_while() {
    const ALONE_MAX: u64 = 8;
    in_namespace(1, || {
        // So that it takes frames.
        Device::find("b1").expect("the device").join_segments().expect("joined");
        let carried = Carried::new(true);
        let from = Endpoint::new([10, 1, 1, 5].into(), 4000);
        let to = Endpoint::new([198, 51, 100, 9].into(), 80);
        let packet = Packet::tcp(from, to, flags::ACK, &[], &[1; 1200]);
        let direction = direction(&packet, [to, from]);
        carried.scene.make(&direction).expect("there is room");
        let frame = packet.frame();
        let counts = || [carried.counter("carried"), carried.counter("shortcut")];
        let passes = |count: u64| {
            for _ in 0..count {
                let after = carried.pass(Offloads::Nothing, &frame);
                assert_eq!(after, Some(rewritten(&frame, &direction)));
            }
        };
        passes(ALONE_MAX + 3);
        assert_eq!(counts(), [ALONE_MAX, 3]);
        std::thread::sleep(Duration::from_millis(150));
        passes(1);
        assert_eq!(counts(), [ALONE_MAX + 1, 3], "it is tried again");
    });
}
