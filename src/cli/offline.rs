//! A router without a network: the real pipeline over ordinary memory, for `explain` and `replay`.
//!
//! Neighbours answer at once, with the address that was told of them or one made up from theirs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::cli::output::Failure;
use crate::cli::place;
use crate::config::Config;
use crate::flow::{Mac, PortId};
use crate::frame::FrameBuffer;
use crate::io::frame::{Frame, FramePool};
use crate::io::memory::copied;
use crate::next_hop::{NextHops, Resolution};
use crate::pipeline::Pipeline;
use crate::pipeline::batch::Batch;
use crate::pipeline::shared::{Settings, Shared};
use crate::policy::Policy;
use crate::policy::compile::compile;
use crate::policy::publish::Published;
use crate::policy::registry::Registry;
use crate::rules::diagnostic::Diagnostic;
use crate::rules::set::RuleSet;
use crate::session::table::Table;
use crate::telemetry::counters::WorkerCounters;
use crate::time::Tick;
use crate::verdict::{DropReason, HostReason, Verdict};

/// A router in memory.
pub struct Router {
    /// What it remembers.
    pub shared: Arc<Shared>,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    pipeline: Pipeline<Frame>,
    batch: Batch<Frame>,
    frames: FramePool,
    neighbors: HashMap<(PortId, IpAddr), Mac>,
}

/// What became of a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Passed {
    /// Its verdict. A frame that only waited for its neighbour has the one it got then.
    pub verdict: Verdict,
    /// The frames that left because of it.
    pub sent: Vec<(PortId, Vec<u8>)>,
    /// The frames for the router's own kernel.
    pub host: Vec<(PortId, HostReason, Vec<u8>)>,
}

/// Frames in memory at a time.
const FRAMES: u32 = 8192;
/// Bytes of a chunk, the kernel's headroom included: room for jumbo frames.
const CHUNK: usize = 16 * 1024;
/// Next hops there may be.
const NEXT_HOPS_MAX: usize = 1 << 20;
/// Always the same, so that the same input has the same output.
const SEED: [u64; 4] = [0x6e61, 0x7477, 0x6572, 0x6b21];

