//! The thread that follows the kernel: sleeps, takes in what happened, puts the questions that
//! follow from it. What to do is decided in `resolve`, `addresses` and `view`; here it is done.

mod manage;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::addresses::{AddressChange, Announcements};
use super::arp::ArpSocket;
use super::capsules::Request;
use super::netlink::{self, Events, Requests};
use super::plan::{Plan, Segment};
use super::resolve::{Ask, Resolver, Surroundings};
use super::view::{Change, Conflict, View};
use super::{HostOptions, Shared, sysctl};
use crate::flow::{Mac, PortId};
use crate::next_hop::readers::HopReader;
use crate::next_hop::{Neighbor, NextHops};
use crate::time::Tick;
use crate::wire::arp::Arp;

/// The thread's own things.
pub struct Watch {
    shared: Arc<Shared>,
    next_hops: Arc<NextHops>,
    hop_reader: HopReader,
    plan: Plan,
    manage_addresses: bool,
    interfaces: Vec<Interface>,
    /// The same by port, as the resolver wants it.
    interface_indexes: Vec<Option<u32>>,
    requests: Requests,
    events: Events,
    resolver: Resolver,
    announcements: Announcements,
    /// Addresses that this process put on interfaces.
    added: HashSet<(u32, IpAddr, u8)>,
    /// What is still to be put on and taken off.
    address_changes: VecDeque<AddressChange>,
    conflicts: BTreeMap<Conflict, Tick>,
    next_freshening: Tick,
    started: Instant,
}

/// One of our interfaces, which may come and go.
struct Interface {
    port: PortId,
    name: String,
    index: Option<u32>,
    mac: Mac,
    is_up: bool,
    arp: Option<ArpSocket>,
}

impl Watch {
    /// Opens the sockets and takes in everything the kernel has now.
    pub fn new(options: HostOptions, shared: Arc<Shared>) -> io::Result<Self> {
        let interfaces: Vec<_> = options
            .ports
            .into_iter()
            .map(|(port, name)| Interface {
                port,
                name,
                index: None,
                mac: Mac::default(),
                is_up: false,
                arp: None,
            })
            .collect();
        let ports = interfaces.iter().map(|interface| interface.port.index() + 1).max();
        let mut watch = Self {
            shared,
            hop_reader: options.next_hops.reader(),
            next_hops: options.next_hops,
            plan: Plan::default(),
            manage_addresses: options.manage_addresses,
            interfaces,
            interface_indexes: vec![None; ports.unwrap_or(0)],
            requests: Requests::open()?,
            // Before the lists, so that nothing happens between.
            events: Events::open()?,
            resolver: Resolver::default(),
            announcements: Announcements::default(),
            added: HashSet::new(),
            address_changes: VecDeque::new(),
            conflicts: BTreeMap::new(),
            next_freshening: Tick::ZERO,
            started: Instant::now(),
        };
        watch.list_all()?;
        // Not before: an empty plan would take away the addresses of the process before us.
        watch.take_plan(options.plan);
        if watch.address_changes.len() <= SETTLE_COUNT_MAX {
            while !watch.address_changes.is_empty() && watch.started.elapsed() < SETTLE_MAX {
                watch.change_some_addresses();
                watch.take_events();
            }
        }
        Ok(watch)
    }

    /// Until the host is stopped.
    pub fn run(&mut self) {
        while !self.shared.is_stopping.load(Ordering::Acquire) {
            self.sleep();
            self.shared.bell.silence();
            self.let_go_of_hops();
            let new_plan = self.shared.new_plan.lock().take();
            if let Some(plan) = new_plan {
                self.take_plan(plan);
            }
            self.change_some_addresses();
            self.take_events();
            self.listen();
            self.resolve();
            self.announce();
            self.forget_conflicts();
        }
    }

    /// Forgets the next hops that are gone, so that their ids may be another neighbour's.
    fn let_go_of_hops(&mut self) {
        if let Some(epoch) = self.hop_reader.due() {
            self.resolver.forget_gone(&self.next_hops);
            self.hop_reader.pass(epoch);
        }
    }

