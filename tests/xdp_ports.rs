//! AF_XDP ports and the XDP program on real devices: veth pairs in a network namespace of the
//! test's own. Needs root; says so and passes when it is not.
#![cfg(feature = "af-xdp")]

#[path = "common/veth.rs"]
mod veth;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use natwerk::config::XdpMode;
use natwerk::flow::{PortId, Protocol};
use natwerk::io::xdp::device::Device;
use natwerk::io::xdp::kernel_ports::KernelPorts;
use natwerk::io::xdp::open::{Opened, Request, open};
use natwerk::io::xdp::program::Program;
use natwerk::io::xdp::socket::XdpPort;
use natwerk::io::xdp::steering::Steering;
use natwerk::io::{Lane, Port};
use rustix::net;
use veth::{THERE, UDP, frame, in_namespace, ip, next, send, tap};

fn steering() -> Steering {
    Steering { tags: [0, 100].into(), kernel_tags: [7].into(), ..Steering::default() }
}

fn opened(mode: XdpMode, workers: usize) -> Opened {
    let interfaces = ["a0", "b0"].map(|name| Device::find(name).expect("the device"));
    let interfaces: Vec<_> =
        (0u8..).zip(interfaces).map(|(n, device)| (PortId(n), device, steering())).collect();
    open(&Request { workers, frames: 4096, ..of_one_worker(&interfaces, mode) }).expect("all opens")
}

fn of_one_worker(interfaces: &[(PortId, Device, Steering)], mode: XdpMode) -> Request<'_> {
    Request { interfaces, workers: 1, frames: 1024, mode, shortcuts: None, feeders: false }
}

/// Carries frames between the two ports until `done` or a second has passed.
fn carry(lane: &mut Lane<XdpPort>, mut done: impl FnMut(usize) -> bool) -> usize {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut frames = Vec::new();
    let mut carried = 0;
    while Instant::now() < deadline && !done(carried) {
        for from in 0..lane.ports.len() {
            lane.ports[from].socket.refill();
            lane.ports[from].socket.receive(&mut frames, 64);
            let here = lane.ports[from].port;
            let to = lane.ports.iter().position(|it| it.port != here).expect("another port");
            carried += lane.ports[to].socket.transmit(&mut frames);
            frames.clear();
            lane.ports[to].socket.kick();
        }
    }
    carried
}

fn one_program() -> Program {
    Program::load(1, None).expect("loaded").pop().expect("one")
}

fn counter(program: &Program, name: &str) -> u64 {
    program.counters().iter().find(|(known, _)| *known == name).expect("a counter").1
}

fn forwards_in(mode: XdpMode) {
    in_namespace(1, || {
        let Opened { lanes, programs, modes, .. } = opened(mode, 1);
        if mode != XdpMode::Auto {
            assert_eq!(modes, [mode, mode]);
        }
        let mut lane = lanes.into_iter().next().expect("one worker").into_lane();
        // The kernel takes tags off before a packet socket sees them; a program sees them.
        let mut watcher = one_program();
        let told = Steering { local_addresses: [(100, THERE.into())].into(), ..steering() };
        watcher.apply(&told).expect("applied");
        watcher.attach(&Device::find("a1").expect("the device"), false).expect("attached");
        let (a, b) = (tap("a1"), tap("b1"));
        lane.ports.iter_mut().for_each(|port| port.socket.refill());
        for mark in 0..100 {
            send(&a, &frame(None, THERE, UDP, 53, mark));
        }
        send(&b, &frame(Some(100), THERE, UDP, 53, 200));
        assert_eq!(carry(&mut lane, |carried| carried >= 101), 101);
        for mark in 0..100 {
            let sent = frame(None, THERE, UDP, 53, mark);
            assert_eq!(next(&b, |seen| seen.ends_with(&[mark; 20])), Some(sent), "frame {mark}");
        }
        let untagged = frame(None, THERE, UDP, 53, 200);
        assert_eq!(next(&a, |seen| seen.ends_with(&[200; 20])), Some(untagged));
        assert_eq!(counter(&watcher, "passed_local_address"), 1);
        assert_eq!(counter(&programs[0], "redirected"), 100);
        assert_eq!(counter(&programs[1], "redirected"), 1);

        // What was transmitted has come back, or will: nothing is in hand, nothing is lost.
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            lane.ports.iter_mut().for_each(|port| port.socket.refill());
            let chunks = lane.pool.whereabouts();
            assert_eq!(chunks.in_hand, 0);
            // Three quarters in two fill rings are all that stays lent.
            if chunks.lent == 3072 {
                break;
            }
            assert!(Instant::now() < deadline, "{chunks:?}");
        }
    });
}

