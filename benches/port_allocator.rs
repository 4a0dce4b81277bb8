//! External ports: a new mapping and its end at several occupancies of one public address, a reused
//! mapping, an overloaded session, and a refusal.
//!
//! `cargo bench --bench port_allocator`. Binds want a port that is taken, so that each of them
//! searches. At 100 % the refusal is what is measured: it must not take long either.

use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use natwerk::flow::{Endpoint, Protocol, Realm};
use natwerk::nat::guests::{GuestLimits, Guests, Shows};
use natwerk::nat::mappings::{
    BindRequest, MappingBehavior, MappingLimits, Mappings, Pool, PoolAddress,
};
use natwerk::time::Tick;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const REST: Duration = Duration::from_secs(120);
const FIRST: u16 = 1024;
const PORTS: u32 = 64_512;

fn pool(reserved: usize, hold: Duration, overload: bool) -> Pool {
    let single = |at: usize| {
        let port = FIRST + (at * (PORTS as usize - 1) / reserved.max(1)) as u16;
        (Protocol::UDP, port..=port)
    };
    Pool {
        addresses: vec![PoolAddress {
            address: PUBLIC,
            reserved: (0..reserved).map(single).collect(),
        }],
        ports: 1..=65535,
        mapping: MappingBehavior::EndpointIndependent,
        overload,
        hold,
    }
}

fn request(pool: &Pool, number: u32) -> BindRequest<'_> {
    let internal = Endpoint::new(
        Ipv4Addr::from_bits(0x0a00_0000 + number / PORTS),
        FIRST + (number % PORTS) as u16,
    );
    let wanted = (Realm::from_raw(1), Protocol::UDP, internal);
    BindRequest::new(wanted, pool, MappingLimits::default())
}

/// An address with that many ports taken, evenly spread over all.
fn filled(pool: &Pool, taken: u32) -> Mappings {
    let mappings = Mappings::new(1 << 17, [1, 2, 3, 4]);
    for number in 0..taken {
        let spread = (u64::from(number) * 40_505 % u64::from(PORTS)) as u32;
        let _ = mappings.bind(&request(pool, spread), Tick::ZERO, |_| true);
    }
    mappings
}

fn occupancies(c: &mut Criterion) {
    let mut group = c.benchmark_group("bind_and_release");
    // Without rest, or the occupancy would not stay what it says.
    let pool = pool(100, Duration::ZERO, false);
    for per_mille in [0, 500, 950, 999] {
        let mappings = filled(&pool, (PORTS - 100) * per_mille / 1000);
        // A second guest wants what the first one has.
        let mut number = PORTS;
        let id = BenchmarkId::from_parameter(format!("{} %", f64::from(per_mille) / 10.0));
        group.bench_function(id, |b| {
            b.iter(|| {
                number = PORTS + (number + 7919) % PORTS;
                let bound = mappings.bind(&request(&pool, number), Tick::ZERO, |_| true);
                let bound = bound.expect("a port is free");
                mappings.release(Protocol::UDP, bound.external, Tick::ZERO);
            });
        });
    }
    group.finish();
}

fn refusals(c: &mut Criterion) {
    let mut group = c.benchmark_group("refused");
    for reserved in [0, 100, 10_000] {
        let pool = pool(reserved, REST, false);
        let mappings = filled(&pool, PORTS);
        let mut number = 0;
        group.bench_function(BenchmarkId::new("all live, reserved", reserved), |b| {
            b.iter(|| {
                number = (number + 7919) % PORTS;
                assert!(
                    mappings.bind(&request(&pool, PORTS + number), Tick::ZERO, |_| true).is_err()
                );
            });
        });
    }
    // The worst case: nothing free and every port resting, of other guests.
    let pool = pool(10_000, REST, false);
    let mappings = filled(&pool, PORTS);
    let mut externals = Vec::new();
    mappings.for_each(|_, mapping| externals.push(mapping.external));
    for external in externals {
        mappings.release(Protocol::UDP, external, Tick::ZERO);
    }
    let mut number = 0;
    group.bench_function("all resting, reserved/10000", |b| {
        b.iter(|| {
            number = (number + 7919) % PORTS;
            assert!(mappings.bind(&request(&pool, PORTS + number), Tick::ZERO, |_| true).is_err());
        });
    });
    group.finish();
}

fn others(c: &mut Criterion) {
    let independent = pool(100, REST, true);
    let mappings = filled(&independent, PORTS);
    let mut number = 0;
    c.bench_function("reuse_and_release", |b| {
        b.iter(|| {
            number = (number + 7919) % PORTS;
            let bound = mappings.bind(&request(&independent, number), Tick::ZERO, |_| true);
            mappings.release(Protocol::UDP, bound.expect("it has one").external, Tick::ZERO);
        });
    });
    c.bench_function("overload_and_release", |b| {
        b.iter(|| {
            number = (number + 7919) % PORTS;
            let bound = mappings.bind(&request(&independent, PORTS + number), Tick::ZERO, |_| true);
            mappings.release_overloaded(Protocol::UDP, bound.expect("shared").external);
        });
    });
    let guests = Guests::new([1, 2, 3, 4]);
    let limits = GuestLimits { sessions: 65_536, new_sessions_per_second: 1_000_000 };
    c.bench_function("guest_enter_and_leave", |b| {
        b.iter(|| {
            number = (number + 7919) % 4096;
            let guest = Ipv4Addr::from_bits(0x0a00_0000 + number);
            let entered =
                guests.enter(Realm::from_raw(1), guest, limits, Shows::Nothing, Tick::ZERO);
            if entered.is_ok() {
                guests.leave(Realm::from_raw(1), guest, None);
            }
        });
    });
}

criterion_group!(benches, occupancies, refusals, others);
criterion_main!(benches);