    fn now(&self) -> Tick {
        Tick::ZERO.after(self.started.elapsed())
    }

    /// Until something happens or something is due.
    fn sleep(&self) {
        let deadlines = [self.resolver.deadline(), self.announcements.deadline()];
        let first = deadlines.into_iter().flatten().fold(self.next_freshening, Tick::min);
        let wait = match self.address_changes.is_empty() {
            true => first.since(self.now()).min(FRESHEN_INTERVAL),
            false => Duration::ZERO,
        };
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut descriptors = vec![
            PollFd::new(&self.events, PollFlags::IN),
            PollFd::new(&*self.shared.bell, PollFlags::IN),
        ];
        let sockets = self.interfaces.iter().filter_map(|interface| interface.arp.as_ref());
        descriptors.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::IN)));
        // Woken by a signal is woken all the same.
        let _ = poll(&mut descriptors, Some(&timeout));
    }

    /// Everything again, from nothing.
    fn list_all(&mut self) -> io::Result<()> {
        let mut view = View::default();
        for request in netlink::list_requests() {
            for message in self.requests.list(request)? {
                view.apply(&message);
            }
        }
        let neighbors: Vec<_> = view.neighbors.keys().copied().collect();
        {
            let mut shared = self.shared.view.lock();
            view.conflicts = std::mem::take(&mut shared.conflicts);
            *shared = view;
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        self.follow_links();
        for (index, address) in neighbors {
            self.follow_neighbor(index, address);
        }
        Ok(())
    }

    fn take_events(&mut self) {
        let mut concerns_addresses = false;
        for _ in 0..EVENT_COUNT_MAX {
            match self.events.read() {
                Ok(Some(messages)) => {
                    for message in &messages {
                        concerns_addresses |= self.take_event(message);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "events of the kernel were lost; listing all again");
                    if let Err(error) = self.list_all() {
                        tracing::error!(%error, "cannot list the kernel's links and neighbours");
                    }
                    concerns_addresses = true;
                    break;
                }
            }
        }
        // Once for all of them: with thousands of addresses a look at all takes its time.
        if concerns_addresses {
            self.manage_addresses();
        }
    }

    /// Returns whether it may take a change of addresses.
    fn take_event(&mut self, message: &RouteNetlinkMessage) -> bool {
        let change = self.shared.view.lock().apply(message);
        if change != Change::Nothing {
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        match change {
            Change::Link(_) => {
                self.follow_links();
                true
            }
            Change::Address => true,
            Change::Neighbor(index, address) => {
                self.follow_neighbor(index, address);
                false
            }
            Change::Nothing | Change::Route => false,
        }
    }

    fn follow_neighbor(&mut self, index: u32, address: IpAddr) {
        let now = self.now();
        let ask = self.with_surroundings(|resolver, around| {
            resolver.kernel_said(around, index, address, now)
        });
        if let Some(ask) = ask {
            self.put(ask, now);
        }
    }

    /// Brings our interfaces up to what the view says of links.
    fn follow_links(&mut self) {
        let now = self.now();
        let view = self.shared.view.lock();
        for interface in &mut self.interfaces {
            let found = view.links.iter().find(|(_, link)| link.name == interface.name);
            let Some((&index, link)) = found else {
                interface.vanish();
                continue;
            };
            let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
            self.next_hops.set_interface(interface.port, link.mac, mtu);
            if (interface.index, interface.mac) != (Some(index), link.mac)
                || interface.arp.is_none()
            {
                interface.appear(index, link.mac, self.manage_addresses);
            }
            if link.is_up && !interface.is_up {
                want_upstreams(&self.plan, interface.port, &self.next_hops);
                if self.manage_addresses {
                    self.announcements.link_came_up(&self.plan, interface.port, now);
                }
            }
            interface.is_up = link.is_up;
        }
        for interface in &self.interfaces {
            if let Some(index) = self.interface_indexes.get_mut(interface.port.index()) {
                *index = interface.index;
            }
        }
    }

    fn take_plan(&mut self, plan: Plan) {
        let old = std::mem::replace(&mut self.plan, plan);
        for &(port, vlan, _) in &old.mtus {
            self.next_hops.set_vlan_mtu(port, vlan, u16::MAX);
        }
        for &(port, vlan, mtu) in &self.plan.mtus {
            self.next_hops.set_vlan_mtu(port, vlan, mtu);
        }
        for interface in self.interfaces.iter().filter(|interface| interface.is_up) {
            want_upstreams(&self.plan, interface.port, &self.next_hops);
        }
        if !self.manage_addresses {
            return;
        }
        self.manage_addresses();
        let now = self.now();
        self.announcements.plan_changed(&old, &self.plan, now);
        let is_ours = |conflict: &Conflict| self.plan.is_ours(conflict.port, 0, conflict.address);
        self.conflicts.retain(|conflict, _| is_ours(conflict));
        self.show_conflicts();
    }

    /// Takes in the ARP that our sockets heard.
    fn listen(&mut self) {
        let heard: Vec<_> = self
            .interfaces
            .iter()
            .filter_map(|interface| Some((interface.port, interface.mac, interface.arp.as_ref()?)))
            .flat_map(|(port, mac, arp)| {
                arp.heard().into_iter().map(move |message| (port, mac, message))
            })
            .collect();
        for (port, own_mac, message) in heard {
            self.take_arp(port, own_mac, &message);
        }
    }

    fn take_arp(&mut self, port: PortId, own_mac: Mac, message: &Arp) {
        let (address, mac) = (message.sender, message.sender_mac);
        if mac == own_mac {
            return;
        }
        if self.plan.is_ours(port, 0, address) {
            self.take_conflict(Conflict { port, address, mac });
            return;
        }
        let neighbor = Neighbor { port, vlan: 0, address: address.into() };
        self.with_surroundings(|resolver, around| resolver.heard(around, neighbor, mac));
    }

    fn take_conflict(&mut self, conflict: Conflict) {
        let now = self.now();
        if self.conflicts.insert(conflict, now).is_some() {
            return;
        }
        if self.conflicts.len() > CONFLICT_COUNT_MAX {
            self.conflicts.remove(&conflict);
            return;
        }
        let Conflict { address, mac, .. } = conflict;
        tracing::warn!(%address, %mac, "another station claims an address of this router");
        self.show_conflicts();
    }

    fn forget_conflicts(&mut self) {
        let now = self.now();
        let before = self.conflicts.len();
        self.conflicts.retain(|_, &mut seen| now.since(seen) < CONFLICT_LASTS);
        if self.conflicts.len() != before {
            self.show_conflicts();
        }
    }

    fn show_conflicts(&self) {
        self.shared.view.lock().conflicts = self.conflicts.keys().copied().collect();
    }

    fn resolve(&mut self) {
        let now = self.now();
        let is_time_to_freshen = self.next_freshening <= now;
        if is_time_to_freshen {
            self.next_freshening = now.after(FRESHEN_INTERVAL);
        }
        let asks = self.with_surroundings(|resolver, around| {
            let mut asks = resolver.take_wanted(around, now);
            asks.extend(resolver.go_on(around, now));
            if is_time_to_freshen {
                asks.extend(resolver.freshen(around, now));
            }
            asks
        });
        for ask in asks {
            self.put(ask, now);
        }
    }

    fn put(&mut self, ask: Ask, now: Tick) {
        match ask {
            Ask::Arp { neighbor, sender, destination, .. } => {
                let Neighbor { port, vlan, address: IpAddr::V4(target) } = neighbor else { return };
                // A link that is down is one more reason why nobody answers.
                let _ = self.request(Request { port, vlan, sender, target, destination });
            }
            Ask::Kernel { id, interface_index, address } => {
                let message = use_neighbor(interface_index, address);
                let flags = NLM_F_CREATE | NLM_F_REPLACE;
                if let Err(error) = self.requests.carry_out(message, flags) {
                    tracing::debug!(%address, %error, "the kernel does not ask for a neighbour");
                    let ask = self.with_surroundings(|resolver, around| {
                        resolver.kernel_refused(around, id, now)
                    });
                    if let Some(ask @ Ask::Arp { .. }) = ask {
                        self.put(ask, now);
                    }
                }
            }
        }
    }

    fn announce(&mut self) {
        for announcement in self.announcements.due(self.now()) {
            let Segment { port, vlan, address, .. } = announcement.segment;
            let from = |sender| Request { port, vlan, sender, target: address, destination: None };
            let announced = self.request(from(address)).and_then(|()| {
                // Answers to a probe with a tag would not reach us here.
                let probes = announcement.is_first && vlan == 0;
                if probes { self.request(from(Ipv4Addr::UNSPECIFIED)) } else { Ok(()) }
            });
            if let Err(error) = announced {
                tracing::debug!(%address, %error, "an address was not announced");
            }
        }
    }

    fn request(&self, request: Request) -> io::Result<()> {
        let port = request.port.interface();
        let interface = self.interfaces.iter().find(|interface| interface.port == port);
        let Some(socket) = interface.and_then(|interface| interface.arp.as_ref()) else {
            return Ok(());
        };
        request.send(socket, &self.plan.encapsulations, self.next_hops.stations())
    }

    fn with_surroundings<T>(
        &mut self,
        step: impl FnOnce(&mut Resolver, Surroundings<'_>) -> T,
    ) -> T {
        let view = self.shared.view.lock();
        let around = Surroundings {
            next_hops: &self.next_hops,
            view: &view,
            plan: &self.plan,
            interface_indexes: &self.interface_indexes,
        };
        step(&mut self.resolver, around)
    }
}

impl Interface {
    fn appear(&mut self, index: u32, mac: Mac, is_managed: bool) {
        self.index = Some(index);
        self.mac = mac;
        if is_managed && let Err(error) = sysctl::prepare_managed(&self.name) {
            tracing::warn!(interface = self.name, %error, "cannot set arp_ignore and the like");
        }
        self.arp = match ArpSocket::open(self.port, index, mac) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(interface = self.name, %error, "cannot open a socket for ARP");
                None
            }
        };
    }

    fn vanish(&mut self) {
        self.index = None;
        self.is_up = false;
        self.arp = None;
    }
}

