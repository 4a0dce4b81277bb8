//! Once warm, nothing on a packet's way allocates: a counting allocator watches the pipeline work.
//!
//! Warm means: the neighbours are known, the guests were there before, and the external ports in use
//! lie among 64 that were used before (their slots come in blocks, 1,024 for an address and protocol at the
//! most, and stay).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use natwerk::flow::{Endpoint, PortId};
use natwerk::frame::FrameBuffer;
use natwerk::io::frame::{Frame, FramePool};
use natwerk::io::memory::copied;
use natwerk::next_hop::Resolution;
use natwerk::pipeline::Pipeline;
use natwerk::pipeline::batch::Batch;
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::Packet;
use natwerk::testing::packets_ipv6;
use natwerk::time::Tick;
use natwerk::verdict::{DropReason, Verdict};

/// Counts what this thread allocates while it is told to.
struct Counting;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }
}

fn count() {
    if COUNTS.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        if std::env::var_os("NATWERK_SHOW_ALLOCATIONS").is_some() {
            COUNTS.set(false);
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
            COUNTS.set(true);
        }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> usize {
    ALLOCATIONS.set(0);
    COUNTS.set(true);
    work();
    COUNTS.set(false);
    ALLOCATIONS.get()
}

/// A pipeline whose frames are made outside the count.
struct Bench {
    lab: Lab,
    pipeline: Pipeline<Frame>,
    batch: Batch<Frame>,
    frames: FramePool,
    now: Tick,
    allocated: usize,
    verdicts: Vec<Verdict>,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::new(include_str!("golden/rules.json"));
        Self {
            pipeline: Pipeline::new(Arc::clone(&lab.shared), Arc::clone(&lab.counters)),
            lab,
            batch: Batch::new(),
            frames: FramePool::in_memory(4096, 2048).expect("memory"),
            now: Tick::from_ms(1_000_000),
            allocated: 0,
            verdicts: Vec::new(),
        }
    }

    /// Sends frames in batches, with the work that is due after each.
    fn send(&mut self, frames: &[(PortId, Vec<u8>)]) {
        self.verdicts.clear();
        for frames in frames.chunks(32) {
            self.batch.clear();
            for (port, bytes) in frames {
                let mut frame = copied(&mut self.frames, bytes).expect("a free frame");
                frame.bytes_mut()[0..6].copy_from_slice(&Lab::router_mac(*port).0);
                frame.bytes_mut()[6..12].copy_from_slice(&[2, 9, 9, 9, 9, port.0]);
                self.batch.push(*port, frame);
            }
            let Self { pipeline, batch, frames, now, .. } = self;
            self.allocated += allocations(|| {
                pipeline.process(batch, frames, *now);
                pipeline.idle(batch, frames, *now);
            });
            self.verdicts.extend(self.batch.slots.iter().map(|slot| slot.verdict));
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        let step = (duration / 40).max(Duration::from_millis(100));
        while self.now < end {
            self.now = self.now.after(step).min(end);
            self.batch.clear();
            let Self { pipeline, batch, frames, now, .. } = self;
            self.allocated += allocations(|| while pipeline.idle(batch, frames, *now) {});
        }
    }

    /// Lets every neighbour answer that somebody waits for.
    fn resolve(&mut self) {
        for id in self.lab.shared.next_hops.take_wanted() {
            let neighbor = self.lab.shared.next_hops.neighbor(id);
            let mac = Lab::neighbor_mac(neighbor.address);
            self.lab.shared.next_hops.set(neighbor, Resolution::Reachable(mac));
        }
    }

    /// Does `work` until it is warm, then once more under the count.
    fn once_warm(&mut self, mut work: impl FnMut(&mut Self)) -> usize {
        for _ in 0..3 {
            work(self);
            self.resolve();
        }
        self.allocated = 0;
        work(self);
        self.allocated
    }

    fn all_forwarded(&self) -> bool {
        !self.verdicts.is_empty()
            && self.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Forward(_)))
    }
}

fn at(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address:port");
    Endpoint::new(address.parse().expect("an address"), port.parse().expect("a port"))
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    Packet::udp(at(source), at(destination), b"payload").frame()
}

fn tcp(source: &str, destination: &str, flags: u8) -> Vec<u8> {
    Packet::tcp(at(source), at(destination), flags, &[2, 4, 5, 180], b"").frame()
}

#[test]
fn the_allocator_counts() {
    assert!(allocations(|| drop(std::hint::black_box(Box::new(1)))) > 0);
}

