//! What others hold of a running engine: its state to look at, and the few things to ask of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::config::{Config, Role, XdpMode};
use crate::flow::{Generation, PortId};
use crate::rules::diagnostic::Diagnostic;
use crate::rules::set::RuleSet;
use crate::rules::sources::Pending;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::tap::Tap;

/// A running engine. Clones are the same engine.
#[derive(Clone)]
pub struct EngineHandle {
    state: Arc<State>,
}

/// What the engine shows of itself.
struct State {
    config: Arc<Config>,
    started_at: SystemTime,
    started: Instant,
    rules: ArcSwap<RuleSet>,
    pending: ArcSwap<Vec<Pending>>,
    interfaces: ArcSwap<Vec<InterfaceStatus>>,
    workers: ArcSwap<Vec<WorkerStatus>>,
    last_reload: ArcSwap<Option<ReloadReport>>,
    reloads: AtomicU64,
    reloads_refused: AtomicU64,
    tap: Arc<Tap>,
    commands: Sender<Command>,
}

/// An interface as the engine has it.
#[derive(Clone, Debug)]
pub struct InterfaceStatus {
    /// Its place in the configuration.
    pub port: PortId,
    /// The kernel's name for it.
    pub name: String,
    /// Which side it is on.
    pub role: Role,
    /// The kernel's number for it, while it exists.
    pub kernel_index: Option<u32>,
    /// What was got: never [`XdpMode::Auto`].
    pub mode: XdpMode,
    /// Whether the sockets of it want to be woken (`XDP_USE_NEED_WAKEUP`).
    pub need_wakeup: bool,
    /// Receive queues of it.
    pub queues: u32,
    /// The kernel's number of the XDP program on it; none where the kernel's traffic control takes what comes in.
    pub program_id: Option<u32>,
    /// What the programs counted, by name, since they were loaded; refreshed once a second.
    pub steering: Vec<(&'static str, u64)>,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its number.
    pub index: usize,
    /// The processor core it is pinned to, if it is.
    pub core: Option<usize>,
    /// The queues it serves.
    pub queues: Vec<QueueStatus>,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
}

/// A queue of an interface, and what the kernel says of its socket; refreshed once a second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct QueueStatus {
    /// The interface.
    pub port: PortId,
    /// The queue's number.
    pub queue: u32,
    /// Frames lost because the receive ring was full.
    pub receive_ring_full: u64,
    /// Frames lost because the worker had offered no memory.
    pub fill_ring_empty: u64,
    /// Frames lost for other reasons, such as being too long.
    pub receive_dropped: u64,
    /// Descriptors of ours that the kernel refused.
    pub transmit_invalid: u64,
}

/// What a reload did.
#[derive(Clone, Debug)]
pub struct ReloadReport {
    /// Rules that are new.
    pub added: usize,
    /// Rules that are gone.
    pub removed: usize,
    /// Rules that have changed.
    pub changed: usize,
    /// Sessions that the new rules would not create, and that were ended.
    pub sessions_ended: u64,
    /// The policy in force now.
    pub generation: Generation,
    /// From the first sign of a change until the files were left alone and read; zero when somebody
    /// asked.
    pub waited: Duration,
    /// From then until the new rules were in force.
    pub in_force: Duration,
    /// From then until the last session was looked at, or newer rules came.
    pub duration: Duration,
    /// What the rules are used in spite of.
    pub warnings: Vec<Diagnostic>,
}

/// Why a reload did nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReloadError {
    /// The rules are faulty; the old ones stay in force.
    #[error("the rules are faulty; the old ones stay in force")]
    Refused {
        /// Everything that is wrong, and the warnings.
        diagnostics: Vec<Diagnostic>,
    },
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

/// A sign that rule files may have changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sign {
    /// Something whole was put in its place by a new name.
    Renamed,
    /// Anything else: more may follow.
    Written,
}

/// What the engine can be asked.
pub enum Command {
    /// Rule files may have changed, at this time.
    FilesChanged(Sign, Instant),
    /// Read the rules again, and answer.
    Reload(Sender<Result<ReloadReport, ReloadError>>),
    /// Stop.
    Stop,
}

