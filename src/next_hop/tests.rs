//! What next hops promise, as tests.

use std::collections::HashMap;
use std::sync::{Arc, Barrier};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn neighbor(port: u8, vlan: u16, last: u8) -> Neighbor {
    Neighbor { port: PortId(port), vlan, address: Ipv4Addr::new(10, 1, 1, last).into() }
}

#[test]
fn a_new_next_hop_is_pending_and_wanted_once() {
    let hops = NextHops::new(8);
    let id = hops.id(neighbor(1, 100, 5)).expect("room");
    hops.want(id);
    assert_eq!(hops.id(neighbor(1, 100, 5)), Some(id));
    assert_eq!(hops.link(id).destination, Resolution::Pending);
    assert_eq!(hops.take_wanted(), [id]);
    assert!(hops.take_wanted().is_empty());
    hops.want(id);
    assert_eq!(hops.take_wanted(), [id]);
}

#[test]
fn what_was_learned_is_what_frames_get() {
    let hops = NextHops::new(8);
    hops.set_interface(PortId(1), OURS, 1500);
    hops.set_vlan_mtu(PortId(1), 100, 1400);
    let id = hops.id(neighbor(1, 100, 5)).expect("room");
    hops.set(neighbor(1, 100, 5), Resolution::Reachable(MAC));
    let expected = Link {
        port: PortId(1),
        vlan: 100,
        mtu: 1400,
        source: OURS,
        destination: Resolution::Reachable(MAC),
    };
    assert_eq!(hops.link(id), expected);
    assert_eq!(hops.neighbor(id), neighbor(1, 100, 5));
    assert_eq!(hops.all(), [(id, neighbor(1, 100, 5), Resolution::Reachable(MAC))]);
    assert_eq!(hops.source_mac(PortId(1)), OURS);
}

#[test]
fn the_way_to_a_hop_in_use_is_its_link_and_there_is_none_where_packets_are_watched() {
    let hops = NextHops::new(8);
    hops.set_interface(PortId(1), OURS, 1400);
    let id = hops.id(neighbor(1, 100, 5)).unwrap();
    hops.set(neighbor(1, 100, 5), Resolution::Reachable(MAC));
    assert_eq!(hops.way(id), None, "nobody was told that it is used");
    let link = hops.link(id);
    let way = hops.way(id).unwrap();
    assert_eq!((way.port(), way.vlan(), way.mtu()), (link.port, link.vlan, link.mtu));
    assert_eq!(way.link_words().addresses(), [MAC, OURS]);
    assert!(!way.is_untagged());
    assert_eq!(hops.way(id.watched()), None);
}

#[test]
fn a_frame_is_ours_by_its_first_six_bytes() {
    let hops = NextHops::new(8);
    hops.set_interface(PortId(1), OURS, 1500);
    assert!(hops.interfaces().is_own(PortId(1), [2, 0, 0, 0, 0, 1, 0xff, 0xff]));
    assert!(!hops.interfaces().is_own(PortId(1), [2, 0, 0, 0, 0, 2, 0, 0]));
    assert!(!hops.interfaces().is_own(PortId(1), [3, 0, 0, 0, 0, 1, 0, 0]));
    assert!(!hops.interfaces().is_own(PortId(2), [2, 0, 0, 0, 0, 1, 0, 0]));
}

#[test]
fn link_properties_reach_present_and_future_hops_of_their_interface_only() {
    let hops = NextHops::new(8);
    let tagged = hops.id(neighbor(0, 7, 1)).expect("room");
    let other = hops.id(neighbor(1, 0, 1)).expect("room");
    hops.set_interface(PortId(0), OURS, 9000);
    hops.set_vlan_mtu(PortId(0), 7, 1450);
    let untagged = hops.id(neighbor(0, 0, 1)).expect("room");
    assert_eq!((hops.link(tagged).mtu, hops.link(tagged).source), (1450, OURS));
    assert_eq!((hops.link(untagged).mtu, hops.link(untagged).source), (9000, OURS));
    assert_eq!((hops.link(other).mtu, hops.link(other).source), (1500, Mac::default()));
    // A network's MTU never exceeds what its interface carries.
    hops.set_interface(PortId(0), OURS, 1300);
    assert_eq!(hops.link(tagged).mtu, 1300);
}

#[test]
fn only_a_changed_resolution_counts_as_a_change() {
    let hops = NextHops::new(8);
    let id = hops.id(neighbor(0, 0, 1)).expect("room");
    for (resolution, changes) in [
        (Resolution::Pending, 0),
        (Resolution::Reachable(MAC), 1),
        (Resolution::Reachable(MAC), 1),
        (Resolution::Reachable(OURS), 2),
        (Resolution::Failed, 3),
        (Resolution::Failed, 3),
        (Resolution::Pending, 4),
    ] {
        hops.set(neighbor(0, 0, 1), resolution);
        assert_eq!((hops.changes(), hops.link(id).destination), (changes, resolution));
    }
}

