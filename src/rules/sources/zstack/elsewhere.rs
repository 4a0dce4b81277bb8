//! Commands without anything to translate: those about the process itself, and those about services that the router's
//! kernel and its daemons have.

use serde_json::json;

use super::reader::Object;
use super::state::{Call, State};

/// Answers the command that `path` names. Returns whether there is one.
pub fn run(state: &mut State, path: &str, call: &mut Call<'_>) -> bool {
    match path {
        "/init" | "/appliancevm/init" => initialise(state, call),
        "/ping" => call.reply = Some(alive(state)),
        "/echo" | "/appliancevm/echo" => {}
        "/connect" => call.reply = Some(json!({ "success": true, "error": "" })),
        "/type" => call.reply = Some(json!({ "success": true, "isVyos": false })),
        "/test" => call.reply = Some(json!({ "success": true, "zvrVersion": VERSION })),
        // Accepted without effect by ZStack's own router, too.
        "/appliancevm/refreshfirewall" => {}
        "/vyos/createipsecconnection"
        | "/vyos/deleteipsecconnection"
        | "/vyos/syncipsecconnection"
        | "/vyos/updateipsecconnection" => {
            refuse_entries(call, "infos", "an IPsec connection", "IPsec connections");
        }
        "/zsn/dr" => refuse_if(call, "enabled", "distributed routing"),
        "/syncVpcRouterHa" => {
            if call.body.find("peerIp").is_some() {
                refuse(call, "pairs of routers");
            }
        }
        _ => return refuse_known(path, call),
    }
    true
}

fn refuse_known(path: &str, call: &mut Call<'_>) -> bool {
    let known = ELSEWHERE.iter().find(|(paths, _)| paths.contains(&path));
    if let Some((_, what)) = known {
        refuse(call, what);
    }
    known.is_some()
}

fn refuse(call: &mut Call<'_>, what: &str) {
    call.notes.error(call.body.at(), format!("natwerk does not do {what}"), HINT);
}

/// Refuses each entry of a list: none is none too many.
fn refuse_entries(call: &mut Call<'_>, field: &str, name: &'static str, what: &str) {
    for node in call.entries(field) {
        let at = Object { node, name }.at();
        call.notes.error(at, format!("natwerk does not do {what}"), HINT);
    }
}

fn refuse_if(call: &mut Call<'_>, field: &str, what: &str) {
    if call.body.boolean(field, &mut call.notes) == Some(true) {
        refuse(call, what);
    }
}

fn initialise(state: &mut State, call: &mut Call<'_>) {
    let Some(uuid) = call.body.text("uuid", &mut call.notes) else { return };
    state.uuid = uuid.to_owned();
    call.reply = Some(json!({
        "success": true,
        "error": "",
        "uuid": uuid,
        "zvrVersion": VERSION,
        "vyosVersion": "",
        "kernelVersion": "",
        "ipsecCurrentVersion": "",
        "ipsecLatestVersion": "",
    }));
}

fn alive(state: &State) -> serde_json::Value {
    json!({
        "success": true,
        "error": "",
        "uuid": state.uuid,
        "version": VERSION,
        "haStatus": "NoHa",
        "healthy": true,
        "healthDetail": "",
        "serviceHealthList": {},
    })
}

/// What natwerk says its version is.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const HINT: &str = "have the router's own services do it";

/// Commands that are known and not done.
const ELSEWHERE: [(&[&str], &str); 9] = [
    (
        &["/adddhcp", "/removedhcp", "/refreshDhcpServer", "/startDhcpServer", "/stopDhcpServer"],
        "DHCP",
    ),
    (&["/setdns", "/removedns", "/setvpcdns"], "DNS"),
    (&["/configurentp"], "NTP"),
    (&["/enableVyosha", "/restartKeepalived", "/keepalived/garp"], "pairs of routers"),
    (&["/vyos/updateipsecversion", "/vyos/getipseclog"], "IPsec connections"),
    (&["/routerprotocol/ospf/refresh", "/routerprotocol/ospf/neighbor"], "routing protocols"),
    (&["/pimd/enable", "/pimd/disable", "/pimd/route"], "multicast routing"),
    (&["/flowmeter/refresh", "/flowmeter/count"], "flow exports"),
    (
        &[
            "/certificate/create",
            "/certificate/delete",
            "/certificates/create",
            "/lb/log/level",
            "/zsn/status",
            "/zsn/connections",
        ],
        "HTTP balancing and distributed routing",
    ),
];
