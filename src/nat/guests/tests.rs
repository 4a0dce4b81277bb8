//! Claims about what guests may use.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::nat::mappings::{MappingBehavior, PoolAddress};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 5);

fn realm(number: u16) -> Realm {
    Realm::from_raw(number)
}

fn entries(guests: &Guests) -> usize {
    guests.shards.iter().map(|shard| shard.0.lock().guests.len()).sum()
}

#[test]
fn a_guest_has_as_many_sessions_as_it_may_and_others_do_not_count() {
    let guests = Guests::new([1, 2, 3, 4]);
    let limits = GuestLimits { sessions: 2, new_sessions_per_second: 0 };
    let enter = |realm, guest| guests.enter(realm, guest, limits, Shows::Nothing, Tick::ZERO);
    assert_eq!(enter(realm(1), GUEST), Ok(None));
    assert_eq!(enter(realm(1), GUEST), Ok(None));
    assert_eq!(enter(realm(1), GUEST), Err(DropReason::SessionLimit));
    assert_eq!(enter(realm(2), GUEST), Ok(None));
    assert_eq!(enter(realm(1), Ipv4Addr::new(10, 1, 1, 6)), Ok(None));
    assert_eq!(guests.sessions(realm(1), GUEST), 2);
    guests.leave(realm(1), GUEST, None);
    assert_eq!(enter(realm(1), GUEST), Ok(None));
}

#[test]
fn a_rate_allows_a_burst_of_one_second_and_then_its_share() {
    let guests = Guests::new([1, 2, 3, 4]);
    let limits = GuestLimits { sessions: 0, new_sessions_per_second: 10 };
    let entered = |from_ms: u64, to_ms: u64| {
        let ticks = (from_ms..to_ms).map(Tick::from_ms);
        ticks
            .filter(|now| guests.enter(realm(1), GUEST, limits, Shows::Nothing, *now).is_ok())
            .count()
    };
    assert_eq!(entered(5_000, 5_050), 10);
    assert_eq!(entered(5_050, 7_000), 19);
    assert_eq!(entered(9_000, 9_001), 1);
    assert_eq!(guests.sessions(realm(1), GUEST), 30);
}

#[test]
fn opening_and_closing_does_not_renew_the_burst() {
    let guests = Guests::new([1, 2, 3, 4]);
    let limits = GuestLimits { sessions: 0, new_sessions_per_second: 10 };
    let mut entered = 0;
    for _ in 0..100 {
        if guests.enter(realm(1), GUEST, limits, Shows::Nothing, Tick::from_ms(1)).is_ok() {
            entered += 1;
            guests.leave(realm(1), GUEST, None);
        }
    }
    assert_eq!(entered, 10);
}

#[test]
fn a_guest_that_uses_nothing_is_forgotten() {
    let guests = Guests::new([1, 2, 3, 4]);
    for limits in [GuestLimits::default(), GuestLimits { sessions: 0, new_sessions_per_second: 10 }]
    {
        for bits in 0..10_000 {
            let guest = Ipv4Addr::from_bits(bits);
            assert_eq!(
                guests.enter(realm(1), guest, limits, Shows::Nothing, Tick::from_ms(1)),
                Ok(None)
            );
        }
        for bits in 0..10_000 {
            guests.leave(realm(1), Ipv4Addr::from_bits(bits), None);
            guests.leave(realm(1), Ipv4Addr::from_bits(bits), None);
        }
    }
    assert!(entries(&guests) > 0, "their rates have not recovered yet");
    for round in 0..10_000_u32 {
        let guest = Ipv4Addr::from_bits(0xff00_0000 + round);
        let now = Tick::from_ms(2_000);
        assert_eq!(
            guests.enter(realm(1), guest, GuestLimits::default(), Shows::Nothing, now),
            Ok(None)
        );
        guests.leave(realm(1), guest, None);
    }
    assert!(entries(&guests) < 20, "{}", entries(&guests));
    assert!(guests.shards.iter().all(|shard| shard.0.lock().idle.len() < 10));
}

