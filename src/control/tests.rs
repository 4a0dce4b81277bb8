//! The control socket over a small engine that nobody drives.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::config::XdpMode;
use crate::control::answers::Answers;
use crate::control::client::{AskError, Client};
use crate::control::fixture;
use crate::control::metrics::Scraper;
use crate::control::requests::{LiveQuestion, Request, SessionFilter, WatchFilter};
use crate::control::rows::{
    CountRow, DropRow, FrameRow, LiveRow, MappingRow, NetworkRow, PolicyRow, PoolRow, ReloadRow,
    RuleRow, SessionRow, Stats, Workers,
};
use crate::control::server::Server;
use crate::engine::handle::{
    Command, EngineHandle, InterfaceStatus, QueueStatus, ReloadError, ReloadReport, WorkerStatus,
};
use crate::flow::{Generation, PortId};
use crate::next_hop::NextHops;
use crate::pipeline::shared::{Settings, Shared};
use crate::policy::publish::Published;
use crate::policy::samples;
use crate::session::timeout::Timeouts;
use crate::telemetry::counters::WorkerCounters;
use crate::verdict::{DropReason, Verdict};

/// An engine with the fixture's policy and sessions, two interfaces and one worker. Its first
/// reload is refused, the others are done.
fn answers() -> Answers {
    let config = samples::config();
    let ports = config.interfaces.iter().map(|port| (port.role, port.checksum)).collect();
    let policy = fixture::policy();
    let table = fixture::table(&policy);
    let settings = Settings {
        ports,
        timeouts: Timeouts::default(),
        on_rule_removal: config.sessions.on_rule_removal,
        events: None,
        icmp_errors_per_second: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    let (engine, commands) = EngineHandle::new(Arc::new(config.clone()));
    let wide = crate::session::table::Table::in_memory(64, [1, 2, 3, 4]);
    let (hops, published) = (Arc::new(NextHops::new(16)), Published::new(policy));
    let shared = Shared::new(table, wide, hops, published, settings);
    let counters = Arc::new(WorkerCounters::new(2));
    counters.received(PortId(0), 100);
    counters.dropped(DropReason::NoPort);
    engine.set_workers(vec![WorkerStatus {
        index: 0,
        core: Some(1),
        queues: vec![QueueStatus { port: PortId(0), ..Default::default() }],
        counters,
    }]);
    let interface = |(place, interface): (u8, &crate::config::Interface)| InterfaceStatus {
        port: PortId(place),
        name: interface.name.clone(),
        role: interface.role,
        kernel_index: Some(7),
        mode: XdpMode::Copy,
        need_wakeup: true,
        queues: 1,
        program_id: Some(9),
        steering: vec![("to_socket", 5)],
    };
    engine.set_interfaces((0..).zip(&config.interfaces).map(interface).collect());
    let mut outcomes = vec![Ok(report()), Err(ReloadError::Refused { diagnostics: Vec::new() })];
    let other = engine.clone();
    thread::spawn(move || {
        while let Ok(Command::Reload(reply)) = commands.recv() {
            let outcome = outcomes.pop().unwrap_or(Ok(report()));
            other.set_reload(&outcome);
            let _ = reply.send(outcome);
        }
    });
    Answers::new(engine, Arc::new(shared))
}

fn report() -> ReloadReport {
    ReloadReport {
        added: 1,
        removed: 2,
        changed: 3,
        sessions_ended: 4,
        generation: Generation(5),
        waited: Duration::from_millis(50),
        in_force: Duration::from_millis(3),
        duration: Duration::from_millis(6),
        warnings: Vec::new(),
    }
}

/// The socket, open, and a client of it.
fn served() -> (tempfile::TempDir, Server, Client) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let server = Server::start(&path, Arc::new(answers())).unwrap();
    let client = Client::connect(&path).unwrap();
    (folder, server, client)
}

fn all_sessions(client: &mut Client, filter: SessionFilter) -> Vec<SessionRow> {
    let mut rows = Vec::new();
    let take = |part: Vec<SessionRow>| {
        rows.extend(part);
        Ok::<(), AskError>(())
    };
    client.ask_in_parts(&Request::ShowSessions(filter), take).unwrap();
    rows
}

