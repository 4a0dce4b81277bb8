//! How long a session may be idle (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2, RFC 7857 2.1).

use std::time::Duration;

use crate::flow::{Family, Protocol};
use crate::session::entry::SessionKind;
use crate::session::table::SessionView;
use crate::session::tcp;
use crate::time::Coarse;

/// Idle timeouts, from the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// TCP with both SYNs acknowledged, half-closed included.
    pub tcp_established: Duration,
    /// TCP opening, closing, closed or reset.
    pub tcp_transitory: Duration,
    /// UDP.
    pub udp: Duration,
    /// UDP to the ports of `udp_single_ports`, as long as only one packet went each way.
    pub udp_single_exchange: Duration,
    /// Ports whose exchanges are single: 53 by default.
    pub udp_single_ports: Vec<u16>,
    /// UDP by remote port, before anything else.
    pub udp_ports: Vec<(u16, Duration)>,
    /// ICMP queries.
    pub icmp: Duration,
    /// Every other protocol.
    pub other: Duration,
    /// How long the fragments of a datagram wait for each other.
    pub fragment: Duration,
    /// How long a freed port rests before another guest gets it (RFC 6888, REQ-8).
    pub port_hold: Duration,
    /// Whether inbound packets keep a UDP or ICMP mapping alive (RFC 4787, REQ-6a).
    pub refresh_inbound: bool,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            udp: Duration::from_secs(300),
            udp_single_exchange: Duration::from_secs(30),
            udp_single_ports: vec![53],
            udp_ports: Vec::new(),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(300),
            fragment: Duration::from_secs(2),
            port_hold: Duration::from_secs(120),
            refresh_inbound: false,
        }
    }
}

/// How long the session may be idle, by what it has shown.
#[must_use]
pub fn idle_limit<A: Family>(timeouts: &Timeouts, view: &SessionView<A>) -> Duration {
    match view.session.initiator.protocol {
        Protocol::TCP if tcp::is_established(view.initiator.tcp, view.responder.tcp) => {
            timeouts.tcp_established
        }
        Protocol::TCP => timeouts.tcp_transitory,
        Protocol::UDP => udp_limit(timeouts, view),
        Protocol::ICMP | Protocol::ICMPV6 => timeouts.icmp,
        _ => timeouts.other,
    }
}

/// Whether the session has been idle for longer than it may be. Never early; up to two coarse
/// units (256 ms) late.
#[must_use]
pub fn is_expired<A: Family>(timeouts: &Timeouts, view: &SessionView<A>, now: Coarse) -> bool {
    now.since(refreshed(timeouts, view)) > Coarse::units(idle_limit(timeouts, view))
}

/// When the session was last refreshed.
///
/// Through source NAT, and through its mappings from outside, only outbound packets refresh UDP, ICMP
/// and the rest, so that nobody outside keeps a guest's mapping alive (RFC 4787, REQ-6), unless
/// `refresh_inbound` says otherwise.
#[must_use]
pub fn refreshed<A: Family>(timeouts: &Timeouts, view: &SessionView<A>) -> Coarse {
    let session = &view.session;
    if session.initiator.protocol != Protocol::TCP && !timeouts.refresh_inbound {
        if session.kind == SessionKind::SourceNat {
            return view.initiator.last_seen;
        }
        if session.kind == SessionKind::Inbound && session.target_mapped {
            return view.responder.last_seen;
        }
    }
    view.initiator.last_seen.max(view.responder.last_seen)
}

/// The shortest time, in coarse units, after which any session of `protocol` may expire.
///
/// A direction seen no longer than this ago belongs to a session that need not be looked at: the
/// fast path decides so with one comparison. (A source-NAT session that only inbound packets keep
/// busy is the exception that the sweep finds.) Computed once for each set of timeouts.
#[must_use]
pub fn shortest(timeouts: &Timeouts, protocol: Protocol) -> u32 {
    let shortest = match protocol {
        Protocol::TCP => timeouts.tcp_established.min(timeouts.tcp_transitory),
        Protocol::UDP => {
            let single =
                (!timeouts.udp_single_ports.is_empty()).then_some(timeouts.udp_single_exchange);
            let by_port = timeouts.udp_ports.iter().map(|&(_, limit)| limit);
            by_port.chain(single).fold(timeouts.udp, Duration::min)
        }
        Protocol::ICMP | Protocol::ICMPV6 => timeouts.icmp,
        _ => timeouts.other,
    };
    Coarse::units(shortest)
}

