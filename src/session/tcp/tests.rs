//! TCP's handshakes, closes and forgeries, as natprobe's scenarios have them.

use proptest::prelude::*;

use super::*;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// A connection as the middle sees it, and the scale both sides offer.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    states: [TcpState; 2],
}

impl Connection {
    /// A connection after its handshake; the next numbers are 101 and 201.
    fn open() -> Self {
        Self::open_scaled(None)
    }

    fn open_scaled(scale: Option<u8>) -> Self {
        let mut connection = Self::default();
        connection.believes(CLIENT, Segment { window_scale: scale, ..syn(100) });
        connection.believes(SERVER, Segment { window_scale: scale, ..syn_ack(200, 101) });
        connection.believes(CLIENT, plain(101, 201, 0));
        assert!(connection.is_established());
        connection
    }

    /// The same after both FINs: the next numbers are 102 and 202.
    fn closed() -> Self {
        let mut connection = Self::open();
        connection.believes(CLIENT, fin(101, 201));
        assert!(connection.is_established(), "half-closed is established (TMO-11)");
        connection.believes(SERVER, plain(201, 102, 0));
        connection.believes(SERVER, fin(201, 102));
        connection.believes(CLIENT, plain(102, 202, 0));
        assert!(!connection.is_established());
        connection
    }

    fn judge(&self, from: usize, segment: Segment) -> Judgement {
        judge(&segment, self.states[from], || self.states[1 - from])
    }

    fn believes(&mut self, from: usize, segment: Segment) {
        match self.judge(from, segment) {
            Judgement::Believe(state) => self.states[from] = state,
            other => panic!("{other:?} of {segment:?} from {from} in {self:?}"),
        }
    }

    fn doubts(&self, from: usize, segment: Segment) {
        assert_eq!(self.judge(from, segment), Judgement::Doubt, "{segment:?} in {self:?}");
    }

    fn is_established(&self) -> bool {
        is_established(self.states[0], self.states[1])
    }

    fn is_closed(&self) -> bool {
        is_closed(self.states[0], self.states[1])
    }
}

fn segment(flags: u8, sequence: u32, acknowledgement: u32, length: u32) -> Segment {
    Segment { flags, sequence, acknowledgement, length, window: 65_535, window_scale: None }
}

fn syn(sequence: u32) -> Segment {
    segment(flags::SYN, sequence, 0, 1)
}

fn syn_ack(sequence: u32, acknowledgement: u32) -> Segment {
    segment(flags::SYN | flags::ACK, sequence, acknowledgement, 1)
}

fn plain(sequence: u32, acknowledgement: u32, length: u32) -> Segment {
    segment(flags::ACK | flags::PSH, sequence, acknowledgement, length)
}

fn fin(sequence: u32, acknowledgement: u32) -> Segment {
    segment(flags::FIN | flags::ACK, sequence, acknowledgement, 1)
}

fn rst(sequence: u32) -> Segment {
    segment(flags::RST, sequence, 0, 0)
}

fn rst_ack(sequence: u32, acknowledgement: u32) -> Segment {
    segment(flags::RST | flags::ACK, sequence, acknowledgement, 0)
}

#[test]
fn a_simultaneous_open_establishes() {
    // TCP-01.
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(100));
    connection.believes(SERVER, syn(200));
    connection.believes(CLIENT, syn_ack(100, 201));
    assert!(!connection.is_established());
    connection.believes(SERVER, syn_ack(200, 101));
    assert!(connection.is_established());
    connection.believes(CLIENT, plain(101, 201, 10));
    connection.believes(SERVER, plain(201, 111, 10));
}

#[test]
fn a_handshake_is_established_by_its_third_segment_only() {
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(100));
    connection.believes(SERVER, syn_ack(200, 101));
    assert!(!connection.is_established());
    // An ACK of somebody who did not see the SYN-ACK passes, but establishes nothing.
    connection.believes(CLIENT, plain(101, 777, 0));
    assert!(!connection.is_established());
    connection.believes(CLIENT, plain(101, 201, 0));
    assert!(connection.is_established());
}

