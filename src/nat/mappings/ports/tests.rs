//! What holds however the ports are dealt to blocks, and whoever asks for them at once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ahash::RandomState;
use proptest::prelude::*;

use super::*;
use crate::flow::{Endpoint, Protocol, Realm};
use crate::nat::mappings::{MappingBehavior, Pool, PoolAddress};
use crate::time::Tick;

/// Twelve ports on both sides of the edge between two blocks.
const ACROSS: RangeInclusive<u16> = 2042..=2053;

/// A pool of one address.
struct Address {
    pool: Pool,
    hasher: RandomState,
}

impl Address {
    fn new(ports: RangeInclusive<u16>, hold: Duration) -> Self {
        let address = PoolAddress { address: Ipv4Addr::new(203, 0, 113, 10), reserved: Vec::new() };
        let pool = Pool {
            addresses: vec![address],
            ports,
            mapping: MappingBehavior::EndpointIndependent,
            overload: false,
            hold,
        };
        Self { pool, hasher: RandomState::with_seeds(1, 2, 3, 4) }
    }

    fn take(&self, ports: &Ports, owner: Owner, seconds: u64) -> Option<u16> {
        let wish = Wish {
            owner,
            allowed: Allowed::new(&self.pool, &self.pool.addresses[0], Protocol::UDP),
            hold_units: Coarse::units(self.pool.hold),
            now: at(seconds),
        };
        ports.take(&wish, |draw| self.hasher.hash_one(draw), |_| true)
    }
}

fn owner(guest: u32, port: u16) -> Owner {
    Owner::new(Realm::from_raw(1), Endpoint::new(Ipv4Addr::from_bits(guest), port))
}

fn at(seconds: u64) -> Coarse {
    Tick::from_ms(seconds * 1000).coarse()
}

#[test]
fn a_small_range_across_the_edge_of_a_block_is_used_wholly() {
    // Whichever block the wanted port is in, and also where it is in neither.
    for wanted in [2042, 2047, 2048, 2053, 1024, 60_000] {
        let (address, ports) = (Address::new(ACROSS, Duration::ZERO), Ports::new());
        let given: BTreeSet<u16> = (0..12)
            .map(|guest| address.take(&ports, owner(guest, wanted), 0).expect("a port"))
            .collect();
        assert!(given.into_iter().eq(ACROSS), "each of them once");
        assert_eq!(address.take(&ports, owner(12, wanted), 0), None);
        assert_eq!(ports.usage(), (12, 0));
        let freed = (0..12).any(|guest| ports.leave(2050, owner(guest, wanted), at(1)));
        assert!(freed, "somebody had it");
        assert_eq!(address.take(&ports, owner(12, wanted), 1), Some(2050));
    }
}

#[test]
fn ports_rest_in_all_blocks_and_all_of_them_come_back() {
    let (address, ports) = (Address::new(ACROSS, Duration::from_secs(4)), Ports::new());
    for port in ACROSS {
        assert_eq!(address.take(&ports, owner(1, port), 0), Some(port));
    }
    for port in ACROSS {
        assert!(ports.leave(port, owner(1, port), at(10)));
    }
    assert_eq!(ports.usage(), (0, 12));
    assert_eq!(address.take(&ports, owner(2, 7), 13), None, "all of them rest");
    let own = address.take(&ports, owner(1, 7), 13).expect("its own guest may have one at once");
    assert_eq!(ports.usage(), (1, 11));
    let mut given: BTreeSet<u16> =
        (2..13).map(|guest| address.take(&ports, owner(guest, 7), 15).expect("rested")).collect();
    given.insert(own);
    assert!(given.into_iter().eq(ACROSS), "each of them once, those freed last too");
    assert_eq!(ports.usage(), (12, 0));
}

/// A pool of one port in each of these blocks.
fn one_of_each(blocks: RangeInclusive<u16>, hold: Duration) -> (Address, Vec<u16>) {
    let ports: Vec<u16> = blocks.map(|block| block * BLOCK_PORTS + 8).collect();
    let mut address = Address::new(ports[0]..=ports[ports.len() - 1], hold);
    let between = ports.windows(2).map(|pair| (Protocol::UDP, pair[0] + 1..=pair[1] - 1));
    address.pool.addresses[0].reserved = between.collect();
    (address, ports)
}

