//! Sleeping until something happens on one of several descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

/// A bell that a sleeping worker hears. Clones are the same bell.
#[derive(Clone)]
pub struct Bell {
    state: Arc<BellState>,
}

struct BellState {
    descriptor: OwnedFd,
    stopped: AtomicBool,
}

impl Bell {
    /// A bell that nobody has rung.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { state: Arc::new(BellState { descriptor, stopped: AtomicBool::new(false) }) })
    }

    /// Wakes whoever sleeps by it, now or at the next time it lies down.
    pub fn ring(&self) {
        // A full counter rings as well as any.
        let _ = rustix::io::write(&self.state.descriptor, &1u64.to_ne_bytes());
    }

    /// Rings, and asks whoever hears it to stop.
    pub fn stop(&self) {
        self.state.stopped.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.stopped.load(Ordering::Acquire)
    }

    fn hush(&self) {
        let mut count = [0; 8];
        // Silent already is silent enough.
        let _ = rustix::io::read(&self.state.descriptor, &mut count);
    }
}

/// A bell and the descriptors to listen to beside it.
pub struct Waiter {
    bell: Bell,
    polled: Vec<libc::pollfd>,
}

impl Waiter {
    /// Listens to `bell` alone.
    #[must_use]
    pub fn new(bell: Bell) -> Self {
        let polled = vec![readable(bell.state.descriptor.as_fd())];
        Self { bell, polled }
    }

    /// Listens to `descriptor` too. Once it is closed, waiting does not fail but may not sleep.
    pub fn add(&mut self, descriptor: BorrowedFd<'_>) {
        self.polled.push(readable(descriptor));
    }

    /// Sleeps until the bell rings, something can be read, or `longest` is over. Returns whether
    /// a descriptor has failed for good, as a socket does whose device is gone.
    pub fn wait(&mut self, longest: Duration) -> bool {
        let timeout = libc::c_int::try_from(longest.as_millis()).unwrap_or(libc::c_int::MAX);
        let count = libc::nfds_t::try_from(self.polled.len()).unwrap_or(0);
        // SAFETY: the pointer and count are those of a vector that outlives the call.
        let woken = unsafe { libc::poll(self.polled.as_mut_ptr(), count, timeout) };
        if woken <= 0 {
            return false;
        }
        if self.polled.first().is_some_and(|bell| bell.revents != 0) {
            self.bell.hush();
        }
        const FAILED: libc::c_short = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        let failed = |polled: &libc::pollfd| polled.revents & FAILED != 0;
        // A descriptor that has failed would end every sleep at once: it is ignored from now on.
        let mut any_failed = false;
        for polled in self.polled.iter_mut().filter(|polled| failed(polled)) {
            polled.fd = -1;
            any_failed = true;
        }
        any_failed
    }
}

fn readable(descriptor: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_bell_that_was_rung_ends_one_sleep() {
        let bell = Bell::new().expect("a bell");
        let mut waiter = Waiter::new(bell.clone());
        let start = Instant::now();
        bell.ring();
        bell.ring();
        assert!(!waiter.wait(LONG));
        assert!(start.elapsed() < LONG);
        assert!(!bell.is_stopped());
        assert!(!waiter.wait(Duration::from_millis(1)), "silent again");
        bell.stop();
        assert!(!waiter.wait(LONG));
        assert!(bell.is_stopped());
    }

    #[test]
    fn a_descriptor_that_has_failed_is_told_once() {
        let bell = Bell::new().expect("a bell");
        let mut waiter = Waiter::new(bell);
        let (here, there) = std::os::unix::net::UnixStream::pair().expect("a pair");
        waiter.add(here.as_fd());
        drop(there);
        assert!(waiter.wait(LONG), "the other end hung up");
        assert!(!waiter.wait(Duration::from_millis(1)));
    }
}
