//! Sockets, programs and worker threads: opened together, watched, opened again when a device was
//! replaced.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use parking_lot::Mutex;

use crate::config::{Config, Hook, XdpMode};
use crate::engine::handle::{InterfaceStatus, QueueStatus, WorkerStatus};
use crate::engine::hooks::Intake;
use crate::engine::shortcuts::{Exits, of_programs, room};
use crate::engine::tapped::Tapped;
use crate::flow::PortId;
use crate::host::punt::Punt;
use crate::io::Losses;
use crate::io::wait::Bell;
use crate::io::xdp::device::Device;
use crate::io::xdp::open::{LaneParts, Opened, Request, open};
use crate::io::xdp::open_error::OpenError;
use crate::io::xdp::program::Program;
use crate::io::xdp::program_fault::ProgramFault;
use crate::io::xdp::steering::Steering;
use crate::pipeline::Pipeline;
use crate::pipeline::shared::Shared;
use crate::shortcut::{Hold, Shortcuts};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::tap::Tap;
use crate::worker::{Pace, Worker};

/// Everything between the devices and the pipeline, running.
pub(super) struct Dataplane {
    interfaces: Vec<Interface>,
    workers: Vec<Running>,
    shortcuts: Option<Arc<Shortcuts>>,
    exits: Option<Exits>,
}

/// An interface with its program.
struct Interface {
    port: PortId,
    device: Device,
    program: Program,
    /// None where packets are always taken by XDP. The program leads there, so it goes first.
    intake: Option<Intake>,
    mode: XdpMode,
    steering: Steering,
}

/// A worker's thread, and what is known of it from outside.
struct Running {
    core: Option<usize>,
    queues: Vec<(PortId, u32)>,
    counters: Arc<WorkerCounters>,
    losses: Arc<Mutex<Vec<Losses>>>,
    bell: Bell,
    thread: JoinHandle<()>,
}

/// What worker threads need beside their lanes.
#[derive(Clone)]
pub(super) struct Crew {
    /// What they share.
    pub shared: Arc<Shared>,
    /// What each counts into; there are as many workers.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// The way to the router's own kernel.
    pub punt: Arc<Punt>,
    /// Where somebody may look at frames.
    pub tap: Arc<Tap>,
    /// Whether they never sleep.
    pub spin: bool,
}

/// Why there is no dataplane.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Sockets or programs cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A worker's thread cannot be started.
    #[error("a worker's thread cannot be started: {0}")]
    Thread(io::Error),
}

impl Dataplane {
    /// Opens `devices` and starts the workers.
    ///
    /// # Errors
    /// When anything cannot be had; nothing runs then.
    pub fn start(
        config: &Config,
        devices: Vec<(PortId, Device)>,
        steering: Vec<Steering>,
        crew: &Crew,
    ) -> Result<Self, DataplaneError> {
        let mut interfaces: Vec<_> = devices
            .into_iter()
            .zip(steering)
            .map(|((port, device), steering)| (port, device, steering))
            .collect();
        let shortcut_room = room(config, &crew.shared.settings);
        let request = Request {
            interfaces: &interfaces,
            workers: crew.counters.len(),
            frames: config.workers.frames,
            mode: config.workers.mode,
            shortcuts: shortcut_room,
            feeders: config.workers.hook != Hook::Xdp,
        };
        let Opened { lanes, mut programs, modes, queues, feeders } = open(&request)?;
        for ((_, device, _), queues) in interfaces.iter_mut().zip(queues) {
            device.queues = queues;
        }
        let intake = |feeder| Intake::new(feeder, config.workers.hook);
        let intakes: Vec<_> = feeders.into_iter().map(|feeder| feeder.map(intake)).collect();
        let devices = interfaces.iter().map(|(_, device, _)| device);
        let devices = devices.zip(intakes.iter().map(Option::as_ref));
        let shortcuts = of_programs(&mut programs, devices, &modes, shortcut_room);
        // Workers make them from their first batch on.
        crew.shared.shortcuts.store(shortcuts.clone());
        let interfaces = interfaces.into_iter().zip(programs).zip(modes).zip(intakes);
        let interface = |((((port, device, steering), program), mode), intake)| Interface {
            port,
            device,
            program,
            intake,
            mode,
            steering,
        };
        let interfaces = interfaces.map(interface);
        let mut dataplane = Self {
            interfaces: interfaces.collect(),
            workers: Vec::new(),
            exits: shortcuts.is_some().then(Exits::new),
            shortcuts,
        };
        dataplane.look_at_exits();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let (filled, all_filled) = mpsc::channel();
        for (index, (lane, counters)) in lanes.into_iter().zip(&crew.counters).enumerate() {
            // From the last core down: interrupts and everybody else like the first.
            let core = cores.iter().rev().cycle().nth(index).copied();
            let counters = Arc::clone(counters);
            let worker = start_worker(index, core, lane, counters, crew, filled.clone());
            // What has been started stops when `dataplane` is dropped.
            dataplane.workers.push(worker.map_err(DataplaneError::Thread)?);
        }
        drop(filled);
        // Whoever is told that natwerk is ready may send at once. The loop ends when every worker
        // has filled its rings, or is gone.
        while all_filled.recv().is_ok() {}
        Ok(dataplane)
    }