#[test]
fn a_refused_newcomer_leaves_nothing_behind() {
    let guests = Guests::new([1, 2, 3, 4]);
    let limits = GuestLimits { sessions: 1, new_sessions_per_second: 1 };
    assert_eq!(guests.enter(realm(1), GUEST, limits, Shows::Nothing, Tick::from_ms(7)), Ok(None));
    assert_eq!(
        guests.enter(realm(1), GUEST, limits, Shows::Nothing, Tick::from_ms(8)),
        Err(DropReason::SessionLimit)
    );
    guests.leave(realm(1), GUEST, None);
    assert_eq!(
        guests.enter(realm(1), GUEST, limits, Shows::Nothing, Tick::from_ms(9)),
        Err(DropReason::RateLimited)
    );
    assert_eq!(guests.sessions(realm(1), GUEST), 0);
    assert_eq!(entries(&guests), 1, "its rate has not recovered yet");
}

const PROTOCOLS: [Protocol; 5] =
    [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::SCTP, Protocol::DCCP];

fn numbered(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(GUEST.to_bits() + number)
}

#[test]
fn ports_are_limited_by_protocol_and_mappings_over_all() {
    let guests = Guests::new([1, 2, 3, 4]);
    let limits = MappingLimits { mappings: 3, ports: 2 };
    let enter =
        |number, protocol| guests.enter_mapping(realm(1), numbered(number), protocol, limits);
    assert_eq!(enter(1, Protocol::UDP), Ok(()));
    assert_eq!(enter(1, Protocol::UDP), Ok(()));
    assert_eq!(enter(1, Protocol::UDP), Err(DropReason::PortLimit));
    assert_eq!(enter(1, Protocol::TCP), Ok(()));
    assert_eq!(enter(1, Protocol::TCP), Err(DropReason::PortLimit));
    assert_eq!(enter(2, Protocol::UDP), Ok(()), "another guest");
    guests.leave_mapping(realm(1), numbered(1), Protocol::UDP);
    assert_eq!(enter(1, Protocol::ICMP), Ok(()));
    assert_eq!(guests.mappings(realm(1), numbered(1)).ports(Protocol::UDP), 1);
}

#[test]
fn a_session_and_its_mapping_are_counted_both_or_not_at_all() {
    let guests = Guests::new([1, 2, 3, 4]);
    let sessions = GuestLimits { sessions: 2, new_sessions_per_second: 3 };
    let mappings = MappingLimits { mappings: 1, ports: 0 };
    let now = Tick::from_ms(7);
    let enter = || {
        guests.enter_with_mapping(
            realm(1),
            GUEST,
            (sessions, mappings),
            (Protocol::UDP, Shows::Nothing),
            now,
        )
    };
    let counts = || (guests.sessions(realm(1), GUEST), guests.mappings(realm(1), GUEST).mappings);
    assert_eq!(enter(), Ok(None));
    assert_eq!(counts(), (1, 1));
    assert_eq!(enter(), Err(DropReason::PortLimit));
    assert_eq!(enter(), Err(DropReason::PortLimit));
    assert_eq!(counts(), (1, 1));
    assert_eq!(
        guests.enter(realm(1), GUEST, sessions, Shows::Nothing, now),
        Ok(None),
        "no token was taken"
    );
    assert_eq!(enter(), Err(DropReason::SessionLimit));
    guests.leave(realm(1), GUEST, None);
    guests.leave(realm(1), GUEST, None);
    assert_eq!(counts(), (0, 1), "its mapping is remembered");
    guests.leave_mapping(realm(1), GUEST, Protocol::UDP);
    assert_eq!(guests.enter(realm(2), GUEST, sessions, Shows::Nothing, now), Ok(None));
    let refused = MappingLimits { mappings: 1, ports: 1 };
    for _ in 0..2 {
        let number = numbered(9);
        let _ = guests.enter_mapping(realm(2), number, Protocol::TCP, refused);
    }
    assert_eq!(guests.mappings(realm(2), numbered(9)).mappings, 1);
}

