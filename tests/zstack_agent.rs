//! `natwerk zstack-agent` from outside: a management server sends commands and gets its callbacks, the engine has the
//! rules when they come, and rebinding moves new sessions while it cuts the old rule's. What needs root says so and passes
//! when it is not.
#![cfg(feature = "af-xdp")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::router::{CONFIG, LONG, Router, Running};
use common::{Namespace, cable, eventually};
use serde_json::{Value, json};

/// How long nothing must come until it is taken for cut.
const SILENCE: Duration = Duration::from_millis(700);

const PUBLIC: &str = "fa:16:3e:00:00:01";
const PRIVATE: &str = "fa:16:3e:00:00:02";

/// The boot information: the address that is listened on, a public and a private NIC.
fn boot(management: &str) -> Value {
    let nic = |name, mac, ip, gateway, category| {
        json!({"deviceName": name, "mac": mac, "ip": ip, "netmask": "255.255.255.0", "gateway": gateway,
               "isDefaultRoute": name == "eth1", "category": category, "mtu": 1500})
    };
    json!({
        "managementNic": nic("eth0", "fa:16:3e:00:00:00", management, "", "Public"),
        "additionalNics": [
            nic("eth1", PUBLIC, "203.0.113.5", "203.0.113.1", "Public"),
            nic("eth2", PRIVATE, "192.168.10.1", "192.168.10.1", "Private"),
        ],
        "uuid": "u",
    })
}

fn forward(uuid: &str, public: u16, guest: &str, private: u16) -> Value {
    json!({"uuid": uuid, "vipPortStart": public, "vipPortEnd": public, "privatePortStart": private,
           "privatePortEnd": private, "protocolType": "TCP", "vipIp": "203.0.113.21", "publicMac": PUBLIC,
           "privateIp": guest, "privateMac": PRIVATE, "snatInboundTraffic": false})
}

fn vip(address: &str) -> Value {
    json!({"ip": address, "netmask": "255.255.255.0", "gateway": "203.0.113.1", "ownerEthernetMac": PUBLIC})
}

/// A request as a server sends it. Returns the status and the body of the response.
fn post(to: SocketAddr, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).expect("the front listens");
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let status = response.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status"), body.expect("a body"))
}

/// A management server that takes callbacks: task and answer of each. It refuses the first of every task whose name
/// begins with `again`.
struct Server {
    address: SocketAddr,
    answers: Mutex<Receiver<(String, Value)>>,
}

impl Server {
    fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("an address");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut refused = Vec::new();
            for stream in listener.incoming().flatten() {
                take(stream, &mut refused, &sender);
            }
        });
        Self { address, answers: Mutex::new(answers) }
    }

    fn next(&self) -> (String, Value) {
        self.answers.lock().expect("whole").recv_timeout(LONG).expect("a callback")
    }

    /// Sends a command and waits for its answer.
    fn command(&self, front: SocketAddr, task: &str, path: &str, body: &Value) -> Value {
        let headers =
            format!("callbackurl: http://{}/callback\r\ntaskuuid: {task}\r\n", self.address);
        assert_eq!(post(front, path, &headers, &body.to_string()), (200, "\"\"".to_owned()));
        let (answered, answer) = self.next();
        assert_eq!(answered, task);
        answer
    }
}

fn take(mut stream: TcpStream, refused: &mut Vec<String>, sender: &Sender<(String, Value)>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let (mut task, mut length) = (String::new(), 0);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "taskuuid" => value.clone_into(&mut task),
            "content-length" => length = value.parse().expect("a length"),
            _ => {}
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let is_refused = task.starts_with("again") && !refused.contains(&task);
    let status = if is_refused { "500 No" } else { "200 OK" };
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(response.as_bytes()).expect("answered");
    if is_refused {
        refused.push(task);
    } else {
        let body = serde_json::from_slice(&body).expect("JSON");
        let _ = sender.send((task, body));
    }
}

/// The configuration: rules are what the front records.
fn config() -> String {
    let config = CONFIG.replace("FOLDER/rules.json", "zstack:FOLDER/zstack");
    // In this order: what was `eth2` is not renamed twice.
    let config = config.replace("eth2", "eth1").replace("eth0", "eth2");
    format!("manage_addresses = true\n{config}")
}

/// The front without an engine, on a port of its own.
fn front_alone(folder: &Path) -> (Running, SocketAddr) {
    let name = folder.to_str().expect("a name");
    fs::write(folder.join("natwerk.toml"), config().replace("FOLDER", name)).expect("written");
    fs::write(folder.join("boot.json"), boot("127.0.0.1").to_string()).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_natwerk"));
    command.args(["zstack-agent", "--listen", "127.0.0.1:0", "--boot"]);
    command.arg(folder.join("boot.json")).arg("--config").arg(folder.join("natwerk.toml"));
    let front = Running::ready(&mut command, &folder.join("front.log"));
    let address = front.line().strip_prefix("ready listen=").expect("an address");
    let address = address.parse().expect("an address");
    (front, address)
}

