//! Load balancing (`load_balancer.json`, bag `loadbalancer`): haproxy's configuration, line by line, and the public
//! ports it listens on.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use super::record::{Notes, Read, Record};
use crate::rules::diagnostic::Place;
use crate::rules::scalars::shown;
use crate::rules::set::{Algorithm, Cidr, HealthCheck, Member};
use crate::rules::tree::{Node, Value};

/// A public port that is balanced, or serves haproxy's statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The public address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: NonZeroU16,
    /// What haproxy was told of it; none for the statistics.
    pub block: Option<Block>,
    /// Where it was written.
    pub place: Place,
}

/// How haproxy checks a server that says `check` and no more: every two seconds, out after three failures, back after
/// two successes.
pub const HAPROXY_CHECK: HealthCheck = {
    let [two, three] = [NonZeroU16::new(2), NonZeroU16::new(3)];
    match (two, three) {
        (Some(two), Some(three)) => HealthCheck {
            interval_seconds: two,
            timeout_seconds: two,
            healthy_after: two,
            unhealthy_after: three,
            port: None,
        },
        _ => panic!("two and three are not zero"),
    }
};

/// haproxy's `listen` block.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// The members.
    pub members: Vec<Member>,
    /// Whether members are checked over TCP.
    pub is_checked: bool,
    /// Who may connect; none is anybody.
    pub sources: Vec<Cidr>,
    /// What only haproxy can do for it, if anything.
    pub needs_haproxy: Option<String>,
}

/// The fields of the file's one entry.
pub const BALANCER_FIELDS: &[&str] = &[
    "add_rules",
    "configuration",
    "max_conn",
    "network_id",
    "private_ip",
    "public_ip",
    "remove_rules",
    "router_ip",
    "ssl_certs",
    "stat_rules",
    "tmp_cfg_file_name",
    "tmp_cfg_file_path",
];

/// Reads the listeners of the file's one entry.
///
/// # Errors
/// When there are no lists to be made out.
pub fn read(record: &Record<'_, '_>, notes: &mut Notes) -> Read<Vec<Listener>> {
    let blocks = blocks(&lines(record.list("configuration")?));
    let mut listeners = Vec::new();
    for (name, is_statistics) in [("add_rules", false), ("stat_rules", true)] {
        for node in record.list(name)? {
            let Some((address, port)) = notes.keep(endpoint(record, name, node)).flatten() else {
                continue;
            };
            let block = blocks.iter().find(|(bound, _)| *bound == (address, port));
            let unknown = || Block::of_haproxy("no \"listen\" block tells what it is");
            let block = block.map_or_else(unknown, |(_, block)| block.clone());
            let block = (!is_statistics).then_some(block);
            listeners.push(Listener {
                address,
                port,
                block,
                place: record.text_of().place(node.at),
            });
        }
    }
    Ok(listeners)
}

/// The endpoint of `address:port:…`; none for nothing, which the server sends where there are no statistics.
fn endpoint(
    record: &Record<'_, '_>,
    name: &str,
    node: &Node<'_>,
) -> Read<Option<(Ipv4Addr, NonZeroU16)>> {
    let Value::Text(text) = &node.value else {
        return Err(record.wrong(name, format!("{} where a string belongs", node.description())));
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut parts = text.split(':');
    let address = parts.next().and_then(|address| address.parse().ok());
    let port = parts.next().and_then(|port| port.parse().ok());
    match address.zip(port) {
        Some(endpoint) => Ok(Some(endpoint)),
        None => Err(super::record::fault(
            record.text_of().place(node.at),
            format!("{name}: \"{}\" is not in the form address:port:", shown(text)),
        )),
    }
}

/// The lines of a configuration: some of its strings hold several.
fn lines<'a>(nodes: &'a [Node<'_>]) -> Vec<&'a str> {
    let texts = nodes.iter().filter_map(|node| match &node.value {
        Value::Text(text) => Some(text.as_ref()),
        _ => None,
    });
    texts.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()).collect()
}

type Bound = (Ipv4Addr, NonZeroU16);

/// The `listen` blocks with what they are bound to.
fn blocks(lines: &[&str]) -> Vec<(Bound, Block)> {
    let mut blocks: Vec<(Option<Bound>, Block)> = Vec::new();
    let mut is_listen = false;
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["listen", ..] => {
                is_listen = true;
                blocks.push((None, Block::default()));
            }
            ["global" | "defaults" | "frontend" | "backend" | "peers" | "userlist", ..] => {
                is_listen = false
            }
            words if is_listen => {
                if let Some((bound, block)) = blocks.last_mut() {
                    block.read_line(words, bound);
                }
            }
            _ => {}
        }
    }
    blocks.into_iter().filter_map(|(bound, block)| Some((bound?, block))).collect()
}

impl Default for Block {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::RoundRobin,
            members: Vec::new(),
            is_checked: false,
            sources: Vec::new(),
            needs_haproxy: None,
        }
    }
}

impl Block {
    fn of_haproxy(why: &str) -> Self {
        Self { needs_haproxy: Some(why.to_owned()), ..Self::default() }
    }

    fn needs_haproxy(&mut self, why: impl Into<String>) {
        self.needs_haproxy.get_or_insert(why.into());
    }

    fn read_line(&mut self, words: &[&str], bound: &mut Option<Bound>) {
        match words {
            ["bind", endpoint, options @ ..] => {
                let endpoint =
                    endpoint.split_once(':').map(|(address, port)| (address.parse(), port.parse()));
                if let Some((Ok(address), Ok(port))) = endpoint {
                    *bound = Some((address, port));
                }
                if !options.is_empty() {
                    self.needs_haproxy(format!("bind {}", options.join(" ")));
                }
            }
            ["balance", "roundrobin" | "static-rr", ..] => self.algorithm = Algorithm::RoundRobin,
            ["balance", "leastconn", ..] => self.algorithm = Algorithm::LeastConnections,
            ["balance", "source", ..] => self.algorithm = Algorithm::Source,
            ["server", _, endpoint, options @ ..] => self.read_server(endpoint, options),
            ["acl", "network_allowed", "src", sources @ ..] => {
                for source in sources {
                    match super::values::cidr(source) {
                        Ok(cidr) => self.sources.push(cidr),
                        Err(what) => self.needs_haproxy(what),
                    }
                }
            }
            // What `sources` says already, what every TCP balancer does, and haproxy's own affairs.
            ["tcp-request", "connection", "reject", "if", "!network_allowed"]
            | ["mode", "tcp"]
            | ["timeout" | "log" | "maxconn" | "fullconn", ..]
            | ["option", "tcplog" | "redispatch" | "dontlognull", ..] => {}
            words => self.needs_haproxy(words.join(" ")),
        }
    }

    fn read_server(&mut self, endpoint: &str, options: &[&str]) {
        let parsed =
            endpoint.split_once(':').map(|(address, port)| (address.parse(), port.parse()));
        let Some((Ok(guest_ip), Ok(guest_port))) = parsed else {
            self.needs_haproxy(format!("server {endpoint}"));
            return;
        };
        let mut member = Member { guest_ip, guest_port, weight: 1 };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match *option {
                "check" => self.is_checked = true,
                "weight" => match options.next().and_then(|weight| weight.parse().ok()) {
                    Some(weight) => member.weight = weight,
                    None => self.needs_haproxy("a weight that is no number"),
                },
                "inter" | "rise" | "fall" | "maxconn" => {
                    options.next();
                }
                other => self.needs_haproxy(format!("server … {other}")),
            }
        }
        self.members.push(member);
    }
}
