//! What becomes of a frame: exactly one [`Verdict`] each.
//!
//! Every reason is a counter with a stable name and a sentence for people; the same name stands in
//! `natwerk show drops`, Prometheus, traces and captures.

use crate::flow::PortId;

/// Everything that can become of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Not forwarded, and why.
    Drop(DropReason),
    /// Transmitted on this interface.
    Forward(PortId),
    /// Kept until its neighbour is resolved or its first fragment came; it gets its verdict then.
    Hold,
    /// Handed to the router's own kernel, and why.
    Host(HostReason),
}

/// Why a frame was not forwarded.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum DropReason {
    /// A network ACL entry, or the deny behind the last one, refused the session.
    AclDenied,
    /// The packet came from the public side for an address that natwerk does not serve.
    AddressNotOurs,
    /// The public address, or its port, used up its bandwidth.
    AddressRateExceeded,
    /// The IPv4 header checksum, or the ICMP checksum of an error, is wrong (RFC 1812, section 5.2.2; RFC 5508, REQ-3).
    BadChecksum,
    /// A header is impossible: version, header length, total length or transport offset contradict each other.
    BadHeader,
    /// The packet quoted in an ICMP error is malformed or its header checksum is wrong (RFC 5508, REQ-3).
    BadIcmpQuote,
    /// The IP options are malformed, or ask for source routing, which is refused (RFC 7126, section 4.3; RFC 5095 for IPv6).
    BadOptions,
    /// The TCP flags contradict each other, such as SYN with FIN.
    BadTcpFlags,
    /// An egress rule, or the network's egress default, refused the session.
    EgressDenied,
    /// Another session has the same two endpoints behind the translation.
    EndpointsTaken,
    /// A guest sent to a public endpoint that no rule and no mapping serves.
    ExternalHairpinLoop,
    /// The public address, or the guest of an IPv6 network, is closed for this packet: no firewall rule opens it.
    FirewallDenied,
    /// The rule that serves this public port has no guest at the moment.
    ForwardDetached,
    /// A fragment is impossible: empty, odd in length with more to come, past 65,535 octets, or too small to hold its transport header.
    FragmentBad,
    /// A fragment overlaps one seen before (RFC 1858, RFC 5722).
    FragmentOverlap,
    /// Too many datagrams are in fragments at the moment.
    FragmentTableFull,
    /// The first fragment of the datagram did not come in time.
    FragmentTimeout,
    /// The frame does not fit into a chunk of frame memory.
    FrameTooLong,
    /// The guest used up its bandwidth or packet rate.
    GuestRateExceeded,
    /// The queue to the router's own kernel is full.
    HostPathFull,
    /// The packet is for the router's own kernel, which has no interface in a network under two tags or inside VXLAN.
    HostPathMissing,
    /// An ICMP error quotes a packet of no session (RFC 5508, REQ-4).
    IcmpErrorUnmatched,
    /// An ICMP message of a type that is not forwarded (RFC 5508, REQ-10).
    IcmpRefused,
    /// An ICMP error quotes a TCP sequence number that the session never sent (RFC 5927, section 4.1).
    IcmpSequenceRefused,
    /// The frame is addressed to another station, or a unicast packet came in a broadcast frame (RFC 1812, section 5.3.4).
    MacNotOurs,
    /// The source or destination can never be forwarded: loopback, multicast, broadcast, class E, or both the same (RFC 1812, section 5.3.7).
    MartianAddress,
    /// The packet is larger than the next link and must not be fragmented; the sender was told (RFC 1191, RFC 8201).
    MtuExceeded,
    /// Too many frames wait for the link address of a neighbour, or there is no room for one more.
    NeighborQueueFull,
    /// The next hop does not answer ARP, or neighbour discovery.
    NeighborUnreachable,
    /// The network used up its bandwidth or packet rate.
    NetworkRateExceeded,
    /// No external port is free on any address of the pool.
    NoPort,
    /// No network of the realm and no route leads to the destination.
    NoRoute,
    /// The network has no source-NAT address and the destination is outside its domain.
    NoSourceNat,
    /// A frame that natwerk has no use for: neither IP nor ARP that it answers.
    NotForwardable,
    /// No free frame was left to build the packet in.
    OutOfFrames,
    /// The guest has as many external ports, or mappings, as it may have (RFC 6888, REQ-4).
    PortLimit,
    /// The protocol cannot be translated by address alone here (no static NAT, or another guest uses it with this peer).
    ProtocolUnsupported,
    /// The guest opens sessions faster than it may.
    RateLimited,
    /// The guest has as many sessions as it may have (RFC 6888, REQ-4).
    SessionLimit,
    /// The session table is full.
    SessionTableFull,
    /// The source address does not belong where the packet came from (BCP 38).
    SourceSpoofed,
    /// A TCP segment that is not a SYN belongs to no session.
    TcpNoSession,
    /// The frame ends before the headers it announces.
    Truncated,
    /// The time to live ran out; the sender was told (RFC 1812, section 5.3.1).
    TtlExpired,
    /// The transmit ring of the outgoing interface is full.
    TxRingFull,
    /// The next hop is on an interface that is down or gone.
    UnknownNeighborPort,
    /// The frame's VLAN tag belongs to no network of this interface.
    UnknownVlan,
    /// A VXLAN packet without a whole, untagged Ethernet frame inside, in fragments, or with flags or reserved bits set that mean something else (RFC 7348).
    VxlanMalformed,
    /// A VXLAN packet came from a VTEP that is not listed in a network that does not learn others.
    VxlanUnknownRemote,
    /// A VXLAN packet for a network identifier that no network has.
    VxlanUnknownVni,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 50] = [
        Self::AclDenied,
        Self::AddressNotOurs,
        Self::AddressRateExceeded,
        Self::BadChecksum,
        Self::BadHeader,
        Self::BadIcmpQuote,
        Self::BadOptions,
        Self::BadTcpFlags,
        Self::EgressDenied,
        Self::EndpointsTaken,
        Self::ExternalHairpinLoop,
        Self::FirewallDenied,
        Self::ForwardDetached,
        Self::FragmentBad,
        Self::FragmentOverlap,
        Self::FragmentTableFull,
        Self::FragmentTimeout,
        Self::FrameTooLong,
        Self::GuestRateExceeded,
        Self::HostPathFull,
        Self::HostPathMissing,
        Self::IcmpErrorUnmatched,
        Self::IcmpRefused,
        Self::IcmpSequenceRefused,
        Self::MacNotOurs,
        Self::MartianAddress,
        Self::MtuExceeded,
        Self::NeighborQueueFull,
        Self::NeighborUnreachable,
        Self::NetworkRateExceeded,
        Self::NoPort,
        Self::NoRoute,
        Self::NoSourceNat,
        Self::NotForwardable,
        Self::OutOfFrames,
        Self::PortLimit,
        Self::ProtocolUnsupported,
        Self::RateLimited,
        Self::SessionLimit,
        Self::SessionTableFull,
        Self::SourceSpoofed,
        Self::TcpNoSession,
        Self::Truncated,
        Self::TtlExpired,
        Self::TxRingFull,
        Self::UnknownNeighborPort,
        Self::UnknownVlan,
        Self::VxlanMalformed,
        Self::VxlanUnknownRemote,
        Self::VxlanUnknownVni,
    ];

    /// The place in per-reason tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The stable name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AclDenied => "acl_denied",
            Self::AddressNotOurs => "address_not_ours",
            Self::AddressRateExceeded => "address_rate_exceeded",
            Self::BadChecksum => "bad_checksum",
            Self::BadHeader => "bad_header",
            Self::BadIcmpQuote => "bad_icmp_quote",
            Self::BadOptions => "bad_options",
            Self::BadTcpFlags => "bad_tcp_flags",
            Self::EgressDenied => "egress_denied",
            Self::EndpointsTaken => "endpoints_taken",
            Self::ExternalHairpinLoop => "external_hairpin_loop",
            Self::FirewallDenied => "firewall_denied",
            Self::ForwardDetached => "forward_detached",
            Self::FragmentBad => "fragment_bad",
            Self::FragmentOverlap => "fragment_overlap",
            Self::FragmentTableFull => "fragment_table_full",
            Self::FragmentTimeout => "fragment_timeout",
            Self::FrameTooLong => "frame_too_long",
            Self::GuestRateExceeded => "guest_rate_exceeded",
            Self::HostPathFull => "host_path_full",
            Self::HostPathMissing => "host_path_missing",
            Self::IcmpErrorUnmatched => "icmp_error_unmatched",
            Self::IcmpRefused => "icmp_refused",
            Self::IcmpSequenceRefused => "icmp_sequence_refused",
            Self::MacNotOurs => "mac_not_ours",
            Self::MartianAddress => "martian_address",
            Self::MtuExceeded => "mtu_exceeded",
            Self::NeighborQueueFull => "neighbor_queue_full",
            Self::NeighborUnreachable => "neighbor_unreachable",
            Self::NetworkRateExceeded => "network_rate_exceeded",
            Self::NoPort => "no_port",
            Self::NoRoute => "no_route",
            Self::NoSourceNat => "no_source_nat",
            Self::NotForwardable => "not_forwardable",
            Self::OutOfFrames => "out_of_frames",
            Self::PortLimit => "port_limit",
            Self::ProtocolUnsupported => "protocol_unsupported",
            Self::RateLimited => "rate_limited",
            Self::SessionLimit => "session_limit",
            Self::SessionTableFull => "session_table_full",
            Self::SourceSpoofed => "source_spoofed",
            Self::TcpNoSession => "tcp_no_session",
            Self::Truncated => "truncated",
            Self::TtlExpired => "ttl_expired",
            Self::TxRingFull => "tx_ring_full",
            Self::UnknownNeighborPort => "unknown_neighbor_port",
            Self::UnknownVlan => "unknown_vlan",
            Self::VxlanMalformed => "vxlan_malformed",
            Self::VxlanUnknownRemote => "vxlan_unknown_remote",
            Self::VxlanUnknownVni => "vxlan_unknown_vni",
        }
    }

    /// What an operator should know of it.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::AclDenied => {
                "A network ACL entry, or the deny behind the last one, refused the session."
            }
            Self::AddressNotOurs => {
                "The packet came from the public side for an address that natwerk does not serve."
            }
            Self::AddressRateExceeded => "The public address, or its port, used up its bandwidth.",
            Self::BadChecksum => {
                "The IPv4 header checksum, or the ICMP checksum of an error, is wrong (RFC 1812, section 5.2.2; RFC 5508, REQ-3)."
            }
            Self::BadHeader => {
                "A header is impossible: version, header length, total length or transport offset contradict each other."
            }
            Self::BadIcmpQuote => {
                "The packet quoted in an ICMP error is malformed or its header checksum is wrong (RFC 5508, REQ-3)."
            }
            Self::BadOptions => {
                "The IP options are malformed, or ask for source routing, which is refused (RFC 7126, section 4.3; RFC 5095 for IPv6)."
            }
            Self::BadTcpFlags => "The TCP flags contradict each other, such as SYN with FIN.",
            Self::EgressDenied => {
                "An egress rule, or the network's egress default, refused the session."
            }
            Self::EndpointsTaken => {
                "Another session has the same two endpoints behind the translation."
            }
            Self::ExternalHairpinLoop => {
                "A guest sent to a public endpoint that no rule and no mapping serves."
            }
            Self::FirewallDenied => {
                "The public address, or the guest of an IPv6 network, is closed for this packet: no firewall rule opens it, or nothing serves it."
            }
            Self::ForwardDetached => {
                "The rule that serves this public port has no guest at the moment."
            }
            Self::FragmentBad => {
                "A fragment is impossible: empty, odd in length with more to come, past 65,535 octets, or too small to hold its transport header."
            }
            Self::FragmentOverlap => "A fragment overlaps one seen before (RFC 1858, RFC 5722).",
            Self::FragmentTableFull => "Too many datagrams are in fragments at the moment.",
            Self::FragmentTimeout => "The first fragment of the datagram did not come in time.",
            Self::FrameTooLong => "The frame does not fit into a chunk of frame memory.",
            Self::GuestRateExceeded => "The guest used up its bandwidth or packet rate.",
            Self::HostPathFull => "The queue to the router's own kernel is full.",
            Self::HostPathMissing => {
                "The packet is for the router's own kernel, which has no interface in a network under two tags or inside VXLAN."
            }
            Self::IcmpErrorUnmatched => {
                "An ICMP error quotes a packet of no session (RFC 5508, REQ-4)."
            }
            Self::IcmpRefused => {
                "An ICMP message of a type that is not forwarded (RFC 5508, REQ-10)."
            }
            Self::IcmpSequenceRefused => {
                "An ICMP error quotes a TCP sequence number that the session never sent (RFC 5927, section 4.1)."
            }
            Self::MacNotOurs => {
                "The frame is addressed to another station, or a unicast packet came in a broadcast frame (RFC 1812, section 5.3.4)."
            }
            Self::MartianAddress => {
                "The source or destination can never be forwarded: loopback, multicast, broadcast, class E, or both the same (RFC 1812, section 5.3.7)."
            }
            Self::MtuExceeded => {
                "The packet is larger than the next link and must not be fragmented; the sender was told (RFC 1191, RFC 8201)."
            }
            Self::NeighborQueueFull => {
                "Too many frames wait for a neighbour's link address, or there is no room for another one."
            }
            Self::NeighborUnreachable => {
                "The next hop does not answer ARP, or neighbour discovery."
            }
            Self::NetworkRateExceeded => "The network used up its bandwidth or packet rate.",
            Self::NoPort => "No external port is free on any address of the pool.",
            Self::NoRoute => "No network of the realm and no route leads to the destination.",
            Self::NoSourceNat => {
                "The network has no source-NAT address and the destination is outside its domain."
            }
            Self::NotForwardable => {
                "A frame that natwerk has no use for: neither IP nor ARP that it answers."
            }
            Self::OutOfFrames => "No free frame was left to build the packet in.",
            Self::PortLimit => {
                "The guest has as many external ports, or mappings, as it may have (RFC 6888, REQ-4)."
            }
            Self::ProtocolUnsupported => {
                "The protocol cannot be translated by address alone here (no static NAT, or another guest uses it with this peer)."
            }
            Self::RateLimited => "The guest opens sessions faster than it may.",
            Self::SessionLimit => {
                "The guest has as many sessions as it may have (RFC 6888, REQ-4)."
            }
            Self::SessionTableFull => "The session table is full.",
            Self::SourceSpoofed => {
                "The source address does not belong where the packet came from (BCP 38)."
            }
            Self::TcpNoSession => "A TCP segment that is not a SYN belongs to no session.",
            Self::Truncated => "The frame ends before the headers it announces.",
            Self::TtlExpired => {
                "The time to live ran out; the sender was told (RFC 1812, section 5.3.1)."
            }
            Self::TxRingFull => "The transmit ring of the outgoing interface is full.",
            Self::UnknownNeighborPort => "The next hop is on an interface that is down or gone.",
            Self::UnknownVlan => "The frame's VLAN tag belongs to no network of this interface.",
            Self::VxlanMalformed => {
                "A VXLAN packet without a whole, untagged Ethernet frame inside, in fragments, or with flags or reserved bits set that mean something else (RFC 7348)."
            }
            Self::VxlanUnknownRemote => {
                "A VXLAN packet came from a VTEP that is not listed in a network that does not learn others."
            }
            Self::VxlanUnknownVni => "A VXLAN packet for a network identifier that no network has.",
        }
    }
}

