//! Files merged into the bags, as the router's scripts do, but each entry is checked before it is stored.

use std::path::Path;

use super::acl::{ACL_FIELDS, Acl};
use super::addresses::{ADDRESS_FIELDS, Address, TIER_FIELDS, Tier};
use super::aggregate::{self, Part};
use super::bags::Bags;
use super::balancer::{self, BALANCER_FIELDS};
use super::command_line::CommandLine;
use super::devices::Devices;
use super::files::{Input, Role};
use super::firewall::{FIREWALL_FIELDS, FirewallChange};
use super::forwarding::{BAG_FIELDS, FORWARD_FIELDS, Forwarding, ForwardingChange};
use super::record::{Notes, Read, Record, Text, fault};
use super::routes::{ROUTE_FIELDS, RouteEntry};
use super::vpn::{REMOTE_FIELDS, RemoteAccess, SITE_FIELDS, SiteToSite};
use crate::rules::from_json;
use crate::rules::scalars::shown;
use crate::rules::tree::{Entry, Node, Value};

/// The bags as they are filled.
pub struct Merger<'a> {
    /// What was merged.
    pub bags: Bags,
    /// Everything to be said of it.
    pub notes: Notes,
    /// Whether a data bag cannot be read, so that rules that were there may be missing.
    pub is_torn: bool,
    devices: Devices<'a>,
}

/// Kinds of files that say nothing about forwarding.
const IGNORED: &[&str] = &[
    "bgppeers",
    "dhcpconfig",
    "dhcpentry",
    "monitorservice",
    "vmdata",
    "vmpassword",
    "vpnuserlist",
];

impl<'a> Merger<'a> {
    /// Nothing yet, on these NICs.
    #[must_use]
    pub fn new(devices: Devices<'a>) -> Self {
        Self { bags: Bags::default(), notes: Notes::default(), is_torn: false, devices }
    }

    /// Merges a file.
    pub fn merge(&mut self, input: &Input) {
        let text = Text { source: &input.source, start: 0 };
        match &input.role {
            Role::Aggregate => self.merge_aggregate(text),
            Role::Bag(name) => self.merge_bag(name, text),
            Role::Command => self.merge_command(text, input.source.text()),
            Role::CommandLine => {
                self.bags.merge_command_line(CommandLine::of_words(text), &self.devices);
            }
        }
    }

    fn merge_aggregate(&mut self, whole: Text<'_>) {
        let place = |at: usize| whole.place(u32::try_from(at).unwrap_or(u32::MAX));
        for part in aggregate::parts(whole.source.text()) {
            match part {
                Part::File { path, start, content } => {
                    if is_json(path) {
                        let start = u32::try_from(start).unwrap_or(u32::MAX);
                        self.merge_command(Text { source: whole.source, start }, content);
                    }
                }
                Part::Unclosed(at) => {
                    let what = "a section that is not closed before the next one starts";
                    self.notes.list.push(*fault(place(at), what));
                }
                Part::Version(aggregate::VERSION, _) => {}
                Part::Version(other, at) => {
                    let what =
                        format!("version \"{}\" of the file's form is not known", shown(other));
                    self.notes.warn(place(at), what, "it is read as version 1");
                }
            }
        }
    }

    /// The object that `json` is, which is handed to `then`.
    fn with_object(
        &mut self,
        text: Text<'_>,
        json: &str,
        what: &'static str,
        then: impl FnOnce(&mut Self, &Record<'_, '_>) -> Read<()>,
    ) -> bool {
        let parsed = from_json::parse(json);
        if let Some(first) = parsed.faults.first() {
            self.notes.list.push(*fault(text.place(first.at), format!("not JSON: {}", first.what)));
            return false;
        }
        let Some(root) = &parsed.root else {
            self.notes.list.push(*fault(text.place(0), "the file is empty"));
            return false;
        };
        let read = Record::open(root, what, text).and_then(|record| then(self, &record));
        self.notes.keep(read).is_some()
    }

    fn merge_command(&mut self, text: Text<'_>, json: &str) {
        self.with_object(text, json, "the file", Self::merge_command_object);
    }

