//! Where a worker found next hops last. New sessions ask for few of them again and again, and who knows
//! where one most likely stands need not search for it.

use std::net::IpAddr;

use crate::next_hop::{Neighbor, NextHopId, NextHops};

/// The ids that a worker found last. None of them is believed: each is held against the neighbour.
pub(super) struct Hints(Box<[NextHopId]>);

impl Hints {
    pub(super) fn new() -> Self {
        Self(vec![NOBODY; COUNT].into())
    }

    /// The id of `neighbor`, made if it is new. None when there is no room for it.
    #[inline(always)]
    pub(super) fn id(&mut self, next_hops: &NextHops, neighbor: Neighbor) -> Option<NextHopId> {
        let hint = match neighbor.address {
            IpAddr::V4(address) => {
                let mixed = address.to_bits() ^ u32::from(neighbor.vlan).rotate_right(12);
                let place = mixed.wrapping_mul(GOLDEN) >> (u32::BITS - COUNT.ilog2());
                self.0.get_mut(place as usize)
            }
            IpAddr::V6(_) => None,
        };
        let Some(hint) = hint else { return next_hops.id(neighbor) };
        let id = next_hops.id_near(neighbor, *hint)?;
        *hint = id;
        Some(id)
    }
}

/// Hints of a worker: four kilobytes, which stay near.
const COUNT: usize = 1024;
/// An id that is given to nobody.
const NOBODY: NextHopId = NextHopId(u32::MAX);
/// 2^32 divided by the golden ratio: neighbouring numbers, multiplied with it, lie far apart.
const GOLDEN: u32 = 0x9e37_79b9;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::PortId;

    #[test]
    fn hints_change_nothing_but_the_way_to_an_answer() {
        let next_hops = NextHops::new(4 * COUNT);
        let mut hints = Hints::new();
        for _ in 0..2 {
            for number in 0..2 * COUNT as u32 {
                let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
                let vlan = (number % 3) as u16;
                let neighbor = Neighbor { port: PortId(1), vlan, address: address.into() };
                let id = hints.id(&next_hops, neighbor);
                assert!(id.is_some() && id == next_hops.find(neighbor));
            }
        }
    }
}
