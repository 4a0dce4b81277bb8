//! How many mappings each guest has, and how many it may have (RFC 6888, REQ-4).
//!
//! Each mapping takes one external port of one protocol. Shards with a lock each, which is the last
//! one taken; a guest without mappings is forgotten.

use std::collections::HashMap;

use ahash::RandomState;
use parking_lot::Mutex;

use super::BindError;
use super::owner::Guest;
use crate::flow::Protocol;

/// What a guest may have. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MappingLimits {
    /// Mappings, over all protocols.
    pub mappings: u32,
    /// External ports of each protocol.
    pub ports: u32,
}

/// What a guest has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MappingCounts {
    /// Mappings, over all protocols.
    pub mappings: u32,
    /// External ports of each protocol, by [`class`].
    ports: [u32; CLASSES],
}

impl MappingCounts {
    /// External ports of `protocol`. SCTP, DCCP and UDP-Lite are counted together.
    #[must_use]
    pub fn ports(&self, protocol: Protocol) -> u32 {
        self.ports[class(protocol)]
    }
}

/// Every guest's mappings.
pub(super) struct Quota {
    shards: Box<[Shard]>,
}

/// Its own cache line, so that workers with different guests do not disturb each other.
#[repr(align(64))]
struct Shard(Mutex<HashMap<Guest, MappingCounts, RandomState>>);

impl Quota {
    /// Nobody has any.
    pub(super) fn new(hasher: RandomState) -> Self {
        let shard = |_| Shard(Mutex::new(HashMap::with_hasher(hasher.clone())));
        Self { shards: (0..SHARDS).map(shard).collect() }
    }

    /// Counts one more mapping of `guest`, unless it may not have it.
    pub(super) fn enter(
        &self,
        guest: Guest,
        protocol: Protocol,
        limits: MappingLimits,
    ) -> Result<(), BindError> {
        let mut counts = self.shard(guest).lock();
        let class = class(protocol);
        if let Some(has) = counts.get_mut(&guest) {
            let is_full = |count, limit| limit > 0 && count >= limit;
            if is_full(has.mappings, limits.mappings) || is_full(has.ports[class], limits.ports) {
                return Err(BindError::GuestLimit);
            }
            has.mappings += 1;
            has.ports[class] += 1;
            return Ok(());
        }
        // Its first one: every limit there is allows that.
        let mut first = MappingCounts { mappings: 1, ..MappingCounts::default() };
        first.ports[class] = 1;
        counts.insert(guest, first);
        Ok(())
    }

    /// Counts one mapping less.
    pub(super) fn leave(&self, guest: Guest, protocol: Protocol) {
        let mut counts = self.shard(guest).lock();
        let Some(has) = counts.get_mut(&guest) else { return };
        let class = class(protocol);
        has.mappings = has.mappings.saturating_sub(1);
        has.ports[class] = has.ports[class].saturating_sub(1);
        if has.mappings == 0 {
            counts.remove(&guest);
        }
    }

    /// What `guest` has.
    pub(super) fn counts(&self, guest: Guest) -> MappingCounts {
        self.shard(guest).lock().get(&guest).copied().unwrap_or_default()
    }

    fn shard(&self, guest: Guest) -> &Mutex<HashMap<Guest, MappingCounts, RandomState>> {
        &self.shards[guest.spread() as usize % SHARDS].0
    }
}

const SHARDS: usize = 256;
/// Protocols that are counted apart.
const CLASSES: usize = 4;

const fn class(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 0,
        Protocol::UDP => 1,
        Protocol::ICMP => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Endpoint, Realm};
    use crate::nat::mappings::owner::Owner;

    const PROTOCOLS: [Protocol; 5] =
        [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::SCTP, Protocol::DCCP];

    fn guest(number: u32) -> Guest {
        Owner::new(Realm::from_raw(1), Endpoint::new(number.into(), 7)).guest()
    }

    fn quota() -> Quota {
        Quota::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn ports_are_limited_by_protocol_and_mappings_over_all() {
        let quota = quota();
        let limits = MappingLimits { mappings: 3, ports: 2 };
        let enter = |number, protocol| quota.enter(guest(number), protocol, limits);
        assert_eq!(enter(1, Protocol::UDP), Ok(()));
        assert_eq!(enter(1, Protocol::UDP), Ok(()));
        assert_eq!(enter(1, Protocol::UDP), Err(BindError::GuestLimit));
        assert_eq!(enter(1, Protocol::TCP), Ok(()));
        assert_eq!(enter(1, Protocol::TCP), Err(BindError::GuestLimit));
        assert_eq!(enter(2, Protocol::UDP), Ok(()), "another guest");
        quota.leave(guest(1), Protocol::UDP);
        assert_eq!(enter(1, Protocol::ICMP), Ok(()));
        assert_eq!(quota.counts(guest(1)).ports(Protocol::UDP), 1);
    }

    proptest! {
        #[test]
        fn it_counts_what_came_and_did_not_go(
            steps in prop::collection::vec((any::<bool>(), 0..3_u32, 0..PROTOCOLS.len()), 0..200),
            limits in (0..6_u32, 0..4_u32),
        ) {
            let limits = MappingLimits { mappings: limits.0, ports: limits.1 };
            let quota = quota();
            let mut model: HashMap<(u32, usize), u32> = HashMap::new();
            for (enters, number, protocol) in steps {
                let protocol = PROTOCOLS[protocol];
                let key = (number, class(protocol));
                let of_guest = |model: &HashMap<(u32, usize), u32>| {
                    (0..CLASSES).map(|class| model.get(&(number, class)).unwrap_or(&0)).sum::<u32>()
                };
                let has = model.get(&key).copied().unwrap_or(0);
                if enters {
                    let may = (limits.mappings == 0 || of_guest(&model) < limits.mappings)
                        && (limits.ports == 0 || has < limits.ports);
                    prop_assert_eq!(quota.enter(guest(number), protocol, limits).is_ok(), may);
                    model.insert(key, has + u32::from(may));
                } else if has > 0 {
                    quota.leave(guest(number), protocol);
                    model.insert(key, has - 1);
                }
                let counts = quota.counts(guest(number));
                prop_assert_eq!(counts.mappings, of_guest(&model));
                prop_assert_eq!(counts.ports(protocol), model.get(&key).copied().unwrap_or(0));
            }
            for ((number, class), count) in model {
                let protocol = PROTOCOLS[class];
                (0..count).for_each(|_| quota.leave(guest(number), protocol));
            }
            prop_assert!(quota.shards.iter().all(|shard| shard.0.lock().is_empty()));
        }
    }
}