impl EngineHandle {
    /// The handle of an engine that is about to start, and where it hears commands.
    #[must_use]
    pub fn new(config: Arc<Config>) -> (Self, Receiver<Command>) {
        let (commands, receiver) = unbounded();
        let state = State {
            config,
            started_at: SystemTime::now(),
            started: Instant::now(),
            rules: ArcSwap::from_pointee(RuleSet::default()),
            pending: ArcSwap::default(),
            interfaces: ArcSwap::default(),
            workers: ArcSwap::default(),
            last_reload: ArcSwap::default(),
            reloads: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            tap: Arc::new(Tap::new()),
            commands,
        };
        (Self { state: Arc::new(state) }, receiver)
    }

    /// Reads the rules again: loads, checks, compiles, swaps, and ends the sessions that the new
    /// rules would not create. Returns when that is done.
    ///
    /// # Errors
    /// When the rules are faulty (nothing changes then) or the engine is stopping.
    pub fn reload(&self) -> Result<ReloadReport, ReloadError> {
        let (reply, answer) = bounded(1);
        self.state.commands.send(Command::Reload(reply)).map_err(|_| ReloadError::Stopping)?;
        answer.recv().unwrap_or(Err(ReloadError::Stopping))
    }

    /// Says that rule files may have changed; returns at once.
    pub fn files_changed(&self, sign: Sign) {
        // An engine that hears nothing any more needs no rules.
        let _ = self.state.commands.send(Command::FilesChanged(sign, Instant::now()));
    }

    /// Asks the engine to stop; returns at once.
    pub fn stop(&self) {
        // An engine that hears nothing any more has stopped.
        let _ = self.state.commands.send(Command::Stop);
    }

    /// The configuration it was started with.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.state.config
    }

    /// Where frames can be looked at as they pass.
    #[must_use]
    pub fn tap(&self) -> &Arc<Tap> {
        &self.state.tap
    }

    /// When it was started.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        self.state.started_at
    }

    /// How long it has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.state.started.elapsed()
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<RuleSet> {
        self.state.rules.load_full()
    }

    /// Rules of control planes that wait for something.
    #[must_use]
    pub fn pending(&self) -> Arc<Vec<Pending>> {
        self.state.pending.load_full()
    }

    /// The interfaces, in the configuration's order.
    #[must_use]
    pub fn interfaces(&self) -> Arc<Vec<InterfaceStatus>> {
        self.state.interfaces.load_full()
    }

    /// The workers, by number.
    #[must_use]
    pub fn workers(&self) -> Arc<Vec<WorkerStatus>> {
        self.state.workers.load_full()
    }

    /// What the last reload that was not refused did, if there was one.
    #[must_use]
    pub fn last_reload(&self) -> Arc<Option<ReloadReport>> {
        self.state.last_reload.load_full()
    }

    /// Reloads that were done, and reloads that were refused.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        let state = &self.state;
        (state.reloads.load(Ordering::Relaxed), state.reloads_refused.load(Ordering::Relaxed))
    }

    /// Shows other interfaces.
    pub fn set_interfaces(&self, interfaces: Vec<InterfaceStatus>) {
        self.state.interfaces.store(Arc::new(interfaces));
    }

    /// Shows other workers.
    pub fn set_workers(&self, workers: Vec<WorkerStatus>) {
        self.state.workers.store(Arc::new(workers));
    }

    /// Shows other rules, and what of them is pending.
    pub fn set_rules(&self, rules: Arc<RuleSet>, pending: Arc<Vec<Pending>>) {
        self.state.rules.store(rules);
        self.state.pending.store(pending);
    }

    /// Shows and counts how a reload ended.
    pub fn set_reload(&self, outcome: &Result<ReloadReport, ReloadError>) {
        match outcome {
            Ok(report) => {
                self.state.last_reload.store(Arc::new(Some(report.clone())));
                self.state.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.state.reloads_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
