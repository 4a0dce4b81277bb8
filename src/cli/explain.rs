//! `natwerk explain`: what would happen to a packet, step by step, without a network or root.

use std::fmt::Write;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::cli::offline::{self, Passed, Router};
use crate::cli::output::{self, Failure, Outcome};
use crate::cli::packet_ipv6;
use crate::cli::packet_text::PacketText;
use crate::cli::{Common, DEFAULT_CONFIG, ask, frame_text, place, steps};
use crate::config::{Config, Interface, Role};
use crate::control::requests::{LiveQuestion, Request};
use crate::control::rows::LiveRow;
use crate::control::workers::port_name;
use crate::flow::{Mac, PortId, Realm};
use crate::host;
use crate::policy::Policy;
use crate::rules::{self, Loaded};
use crate::time::Tick;
use crate::verdict::Verdict;
use crate::wire;

/// Which packet, under which rules.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Rule files or folders of rule files; without any, those of the configuration.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    rules: Vec<String>,
    /// Where the packet comes in: `eth0`, `eth0.100` under a tag, `eth0.200.100` under two, `eth0/5001` inside VXLAN.
    #[arg(long = "in", value_name = "IFACE[.VLAN]")]
    interface: String,
    /// Also ask the running engine: whether a session exists, and where the next hop is.
    #[arg(long)]
    live: bool,
    /// A packet that came before, with its interface; may be given several times.
    #[arg(long, value_name = "IFACE[.VLAN]=PACKET")]
    after: Vec<String>,
    /// The packet, such as `tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]` or
    /// `icmp 198.51.100.9 > 203.0.113.12 echo-request`.
    #[arg(required = true)]
    packet: Vec<String>,
}

/// What would happen to a packet.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// The interface it comes in by.
    pub interface: String,
    /// The VLAN it comes in by; zero for untagged.
    pub vlan: u16,
    /// Both VLANs if it has two, as `200.100`, or its VNI, as `VNI 5001`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// The packet.
    pub packet: String,
    /// What natwerk looks at, in order.
    pub steps: Vec<String>,
    /// `forward`, `drop`, `host` or `hold`.
    pub verdict: &'static str,
    /// Why it is dropped or handed to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The same as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
    /// What leaves because of it.
    pub sent: Vec<Sent>,
    /// What the running engine knows of it, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveRow>,
}

/// A packet that leaves.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Sent {
    /// The interface.
    pub interface: String,
    /// The VLAN; zero for untagged.
    pub vlan: u16,
    /// Both VLANs if it has two, as `200.100`, or its VNI, as `VNI 5001`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// The packet.
    pub packet: String,
}

/// Explains.
///
/// # Errors
/// When the rules, the interface or the packet are no good.
pub fn run(arguments: &Arguments, common: &Common) -> Outcome {
    let (config, loaded) = load(arguments, common)?;
    let mut router = Router::new(&config, &loaded.rules, SESSIONS_MAX)?;
    for before in &arguments.after {
        let (interface, packet) = before
            .split_once('=')
            .ok_or_else(|| Failure::refused(format!("`{before}` is not IFACE=PACKET")))?;
        let (port, vlan) = at(interface.trim(), &config, &router)?;
        router.pass(port, &frame(packet, &router, port, vlan)?, NOW);
    }
    let (port, vlan) = at(&arguments.interface, &config, &router)?;
    let frame = frame(&arguments.packet.join(" "), &router, port, vlan)?;
    let mut explanation = explain(&mut router, &config, port, &frame);
    if arguments.live {
        explanation.live = Some(live(common, &explanation, &frame)?);
    }
    match common.json {
        true => output::print_json(&explanation),
        false => output::print_bytes(text(&explanation).as_bytes()),
    }
}

fn at(text: &str, config: &Config, router: &Router) -> Result<(PortId, u16), Failure> {
    place::attachment(text, config, router.shared.policy.load().encapsulations())
}

/// Sessions that the packets of one command line may open.
const SESSIONS_MAX: u32 = 1024;

/// The time at which everything happens.
const NOW: Tick = Tick::from_ms(1_000_000);

/// Rules, with the configuration that was named or one that fits them.
fn load(arguments: &Arguments, common: &Common) -> Result<(Config, Loaded), Failure> {
    let named = common.config != Path::new(DEFAULT_CONFIG) || arguments.rules.is_empty();
    let config = match named {
        true => Some(Config::load(&common.config).map_err(|faults| offline::faulty(&faults))?),
        false => None,
    };
    let paths = match (&config, arguments.rules.is_empty()) {
        (Some(config), true) => &config.rules,
        _ => &arguments.rules,
    };
    let loaded = rules::load_with_nics(paths, config.as_ref(), &host::nics())
        .map_err(|faults| offline::faulty(&faults))?;
    let config = config.unwrap_or_else(|| fitting(&loaded));
    Ok((config, loaded))
}