/// Asks for the upstream routers before anybody sends to them: the first packets of all guests go
/// there at once, more than may wait for one neighbour.
fn want_upstreams(plan: &Plan, port: PortId, next_hops: &NextHops) {
    for &upstream in plan.upstreams.iter().filter(|upstream| upstream.port == port) {
        if let Some(id) = next_hops.id(upstream) {
            next_hops.want(id);
        }
    }
}

/// As `ip neighbor replace … use` does: the kernel is to behave as if it had a packet for it.
fn use_neighbor(interface_index: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.header.ifindex = interface_index;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    RouteNetlinkMessage::NewNeighbour(message)
}

/// How often used neighbours are looked after; also how long the thread sleeps at most.
const FRESHEN_INTERVAL: Duration = Duration::from_secs(2);
/// Datagrams of events taken before something else has its turn: more than what a share of address
/// changes makes.
const EVENT_COUNT_MAX: usize = 4096;
/// How long a start waits for the kernel to take all addresses, and up to how many. It looks at all that
/// it has for each new one, so ten thousand take it a second: forwarding does not wait for them.
const SETTLE_MAX: Duration = Duration::from_millis(300);
const SETTLE_COUNT_MAX: usize = 2048;
/// Claims on our addresses that are remembered: enough to find a mistake, too few to fill memory.
const CONFLICT_COUNT_MAX: usize = 64;
const CONFLICT_LASTS: Duration = Duration::from_secs(300);
