//! `natwerk zstack-agent`: the HTTP front that ZStack's management server talks to.
//!
//! ```text
//! request ──front──▶ queue ──keeper, one at a time──▶ requests.jsonl ──▶ engine reloads ──▶ callback
//! ```
//!
//! A command is answered at once with an empty string and carried out afterwards; what came of it is sent to the URL
//! that the command names, when the new rules are in force and not before. What is in force is kept as
//! typed entries in the folder that the engine reads as `zstack:FOLDER`.

mod callback;
mod front;
mod keeper;
mod metrics;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::output::{self, Failure, Outcome};
use crate::cli::{Common, ask};
use crate::config::Config;
use crate::rules::sources::ControlPlane;
use callback::Callbacks;
use front::Front;
use keeper::Keeper;

/// Where it listens and what it keeps.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The address and port to listen on [default: the management NIC's address, port 7272].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The boot information, which is copied into the folder of the rules when it is there.
    #[arg(long, value_name = "FILE", default_value = "/home/vyos/zvr/bootstrap-info.json")]
    pub boot: PathBuf,
}

/// The port that ZStack's server connects to.
const PORT: u16 = 7272;
/// Threads that read requests: a slow sender holds up one of them.
const FRONTS: usize = 4;
/// Commands that may wait. More are refused at once.
const QUEUE: usize = 1024;

/// A command that waits to be carried out.
pub struct Task {
    /// Which one.
    pub path: String,
    /// What it says.
    pub body: String,
    /// Where its answer goes.
    pub callback: callback::Target,
}

/// Serves until it is told to stop.
///
/// # Errors
/// With exit code 2 when the configuration names no folder for ZStack's rules, 1 when it cannot listen.
pub fn run(arguments: &Arguments, common: &Common) -> Outcome {
    let config = Config::load(&common.config).map_err(|faults| super::offline::faulty(&faults))?;
    let folder = config.rules.iter().find_map(|path| match ControlPlane::of_path(path) {
        Some((ControlPlane::ZStack, folder)) => Some(folder.to_owned()),
        _ => None,
    });
    let folder = folder.ok_or_else(|| {
        Failure::refused("the configuration names no folder for ZStack's rules")
            .hint("add one to rules, such as \"zstack:/var/lib/natwerk/zstack\"")
    })?;
    let keeper = Keeper::open(config, folder, &arguments.boot, ask::socket(common))?;
    let listen = match arguments.listen {
        Some(listen) => listen,
        None => SocketAddr::new(management_address(&keeper)?, PORT),
    };
    serve(keeper, listen)
}

fn management_address(keeper: &Keeper) -> Result<IpAddr, Failure> {
    keeper.management_address().map(IpAddr::V4).ok_or_else(|| {
        Failure::refused("the boot information names no management NIC with an address")
            .hint("say where to listen: --listen ADDRESS:7272")
    })
}

fn serve(mut keeper: Keeper, listen: SocketAddr) -> Outcome {
    let server = tiny_http::Server::http(listen)
        .map_err(|error| Failure::failed(format!("cannot listen on {listen}: {error}")))?;
    let address = server.server_addr();
    let server = Arc::new(server);
    let (queue, tasks) = mpsc::sync_channel::<Task>(QUEUE);
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
    output::print_bytes(format!("ready listen={address}\n").as_bytes())?;
    std::thread::scope(|scope| {
        for _ in 0..FRONTS {
            let (server, queue) = (Arc::clone(&server), queue.clone());
            let (folder, socket) = keeper.sources();
            let front = Front { server, queue, folder, socket };
            scope.spawn(move || front.run());
        }
        // Once no front is left, the tasks end.
        drop(queue);
        let stop = Arc::clone(&server);
        scope.spawn(move || {
            signals.forever().next();
            (0..FRONTS).for_each(|_| stop.unblock());
        });
        let callbacks = Callbacks::new();
        for task in tasks {
            let reply = keeper.carry_out(&task.path, &task.body);
            callbacks.send(task.callback, reply);
        }
        callbacks.finish();
    });
    Ok(())
}