    fn merge_command_object(&mut self, file: &Record<'_, '_>) -> Read<()> {
        let kind = file.text("type")?;
        match &*file.must("type", kind)? {
            "cmdline" => {
                let node = file.must("cmd_line", file.field("cmd_line"))?;
                let line = CommandLine::read(&Record::open(node, "cmd_line", file.text_of())?);
                self.bags.merge_command_line(line, &self.devices);
            }
            "ips" => {
                self.each(file, "ip_address", "an address", ADDRESS_FIELDS, |this, record| {
                    let address = Address::read(record, None, &this.devices)?;
                    this.bags.merge_address(address);
                    Ok(())
                })?
            }
            "ipaliases" => {
                let known = &["count", "ip_address", "netmask", "revoke"];
                self.each(file, "aliases", "an alias", known, |this, record| {
                    let alias = Address::read_alias(record, &this.devices)?;
                    this.bags.merge_address(alias);
                    Ok(())
                })?;
            }
            "guestnetwork" => self.merge_tier(file)?,
            kind @ ("firewallrules" | "ipv6firewallrules") => {
                let is_ipv6 = kind == "ipv6firewallrules";
                self.each(file, "rules", "a firewall rule", FIREWALL_FIELDS, |this, record| {
                    this.bags.merge_firewall(FirewallChange::read(record)?, is_ipv6);
                    Ok(())
                })?;
            }
            "forwardrules" => {
                self.each(file, "rules", "a port forward", FORWARD_FIELDS, |this, record| {
                    this.bags.merge_forwarding(ForwardingChange::read_forward(record)?);
                    Ok(())
                })?
            }
            "staticnatrules" => {
                self.each(file, "rules", "a static NAT", FORWARD_FIELDS, |this, record| {
                    this.bags.merge_forwarding(ForwardingChange::read_static_nat(record)?);
                    Ok(())
                })?
            }
            "networkacl" => self.merge_acl(file)?,
            "loadbalancer" => self.merge_listeners(file, "rules")?,
            "staticroutes" => {
                self.each(file, "routes", "a static route", ROUTE_FIELDS, |this, record| {
                    let (key, route) = RouteEntry::read(record)?;
                    this.bags.routes.insert(key, route);
                    Ok(())
                })?
            }
            "site2sitevpn" => self.merge_site_to_site(file)?,
            "remoteaccessvpn" => self.merge_remote_access(file)?,
            kind if IGNORED.contains(&kind) => {}
            kind => {
                let what = format!("files of the type \"{}\" are not known", shown(kind));
                self.notes.warn(file.place_of("type"), what, "it is passed over");
            }
        }
        Ok(())
    }

    /// Merges the elements of a list, each on its own.
    fn each(
        &mut self,
        file: &Record<'_, '_>,
        list: &str,
        what: &'static str,
        known: &[&str],
        mut merge: impl FnMut(&mut Self, &Record<'_, '_>) -> Read<()>,
    ) -> Read<()> {
        self.note_envelope(file, list);
        if !file.entries().iter().any(|entry| entry.key == list) {
            file.must::<()>(list, None)?;
        }
        for node in file.list(list)? {
            self.one(node, file.text_of(), what, known, &mut merge);
        }
        Ok(())
    }

    fn one(
        &mut self,
        node: &Node<'_>,
        text: Text<'_>,
        what: &'static str,
        known: &[&str],
        merge: &mut impl FnMut(&mut Self, &Record<'_, '_>) -> Read<()>,
    ) {
        let read = Record::open(node, what, text).and_then(|record| {
            self.notes.unknown_fields(&record, known);
            merge(self, &record)
        });
        self.notes.keep(read);
    }

    /// Warns of what stands beside a file's list.
    fn note_envelope(&mut self, file: &Record<'_, '_>, list: &str) {
        self.notes.unknown_fields(file, &[list, "type", "delete_from_processed_cache"]);
    }

    fn merge_tier(&mut self, record: &Record<'_, '_>) -> Read<()> {
        self.notes.unknown_fields(record, TIER_FIELDS);
        let (tier, add) = Tier::read(record, &self.devices)?;
        self.bags.merge_tier(tier, add);
        Ok(())
    }

    fn merge_acl(&mut self, record: &Record<'_, '_>) -> Read<()> {
        self.notes.unknown_fields(record, ACL_FIELDS);
        let acl = Acl::read(record, &self.devices, &mut self.notes)?;
        self.bags.acls.insert(acl.device.name.clone(), acl);
        Ok(())
    }

    /// The listeners are all there are; a file without entries takes all away.
    fn merge_listeners(&mut self, file: &Record<'_, '_>, list: &str) -> Read<()> {
        let mut listeners = Vec::new();
        for node in file.list(list)? {
            let record = Record::open(node, "a load balancer", file.text_of())?;
            self.notes.unknown_fields(&record, BALANCER_FIELDS);
            listeners.extend(balancer::read(&record, &mut self.notes)?);
        }
        self.bags.listeners = listeners;
        Ok(())
    }

    fn merge_site_to_site(&mut self, record: &Record<'_, '_>) -> Read<()> {
        self.notes.unknown_fields(record, SITE_FIELDS);
        let (peer, tunnel) = SiteToSite::read(record)?;
        match tunnel {
            Some(tunnel) => self.bags.site_to_site.insert(peer, tunnel),
            None => self.bags.site_to_site.remove(&peer),
        };
        Ok(())
    }

    fn merge_remote_access(&mut self, record: &Record<'_, '_>) -> Read<()> {
        self.notes.unknown_fields(record, REMOTE_FIELDS);
        let (server, way_in) = RemoteAccess::read(record)?;
        match way_in {
            Some(way_in) => self.bags.remote_access.insert(server, way_in),
            None => self.bags.remote_access.remove(&server),
        };
        Ok(())
    }