/// A configuration with the interfaces that the rules name.
fn fitting(loaded: &Loaded) -> Config {
    let public = loaded.rules.public_ips.iter().map(|ip| (&ip.interface, Role::Public));
    let public_ipv6 = loaded.rules.public_ipv6.iter().map(|ip| (&ip.interface, Role::Public));
    let guest = loaded.rules.networks.iter().map(|network| (&network.interface, Role::Guest));
    let mut config = Config::default();
    for (name, role) in public.chain(public_ipv6).chain(guest) {
        if config.interfaces.iter().all(|interface| interface.name != *name) {
            config.interfaces.push(Interface {
                name: name.clone(),
                role,
                checksum: crate::config::ChecksumMode::default(),
                kernel_vlans: Vec::new(),
            });
        }
    }
    config
}

fn frame(text: &str, router: &Router, port: PortId, vlan: u16) -> Result<Vec<u8>, Failure> {
    let refused = |error: crate::cli::packet_text::PacketTextError| {
        Failure::refused(error.to_string()).hint(
            "packets read like `tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]` or `icmp 198.51.100.9 > 203.0.113.12 echo-request`",
        )
    };
    if let Some(frame) = packet_ipv6::frame(text, SENDER, router.mac(port), vlan) {
        return frame.map_err(refused);
    }
    let packet: PacketText = text.parse().map_err(refused)?;
    packet.frame(SENDER, router.mac(port), vlan).map_err(refused)
}

/// The link address of whoever sends the packet.
const SENDER: Mac = Mac([2, 9, 0, 0, 0, 1]);

fn explain(router: &mut Router, config: &Config, port: PortId, frame: &[u8]) -> Explanation {
    let policy = router.shared.policy.load();
    let before = steps::before(&router.shared, &policy, config, port, frame);
    let passed = router.pass(port, frame, NOW);
    let steps = steps::taken(before, &passed.verdict);
    let (verdict, reason, meaning) = verdict(&passed);
    let sent = passed.sent.iter().map(|(to, frame)| {
        let (to, stand_in, frame) = place::opened(*to, frame, &policy);
        let (vlan, encapsulation) = called(&policy, to, stand_in, &frame);
        let packet = frame_text::describe(&frame);
        Sent { interface: port_name(to, config), vlan, encapsulation, packet }
    });
    let stand_in = vlan(frame);
    let (vlan, encapsulation) = called(&policy, port, stand_in, frame);
    Explanation {
        interface: port_name(port, config),
        vlan,
        encapsulation,
        packet: frame_text::describe(frame),
        steps,
        verdict,
        reason,
        meaning,
        sent: sent.collect(),
        live: None,
    }
}

/// The tag of a frame, and what people call more than one.
fn called(policy: &Policy, port: PortId, stand_in: u16, frame: &[u8]) -> (u16, Option<String>) {
    match port.is_encapsulated() {
        true => policy.encapsulations().describe(port, stand_in),
        false => (vlan(frame), None),
    }
}

fn vlan(frame: &[u8]) -> u16 {
    let ipv4 = wire::parse::parse(frame).ok().map(|packet| packet.vlan);
    ipv4.or_else(|| packet_ipv6::vlan(frame)).unwrap_or(0)
}

/// What the running engine knows of the packet in `frame`.
fn live(common: &Common, told: &Explanation, frame: &[u8]) -> Result<LiveRow, Failure> {
    let packet = wire::parse::parse(frame)
        .map_err(|reason| Failure::refused(format!("no session has it: {}", reason.sentence())))?;
    // The realm is the engine's to say.
    let key = packet.key(Realm::External);
    let question = LiveQuestion {
        interface: told.interface.clone(),
        vlan: told.vlan,
        encapsulation: told.encapsulation.clone(),
        protocol: key.protocol.0,
        source: (key.source.address, key.source.port),
        destination: (key.destination.address, key.destination.port),
        icmp: steps::icmp(frame, &packet),
    };
    Ok(ask::connect(common)?.ask(&Request::Explain(question))?)
}

/// What the running engine knows, as lines.
fn live_text(live: &LiveRow) -> String {
    let session = match &live.session {
        None => "no session has it".to_owned(),
        Some(session) => format!(
            "it belongs to session {}: {} {} > {}, {}, idle for {} s, under {}",
            session.key,
            session.protocol,
            session.initiator.source,
            session.initiator.destination,
            session.state,
            session.idle_s,
            session.rule
        ),
    };
    let hop = match &live.next_hop {
        None => "no next hop".to_owned(),
        Some(hop) => {
            let on = place::written(&hop.interface, hop.vlan, hop.encapsulation.as_deref());
            let state = match &hop.mac {
                Some(mac) => format!("{} at {mac}", hop.state),
                None => hop.state.clone(),
            };
            format!("next hop {} on {on}: {state}", hop.address)
        }
    };
    format!("live     {session}\n         {hop}\n")
}

