//! Public addresses: what passed by each, and what its limits refused.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;

use crate::config::Config;
use crate::control::census;
use crate::control::rows::AddressRow;
use crate::control::workers;
use crate::pipeline::shared::{Shared, carried};
use crate::policy::address_limits::Passing;
use crate::telemetry::address_counters::AddressTotals;

/// Every public address, with what sessions carried that live and that ended. What hairpins, and
/// what is the router's own, passes none.
#[must_use]
pub fn rows(shared: &Shared, config: &Config) -> Vec<AddressRow> {
    let mut live: HashMap<Ipv4Addr, AddressTotals> = HashMap::new();
    let count = |view| {
        if let Some((address, carried)) = carried(&view) {
            live.entry(address).or_default().add(carried);
        }
    };
    let goes_on = || Ok::<(), Infallible>(());
    let Ok(()) = census::walk(&shared.sessions, count, goes_on);
    let policy = shared.policy.load();
    let row = |public: &crate::policy::PublicAddress| {
        let mut totals = shared.addresses.totals(public.address);
        totals.add(live.get(&public.address).copied().unwrap_or_default());
        let limits = policy.address_limits(public.address);
        let refused = |passing| limits.map(|limits| limits.refused(passing));
        AddressRow {
            public_ip: public.address.to_string(),
            interface: workers::port_name(public.port, config),
            vlan: public.vlan,
            packets_in: totals.packets_in,
            bytes_in: totals.bytes_in,
            packets_out: totals.packets_out,
            bytes_out: totals.bytes_out,
            rate_exceeded_in: refused(Passing::In),
            rate_exceeded_out: refused(Passing::Out),
        }
    };
    policy.public_addresses().iter().map(row).collect()
}
