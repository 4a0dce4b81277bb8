//! What a router has been told: a pure state machine, request in, state and answer out.
//!
//! The folder reader and the HTTP front both run it, so that a recorded sequence leads where the live one did. An entry
//! that is faulty is left out and named in the answer; it neither undoes its command's other entries nor stands in the
//! way of later commands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::json;

use super::balancers::{self, Listener};
use super::eips::{self, Eip, FlatEip};
use super::elsewhere;
use super::firewall::{self, ListKey, RuleList};
use super::forwards::{self, Forwards};
use super::nics::{self, Category, Nic};
use super::policy_routes::{self, PolicyRoutes};
use super::reader::{Note, Notes, Object};
use super::routes::{self, StaticRoute};
use super::snats::{self, Snat, SnatKey};
use super::vip_limits::{self, LimitKey, VipLimit};
use super::vips::{self, Vip};
use crate::flow::Mac;
use crate::rules::diagnostic::{Place, Severity};
use crate::rules::from_json;
use crate::rules::sources::Nics;
use crate::rules::tree::{Node, Value};

/// What a router has been told.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The machine's NICs.
    pub machine: Nics,
    /// Whether anything was said at all that could be read.
    pub is_told: bool,
    /// What the server called this run of the router: it asks for that back, to know a restart.
    pub uuid: String,
    /// NICs by MAC.
    pub nics: BTreeMap<Mac, Nic>,
    /// The NICs that the boot information has.
    pub boot_nics: BTreeSet<Mac>,
    /// Those of them that were removed since.
    pub removed_nics: BTreeSet<Mac>,
    /// VIPs.
    pub vips: BTreeMap<Ipv4Addr, Vip>,
    /// Bandwidth limits of VIPs.
    pub limits: BTreeMap<LimitKey, VipLimit>,
    /// Port forwards.
    pub forwards: Forwards,
    /// Elastic addresses by VIP.
    pub eips: BTreeMap<Ipv4Addr, Eip>,
    /// Elastic addresses of flat networks by VIP.
    pub flat_eips: BTreeMap<Ipv4Addr, FlatEip>,
    /// Source NAT.
    pub snats: BTreeMap<SnatKey, Snat>,
    /// Static routes by destination.
    pub routes: BTreeMap<crate::rules::set::Cidr, StaticRoute>,
    /// Policy routes.
    pub policy_routes: PolicyRoutes,
    /// The user's firewall.
    pub firewall: BTreeMap<ListKey, RuleList>,
    /// Load-balancer listeners by their uuid.
    pub listeners: BTreeMap<String, Listener>,
    /// How many entries came.
    arrivals: u64,
}

/// Where an entry came from, and when.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Where it was written.
    pub place: Place,
    /// How many came before it: what was first keeps what two claim.
    pub arrival: u64,
}

impl Default for Origin {
    fn default() -> Self {
        Self { place: Place::nowhere(), arrival: 0 }
    }
}

/// What a command is answered.
#[derive(Debug)]
pub struct Answer {
    /// What is sent back.
    pub reply: serde_json::Value,
    /// What was noted about the body.
    pub notes: Vec<Note>,
    /// Whether anybody knows the path.
    pub path_is_known: bool,
}

impl Answer {
    /// Whether the command did all that was asked.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.notes.iter().all(|note| note.severity != Severity::Error)
    }
}

/// A command being carried out.
pub struct Call<'a> {
    /// Its body.
    pub body: Object<'a>,
    /// What is noted about it.
    pub notes: Notes,
    /// Where the offsets of the body lie.
    pub place: &'a dyn Fn(u32) -> Place,
    /// What is sent back, if not whether it succeeded.
    pub reply: Option<serde_json::Value>,
    /// How many entries came before the next one.
    arrivals: u64,
}

impl<'a> Call<'a> {
    /// The entries of the list `field`.
    pub fn entries(&mut self, field: &str) -> &'a [Node<'a>] {
        self.body.list(field, &mut self.notes).unwrap_or_default()
    }

    /// Where the entry `object` came from; it is the last one yet.
    pub fn origin(&mut self, object: &Object<'_>) -> Origin {
        self.arrivals += 1;
        Origin { place: (self.place)(object.at()), arrival: self.arrivals }
    }

    /// Whether the body has other fields than `known`: they are noted.
    pub fn know(&mut self, known: &[&str]) {
        // Opening notes them; the object is the same.
        let _ = Object::open(self.body.node, "the command", known, &mut self.notes);
    }
}

impl State {
    /// A router on a machine with these NICs that nobody has told anything.
    #[must_use]
    pub fn new(machine: Nics) -> Self {
        Self { machine, ..Self::default() }
    }

