//! What the engine answers, as plain data: the server fills it in, the command line prints it.

use serde::{Deserialize, Serialize};

/// A session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionRow {
    /// What `sessions kill` takes for exactly this session.
    pub key: String,
    /// `tcp`, `udp`, `icmp`, or a number.
    pub protocol: String,
    /// How it is translated.
    pub kind: String,
    /// How far it has come.
    pub state: String,
    /// The guest's network; empty when the rules no longer have it.
    pub network: String,
    /// The packets of its first direction, as they come in.
    pub initiator: TupleRow,
    /// The packets of the other direction, as they come in.
    pub responder: TupleRow,
    /// Seconds since the last packet.
    pub idle_s: u64,
    /// Seconds until it ends if nothing comes.
    pub expires_s: u64,
    /// The rule that allowed it: `kind:id`, or `default`.
    pub rule: String,
}

/// One direction of a session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TupleRow {
    /// The source endpoint.
    pub source: String,
    /// The destination endpoint.
    pub destination: String,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of IPv4 packets forwarded.
    pub bytes: u64,
}

/// A mapping.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MappingRow {
    /// The protocol.
    pub protocol: String,
    /// The guest's endpoint.
    pub internal: String,
    /// The public endpoint.
    pub external: String,
    /// The guest's domain, or its network if it has none; empty when the rules no longer have it.
    pub domain: String,
    /// Sessions that use it now.
    pub sessions: u32,
}

/// How full a public address is for one protocol.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PoolRow {
    /// The public address.
    pub public_ip: String,
    /// The protocol.
    pub protocol: String,
    /// Networks that share it.
    pub networks: Vec<String>,
    /// Ports with live mappings.
    pub live: u32,
    /// Ports that rest before another guest gets them.
    pub resting: u32,
    /// Sessions that share ports because none was free.
    pub overloaded: u32,
    /// Ports that may be given out.
    pub capacity: u32,
    /// Live ports in per cent of the capacity.
    pub used_percent: f64,
}

/// A public address and what passed by it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AddressRow {
    /// The address.
    pub public_ip: String,
    /// Its interface.
    pub interface: String,
    /// Its VLAN; zero for untagged.
    pub vlan: u16,
    /// Packets of guests' sessions that came in by it.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets that went out by it.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets beyond its limits that wanted in, if it has limits.
    pub rate_exceeded_in: Option<u64>,
    /// Packets beyond its limits that wanted out.
    pub rate_exceeded_out: Option<u64>,
}

/// A member of a load balancer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MemberRow {
    /// The balancer's id.
    pub balancer: String,
    /// The public endpoint.
    pub public: String,
    /// The protocol.
    pub protocol: String,
    /// How a member is chosen.
    pub algorithm: String,
    /// The member.
    pub member: String,
    /// Its weight; zero while it is drained.
    pub weight: u16,
    /// Sessions that it has through this balancer.
    pub sessions: u32,
    /// `up`, `down`, `unknown` or `not checked`.
    pub health: String,
    /// Why, if it is not up.
    pub why: String,
}

/// A rule and what it carried.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RuleRow {
    /// What kind of rule it is: `firewall`, `port_forward` ...
    pub kind: String,
    /// Its id among rules of its kind.
    pub id: String,
    /// The network or public address it belongs to.
    pub owner: String,
    /// What it says.
    pub text: String,
    /// Where it was written.
    pub place: String,
    /// Live sessions.
    pub sessions: u64,
    /// Packets, both ways, of all sessions it allowed; or packets it refused.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A guest network.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetworkRow {
    /// Its name.
    pub name: String,
    /// Its domain; its own name if it has none.
    pub domain: String,
    /// Its interface.
    pub interface: String,
    /// Its VLAN; zero for untagged.
    pub vlan: u16,
    /// Both VLANs if it has two, as `200.100`, or its VNI, as `VNI 5001`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// Its prefix.
    pub cidr: String,
    /// The router's address in it.
    pub gateway: String,
    /// Its IPv6 prefix, if it has one.
    pub ipv6_cidr: Option<String>,
    /// The router's IPv6 address in the network.
    pub ipv6_gateway: Option<String>,
    /// Its MTU, if it has its own.
    pub mtu: Option<u16>,
    /// Its source-NAT addresses.
    pub source_nat: Vec<String>,
    /// What governs its guests: `acl`, or the egress default.
    pub egress: String,
    /// Live sessions of its guests.
    pub sessions: u64,
    /// Packets beyond its limits, if it has any.
    #[serde(default)]
    pub rate_exceeded: Option<u64>,
}

