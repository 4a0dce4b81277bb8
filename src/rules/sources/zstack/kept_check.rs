//! What a kept entry must fulfil by itself. Requests are held to all of it when they are read; this is for lines that
//! somebody else wrote. What entries mean to each other the loading of rules looks at.

use super::kept::Kept;
use super::nics::{MTU_MIN, Nic, is_interface, is_name};
use crate::flow::Protocol;
use crate::rules::set::{HealthCheck, Match, PortRange};

/// What is wrong with an entry, if anything is.
pub fn wrong_with(kept: &Kept) -> Option<&'static str> {
    match kept {
        Kept::Eip(..)
        | Kept::FirewallDefault(..)
        | Kept::RemovedNic(_)
        | Kept::Snat(..)
        | Kept::StaticRoute(..)
        | Kept::TableRoute(..) => None,
        Kept::FirewallRule(_, _, rule) => rule.matches.iter().find_map(wrong_with_match),
        Kept::FlatEip(_, eip) => {
            let names = [&eip.public_bridge, &eip.bridge];
            names.iter().find_map(|name| unless(is_interface(name), INTERFACE))
        }
        Kept::Listener(uuid, listener) => {
            let weigh = listener.members.iter().all(|member| member.weight <= 256);
            unless(is_name(uuid), NAME)
                .or_else(|| wrong_with_transport(listener.protocol))
                .or_else(|| unless(weigh, "weights go from 0 to 256"))
                .or_else(|| wrong_with_check(listener.health_check.as_ref()?))
        }
        Kept::Nic(_, nic) => wrong_with_nic(nic),
        Kept::PolicyReference(_, reference) => unless(is_name(&reference.set), NAME),
        Kept::PolicyRule((set, _), rule) => unless(is_name(set), NAME).or_else(|| {
            rule.matches.iter().find_map(|(it, source_ports)| {
                wrong_with_match(it).or_else(|| wrong_with_ports(it.protocol, *source_ports))
            })
        }),
        Kept::PolicySet(name, _) => unless(is_name(name), NAME),
        Kept::PortForward(uuid, forward) => {
            let are_as_many = forward.public_ports.count() == forward.guest_ports.count();
            unless(is_name(uuid), NAME)
                .or_else(|| wrong_with_transport(forward.protocol))
                .or_else(|| unless(are_as_many, "as many guest ports as public ports belong here"))
        }
        Kept::Vip(_, vip) => unless(vip.length <= 32, LENGTH),
        Kept::VipLimit(_, limit) => {
            limit.shared.as_ref().and_then(|name| unless(is_name(name), NAME))
        }
    }
}

fn wrong_with_nic(nic: &Nic) -> Option<&'static str> {
    let fits = nic.address.is_none_or(|(_, length)| length <= 32);
    let is_mtu = nic.mtu.is_none_or(|mtu| mtu >= MTU_MIN);
    unless(is_interface(&nic.interface), INTERFACE)
        .or_else(|| unless(fits, LENGTH))
        .or_else(|| unless(is_mtu, "an MTU is 576 bytes or more"))
}

fn wrong_with_transport(protocol: Protocol) -> Option<&'static str> {
    unless(matches!(protocol, Protocol::TCP | Protocol::UDP), "tcp or udp belongs here")
}

fn wrong_with_match(it: &Match) -> Option<&'static str> {
    let is_icmp = it.protocol.is_some_and(Protocol::is_icmp);
    let is_plain = it.icmp_type.is_none() && it.icmp_code.is_none();
    let has_type = it.icmp_code.is_none() || it.icmp_type.is_some();
    wrong_with_ports(it.protocol, it.ports)
        .or_else(|| unless(is_icmp || is_plain, "only ICMP has types and codes"))
        .or_else(|| unless(has_type, "an ICMP code belongs to a type"))
}

fn wrong_with_ports(protocol: Option<Protocol>, ports: Option<PortRange>) -> Option<&'static str> {
    let has_ports = protocol.is_some_and(|it| it.has_ports() && !it.is_icmp());
    unless(has_ports || ports.is_none(), "ports belong to a protocol that has them")
}

fn wrong_with_check(check: &HealthCheck) -> Option<&'static str> {
    let seconds = [check.interval_seconds, check.timeout_seconds];
    let times = [check.healthy_after, check.unhealthy_after];
    unless(seconds.iter().all(|it| it.get() <= 3600), "checks have seconds from 1 to 3600")
        .or_else(|| unless(times.iter().all(|it| it.get() <= 100), "checks count from 1 to 100"))
}

fn unless(holds: bool, words: &'static str) -> Option<&'static str> {
    (!holds).then_some(words)
}

const INTERFACE: &str = "an interface's name has up to 15 bytes on one line";
const LENGTH: &str = "a prefix length goes up to 32";
const NAME: &str = "a name has up to 64 bytes on one line";
