//! Which interface an entry is about: by MAC where the machine has it, else by device.

use std::borrow::Cow;

use super::record::{Read, Record};
use crate::rules::sources::Nics;
use crate::rules::sources::nics::parse_mac;

/// The machine's NICs.
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a> {
    nics: &'a Nics,
    /// Whether these are all the NICs there are, so that another one has not come yet.
    is_complete: bool,
}

/// A NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// The interface's name.
    pub name: String,
    /// What it waits for, if it is not there yet.
    pub waits_for: Option<String>,
}

impl<'a> Devices<'a> {
    /// These NICs; `is_complete` when there are no others.
    #[must_use]
    pub const fn new(nics: &'a Nics, is_complete: bool) -> Self {
        Self { nics, is_complete }
    }

    /// The NIC that is called `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Device {
        let is_there = !self.is_complete || self.nics.has(name);
        let waits_for = (!is_there).then(|| format!("the NIC {name}"));
        Device { name: name.to_owned(), waits_for }
    }

    /// The NIC whose MAC the field `mac` has, else the device `device`.
    ///
    /// # Errors
    /// When the MAC is none, or there is neither.
    pub fn find(
        &self,
        record: &Record<'_, '_>,
        mac: &str,
        device: Option<Cow<'_, str>>,
    ) -> Read<Device> {
        let text = record.text(mac)?;
        let parsed = match &text {
            None => None,
            Some(text) => match parse_mac(text) {
                Some(mac) => Some(mac),
                None => return Err(record.wrong(mac, "not a MAC such as 1e:00:a9:00:01:01")),
            },
        };
        if let Some(name) = parsed.and_then(|mac| self.nics.name(mac)) {
            return Ok(Device { name: name.to_owned(), waits_for: None });
        }
        let device = device.filter(|device| is_device(device));
        let waits_for = || match (&text, &device) {
            (Some(mac), _) => format!("the NIC {mac}"),
            (None, Some(device)) => format!("the NIC {device}"),
            (None, None) => String::new(),
        };
        match (&device, &text) {
            (Some(name), _) if !self.is_complete || self.nics.has(name) => {
                Ok(Device { name: name.to_string(), waits_for: None })
            }
            (Some(name), _) => Ok(Device { name: name.to_string(), waits_for: Some(waits_for()) }),
            (None, Some(mac)) => Ok(Device { name: mac.to_string(), waits_for: Some(waits_for()) }),
            (None, None) => {
                Err(record.wrong(mac, "neither a MAC nor a device number says which NIC it is on"))
            }
        }
    }
}

/// Whether it is the name of one of the router's NICs.
fn is_device(name: &str) -> bool {
    name.strip_prefix("eth").is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}
