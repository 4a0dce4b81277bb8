//! Limits of public addresses: each with an id and ports of its own, and shared ones that say the same.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::{Checker, Spot};
use crate::rules::diagnostic::Place;
use crate::rules::native::ADDRESS_LIMIT;
use crate::rules::set::{AddressLimit, PortRange};

pub(super) fn check_address_limits(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut ids: HashMap<&str, &Place> = HashMap::new();
    let mut shared: HashMap<&str, &AddressLimit> = HashMap::new();
    let mut ports: HashMap<Ipv4Addr, Vec<(Option<PortRange>, &Place)>> = HashMap::new();
    for (index, limit) in set.address_limits.iter().enumerate() {
        let spot: Spot<'_> = (&spots.address_limits, &ADDRESS_LIMIT, index);
        let at = |checker: &Checker<'_>, name| checker.at(spot, name, &limit.place);
        if let Some(first) = ids.insert(&limit.id, &limit.place) {
            let what = format!("limit \"{}\" is already defined at {first}", limit.id);
            checker.error(at(checker, "id"), what, "give each limit its own id");
        }
        checker.require_public_ip(limit.public_ip, |checker| at(checker, "public_ip"));
        let others = ports.entry(limit.public_ip).or_default();
        let clashes = |other: &&(Option<PortRange>, &Place)| match (other.0, limit.ports) {
            (None, None) => true,
            (Some(one), Some(other)) => one.overlaps(&other),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if let Some((_, first)) = others.iter().find(clashes) {
            let what = match limit.ports {
                None => format!("{} has a limit already, at {first}", limit.public_ip),
                Some(ports) => {
                    format!("ports {ports} of {} have a limit already, at {first}", limit.public_ip)
                }
            };
            checker.error(at(checker, "ports"), what, "make one limit of the two");
        }
        others.push((limit.ports, &limit.place));
        let Some(name) = &limit.shared else { continue };
        let rates = |it: &AddressLimit| (it.inbound_kbit_per_second, it.outbound_kbit_per_second);
        let first = *shared.entry(name).or_insert(limit);
        if rates(first) != rates(limit) {
            let what = format!("the shared limit \"{name}\" has other rates at {}", first.place);
            checker.error(at(checker, "shared"), what, "write the same rates, or another name");
        }
    }
}
