//! Managed addresses: gateways and public addresses are put on untagged interfaces, and taken away
//! when the rules drop them; new ones are announced. What the operator put there stays as it is.
//!
//! No I/O in here: out come the changes to make and the announcements that are due.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::plan::{Plan, Segment};
use super::view::{KernelAddress, MANAGED, View};
use crate::flow::PortId;
use crate::rules::set::Cidr;
use crate::time::Tick;

/// A change to the addresses of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddressChange {
    /// The rules have it, the interface has not.
    Add(KernelAddress),
    /// natwerk put it there, and the rules do not have it any more.
    Remove(KernelAddress),
}

/// What has to change so that the interfaces have the addresses of `plan`. `added` are those this
/// process added, for kernels that do not remember.
#[must_use]
pub fn changes(
    plan: &Plan,
    view: &View,
    interface_indexes: &[Option<u32>],
    added: &HashSet<(u32, IpAddr, u8)>,
) -> Vec<AddressChange> {
    let interface = |port: PortId| *interface_indexes.get(port.index())?;
    let untagged = plan.segments.iter().filter(|segment| segment.vlan == 0);
    let ipv4 = untagged.filter_map(|segment| {
        Some(KernelAddress {
            interface_index: interface(segment.port)?,
            address: segment.address.into(),
            prefix_length: segment.prefix.length(),
            is_managed: true,
        })
    });
    // Under a tag IPv6 is on a VLAN interface, if the operator made one.
    let ipv6 = plan.ipv6.iter().filter_map(|segment| {
        Some(KernelAddress {
            interface_index: view.tagged(interface(segment.port)?, segment.vlan)?,
            address: segment.address.into(),
            prefix_length: segment.prefix_length,
            is_managed: true,
        })
    });
    let wanted: Vec<KernelAddress> = ipv4.chain(ipv6).collect();
    let wanted_keys: HashSet<_> = wanted.iter().map(key).collect();
    let is_ours = |address: &KernelAddress| address.is_managed || added.contains(&key(address));
    let present: HashSet<_> = view.addresses.iter().map(key).collect();
    let operators: HashSet<_> = view
        .addresses
        .iter()
        .filter(|address| !is_ours(address))
        .map(|address| (address.interface_index, address.address))
        .collect();

    // First what is new: at no time is an address missing that stays.
    let mut asked_for = HashSet::new();
    let mut changes: Vec<_> = wanted
        .into_iter()
        .filter(|address| !present.contains(&key(address)))
        .filter(|address| !operators.contains(&(address.interface_index, address.address)))
        .filter(|address| asked_for.insert(key(address)))
        .map(AddressChange::Add)
        .collect();
    let is_on_ours = |index: u32| {
        let lower = view.links.get(&index).and_then(|link| link.tag).map(|(lower, _)| lower);
        interface_indexes.contains(&Some(index))
            || lower.is_some_and(|lower| interface_indexes.contains(&Some(lower)))
    };
    let is_old = |address: &&KernelAddress| {
        is_on_ours(address.interface_index)
            && is_ours(address)
            && !wanted_keys.contains(&key(address))
    };
    changes.extend(view.addresses.iter().filter(is_old).copied().map(AddressChange::Remove));
    changes
}

/// What identifies an address to the kernel.
#[must_use]
pub fn key(address: &KernelAddress) -> (u32, IpAddr, u8) {
    (address.interface_index, address.address, address.prefix_length)
}

/// The netlink message that names `address`.
#[must_use]
pub fn message(address: &KernelAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = address.interface_index;
    message.header.prefix_len = address.prefix_length;
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
        AddressAttribute::Protocol(MANAGED),
    ];
    match address.address {
        // A prefix of two addresses or one has no broadcast address (RFC 3021).
        IpAddr::V4(own) if address.prefix_length < 31 => {
            let prefix = Cidr::containing(own, address.prefix_length);
            message.attributes.push(AddressAttribute::Broadcast(prefix.last()));
        }
        IpAddr::V4(_) => {}
        // The control plane gives each address out once, and guests wait for this one.
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

/// Announcements to come.
#[derive(Default)]
pub struct Announcements {
    /// In the order in which they are due.
    queue: VecDeque<(Tick, Segment, bool)>,
}

/// An announcement that is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// The address and its link.
    pub segment: Segment,
    /// Whether to ask as well whether somebody else has it.
    pub is_first: bool,
}

impl Announcements {
    /// Announces what `new` has and `old` had not.
    pub fn plan_changed(&mut self, old: &Plan, new: &Plan, now: Tick) {
        let known: HashSet<_> = old.segments.iter().map(place).collect();
        let is_new = |segment: &&Segment| !known.contains(&place(segment));
        self.add(new.segments.iter().filter(is_new).copied(), now);
    }

    /// Announces everything on an interface whose link came up: nobody may have heard us before.
    pub fn link_came_up(&mut self, plan: &Plan, port: PortId, now: Tick) {
        self.add(plan.segments.iter().filter(|segment| segment.port == port).copied(), now);
    }

    /// What is due now, a bounded number.
    pub fn due(&mut self, now: Tick) -> Vec<Announcement> {
        let mut due = Vec::new();
        while due.len() < ANNOUNCEMENT_COUNT_MAX
            && let Some(&(at, segment, is_first)) = self.queue.front()
            && at <= now
        {
            self.queue.pop_front();
            due.push(Announcement { segment, is_first });
            if is_first {
                self.queue.push_back((now.after(ANNOUNCE_INTERVAL), segment, false));
            }
        }
        due
    }