#[test]
fn a_rested_port_is_found_in_whichever_block_it_is() {
    let (address, all) = one_of_each(2..=62, Duration::from_secs(4));
    let ports = Ports::new();
    for port in &all {
        assert_eq!(address.take(&ports, owner(1, *port), 0), Some(*port));
        assert!(ports.leave(*port, owner(1, *port), at(10)));
    }
    assert_eq!(address.take(&ports, owner(2, 2056), 13), None, "all of them rest");
    let given: BTreeSet<u16> = (0..all.len() as u32)
        .map(|guest| address.take(&ports, owner(2 + guest, 2056), 15).expect("rested"))
        .collect();
    assert!(given.into_iter().eq(all), "each of them once");
}

#[test]
fn what_one_range_has_not_says_nothing_of_another() {
    let hold = Duration::from_secs(4);
    let (address, all) = one_of_each(10..=30, hold);
    let (other, ports) = (Address::new(6000..=6000, hold), Ports::new());
    for port in &all {
        assert_eq!(address.take(&ports, owner(1, *port), 0), Some(*port));
    }
    assert_eq!(other.take(&ports, owner(1, 6000), 0), Some(6000));
    let last = all[all.len() - 1];
    ports.leave(last, owner(1, last), at(10));
    ports.leave(6000, owner(1, 6000), at(100));
    assert_eq!(other.take(&ports, owner(2, 6000), 101), None, "its only one rests");
    for port in &all[..all.len() - 1] {
        ports.leave(*port, owner(1, *port), at(102));
    }
    // The search begins in block 0, and one port has rested, in the last block of the range.
    assert_eq!(address.take(&ports, owner(2, 6400), 103), Some(last));
}

#[test]
fn who_wants_a_longer_rest_than_others_gets_it() {
    let short = Address::new(ACROSS, Duration::ZERO);
    let long = Address::new(ACROSS, Duration::from_secs(100));
    let ports = Ports::new();
    for port in ACROSS {
        assert_eq!(short.take(&ports, owner(1, port), 0), Some(port));
    }
    for port in ACROSS {
        ports.leave(port, owner(1, port), at(10));
    }
    // Makes some of those free again that rested long enough for this pool.
    let taken = short.take(&ports, owner(2, 2044), 11).expect("a port");
    ports.leave(taken, owner(2, 2044), at(12));
    assert_eq!(long.take(&ports, owner(3, 2046), 50), None);
    assert!(long.take(&ports, owner(3, 2046), 120).is_some());
}

#[test]
fn workers_never_have_one_port_twice_and_leave_none_behind() {
    // Less than a block's share of the range is held at once, so there always is one.
    const HELD_MAX: usize = 20;
    let address = Address::new(2000..=2100, Duration::ZERO);
    let ports = Ports::new();
    let held: Vec<AtomicBool> = (0..=u16::MAX).map(|_| AtomicBool::new(false)).collect();
    std::thread::scope(|scope| {
        for worker in 0..2_u32 {
            let (address, ports, held) = (&address, &ports, &held);
            scope.spawn(move || {
                let mut own = Vec::new();
                let give_back = |(port, owner): (u16, Owner), round: u64| {
                    held[usize::from(port)].store(false, Ordering::SeqCst);
                    assert!(ports.leave(port, owner, at(round / 100)));
                };
                for round in 0..30_000_u64 {
                    let owner = owner(worker, 1990 + (round * 13 % 120) as u16);
                    let port = address.take(ports, owner, round / 100).expect("one is free");
                    let was_held = held[usize::from(port)].swap(true, Ordering::SeqCst);
                    assert!(!was_held, "{port} was given to two");
                    own.push((port, owner));
                    if own.len() > HELD_MAX {
                        give_back(own.swap_remove((round % 20) as usize), round);
                    }
                }
                own.into_iter().for_each(|one| give_back(one, 30_000));
            });
        }
    });
    assert_eq!(ports.usage().0, 0);
    let given: BTreeSet<u16> =
        (0..101).map(|guest| address.take(&ports, owner(guest, 7), 400).expect("a port")).collect();
    assert!(given.into_iter().eq(2000..=2100));
    assert_eq!(address.take(&ports, owner(101, 7), 400), None);
}

