//! The running engine: started in order, or not at all; then one thread that hears commands and
//! looks after everything once a second.
//!
//! Order matters. What can fail without a trace comes first, the interfaces come last, and what is
//! dropped on the way out undoes itself: programs off, sockets closed, sessions kept in their file.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{Config, OnStop, XdpMode};
use crate::control::server::Server as ControlServer;
use crate::engine::checks::{self, StateLock};
use crate::engine::dataplane::{Crew, Dataplane};
use crate::engine::error::StartError;
use crate::engine::export::Export;
use crate::engine::files::{Changes, FileWatch, fingerprint};
use crate::engine::handle::{Command, EngineHandle, ReloadReport};
use crate::engine::health::HealthChecks;
use crate::engine::review::Review;
use crate::engine::rules::Rules;
use crate::engine::state;
use crate::engine::steering::steering;
use crate::flow::PortId;
use crate::host::plan::Plan;
use crate::host::punt::Punt;
use crate::host::{Host, HostOptions, sysctl};
use crate::io::xdp::device::Device;
use crate::io::xdp::steering::Steering;
use crate::next_hop::NextHops;
use crate::pipeline::reclaim::Reclaimer;
use crate::pipeline::shared::{Settings, Shared};
use crate::policy::publish::Published;
use crate::rules::set::PortRange;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::prometheus::Server as MetricsServer;
use crate::worker;

/// Everything that runs. Fields are dropped in their order.
pub(super) struct Engine {
    pub(super) handle: EngineHandle,
    commands: Receiver<Command>,
    /// None while a device is gone for good and has not come back.
    pub(super) dataplane: Option<Dataplane>,
    _export: Option<Export>,
    _health: HealthChecks,
    _control: ControlServer,
    _metrics: Option<MetricsServer>,
    pub(super) files: Option<FileWatch>,
    /// What rule files looked like when they were last read.
    pub(super) fingerprint: u64,
    /// What the file watch's last reload did and when, while nobody was told.
    pub(super) untold: Option<(Instant, ReloadReport)>,
    /// The look at the sessions that the last reload brought about, while it is on.
    pub(super) review: Option<Review>,
    /// What frees next hops that nobody sends to any more.
    pub(super) reclaimer: Reclaimer,
    /// When it takes its next step.
    pub(super) reclaim_due: Instant,
    pub(super) host: Host,
    crew: Crew,
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Rules,
    lost_since: Option<Instant>,
    /// What the programs were last told after: a version of the kernel's view, its own ports.
    steered_after: Option<(u64, Option<PortRange>)>,
    _lock: StateLock,
}

/// Runs the engine until it is told to stop: by SIGTERM, SIGINT, or [`EngineHandle::stop`].
///
/// # Errors
/// When it cannot be started; everything is as it was then.
pub fn run(config: Config) -> Result<(), StartError> {
    let mut engine = Engine::start(config)?;
    let signals = hear_signals(&engine.handle)?;
    engine.announce();
    engine.serve();
    signals.close();
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let kept = engine.shared.sessions.len() + engine.shared.sessions_ipv6.len();
    tracing::info!("stopping; {kept} sessions are kept");
    if engine.handle.config().workers.on_stop == OnStop::Hold
        && let Some(dataplane) = engine.dataplane.take()
    {
        dataplane.pause();
    }
    Ok(())
}

impl Engine {
    fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        checks::capabilities()?;
        let devices = checks::devices(&config)?;
        let processors = core_affinity::get_core_ids().map_or(1, |cores| cores.len());
        let workers = checks::worker_count(&config, &devices, processors)?;
        let lock = StateLock::take(&config.state_dir)?;
        let fingerprint = fingerprint(&config);
        let mut rules = Rules::load(&config).map_err(StartError::Rules)?;
        warn_of(&devices, &rules);

        let seed = state::random_seed().map_err(StartError::Random)?;
        let (sessions, sessions_ipv6) = state::open_sessions(&config, seed, &mut rules)?;
        rules.registry.set_workers(workers);
        let policy = rules.compile(&config, state::unused_generation(&sessions, &sessions_ipv6));
        state::save_registry(&config, &rules.registry);
        let plan = Plan::of(&policy);
        let next_hops = Arc::new(NextHops::new(NEXT_HOPS_MAX));
        let ports = devices.iter().map(|(port, device)| (*port, device.name.clone()));
        let ports: Vec<_> = ports.collect();
        let settings = Settings::new(&config, workers, seed);
        let published = Published::new(policy);
        let shared =
            Shared::new(sessions, sessions_ipv6, Arc::clone(&next_hops), published, settings);
        let shared = Arc::new(shared);
        let adopted = shared.adopt(&shared.policy.load(), worker::now());
        tracing::info!(sessions = adopted, "session table ready");
        let host = Host::start(HostOptions {
            ports: ports.clone(),
            next_hops,
            plan,
            manage_addresses: config.manage_addresses,
        })?;