#[test]
fn frames_are_carried_unchanged_in_copy_mode() {
    forwards_in(XdpMode::Copy);
}

#[test]
fn frames_are_carried_unchanged_in_skb_mode() {
    forwards_in(XdpMode::Skb);
}

#[test]
fn frames_are_carried_in_the_mode_that_was_negotiated() {
    forwards_in(XdpMode::Auto);
}

#[test]
fn frames_that_came_before_memory_was_offered_are_no_losses_of_a_port() {
    in_namespace(1, || {
        let Opened { lanes, programs: _programs, .. } = opened(XdpMode::Copy, 1);
        (0..5).for_each(|mark| send(&tap("a1"), &frame(None, THERE, UDP, 53, mark)));
        let lane = lanes.into_iter().next().expect("one worker").into_lane();
        assert_eq!(lane.ports[0].socket.losses().fill_ring_empty, 0);
    });
}

#[test]
fn a_mode_the_device_does_not_have_is_refused_with_the_remedy() {
    in_namespace(1, || {
        let device = Device::find("a0").expect("the device");
        let interfaces = [(PortId(0), device, steering())];
        let request = of_one_worker(&interfaces, XdpMode::ZeroCopy);
        let said = open(&request).err().expect("veth has no zero-copy").to_string();
        assert!(said.contains("set workers.mode"), "{said}");
        drop(opened(XdpMode::Auto, 1));
    });
}

#[test]
fn an_unfinished_checksum_arrives_as_it_was_sent() {
    in_namespace(1, || {
        ip(&["address", "add", "10.9.0.1/24", "dev", "a1"]);
        ip(&["neighbor", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "a1"]);
        let Opened { lanes, programs: _programs, .. } = opened(XdpMode::Copy, 1);
        let mut lane = lanes.into_iter().next().expect("one worker").into_lane();
        let b = tap("b1");
        lane.ports.iter_mut().for_each(|port| port.socket.refill());
        let socket = std::net::UdpSocket::bind("10.9.0.1:1000").expect("a socket");
        socket.send_to(&[7; 20], "10.9.0.2:2000").expect("sent");
        carry(&mut lane, |carried| carried >= 1);
        let seen = next(&b, |seen| seen.ends_with(&[7; 20])).expect("the datagram");
        let words = |bytes: &[u8]| -> u32 {
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
        };
        let pseudo = words(&seen[26..34]) + u32::from(UDP) + 28;
        let folded = (pseudo & 0xffff) + (pseudo >> 16);
        let field = u32::from(u16::from_be_bytes([seen[40], seen[41]]));
        assert_eq!(field, folded, "the sender's kernel left the sum of the pseudo header alone");
    });
}

