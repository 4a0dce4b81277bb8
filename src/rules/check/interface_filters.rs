//! Filters of interfaces: one for each interface and direction, on interfaces that there are, with entries of their own.

use std::collections::HashMap;

use super::{Checker, Spot};
use crate::rules::diagnostic::Place;
use crate::rules::native::INTERFACE_FILTER;
use crate::rules::set::InterfaceFilter;

pub(super) fn check_interface_filters(checker: &mut Checker<'_>) {
    let (set, spots) = (checker.set, checker.spots);
    let mut seen: HashMap<String, &Place> = HashMap::new();
    for (index, filter) in set.interface_filters.iter().enumerate() {
        let spot: Spot<'_> = (&spots.interface_filters, &INTERFACE_FILTER, index);
        let at = |checker: &Checker<'_>| checker.at(spot, "interface", &filter.place);
        if let Some(first) = seen.insert(filter.name(), &filter.place) {
            let what = format!("a filter of {} is already defined at {first}", filter.name());
            checker.error(at(checker), what, "put all entries into one filter");
        }
        check_interface(checker, filter, at(checker));
        check_entries(checker, filter);
    }
}

fn check_interface(checker: &mut Checker<'_>, filter: &InterfaceFilter, place: Place) {
    let name = &filter.interface;
    if let Some(config) = checker.config
        && !config.interfaces.iter().any(|interface| interface.name == *name)
    {
        let what = format!("interface {name} is not in the configuration");
        let known: Vec<_> =
            config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        checker.error(place, what, format!("the interfaces there are {}", known.join(", ")));
        return;
    }
    let carries = |interface: &str, vlan: u16| interface == name && vlan == filter.vlan;
    let is_used = checker.set.networks.iter().any(|net| carries(&net.interface, net.vlan))
        || checker.set.public_ips.iter().any(|ip| carries(&ip.interface, ip.vlan));
    if !is_used && !checker.unread.any_network && !checker.unread.any_address {
        let what = format!("nothing passes the filter of {}", filter.name());
        let hint = "no network and no public address is on that interface and VLAN";
        checker.warning(place, what, hint);
    }
}

fn check_entries(checker: &mut Checker<'_>, filter: &InterfaceFilter) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for entry in &filter.entries {
        if let Some(first) = seen.insert(&entry.id, &entry.place) {
            let what = format!(
                "entry \"{}\" of {} is already defined at {first}",
                entry.id,
                filter.name()
            );
            checker.error(entry.place.clone(), what, "give each entry its own id");
        }
    }
}
