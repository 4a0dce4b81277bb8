//! The router's own kernel: what it knows of links and neighbours, asked and followed over netlink,
//! and what natwerk does on the interfaces beside forwarding.
//!
//! One thread, asleep until the kernel says something, a worker wants a next hop, or the rules
//! change. Workers never wait for it: they read [`NextHops`], which it keeps true.
//!
//! With `manage_addresses` it also puts the rules' addresses on untagged interfaces, announces them,
//! and notices whoever else claims them. They stay when it stops, so that the router's own services
//! do. Without it nothing on the interfaces is changed.

pub mod addresses;
pub mod arp;
mod capsules;
pub mod netlink;
mod nics;
pub mod plan;
#[cfg(feature = "af-xdp")]
pub mod punt;
pub mod resolve;
pub mod sysctl;
pub mod view;
mod watch;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::event::EventfdFlags;

pub use self::nics::nics;
use self::plan::Plan;
use self::view::View;
use self::watch::Watch;
use crate::flow::PortId;
use crate::next_hop::NextHops;

/// What [`Host::start`] needs.
pub struct HostOptions {
    /// The interfaces and the kernel's names for them.
    pub ports: Vec<(PortId, String)>,
    /// What to keep true.
    pub next_hops: Arc<NextHops>,
    /// The rules' part in it, [`Plan::of`] the policy; [`Host::apply`] follows its changes.
    pub plan: Plan,
    /// Whether to put the plan's addresses on the interfaces and announce them.
    pub manage_addresses: bool,
}

/// Why [`Host::start`] failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel does not talk to us.
    #[error("cannot ask the kernel for links, addresses and neighbours over netlink: {0}")]
    Netlink(io::Error),
    /// No thread.
    #[error("cannot start the thread that follows the kernel: {0}")]
    Thread(io::Error),
    /// No descriptor to wake the thread with.
    #[error("cannot make an eventfd: {0}")]
    Waker(io::Error),
}

/// The running thread.
pub struct Host {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread shares with others.
struct Shared {
    view: Mutex<View>,
    /// Grows when the view changes.
    version: AtomicU64,
    /// A plan that the thread has not taken yet.
    new_plan: Mutex<Option<Plan>>,
    is_stopping: AtomicBool,
    bell: Arc<Bell>,
}

/// Wakes the thread from `poll`.
struct Bell(OwnedFd);

impl Host {
    /// Learns what the kernel knows now, so that interfaces and neighbours are true when this
    /// returns, and follows it from then on. Addresses by the thousand may still be on their way.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked. An interface that does not exist is none: it may come.
    pub fn start(options: HostOptions) -> Result<Self, HostError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = rustix::event::eventfd(0, flags).map_err(|e| HostError::Waker(e.into()))?;
        let shared = Arc::new(Shared {
            view: Mutex::new(View::default()),
            version: AtomicU64::new(0),
            new_plan: Mutex::new(None),
            is_stopping: AtomicBool::new(false),
            bell: Arc::new(Bell(bell)),
        });
        options.next_hops.set_waker(Waker::from(Arc::clone(&shared.bell)));
        let mut watch = Watch::new(options, Arc::clone(&shared)).map_err(HostError::Netlink)?;
        let thread = std::thread::Builder::new()
            .name("host".to_owned())
            .spawn(move || watch.run())
            .map_err(HostError::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Follows new rules. Returns at once; addresses are set and announced within milliseconds.
    pub fn apply(&self, plan: Plan) {
        *self.shared.new_plan.lock() = Some(plan);
        self.shared.bell.ring();
    }

    /// What the kernel has now, as far as it has told.
    #[must_use]
    pub fn view(&self) -> View {
        self.shared.view.lock().clone()
    }

    /// Another number for each view: who has seen a number need not look again.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Whether the thread is still there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread. Addresses stay on the interfaces.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows the kernel had panicked");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

impl Bell {
    fn ring(&self) {
        // The only failure is a counter that is full, and then the thread is being woken already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Until the next ring.
    fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
