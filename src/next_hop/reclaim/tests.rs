//! That places become free, and never while anybody holds them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::flow::{Mac, PortId};
use crate::next_hop::readers::HopReader;
use crate::next_hop::{Neighbor, Resolution};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

/// The neighbours of two networks, of both families.
fn neighbor(number: u32) -> Neighbor {
    let address: IpAddr = match number % 3 {
        0 => Ipv6Addr::from_bits(0xfd << 120 | u128::from(number)).into(),
        _ => Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
    };
    Neighbor { port: PortId((number % 2) as u8), vlan: 0, address }
}

/// A hop that was asked for in vain.
fn failed(hops: &NextHops, number: u32) -> NextHopId {
    let id = hops.id(neighbor(number)).expect("room");
    hops.take_wanted();
    hops.set(neighbor(number), Resolution::Failed);
    id
}

fn pass(reader: &HopReader) {
    if let Some(epoch) = reader.due() {
        reader.pass(epoch);
    }
}

/// A round without a reader, in which `held` are in sessions.
fn round(hops: &NextHops, held: &[NextHopId], even_reachable: bool) -> u64 {
    let epoch = hops.doubt(even_reachable);
    assert!(hops.have_passed(epoch));
    let mut noted = hops.noted();
    held.iter().for_each(|id| noted.note(*id));
    hops.free(&mut hops.take_out(&noted))
}

#[test]
fn who_does_not_answer_and_is_in_no_session_makes_room() {
    let hops = NextHops::new(4);
    let ids = [0, 1, 2, 3].map(|number| failed(&hops, number));
    assert_eq!(hops.id(neighbor(4)), None);
    assert_eq!(round(&hops, &[ids[1].watched()], false), 3);
    let expected = Occupancy { used: 1, max: 4, reclaimed: 3, refused: 1 };
    assert_eq!(hops.occupancy(), expected);
    assert_eq!(hops.all(), [(ids[1], neighbor(1), Resolution::Failed)]);
    assert_eq!((hops.find(neighbor(1)), hops.find(neighbor(0))), (Some(ids[1]), None));
    for number in 4..7 {
        let id = hops.id(neighbor(number)).expect("room again");
        assert!(ids.contains(&id) && id != ids[1]);
        assert_eq!(hops.neighbor(id), neighbor(number));
        assert_eq!(hops.resolution(id), Resolution::Pending);
        assert_eq!(hops.take_wanted(), [id]);
    }
    assert_eq!(hops.id(neighbor(0)), None);
}

#[test]
fn who_answers_goes_only_when_it_is_asked_for_and_who_is_waited_for_never() {
    let hops = NextHops::new(4);
    let reachable = failed(&hops, 0);
    hops.set(neighbor(0), Resolution::Reachable(MAC));
    let pending = hops.id(neighbor(1)).expect("room");
    hops.take_wanted();
    let wanted = failed(&hops, 2);
    hops.want(wanted);
    assert_eq!(round(&hops, &[], false), 0);
    assert_eq!(round(&hops, &[], true), 1);
    let left: Vec<_> = hops.all().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(left, [pending, wanted]);
    assert!(hops.is_gone(reachable));
}

#[test]
fn who_is_asked_for_meanwhile_stays_at_every_step() {
    let hops = NextHops::new(4);
    let id = failed(&hops, 0);
    let other = failed(&hops, 1);
    hops.doubt(false);
    assert_eq!(hops.id(neighbor(0)), Some(id));
    let mut gone = hops.take_out(&hops.noted());
    assert!(hops.is_gone(other) && !hops.is_gone(id));
    // What is gone is found no more; its neighbour gets another place.
    let anew = hops.id(neighbor(1)).expect("room");
    assert_ne!(anew, other);
    assert_eq!(hops.again(other), Some(anew));
    assert_eq!(hops.again(other.watched()), Some(anew.watched()));
    assert_eq!(hops.free(&mut gone), 1);
    assert!(gone.is_empty());
    assert_eq!(hops.find(neighbor(1)), Some(anew));
    assert_eq!(hops.neighbor(id), neighbor(0));
}

#[test]
fn who_remembers_a_place_finds_its_neighbor_there_or_elsewhere() {
    let hops = NextHops::new(4);
    let id = failed(&hops, 1);
    assert_eq!(hops.id_near(neighbor(2), id), hops.find(neighbor(2)));
    hops.doubt(false);
    assert_eq!(hops.id_near(neighbor(1), id), Some(id));
    assert!(hops.take_out(&hops.noted()).is_empty(), "it was asked for");
    hops.doubt(false);
    let mut gone = hops.take_out(&hops.noted());
    let anew = hops.id_near(neighbor(1), id).expect("room");
    assert_ne!(anew, id);
    assert_eq!(hops.free(&mut gone), 1);
    assert_eq!(hops.id(neighbor(4)), Some(id));
    assert_eq!(hops.id_near(neighbor(1), id), Some(anew));
}

#[test]
fn no_place_is_free_before_every_reader_has_passed() {
    let hops = NextHops::new(1);
    let (passes, sleeps) = (hops.reader(), hops.reader());
    let id = failed(&hops, 0);
    let epoch = hops.doubt(false);
    pass(&passes);
    assert!(!hops.have_passed(epoch));
    pass(&sleeps);
    assert!(hops.have_passed(epoch));
    let mut gone = hops.take_out(&hops.noted());
    pass(&passes);
    for _ in 0..3 {
        assert_eq!(hops.free(&mut gone), 0);
        assert_eq!(hops.id(neighbor(1)), None, "the place may still be held");
        assert_eq!(hops.neighbor(id), neighbor(0));
    }
    pass(&sleeps);
    assert_eq!(hops.free(&mut gone), 1);
    assert_eq!(hops.id(neighbor(1)), Some(id));
}

