//! What a process finds of the one before, and leaves for the one after: sessions, and the numbers
//! of rules and realms that they name.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::control::answers::Answers;
use crate::control::metrics::Scraper;
use crate::control::server::Server as ControlServer;
use crate::engine::error::StartError;
use crate::engine::handle::EngineHandle;
use crate::engine::rules::Rules;
use crate::flow::Generation;
use crate::pipeline::shared::Shared;
use crate::policy::registry::Registry;
use crate::session::adoption::{Adoption, REGION_FILE, REGION_FILE_IPV6};
use crate::session::table::Table;
use crate::telemetry::prometheus::Server as MetricsServer;

/// A seed that nobody outside can guess.
pub(super) fn random_seed() -> Result<[u64; 4], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    let mut words = bytes.chunks_exact(8);
    Ok(std::array::from_fn(|_| {
        let word = words.next().and_then(|word| word.try_into().ok());
        word.map_or(0, u64::from_ne_bytes)
    }))
}

/// Opens the session tables, with the sessions of the process before; `rules` gets the numbers that
/// they name.
///
/// # Errors
/// When the file there cannot be used.
pub(super) fn open_sessions(
    config: &Config,
    seed: [u64; 4],
    rules: &mut Rules,
) -> Result<(Table, Table<Ipv6Addr>), StartError> {
    let paths = [REGION_FILE, REGION_FILE_IPV6].map(|name| config.state_dir.join(name));
    match read_registry(&config.state_dir.join(REGISTRY_FILE)) {
        Ok(registry) => rules.registry = registry,
        Err(error) => {
            for path in paths.iter().filter(|path| path.exists()) {
                // Without it nobody knows which realms the sessions are in.
                tracing::warn!("{error}; the sessions of the process before are forgotten");
                // If it cannot be removed, opening it says why.
                let _ = fs::remove_file(path);
            }
        }
    }
    let [path, path_ipv6] = &paths;
    let (sessions, adoption) = Table::open(path, config.sessions.max, seed)?;
    tell("IPv4", adoption);
    let (sessions_ipv6, adoption) = Table::open(path_ipv6, config.sessions.max_ipv6, seed)?;
    tell("IPv6", adoption);
    Ok((sessions, sessions_ipv6))
}

fn tell(family: &str, adoption: Adoption) {
    match adoption {
        Adoption::Adopted { sessions, repaired, dropped, closed } => {
            tracing::info!(sessions, repaired, dropped, closed, family, "sessions taken over");
        }
        Adoption::Fresh => {}
        Adoption::Rebooted => tracing::info!("the sessions of an earlier boot are forgotten"),
    }
}

fn read_registry(path: &Path) -> Result<Registry, String> {
    let fault = |error: String| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    Registry::restore(&text).map_err(|error| fault(error.to_string()))
}

/// Keeps the numbers of rules and realms for the next process. To be called before a policy that
/// uses them is in force.
pub(super) fn save_registry(config: &Config, registry: &Registry) {
    let path = config.state_dir.join(REGISTRY_FILE);
    if let Err(error) = replace(&path, registry.save().as_bytes()) {
        tracing::error!("{}: {error}; a restart may lose sessions", path.display());
    }
}

/// Writes a file so that it is whole at any time.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// A number for the first policy that no session was decided under: so each is looked at again,
/// under these rules and with next hops of this process, before it is followed.
pub(super) fn unused_generation(sessions: &Table, sessions_ipv6: &Table<Ipv6Addr>) -> Generation {
    let mut used = HashSet::new();
    sessions.walk(&mut 0, sessions.slots(), |view| {
        used.insert(view.session.generation);
    });
    sessions_ipv6.walk(&mut 0, sessions_ipv6.slots(), |view| {
        used.insert(view.session.generation);
    });
    let unused = (1..=u16::MAX).map(Generation).find(|number| !used.contains(number));
    unused.unwrap_or(Generation(1))
}

/// Opens the control socket, and the metrics if they are configured.
///
/// # Errors
/// When one of them is in use.
pub(super) fn serve(
    config: &Config,
    engine: &EngineHandle,
    shared: &Arc<Shared>,
) -> Result<(ControlServer, Option<MetricsServer>), StartError> {
    let answers = Arc::new(Answers::new(engine.clone(), Arc::clone(shared)));
    let metrics = match config.metrics_listen {
        Some(address) => {
            let (answers, scraper) = (Arc::clone(&answers), Scraper::default());
            Some(MetricsServer::start(address, move || scraper.scrape(&answers))?)
        }
        None => None,
    };
    Ok((ControlServer::start(&config.control_socket, answers)?, metrics))
}

/// Beside the session region.
const REGISTRY_FILE: &str = "numbers.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_the_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(REGISTRY_FILE);
        replace(&path, b"one").expect("written");
        replace(&path, b"two").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
