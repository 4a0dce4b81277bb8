//! What a network, and each of its guests, may send and receive: bytes and packets per second.
//!
//! Token buckets, each kept as the one moment at which it will be full again. All workers share
//! them, so a network gets its rate whichever workers its packets come to: one atomic change a limit
//! and packet of a limited network, and nothing for others.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Tick;
use crate::verdict::DropReason;

/// What may pass per second, each way. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rate {
    /// Bytes of IP packets.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

/// The rates of a network.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rates {
    /// Of all its guests together.
    pub network: Rate,
    /// Of each guest.
    pub guest: Rate,
}

/// Which way a packet goes, as a guest sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// To a guest.
    Received,
    /// From a guest.
    Sent,
}

/// A network's limits and how much of them is used.
#[derive(Debug)]
pub struct NetworkLimits {
    rates: Rates,
    received: Buckets,
    sent: Buckets,
    /// By the guest's address; guests of very large networks share some.
    guests_received: Box<[Buckets]>,
    guests_sent: Box<[Buckets]>,
    refused: AtomicU64,
}

/// What was taken of a [`Rate`].
#[derive(Debug, Default)]
#[repr(align(16))]
struct Buckets {
    bytes: Bucket,
    packets: Bucket,
}

/// When, in nanoseconds of the clock, it will be full again.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Rates {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

impl NetworkLimits {
    /// The limits of a network with room for `guests` guests.
    #[must_use]
    pub fn new(rates: Rates, guests: u64) -> Self {
        let count = usize::try_from(guests).unwrap_or(GUESTS_MAX).clamp(1, GUESTS_MAX);
        let count = if rates.guest == Rate::default() { 0 } else { count };
        let buckets = || (0..count).map(|_| Buckets::default()).collect();
        Self {
            rates,
            received: Buckets::default(),
            sent: Buckets::default(),
            guests_received: buckets(),
            guests_sent: buckets(),
            refused: AtomicU64::new(0),
        }
    }

    /// What is limited.
    #[must_use]
    pub const fn rates(&self) -> Rates {
        self.rates
    }

    /// How many packets were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes a packet of `bytes` bytes from what `guest` and its network may use. What one limit
    /// gave is not given back when the next one refuses: it comes again by itself.
    ///
    /// # Errors
    /// When it is used up.
    pub fn take(&self, way: Way, guest: IpAddr, bytes: u16, now: Tick) -> Result<(), DropReason> {
        let (network, guests) = match way {
            Way::Received => (&self.received, &self.guests_received),
            Way::Sent => (&self.sent, &self.guests_sent),
        };
        let own = place(guest, guests.len()).and_then(|place| guests.get(place));
        let refused = if own.is_some_and(|own| !own.take(self.rates.guest, bytes, now)) {
            DropReason::GuestRateExceeded
        } else if !network.take(self.rates.network, bytes, now) {
            DropReason::NetworkRateExceeded
        } else {
            return Ok(());
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(refused)
    }
}

impl Buckets {
    fn take(&self, rate: Rate, bytes: u16, now: Tick) -> bool {
        self.packets.take(1, rate.packets, BURST_PACKETS, now)
            && self.bytes.take(u64::from(bytes), rate.bytes, BURST_BYTES, now)
    }
}

impl Bucket {
    /// Takes `amount` of what comes at `per_second`, unless more than the burst would be gone.
    fn take(&self, amount: u64, per_second: u64, burst: u64, now: Tick) -> bool {
        let share_ns = |amount: u64| amount.saturating_mul(NS_PER_S).checked_div(per_second);
        let (Some(cost_ns), Some(burst_ns)) = (share_ns(amount), share_ns(burst)) else {
            return true;
        };
        let now_ns = now.as_ms().saturating_mul(NS_PER_MS);
        let latest = now_ns.saturating_add(burst_ns.max(BURST_NS));
        let after = |full: u64| {
            let after = full.max(now_ns).saturating_add(cost_ns);
            (after <= latest).then_some(after)
        };
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, after).is_ok()
    }
}

/// The place of a guest among `count`; none if there are no places.
fn place(guest: IpAddr, count: usize) -> Option<usize> {
    let bits = match guest {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    let place = bits.checked_rem(u64::try_from(count).ok()?)?;
    usize::try_from(place).ok()
}

/// The burst: a tenth of a second, but at least some full packets.
const BURST_NS: u64 = NS_PER_S / 10;
const BURST_BYTES: u64 = 1 << 16;
const BURST_PACKETS: u64 = 64;
/// Guests of one network that are told apart.
const GUESTS_MAX: usize = 1 << 16;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 5));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 6));

    fn limits(network: Rate, guest: Rate) -> NetworkLimits {
        NetworkLimits::new(Rates { network, guest }, 256)
    }

    fn passed(limits: &NetworkLimits, way: Way, guest: IpAddr, bytes: u16, ms: u64) -> usize {
        let take = || limits.take(way, guest, bytes, Tick::from_ms(ms));
        (0..10_000).filter(|_| take().is_ok()).count()
    }

    #[test]
    fn packets_are_limited_each_way_and_recover() {
        let limits = limits(Rate { packets: 1000, bytes: 0 }, Rate::default());
        assert_eq!(passed(&limits, Way::Sent, GUEST, 1500, 5000), 100);
        assert_eq!(passed(&limits, Way::Received, GUEST, 1500, 5000), 100);
        assert_eq!(
            passed(&limits, Way::Sent, OTHER, 1500, 5000),
            0,
            "the network's, not the guest's"
        );
        assert_eq!(passed(&limits, Way::Sent, GUEST, 1500, 5010), 10);
        assert_eq!(passed(&limits, Way::Sent, GUEST, 1500, 60_000), 100, "no more than the burst");
        assert_eq!(limits.refused(), 9900 * 3 + 10_000 + 9990);
    }

    #[test]
    fn a_low_rate_lets_whole_packets_pass() {
        let limits = limits(Rate { bytes: 125, packets: 0 }, Rate::default());
        assert_eq!(passed(&limits, Way::Sent, GUEST, u16::MAX, 5000), 1);
    }

    #[test]
    fn a_guest_leaves_the_others_their_share() {
        let limits = limits(Rate::default(), Rate { packets: 1000, bytes: 0 });
        let reason = |guest| limits.take(Way::Sent, guest, 100, Tick::from_ms(5000));
        assert_eq!(passed(&limits, Way::Sent, GUEST, 100, 5000), 100);
        assert_eq!(reason(GUEST), Err(DropReason::GuestRateExceeded));
        assert_eq!(reason(OTHER), Ok(()));
    }

    #[test]
    fn workers_together_get_no_more_than_one() {
        let limits = limits(Rate { bytes: 1_000_000, packets: 0 }, Rate::default());
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| passed(&limits, Way::Sent, GUEST, 1000, 5000)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 100);
    }

    proptest! {
        #[test]
        fn nothing_exceeds_rate_and_burst(
            bytes in 1_000..10_000_000_u64,
            packets in prop::collection::vec((0..50_u64, 20..=1500_u16), 1..300),
        ) {
            let limits = limits(Rate { bytes, packets: 0 }, Rate::default());
            let (mut now, mut total, start) = (5000, 0, 5000);
            for (pause, length) in packets {
                now += pause;
                if limits.take(Way::Received, GUEST, length, Tick::from_ms(now)).is_ok() {
                    total += u64::from(length);
                }
                let burst = BURST_BYTES.max(bytes / 10);
                let due = burst + bytes * (now - start) / 1000;
                prop_assert!(total <= due + 300, "{total} of {due}");
            }
        }
    }
}