#[test]
fn retransmissions_of_the_handshake_leave_an_established_connection() {
    // TCP-11.
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(100));
    connection.believes(CLIENT, syn(100));
    connection.believes(SERVER, syn_ack(200, 101));
    connection.believes(SERVER, syn_ack(200, 101));
    connection.believes(CLIENT, plain(101, 201, 0));
    connection.believes(CLIENT, plain(101, 201, 5));
    connection.believes(SERVER, syn_ack(200, 101));
    connection.believes(CLIENT, plain(106, 201, 0));
    connection.believes(CLIENT, plain(101, 201, 5));
    connection.believes(SERVER, plain(201, 106, 0));
    assert!(connection.is_established());
    assert_eq!(connection.states[CLIENT].sequence_next, 106);
}

#[test]
fn large_scaled_windows_gaps_and_reordering_are_followed() {
    // TCP-09.
    let mut connection = Connection::open_scaled(Some(8));
    for offset in [0, 1460, 200_000, 400_000, 146_000, 2920, 700_000] {
        connection.believes(SERVER, plain(201 + offset, 101, 1460));
    }
    assert_eq!(connection.states[SERVER].sequence_next, 201 + 701_460);
    for offset in [300_000, 0, 600_000, 1460] {
        connection.believes(CLIENT, plain(101 + offset, 201, 1460));
    }
    assert_eq!(connection.states[CLIENT].sequence_next, 101 + 601_460);
    connection.believes(SERVER, rst(201 + 701_460));
}

#[test]
fn the_scale_that_counts_is_the_receivers() {
    let mut connection = Connection::default();
    connection.believes(CLIENT, Segment { window_scale: Some(2), ..syn(100) });
    connection.believes(SERVER, Segment { window_scale: Some(7), ..syn_ack(200, 101) });
    connection.believes(CLIENT, plain(101, 201, 0));
    assert_eq!(connection.states[CLIENT].peer_window_shift, 7);
    assert_eq!(connection.states[SERVER].peer_window_shift, 2);
}

#[test]
fn data_far_ahead_passes_and_moves_nothing() {
    let mut connection = Connection::open();
    connection.believes(SERVER, plain(201 + 70_000, 101, 10));
    assert_eq!(connection.states[SERVER].sequence_next, 201);
}

#[test]
fn sequence_numbers_wrap() {
    // TCP-12.
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(u32::MAX - 10));
    connection.believes(SERVER, syn_ack(u32::MAX, u32::MAX - 9));
    connection.believes(CLIENT, plain(u32::MAX - 9, 0, 0));
    assert!(connection.is_established());
    connection.believes(CLIENT, plain(u32::MAX - 9, 0, 100));
    assert_eq!(connection.states[CLIENT].sequence_next, 90);
    connection.believes(SERVER, plain(0, 90, 1000));
    connection.believes(CLIENT, fin(90, 1000));
    connection.believes(SERVER, fin(1000, 91));
    assert!(connection.is_closed());
}

#[test]
fn keep_alives_and_zero_window_probes_pass() {
    // TCP-16.
    let mut connection = Connection::open();
    connection.believes(CLIENT, plain(101, 201, 1000));
    connection.believes(CLIENT, plain(1100, 201, 0));
    connection.believes(CLIENT, plain(1100, 201, 1));
    connection.believes(SERVER, Segment { window: 0, ..plain(201, 1101, 0) });
    connection.believes(CLIENT, plain(1101, 201, 1));
    assert!(connection.is_established());
}

#[test]
fn data_with_the_syn_is_followed() {
    // TCP-13, with a server that takes the data and one that does not.
    for acknowledgement in [111, 101] {
        let mut connection = Connection::default();
        connection.believes(CLIENT, segment(flags::SYN, 100, 0, 11));
        connection.believes(SERVER, syn_ack(200, acknowledgement));
        connection.believes(CLIENT, plain(acknowledgement, 201, 20));
        assert!(connection.is_established());
    }
}

