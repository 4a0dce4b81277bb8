//! What a network, and each of its guests, may send and receive: bytes and packets per second.
//!
//! Workers share the buckets, so a network gets its rate whichever workers its packets come to, but
//! draw from them by the lot ([`limiter`]): the path of a packet writes only what its worker owns.

mod endpoint;
pub mod limiter;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Tick;
use crate::verdict::DropReason;

pub use endpoint::EndpointLimit;
use limiter::Limiter;

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

/// The guests of a network that has limits for each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GuestCount {
    /// The IPv4 addresses of its prefix.
    pub ipv4: u64,
    /// Whether they have IPv6 addresses, too.
    pub ipv6: bool,
}

/// A network's limits and how much of them is used.
#[derive(Debug)]
pub struct NetworkLimits {
    rates: Rates,
    network: EachWay,
    /// By the guest's address; guests of very large networks share some.
    guests: EachWay,
    guests_ipv6: EachWay,
    /// What each worker refused.
    refused: Box<[Refused]>,
}

/// Buckets for both ways.
#[derive(Debug)]
struct EachWay {
    received: Limiter,
    sent: Limiter,
}

/// What a worker refused, on a cache line that no other worker writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Refused(AtomicU64);

impl Rates {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

impl NetworkLimits {
    /// The limits of a network with room for `guests`, for so many workers.
    #[must_use]
    pub fn new(rates: Rates, guests: GuestCount, workers: usize) -> Self {
        let each_way = |rate, places| EachWay {
            received: Limiter::new(rate, places, workers),
            sent: Limiter::new(rate, places, workers),
        };
        let count = usize::try_from(guests.ipv4).unwrap_or(GUESTS_MAX).clamp(1, GUESTS_MAX);
        let count_ipv6 = if guests.ipv6 { count.max(GUESTS_IPV6_MIN) } else { 0 };
        Self {
            rates,
            network: each_way(rates.network, 1),
            guests: each_way(rates.guest, count),
            guests_ipv6: each_way(rates.guest, count_ipv6),
            refused: (0..workers.max(1)).map(|_| Refused::default()).collect(),
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
        self.refused.iter().map(|refused| refused.0.load(Ordering::Relaxed)).sum()
    }

    /// Takes a packet of `bytes` bytes, on `worker`, from what `guest` and its network may use. What
    /// one limit gave is not given back when the next one refuses: it comes again by itself.
    ///
    /// # Errors
    /// When it is used up.
    pub fn take(
        &self,
        way: Way,
        guest: IpAddr,
        bytes: u16,
        worker: usize,
        now: Tick,
    ) -> Result<(), DropReason> {
        let guests = match guest {
            IpAddr::V4(_) => self.guests.of(way),
            IpAddr::V6(_) => self.guests_ipv6.of(way),
        };
        let own = place(guest, guests.places());
        let refused = if own.is_some_and(|own| !guests.take(own, worker, bytes, now)) {
            DropReason::GuestRateExceeded
        } else if !self.network.of(way).take(0, worker, bytes, now) {
            DropReason::NetworkRateExceeded
        } else {
            return Ok(());
        };
        if let Some(counter) = self.refused.get(worker).or(self.refused.first()) {
            counter.0.fetch_add(1, Ordering::Relaxed);
        }
        Err(refused)
    }
}

impl EachWay {
    const fn of(&self, way: Way) -> &Limiter {
        match way {
            Way::Received => &self.received,
            Way::Sent => &self.sent,
        }
    }
}

/// The place of a guest among `count`; none if there are no places. IPv4 guests of one network that
/// is not very large have one each. IPv6 addresses are spread: few of them meet.
fn place(guest: IpAddr, count: usize) -> Option<usize> {
    let bits = match guest {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let mixed = ((bits >> 64) as u64).rotate_left(32) ^ bits as u64;
            mixed.wrapping_mul(SPREAD) >> 40
        }
    };
    let place = bits.checked_rem(u64::try_from(count).ok()?)?;
    usize::try_from(place).ok()
}

/// Guests of one network that are told apart, of each family.
const GUESTS_MAX: usize = 1 << 16;
/// Places for IPv6 guests, who may have any address of their prefix, at the least.
const GUESTS_IPV6_MIN: usize = 1 << 12;
/// 2^64 by the golden ratio: multiplied by it, neighbouring numbers end far apart.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 5));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 6));
    const GUEST_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 5));
    const OTHER_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 6));

    fn limits(network: Rate, guest: Rate) -> NetworkLimits {
        NetworkLimits::new(Rates { network, guest }, GuestCount { ipv4: 256, ipv6: true }, 2)
    }

    fn passed(limits: &NetworkLimits, way: Way, guest: IpAddr, bytes: u16, ms: u64) -> usize {
        let take = || limits.take(way, guest, bytes, 0, Tick::from_ms(ms));
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
        let reason = |guest| limits.take(Way::Sent, guest, 100, 0, Tick::from_ms(5000));
        assert_eq!(passed(&limits, Way::Sent, GUEST, 100, 5000), 100);
        assert_eq!(reason(GUEST), Err(DropReason::GuestRateExceeded));
        assert_eq!(reason(OTHER), Ok(()));
    }

    #[test]
    fn guests_of_both_families_have_shares_of_their_own() {
        let limits = limits(Rate::default(), Rate { packets: 1000, bytes: 0 });
        for guest in [GUEST, OTHER, GUEST_IPV6, OTHER_IPV6] {
            assert_eq!(passed(&limits, Way::Sent, guest, 100, 5000), 100, "{guest}");
        }
    }

    #[test]
    fn what_any_worker_refuses_is_counted() {
        let limits = limits(Rate { packets: 1000, bytes: 0 }, Rate::default());
        for worker in 0..4 {
            for _ in 0..100 {
                let _either = limits.take(Way::Sent, GUEST, 100, worker, Tick::from_ms(5000));
            }
        }
        assert_eq!(limits.refused(), 300);
    }

    #[test]
    fn few_guests_of_ipv6_share_a_place() {
        let guest = |number: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, number));
        let places: std::collections::HashSet<_> =
            (2..258).filter_map(|number| place(guest(number), GUESTS_IPV6_MIN)).collect();
        assert!(places.len() > 230, "{}", places.len());
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
                if limits.take(Way::Received, GUEST, length, 1, Tick::from_ms(now)).is_ok() {
                    total += u64::from(length);
                }
                let burst = u64::max(65_536, bytes / 10);
                let due = burst + bytes * (now - start) / 1000;
                prop_assert!(total <= due + 300, "{total} of {due}");
            }
        }
    }
}
