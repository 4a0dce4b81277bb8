//! How long a session may be idle (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2, RFC 7857 2.1).

use std::time::Duration;

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
