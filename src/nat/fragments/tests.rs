//! What the fragments' tracker promises, and a slow model that it must agree with.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);

type Tracker = Fragments<char, u32>;

fn tracker(datagrams_max: usize, frames_max: usize) -> Tracker {
    Fragments::new(datagrams_max, frames_max, TIMEOUT, [1, 2, 3, 4])
}

fn key(source: u8, identification: u32) -> DatagramKey {
    DatagramKey {
        realm: Realm::from_raw(1),
        source: Ipv4Addr::new(10, 1, 1, source),
        destination: Ipv4Addr::new(198, 51, 100, 9),
        protocol: Protocol::UDP,
        identification,
    }
}

/// The fragment of `count` equal ones at `index`.
fn nth(index: u16, count: u16) -> Span {
    let (start, more) = (index * 1480, index + 1 < count);
    Span { start, end: u32::from(start) + if more { 1480 } else { 100 }, more }
}

fn at(ms: u64) -> Tick {
    Tick::from_ms(ms)
}

/// What became of a fragment in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Dropped(DropReason),
    Forwarded,
    Kept,
}

/// Plays one fragment, whose frame is `frame`, as a worker would; frames that left are appended.
fn play(
    tracker: &mut Tracker,
    key: &DatagramKey,
    span: Span,
    now: Tick,
    frame: u32,
    left: &mut Vec<u32>,
) -> Fate {
    match tracker.step(key, span, now) {
        Step::Drop(reason) => Fate::Dropped(reason),
        Step::Follow(plan) => {
            assert_eq!(plan, 'p');
            left.push(frame);
            Fate::Forwarded
        }
        Step::Judge => {
            left.push(frame);
            tracker.judged(key, Ok('p'), now, |frame| left.push(frame));
            Fate::Forwarded
        }
        Step::Wait => match tracker.keep(key, frame) {
            Ok(()) => Fate::Kept,
            Err((given_back, reason)) => {
                assert_eq!(given_back, frame);
                Fate::Dropped(reason)
            }
        },
    }
}

fn expired(tracker: &mut Tracker, now: Tick) -> Vec<u32> {
    let mut frames = Vec::new();
    tracker.expire(now, |frame| frames.push(frame));
    frames
}

#[test]
fn a_datagram_passes_in_any_order() {
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1], [1, 0, 2], [0, 2, 1]];
    let mut tracker = tracker(16, 16);
    for (identification, order) in (0..).zip(orders) {
        let mut left = Vec::new();
        for index in order {
            let key = key(10, identification);
            play(&mut tracker, &key, nth(index, 3), at(0), index.into(), &mut left);
        }
        // Those that came before the first follow it in their order.
        let first = order.iter().position(|index| *index == 0).expect("a first fragment");
        let mut expected = vec![0];
        expected.extend(order[..first].iter().chain(&order[first + 1..]).map(|i| u32::from(*i)));
        assert_eq!(left, expected, "{order:?}");
    }
}

#[test]
fn later_fragments_share_the_verdict_of_the_first() {
    let (mut tracker, key) = (tracker(16, 16), key(10, 1));
    assert!(matches!(tracker.step(&key, nth(1, 3), at(0)), Step::Wait));
    assert_eq!(tracker.keep(&key, 7), Ok(()));
    assert!(matches!(tracker.step(&key, nth(0, 3), at(0)), Step::Judge));
    let mut frames = Vec::new();
    tracker.judged(&key, Err(DropReason::EgressDenied), at(0), |frame| frames.push(frame));
    assert_eq!(frames, [7]);
    assert!(matches!(tracker.step(&key, nth(2, 3), at(1)), Step::Drop(DropReason::EgressDenied)));
}

#[test]
fn duplicates_do_no_harm_also_after_the_whole() {
    let (mut tracker, key, mut left) = (tracker(16, 16), key(10, 1), Vec::new());
    let duplicate = Fate::Dropped(DropReason::FragmentOverlap);
    for index in [0, 1, 2] {
        let mut play = |frame| play(&mut tracker, &key, nth(index, 3), at(0), frame, &mut left);
        assert_eq!(play(u32::from(index)), Fate::Forwarded);
        if index < 2 {
            assert_eq!(play(99), duplicate);
        }
    }
    assert_eq!(play(&mut tracker, &key, nth(1, 3), at(9), 99, &mut left), duplicate);
    assert_eq!(left, [0, 1, 2]);
    // The sender's next datagram of that identification.
    for index in [0, 1, 2] {
        let fate = play(&mut tracker, &key, nth(index, 3), at(10), index.into(), &mut left);
        assert_eq!(fate, Fate::Forwarded);
    }
}