#[test]
fn established_sessions_allocate_nothing_in_either_direction() {
    let mut bench = Bench::new();
    let frames = [
        (GUEST, udp("10.1.1.5:4000", "198.51.100.9:53")),
        (PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4000")),
        (GUEST, tcp("10.1.1.5:4000", "198.51.100.9:80", 2)),
        (PUBLIC, tcp("198.51.100.9:80", "203.0.113.10:4000", 0x12)),
        (GUEST, tcp("10.1.1.5:4000", "198.51.100.9:80", 0x10)),
    ];
    let allocated = bench.once_warm(|bench| bench.send(&frames));
    assert_eq!(allocated, 0);
    assert!(bench.all_forwarded());
}

#[test]
fn new_sessions_and_the_sweep_that_ends_them_allocate_nothing() {
    let mut bench = Bench::new();
    let mut frames = Vec::new();
    for port in 5000..5200 {
        frames.push((GUEST, udp(&format!("10.1.1.5:{port}"), "198.51.100.9:53")));
        frames.push((GUEST, tcp(&format!("10.1.1.8:{port}"), "198.51.100.9:80", 2)));
        frames.push((GUEST, tcp(&format!("10.1.1.6:{port}"), "198.51.100.9:80", 2)));
        frames.push((PUBLIC, tcp(&format!("198.51.100.9:{port}"), "203.0.113.11:2222", 2)));
        frames.push((GUEST, udp(&format!("10.1.1.9:{}", port + 1000), "203.0.113.12:7")));
    }
    let allocated = bench.once_warm(|bench| {
        bench.send(&frames);
        assert!(bench.lab.shared.sessions.len() == 1000 || bench.now == Tick::from_ms(1_000_000));
        bench.pass(Duration::from_secs(310));
        assert_eq!(bench.lab.shared.sessions.len(), 0);
    });
    assert_eq!(allocated, 0);
}

#[test]
fn balancers_and_address_dependent_filtering_allocate_nothing() {
    let mut bench = Bench::new();
    let mut frames = Vec::new();
    for port in 5000..5200 {
        frames.push((PUBLIC, tcp(&format!("198.51.100.9:{port}"), "203.0.113.11:443", 2)));
    }
    for host in 2..150 {
        let mut packet =
            Packet::udp(at(&format!("10.1.8.{host}:{}", 4000 + host)), at("198.51.100.9:53"), b"");
        packet.tag = Some(800);
        frames.push((GUEST, packet.frame()));
    }
    let allocated = bench.once_warm(|bench| {
        bench.send(&frames);
        bench.pass(Duration::from_secs(310));
        assert_eq!(bench.lab.shared.sessions.len(), 0);
    });
    assert_eq!(allocated, 0);
}

#[test]
fn icmp_errors_allocate_nothing() {
    let mut bench = Bench::new();
    let sent = Packet::udp(at("203.0.113.10:4000"), at("198.51.100.9:53"), b"payload");
    let error = |code| {
        let (from, to) = (sent.destination, sent.source);
        Packet::icmp(from, to, (3, code), [0; 4], &sent.bytes()).frame()
    };
    let mut expired = Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), b"payload");
    expired.ttl = 1;
    let frames = [
        (GUEST, udp("10.1.1.5:4000", "198.51.100.9:53")),
        (PUBLIC, error(3)),
        (PUBLIC, error(1)),
        (GUEST, expired.frame()),
        (GUEST, tcp("10.1.1.5:4000", "198.51.100.9:25", 2)),
        (PUBLIC, udp("198.51.100.9:53", "203.0.113.10:4444")),
    ];
    let allocated = bench.once_warm(|bench| bench.send(&frames));
    assert_eq!(allocated, 0);
    assert_eq!(
        bench.verdicts[1..4],
        [Verdict::Forward(GUEST), Verdict::Forward(GUEST), Verdict::Drop(DropReason::TtlExpired)]
    );
}

#[test]
fn ipv6_allocates_nothing_whatever_becomes_of_it() {
    let mut bench = Bench::new();
    let at = |address: &str, port| Endpoint::new(address.parse().expect("an address"), port);
    let (guest, remote) = ("2001:db8:1::5", "2001:db8:51::9");
    let datagram = |hop_limit| {
        let packet = packets_ipv6::Packet::udp(at(guest, 4000), at(remote, 53), &[7; 92]);
        packets_ipv6::Packet { hop_limit, ..packet }
    };
    let syn = |port, to| packets_ipv6::Packet::tcp(at(guest, port), at(remote, to), 2, b"").frame();
    let echo = packets_ipv6::Packet::echo(at(guest, 0).address, at(remote, 0).address, 128, 7);
    let mut frames = vec![
        (GUEST, datagram(64).frame()),
        (PUBLIC, packets_ipv6::Packet::udp(at(remote, 53), at(guest, 4000), b"").frame()),
        (PUBLIC, packets_ipv6::Packet::udp(at(remote, 53), at(guest, 4001), b"").frame()),
        (GUEST, datagram(1).frame()),
        (GUEST, syn(4000, 25)),
        (GUEST, echo.frame()),
    ];
    for identification in 0..50 {
        // The last piece first.
        for start in [80, 40, 0] {
            frames.push((GUEST, datagram(64).fragment(identification, start, 40).frame()));
        }
    }
    frames.extend((5000..5200).map(|port| (GUEST, syn(port, 80))));
    let allocated = bench.once_warm(|bench| {
        bench.send(&frames);
        bench.pass(Duration::from_secs(310));
        assert_eq!(bench.lab.shared.sessions_ipv6.len(), 0);
    });
    assert_eq!(allocated, 0);
    let forwarded = |verdict: &&Verdict| matches!(verdict, Verdict::Forward(_));
    assert_eq!(bench.verdicts.iter().filter(forwarded).count(), 4 + 50 + 200);
}