#[test]
fn an_exact_reset_ends_and_any_other_changes_nothing() {
    // ATK-04, ATK-05, ATK-18, TCP-06.
    let mut connection = Connection::open();
    for offset in [1, 100, 5000, 30_000, 0x2000_0000, 0xe000_0000, u32::MAX] {
        connection.doubts(SERVER, rst(201_u32.wrapping_add(offset)));
        connection.doubts(SERVER, rst_ack(201_u32.wrapping_add(offset), 101));
    }
    connection.believes(SERVER, rst_ack(201, 101));
    assert!(connection.is_closed());
    // TMO-08: a client that ignored it goes on, but nobody prolongs by repeating it.
    connection.believes(CLIENT, plain(101, 201, 5));
    connection.doubts(SERVER, rst_ack(201, 101));
    assert!(connection.is_closed() && !connection.is_established());
}

#[test]
fn a_refused_connection_can_be_tried_again() {
    // TCP-07.
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(100));
    connection.doubts(SERVER, rst_ack(0, 0));
    connection.doubts(SERVER, rst(0));
    connection.believes(SERVER, rst_ack(0, 101));
    assert_eq!(connection.judge(CLIENT, syn(100)), Judgement::Reopen);
    assert_eq!(connection.judge(CLIENT, syn(9999)), Judgement::Reopen);
}

#[test]
fn forged_syns_and_fins_end_nothing() {
    // ATK-07.
    let connection = Connection::open();
    for offset in [0x2000_0000_u32, 0xe000_0000] {
        for (from, next) in [(SERVER, 201), (CLIENT, 101)] {
            let sequence = offset.wrapping_add(next);
            connection.doubts(from, syn(sequence));
            connection.doubts(from, syn_ack(sequence, 7));
            connection.doubts(from, fin(sequence, offset));
            connection.doubts(from, fin(next, offset));
            connection.doubts(from, segment(flags::FIN, next, 0, 1));
        }
    }
}

#[test]
fn a_forged_syn_during_the_handshake_does_not_keep_it_from_being_established() {
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(100));
    connection.believes(SERVER, syn(0x7000_0000));
    connection.believes(SERVER, syn_ack(200, 101));
    connection.doubts(SERVER, syn(0x7000_0000));
    connection.believes(CLIENT, syn(0x6000_0000));
    connection.believes(CLIENT, plain(101, 201, 10));
    assert!(connection.is_established());
    connection.believes(CLIENT, rst(111));
}

#[test]
fn a_challenge_ack_and_its_reset_pass_and_the_connection_opens() {
    // TCP-15.
    let mut connection = Connection::default();
    connection.believes(CLIENT, syn(100));
    connection.doubts(SERVER, plain(145_824_453, 643_160_523, 0));
    connection.doubts(CLIENT, rst(643_160_523));
    connection.believes(CLIENT, syn(100));
    connection.believes(SERVER, syn_ack(200, 101));
    connection.believes(CLIENT, plain(101, 201, 0));
    assert!(connection.is_established());
}

#[test]
fn a_client_that_lost_its_state_gets_a_new_connection() {
    let mut connection = Connection::open();
    connection.believes(CLIENT, plain(101, 201, 50));
    connection.believes(SERVER, plain(201, 151, 50));
    // It starts anew; the server challenges; the reset it provokes is exact.
    connection.doubts(CLIENT, syn(0x5000_0000));
    connection.believes(SERVER, plain(251, 151, 0));
    connection.believes(CLIENT, rst(151));
    assert_eq!(connection.judge(CLIENT, syn(0x5000_0000)), Judgement::Reopen);
}

#[test]
fn a_closed_connection_serves_retransmissions_and_reopens_by_syn_only() {
    // TMO-09, TMO-10, TCP-17, TCP-18.
    let mut connection = Connection::closed();
    connection.believes(SERVER, fin(201, 102));
    connection.believes(CLIENT, plain(102, 202, 0));
    connection.doubts(SERVER, syn_ack(70_000, 1));
    assert!(connection.is_closed());
    for from in [CLIENT, SERVER] {
        assert_eq!(connection.judge(from, syn(200_000)), Judgement::Reopen);
    }
}

