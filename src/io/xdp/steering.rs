//! Which frames of an interface the dataplane gets, as plain values.
//!
//! The engine derives a [`Steering`] from the rules and from what the kernel owns;
//! [`crate::io::xdp::program::Program::apply`] puts it into the maps of the XDP program.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::flow::DoubleTag;
use crate::io::xdp::kernel_ports::KernelPorts;

/// What the XDP program of one interface goes by.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Steering {
    /// Tags under which the dataplane has a network or public addresses; zero stands for none.
    pub tags: BTreeSet<u16>,
    /// Tags under which frames are the kernel's. Frames under tags that stand in neither set are
    /// dropped; those without a tag are the kernel's then.
    pub kernel_tags: BTreeSet<u16>,
    /// Those of the dataplane's under which the kernel has no IPv4 address: ARP is the dataplane's
    /// there.
    pub arp_tags: BTreeSet<u16>,
    /// Two tags under which the dataplane has a network; all frames there are its own.
    pub double_tags: BTreeSet<DoubleTag>,
    /// The dataplane's VTEPs: what comes for them untagged, to VXLAN's port, is its own.
    pub vteps: BTreeSet<Ipv4Addr>,
    /// Addresses that are the kernel's alone, by the tag they are reached under: gateways of guest
    /// networks, management addresses. Never public addresses of the dataplane.
    pub local_addresses: BTreeSet<(u16, Ipv4Addr)>,
    /// The same of IPv6, public addresses included: all that is sent to the router is the kernel's.
    pub local_addresses_ipv6: BTreeSet<(u16, Ipv6Addr)>,
    /// Ports that the kernel serves, or sends from, on public addresses of the dataplane.
    pub kernel_ports: KernelPorts,
}
