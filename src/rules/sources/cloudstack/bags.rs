//! The state of a virtual router: what its data bags hold once everything is merged into them.

use std::collections::BTreeMap;

use super::acl::Acl;
use super::addresses::{Address, Tier};
use super::balancer::Listener;
use super::command_line::CommandLine;
use super::firewall::FirewallEntry;
use super::forwarding::Forwarding;
use super::routes::RouteEntry;
use super::vpn::{RemoteAccess, SiteToSite};

/// Everything the router was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bags {
    /// `cmdline`: what kind of router it is.
    pub command_line: CommandLine,
    /// `ips`: addresses by device, in the bag's order.
    pub addresses: BTreeMap<String, Vec<Address>>,
    /// `guestnetwork`: the tiers of a VPC by device.
    pub tiers: BTreeMap<String, Tier>,
    /// `firewallrules` by id: in the bag they stand by its text, which means nothing.
    pub firewall: BTreeMap<i64, FirewallEntry>,
    /// `ipv6firewallrules` by id.
    pub ipv6_firewall: BTreeMap<i64, FirewallEntry>,
    /// `forwardingrules` by public address.
    pub forwarding: BTreeMap<String, Vec<Forwarding>>,
    /// `networkacl` by device.
    pub acls: BTreeMap<String, Acl>,
    /// `loadbalancer`.
    pub listeners: Vec<Listener>,
    /// `staticroutes` by destination.
    pub routes: BTreeMap<String, RouteEntry>,
    /// `site2sitevpn` by peer.
    pub site_to_site: BTreeMap<String, SiteToSite>,
    /// `remoteaccessvpn` by server address.
    pub remote_access: BTreeMap<String, RemoteAccess>,
}

impl Bags {
    /// All addresses with their devices.
    pub fn all_addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.values().flatten()
    }

    /// The addresses in use on the public side.
    pub fn public_addresses(&self) -> impl Iterator<Item = &Address> {
        self.all_addresses().filter(|address| address.is_public())
    }
}
