//! Sends events to a collector, as IPFIX over UDP (RFC 7011, section 10.3; RFC 8158).
//!
//! One thread that looks into the queue some times a second, so that no worker ever wakes it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::pipeline::shared::Shared;
use crate::telemetry::events::Events;
use crate::telemetry::ipfix::Messages;
use crate::time::Tick;
use crate::worker;

/// The thread that exports. It ends when this is dropped, after a last look.
pub(super) struct Export {
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Export {
    /// Starts to send the events of `shared` to `collector`.
    ///
    /// # Errors
    /// When there can be no socket or thread.
    pub fn start(shared: Arc<Shared>, collector: SocketAddr) -> io::Result<Self> {
        let any = match collector {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        // A collector that takes nothing costs events, not time.
        socket.set_nonblocking(true)?;
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopping);
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            let Some(events) = &shared.events else { return };
            let mut exporter =
                Exporter { socket, collector, messages: Messages::new(1), templates_due: None };
            while !stop.load(Ordering::Relaxed) {
                exporter.drain(events);
                std::thread::park_timeout(LOOK_EVERY);
            }
            exporter.drain(events);
        })?;
        Ok(Self { is_stopping, thread: Some(thread) })
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Exporter {
    socket: UdpSocket,
    collector: SocketAddr,
    messages: Messages,
    /// When the templates are sent again; none before the first time.
    templates_due: Option<Instant>,
}

impl Exporter {
    /// Sends what is in the queue.
    fn drain(&mut self, events: &Events) {
        let now = Instant::now();
        if self.templates_due.is_none_or(|due| due <= now) {
            self.templates_due = Some(now + TEMPLATES_EVERY);
            self.messages.add_templates();
            self.send(events);
        }
        let clock = Clock::now();
        while let Some(event) = events.pop() {
            let at_ms = clock.unix_ms(event.at);
            if !self.messages.add(at_ms, &event.what) {
                self.send(events);
                // An empty message has room for every record.
                self.messages.add(at_ms, &event.what);
            }
        }
        self.send(events);
    }

    fn send(&mut self, events: &Events) {
        let seconds = Clock::now().unix_ms / 1000;
        let mut is_sent = false;
        let records = self.messages.finish(u32::try_from(seconds).unwrap_or(u32::MAX), |bytes| {
            is_sent = self.socket.send_to(bytes, self.collector).is_ok();
        });
        let records = u64::from(records.unwrap_or_default());
        if is_sent { events.count(records, 0) } else { events.count(0, records) }
    }
}

/// The workers' clock beside that of the world.
struct Clock {
    tick: Tick,
    unix_ms: u64,
}

impl Clock {
    fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        Self { tick: worker::now(), unix_ms }
    }

    fn unix_ms(&self, at: Tick) -> u64 {
        (self.unix_ms + at.as_ms()).saturating_sub(self.tick.as_ms())
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Over UDP nobody says that a template was lost (RFC 7011, section 8.4).
const TEMPLATES_EVERY: Duration = Duration::from_secs(60);
