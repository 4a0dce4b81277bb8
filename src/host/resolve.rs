//! Who has to be asked for which link address, and when. No I/O and no clock in here: what is to be
//! asked comes out as a list of [`Ask`]s, what was heard and what time it is come in.
//!
//! IPv6 next hops and untagged ones of IPv4 are the kernel's business: it asks, it notices when a neighbour falls silent,
//! and its neighbour table is the truth. Where it cannot, we ask ourselves by ARP: for tagged networks
//! (it needs no interface for them), and where it has no address in the neighbour's prefix.
//!
//! Either way one neighbour is asked for at most about once a second (RFC 1122, section 2.3.2.1).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use netlink_packet_route::neighbour::NeighbourState;

use super::plan::Plan;
use super::view::{KernelNeighbor, View};
use crate::flow::{Mac, PortId};
use crate::next_hop::{Neighbor, NextHopId, NextHops, Resolution};
use crate::time::Tick;

/// What a resolver decides by.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// What is to be resolved.
    pub next_hops: &'a NextHops,
    /// The kernel's view.
    pub view: &'a View,
    /// The rules' view.
    pub plan: &'a Plan,
    /// The kernel's index of each interface, by port; none while it does not exist.
    pub interface_indexes: &'a [Option<u32>],
}

/// A question to be put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ask {
    /// An ARP request of our own: from `sender`, to one station or to all.
    Arp {
        /// For whom it is.
        id: NextHopId,
        /// Who is asked for.
        neighbor: Neighbor,
        /// Our address.
        sender: Ipv4Addr,
        /// The station that had the address last; none asks everybody.
        destination: Option<Mac>,
    },
    /// The kernel is to find out, or to make sure.
    Kernel {
        /// For whom it is.
        id: NextHopId,
        /// The interface.
        interface_index: u32,
        /// Who is asked for.
        address: IpAddr,
    },
}

/// The questions under way, and when which comes next.
#[derive(Default)]
pub struct Resolver {
    questions: HashMap<NextHopId, Question>,
    /// When to look at a question again, the next one first.
    deadlines: BTreeSet<(Tick, u32)>,
    /// When a next hop that we ask for ourselves last proved to be there.
    confirmed: HashMap<NextHopId, Tick>,
    /// Upstream routers that somebody wanted while they were asked for.
    awaited: HashSet<NextHopId>,
}

/// A question under way.
struct Question {
    stage: Stage,
    deadline: Tick,
}

/// How far a question has come.
#[derive(Clone, Copy)]
enum Stage {
    /// We have asked this many times.
    Asking { count: u32 },
    /// The kernel is asking.
    Kernel,
    /// Nobody answered; nothing is asked until the deadline, and then only if somebody wants it.
    Resting { is_wanted: bool },
}

impl Resolver {
    /// Begins with what is wanted now.
    pub fn take_wanted(&mut self, around: Surroundings<'_>, now: Tick) -> Vec<Ask> {
        let wanted = around.next_hops.take_wanted();
        wanted.into_iter().filter_map(|id| self.want(around, id, now)).collect()
    }