#[test]
fn sessions_are_listed_counted_and_ended() {
    let (_folder, _server, mut client) = served();
    let filter = SessionFilter::default;
    assert_eq!(all_sessions(&mut client, filter()).len(), 3);
    assert_eq!(all_sessions(&mut client, SessionFilter { limit: Some(2), ..filter() }).len(), 2);
    let count = Request::ShowSessions(SessionFilter { count: true, protocol: Some(6), ..filter() });
    assert_eq!(client.ask::<CountRow>(&count).unwrap().count, 2);

    let udp = SessionFilter { protocol: Some(17), ..filter() };
    let key = all_sessions(&mut client, udp).remove(0).key;
    let kill = Request::SessionsKill(SessionFilter { key: Some(key), ..filter() });
    assert_eq!(client.ask::<CountRow>(&kill).unwrap().count, 1);
    assert_eq!(client.ask::<CountRow>(&kill).unwrap().count, 0);
    let everything = client.ask::<CountRow>(&Request::SessionsKill(filter()));
    assert!(matches!(everything, Err(AskError::Refused(refusal)) if refusal.bad_input));
    assert_eq!(client.ask::<CountRow>(&Request::SessionsFlush).unwrap().count, 2);
    let stats = client.ask::<Stats>(&Request::ShowStats).unwrap();
    assert_eq!((stats.sessions, stats.sessions_max), (0, 64));
    assert_eq!(stats.sessions_ended["flushed"], 3);
}

#[test]
fn a_rule_keeps_what_its_ended_sessions_carried() {
    let (_folder, _server, mut client) = served();
    let forward = |client: &mut Client| {
        let rows = client.ask::<Vec<RuleRow>>(&Request::ShowRules).unwrap();
        rows.into_iter().find(|row| row.id == "p1").unwrap()
    };
    let before = forward(&mut client);
    assert_eq!((before.sessions, before.packets, before.bytes), (1, 1, 60));
    client.ask::<CountRow>(&Request::SessionsFlush).unwrap();
    let after = forward(&mut client);
    assert_eq!((after.sessions, after.packets, after.bytes), (0, 1, 60));
}

#[test]
fn reload_reports_the_difference_or_the_faults() {
    let (_folder, _server, mut client) = served();
    let refused = client.ask::<ReloadRow>(&Request::Reload);
    assert!(matches!(refused, Err(AskError::Refused(refusal)) if refusal.bad_input));
    let row = client.ask::<ReloadRow>(&Request::Reload).unwrap();
    assert_eq!((row.added, row.removed, row.changed, row.sessions_ended), (1, 2, 3, 4));
    let policy = client.ask::<PolicyRow>(&Request::ShowPolicy).unwrap();
    assert_eq!(policy.last_reload, Some(row));
    assert_eq!((policy.networks, policy.public_ips, policy.generation), (1, 2, 1));
}

#[test]
fn everything_can_be_shown() {
    let (_folder, _server, mut client) = served();
    let drops = client.ask::<Vec<DropRow>>(&Request::ShowDrops).unwrap();
    assert_eq!(drops.len(), DropReason::ALL.len());
    assert_eq!(drops.iter().map(|row| row.frames).sum::<u64>(), 1);
    let networks = client.ask::<Vec<NetworkRow>>(&Request::ShowNetworks).unwrap();
    assert_eq!((networks[0].interface.as_str(), networks[0].sessions), ("eth0", 3));
    let pools = client.ask::<Vec<PoolRow>>(&Request::ShowPools).unwrap();
    assert!(pools.iter().all(|row| row.public_ip == "203.0.113.10" && row.networks == ["web"]));
    let workers = client.ask::<Workers>(&Request::ShowWorkers).unwrap();
    assert_eq!(workers.workers[0].queues, ["eth0:0"]);
    assert_eq!(workers.interfaces[0].mode, "copy");
    assert_eq!(workers.interfaces[0].hook, "xdp");
    assert_eq!(workers.interfaces[0].received_bytes, 100);
    let config = client.ask::<serde_json::Value>(&Request::ShowConfig).unwrap();
    assert_eq!(config["interface"][1]["name"], "eth2");
    let mappings = Request::ShowMappings(Default::default());
    assert!(client.ask::<Vec<MappingRow>>(&mappings).unwrap().is_empty());
    assert!(client.ask::<Vec<serde_json::Value>>(&Request::ShowNeighbors).unwrap().is_empty());
}

