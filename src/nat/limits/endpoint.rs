//! What may pass by public endpoints, one way.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::nat::limits::Rate;
use crate::nat::limits::limiter::Limiter;
use crate::time::Tick;
use crate::verdict::DropReason;

/// A limit of one public endpoint, or of several together.
#[derive(Debug)]
pub struct EndpointLimit {
    rate: Rate,
    limiter: Limiter,
    refused: AtomicU64,
}

impl EndpointLimit {
    /// A limit of `rate`, for workers numbered below `workers`.
    #[must_use]
    pub fn new(rate: Rate, workers: usize) -> Self {
        Self { rate, limiter: Limiter::new(rate, 1, workers), refused: AtomicU64::new(0) }
    }

    /// What it lets pass.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// How many packets it refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes a packet of `bytes` bytes on `worker`.
    ///
    /// # Errors
    /// When it is used up.
    pub fn take(&self, worker: usize, bytes: u16, now: Tick) -> Result<(), DropReason> {
        if self.limiter.take(0, worker, bytes, now) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(DropReason::AddressRateExceeded)
    }
}
