//! Firewall rules (`firewall_rules.json`, `ipv6_firewall_rules.json`): what reaches public addresses, and what
//! guests reach.

use std::net::Ipv4Addr;

use super::record::{Read, Record};
use super::values::{Ends, matches, ports_or_all, protocol};
use crate::flow::Protocol;
use crate::rules::diagnostic::Place;
use crate::rules::set::{Action, Match};
use crate::rules::tree::Value;

/// A firewall rule.
#[derive(Clone, Debug, PartialEq)]
pub struct FirewallEntry {
    /// Its number.
    pub id: i64,
    /// The public address that an ingress rule opens; none on a routed network.
    pub public_ip: Option<Ipv4Addr>,
    /// Whether it is about what guests send.
    pub is_egress: bool,
    /// What is done with guests' packets that no egress rule matches; egress rules do the opposite.
    pub egress_policy: Action,
    /// What it matches.
    pub matches: Match,
    /// Who sends.
    pub sources: Ends,
    /// Who is sent to.
    pub destinations: Ends,
    /// Where it was written.
    pub place: Place,
}

/// A firewall rule, or the end of one.
#[derive(Clone, Debug, PartialEq)]
pub enum FirewallChange {
    /// The rule is as it is now.
    Put(Box<FirewallEntry>),
    /// The rule with this id is no more.
    Revoke(i64),
}

/// The fields of a firewall rule.
pub const FIREWALL_FIELDS: &[&str] = &[
    "already_added",
    "default_egress_policy",
    "dest_cidr_list",
    "guest_cidr",
    "guest_ip6_cidr",
    "icmp_code",
    "icmp_type",
    "id",
    "protocol",
    "purpose",
    "revoked",
    "source_cidr_list",
    "src_ip",
    "src_port_range",
    "src_vlan_tag",
    "traffic_type",
    "type",
];

/// The number of the rule that says what is done where no egress rule matches.
const DEFAULT_ID: i64 = 0;

impl FirewallChange {
    /// Reads an entry of a command file. Of a revoked rule only the id counts.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read(record: &Record<'_, '_>) -> Read<Self> {
        let id = record.integer("id", 0, i64::MAX)?;
        let id = record.must("id", id)?;
        let revoked = record.boolean("revoked")?;
        if record.must("revoked", revoked)? {
            return Ok(Self::Revoke(id));
        }
        Ok(Self::Put(Box::new(FirewallEntry::read(record, id)?)))
    }
}

impl FirewallEntry {
    fn read(record: &Record<'_, '_>, id: i64) -> Read<Self> {
        let is_egress =
            match record.text("traffic_type")?.unwrap_or_default().to_lowercase().as_str() {
                "ingress" | "" => false,
                "egress" => true,
                other => {
                    return Err(
                        record.wrong("traffic_type", format!("\"{other}\" is no direction"))
                    );
                }
            };
        // Addresses of the other family are looked at by nobody here.
        let is_ipv6 = record.text("purpose")?.is_some_and(|purpose| purpose == "Ipv6Firewall");
        let protocol = match protocol(record, "protocol")? {
            Some(Protocol::ICMP) if is_ipv6 => Some(Protocol::ICMPV6),
            protocol => protocol,
        };
        let allows = record.boolean("default_egress_policy")?.unwrap_or(false);
        Ok(Self {
            id,
            public_ip: if is_ipv6 { None } else { record.address("src_ip")? },
            is_egress,
            egress_policy: if allows { Action::Allow } else { Action::Deny },
            matches: matches(record, protocol, port_range(record)?)?,
            sources: Ends::read(record, "source_cidr_list")?,
            destinations: Ends::read(record, "dest_cidr_list")?,
            place: record.place(),
        })
    }

    /// Whether it only says what is done where no other egress rule matches.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.is_egress && self.id == DEFAULT_ID
    }

    /// What it does: the opposite of the policy for guests' packets, allow for others.
    #[must_use]
    pub fn action(&self) -> Action {
        match (self.is_egress, self.egress_policy) {
            (true, Action::Allow) => Action::Deny,
            (true, Action::Deny) | (false, _) => Action::Allow,
        }
    }
}

/// The two numbers of `src_port_range`, which are destination ports.
fn port_range(record: &Record<'_, '_>) -> Read<Option<crate::rules::set::PortRange>> {
    const NAME: &str = "src_port_range";
    let numbers: Option<Vec<i64>> = record
        .list(NAME)?
        .iter()
        .map(|node| match &node.value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
        .collect();
    match numbers.as_deref() {
        Some([]) => Ok(None),
        Some(&[first, last]) => ports_or_all(record, NAME, Some((first, last))),
        Some(_) | None => Err(record.wrong(NAME, "not two ports, the first and the last")),
    }
}