    /// Goes on with every question whose time has come.
    pub fn go_on(&mut self, around: Surroundings<'_>, now: Tick) -> Vec<Ask> {
        let mut asks = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let id = NextHopId(id);
            let Some(Question { stage, .. }) = self.questions.remove(&id) else { continue };
            match stage {
                Stage::Resting { is_wanted } if is_wanted => {
                    asks.extend(self.begin(around, id, now))
                }
                Stage::Resting { .. } => {}
                Stage::Kernel => self.fail(around, id, now),
                Stage::Asking { count } => asks.extend(self.ask_again(around, id, count, now)),
            }
        }
        asks
    }

    /// When [`Self::go_on`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Looks after next hops that frames were sent to since the last call: a guest that moved without
    /// a word is noticed because it does not answer at its old place.
    pub fn freshen(&mut self, around: Surroundings<'_>, now: Tick) -> Vec<Ask> {
        let mut asks = Vec::new();
        for id in around.next_hops.take_used() {
            if asks.len() == FRESHEN_COUNT_MAX {
                break;
            }
            if matches!(around.next_hops.resolution(id), Resolution::Reachable(_)) {
                asks.extend(self.freshen_one(around, id, now));
            }
        }
        asks
    }

    /// The kernel has changed its mind about a neighbour.
    pub fn kernel_said(
        &mut self,
        around: Surroundings<'_>,
        index: u32,
        address: IpAddr,
        now: Tick,
    ) -> Option<Ask> {
        let (port, vlan) = around.place_of(index)?;
        let neighbor = Neighbor { port, vlan, address };
        let id = around.next_hops.find(neighbor)?;
        // A neighbour that the kernel forgot keeps its link address until somebody proves it wrong:
        // the kernel forgets what *it* does not use.
        let known = around.kernel_neighbor(neighbor)?;
        if let Some(mac) = usable(known) {
            around.next_hops.set(neighbor, Resolution::Reachable(mac));
            self.end(id);
            self.awaited.remove(&id);
            return None;
        }
        if known.state != NeighbourState::Failed || around.kernel_index(neighbor).is_none() {
            return None;
        }
        self.end(id);
        if matches!(around.next_hops.resolution(id), Resolution::Reachable(_)) {
            // It is not where it was, but everybody has not been asked yet.
            around.next_hops.set(neighbor, Resolution::Pending);
            return self.begin(around, id, now);
        }
        self.fail(around, id, now);
        None
    }

    /// The kernel would not ask (its table is full, or the link is down): we do.
    pub fn kernel_refused(
        &mut self,
        around: Surroundings<'_>,
        id: NextHopId,
        now: Tick,
    ) -> Option<Ask> {
        self.end(id);
        match around.next_hops.resolution(id) {
            Resolution::Reachable(_) if !self.is_overdue(around, id, now) => None,
            _ => self.begin_own(around, id, now),
        }
    }

    /// A station spoke ARP on an untagged interface.
    pub fn heard(&mut self, around: Surroundings<'_>, neighbor: Neighbor, mac: Mac) {
        let Some(id) = around.next_hops.find(neighbor) else { return };
        let asked_ourselves = self
            .questions
            .get(&id)
            .is_some_and(|question| matches!(question.stage, Stage::Asking { .. }));
        if asked_ourselves || around.kernel_index(neighbor).is_none() {
            around.next_hops.set(neighbor, Resolution::Reachable(mac));
        }
    }

    /// Forgets what concerns next hops that are gone: their ids will be other neighbours'.
    pub fn forget_gone(&mut self, next_hops: &NextHops) {
        let is_there = |id: &NextHopId| !next_hops.is_gone(*id);
        self.questions.retain(|id, _| is_there(id));
        self.deadlines.retain(|(_, id)| is_there(&NextHopId(*id)));
        self.confirmed.retain(|id, _| is_there(id));
        self.awaited.retain(is_there);
    }

    fn want(&mut self, around: Surroundings<'_>, id: NextHopId, now: Tick) -> Option<Ask> {
        let Some(question) = self.questions.get_mut(&id) else {
            return self.begin(around, id, now);
        };
        if let Stage::Resting { is_wanted } = &mut question.stage {
            *is_wanted = true;
        }
        if around.is_upstream(id) {
            self.awaited.insert(id);
        }
        None
    }

    fn begin(&mut self, around: Surroundings<'_>, id: NextHopId, now: Tick) -> Option<Ask> {
        let neighbor = around.next_hops.neighbor(id);
        let known = around.kernel_neighbor(neighbor);
        if let Some(mac) = known.and_then(usable) {
            around.next_hops.set(neighbor, Resolution::Reachable(mac));
            // Whoever is merely remembered is asked to prove it.
            let stale = known.is_some_and(|known| known.state == NeighbourState::Stale);
            return if stale { around.ask_kernel(id) } else { None };
        }
        let Some(ask) = around.ask_kernel(id) else { return self.begin_own(around, id, now) };
        self.put(id, Stage::Kernel, now.after(KERNEL_GIVES_UP));
        Some(ask)
    }

    fn begin_own(&mut self, around: Surroundings<'_>, id: NextHopId, now: Tick) -> Option<Ask> {
        // What was said before we asked is no answer.
        around.next_hops.take_confirmed(id);
        let Some(ask) = around.ask_ourselves(id, 0) else {
            self.fail(around, id, now);
            return None;
        };
        self.put(id, Stage::Asking { count: 1 }, now.after(ASK_INTERVAL));
        Some(ask)
    }

    fn ask_again(
        &mut self,
        around: Surroundings<'_>,
        id: NextHopId,
        count: u32,
        now: Tick,
    ) -> Option<Ask> {
        if around.next_hops.take_confirmed(id) {
            self.confirmed.insert(id, now);
            return None;
        }
        let ask = (count < around.ask_count_max(id)).then(|| around.ask_ourselves(id, count));
        let Some(ask) = ask.flatten() else {
            self.fail(around, id, now);
            return None;
        };
        self.put(id, Stage::Asking { count: count + 1 }, now.after(ASK_INTERVAL));
        Some(ask)
    }

    fn freshen_one(&mut self, around: Surroundings<'_>, id: NextHopId, now: Tick) -> Option<Ask> {
        if self.questions.contains_key(&id) {
            return None;
        }
        let neighbor = around.next_hops.neighbor(id);
        if around.kernel_index(neighbor).is_none() {
            return if self.is_overdue(around, id, now) {
                self.begin_own(around, id, now)
            } else {
                None
            };
        }
        match around.kernel_neighbor(neighbor).map(|known| known.state) {
            None | Some(NeighbourState::Stale | NeighbourState::None) => around.ask_kernel(id),
            Some(_) => None,
        }
    }

    /// Whether a next hop that we ask for ourselves has been silent for too long.
    fn is_overdue(&mut self, around: Surroundings<'_>, id: NextHopId, now: Tick) -> bool {
        if around.next_hops.take_confirmed(id) {
            self.confirmed.insert(id, now);
            return false;
        }
        now.since(*self.confirmed.entry(id).or_insert(now)) >= CONFIRMATION_LASTS
    }

    /// Nobody answered. Upstream routers are asked for until they do; while nobody waits for them,
    /// their silence is no news, and whoever comes first then waits for the next question's answer.
    fn fail(&mut self, around: Surroundings<'_>, id: NextHopId, now: Tick) {
        let is_upstream = around.is_upstream(id);
        let is_news = self.awaited.remove(&id) || !is_upstream;
        let resolution = if is_news { Resolution::Failed } else { Resolution::Pending };
        around.next_hops.set(around.next_hops.neighbor(id), resolution);
        self.put(id, Stage::Resting { is_wanted: is_upstream }, now.after(ASK_INTERVAL));
    }

    fn put(&mut self, id: NextHopId, stage: Stage, deadline: Tick) {
        self.end(id);
        self.questions.insert(id, Question { stage, deadline });
        self.deadlines.insert((deadline, id.0));
    }

    fn end(&mut self, id: NextHopId) {
        if let Some(question) = self.questions.remove(&id) {
            self.deadlines.remove(&(question.deadline, id.0));
        }
    }
}