#[test]
fn a_packet_is_explained_by_its_session_and_its_next_hop() {
    let (_folder, _server, mut client) = served();
    let question = |interface: &str, port| LiveQuestion {
        interface: interface.to_owned(),
        vlan: 0,
        encapsulation: None,
        protocol: 6,
        source: ("10.1.1.5".parse().unwrap(), port),
        destination: ("198.51.100.9".parse().unwrap(), 443),
        icmp: (0, 0),
    };
    let mut ask =
        |interface, port| client.ask::<LiveRow>(&Request::Explain(question(interface, port)));
    let known = ask("eth0", 40000).unwrap();
    assert_eq!(known.session.unwrap().initiator.source, "10.1.1.5:40000");
    let new = ask("eth0", 40001).unwrap();
    assert_eq!(new.session, None);
    let hop = new.next_hop.unwrap();
    assert_eq!((hop.interface.as_str(), hop.state.as_str()), ("eth2", "unknown"));
    let refused = ask("eth9", 40000);
    assert!(matches!(refused, Err(AskError::Refused(refusal)) if refusal.bad_input));
}

#[test]
fn frames_are_watched_until_enough_were_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let answers = answers();
    let tap = Arc::clone(answers.engine().tap());
    let _server = Server::start(&path, Arc::new(answers)).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let traffic = thread::spawn(move || {
        // Nobody looks before the client has asked, and the first two frames are enough for it.
        let filter = loop {
            if let Some(filter) = tap.filter() {
                break filter;
            }
            thread::yield_now();
        };
        for first in 1..=3 {
            let record = tap.begin(&filter, PortId(0), &[first; 60]).unwrap();
            tap.end(&filter, record, Verdict::Drop(DropReason::NoRoute), None);
        }
    });
    let mut rows = Vec::new();
    let watch = WatchFilter { drops: true, count: Some(2), ..Default::default() };
    let asked = client.ask_in_parts(&Request::Watch(watch), |part: Vec<FrameRow>| {
        rows.extend(part);
        Ok::<(), AskError>(())
    });
    asked.unwrap();
    traffic.join().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].interface.as_str(), rows[0].reason.as_str()), ("eth0", "no_route"));
    assert!(rows[1].frame.starts_with("0202"));
    let unknown = WatchFilter { reason: Some("no_rout".to_owned()), ..Default::default() };
    let refused = client.ask::<Vec<FrameRow>>(&Request::Watch(unknown));
    assert!(matches!(refused, Err(AskError::Refused(refusal)) if refusal.bad_input));
}

#[test]
fn a_scrape_has_every_metric() {
    let text = Scraper::default().scrape(&answers()).text();
    for line in [
        "natwerk_rx_packets_total{interface=\"eth0\"} 1",
        "natwerk_drops_total{reason=\"no_port\"} 1",
        "natwerk_drops_total{reason=\"no_route\"} 0",
        "natwerk_sessions 3",
        "natwerk_sessions_max 64",
        "natwerk_nat_ports_in_use{public_ip=\"203.0.113.10\",protocol=\"tcp\"} 0",
        "natwerk_rule_bytes_total{kind=\"port-forward\",rule=\"p1\",owner=\"203.0.113.11\"} 60",
        "natwerk_xdp_mode_info{interface=\"eth2\",mode=\"copy\"} 1",
        "natwerk_worker_restarts_total{worker=\"0\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
    assert!(text.contains("natwerk_build_info{version="), "{text}");
}