    /// Makes the programs go by `steering`, one for each interface.
    ///
    /// # Errors
    /// When a program's maps are full.
    pub fn steer(&mut self, steering: Vec<Steering>) -> Result<(), ProgramFault> {
        for (interface, steering) in self.interfaces.iter_mut().zip(steering) {
            if interface.steering != steering {
                interface.program.apply(&steering)?;
                interface.steering = steering;
                // What was the dataplane's may be the kernel's now.
                self.shortcuts.iter().for_each(|shortcuts| shortcuts.end_epoch());
            }
        }
        Ok(())
    }

    /// Looks which interfaces take the frames of shortcuts now.
    pub fn look_at_exits(&mut self) {
        for place in 0..self.interfaces.len() {
            let Some(exits) = &mut self.exits else { return };
            let Interface { port, device, .. } = &self.interfaces[place];
            let (port, device) = (*port, device.clone());
            let programs = self.interfaces.iter_mut().map(|it| &mut it.program);
            if let Err(error) = exits.look_at(port, &device, programs) {
                tracing::warn!(
                    "how shortcuts leave by {} and others is not looked at any more: {error}",
                    device.name
                );
                self.exits = None;
            }
        }
    }

    /// Sees to it that packets are taken where they cost least.
    pub fn look_at_intakes(&mut self) {
        let leave_as_frames = self.exits.as_ref().is_some_and(Exits::take_frames);
        for Interface { intake, program, device, .. } in &mut self.interfaces {
            let intake = intake.iter_mut();
            intake.for_each(|intake| intake.look_at(program, device, leave_as_frames));
        }
    }

    /// Wakes every worker.
    pub fn wake(&self) {
        self.workers.iter().for_each(|worker| worker.bell.ring());
    }

    /// Stops, to be opened again, now or by the next process: until then the programs stay and drop
    /// what they would have sent to sockets.
    pub fn pause(mut self) {
        self.interfaces.iter_mut().for_each(|interface| interface.program.stay());
    }

    /// The interfaces whose device is gone, or was replaced by another of the same name, or whose feeder is gone.
    pub fn lost(&self) -> Vec<&str> {
        let is_lost = |it: &&Interface| {
            Device::index_of(&it.device.name) != Some(it.device.index)
                || it.intake.as_ref().is_some_and(|intake| intake.feeder().is_lost())
        };
        self.interfaces.iter().filter(is_lost).map(|it| &*it.device.name).collect()
    }

    /// The interfaces as they are now.
    pub fn interface_status(&self, config: &Config) -> Vec<InterfaceStatus> {
        let configured = self.interfaces.iter().zip(&config.interfaces);
        let status =
            |(interface, configured): (&Interface, &crate::config::Interface)| InterfaceStatus {
                port: interface.port,
                name: interface.device.name.clone(),
                role: configured.role,
                kernel_index: Device::index_of(&interface.device.name),
                mode: interface.mode,
                need_wakeup: true,
                queues: interface.device.queues.receive,
                program_id: interface.program.attached_id(),
                steering: interface.steering_counters(),
            };
        configured.map(status).collect()
    }

    /// The workers as they are now.
    pub fn worker_status(&self) -> Vec<WorkerStatus> {
        let status = |(index, worker): (usize, &Running)| WorkerStatus {
            index,
            core: worker.core,
            queues: worker.queue_status(),
            counters: Arc::clone(&worker.counters),
        };
        self.workers.iter().enumerate().map(status).collect()
    }
}