    /// Takes over the NICs of the boot information in `text`, whose offsets `place` places. Returns what is wrong
    /// with it.
    pub fn boot(&mut self, text: &str, place: &dyn Fn(u32) -> Place) -> Vec<Note> {
        self.with_body(text, place, nics::boot).notes
    }

    /// The address of the management NIC.
    #[must_use]
    pub fn management_address(&self) -> Option<Ipv4Addr> {
        let mut nics = self.nics.values().filter(|nic| nic.category == Category::Management);
        nics.find_map(|nic| Some(nic.address?.0))
    }

    /// Whether there is a command that `path` names.
    #[must_use]
    pub fn knows(path: &str) -> bool {
        Self::default().apply(path, "{}", &|_| Place::nowhere()).path_is_known
    }

    /// Where an entry at `place` came from that comes now.
    pub fn arrives(&mut self, place: Place) -> Origin {
        self.arrivals += 1;
        Origin { place, arrival: self.arrivals }
    }

    /// Carries out the command that `path` names.
    pub fn apply(&mut self, path: &str, body: &str, place: &dyn Fn(u32) -> Place) -> Answer {
        let path = path.trim_end_matches('/');
        let mut path_is_known = true;
        let mut answer =
            self.with_body(body, place, |state, call| path_is_known = state.run(path, call));
        answer.path_is_known = path_is_known;
        answer
    }

    fn with_body(
        &mut self,
        body: &str,
        place: &dyn Fn(u32) -> Place,
        run: impl FnOnce(&mut Self, &mut Call<'_>),
    ) -> Answer {
        let parsed = from_json::parse(body);
        let mut notes = Notes::default();
        let root = match (parsed.faults.first(), &parsed.root) {
            (Some(fault), _) => {
                notes.error(fault.at, format!("broken JSON: {}", fault.what), "send whole JSON");
                return answer(None, notes);
            }
            (None, None) => return answer(None, notes),
            (None, Some(root)) => root,
        };
        if !matches!(root.value, Value::Table(_)) {
            let what = format!("the body is {}, not an object", root.description());
            notes.error(root.at, what, "send an object of fields");
            return answer(None, notes);
        }
        let body = Object { node: root, name: "the command" };
        let mut call = Call { body, notes, place, reply: None, arrivals: self.arrivals };
        self.is_told = true;
        run(self, &mut call);
        self.arrivals = call.arrivals;
        answer(call.reply, call.notes)
    }

    /// Whether the path is known.
    fn run(&mut self, path: &str, call: &mut Call<'_>) -> bool {
        match path {
            "/configurenic" => nics::configure(self, call),
            "/configurenicdefaultaction" => nics::set_default_action(self, call),
            "/removenic" => nics::remove(self, call),
            "/changeDefaultNic" => nics::change_default(self, call),
            "/createvip" => vips::create(self, call),
            "/removevip" => vips::remove(self, call),
            "/setvipqos" | "/syncvipqos" => vip_limits::set(self, call),
            "/deletevipqos" => vip_limits::delete(self, call),
            "/createportforwarding" => forwards::create(self, call),
            "/revokeportforwarding" => forwards::revoke(self, call),
            "/syncportforwarding" => forwards::sync(self, call),
            "/createeip" => eips::create(self, call),
            "/removeeip" => eips::remove(self, call),
            "/synceip" => eips::sync(self, call),
            "/flatnetworkprovider/eip/apply" | "/flatnetworkprovider/eip/batchapply" => {
                eips::apply_flat(self, call);
            }
            "/flatnetworkprovider/eip/delete" | "/flatnetworkprovider/eip/batchdelete" => {
                eips::delete_flat(self, call);
            }
            "/syncsnat" => snats::sync(self, call),
            "/setsnatservicestate" => snats::set_service(self, call),
            "/setsnat" => snats::set(self, call),
            "/removesnat" => snats::remove(self, call),
            "/syncroutes" => routes::sync(self, call),
            "/getroutes" => routes::list(self, call),
            "/policyroute/sync" => policy_routes::sync(self, call),
            "/lb/refresh" => balancers::refresh(self, call),
            "/lb/delete" => balancers::delete(self, call),
            _ if path.starts_with("/fw/") => return firewall::run(self, path, call),
            _ => return elsewhere::run(self, path, call),
        }
        true
    }
}

/// The answer of a command: its own reply if it succeeded, else what went wrong.
fn answer(reply: Option<serde_json::Value>, notes: Notes) -> Answer {
    let notes = notes.into_list();
    let errors: Vec<_> = notes
        .iter()
        .filter(|note| note.severity == Severity::Error)
        .map(|note| format!("{} — {}", note.what, note.hint))
        .collect();
    let reply = match (errors.as_slice(), reply) {
        ([], Some(reply)) => reply,
        (errors, _) => json!({ "success": errors.is_empty(), "error": errors.join("; ") }),
    };
    Answer { reply, notes, path_is_known: true }
}
