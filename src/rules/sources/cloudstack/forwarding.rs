//! Port forwards (`forwarding_rules.json`) and static NAT (`staticnat_rules.json`): both live in the bag
//! `forwardingrules`, by public address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::bags::Bags;
use super::record::{Read, Record};
use super::values::{Ends, colon_ports};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::PortRange;

/// An entry of the bag.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarding {
    /// The public address.
    pub public_ip: Ipv4Addr,
    /// The guest.
    pub guest: Ipv4Addr,
    /// Its ports; none for static NAT, which is all of them.
    pub ports: Option<ForwardedPorts>,
    /// Where it was written.
    pub place: Place,
}

/// What a port forward forwards.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardedPorts {
    /// What tells it from others of its address.
    key: Key,
    /// The protocols: both, for `any`.
    pub protocols: Vec<Protocol>,
    /// The public ports.
    pub public: PortRange,
    /// The guest's.
    pub private: PortRange,
    /// Who may use it; none is anybody.
    pub sources: Ends,
}

/// What tells port forwards of an address apart, as it was written: a faulty one can be revoked too.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    ports: String,
    protocol: String,
    sources: BTreeSet<String>,
}

/// What an entry of a command file does.
#[derive(Clone, Debug, PartialEq)]
pub enum ForwardingChange {
    /// It is there.
    Put(Box<Forwarding>),
    /// The port forward of this address with this key is not.
    RevokeForward(String, Key),
    /// Nothing of this address is left.
    RevokeStaticNat(String),
}

/// The fields of an entry of a command file.
pub const FORWARD_FIELDS: &[&str] = &[
    "destination_ip_address",
    "destination_port_range",
    "protocol",
    "revoke",
    "source_cidr_list",
    "source_ip_address",
    "source_port_range",
];

/// The fields of an entry of the bag.
pub const BAG_FIELDS: &[&str] = &[
    "internal_ip",
    "internal_ports",
    "protocol",
    "public_ip",
    "public_ports",
    "source_cidr_list",
    "type",
];

/// What the fields are called.
struct Names {
    public_ip: &'static str,
    guest: &'static str,
    public: &'static str,
    private: &'static str,
}

const COMMAND: Names = Names {
    public_ip: "source_ip_address",
    guest: "destination_ip_address",
    public: "source_port_range",
    private: "destination_port_range",
};

const BAG: Names = Names {
    public_ip: "public_ip",
    guest: "internal_ip",
    public: "public_ports",
    private: "internal_ports",
};

impl Key {
    fn read(record: &Record<'_, '_>, names: &Names) -> Read<Self> {
        let sources = record.text("source_cidr_list")?.unwrap_or_default();
        let words = sources.split(',').map(str::trim).filter(|word| !word.is_empty());
        Ok(Self {
            ports: record.text(names.public)?.unwrap_or_default().into_owned(),
            protocol: record.text("protocol")?.unwrap_or_default().to_lowercase(),
            sources: words.map(str::to_owned).collect(),
        })
    }

    /// Whether an entry with this key takes the place of one with the other: the same ports, and
    /// either both for anybody or some prefix in both.
    fn replaces(&self, other: &Self) -> bool {
        let both_any = self.sources.is_empty() && other.sources.is_empty();
        self.ports == other.ports
            && self.protocol == other.protocol
            && (both_any || !self.sources.is_disjoint(&other.sources))
    }
}

