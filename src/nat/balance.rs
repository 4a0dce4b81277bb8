//! The choice among a load balancer's members.

use std::net::Ipv4Addr;

use crate::flow::Endpoint;
use crate::policy::Balancer;
use crate::rules::set::Algorithm;

/// The member for a new client: by the balancer's algorithm, never one of weight zero, nor one that `takes` refuses.
///
/// `turn` goes up by one for each session of this balancer (round robin); `sessions` says how many a
/// member has now (least connections). Source hashing moves only the clients of a member that goes
/// (rendezvous hashing), whatever the order of members.
#[must_use]
pub fn choose(
    balancer: &Balancer,
    client: Ipv4Addr,
    turn: u64,
    sessions: impl Fn(Endpoint) -> u32,
    takes: impl Fn(Endpoint) -> bool,
) -> Option<Endpoint> {
    let members = balancer.members.as_slice();
    let is_checked = balancer.health_check.is_some();
    let weight = |&(member, weight): &Member| {
        if is_checked && !takes(member) { 0 } else { weight }
    };
    match balancer.algorithm {
        Algorithm::LeastConnections => least_connections(members, weight, turn, sessions),
        Algorithm::RoundRobin => round_robin(members, weight, turn),
        Algorithm::Source => rendezvous(members, weight, client),
    }
}

type Member = (Endpoint, u16);

/// The member with the fewest sessions for its weight; among equals they take turns.
fn least_connections(
    members: &[Member],
    weight: impl Fn(&Member) -> u16,
    turn: u64,
    sessions: impl Fn(Endpoint) -> u32,
) -> Option<Endpoint> {
    let count = u64::try_from(members.len()).ok().filter(|count| *count > 0)?;
    let first = usize::try_from(turn % count).ok()?;
    let mut best: Option<(Endpoint, u64, u64)> = None;
    let (before, from) = members.split_at_checked(first)?;
    for member in from.iter().chain(before) {
        let weight = u64::from(weight(member));
        if weight == 0 {
            continue;
        }
        // With the session to come, so that weights count among idle members too.
        let load = u64::from(sessions(member.0)) + 1;
        if best.is_none_or(|(_, best_load, best_weight)| load * best_weight < best_load * weight) {
            best = Some((member.0, load, weight));
        }
    }
    best.map(|(member, ..)| member)
}

/// Each member as often as its weight says in every cycle, and well spread over it.
///
/// A cycle has one place for each unit of weight. Stepping through it in strides of about its golden
/// section, without a common divisor, comes by every place once and never lingers anywhere.
fn round_robin(members: &[Member], weight: impl Fn(&Member) -> u16, turn: u64) -> Option<Endpoint> {
    let unit = members.iter().fold(0, |unit, member| divisor(unit, u64::from(weight(member))));
    let places = |member: &Member| u64::from(weight(member)).checked_div(unit).unwrap_or(0);
    let cycle: u64 = members.iter().map(places).sum();
    let mut stride = (cycle * 5 / 8).max(1);
    while divisor(stride, cycle) > 1 {
        stride += 1;
    }
    let mut place = turn.checked_rem(cycle)? * stride % cycle;
    for member in members {
        match place.checked_sub(places(member)) {
            None => return Some(member.0),
            Some(rest) => place = rest,
        }
    }
    None
}