fn verdict(passed: &Passed) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    match passed.verdict {
        Verdict::Drop(reason) => ("drop", Some(reason.name()), Some(reason.sentence())),
        Verdict::Forward(_) => ("forward", None, None),
        Verdict::Hold => ("hold", None, None),
        Verdict::Host(reason) => ("host", Some(reason.name()), Some(reason.sentence())),
    }
}

fn text(explanation: &Explanation) -> String {
    let Explanation { interface, vlan, encapsulation, packet, .. } = explanation;
    let place = place::written(interface, *vlan, encapsulation.as_deref());
    let mut text = format!("in       {place}: {packet}\n");
    for step in &explanation.steps {
        let _ = writeln!(text, "         {step}");
    }
    let _ = match (explanation.reason, explanation.meaning) {
        (Some(reason), Some(meaning)) => {
            writeln!(text, "verdict  {} ({reason}): {meaning}", explanation.verdict)
        }
        _ => writeln!(text, "verdict  {}", explanation.verdict),
    };
    for sent in &explanation.sent {
        let place = place::written(&sent.interface, sent.vlan, sent.encapsulation.as_deref());
        let _ = writeln!(text, "out      {place}: {}", sent.packet);
    }
    text.push_str(&explanation.live.as_ref().map(live_text).unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"{
  "version": 1,
  "public_ips": [
    {"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
    {"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}
  ],
  "networks": [
    {"name": "web", "interface": "eth0", "vlan": 100, "cidr": "10.1.1.0/24",
     "gateway": "10.1.1.1", "source_nat": ["203.0.113.10"], "egress_default": "allow"}
  ],
  "egress_rules": [{"id": "e1", "network": "web", "action": "deny", "protocol": "tcp", "ports": "25"}],
  "firewall_rules": [{"id": "f1", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "2222"}],
  "port_forwards": [{"id": "p1", "public_ip": "203.0.113.11", "protocol": "tcp",
    "public_ports": "2222", "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "22"}]
}"#;

    fn explained(interface: &str, packet: &str, after: &[&str]) -> Explanation {
        explained_by(RULES, interface, packet, after)
    }

    fn explained_by(rules: &str, interface: &str, packet: &str, after: &[&str]) -> Explanation {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.json");
        std::fs::write(&path, rules).unwrap();
        let loaded = crate::rules::load(&[path.to_str().unwrap().to_owned()], None).unwrap();
        let config = fitting(&loaded);
        let mut router = Router::new(&config, &loaded.rules, SESSIONS_MAX).unwrap();
        for before in after {
            let (interface, packet) = before.split_once('=').unwrap();
            let (port, vlan) = at(interface, &config, &router).unwrap();
            router.pass(port, &frame(packet, &router, port, vlan).unwrap(), NOW);
        }
        let (port, vlan) = at(interface, &config, &router).unwrap();
        let frame = frame(packet, &router, port, vlan).unwrap();
        explain(&mut router, &config, port, &frame)
    }

    #[test]
    fn a_guest_goes_out_through_source_nat() {
        let explanation = explained("eth0.100", "tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]", &[]);
        assert_eq!(explanation.verdict, "forward");
        let expected = "tcp 203.0.113.10:40000 > 198.51.100.9:443 [syn] ttl 63 length 40";
        assert_eq!(explanation.sent[0].packet, expected);
        assert_eq!(explanation.sent[0].interface, "eth2");
        assert!(explanation.steps.iter().any(|step| step.contains("egress")), "{explanation:?}");
    }

    #[test]
    fn the_rule_that_refuses_is_named_with_its_place() {
        let explanation = explained("eth0.100", "tcp 10.1.1.5:40000 > 198.51.100.9:25", &[]);
        assert_eq!((explanation.verdict, explanation.reason), ("drop", Some("egress_denied")));
        let step = explanation.steps.last().unwrap();
        assert!(step.contains("e1") && step.contains("rules.json:11:"), "{step}");
    }

    #[test]
    fn a_forward_and_its_reply_are_followed() {
        let syn = "tcp 198.51.100.9:5000 > 203.0.113.11:2222 [syn]";
        let explanation = explained("eth2", syn, &[]);
        assert_eq!(explanation.sent[0].vlan, 100);
        assert!(
            explanation.sent[0].packet.starts_with("tcp 198.51.100.9:5000 > 10.1.1.5:22 [syn]")
        );
        let reply = "tcp 10.1.1.5:22 > 198.51.100.9:5000 [syn,ack]";
        let explanation = explained("eth0.100", reply, &[&format!("eth2={syn}")]);
        assert!(
            explanation.sent[0].packet.starts_with("tcp 203.0.113.11:2222 > 198.51.100.9:5000")
        );
        assert!(explanation.steps.iter().any(|step| step.contains("session")), "{explanation:?}");
    }

    #[test]
    fn ipv6_is_explained_by_the_same_rules() {
        let rules = RULES.replace(
            "\"source_nat\"",
            "\"ipv6\": {\"cidr\": \"2001:db8:1::/64\", \"gateway\": \"2001:db8:1::1\"}, \"source_nat\"",
        );
        let public = r#""public_ipv6": [{"address": "2001:db8:ff::1", "prefix_len": 64,
            "interface": "eth2", "gateway": "2001:db8:ff::fe"}], "networks""#;
        let rules = rules.replace("\"networks\"", public);
        let guest = "[2001:db8:1::5]:40000 > [2001:db8:51::9]";
        let out = explained_by(&rules, "eth0.100", &format!("tcp {guest}:443"), &[]);
        let sent = "tcp [2001:db8:1::5]:40000 > [2001:db8:51::9]:443 [syn] ttl 63 length 60";
        assert_eq!((out.verdict, &*out.sent[0].packet), ("forward", sent));
        let refused = explained_by(&rules, "eth0.100", &format!("tcp {guest}:25"), &[]);
        assert_eq!(refused.reason, Some("egress_denied"));
        let step = refused.steps.last().unwrap();
        assert!(step.contains("e1") && step.contains("rules.json:"), "{step}");
        let stranger = "tcp [2001:db8:51::9]:443 > [2001:db8:1::5]:22";
        let refused = explained_by(&rules, "eth2", stranger, &[]);
        assert_eq!(refused.reason, Some("firewall_denied"));
        assert!(refused.steps.last().unwrap().contains("IPv6 firewall of web: deny"));
        let reply = "tcp [2001:db8:51::9]:443 > [2001:db8:1::5]:40000 [syn,ack]";
        let first = format!("eth0.100=tcp {guest}:443");
        let back = explained_by(&rules, "eth2", reply, &[&first]);
        assert_eq!((back.verdict, back.sent[0].vlan), ("forward", 100));
    }

    #[test]
    fn networks_under_two_tags_and_inside_vxlan_are_explained_like_others() {
        let web = r#"{"name": "web", "interface": "eth0", "vlan": 100,"#;
        let twice =
            r#"{"name": "web", "interface": "eth0", "vlan": 100, "outer_tag": {"vlan": 200},"#;
        let inside = r#"{"name": "web", "interface": "eth0",
            "vxlan": {"vni": 5001, "local": "172.31.0.1", "prefix_len": 24, "remotes": ["172.31.0.9"]},"#;
        for (place, network) in [("eth0.200.100", twice), ("eth0/5001", inside)] {
            let rules = RULES.replace(web, network);
            let explained = |at: &str, packet: &str| explained_by(&rules, at, packet, &[]);
            let out = explained(place, "tcp 10.1.1.5:40000 > 198.51.100.9:443 [syn]");
            let packet = "tcp 203.0.113.10:40000 > 198.51.100.9:443 [syn] ttl 63 length 40";
            assert_eq!((out.verdict, &*out.sent[0].packet), ("forward", packet));
            assert!(text(&out).starts_with(&format!("in       {place}: tcp 10.1.1.5")), "{out:?}");
            assert!(out.steps[0].contains("network web"), "{out:?}");
            let refused = explained(place, "tcp 10.1.1.5:40000 > 198.51.100.9:25");
            assert_eq!(refused.reason, Some("egress_denied"));
            let back = explained("eth2", "tcp 198.51.100.9:5000 > 203.0.113.11:2222 [syn]");
            assert_eq!(back.verdict, "forward", "{back:?}");
            let line = format!("out      {place}: tcp 198.51.100.9:5000 > 10.1.1.5:22 [syn]");
            assert!(text(&back).contains(&line), "{}", text(&back));
        }
    }

    #[test]
    fn what_never_comes_to_the_rules_does_not_name_any() {
        let spoofed = explained("eth0.100", "tcp 10.9.9.9:40000 > 198.51.100.9:443", &[]);
        assert_eq!((spoofed.verdict, spoofed.reason), ("drop", Some("source_spoofed")));
        assert_eq!(spoofed.steps.len(), 1, "{spoofed:?}");
        let untagged = explained("eth0", "tcp 10.1.1.5:40000 > 198.51.100.9:443", &[]);
        assert_eq!(untagged.reason, Some("unknown_vlan"));
    }
}
