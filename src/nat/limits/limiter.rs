//! Token buckets that workers share without contending for them.
//!
//! Each worker draws tokens from a bucket's stock by the lot into a purse of its own and pays
//! packets from there, so the stock's cache line is written once a lot instead of once a packet. All
//! purses together hold at most a sixteenth of the burst, and the stock keeps that much less: nothing
//! passes that one plain bucket of the same rate and burst would not have let pass, and nothing is
//! refused while such a bucket would still have an eighth of its burst (and the packet) left. Rates
//! too low for lots worth drawing have none, and are exact: few packets pass, so few writes meet.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::nat::limits::Rate;
use crate::time::Tick;

/// Token buckets of one rate, one for each place.
#[derive(Debug)]
pub struct Limiter {
    packets: Meter,
    bytes: Meter,
    /// What is there for all workers, by place.
    stocks: Box<[Stock]>,
    /// What each worker has drawn of it, by place; nothing if no lots are drawn.
    purses: Box<[Purses]>,
}

/// How one kind of token comes and is drawn.
#[derive(Debug)]
struct Meter {
    /// Zero means no limit.
    per_second: u64,
    /// How long an empty stock takes to fill.
    filled_after_ns: u64,
    /// What a worker draws beyond its need; zero if it draws just that.
    lot: u32,
}

/// When, in nanoseconds of the clock, each kind will be full again.
#[derive(Debug, Default)]
#[repr(align(16))]
struct Stock {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// A worker's purses, which no other worker writes.
type Purses = Box<[Line]>;

/// A cache line of purses.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Purse; PURSES_PER_LINE]);

/// Tokens that a worker drew.
#[derive(Debug, Default)]
struct Purse {
    packets: AtomicU32,
    bytes: AtomicU32,
}

impl Limiter {
    /// Full buckets of `rate` for `places` places, for workers numbered below `workers`. Others may
    /// take from them as well, at the price of a shared write a packet.
    #[must_use]
    pub fn new(rate: Rate, places: usize, workers: usize) -> Self {
        let places = if rate == Rate::default() { 0 } else { places };
        let packets = Meter::new(rate.packets, BURST_PACKETS, LOT_PACKETS_MIN, workers);
        let bytes = Meter::new(rate.bytes, BURST_BYTES, LOT_BYTES_MIN, workers);
        let with_purses = if packets.lot == 0 && bytes.lot == 0 { 0 } else { workers };
        let lines = places.div_ceil(PURSES_PER_LINE);
        Self {
            packets,
            bytes,
            stocks: (0..places).map(|_| Stock::default()).collect(),
            purses: (0..with_purses)
                .map(|_| (0..lines).map(|_| Line::default()).collect())
                .collect(),
        }
    }

    /// How many places there are: none without a limit.
    #[must_use]
    pub fn places(&self) -> usize {
        self.stocks.len()
    }

    /// Takes a packet of `bytes` bytes from the buckets of `place`, on `worker`. A place that does
    /// not exist has no limit. If there are no bytes for it, the packet's own token is gone all the
    /// same: it comes again by itself.
    #[must_use]
    pub fn take(&self, place: usize, worker: usize, bytes: u16, now: Tick) -> bool {
        let Some(stock) = self.stocks.get(place) else { return true };
        let purse = self.purse(place, worker);
        let now_ns = now.as_ms().saturating_mul(NS_PER_MS);
        self.packets.take(&stock.packets, purse.map(|purse| &purse.packets), 1, now_ns)
            && self.bytes.take(&stock.bytes, purse.map(|purse| &purse.bytes), bytes.into(), now_ns)
    }