#[test]
fn a_hop_that_is_gone_is_neither_asked_for_nor_freshened_and_leaves_the_queue_first() {
    let hops = NextHops::new(2);
    let id = failed(&hops, 0);
    let late = hops.reader();
    let _ = hops.link(id);
    hops.doubt(false);
    pass(&late);
    // Wanted before it went, by one that has not passed since: it stands in the queue.
    let mut gone = hops.take_out(&hops.noted());
    hops.hop(id).expect("a place").destination.fetch_or(WANTED, Ordering::Relaxed);
    hops.wanted.push(id).expect("room");
    let _ = hops.link(id);
    pass(&late);
    assert_eq!(hops.free(&mut gone), 0);
    assert!(hops.take_wanted().is_empty() && hops.take_used().is_empty());
    hops.want(id);
    assert!(hops.wanted.is_empty());
    assert_eq!(hops.free(&mut gone), 1);
}

#[test]
fn one_network_cannot_take_the_places_of_others() {
    let hops = NextHops::new(900);
    let of = |port: u8, number: u32| Neighbor {
        port: PortId(port),
        vlan: 7,
        address: Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
    };
    let taken = |port| (0..900).filter(|number| hops.id(of(port, *number)).is_some()).count();
    assert_eq!([taken(0), taken(0)], [800, 800], "eight ninths, and no more");
    assert_eq!(taken(1), 89);
    assert_eq!(taken(2), 10);
    assert_eq!(hops.occupancy().used, 899);
    for number in 0..800 {
        hops.set(of(0, number), Resolution::Failed);
    }
    hops.take_wanted();
    assert_eq!(round(&hops, &[], false), 800);
    assert_eq!(taken(1), 792, "eight ninths of what the third left");
}

/// Places that are to become free.
const RECLAIMED: u64 = 2000;

/// Where a session would stand: whose it is (plus one) and its id.
const EMPTY: u64 = 0;

fn session(number: u32, id: NextHopId) -> u64 {
    u64::from(number + 1) << 32 | u64::from(id.0)
}

/// A worker's turns: sessions that are in the table go to their own neighbours, some end, some open.
fn work(hops: &NextHops, sessions: &[AtomicU64], seed: u64, stop: &AtomicBool) -> u64 {
    let reader = hops.reader();
    let (mut state, mut opened) = (seed, 0);
    // Kept over all turns, as a worker's hints are.
    let mut likely = [NextHopId(u32::MAX); 96];
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    while !stop.load(Ordering::Relaxed) {
        pass(&reader);
        for _ in 0..8 {
            let number = u32::try_from(random(96)).expect("few");
            let place = &sessions[usize::try_from(random(sessions.len() as u64)).expect("few")];
            let found = place.load(Ordering::Acquire);
            if found == EMPTY {
                let hint = &mut likely[number as usize];
                if let Some(id) = hops.id_near(neighbor(number), *hint) {
                    *hint = id;
                    std::thread::yield_now();
                    let is_put = place.compare_exchange(
                        EMPTY,
                        session(number, id),
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                    opened += u64::from(is_put.is_ok());
                    hops.set(neighbor(number), Resolution::Failed);
                }
                continue;
            }
            let (number, id) = ((found >> 32) as u32 - 1, NextHopId(found as u32));
            if random(4) == 0 {
                let _ = place.compare_exchange(found, EMPTY, Ordering::AcqRel, Ordering::Relaxed);
            }
            std::thread::yield_now();
            // Ended by anybody or not, in this turn the id is that neighbour's.
            assert_eq!(hops.neighbor(id), neighbor(number));
            hops.want(id);
        }
    }
    opened
}

#[test]
fn however_workers_and_rounds_meet_every_session_keeps_its_neighbor() {
    let hops = NextHops::new(48);
    let sessions: Vec<_> = (0..24).map(|_| AtomicU64::new(EMPTY)).collect();
    let stop = AtomicBool::new(false);
    let opened: u64 = std::thread::scope(|scope| {
        let (hops, sessions, stop) = (&hops, &sessions[..], &stop);
        let workers = [1, 2, 3].map(|seed| scope.spawn(move || work(hops, sessions, seed, stop)));
        let is_well = || workers.iter().all(|worker| !worker.is_finished());
        let until = |epoch| {
            while !hops.have_passed(epoch) && is_well() {
                std::thread::yield_now();
            }
        };
        while hops.occupancy().reclaimed < RECLAIMED && is_well() {
            hops.take_wanted();
            until(hops.doubt(true));
            let mut noted = hops.noted();
            for place in sessions {
                let found = place.load(Ordering::Acquire);
                if found != EMPTY {
                    noted.note(NextHopId(found as u32));
                }
            }
            let mut gone = hops.take_out(&noted);
            while !gone.is_empty() && is_well() {
                hops.take_wanted();
                hops.free(&mut gone);
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        workers.map(|worker| worker.join().expect("no session was led astray")).iter().sum()
    });
    assert!(opened > 48, "places were given out again: {opened}");
    assert_eq!(hops.occupancy().used, hops.all().len() as u64);
}