/// Why a frame was handed to the router's own kernel.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum HostReason {
    /// ARP of a network whose gateway the kernel holds.
    ArpForKernel,
    /// An echo request to an address of the router that the kernel should answer.
    EchoForRouter,
    /// A packet for a service that the router's own kernel serves.
    LocalService,
    /// A reply to a connection that the router itself opened.
    RouterOwnTraffic,
}

impl HostReason {
    /// Every reason, in order.
    pub const ALL: [Self; 4] =
        [Self::ArpForKernel, Self::EchoForRouter, Self::LocalService, Self::RouterOwnTraffic];

    /// The place in per-reason tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The stable name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ArpForKernel => "arp_for_kernel",
            Self::EchoForRouter => "echo_for_router",
            Self::LocalService => "local_service",
            Self::RouterOwnTraffic => "router_own_traffic",
        }
    }

    /// What an operator should know of it.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ArpForKernel => "ARP of a network whose gateway the kernel holds.",
            Self::EchoForRouter => {
                "An echo request to an address of the router that the kernel should answer."
            }
            Self::LocalService => "A packet for a service that the router's own kernel serves.",
            Self::RouterOwnTraffic => "A reply to a connection that the router itself opened.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index_under_its_own_name() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(reason.sentence().ends_with('.'));
        }
        for (index, reason) in HostReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(names.insert(reason.name()), "{} twice", reason.name());
        }
    }
}
