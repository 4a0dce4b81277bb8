//! What the resolver promises, as tests. Time is an argument.

use super::*;
use crate::host::plan::Segment;
use crate::host::view::KernelAddress;
use crate::rules::set::Cidr;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 5);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const MOVED: Mac = Mac([2, 0, 0, 0, 0, 6]);
const INDEX: u32 = 7;

/// A router with one interface; the kernel has the gateway's address there or not.
struct Router {
    hops: NextHops,
    view: View,
    plan: Plan,
    resolver: Resolver,
}

impl Router {
    fn new(kernel_has_address: bool, vlan: u16) -> Self {
        let mut view = View::default();
        if kernel_has_address {
            view.addresses.insert(KernelAddress {
                interface_index: INDEX,
                address: GATEWAY.into(),
                prefix_length: 24,
                is_managed: false,
            });
        }
        let prefix = Cidr::containing(GATEWAY, 24);
        let segment = Segment { port: PortId(0), vlan, address: GATEWAY, prefix };
        let plan = Plan { segments: vec![segment], ..Plan::default() };
        Self { hops: NextHops::new(16), view, plan, resolver: Resolver::default() }
    }

    fn run(&mut self, step: impl FnOnce(&mut Resolver, Surroundings<'_>) -> Vec<Ask>) -> Vec<Ask> {
        let around = Surroundings {
            next_hops: &self.hops,
            view: &self.view,
            plan: &self.plan,
            interface_indexes: &[Some(INDEX)],
        };
        step(&mut self.resolver, around)
    }

    fn wanted(&mut self, ms: u64) -> Vec<Ask> {
        self.run(|resolver, around| resolver.take_wanted(around, Tick::from_ms(ms)))
    }

    fn go_on(&mut self, ms: u64) -> Vec<Ask> {
        self.run(|resolver, around| resolver.go_on(around, Tick::from_ms(ms)))
    }

    fn freshen(&mut self, ms: u64) -> Vec<Ask> {
        self.run(|resolver, around| resolver.freshen(around, Tick::from_ms(ms)))
    }

    fn kernel_says(&mut self, state: NeighbourState, mac: Option<Mac>, ms: u64) -> Vec<Ask> {
        self.view.neighbors.insert((INDEX, GUEST.into()), KernelNeighbor { mac, state });
        self.run(|resolver, around| {
            resolver
                .kernel_said(around, INDEX, GUEST.into(), Tick::from_ms(ms))
                .into_iter()
                .collect()
        })
    }
}

fn guest(vlan: u16) -> Neighbor {
    Neighbor { port: PortId(0), vlan, address: GUEST.into() }
}

fn kernel(id: NextHopId) -> Ask {
    Ask::Kernel { id, interface_index: INDEX, address: GUEST.into() }
}

fn arp(id: NextHopId, vlan: u16, destination: Option<Mac>) -> Ask {
    Ask::Arp { id, neighbor: guest(vlan), sender: GATEWAY, destination }
}

#[test]
fn the_kernel_is_asked_once_and_its_answer_is_taken() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [kernel(id)]);
    router.hops.want(id);
    assert_eq!(router.wanted(10), []);
    router.kernel_says(NeighbourState::Incomplete, None, 11);
    assert_eq!(router.hops.resolution(id), Resolution::Pending);
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 20);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
    assert_eq!(router.resolver.deadline(), None);
}

#[test]
fn what_the_kernel_knows_already_needs_no_question() {
    let mut router = Router::new(true, 0);
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(1), []);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn what_the_kernel_merely_remembers_is_used_and_checked() {
    let mut router = Router::new(true, 0);
    router.kernel_says(NeighbourState::Stale, Some(MAC), 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(1), [kernel(id)]);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn a_neighbor_that_moves_is_followed_at_once() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 0);
    router.kernel_says(NeighbourState::Stale, Some(MOVED), 5000);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MOVED));
}