#[test]
fn an_overlap_ends_the_datagram() {
    for (start, length) in [(1472, 1480), (8, 1480), (1488, 8), (0, 8)] {
        let (mut tracker, key, mut left) = (tracker(16, 16), key(10, 1), Vec::new());
        let mut play = |span| play(&mut tracker, &key, span, at(0), 0, &mut left);
        assert_eq!(play(nth(0, 4)), Fate::Forwarded);
        assert_eq!(play(nth(1, 4)), Fate::Forwarded);
        let overlap = Span { start, end: u32::from(start) + length, more: true };
        assert_eq!(play(overlap), Fate::Dropped(DropReason::FragmentOverlap));
        assert_eq!(play(nth(2, 4)), Fate::Dropped(DropReason::FragmentOverlap));
        assert_eq!(play(nth(3, 4)), Fate::Dropped(DropReason::FragmentOverlap));
    }
}

#[test]
fn an_impossible_fragment_ends_the_datagram_and_frees_what_waits() {
    let (mut tracker, key, mut left) = (tracker(16, 16), key(10, 1), Vec::new());
    assert_eq!(play(&mut tracker, &key, nth(1, 3), at(0), 7, &mut left), Fate::Kept);
    let bad = Span { start: 65528, end: 65928, more: false };
    let fate = Fate::Dropped(DropReason::FragmentBad);
    assert_eq!(play(&mut tracker, &key, bad, at(0), 0, &mut left), fate);
    assert_eq!(expired(&mut tracker, at(0)), [7]);
    assert_eq!(play(&mut tracker, &key, nth(0, 3), at(0), 0, &mut left), fate);
    assert!(left.is_empty());
}

#[test]
fn a_hundred_small_fragments_pass_in_reverse() {
    let (mut tracker, key, mut left) = (tracker(16, 128), key(10, 1), Vec::new());
    for index in (0..100_u16).rev() {
        let span = Span { start: index * 40, end: u32::from(index) * 40 + 40, more: index < 99 };
        play(&mut tracker, &key, span, at(0), index.into(), &mut left);
    }
    assert_eq!(left, (0..1).chain((1..100).rev()).collect::<Vec<_>>());
}

#[test]
fn without_a_first_fragment_nothing_leaves_and_the_frames_come_back() {
    let (mut tracker, mut left) = (tracker(16, 16), Vec::new());
    play(&mut tracker, &key(10, 1), nth(1, 3), at(0), 1, &mut left);
    play(&mut tracker, &key(10, 1), nth(2, 3), at(500), 2, &mut left);
    play(&mut tracker, &key(10, 2), nth(1, 3), at(1000), 3, &mut left);
    assert!(expired(&mut tracker, at(2000)).is_empty());
    assert_eq!(expired(&mut tracker, at(2001)), [1, 2]);
    assert_eq!(play(&mut tracker, &key(10, 1), nth(1, 3), at(2500), 4, &mut left), Fate::Kept);
    assert_eq!(expired(&mut tracker, at(3001)), [3]);
    assert!(left.is_empty());
}

#[test]
fn a_flood_hurts_nobody_but_its_sender() {
    let (mut tracker, mut left) = (tracker(64, 64), Vec::new());
    let victim = |identification| key(99, identification);
    for identification in 0..4 {
        let fate = play(&mut tracker, &victim(identification), nth(1, 3), at(0), 5, &mut left);
        assert_eq!(fate, Fate::Kept);
    }
    for identification in 0..12_000 {
        play(&mut tracker, &key(10, identification), nth(1, 3), at(1), 9, &mut left);
        // A worker calls this once a batch; the room twice as large bears it.
        if identification % 64 == 63 {
            assert!(expired(&mut tracker, at(1)).iter().all(|frame| *frame == 9));
        }
    }
    for identification in 0..4 {
        left.clear();
        for index in [0, 2] {
            play(&mut tracker, &victim(identification), nth(index, 3), at(2), 5, &mut left);
        }
        assert_eq!(left, [5, 5, 5], "all three left");
    }
    // A newcomer finds room at the flood's expense.
    left.clear();
    for index in [2, 1, 0] {
        play(&mut tracker, &key(50, 1), nth(index, 3), at(3), index.into(), &mut left);
    }
    assert_eq!(left, [0, 2, 1]);
    expired(&mut tracker, at(5000));
    assert_eq!((tracker.places.len(), tracker.sources.len(), tracker.waiting_count), (0, 0, 0));
}

