//! Coarse monotonic time as a value.
//!
//! Nothing under `pipeline` reads a clock: a worker reads it once a batch and hands a [`Tick`] in,
//! so tests, replays and fuzz targets decide what time it is.

use std::time::Duration;

/// Milliseconds of a monotonic clock (`CLOCK_MONOTONIC` in the engine, the capture's own in a replay).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tick(u64);

impl Tick {
    /// The beginning of the clock.
    pub const ZERO: Self = Self(0);

    /// A tick `ms` milliseconds after the clock's beginning.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the clock's beginning.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// This tick moved forward by `duration`, held at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The same moment on the coarse clock that session entries keep.
    #[must_use]
    pub const fn coarse(self) -> Coarse {
        // 128 ms units fill 32 bits after 17 years of uptime.
        Coarse((self.0 >> Coarse::SHIFT) as u32)
    }
}

/// Time in units of 128 ms: fine enough for timeouts of whole seconds, small enough for an entry.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Coarse(u32);

impl Coarse {
    const SHIFT: u32 = 7;

    /// The value as an entry stores it.
    #[must_use]
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// The value an entry stored.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// A duration in coarse units, rounded up so that nothing ends early.
    #[must_use]
    pub fn units(duration: Duration) -> u32 {
        let units = duration.as_millis().div_ceil(1 << Self::SHIFT);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Coarse units since `earlier`; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// This many units earlier, held at the clock's beginning.
    #[must_use]
    pub const fn before(self, units: u32) -> Self {
        Self(self.0.saturating_sub(units))
    }

    /// The first tick of this unit.
    #[must_use]
    pub const fn tick(self) -> Tick {
        Tick((self.0 as u64) << Self::SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_duration_never_ends_early() {
        assert_eq!(Coarse::units(Duration::from_millis(1)), 1);
        assert_eq!(Coarse::units(Duration::from_secs(1)), 8);
    }

    #[test]
    fn time_that_lies_ahead_is_zero_ago() {
        assert_eq!(Tick::from_ms(5).since(Tick::from_ms(9)), Duration::ZERO);
    }
}
