//! The configuration in force, in the words of `natwerk.toml`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{ChecksumMode, Config, Hook, Interface, OnRuleRemoval, OnStop};
use crate::control::workers;
use crate::session::timeout::Timeouts;

/// The configuration with every default written out.
#[must_use]
pub fn json(config: &Config) -> Value {
    let mut value = json!({
        "rules": config.rules,
        "state_dir": config.state_dir,
        "control_socket": config.control_socket,
        "manage_addresses": config.manage_addresses,
        "icmp": { "errors_per_second": config.icmp_errors_per_second },
        "interface": config.interfaces.iter().map(interface).collect::<Vec<_>>(),
        "workers": {
            "count": config.workers.count.map_or_else(|| json!("auto"), |count| json!(count)),
            "mode": workers::mode(config.workers.mode),
            "hook": match config.workers.hook {
                Hook::Auto => "auto",
                Hook::Tc => "tc",
                Hook::Xdp => "xdp",
            },
            "spin": config.workers.spin,
            "frames": config.workers.frames,
            "shortcuts": config.workers.shortcuts.map_or_else(|| json!("auto"), |count| json!(count)),
            "on_stop": match config.workers.on_stop {
                OnStop::Hold => "hold",
                OnStop::Release => "release",
            },
        },
        "sessions": {
            "max": config.sessions.max,
            "max_ipv6": config.sessions.max_ipv6,
            "per_guest": config.sessions.per_guest,
            "ports_per_guest": config.sessions.ports_per_guest,
            "on_rule_removal": match config.sessions.on_rule_removal {
                OnRuleRemoval::End => "end",
                OnRuleRemoval::Keep => "keep",
                OnRuleRemoval::KeepFiltered => "keep-filtered",
            },
        },
        "timeouts": timeouts(&config.timeouts),
    });
    // TOML has no null: what is not there is left out.
    if let (Some(listen), Value::Object(fields)) = (config.metrics_listen, &mut value) {
        fields.insert("metrics_listen".to_owned(), json!(listen));
    }
    if let (Some(events), Value::Object(fields)) = (&config.events, &mut value) {
        let events = json!({ "collector": events.collector, "sessions": events.sessions });
        fields.insert("events".to_owned(), events);
    }
    value
}

fn interface(interface: &Interface) -> Value {
    json!({
        "name": interface.name,
        "role": workers::role(interface.role),
        "checksum": match interface.checksum {
            ChecksumMode::DetectPartial => "detect-partial",
            ChecksumMode::Incremental => "incremental",
        },
        "kernel_vlans": interface.kernel_vlans,
    })
}

fn timeouts(timeouts: &Timeouts) -> Value {
    let ports = timeouts.udp_ports.iter();
    let ports: serde_json::Map<_, _> =
        ports.map(|(port, limit)| (port.to_string(), seconds(*limit))).collect();
    json!({
        "tcp_established": seconds(timeouts.tcp_established),
        "tcp_transitory": seconds(timeouts.tcp_transitory),
        "udp": seconds(timeouts.udp),
        "udp_single_exchange": seconds(timeouts.udp_single_exchange),
        "udp_single_ports": timeouts.udp_single_ports,
        "udp_ports": ports,
        "icmp": seconds(timeouts.icmp),
        "other": seconds(timeouts.other),
        "fragment": seconds(timeouts.fragment),
        "port_hold": seconds(timeouts.port_hold),
        "refresh_inbound": timeouts.refresh_inbound,
    })
}

/// Whole seconds as a whole number, others with their fraction.
fn seconds(duration: Duration) -> Value {
    match duration.subsec_nanos() {
        0 => json!(duration.as_secs()),
        _ => json!(duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Role, XdpMode};

    #[test]
    fn what_is_shown_is_what_a_file_would_say() {
        let interface = |name: &str, role, checksum| Interface {
            name: name.to_owned(),
            role,
            checksum,
            kernel_vlans: Vec::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.json");
        let mut config = Config {
            rules: vec![rules.to_str().unwrap().to_owned()],
            metrics_listen: Some("127.0.0.1:9478".parse().unwrap()),
            interfaces: vec![
                interface("eth0", Role::Guest, ChecksumMode::DetectPartial),
                interface("eth2", Role::Public, ChecksumMode::Incremental),
            ],
            ..Config::default()
        };
        config.workers.mode = XdpMode::ZeroCopy;
        config.sessions.on_rule_removal = OnRuleRemoval::Keep;
        config.timeouts.udp_ports = vec![(123, Duration::from_secs(20))];
        for (count, hook) in [(None, Hook::Auto), (Some(2), Hook::Tc), (Some(4), Hook::Xdp)] {
            config.workers.count = count;
            config.workers.shortcuts = count.and_then(|count| u32::try_from(count).ok());
            config.workers.hook = hook;
            let path = folder.path().join("natwerk.toml");
            std::fs::write(&path, toml::to_string(&json(&config)).unwrap()).unwrap();
            assert_eq!(Config::load(&path), Ok(config.clone()));
        }
    }
}