#[test]
fn what_is_the_kernels_gets_to_the_kernel_and_nothing_else_does() {
    in_namespace(1, || {
        let mut program = one_program();
        let public = Ipv4Addr::new(203, 0, 113, 10);
        let mut kernel_ports = KernelPorts::new(Some(32_768..=60_999));
        kernel_ports.have_own(public);
        kernel_ports.insert(public, Protocol::TCP, 22..=22);
        kernel_ports.remove(public, Protocol::TCP, 40_000..=40_000);
        kernel_ports.remove(public, Protocol::UDP, 40_960..=41_215);
        kernel_ports.insert(public, Protocol::ESP, 0..=0);
        let mut steering = Steering {
            tags: [0, 100].into(),
            arp_tags: [].into(),
            kernel_tags: [300].into(),
            double_tags: [].into(),
            vteps: [].into(),
            local_addresses: [(0, Ipv4Addr::new(10, 1, 1, 1)), (100, Ipv4Addr::new(10, 1, 2, 1))]
                .into(),
            local_addresses_ipv6: [(0, GATEWAY_IPV6)].into(),
            kernel_ports: kernel_ports.clone(),
        };
        program.apply(&steering).expect("applied");
        let device = Device::find("a0").expect("the device");
        program.attach(&device, true).expect("attached");
        let a = tap("a1");
        let expect = |frame: &[u8], reason: &str| {
            let before = program.counters();
            send(&a, frame);
            let deadline = Instant::now() + Duration::from_secs(3);
            let grown = loop {
                let now = program.counters();
                let changed = now.iter().zip(&before).find(|(now, before)| now.1 != before.1);
                if let Some((now, _)) = changed {
                    break now.0;
                }
                assert!(Instant::now() < deadline, "nobody counted the frame for {reason}");
            };
            assert_eq!(grown, reason);
        };
        let ipv4 = |tag, to, protocol, port| frame(tag, to, protocol, port, 1);
        let public = public.octets();
        let mut arp = ipv4(None, THERE, UDP, 1);
        arp[12..14].copy_from_slice(&[8, 6]);
        expect(&arp, "passed_not_ip");
        let mut group = ipv4(None, THERE, UDP, 67);
        group[0..6].fill(0xff);
        expect(&group, "passed_group");
        expect(&ipv4(Some(7), THERE, UDP, 1), "dropped_unknown_tag");
        expect(&ipv4(Some(300), THERE, UDP, 1), "passed_tag");
        expect(&ipv4(Some(300), [10, 1, 1, 1], UDP, 1), "passed_tag");
        let mut provider = ipv4(Some(100), THERE, UDP, 1);
        provider[12..14].copy_from_slice(&[0x88, 0xa8]);
        expect(&provider, "dropped_unknown_tag");
        let mut twice = ipv4(Some(100), THERE, UDP, 1);
        twice.splice(12..12, [0x81, 0, 0, 100]);
        expect(&twice, "dropped_unknown_tag");
        // Spanning tree and the like have no tag, and no network of ours is told of them.
        let mut spanning_tree = ipv4(None, THERE, UDP, 1);
        spanning_tree[0..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0]);
        spanning_tree[12..14].copy_from_slice(&[0, 38]);
        expect(&spanning_tree, "passed_group");
        expect(&ipv4(None, [10, 1, 1, 1], UDP, 53), "passed_local_address");
        expect(&ipv4(Some(100), [10, 1, 2, 1], UDP, 53), "passed_local_address");
        // Under another tag the same address is somebody else's. No socket is bound here.
        expect(&ipv4(Some(100), [10, 1, 1, 1], UDP, 53), "dropped_no_socket");
        expect(&ipv4(Some(0), [10, 1, 1, 1], UDP, 53), "passed_local_address");
        expect(&ipv4(None, public, 6, 22), "passed_service");
        expect(&ipv4(None, public, 6, 60_999), "passed_service");
        expect(&ipv4(None, public, 6, 61_000), "dropped_no_socket");
        expect(&ipv4(None, public, UDP, 32_768), "passed_service");
        expect(&ipv4(None, public, UDP, 32_767), "dropped_no_socket");
        // Forwarded: one port, and a whole page.
        expect(&ipv4(None, public, 6, 40_000), "dropped_no_socket");
        expect(&ipv4(None, public, 6, 40_001), "passed_service");
        expect(&ipv4(None, public, UDP, 41_000), "dropped_no_socket");
        expect(&ipv4(None, public, 132, 40_001), "dropped_no_socket");
        expect(&ipv4(None, [203, 0, 113, 11], 6, 40_001), "dropped_no_socket");
        expect(&ipv4(None, public, 50, 1), "passed_service");
        expect(&ipv4(None, public, 6, 23), "dropped_no_socket");
        expect(&ipv4(None, public, UDP, 22), "dropped_no_socket");
        expect(&ipv4(None, public, 1, 0), "dropped_no_socket");
        let mut fragment = ipv4(None, public, 6, 22);
        fragment[20] = 0x20;
        expect(&fragment, "dropped_no_socket");
        let mut options = ipv4(None, public, 6, 9);
        options[14] = 0x46;
        options[38..40].copy_from_slice(&22u16.to_be_bytes());
        options[40..42].copy_from_slice(&22u16.to_be_bytes());
        expect(&options, "passed_service");
        let mut short = ipv4(None, public, 6, 22);
        short.truncate(30);
        expect(&short, "dropped_no_socket");
        short.truncate(14);
        expect(&short, "dropped_no_socket");
        expect(&ipv4(Some(100), public, 6, 22)[..16], "dropped_short");

        // The other rules, live.
        steering.tags.remove(&100);
        steering.local_addresses.pop_first();
        kernel_ports = KernelPorts::new(None);
        kernel_ports.insert(Ipv4Addr::from(public), Protocol::TCP, 443..=443);
        steering.kernel_ports = kernel_ports;
        program.apply(&steering).expect("applied");
        let before = |name| counter(&program, name);
        let (service, dropped) = (before("passed_service"), before("dropped_no_socket"));
        send(&a, &ipv4(None, public, 6, 443));
        send(&a, &ipv4(None, public, 6, 22));
        send(&a, &ipv4(None, public, 50, 0));
        send(&a, &ipv4(None, public, UDP, 32_768));
        send(&a, &ipv4(None, [10, 1, 1, 1], UDP, 53));
        send(&a, &ipv4(Some(100), [10, 1, 2, 1], UDP, 53));
        let deadline = Instant::now() + Duration::from_secs(3);
        while counter(&program, "dropped_no_socket") < dropped + 4 && Instant::now() < deadline {}
        assert_eq!(counter(&program, "passed_service"), service + 1);
        assert_eq!(counter(&program, "dropped_no_socket"), dropped + 4);
        assert_eq!(counter(&program, "passed_tag"), 2);
        assert_eq!(counter(&program, "dropped_unknown_tag"), 4);
    });
}