impl Router {
    /// A router with `rules` in force and no sessions.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(config: &Config, rules: &RuleSet, sessions_max: u32) -> Result<Self, Failure> {
        let next_hops = Arc::new(NextHops::new(NEXT_HOPS_MAX));
        let published = Published::new(Policy::empty());
        let generation = published.next_generation();
        published.swap(compile(rules, config, &mut Registry::new(), generation));
        let table = Table::in_memory(sessions_max, SEED);
        let settings = Settings::new(config, 1, SEED);
        let wide = Table::in_memory(config.sessions.max_ipv6, SEED);
        let shared = Arc::new(Shared::new(table, wide, next_hops, published, settings));
        let counters = Arc::new(WorkerCounters::new(config.interfaces.len()));
        let frames = FramePool::in_memory(FRAMES, CHUNK)
            .map_err(|error| Failure::failed(format!("no memory for frames: {error}")))?;
        let router = Self {
            pipeline: Pipeline::new(Arc::clone(&shared), Arc::clone(&counters)),
            shared,
            counters,
            batch: Batch::new(),
            frames,
            neighbors: HashMap::new(),
        };
        for port in ports(config) {
            router.set_interface(port, made_up_router(port), 1500);
        }
        for network in router.shared.policy.load().networks() {
            if let Some(mtu) = network.mtu {
                router.shared.next_hops.set_vlan_mtu(network.port, network.vlan, mtu);
            }
        }
        Ok(router)
    }

    /// Gives an interface its link address and MTU.
    pub fn set_interface(&self, port: PortId, mac: Mac, mtu: u16) {
        self.shared.next_hops.set_interface(port, mac, mtu);
    }

    /// The router's link address on an interface.
    #[must_use]
    pub fn mac(&self, port: PortId) -> Mac {
        self.shared.next_hops.source_mac(port)
    }

    /// Tells the link address of a neighbour.
    pub fn set_neighbor(&mut self, port: PortId, address: Ipv4Addr, mac: Mac) {
        self.neighbors.insert((port, address.into()), mac);
    }

    /// Has a frame processed that came in by `port`. By a side of an interface, it gets what frames have around them there.
    pub fn pass(&mut self, port: PortId, bytes: &[u8], now: Tick) -> Passed {
        let frame = copied(&mut self.frames, bytes).and_then(|mut frame| {
            let policy = self.shared.policy.load();
            place::enclose(&mut frame, port, self.mac(port), &policy)?;
            Some(frame)
        });
        let Some(frame) = frame else {
            let verdict = Verdict::Drop(DropReason::FrameTooLong);
            return Passed { verdict, sent: Vec::new(), host: Vec::new() };
        };
        self.batch.clear();
        self.batch.push(port.interface(), frame);
        self.pipeline.process(&mut self.batch, &mut self.frames, now);
        let mut passed = self.collect(Verdict::Hold);
        // What was released may wait again, for the way to a VTEP.
        while self.resolve() {
            let later = self.idle(now);
            if passed.verdict == Verdict::Hold
                && let Some((to, _)) = later.sent.first()
            {
                passed.verdict = Verdict::Forward(*to);
            }
            passed.sent.extend(later.sent);
            passed.host.extend(later.host);
        }
        passed
    }

    /// Does what is due at `now` without a frame: sessions expire, waiting frames are released.
    pub fn idle(&mut self, now: Tick) -> Passed {
        self.batch.clear();
        while self.pipeline.idle(&mut self.batch, &mut self.frames, now) {}
        self.collect(Verdict::Hold)
    }

    /// Answers for every neighbour that was asked for. Returns whether there was one.
    fn resolve(&self) -> bool {
        let hops = &self.shared.next_hops;
        let wanted = hops.take_wanted();
        for id in &wanted {
            let neighbor = hops.neighbor(*id);
            let known = self.neighbors.get(&(neighbor.port, neighbor.address)).copied();
            let mac = known.unwrap_or_else(|| made_up(neighbor.address));
            hops.set(neighbor, Resolution::Reachable(mac));
        }
        !wanted.is_empty()
    }

    fn collect(&mut self, without: Verdict) -> Passed {
        let mut passed = Passed { verdict: without, sent: Vec::new(), host: Vec::new() };
        for slot in self.batch.slots.drain(..) {
            passed.verdict = slot.verdict;
            let Some(frame) = slot.frame else { continue };
            match slot.verdict {
                Verdict::Forward(to) => passed.sent.push((to, frame.bytes().to_vec())),
                Verdict::Host(reason) => {
                    passed.host.push((slot.port, reason, frame.bytes().to_vec()));
                }
                Verdict::Drop(_) | Verdict::Hold => {}
            }
        }
        let extra = self.batch.extra.drain(..);
        passed.sent.extend(extra.map(|(to, frame)| (to, frame.bytes().to_vec())));
        let host = self.batch.host.drain(..);
        passed
            .host
            .extend(host.map(|(port, reason, frame)| (port, reason, frame.bytes().to_vec())));
        passed
    }
}

/// The interfaces of a configuration.
pub fn ports(config: &Config) -> impl Iterator<Item = PortId> + use<> {
    let count = u8::try_from(config.interfaces.len()).unwrap_or(u8::MAX);
    (0..count).map(PortId)
}

/// The interface that a configuration calls `name`.
#[must_use]
pub fn port(name: &str, config: &Config) -> Option<PortId> {
    let place = config.interfaces.iter().position(|interface| interface.name == name)?;
    u8::try_from(place).ok().map(PortId)
}

/// The failure of rules or a configuration that have faults: each is printed, one a line.
#[must_use]
pub fn faulty(faults: &[Diagnostic]) -> Failure {
    let lines: Vec<_> = faults.iter().map(|fault| format!("\n{fault}")).collect();
    Failure::refused(format!("{} faults:{}", faults.len(), lines.concat()))
}

/// A neighbour's link address where none is known.
const fn made_up(address: IpAddr) -> Mac {
    let (family, [a, b, c, d]) = match address {
        IpAddr::V4(address) => (1, address.octets()),
        IpAddr::V6(address) => (6, (address.to_bits() as u32).to_be_bytes()),
    };
    Mac([2, family, a, b, c, d])
}

/// The router's own link address where none is known.
const fn made_up_router(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0])
}