        let (handle, commands) = EngineHandle::new(Arc::clone(&config));
        handle.set_rules(rules.current(), Arc::clone(&rules.pending));
        let (control, metrics) = state::serve(&config, &handle, &shared)?;
        let punt = Arc::new(Punt::open(&ports)?);
        let counters = (0..workers).map(|_| Arc::new(WorkerCounters::new(ports.len())));
        let crew = Crew {
            shared: Arc::clone(&shared),
            counters: counters.collect(),
            punt,
            tap: Arc::clone(handle.tap()),
            spin: config.workers.spin,
        };
        let steering = steering(&config, &rules.current(), &host.view(), local_ports());
        let dataplane = Dataplane::start(&config, devices, steering, &crew)?;
        let health = HealthChecks::start(Arc::clone(&shared), Arc::clone(&config))
            .map_err(StartError::Health)?;
        let export = config
            .events
            .as_ref()
            .map(|events| Export::start(Arc::clone(&shared), events.collector))
            .transpose()
            .map_err(StartError::Export)?;
        let mut engine = Self {
            _export: export,
            _health: health,
            files: watch_files(&handle),
            fingerprint,
            untold: None,
            review: None,
            reclaimer: Reclaimer::new(),
            reclaim_due: Instant::now(),
            handle,
            commands,
            dataplane: Some(dataplane),
            _control: control,
            _metrics: metrics,
            host,
            crew,
            shared,
            rules,
            lost_since: None,
            steered_after: None,
            _lock: lock,
        };
        engine.watch_rule_files();
        engine.show();
        Ok(engine)
    }

    /// Tells people and systemd that everything works.
    fn announce(&self) {
        let interfaces = self.handle.interfaces();
        let interfaces = interfaces.iter().map(|interface| {
            format!("interface={} mode={}", interface.name, mode_name(interface.mode))
        });
        let interfaces: Vec<_> = interfaces.collect();
        let line = format!("ready {} workers={}", interfaces.join(" "), self.crew.counters.len());
        // Nobody may be reading.
        let _ = writeln!(io::stdout(), "{line}");
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            tracing::warn!("systemd cannot be told that natwerk is ready: {error}");
        }
    }

    /// Hears commands until one says stop.
    fn serve(&mut self) {
        let mut next_look = Instant::now() + LOOK_EVERY;
        let mut changed: Option<Changes> = None;
        loop {
            let due = changed.map_or(next_look, |changes| changes.due.min(next_look));
            let due = self.review_due().map_or(due, |look| due.min(look)).min(self.reclaim_due);
            match self.commands.recv_deadline(due) {
                Ok(Command::Reload(reply)) => {
                    changed = None;
                    self.reload_asked(reply);
                }
                Ok(Command::FilesChanged(sign, when)) => {
                    changed = Some(Changes::noticed(changed, sign, when));
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if let Some(changes) = changed.take_if(|changes| changes.due <= now) {
                self.reload_changed(changes.first);
            }
            self.look_at_review();
            self.reclaim_next_hops();
            if next_look <= now {
                next_look = now + LOOK_EVERY;
                self.look_after();
            }
        }
    }

    /// Once a second: devices, steering, what people see, the watchdog.
    fn look_after(&mut self) {
        self.replace_lost_devices();
        self.dataplane.iter_mut().for_each(Dataplane::look_at_exits);
        self.dataplane.iter_mut().for_each(Dataplane::look_at_intakes);
        if self.steered_after != Some((self.host.version(), local_ports())) {
            self.steer();
        }
        self.show();
        if !self.host.is_running() {
            tracing::error!("the thread that follows the kernel is gone; restart natwerk");
        }
        if sd_notify::watchdog_enabled().is_some() {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }

    /// Opens the dataplane again once every device is there, if one was deleted: its sockets are
    /// bound to what is no more.
    fn replace_lost_devices(&mut self) {
        if let Some(dataplane) = &self.dataplane {
            let lost = dataplane.lost();
            if lost.is_empty() {
                self.lost_since = None;
                return;
            }
            if self.lost_since.is_none() {
                tracing::warn!(interfaces = ?lost, "interfaces are gone, or their feeders; the others go on");
                self.lost_since = Some(Instant::now());
            }
        }
        // The others go on until all are back.
        let config = Arc::clone(self.handle.config());
        let Ok(devices) = checks::devices(&config) else { return };
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.pause();
        }
        match self.reopen(&config, devices) {
            Ok(dataplane) => {
                self.dataplane = Some(dataplane);
                self.lost_since = None;
                tracing::info!("all interfaces are back and in use again");
            }
            Err(error) => tracing::error!("interfaces cannot be used again yet: {error}"),
        }
    }

    fn reopen(
        &mut self,
        config: &Config,
        devices: Vec<(PortId, Device)>,
    ) -> Result<Dataplane, StartError> {
        let ports = devices.iter().map(|(port, device)| (*port, device.name.clone()));
        self.crew.punt = Arc::new(Punt::open(&ports.collect::<Vec<_>>())?);
        let steering = self.steering();
        Ok(Dataplane::start(config, devices, steering, &self.crew)?)
    }

    fn steering(&self) -> Vec<Steering> {
        steering(self.handle.config(), &self.rules.current(), &self.host.view(), local_ports())
    }

    /// Makes the programs go by the rules and by what the kernel has now.
    pub(super) fn steer(&mut self) {
        let seen = (self.host.version(), local_ports());
        let steering = self.steering();
        let Some(dataplane) = &mut self.dataplane else { return };
        self.steered_after = match dataplane.steer(steering) {
            Ok(()) => Some(seen),
            Err(error) => {
                tracing::error!("{error}");
                None
            }
        };
    }

    /// Shows how things are to whoever holds the handle.
    fn show(&self) {
        if let Some(dataplane) = &self.dataplane {
            self.handle.set_interfaces(dataplane.interface_status(self.handle.config()));
            self.handle.set_workers(dataplane.worker_status());
        }
    }
}

/// Turns signals into commands, on a thread that ends when the returned handle is closed.
fn hear_signals(handle: &EngineHandle) -> Result<signal_hook::iterator::Handle, StartError> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(StartError::Signals)?;
    let closer = signals.handle();
    let engine = handle.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => {
                        // What it did is in the log.
                        let _ = engine.reload();
                    }
                    _ => engine.stop(),
                }
            }
        })
        .map_err(StartError::Signals)?;
    Ok(closer)
}

