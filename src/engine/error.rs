//! Why the engine does not start: one sentence each, with what to do about it.

use std::io;

use crate::control::server::ListenError;
use crate::engine::checks::CheckError;
use crate::engine::dataplane::DataplaneError;
use crate::host::HostError;
use crate::host::punt::PuntError;
use crate::rules::diagnostic::Diagnostic;
use crate::session::adoption::RegionError;
use crate::telemetry::prometheus::ServeError;

/// Why the engine does not start. Nothing is left half-started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something that must be so beforehand is not.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] ListenError),
    /// The interfaces cannot be taken over.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// Events cannot be exported.
    #[error("events cannot be exported: {0}")]
    Export(io::Error),
    /// Members of load balancers cannot be checked.
    #[error("no thread to check the members of load balancers: {0}")]
    Health(io::Error),
    /// The kernel cannot be followed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] ServeError),
    /// There is no way to the router's own kernel.
    #[error(transparent)]
    Punt(#[from] PuntError),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// The session table cannot be opened.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The rules are faulty.
    #[error("the rules are faulty:{}", lines(.0))]
    Rules(Vec<Diagnostic>),
    /// Signals cannot be heard.
    #[error("signals cannot be handled: {0}")]
    Signals(io::Error),
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("\n{diagnostic}")).collect()
}

impl StartError {
    /// The exit code of a process that ends with it: 2 if what people wrote is at fault, 1 if
    /// the machine is.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Rules(_) => 2,
            Self::Check(_)
            | Self::Control(_)
            | Self::Dataplane(_)
            | Self::Export(_)
            | Self::Health(_)
            | Self::Host(_)
            | Self::Metrics(_)
            | Self::Punt(_)
            | Self::Random(_)
            | Self::Region(_)
            | Self::Signals(_) => 1,
        }
    }
}