#[test]
fn requests_that_are_none_are_refused_in_the_response() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_front, address) = front_alone(folder.path());
    let (status, text) = post(address, "/nowhere", "", "{}");
    assert_eq!((status, &*text), (404, "no plugin registered the path[/nowhere]"));
    let (status, text) = post(address, "/createvip", "", "{}");
    assert!(status == 400 && text.contains("'callbackurl'"), "{text}");
    let (status, text) = post(address, "/createvip", "callbackurl: http://127.0.0.1:1/\r\n", "{}");
    assert!(status == 400 && text.contains("'taskuuid'"), "{text}");
    let (status, text) = post(address, "/echo", "", "");
    let echo: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, echo), (200, json!({"success": true, "error": ""})));
    assert_eq!(post(address, "/type", "", "").0, 200);
}

#[test]
fn answers_are_sent_until_somebody_takes_them_and_without_an_engine_nothing_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (front, address) = front_alone(folder.path());
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let initialised = server.command(address, "again-1", "/init", &json!({"uuid": "run-7"}));
    assert_eq!(initialised["uuid"], "run-7");
    let alive = server.command(address, "t2", "/ping", &json!({}));
    assert_eq!((&alive["uuid"], &alive["healthy"]), (&json!("run-7"), &json!(false)));
    let detail = alive["healthDetail"].as_str().expect("words");
    assert!(detail.contains("natwerk does not run"), "{detail}");
    let made = server.command(address, "t3", "/createvip", &json!({"vips": [vip("203.0.113.21")]}));
    assert_eq!(made["success"], false);
    let requests = fs::read_to_string(folder.path().join("zstack/requests.jsonl")).expect("kept");
    assert!(!requests.contains("203.0.113.21"), "{requests}");
    let refused = server.command(address, "t4", "/adddhcp", &json!({"dhcpEntries": [{}]}));
    assert_eq!(refused["success"], false);
    assert!(refused["error"].as_str().expect("words").contains("DHCP"));
    // Broken JSON comes back in the callback, not as an HTTP error.
    let headers = format!("callbackurl: http://{}/\r\ntaskuuid: t5\r\n", server.address);
    assert_eq!(post(address, "/createvip", &headers, "{\"vips\":[").0, 200);
    let (task, answer) = server.next();
    assert_eq!((task.as_str(), &answer["success"]), ("t5", &json!(false)));
    drop(front);
}

/// A router with its engine and front, a management server, a guest with several addresses, and a client outside.
struct Lab {
    router: Router,
    guest: Namespace,
    client: Namespace,
    management: Namespace,
}

impl Lab {
    fn new() -> Option<Self> {
        let router = Router::new(&config())?;
        let [guest, client, management] = ["guest", "client", "management"].map(Namespace::new);
        let (guest, client, management) = (guest?, client?, management?);
        cable((&router.namespace, "eth0"), (&management, "m0"));
        cable((&router.namespace, "eth1"), (&client, "c0"));
        cable((&router.namespace, "eth2"), (&guest, "g0"));
        router.namespace.run(&format!("ip link set eth1 address {PUBLIC}"));
        router.namespace.run(&format!("ip link set eth2 address {PRIVATE}"));
        router.namespace.run("ip address add 10.9.0.2/24 dev eth0");
        management.run("ip address add 10.9.0.10/24 dev m0");
        client.run("ip address add 203.0.113.1/24 dev c0");
        for last in [50, 51, 60] {
            guest.run(&format!("ip address add 192.168.10.{last}/24 dev g0"));
        }
        guest.run("ip route add default via 192.168.10.1");
        fs::create_dir(router.path("zstack")).expect("a folder");
        for name in ["boot.json", "zstack/bootstrap-info.json"] {
            router.write(name, &boot("10.9.0.2").to_string());
        }
        Some(Self { router, guest, client, management })
    }

    /// Starts the front and waits until it is ready.
    fn front(&self) -> Running {
        let boot = self.router.path("boot.json");
        let mut command = self.router.natwerk("zstack-agent");
        Running::ready(command.arg("--boot").arg(boot), &self.router.path("front.log"))
    }

    /// Starts a management server.
    fn server(&self) -> Server {
        let bind = || TcpListener::bind("10.9.0.10:8080").expect("a port");
        Server::start(self.management.enter(bind))
    }

