//! Addresses (`ip_associations.json`, `ip_aliases.json`, bag `ips`) and the tiers of a VPC
//! (`guest_network.json`, bag `guestnetwork`).

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::bags::Bags;
use super::command_line::{CommandLine, RouterKind};
use super::devices::{Device, Devices};
use super::record::{Read, Record};
use super::values::{ipv6_prefix, prefix_length};
use crate::rules::diagnostic::Place;
use crate::rules::scalars::shown;
use crate::rules::set::{Cidr, NetworkIpv6};

/// An address of the router.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of its network's prefix.
    pub length: u8,
    /// The NIC.
    pub device: Device,
    /// Which side it is on.
    pub side: Side,
    /// The upstream router.
    pub gateway: Option<Ipv4Addr>,
    /// Whether guests without an address of their own leave with it.
    pub source_nat: bool,
    /// Whether it is in use; a released one stays in the bag.
    pub add: bool,
    /// Whether it is a VPC's in a private network.
    pub is_private_gateway: bool,
    /// Where it was written.
    pub place: Place,
}

/// Which side of the router an address is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The management network.
    Control,
    /// Guests.
    Guest,
    /// The outside, or a private gateway.
    Public,
}

/// A tier of a VPC.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// The NIC.
    pub device: Device,
    /// The router's own address.
    pub address: Ipv4Addr,
    /// The gateway of its guests: the virtual address where routers are redundant.
    pub gateway: Ipv4Addr,
    /// Its prefix.
    pub cidr: Cidr,
    /// Its MTU.
    pub mtu: Option<u16>,
    /// Its IPv6 side.
    pub ipv6: Option<TierIpv6>,
    /// Where it was written.
    pub place: Place,
}

/// What native rules take for an MTU.
pub const MTU: std::ops::RangeInclusive<u16> = 576..=9216;

/// The IPv6 side of a tier, and of the router towards the outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TierIpv6 {
    /// The tier's.
    pub network: NetworkIpv6,
    /// The router's address on the public side, the length of its prefix, and the upstream router.
    pub public: Option<(Ipv6Addr, u8, Option<Ipv6Addr>)>,
}

/// The fields of an address.
pub const ADDRESS_FIELDS: &[&str] = &[
    "add",
    "broadcast",
    "cidr",
    "count",
    "device",
    "first_i_p",
    "gateway",
    "is_private_gateway",
    "mtu",
    "netmask",
    "network",
    "new_nic",
    "nic_dev_id",
    "nw_type",
    "one_to_one_nat",
    "public_ip",
    "size",
    "source_nat",
    "vif_mac_address",
];

/// The fields of a tier.
pub const TIER_FIELDS: &[&str] = &[
    "add",
    "cidr",
    "cidr6",
    "delete_from_processed_cache",
    "device",
    "dns",
    "dns6",
    "domain_name",
    "is_vr_guest_gateway",
    "mac_address",
    "mtu",
    "network_id",
    "router_guest_gateway",
    "router_guest_ip",
    "router_guest_ip6",
    "router_guest_ip6_cidr",
    "router_guest_ip6_gateway",
    "router_guest_netmask",
    "router_ip6",
    "router_ip6_cidr",
    "router_ip6_gateway",
    "type",
];

impl Address {
    /// The network it is in.
    #[must_use]
    pub fn segment(&self) -> Cidr {
        Cidr::containing(self.address, self.length)
    }

    /// Whether it is in use on the public side.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.add && self.side == Side::Public && !self.is_private_gateway
    }

    /// Reads an address; `bag_device` is the device it stands under in the bag.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read(
        record: &Record<'_, '_>,
        bag_device: Option<&str>,
        devices: &Devices<'_>,
    ) -> Read<Self> {
        let address = record.address("public_ip")?;
        let number = record.integer("nic_dev_id", 0, 4095)?;
        let device = number.map(|number| Cow::from(format!("eth{number}")));
        let device = device.or_else(|| bag_device.map(Cow::from)).or(record.text("device")?);
        let side = match record.text("nw_type")?.unwrap_or_default().to_lowercase().as_str() {
            "" | "public" => Side::Public,
            "guest" => Side::Guest,
            "control" => Side::Control,
            other => {
                return Err(record.wrong("nw_type", format!("\"{other}\" is no kind of network")));
            }
        };
        let gateway = match record.text("gateway")? {
            Some(text) if text == "None" => None,
            _ => record.address("gateway")?,
        };
        let add = record.boolean("add")?;
        Ok(Self {
            address: record.must("public_ip", address)?,
            length: prefix_length(record, "netmask")?,
            device: devices.find(record, "vif_mac_address", device)?,
            side,
            gateway,
            source_nat: record.boolean("source_nat")?.unwrap_or(false),
            add: record.must("add", add)?,
            is_private_gateway: record.boolean("is_private_gateway")?.unwrap_or(false),
            place: record.place(),
        })
    }

    /// Reads a further gateway of the guest network.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read_alias(record: &Record<'_, '_>, devices: &Devices<'_>) -> Read<Self> {
        let address = record.address("ip_address")?;
        let revoke = record.boolean("revoke")?;
        Ok(Self {
            address: record.must("ip_address", address)?,
            length: prefix_length(record, "netmask")?,
            device: devices.named("eth0"),
            side: Side::Guest,
            gateway: None,
            source_nat: false,
            add: !record.must("revoke", revoke)?,
            is_private_gateway: false,
            place: record.place(),
        })
    }
}