#[test]
fn a_tracker_without_room_refuses() {
    let (mut none, mut left) = (tracker(0, 0), Vec::new());
    let full = Fate::Dropped(DropReason::FragmentTableFull);
    assert_eq!(play(&mut none, &key(10, 1), nth(0, 3), at(0), 0, &mut left), full);
    let mut no_frames = tracker(4, 0);
    assert_eq!(play(&mut no_frames, &key(10, 1), nth(1, 3), at(0), 0, &mut left), full);
    assert_eq!(play(&mut no_frames, &key(10, 1), nth(0, 3), at(0), 0, &mut left), Fate::Forwarded);
}

#[derive(Clone, Debug)]
enum Action {
    Fragment { source: u8, identification: u16, start: u16, length: u16, more: bool },
    Wait { ms: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => (0u8..3, 0u16..3, 0u16..8, 1u16..4, prop::bool::weighted(0.8)).prop_map(
            |(source, identification, start, length, more)| {
                Action::Fragment { source, identification, start, length, more }
            }
        ),
        1 => (0u64..3000).prop_map(|ms| Action::Wait { ms }),
    ]
}

proptest! {
    /// Whatever comes: no byte of a datagram leaves twice between two of its first fragments, no
    /// fragment leaves before the first one was judged, and every frame is accounted for once.
    #[test]
    fn no_byte_leaves_twice_and_no_frame_is_lost(
        actions in proptest::collection::vec(action(), 1..200),
        datagrams_max in 1usize..10,
        frames_max in 0usize..10,
    ) {
        let mut tracker = tracker(datagrams_max, frames_max);
        let mut now = at(0);
        let mut spans = Vec::new();
        let mut done = HashMap::<u32, u32>::new();
        let mut forwarded = HashMap::<DatagramKey, Vec<Span>>::new();
        for action in actions {
            match action {
                Action::Wait { ms } => now = now.after(Duration::from_millis(ms)),
                Action::Fragment { source, identification, start, length, more } => {
                    let key = key(source, identification.into());
                    let end = u32::from(start + length) * 8;
                    let span = Span { start: start * 8, end, more };
                    let frame = spans.len() as u32;
                    spans.push(span);
                    let mut left = Vec::new();
                    let fate = play(&mut tracker, &key, span, now, frame, &mut left);
                    if matches!(fate, Fate::Dropped(_)) {
                        *done.entry(frame).or_default() += 1;
                    }
                    let seen = forwarded.entry(key).or_default();
                    for frame in left {
                        *done.entry(frame).or_default() += 1;
                        let span = spans[frame as usize];
                        if span.start == 0 {
                            seen.clear();
                        } else {
                            prop_assert!(!seen.is_empty(), "it left before the first one");
                        }
                        let overlaps = seen.iter().any(|other| {
                            u32::from(other.start) < span.end && u32::from(span.start) < other.end
                        });
                        prop_assert!(!overlaps, "{:?} over {:?}", span, seen);
                        seen.push(span);
                    }
                }
            }
            for frame in expired(&mut tracker, now) {
                *done.entry(frame).or_default() += 1;
            }
        }
        prop_assert!(tracker.waiting_count as usize <= frames_max);
        prop_assert!(tracker.places.len() <= datagrams_max);
        for frame in expired(&mut tracker, now.after(TIMEOUT * 2)) {
            *done.entry(frame).or_default() += 1;
        }
        prop_assert!((0..spans.len() as u32).all(|frame| done.get(&frame) == Some(&1)));
        prop_assert_eq!((tracker.places.len(), tracker.sources.len()), (0, 0));
        let free = tracker.age_links.iter(tracker.free).count();
        prop_assert_eq!((free, tracker.waiting_count), (datagrams_max, 0));
    }
}
