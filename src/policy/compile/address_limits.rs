//! Limits of public addresses.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ahash::HashMap;

use crate::nat::limits::{EndpointLimit, Rate};
use crate::policy::address_limits::{AddressLimits, BothWays};
use crate::policy::compile::{BYTES_PER_KBIT, Compiler};
use crate::rules::set::{AddressLimit, RuleSet};

impl Compiler<'_> {
    /// The limits by address, with what was used of them under former rules.
    pub(super) fn address_limits(&mut self, rules: &RuleSet) -> HashMap<Ipv4Addr, AddressLimits> {
        let mut all: HashMap<Ipv4Addr, AddressLimits> = HashMap::default();
        for limit in &rules.address_limits {
            let both = BothWays {
                inbound: self.endpoint_limit(limit, "in", limit.inbound_kbit_per_second),
                outbound: self.endpoint_limit(limit, "out", limit.outbound_kbit_per_second),
            };
            let limits = all.entry(limit.public_ip).or_default();
            match limit.ports {
                None => limits.rest = both,
                Some(ports) => limits.ports.push((ports, both)),
            }
        }
        for limits in all.values_mut() {
            limits.ports.sort_by_key(|(ports, _)| ports.first());
        }
        all
    }

    fn endpoint_limit(
        &mut self,
        limit: &AddressLimit,
        way: &str,
        kbit_per_second: u64,
    ) -> Option<Arc<EndpointLimit>> {
        let rate = Rate { bytes: kbit_per_second.saturating_mul(BYTES_PER_KBIT), packets: 0 };
        let name = match &limit.shared {
            None => format!("{way} of {}", limit.id),
            Some(shared) => format!("{way} shared {shared}"),
        };
        (kbit_per_second > 0).then(|| self.registry.endpoint_limit(&name, rate))
    }
}