/// The member that scores highest for this client. Scores do not depend on other members, so one
/// that goes leaves only its own clients without (weighted rendezvous hashing).
fn rendezvous(
    members: &[Member],
    weight: impl Fn(&Member) -> u16,
    client: Ipv4Addr,
) -> Option<Endpoint> {
    let score = |member: Endpoint, weight: u16| {
        let random =
            mix(mix(u64::from(client.to_bits()) << 32 | u64::from(member.address.to_bits()))
                ^ u64::from(member.port));
        // Evenly between zero and one, both excluded.
        let even = ((random >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        f64::from(weight) / -even.ln()
    };
    members
        .iter()
        .map(|member| (weight(member), member.0))
        .filter(|(weight, _)| *weight > 0)
        .map(|(weight, member)| (score(member, weight), member))
        .max_by(|(a, member), (b, other)| a.total_cmp(b).then(member.cmp(other)))
        .map(|(_, member)| member)
}

/// The greatest common divisor; the other number if one is zero.
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Spreads every bit of `word` over all (the finaliser of `SplitMix64`). No key: a client keeps its
/// member over restarts, and on the other router of a pair.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::{NetworkId, RuleId};
    use crate::rules::set::HealthCheck;

    fn member(number: u8) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(10, 1, 1, number), 8443)
    }

    const CHECK: HealthCheck = HealthCheck {
        interval_seconds: NonZeroU16::MIN,
        timeout_seconds: NonZeroU16::MIN,
        healthy_after: NonZeroU16::MIN,
        unhealthy_after: NonZeroU16::MIN,
        port: None,
    };

    fn balancer(algorithm: Algorithm, members: &[(u8, u16)]) -> Balancer {
        let members = members.iter().map(|(number, weight)| (member(*number), *weight)).collect();
        let (rule, network) = (RuleId(1), NetworkId(0));
        let sources = Vec::new();
        Balancer { rule, network, algorithm, members, health_check: Some(CHECK), sources }
    }

    fn client(number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xc633_6400 + number)
    }

    fn shares(balancer: &Balancer, count: u32) -> HashMap<Endpoint, u32> {
        let mut shares = HashMap::new();
        for number in 0..count {
            let chosen =
                choose(balancer, client(number), number.into(), |_| 0, |_| true).expect("a member");
            *shares.entry(chosen).or_default() += 1;
        }
        shares
    }

    #[test]
    fn nobody_is_chosen_where_nobody_has_weight() {
        for algorithm in [Algorithm::LeastConnections, Algorithm::RoundRobin, Algorithm::Source] {
            assert_eq!(choose(&balancer(algorithm, &[]), client(1), 7, |_| 0, |_| true), None);
            assert_eq!(
                choose(&balancer(algorithm, &[(5, 0), (6, 0)]), client(1), 7, |_| 0, |_| true),
                None
            );
            let one = balancer(algorithm, &[(5, 0), (6, 1), (7, 0)]);
            assert_eq!(choose(&one, client(1), u64::MAX, |_| 0, |_| true), Some(member(6)));
        }
    }

    #[test]
    fn source_shares_follow_the_weights() {
        let shares = shares(&balancer(Algorithm::Source, &[(5, 1), (6, 2), (7, 5)]), 80_000);
        for (number, expected) in [(5, 10_000), (6, 20_000), (7, 50_000)] {
            let share = shares[&member(number)];
            assert!(share.abs_diff(expected) < 1_000, "{number}: {share}");
        }
    }

    #[test]
    fn equal_members_of_a_round_robin_alternate() {
        let balancer = balancer(Algorithm::RoundRobin, &[(5, 10), (6, 10)]);
        let chosen: Vec<_> =
            (0..6).filter_map(|turn| choose(&balancer, client(1), turn, |_| 0, |_| true)).collect();
        assert!(chosen.windows(2).all(|pair| pair[0] != pair[1]), "{chosen:?}");
    }

    #[test]
    fn the_fewest_sessions_for_its_weight_win_and_equals_take_turns() {
        let weighted = balancer(Algorithm::LeastConnections, &[(5, 1), (6, 3)]);
        let sessions = |endpoint| if endpoint == member(5) { 10 } else { 29 };
        assert_eq!(choose(&weighted, client(1), 0, sessions, |_| true), Some(member(6)));
        let sessions = |endpoint| if endpoint == member(5) { 10 } else { 33 };
        assert_eq!(choose(&weighted, client(1), 0, sessions, |_| true), Some(member(5)));
        let equal = balancer(Algorithm::LeastConnections, &[(5, 1), (6, 1), (7, 1)]);
        assert!(shares(&equal, 30).values().all(|share| *share == 10));
    }

    proptest! {
        #[test]
        fn a_member_that_goes_moves_only_its_own_clients(
            weights in proptest::collection::vec(1u16..100, 2..12),
            gone in any::<prop::sample::Index>(),
            clients in proptest::collection::vec(any::<u32>(), 1..200),
            rotation in 0usize..12,
        ) {
            let mut members: Vec<(u8, u16)> = (1..).zip(weights).collect();
            let before = balancer(Algorithm::Source, &members);
            let (gone, _) = members.remove(gone.index(members.len()));
            let rotation = rotation % members.len();
            members.rotate_left(rotation);
            let after = balancer(Algorithm::Source, &members);
            for bits in clients {
                let client = Ipv4Addr::from_bits(bits);
                let old = choose(&before, client, 0, |_| 0, |_| true);
                let new = choose(&after, client, 9, |_| 0, |_| true);
                prop_assert!(old == Some(member(gone)) || old == new);
                prop_assert_ne!(new, Some(member(gone)));
            }
        }

        #[test]
        fn removing_one_of_many_equals_moves_about_its_share(
            count in 3_u8..30, gone in any::<prop::sample::Index>(), first in any::<u32>(),
        ) {
            const CLIENTS: u32 = 3000;
            let mut members: Vec<(u8, u16)> = (1..=count).map(|number| (number, 7)).collect();
            let before = balancer(Algorithm::Source, &members);
            members.remove(gone.index(members.len()));
            let after = balancer(Algorithm::Source, &members);
            let moved = (0..CLIENTS).filter(|number| {
                let client = Ipv4Addr::from_bits(first.wrapping_add(*number));
                choose(&before, client, 0, |_| 0, |_| true) != choose(&after, client, 0, |_| 0, |_| true)
            });
            let (moved, share) = (moved.count() as f64, f64::from(CLIENTS) / f64::from(count));
            // Six standard deviations: what is random in this test is only where clients begin.
            prop_assert!((moved - share).abs() < 6.0 * share.sqrt(), "{moved} of {share}");
        }

        #[test]
        fn a_member_that_is_down_gets_nobody_and_only_its_clients_go_elsewhere(
            weights in proptest::collection::vec(0u16..5, 1..8),
            down in proptest::collection::hash_set(1_u8..8, 0..8),
            clients in proptest::collection::vec(any::<u32>(), 1..50),
        ) {
            let members: Vec<(u8, u16)> = (1..).zip(weights).collect();
            let is_up = |number: &u8| !down.contains(number);
            let left: HashSet<Endpoint> = members
                .iter()
                .filter(|(number, weight)| is_up(number) && *weight > 0)
                .map(|(number, _)| member(*number))
                .collect();
            let takes = |endpoint| !down.iter().any(|number| member(*number) == endpoint);
            for algorithm in [Algorithm::LeastConnections, Algorithm::RoundRobin, Algorithm::Source] {
                let balancer = balancer(algorithm, &members);
                for (turn, bits) in (0..).zip(&clients) {
                    let client = Ipv4Addr::from_bits(*bits);
                    let chosen = choose(&balancer, client, turn, |_| 0, takes);
                    prop_assert_eq!(chosen.is_some(), !left.is_empty());
                    prop_assert!(chosen.is_none_or(|chosen| left.contains(&chosen)));
                    let before = choose(&balancer, client, turn, |_| 0, |_| true);
                    if algorithm == Algorithm::Source && before.is_some_and(takes) {
                        prop_assert_eq!(chosen, before);
                    }
                }
            }
        }

        #[test]
        fn every_cycle_of_a_round_robin_serves_each_by_its_weight(
            weights in proptest::collection::vec(0u16..20, 1..8),
            first in 0u64..1 << 40,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let members: Vec<(u8, u16)> = (1..).zip(weights).collect();
            let balancer = balancer(Algorithm::RoundRobin, &members);
            let cycle: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let mut served = HashMap::<_, u16>::new();
            for turn in first..first + cycle {
                let chosen = choose(&balancer, client(1), turn, |_| 0, |_| true).expect("a member");
                *served.entry(chosen).or_default() += 1;
            }
            for (number, weight) in members {
                prop_assert_eq!(served.get(&member(number)).copied().unwrap_or(0), weight);
            }
        }
    }
}
