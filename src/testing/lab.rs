//! A router in memory: rules as text, two ports, one pipeline, a clock that only tests move.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Interface, Role};
use crate::flow::{Mac, PortId};
use crate::frame::FrameBuffer;
use crate::io::frame::{Frame, FramePool};
use crate::io::memory::copied;
use crate::next_hop::{NextHops, Resolution};
use crate::pipeline::Pipeline;
use crate::pipeline::batch::Batch;
use crate::pipeline::shared::{Settings, Shared};
use crate::policy::compile::compile;
use crate::policy::publish::Published;
use crate::policy::registry::Registry;
use crate::rules::{self, set::RuleSet};
use crate::session::table::Table;
use crate::shortcut::Shortcuts;
use crate::telemetry::counters::WorkerCounters;
use crate::testing::shortcuts::Emulated;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// The public port of a lab: `eth2`.
pub const PUBLIC: PortId = PortId(0);
/// The guest port of a lab: `eth0`.
pub const GUEST: PortId = PortId(1);

/// A router in memory.
pub struct Lab {
    /// What its workers share.
    pub shared: Arc<Shared>,
    /// Its configuration.
    pub config: Config,
    /// What its one worker counts.
    pub counters: Arc<WorkerCounters>,
    pipeline: Pipeline<Frame>,
    batch: Batch<Frame>,
    frames: FramePool,
    registry: Registry,
    /// Frames that took shortcuts.
    pub shortcuts_taken: u64,
    /// Of each interface, where the configuration has shortcuts.
    programs: Vec<Emulated>,
    /// Whether neighbours answer at once, from [`Lab::neighbor_mac`].
    pub answers: bool,
    now: Tick,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its verdict.
    pub verdict: Verdict,
    /// The frames that left because of it, its own first.
    pub sent: Vec<(PortId, Vec<u8>)>,
    /// The frames that went to the router's own kernel.
    pub host: Vec<(PortId, Vec<u8>)>,
}

impl Lab {
    /// A router with the native rules `json` on interfaces `eth2` (public) and `eth0` (guest).
    #[must_use]
    pub fn new(json: &str) -> Self {
        Self::with(json, |_| {})
    }

    /// The same, with a configuration that `change` has changed.
    #[must_use]
    pub fn with(json: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_next_hops(json, 4096, change)
    }

    /// The same, with room for `capacity` next hops.
    #[must_use]
    pub fn with_next_hops(json: &str, capacity: usize, change: impl FnOnce(&mut Config)) -> Self {
        let interface = |name: &str, role| Interface {
            name: name.to_owned(),
            role,
            checksum: crate::config::ChecksumMode::DetectPartial,
            kernel_vlans: Vec::new(),
        };
        let mut config = Config {
            interfaces: vec![interface("eth2", Role::Public), interface("eth0", Role::Guest)],
            icmp_errors_per_second: 0,
            ..Config::default()
        };
        config.sessions.max = 4096;
        config.sessions.max_ipv6 = 4096;
        change(&mut config);
        let seed = [0x6e61, 0x7477, 0x6572, 0x6b21];
        let next_hops = Arc::new(NextHops::new(capacity));
        let published = Published::new(crate::policy::Policy::empty());
        let settings = Settings::new(&config, 1, seed);
        let table = Table::in_memory(config.sessions.max, seed);
        let wide = Table::in_memory(config.sessions.max_ipv6, seed);
        let shared =
            Arc::new(Shared::new(table, wide, Arc::clone(&next_hops), published, settings));
        for (index, _) in config.interfaces.iter().enumerate() {
            let port = PortId(u8::try_from(index).expect("few interfaces"));
            next_hops.set_interface(port, Self::router_mac(port), INTERFACE_MTU);
        }
        let counters = Arc::new(WorkerCounters::new(config.interfaces.len()));
        let programs = programs(&config, &shared);
        let mut lab = Self {
            pipeline: Pipeline::new(Arc::clone(&shared), Arc::clone(&counters)),
            shared,
            config,
            counters,
            batch: Batch::new(),
            frames: FramePool::in_memory(4096, 2048).expect("memory"),
            registry: Registry::new(),
            shortcuts_taken: 0,
            programs,
            answers: true,
            now: Tick::from_ms(1_000_000),
        };
        lab.reload(json);
        lab
    }

    /// The router's own address on a port.
    #[must_use]
    pub const fn router_mac(port: PortId) -> Mac {
        Mac([2, 0, 0, 0, 0xff, port.0])
    }