#[test]
fn a_claim_on_another_interface_changes_nothing() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 0);
    let claim = KernelNeighbor { mac: Some(MOVED), state: NeighbourState::Reachable };
    router.view.neighbors.insert((INDEX + 1, GUEST.into()), claim);
    router.run(|resolver, around| {
        resolver
            .kernel_said(around, INDEX + 1, GUEST.into(), Tick::from_ms(1))
            .into_iter()
            .collect()
    });
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn after_a_failure_a_second_passes_before_the_kernel_is_asked_again() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [kernel(id)]);
    router.kernel_says(NeighbourState::Failed, None, 3000);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
    for ms in [3001, 3500, 3999] {
        router.hops.want(id);
        assert_eq!((router.wanted(ms), router.go_on(ms)), (vec![], vec![]), "{ms}");
    }
    assert_eq!(router.go_on(4000), [kernel(id)]);
}

#[test]
fn a_neighbor_that_left_its_place_is_sought_everywhere_at_once() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 0);
    assert_eq!(router.kernel_says(NeighbourState::Failed, None, 9000), [kernel(id)]);
    assert_eq!(router.hops.resolution(id), Resolution::Pending);
    router.kernel_says(NeighbourState::Incomplete, None, 9001);
    assert_eq!(router.kernel_says(NeighbourState::Failed, None, 12_000), []);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
}

#[test]
fn a_failure_that_nobody_minds_is_left_alone() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [kernel(id)]);
    router.kernel_says(NeighbourState::Failed, None, 3000);
    assert_eq!(router.go_on(60_000), []);
    assert_eq!(router.resolver.deadline(), None);
}

#[test]
fn a_silent_kernel_is_not_waited_for_without_end() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [kernel(id)]);
    assert_eq!(router.go_on(5000), []);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
}

#[test]
fn a_tagged_neighbor_is_asked_for_three_times_a_second_apart() {
    let mut router = Router::new(true, 100);
    let id = router.hops.id(guest(100)).expect("room");
    assert_eq!(router.wanted(0), [arp(id, 100, None)]);
    assert_eq!(router.go_on(999), []);
    assert_eq!(router.go_on(1000), [arp(id, 100, None)]);
    assert_eq!(router.go_on(2000), [arp(id, 100, None)]);
    assert_eq!(router.hops.resolution(id), Resolution::Pending);
    assert_eq!(router.go_on(3000), []);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
    router.hops.want(id);
    assert_eq!(router.wanted(3001), []);
    assert_eq!(router.go_on(4000), [arp(id, 100, None)]);
}

#[test]
fn an_answer_ends_our_questions() {
    let mut router = Router::new(true, 100);
    let id = router.hops.id(guest(100)).expect("room");
    assert_eq!(router.wanted(0), [arp(id, 100, None)]);
    router.hops.set(guest(100), Resolution::Reachable(MAC));
    assert_eq!(router.go_on(1000), []);
    assert_eq!(router.resolver.deadline(), None);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn a_kernel_without_an_address_there_is_not_asked() {
    let mut router = Router::new(false, 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [arp(id, 0, None)]);
    router.run(|resolver, around| {
        resolver.heard(around, guest(0), MAC);
        Vec::new()
    });
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn what_is_heard_where_the_kernel_asks_is_the_kernels_to_judge() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    router.run(|resolver, around| {
        resolver.heard(around, guest(0), MAC);
        Vec::new()
    });
    assert_eq!(router.hops.resolution(id), Resolution::Pending);
}

#[test]
fn a_kernel_that_refuses_is_replaced() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [kernel(id)]);
    let refused = |resolver: &mut Resolver, around: Surroundings<'_>| {
        resolver.kernel_refused(around, id, Tick::from_ms(1)).into_iter().collect()
    };
    assert_eq!(router.run(refused), [arp(id, 0, None)]);
    router.run(|resolver, around| {
        resolver.heard(around, guest(0), MAC);
        Vec::new()
    });
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn without_an_address_of_ours_there_is_nobody_to_ask_as() {
    let mut router = Router::new(false, 100);
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), []);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
}