#[test]
fn an_unknown_neighbor_and_an_impossible_address_are_ignored() {
    let hops = NextHops::new(8);
    hops.set(neighbor(0, 0, 1), Resolution::Reachable(MAC));
    assert_eq!((hops.changes(), hops.all().len()), (0, 0));
    let id = hops.id(neighbor(0, 0, 1)).expect("room");
    for mac in [Mac::BROADCAST, Mac::default(), Mac([1, 0, 0x5e, 0, 0, 1])] {
        hops.set(neighbor(0, 0, 1), Resolution::Reachable(mac));
    }
    assert_eq!(hops.link(id).destination, Resolution::Pending);
}

#[test]
fn a_full_table_makes_no_more_but_still_finds() {
    let hops = NextHops::new(2);
    let first = hops.id(neighbor(0, 0, 1));
    assert!(first.is_some() && hops.id(neighbor(0, 0, 2)).is_some());
    assert_eq!(hops.id(neighbor(0, 0, 3)), None);
    assert_eq!(hops.id(neighbor(0, 0, 1)), first);
    assert_eq!(hops.all().len(), 2);
}

#[test]
fn an_id_that_was_never_given_out_leads_nowhere() {
    let hops = NextHops::new(2);
    for id in [NextHopId(0), NextHopId(2), NextHopId(u32::MAX)] {
        hops.want(id);
        assert_eq!(hops.link(id).destination, Resolution::Failed);
    }
}

#[test]
fn a_reachable_hop_is_confirmed_until_somebody_looked() {
    let hops = NextHops::new(4);
    let id = hops.id(neighbor(0, 0, 1)).expect("room");
    assert!(!hops.take_confirmed(id));
    hops.set(neighbor(0, 0, 1), Resolution::Reachable(MAC));
    assert!(hops.take_confirmed(id) && !hops.take_confirmed(id));
    hops.set(neighbor(0, 0, 1), Resolution::Reachable(MAC));
    assert!(hops.take_confirmed(id));
    assert_eq!(hops.changes(), 1);
}

#[test]
fn whoever_drains_is_woken_once_until_it_drains() {
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (hops, count) = (NextHops::new(4), Arc::new(Count(AtomicU32::new(0))));
    hops.set_waker(Waker::from(Arc::clone(&count)));
    for (last, woken) in [(1, 1), (2, 1)] {
        assert!(hops.id(neighbor(0, 0, last)).is_some());
        assert_eq!(count.0.load(Ordering::Relaxed), woken);
    }
    assert_eq!(hops.take_wanted().len(), 2);
    hops.want(NextHopId(0));
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

#[test]
fn used_hops_are_told_once() {
    let hops = NextHops::new(4);
    let id = hops.id(neighbor(0, 0, 1)).expect("room");
    let _unused = hops.id(neighbor(0, 0, 2)).expect("room");
    assert!(hops.take_used().is_empty());
    let _ = (hops.link(id), hops.link(id));
    assert_eq!(hops.take_used(), [id]);
    assert!(hops.take_used().is_empty());
}

#[test]
fn threads_agree_on_every_id_and_each_is_wanted_once() {
    const THREADS: u8 = 4;
    // More than there are: no network may have the last place.
    let hops = NextHops::new(300);
    let barrier = Barrier::new(usize::from(THREADS));
    let seen: Vec<Vec<Option<NextHopId>>> = std::thread::scope(|scope| {
        let run = |thread: u8| {
            let (hops, barrier) = (&hops, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let mut ids = vec![None; 250];
                for step in 0..250_u8 {
                    // Seven and 250 have no common divisor: every thread asks for all, in turn.
                    let last = (u16::from(step) * 7 + u16::from(thread) * 50) % 250;
                    let last = u8::try_from(last).expect("below 250");
                    let id = hops.id(neighbor(last % 3, 0, last)).expect("room");
                    hops.set(neighbor(last % 3, 0, last), Resolution::Reachable(MAC));
                    // Whoever holds an id sees whole words.
                    assert_eq!(hops.link(id).port, PortId(last % 3));
                    ids[usize::from(last)] = Some(id);
                }
                ids
            })
        };
        let threads: Vec<_> = (0..THREADS).map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(hops.all().len(), 250);
    let mut wanted = hops.take_wanted();
    wanted.sort_by_key(|id| id.0);
    assert_eq!(wanted, (0..250).map(NextHopId).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn ids_are_those_of_a_map(
        asked in prop::collection::vec((0..3_u8, 0..3_u16, 0..20_u8), 0..200)
    ) {
        let hops = NextHops::new(64);
        let mut map = HashMap::new();
        for (port, vlan, last) in asked {
            let (neighbor, port_id) = (neighbor(port, vlan, last), PortId(port));
            let network = |other: &&Neighbor| (other.port, other.vlan) == (port_id, vlan);
            let full = map.keys().filter(network).count() >= 8 * (64 - map.len());
            let next = NextHopId(u32::try_from(map.len()).expect("few"));
            let expected = map.get(&neighbor).copied().or((!full).then_some(next));
            if let Some(id) = expected {
                map.insert(neighbor, id);
            }
            prop_assert_eq!(hops.id(neighbor), expected);
        }
        for (neighbor, id) in map {
            prop_assert_eq!(hops.neighbor(id), neighbor);
        }
    }
}
