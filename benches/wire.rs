//! What a packet costs in `wire` and `rewrite`: parse, rewrite, checksums. One batch of 64 hot
//! frames a turn, so that no figure is one branch pattern learned by heart.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use natwerk::flow::{Endpoint, Realm};
use natwerk::rewrite::Rewrite;
use natwerk::testing::packets::{Packet, wrong_checksums};
use natwerk::wire::checksum;
use natwerk::wire::icmp;
use natwerk::wire::parse::{Parsed, parse};

const BATCH: u16 = 64;
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const PUBLIC: Endpoint = Endpoint::new(Ipv4Addr::new(203, 0, 113, 10), 61_000);

fn guest(index: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(10, 1, 1, 5), 40_000 + index)
}

fn udp(index: u16, length: usize) -> Vec<u8> {
    Packet { ttl: 255, ..Packet::udp(guest(index), Endpoint::new(REMOTE, 53), &vec![7; length]) }
        .frame()
}

fn tcp(index: u16, length: usize) -> Vec<u8> {
    let to = Endpoint::new(REMOTE, 443);
    Packet { ttl: 255, ..Packet::tcp(guest(index), to, 0x10, &[1; 12], &vec![7; length]) }.frame()
}

fn tagged(index: u16) -> Vec<u8> {
    let to = Endpoint::new(REMOTE, 53);
    Packet { tag: Some(100), ..Packet::udp(guest(index), to, &[7; 18]) }.frame()
}

fn batch(make: impl Fn(u16) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..BATCH).map(make).collect()
}

fn mixed(index: u16) -> Vec<u8> {
    match index % 4 {
        0 => tcp(index, 0),
        1 => tagged(index),
        2 => Packet::echo(guest(0).address, REMOTE, 8, index, &[7; 56]).frame(),
        _ => udp(index, 18),
    }
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let kinds =
        [("udp", batch(|i| udp(i, 18))), ("tcp", batch(|i| tcp(i, 0))), ("mixed", batch(mixed))];
    for (name, frames) in &kinds {
        assert!(frames.iter().all(|frame| parse(frame).is_ok()));
        let mut out = vec![parse(&[]); frames.len()];
        group.bench_function(*name, |b| {
            b.iter(|| {
                for (frame, out) in frames.iter().zip(&mut out) {
                    *out = parse(black_box(frame));
                }
                black_box(&mut out);
            });
        });
    }
    group.finish();
}

fn rewriting(c: &mut Criterion) {
    let mut group = c.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, frames) in [("udp", batch(|i| udp(i, 18))), ("tcp", batch(|i| tcp(i, 0)))] {
        let work: Vec<(Parsed, Rewrite)> = frames
            .iter()
            .map(|frame| {
                let parsed = parse(frame).expect("a sound frame");
                let key = parsed.key(Realm::External);
                (parsed, Rewrite::new(&key, PUBLIC, parsed.destination))
            })
            .collect();
        // A fast wrong answer is no answer.
        for (frame, (parsed, rewrite)) in frames.iter().zip(&work) {
            let mut frame = frame.clone();
            rewrite.apply(&mut frame, parsed);
            assert_eq!(parse(&frame).map(|parsed| parsed.source), Ok(PUBLIC));
            assert!(wrong_checksums(&frame[14..]).is_empty());
        }
        let mut hot = frames.clone();
        group.bench_function(format!("{name}/apply"), |b| {
            b.iter(|| {
                for (frame, (parsed, rewrite)) in hot.iter_mut().zip(&work) {
                    black_box(rewrite).apply(frame, parsed);
                }
                black_box(&mut hot);
            });
        });
        // From the frame as it came: the source is put back each turn, as a new frame would bring it.
        let mut hot = frames.clone();
        group.bench_function(format!("{name}/parse_and_apply"), |b| {
            b.iter(|| {
                for (frame, fresh) in hot.iter_mut().zip(&frames) {
                    frame[14..54].copy_from_slice(&fresh[14..54]);
                }
                for (frame, (_, rewrite)) in hot.iter_mut().zip(&work) {
                    if let Ok(parsed) = parse(black_box(frame)) {
                        black_box(rewrite).apply(frame, &parsed);
                    }
                }
                black_box(&mut hot);
            });
        });
    }
    group.finish();
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let small = batch(|i| udp(i, 18));
    let parsed: Vec<Parsed> = small.iter().map(|f| parse(f).expect("a sound frame")).collect();
    group.bench_function("is_partial", |b| {
        b.iter(|| {
            let mut count = 0_u32;
            for (frame, parsed) in small.iter().zip(&parsed) {
                count += u32::from(checksum::is_partial(black_box(frame), parsed));
            }
            count
        });
    });
    group.throughput(Throughput::Elements(1));
    for length in [64, 1500] {
        let mut frame = udp(0, length - 28);
        let parsed = parse(&frame).expect("a sound frame");
        group.bench_function(format!("complete/{length}"), |b| {
            b.iter(|| checksum::complete(black_box(&mut frame), &parsed));
        });
    }
    group.finish();
}

fn errors(c: &mut Criterion) {
    let mut group = c.benchmark_group("icmp_error");
    let quoted = Packet::udp(PUBLIC, Endpoint::new(REMOTE, 53), &[7; 520]).bytes();
    let frame = Packet::icmp(REMOTE, PUBLIC.address, (3, 3), [0; 4], &quoted).frame();
    let parsed = parse(&frame).expect("a sound frame");
    let inbound = Rewrite {
        source: Endpoint::new(REMOTE, 53),
        destination: guest(0),
        address_delta: checksum::ChecksumDelta::default(),
    };
    group.bench_function("quote_and_apply/576", |b| {
        b.iter_batched_ref(
            || frame.clone(),
            |frame| {
                if let Ok(quote) = icmp::quote(frame, &parsed) {
                    inbound.apply_to_error(frame, &parsed, &quote, REMOTE);
                }
            },
            BatchSize::SmallInput,
        );
    });
    let mut buffer = [0; 1024];
    group.bench_function("write_error/576", |b| {
        b.iter(|| {
            icmp::write_error(
                black_box(&mut buffer),
                icmp::IcmpError::TtlExceeded,
                REMOTE,
                black_box(&quoted),
            )
        });
    });
    group.finish();
}

criterion_group!(benches, parsing, rewriting, checksums, errors);
criterion_main!(benches);