impl NetworkRow {
    /// What people call its place on the interface; none for untagged.
    #[must_use]
    pub fn tag(&self) -> Option<String> {
        tag(self.vlan, self.encapsulation.as_ref())
    }
}

/// A next hop.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NeighborRow {
    /// Its address.
    pub address: String,
    /// The interface it is on.
    pub interface: String,
    /// Its VLAN; zero for untagged.
    pub vlan: u16,
    /// Both VLANs if it has two, as `200.100`, or its VNI, as `VNI 5001`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// `reachable`, `pending` or `failed`.
    pub state: String,
    /// Its link address, if it is reachable.
    pub mac: Option<String>,
}

impl NeighborRow {
    /// What people call its place on the interface; none for untagged.
    #[must_use]
    pub fn tag(&self) -> Option<String> {
        tag(self.vlan, self.encapsulation.as_ref())
    }
}

/// What a running engine knows of one packet.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LiveRow {
    /// The session it belongs to, if there is one.
    pub session: Option<SessionRow>,
    /// Where it goes, or would go: none where the rules refuse it, or a balancer has yet to choose.
    pub next_hop: Option<NeighborRow>,
    /// The number of the policy in force.
    pub generation: u16,
}

/// Workers and interfaces.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Workers {
    /// The interfaces, in the configuration's order.
    pub interfaces: Vec<InterfaceRow>,
    /// The workers.
    pub workers: Vec<WorkerRow>,
}

/// An interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InterfaceRow {
    /// The kernel's name for it.
    pub name: String,
    /// `guest` or `public`.
    pub role: String,
    /// The AF_XDP mode that was got.
    pub mode: String,
    /// Where what comes in is taken now: `xdp`, or `tc`, the kernel's traffic control.
    #[serde(default)]
    pub hook: String,
    /// Receive queues.
    pub queues: u32,
    /// Frames received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames transmitted.
    pub transmitted_packets: u64,
    /// Their bytes.
    pub transmitted_bytes: u64,
    /// Bytes of packets that came in here and left by another interface, without link headers.
    #[serde(default)]
    pub crossed_in_bytes: u64,
    /// Bytes of packets that came in by another interface and left here.
    #[serde(default)]
    pub crossed_out_bytes: u64,
    /// What the XDP program and the sockets counted, by name.
    pub kernel: std::collections::BTreeMap<String, u64>,
}

/// A worker.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: usize,
    /// The core it is pinned to, if it is.
    pub core: Option<usize>,
    /// The queues it serves, as `interface:queue`.
    pub queues: Vec<String>,
    /// Frames received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames transmitted.
    pub transmitted_packets: u64,
    /// Their bytes.
    pub transmitted_bytes: u64,
    /// Frames not forwarded.
    pub drops: u64,
    /// Frames handed to the router's own kernel.
    pub hosted: u64,
    /// Sessions created.
    pub sessions_created: u64,
    /// Share of the time it was at work, since it was started.
    pub busy_ratio: f64,
    /// Frames in a batch, on average.
    pub batch_mean: f64,
    /// Milliseconds asleep.
    pub slept_ms: u64,
    /// Loops that found frames.
    pub loops_busy: u64,
    /// Loops that found none.
    pub loops_idle: u64,
    /// Starts after a panic.
    pub restarts: u64,
}

/// A reason for which frames are not forwarded.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DropRow {
    /// Its stable name.
    pub reason: String,
    /// Frames dropped.
    pub frames: u64,
    /// What an operator should know of it.
    pub meaning: String,
}