impl TierIpv6 {
    fn read(record: &Record<'_, '_>) -> Read<Option<Self>> {
        let Some(cidr) = ipv6_cidr(record, "router_guest_ip6_cidr")? else { return Ok(None) };
        let gateway = ipv6_address(record, "router_guest_ip6_gateway")?;
        let gateway = gateway.or(ipv6_address(record, "router_guest_ip6")?);
        let gateway = record.must("router_guest_ip6_gateway", gateway)?;
        let length = ipv6_cidr(record, "router_ip6_cidr")?.map_or(64, |cidr| cidr.length());
        let upstream = ipv6_address(record, "router_ip6_gateway")?;
        let public = ipv6_address(record, "router_ip6")?.map(|address| (address, length, upstream));
        Ok(Some(Self { network: NetworkIpv6 { cidr, gateway }, public }))
    }
}

fn ipv6_address(record: &Record<'_, '_>, name: &str) -> Read<Option<Ipv6Addr>> {
    let Some(text) = record.text(name)? else { return Ok(None) };
    let wrong = || record.wrong(name, format!("\"{}\" is not an IPv6 address", shown(&text)));
    text.parse().map(Some).map_err(|_| wrong())
}

fn ipv6_cidr(record: &Record<'_, '_>, name: &str) -> Read<Option<Cidr<Ipv6Addr>>> {
    let Some(text) = record.text(name)? else { return Ok(None) };
    let wrong = || record.wrong(name, format!("\"{}\" is not an IPv6 prefix", shown(&text)));
    ipv6_prefix(&text).map(Some).ok_or_else(wrong)
}

impl Tier {
    /// Reads a tier. Returns it, and whether it is there rather than withdrawn.
    ///
    /// # Errors
    /// With its first fault.
    pub fn read(record: &Record<'_, '_>, devices: &Devices<'_>) -> Read<(Self, bool)> {
        let address = record.address("router_guest_ip")?;
        let address = record.must("router_guest_ip", address)?;
        let length = prefix_length(record, "router_guest_netmask")?;
        let add = record.boolean("add")?;
        let tier = Self {
            device: devices.find(record, "mac_address", record.text("device")?)?,
            address,
            gateway: record.address("router_guest_gateway")?.unwrap_or(address),
            cidr: Cidr::containing(address, length),
            mtu: record
                .integer("mtu", 0, 65_535)?
                .and_then(|mtu| u16::try_from(mtu).ok())
                .filter(|mtu| MTU.contains(mtu)),
            ipv6: TierIpv6::read(record)?,
            place: record.place(),
        };
        Ok((tier, record.must("add", add)?))
    }
}

impl Bags {
    /// Merges an address. An older entry of the same address goes, on whatever device it was.
    pub fn merge_address(&mut self, address: Address) {
        for known in self.addresses.values_mut() {
            known.retain(|known| known.address != address.address);
        }
        let list = self.addresses.entry(address.device.name.clone()).or_default();
        match address.side {
            Side::Control => *list = vec![address],
            _ if address.source_nat => list.insert(0, address),
            Side::Guest | Side::Public => list.push(address),
        }
    }

    /// Merges a tier: the one of its device is replaced, or withdrawn.
    pub fn merge_tier(&mut self, tier: Tier, add: bool) {
        if add {
            self.tiers.insert(tier.device.name.clone(), tier);
        } else {
            self.tiers.remove(&tier.device.name);
        }
    }

    /// Merges a command line, with the addresses it gives the router.
    pub fn merge_command_line(&mut self, line: CommandLine, devices: &Devices<'_>) {
        let sides: &[(&str, Side)] = match (line.kind(false), line.value("type")) {
            (RouterKind::Isolated, Some(_)) => {
                &[("eth0", Side::Guest), ("eth1", Side::Control), ("eth2", Side::Public)]
            }
            (RouterKind::Isolated, None) => &[],
            (RouterKind::Vpc, _) => &[("eth0", Side::Control)],
            (RouterKind::Services, _) => &[("eth0", Side::Guest), ("eth1", Side::Control)],
        };
        for &(device, side) in sides {
            let (key, mask) = (format!("{device}ip"), format!("{device}mask"));
            let mask = line.address(&mask).map_or(32, |mask| mask.to_bits().leading_ones());
            let (Some(address), Some(place)) = (line.address(&key), line.place(&key)) else {
                continue;
            };
            let gateway = if side == Side::Public { "gateway" } else { "localgw" };
            self.merge_address(Address {
                address,
                length: u8::try_from(mask).unwrap_or(32),
                device: devices.named(device),
                side,
                gateway: line.address(gateway),
                source_nat: false,
                add: true,
                is_private_gateway: false,
                place: place.clone(),
            });
        }
        self.command_line = line;
    }
}