    /// Guests on `address`: a TCP service that says which guest it is and echoes, and a UDP one.
    fn serve(&self, address: &str, port: u16) {
        let name = format!("{address}\n");
        let (tcp, udp) = self.guest.enter(|| {
            let tcp = TcpListener::bind((address, port)).expect("a port");
            (tcp, UdpSocket::bind((address, port)).expect("a port"))
        });
        let greeting = name.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let greeting = greeting.clone();
                std::thread::spawn(move || echo(stream, &greeting));
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(name.as_bytes(), from);
            }
        });
    }

    /// A connection from outside, and which guest answers.
    fn connect(&self, to: &str) -> Option<(TcpStream, String)> {
        let to: SocketAddr = to.parse().expect("an endpoint");
        self.client.enter(|| {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
            let mut line = String::new();
            BufReader::new(stream.try_clone().ok()?).read_line(&mut line).ok()?;
            Some((stream, line.trim().to_owned()))
        })
    }

    fn datagrams(&self, to: &str) -> UdpSocket {
        self.client.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            socket.connect(to).expect("a route");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
            socket
        })
    }
}

fn echo(mut stream: TcpStream, greeting: &str) {
    let _ = stream.write_all(greeting.as_bytes());
    let mut buffer = [0; 64];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Whether what is sent comes back.
fn lives(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let mut buffer = [0; 4];
    stream.write_all(b"here").is_ok() && stream.read_exact(&mut buffer).is_ok()
}

/// Which guest answers a datagram.
fn ask(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 64];
    socket.send(b"who?").ok()?;
    let count = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..count]).trim().to_owned())
}

#[test]
fn rebinding_moves_new_sessions_at_once_and_cuts_exactly_the_old_rules() {
    let Some(lab) = Lab::new() else { return };
    for address in ["192.168.10.50", "192.168.10.51", "192.168.10.60"] {
        lab.serve(address, 22);
    }
    let _engine = lab.router.start();
    let front = lab.front();
    assert_eq!(front.line(), "ready listen=10.9.0.2:7272");
    let server = lab.server();
    let front_at: SocketAddr = "10.9.0.2:7272".parse().expect("an address");
    let done = |task: &str, path: &str, body: Value| {
        let answer = lab.management.enter(|| server.command(front_at, task, path, &body));
        assert_eq!(answer, json!({"success": true, "error": ""}), "{task}");
    };

    done("1", "/createvip", json!({"vips": [vip("203.0.113.21"), vip("203.0.113.31")]}));
    let first = forward("moves", 2222, "192.168.10.50", 22);
    let rules = json!({"rules": [first, forward("stays", 2223, "192.168.10.51", 22)]});
    done("2", "/createportforwarding", rules);
    let eip = |guest: &str| {
        json!({"eip": {"vipIp": "203.0.113.31", "privateMac": PRIVATE, "guestIp": guest,
                       "publicMac": PUBLIC, "snatInboundTraffic": false}})
    };
    done("3", "/createeip", eip("192.168.10.50"));

    // When an answer comes, its rule is in force: the first attempt reaches the guest.
    let (mut moved, who) = lab.connect("203.0.113.21:2222").expect("the forward is in force");
    assert_eq!(who, "192.168.10.50");
    let (mut stays, who) = lab.connect("203.0.113.21:2223").expect("the other one, too");
    assert_eq!(who, "192.168.10.51");
    let datagrams = lab.datagrams("203.0.113.31:22");
    assert_eq!(ask(&datagrams).as_deref(), Some("192.168.10.50"));
    assert!(lives(&mut moved) && lives(&mut stays));

    done("4", "/revokeportforwarding", json!({"rules": [first]}));
    assert!(lab.connect("203.0.113.21:2222").is_none(), "a forward that is revoked forwards");
    assert!(!lives(&mut moved), "a session of a revoked forward lives");
    done(
        "5",
        "/createportforwarding",
        json!({"rules": [forward("moves", 2222, "192.168.10.60", 22)]}),
    );
    let (_, who) = lab.connect("203.0.113.21:2222").expect("the forward is in force again");
    assert_eq!(who, "192.168.10.60");
    assert!(!lives(&mut moved) && lives(&mut stays));

    // An elastic address moves under a client that goes on sending: UDP has no end of its own.
    done("6", "/removeeip", eip("192.168.10.50"));
    done("7", "/createeip", eip("192.168.10.60"));
    assert_eq!(ask(&datagrams).as_deref(), Some("192.168.10.60"));
    assert!(lives(&mut stays));

    // What goes wrong costs itself alone.
    let mut unknown = forward("unknown", 2224, "192.168.10.50", 22);
    unknown["privateMac"] = json!("fa:16:3e:99:99:99");
    let rules = json!({"rules": [unknown, forward("good", 2225, "192.168.10.50", 22)]});
    let answer =
        lab.management.enter(|| server.command(front_at, "8", "/createportforwarding", &rules));
    assert_eq!(answer["success"], false);
    assert!(answer["error"].as_str().expect("words").contains("fa:16:3e:99:99:99"), "{answer}");
    assert!(lab.connect("203.0.113.21:2225").is_some(), "{answer}");

    // It is kept: another front goes on where this one ended.
    front.end("-TERM");
    let _front = lab.front();
    done(
        "9",
        "/revokeportforwarding",
        json!({"rules": [forward("good", 2225, "192.168.10.50", 22)]}),
    );
    assert!(lab.connect("203.0.113.21:2225").is_none());
    assert!(lives(&mut stays));
    assert!(eventually(LONG, || lab.connect("203.0.113.21:2222").is_some()));
}