/// The router's IPv6 address towards guests.
const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// An ICMPv6 message of `icmp_type` to `to`, as a frame.
fn icmpv6(tag: Option<u16>, to: Ipv6Addr, icmp_type: u8, hop_limit: u8) -> Vec<u8> {
    let mut frame = frame(tag, THERE, UDP, 1, 1);
    let link = if tag.is_some() { 18 } else { 14 };
    frame.truncate(link);
    frame[link - 2..].copy_from_slice(&[0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, hop_limit]);
    frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5).octets());
    frame.extend(to.octets());
    frame.extend([icmp_type, 0, 0, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn ipv6_is_the_dataplanes_but_for_neighbour_discovery_and_the_routers_own() {
    in_namespace(1, || {
        let mut program = one_program();
        let steering = Steering {
            tags: [0, 100].into(),
            arp_tags: [].into(),
            local_addresses_ipv6: [(0, GATEWAY_IPV6)].into(),
            ..Steering::default()
        };
        program.apply(&steering).expect("applied");
        let device = Device::find("a0").expect("the device");
        program.attach(&device, true).expect("attached");
        let a = tap("a1");
        let remote: Ipv6Addr = "2001:db8:51::9".parse().expect("an address");
        let link_local: Ipv6Addr = "fe80::1".parse().expect("an address");
        let group: Ipv6Addr = "ff02::1".parse().expect("an address");
        // No socket is bound here, so what is the dataplane's is dropped.
        let mut short = icmpv6(None, remote, 128, 64);
        short.truncate(40);
        for (frame, reason) in [
            (icmpv6(None, remote, 128, 64), "dropped_no_socket"),
            (icmpv6(None, GATEWAY_IPV6, 128, 64), "passed_local_address"),
            (icmpv6(Some(100), GATEWAY_IPV6, 128, 64), "dropped_no_socket"),
            (icmpv6(None, link_local, 128, 64), "passed_link_local"),
            (icmpv6(None, group, 128, 64), "passed_link_local"),
            (icmpv6(None, remote, 135, 255), "passed_neighbor_discovery"),
            (icmpv6(Some(100), remote, 136, 255), "passed_neighbor_discovery"),
            // Forwarded before, so it is none (RFC 4861, section 7.1).
            (icmpv6(None, remote, 135, 254), "dropped_no_socket"),
            (icmpv6(None, remote, 132, 255), "dropped_no_socket"),
            (icmpv6(Some(7), remote, 128, 64), "dropped_unknown_tag"),
            (short, "dropped_no_socket"),
        ] {
            let before = counter(&program, reason);
            send(&a, &frame);
            let deadline = Instant::now() + Duration::from_secs(3);
            while counter(&program, reason) == before {
                assert!(Instant::now() < deadline, "not {reason}: {frame:x?}");
            }
        }
    });
}

#[test]
fn every_queue_is_served_whatever_the_number_of_workers() {
    for workers in [1, 2, 4] {
        in_namespace(4, move || {
            let Opened { lanes, programs, .. } = opened(XdpMode::Copy, workers);
            let served: usize = lanes.iter().map(|lane| lane.queues().count()).sum();
            assert_eq!((lanes.len(), served), (workers, 8));
            let mut lanes: Vec<_> = lanes.into_iter().map(|parts| parts.into_lane()).collect();
            for port in lanes.iter_mut().flat_map(|lane| &mut lane.ports) {
                port.socket.refill();
            }
            let a = tap("a1");
            // Different flows leave by different queues.
            for port in 0..64 {
                send(&a, &frame(None, THERE, UDP, port, 1));
            }
            let mut carried = 0;
            let deadline = Instant::now() + Duration::from_secs(3);
            while carried < 64 && Instant::now() < deadline {
                for lane in &mut lanes {
                    let mut rounds = 0;
                    carried += carry(lane, |_| {
                        rounds += 1;
                        rounds > 3
                    });
                }
            }
            assert_eq!(carried, 64);
            assert_eq!(counter(&programs[0], "dropped_no_socket"), 0);
        });
    }
}

/// Says in the environment that this process is one to be killed.
const HOLDS: &str = "NATWERK_TEST_HOLDS";

/// Starts this test's program once more, to hold everything open until it is killed.
fn start_holder() -> Child {
    let program = std::env::current_exe().expect("this test");
    let mut child = Command::new(program)
        .args(["--exact", "a_killed_process_leaves_nothing_in_the_way", "--nocapture"])
        .env(HOLDS, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "holding"), "the holder could not open everything");
    child
}

#[test]
fn a_killed_process_leaves_nothing_in_the_way() {
    if std::env::var_os(HOLDS).is_some() {
        let _opened = opened(XdpMode::Copy, 1);
        println!("\nholding");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    in_namespace(1, || {
        let mut first = start_holder();
        let interfaces = [(PortId(0), Device::find("a0").expect("the device"), steering())];
        let request = of_one_worker(&interfaces, XdpMode::Copy);
        let said = open(&request).err().expect("the queue is taken").to_string();
        assert!(said.contains("another process has a socket on it"), "{said}");
        first.kill().expect("killed");
        first.wait().expect("gone");
        // Its program has stayed, and drops what it had sent to its sockets.
        let shown = Command::new("ip").args(["link", "show", "dev", "a0"]).output();
        let shown = String::from_utf8_lossy(&shown.expect("ip runs").stdout).into_owned();
        assert!(shown.contains(" xdp "), "{shown}");
        let kernel = tap("a0");
        send(&tap("a1"), &frame(None, THERE, UDP, 53, 9));
        send(&tap("a1"), &frame(Some(7), THERE, UDP, 53, 8));
        let first = next(&kernel, |seen| [8, 9].iter().any(|mark| seen.ends_with(&[*mark; 20])));
        assert!(first.is_some_and(|seen| seen.ends_with(&[8; 20])), "only what is not its own");
        let mut second = start_holder();
        second.kill().expect("killed");
        second.wait().expect("gone");
        forwards_after_restart();
    });
}

fn forwards_after_restart() {
    let Opened { lanes, programs: _programs, .. } = opened(XdpMode::Copy, 1);
    let mut lane = lanes.into_iter().next().expect("one worker").into_lane();
    lane.ports.iter_mut().for_each(|port| port.socket.refill());
    let (a, b) = (tap("a1"), tap("b1"));
    send(&a, &frame(None, THERE, UDP, 53, 5));
    carry(&mut lane, |carried| carried >= 1);
    assert!(next(&b, |seen| seen.ends_with(&[5; 20])).is_some());
}

#[test]
fn a_program_left_behind_is_replaced_and_a_strangers_is_not() {
    in_namespace(1, || {
        // As a natwerk that cannot use links leaves it: attached by netlink, without an owner.
        let folder = tempfile::tempdir().expect("a folder");
        let object = folder.path().join("program.o");
        let object = object.to_str().expect("a name");
        let compile = |name: &str| {
            let source = format!(
                "struct ctx; __attribute__((section(\"xdp\"), used)) int {name}(struct ctx *c) \
                 {{ (void)c; return 2; }} char _license[] __attribute__((section(\"license\"))) = \"GPL\";"
            );
            let path = folder.path().join("program.c");
            std::fs::write(&path, source).expect("written");
            let run = Command::new("clang")
                .args(["-O2", "-g", "-target", "bpf", "-c", "-o", object])
                .arg(&path)
                .status();
            assert!(run.expect("clang runs").success());
        };
        compile("natwerk_steer");
        ip(&["link", "set", "dev", "a0", "xdp", "obj", object, "sec", "xdp"]);
        forwards_after_restart();
        compile("stranger");
        ip(&["link", "set", "dev", "a0", "xdp", "obj", object, "sec", "xdp"]);
        let interfaces = [(PortId(0), Device::find("a0").expect("the device"), steering())];
        let request = of_one_worker(&interfaces, XdpMode::Auto);
        let said = open(&request).err().expect("the hook is taken").to_string();
        assert!(said.contains("\"stranger\""), "{said}");
        assert!(said.contains("ip link set dev a0 xdp off"), "{said}");
    });
}

#[test]
fn a_port_goes_on_after_its_link_was_down() {
    in_namespace(1, || {
        let Opened { lanes, programs: _programs, .. } = opened(XdpMode::Copy, 1);
        let mut lane = lanes.into_iter().next().expect("one worker").into_lane();
        lane.ports.iter_mut().for_each(|port| port.socket.refill());
        for device in ["a0", "b0"] {
            ip(&["link", "set", device, "down"]);
            carry(&mut lane, |_| true);
            ip(&["link", "set", device, "up"]);
        }
        let (a, b) = (tap("a1"), tap("b1"));
        // The carrier takes a moment to come back.
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen = None;
        while seen.is_none() && Instant::now() < deadline {
            let _ = net::send(&a, &frame(None, THERE, UDP, 53, 6), net::SendFlags::empty());
            carry(&mut lane, |carried| carried >= 1);
            seen = next(&b, |seen| seen.ends_with(&[6; 20]));
        }
        assert!(seen.is_some());
    });
}