    /// The address that a neighbour answers with.
    #[must_use]
    pub fn neighbor_mac(address: impl Into<IpAddr>) -> Mac {
        let (family, [a, b, c, d]) = match address.into() {
            IpAddr::V4(address) => (1, address.octets()),
            IpAddr::V6(address) => (6, (address.to_bits() as u32).to_be_bytes()),
        };
        Mac([2, family, a, b, c, d])
    }

    /// Puts new rules in force.
    pub fn reload(&mut self, json: &str) {
        let loaded = rules::load_text("lab.json", json, Some(&self.config)).expect("sound rules");
        self.put(&loaded.rules);
    }

    /// Puts rules in force that were read before.
    pub fn put(&mut self, rules: &RuleSet) {
        let generation = self.shared.policy.next_generation();
        let policy = compile(rules, &self.config, &mut self.registry, generation);
        for network in policy.networks() {
            let mtu = network.mtu.unwrap_or(INTERFACE_MTU);
            self.shared.next_hops.set_vlan_mtu(network.port, network.vlan, mtu);
        }
        self.shared.put_in_force(policy);
    }

    /// Gives up every neighbour that is waited for, as the kernel does when none answers.
    pub fn give_up_neighbors(&mut self) {
        let next_hops = &self.shared.next_hops;
        let pending = |(_, _, resolution): &(_, _, _)| *resolution == Resolution::Pending;
        for (_, neighbor, _) in next_hops.all().into_iter().filter(pending) {
            next_hops.set(neighbor, Resolution::Failed);
        }
    }

    /// Sends `frame` (its link addresses are put right, as if its sender knew the router) into
    /// `port` and tells what became of it.
    pub fn send(&mut self, port: PortId, mut frame: Vec<u8>) -> Outcome {
        if frame.len() >= 12 {
            frame[0..6].copy_from_slice(&Self::router_mac(port).0);
            frame[6..12].copy_from_slice(&[2, 9, 9, 9, 9, port.0]);
        }
        self.send_raw(port, &frame)
    }

    /// The same of a frame of which it was seen before that it is to be dropped, for `reason`.
    pub fn send_refused(
        &mut self,
        port: PortId,
        mut frame: Vec<u8>,
        reason: DropReason,
    ) -> Outcome {
        frame[0..6].copy_from_slice(&Self::router_mac(port).0);
        self.batch.clear();
        let frame = copied(&mut self.frames, &frame).expect("a free frame that is long enough");
        self.batch.push(port, frame);
        for slot in &mut self.batch.slots {
            slot.verdict = Verdict::Drop(reason);
        }
        self.pipeline.process(&mut self.batch, &mut self.frames, self.now);
        self.collect()
    }

    /// Sends a frame as it is.
    pub fn send_raw(&mut self, port: PortId, frame: &[u8]) -> Outcome {
        let program = self.programs.get(port.index());
        if let Some((exit, after)) = program.and_then(|program| program.pass(frame, self.now)) {
            self.shortcuts_taken += 1;
            let sent = vec![(exit, after)];
            return Outcome { verdict: Verdict::Forward(exit), sent, host: Vec::new() };
        }
        self.batch.clear();
        let frame = copied(&mut self.frames, frame).expect("a free frame that is long enough");
        self.batch.push(port, frame);
        self.pipeline.process(&mut self.batch, &mut self.frames, self.now);
        let mut outcome = self.collect();
        // What was released may wait again, for the way to a VTEP.
        while self.resolve() && outcome.verdict == Verdict::Hold {
            let released = self.idle();
            outcome.sent.extend(released.sent);
            outcome.host.extend(released.host);
            if let Some((to, _)) = outcome.sent.first() {
                outcome.verdict = Verdict::Forward(*to);
            }
        }
        outcome
    }

    /// Sends frames as one batch, as if their senders knew the router. What became of each, and what was sent
    /// beside them. Nobody answers for neighbours that are not known yet.
    pub fn send_all(&mut self, frames: &[(PortId, Vec<u8>)]) -> (Vec<Outcome>, Outcome) {
        self.batch.clear();
        for (port, bytes) in frames {
            let mut bytes = bytes.clone();
            bytes[0..6].copy_from_slice(&Self::router_mac(*port).0);
            let frame = copied(&mut self.frames, &bytes).expect("a free frame");
            self.batch.push(*port, frame);
        }
        self.pipeline.process(&mut self.batch, &mut self.frames, self.now);
        let slots: Vec<_> = self.batch.slots.drain(..).collect();
        let beside = self.collect();
        let each = slots.into_iter().map(|slot| {
            self.batch.slots.push(slot);
            self.collect()
        });
        (each.collect(), beside)
    }

