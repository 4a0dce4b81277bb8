//! Sleeping until something happens on one of several descriptors.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
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
        let longest = libc::timespec {
            tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(longest.subsec_nanos()),
        };
        let count = libc::nfds_t::try_from(self.polled.len()).unwrap_or(0);
        // SAFETY: the pointer and count are those of a vector, and the time is a local, that outlive
        // the call; no signal mask is given.
        let woken = unsafe {
            libc::ppoll(self.polled.as_mut_ptr(), count, &raw const longest, ptr::null())
        };
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

/// Has the calling thread's sleeps end when they were asked to: the kernel adds up to 50 us otherwise,
/// so that it wakes less often.
pub fn be_punctual() {
    // Who is refused sleeps a little longer.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// How long a worker looks for frames before it sleeps.
///
/// Looking pays where frames arrive meanwhile. Where what brings them runs on the worker's own core
/// none can, and each look takes time from it. So whoever has looked in vain looks a quarter as
/// long the next time, and once in a while as long as ever, to see whether it pays now.
#[derive(Debug)]
pub struct Patience {
    looks: u32,
    looks_max: u32,
    sleeps: u32,
}

impl Patience {
    /// Looks as long as ever.
    #[must_use]
    pub fn new() -> Self {
        Self { looks: 0, looks_max: LOOKS_MAX, sleeps: 0 }
    }

    /// Something came. If it came while we looked, looking pays.
    pub fn reward(&mut self) {
        if self.looks > 0 {
            self.looks = 0;
            self.looks_max = LOOKS_MAX;
        }
    }

    /// Nothing came. Whether it is time to sleep.
    pub fn is_over(&mut self) -> bool {
        if self.looks < self.looks_max {
            self.looks += 1;
            return false;
        }
        self.looks = 0;
        self.sleeps = self.sleeps.wrapping_add(1);
        let tries_again = self.sleeps.is_multiple_of(SLEEPS_BETWEEN_TRIES);
        self.looks_max = if tries_again { LOOKS_MAX } else { self.looks_max / 4 };
        true
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

fn readable(descriptor: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Some tens of microseconds.
const LOOKS_MAX: u32 = 200;
const SLEEPS_BETWEEN_TRIES: u32 = 256;

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

    /// How often nothing must come until it is time to sleep.
    fn looks(patience: &mut Patience) -> u32 {
        let mut count = 0;
        while !patience.is_over() {
            count += 1;
        }
        count
    }

    #[test]
    fn who_looks_in_vain_soon_sleeps_at_once_and_tries_again_later() {
        let mut patience = Patience::new();
        let looked: Vec<_> = (1..SLEEPS_BETWEEN_TRIES).map(|_| looks(&mut patience)).collect();
        assert_eq!(looked[..6], [200, 50, 12, 3, 0, 0]);
        assert_eq!(looked.iter().sum::<u32>(), 265);
        assert_eq!([looks(&mut patience), looks(&mut patience)], [0, 200]);
    }

    #[test]
    fn who_finds_something_looks_as_long_as_ever() {
        let mut patience = Patience::new();
        assert_eq!([looks(&mut patience), looks(&mut patience)], [200, 50]);
        // What a sleep brought says nothing about looking.
        patience.reward();
        assert_eq!(looks(&mut patience), 12);
        assert!(!patience.is_over());
        patience.reward();
        assert_eq!(looks(&mut patience), 200);
    }
}
