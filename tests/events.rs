//! NAT events (RFC 8158): what the pipeline tells, packet by packet, and what a collector hears of the
//! running engine, decoded by the templates that came with it. The latter needs root.
#![cfg(feature = "af-xdp")]

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use natwerk::config::EventExport;
use natwerk::flow::{Endpoint, Protocol};
use natwerk::telemetry::events::{Change, Happened, Quota};
use natwerk::testing::lab::{GUEST, Lab};
use natwerk::testing::packets::Packet;

use common::router::{CONFIG, LONG, Router};
use common::{Namespace, cable, eventually};

const RULES: &str = r#"{
    "version": 1,
    "public_ips": [{"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2",
                    "gateway": "203.0.113.1"}],
    "networks": [{"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                  "source_nat": ["203.0.113.10"], "egress_default": "allow",
                  "limits": {LIMITS}, "nat": {NAT}}]
}"#;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn rules(limits: &str, nat: &str) -> String {
    RULES.replace("LIMITS", limits).replace("NAT", nat)
}

fn guest(last: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(10, 1, 1, last), port)
}

fn lab(rules: &str, sessions: bool) -> Lab {
    Lab::with(rules, |config| {
        let collector = "192.0.2.9:4739".parse().expect("an address");
        config.events = Some(EventExport { collector, sessions });
    })
}

fn send(lab: &mut Lab, from: Endpoint, remote: u16) {
    lab.send(GUEST, Packet::udp(from, Endpoint::new(SERVER, remote), b"out").frame());
}

fn told(lab: &Lab) -> Vec<Happened> {
    let events = lab.shared.events.as_ref().expect("events");
    std::iter::from_fn(|| events.pop()).map(|event| event.what).collect()
}

fn numbers(told: &[Happened]) -> Vec<u8> {
    let number = |what: &Happened| match what {
        Happened::Session { change: Change::Created, .. } => 4,
        Happened::Session { change: Change::Deleted, .. } => 5,
        Happened::Mapping { change: Change::Created, .. } => 8,
        Happened::Mapping { change: Change::Deleted, .. } => 9,
        Happened::PortsExhausted { .. } => 12,
        Happened::QuotaExceeded { .. } => 13,
    };
    told.iter().map(number).collect()
}

#[test]
fn a_mapping_is_told_once_and_no_destination_unless_asked_for() {
    let mut lab = lab(&rules("", ""), false);
    for remote in [53, 54, 55] {
        send(&mut lab, guest(5, 4000), remote);
    }
    let heard = told(&lab);
    let [Happened::Mapping { change: Change::Created, protocol, internal, external, .. }] =
        heard.as_slice()
    else {
        panic!("{heard:?}")
    };
    assert_eq!((*protocol, *internal), (Protocol::UDP, guest(5, 4000)));
    assert_eq!(*external, Endpoint::new(PUBLIC, 4000));
    lab.pass(Duration::from_secs(310));
    assert_eq!(numbers(&told(&lab)), [9]);
}

#[test]
fn sessions_are_told_if_asked_for() {
    let mut lab = lab(&rules("", ""), true);
    send(&mut lab, guest(5, 4000), 53);
    let heard = told(&lab);
    assert_eq!(numbers(&heard), [8, 4]);
    let Happened::Session { from_inside, before, after, .. } = heard[1] else { panic!() };
    assert!(from_inside);
    assert_eq!(before, (guest(5, 4000), Endpoint::new(SERVER, 53)));
    assert_eq!(after, (Endpoint::new(PUBLIC, 4000), Endpoint::new(SERVER, 53)));
    lab.pass(Duration::from_secs(310));
    let mut ended = numbers(&told(&lab));
    ended.sort_unstable();
    assert_eq!(ended, [5, 9]);
}