#[test]
fn workers_that_ask_for_the_last_ports_get_as_many_as_there_are() {
    for round in 0..50 {
        let (address, ports) = (Address::new(2000..=2100, Duration::ZERO), Ports::new());
        let take = |worker: u32| {
            (0..101)
                .filter_map(|guest| address.take(&ports, owner(worker << 8 | guest, 7 + round), 0))
                .collect()
        };
        let given: Vec<Vec<u16>> = std::thread::scope(|scope| {
            let threads = [0, 1].map(|worker| scope.spawn(move || take(worker)));
            threads.map(|thread| thread.join().expect("no panic")).into()
        });
        let mut given = given.concat();
        given.sort_unstable();
        assert!(given.into_iter().eq(2000..=2100), "each of them once");
    }
}

#[test]
fn drawn_ports_are_spread_evenly_over_all_blocks() {
    let (address, ports) = (Address::new(1..=65535, Duration::ZERO), Ports::new());
    let mut counts = [0_u32; BLOCKS];
    for guest in 0..6400 {
        // Two blocks that draws are counted in.
        let port = [5060, 40_000][guest as usize % 2];
        let taken = address.take(&ports, owner(guest, port), 0).expect("a port");
        counts[usize::from(block_of(taken))] += 1;
    }
    assert_eq!(counts[0], 0, "well-known ports are not drawn");
    assert!(counts[1..].iter().all(|count| (60..150).contains(count)), "{counts:?}");
}

#[test]
fn no_draw_has_the_number_of_another() {
    let (address, ports) = (Address::new(1..=65535, Duration::ZERO), Ports::new());
    let allowed = Allowed::new(&address.pool, &address.pool.addresses[0], Protocol::UDP);
    let wanted = [0, 1, 1023, 1024, 1025, 65_535, 0];
    let draws: Vec<u64> = wanted.iter().flat_map(|port| ports.draws(&allowed, *port, 5)).collect();
    assert_eq!(draws.iter().collect::<BTreeSet<_>>().len(), draws.len());
}

#[test]
fn ports_that_nobody_may_have_take_no_memory() {
    let mut address = Address::new(1024..=65535, Duration::ZERO);
    address.pool.addresses[0].reserved = vec![(Protocol::UDP, 5000..=60_000)];
    let ports = Ports::new();
    let free = (1024..5000).chain(60_001..=65535).count() as u32;
    // Of each wanted port the draws are counted in its block, so they want some of the others.
    for guest in 0..free {
        assert!(address.take(&ports, owner(guest, 1024 + (guest % 2) as u16), 0).is_some());
    }
    assert_eq!(address.take(&ports, owner(free, 1024), 0), None);
    assert!(ports.blocks[6..57].iter().all(|block| block.get().is_none()));
}

proptest! {
    #[test]
    fn the_summaries_say_what_there_is_in_each_block(
        steps in proptest::collection::vec((any::<bool>(), 0u16..40, 0u64..3), 0..300),
        hold in 0u64..3,
    ) {
        let (address, ports) = (Address::new(2030..=2069, Duration::from_secs(hold)), Ports::new());
        let (mut live, mut now) = (Vec::new(), 10);
        for (takes, number, seconds) in steps {
            now += seconds;
            let owner = owner(number.into(), 2030 + number);
            if takes {
                live.extend(address.take(&ports, owner, now).map(|port| (port, owner)));
            } else if !live.is_empty() {
                let (port, owner) = live.swap_remove(usize::from(number) % live.len());
                prop_assert!(ports.leave(port, owner, at(now)));
            }
            let [even, odd] = ports.summaries.open.each_ref().map(|of| of.load(Ordering::Relaxed));
            let closed = ports.summaries.closed.load(Ordering::Relaxed);
            let rests = ports.summaries.resting.load(Ordering::Relaxed);
            for (number, block) in ports.blocks.iter().enumerate() {
                let has = |blocks: u64| blocks >> number & 1 == 1;
                let said = Summary { open: [has(even), has(odd)], closed: has(closed), rests: has(rests) };
                let never = Summary { open: [true; 2], closed: false, rests: false };
                let is = block.get().map_or(never, |block| block.0.lock().summary());
                prop_assert_eq!(said, is);
            }
            prop_assert_eq!(ports.usage().0 as usize, live.len());
        }
    }
}
