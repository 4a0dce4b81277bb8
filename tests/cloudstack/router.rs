//! A router's folder made file by file, as the management server would send them.

use std::fs;

use natwerk::config::{ChecksumMode, Config, Interface, Role};
use natwerk::rules::set::RuleSet;
use natwerk::rules::sources::Nics;
use natwerk::rules::{self, Loaded};

pub const ISOLATED: &str = "name=r-1-VM type=router eth0ip=10.1.1.1 eth0mask=255.255.255.0 \
    eth1ip=169.254.1.2 eth1mask=255.255.0.0 eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1";
pub const VPC: &str = "name=r-2-VM type=vpcrouter vpccidr=10.2.0.0/16 eth0ip=169.254.1.2 \
    eth0mask=255.255.0.0 source_nat_ip=203.0.113.20 has_public_network=true";

/// A router in the making.
#[derive(Clone, Default)]
pub struct Router {
    pub command_line: String,
    pub nics: Option<String>,
    pub commands: Vec<String>,
    pub bags: Vec<(String, String)>,
}

impl Router {
    pub fn new(command_line: &str) -> Self {
        Self { command_line: command_line.to_owned(), ..Self::default() }
    }

    /// An isolated network with two public addresses, egress allowed.
    pub fn isolated() -> Self {
        Self::new(ISOLATED)
            .send(&addresses(&[("203.0.113.10", 2, true), ("203.0.113.11", 2, false)]))
            .send(EGRESS_ALLOWED)
    }

    /// A VPC with the tiers eth2 (10.2.1.0/24) and eth3 (10.2.2.0/24) and two public addresses.
    pub fn vpc() -> Self {
        Self::new(VPC)
            .send(&addresses(&[("203.0.113.20", 1, true), ("203.0.113.21", 1, false)]))
            .send(&tier("eth2", "10.2.1.1"))
            .send(&tier("eth3", "10.2.2.1"))
    }

    pub fn send(mut self, command: &str) -> Self {
        self.commands.push(command.to_owned());
        self
    }

    pub fn bag(mut self, name: &str, text: &str) -> Self {
        self.bags.push((name.to_owned(), text.to_owned()));
        self
    }

    pub fn try_load(
        &self,
        config: Option<&Config>,
    ) -> Result<Loaded, Vec<natwerk::rules::diagnostic::Diagnostic>> {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
        };
        if !self.command_line.is_empty() {
            write("cmdline", &self.command_line);
        }
        if let Some(nics) = &self.nics {
            write("nics.txt", nics);
        }
        for (name, text) in &self.bags {
            write(&format!("{name}.json"), text);
        }
        fs::create_dir(folder.path().join("cache")).expect("a folder");
        let mut sequence = String::new();
        for (number, text) in self.commands.iter().enumerate() {
            let name = format!("command.json.{number}");
            write(&format!("cache/{name}"), text);
            sequence.push_str(&format!("{name}\n"));
        }
        write("sequence.txt", &sequence);
        let path = format!("cloudstack:{}", folder.path().display());
        rules::load_with_nics(&[path], config, &Nics::default())
    }

    pub fn load(&self) -> Loaded {
        self.try_load(None).expect("something usable")
    }

    /// The rules as JSON, and everything said of them without the folder's name.
    pub fn comes_to(&self) -> (String, Vec<String>) {
        let loaded = self.load();
        let said = |fault: &natwerk::rules::diagnostic::Diagnostic| fault.what.clone();
        (rules::to_json(&loaded.rules).expect("JSON"), loaded.warnings.iter().map(said).collect())
    }
}

pub const EGRESS_ALLOWED: &str = r#"{"rules":[{"id":0,"src_ip":"","protocol":"all","revoked":false,
    "source_cidr_list":[],"purpose":"Firewall","traffic_type":"Egress","default_egress_policy":true}],
    "type":"firewallrules"}"#;

/// `ip_associations.json` with these addresses: address, device, source NAT.
pub fn addresses(addresses: &[(&str, u8, bool)]) -> String {
    let one = |(address, device, source_nat): &(&str, u8, bool)| {
        format!(
            r#"{{"public_ip":"{address}","source_nat":{source_nat},"add":true,"gateway":"203.0.113.1",
               "netmask":"255.255.255.0","nic_dev_id":{device},"nw_type":"Public"}}"#
        )
    };
    let all: Vec<String> = addresses.iter().map(one).collect();
    format!(r#"{{"ip_address":[{}],"type":"ips"}}"#, all.join(","))
}

pub fn tier(device: &str, gateway: &str) -> String {
    format!(
        r#"{{"add":true,"device":"{device}","router_guest_ip":"{gateway}","router_guest_netmask":"255.255.255.0",
           "router_guest_gateway":"{gateway}","cidr":"24","mtu":1500,"type":"guestnetwork"}}"#
    )
}

/// A port forward of 203.0.113.11, or its revocation.
pub fn forward(
    protocol: &str,
    ports: &str,
    guest: &str,
    guest_ports: &str,
    revoke: bool,
) -> String {
    forward_of("203.0.113.11", protocol, ports, (guest, guest_ports), "", revoke)
}

pub fn forward_of(
    public: &str,
    protocol: &str,
    ports: &str,
    (guest, guest_ports): (&str, &str),
    sources: &str,
    revoke: bool,
) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"protocol":"{protocol}","source_ip_address":"{public}",
           "source_port_range":"{ports}","destination_ip_address":"{guest}","destination_port_range":"{guest_ports}",
           "source_cidr_list":"{sources}"}}],"type":"forwardrules"}}"#
    )
}

pub fn static_nat(public: &str, guest: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"source_ip_address":"{public}","source_port_range":"0:0",
           "destination_ip_address":"{guest}"}}],"type":"staticnatrules"}}"#
    )
}

/// An ingress firewall rule, or its revocation.
pub fn firewall(
    id: u32,
    public: &str,
    protocol: &str,
    ports: (u16, u16),
    sources: &str,
    revoked: bool,
) -> String {
    format!(
        r#"{{"rules":[{{"id":{id},"src_ip":"{public}","protocol":"{protocol}","src_port_range":[{},{}],
           "revoked":{revoked},"source_cidr_list":[{sources}],"purpose":"Firewall","traffic_type":"Ingress",
           "default_egress_policy":false}}],"type":"firewallrules"}}"#,
        ports.0, ports.1
    )
}

/// An ACL with these lists of rules.
pub fn acl(device: &str, ingress: &str, egress: &str) -> String {
    format!(
        r#"{{"device":"{device}","private_gateway_acl":false,"ingress_rules":[{ingress}],
           "egress_rules":[{egress}],"type":"networkacl"}}"#
    )
}

/// A configuration with the interfaces that rules name.
pub fn config(rules: &RuleSet) -> Config {
    let public = rules.public_ips.iter().map(|ip| (ip.interface.clone(), Role::Public));
    let guest = rules.networks.iter().map(|it| (it.interface.clone(), Role::Guest));
    let mut interfaces: Vec<Interface> = Vec::new();
    for (name, role) in public.chain(guest) {
        if !interfaces.iter().any(|known| known.name == name) {
            interfaces.push(Interface {
                name,
                role,
                checksum: ChecksumMode::DetectPartial,
                kernel_vlans: Vec::new(),
            });
        }
    }
    Config { interfaces, icmp_errors_per_second: 0, ..Config::default() }
}