    fn purse(&self, place: usize, worker: usize) -> Option<&Purse> {
        let Line(line) = self.purses.get(worker)?.get(place / PURSES_PER_LINE)?;
        line.get(place % PURSES_PER_LINE)
    }
}

impl Meter {
    fn new(per_second: u64, burst_min: u64, lot_min: u64, workers: usize) -> Self {
        let workers = u64::try_from(workers.max(1)).unwrap_or(u64::MAX);
        let burst = (per_second / BURSTS_PER_SECOND).max(burst_min);
        let lot = burst / workers.saturating_mul(PURSES_SHARE);
        let lot = if lot < lot_min { 0 } else { u32::try_from(lot).unwrap_or(u32::MAX) };
        let mut meter = Self { per_second, filled_after_ns: 0, lot };
        meter.filled_after_ns = meter.ns_of(burst - u64::from(lot) * workers);
        meter
    }

    /// Takes `amount` from `purse`, or from `stock` and some more for the next packets.
    fn take(&self, stock: &AtomicU64, purse: Option<&AtomicU32>, amount: u32, now_ns: u64) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let Some(purse) = purse.filter(|_| self.lot > 0) else {
            return self.draw(stock, amount.into(), 0, now_ns).is_some();
        };
        // Only this worker writes it, so load and store need not be one.
        let held = purse.load(Ordering::Relaxed);
        let left = match held.checked_sub(amount) {
            Some(left) => Some(left),
            None => self.draw(stock, (amount - held).into(), self.lot, now_ns),
        };
        if let Some(left) = left {
            purse.store(left, Ordering::Relaxed);
        }
        left.is_some()
    }

    /// Draws `needed` from `stock`, and up to `lot` more: so much is returned.
    fn draw(&self, stock: &AtomicU64, needed: u64, lot: u32, now_ns: u64) -> Option<u32> {
        let latest = now_ns.saturating_add(self.filled_after_ns);
        let mut more = 0;
        let drawn = |full: u64| {
            let full = full.max(now_ns);
            let spare = self.tokens_of(latest.checked_sub(full)?).checked_sub(needed)?;
            more = u32::try_from(spare).unwrap_or(u32::MAX).min(lot);
            Some(full.saturating_add(self.ns_of(needed + u64::from(more))))
        };
        stock.try_update(Ordering::Relaxed, Ordering::Relaxed, drawn).ok()?;
        Some(more)
    }

    /// How long `tokens` take to come, rounded up.
    fn ns_of(&self, tokens: u64) -> u64 {
        let ns = tokens.saturating_mul(NS_PER_S);
        // Without a limit nobody asks.
        ns.div_ceil(self.per_second.max(1))
    }

    /// How many tokens come in `ns`, rounded down.
    const fn tokens_of(&self, ns: u64) -> u64 {
        ns.saturating_mul(self.per_second) / NS_PER_S
    }
}

