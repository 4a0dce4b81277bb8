//! Rules in few words, for `natwerk show rules`.

use std::fmt::{Display, Write};

use crate::rules::set::{
    Action, Algorithm, Cidr, LoadBalancer, Match, Network, PolicyRoute, PortForward, Prefixes,
    StaticNat,
};

/// `allow tcp 80-90 from 10.1.2.0/24 to 10.1.3.0/24`.
pub(super) fn filter_rule(
    action: Action,
    matches: &Match,
    sources: &Prefixes,
    destinations: &Prefixes,
) -> String {
    let mut text = String::with_capacity(64);
    text.push_str(self::action(action));
    match matches.protocol {
        None => text.push_str(" all"),
        Some(protocol) => push(&mut text, " ", protocol),
    }
    if let Some(ports) = matches.ports {
        push(&mut text, " ", ports);
    }
    if let Some(kind) = matches.icmp_type {
        push(&mut text, " type ", kind);
    }
    if let Some(code) = matches.icmp_code {
        push(&mut text, " code ", code);
    }
    for (word, prefixes) in [(" from ", sources), (" to ", destinations)] {
        if !prefixes.is_empty() {
            text.push_str(word);
            push_list(&mut text, prefixes.len(), prefixes.iter());
        }
    }
    text
}

/// `deny everything else`.
pub(super) fn default(action: Action) -> String {
    format!("{} everything else", self::action(action))
}

pub(super) fn port_forward(rule: &PortForward) -> String {
    let mut text = format!("{} {}:{} to ", rule.protocol, rule.public_ip, rule.public_ports);
    match rule.guest_ip {
        None => text.push_str("nothing (detached)"),
        Some(guest) => text.push_str(&format!("{guest}:{}", rule.guest_ports)),
    }
    push_cidrs(&mut text, " from ", &rule.sources);
    text
}

/// `tcp 443 from 10.1.1.5/32: 0.0.0.0/0 by 198.51.100.1`.
pub(super) fn policy_route(rule: &PolicyRoute) -> String {
    let (sources, destinations) = (rule.sources.clone().into(), rule.destinations.clone().into());
    let mut text = filter_rule(Action::Allow, &rule.matches, &sources, &destinations);
    text.drain(..self::action(Action::Allow).len() + 1);
    if let Some(ports) = rule.source_ports {
        push(&mut text, " from ports ", ports);
    }
    for (place, hop) in rule.routes.iter().enumerate() {
        text.push_str(if place == 0 { ": " } else { ", " });
        match hop.via {
            None => push(&mut text, "drop ", hop.destination),
            Some(via) => push(&mut text, "", format_args!("{} by {via}", hop.destination)),
        }
    }
    text
}

pub(super) fn static_nat(rule: &StaticNat) -> String {
    match rule.guest_ip {
        None => format!("{} to nothing (detached)", rule.public_ip),
        Some(guest) => format!("{} to {guest}", rule.public_ip),
    }
}

pub(super) fn load_balancer(rule: &LoadBalancer) -> String {
    let algorithm = match rule.algorithm {
        Algorithm::LeastConnections => "least connections",
        Algorithm::RoundRobin => "round robin",
        Algorithm::Source => "source",
    };
    let mut text = format!(
        "{} {}:{} to {} members by {algorithm}",
        rule.protocol,
        rule.public_ip,
        rule.public_port,
        rule.members.len(),
    );
    push_cidrs(&mut text, " from ", &rule.sources);
    text
}

pub(super) fn source_nat(network: &Network) -> String {
    if network.nat.gateway_source_nat {
        return format!("others of the domain into {} by {}", network.cidr, network.gateway);
    }
    if network.source_nat.is_empty() {
        return format!("{} is routed", network.cidr);
    }
    let mut text = format!("{} to ", network.cidr);
    push_list(&mut text, network.source_nat.len(), network.source_nat.iter());
    text
}

const fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    }
}

fn push_cidrs(text: &mut String, word: &str, cidrs: &[Cidr]) {
    if !cidrs.is_empty() {
        text.push_str(word);
        push_list(text, cidrs.len(), cidrs.iter());
    }
}

/// The first few of `items`, and how many more there are.
fn push_list(text: &mut String, count: usize, items: impl Iterator<Item: Display>) {
    for (place, item) in items.take(LISTED_MAX).enumerate() {
        push(text, if place == 0 { "" } else { ", " }, item);
    }
    if count > LISTED_MAX {
        push(text, " and ", count - LISTED_MAX);
        text.push_str(" more");
    }
}

fn push(text: &mut String, before: &str, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{before}{value}");
}

const LISTED_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;

    #[test]
    fn a_rule_reads_like_a_sentence() {
        let matches = Match {
            protocol: Some(Protocol::TCP),
            ports: Some("80-90".parse().unwrap()),
            icmp_type: None,
            icmp_code: None,
        };
        let source = Prefixes::from(vec!["10.1.2.0/24".parse().unwrap()]);
        assert_eq!(
            filter_rule(Action::Allow, &matches, &source, Prefixes::NONE),
            "allow tcp 80-90 from 10.1.2.0/24"
        );
        let all = Match { protocol: None, ports: None, icmp_type: None, icmp_code: None };
        assert_eq!(filter_rule(Action::Deny, &all, Prefixes::NONE, Prefixes::NONE), "deny all");
    }

    #[test]
    fn a_long_list_is_cut_short() {
        let mut text = String::new();
        push_list(&mut text, 6, 1..=6);
        assert_eq!(text, "1, 2, 3, 4 and 2 more");
    }
}
