//! The whole pipeline on established sessions, 64-byte UDP, both directions, in random order:
//! parse, lookup, generation check, rewrite, link header, counters, verdict.
//!
//! Each iteration also copies the frame into frame memory, which a real port does not do. The
//! engine's own `natwerk bench` leaves that out and measures the memory's floor beside it.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use natwerk::flow::{Endpoint, PortId};
use natwerk::testing::lab::{GUEST, Lab, PUBLIC};
use natwerk::testing::packets::Packet;

/// Sixty-three ports a guest, as CSIT's NAT profiles have it.
const PORTS_PER_GUEST: u32 = 63;
const BATCH: usize = 64;

fn rules() -> String {
    let addresses = (0..=255).map(|last| format!("203.0.113.{last}"));
    let public: Vec<_> = addresses
        .clone()
        .map(|address| {
            format!(
                r#"{{"address": "{address}", "prefix_len": 16, "interface": "eth2", "gateway": "203.0.0.1"}}"#
            )
        })
        .collect();
    let pool: Vec<_> = addresses.map(|address| format!("\"{address}\"")).collect();
    format!(
        r#"{{"version": 1, "public_ips": [{}], "networks": [{{"name": "n", "interface": "eth0",
           "cidr": "10.0.0.0/8", "gateway": "10.255.255.254", "egress_default": "allow", "source_nat": [{}]}}]}}"#,
        public.join(","),
        pool.join(",")
    )
}

fn guest(number: u32) -> Endpoint {
    let address = std::net::Ipv4Addr::from_bits(0x0a00_0002 + number / PORTS_PER_GUEST);
    Endpoint::new(address, 1024 + u16::try_from(number % PORTS_PER_GUEST).expect("a small port"))
}

fn remote() -> Endpoint {
    Endpoint::new(std::net::Ipv4Addr::new(198, 51, 100, 9), 5000)
}

/// Frames of both directions of `sessions` open sessions, ready to be sent again.
fn open(lab: &mut Lab, sessions: u32) -> Vec<(PortId, Vec<u8>)> {
    let addressed = |port: PortId, mut frame: Vec<u8>| {
        frame[0..6].copy_from_slice(&Lab::router_mac(port).0);
        (port, frame)
    };
    let mut frames = Vec::new();
    for number in 0..sessions {
        let frame = Packet::udp(guest(number), remote(), &[0; 22]).frame();
        let sent = lab.send(GUEST, frame.clone()).sent;
        let [(PUBLIC, translated)] = sent.as_slice() else { panic!("session {number}: {sent:?}") };
        let parsed = natwerk::wire::parse::parse(translated).expect("a sound packet");
        let reply = Packet::udp(remote(), parsed.source, &[0; 22]).frame();
        frames.push(addressed(GUEST, frame));
        frames.push(addressed(PUBLIC, reply));
    }
    frames
}

fn established(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/established");
    group.throughput(Throughput::Elements(u64::try_from(BATCH).expect("a small batch")));
    for sessions in [1, 65_536, 1_048_576, 4_128_768] {
        let mut lab = Lab::with(&rules(), |config| {
            config.sessions.max = sessions;
            config.sessions.per_guest = 0;
            config.sessions.ports_per_guest = 0;
        });
        let frames = open(&mut lab, sessions);
        let mut place = 0_usize;
        group.bench_function(sessions.to_string(), |bencher| {
            bencher.iter_batched(
                || {
                    (0..BATCH)
                        .map(|_| {
                            // A full-period generator: each frame once before any comes again.
                            place = (place * 1_664_525 + 1_013_904_223) % frames.len();
                            place
                        })
                        .collect::<Vec<_>>()
                },
                |places| {
                    let batch = places.iter().map(|&place| {
                        let (port, frame) = &frames[place];
                        (*port, frame.as_slice())
                    });
                    let forwarded = lab.forward(batch);
                    assert_eq!(black_box(forwarded), BATCH);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn opened(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/opened");
    group.throughput(Throughput::Elements(u64::try_from(BATCH).expect("a small batch")));
    group.bench_function("64 new sessions in an empty table", |bencher| {
        let frames: Vec<_> = (0..64)
            .map(|number| Packet::udp(guest(number), remote(), &[0; 22]).frame())
            .map(|mut frame| {
                frame[0..6].copy_from_slice(&Lab::router_mac(GUEST).0);
                frame
            })
            .collect();
        bencher.iter_batched_ref(
            || {
                let mut lab = Lab::new(&rules());
                lab.send(GUEST, Packet::udp(guest(100), remote(), b"resolve").frame());
                lab
            },
            |lab| lab.forward(frames.iter().map(|frame| (GUEST, frame.as_slice()))),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = established, opened
}
criterion_main!(benches);