impl Interface {
    fn steering_counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.program.counters();
        let dropped = |intake: &Intake| ("dropped_feeder_full", intake.feeder().dropped());
        counters.extend(self.intake.as_ref().map(dropped));
        counters
    }
}

impl Drop for Dataplane {
    /// Takes the programs off first, so that nothing is sent to sockets that nobody reads.
    fn drop(&mut self) {
        self.shortcuts.iter().for_each(|shortcuts| shortcuts.hold(Hold::Stopping));
        self.interfaces.clear();
        self.workers.iter().for_each(|worker| worker.bell.stop());
        for worker in self.workers.drain(..) {
            if worker.thread.join().is_err() {
                tracing::error!("a worker had panicked outside its loop");
            }
        }
    }
}

impl Running {
    fn queue_status(&self) -> Vec<QueueStatus> {
        let losses = self.losses.lock();
        // A queue has two sockets where there is a feeder.
        let mut queues = BTreeMap::<_, QueueStatus>::new();
        for (&(port, queue), losses) in self.queues.iter().zip(losses.iter()) {
            let empty = || QueueStatus { port, queue, ..Default::default() };
            let status = queues.entry((port, queue)).or_insert_with(empty);
            status.receive_ring_full += losses.receive_ring_full;
            status.fill_ring_empty += losses.fill_ring_empty;
            status.receive_dropped += losses.receive_dropped;
            status.transmit_invalid += losses.transmit_invalid;
        }
        queues.into_values().collect()
    }
}

fn start_worker(
    index: usize,
    core: Option<CoreId>,
    lane: LaneParts,
    counters: Arc<WorkerCounters>,
    crew: &Crew,
    filled: mpsc::Sender<()>,
) -> io::Result<Running> {
    let bell = Bell::new()?;
    let queues: Vec<_> = lane.queues().collect();
    let losses = Arc::new(Mutex::new(vec![Losses::default(); queues.len()]));
    let work = Work {
        index,
        crew: crew.clone(),
        counters: Arc::clone(&counters),
        losses: Arc::clone(&losses),
        bell: bell.clone(),
    };
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if let Some(core) = core
            && !core_affinity::set_for_current(core)
        {
            tracing::warn!(worker = index, core = core.id, "cannot pin the worker to its core");
        }
        work.run(lane, filled);
    })?;
    Ok(Running { core: core.map(|core| core.id), queues, counters, losses, bell, thread })
}

/// What a worker's thread does.
struct Work {
    index: usize,
    crew: Crew,
    counters: Arc<WorkerCounters>,
    losses: Arc<Mutex<Vec<Losses>>>,
    bell: Bell,
}

impl Work {
    /// Works until told to stop, in spite of panics: the sockets stay, the pipeline (and with it
    /// what waited in it) is made anew. Gives `filled` up once frames can be received.
    fn run(self, lane: LaneParts, filled: mpsc::Sender<()>) {
        let mut lane = lane.into_lane();
        drop(filled);
        self.counters.started();
        while !self.bell.is_stopped() {
            let shared = Arc::clone(&self.crew.shared);
            let pipeline = Pipeline::of_worker(self.index, shared, Arc::clone(&self.counters));
            let shortcuts = self.crew.shared.shortcuts.load_full();
            let pipeline = Tapped::new(pipeline, Arc::clone(&self.crew.tap), shortcuts);
            let host = |port: PortId, frame: &[u8]| self.crew.punt.send(port, frame);
            let mut worker = Worker::new(&mut lane, pipeline, host, Arc::clone(&self.counters));
            let publish = |port: usize, seen: Losses| {
                if let Some(losses) = self.losses.lock().get_mut(port) {
                    *losses = seen;
                }
            };
            let pace = Pace { spin: self.crew.spin };
            let run = AssertUnwindSafe(|| worker.run(&self.bell, pace, publish));
            if catch_unwind(run).is_err() {
                // The panic's own message is on standard error already.
                tracing::error!(worker = self.index, "the worker panicked and is started again");
                self.counters.restarted();
                // A frame that is poison must not fill the log at line rate.
                std::thread::sleep(RESTART_PAUSE);
            }
        }
    }
}

const RESTART_PAUSE: Duration = Duration::from_millis(10);