impl Surroundings<'_> {
    fn is_upstream(&self, id: NextHopId) -> bool {
        self.plan.upstreams.contains(&self.next_hops.neighbor(id))
    }

    /// The port of a kernel interface, and the tag if it is a VLAN interface on one of ours.
    #[must_use]
    pub fn place_of(&self, interface_index: u32) -> Option<(PortId, u16)> {
        let port = |index| {
            let place = self.interface_indexes.iter().position(|&own| own == Some(index))?;
            u8::try_from(place).ok().map(PortId)
        };
        if let Some(port) = port(interface_index) {
            return Some((port, 0));
        }
        let (lower, vlan) = self.view.links.get(&interface_index)?.tag?;
        Some((port(lower)?, vlan))
    }

    fn interface_index(&self, port: PortId) -> Option<u32> {
        self.interface_indexes.get(port.index()).copied().flatten()
    }

    /// The kernel's interface towards `neighbor`; a tag's is a VLAN interface, if there is one.
    fn device(&self, neighbor: Neighbor) -> Option<u32> {
        let index = self.interface_index(neighbor.port)?;
        self.view.tagged(index, neighbor.vlan)
    }

    /// The interface on which the kernel can resolve `neighbor`, if it can.
    fn kernel_index(&self, neighbor: Neighbor) -> Option<u32> {
        let index = self.device(neighbor)?;
        self.view.can_ask(index, neighbor.address).then_some(index)
    }

    fn kernel_neighbor(&self, neighbor: Neighbor) -> Option<KernelNeighbor> {
        let index = self.device(neighbor)?;
        self.view.neighbors.get(&(index, neighbor.address)).copied()
    }

    fn ask_kernel(&self, id: NextHopId) -> Option<Ask> {
        let neighbor = self.next_hops.neighbor(id);
        let interface_index = self.kernel_index(neighbor)?;
        Some(Ask::Kernel { id, interface_index, address: neighbor.address })
    }

    /// Our own request, the `count`th after the first.
    fn ask_ourselves(&self, id: NextHopId, count: u32) -> Option<Ask> {
        let neighbor = self.next_hops.neighbor(id);
        // Neighbour discovery is the kernel's alone.
        let IpAddr::V4(address) = neighbor.address else { return None };
        let sender = self.plan.sender(neighbor.port, neighbor.vlan, address)?;
        let destination = match self.next_hops.resolution(id) {
            Resolution::Reachable(mac) if count < ASK_COUNT => Some(mac),
            Resolution::Reachable(_) | Resolution::Failed | Resolution::Pending => None,
        };
        Some(Ask::Arp { id, neighbor, sender, destination })
    }

    /// How often we ask: whoever has a link address is first asked there.
    fn ask_count_max(&self, id: NextHopId) -> u32 {
        match self.next_hops.resolution(id) {
            Resolution::Reachable(_) => 2 * ASK_COUNT,
            Resolution::Failed | Resolution::Pending => ASK_COUNT,
        }
    }
}

/// The link address that frames may be sent to, as the kernel sees it.
fn usable(known: KernelNeighbor) -> Option<Mac> {
    match known.state {
        NeighbourState::Delay
        | NeighbourState::Noarp
        | NeighbourState::Permanent
        | NeighbourState::Probe
        | NeighbourState::Reachable
        | NeighbourState::Stale => known.mac,
        _ => None,
    }
}

/// Between two requests for one neighbour.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Requests to one place before it counts as silent.
const ASK_COUNT: u32 = 3;
/// The kernel asks three times, a second apart; then it must have said something.
const KERNEL_GIVES_UP: Duration = Duration::from_secs(5);
/// How long a next hop that we ask for ourselves is believed without a sign of life. The kernel's
/// own time is 15 to 45 seconds (RFC 4861, section 6.3.4, which it uses for ARP too).
const CONFIRMATION_LASTS: Duration = Duration::from_secs(30);
/// Questions in one round of freshening.
const FRESHEN_COUNT_MAX: usize = 128;

#[cfg(test)]
mod tests;