#[test]
fn whose_a_shared_port_is_only_its_sessions_tell() {
    let mut lab = lab(&rules("", r#""port_range": "5000-5000""#), false);
    send(&mut lab, guest(5, 4000), 53);
    send(&mut lab, guest(6, 4000), 54);
    assert_eq!(numbers(&told(&lab)), [8, 4]);
}

#[test]
fn exhausted_ports_and_exceeded_limits_are_told_a_few_times_a_second() {
    let mut lab = lab(&rules("", r#""port_range": "5000-5000", "overload": false"#), false);
    (5..105).for_each(|last| send(&mut lab, guest(last, 4000), 53));
    let heard = told(&lab);
    assert_eq!(heard[1], Happened::PortsExhausted { protocol: Protocol::UDP, public: PUBLIC });
    assert_eq!(numbers(&heard)[1..], [12; 10]);
    assert_eq!(lab.shared.events.as_ref().expect("events").counts().withheld, 89);

    for limits in [r#""ports_per_guest": 1"#, r#""sessions_per_guest": 1"#] {
        let mut lab = self::lab(&rules(limits, ""), false);
        send(&mut lab, guest(5, 4000), 53);
        send(&mut lab, guest(5, 4001), 53);
        let heard = told(&lab);
        let Happened::QuotaExceeded { quota: Quota::Guest, limit: 1, guest, .. } = heard[1] else {
            panic!("{limits}: {heard:?}")
        };
        assert_eq!(guest, Ipv4Addr::new(10, 1, 1, 5));
    }
}

/// Field by field, as RFC 7011, section 3, says.
#[derive(Default)]
struct Collector {
    templates: HashMap<u16, Vec<(u16, usize)>>,
    records: Vec<HashMap<u16, u64>>,
}

impl Collector {
    fn take(&mut self, message: &[u8]) {
        let u16_at = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(u16_at(message, 0), 10, "IPFIX");
        assert_eq!(usize::from(u16_at(message, 2)), message.len());
        let sequence = u32::from_be_bytes(message[8..12].try_into().expect("four bytes"));
        assert_eq!(sequence as usize, self.records.len(), "no message is missing");
        let mut rest = &message[16..];
        while !rest.is_empty() {
            let (set, behind) = rest.split_at(usize::from(u16_at(rest, 2)));
            let (id, mut body) = (u16_at(set, 0), &set[4..]);
            rest = behind;
            while !body.is_empty() {
                body = if id == 2 { self.template(body) } else { self.record(id, body) };
            }
        }
    }

    fn template<'b>(&mut self, body: &'b [u8]) -> &'b [u8] {
        let words: Vec<u16> =
            body.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect();
        let count = usize::from(words[1]);
        let fields = words[2..].chunks_exact(2).take(count);
        let fields = fields.map(|field| (field[0], usize::from(field[1]))).collect();
        self.templates.insert(words[0], fields);
        &body[4 + count * 4..]
    }

    fn record<'b>(&mut self, id: u16, mut body: &'b [u8]) -> &'b [u8] {
        let mut record = HashMap::new();
        for (element, length) in &self.templates[&id] {
            let (value, behind) = body.split_at(*length);
            let value = value.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            record.insert(*element, value);
            body = behind;
        }
        self.records.push(record);
        body
    }

    /// The records of an event.
    fn of(&self, event: u64) -> Vec<&HashMap<u16, u64>> {
        self.records.iter().filter(|record| record[&230] == event).collect()
    }
}

#[test]
fn a_collector_hears_what_the_running_engine_did() {
    let config = format!("manage_addresses = true\n{CONFIG}");
    let (Some(router), Some(inside), Some(internet)) =
        (Router::new(&config), Namespace::new("guest"), Namespace::new("internet"))
    else {
        return;
    };
    cable((&router.namespace, "eth0"), (&inside, "g0"));
    cable((&router.namespace, "eth2"), (&internet, "i0"));
    inside.run("ip address add 10.1.1.5/24 dev g0");
    inside.run("ip route add default via 10.1.1.1");
    internet.run("ip address add 203.0.113.1/24 dev i0");
    let socket = router.namespace.enter(|| UdpSocket::bind("127.0.0.1:0").expect("a port"));
    socket.set_nonblocking(true).expect("set");
    let collector = socket.local_addr().expect("an address");
    let events = format!("[events]\ncollector = \"{collector}\"\nsessions = true\n");
    router.write("natwerk.toml", &format!("{config}{events}"));
    router.write("rules.json", &rules(r#""ports_per_guest": 2"#, ""));
    let engine = router.start();

    let clients: Vec<UdpSocket> =
        inside.enter(|| (0..3).map(|_| UdpSocket::bind("10.1.1.5:0").expect("a port")).collect());
    let mut heard = Collector::default();
    let mut buffer = [0; 2048];
    let all = eventually(LONG, || {
        for client in &clients {
            // Refused ones are told so, which the next call says.
            let _ = client.send_to(b"out", (SERVER, 9));
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            heard.take(&buffer[..length]);
        }
        heard.of(4).len() >= 2 && !heard.of(13).is_empty()
    });
    assert!(all, "{:?}\n{}", heard.records, router.log());
    let ports: Vec<u64> = clients
        .iter()
        .map(|client| u64::from(client.local_addr().expect("an address").port()))
        .collect();
    let number = |address: [u8; 4]| u64::from(u32::from_be_bytes(address));
    for record in heard.of(8) {
        assert_eq!((record[&8], record[&4]), (number([10, 1, 1, 5]), 17));
        assert_eq!(record[&225], number([203, 0, 113, 10]));
        assert!(ports.contains(&record[&7]) && record[&227] > 0);
        assert!(!record.contains_key(&12), "no destination");
    }
    for record in heard.of(4) {
        assert_eq!((record[&12], record[&11]), (number([203, 0, 113, 1]), 9));
    }
    let refused = heard.of(13)[0];
    assert_eq!((refused[&466], refused[&473]), (3, 2), "a guest may have two");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later");
    let ago_ms = now.as_millis().abs_diff(u128::from(refused[&323]));
    assert!(ago_ms < 60_000, "{ago_ms} ms off");

    assert!(router.says("show stats").contains(" 0 lost"));

    // A stop tells nothing that did not happen: sessions are kept.
    assert_eq!(engine.end("-TERM"), Some(0));
    while let Ok(length) = socket.recv(&mut buffer) {
        heard.take(&buffer[..length]);
    }
    assert!(heard.of(5).is_empty() && heard.of(9).is_empty());
}