    /// When the next one is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        self.queue.front().map(|&(at, _, _)| at)
    }

    /// New ones go before the repetitions of those made earlier, which are due later.
    fn add(&mut self, segments: impl Iterator<Item = Segment>, now: Tick) {
        let later = self.queue.partition_point(|&(at, _, _)| at <= now);
        let tail = self.queue.split_off(later);
        self.queue.extend(segments.map(|segment| (now, segment, true)));
        self.queue.extend(tail);
    }
}

fn place(segment: &Segment) -> (PortId, u16, Ipv4Addr) {
    (segment.port, segment.vlan, segment.address)
}

/// Every announcement is made twice (RFC 5227, section 2.3, which waits two seconds).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// In one go; a thousand addresses take a few.
const ANNOUNCEMENT_COUNT_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const INDEXES: [Option<u32>; 3] = [Some(7), Some(8), None];

    fn segment(port: u8, vlan: u16, last: u8) -> Segment {
        let address = Ipv4Addr::new(203, 0, 113, last);
        Segment { port: PortId(port), vlan, address, prefix: Cidr::containing(address, 24) }
    }

    fn plan(segments: &[Segment]) -> Plan {
        Plan { segments: segments.to_vec(), ..Plan::default() }
    }

    fn kernel(
        interface_index: u32,
        last: u8,
        prefix_length: u8,
        is_managed: bool,
    ) -> KernelAddress {
        let address = Ipv4Addr::new(203, 0, 113, last);
        KernelAddress { interface_index, address: address.into(), prefix_length, is_managed }
    }

    fn view(addresses: &[KernelAddress]) -> View {
        View { addresses: addresses.iter().copied().collect(), ..View::default() }
    }

    #[test]
    fn untagged_addresses_are_added_to_interfaces_that_exist() {
        let plan = plan(&[segment(0, 0, 10), segment(0, 100, 11), segment(2, 0, 12)]);
        let changes = changes(&plan, &view(&[]), &INDEXES, &HashSet::new());
        assert_eq!(changes, [AddressChange::Add(kernel(7, 10, 24, true))]);
    }

    #[test]
    fn what_is_there_is_left_alone_whoever_put_it_there() {
        let plan = plan(&[segment(0, 0, 10), segment(0, 0, 11)]);
        // The operator's has another prefix length: it is his to decide.
        let there = view(&[kernel(7, 10, 24, true), kernel(7, 11, 32, false)]);
        assert_eq!(changes(&plan, &there, &INDEXES, &HashSet::new()), []);
    }

    #[test]
    fn only_our_own_addresses_are_taken_away() {
        let old = [
            kernel(7, 10, 24, true),
            kernel(7, 11, 24, false),
            kernel(9, 12, 24, true),
            kernel(8, 13, 24, false),
        ];
        let added = HashSet::from([key(&old[3])]);
        let changes = changes(&Plan::default(), &view(&old), &INDEXES, &added);
        assert_eq!(changes, [AddressChange::Remove(old[0]), AddressChange::Remove(old[3])]);
    }

    #[test]
    fn a_new_prefix_length_replaces_the_old_one_without_a_gap() {
        let plan = plan(&[segment(0, 0, 10)]);
        let old = kernel(7, 10, 25, true);
        let changes = changes(&plan, &view(&[old]), &INDEXES, &HashSet::new());
        let new = kernel(7, 10, 24, true);
        assert_eq!(changes, [AddressChange::Add(new), AddressChange::Remove(old)]);
    }

    #[test]
    fn only_new_addresses_are_announced_and_each_twice() {
        let (old, new) =
            (plan(&[segment(0, 0, 10)]), plan(&[segment(0, 0, 10), segment(0, 5, 11)]));
        let mut announcements = Announcements::default();
        announcements.plan_changed(&old, &new, Tick::from_ms(100));
        let announcement = |is_first| Announcement { segment: segment(0, 5, 11), is_first };
        assert_eq!(announcements.due(Tick::from_ms(100)), [announcement(true)]);
        assert_eq!(announcements.due(Tick::from_ms(2099)), []);
        assert_eq!(announcements.due(Tick::from_ms(2100)), [announcement(false)]);
        assert_eq!(announcements.deadline(), None);
    }

    #[test]
    fn an_announcement_does_not_wait_for_an_earlier_ones_repetition() {
        let mut announcements = Announcements::default();
        let (first, second) = (plan(&[segment(0, 0, 10)]), plan(&[segment(1, 0, 11)]));
        announcements.plan_changed(&Plan::default(), &first, Tick::ZERO);
        assert_eq!(announcements.due(Tick::ZERO).len(), 1);
        announcements.link_came_up(&second, PortId(1), Tick::from_ms(500));
        assert_eq!(announcements.due(Tick::from_ms(500)).len(), 1);
        assert_eq!(announcements.deadline(), Some(Tick::from_ms(2000)));
    }

    #[test]
    fn many_announcements_are_made_in_parts_and_none_is_lost() {
        let segments: Vec<_> = (0..=255).map(|last| segment(0, 0, last)).collect();
        let mut announcements = Announcements::default();
        announcements.plan_changed(&Plan::default(), &plan(&segments), Tick::ZERO);
        let parts =
            [0, 0, 0, 2000, 2000, 2000].map(|ms| announcements.due(Tick::from_ms(ms)).len());
        assert_eq!(parts, [128, 128, 0, 128, 128, 0]);
    }

    #[test]
    fn a_prefix_of_two_has_no_broadcast_address() {
        let has = |prefix_length| {
            let message = message(&kernel(7, 10, prefix_length, true));
            message.attributes.iter().any(|a| matches!(a, AddressAttribute::Broadcast(_)))
        };
        assert!(has(24) && has(30) && !has(31) && !has(32));
    }
}
