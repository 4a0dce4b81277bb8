//! The VIPs' counters as ZStack's Prometheus scrapes them off its router.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::control::client::Client;
use crate::control::requests::Request;
use crate::control::rows::AddressRow;
use crate::rules::sources::{Nics, zstack};

/// The counters of the VIPs that `folder` tells of, from the engine behind `socket`.
///
/// # Errors
/// With what is to be answered when the engine does not run.
pub fn scrape(folder: &Path, socket: &Path) -> Result<String, String> {
    let uuids = uuids(folder);
    let rows: Vec<AddressRow> = Client::connect(socket)
        .and_then(|mut client| client.ask(&Request::ShowAddresses))
        .map_err(|error| error.to_string())?;
    Ok(text(&rows, &uuids))
}

/// The VIPs by address, as the server calls them.
fn uuids(folder: &Path) -> BTreeMap<Ipv4Addr, String> {
    let Ok((state, _)) = zstack::read(folder, &Nics::default()) else { return BTreeMap::new() };
    let named = state.vips.into_iter().filter(|(_, vip)| !vip.uuid.is_empty());
    named.map(|(address, vip)| (address, vip.uuid)).collect()
}

fn text(rows: &[AddressRow], uuids: &BTreeMap<Ipv4Addr, String>) -> String {
    let mut text = String::new();
    for (name, help, value) in METRICS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for row in rows {
            let uuid = row.public_ip.parse().ok().and_then(|address: Ipv4Addr| uuids.get(&address));
            if let Some(uuid) = uuid {
                let _ = writeln!(text, "{name}{{VipUUID={uuid:?}}} {}", value(row));
            }
        }
    }
    text
}

/// Name, help and value of a metric.
type Metric = (&'static str, &'static str, fn(&AddressRow) -> u64);

const METRICS: [Metric; 4] = [
    ("zstack_vip_in_bytes", "VIP inbound traffic in bytes", |row| row.bytes_in),
    ("zstack_vip_in_packages", "VIP inbound traffic packages", |row| row.packets_in),
    ("zstack_vip_out_bytes", "VIP outbound traffic in bytes", |row| row.bytes_out),
    ("zstack_vip_out_packages", "VIP outbound traffic packages", |row| row.packets_out),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_are_called_what_the_server_calls_them() {
        let row = |public_ip: &str| AddressRow {
            public_ip: public_ip.to_owned(),
            bytes_in: 7,
            packets_out: 3,
            ..AddressRow::default()
        };
        let uuids = BTreeMap::from([(Ipv4Addr::new(203, 0, 113, 21), "v-21".to_owned())]);
        let text = text(&[row("203.0.113.5"), row("203.0.113.21")], &uuids);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "zstack_vip_in_bytes{VipUUID=\"v-21\"} 7",
            "zstack_vip_in_packages{VipUUID=\"v-21\"} 0",
            "zstack_vip_out_bytes{VipUUID=\"v-21\"} 0",
            "zstack_vip_out_packages{VipUUID=\"v-21\"} 3",
        ];
        assert_eq!(samples, expected);
    }
}