fn watch_files(handle: &EngineHandle) -> Option<FileWatch> {
    let engine = handle.clone();
    let watch = FileWatch::new(move |sign| engine.files_changed(sign));
    watch
        .inspect_err(|error| {
            tracing::warn!("changes of rule files go unnoticed ({error}): use `natwerk reload`");
        })
        .ok()
}

/// What works, but most likely not as it was meant.
fn warn_of(devices: &[(PortId, Device)], rules: &Rules) {
    if sysctl::kernel_forwards().unwrap_or(false) {
        tracing::warn!(
            "the kernel forwards by itself, so packets pass unfiltered whenever natwerk does not run: {}",
            sysctl::DISABLE_FORWARDING
        );
    }
    if sysctl::kernel_forwards_ipv6().unwrap_or(false) {
        tracing::warn!(
            "the kernel forwards IPv6 by itself, so packets pass unfiltered whenever natwerk does not run: {}",
            sysctl::DISABLE_FORWARDING_IPV6
        );
    }
    let current = rules.current();
    for (_, device) in devices.iter().filter(|(_, device)| device.strips_tags) {
        let networks = current.networks.iter().map(|it| (&it.interface, it.vlan));
        let public = current.public_ips.iter().map(|it| (&it.interface, it.vlan));
        if networks.chain(public).any(|(on, vlan)| *on == device.name && vlan != 0) {
            tracing::warn!(
                "{0} may take VLAN tags off before natwerk sees them: ethtool -K {0} rxvlan off (and txvlan off at the other end of a veth)",
                device.name
            );
        }
    }
}

fn local_ports() -> Option<PortRange> {
    sysctl::local_ports().ok()
}

fn mode_name(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Auto => "auto",
        XdpMode::Copy => "copy",
        XdpMode::Skb => "skb",
        XdpMode::ZeroCopy => "zero-copy",
    }
}

/// Neighbours that can be known at once.
const NEXT_HOPS_MAX: usize = 1 << 18;
const LOOK_EVERY: Duration = Duration::from_secs(1);