fn udp_limit<A: Family>(timeouts: &Timeouts, view: &SessionView<A>) -> Duration {
    // The port that was called, as who answers there knows it.
    let port = view.session.responder.source.port;
    if let Some(&(_, limit)) = timeouts.udp_ports.iter().find(|&&(other, _)| other == port) {
        return limit;
    }
    let single = view.initiator.packets <= 1 && view.responder.packets <= 1;
    if single && timeouts.udp_single_ports.contains(&port) {
        timeouts.udp_single_exchange
    } else {
        timeouts.udp
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::entry::EntryIndex;
    use crate::session::table::DirectionView;
    use crate::session::tcp::TcpState;
    use crate::testing::sessions::session;
    use crate::time::Tick;

    const SYNCHRONISED: TcpState = TcpState {
        sequence_next: 1,
        syn: true,
        acknowledged: true,
        fin: false,
        rst: false,
        peer_window_shift: 0,
        window_shift: 0,
    };

    fn view(protocol: Protocol) -> SessionView {
        SessionView {
            index: EntryIndex(0),
            session: session(1, protocol),
            initiator: DirectionView::default(),
            responder: DirectionView::default(),
        }
    }

    fn after(duration: Duration) -> Coarse {
        Tick::ZERO.after(duration).coarse()
    }

    #[test]
    fn tcp_is_established_until_both_fins_or_an_rst() {
        let timeouts = Timeouts::default();
        let mut view = view(Protocol::TCP);
        assert_eq!(idle_limit(&timeouts, &view), timeouts.tcp_transitory);
        view.initiator.tcp = SYNCHRONISED;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.tcp_transitory);
        view.responder.tcp = SYNCHRONISED;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.tcp_established);
        view.initiator.tcp.fin = true;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.tcp_established);
        view.responder.tcp.fin = true;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.tcp_transitory);
        view.responder.tcp = TcpState { rst: true, ..SYNCHRONISED };
        view.initiator.tcp.fin = false;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.tcp_transitory);
    }

    #[test]
    fn udp_goes_by_port_then_by_exchange() {
        let mut timeouts = Timeouts::default();
        let mut view = view(Protocol::UDP);
        assert_eq!(idle_limit(&timeouts, &view), timeouts.udp);
        view.session.responder.source.port = 53;
        view.initiator.packets = 1;
        view.responder.packets = 1;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.udp_single_exchange);
        view.responder.packets = 2;
        assert_eq!(idle_limit(&timeouts, &view), timeouts.udp);
        timeouts.udp_ports.push((53, Duration::from_secs(7)));
        assert_eq!(idle_limit(&timeouts, &view), Duration::from_secs(7));
        assert_eq!(shortest(&timeouts, Protocol::UDP), Coarse::units(Duration::from_secs(7)));
    }

    #[test]
    fn inbound_packets_refresh_source_nat_for_tcp_only() {
        let mut timeouts = Timeouts::default();
        let late = after(Duration::from_secs(100));
        for (protocol, kind, refresh_inbound, expected) in [
            (Protocol::UDP, SessionKind::SourceNat, false, Coarse::default()),
            (Protocol::ICMP, SessionKind::SourceNat, false, Coarse::default()),
            (Protocol::GRE, SessionKind::SourceNat, false, Coarse::default()),
            (Protocol::UDP, SessionKind::SourceNat, true, late),
            (Protocol::TCP, SessionKind::SourceNat, false, late),
            (Protocol::UDP, SessionKind::Inbound, false, late),
            (Protocol::UDP, SessionKind::StaticNat, false, late),
        ] {
            timeouts.refresh_inbound = refresh_inbound;
            let mut view = view(protocol);
            view.session.kind = kind;
            view.responder.last_seen = late;
            assert_eq!(refreshed(&timeouts, &view), expected, "{protocol} {kind:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_expires_early_or_a_third_of_a_second_late(
            seen_ms in 0_u64..10_000_000,
            idle_ms in 0_u64..400_000,
        ) {
            let timeouts = Timeouts::default();
            let mut view = view(Protocol::UDP);
            view.initiator.last_seen = Tick::from_ms(seen_ms).coarse();
            let now = Tick::from_ms(seen_ms + idle_ms).coarse();
            if idle_ms <= 300_000 {
                prop_assert!(!is_expired(&timeouts, &view, now));
            }
            if idle_ms > 300_000 + 3 * 128 {
                prop_assert!(is_expired(&timeouts, &view, now));
            }
        }

        #[test]
        fn no_session_expires_before_the_shortest_limit_of_its_protocol(
            number in prop::sample::select(vec![1_u8, 6, 17, 47, 132]),
            packets in 0_u64..3,
            port in prop::sample::select(vec![53_u16, 80, 123]),
            synchronised: bool,
            idle in 0_u32..100_000,
        ) {
            let timeouts = Timeouts {
                udp_ports: vec![(123, Duration::from_secs(20))],
                ..Timeouts::default()
            };
            let mut view = view(Protocol(number));
            view.session.responder.source.port = port;
            view.initiator.packets = packets;
            if synchronised {
                view.initiator.tcp = SYNCHRONISED;
                view.responder.tcp = SYNCHRONISED;
            }
            if idle <= shortest(&timeouts, Protocol(number)) {
                prop_assert!(!is_expired(&timeouts, &view, Coarse::from_raw(idle)));
            }
        }
    }
}
