//! Managed addresses: what `addresses` decides, done in shares, so that whoever has thousands of them
//! still has neighbours resolved in between.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;

use super::Watch;
use crate::host::addresses::{self, AddressChange};
use crate::host::sysctl;

impl Watch {
    /// Finds out what to put on and take off for the plan.
    pub(super) fn manage_addresses(&mut self) {
        if !self.manage_addresses {
            return;
        }
        let view = self.shared.view.lock();
        let changes = addresses::changes(&self.plan, &view, &self.interface_indexes, &self.added);
        drop(view);
        self.address_changes = changes.into();
    }

    /// Does a share of what there is to do.
    pub(super) fn change_some_addresses(&mut self) {
        for _ in 0..CHANGE_COUNT_MAX {
            let Some(change) = self.address_changes.pop_front() else { return };
            if let Err(error) = self.change_address(change) {
                tracing::error!(?change, %error, "cannot change an interface's addresses");
            }
        }
    }

    fn change_address(&mut self, change: AddressChange) -> io::Result<()> {
        let (result, expected) = match change {
            AddressChange::Add(address) => {
                self.added.insert(addresses::key(&address));
                if address.address.is_ipv6() {
                    self.prepare_ipv6(address.interface_index);
                }
                let message = RouteNetlinkMessage::NewAddress(addresses::message(&address));
                (self.requests.carry_out(message, NLM_F_CREATE | NLM_F_EXCL), libc::EEXIST)
            }
            AddressChange::Remove(address) => {
                self.added.remove(&addresses::key(&address));
                let message = RouteNetlinkMessage::DelAddress(addresses::message(&address));
                (self.requests.carry_out(message, 0), libc::EADDRNOTAVAIL)
            }
        };
        match result {
            // It is as it should be, only the event has not reached us yet.
            Err(error) if error.raw_os_error() == Some(expected) => Ok(()),
            result => result,
        }
    }

    fn prepare_ipv6(&self, index: u32) {
        let name = self.shared.view.lock().links.get(&index).map(|link| link.name.clone());
        let Some(interface) = name else { return };
        if let Err(error) = sysctl::prepare_managed_ipv6(&interface) {
            tracing::warn!(interface, %error, "cannot set accept_ra and the like");
        }
    }
}

/// Changes of addresses before something else has its turn.
const CHANGE_COUNT_MAX: usize = 512;
