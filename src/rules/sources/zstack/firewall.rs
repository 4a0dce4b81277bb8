//! The user's firewall. Rule sets with rules of the user are not translated yet: whoever sends one is told.

use serde_json::json;

use super::reader::Object;
use super::state::{Call, State};

/// Answers the command that `path` names. Returns whether there is one.
pub fn run(_state: &mut State, path: &str, call: &mut Call<'_>) -> bool {
    match path {
        "/fw/getConfig" => call.reply = Some(json!({ "refs": [] })),
        "/fw/delete/rule" | "/fw/delete/ruleSet" | "/fw/detach/ruleSet" | "/fw/delete/firewall" => {
        }
        "/fw/create/rule"
        | "/fw/create/ruleSet"
        | "/fw/attach/ruleSet"
        | "/fw/changeState/rule"
        | "/fw/update/ruleSet"
        | "/fw/apply/rule"
        | "/fw/apply/ruleSet/changes" => {
            let at = Object { node: call.body.node, name: "the command" }.at();
            call.notes.error(at, "natwerk does not do the user's firewall", "use network ACLs");
        }
        _ => return false,
    }
    true
}