#[test]
fn frames_that_wait_for_a_neighbor_allocate_nothing() {
    let mut bench = Bench::new();
    let neighbor = {
        bench.send(&[(GUEST, udp("10.1.1.5:4000", "198.51.100.9:53"))]);
        let wanted = bench.lab.shared.next_hops.take_wanted();
        bench.lab.shared.next_hops.neighbor(wanted[0])
    };
    let frames: Vec<_> = (0..12)
        .map(|number| (GUEST, udp(&format!("10.1.1.5:{}", 4000 + number), "198.51.100.9:53")))
        .collect();
    let allocated = bench.once_warm(|bench| {
        bench.lab.shared.next_hops.set(neighbor, Resolution::Pending);
        bench.send(&frames);
        assert!(bench.verdicts.iter().all(|verdict| *verdict == Verdict::Hold));
        let mac = Lab::neighbor_mac(neighbor.address);
        bench.lab.shared.next_hops.set(neighbor, Resolution::Reachable(mac));
        bench.pass(Duration::from_millis(100));
        assert!(bench.batch.extra.len() >= frames.len());
        // And once more in vain.
        bench.lab.shared.next_hops.set(neighbor, Resolution::Pending);
        bench.send(&frames);
        bench.pass(Duration::from_secs(4));
    });
    assert_eq!(allocated, 0);
}

#[test]
fn fragments_allocate_nothing_in_any_order() {
    let mut bench = Bench::new();
    let mut frames = Vec::new();
    for number in 0..100_u16 {
        let whole = Packet::udp(at("10.1.1.5:4000"), at("198.51.100.9:53"), &[7; 92]);
        let piece = |range: std::ops::Range<usize>| {
            let more = if range.end < whole.transport.len() { 0x2000 } else { 0 };
            let flags_offset = more | u16::try_from(range.start / 8).expect("short");
            let transport = whole.transport[range].to_vec();
            let identification = 500 + number;
            Packet { transport, flags_offset, identification, ..whole.clone() }.frame()
        };
        let mut order = [0..40, 40..80, 80..100];
        order.rotate_left(usize::from(number % 3));
        frames.extend(order.map(|range| (GUEST, piece(range))));
        if number % 10 == 0 {
            // Some never come whole, some overlap.
            frames.pop();
            frames.push((GUEST, piece(32..64)));
        }
    }
    let large = Packet::udp(at("198.51.100.9:5000"), at("203.0.113.22:9000"), &[7; 1300]);
    frames.push((PUBLIC, Packet { flags_offset: 0, ..large }.frame()));
    let allocated = bench.once_warm(|bench| {
        bench.send(&frames);
        bench.pass(Duration::from_secs(3));
    });
    assert_eq!(allocated, 0);
}

#[test]
fn new_rules_are_applied_to_old_sessions_without_an_allocation() {
    let mut bench = Bench::new();
    let frames: Vec<_> = (5000..5200)
        .map(|port| (GUEST, udp(&format!("10.1.1.5:{port}"), "198.51.100.9:53")))
        .collect();
    let rules = [
        include_str!("golden/rules.json").to_owned(),
        include_str!("golden/rules.json")
            .replace("\"deny\", \"protocol\": \"tcp\"", "\"deny\", \"protocol\": \"udp\"")
            .replace("\"25\", \"destinations\"", "\"53\", \"destinations\""),
    ];
    assert_ne!(rules[0], rules[1]);
    let mut turn = 0;
    let allocated = bench.once_warm(|bench| {
        bench.send(&frames);
        turn += 1;
        bench.lab.reload(&rules[turn % 2]);
        bench.pass(Duration::from_secs(1));
        bench.lab.reload(&rules[0]);
        bench.pass(Duration::from_secs(1));
    });
    assert_eq!(allocated, 0);
}