/// The burst: a tenth of a second, but at least some full packets.
const BURSTS_PER_SECOND: u64 = 10;
const BURST_BYTES: u64 = 1 << 16;
const BURST_PACKETS: u64 = 64;
/// All workers' purses together hold one part in so many of the burst.
const PURSES_SHARE: u64 = 16;
/// Lots smaller than some packets are not worth their purse.
const LOT_PACKETS_MIN: u64 = 16;
const LOT_BYTES_MIN: u64 = 16 * 1500;
const PURSES_PER_LINE: usize = 64 / size_of::<Purse>();
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One plain bucket in whole numbers: thousandths of a token.
    struct Plain {
        per_second: u64,
        burst: u64,
        level: u128,
        ms: u64,
    }

    impl Plain {
        fn full(per_second: u64, burst: u64) -> Self {
            Self { per_second, burst, level: u128::from(burst) * 1000, ms: 0 }
        }

        fn pass_to(&mut self, ms: u64) {
            self.level += u128::from(self.per_second) * u128::from(ms - self.ms);
            self.level = self.level.min(u128::from(self.burst) * 1000);
            self.ms = ms;
        }

        fn take(&mut self, amount: u64) -> bool {
            let after = self.level.checked_sub(u128::from(amount) * 1000);
            self.level = after.unwrap_or(self.level);
            after.is_some()
        }
    }

    /// What rounding to nanoseconds may add up to after `draws` draws.
    fn rounding(per_second: u64, draws: u64) -> u64 {
        per_second * draws / NS_PER_S + 2
    }

    /// Packets that come at once: after how many milliseconds, to which worker, how many, how long.
    fn crowds() -> impl Strategy<Value = Vec<(u64, usize, u64, u16)>> {
        prop::collection::vec((0..60_u64, 0..4_usize, 1..3000_u64, 20..=1500_u16), 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn purses_give_what_one_plain_bucket_would(
            per_second in prop_oneof![1..100_000_u64, 100_000..50_000_000_u64, 1..20_000_000_000_u64],
            of_bytes in any::<bool>(),
            crowds in crowds(),
        ) {
            let (rate, burst) = if of_bytes {
                (Rate { bytes: per_second, packets: 0 }, BURST_BYTES)
            } else {
                (Rate { bytes: 0, packets: per_second }, BURST_PACKETS)
            };
            // Worker 3 has no purse.
            let limiter = Limiter::new(rate, 1, 3);
            let burst = burst.max(per_second / BURSTS_PER_SECOND);
            let mut most = Plain::full(per_second, burst + rounding(per_second, 1));
            let mut plain = Plain::full(per_second, burst);
            let (mut ms, mut draws) = (0, 0);
            for (pause, worker, count, bytes) in crowds {
                ms += pause;
                most.pass_to(ms);
                plain.pass_to(ms);
                let amount = if of_bytes { u64::from(bytes) } else { 1 };
                for _ in 0..count {
                    draws += 1;
                    if limiter.take(0, worker, bytes, Tick::from_ms(ms)) {
                        prop_assert!(most.take(amount), "more than rate and burst");
                        // What rounding gives may be more than the bucket has.
                        plain.level = plain.level.saturating_sub(u128::from(amount) * 1000);
                    } else {
                        let kept = burst / 8 + amount + rounding(per_second, draws);
                        let left = plain.level / 1000;
                        prop_assert!(left <= u128::from(kept), "refused at {left} of {burst}");
                    }
                }
            }
        }
    }

    #[test]
    fn threads_together_get_the_burst_and_no_more() {
        const BYTES: u64 = 100_000_000;
        let limiter = Limiter::new(Rate { bytes: BYTES, packets: 0 }, 1, 4);
        let take = |worker| limiter.take(0, worker, 1000, Tick::from_ms(5000));
        let total: usize = std::thread::scope(|scope| {
            let passed = |worker| (0..20_000).filter(|_| take(worker)).count();
            let threads: Vec<_> =
                (0..4).map(|worker| scope.spawn(move || passed(worker))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((9370..=10_000).contains(&total), "{total}");
    }

    #[test]
    fn the_stock_is_written_once_a_lot() {
        let limiter = Limiter::new(Rate { bytes: 0, packets: 10_000_000 }, 1, 2);
        let mut writes = 0;
        let mut before = 0;
        for _ in 0..300_000 {
            assert!(limiter.take(0, 1, 64, Tick::from_ms(5000)));
            let now = limiter.stocks[0].packets.load(Ordering::Relaxed);
            writes += usize::from(now != before);
            before = now;
        }
        assert_eq!(writes, 300_000_usize.div_ceil(1_000_000 / 32 + 1));
    }

    #[test]
    fn places_do_not_share() {
        let limiter = Limiter::new(Rate { bytes: 0, packets: 100_000 }, 20, 2);
        let passed =
            |place| (0..20_000).filter(|_| limiter.take(place, 0, 64, Tick::from_ms(5000))).count();
        let alone = passed(7);
        assert!((9000..=10_000).contains(&alone), "{alone}");
        assert_eq!(passed(8), alone);
        assert_eq!(passed(20), 20_000, "a place that does not exist");
    }
}