#[test]
fn a_used_neighbor_gone_stale_is_checked_and_an_unused_one_is_not() {
    let mut router = Router::new(true, 0);
    let id = router.hops.id(guest(0)).expect("room");
    router.kernel_says(NeighbourState::Stale, Some(MAC), 0);
    assert_eq!(router.freshen(1), []);
    let _ = router.hops.link(id);
    assert_eq!(router.freshen(2), [kernel(id)]);
    let _ = router.hops.link(id);
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 3);
    assert_eq!(router.freshen(4), []);
    // The kernel forgot it for want of use; its link address still serves, and is checked.
    router.view.neighbors.clear();
    let _ = router.hops.link(id);
    assert_eq!(router.freshen(5), [kernel(id)]);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
}

#[test]
fn a_used_tagged_neighbor_is_asked_at_its_place_and_then_everywhere() {
    let mut router = Router::new(true, 100);
    let id = router.hops.id(guest(100)).expect("room");
    assert_eq!(router.wanted(0), [arp(id, 100, None)]);
    router.hops.set(guest(100), Resolution::Reachable(MAC));
    assert_eq!(router.go_on(1000), []);
    let _ = router.hops.link(id);
    assert_eq!(router.freshen(30_999), []);
    let _ = router.hops.link(id);
    assert_eq!(router.freshen(31_000), [arp(id, 100, Some(MAC))]);
    let mut asks = Vec::new();
    for second in 32..37 {
        asks.extend(router.go_on(second * 1000));
    }
    let (there, everywhere) = (arp(id, 100, Some(MAC)), arp(id, 100, None));
    assert_eq!(asks, [there, there, everywhere, everywhere, everywhere]);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
    assert_eq!(router.go_on(37_000), []);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
}

#[test]
fn an_upstream_router_is_asked_for_until_it_answers_and_missed_only_when_somebody_waits() {
    let mut router = Router::new(true, 0);
    router.plan.upstreams.push(guest(0));
    let id = router.hops.id(guest(0)).expect("room");
    assert_eq!(router.wanted(0), [kernel(id)]);
    router.kernel_says(NeighbourState::Failed, None, 3000);
    assert_eq!(router.hops.resolution(id), Resolution::Pending);
    assert_eq!(router.go_on(4000), [kernel(id)]);
    // Now a frame waits for it.
    router.hops.want(id);
    assert_eq!(router.wanted(4100), []);
    router.kernel_says(NeighbourState::Failed, None, 7000);
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
    assert_eq!(router.go_on(8000), [kernel(id)]);
    router.kernel_says(NeighbourState::Failed, None, 11_000);
    assert_eq!(router.hops.resolution(id), Resolution::Pending);
    router.kernel_says(NeighbourState::Reachable, Some(MAC), 11_500);
    assert_eq!(router.hops.resolution(id), Resolution::Reachable(MAC));
    assert_eq!(router.resolver.deadline(), None);
}

#[test]
fn a_next_hop_that_is_gone_leaves_no_question_for_the_one_that_gets_its_id() {
    let mut router = Router::new(false, 7);
    let id = router.hops.id(guest(7)).expect("room");
    router.wanted(0);
    for second in 1..4 {
        router.go_on(second * 1000);
    }
    assert_eq!(router.hops.resolution(id), Resolution::Failed);
    assert!(router.resolver.deadline().is_some(), "it rests");
    router.hops.doubt(false);
    let mut gone = router.hops.take_out(&router.hops.noted());
    router.resolver.forget_gone(&router.hops);
    assert_eq!(router.resolver.deadline(), None);
    assert_eq!(router.hops.free(&mut gone), 1);
    let other = Neighbor { address: Ipv4Addr::new(10, 1, 1, 6).into(), ..guest(7) };
    assert_eq!(router.hops.id(other), Some(id));
    let asked = Ask::Arp { id, neighbor: other, sender: GATEWAY, destination: None };
    assert_eq!(router.wanted(3100), [asked], "at once, and not after the other's rest");
}
