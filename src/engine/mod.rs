//! Start, supervision, reload and shutdown of a running router.
//!
//! [`run()`] is the whole life of it. [`handle::EngineHandle`] is what the control socket, metrics
//! and signals hold of it.

#[cfg(feature = "af-xdp")]
mod checks;
#[cfg(feature = "af-xdp")]
mod dataplane;
#[cfg(feature = "af-xdp")]
mod error;
#[cfg(feature = "af-xdp")]
mod export;
#[cfg(feature = "af-xdp")]
mod files;
pub mod handle;
#[cfg(feature = "af-xdp")]
mod health;
#[cfg(feature = "af-xdp")]
mod hooks;
#[cfg(feature = "af-xdp")]
mod reclaim;
#[cfg(feature = "af-xdp")]
mod reload;
#[cfg(feature = "af-xdp")]
mod review;
#[cfg(feature = "af-xdp")]
mod rules;
#[cfg(feature = "af-xdp")]
mod run;
#[cfg(feature = "af-xdp")]
mod shortcuts;
#[cfg(feature = "af-xdp")]
mod state;
#[cfg(feature = "af-xdp")]
mod steering;
#[cfg(feature = "af-xdp")]
mod tapped;

#[cfg(feature = "af-xdp")]
pub use {checks::CheckError, dataplane::DataplaneError, error::StartError, run::run};