impl ForwardingChange {
    /// Reads an entry of `forwarding_rules.json`. Of a revoked one only the key counts.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read_forward(record: &Record<'_, '_>) -> Read<Self> {
        let revoke = record.boolean("revoke")?;
        if record.must("revoke", revoke)? {
            let address = record.text(COMMAND.public_ip)?;
            let address = record.must(COMMAND.public_ip, address)?;
            let key = Key::read(record, &COMMAND)?;
            return Ok(Self::RevokeForward(address.into_owned(), key));
        }
        Ok(Self::Put(Box::new(Forwarding::read(record, &COMMAND, false)?)))
    }

    /// Reads an entry of `staticnat_rules.json`.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read_static_nat(record: &Record<'_, '_>) -> Read<Self> {
        let revoke = record.boolean("revoke")?;
        if record.must("revoke", revoke)? {
            let address = record.text(COMMAND.public_ip)?;
            let address = record.must(COMMAND.public_ip, address)?;
            return Ok(Self::RevokeStaticNat(address.into_owned()));
        }
        Ok(Self::Put(Box::new(Forwarding::read(record, &COMMAND, true)?)))
    }
}

impl Forwarding {
    /// Reads an entry of the bag.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read_bag(record: &Record<'_, '_>) -> Read<Self> {
        match record.text("type")?.as_deref() {
            Some("staticnat") => Self::read(record, &BAG, true),
            Some("forward") | None => Self::read(record, &BAG, false),
            Some(other) => {
                Err(record.wrong("type", format!("\"{other}\" is neither forward nor staticnat")))
            }
        }
    }

    fn read(record: &Record<'_, '_>, names: &Names, is_static: bool) -> Read<Self> {
        let public_ip = record.address(names.public_ip)?;
        let guest = record.address(names.guest)?;
        Ok(Self {
            public_ip: record.must(names.public_ip, public_ip)?,
            guest: record.must(names.guest, guest)?,
            ports: if is_static { None } else { Some(ForwardedPorts::read(record, names)?) },
            place: record.place(),
        })
    }
}

impl ForwardedPorts {
    fn read(record: &Record<'_, '_>, names: &Names) -> Read<Self> {
        let protocol = record.text("protocol")?;
        let protocols = match record.must("protocol", protocol)?.to_lowercase().as_str() {
            "tcp" => vec![Protocol::TCP],
            "udp" => vec![Protocol::UDP],
            "any" => vec![Protocol::TCP, Protocol::UDP],
            other => {
                return Err(record.wrong("protocol", format!("\"{other}\" is not tcp, udp or any")));
            }
        };
        let public = colon_ports(record, names.public)?;
        let private = colon_ports(record, names.private)?;
        if public.count() != private.count() {
            let what = format!("{private} is not as many ports as {public}");
            return Err(record.wrong(names.private, what));
        }
        // CloudStack lets a single port differ, ranges not.
        if public.count() > 1 && public != private {
            return Err(
                record.wrong(names.private, format!("the range {public} cannot become {private}"))
            );
        }
        let sources = Ends::read(record, "source_cidr_list")?;
        Ok(Self { key: Key::read(record, names)?, protocols, public, private, sources })
    }
}

impl Bags {
    /// Merges an entry of a command file.
    pub fn merge_forwarding(&mut self, change: ForwardingChange) {
        match change {
            ForwardingChange::Put(entry) => {
                let list = self.forwarding.entry(entry.public_ip.to_string()).or_default();
                let Some(ports) = &entry.ports else {
                    *list = vec![*entry];
                    return;
                };
                // The range first: a thousand forwards of one address differ in it.
                let replaced = list.iter_mut().find(|known| {
                    let other = known.ports.as_ref();
                    other.is_some_and(|it| it.public == ports.public) && known.has_key(&ports.key)
                });
                match replaced {
                    Some(known) => *known = *entry,
                    None => list.push(*entry),
                }
            }
            ForwardingChange::RevokeForward(address, key) => {
                let Some(list) = self.forwarding.get_mut(&address) else { return };
                if let Some(last) = list.iter().rposition(|known| known.has_key(&key)) {
                    list.remove(last);
                }
            }
            ForwardingChange::RevokeStaticNat(address) => {
                self.forwarding.remove(&address);
            }
        }
    }
}

impl Forwarding {
    fn has_key(&self, key: &Key) -> bool {
        self.ports.as_ref().is_some_and(|ports| key.replaces(&ports.key))
    }
}