/// The engine in numbers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Stats {
    /// The version of natwerk.
    pub version: String,
    /// Seconds since it was started.
    pub uptime_s: u64,
    /// Workers.
    pub workers: usize,
    /// Frames received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames transmitted.
    pub transmitted_packets: u64,
    /// Their bytes.
    pub transmitted_bytes: u64,
    /// Frames not forwarded.
    pub drops: u64,
    /// Frames handed to the router's own kernel, by reason.
    pub hosted: std::collections::BTreeMap<String, u64>,
    /// Frames that had to wait for a neighbour or a first fragment.
    pub held: u64,
    /// ICMP errors sent.
    pub icmp_errors_sent: u64,
    /// ICMP errors withheld by the rate limit.
    pub icmp_errors_limited: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Sessions the table may hold.
    pub sessions_max: u64,
    /// Live IPv6 sessions.
    pub sessions_ipv6: u64,
    /// IPv6 sessions the table may hold.
    pub sessions_ipv6_max: u64,
    /// Bytes of memory the table of IPv6 sessions takes.
    pub sessions_ipv6_memory_bytes: u64,
    /// Next hops there are: neighbours that frames may be sent to.
    #[serde(default)]
    pub next_hops: u64,
    /// As many next hops as there may be.
    #[serde(default)]
    pub next_hops_max: u64,
    /// Next hops that became free, as nobody sent to them any more.
    #[serde(default)]
    pub next_hops_reclaimed: u64,
    /// Neighbours for which there was no next hop.
    #[serde(default)]
    pub next_hops_refused: u64,
    /// Shortcuts that XDP programs read.
    #[serde(default)]
    pub shortcuts: u64,
    /// As many as there may be; zero where there are none.
    #[serde(default)]
    pub shortcuts_max: u64,
    /// Sessions created.
    pub sessions_created: u64,
    /// Sessions ended, by how.
    pub sessions_ended: std::collections::BTreeMap<String, u64>,
    /// NAT events: exported, lost, withheld; none if they are not exported.
    #[serde(default)]
    pub events: Option<[u64; 3]>,
    /// Bytes of memory the session table takes.
    pub sessions_memory_bytes: u64,
    /// The number of the policy in force.
    pub generation: u16,
    /// Reloads that were done.
    pub reloads: u64,
    /// Reloads that were refused.
    pub reloads_refused: u64,
    /// Batches by size: up to 1, 2, 4 ... 64 frames.
    pub batches: std::collections::BTreeMap<String, u64>,
}

/// The compiled rules in short.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyRow {
    /// Its number.
    pub generation: u16,
    /// Public addresses.
    pub public_ips: usize,
    /// Guest networks.
    pub networks: usize,
    /// Domains, networks without one counted as one each.
    pub domains: usize,
    /// Rules by kind.
    pub rules: std::collections::BTreeMap<String, usize>,
    /// Bytes that the filters take.
    pub filter_bytes: usize,
    /// Rules of control planes that wait for something, and for what.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What the last reload did, if there was one.
    pub last_reload: Option<ReloadRow>,
}

/// What a reload did.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReloadRow {
    /// Rules that are new.
    pub added: usize,
    /// Rules that are gone.
    pub removed: usize,
    /// Rules that have changed.
    pub changed: usize,
    /// Sessions that were ended.
    pub sessions_ended: u64,
    /// The number of the policy in force now.
    pub generation: u16,
    /// How long changed files were left alone before they were read; zero when somebody asked.
    #[serde(default)]
    pub waited_ms: u64,
    /// How long it took from then until the new rules were in force.
    #[serde(default)]
    pub in_force_ms: u64,
    /// How long it took from then until the last session was looked at.
    pub duration_ms: u64,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// How many sessions there are, or were ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct CountRow {
    /// How many.
    pub count: u64,
}

/// A frame that was looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FrameRow {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// The interface it came in by.
    pub interface: String,
    /// `forward`, `drop`, `host` or `hold`.
    pub verdict: String,
    /// The name of the reason, if it was dropped or is the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The frame as it came in, in hexadecimal.
    pub frame: String,
    /// The interface it left by; empty if it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sent_interface: String,
    /// The frame as it left, in hexadecimal; empty if it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sent_frame: String,
    /// Frames that were wanted but missed since the beginning.
    pub missed: u64,
}

fn tag(vlan: u16, encapsulation: Option<&String>) -> Option<String> {
    encapsulation.cloned().or_else(|| (vlan != 0).then(|| vlan.to_string()))
}