#[test]
fn a_new_rule_never_takes_the_port_of_an_old_one() {
    let Some(lab) = Lab::new() else { return };
    let guests = ["192.168.10.50", "192.168.10.51", "192.168.10.60"];
    guests.iter().for_each(|guest| lab.serve(guest, 22));
    let _engine = lab.router.start();
    let front = lab.front();
    let server = lab.server();
    let front_at: SocketAddr = "10.9.0.2:7272".parse().expect("an address");
    let ask = |task: &str, path: &str, body: Value| {
        lab.management.enter(|| server.command(front_at, task, path, &body))
    };
    let done = |task: &str, path: &str, body: Value| {
        assert_eq!(ask(task, path, body), json!({"success": true, "error": ""}), "{task}");
    };
    let refused = |task: &str, path: &str, body: Value, words: &str| {
        let answer = ask(task, path, body);
        assert_eq!(answer["success"], false, "{task}");
        assert!(answer["error"].as_str().expect("words").contains(words), "{task}: {answer}");
    };
    let answers = |port: u16, guest: &str| {
        let found = lab.connect(&format!("203.0.113.21:{port}"));
        assert_eq!(found.expect("the rule is in force").1, guest, "{port}");
    };
    let listener = |uuid: &str, port: u16, guest: &str| {
        json!({"listenerUuid": uuid, "vip": "203.0.113.21", "nicIps": [guest], "mode": "tcp",
               "loadBalancerPort": port, "instancePort": 22, "parameters": []})
    };
    let forwards = |forwards: Vec<Value>| json!({"rules": forwards});

    // Rules are kept in the order in which they came, however their names sort.
    done("1", "/createvip", json!({"vips": [vip("203.0.113.21")]}));
    let first = forward("m", 2222, "192.168.10.50", 22);
    done("2", "/createportforwarding", forwards(vec![first.clone()]));
    done("3", "/lb/refresh", json!({"lbs": [listener("n", 2223, "192.168.10.51")]}));
    let taken = json!({"lbs": [listener("a", 2222, "192.168.10.60")]});
    refused("4", "/lb/refresh", taken, "is already claimed by port forward \"m\"");
    let claimed = "is already claimed by load balancer \"n\"";
    let taken = forward("b", 2223, "192.168.10.60", 22);
    refused("5", "/createportforwarding", forwards(vec![taken]), claimed);
    // What is changed and refused stays what it was, also for what wants its old port in the same breath.
    let changed = forward("m", 2223, "192.168.10.60", 22);
    let behind = forward("c", 2222, "192.168.10.60", 22);
    refused("6", "/createportforwarding", forwards(vec![changed, behind]), claimed);
    answers(2222, "192.168.10.50");
    answers(2223, "192.168.10.51");
    // The server says everything again, as it does behind a reconnect; nothing is new.
    done("7", "/lb/refresh", json!({"lbs": [listener("n", 2223, "192.168.10.51")]}));
    done("8", "/syncportforwarding", forwards(vec![first]));

    // A NIC goes, the front starts anew, and the NIC comes back to its rules.
    let nic = json!({"nics": [{"mac": PRIVATE, "ip": "192.168.10.1", "netmask": "255.255.255.0",
                               "category": "Private", "deviceName": "eth2", "mtu": 1500}]});
    done("9", "/removenic", nic.clone());
    assert!(lab.connect("203.0.113.21:2222").is_none(), "a forward to a NIC that is gone");
    front.end("-TERM");
    let front = lab.front();
    done("10", "/configurenic", nic);
    answers(2222, "192.168.10.50");
    answers(2223, "192.168.10.51");
    front.end("-TERM");
    let kept = fs::read_to_string(lab.router.path("zstack/requests.jsonl")).expect("kept");
    assert!(kept.lines().all(|line| line.contains("/natwerk/kept")), "{kept}");
}