    /// Processes frames as batches of at most 64, as a worker would, and counts those that were
    /// forwarded. For benches: nothing is copied out.
    pub fn forward<'f>(&mut self, frames: impl IntoIterator<Item = (PortId, &'f [u8])>) -> usize {
        let mut frames = frames.into_iter().peekable();
        let mut forwarded = 0;
        while frames.peek().is_some() {
            self.batch.clear();
            while !self.batch.is_full()
                && let Some((port, bytes)) = frames.next()
            {
                let frame = copied(&mut self.frames, bytes).expect("a free frame");
                self.batch.push(port, frame);
            }
            self.pipeline.process(&mut self.batch, &mut self.frames, self.now);
            let is_forwarded = |verdict| matches!(verdict, Verdict::Forward(_));
            forwarded += self.batch.slots.iter().filter(|slot| is_forwarded(slot.verdict)).count();
        }
        forwarded
    }

    /// Lets time pass, a tenth of a second at a time, with everything due done.
    pub fn pass(&mut self, duration: Duration) -> Outcome {
        let end = self.now.after(duration);
        let mut all = Outcome { verdict: Verdict::Hold, sent: Vec::new(), host: Vec::new() };
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(100)).min(end);
            let outcome = self.idle();
            all.sent.extend(outcome.sent);
            all.host.extend(outcome.host);
        }
        all
    }

    /// What time it is.
    #[must_use]
    pub const fn now(&self) -> Tick {
        self.now
    }

    /// Frames of the pool that nobody gave back.
    #[must_use]
    pub fn frames_in_hand(&mut self) -> usize {
        self.batch.clear();
        self.frames.whereabouts().in_hand
    }

    fn idle(&mut self) -> Outcome {
        self.batch.clear();
        while self.pipeline.idle(&mut self.batch, &mut self.frames, self.now) {}
        self.collect()
    }

    fn resolve(&self) -> bool {
        let wanted = self.shared.next_hops.take_wanted();
        if !self.answers {
            return false;
        }
        for id in &wanted {
            let neighbor = self.shared.next_hops.neighbor(*id);
            let mac = Self::neighbor_mac(neighbor.address);
            self.shared.next_hops.set(neighbor, Resolution::Reachable(mac));
        }
        !wanted.is_empty()
    }

    fn collect(&mut self) -> Outcome {
        let mut outcome = Outcome { verdict: Verdict::Hold, sent: Vec::new(), host: Vec::new() };
        for slot in self.batch.slots.drain(..) {
            outcome.verdict = slot.verdict;
            match (slot.verdict, slot.frame) {
                (Verdict::Forward(to), Some(frame)) => {
                    outcome.sent.push((to, frame.bytes().to_vec()));
                }
                (Verdict::Host(_), Some(frame)) => {
                    outcome.host.push((slot.port, frame.bytes().to_vec()));
                }
                (Verdict::Drop(_), Some(_)) | (Verdict::Hold, None) => {}
                (verdict, frame) => {
                    panic!(
                        "verdict {verdict:?} with {}",
                        if frame.is_some() { "a frame" } else { "no frame" }
                    )
                }
            }
        }
        outcome
            .sent
            .extend(self.batch.extra.drain(..).map(|(to, frame)| (to, frame.bytes().to_vec())));
        outcome.host.extend(
            self.batch.host.drain(..).map(|(port, _, frame)| (port, frame.bytes().to_vec())),
        );
        outcome
    }
}

/// The programs of all interfaces, where shortcuts lead from each to each.
fn programs(config: &Config, shared: &Shared) -> Vec<Emulated> {
    let Some(places) = config.workers.shortcuts.filter(|places| *places > 0) else {
        return Vec::new();
    };
    let bits = places.ilog2() - 3;
    let programs: Vec<_> = config.interfaces.iter().map(|_| Emulated::new(bits)).collect();
    let tables = programs.iter().map(|program| Some(program.table(bits))).collect();
    let shortcuts = Shortcuts::new(tables);
    shared.shortcuts.store(Some(Arc::new(shortcuts)));
    programs
}

/// What both interfaces take, in bytes.
const INTERFACE_MTU: u16 = 1500;