#[test]
fn a_guest_goes_on_with_the_address_that_sessions_show_as_long_as_one_does() {
    let address = |last| Ipv4Addr::new(203, 0, 113, last);
    let pool = |lasts: &[u8]| Pool {
        addresses: lasts
            .iter()
            .map(|last| PoolAddress { address: address(*last), reserved: Vec::new() })
            .collect(),
        ports: 1..=65535,
        mapping: MappingBehavior::EndpointIndependent,
        overload: false,
        hold: Duration::ZERO,
    };
    let guests = Guests::new([1, 2, 3, 4]);
    let enter = |pool: &Pool| {
        let (limits, shows) = (GuestLimits::default(), Shows::OneOf(pool));
        guests.enter(realm(1), GUEST, limits, shows, Tick::ZERO).expect("no limit")
    };
    assert_eq!(enter(&pool(&[14, 15])), None, "the caller chooses");
    guests.show(realm(1), GUEST, address(15));
    assert_eq!(enter(&pool(&[14, 15])), Some(address(15)));
    assert_eq!(enter(&pool(&[14])), Some(address(14)), "new rules took the other away");
    assert_eq!(enter(&pool(&[10, 14])), Some(address(14)));
    guests.leave(realm(1), GUEST, Some(address(14)));
    assert_eq!(enter(&pool(&[14, 15])), Some(address(15)), "it is back: two show it still");
    for _ in 0..3 {
        guests.leave(realm(1), GUEST, Some(address(15)));
    }
    assert_eq!(guests.shown(realm(1), GUEST, &pool(&[14, 15])), Some(address(14)));
    guests.leave(realm(1), GUEST, Some(address(14)));
    assert_eq!(guests.shown(realm(1), GUEST, &pool(&[14, 15])), None);
    assert_eq!(entries(&guests), 0);
}

proptest! {
    #[test]
    fn it_counts_mappings_that_came_and_did_not_go(
        steps in prop::collection::vec((any::<bool>(), 0..3_u32, 0..PROTOCOLS.len()), 0..200),
        limits in (0..6_u32, 0..4_u32),
    ) {
        let limits = MappingLimits { mappings: limits.0, ports: limits.1 };
        let guests = Guests::new([1, 2, 3, 4]);
        // TCP, UDP and ICMP are counted apart, and all others together.
        let class = |protocol: usize| protocol.min(3);
        let mut model: HashMap<(u32, usize), u32> = HashMap::new();
        for (enters, number, protocol) in steps {
            let (key, protocol) = ((number, class(protocol)), PROTOCOLS[protocol]);
            let of_guest = |model: &HashMap<(u32, usize), u32>| {
                (0..4).map(|class| model.get(&(number, class)).unwrap_or(&0)).sum::<u32>()
            };
            let has = model.get(&key).copied().unwrap_or(0);
            if enters {
                let may = (limits.mappings == 0 || of_guest(&model) < limits.mappings)
                    && (limits.ports == 0 || has < limits.ports);
                let entered = guests.enter_mapping(realm(1), numbered(number), protocol, limits);
                prop_assert_eq!(entered.is_ok(), may);
                model.insert(key, has + u32::from(may));
            } else if has > 0 {
                guests.leave_mapping(realm(1), numbered(number), protocol);
                model.insert(key, has - 1);
            }
            let counts = guests.mappings(realm(1), numbered(number));
            prop_assert_eq!(counts.mappings, of_guest(&model));
            prop_assert_eq!(counts.ports(protocol), model.get(&key).copied().unwrap_or(0));
        }
        for ((number, class), count) in model {
            let leave = || guests.leave_mapping(realm(1), numbered(number), PROTOCOLS[class]);
            (0..count).for_each(|_| leave());
        }
        prop_assert_eq!(entries(&guests), 0);
    }
}
