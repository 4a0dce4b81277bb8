//! Network ACLs of tiers and private gateways (`network_acl.json`, bag `networkacl`).

use super::devices::{Device, Devices};
use super::record::{Notes, Read, Record};
use super::values::{Ends, matches, ports_or_all};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::{Action, Match};
use crate::rules::tree::Node;

/// The lists of a network: complete, in order, the first match decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Acl {
    /// The NIC of the network.
    pub device: Device,
    /// What may come into the network.
    pub ingress: Vec<AclRule>,
    /// What may leave it.
    pub egress: Vec<AclRule>,
    /// Where it was written.
    pub place: Place,
}

/// A rule of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct AclRule {
    /// What it does.
    pub action: Action,
    /// What it matches.
    pub matches: Match,
    /// The other end.
    pub ends: Ends,
    /// Where it was written.
    pub place: Place,
}

/// The fields of an ACL.
pub const ACL_FIELDS: &[&str] = &[
    "delete_from_processed_cache",
    "device",
    "egress_rules",
    "ingress_rules",
    "mac_address",
    "nic_ip",
    "nic_ip6_cidr",
    "nic_netmask",
    "private_gateway_acl",
    "type",
];

const RULE_FIELDS: &[&str] =
    &["allowed", "cidr", "first_port", "icmp_code", "icmp_type", "last_port", "protocol", "type"];

impl Acl {
    /// Reads the lists of a network. A faulty rule is left out alone, as the kernel refused it alone.
    ///
    /// # Errors
    /// When there are no lists to be made out, or no network.
    pub fn read(record: &Record<'_, '_>, devices: &Devices<'_>, notes: &mut Notes) -> Read<Self> {
        let device = devices.find(record, "mac_address", record.text("device")?)?;
        let (ingress, egress) = (record.list("ingress_rules")?, record.list("egress_rules")?);
        let mut rules = |nodes: &[Node<'_>]| rules(nodes, record, notes);
        Ok(Self { device, ingress: rules(ingress), egress: rules(egress), place: record.place() })
    }
}

fn rules(nodes: &[Node<'_>], acl: &Record<'_, '_>, notes: &mut Notes) -> Vec<AclRule> {
    let mut rules = Vec::with_capacity(nodes.len());
    for node in nodes {
        let read = Record::open(node, "an ACL rule", acl.text_of()).and_then(|record| {
            notes.unknown_fields(&record, RULE_FIELDS);
            AclRule::read(&record)
        });
        match read {
            Ok(rule) => rules.push(rule),
            Err(fault) => notes.list.push(*fault),
        }
    }
    rules
}

impl AclRule {
    fn read(record: &Record<'_, '_>) -> Read<Self> {
        let allowed = record.boolean("allowed")?;
        let allowed = record.must("allowed", allowed)?;
        let kind = record.text("type")?;
        let protocol = match record.must("type", kind)?.to_lowercase().as_str() {
            "all" => None,
            "icmp" => Some(Protocol::ICMP),
            "tcp" => Some(Protocol::TCP),
            "udp" => Some(Protocol::UDP),
            "protocol" => {
                let number = record.integer("protocol", 0, 255)?;
                u8::try_from(record.must("protocol", number)?).ok().map(Protocol)
            }
            other => {
                return Err(record.wrong("type", format!("\"{other}\" is no kind of ACL rule")));
            }
        };
        let first = record.integer("first_port", -1, 65_535)?;
        let last = record.integer("last_port", -1, 65_535)?;
        let given = first.or(last).filter(|port| *port >= 0);
        let ports = given.map(|given| (first.unwrap_or(given), last.unwrap_or(given)));
        let ports = ports_or_all(record, "first_port", ports)?;
        Ok(Self {
            action: if allowed { Action::Allow } else { Action::Deny },
            matches: matches(record, protocol, ports)?,
            ends: Ends::read(record, "cidr")?,
            place: record.place(),
        })
    }
}