#[test]
fn a_fin_may_come_before_lost_data() {
    let mut connection = Connection::open();
    connection.believes(CLIENT, fin(101 + 1460, 201));
    connection.believes(CLIENT, plain(101, 201, 1460));
    connection.believes(SERVER, fin(201, 101 + 1461));
    assert!(connection.is_closed());
}

#[test]
fn contradicting_flags_change_nothing() {
    let connection = Connection::open();
    for flags in [0x03, 0x06, 0x05, 0x07, 0x3f, 0xff] {
        connection.doubts(CLIENT, segment(flags, 101, 201, 1));
    }
}

#[test]
fn a_session_begins_with_a_syn() {
    let fresh = Connection::default();
    fresh.doubts(CLIENT, plain(1, 2, 3));
    fresh.doubts(CLIENT, syn_ack(1, 2));
    fresh.doubts(CLIENT, fin(1, 2));
    fresh.doubts(CLIENT, rst(1));
    fresh.doubts(CLIENT, rst(0));
    fresh.doubts(CLIENT, rst_ack(0, 0));
    fresh.doubts(CLIENT, segment(0, 0, 0, 0));
}

#[test]
fn a_quote_is_plausible_where_the_direction_was() {
    // ATK-08.
    let mut connection = Connection::open();
    connection.believes(CLIENT, plain(101, 201, 1000));
    let own = connection.states[CLIENT];
    assert!(plausible_quote(1101, own) && plausible_quote(101, own));
    assert!(!plausible_quote(1102, own));
    assert!(!plausible_quote(1101_u32.wrapping_sub(70_000), own));
    assert!(!plausible_quote(0, TcpState::default()));
}

proptest! {
    /// Whatever a blind sender throws in, with numbers that are off by more than a window,
    /// changes neither side's state.
    #[test]
    fn a_blind_sender_changes_nothing(
        flags in 0_u8..64,
        sequence: u32,
        acknowledgement: u32,
        from in 0_usize..2,
    ) {
        let connection = Connection::open();
        let next = if from == CLIENT { 101_u32 } else { 201 };
        prop_assume!(sequence.wrapping_sub(next.wrapping_sub(70_000)) > 140_000);
        let segment = segment(flags, sequence, acknowledgement, 1);
        if let Judgement::Believe(state) = connection.judge(from, segment) {
            prop_assert_eq!(state, connection.states[from]);
        }
    }

    /// Two honest ends whose segments are lost, repeated and reordered before us: what they
    /// sent is believed, and in the end both FINs are.
    #[test]
    fn honest_segments_are_believed(
        first: u32,
        second: u32,
        lengths in prop::collection::vec((0_u32..3000, any::<bool>(), any::<bool>()), 0..50),
    ) {
        let mut connection = Connection::default();
        let mut next = [first, second];
        connection.believes(CLIENT, syn(next[0]));
        next[0] = next[0].wrapping_add(1);
        connection.believes(SERVER, syn_ack(next[1], next[0]));
        next[1] = next[1].wrapping_add(1);
        connection.believes(CLIENT, plain(next[0], next[1], 0));
        for (length, from_client, again) in lengths {
            let (from, to) = if from_client { (0, 1) } else { (1, 0) };
            let data = plain(next[from], next[to], length);
            next[from] = next[from].wrapping_add(length);
            connection.believes(from, data);
            if again {
                connection.believes(from, plain(data.sequence, next[to], length / 2));
            }
            prop_assert_eq!(connection.states[from].sequence_next, next[from]);
            prop_assert!(plausible_quote(data.sequence, connection.states[from]));
        }
        connection.believes(CLIENT, fin(next[0], next[1]));
        prop_assert!(connection.is_established());
        connection.believes(SERVER, fin(next[1], next[0].wrapping_add(1)));
        prop_assert!(connection.is_closed());
    }
}