    fn merge_bag(&mut self, name: &str, text: Text<'_>) {
        if IGNORED.contains(&name) {
            return;
        }
        let is_read = self.with_object(text, text.source.text(), "the bag", |this, bag| {
            this.merge_bag_object(name, bag)
        });
        self.is_torn |= !is_read;
    }

    fn merge_bag_object(&mut self, name: &str, bag: &Record<'_, '_>) -> Read<()> {
        match name {
            "cmdline" => {
                let node = bag.must("config", bag.field("config"))?;
                self.bags.command_line =
                    CommandLine::read(&Record::open(node, "config", bag.text_of())?);
            }
            "loadbalancer" => self.merge_listeners(bag, "config")?,
            "ips" | "guestnetwork" | "forwardingrules" => {
                for (key, node) in entries(bag) {
                    self.merge_bag_list(name, key, node, bag.text_of());
                }
            }
            "firewallrules" | "ipv6firewallrules" | "networkacl" | "staticroutes"
            | "site2sitevpn" | "remoteaccessvpn" => {
                for (_, node) in entries(bag) {
                    self.merge_bag_entry(name, node, bag.text_of());
                }
            }
            name => {
                let what = format!("the bag \"{}\" is not known", shown(name));
                self.notes.warn(bag.place(), what, "it is passed over");
            }
        }
        Ok(())
    }

    /// The list that stands under `key` in a bag.
    fn merge_bag_list(&mut self, bag: &str, key: &str, node: &Node<'_>, text: Text<'_>) {
        let Value::List(nodes) = &node.value else {
            let what = format!("{} where a list belongs", node.description());
            self.notes.list.push(*fault(text.place(node.at), what));
            return;
        };
        for node in nodes {
            match bag {
                "ips" => self.one(node, text, "an address", ADDRESS_FIELDS, &mut |this, record| {
                    let address = Address::read(record, Some(key), &this.devices)?;
                    let list = this.bags.addresses.entry(address.device.name.clone()).or_default();
                    list.push(address);
                    Ok(())
                }),
                "guestnetwork" => {
                    self.one(node, text, "a tier", TIER_FIELDS, &mut |this, record| {
                        this.merge_tier(record)
                    });
                }
                _ => self.one(node, text, "a forwarding rule", BAG_FIELDS, &mut |this, record| {
                    let entry = Forwarding::read_bag(record)?;
                    let address = entry.public_ip.to_string();
                    this.bags.forwarding.entry(address).or_default().push(entry);
                    Ok(())
                }),
            }
        }
    }

    /// The object that stands under a key in a bag: it has that key in it, too.
    fn merge_bag_entry(&mut self, bag: &str, node: &Node<'_>, text: Text<'_>) {
        let (what, known) = match bag {
            "networkacl" => ("an ACL", ACL_FIELDS),
            "staticroutes" => ("a static route", ROUTE_FIELDS),
            "site2sitevpn" => ("a VPN", SITE_FIELDS),
            "remoteaccessvpn" => ("a VPN", REMOTE_FIELDS),
            _ => ("a firewall rule", FIREWALL_FIELDS),
        };
        self.one(node, text, what, known, &mut |this, record| match bag {
            "networkacl" => this.merge_acl(record),
            "staticroutes" => {
                let (key, route) = RouteEntry::read(record)?;
                this.bags.routes.insert(key, route);
                Ok(())
            }
            "site2sitevpn" => this.merge_site_to_site(record),
            "remoteaccessvpn" => this.merge_remote_access(record),
            _ => {
                this.bags.merge_firewall(FirewallChange::read(record)?, bag == "ipv6firewallrules");
                Ok(())
            }
        });
    }
}

impl Bags {
    /// Merges a firewall rule: what is sent again is as it was sent last.
    pub fn merge_firewall(&mut self, change: FirewallChange, is_ipv6: bool) {
        let bag = if is_ipv6 { &mut self.ipv6_firewall } else { &mut self.firewall };
        match change {
            FirewallChange::Put(entry) => {
                bag.insert(entry.id, *entry);
            }
            FirewallChange::Revoke(id) => {
                bag.remove(&id);
            }
        }
    }
}

/// The entries of a bag: its `id` is none.
fn entries<'a, 't>(
    bag: &Record<'a, 't>,
) -> impl Iterator<Item = (&'a str, &'a Node<'t>)> + use<'a, 't> {
    let entries: &'a [Entry<'t>] = bag.entries();
    entries.iter().filter(|entry| entry.key != "id").map(|entry| (entry.key.as_ref(), &entry.node))
}

/// Whether an aggregate's file is one of the server's JSON files rather than a script's input.
fn is_json(path: &str) -> bool {
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name.contains(".json"))
}
